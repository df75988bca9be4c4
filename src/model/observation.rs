//! What agents report: observations with a time, never "the truth".

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    AgentId, ComponentName, ComposeAnswer, ComposeFound, Digest, InstanceId, RollId, RuntimeKind, SlotName,
    TableTarget, Term,
};

/// What an instance is doing, as its runtime sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InstanceState {
    /// Prepared, never started.
    Created,
    /// Its main process runs.
    Running,
    /// It crashed and waits for its next start.
    Restarting,
    /// It ended.
    Exited,
    /// The runtime could not say. Possibly running: never taken for stopped.
    Unknown,
}

/// What its own probe says. One writer: the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Health {
    /// Nobody has asked yet, or nobody could.
    Unknown,
    /// Ready, as its probe said last.
    Ready,
    /// Not ready, as its probe said last.
    Unready,
}

/// May new requests reach it? One writer: a switch or drain step. Separate from health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Admission {
    /// They may.
    Admitting,
    /// No new ones; some are in flight.
    Draining,
    /// None, and none in flight.
    Drained,
}

/// How a main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ExitStatus {
    /// With this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// Nobody saw it.
    Unknown,
}

impl ExitStatus {
    /// Ended with 0.
    pub fn success(self) -> bool {
        self == ExitStatus::Code(0)
    }
}

impl fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExitStatus::Code(code) => write!(f, "exit code {code}"),
            ExitStatus::Signal(signal) => write!(f, "signal {signal}"),
            ExitStatus::Unknown => f.write_str("an unknown end"),
        }
    }
}

/// Where an instance is reached from other hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The agent's `--address`, or the container's.
    pub address: String,
    /// Port numbers by name.
    pub ports: BTreeMap<String, u16>,
}

/// One instance, as its runtime and its agent see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceObservation {
    /// Which.
    pub id: InstanceId,
    /// The digest of the spec that it was prepared with; `None` for one that Baton did not make.
    pub spec: Option<Digest>,
    /// The spec that was asked for, where what was made of it has another: the part of it that was not known before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Digest>,
    /// The digest of the definition that it was prepared with.
    pub definition: Option<Digest>,
    /// Its version, where its component has one.
    pub version: Option<String>,
    /// What it is doing.
    pub state: InstanceState,
    /// What its probe says.
    pub health: Health,
    /// Whether requests may reach it.
    pub admission: Admission,
    /// Where it is reached.
    pub endpoint: Option<Endpoint>,
    /// Main process, for people.
    pub pid: Option<u32>,
    /// How often its keeper or engine started it again.
    pub restarts: u32,
    /// It crashed, and whoever started it again has not yet seen it run steadily since: running or waiting for its
    /// next start, it is the same.
    #[serde(default)]
    pub crashing: bool,
    /// How it ended, when it has.
    pub exit: Option<ExitStatus>,
    /// Whether a start of another instance beside it can share its passed sockets (false once a keeper that could
    /// not take the sockets back watches it: that slot's next roll is stop-first).
    pub sockets_held: bool,
}

impl InstanceObservation {
    /// Whether it counts towards the floor: running, ready, and open to requests.
    pub fn serves(&self) -> bool {
        self.state == InstanceState::Running && self.health == Health::Ready && self.admission == Admission::Admitting
    }

    /// Whether it is what was asked for with this spec.
    pub fn is_made_of(&self, spec: &Digest) -> bool {
        self.spec.as_ref() == Some(spec) || self.asked.as_ref() == Some(spec)
    }

    /// Whether it may be running: everything that is not known to be created or ended.
    pub fn may_run(&self) -> bool {
        !matches!(self.state, InstanceState::Created | InstanceState::Exited)
    }
}

/// One slot on an agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotInventory {
    /// The highest instance number that the agent's ledger or runtime knows; never used again.
    pub highest: u64,
    /// All instances, by number.
    pub instances: Vec<InstanceObservation>,
    /// Drained by hand and not undrained since.
    pub held_drained: bool,
    /// A gateway's table in use, by component; empty for every other slot.
    #[serde(default)]
    pub table: BTreeMap<ComponentName, Vec<TableTarget>>,
}

/// What an agent found for one component of the manifest (the answer to *resolve*).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolution {
    /// The image's id, when it is on the host (docker).
    pub image_id: Option<String>,
    /// The digest over the release's checksum file, when every file of it was verified (process); the digest of the
    /// folder's path where the manifest names no checksum file.
    pub release: Option<Digest>,
    /// The digest of the env_file's content, where one is named.
    pub env_file: Option<Digest>,
    /// What stands in the way, in words for people: `release /opt/orders/v2 does not exist`. A roll that needs this
    /// component on this agent is refused before anything stops.
    pub problem: Option<String>,
    /// A fixed port that somebody outside the fleet has, in words for people. A roll that would start the component
    /// here is refused before anything stops.
    #[serde(default)]
    pub port_in_use: Option<String>,
    /// What runs of a service of a Compose project and was made by somebody else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub found: Option<Box<ComposeFound>>,
    /// Files that are copied into containers of the service when they are made, and whose content in those that are
    /// there is another one than it would be today.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub outdated: BTreeSet<String>,
    /// What people should know of an instance before it is stopped, in words.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<(InstanceId, String)>,
    /// What the component is in this host's own Compose project.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compose: Option<Box<ComposeAnswer>>,
}

/// What one agent reported.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// Who reports.
    pub agent: AgentId,
    /// Its host's boot id.
    pub boot_id: String,
    /// What it can run.
    pub runtimes: Vec<RuntimeKind>,
    /// By what address others reach its instances.
    pub address: String,
    /// The highest term that it has durably accepted.
    pub term: Term,
    /// The nonce of the claim that it accepted with that term; empty when it obeys nobody, or says it not.
    #[serde(default)]
    pub nonce: String,
    /// Rolls whose commands its ledger holds.
    pub rolls: Vec<RollId>,
    /// Every slot that it knows.
    pub slots: BTreeMap<SlotName, SlotInventory>,
    /// Answers to *resolve*, by component; empty in a plain inventory.
    pub resolutions: BTreeMap<ComponentName, Resolution>,
}
