//! Ports: sockets that are bound once and passed, numbers that are free, and who holds one that is not.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use super::record::Place;
use crate::sys::process;

/// What a passed socket listens on when the manifest names no host: all of this host, as a program would by default.
pub(super) const ANY_HOST: &str = "0.0.0.0";
/// Connections that wait to be accepted while one instance hands over to the next. The kernel caps it (somaxconn).
const BACKLOG: i32 = 4096;
/// Numbers for `auto` begin here: above the ports of common servers.
const AUTO_FROM: u16 = 20_000;
/// Fewer numbers than this below the kernel's own range are not worth looking through.
const AUTO_SPAN_MIN: u16 = 1_000;

/// A socket bound to a place, not listening yet.
///
/// # Errors
/// `AddrInUse` and whatever else the kernel says.
pub(super) fn bind(at: &Place) -> io::Result<OwnedFd> {
    let address = resolve(&at.host, at.port)?;
    let socket = socket_for(&address)?;
    // Without it, connections of a former instance in TIME_WAIT would keep the port taken for a minute.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

/// Connections are accepted by the kernel from here on. Again is harmless.
///
/// # Errors
/// `AddrInUse` when another listens there by now.
pub(super) fn listen(socket: &OwnedFd) -> io::Result<()> {
    Ok(rustix::net::listen(socket, BACKLOG)?)
}

fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    if let Ok(address) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(address, port));
    }
    let mut found = (bare, port).to_socket_addrs()?;
    found.next().ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{host} has no address")))
}

fn socket_for(address: &SocketAddr) -> io::Result<OwnedFd> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    Ok(rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None)?)
}

/// A free number and the socket that keeps it until the instance binds it itself.
///
/// Numbers come from below the kernel's range for outgoing connections: one from that range could be taken by any
/// client of this host at the moment when its keeper lets go of it. `seed` spreads the slots of a host.
///
/// # Errors
/// When none is free.
pub(super) fn reserve_any(seed: u64, taken: &BTreeSet<u16>) -> io::Result<(u16, OwnedFd)> {
    let end = first_outgoing_port();
    if end < AUTO_FROM + AUTO_SPAN_MIN {
        let socket = reserve(0)?;
        let SocketAddr::V4(address) = rustix::net::getsockname(&socket)?.try_into()? else {
            return Err(io::Error::other("an IPv4 socket without an IPv4 address"));
        };
        return Ok((address.port(), socket));
    }
    let span = u64::from(end - AUTO_FROM);
    for step in 0..span {
        // The remainder is below `span`, which fits.
        let port = AUTO_FROM + u16::try_from((seed % span + step) % span).unwrap_or(0);
        if taken.contains(&port) {
            continue;
        }
        match reserve(port) {
            Ok(socket) => return Ok((port, socket)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, format!("no port from {AUTO_FROM} to {end} is free")))
}

/// Keeps others off a number without listening on it.
///
/// # Errors
/// `AddrInUse` when it is not free.
pub(super) fn reserve(port: u16) -> io::Result<OwnedFd> {
    let address = SocketAddr::from(([0, 0, 0, 0], port));
    let socket = socket_for(&address)?;
    rustix::net::bind(&socket, &address)?;
    Ok(socket)
}

fn first_outgoing_port() -> u16 {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    text.split_ascii_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768)
}

/// A number that spreads texts; the same for the same text.
pub(super) fn seed_of(text: &str) -> u64 {
    // FNV-1a: short, and good enough to spread.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

/// Who listens on a port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Listeners {
    /// Somebody does.
    pub(super) any: bool,
    /// Processes that hold such a socket, as far as this user may look.
    pub(super) pids: Vec<i32>,
}

/// Looks who listens on a port of this host, on whatever address.
pub(super) fn listeners(port: u16) -> Listeners {
    let mut inodes = BTreeSet::new();
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(table).unwrap_or_default();
        inodes.extend(text.lines().skip(1).filter_map(|line| listening_inode(line, port)));
    }
    if inodes.is_empty() {
        return Listeners::default();
    }
    let mut pids = Vec::new();
    for process in process::all().unwrap_or_default() {
        if inodes.iter().any(|&inode| !process::descriptors_of_socket(process.pid, inode).is_empty()) {
            pids.push(process.pid);
        }
    }
    Listeners { any: true, pids }
}

/// The inode of a line of `/proc/net/tcp` that is a listening socket on this port.
fn listening_inode(line: &str, port: u16) -> Option<u64> {
    const LISTEN: &str = "0A";
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (_, local) = fields.get(1)?.rsplit_once(':')?;
    let matches = u16::from_str_radix(local, 16) == Ok(port) && *fields.get(3)? == LISTEN;
    matches.then(|| fields.get(9)?.parse().ok()).flatten()
}

/// `port 8080 is in use by process 4711 (nginx)`, as much as can be found out.
pub(super) fn in_use(port: u16, listeners: &Listeners) -> String {
    let Some(pid) = listeners.pids.first() else { return format!("port {port} is in use by another process") };
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let name = name.trim();
    if name.is_empty() {
        format!("port {port} is in use by process {pid}")
    } else {
        format!("port {port} is in use by process {pid} ({name})")
    }
}

/// The same, and what to do about it.
pub(super) fn end_it(port: u16, listeners: &Listeners) -> String {
    format!("{}; end it or give the component another port", in_use(port, listeners))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_number_is_kept_from_others_and_free_once_let_go() {
        let (port, socket) = reserve_any(7, &BTreeSet::new()).unwrap();
        let (other, _kept) = reserve_any(7, &BTreeSet::new()).unwrap();
        assert_ne!(port, other);
        assert_eq!(reserve(port).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        assert!(!listeners(port).any, "a reservation must not listen");
        drop(socket);
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let found = listeners(port);
        assert!(found.pids.contains(&i32::try_from(std::process::id()).unwrap()), "{found:?}");
        assert!(in_use(port, &found).starts_with(&format!("port {port} is in use by process")));
        drop(listener);
        assert!(reserve_any(7, &BTreeSet::from([port, other])).is_ok_and(|(third, _)| third != port && third != other));
    }

    #[test]
    fn a_bound_socket_takes_connections_once_it_listens() {
        let (port, reserved) = reserve_any(99, &BTreeSet::new()).unwrap();
        drop(reserved);
        let at = Place { host: "127.0.0.1".to_owned(), port };
        let socket = bind(&at).unwrap();
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
        listen(&socket).unwrap();
        listen(&socket).unwrap();
        std::net::TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(bind(&at).unwrap_err().kind(), io::ErrorKind::AddrInUse);
    }
}
