//! Requests at a fixed rate, whatever the answers do: each on a connection of its own, its time counted from when it
//! was due.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::docker_toy::get;
use crate::rig::Outcome;

const A_SECOND: u64 = 200;
/// A request without an answer by then has failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the clients saw.
#[derive(Clone, Copy, Default)]
pub struct Seen {
    pub requests: u64,
    pub failed: u64,
    /// The longest stretch between two good answers, beyond what lies between two requests anyway.
    pub outage: Duration,
    /// Of those that were answered.
    pub slowest: Duration,
}

/// A load that runs on a thread of its own until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Outcome<Seen>>,
}

impl Load {
    /// Begins, against a port of this host.
    pub fn start(port: u16) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let asked = stop.clone();
        Load { stop, thread: std::thread::spawn(move || run(port, &asked)) }
    }

    /// Ends, once everything asked for is answered or has failed.
    pub async fn stop(self) -> Outcome<Seen> {
        self.stop.store(true, Ordering::Relaxed);
        tokio::task::spawn_blocking(move || self.thread.join()).await?.map_err(|_| "the load fell over")?
    }
}

fn run(port: u16, stop: &AtomicBool) -> Outcome<Seen> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let begun = Instant::now();
        let mut under_way = tokio::task::JoinSet::new();
        for number in 0.. {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let due = begun + Duration::from_micros(number * 1_000_000 / A_SECOND);
            tokio::time::sleep_until(due.into()).await;
            under_way.spawn(async move { (get("127.0.0.1", port, "/", PATIENCE).await, due, Instant::now()) });
        }
        let (mut seen, mut good) = (Seen::default(), vec![begun]);
        while let Some(request) = under_way.join_next().await {
            let (answered, due, at) = request?;
            seen.requests += 1;
            if answered {
                good.push(at);
                seen.slowest = seen.slowest.max(at - due);
            } else {
                seen.failed += 1;
            }
        }
        good.sort_unstable();
        if std::env::var_os("BENCH_KEEP").is_some() {
            for pair in good.windows(2).filter(|pair| pair[1] - pair[0] > Duration::from_millis(60)) {
                eprintln!("no answer from {:?} to {:?} of the load", pair[0] - begun, pair[1] - begun);
            }
        }
        let longest = good.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default();
        seen.outage = longest.saturating_sub(Duration::from_millis(1_000 / A_SECOND));
        Ok(seen)
    })
}
