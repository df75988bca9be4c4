//! Waiting for a predicate, with a bound: never for a moment that is hoped to be late enough.

use std::time::{Duration, Instant};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Looks again and again until `found` has a value.
///
/// # Panics
/// With `what` when `bound` has passed.
pub fn wait_some<T>(what: &str, bound: Duration, mut found: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        // Asked once more after the bound: a busy machine may have slept over it.
        let late = begun.elapsed() > bound;
        if let Some(value) = found() {
            return value;
        }
        assert!(!late, "waited {bound:?} in vain: {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Looks again and again until `predicate` holds.
///
/// # Panics
/// With `what` when `bound` has passed.
pub fn wait_for(what: &str, bound: Duration, mut predicate: impl FnMut() -> bool) {
    wait_some(what, bound, || predicate().then_some(()));
}

/// The same inside a runtime, without blocking it.
///
/// # Panics
/// With `what` when `bound` has passed.
pub async fn wait_until(what: &str, bound: Duration, mut predicate: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    loop {
        let late = begun.elapsed() > bound;
        if predicate().await {
            return;
        }
        assert!(!late, "waited {bound:?} in vain: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
