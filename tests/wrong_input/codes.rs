//! Every exit code, with the line that a person reads last.

use super::row::{Leaves, Row};
use super::support::fleet::{BOUND, Fleet, GOOD};
use rustix::process::Signal;

fn fleet(name: &str, failure: &str) -> Fleet {
    let fleet = Fleet::new(name);
    fleet.release("v1", &GOOD.replace("exit 0", "sleep 1; exit 0")).release("v2", GOOD);
    fleet.release("dies", "#!/bin/sh\necho cannot find its licence\nexit 7\n");
    // One that ends at once never is ready, not even for the moment before it ends.
    fleet.manifest(
        "",
        &format!("  worker:\n    {{R}}\n    replicas: 2\n    ready: {{ exec: [test, \"{{version}}\", \"!=\", dies] }}\n    update: {{ monitor: 500ms{failure} }}\n"),
    );
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    fleet
}

#[test]
fn codes_0_and_10_tell_whether_there_is_something_to_do() {
    let fleet = fleet("plan", "");
    let row = |name| Row::new(&fleet, name, Leaves::Terms);
    row("code-0-manifest-is-good").refused(&["check"], 0);
    row("code-0-nothing-to-do").refused(&["up", "--to", "v1", "--yes"], 0);
    row("code-0-no-change").refused(&["plan", "--to", "v1", "--detailed-exitcode"], 0);
    row("code-10-changes").refused(&["plan", "--to", "v2", "--detailed-exitcode"], 10);
    row("code-0-plan-with-changes").refused(&["plan", "--to", "v2"], 0);
}

#[test]
fn code_1_asks_for_a_person_and_says_what_to_type() {
    let fleet = fleet("person", ", failure_action: pause");
    Row::new(&fleet, "code-1-needs-a-person", Leaves::Terms).last(&["up", "--to", "dies", "--yes"], 1);
}

#[test]
fn code_3_says_why_it_was_rolled_back() {
    let fleet = fleet("back", "");
    Row::new(&fleet, "code-3-rolled-back", Leaves::Terms).last(&["up", "--to", "dies", "--yes"], 3);
    assert_eq!(fleet.running(), ["worker-1.1@v1", "worker-2.1@v1"]);
    // By hand it is what was asked for.
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    Row::new(&fleet, "code-0-rollback-by-hand", Leaves::Terms).last(&["rollback", "--yes"], 0);
}

#[test]
fn code_4_is_a_person_who_paused_or_ended_it() {
    let mut fleet = fleet("stopped", "");
    let up = fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    fleet.wait_life("worker-1.1 term");
    fleet.expect(&["pause"], 0);
    assert_eq!(fleet.stage.child(up).wait(BOUND).code(), Some(4));
    Row::new(&fleet, "code-4-paused", Leaves::Terms).against(last_line(&fleet.stage.log("up")));
    Row::new(&fleet, "code-0-abort-is-what-was-asked-for", Leaves::Terms).last(&["abort"], 0);
}

#[test]
fn code_130_is_an_interruption_and_the_same_command_goes_on() {
    let mut fleet = fleet("stop", "");
    let up = fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    fleet.wait_life("worker-1.1 term");
    fleet.stage.child(up).signal(Signal::INT);
    assert_eq!(fleet.stage.child(up).wait(BOUND).code(), Some(130));
    Row::new(&fleet, "code-130-interrupted", Leaves::Terms).against(last_line(&fleet.stage.log("up")));
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    // A time-out is an interruption that was asked for beforehand.
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    Row::new(&fleet, "code-130-timeout", Leaves::Terms).last(&["up", "--to", "v2", "--yes", "--timeout", "500ms"], 130);
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    assert!(fleet.running().iter().all(|instance| instance.ends_with("@v2")));
}

fn last_line(log: &str) -> &str {
    log.trim_end().lines().last().unwrap_or_default()
}
