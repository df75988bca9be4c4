//! A component's resolved manifest entry: its spec and the keys that steer its roll.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::secret::{exposed_list, exposed_map};
use super::{AgentId, ComponentName, ComposeService, Condition, Placement, Secret, millis, option_millis};

/// What a component is for. It decides stages and defaults.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Role {
    /// Answers requests; kept up the whole time.
    Api,
    /// Plans work; never runs twice.
    Scheduler,
    /// Hands work out.
    Executor,
    /// Does the work.
    Worker,
    /// Follows along.
    Indexer,
    /// Runs to its end.
    Job,
    /// The API's front door; never rolled with its fleet.
    Gateway,
    /// The user's own.
    Other(String),
}

impl From<String> for Role {
    fn from(text: String) -> Self {
        Role::known(&text).unwrap_or(Role::Other(text))
    }
}

impl From<Role> for String {
    fn from(role: Role) -> String {
        role.to_string()
    }
}

impl Role {
    /// The role of that name, if it is one that Baton knows.
    pub fn known(text: &str) -> Option<Role> {
        Some(match text {
            "api" => Role::Api,
            "scheduler" => Role::Scheduler,
            "executor" => Role::Executor,
            "worker" => Role::Worker,
            "indexer" => Role::Indexer,
            "job" => Role::Job,
            "gateway" => Role::Gateway,
            _ => return None,
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Api => "api",
            Role::Scheduler => "scheduler",
            Role::Executor => "executor",
            Role::Worker => "worker",
            Role::Indexer => "indexer",
            Role::Job => "job",
            Role::Gateway => "gateway",
            Role::Other(name) => name,
        })
    }
}

/// Through what an agent acts on instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RuntimeKind {
    /// Containers of a Docker Engine.
    Docker,
    /// Processes under keepers.
    Process,
}

impl fmt::Display for RuntimeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            RuntimeKind::Docker => "docker",
            RuntimeKind::Process => "process",
        })
    }
}

/// A folder with one version of a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Release {
    /// The folder; may hold `{version}`.
    pub path: String,
    /// The file in it, in the format of `sha256sum`, that lists every file of a complete release. `None`: no proof of
    /// completeness, which the plan says.
    pub sha256_file: Option<String>,
}

/// Where an instance listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Port {
    /// Free and new for each instance.
    Auto,
    /// This one: a passed socket where the program takes one, else stop-first.
    Number(u16),
}

/// A port with its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedPort {
    /// As in `ports`.
    pub name: String,
    /// What is asked for.
    pub port: Port,
    /// The address to listen on for a passed socket.
    pub host: Option<String>,
    /// Whether the slot's keeper holds the listening socket and passes it (LISTEN_FDS). True for a number unless
    /// the manifest says `pass: false`.
    pub passed: bool,
}

/// A port named elsewhere in the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PortRef {
    /// By its name in `ports`.
    Name(String),
    /// By its number.
    Number(u16),
}

/// Start the new one first, or stop the old one first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Order {
    /// The old one leaves when the new one is ready.
    StartFirst,
    /// The new one starts when the old one has gone.
    StopFirst,
}

/// What to do when more slots failed than `max_failure_ratio` allows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureAction {
    /// Hold for a person.
    Pause,
    /// Go on with the next.
    Continue,
    /// Put back what was there.
    #[default]
    Rollback,
}

/// A share in parts per million: exact, comparable, and the same on every machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ratio(pub u32);

impl Ratio {
    /// The share of `part` in `whole` is *above* this one (SwarmKit's strict test).
    pub fn exceeded_by(self, part: usize, whole: usize) -> bool {
        (part as u128) * 1_000_000 > u128::from(self.0) * (whole as u128)
    }
}

/// How a component's slots are rolled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Update {
    /// As written; `None` lets the planner choose and say why.
    pub order: Option<Order>,
    /// How many slots at a time; 0 means all.
    pub parallelism: u32,
    /// Pause after a slot before its place is given to the next.
    #[serde(with = "millis")]
    pub delay: Duration,
    /// How long a new instance must stay ready before it counts.
    #[serde(with = "millis")]
    pub monitor: Duration,
    /// What a failure does to the roll.
    pub failure_action: FailureAction,
    /// Failed slots over changed slots of the component; above it the action is taken.
    pub max_failure_ratio: Ratio,
}

impl Default for Update {
    fn default() -> Self {
        Self {
            order: None,
            parallelism: 1,
            delay: Duration::ZERO,
            monitor: Duration::from_secs(5),
            failure_action: FailureAction::Rollback,
            max_failure_ratio: Ratio(0),
        }
    }
}

