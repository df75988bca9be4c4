//! Releases that fail: what becomes of the fleet, what is told of it, and which exit code says so.

mod support;

use rustix::process::Signal;
use serde_json::Value;
use support::fleet::{BOUND, Fleet, GOOD};
use support::front::{Front, Load};
use support::procs::kill;
use support::wait::wait_for;

/// Ready at once and watched for a moment.
const QUICK: &str = "    ready: { exec: [\"true\"], every: 50ms, deadline: 10s }\n    drain: { grace: 5s }\n    update: { monitor: 400ms";

/// A release in which instances whose name begins so say a last word and end with 7, unless the file `cure` is there.
fn sick(fleet: &Fleet, names: &str) -> String {
    let cure = fleet.stage.path("cure");
    let check = format!(
        "#!/bin/sh\ncase \"$1\" in {names}) [ -f '{}' ] || {{ echo \"$1: no schema found\" >&2; exit 7; }};; esac\n",
        cure.display()
    );
    GOOD.replacen("#!/bin/sh\n", &check, 1)
}

/// Rolls, the newest first.
fn history(fleet: &Fleet) -> Vec<Value> {
    fleet.expect(&["history", "--json"], 0).events()
}

/// Two workers on v1, rolled one after the other; `update` goes into their update key. Ready is who has said that it is
/// up: one that ends before that never is, however late the first probe comes.
fn workers(name: &str, update: &str) -> Fleet {
    let fleet = Fleet::new(name);
    fleet.release("v1", GOOD).release("v2", GOOD);
    let is_up = format!("[\"grep\", \"-q\", \"{{instance}} up\", \"{}\"]", fleet.life().display());
    let quick = QUICK.replace("[\"true\"]", &is_up);
    fleet.manifest("", &format!("  worker:\n    {{R}}\n    replicas: 2\n{quick}{update} }}\n"));
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    assert_eq!(fleet.running(), ["worker-1.1@v1", "worker-2.1@v1"]);
    fleet
}

/// Two API servers on v1, under load: each of these releases fails and is taken back, and no request fails.
fn taken_back_under_load(name: &str, releases: &[(&str, &str, &str)]) {
    let fleet = Fleet::new(name);
    let front = Front::new();
    let more = "    ready: { http: \"http://{address}:{port}/health\", every: 50ms, deadline: 3s }\n    \
                update: { monitor: 1s }\n    drain: { grace: 10s }\n";
    fleet.manifest("", &front.component(&fleet, more));
    fleet.release("v1", &Front::script(""));
    for (version, flags, _) in releases {
        fleet.release(version, &Front::script(flags));
    }
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    let load = Load::at(front, 100);
    for (version, _, last_words) in releases {
        let up = fleet.expect(&["up", "--to", version, "--yes"], 3);
        assert!(up.out.contains(*last_words), "{}", up.all());
        let told = fleet.expect(&["history", "-n", "2"], 0);
        assert!(told.out.contains("failed and is taken back") && told.out.contains(*last_words), "{}", told.all());
        // The newest is the way back, which says whom it takes back.
        let rolls = history(&fleet);
        assert_eq!(rolls[0]["parent"], rolls[1]["roll"], "{version}: {:?}", rolls[0]);
        assert_eq!(rolls[1]["version"], *version);
        let status = fleet.expect(&["status"], 0);
        assert!(status.out.contains(*last_words), "{}", status.all());
        let running = fleet.running();
        let served = running.iter().filter(|instance| instance.starts_with("api-")).collect::<Vec<_>>();
        // Start-first: the old ones never left.
        assert_eq!(served, ["api-1.1@v1", "api-2.1@v1"], "{version}");
    }
    let report = load.stop();
    assert_eq!(report["failed"], 0, "{report}");
    // At 100 requests/s; a release that dies at once is taken back within a second.
    assert!(report["requests"].as_u64() > Some(30), "{report}");
}

#[test]
fn an_api_that_never_gets_ready_or_exits_at_once_is_taken_back_by_itself_and_no_request_fails() {
    let deaf = ("deaf", "--never-ready", "a release with flags: --never-ready");
    let stillborn = ("stillborn", "--exit-at-once 9", "a release with flags: --exit-at-once 9");
    taken_back_under_load("badapi", &[deaf, stillborn]);
}

