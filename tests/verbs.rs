//! Every verb, on real processes.

mod support;

use rustix::process::Signal;
use support::fleet::{Fleet, GOOD};

/// Two workers and a scheduler on v1.
fn fleet(name: &str) -> Fleet {
    let fleet = Fleet::new(name);
    fleet.release("v1", GOOD).release("v2", GOOD);
    fleet.manifest(
        "",
        "  scheduler:\n    {R}\n    ready: { exec: [\"true\"] }\n    update: { monitor: 300ms }\n  worker:\n    {R}\n    \
         replicas: 2\n    ready: { exec: [\"true\"] }\n    update: { monitor: 300ms }\n",
    );
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.1@v1", "worker-1.1@v1", "worker-2.1@v1"]);
    fleet
}

#[test]
fn up_twice_is_harmless_and_a_changed_version_replaces_every_instance() {
    let fleet = fleet("up");
    let again = fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    assert!(again.out.contains("nothing"), "{}", again.all());
    fleet.expect(&["plan", "--to", "v1", "--detailed-exitcode"], 0);
    fleet.expect(&["plan", "--to", "v2", "--detailed-exitcode"], 10);
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.2@v2", "worker-1.2@v2", "worker-2.2@v2"]);
    // The scheduler stops before any worker, and comes back after all of them.
    let lives = fleet.lives();
    let place = |text: &str| lives.iter().position(|line| line == text).unwrap_or_else(|| panic!("{text}: {lives:?}"));
    assert!(place("scheduler-1.1 term v=v1") < place("worker-1.1 term v=v1"), "{lives:?}");
    assert!(place("worker-2.2 up v=v2") < place("scheduler-1.2 up v=v2"), "{lives:?}");
    assert!(place("worker-2.1 term v=v1") < place("worker-1.2 up v=v2"), "{lives:?}");
}

