//! Ordinary Compose projects, written by nobody who knew of Baton: rolled, restarted with their engine and taken back,
//! and Compose is the judge of each.
//!
//! They run on an engine of the test's own, so that it can be restarted, and under the names and on the ports that
//! their files have. That needs root. `BATON_TEST_FOREIGN=all` takes every one of them, a few at a time, which is some
//! seven minutes on two cores; `BATON_TEST_FOREIGN=blog,shop` takes these; unset, a few that differ most are taken.
//! `--nocapture` shows every plan.

mod judge;
mod own_engine;
mod projects;
mod stand_ins;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use judge::{Judged, Run};
use own_engine::OwnEngine;
use projects::PROJECTS;

/// Projects at a time: what they do is mostly waiting.
const AT_ONCE: usize = 6;

/// What is tried with every project, one after another.
fn each(runs: &[Run], what: &str, faults: &Mutex<Vec<String>>, act: impl Fn(&Run) -> Judged + Sync) {
    let (next, begun) = (AtomicUsize::new(0), Instant::now());
    let take = || {
        while let Some(run) = runs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let begun = Instant::now();
            if let Err(fault) = act(run) {
                println!("FAULT {}, {what}: {fault}", run.project.name);
                faults.lock().unwrap().push(format!("{}, {what}: {fault}", run.project.name));
            }
            println!("{}: {what}: {:.1} s", run.project.name, begun.elapsed().as_secs_f64());
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(take);
        }
    });
    println!("--- {what}: {:.1} s", begun.elapsed().as_secs_f64());
}

/// Taken where nobody says which.
const FEW: [&str; 4] = ["blog", "shop", "front", "secrets"];
/// On the engine at a time.
const TOGETHER: usize = 4;

#[test]
fn projects_that_nobody_wrote_for_baton_are_rolled_and_taken_back_and_compose_stays_content() {
    let test = "projects_that_nobody_wrote_for_baton_are_rolled_and_taken_back_and_compose_stays_content";
    if !crate::docker::is_here(test) {
        return;
    }
    // Several at once are enough for this machine.
    let _pass = crate::docker::gate::alone();
    let mut engine = match OwnEngine::start() {
        Ok(engine) => engine,
        Err(missing) => {
            assert!(std::env::var("BATON_TEST_NO_SKIP").as_deref() != Ok("1"), "{test} needs {missing}");
            eprintln!("\n*** SKIPPED {test}: it needs {missing} ***\n");
            return;
        }
    };
    let only = std::env::var("BATON_TEST_FOREIGN").unwrap_or_default();
    let only: BTreeSet<&str> = match only.as_str() {
        "" => FEW.into(),
        only => only.split(',').collect(),
    };
    let wanted = PROJECTS.iter().filter(|project| only.contains("all") || only.contains(project.name));
    let folder = tempfile::Builder::new().prefix("bf-").tempdir().expect("a folder");
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/compose/alone/foreign");
    let runs: Vec<Run> = wanted.map(|project| Run::new(*project, &here, folder.path(), &engine.address())).collect();
    judge::make_images(&runs, folder.path());

    let faults = Mutex::new(Vec::new());
    // Healthchecks of too many at once would leave nothing of a small machine for what is tried here.
    for runs in runs.chunks(TOGETHER) {
        each(runs, "up by Compose", &faults, Run::made_by_compose);
        each(runs, "to the new version", &faults, |run| run.rolled(&engine));
        engine.restart();
        each(runs, "after the engine was restarted", &faults, Run::back_after_a_restart);
        each(runs, "taken back", &faults, |run| run.taken_back(&engine));
        each(runs, "down by Compose", &faults, Run::ended_by_compose);
    }
    let faults = faults.into_inner().unwrap();
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n\n"));
}