#[test]
fn an_api_that_dies_within_monitor_is_taken_back_by_itself_and_no_request_fails() {
    taken_back_under_load("frailapi", &[("frail", "--die-after-ms 300", "has a fault and dies of it")]);
}

#[test]
fn a_staged_roll_that_fails_at_its_last_stage_is_taken_back_whole() {
    let fleet = Fleet::new("badlast");
    fleet.release("v1", GOOD).release("v2", &sick(&fleet, "scheduler-*"));
    fleet.manifest(
        "",
        &format!("  scheduler:\n    {{R}}\n{QUICK} }}\n  worker:\n    {{R}}\n    replicas: 2\n{QUICK} }}\n"),
    );
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    let up = fleet.expect(&["up", "--to", "v2", "--yes"], 3);
    assert!(up.out.contains("scheduler-1.2: no schema found"), "{}", up.all());
    let running = fleet.running();
    assert!(running.len() == 3 && running.iter().all(|instance| instance.ends_with("@v1")), "{running:?}");
    // Back means back: the version is that of before, and there is nothing to do.
    let again = fleet.expect(&["up", "--yes"], 0);
    assert_eq!(fleet.running(), running, "{}", again.all());
    let lives = fleet.lives();
    assert!(lives.iter().any(|line| line == "worker-2.2 up v=v2"), "the workers had been rolled: {lives:?}");
}

#[test]
fn with_pause_a_failure_waits_for_a_person_and_retry_goes_on_once_the_cause_is_gone() {
    let fleet = Fleet::new("pausing");
    fleet.release("v1", GOOD).release("v2", GOOD);
    let cure = fleet.stage.path("cure");
    std::fs::write(&cure, "").unwrap();
    let ready =
        format!("    ready: {{ exec: [\"test\", \"-f\", \"{}\"], every: 50ms, deadline: 2s }}\n", cure.display());
    let update = "    update: { monitor: 300ms, failure_action: pause }\n";
    fleet.manifest("", &format!("  worker:\n    {{R}}\n    replicas: 2\n{ready}{update}"));
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    std::fs::remove_file(&cure).unwrap();
    let up = fleet.expect(&["up", "--to", "v2", "--yes"], 1);
    assert!(up.all().contains("hello from worker-1.2 v2"), "its last words: {}", up.all());
    let status = fleet.expect(&["status"], 0);
    for word in ["needs a person", "baton retry", "worker-1", "did not get ready in time", "hello from worker-1.2 v2"] {
        assert!(status.out.contains(word), "{word}: {}", status.all());
    }
    assert!(fleet.running().contains(&"worker-2.1@v1".to_owned()), "the other one was left alone");
    // Nothing has changed: it fails again and still waits.
    fleet.expect(&["retry"], 1);
    std::fs::write(&cure, "").unwrap();
    fleet.expect(&["retry"], 0);
    assert_eq!(fleet.running(), ["worker-1.2@v2", "worker-2.2@v2"]);
    let rolls = history(&fleet);
    assert_eq!(rolls.len(), 2, "it is the same roll: {rolls:?}");
    assert_eq!(rolls[0]["failures"].as_array().map(Vec::len), Some(2), "{:?}", rolls[0]);
    assert_eq!(rolls[0]["result"], "succeeded");
}

#[test]
fn with_pause_a_person_may_take_the_roll_back_instead() {
    let fleet = workers("pausback", ", failure_action: pause");
    fleet.release("v2", &sick(&fleet, "worker-2.*"));
    fleet.expect(&["up", "--to", "v2", "--yes"], 1);
    fleet.expect(&["rollback", "--yes"], 0);
    let running = fleet.running();
    assert!(running.len() == 2 && running.iter().all(|instance| instance.ends_with("@v1")), "{running:?}");
}

