//! One engine, one command: a stack of four services rolled by Compose, by what people put around it, by Swarm and by
//! Baton, each from a fresh first version and under load, and the same by hand; then long jobs, then growth.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;

use crate::docker_load::{Load, Seen};
use crate::docker_peers::{PEERS, PROJECT, Peer};
use crate::docker_site::{BOUND, Site};
use crate::docker_toy::get;
use crate::rig::{Outcome, median};
use crate::{docker_growth, docker_jobs};

/// The services and their replicas, in the order in which they depend on each other.
pub const STACK: [(&str, usize); 4] = [("executor", 2), ("scheduler", 1), ("worker", 4), ("api", 1)];

/// Under load before and after the roll.
const BEFORE: Duration = Duration::from_millis(500);
const AFTER: Duration = Duration::from_millis(700);

/// One roll of one contender.
struct Figures {
    command: Duration,
    /// Baton's own part of it: from the record of the roll's begin to that of its end.
    roll: Option<Duration>,
    converged: Duration,
    seen: Seen,
    killed: u64,
}

/// `bench docker [--runs N]`: all of it; `bench docker-stack [--runs N] [--only PART]`: its first table, or some lines.
/// The middle one of three runs, unless another number is given.
pub fn run(arguments: &[String], all: bool) -> Outcome<()> {
    let (mut runs, mut only) = (3, None);
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        match (word.as_str(), words.next()) {
            ("--runs", Some(count)) => runs = count.parse().map_err(|_| format!("{count} is not a number of runs"))?,
            ("--only", Some(part)) => only = Some(part.to_lowercase()),
            _ => return Err("write `docker [--runs N] [--only PART-OF-A-NAME]`".into()),
        }
    }
    let wanted = |peer: &Peer| only.as_ref().is_none_or(|only| peer.name().to_lowercase().contains(only));
    let peers: Vec<Peer> = PEERS.into_iter().filter(wanted).collect();
    on_a_site(async |site| {
        stack(site, runs, &peers).await?;
        if all {
            docker_jobs::run(site).await?;
            docker_growth::run(site, &docker_growth::SIZES).await?;
        }
        Ok(())
    })
}

/// `bench docker-jobs`
pub fn jobs() -> Outcome<()> {
    on_a_site(docker_jobs::run)
}

/// `bench docker-growth [SIZES...]`
pub fn growth(arguments: &[String]) -> Outcome<()> {
    let sizes: Vec<usize> = arguments.iter().map(|size| size.parse()).collect::<Result<_, _>>()?;
    let sizes = if sizes.is_empty() { docker_growth::SIZES.to_vec() } else { sizes };
    on_a_site(async |site| docker_growth::run(site, &sizes).await)
}

/// Whatever happens, an error or Ctrl-C, nothing of the benchmark is left.
fn on_a_site(work: impl AsyncFnOnce(&Site) -> Outcome<()>) -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        let site = Site::new().await?;
        let outcome = tokio::select! {
            outcome = work(&site) => outcome,
            _ = tokio::signal::ctrl_c() => Err("interrupted".into()),
            _ = terminate.recv() => Err("asked to end".into()),
        };
        site.end().await;
        outcome
    })
}

