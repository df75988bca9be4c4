//! A coordinator and agents as processes of their own, and the verbs that speak to them over TCP.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::fleet::{BOUND, Fleet, Said};
use super::procs::Running;
use super::wait::{wait_for, wait_some};

/// Makes the command that a daemon of that name is traced with.
pub type Tracer = Box<dyn Fn(&str) -> Vec<String>>;

/// Daemons of one fleet. The coordinator's state lies in `state`, each agent's in `agent-ID`.
pub struct Daemons {
    pub fleet: Fleet,
    /// What verbs and agents reach the coordinator by.
    pub address: String,
    /// The options that make an operator: certificates, or `--insecure`.
    pub operator: Vec<String>,
    /// What each daemon is started with, in front of Baton itself: a tracer.
    pub tracer: Option<Tracer>,
}

/// `--insecure` as the options of a daemon or verb.
pub fn insecure() -> Vec<String> {
    vec!["--insecure".to_owned()]
}

impl Daemons {
    /// None yet.
    pub fn new(name: &str, operator: Vec<String>) -> Self {
        Self { fleet: Fleet::new(name), address: String::new(), operator, tracer: None }
    }

    fn binary(&self, name: &str) -> Command {
        let baton = env!("CARGO_BIN_EXE_baton").to_owned();
        let mut words = self.tracer.as_ref().map(|tracer| tracer(name)).unwrap_or_default();
        words.push(baton);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        for name in ["BATON_COORDINATOR", "BATON_STATE", "BATON_FLEET", "BATON_LOG"] {
            command.env_remove(name);
        }
        command
    }

    /// Starts the coordinator and returns its place when it listens.
    ///
    /// # Panics
    /// When it does not listen in time.
    pub fn coordinator(&mut self, listen: &str, security: &[String], options: &[&str]) -> usize {
        let mut command = self.binary("coordinator");
        command.args(["coordinator", "--fleet", &self.fleet.name, "--listen", listen]);
        command.arg("--state").arg(self.fleet.stage.path("state")).args(security).args(options);
        let place = self.fleet.stage.spawn("coordinator", &mut command);
        self.address = wait_some("the address of the coordinator", BOUND, || {
            let log = self.fleet.stage.log("coordinator");
            let line = log.lines().rfind(|line| line.contains(" listens on "))?;
            let (_, addresses) = line.split_once(" listens on ")?;
            addresses.split(", ").find(|address| !address.starts_with("unix:")).map(str::to_owned)
        });
        place
    }

    /// Writes an agent's policy: it admits these components.
    pub fn policy(&self, id: &str, components: &[&str]) -> PathBuf {
        let path = self.fleet.stage.path(format!("policy-{id}.yaml"));
        let roots = self.fleet.stage.path("releases");
        let text = format!("components: [{}]\nrelease_roots: [\"{}\"]\n", components.join(", "), roots.display());
        std::fs::write(&path, text).expect("a policy");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        path
    }

    /// Starts an agent that dials `to`.
    pub fn agent(&mut self, id: &str, to: &str, address: &str, security: &[String], components: &[&str]) -> usize {
        let name = format!("agent-{id}");
        let policy = self.policy(id, components);
        let mut command = self.binary(&name);
        command.args(["agent", "--fleet", &self.fleet.name, "--id", id, "--coordinator", to, "--address", address]);
        command.arg("--policy").arg(policy).arg("--state").arg(self.fleet.stage.path(&name)).args(security);
        self.fleet.stage.spawn(&name, &mut command)
    }

    /// Starts an agent that dials `to` with this policy, and with what `more` adds to its command.
    pub fn agent_with(&mut self, id: &str, to: &str, policy: &str, more: impl FnOnce(&mut Command)) -> usize {
        let name = format!("agent-{id}");
        let path = self.fleet.stage.path(format!("policy-{id}.yaml"));
        std::fs::write(&path, policy).expect("a policy");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        let mut command = self.binary(&name);
        command.args(["agent", "--fleet", &self.fleet.name, "--id", id, "--coordinator", to]).arg("--policy").arg(path);
        command.arg("--state").arg(self.fleet.stage.path(&name));
        more(&mut command);
        self.fleet.stage.spawn(&name, &mut command)
    }

    /// A daemon by its place.
    pub fn child(&mut self, place: usize) -> &mut Running {
        self.fleet.stage.child(place)
    }

    /// Waits until the coordinator has so many agents.
    pub fn wait_agents(&self, count: usize) {
        wait_for(&format!("{count} connected agents"), BOUND, || {
            let view = self.view();
            view["agents"].as_array().is_some_and(|all| all.iter().filter(|agent| agent["up"] == true).count() == count)
        });
    }

    /// The arguments of a verb that speaks to the coordinator as the operator.
    pub fn verb<'a>(&'a self, args: &[&'a str]) -> Vec<&'a str> {
        let mut all = args.to_vec();
        all.extend(["--coordinator", &self.address]);
        all.extend(self.operator.iter().map(String::as_str));
        all
    }

    /// Runs a verb that must end with this code.
    pub fn expect(&self, args: &[&str], code: i32) -> Said {
        self.fleet.expect(&self.verb(args), code)
    }

    /// Starts a verb in the background; its output goes to `NAME.log`.
    pub fn spawn(&mut self, name: &str, args: &[&str]) -> usize {
        let words: Vec<String> = self.verb(args).into_iter().map(str::to_owned).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        self.fleet.spawn(name, &words)
    }

    /// The view of `status --json`.
    pub fn view(&self) -> serde_json::Value {
        let said = self.expect(&["status", "--json"], 0);
        serde_json::from_str(said.out.trim()).unwrap_or_else(|error| panic!("{error}: {}", said.all()))
    }

    /// Runs a verb with other options than the operator's, to its end.
    pub fn as_somebody(&self, args: &[&str], security: &[String]) -> Said {
        let mut all = args.to_vec();
        all.extend(["--coordinator", &self.address]);
        all.extend(security.iter().map(String::as_str));
        let mut command = self.fleet.command(&all);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.output().expect("the binary").into()
    }
}
