//! Programs that are kept.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use baton::sys::signals::SignalFd;
use rustix::event::{PollFd, PollFlags};

/// Runs the toy of that name.
pub fn run(name: &str, args: &[String]) -> u8 {
    match name {
        "serve" => serve(&args[0]),
        "notify" => notify(&args[0]),
        "bind" => bind(args[0].parse().unwrap()),
        "deafen" => deafen(),
        other => panic!("there is no toy {other}"),
    }
}

/// Answers every connection on its passed socket with its own name; leaves at SIGTERM without taking another one.
#[expect(unsafe_code, reason = "a passed descriptor is known by its number alone")]
fn serve(name: &str) -> u8 {
    let pid: u32 = std::env::var("LISTEN_PID").unwrap().parse().unwrap();
    assert_eq!(pid, std::process::id(), "LISTEN_PID is another's");
    assert_eq!(std::env::var("LISTEN_FDS").unwrap(), "1");
    assert_eq!(std::env::var("LISTEN_FDNAMES").unwrap(), "http");
    let signals = SignalFd::new(&[15]).unwrap();
    // SAFETY: descriptor 3 was passed to this process (LISTEN_PID) and nothing else owns it.
    let listener = TcpListener::from(unsafe { OwnedFd::from_raw_fd(3) });
    listener.set_nonblocking(true).unwrap();
    tell("READY=1");
    loop {
        let mut fds = [PollFd::new(&signals, PollFlags::IN), PollFd::new(&listener, PollFlags::IN)];
        rustix::event::poll(&mut fds, None).unwrap();
        if signals.next().unwrap().is_some() {
            tell("STOPPING=1");
            return 0;
        }
        // Another process may have been quicker at the shared socket.
        let Ok((mut stream, _)) = listener.accept() else { continue };
        stream.set_nonblocking(false).unwrap();
        stream.write_all(name.as_bytes()).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let _ = stream.read(&mut [0]);
    }
}

/// Says a word over NOTIFY_SOCKET and sleeps.
fn notify(word: &str) -> u8 {
    tell(word);
    loop {
        std::thread::park();
    }
}

/// Binds a port itself and takes connections.
fn bind(port: u16) -> u8 {
    let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
    listener.incoming().for_each(drop);
    0
}

/// Closes what it was passed and sleeps.
#[expect(unsafe_code, reason = "a passed descriptor is known by its number alone")]
fn deafen() -> u8 {
    // SAFETY: descriptor 3 was passed to this process and nothing else owns it.
    drop(unsafe { OwnedFd::from_raw_fd(3) });
    println!("deaf");
    loop {
        std::thread::park();
    }
}

/// sd_notify(3).
pub fn tell(word: &str) {
    let address = std::env::var("NOTIFY_SOCKET").unwrap();
    send(&address, word);
}

/// Sends a datagram to a notification socket.
pub fn send(address: &str, word: &str) {
    let address = match address.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name).unwrap(),
        None => SocketAddr::from_pathname(address).unwrap(),
    };
    UnixDatagram::unbound().unwrap().send_to_addr(word.as_bytes(), &address).unwrap();
}

/// Another descriptor of a listening socket that a process holds as number 3.
pub fn borrow_socket(pid: i32) -> OwnedFd {
    let pidfd = baton::sys::process::Identity::of(pid).unwrap().open().unwrap().unwrap();
    let fd = pidfd.copy_fd(3).unwrap();
    assert!(rustix::net::sockopt::socket_acceptconn(fd.as_fd()).unwrap());
    fd
}
