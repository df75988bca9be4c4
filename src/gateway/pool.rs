//! The connections to one target: opened on demand, kept while idle, never shared between two requests at a time.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::body::Upload;
use super::crew::{self, SEATS_MAX};
use super::limits::{CONNECT_MAX, CONNECTING_MAX, HEAD_BYTES_MAX, IDLE_PER_TARGET_MAX};
use super::target::Target;

/// Why no connection to a target could be opened.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    /// The name has no address, or the host refused.
    #[error("failed to connect")]
    Io(#[source] std::io::Error),
    /// No answer.
    #[error("no answer within {} ms", CONNECT_MAX.as_millis())]
    TimedOut,
    /// The connection broke before anything was sent.
    #[error("connection lost before the first request")]
    Handshake(#[source] hyper::Error),
}

impl ConnectError {
    /// For people, in one short line: `connection refused`.
    pub(super) fn reason(&self) -> String {
        match self {
            ConnectError::Io(error) => match error.kind() {
                std::io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
                std::io::ErrorKind::HostUnreachable => "host unreachable".to_owned(),
                std::io::ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
                _ => error.to_string(),
            },
            other => other.to_string(),
        }
    }
}

/// One connection to a target, used by one request at a time.
#[derive(Debug)]
pub(super) struct Conn {
    sender: SendRequest<Upload>,
    line: Line,
    /// It carried a request before, so the target may be closing it just now.
    pub(super) reused: bool,
    /// The thread that is told when something comes on it.
    seat: usize,
}

/// Who reads from and writes to a connection.
#[derive(Debug)]
enum Line {
    /// Whoever uses it, in the task of the client's connection. A task of its own would be woken four times for each
    /// request, often on another core.
    Here(Box<http1::Connection<TokioIo<TcpStream>, Upload>>),
    /// A task of its own: what is sent and what is received may have to go on without each other.
    Apart(AbortHandle),
    /// Nobody any more.
    Ended,
}

impl Conn {
    /// Reads and writes what there is. Whatever waits for an answer calls this first, and is woken by it.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) {
        let Line::Here(line) = &mut self.line else { return };
        if let Poll::Ready(ended) = Pin::new(line).poll(cx) {
            if let Err(error) = ended {
                tracing::debug!(%error, "connection to a target ended");
            }
            // Dropped, so that what still waits for it is told.
            self.line = Line::Ended;
        }
    }

    /// Gives the connection a task of its own, for a request with a body: a target may read all of it while its answer
    /// cannot go on, because the client sends first and reads later. `upgrades`: it may go over to another protocol.
    pub(super) fn set_apart(&mut self, upgrades: bool) {
        if !matches!(self.line, Line::Here(_)) {
            return;
        }
        let Line::Here(line) = std::mem::replace(&mut self.line, Line::Ended) else { return };
        let task = tokio::spawn(async move {
            let ended = if upgrades { line.with_upgrades().await } else { line.await };
            if let Err(error) = ended {
                tracing::debug!(%error, "connection to a target ended");
            }
        });
        self.line = Line::Apart(task.abort_handle());
    }

    /// Sends a request; the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<Upload>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Upload>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            self.poll(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Looks whether the other side has closed it.
    fn is_closed(&mut self) -> bool {
        self.poll(&mut Context::from_waker(Waker::noop()));
        self.sender.is_closed()
    }

    /// Ends it at once, whatever it is doing.
    pub(super) fn abort(self) {
        if let Line::Apart(task) = self.line {
            task.abort();
        }
    }
}

#[derive(Debug)]
struct Idle {
    conn: Conn,
    since: Instant,
}

/// The idle connections of one target.
#[derive(Debug)]
pub(super) struct Pool {
    /// By the thread they belong to. Another one may use them too, and pays with a switch.
    idle: [Mutex<Vec<Idle>>; SEATS_MAX],
    connecting: Semaphore,
}

impl Default for Pool {
    fn default() -> Self {
        Self { idle: Default::default(), connecting: Semaphore::new(CONNECTING_MAX) }
    }
}

impl Pool {
    /// Every change of the list is complete in itself, so a panic elsewhere leaves nothing half done.
    fn idle(&self, seat: usize) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle[seat].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that became idle last and is not older than `age_max`, of this thread where there is one; closed
    /// ones on the way are dropped.
    pub(super) fn take(&self, age_max: Option<Duration>) -> Option<Conn> {
        let own = crew::seat();
        let others = (0..SEATS_MAX).filter(|seat| *seat != own);
        std::iter::once(own).chain(others).find_map(|seat| self.take_of(seat, age_max))
    }

    fn take_of(&self, seat: usize, age_max: Option<Duration>) -> Option<Conn> {
        let mut idle = self.idle(seat);
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            let entry = &mut idle[at];
            if entry.conn.is_closed() {
                idle.remove(at);
            } else if age_max.is_some_and(|age_max| entry.since.elapsed() > age_max) {
                // Sorted by age: the rest is older still.
                return None;
            } else if entry.conn.sender.is_ready() {
                return Some(idle.remove(at).conn);
            }
            // Else it has a task, which has not yet seen the end of its last answer; it will in a moment.
        }
        None
    }

    /// Keeps a connection for the next request, unless the target is draining: the check is made under the lock that
    /// [`Pool::clear`] takes after the target began to drain, so none slips in.
    pub(super) fn put(&self, target: &Target, mut conn: Conn) {
        if conn.is_closed() {
            return;
        }
        let mut idle = self.idle(conn.seat);
        if target.admits() && idle.len() < IDLE_PER_TARGET_MAX {
            conn.reused = true;
            idle.push(Idle { conn, since: Instant::now() });
        }
    }

    /// Closes all that lies idle.
    pub(super) fn clear(&self) {
        (0..SEATS_MAX).for_each(|seat| self.idle(seat).clear());
    }

    /// Closes what has been idle for longer than `age_max`, or was closed from the other side.
    pub(super) fn sweep(&self, age_max: Duration) {
        let fresh = |entry: &mut Idle| entry.since.elapsed() <= age_max && !entry.conn.is_closed();
        (0..SEATS_MAX).for_each(|seat| self.idle(seat).retain_mut(fresh));
    }

    /// Opens a connection.
    pub(super) async fn connect(&self, target: &Target) -> Result<Conn, ConnectError> {
        let queued = async {
            let _slot = self.connecting.acquire().await;
            open(target).await
        };
        let stream = tokio::time::timeout(CONNECT_MAX, queued).await.map_err(|_| ConnectError::TimedOut)??;
        let (sender, conn) = http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .handshake::<_, Upload>(TokioIo::new(stream))
            .await
            .map_err(ConnectError::Handshake)?;
        Ok(Conn { sender, line: Line::Here(Box::new(conn)), reused: false, seat: crew::seat() })
    }
}

/// Is somebody there? Opens a connection and closes it again.
pub(super) async fn probe(target: &Target) -> Result<(), ConnectError> {
    tokio::time::timeout(CONNECT_MAX, open(target)).await.map_err(|_| ConnectError::TimedOut)?.map(drop)
}

/// Opens a TCP connection. A name is looked up each time: it may have another address by now.
async fn open(target: &Target) -> Result<TcpStream, ConnectError> {
    let stream = match target.address() {
        Some(address) => TcpStream::connect(address).await,
        None => TcpStream::connect((target.host(), target.port())).await,
    }
    .map_err(ConnectError::Io)?;
    stream.set_nodelay(true).map_err(ConnectError::Io)?;
    Ok(stream)
}
