//! The clocks that a record's head is stamped with.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::sys::clock::{SystemClock, boottime_ms, wall_ms};

/// The clocks behind journal time. Real ones in a process, a manual one in tests and in the simulator.
pub trait JournalClock: Send {
    /// `CLOCK_BOOTTIME` in milliseconds.
    fn boottime_ms(&self) -> u64;
    /// Wall time in milliseconds since 1970.
    fn wall_ms(&self) -> u64;
    /// The host's boot.
    fn boot_id(&self) -> String;
}

impl JournalClock for SystemClock {
    fn boottime_ms(&self) -> u64 {
        boottime_ms()
    }

    fn wall_ms(&self) -> u64 {
        wall_ms()
    }

    fn boot_id(&self) -> String {
        SystemClock::boot_id(self).to_owned()
    }
}

/// Clocks that stand still until somebody moves them. Clones are handles to the same clocks.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Times>>);

#[derive(Debug)]
struct Times {
    boottime_ms: u64,
    wall_ms: u64,
    boot: u64,
}

impl ManualClock {
    /// A host that has been up for `boottime_ms`, at the wall time `wall_ms`, in its first boot.
    pub fn new(boottime_ms: u64, wall_ms: u64) -> Self {
        Self(Arc::new(Mutex::new(Times { boottime_ms, wall_ms, boot: 1 })))
    }

    fn with<T>(&self, act: impl FnOnce(&mut Times) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Time passes.
    pub fn advance(&self, span: Duration) {
        let span = u64::try_from(span.as_millis()).unwrap_or(u64::MAX);
        self.with(|times| {
            times.boottime_ms = times.boottime_ms.saturating_add(span);
            times.wall_ms = times.wall_ms.saturating_add(span);
        });
    }

    /// Somebody sets the wall clock.
    pub fn set_wall_ms(&self, wall_ms: u64) {
        self.with(|times| times.wall_ms = wall_ms);
    }

    /// The host restarts: boot time begins again under another boot id, and `down` of wall time has passed.
    pub fn reboot(&self, down: Duration) {
        self.advance(down);
        self.with(|times| {
            times.boottime_ms = 0;
            times.boot += 1;
        });
    }
}

impl JournalClock for ManualClock {
    fn boottime_ms(&self) -> u64 {
        self.with(|times| times.boottime_ms)
    }

    fn wall_ms(&self) -> u64 {
        self.with(|times| times.wall_ms)
    }

    fn boot_id(&self) -> String {
        self.with(|times| format!("boot-{}", times.boot))
    }
}
