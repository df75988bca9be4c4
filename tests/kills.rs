//! Real kills: a roll of real processes under load, and `kill -9` at the records of its journal.
//!
//! Whom to kill and where is decided by a seed. Afterwards the instances' own words are read, never Baton's: the same
//! end state, the order and the floor kept, every job accounted for, and no failed request where neither an API server
//! nor the gateway was killed. Twelve seeds by default; `BATON_TEST_KILLS=60` for sixty. `BATON_TEST_KILL=17,18` for
//! these alone, `BATON_TEST_KEEP=1` to be shown the logs of coordinator and agents when something was broken.

#[path = "kills/absent.rs"]
mod absent;
#[path = "kills/handover.rs"]
mod handover;
#[path = "../examples/quickstart/jobs.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod jobs;
#[path = "kills/journal.rs"]
mod journal;
#[path = "kills/judge.rs"]
mod judge;
#[path = "../examples/quickstart/lines.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod lines;
#[path = "../examples/quickstart/load.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod load;
#[path = "kills/seeds.rs"]
mod seeds;
#[path = "kills/site.rs"]
mod site;
#[path = "../examples/quickstart/story.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod story;
#[path = "kills/strike.rs"]
mod strike;
mod support;

use std::io::Write;

use seeds::Coverage;
use site::Site;
use strike::{Outcome, roll};

/// For the load.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

/// A site whose fleet runs `v0`.
fn running(name: &str) -> Site {
    let mut site = Site::new(name);
    site.release("v0");
    site.bring_back();
    site.wait_agents();
    assert_eq!(site.run("up-v0", &["up", "--to", "v0", "--yes"]), 0, "{}", site.stage.log("up-v0"));
    site
}

/// Seeds of one site, which is rolled once for each: what a kill spoils, the next roll shows.
const SEEDS_OF_A_SITE: u64 = 12;

/// Between two records; a longer time is told, for whoever reads the output.
const SLOW_MS: u64 = 4000;

/// How many seeds: `BATON_TEST_KILLS`, else those of one site.
fn seeds() -> u64 {
    std::env::var("BATON_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(SEEDS_OF_A_SITE)
}

#[test]
fn a_roll_goes_on_where_it_was_whoever_is_killed_at_whichever_record() {
    let runtime = runtime();
    let mut coverage = Coverage::default();
    let mut problems = Vec::new();
    // Some seeds alone, to look into them: `BATON_TEST_KILL=17,18`.
    let only = std::env::var("BATON_TEST_KILL").ok();
    let all: Vec<u64> = match &only {
        Some(only) => only.split(',').map(|seed| seed.parse().expect("BATON_TEST_KILL: numbers of seeds")).collect(),
        None => (0..seeds()).collect(),
    };
    let mut requests = 0;
    for seeds in all.chunks(as_index(SEEDS_OF_A_SITE)) {
        let mut site = running(&format!("kills{}", seeds[0]));
        let calm = roll(&mut site, &runtime, "calm", &[]);
        let mut old = "calm".to_owned();
        problems.extend(judge(&site, "v0", "calm", &calm).into_iter().map(|problem| format!("calm roll: {problem}")));
        coverage.expect(&calm.records);
        for seed in seeds {
            let strikes = seeds::strikes(*seed, &calm.records);
            let new = format!("s{seed}");
            let out = roll(&mut site, &runtime, &new, &strikes);
            let told: Vec<String> = out
                .hits
                .iter()
                .map(|strike| format!("{:?} at {} #{}", strike.target, strike.label, strike.nth))
                .collect();
            println!(
                "seed {seed:2}: {}; up {:?} in {:.1} s; {} requests, {} failed",
                told.join(", "),
                out.codes,
                out.took.as_secs_f64(),
                out.load.requests,
                out.load.failed
            );
            for pair in out.records.windows(2).filter(|pair| pair[1].at - pair[0].at > SLOW_MS) {
                let slot = pair[1].slot.as_ref().map(ToString::to_string).unwrap_or_default();
                let waited = pair[1].at - pair[0].at;
                println!("         {waited} ms from {:?} to {:?} of {slot}", pair[0].label, pair[1].label);
            }
            out.hits.iter().for_each(|strike| coverage.hit(strike));
            requests += out.load.requests;
            let found = judge(&site, &old, &new, &out);
            problems.extend(found.into_iter().map(|problem| format!("seed {seed} ({}): {problem}", told.join(", "))));
            old = new;
        }
        let jobs = site.wait_jobs();
        if !jobs.is_clean() || jobs.jobs_finished == 0 {
            problems.push(format!("seeds {seeds:?}: {jobs:?}"));
        }
        println!("jobs of this site: {} submitted, {} finished", jobs.jobs_submitted, jobs.jobs_finished);
        if std::env::var_os("BATON_TEST_KEEP").is_some() && !problems.is_empty() {
            println!("{}", site.stage.log("coordinator"));
            println!("{}", site.stage.log("front"));
            println!("{}", site.stage.log("back"));
        }
    }
    // Also where it passes: how much was tried is part of the result.
    let _ = writeln!(std::io::stderr(), "{}{} rolls, {requests} requests in all", coverage.table(), all.len());
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    if only.is_none() {
        assert!(coverage.missed().is_empty(), "never hit: {:?}", coverage.missed());
        assert!(coverage.spared().is_empty(), "never killed: {:?}", coverage.spared());
    }
}

#[test]
fn the_gateway_goes_on_without_anybody_and_comes_back_with_its_table_when_it_is_killed() {
    let runtime = runtime();
    let mut site = running("absent");
    absent::run(&mut site, &runtime);
}

#[test]
fn a_port_is_handed_over_by_its_socket_without_a_refused_or_reset_connection() {
    handover::run();
}

/// What a roll has broken.
fn judge(site: &Site, old: &str, new: &str, out: &Outcome) -> Vec<String> {
    let roll = judge::Roll { old, new, from: out.from, to: out.to };
    let mut broken = judge::broken(&site.story(), &roll);
    if out.load.failed > 0 && !out.hits.iter().any(|strike| strike.target.touches_traffic()) {
        broken.push(format!(
            "{} of {} requests failed: {:?}",
            out.load.failed, out.load.requests, out.load.first_failures
        ));
    }
    // Stopped by `pause`, or interrupted while the coordinator was asked to begin; a later call may have found nobody.
    let may: [&[i32]; 2] = [&[0, 4, 130], &[0, 4, 5, 130]];
    if out.codes.iter().enumerate().any(|(call, code)| !may[call.min(1)].contains(code)) {
        broken.push(format!("`up` ended with {:?}\n{}", out.codes, site.stage.log("up")));
    }
    // A keeper that was killed has a successor, and only one: without it nobody would start a crashed instance again.
    for slot in absent::KEPT {
        let begun = std::time::Instant::now();
        while site.keepers(slot).len() != 1 && begun.elapsed() < site::BOUND / 3 {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        if site.keepers(slot).len() != 1 {
            broken.push(format!("{slot} has {} keepers", site.keepers(slot).len()));
        }
    }
    if site::ask(site.gateway(), "GET", "/") != Some(200) {
        broken.push("the gateway does not answer after the roll".to_owned());
    }
    broken
}

fn as_index(number: u64) -> usize {
    usize::try_from(number).expect("a small number")
}
