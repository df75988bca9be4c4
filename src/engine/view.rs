//! What people see: the single source for status, terminal, JSON and web.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{
    AgentId, ComponentName, CoordinatorId, FleetName, InstanceId, InstanceObservation, RollId, RollNumber, SlotName,
    StepId, Term, Timestamp, millis, option_millis,
};

use super::RollResult;

/// Where a roll stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollState {
    /// Steps begin as they may.
    Running,
    /// A person paused it; lists that had begun are finishing, or have.
    Paused {
        /// Nothing is in flight any more.
        safe: bool,
    },
    /// It ends at the next safe point.
    Aborting,
    /// It failed and waits for the safe point and the plan of its rollback.
    TurningBack,
    /// A failure or an unknown needs a person (`retry`, `settle`, `rollback`, `abort`).
    NeedsPerson {
        /// Nothing is in flight any more.
        safe: bool,
    },
    /// Over.
    Ended(RollResult),
}

/// Why nothing more begins on purpose. An open list: match with a catch-all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum HoldReason {
    /// No session with the agent that must act.
    AgentUnreachable {
        /// Which.
        agent: AgentId,
    },
    /// One more down would break the floor.
    Floor {
        /// Whose.
        component: ComponentName,
        /// Serving now.
        serving: u32,
        /// That must remain.
        min_available: u32,
    },
    /// All places of `parallelism` are taken.
    Parallelism {
        /// Whose.
        component: ComponentName,
        /// Slots at work.
        working: Vec<SlotName>,
        /// The limit.
        limit: u32,
    },
    /// What carried the roll on was killed, and nobody has asked for more since.
    Interrupted,
    /// A person paused the roll.
    Paused {
        /// Who.
        actor: String,
    },
    /// A step failed and the failure action is pause.
    Failed {
        /// Which.
        step: StepId,
        /// For people.
        why: String,
    },
    /// Nobody knows how a step ended.
    Unknown {
        /// Which.
        step: StepId,
        /// For people.
        why: String,
    },
    /// A gate waits for `approve`.
    Gate {
        /// Its name.
        name: String,
    },
    /// The agent has not reported since the coordinator started, so nothing fresh is known.
    NoFreshReport {
        /// Which.
        agent: AgentId,
    },
    /// The journal is older than the fleet (a restored backup).
    OlderThanFleet {
        /// What shows it.
        why: String,
    },
    /// The roll was to be taken back and no way back could be planned.
    NoWayBack {
        /// For people.
        why: String,
    },
    /// Steps in flight are finishing before the roll ends or turns back.
    Finishing {
        /// Which.
        steps: Vec<StepId>,
    },
}

/// A hold: why, since when, until what.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HoldView {
    /// Why.
    pub reason: HoldReason,
    /// What waits: slots, empty for the whole roll.
    pub slots: Vec<SlotName>,
    /// Since when.
    pub since: Timestamp,
    /// How long ago that is.
    #[serde(with = "millis")]
    pub age: Duration,
    /// What would end it, for people: `agent host-b answers again`, `baton resume`.
    pub until: String,
    /// The whole in one sentence.
    pub text: String,
}

/// A step at work or waiting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepView {
    /// Which.
    pub step: StepId,
    /// `drain`, `start`, ...
    pub verb: String,
    /// On what.
    pub instance: Option<InstanceId>,
    /// Its label.
    pub stage: String,
    /// For people, as the agent told last.
    pub text: String,
    /// Work in flight, as last heard.
    pub inflight: Option<u64>,
    /// Since its begin.
    #[serde(with = "millis")]
    pub elapsed: Duration,
    /// What is left of its deadline or grace, where it has one.
    #[serde(with = "option_millis")]
    pub left: Option<Duration>,
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotView {
    /// Which.
    pub slot: SlotName,
    /// Its agent.
    pub agent: AgentId,
    /// Its instances, as last reported.
    pub instances: Vec<InstanceObservation>,
    /// What the roll is doing with it now.
    pub at_work: Option<StepView>,
    /// Its steps done, of its steps in the roll.
    pub done: (u32, u32),
    /// A word for people: `waiting`, `draining`, `starting`, `done`, `failed`, `kept`.
    pub phase: String,
    /// Its last failure in this roll, if any: message and last log lines.
    pub failure: Option<(String, Vec<String>)>,
    /// Drained by hand.
    pub held_drained: bool,
}

/// One agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentView {
    /// Which.
    pub agent: AgentId,
    /// Whether its session is up.
    pub up: bool,
    /// Since when that is so.
    pub since: Timestamp,
    /// How old its last report is.
    #[serde(with = "option_millis")]
    pub report_age: Option<Duration>,
}

/// One roll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollView {
    /// Its random id.
    pub roll: RollId,
    /// Its number.
    pub number: RollNumber,
    /// The verb.
    pub kind: String,
    /// The version it goes to.
    pub version: Option<String>,
    /// The roll that it takes back.
    pub parent: Option<RollId>,
    /// Where it stands.
    pub state: RollState,
    /// Who asked.
    pub actor: String,
    /// Since its begin (until its end).
    #[serde(with = "millis")]
    pub elapsed: Duration,
    /// Steps done, of all.
    pub done: (u32, u32),
    /// The digest of its plan.
    pub plan: crate::model::Digest,
    /// The digest of the manifest that it was planned from.
    pub manifest: crate::model::Digest,
}

/// Everything about a fleet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FleetView {
    /// Which.
    pub fleet: FleetName,
    /// Whose journal this is.
    pub coordinator: Option<CoordinatorId>,
    /// Its incarnation.
    pub term: Term,
    /// The last roll, running or ended.
    pub roll: Option<RollView>,
    /// By name.
    pub slots: Vec<SlotView>,
    /// What waits, and why.
    pub holds: Vec<HoldView>,
    /// By id.
    pub agents: Vec<AgentView>,
}