#[test]
fn with_continue_the_others_are_rolled_and_the_end_says_what_is_missing() {
    let fleet = workers("goingon", ", failure_action: continue");
    fleet.release("v2", &sick(&fleet, "worker-1.*"));
    // It went on, says without whom, and claims no success: a script would believe it.
    let up = fleet.expect(&["up", "--to", "v2", "--yes"], 1);
    let last = up.out.lines().rfind(|line| line.contains("steps in")).unwrap_or_default();
    for word in ["without worker-1,", "the same command tries again", "`baton rollback`"] {
        assert!(last.contains(word), "{word}: {}", up.all());
    }
    assert!(up.out.contains("worker-1: exited: worker-1.2 did not get ready"), "{}", up.all());
    assert!(up.out.contains("worker-1.2: no schema found"), "its last words: {}", up.all());
    assert!(fleet.running().contains(&"worker-2.2@v2".to_owned()), "{:?}", fleet.running());
    let rolls = history(&fleet);
    assert_eq!(rolls[0]["given_up"], serde_json::json!(["worker-1"]), "{:?}", rolls[0]);
    // Nor does it succeed while nothing has changed.
    fleet.expect(&["up", "--to", "v2", "--yes"], 1);
    // With the cause gone its keeper gets it up in the end, and the next `up` finishes what is left to do.
    std::fs::write(fleet.stage.path("cure"), "").unwrap();
    wait_for("both on v2", BOUND, || fleet.running().iter().filter(|instance| instance.ends_with("@v2")).count() == 2);
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    let running = fleet.running();
    assert!(running.iter().all(|instance| instance.ends_with("@v2")), "{running:?}");
    assert!(running.contains(&"worker-2.2@v2".to_owned()), "what was right was left alone: {running:?}");
}

#[test]
fn what_crashes_again_and_again_is_a_change_and_has_to_get_up_for_up_to_succeed() {
    let fleet = Fleet::new("crashes");
    let cure = fleet.stage.path("cure");
    std::fs::write(&cure, "").unwrap();
    fleet.release("v1", &sick(&fleet, "worker-1.*"));
    fleet.manifest("", &format!("  worker:\n    {{R}}\n    replicas: 2\n{QUICK} }}\n"));
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    std::fs::remove_file(&cure).unwrap();
    for pid in fleet.stage.pids_of("/run worker-1.1 ") {
        kill(pid, Signal::KILL).ok();
    }
    let restarts = || fleet.view()["slots"][0]["instances"][0]["restarts"].as_u64().unwrap_or(0);
    wait_for("it crashes again and again", BOUND, || restarts() >= 2);
    // Whether it just runs or just waits makes no other plan.
    let digest = || fleet.expect(&["plan", "--json"], 0).events()[0]["plan"]["digest"].clone();
    let first = digest();
    for _ in 0..6 {
        assert_eq!(digest(), first);
    }
    fleet.expect(&["plan", "--detailed-exitcode"], 10);
    for _ in 0..2 {
        let up = fleet.expect(&["up", "--yes"], 3);
        assert!(up.out.contains("worker-1.1: no schema found"), "{}", up.all());
        assert!(fleet.running().contains(&"worker-2.1@v1".to_owned()), "{}", up.all());
    }
    let status = fleet.expect(&["status"], 0);
    assert!(status.out.contains("crashes"), "{}", status.all());
    std::fs::write(&cure, "").unwrap();
    fleet.expect(&["up", "--yes"], 0);
    assert_eq!(fleet.running(), ["worker-1.1@v1", "worker-2.1@v1"]);
}

#[test]
fn a_share_of_failures_within_max_failure_ratio_turns_nothing_back() {
    let fleet = workers("ratio", ", max_failure_ratio: 0.5");
    fleet.release("v2", &sick(&fleet, "worker-1.*"));
    fleet.release("v3", "#!/bin/sh\necho 'v3 cannot run' >&2\nexit 3\n");
    let up = fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    assert!(up.out.contains("done without worker-1, as max_failure_ratio allows"), "{}", up.all());
    assert!(fleet.running().contains(&"worker-2.2@v2".to_owned()), "{}", up.all());
    assert_eq!(history(&fleet)[0]["failed_slots"], serde_json::json!([["worker", ["worker-1"]]]));
    // Beyond the share it is taken back, to what last succeeded.
    std::fs::write(fleet.stage.path("cure"), "").unwrap();
    let up = fleet.expect(&["up", "--to", "v3", "--yes"], 3);
    let running = fleet.running();
    assert!(running.len() == 2 && running.iter().all(|instance| instance.ends_with("@v2")), "{}", up.all());
}

