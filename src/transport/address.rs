//! Where a coordinator is found.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// An address as people type it: `unix:/path`, a path, or `host:port`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// `host:port`.
    Tcp {
        /// Name or address, IPv6 without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: write unix:/path/to/control.sock or host:port")]
pub struct AddressError {
    text: String,
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError { text: text.to_owned() };
        if let Some(path) = text.strip_prefix("unix:") {
            let path = path.strip_prefix("//").unwrap_or(path);
            return if path.is_empty() { Err(wrong()) } else { Ok(Address::Unix(path.into())) };
        }
        if text.starts_with('/') || text.starts_with("./") {
            return Ok(Address::Unix(text.into()));
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let host = match host.strip_prefix('[') {
            Some(inner) => inner.strip_suffix(']').ok_or_else(wrong)?,
            None if host.contains(':') || host.contains('/') => return Err(wrong()),
            None => host,
        };
        let port = port.parse().map_err(|_| wrong())?;
        if host.is_empty() { Err(wrong()) } else { Ok(Address::Tcp { host: host.to_owned(), port }) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_what_they_print_and_the_rest_is_refused() {
        for text in ["unix:/run/baton/control.sock", "127.0.0.1:7420", "[::1]:7420", "coordinator.internal:7420"] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!("/run/x.sock".parse::<Address>().unwrap().to_string(), "unix:/run/x.sock");
        assert_eq!("unix:///run/x.sock".parse::<Address>().unwrap().to_string(), "unix:/run/x.sock");
        for text in ["", "unix:", "host", ":80", "host:port", "::1:80", "http://host:80", "host:99999"] {
            assert!(text.parse::<Address>().is_err(), "{text} was taken for an address");
        }
    }
}