async fn stack(site: &Site, runs: usize, peers: &[Peer]) -> Outcome<()> {
    println!(
        "1 API, 1 scheduler, 2 executors, 4 workers, v1 to v2; 500 ms to boot, 500 ms to drain; 200 requests/s on the \
         API, a new connection each\n"
    );
    println!(
        "{:<32} {:>10} {:>13} {:>9} {:>8} {:>9} {:>10} {:>8} {:>12} {:>8}",
        "", "command s", "converged s", "of limit", "roll s", "of limit", "outage ms", "failed", "slowest ms", "killed"
    );
    let mut limits: Vec<(Peer, f64)> = vec![];
    for peer in peers.iter().copied() {
        let mut found = vec![];
        let mut trouble = None;
        for _ in 0..runs {
            let outcome = measured(site, peer).await;
            site.clean().await;
            match outcome {
                Ok(figures) => found.push(figures),
                Err(error) => trouble = Some(error),
            }
        }
        if let Some(error) = trouble {
            println!("{:<32} {error}", peer.name());
        }
        if found.is_empty() {
            continue;
        }
        let middle = |of: fn(&Figures) -> f64| median(found.iter().map(of).collect());
        let converged = middle(|found| found.converged.as_secs_f64());
        limits.push((peer, converged));
        let limit = limits.iter().find(|(limit, _)| Some(*limit) == peer.limit());
        let of_limit = |taken: f64| limit.map_or_else(|| "-".to_owned(), |(_, limit)| format!("{:.2}x", taken / limit));
        let rolls: Vec<f64> = found.iter().filter_map(|found| Some(found.roll?.as_secs_f64())).collect();
        let roll = (!rolls.is_empty()).then(|| median(rolls));
        println!(
            "{:<32} {:>10.2} {converged:>13.2} {:>9} {:>8} {:>9} {:>10.0} {:>8} {:>12.0} {:>8}",
            peer.name(),
            middle(|found| found.command.as_secs_f64()),
            of_limit(converged),
            roll.map_or_else(|| "-".to_owned(), |roll| format!("{roll:.2}")),
            roll.map_or_else(|| "-".to_owned(), of_limit),
            middle(|found| found.seen.outage.as_secs_f64() * 1e3),
            // Of these the worst: a mark of none is not kept by half the runs.
            found.iter().map(|found| found.seen.failed).max().unwrap_or_default(),
            found.iter().map(|found| found.seen.slowest.as_secs_f64() * 1e3).fold(0.0, f64::max),
            found.iter().map(|found| found.killed).max().unwrap_or_default(),
        );
    }
    Ok(())
}

/// From a fresh first version to the second.
async fn measured(site: &Site, peer: Peer) -> Outcome<Figures> {
    let port = free_port()?;
    peer.set_up(site, port).await?;
    let count = STACK.iter().map(|(_, count)| count).sum();
    site.converged("1", count).await?;
    let begun = Instant::now();
    while !get("127.0.0.1", port, "/", Duration::from_millis(500)).await {
        if begun.elapsed() > BOUND {
            return Err("the API of the first version does not answer".into());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let kills = Kills::watch(site);
    let load = Load::start(port);
    tokio::time::sleep(BEFORE).await;
    let begun = Instant::now();
    let command = async {
        peer.roll(site).await?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>(begun.elapsed())
    };
    let (command, converged) = tokio::try_join!(command, site.converged("2", count))?;
    let converged = converged - begun;
    tokio::time::sleep(AFTER).await;
    let seen = load.stop().await?;
    let roll = match peer {
        Peer::Rolling | Peer::Staged => Some(last_roll(site, PROJECT).await?),
        _ => None,
    };
    Ok(Figures { command, roll, converged, seen, killed: kills.count() })
}

/// How long Baton's last roll took by its journal. With `BENCH_KEEP` set it is printed, to see where the time went.
pub async fn last_roll(site: &Site, project: &str) -> Outcome<Duration> {
    let history = site.baton(project, "2", &["history", "--json"]).await?;
    if std::env::var_os("BENCH_KEEP").is_some() {
        eprintln!("{project}: {history}");
    }
    let last: serde_json::Value = serde_json::from_str(history.lines().next().unwrap_or_default())?;
    let at = |key: &str| last[key].as_u64().ok_or_else(|| format!("the history has no `{key}`"));
    Ok(Duration::from_millis(at("ended")?.saturating_sub(at("began")?)))
}

/// Counts containers of the first version that ended in another way than by themselves.
pub struct Kills {
    count: Arc<AtomicU64>,
    watching: tokio::task::JoinHandle<()>,
}

impl Kills {
    /// From now on.
    pub fn watch(site: &Site) -> Kills {
        let count = Arc::new(AtomicU64::new(0));
        let filters = [("label", site.label()), ("event", "die".to_owned())];
        let filters = filters.into_iter().map(|(key, value)| (key.to_owned(), vec![value])).collect();
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let (docker, counted) = (site.docker.clone(), count.clone());
        let watching = tokio::spawn(async move {
            let mut events = std::pin::pin!(docker.events(Some(options)));
            while let Some(Ok(event)) = events.next().await {
                let attributes = event.actor.and_then(|actor| actor.attributes).unwrap_or_default();
                let code = attributes.get("exitCode").map(String::as_str);
                if attributes.contains_key("baton.bench.version") && code != Some("0") {
                    counted.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Kills { count, watching }
    }

    /// So far.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }
}

impl Drop for Kills {
    fn drop(&mut self) {
        self.watching.abort();
    }
}

/// A port that nobody has, now.
pub fn free_port() -> Outcome<u16> {
    Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0))?.local_addr()?.port())
}
