//! A site: one coordinator, two agents, a gateway and six toys, each a process of its own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use sha2::{Digest, Sha256};

use crate::lines::Lines;
use crate::story::Story;
use crate::support::procs::{Stage, free_port, kill, quickstart};
use crate::support::wait::wait_for;

/// For anything that Baton does on a machine that is busy.
pub const BOUND: Duration = Duration::from_secs(60);
/// The agents and what each admits: the gateway is made beside the API.
pub const AGENTS: [(&str, &str); 2] = [("front", "[api, gateway]"), ("back", "[executor, scheduler, worker]")];

/// Everything that runs, and how to reach it. Dropped, all of it is gone.
pub struct Site {
    pub stage: Stage,
    fleet: String,
    gateway: SocketAddr,
    coordinator: Option<usize>,
    agents: [Option<usize>; 2],
}

impl Site {
    /// A folder with manifest and policies; nothing runs.
    pub fn new(name: &str) -> Self {
        let stage = Stage::new();
        let gateway = SocketAddr::from(([127, 0, 0, 1], free_port()));
        // Agents of one fleet name are known to the whole machine.
        let fleet = format!("{name}-{}", std::process::id());
        let site = Self { stage, fleet, gateway, coordinator: None, agents: [None, None] };
        std::fs::create_dir_all(site.work()).expect("a folder for the toys");
        std::fs::write(site.stage.path("baton.yaml"), site.manifest()).expect("a manifest");
        for (agent, components) in AGENTS {
            let roots = site.stage.path("releases");
            let text = format!("components: {components}\nrelease_roots: [\"{}\"]\n", roots.display());
            let path = site.stage.path(format!("policy-{agent}.yaml"));
            std::fs::write(&path, text).expect("a policy");
            set_mode(&path, 0o600);
        }
        site
    }

    fn manifest(&self) -> String {
        let dir = self.stage.dir().display();
        let component = |kind: &str, agent: &str, replicas: u32, rest: &str| {
            format!(
                r#"  {kind}:
    role: {kind}
    release: {{ path: "{dir}/releases/{{version}}", sha256_file: SHA256SUMS }}
    command: ["{{release}}/run", "{kind}", "--instance", "{{instance}}", "--port", "{{port}}", "--work", "{dir}/work"]
    ports: {{ http: auto }}
    on: [{agent}]
    replicas: {replicas}
    ready: {{ http: "http://{{address}}:{{port}}/health", every: 50ms, deadline: 60s }}
{rest}
"#
            )
        };
        let api = format!(
            r#"    update: {{ order: start-first, parallelism: 1, delay: 100ms, monitor: 200ms }}
    traffic: {{ gateway: {{ listen: "{}", port: http, hold_max: 10s }} }}
    min_available: 1
    drain: {{ grace: 20s }}"#,
            self.gateway
        );
        let office = "    update: { monitor: 200ms }\n    drain: { grace: 20s }";
        let worker = r#"    update: { monitor: 200ms }
    drain:
      begin: { http: "http://{address}:{port}/drain" }
      undo: { http: "http://{address}:{port}/resume" }
      inflight: { http: "http://{address}:{port}/inflight", pointer: /inflight, every: 50ms }
      grace: 20s"#;
        format!(
            "fleet: {}\nstrategy: staged\ncomponents:\n{}{}{}{}",
            self.fleet,
            component("api", "front", 2, &api),
            component("scheduler", "back", 1, office),
            component("executor", "back", 1, office),
            component("worker", "back", 2, worker),
        )
    }

