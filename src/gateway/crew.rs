//! The threads that carry traffic: one a core, and a client's connection stays with one of them for good.
//!
//! A request then never goes from one core to the other, neither for its client nor for its target, and no thread has
//! to wake another to share the work.

use std::cell::Cell;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::runtime::{Builder, Handle};
use tokio::sync::watch;

/// More threads than this would wait for the same kernel queues.
pub(super) const SEATS_MAX: usize = 16;

thread_local! {
    static SEAT: Cell<usize> = const { Cell::new(0) };
}

/// The number of the thread that asks, below [`SEATS_MAX`]; 0 outside of the crew.
pub(super) fn seat() -> usize {
    SEAT.get()
}

/// The threads. They end, with everything they carry, when this is dropped.
#[derive(Debug)]
pub(super) struct Crew {
    seats: Vec<Handle>,
    next: AtomicUsize,
    _stay: watch::Sender<()>,
}

impl Crew {
    /// As many threads as there are cores for this process.
    pub(super) fn start() -> io::Result<Self> {
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(SEATS_MAX);
        let (stay, left) = watch::channel(());
        let seats = (0..count).map(|seat| sit(seat, left.clone())).collect::<io::Result<_>>()?;
        Ok(Self { seats, next: AtomicUsize::new(0), _stay: stay })
    }

    /// Has the next thread carry this; they take turns.
    pub(super) fn carry(&self, traffic: impl Future<Output = ()> + Send + 'static) {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        self.seats[turn % self.seats.len()].spawn(traffic);
    }
}

fn sit(seat: usize, mut left: watch::Receiver<()>) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    std::thread::Builder::new().name(format!("traffic-{seat}")).spawn(move || {
        SEAT.set(seat);
        // Nothing is ever sent: it ends with the sender.
        let _ = runtime.block_on(left.changed());
    })?;
    Ok(handle)
}