/// How an instance says that it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Probe {
    /// A GET that answers 2xx. Placeholders allowed.
    Http(String),
    /// A connection to `host:port`. Placeholders allowed.
    Tcp(String),
    /// An argv that exits 0, beside the instance with its environment.
    Exec(Vec<String>),
    /// `READY=1` over NOTIFY_SOCKET (sd_notify(3)) from the instance's own processes.
    Notify,
    /// The runtime's own health: what the engine says of the container's healthcheck.
    Health,
}

/// Readiness: the probe and its patience.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// `None`: weak readiness (running for max(monitor, 5s) without exit or restart).
    pub probe: Option<Probe>,
    /// Between two probes.
    #[serde(with = "millis")]
    pub every: Duration,
    /// For one probe.
    #[serde(with = "millis")]
    pub timeout: Duration,
    /// Consecutive good answers that count as ready.
    pub successes: u32,
    /// From the start to ready; beyond it the step has failed.
    #[serde(with = "millis")]
    pub deadline: Duration,
}

impl Default for Ready {
    fn default() -> Self {
        Self {
            probe: None,
            every: Duration::from_millis(250),
            timeout: Duration::from_secs(2),
            successes: 1,
            deadline: Duration::from_secs(120),
        }
    }
}

/// How requests reach a component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Traffic {
    /// Nothing that Baton could switch.
    None,
    /// Through Baton's gateway.
    Gateway {
        /// `host:port` or `:port`.
        listen: String,
        /// The instance's port.
        port: PortRef,
        /// How long a request may be held while nobody serves.
        #[serde(with = "millis")]
        hold_max: Duration,
    },
    /// Through a proxy that people run themselves.
    Proxy {
        /// Which, and how it is told.
        proxy: Proxy,
        /// The instance's port.
        port: PortRef,
    },
}

impl Traffic {
    /// The instance's port and how long requests are held while nobody serves; `None`: nothing to switch. No other
    /// proxy holds requests.
    pub fn switched(&self) -> Option<(&PortRef, Duration)> {
        match self {
            Traffic::None => None,
            Traffic::Gateway { port, hold_max, .. } => Some((port, *hold_max)),
            Traffic::Proxy { port, .. } => Some((port, Duration::ZERO)),
        }
    }
}

/// A proxy that is not Baton's own gateway. Beside it a gateway process of Baton tells it the tables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Proxy {
    /// HAProxy 2.5 or newer, over its runtime API.
    Haproxy {
        /// Its stats socket, of level admin: a path, or `host:port`.
        socket: String,
        /// The backend whose servers are the instances.
        backend: String,
        /// What follows the address where a server is added; free of line ends and `;`.
        server: String,
    },
    /// Any other, by a command of people's own on the host.
    Exec {
        /// The argv. It gets the table and exits 0 when the proxy works by it.
        switch: Vec<String>,
        /// From then on until the requests on what was taken out count as finished.
        #[serde(with = "millis")]
        settle: Duration,
    },
}

/// A call to an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Call {
    /// A POST that answers 2xx. Placeholders allowed.
    Http(String),
    /// An argv that exits 0.
    Exec(Vec<String>),
}

/// How a drain begins beside taking traffic away.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrainBegin {
    /// A signal to the main process, by its name (`SIGTERM`). Cannot be undone.
    Signal(String),
    /// A POST that answers 2xx.
    Http(String),
    /// An argv that exits 0.
    Exec(Vec<String>),
}

/// Where the count of work in flight is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainInflight {
    /// A GET that answers JSON. Placeholders allowed.
    pub http: String,
    /// A JSON pointer (RFC 6901) to a number, or to a list whose length counts.
    pub pointer: String,
    /// Between two readings.
    #[serde(with = "millis")]
    pub every: Duration,
    /// For one reading.
    #[serde(with = "millis")]
    pub timeout: Duration,
}

/// How an instance is drained and stopped.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// As written. `None`: taking traffic away where there is traffic, else the stop signal.
    pub begin: Option<DrainBegin>,
    /// What undrain calls.
    pub undo: Option<Call>,
    /// The in-flight source. `None`: the process itself (gone is zero).
    pub inflight: Option<DrainInflight>,
    /// One budget from the begin of the drain to SIGKILL.
    #[serde(with = "millis")]
    pub grace: Duration,
    /// The last part of the grace, kept for signal-to-kill. `None`: the smaller of 10 s and the grace.
    #[serde(with = "option_millis", default)]
    pub stop_timeout: Option<Duration>,
    /// By its name; asks the main process to end.
    pub stop_signal: String,
}

