//! An immutable graph of steps, with limits and a digest.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    AgentId, ComponentName, Digest, FailureAction, FleetName, InstanceId, Order, Ratio, RollId, SlotName, StepId,
    Strategy, millis,
};

/// Which verb a plan serves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanKind {
    /// `baton up`.
    Up,
    /// `baton restart`.
    Restart,
    /// `baton down`.
    Down,
    /// `baton drain SLOT`.
    Drain,
    /// `baton undrain SLOT`.
    Undrain,
    /// `baton rollback`, or by itself after a failure.
    Rollback {
        /// The roll that is taken back.
        of: RollId,
    },
}

impl fmt::Display for PlanKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            PlanKind::Up => "up",
            PlanKind::Restart => "restart",
            PlanKind::Down => "down",
            PlanKind::Drain => "drain",
            PlanKind::Undrain => "undrain",
            PlanKind::Rollback { .. } => "rollback",
        })
    }
}

/// What becomes of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeKind {
    /// A first instance (or a stopped current one is started again).
    Add,
    /// A new instance for an old one.
    Replace,
    /// The slot goes.
    Remove,
    /// Nothing.
    Keep,
    /// Its instance is drained, undrained or stopped, and stays.
    Touch,
}

/// One slot's change, with its reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// Which slot.
    pub slot: SlotName,
    /// On which agent.
    pub agent: AgentId,
    /// What becomes of it.
    pub kind: ChangeKind,
    /// The instance that leaves, if one does.
    pub old: Option<InstanceId>,
    /// The instance that comes or stays, if one does.
    pub new: Option<InstanceId>,
    /// Which comes first, where both are there.
    pub order: Option<Order>,
    /// For people: `release changed: v1 -> v2`. Names of variables, never values.
    pub why: String,
}

/// What a step does. A closed list: whoever adds one meets every `match`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepKind {
    /// Create the new instance; start nothing.
    Prepare {
        /// Its definition.
        definition: Digest,
        /// Its spec.
        spec: Digest,
        /// Its version.
        version: Option<String>,
    },
    /// Bring a gateway's table in line: `admit` comes in, `release` goes out and is drained there. The step's slot is
    /// the gateway's; there is one step for each gateway slot.
    Switch {
        /// Whose traffic.
        component: ComponentName,
        /// Instances that are admitted from here on.
        admit: Vec<InstanceId>,
        /// Instances that are released here; their grace begins with this step.
        release: Vec<InstanceId>,
        /// The name or number of the instances' port.
        port: super::PortRef,
        /// The budget of those released: the grace, and its last part that is kept for signal-to-kill. The switch waits
        /// at most for the difference.
        #[serde(with = "millis")]
        grace: Duration,
        /// See `grace`.
        #[serde(with = "millis")]
        stop_timeout: Duration,
        /// Bound for holding requests while nobody admits.
        #[serde(with = "millis")]
        hold_max: Duration,
    },
    /// Begin the drain and wait for its end.
    Drain {
        /// Its definition.
        definition: Digest,
        /// What begins it on the agent.
        begin: super::DrainStart,
        /// Whether there is an in-flight source to watch beside the process.
        inflight: bool,
        /// One budget from the begin of the drain to SIGKILL.
        #[serde(with = "millis")]
        grace: Duration,
        /// Its last part, for signal-to-kill.
        #[serde(with = "millis")]
        stop_timeout: Duration,
    },
    /// Give a drain back.
    Undrain {
        /// Its definition.
        definition: Digest,
    },
    /// Signal, wait, kill.
    Stop {
        /// By its name.
        signal: String,
        /// From signal to kill.
        #[serde(with = "millis")]
        timeout: Duration,
    },
    /// Start the instance.
    Start {
        /// No other instance of the slot may be running.
        alone: bool,
    },
    /// Wait until it says ready.
    Ready {
        /// Its definition.
        definition: Digest,
        /// What counts.
        wait: super::ReadyWait,
    },
    /// Watch that it stays so.
    Soak {
        /// Its definition.
        definition: Digest,
        /// For how long.
        #[serde(with = "millis")]
        monitor: Duration,
        /// Whether there is a probe to ask.
        probed: bool,
    },
    /// A pause before the next slot of the component.
    Delay {
        /// For how long.
        #[serde(with = "millis")]
        pause: Duration,
    },
    /// Remove the old instance: the last step of its slot.
    Retire,
    /// A hook at a fixed point.
    Run {
        /// Its name.
        hook: String,
    },
    /// A person's approval.
    Gate {
        /// Its name.
        name: String,
    },
}

