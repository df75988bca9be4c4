//! One target of a table: may it be chosen, how much is in flight on it, and does it answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::watch;

use super::pool::Pool;
use crate::model::{Admission, InstanceId, TableTarget};

/// Set while no new requests are admitted. The other bits count what is in flight: one word, so that the check and the
/// increment are one atomic step, and whoever has seen this bit and a zero knows that nothing will come any more.
const DRAINING: u64 = 1 << 63;

/// An instance at an address. Lives as long as it is in the table or something is in flight on it.
#[derive(Debug)]
pub(super) struct Target {
    instance: InstanceId,
    host: String,
    port: u16,
    /// The address, where the host is one: no look-up.
    address: Option<SocketAddr>,
    state: AtomicU64,
    /// The last attempt to connect failed, and somebody sees to it.
    down: AtomicBool,
    pool: Pool,
    /// Upgraded connections are to be closed.
    closing: watch::Sender<bool>,
}

impl Target {
    /// A target that does not admit yet.
    pub(super) fn new(target: &TableTarget) -> Arc<Self> {
        Arc::new(Self {
            instance: target.instance.clone(),
            host: target.host.clone(),
            port: target.port,
            address: target.host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, target.port)),
            state: AtomicU64::new(DRAINING),
            down: AtomicBool::new(false),
            pool: Pool::default(),
            closing: watch::Sender::new(false),
        })
    }

    /// The same instance at the same address? An instance that moved has to prove itself anew.
    pub(super) fn is(&self, other: &TableTarget) -> bool {
        self.instance == other.instance && self.host == other.host && self.port == other.port
    }

    /// As the table tells it.
    pub(super) fn describe(&self) -> TableTarget {
        TableTarget {
            instance: self.instance.clone(),
            host: self.host.clone(),
            port: self.port,
            admission: if self.admits() { Admission::Admitting } else { Admission::Draining },
        }
    }

    pub(super) fn instance(&self) -> &InstanceId {
        &self.instance
    }

    pub(super) fn host(&self) -> &str {
        &self.host
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    pub(super) fn admits(&self) -> bool {
        self.state.load(Ordering::Acquire) & DRAINING == 0
    }

    /// Requests and upgraded connections in flight.
    pub(super) fn in_flight(&self) -> u64 {
        self.state.load(Ordering::Acquire) & !DRAINING
    }

    /// Is it worth a try?
    pub(super) fn is_up(&self) -> bool {
        !self.down.load(Ordering::Acquire)
    }

    /// Notes that a connect failed. True for the one caller that must now see to it that somebody watches it.
    pub(super) fn mark_down(&self) -> bool {
        !self.down.swap(true, Ordering::AcqRel)
    }

    pub(super) fn mark_up(&self) {
        self.down.store(false, Ordering::Release);
    }

    /// One more request, if it admits. A compare-and-swap and not an addition that is taken back: a refused request
    /// must
    /// not show in the count, which may have been reported as zero.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Permit> {
        self.state
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |state| (state & DRAINING == 0).then_some(state + 1))
            .ok()
            .map(|_| Permit { target: Arc::clone(self) })
    }

    /// Admits from now on; one that was draining is taken back and keeps what it has in flight.
    pub(super) fn open(&self) {
        self.closing.send_replace(false);
        self.state.fetch_and(!DRAINING, Ordering::AcqRel);
    }

    /// Admits nothing from now on. Connections that lie idle are closed: an instance told to stop would wait for them.
    pub(super) fn drain(&self) {
        self.state.fetch_or(DRAINING, Ordering::AcqRel);
        self.pool.clear();
    }

    /// Upgraded connections on it are to be closed, those that are just coming into being included.
    pub(super) fn close_upgraded(&self) {
        self.closing.send_replace(true);
    }

    /// Turns true when upgraded connections are to be closed.
    pub(super) fn closing(&self) -> watch::Receiver<bool> {
        self.closing.subscribe()
    }
}

/// The right to have one request or one upgraded connection in flight on a target; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    target: Arc<Target>,
}

impl Permit {
    pub(super) fn target(&self) -> &Arc<Target> {
        &self.target
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.target.state.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target() -> Arc<Target> {
        Target::new(&TableTarget {
            instance: "api-1.1".parse().expect("an instance id"),
            host: "127.0.0.1".to_owned(),
            port: 1,
            admission: Admission::Admitting,
        })
    }

    #[test]
    fn a_target_that_is_taken_back_keeps_its_count() {
        let target = target();
        assert!(target.admit().is_none(), "a new target admits nothing before the swap");
        target.open();
        let permit = target.admit().expect("admitted");
        target.drain();
        assert_eq!((target.in_flight(), target.admit().is_none()), (1, true));
        target.open();
        assert_eq!(target.in_flight(), 1);
        drop((permit, target.admit()));
        assert_eq!(target.in_flight(), 0);
    }

    #[test]
    fn nothing_is_admitted_after_a_drain_was_seen_at_zero() {
        let target = target();
        for _ in 0..200 {
            target.open();
            let zero = AtomicBool::new(false);
            std::thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        loop {
                            let reported = zero.load(Ordering::Acquire);
                            let Some(permit) = target.admit() else { break };
                            assert!(!reported, "admitted after zero was reported");
                            drop(permit);
                        }
                    });
                }
                scope.spawn(|| {
                    target.drain();
                    while target.in_flight() != 0 {
                        std::hint::spin_loop();
                    }
                    zero.store(true, Ordering::Release);
                    for _ in 0..100 {
                        assert_eq!(target.in_flight(), 0, "a refused request must not show");
                    }
                });
            });
        }
    }
}
