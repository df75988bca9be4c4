//! Addresses, URLs and signals as they are written in a manifest.

use std::collections::BTreeMap;

use super::error::suggestion;
use crate::model::placeholder::{self, PlaceholderError};

/// A `host:port` or `:port` to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listen {
    /// Empty: every address.
    pub host: String,
    pub port: u16,
}

impl Listen {
    /// Reads `:8080`, `127.0.0.1:8080`, `[::1]:8080` or `name:8080`.
    pub(crate) fn parse(text: &str) -> Result<Listen, String> {
        let how = || format!("{text:?} is not where one can listen; write \":8080\" or \"127.0.0.1:8080\"");
        let (host, port) = text.rsplit_once(':').ok_or_else(how)?;
        if !host.is_empty() && !is_host(host) {
            return Err(how());
        }
        Ok(Listen { host: host.to_owned(), port: number(port).ok_or_else(how)? })
    }

    /// Whether both cannot be had at once.
    pub(crate) fn clashes(&self, other: &Listen) -> bool {
        let every = |host: &str| matches!(host, "" | "0.0.0.0" | "[::]" | "*");
        self.port == other.port && (self.host == other.host || every(&self.host) || every(&other.host))
    }
}

/// A port from 1, digits only.
fn number(text: &str) -> Option<u16> {
    let plain = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|port| plain && *port > 0)
}

fn is_host(text: &str) -> bool {
    if let Some(inner) = text.strip_prefix('[') {
        return inner.strip_suffix(']').is_some_and(|address| address.parse::<std::net::Ipv6Addr>().is_ok());
    }
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// The port that a URL or an address is about, as far as the manifest tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    /// This number.
    Number(u16),
    /// `{port}`.
    First,
    /// `{port.NAME}`.
    Named(String),
    /// Something that only an agent knows.
    Unknown,
}

/// Checks a URL with placeholders: plain http, a host, a port that can be.
pub(crate) fn http(url: &str) -> Result<Aim, String> {
    const HOW: &str = "write \"http://{address}:{port}/path\"";
    let (scheme, rest) = url.split_once("://").ok_or_else(|| format!("not a URL; {HOW}"))?;
    if scheme.eq_ignore_ascii_case("https") {
        return Err(format!("https is not spoken here yet, only plain http; {HOW}"));
    }
    if scheme != "http" {
        return Err(format!("only plain http is spoken here; {HOW}"));
    }
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    if authority.contains('@') {
        return Err(format!("a user or password in a URL is not supported; {HOW}"));
    }
    // Stand-ins for what an agent fills in: the text around them has to make a URL.
    let filled = stand_in(url)?;
    let parsed: http::Uri = filled.parse().map_err(|_| format!("not a URL; {HOW}"))?;
    if parsed.host().is_none_or(str::is_empty) {
        return Err(format!("the URL has no host; {HOW}"));
    }
    let host_and_port =
        authority.rsplit_once(':').filter(|(_, port)| !port.contains([']', '}']) || port.starts_with('{'));
    match host_and_port {
        None => Ok(Aim::Number(80)),
        Some((_, port)) => aim(port).ok_or_else(|| format!("the URL has no port that can be; {HOW}")),
    }
}

/// Checks `host:port` with placeholders.
pub(crate) fn tcp(address: &str) -> Result<Aim, String> {
    const HOW: &str = "write \"{address}:{port}\" or \"127.0.0.1:8080\"";
    let how = || format!("not an address with a port; {HOW}");
    stand_in(address)?;
    let (host, port) = address.rsplit_once(':').ok_or_else(how)?;
    let host = stand_in(host)?;
    if !is_host(&host) {
        return Err(how());
    }
    aim(port).ok_or_else(how)
}

fn aim(port: &str) -> Option<Aim> {
    match port.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
        Some("port") => Some(Aim::First),
        Some(name) if name.starts_with("port.") => Some(Aim::Named(name["port.".len()..].to_owned())),
        Some(_) => Some(Aim::Unknown),
        None if port.contains('{') => Some(Aim::Unknown),
        None => number(port).map(Aim::Number),
    }
}

/// The text with every placeholder replaced by something of its kind.
pub(crate) fn stand_in(text: &str) -> Result<String, String> {
    let names = placeholder::placeholders(text).map_err(|error| error.to_string())?;
    let values: BTreeMap<String, String> = names
        .into_iter()
        .map(|name| {
            let value = match name.as_str() {
                "address" => "127.0.0.1",
                "release" => "/release",
                name if name == "port" || name.starts_with("port.") => "1",
                _ => "x",
            };
            (name, value.to_owned())
        })
        .collect();
    placeholder::fill(text, &values).map_err(|error: PlaceholderError| error.to_string())
}