impl StepKind {
    /// The verb, as people read it and as records name it.
    pub fn verb(&self) -> &'static str {
        match self {
            StepKind::Prepare { .. } => "prepare",
            StepKind::Switch { .. } => "switch",
            StepKind::Drain { .. } => "drain",
            StepKind::Undrain { .. } => "undrain",
            StepKind::Stop { .. } => "stop",
            StepKind::Start { .. } => "start",
            StepKind::Ready { .. } => "ready",
            StepKind::Soak { .. } => "soak",
            StepKind::Delay { .. } => "delay",
            StepKind::Retire => "retire",
            StepKind::Run { .. } => "run",
            StepKind::Gate { .. } => "gate",
        }
    }
}

/// One act on one slot, or on none (`delay` and `gate` are the engine's own).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Its place in the plan; `after` only names smaller ones.
    pub id: StepId,
    /// What it does.
    pub kind: StepKind,
    /// On which slot; for `delay`, whose place it keeps.
    pub slot: Option<SlotName>,
    /// On which instance.
    pub instance: Option<InstanceId>,
    /// Who acts; `None`: the engine itself.
    pub agent: Option<AgentId>,
    /// Steps that must be done before it begins.
    pub after: Vec<StepId>,
    /// For `stop`, `drain` and `switch` in a start-first slot: the instance that must be ready at that moment.
    pub while_ready: Option<InstanceId>,
    /// How long it may take from its begin on the agent.
    #[serde(with = "millis")]
    pub deadline: Duration,
    /// A label for people: `prepare`, `stop 1`, `quiet point`, `start 2`, `api`, `gateway`, `batch 3`.
    pub stage: String,
}

/// What the engine may not exceed, per component. It chooses only *when* a step may begin, never *what* it does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentLimits {
    /// Slots at work at a time; 0: all. Applies to slots in `lane`.
    pub parallelism: u32,
    /// Slots that take a place of `parallelism` from their first disruptive step (drain, stop, switch or start) until
    /// their soak and delay are done; in the order in which places are given. Empty in a staged stage.
    pub lane: Vec<SlotName>,
    /// Serving instances that must remain at every instant; 0: none.
    pub min_available: u32,
    /// All slots that count towards the floor: those of the component except the ones drained by hand.
    pub counted: Vec<SlotName>,
    /// What a failure does.
    pub failure_action: FailureAction,
    /// Failed slots over changed slots; above it the action is taken.
    pub max_failure_ratio: Ratio,
    /// How many slots change: the denominator.
    pub changed: u32,
}

/// An immutable plan. Its digest is over everything in it but the digest itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// The fleet.
    pub fleet: FleetName,
    /// The verb.
    pub kind: PlanKind,
    /// The manifest that it was made from, values included in the hash, none kept.
    pub manifest: Digest,
    /// `--to`, as asked or as found in history.
    pub version: Option<String>,
    /// `--only` and the names given to `restart`, as asked.
    pub only: Vec<String>,
    /// Staged or rolling.
    pub strategy: Strategy,
    /// Every slot, kept ones too.
    pub changes: Vec<Change>,
    /// In order of id; every `after` names smaller ones, so the order is a topological one.
    pub steps: Vec<Step>,
    /// By component.
    pub limits: BTreeMap<ComponentName, ComponentLimits>,
    /// The definition that each component of the manifest has in this plan: what success records, and what a later
    /// rollback goes back to. Components that only lose their orphans are absent.
    pub definitions: BTreeMap<ComponentName, Digest>,
    /// The definition of what was there when no roll of a component had succeeded yet and somebody else had made it:
    /// its way back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub adopted: BTreeMap<ComponentName, Digest>,
    /// Over all of the above.
    pub digest: Digest,
}

impl Plan {
    /// The step with that id.
    pub fn step(&self, id: StepId) -> Option<&Step> {
        self.steps.get(id.0 as usize)
    }

    /// Whether there is nothing to do.
    pub fn is_noop(&self) -> bool {
        self.steps.is_empty()
    }
}
