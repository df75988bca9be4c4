//! Whom to ask: from a URL or `host:port` to a connection.

use std::io;
use std::net::{IpAddr, SocketAddr};

use tokio::net::TcpStream;

/// Why a text names nobody. None of these repeats the text: a query may hold a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// Not a URL.
    #[error("not a URL; write http://host:port/path")]
    NotAUrl,
    /// A scheme that is not spoken.
    #[error("only plain http is spoken here, not {0}; let the program answer on a loopback port without TLS")]
    Scheme(String),
    /// A user or password in a URL.
    #[error("a user or password in a URL is not supported")]
    Credentials,
    /// Not `host:port`.
    #[error("not host:port; write 127.0.0.1:8080 or [::1]:8080")]
    NotAnAddress,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("cannot resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// What the resolver said.
        #[source]
        source: io::Error,
    },
    /// Nobody took the connection.
    #[error("{}", in_words(source, "cannot connect"))]
    Connect {
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// What an IO error means to people; those that need no number get none.
pub(super) fn in_words(error: &io::Error, otherwise: &str) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "connection reset".to_owned(),
        io::ErrorKind::UnexpectedEof => "connection closed without an answer".to_owned(),
        io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
        io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
        _ => format!("{otherwise}: {error}"),
    }
}

/// A host (name or address, an IPv6 one without its brackets) and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    pub host: String,
    pub port: u16,
}

impl Target {
    /// The target of `host:port`.
    pub(super) fn of_address(address: &str) -> Result<Self, TargetError> {
        if let Ok(address) = address.parse::<SocketAddr>() {
            return Ok(Self { host: address.ip().to_string(), port: address.port() });
        }
        let (host, port) = address.rsplit_once(':').ok_or(TargetError::NotAnAddress)?;
        let port = port.parse().map_err(|_| TargetError::NotAnAddress)?;
        // A colon in a name is an IPv6 address without brackets: where its port begins is a guess.
        if host.is_empty() || host.contains(|c: char| matches!(c, ':' | '/' | '@' | '[' | ']') || c.is_whitespace()) {
            return Err(TargetError::NotAnAddress);
        }
        Ok(Self { host: host.to_owned(), port })
    }

    /// The target of a URL, and the URL itself.
    pub(super) fn of_url(url: &str) -> Result<(Self, hyper::Uri), TargetError> {
        let scheme = url.split_once("://").ok_or(TargetError::NotAUrl)?.0;
        if !scheme.eq_ignore_ascii_case("http") {
            return Err(match scheme.bytes().all(|b| b.is_ascii_alphanumeric()) && !scheme.is_empty() {
                true => TargetError::Scheme(scheme.to_ascii_lowercase()),
                false => TargetError::NotAUrl,
            });
        }
        let uri: hyper::Uri = url.parse().map_err(|_| TargetError::NotAUrl)?;
        let authority = uri.authority().ok_or(TargetError::NotAUrl)?;
        if authority.as_str().contains('@') {
            return Err(TargetError::Credentials);
        }
        let host = authority.host();
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // `port_u16` is `None` for a port that is no number too; only a missing one is 80.
        let port = match authority.port() {
            Some(port) => port.as_u16(),
            None if authority.as_str().ends_with(authority.host()) => 80,
            None => return Err(TargetError::NotAUrl),
        };
        if host.is_empty() {
            return Err(TargetError::NotAUrl);
        }
        Ok((Self { host: host.to_owned(), port }, uri))
    }
}

/// Connects to the first address of the target that takes the connection. Bounded by the caller's time-out.
pub(super) async fn connect(target: &Target) -> Result<TcpStream, ConnectError> {
    // The resolver costs a thread's round trip; an address needs none.
    if let Ok(address) = target.host.parse::<IpAddr>() {
        return open(SocketAddr::new(address, target.port)).await.map_err(|source| ConnectError::Connect { source });
    }
    let unresolved = |source| ConnectError::Resolve { host: target.host.clone(), source };
    let mut failed = None;
    for address in tokio::net::lookup_host((target.host.as_str(), target.port)).await.map_err(unresolved)? {
        match open(address).await {
            Ok(stream) => return Ok(stream),
            // The first refusal tells more than that of the last resort.
            Err(source) => failed = failed.or(Some(source)),
        }
    }
    Err(match failed {
        Some(source) => ConnectError::Connect { source },
        None => unresolved(io::Error::new(io::ErrorKind::NotFound, "the name has no address")),
    })
}

async fn open(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // A connection to a free ephemeral port of this host can meet itself (TCP simultaneous open): then nobody listens.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    stream.set_nodelay(true)?;
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_its_host_and_port() {
        for (url, host, port, path) in [
            ("http://127.0.0.1:8080/health?x=1", "127.0.0.1", 8080, "/health?x=1"),
            ("http://localhost", "localhost", 80, "/"),
            ("HTTP://api.internal:81", "api.internal", 81, "/"),
            ("http://[::1]:82/a", "::1", 82, "/a"),
            ("http://[::1]/a", "::1", 80, "/a"),
        ] {
            let (target, uri) = Target::of_url(url).unwrap_or_else(|error| panic!("{url}: {error}"));
            assert_eq!((target.host.as_str(), target.port), (host, port), "{url}");
            assert_eq!(uri.path_and_query().map_or("/", |path| path.as_str()), path, "{url}");
        }
        assert_eq!(Target::of_url("https://x/"), Err(TargetError::Scheme("https".to_owned())));
        assert_eq!(Target::of_url("http://u:p@x/"), Err(TargetError::Credentials));
        for url in
            ["", "x", "127.0.0.1:80", "http://", "http:///x", "://x", "http://x:y/", "http://x:99999/", "http://::1/"]
        {
            assert_eq!(Target::of_url(url), Err(TargetError::NotAUrl), "{url}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (address, host, port) in
            [("127.0.0.1:80", "127.0.0.1", 80), ("[::1]:81", "::1", 81), ("localhost:82", "localhost", 82)]
        {
            assert_eq!(Target::of_address(address), Ok(Target { host: host.to_owned(), port }));
        }
        for address in ["", "x", "x:", ":80", "::1:80", "x:70000", "http://x:80", "u@x:80", "a b:80"] {
            assert_eq!(Target::of_address(address), Err(TargetError::NotAnAddress), "{address}");
        }
    }
}
