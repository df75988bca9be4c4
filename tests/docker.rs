//! The docker runtime on a real engine: what a roll does to containers, and what is left behind.

mod support;

#[path = "docker/acts.rs"]
mod acts;
#[path = "docker/crashes.rs"]
mod crashes;
#[path = "support/engine.rs"]
mod engine;
#[path = "docker/making.rs"]
mod making;
#[path = "docker/verbs.rs"]
mod verbs;

use std::time::Duration;

/// For anything that an engine does on two slow cores.
const BOUND: Duration = Duration::from_secs(60);

/// Lives until SIGTERM.
const GOOD: &str = "trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.1; done";
