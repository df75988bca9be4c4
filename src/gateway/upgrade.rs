//! Connections that went over to another protocol: bytes both ways, and a proper close when their target goes.

use std::io;
use std::sync::Arc;

use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::limits::CLOSE_MAX;
use super::listener::Listener;
use super::shutdown::{Phase, Stop};
use super::target::Permit;
use super::websocket::{Frames, close_to_client, close_to_server};

/// Bytes carried at a time, each way: one TLS record, and small enough for thousands of such connections.
const BUFFER_BYTES: usize = 16 * 1024;

/// An upgraded connection that is coming into being.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) client: OnUpgrade,
    pub(super) target: OnUpgrade,
    /// Its frames are understood, so it can be closed as its protocol wants.
    pub(super) websocket: bool,
    /// In flight on its target until the end.
    pub(super) permit: Permit,
    pub(super) listener: Arc<Listener>,
    pub(super) stop: Stop,
    /// A place among the connections of the process.
    pub(super) place: Arc<OwnedSemaphorePermit>,
}

/// Carries it until one side ends it, its target is to be left, or the gateway ends.
pub(super) async fn carry(tunnel: Tunnel) {
    let Tunnel { client, target, websocket, permit, listener, mut stop, place } = tunnel;
    let instance = permit.target().instance().clone();
    let (client, target) = match tokio::try_join!(client, target) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%instance, %error, "an upgrade was not completed");
            return;
        }
    };
    let (from_client, to_client) = tokio::io::split(TokioIo::new(client));
    let (from_target, to_target) = tokio::io::split(TokioIo::new(target));
    let frames = || websocket.then(Frames::default);
    let mut mask = [0; 4];
    // A mask of zeros is a valid one too: it only guards proxies against clients, and this frame is ours.
    let _ = getrandom::fill(&mut mask);

    let close = watch::Sender::new(false);
    let down = Pump { from: from_target, to: to_client, frames: frames(), close: close.subscribe() };
    let up = Pump { from: from_client, to: to_target, frames: frames(), close: close.subscribe() };
    let both = async { tokio::try_join!(down.run(close_to_client()), up.run(close_to_server(mask))) };
    let mut both = std::pin::pin!(both);
    let mut closing = permit.target().closing();
    tokio::select! {
        // Once the close has been asked for, what comes after it is not passed on.
        biased;
        // The target holds the sender and the permit holds the target: it cannot be gone.
        _ = closing.wait_for(|close| *close) => {}
        () = stop.reached(Phase::Finish) => {}
        ended = &mut both => {
            if let Err(error) = ended {
                tracing::debug!(%instance, %error, "an upgraded connection broke");
            }
            return;
        }
    }
    close.send_replace(true);
    if tokio::time::timeout(CLOSE_MAX, both).await.is_err() {
        tracing::debug!(%instance, limit = ?CLOSE_MAX, "an upgraded connection was cut: no answer to the close");
    }
    listener.count_closed();
    drop((permit, place));
}

/// One direction.
struct Pump {
    from: ReadHalf<TokioIo<Upgraded>>,
    to: WriteHalf<TokioIo<Upgraded>>,
    frames: Option<Frames>,
    close: watch::Receiver<bool>,
}

impl Pump {
    /// Carries bytes until the sender ends, or it is to be closed: then up to the end of the frame that is under way,
    /// with `goodbye` after it.
    async fn run(mut self, goodbye: Vec<u8>) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut closing = false;
        // What was read beyond the last frame that is passed on.
        let mut rest = 0..0;
        while !(closing && self.frames.as_ref().is_none_or(Frames::at_boundary)) {
            let count = tokio::select! {
                biased;
                _ = self.close.wait_for(|close| *close), if !closing => {
                    closing = true;
                    continue;
                }
                count = self.from.read(&mut buffer) => count?,
            };
            if count == 0 {
                return self.to.shutdown().await;
            }
            let bytes = &buffer[..count];
            let cut = match &mut self.frames {
                Some(frames) if closing => frames.until_boundary(bytes),
                Some(frames) => {
                    frames.advance(bytes);
                    None
                }
                None => None,
            };
            self.to.write_all(&bytes[..cut.unwrap_or(count)]).await?;
            self.to.flush().await?;
            if let Some(cut) = cut {
                rest = cut..count;
            }
        }
        let Some(frames) = &mut self.frames else { return self.to.shutdown().await };
        if !frames.closed() {
            self.to.write_all(&goodbye).await?;
            self.to.flush().await?;
        }
        frames.advance(&buffer[rest]);
        self.see_off(&mut buffer).await
    }

    /// Reads on until the sender has closed too: it answers the Close that went its way, and a connection that is shut
    /// with bytes unread would take that Close down with it.
    async fn see_off(mut self, buffer: &mut [u8]) -> io::Result<()> {
        while let Some(frames) = &mut self.frames
            && !frames.closed()
        {
            match self.from.read(buffer).await? {
                0 => break,
                count => frames.advance(&buffer[..count]),
            }
        }
        self.to.shutdown().await
    }
}
