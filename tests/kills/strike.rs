//! A roll under load, and whom to kill at which record of it.

use std::time::{Duration, Instant};

use crate::journal::{Reader, Seen};
use crate::lines::now_ms;
use crate::load::{Load, LoadOptions, LoadReport};
use crate::site::{BOUND, Site};

/// Between two looks into the journal.
const LOOK_EVERY: Duration = Duration::from_millis(3);
/// A roll of this site takes a few seconds.
const ROLL_MAX: Duration = Duration::from_secs(150);
/// How many calls of `up` a roll may need.
const CALLS_MAX: u32 = 8;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    Coordinator,
    /// The one whose slot the record is about; for others the one of the workers.
    Agent,
    /// Coordinator and both agents.
    Both,
    /// That of the slot that the record is about; for others that of a worker.
    Keeper,
    /// The agent and the keeper at once: nobody is left who knows the instance's parent.
    AgentAndKeeper,
    Gateway,
    GatewayAndCoordinator,
}

/// All that kill.
pub const TARGETS: [Target; 7] = [
    Target::Coordinator,
    Target::Agent,
    Target::Keeper,
    Target::Both,
    Target::Gateway,
    Target::AgentAndKeeper,
    Target::GatewayAndCoordinator,
];

impl Target {
    /// Whether requests may fail.
    pub fn touches_traffic(self) -> bool {
        matches!(self, Target::Gateway | Target::GatewayAndCoordinator)
    }
}

/// One kill: when the record with this label came for the `nth` time (from 0) since the strike before.
#[derive(Clone, Debug)]
pub struct Strike {
    pub label: String,
    pub nth: usize,
    pub target: Target,
    /// How long coordinator and agents stay away.
    pub away: Duration,
    /// `baton pause` is called afterwards; `up` goes on.
    pub then_pause: bool,
}

/// What came of a roll.
pub struct Outcome {
    /// The records, in order.
    pub records: Vec<Seen>,
    /// The strikes that happened.
    pub hits: Vec<Strike>,
    /// In milliseconds since the boot.
    pub from: u64,
    pub to: u64,
    pub load: LoadReport,
    /// Exit codes of the calls of `up`.
    pub codes: Vec<i32>,
    pub took: Duration,
}

/// Rolls the site to `version` under load, with these strikes one after the other.
pub fn roll(site: &mut Site, runtime: &tokio::runtime::Runtime, version: &str, strikes: &[Strike]) -> Outcome {
    site.release(version);
    // The roll before may have ended with a kill: without its agent the next one would be refused, and rightly so.
    site.wait_agents();
    let mut journal = Reader::new(&site.journal());
    let options = LoadOptions { to: site.gateway(), requests_per_second: 100, seed: 7, one_job_in: 0, one_slow_in: 50 };
    let load = {
        let _inside = runtime.enter();
        Load::start(options, "roll").expect("a load")
    };
    let (stop_jobs, jobs) = submit_jobs(site);
    let from = now_ms();
    let begun = Instant::now();
    let mut out = Outcome {
        records: vec![],
        hits: vec![],
        from,
        to: 0,
        load: LoadReport::default(),
        codes: vec![],
        took: Duration::ZERO,
    };
    let mut left = strikes.iter();
    let mut next = left.next();
    let mut count = 0;
    let mut command = site.verb(&["up", "--to", version, "--yes"]);
    let mut place = site.stage.spawn("up", &mut command);
    loop {
        for seen in journal.news() {
            let now = next.is_some_and(|strike| strike.label == seen.label);
            if let Some(strike) = next.filter(|_| now) {
                if count == strike.nth {
                    hit(site, strike, &seen);
                    out.hits.push(strike.clone());
                    next = left.next();
                    count = 0;
                } else {
                    count += 1;
                }
            }
            out.records.push(seen);
        }
        if !site.stage.child(place).is_running() {
            let code = site.stage.child(place).wait(BOUND).code().unwrap_or(-1);
            out.codes.push(code);
            if code == 0 {
                break;
            }
            let calls = u32::try_from(out.codes.len()).unwrap_or(u32::MAX);
            assert!(calls < CALLS_MAX, "`up` ended with {:?}\n{}", out.codes, site.stage.log("up"));
            let mut command = site.verb(&["up", "--to", version, "--yes"]);
            place = site.stage.spawn("up", &mut command);
        }
        assert!(begun.elapsed() < ROLL_MAX, "the roll does not end: {strikes:?}\n{:#}", site.view());
        std::thread::sleep(LOOK_EVERY);
    }
    out.records.extend(journal.news());
    out.to = now_ms();
    out.took = begun.elapsed();
    drop(stop_jobs);
    jobs.join().expect("the thread that submits jobs");
    out.load = runtime.block_on(load.stop());
    site.assert_crew();
    out
}

/// Kills, and brings coordinator and agents back. Keepers and gateway come back by themselves.
fn hit(site: &mut Site, strike: &Strike, seen: &Seen) {
    let slot = seen.slot.as_ref().map_or_else(|| "worker-1".to_owned(), ToString::to_string);
    let agent = if slot.starts_with("api") || slot.starts_with("gateway") { "front" } else { "back" };
    let keeper = |site: &Site| site.kill_all(&site.keepers(&slot));
    match strike.target {
        Target::Coordinator => site.kill_coordinator(),
        Target::Agent => site.kill_agent(agent),
        Target::Both => {
            site.kill_coordinator();
            site.kill_agent("front");
            site.kill_agent("back");
        }
        Target::Keeper => keeper(site),
        Target::AgentAndKeeper => {
            site.kill_agent(agent);
            keeper(site);
        }
        Target::Gateway => site.kill_all(&site.gateways()),
        Target::GatewayAndCoordinator => {
            site.kill_coordinator();
            site.kill_all(&site.gateways());
        }
    }
    std::thread::sleep(strike.away);
    site.bring_back();
    if strike.then_pause {
        // Refused where the roll has ended by now.
        site.run("pause", &["pause"]);
    }
}

/// Submits a job every 150 ms until the other end is dropped: most are short, some last a second.
fn submit_jobs(site: &Site) -> (std::sync::mpsc::Sender<()>, std::thread::JoinHandle<()>) {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let gateway = site.gateway();
    let submit = move || {
        for number in 0u64.. {
            let wait = stopped.recv_timeout(Duration::from_millis(150));
            if wait != Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                return;
            }
            // Not taken is not lost: what became of those taken is judged from the job log.
            let ms = if number % 5 == 0 { 1000 } else { 50 + 40 * (number % 7) };
            crate::site::ask(gateway, "POST", &format!("/jobs?ms={ms}"));
        }
    };
    (stop, std::thread::spawn(submit))
}
