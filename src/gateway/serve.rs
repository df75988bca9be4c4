//! Accepts clients' connections and reads requests from them.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::crew::Crew;
use super::forward::{Client, answer};
use super::io::Watched;
use super::limits::{ACCEPT_PAUSE, CLIENT_CHECK_EVERY, CLIENT_IDLE_MAX, HEAD_BYTES_MAX, HEAD_READ_MAX};
use super::listener::Listener;
use super::shutdown::{Phase, Stop};

/// What a client's connection is doing, and since when: in one word, the phase in its two lowest bits and above them
/// the
/// milliseconds on this process's own clock.
#[derive(Debug)]
pub(super) struct Activity(AtomicU64);

const IDLE: u64 = 0;
const READING: u64 = 1;
const BUSY: u64 = 2;
const PHASE: u64 = 3;

impl Activity {
    fn new() -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(IDLE | now() << 2)))
    }

    /// A request has been read.
    pub(super) fn busy(&self) {
        self.0.store(BUSY, Ordering::Relaxed);
    }

    /// An answer has been sent.
    pub(super) fn idle(&self) {
        self.0.store(IDLE | now() << 2, Ordering::Relaxed);
    }

    /// Bytes have come.
    pub(super) fn received(&self) {
        if self.0.load(Ordering::Relaxed) & PHASE == IDLE {
            self.0.store(READING | now() << 2, Ordering::Relaxed);
        }
    }

    fn overdue(&self, now: u64) -> Option<Overdue> {
        let word = self.0.load(Ordering::Relaxed);
        let age = Duration::from_millis(now.saturating_sub(word >> 2));
        match word & PHASE {
            IDLE if age > CLIENT_IDLE_MAX => Some(Overdue::Idle),
            READING if age > HEAD_READ_MAX => Some(Overdue::Reading),
            _ => None,
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Overdue {
    Idle,
    Reading,
}

/// Milliseconds since this process first asked.
fn now() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(u64::MAX >> 2)
}

/// What all listeners of the process share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    /// Free places for connections.
    pub(super) connections: Arc<Semaphore>,
    /// Requests held, over all listeners.
    pub(super) held: Arc<AtomicU64>,
}

/// Accepts until told to stop.
pub(super) async fn accept(socket: TcpListener, listener: Arc<Listener>, shared: Shared, crew: Arc<Crew>, stop: Stop) {
    let mut accept_until = stop.clone();
    let mut stopped = pin!(accept_until.reached(Phase::Finish));
    loop {
        let next = async {
            // First the place, then the connection: beyond the limit they wait in the kernel's queue.
            let place = Arc::clone(&shared.connections).acquire_owned().await;
            (place, socket.accept().await)
        };
        let (place, accepted) = tokio::select! {
            biased;
            () = &mut stopped => return,
            next = next => next,
        };
        // Without the reactor that accepted it: the thread that carries it has one of its own.
        match accepted.and_then(|(stream, peer)| Ok((stream.into_std()?, peer))) {
            Ok((stream, peer)) => {
                let (listener, shared, stop) = (Arc::clone(&listener), shared.clone(), stop.clone());
                let Ok(place) = place else { return };
                crew.carry(connection(stream, peer, place, listener, shared, stop));
            }
            Err(error) => {
                // A client that is gone already, or no descriptors left: neither ends the gateway.
                tracing::warn!(listener = listener.name(), %error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    stream: std::net::TcpStream,
    peer: SocketAddr,
    place: OwnedSemaphorePermit,
    listener: Arc<Listener>,
    shared: Shared,
    mut stop: Stop,
) {
    let stream = match stream.set_nodelay(true).and_then(|()| TcpStream::from_std(stream)) {
        Ok(stream) => stream,
        Err(error) => {
            tracing::debug!(%peer, %error, "client's connection lost");
            return;
        }
    };
    let activity = Activity::new();
    let client = Arc::new(Client {
        listener,
        shared,
        peer: peer.ip().to_canonical(),
        activity: Arc::clone(&activity),
        stop: stop.clone(),
        place: Arc::new(place),
    });
    let service = service_fn(|request: Request<Incoming>| {
        client.activity.busy();
        let client = Arc::clone(&client);
        async move { Ok::<_, Infallible>(answer(client, request).await) }
    });
    let io = TokioIo::new(Watched::new(stream, Arc::clone(&activity)));
    let mut conn = pin!(
        http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .max_header_size(HEAD_BYTES_MAX)
            .header_read_timeout(None)
            .serve_connection(io, service)
            .with_upgrades()
    );
    let mut check = tokio::time::interval(CLIENT_CHECK_EVERY);
    let mut phase = Phase::Run;
    loop {
        tokio::select! {
            ended = conn.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "client's connection ended");
                }
                return;
            }
            () = stop.reached(if phase == Phase::Run { Phase::Finish } else { Phase::Leave }) => {
                if phase == Phase::Finish {
                    return;
                }
                phase = Phase::Finish;
                conn.as_mut().graceful_shutdown();
            }
            _ = check.tick() => match activity.overdue(now()) {
                Some(Overdue::Idle) => conn.as_mut().graceful_shutdown(),
                Some(Overdue::Reading) => return,
                None => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_has_longer_than_one_that_sends_a_head() {
        let activity = Activity::new();
        let at = |limit: Duration| now() + u64::try_from(limit.as_millis()).expect("small") + 50;
        assert_eq!(activity.overdue(at(HEAD_READ_MAX)), None);
        assert_eq!(activity.overdue(at(CLIENT_IDLE_MAX)), Some(Overdue::Idle));
        activity.received();
        assert_eq!(activity.overdue(at(HEAD_READ_MAX)), Some(Overdue::Reading));
        activity.busy();
        activity.received();
        assert_eq!(activity.overdue(u64::MAX >> 2), None, "a request may take as long as it takes");
        activity.idle();
        assert_eq!(activity.overdue(at(HEAD_READ_MAX)), None);
    }
}
