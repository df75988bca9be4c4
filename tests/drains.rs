//! Drains end when the work ends, never later than the grace; by hand too.

mod support;

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use support::fleet::{BOUND, Fleet, GOOD};
use support::front::Front;
use support::wait::{wait_for, wait_some};

/// Ready at once, watched for a moment.
const QUICK: &str = "    ready: { exec: [\"true\"], every: 50ms, deadline: 20s }\n    update: { monitor: 300ms }\n";

/// What was told of the drain and the stop of an instance: how long it took in all, and the reports themselves.
fn drain_of(fleet: &Fleet, instance: &str) -> (u64, bool, Vec<Value>) {
    let rolls = fleet.expect(&["history", "--json"], 0).events();
    let all = rolls.iter().flat_map(|roll| roll["drains"].as_array().into_iter().flatten());
    let found: Vec<Value> = all.filter(|drain| drain["instance"] == instance).cloned().collect();
    // Each tells the time since the begin of the drain: the grace is one.
    let took = found.iter().filter_map(|drain| drain["report"]["took"].as_u64()).max();
    let killed = found.iter().any(|drain| drain["report"]["killed"] == true);
    (took.unwrap_or_else(|| panic!("no drain of {instance}: {rolls:?}")), killed, found)
}

fn alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
        && !std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// When an instance wrote such a line, in seconds since the epoch.
fn moment(fleet: &Fleet, line: &str) -> Option<f64> {
    let lives = fleet.lives();
    let found = lives.iter().find(|life| life.starts_with(line))?;
    found.rsplit_once("at=")?.1.parse().ok()
}

#[test]
fn a_ten_second_job_ends_its_drain_within_a_long_grace_and_is_killed_at_the_end_of_a_short_one() {
    let fleet = Fleet::new("tenseconds");
    let worker = r#"#!/bin/sh
echo "$1 up" >> "$LIFE"
trap 'stop=1' TERM
# A job of ten seconds, not interrupted by the signal.
n=0
while :; do
  sleep 0.1
  if [ -n "$stop" ]; then
    [ $n = 0 ] && echo "$1 term at=$(date +%s.%N)" >> "$LIFE"
    n=$((n + 1))
    now=$(date +%s); [ -z "$end" ] && end=$((now + 10))
    [ "$now" -ge "$end" ] && { echo "$1 finished at=$(date +%s.%N)" >> "$LIFE"; exit 0; }
  fi
done
"#;
    fleet.release("v1", worker).release("v2", GOOD);
    fleet.manifest(
        "strategy: staged\nstages: { stop: [[long, short]] }\n",
        &format!(
            "  long:\n    {{R}}\n{QUICK}    drain: {{ grace: 30s }}\n  short:\n    {{R}}\n{QUICK}    drain: {{ grace: 3s }}\n"
        ),
    );
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    let up = fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    assert_eq!(fleet.running(), ["long-1.2@v2", "short-1.2@v2"]);

    let (took, killed, long) = drain_of(&fleet, "long-1.1");
    let (began, finished) = (moment(&fleet, "long-1.1 term").unwrap(), moment(&fleet, "long-1.1 finished").unwrap());
    let worked = ((finished - began) * 1000.0) as u64;
    assert!(!killed, "{long:?}");
    assert!(took + 500 > worked && took < worked + 5000, "the job took {worked} ms: {long:?}");

    let (took, killed, short) = drain_of(&fleet, "short-1.1");
    assert!(killed, "{short:?}");
    assert!((2_900..6_500).contains(&took), "{short:?}");
    assert!(moment(&fleet, "short-1.1 finished").is_none(), "it was killed before it finished");
    assert!(up.out.contains("killed at the end of its grace"), "{}", up.all());
    let told = fleet.expect(&["history", "-n", "1"], 0);
    assert!(told.out.contains("short-1.1") && told.out.contains("killed at the end of its grace"), "{}", told.all());
    assert!(!told.out.contains("long-1.1"), "{}", told.all());
}

#[test]
fn double_forked_and_deaf_children_are_gone_at_the_end_of_the_grace_and_a_bystander_lives() {
    let mut fleet = Fleet::new("deafchild");
    let deaf = r#"#!/bin/sh
echo "deaf $$" >> "$LIFE"
trap '' TERM
while :; do sleep 0.1; done
"#;
    let folder = fleet.stage.path("bin");
    std::fs::create_dir(&folder).unwrap();
    let program = folder.join("deaf");
    std::fs::write(&program, deaf.replace("$LIFE", &fleet.life().display().to_string())).unwrap();
    let program = program.display().to_string();
    // One in a session of its own whose parent has gone, one plain child; the main process itself is deaf, too.
    let script = format!("#!/bin/sh\n( setsid sh '{program}' & ) &\nwait\nsh '{program}' &\nexec sh '{program}'\n",);
    fleet.release("v1", &script).release("v2", GOOD);
    fleet.manifest("", &format!("  worker:\n    {{R}}\n{QUICK}    drain: {{ grace: 2s }}\n"));
    let bystander = fleet.stage.spawn("bystander", Command::new("sh").arg(&program));
    wait_for("the bystander", BOUND, || fleet.lives().len() == 1);
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    let pids = wait_some("three deaf processes", BOUND, || {
        let pids: Vec<u32> = fleet.lives().iter().filter_map(|line| line.strip_prefix("deaf ")?.parse().ok()).collect();
        (pids.len() == 4).then_some(pids)
    });
    assert!(pids.iter().all(|pid| alive(*pid)));
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    let (took, killed, reports) = drain_of(&fleet, "worker-1.1");
    assert!(killed && (1_900..6_000).contains(&took), "{reports:?}");
    let own = fleet.stage.child(bystander).pid();
    for pid in pids {
        assert_eq!(alive(pid), pid == own, "process {pid}");
    }
    assert!(fleet.stage.child(bystander).is_running());
}

