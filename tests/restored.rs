//! What was thought lost comes back older: a copy of a state directory, and a host that was rebooted.

mod support;

use std::process::Command;

use rustix::process::Signal;
use serde_json::Value;
use support::fleet::{BOUND, Fleet, GOOD};
use support::procs::kill;
use support::wait::{wait_for, wait_some};

/// Ready at once, watched for a moment.
const QUICK: &str = "    ready: { exec: [\"true\"], every: 50ms, deadline: 20s }\n    update: { monitor: 300ms }\n    drain: { grace: 20s }\n";

/// A coordinator and an agent, each with a state directory of its own, as on two hosts.
struct Hosts {
    fleet: Fleet,
    coordinator: usize,
    agent: usize,
}

impl Hosts {
    /// Two workers on v1, which take their time to end.
    fn new(name: &str) -> Self {
        let fleet = Fleet::new(name);
        let slow = GOOD.replace("exit 0", "sleep 2; exit 0");
        fleet.release("v1", &slow).release("v2", GOOD).release("v3", GOOD);
        fleet.manifest("", &format!("  worker:\n    {{R}}\n    replicas: 2\n    on: [host-a]\n{QUICK}"));
        let policy = format!("components: [worker]\nrelease_roots: [\"{}\"]\n", fleet.stage.path("releases").display());
        std::fs::write(fleet.stage.path("policy.yaml"), policy).unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(fleet.stage.path("policy.yaml"), mode).unwrap();
        let mut hosts = Self { fleet, coordinator: 0, agent: 0 };
        hosts.start_coordinator(&[]);
        hosts.start_agent("boot-1");
        hosts.fleet.expect(&["up", "--to", "v1", "--yes"], 0);
        hosts
    }

    /// Starts the coordinator and returns its id once it listens.
    fn start_coordinator(&mut self, more: &[&str]) -> String {
        let mut args = vec!["coordinator", "--heartbeat", "1s"];
        args.extend(more);
        let before = self.fleet.stage.log("coordinator").matches("listens on").count();
        self.coordinator = self.fleet.spawn("coordinator", &args);
        wait_some("a coordinator that listens", BOUND, || {
            let log = self.fleet.stage.log("coordinator");
            let lines: Vec<&str> = log.lines().filter(|line| line.contains("listens on")).collect();
            let line = lines.get(before)?.to_string();
            line.split_whitespace().nth(1).map(str::to_owned)
        })
    }

    fn agent_command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
        command.arg("agent").args(args).args(["--id", "host-a", "--fleet", &self.fleet.name]);
        command.arg("--state").arg(self.fleet.stage.path("host"));
        command.current_dir(self.fleet.stage.dir()).env_remove("BATON_COORDINATOR").env_remove("BATON_STATE");
        command
    }

    fn start_agent(&mut self, boot: &str) {
        let socket = self.fleet.stage.path("state").join(&self.fleet.name).join("control.sock");
        let mut command = self.agent_command(&["--coordinator", &format!("unix:{}", socket.display())]);
        command.arg("--policy").arg(self.fleet.stage.path("policy.yaml")).env("BATON_TEST_BOOT_ID", boot);
        self.agent = self.fleet.stage.spawn("agent", &mut command);
        wait_for("a session of the agent", BOUND, || {
            let view = self.fleet.view();
            view["agents"].as_array().is_some_and(|agents| agents.iter().any(|agent| agent["up"] == true))
                || view["holds"].as_array().is_some_and(|holds| !holds.is_empty())
        });
    }

    fn end(&mut self, place: usize, signal: Signal) {
        self.fleet.stage.child(place).signal(signal);
        self.fleet.stage.child(place).wait(BOUND);
    }

    /// The state directory of the coordinator goes there, in place of whatever is there.
    fn copy_state(&self, from: &str, to: &str) {
        let (from, to) = (self.fleet.stage.path(from), self.fleet.stage.path(to));
        std::fs::remove_dir_all(&to).ok();
        let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
        assert!(copied.success());
    }
}

