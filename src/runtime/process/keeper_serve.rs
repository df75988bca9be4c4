//! The keeper's socket: requests in, answers out, changes to those who watch.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use super::keeper::{Keeper, say};
use super::keeper_instance::no_such;
use super::protocol::{Answer, LINE_MAX, Request, refused};
use super::record::Run;
use crate::model::{ExitStatus, FailureKind};
use crate::runtime::RuntimeError;

/// How many connections are served at a time; more are closed at once.
const CLIENTS_MAX: usize = 256;
/// What a client that does not read may leave unread before it is cut off.
const UNREAD_MAX: usize = 8 << 20;

/// One connection.
pub(super) struct Client {
    stream: UnixStream,
    inbox: Vec<u8>,
    outbox: Vec<u8>,
    watching: bool,
}

impl Client {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    pub(super) fn has_output(&self) -> bool {
        !self.outbox.is_empty()
    }

    fn send(&mut self, answer: &Answer) -> io::Result<()> {
        serde_json::to_writer(&mut self.outbox, answer)?;
        self.outbox.push(b'\n');
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.outbox.is_empty() {
            match self.stream.write(&self.outbox) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.outbox.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.outbox.len() > UNREAD_MAX { Err(io::Error::other("it does not read")) } else { Ok(()) }
    }

    /// Reads what has come and returns whole lines; `None` when the other side has gone.
    fn receive(&mut self) -> io::Result<Option<Vec<Vec<u8>>>> {
        let mut buffer = [0; 64 << 10];
        let mut open = true;
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => {
                    open = false;
                    break;
                }
                Ok(count) => self.inbox.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
            if self.inbox.len() > LINE_MAX {
                return Err(io::Error::other("a request is too long"));
            }
        }
        let mut lines = Vec::new();
        while let Some(end) = self.inbox.iter().position(|&byte| byte == b'\n') {
            lines.push(self.inbox.drain(..=end).collect());
        }
        Ok((open || !lines.is_empty()).then_some(lines))
    }
}

impl Keeper {
    /// Takes a connection of this user (or root); others cannot get at the socket's folder anyway.
    pub(super) fn welcome(&mut self, stream: UnixStream) {
        let allowed = rustix::net::sockopt::socket_peercred(&stream)
            .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid());
        if !allowed || self.clients.len() >= CLIENTS_MAX || stream.set_nonblocking(true).is_err() {
            say("refused a connection");
            return;
        }
        let client = Client { stream, inbox: Vec::new(), outbox: Vec::new(), watching: false };
        self.clients.insert(self.next_client, client);
        self.next_client += 1;
    }

    /// Goes on with a connection that poll named.
    pub(super) fn serve(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        match client.flush().and_then(|()| client.receive()) {
            Ok(Some(lines)) => lines.iter().for_each(|line| self.request(id, line)),
            Ok(None) => self.farewell(id),
            Err(error) => {
                say(&format!("closes a connection: {error}"));
                self.farewell(id);
            }
        }
    }

    fn farewell(&mut self, id: u64) {
        self.clients.remove(&id);
        for instance in self.instances.values_mut() {
            instance.waiters.retain(|&waiter| waiter != id);
        }
    }

    fn request(&mut self, id: u64, line: &[u8]) {
        self.last_request = Instant::now();
        let answer = match serde_json::from_slice::<Request>(line) {
            Ok(request) => self.carry_out(id, request).unwrap_or_else(|error| Some(Answer::from(error))),
            // The cause would quote the request, which may hold secrets.
            Err(_) => Some(refused(FailureKind::Refused, "the keeper does not know this request").into()),
        };
        if let Some(answer) = answer {
            self.answer(id, &answer);
        }
    }

    /// The answer, or none yet: then it comes later.
    fn carry_out(&mut self, id: u64, request: Request) -> Result<Option<Answer>, RuntimeError> {
        match request {
            Request::Inspect => return Ok(Some(Answer::Instances(self.observe()))),
            Request::Prepare(prepare) => self.prepare(*prepare)?,
            Request::Start { number } => return Ok(Some(Answer::Endpoint(self.start(number)?))),
            Request::HoldRestart { number } => self.hold(number)?,
            Request::AllowRestart { number } => self.allow(number)?,
            Request::Signal { number, signal } => self.signal(number, &signal)?,
            Request::Kill { number } => {
                self.kill(number, id, false)?;
                return Ok(None);
            }
            // One that is not here any more is removed.
            Request::Remove { number } if !self.instances.contains_key(&number) => {}
            Request::Remove { number } => {
                self.kill(number, id, true)?;
                return Ok(None);
            }
            Request::WaitExit { number } => {
                let instance = self.instances.get_mut(&number).ok_or_else(|| no_such(number))?;
                if matches!(instance.state.run, Run::Running { .. }) || instance.unsaved {
                    instance.waiters.push(id);
                    return Ok(None);
                }
                return Ok(Some(Answer::Exit(instance.state.exit.unwrap_or(ExitStatus::Unknown))));
            }
            Request::Exec { number, argv, timeout_ms } => {
                self.exec(number, id, &argv, Duration::from_millis(timeout_ms))?;
                return Ok(None);
            }
            Request::Watch => {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.watching = true;
                }
            }
            Request::Shutdown => self.shutdown = true,
        }
        Ok(Some(Answer::Done))
    }

    /// Answers a connection, if it is still there.
    pub(super) fn answer(&mut self, id: u64, answer: &Answer) {
        if let Some(client) = self.clients.get_mut(&id)
            && let Err(error) = client.send(answer)
        {
            say(&format!("cannot answer a connection: {error}"));
            self.farewell(id);
        }
    }

    /// Tells those who watch that there is something new.
    pub(super) fn changed(&mut self, number: u64) {
        let watching: Vec<u64> = self.clients.iter().filter(|(_, c)| c.watching).map(|(&id, _)| id).collect();
        for id in watching {
            self.answer(id, &Answer::Changed { number });
        }
    }
}