/// Two API servers behind the gateway, on v1.
fn apis(name: &str, more: &str) -> (Fleet, Front) {
    let fleet = Fleet::new(name);
    let front = Front::new();
    fleet.release("v1", &Front::script("")).release("v2", &Front::script(""));
    let rest = "    ready: { http: \"http://{address}:{port}/health\", every: 50ms, deadline: 20s }\n    \
                update: { monitor: 300ms }\n    drain: { grace: 30s }\n";
    fleet.manifest("", &format!("{}{more}", front.component(&fleet, rest)));
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    wait_for("both answer", BOUND, || front.who(8) == ["api-1.1", "api-2.1"]);
    (fleet, front)
}

#[test]
fn the_drain_of_an_api_ends_with_its_last_request_long_before_the_grace() {
    let (fleet, front) = apis("lastrequest", "");
    // One for each server, whichever the gateway picks first.
    let slow: Vec<_> = (0..4).map(|_| std::thread::spawn(move || front.get("/slow?ms=4000"))).collect();
    let begun = Instant::now();
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    for request in slow {
        let (status, body) = request.join().unwrap().expect("an answer");
        assert_eq!(status, 200, "{body}");
        assert!(body.contains("v1"), "it was begun on the old one: {body}");
    }
    assert!(begun.elapsed() < Duration::from_secs(50));
    for instance in ["api-1.1", "api-2.1"] {
        let (took, killed, reports) = drain_of(&fleet, instance);
        assert!(!killed && took < 15_000, "{instance}: {reports:?}");
        assert!(reports.iter().all(|drain| drain["report"]["cut"] == 0), "{instance}: {reports:?}");
    }
}

#[test]
fn a_slot_drained_by_hand_gets_no_requests_until_it_is_undrained_or_replaced() {
    let (fleet, front) = apis("byhand", &format!("  worker:\n    {{R}}\n{QUICK}"));
    fleet.expect(&["drain", "api-1", "--yes"], 0);
    assert_eq!(front.who(20), ["api-2.1"]);
    let status = fleet.expect(&["status"], 0);
    assert!(status.out.contains("drained by hand"), "{}", status.all());
    fleet.expect(&["drain", "api-1", "--yes"], 0);

    // Through `up`, while its instance is kept.
    let manifest = fleet.stage.path("baton.yaml");
    let text = std::fs::read_to_string(&manifest).unwrap();
    std::fs::write(&manifest, text.replace("  worker:\n", "  worker:\n    replicas: 2\n")).unwrap();
    let up = fleet.expect(&["up", "--yes"], 0);
    assert!(up.out.contains("api-1") && up.out.contains("drained by hand"), "{}", up.all());
    assert!(fleet.running().contains(&"worker-2.1@v1".to_owned()), "{:?}", fleet.running());
    assert_eq!(front.who(20), ["api-2.1"]);

    fleet.expect(&["undrain", "api-1", "--yes"], 0);
    wait_for("both answer", BOUND, || front.who(8) == ["api-1.1", "api-2.1"]);

    // Its next instance is admitted.
    fleet.expect(&["drain", "api-2", "--yes"], 0);
    assert_eq!(front.who(20), ["api-1.1"]);
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    wait_for("both new ones answer", BOUND, || front.who(8) == ["api-1.2", "api-2.2"]);
    assert!(!fleet.expect(&["status"], 0).out.contains("drained by hand"));
}

#[test]
fn a_drain_that_could_not_be_undone_is_refused_and_nothing_is_touched() {
    let fleet = Fleet::new("nodrain");
    fleet.release("v1", GOOD);
    fleet.manifest("", &format!("  worker:\n    {{R}}\n{QUICK}"));
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    let refused = fleet.expect(&["drain", "worker-1", "--yes"], 5);
    assert!(refused.err.contains("worker-1") && refused.err.contains("drain.undo"), "{}", refused.all());
    let unknown = fleet.expect(&["drain", "worker-7", "--yes"], 2);
    assert!(unknown.err.contains("worker-7"), "{}", unknown.all());
    assert_eq!(fleet.running(), ["worker-1.1@v1"]);
    assert_eq!(fleet.lives(), ["worker-1.1 up v=v1"]);
}