#[test]
fn a_way_back_that_fails_too_is_not_taken_back() {
    let fleet = Fleet::new("noback");
    let cure = fleet.stage.path("cure");
    std::fs::write(&cure, "").unwrap();
    fleet.release("v1", &sick(&fleet, "worker-*"));
    fleet.release("v2", "#!/bin/sh\necho 'v2 cannot run' >&2\nexit 3\n");
    fleet.manifest("", &format!("  worker:\n    {{R}}\n{QUICK} }}\n"));
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    std::fs::remove_file(&cure).unwrap();
    let up = fleet.expect(&["up", "--to", "v2", "--yes"], 1);
    assert!(up.out.contains("v2 cannot run") && up.out.contains("no schema found"), "{}", up.all());
    let rolls = history(&fleet);
    assert_eq!(rolls.len(), 3, "v1, v2 and one way back: {rolls:?}");
    assert_eq!(rolls[0]["parent"], rolls[1]["roll"]);
    assert!(rolls[0]["result"].is_null(), "the way back is open for a person: {:?}", rolls[0]["result"]);
    let status = fleet.expect(&["status"], 0);
    assert!(status.out.contains("needs a person"), "{}", status.all());
    // With the cause gone the way back is finished.
    std::fs::write(&cure, "").unwrap();
    // Its keeper waits ever longer before it starts it again; `retry` does not.
    fleet.expect(&["retry"], 0);
    let running = fleet.running();
    assert!(running.len() == 1 && running[0].ends_with("@v1"), "{running:?}");
}

#[test]
fn what_nobody_can_know_waits_for_a_person_who_settles_it() {
    let fleet = Fleet::new("settling");
    fleet.release("v1", GOOD).release("v2", GOOD);
    // What begins the drain is run by the instance's keeper, and freezes it: no answer comes, and whether the drain has
    // begun can be seen nowhere.
    let freeze = fleet.stage.path("freeze");
    let begin = format!("if [ -e '{0}' ]; then rm '{0}'; kill -STOP $PPID; fi", freeze.display());
    fleet.manifest(
        "",
        &format!(
            "  worker:\n    {{R}}\n    ready: {{ exec: [\"true\"], every: 50ms, deadline: 10s }}\n    \
             drain: {{ begin: {{ exec: [sh, -c, \"{begin}\"] }}, grace: 3s, stop_timeout: 2s }}\n    \
             update: {{ monitor: 300ms, failure_action: pause }}\n"
        ),
    );
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    std::fs::write(&freeze, "").unwrap();
    let mut fleet = fleet;
    let up = fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    let said = fleet.wait_log("up", "unknown:");
    assert!(said.contains("worker-1.1: drain unknown:"), "{said}");
    for keeper in fleet.stage.pids_of(" keeper --dir ") {
        kill(keeper, Signal::CONT).unwrap();
    }
    // A look at the instance shows that it runs, and not whether it was told to drain.
    assert_eq!(fleet.stage.child(up).wait(BOUND).code(), Some(1), "{}", fleet.stage.log("up"));
    assert_eq!(fleet.running(), ["worker-1.1@v1"]);
    let hold =
        fleet.view()["holds"].as_array().unwrap().iter().find(|hold| hold["reason"]["unknown"].is_object()).cloned();
    let step = hold.expect("a hold for what is unknown")["reason"]["unknown"]["step"].to_string();
    let status = fleet.expect(&["status"], 0);
    assert!(status.out.contains("nobody knows how drain of worker-1.1 ended"), "{}", status.all());
    // Not done: that is a failure, and still nothing goes on by itself.
    let not_done = fleet.expect(&["settle", &step, "--not-done"], 1);
    assert!(not_done.out.contains("operator settled it as not done"), "{}", not_done.all());
    assert_eq!(fleet.running(), ["worker-1.1@v1"]);
    // Done: what waits for it goes on.
    fleet.expect(&["settle", &step, "--done"], 0);
    assert_eq!(fleet.running(), ["worker-1.2@v2"]);
    // What is neither unknown nor failed is not for settling.
    fleet.expect(&["settle", &step, "--done"], 5);
}