/// What `status` says that ends the first hold.
fn until(view: &Value) -> String {
    view["holds"][0]["until"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_coordinator_from_an_older_copy_begins_nothing_and_what_status_says_to_type_works() {
    let mut hosts = Hosts::new("older");
    let up = hosts.fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    hosts.fleet.wait_life("worker-1.1 term");
    // The copy is taken in the middle of a roll, which then ends.
    hosts.end(hosts.coordinator, Signal::KILL);
    hosts.copy_state("state", "copy");
    hosts.start_coordinator(&[]);
    hosts.fleet.stage.child(up).wait(BOUND);
    hosts.fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    let both = ["worker-1.2@v2", "worker-2.2@v2"];
    assert_eq!(hosts.fleet.running(), both);
    hosts.end(hosts.coordinator, Signal::TERM);
    let lives = hosts.fleet.lives();

    hosts.copy_state("copy", "state");
    hosts.start_coordinator(&[]);
    wait_for("a hold that names the way on", BOUND, || until(&hosts.fleet.view()).contains("--new-id"));
    let status = hosts.fleet.expect(&["status"], 0);
    for word in ["older than the fleet", "baton coordinator --new-id", "baton agent adopt"] {
        assert!(status.out.contains(word), "{word}: {}", status.all());
    }
    // Nothing stale is believed: the instance that was draining in the copy is shown by nobody as running.
    let running = hosts.fleet.running();
    assert!(running.is_empty() || running == both, "{running:?}");
    assert!(!status.out.contains("baton resume"), "it would be in vain: {}", status.all());
    // Though the copy holds an unfinished roll: no way on from that one would work.
    let verbs: [&[&str]; 5] = [
        &["up", "--to", "v3", "--yes"],
        &["up", "--to", "v2", "--yes"],
        &["up", "--to", "v3", "--yes", "--supersede"],
        &["resume"],
        &["rollback", "--yes"],
    ];
    for verb in verbs {
        let refused = hosts.fleet.expect(verb, 5);
        assert!(refused.err.contains("--new-id"), "{}", refused.all());
    }
    assert_eq!(hosts.fleet.lives(), lives, "nothing was begun");

    hosts.end(hosts.coordinator, Signal::TERM);
    let id = hosts.start_coordinator(&["--new-id"]);
    let history = hosts.fleet.expect(&["history"], 0);
    assert!(history.out.contains("superseded by baton coordinator --new-id"), "{}", history.all());
    // Its agent obeys the old one until somebody says otherwise, there.
    let refused = hosts.fleet.baton(&["up", "--to", "v3", "--yes", "--timeout", "3s"]);
    assert_ne!(refused.code, 0, "{}", refused.all());
    assert_eq!(hosts.fleet.lives(), lives, "nothing was begun");
    hosts.end(hosts.agent, Signal::TERM);
    let adopted = hosts.agent_command(&["adopt", &id]).output().unwrap();
    assert!(adopted.status.success(), "{adopted:?}");
    hosts.start_agent("boot-1");
    hosts.fleet.expect(&["up", "--to", "v3", "--yes"], 0);
    // No number is used again, though the journal had never heard of some.
    assert_eq!(hosts.fleet.running(), ["worker-1.3@v3", "worker-2.3@v3"]);
}

#[test]
fn a_single_host_with_an_older_journal_is_told_what_to_type_and_that_works() {
    let mut fleet = Fleet::new("older1");
    let slow = GOOD.replace("exit 0", "sleep 1; exit 0");
    fleet.release("v1", &slow).release("v2", GOOD).release("v3", GOOD);
    fleet.manifest("", &format!("  worker:\n    {{R}}\n    replicas: 2\n{QUICK}"));
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    let up = fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    fleet.wait_life("worker-1.1 term");
    fleet.stage.child(up).signal(Signal::KILL);
    fleet.stage.child(up).wait(BOUND);
    // The journal alone comes back: the agent's ledger beside it has seen the end of the roll.
    let folder = fleet.stage.path("state").join(&fleet.name);
    let journal = |copy: &str| {
        let copied = Command::new("sh").arg("-c").arg(copy).current_dir(&folder).status().unwrap();
        assert!(copied.success());
    };
    journal("mkdir ../../kept && cp -a journal.db* ../../kept/");
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    // Many starts later: the new coordinator id will begin with a lower term than the agent has seen.
    for _ in 0..5 {
        fleet.expect(&["plan"], 0);
    }
    journal("rm journal.db* && cp -a ../../kept/journal.db* .");
    let status = fleet.expect(&["status"], 0);
    for word in ["older than the fleet", "`baton coordinator --new-id`", "`baton agent adopt ID`"] {
        assert!(status.out.contains(word), "{word}: {}", status.all());
    }
    assert!(!status.out.contains("baton resume"), "it would be in vain: {}", status.all());
    let lives = fleet.lives();
    for verb in [&["resume"][..], &["up", "--to", "v2", "--yes"], &["up", "--to", "v3", "--yes"]] {
        let refused = fleet.expect(verb, 5);
        assert!(refused.err.contains("baton coordinator --new-id"), "{}", refused.all());
    }
    assert_eq!(fleet.lives(), lives, "nothing was begun");
    let coordinator = fleet.spawn("coordinator", &["coordinator", "--new-id"]);
    let said = fleet.wait_log("coordinator", "listens on");
    let line = said.lines().find(|line| line.contains("listens on")).unwrap_or_default();
    let id = line.split_whitespace().nth(1).unwrap_or_default().to_owned();
    fleet.stage.child(coordinator).signal(Signal::TERM);
    fleet.stage.child(coordinator).wait(BOUND);
    fleet.expect(&["agent", "adopt", &id], 0);
    fleet.expect(&["up", "--to", "v3", "--yes"], 0);
    assert_eq!(fleet.running(), ["worker-1.3@v3", "worker-2.3@v3"]);
}

#[test]
fn a_host_rebooted_in_the_middle_of_a_roll_comes_back_and_the_roll_goes_on() {
    let mut hosts = Hosts::new("reboot");
    let up = hosts.fleet.spawn("up", &["up", "--to", "v2", "--yes"]);
    hosts.fleet.wait_life("worker-1.1 term");
    let others = [hosts.coordinator, up].map(|place| hosts.fleet.stage.child(place).pid());
    power_off(&hosts.fleet, &others);
    let status = hosts.fleet.expect(&["status"], 0);
    assert!(!status.out.contains("FAILED"), "{}", status.all());
    hosts.fleet.stage.child(hosts.agent).wait(BOUND);
    hosts.start_agent("boot-2");
    let status = hosts.fleet.stage.child(up).wait(2 * BOUND);
    assert_eq!(status.code(), Some(0), "{}", hosts.fleet.stage.log("up"));
    assert_eq!(hosts.fleet.running(), ["worker-1.2@v2", "worker-2.2@v2"]);
    let lives = hosts.fleet.lives();
    // What had not been touched came back as it was, before its turn came.
    let times = |text: &str| lives.iter().filter(|line| *line == text).count();
    assert_eq!(times("worker-2.1 up v=v1"), 2, "{lives:?}");
    // What was told to end is not started again.
    assert_eq!(times("worker-1.1 up v=v1"), 1, "{lives:?}");
}

/// Everything of the fleet ends at once, but for those.
fn power_off(fleet: &Fleet, others: &[u32]) {
    wait_for("the end of everything", BOUND, || {
        let left: Vec<u32> =
            fleet.stage.processes().into_iter().map(|(pid, _)| pid).filter(|pid| !others.contains(pid)).collect();
        // One that has gone meanwhile is well.
        left.iter().for_each(|pid| drop(kill(*pid, Signal::KILL)));
        left.is_empty()
    });
}

#[test]
fn a_single_host_rebooted_in_the_middle_of_a_roll_goes_on_with_the_same_up() {
    let mut fleet = Fleet::new("reboot1");
    let slow = GOOD.replace("exit 0", "sleep 2; exit 0");
    fleet.release("v1", &slow).release("v2", GOOD);
    fleet.manifest("", &format!("  worker:\n    {{R}}\n    replicas: 2\n{QUICK}"));
    let run = |fleet: &mut Fleet, boot: &str, args: &[&str]| {
        let mut command = fleet.command(args);
        fleet.stage.spawn("verb", command.env("BATON_TEST_BOOT_ID", boot))
    };
    let up = run(&mut fleet, "boot-1", &["up", "--to", "v1", "--yes"]);
    assert!(fleet.stage.child(up).wait(BOUND).success(), "{}", fleet.stage.log("verb"));
    let up = run(&mut fleet, "boot-1", &["up", "--to", "v2", "--yes"]);
    fleet.wait_life("worker-1.1 term");
    power_off(&fleet, &[]);
    fleet.stage.child(up).wait(BOUND);
    let up = run(&mut fleet, "boot-2", &["up", "--to", "v2", "--yes"]);
    assert!(fleet.stage.child(up).wait(2 * BOUND).success(), "{}", fleet.stage.log("verb"));
    let lives = fleet.lives();
    for line in ["worker-1.2 up v=v2", "worker-2.2 up v=v2"] {
        assert_eq!(lives.iter().filter(|life| *life == line).count(), 1, "{line}: {lives:?}");
    }
    let alive = fleet.stage.pids_of("worker-");
    let told: Vec<String> = fleet.stage.processes().into_iter().map(|(_, command)| command).collect();
    let instances = told.iter().filter(|command| command.contains("/run worker-")).count();
    assert_eq!(instances, 2, "{alive:?} {told:?}");
    assert!(told.iter().all(|command| !command.contains(" v1")), "{told:?}");
}