#[test]
fn restart_replaces_what_is_named_with_the_definition_it_runs_with() {
    let fleet = fleet("restart");
    fleet.expect(&["restart", "worker", "--yes"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.1@v1", "worker-1.2@v1", "worker-2.2@v1"]);
    fleet.expect(&["restart", "--yes"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.2@v1", "worker-1.3@v1", "worker-2.3@v1"]);
}

#[test]
fn a_restart_killed_in_the_middle_goes_on_with_up() {
    let mut fleet = fleet("rekill");
    let up = fleet.spawn("restart", &["restart", "worker", "--yes"]);
    fleet.wait_life("worker-1.1 term");
    fleet.stage.child(up).signal(Signal::KILL);
    fleet.stage.child(up).wait(support::fleet::BOUND);
    fleet.expect(&["up", "--yes"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.1@v1", "worker-1.2@v1", "worker-2.2@v1"]);
}

#[test]
fn down_stops_everything_and_up_starts_the_same_instances_again() {
    let fleet = fleet("down");
    fleet.expect(&["down", "--yes"], 0);
    assert!(fleet.running().is_empty());
    fleet.expect(&["down", "--yes"], 0);
    fleet.expect(&["up", "--yes"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.1@v1", "worker-1.1@v1", "worker-2.1@v1"]);
}

#[test]
fn rollback_needs_no_arguments_and_goes_back_to_what_was_there_before() {
    let fleet = fleet("back");
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    fleet.expect(&["rollback", "--yes"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.3@v1", "worker-1.3@v1", "worker-2.3@v1"]);
    let history = fleet.expect(&["history"], 0);
    assert!(history.out.contains("roll 3: rollback to v1"), "{}", history.all());
    // What was rolled back to is what there is: `up` without a version stays there.
    let again = fleet.expect(&["up", "--yes"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.3@v1", "worker-1.3@v1", "worker-2.3@v1"], "{}", again.all());
}

#[test]
fn pause_in_a_second_terminal_holds_and_resume_goes_on() {
    let mut fleet = fleet("pause");
    let up = fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    fleet.wait_life("scheduler-1.1 term");
    fleet.expect(&["pause"], 0);
    let status = fleet.stage.child(up).wait(support::fleet::BOUND);
    assert_eq!(status.code(), Some(4), "{}", fleet.stage.log("up"));
    let view = fleet.expect(&["status"], 0);
    assert!(view.out.contains("paused") && view.out.contains("baton resume"), "{}", view.all());
    // Another roll is refused and names the owner and three ways on.
    let refused = fleet.expect(&["restart", "--yes"], 5);
    for way in ["baton resume", "baton rollback", "--supersede"] {
        assert!(refused.err.contains(way), "{}", refused.all());
    }
    fleet.expect(&["resume"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.2@v2", "worker-1.2@v2", "worker-2.2@v2"]);
}

#[test]
fn ctrl_c_comes_to_a_safe_point_and_the_same_up_goes_on() {
    let mut fleet = fleet("ctrlc");
    let up = fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    fleet.wait_life("scheduler-1.1 term");
    fleet.stage.child(up).signal(Signal::INT);
    let status = fleet.stage.child(up).wait(support::fleet::BOUND);
    assert_eq!(status.code(), Some(130), "{}", fleet.stage.log("up"));
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.2@v2", "worker-1.2@v2", "worker-2.2@v2"]);
}

#[test]
fn abort_ends_the_roll_where_it_is_and_a_new_up_finishes_it() {
    let mut fleet = fleet("abort");
    fleet.release("slow", &GOOD.replace("exit 0", "sleep 2; exit 0"));
    fleet.expect(&["up", "--to", "slow", "--yes"], 0);
    let up = fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    fleet.wait_life("scheduler-1.2 term");
    fleet.expect(&["abort"], 0);
    let status = fleet.stage.child(up).wait(support::fleet::BOUND);
    assert_eq!(status.code(), Some(4), "{}", fleet.stage.log("up"));
    let history = fleet.expect(&["history"], 0);
    assert!(history.out.contains("aborted by"), "{}", history.all());
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    let running = fleet.running();
    assert!(running.iter().all(|instance| instance.ends_with("@v2")) && running.len() == 3, "{running:?}");
}

#[test]
fn supersede_ends_an_unfinished_roll_and_plans_anew_from_what_is_there() {
    let mut fleet = fleet("super");
    fleet.release("v3", GOOD);
    let up = fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    fleet.wait_life("scheduler-1.1 term");
    fleet.stage.child(up).signal(Signal::KILL);
    fleet.stage.child(up).wait(support::fleet::BOUND);
    let refused = fleet.expect(&["up", "--to", "v3", "--yes"], 5);
    assert!(refused.err.contains("--supersede"), "{}", refused.all());
    fleet.expect(&["up", "--to", "v3", "--yes", "--supersede"], 0);
    let running = fleet.running();
    assert!(running.iter().all(|instance| instance.ends_with("@v3")) && running.len() == 3, "{running:?}");
}

/// How many lists of steps the coordinator's journal has.
fn lists_begun(fleet: &Fleet) -> u32 {
    let journal = fleet.stage.path("state").join(&fleet.name).join("journal.db");
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(journal, flags).unwrap();
    connection.query_row("SELECT count(*) FROM records WHERE kind = 'list-began'", [], |row| row.get(0)).unwrap()
}

#[test]
fn what_a_kill_interrupted_goes_on_only_when_somebody_asks_for_it() {
    let mut fleet = fleet("asleep");
    fleet.release("slow", &GOOD.replace("exit 0", "sleep 1; exit 0")).release("v3", GOOD);
    fleet.expect(&["up", "--to", "slow", "--yes"], 0);
    let up = fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    fleet.wait_life("scheduler-1.2 term");
    fleet.stage.child(up).signal(Signal::KILL);
    fleet.stage.child(up).wait(support::fleet::BOUND);
    let begun = lists_begun(&fleet);
    let refused: [&[&str]; 5] = [
        &["down", "--yes"],
        &["restart", "--yes"],
        &["drain", "worker-1", "--yes"],
        &["up", "--to", "v3", "--yes"],
        // It would wait for the end of what nobody carries on.
        &["up", "--to", "v3", "--yes", "--wait-for-roll", "1h"],
    ];
    for verb in refused {
        fleet.expect(verb, 5);
        fleet.expect(&["plan", "--to", "v2"], 0);
        assert_eq!(lists_begun(&fleet), begun, "{verb:?} began steps that nobody asked it for");
    }
    assert!(!fleet.lives().iter().any(|line| line.starts_with("worker-1.2 term")), "{:?}", fleet.lives());
    let status = fleet.expect(&["status"], 0);
    assert!(status.out.contains("roll 3 was interrupted") && status.out.contains("`baton resume`"), "{}", status.all());
    fleet.expect(&["resume"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.3@v2", "worker-1.3@v2", "worker-2.3@v2"]);
}

#[test]
fn a_component_gone_from_the_manifest_stays_and_is_named_until_orphans_are_removed() {
    let fleet = fleet("orphan");
    fleet.manifest("", "  scheduler:\n    {R}\n    ready: { exec: [\"true\"] }\n    update: { monitor: 300ms }\n");
    let kept = fleet.expect(&["up", "--yes"], 0);
    assert!(kept.out.contains("worker") && kept.out.contains("--remove-orphans"), "{}", kept.all());
    assert_eq!(fleet.running(), ["scheduler-1.1@v1", "worker-1.1@v1", "worker-2.1@v1"]);
    fleet.expect(&["up", "--yes", "--remove-orphans"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.1@v1"]);
}

#[test]
fn fewer_and_more_replicas_need_no_flag() {
    let fleet = fleet("scale");
    let text = std::fs::read_to_string(fleet.stage.path("baton.yaml")).unwrap();
    std::fs::write(fleet.stage.path("baton.yaml"), text.replace("replicas: 2", "replicas: 3")).unwrap();
    fleet.expect(&["up", "--yes"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.1@v1", "worker-1.1@v1", "worker-2.1@v1", "worker-3.1@v1"]);
    std::fs::write(fleet.stage.path("baton.yaml"), text.replace("replicas: 2", "replicas: 1")).unwrap();
    fleet.expect(&["up", "--yes"], 0);
    assert_eq!(fleet.running(), ["scheduler-1.1@v1", "worker-1.1@v1"]);
}