    /// Puts a release in place: the toys, as this version.
    pub fn release(&self, version: &str) {
        let folder = self.stage.path(format!("releases/{version}"));
        std::fs::create_dir_all(&folder).expect("a release folder");
        let program =
            format!("#!/bin/sh\nexec '{}' toy \"$@\" --version {version} --boot-ms 50\n", quickstart().display());
        std::fs::write(folder.join("run"), &program).expect("a program");
        set_mode(&folder.join("run"), 0o755);
        let digest: String = Sha256::digest(program.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(folder.join("SHA256SUMS"), format!("{digest}  run\n")).expect("checksums");
    }

    /// Where clients connect.
    pub fn gateway(&self) -> SocketAddr {
        self.gateway
    }

    /// The folder of the toys.
    pub fn work(&self) -> PathBuf {
        self.stage.path("work")
    }

    /// The coordinator's journal.
    pub fn journal(&self) -> PathBuf {
        self.stage.path("c").join(&self.fleet).join("journal.db")
    }

    fn socket(&self) -> PathBuf {
        self.stage.path("c").join(&self.fleet).join("control.sock")
    }

    /// What the instances wrote.
    pub fn story(&self) -> Story {
        let events = Lines::read(&self.work().join("events.log")).expect("the events");
        assert_eq!(events.damaged, 0, "lines of the events are damaged");
        Story::read(&events)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
        for name in ["BATON_STATE", "BATON_FLEET", "BATON_COORDINATOR"] {
            command.env_remove(name);
        }
        command.arg("-f").arg(self.stage.path("baton.yaml")).args(arguments);
        command
    }

    // === Coordinator and agents ===

    /// Starts whoever of coordinator and agents does not run, and waits until verbs are answered.
    pub fn bring_back(&mut self) {
        if self.coordinator.is_none() {
            let mut command = self.command(&["coordinator", "--state"]);
            command.arg(self.stage.path("c"));
            self.coordinator = Some(self.stage.spawn("coordinator", &mut command));
        }
        for (index, (agent, _)) in AGENTS.into_iter().enumerate() {
            if self.agents[index].is_none() {
                let mut command = self.command(&["agent", "--id", agent, "--policy"]);
                command.arg(self.stage.path(format!("policy-{agent}.yaml"))).arg("--state");
                command.arg(self.stage.path(format!("a-{agent}"))).arg("--coordinator");
                command.arg(format!("unix:{}", self.socket().display()));
                self.agents[index] = Some(self.stage.spawn(agent, &mut command));
            }
        }
        let place = self.coordinator.expect("just started");
        let socket = self.socket();
        wait_for("the coordinator answers", BOUND, || {
            assert!(self.stage.child(place).is_running(), "the coordinator ended by itself");
            std::os::unix::net::UnixStream::connect(&socket).is_ok()
        });
    }

    /// Waits until both agents have a session.
    pub fn wait_agents(&self) {
        wait_for("both agents are there", BOUND, || {
            let up = |agent: &serde_json::Value| agent["up"] == true;
            self.view()["agents"].as_array().is_some_and(|agents| agents.iter().filter(|agent| up(agent)).count() == 2)
        });
    }

    /// Whether coordinator and agents still run where they should.
    pub fn assert_crew(&mut self) {
        for place in [self.coordinator, self.agents[0], self.agents[1]].into_iter().flatten() {
            assert!(self.stage.child(place).is_running(), "a coordinator or agent ended by itself");
        }
    }

    /// Kills the coordinator.
    pub fn kill_coordinator(&mut self) {
        if let Some(place) = self.coordinator.take() {
            self.stage.child(place).signal(Signal::KILL);
            self.stage.child(place).wait(BOUND);
        }
    }

    /// Kills the agent of that name.
    pub fn kill_agent(&mut self, agent: &str) {
        let index = AGENTS.iter().position(|(name, _)| *name == agent).expect("an agent");
        if let Some(place) = self.agents[index].take() {
            self.stage.child(place).signal(Signal::KILL);
            self.stage.child(place).wait(BOUND);
        }
    }

    // === Keepers and gateway ===

    /// The ids of processes whose arguments have `verb` as a word and end in `end`.
    pub fn pids(&self, verb: &str, end: &str) -> Vec<u32> {
        let is = |command: &str| command.split(' ').any(|word| word == verb) && command.ends_with(end);
        self.stage.processes().into_iter().filter(|(_, command)| is(command)).map(|(pid, _)| pid).collect()
    }

    /// The keepers of a slot: one, or none for a moment.
    pub fn keepers(&self, slot: &str) -> Vec<u32> {
        self.pids("keeper", &format!("/{slot}"))
    }

    /// The gateway: one, or none for a moment.
    pub fn gateways(&self) -> Vec<u32> {
        self.pids("gateway", "")
    }

    /// Kills all of these.
    pub fn kill_all(&self, pids: &[u32]) {
        for pid in pids {
            // It may have gone by itself.
            kill(*pid, Signal::KILL).ok();
        }
    }

    // === Verbs ===

    /// A verb for the running coordinator.
    pub fn verb(&self, arguments: &[&str]) -> Command {
        let mut command = self.command(arguments);
        command.arg("--coordinator").arg(format!("unix:{}", self.socket().display()));
        command
    }

    /// What `status --json` says; null while nobody answers.
    pub fn view(&self) -> serde_json::Value {
        let output = self.verb(&["status", "--json"]).current_dir(self.stage.dir()).output().expect("baton status");
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    /// Runs a verb to its end with its output in `NAME.log`; its exit code.
    pub fn run(&mut self, name: &str, arguments: &[&str]) -> i32 {
        let mut command = self.verb(arguments);
        let place = self.stage.spawn(name, &mut command);
        self.stage.child(place).wait(2 * BOUND).code().unwrap_or(-1)
    }

    /// Waits until every job that was submitted has come to its end.
    pub fn wait_jobs(&self) -> crate::jobs::JobReport {
        let begun = Instant::now();
        loop {
            let report = crate::jobs::judge(&self.work()).expect("the job log");
            if report.jobs_lost == 0 || begun.elapsed() > Duration::from_secs(30) {
                return report;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// One request on a connection of its own; its status, where there was a whole head.
pub fn ask(to: SocketAddr, method: &str, path: &str) -> Option<u16> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(15))).ok()?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: toy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    answer.get(9..12)?.parse().ok()
}

fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its mode");
}
