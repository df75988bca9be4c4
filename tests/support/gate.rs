//! Who may be at work at the same time on this machine: any number of tests that only wait for containers, or two that
//! measure what their users get, or one. A load beside starting containers would measure the machine; two of them leave
//! half of two cores idle.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, PoisonError};

/// Of those that measure.
const PLACES: u32 = 2;

/// Tests at work.
struct AtWork {
    shared: u32,
    /// Places taken by those that measure.
    taken: u32,
    /// Who waits to measure: others let them in first, or they would wait for the last test.
    waiting: u32,
}

static AT_WORK: Mutex<AtWork> = Mutex::new(AtWork { shared: 0, taken: 0, waiting: 0 });
static LEFT: Condvar = Condvar::new();

thread_local! {
    /// Whether this thread's test is in already.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A place at work, until it is dropped.
pub struct Pass(Option<u32>);

/// Waits for a place among others; a test that has one already gets it at once.
pub fn shared() -> Pass {
    enter(0)
}

/// Waits until nobody else is at work but perhaps one other that measures. Call it before anything else of the test.
pub fn measuring() -> Pass {
    enter(1)
}

/// Waits until nobody else is at work. Call it before anything else of the test.
pub fn alone() -> Pass {
    enter(PLACES)
}

fn enter(places: u32) -> Pass {
    if INSIDE.replace(true) {
        return Pass(None);
    }
    let free = |at_work: &mut AtWork| match places {
        0 => at_work.taken == 0 && at_work.waiting == 0,
        more => at_work.taken + more <= PLACES && at_work.shared == 0,
    };
    let measures = u32::from(places > 0);
    let mut at_work = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
    at_work.waiting += measures;
    let wait = LEFT.wait_while(at_work, |at_work| !free(at_work));
    let mut at_work = wait.unwrap_or_else(PoisonError::into_inner);
    at_work.waiting -= measures;
    at_work.taken += places;
    at_work.shared += 1 - measures;
    Pass(Some(places))
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Some(places) = self.0 else { return };
        INSIDE.set(false);
        let mut at_work = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
        at_work.taken -= places;
        at_work.shared -= u32::from(places == 0);
        LEFT.notify_all();
    }
}