/// Signals that can be sent to a program to make it do something about its own end.
const SIGNALS: [&str; 13] =
    ["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "ABRT", "ALRM", "PIPE", "CONT", "WINCH", "URG", "PWR"];

/// A signal by its name, with or without `SIG`, as `SIGTERM`.
pub(crate) fn signal(text: &str) -> Result<String, String> {
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if SIGNALS.contains(&name) {
        return Ok(format!("SIG{name}"));
    }
    if name == "KILL" {
        return Err("SIGKILL leaves no time to end; it comes by itself at the end of the grace".to_owned());
    }
    let known: Vec<String> = SIGNALS.iter().map(|name| format!("SIG{name}")).collect();
    let near = suggestion(&format!("SIG{name}"), known.iter().map(String::as_str));
    Err(format!("{text:?} is not a signal that can be asked for here{near}"))
}

/// Checks a JSON pointer (RFC 6901).
pub(crate) fn pointer(text: &str) -> Result<(), String> {
    if !text.is_empty() && !text.starts_with('/') {
        return Err(format!("{text:?} is not a JSON pointer; write \"/{text}\""));
    }
    let escapes = text.split('~').skip(1).all(|rest| rest.starts_with(['0', '1']));
    if escapes { Ok(()) } else { Err(format!("{text:?} is not a JSON pointer: a ~ is written ~0, a / ~1")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listen_addresses_are_read_and_clashes_seen() {
        let listen = |text| Listen::parse(text).unwrap();
        assert_eq!(listen(":8080"), Listen { host: String::new(), port: 8080 });
        assert_eq!(listen("[::1]:80").host, "[::1]");
        for wrong in ["", "8080", ":", ":0", ":65536", ":+80", "a b:80", "[::1:80", "::1:80", "http://x:80", ":8080/"] {
            assert!(Listen::parse(wrong).is_err(), "{wrong}");
        }
        assert!(listen(":80").clashes(&listen("127.0.0.1:80")));
        assert!(!listen("127.0.0.2:80").clashes(&listen("127.0.0.1:80")));
        assert!(!listen(":80").clashes(&listen(":81")));
    }

    #[test]
    fn a_url_tells_which_port_it_is_about() {
        for (url, aim) in [
            ("http://{address}:8080/health", Aim::Number(8080)),
            ("http://{address}:{port}/", Aim::First),
            ("http://{address}:{port.admin}", Aim::Named("admin".to_owned())),
            ("http://[::1]:90/x", Aim::Number(90)),
            ("http://[::1]/x", Aim::Number(80)),
            ("http://localhost/x:y", Aim::Number(80)),
            ("http://{address}/x", Aim::Number(80)),
        ] {
            assert_eq!(http(url), Ok(aim), "{url}");
        }
        for url in
            ["", "{address}:80", "https://x/", "ftp://x/", "http://", "http://:80/", "http://x:0/", "http://x:y/"]
        {
            assert!(http(url).is_err(), "{url}");
        }
        assert!(!http("http://user:hunter2@x/").unwrap_err().contains("hunter2"));
        assert_eq!(tcp("{address}:{port}"), Ok(Aim::First));
        assert_eq!(tcp("[::1]:7"), Ok(Aim::Number(7)));
        for address in ["", "{address}", "{address}:", "::1:7", "x:0", "{address"] {
            assert!(tcp(address).is_err(), "{address}");
        }
    }

    #[test]
    fn signals_have_one_spelling() {
        for text in ["SIGTERM", "TERM", "term", "sigterm"] {
            assert_eq!(signal(text).as_deref(), Ok("SIGTERM"));
        }
        assert!(signal("SIGTREM").unwrap_err().contains("SIGTERM"));
        assert!(signal("KILL").unwrap_err().contains("grace"));
        assert!(signal("15").is_err());
    }

    #[test]
    fn json_pointers_are_checked() {
        for right in ["", "/", "/a/0/b", "/a~1b~0c"] {
            assert_eq!(pointer(right), Ok(()), "{right}");
        }
        for wrong in ["a", "inflight/x", "/a~2", "/~"] {
            assert!(pointer(wrong).is_err(), "{wrong}");
        }
    }
}
