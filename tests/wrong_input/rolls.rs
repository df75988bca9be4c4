//! What another roll stands in the way of.

use super::row::{Leaves, Row};
use super::support::fleet::{BOUND, Fleet, GOOD};

const WORKER: &str =
    "  worker:\n    {R}\n    replicas: 2\n    ready: { exec: [\"true\"] }\n    update: { monitor: 300ms }\n";

/// Two workers that take their time to end.
fn slow(name: &str) -> Fleet {
    let fleet = Fleet::new(name);
    fleet.release("v1", &GOOD.replace("exit 0", "sleep 1; exit 0")).release("v2", GOOD).release("v3", GOOD);
    fleet.manifest("", WORKER);
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    fleet
}

#[test]
fn a_second_up_while_one_runs_names_the_owner_and_does_not_disturb_it() {
    let mut fleet = slow("second");
    let first = fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    fleet.wait_life("worker-1.1 term");
    Row::new(&fleet, "second-up-while-one-runs", Leaves::Nothing).said(&["up", "--to", "v3", "--yes"], 5);
    // A coordinator beside it is refused as well, and told who holds the fleet.
    let row = Row::new(&fleet, "second-coordinator", Leaves::Nothing);
    row.said(&["coordinator"], 5);
    assert_eq!(fleet.stage.child(first).wait(BOUND).code(), Some(0), "{}", fleet.stage.log("up"));
    assert_eq!(fleet.running(), ["worker-1.2@v2", "worker-2.2@v2"]);
}

#[test]
fn an_up_with_a_changed_manifest_while_a_roll_is_unfinished_names_three_ways_on() {
    let mut fleet = slow("changed");
    let first = fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    fleet.wait_life("worker-1.1 term");
    fleet.expect(&["pause"], 0);
    assert_eq!(fleet.stage.child(first).wait(BOUND).code(), Some(4), "{}", fleet.stage.log("up"));
    let whole = std::fs::read_to_string(fleet.stage.path("baton.yaml")).unwrap();
    std::fs::write(fleet.stage.path("baton.yaml"), whole.replace("replicas: 2", "replicas: 3")).unwrap();
    let row = |name| Row::new(&fleet, name, Leaves::Terms);
    row("changed-manifest-while-a-roll-is-unfinished").refused(&["up", "--yes"], 5);
    std::fs::write(fleet.stage.path("baton.yaml"), whole).unwrap();
    row("another-version-while-a-roll-is-unfinished").refused(&["up", "--to", "v3", "--yes"], 5);
    row("restart-while-a-roll-is-unfinished").refused(&["restart", "--yes"], 5);
    row("down-while-a-roll-is-unfinished").refused(&["down", "--yes"], 5);
    row("drain-while-a-roll-is-unfinished").refused(&["drain", "worker-1", "--yes"], 5);
}
