//! Who is at the other end.

use std::fmt;

/// What a certificate makes its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// May attach one session, under its own id.
    Agent,
    /// May call the control service.
    Operator,
    /// May be a server.
    Coordinator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Agent => "agent",
            Role::Operator => "operator",
            Role::Coordinator => "coordinator",
        })
    }
}

/// A name from a certificate: `spiffe://FLEET/ROLE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The fleet it is good for.
    pub fleet: String,
    /// What it makes its holder.
    pub role: Role,
    /// Whose it is.
    pub name: String,
}

impl Identity {
    /// Reads the URI. Exact: no prefix, no further segment, no query.
    pub fn parse(uri: &str) -> Option<Identity> {
        let mut parts = uri.strip_prefix("spiffe://")?.split('/');
        let (fleet, role, name) = (parts.next()?, parts.next()?, parts.next()?);
        let role = match role {
            "agent" => Role::Agent,
            "operator" => Role::Operator,
            "coordinator" => Role::Coordinator,
            _ => return None,
        };
        let plain = |part: &str| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        if parts.next().is_some() || !plain(fleet) || !plain(name) {
            return None;
        }
        Some(Identity { fleet: fleet.to_owned(), role, name: name.to_owned() })
    }

    /// The one identity in a certificate (DER): its only URI name of that shape.
    pub fn of_certificate(der: &[u8]) -> Option<Identity> {
        use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let names = certificate.subject_alternative_name().ok()??;
        let mut found = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) => Identity::parse(uri),
            _ => None,
        });
        let first = found.next()?;
        // Two identities in one certificate would let its holder choose.
        if found.next().is_some() { None } else { Some(first) }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.name)
    }
}

/// What is known of the other end of a connection before it has said a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Peer {
    /// Through a Unix socket that only its owner can open.
    Local {
        /// The other process's user.
        uid: u32,
    },
    /// With a certificate of our authority.
    Certified(Identity),
    /// Through TCP without TLS, because somebody said `--insecure`.
    Insecure,
}

impl Peer {
    /// Whether it may act in this role for this fleet, and if the role is the agent's, whether under this id.
    pub fn may(&self, role: Role, fleet: &str) -> bool {
        match self {
            Peer::Local { .. } | Peer::Insecure => true,
            Peer::Certified(identity) => identity.role == role && identity.fleet == fleet,
        }
    }

    /// The name that it must act under, where its certificate has one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Peer::Certified(identity) => Some(&identity.name),
            Peer::Local { .. } | Peer::Insecure => None,
        }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Peer::Local { uid } => write!(f, "local user {uid}"),
            Peer::Certified(identity) => identity.fmt(f),
            Peer::Insecure => f.write_str("an unauthenticated peer"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_exact_or_nothing() {
        let good = Identity::parse("spiffe://orders/agent/host-a").unwrap();
        assert_eq!((good.fleet.as_str(), good.role, good.name.as_str()), ("orders", Role::Agent, "host-a"));
        for uri in [
            "spiffe://orders/agent",
            "spiffe://orders/agent/",
            "spiffe://orders/agent/a/b",
            "spiffe:///agent/a",
            "spiffe://orders/root/a",
            "spiffe://orders/Agent/a",
            "spiffe://orders/agent/a?x",
            "https://orders/agent/a",
        ] {
            assert_eq!(Identity::parse(uri), None, "{uri}");
        }
    }

    #[test]
    fn a_certificate_is_good_for_one_role_and_one_fleet() {
        let peer = Peer::Certified(Identity::parse("spiffe://orders/agent/a").unwrap());
        assert!(peer.may(Role::Agent, "orders"));
        assert!(!peer.may(Role::Operator, "orders"));
        assert!(!peer.may(Role::Agent, "other"));
    }
}
