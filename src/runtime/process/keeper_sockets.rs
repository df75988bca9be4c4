//! The listening sockets of a slot: bound once, shared by old and new instances, taken back after a keeper's end.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::ports;
use super::protocol::{refused, retryable};
use super::record::{Place, SlotRecord, SocketRecord};
use super::release::words;
use crate::model::FailureKind;
use crate::runtime::RuntimeError;
use crate::sys::process::{self, Identity};

/// Sockets by where they are bound.
#[derive(Debug, Default)]
pub(super) struct Sockets {
    held: BTreeMap<Place, OwnedFd>,
}

impl Sockets {
    /// Binds a place, unless it is held already.
    ///
    /// # Errors
    /// Refused when somebody else has it; the message names the port and, where it can be found, the process.
    pub(super) fn bind(&mut self, at: &Place) -> Result<(), RuntimeError> {
        if self.held.contains_key(at) {
            return Ok(());
        }
        let socket = ports::bind(at).map_err(|error| port_error(at, &error))?;
        self.held.insert(at.clone(), socket);
        Ok(())
    }

    /// Takes connections from here on.
    ///
    /// # Errors
    /// Refused when somebody else listens there by now.
    pub(super) fn listen(&self, at: &Place) -> Result<BorrowedFd<'_>, RuntimeError> {
        let socket = self
            .held
            .get(at)
            .ok_or_else(|| refused(FailureKind::Refused, format!("the socket of port {} is not held", at.port)))?;
        ports::listen(socket).map_err(|error| port_error(at, &error))?;
        Ok(socket.as_fd())
    }

    /// Whether a place is held.
    pub(super) fn holds(&self, at: &Place) -> bool {
        self.held.contains_key(at)
    }

    /// Takes a socket back from processes that were given it.
    ///
    /// # Errors
    /// When the kernel refuses, or none of them has it any more.
    pub(super) fn take_back(&mut self, record: &SocketRecord, holders: &[Identity]) -> io::Result<()> {
        let mut problem = io::Error::new(io::ErrorKind::NotFound, "no process of the slot has it open");
        for holder in holders {
            let Some(pidfd) = holder.open()? else { continue };
            for number in process::descriptors_of_socket(holder.pid, record.inode) {
                match pidfd.copy_fd(number) {
                    // The process may have closed the number and opened something else under it meanwhile.
                    Ok(socket) if inode_of(&socket)? == record.inode => {
                        self.held.insert(record.at.clone(), socket);
                        return Ok(());
                    }
                    Ok(_) => {}
                    Err(error) => problem = error,
                }
            }
        }
        Err(problem)
    }

    /// Lets go of every other socket. Says whether there was one.
    pub(super) fn keep_only(&mut self, used: &BTreeSet<Place>) -> bool {
        let before = self.held.len();
        self.held.retain(|at, _| used.contains(at));
        self.held.len() != before
    }

    /// What a later keeper needs to take them back.
    pub(super) fn record(&self) -> io::Result<SlotRecord> {
        let sockets = self
            .held
            .iter()
            .map(|(at, socket)| Ok(SocketRecord { at: at.clone(), inode: inode_of(socket)? }))
            .collect::<io::Result<_>>()?;
        Ok(SlotRecord { sockets })
    }
}

fn inode_of(socket: &OwnedFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(socket)?.st_ino)
}

/// A taken port, named with who has it; or whatever else is wrong with the place.
pub(super) fn port_error(at: &Place, error: &io::Error) -> RuntimeError {
    if error.kind() == io::ErrorKind::AddrInUse {
        return retryable(FailureKind::Refused, ports::end_it(at.port, &ports::listeners(at.port)));
    }
    refused(FailureKind::Refused, format!("cannot listen on {}:{}: {}", at.host, at.port, words(error)))
}
