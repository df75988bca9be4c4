//! The connections to one target: opened on demand, kept while idle, never shared between two requests at a time.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::AbortHandle;

use super::body::Upload;
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
    pub(super) sender: SendRequest<Upload>,
    /// Ends the connection at once, whatever it is doing.
    pub(super) task: AbortHandle,
    /// It carried a request before, so the target may be closing it just now.
    pub(super) reused: bool,
}

#[derive(Debug)]
struct Idle {
    conn: Conn,
    since: Instant,
}

/// The idle connections of one target.
#[derive(Debug)]
pub(super) struct Pool {
    idle: Mutex<Vec<Idle>>,
    connecting: Semaphore,
}

impl Default for Pool {
    fn default() -> Self {
        Self { idle: Mutex::default(), connecting: Semaphore::new(CONNECTING_MAX) }
    }
}

impl Pool {
    /// Every change of the list is complete in itself, so a panic elsewhere leaves nothing half done.
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection that became idle last and is not older than `age_max`; closed ones on the way are dropped.
    pub(super) fn take(&self, age_max: Option<Duration>) -> Option<Conn> {
        let mut idle = self.idle();
        let mut at = idle.len();
        while at > 0 {
            at -= 1;
            let entry = &idle[at];
            if entry.conn.sender.is_closed() {
                idle.remove(at);
            } else if age_max.is_some_and(|age_max| entry.since.elapsed() > age_max) {
                // Sorted by age: the rest is older still.
                return None;
            } else if entry.conn.sender.is_ready() {
                return Some(idle.remove(at).conn);
            }
            // Else its task has not yet seen the end of its last answer; it will in a moment.
        }
        None
    }

    /// Keeps a connection for the next request, unless the target is draining: the check is made under the lock that
    /// [`Pool::clear`] takes after the target began to drain, so none slips in.
    pub(super) fn put(&self, target: &Target, mut conn: Conn) {
        let mut idle = self.idle();
        if target.admits() && idle.len() < IDLE_PER_TARGET_MAX && !conn.sender.is_closed() {
            conn.reused = true;
            idle.push(Idle { conn, since: Instant::now() });
        }
    }

    /// Closes all that lies idle.
    pub(super) fn clear(&self) {
        self.idle().clear();
    }

    /// Closes what has been idle for longer than `age_max`, or was closed from the other side.
    pub(super) fn sweep(&self, age_max: Duration) {
        self.idle().retain(|entry| entry.since.elapsed() <= age_max && !entry.conn.sender.is_closed());
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
        let instance = target.instance().clone();
        let task = tokio::spawn(async move {
            if let Err(error) = conn.with_upgrades().await {
                tracing::debug!(%instance, %error, "connection to a target ended");
            }
        });
        Ok(Conn { sender, task: task.abort_handle(), reused: false })
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
