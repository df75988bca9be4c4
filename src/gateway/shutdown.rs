//! How the gateway ends: no new connections, then what is in flight, then all of it.

use std::time::Duration;

use tokio::sync::{mpsc, watch};

/// What everybody in the process may still do. Only grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// Serve.
    Run,
    /// Take nothing new, finish what is in flight.
    Finish,
    /// Leave at once.
    Leave,
}

/// Tells a task when to end. While one that carries traffic lives, something is in flight.
#[derive(Clone, Debug)]
pub(super) struct Stop {
    phase: watch::Receiver<Phase>,
    _alive: Option<mpsc::Sender<()>>,
}

impl Stop {
    /// Returns once `phase` is reached; at once if the gateway itself is gone.
    pub(super) async fn reached(&mut self, phase: Phase) {
        // An error means that the sender was dropped without a word: the gateway was ended from outside.
        let _ = self.phase.wait_for(|now| *now >= phase).await;
    }
}

/// The one who says when.
#[derive(Debug)]
pub(super) struct Shutdown {
    phase: watch::Sender<Phase>,
    stop: Stop,
    alive: mpsc::Receiver<()>,
}

impl Shutdown {
    pub(super) fn new() -> Self {
        let (phase, receiver) = watch::channel(Phase::Run);
        let (sender, alive) = mpsc::channel(1);
        Self { phase, stop: Stop { phase: receiver, _alive: Some(sender) }, alive }
    }

    pub(super) fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// For a task that carries no traffic: nobody waits for it.
    pub(super) fn watch(&self) -> Stop {
        Stop { phase: self.phase.subscribe(), _alive: None }
    }

    /// Lets everything in flight finish, for `limit` at most. False when something had to be cut.
    pub(super) async fn finish(self, limit: Duration) -> bool {
        let Self { phase, stop, mut alive } = self;
        drop(stop);
        phase.send_replace(Phase::Finish);
        let finished = tokio::time::timeout(limit, alive.recv()).await.is_ok();
        phase.send_replace(Phase::Leave);
        finished
    }
}
