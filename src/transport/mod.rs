//! How two Batons reach each other: a Unix socket (0600), or TCP with mutual TLS 1.3, or, when somebody says so in so
//! many words, TCP without.
//!
//! Identity is a URI name in the certificate: `spiffe://FLEET/agent/ID`, `/operator/NAME` or `/coordinator/ID`. It is
//! known before the first byte of a message is read, and a method that the identity may not call is refused there.

mod address;
mod client;
mod identity;
mod server;
mod tls;

pub use address::{Address, AddressError};
pub use client::{ConnectError, connect};
pub use identity::{Identity, Peer, Role};
pub use server::{ListenError, Listener, Stream};
pub use tls::{Security, TlsError, TlsFiles};

/// The largest message either side takes: an inventory of a thousand slots is below 1 MiB, and a definition with a
/// large environment is far below it.
pub const MESSAGE_MAX: usize = 4 << 20;
