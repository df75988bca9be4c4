//! `baton relay SOCKET` (hidden): standard input and output as a connection to a Unix socket, for whoever can run a
//! command beside that socket and cannot open it.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::ExitCode;

use super::Exit;
use crate::sys::unix_socket;

/// Ends with either side, and with it the process: the other direction may be in the middle of a read for ever.
pub(super) fn run(socket: &Path) -> ExitCode {
    let opened = unix_socket::connect(socket).and_then(|stream| Ok((stream.try_clone()?, stream)));
    let (mut from, mut to) = match opened {
        Ok(ends) => ends,
        Err(error) => {
            eprintln!("nobody answers at {}: {error}", socket.display());
            return Exit::Refused.into();
        }
    };
    let (ended, end) = std::sync::mpsc::channel();
    let other = ended.clone();
    std::thread::spawn(move || {
        let _ = pass_on(&mut io::stdin().lock(), &mut to);
        let _ = other.send(());
    });
    std::thread::spawn(move || {
        let _ = pass_on(&mut from, &mut io::stdout().lock());
        let _ = ended.send(());
    });
    let _ = end.recv();
    Exit::Done.into()
}

/// Every piece at once: the other side waits for it.
fn pass_on(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => {
                to.write_all(&buffer[..read])?;
                to.flush()?;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
