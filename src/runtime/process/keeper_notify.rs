//! sd_notify(3): what instances say of themselves. Believed only from their own processes, as the kernel names them.

use std::fs::{self, File};
use std::io;
use std::os::fd::BorrowedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::files::{self, Durability, SlotFolder};
use super::keeper::{Keeper, say};
use super::release;
use crate::sys::signals;

/// The longest notification that is looked at.
const MESSAGE_MAX: usize = 4096;
/// The longest path that a socket address can hold, its end included, is 108 bytes.
const PATH_MAX: usize = 107;

/// What a program said.
pub(super) struct Notification {
    /// Who, as the kernel says.
    pid: i32,
    /// READY=1 or STOPPING=1, whichever came last.
    ready: bool,
}

/// Binds the socket and says what programs are to be told. Where the folder lies too deep for a socket address, it is
/// an abstract one: who may talk is decided by pid, not by path.
pub(super) fn bind(folder: &SlotFolder) -> io::Result<(UnixDatagram, String)> {
    let path = folder.notify_socket();
    let text = path.display().to_string();
    let (socket, address) = if text.len() <= PATH_MAX {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let open = File::open(folder.path())?;
        (UnixDatagram::bind(files::short_path(&open, "notify.sock"))?, text)
    } else {
        let name = format!("baton-notify-{}", release::digest(text.as_bytes()).short());
        (UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name)?)?, format!("@{name}"))
    };
    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

/// The next notification that says something of readiness. Others (`STATUS=`, `MAINPID=`, ...) are taken and mean
/// nothing here. `None`: there is no more.
pub(super) fn receive(socket: BorrowedFd<'_>) -> io::Result<Option<Notification>> {
    let mut buffer = [0; MESSAGE_MAX];
    loop {
        let (count, pid) = match signals::receive_with_pid(socket, &mut buffer) {
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
            Err(error) => return Err(error),
        };
        if let (Some(ready), Some(pid)) = (readiness(&buffer[..count]), pid) {
            return Ok(Some(Notification { pid, ready }));
        }
    }
}

fn readiness(message: &[u8]) -> Option<bool> {
    message.split(|&byte| byte == b'\n').fold(None, |said, line| match line {
        b"READY=1" => Some(true),
        b"STOPPING=1" => Some(false),
        _ => said,
    })
}

impl Keeper {
    /// Takes a notification for the instance that its sender belongs to, if it belongs to one that runs.
    pub(super) fn notified(&mut self, notification: &Notification) {
        let running = |number: &&u64| self.instances[*number].state.main().is_some();
        let owner = self.instances.keys().filter(running).copied().find(|&number| {
            let main = self.instances[&number].state.main().map(|main| main.pid);
            main == Some(notification.pid) || self.with_family(number, |family| family.has_pid(notification.pid))
        });
        let Some(number) = owner else {
            say(&format!("process {} is of no instance here; its notification is not believed", notification.pid));
            return;
        };
        let Some(instance) = self.instances.get_mut(&number) else { return };
        if instance.state.notified == notification.ready {
            return;
        }
        instance.state.notified = notification.ready;
        // A reboot makes it void, so it need not have reached the disk.
        if let Err(error) = files::write_json(&self.folder.state(number), &instance.state, Durability::Whole) {
            say(&format!("cannot record the readiness of {}: {error}", instance.state.instance));
        }
        self.changed(number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_the_last_word_of_a_message() {
        assert_eq!(readiness(b"READY=1"), Some(true));
        assert_eq!(readiness(b"STATUS=fine\nREADY=1\n"), Some(true));
        assert_eq!(readiness(b"READY=1\nSTOPPING=1"), Some(false));
        for other in [&b"STATUS=READY=1"[..], b"READY=10", b"", b"MAINPID=1"] {
            assert_eq!(readiness(other), None);
        }
    }
}