impl Drain {
    /// The part of the grace kept for signal-to-kill.
    pub fn stop_timeout(&self) -> Duration {
        self.stop_timeout.unwrap_or(Duration::from_secs(10)).min(self.grace)
    }

    /// Whether what begins this drain can be given back: only a signal cannot.
    pub fn can_be_undone(&self, has_traffic: bool) -> bool {
        match &self.begin {
            Some(DrainBegin::Signal(_)) => false,
            Some(DrainBegin::Http(_) | DrainBegin::Exec(_)) => self.undo.is_some(),
            None => has_traffic,
        }
    }
}

impl Default for Drain {
    fn default() -> Self {
        Self {
            begin: None,
            undo: None,
            inflight: None,
            grace: Duration::from_secs(30),
            stop_timeout: None,
            stop_signal: "SIGTERM".to_owned(),
        }
    }
}

/// A component's resolved manifest entry.
///
/// Kept, with its values, in the spec store and sent to the agents that run it; never part of a record. In a
/// definition that belongs to a plan `{version}` is filled in; what only an agent knows (`{port}`, `{address}`, ...)
/// is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Definition {
    /// Its name.
    pub component: ComponentName,
    /// As written, or from the name; `None`: no role.
    pub role: Option<Role>,
    /// Through what it runs.
    pub runtime: RuntimeKind,
    /// The image reference (docker).
    pub image: Option<String>,
    /// What Compose would make, where the component is a service of a Compose project. It says everything that the
    /// spec says; `command`, `env`, `env_file` and `cwd` are empty then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compose: Option<ComposeService>,
    /// The release (process).
    pub release: Option<Release>,
    /// The argv. May carry secrets, so it is treated as one.
    #[serde(with = "exposed_list")]
    pub command: Vec<Secret>,
    /// The environment; wins over `env_file`.
    #[serde(with = "exposed_map")]
    pub env: BTreeMap<String, Secret>,
    /// A file of `NAME=value` lines on the agent's host.
    pub env_file: Option<String>,
    /// The working folder; default: the release.
    pub cwd: Option<String>,
    /// In the order written: `{port}` is the first.
    pub ports: Vec<NamedPort>,
    /// Proxies that this gateway tells the tables of these components.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub fronts: BTreeMap<ComponentName, Proxy>,
    /// Agents that may run it; empty: all that offer the runtime.
    pub on: Vec<AgentId>,
    /// Slots in total.
    pub replicas: u32,
    /// Never two at once.
    pub singleton: bool,
    /// Who must be there before it.
    pub depends_on: BTreeMap<ComponentName, Condition>,
    /// How its slots are rolled.
    pub update: Update,
    /// How they are rolled where a roll is taken back. `None`: as `update` says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<Update>,
    /// Readiness.
    pub ready: Ready,
    /// How requests reach it.
    pub traffic: Traffic,
    /// The floor as written; `None`: the planner's default.
    pub min_available: Option<u32>,
    /// How it is drained and stopped.
    pub drain: Drain,
    /// Where an agent is that cannot be seen in its command; `None`: what is seen counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<Placement>,
    /// How many former images are kept for a way back (docker).
    #[serde(default = "retain", skip_serializing_if = "is_retain")]
    pub retain: u32,
    /// Whether `{version}` stood anywhere in it: such a component has a version.
    pub versioned: bool,
}

/// What is retained where nobody says otherwise.
pub const RETAIN: u32 = 1;

fn retain() -> u32 {
    RETAIN
}

fn is_retain(count: &u32) -> bool {
    *count == RETAIN
}

impl Definition {
    /// Whether its slots run to their end instead of serving.
    pub fn is_job(&self) -> bool {
        self.role == Some(Role::Job)
    }

    /// How its slots are rolled where a roll is taken back. A rollback is never rolled back, so what fails in it waits
    /// for a person, unless `rollback` itself says otherwise.
    pub fn taken_back(&self) -> Update {
        let pause = FailureAction::Pause;
        match &self.rollback {
            None => Update { failure_action: pause, max_failure_ratio: Ratio(0), ..self.update.clone() },
            Some(said) if said.failure_action == FailureAction::Rollback => {
                Update { failure_action: pause, ..said.clone() }
            }
            Some(said) => said.clone(),
        }
    }

    /// Whether each agent finds it in its own host's Compose project.
    pub fn is_of_hosts(&self) -> bool {
        self.compose.as_ref().is_some_and(|compose| compose.remote.is_some())
    }

    /// Whether requests reach it through something that can be switched.
    pub fn has_traffic(&self) -> bool {
        self.traffic != Traffic::None
    }
}
