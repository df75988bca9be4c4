//! What only a plan on real agents can see: all of it is refused before a roll begins.

use std::net::TcpListener;

use super::row::{Leaves, Row};
use super::support::fleet::{Fleet, GOOD};

const WORKER: &str = "  worker:\n    {R}\n    ready: { exec: [\"true\"] }\n    update: { monitor: 300ms }\n";

/// One worker on v1.
fn running(name: &str) -> Fleet {
    let fleet = Fleet::new(name);
    fleet.release("v1", GOOD).release("v2", GOOD);
    fleet.manifest("", WORKER);
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    fleet
}

#[test]
fn a_plan_that_cannot_be_is_refused_and_nothing_is_touched() {
    let fleet = running("plans");
    let row = |name| Row::new(&fleet, name, Leaves::Terms);
    row("no-terminal-and-no-yes").refused(&["up", "--to", "v2"], 2);
    row("no-terminal-and-no-yes-for-a-rollback").refused(&["rollback"], 2);
    row("an-error-for-scripts").refused(&["restart", "wroker", "--yes", "--json"], 2);
    row("release-that-does-not-exist").refused(&["up", "--to", "v9", "--yes"], 5);
    fleet.release("v3", GOOD);
    std::fs::write(fleet.stage.path("releases/v3/run"), "#!/bin/sh\necho changed\n").unwrap();
    row("release-that-does-not-match-its-checksum").refused(&["up", "--to", "v3", "--yes"], 5);
    row("drain-of-what-cannot-be-undrained").refused(&["drain", "worker-1", "--yes"], 5);
    row("undrain-of-what-is-not-drained").refused(&["undrain", "worker-1", "--yes"], 0);
    row("drain-of-no-slot").refused(&["drain", "worker-7", "--yes"], 2);
    row("restart-of-no-component").refused(&["restart", "wroker", "--yes"], 2);
    row("nothing-to-resume").refused(&["resume"], 5);
    fleet.manifest("", &WORKER.replace("{R}", "{R}\n    on: [host-z]"));
    row("no-agent-for-a-component").refused(&["up", "--yes"], 5);
    fleet.manifest("", &WORKER.replace("{R}", "{R}\n    replicas: 2\n    min_available: 2"));
    row("min-available-above-what-check-can-see").refused(&["check"], 2);
    row("min-available-above-what-the-strategy-can-keep").refused(&["up", "--to", "v2", "--yes"], 2);
    fleet.manifest("", &WORKER.replace("{R}", "{R}\n    replicas: 2\n    ports: { http: 8080 }"));
    row("port-number-with-two-slots-on-this-host").refused(&["up", "--yes"], 2);
    fleet.manifest("", &WORKER.replace("{R}", "{R}\n    env: { A: b }"));
    row("restart-of-what-the-manifest-changes").refused(&["restart", "--yes"], 5);
}

#[test]
fn a_version_with_no_source_is_asked_for() {
    let fleet = Fleet::new("version");
    fleet.release("v1", GOOD);
    fleet.manifest("", WORKER);
    Row::new(&fleet, "nothing-to-take-back", Leaves::Terms).said(&["rollback", "--yes"], 5);
    Row::new(&fleet, "version-with-no-source", Leaves::Terms).said(&["up", "--yes"], 2);
    assert!(fleet.lives().is_empty() && fleet.stage.pids_of(" keeper --dir ").is_empty());
}

#[test]
fn a_port_in_use_is_named_with_who_has_it_and_what_runs_stays() {
    let fleet = running("port");
    let taken = TcpListener::bind(("0.0.0.0", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let api =
        "  api:\n    {R}\n    ports: { http: PORT }\n    ready: { exec: [\"true\"] }\n    update: { monitor: 300ms }\n";
    fleet.manifest("", &format!("{WORKER}{}", api.replace("PORT", &port.to_string())));
    let row = Row::new(&fleet, "port-in-use", Leaves::Terms).stands_for(port, "PORT");
    let myself = std::fs::read_to_string("/proc/self/comm").unwrap();
    let row = row.stands_for(myself.trim(), "PROGRAM");
    let row_again = || fleet.expect(&["up", "--yes"], 5).err;
    // Found before the roll: there is none, and nothing of the new component was made.
    let said = row.refused(&["up", "--yes"], 5).err;
    drop(taken);
    fleet.expect(&["up", "--yes"], 0);
    // What has the port itself may be rolled; what is to be started again finds it taken like any other.
    fleet.expect(&["restart", "api", "--yes"], 0);
    fleet.expect(&["down", "--yes"], 0);
    let taken = TcpListener::bind(("0.0.0.0", port)).unwrap();
    assert_eq!(row_again(), said);
    assert!(fleet.running().is_empty());
    drop(taken);
    fleet.expect(&["up", "--yes"], 0);
}
