//! Who may be at work at the same time on this machine: any number of tests that only wait for containers, or one that
//! measures what its users get. A load beside starting containers would measure the machine.

use std::cell::Cell;
use std::sync::{Condvar, Mutex, PoisonError};

/// Tests at work.
struct AtWork {
    shared: u32,
    alone: bool,
    /// Who waits to be alone: others let them in first, or they would wait for the last test.
    waiting: u32,
}

static AT_WORK: Mutex<AtWork> = Mutex::new(AtWork { shared: 0, alone: false, waiting: 0 });
static LEFT: Condvar = Condvar::new();

thread_local! {
    /// Whether this thread's test is in already.
    static INSIDE: Cell<bool> = const { Cell::new(false) };
}

/// A place at work, until it is dropped.
pub struct Pass(Option<bool>);

/// Waits for a place among others; a test that has one already gets it at once.
pub fn shared() -> Pass {
    enter(false)
}

/// Waits until nobody else is at work. Call it before anything else of the test.
pub fn alone() -> Pass {
    enter(true)
}

fn enter(alone: bool) -> Pass {
    if INSIDE.replace(true) {
        return Pass(None);
    }
    let free = |at_work: &mut AtWork| match alone {
        true => !at_work.alone && at_work.shared == 0,
        false => !at_work.alone && at_work.waiting == 0,
    };
    let mut at_work = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
    at_work.waiting += u32::from(alone);
    let wait = LEFT.wait_while(at_work, |at_work| !free(at_work));
    let mut at_work = wait.unwrap_or_else(PoisonError::into_inner);
    at_work.waiting -= u32::from(alone);
    match alone {
        true => at_work.alone = true,
        false => at_work.shared += 1,
    }
    Pass(Some(alone))
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Some(alone) = self.0 else { return };
        INSIDE.set(false);
        let mut at_work = AT_WORK.lock().unwrap_or_else(PoisonError::into_inner);
        match alone {
            true => at_work.alone = false,
            false => at_work.shared -= 1,
        }
        LEFT.notify_all();
    }
}
