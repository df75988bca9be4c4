//! A name that only one process on this machine can hold, without a file: an abstract Unix socket.
//!
//! The name dies with its holder and needs no folder that both can write. It is one per network namespace: two
//! containers do not see each other's. It has no permissions either, so anyone in the namespace may ask the holder who
//! it is: the answer must hold no secret.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::thread::JoinHandle;
use std::time::Duration;

/// Why a name was not taken.
#[derive(Debug, thiserror::Error)]
pub enum HoldError {
    /// Somebody holds it.
    #[error("{name} is held by {holder}")]
    Held {
        /// The name.
        name: String,
        /// What the holder says about itself, else its process id.
        holder: String,
    },
    /// The name cannot be used.
    #[error("cannot hold the name {name}")]
    Io {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// How long the holder may take to say who it is. It may be stopped (SIGSTOP): then its process id has to do.
const ANSWER_WAIT: Duration = Duration::from_secs(1);

/// A bound on what is read from a stranger.
const ANSWER_MAX: u64 = 1024;

/// A name that is held, with a thread that answers whoever connects with one line. Given back when dropped.
#[derive(Debug)]
pub struct NameHold {
    listener: UnixListener,
    answering: Option<JoinHandle<()>>,
}

impl NameHold {
    /// Takes `name` (at most 107 bytes) or says who holds it. `description` is the line that the refused one is told,
    /// after this process's id.
    ///
    /// # Errors
    /// [`HoldError::Held`], or [`HoldError::Io`] when the name is too long or no socket or thread can be had.
    pub fn take(name: &str, description: &str) -> Result<Self, HoldError> {
        let failed = |source: io::Error| HoldError::Io { name: name.to_owned(), source };
        let address = SocketAddr::from_abstract_name(name).map_err(failed)?;
        let listener = match UnixListener::bind_addr(&address) {
            Ok(listener) => listener,
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
                return Err(HoldError::Held { name: name.to_owned(), holder: ask(&address) });
            }
            Err(error) => return Err(failed(error)),
        };
        let line = format!("process {} ({})\n", std::process::id(), description.replace('\n', " "));
        let accepting = listener.try_clone().map_err(failed)?;
        let answering = std::thread::Builder::new()
            .name("name-hold".to_owned())
            .spawn(move || answer(&accepting, line.as_bytes()))
            .map_err(failed)?;
        Ok(Self { listener, answering: Some(answering) })
    }
}

impl Drop for NameHold {
    fn drop(&mut self) {
        // Wakes the thread out of accept, so that its copy of the socket is closed too and the name is free on return.
        if rustix::net::shutdown(&self.listener, rustix::net::Shutdown::Both).is_ok()
            && let Some(thread) = self.answering.take()
        {
            let _ = thread.join();
        }
    }
}

fn answer(listener: &UnixListener, line: &[u8]) {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                // One short line fits every socket buffer; the bound is for a peer that shrank its own.
                let _ = stream.set_write_timeout(Some(ANSWER_WAIT)).and_then(|()| stream.write_all(line));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()) => return,
            // Out of descriptors, most likely: the name stays held, and the next one asks again.
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

/// Asks the holder who it is.
fn ask(address: &SocketAddr) -> String {
    let Ok(mut stream) = UnixStream::connect_addr(address) else { return "another process".to_owned() };
    let mut line = Vec::new();
    let read = stream
        .set_read_timeout(Some(ANSWER_WAIT))
        .and_then(|()| Read::by_ref(&mut stream).take(ANSWER_MAX).read_to_end(&mut line));
    match (read, String::from_utf8_lossy(&line).trim(), rustix::net::sockopt::socket_peercred(&stream)) {
        (Ok(_), line, _) if !line.is_empty() => line.to_owned(),
        (_, _, Ok(holder)) => format!("process {}", holder.pid.as_raw_nonzero()),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unique(name: &str) -> String {
        format!("baton-test/{}/{}", super::super::random::id().unwrap(), name)
    }

    #[test]
    fn a_second_holder_is_refused_and_told_who_was_first() {
        let name = unique("agent");
        let first = NameHold::take(&name, "agent host-a of fleet orders").unwrap();
        for _ in 0..3 {
            let refused = NameHold::take(&name, "another").unwrap_err();
            let expected = format!("process {} (agent host-a of fleet orders)", std::process::id());
            assert!(matches!(&refused, HoldError::Held { holder, .. } if *holder == expected), "{refused}");
        }
        drop(first);
        let _second = NameHold::take(&name, "another").unwrap();
    }

    #[test]
    fn a_holder_that_does_not_answer_is_named_by_its_process_id() {
        let name = unique("silent");
        let _silent = UnixListener::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let refused = NameHold::take(&name, "us").unwrap_err();
        let expected = format!("process {}", std::process::id());
        assert!(matches!(&refused, HoldError::Held { holder, .. } if *holder == expected), "{refused}");
    }

    #[test]
    fn a_name_that_is_too_long_is_an_error() {
        assert!(NameHold::take(&"x".repeat(107), "us").is_ok());
        assert!(matches!(NameHold::take(&"x".repeat(108), "us"), Err(HoldError::Io { .. })));
    }
}
