//! What a worker knows: the ledger's facts about its slot, and the notes of this life of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::{ActError, ActKind};
use crate::model::{
    Act, Admission, Command, CommandId, CommandStep, ComponentName, Digest, DrainStart, Endpoint, ExitStatus,
    InstanceId, InstanceObservation, Progress, RollId, SlotName, StepId, StepResult, TableTarget, Timestamp,
};

/// One slot as a pure machine: carries out lists of steps, one list at a time.
///
/// The driver calls `decide` for each event and applies the records, then `decide` with [`super::Event::Tick`] until
/// there are none; facts are synced before any effect leaves.
#[derive(Clone, Debug, PartialEq)]
pub struct Worker {
    pub(super) slot: SlotName,
    pub(super) facts: Facts,
    pub(super) notes: Notes,
}

/// What replay of the ledger gives.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Facts {
    /// Every list that has not been forgotten.
    pub commands: BTreeMap<CommandId, Entry>,
    /// The one that has a step without outcome.
    pub current: Option<CommandId>,
    /// Rolls that are over, with outcomes that nobody has acknowledged yet.
    pub forgotten: BTreeSet<RollId>,
    /// By instance, until it is retired.
    pub known: BTreeMap<InstanceId, Known>,
    /// Drained by hand.
    pub held: bool,
    /// A gateway's tables.
    pub table: BTreeMap<ComponentName, Vec<TableTarget>>,
    /// Of which of its instances they are; `None`: it was not known.
    pub table_of: Option<InstanceId>,
    /// The highest instance number ever named in a list.
    pub highest: u64,
}

/// A list and what came of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Entry {
    pub command: Command,
    pub recalled: bool,
    pub outcomes: BTreeMap<StepId, Ending>,
}

/// One step's end.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ending {
    pub result: StepResult,
    pub endpoint: Option<Endpoint>,
    pub acknowledged: bool,
}

/// What the ledger says of an instance.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    /// What asks whether it is ready, where its list had a probe.
    pub probe: Option<Digest>,
    /// Its readiness is weak: running counts as ready.
    pub weak: bool,
    /// A job: ready means that it ended with 0.
    pub job: bool,
    /// What begins its drain.
    pub begin: Option<DrainStart>,
    /// Told by a step; else the runtime's word counts.
    pub admission: Option<Admission>,
    /// Its drain (or its stop) began.
    pub drain: Option<DrainFact>,
    /// Signals sent since its last start.
    pub signals: BTreeSet<String>,
    /// Started by a step and not stopped since.
    pub started: bool,
}

/// The begin of a drain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct DrainFact {
    pub began: Timestamp,
    pub kill_at: Timestamp,
}

/// What only this life of the agent knows.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Notes {
    /// Lists that this life accepted: only their hooks may be run.
    pub fresh: BTreeSet<CommandId>,
    /// Outcomes to be told once more, though acknowledged.
    pub retell: BTreeSet<(CommandId, StepId)>,
    /// The number of the last look.
    pub looks: u64,
    /// Whether it has not been answered.
    pub looking: bool,
    /// It was asked for before the present phase began: its answer may be older than what was done since.
    pub stale: bool,
    /// The last answer.
    pub seen: BTreeMap<InstanceId, InstanceObservation>,
    /// By probed instance.
    pub probes: BTreeMap<InstanceId, ProbeNote>,
    /// Work in flight as last read, or why nobody knows it.
    pub inflight: BTreeMap<InstanceId, Result<u64, String>>,
    /// Main processes that ended.
    pub exits: BTreeMap<InstanceId, (ExitStatus, Vec<String>)>,
    /// The identity with which an instance got ready: a soak compares with it.
    pub identity: BTreeMap<InstanceId, Identity>,
    /// The step at work.
    pub work: Option<Work>,
}

/// What tells one life of a main process from the next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Identity {
    pub pid: Option<u32>,
    pub restarts: u32,
}

/// How the probes of an instance have been going.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct ProbeNote {
    pub ready: bool,
    /// Nobody could be asked.
    pub lost: bool,
    /// Equal verdicts in a row; 0 while nobody could be asked.
    pub run: u32,
    pub text: String,
    /// The instance's log lines, as last told since it was ready.
    pub log: Vec<String>,
}

/// How far the step at work is. Its names are the worker's own and are never written to a ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// It has begun; a look tells whether it is so already, and whether the precondition holds.
    Precheck,
    /// This act is under way.
    Act(ActKind),
    /// The act's outcome is unknown: a look settles it.
    Verify,
    /// Waiting for what the step waits for.
    Wait,
    /// A switch: the wait for zero is over, connections are being closed.
    Close,
}

/// The step at work.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Work {
    pub step: StepId,
    pub began: Timestamp,
    pub phase: Phase,
    pub phase_at: Timestamp,
    /// A look was answered in this phase.
    pub fresh: bool,
    /// When a look was answered last.
    pub looked_at: Option<Timestamp>,
    /// The last look failed.
    pub unseen: Option<(Timestamp, String)>,
    /// The act of this phase ended.
    pub acted: Option<(Timestamp, Result<Option<Endpoint>, ActError>)>,
    /// The error that a look has to settle, or after which the same act is tried again.
    pub error: Option<ActError>,
    /// Seen running under one identity: first and last.
    pub steady: Option<(Timestamp, Timestamp)>,
    /// It restarted while it was watched: in words.
    pub changed: Option<(Timestamp, String)>,
    /// So many looks in a row did not find it running.
    pub gone: u32,
    /// It had to be killed.
    pub killed: bool,
    /// What the gateway said.
    pub gateway: Option<GatewayNote>,
    /// What people were told last, and when.
    pub progress: Option<(Timestamp, Progress)>,
}

/// How far a switch is.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct GatewayNote {
    pub in_use: Option<Timestamp>,
    pub inflight: u64,
    pub closed: u64,
    pub text: String,
}

impl Work {
    pub(super) fn new(step: StepId, at: Timestamp) -> Self {
        Self {
            step,
            began: at,
            phase: Phase::Precheck,
            phase_at: at,
            fresh: false,
            looked_at: None,
            unseen: None,
            acted: None,
            error: None,
            steady: None,
            changed: None,
            gone: 0,
            killed: false,
            gateway: None,
            progress: None,
        }
    }
}

impl Entry {
    /// The first step without outcome: the one at work or next.
    pub(super) fn next(&self) -> Option<&CommandStep> {
        self.command.steps.iter().find(|step| !self.outcomes.contains_key(&step.step))
    }

    pub(super) fn finished(&self) -> bool {
        self.next().is_none()
    }

    pub(super) fn acknowledged(&self) -> bool {
        self.outcomes.values().all(|ending| ending.acknowledged)
    }
}

impl Facts {
    pub(super) fn known(&self, instance: &InstanceId) -> Option<&Known> {
        self.known.get(instance)
    }

    pub(super) fn drain(&self, instance: &InstanceId) -> Option<DrainFact> {
        self.known.get(instance).and_then(|known| known.drain)
    }
}

impl Worker {
    /// A worker that knows nothing yet of its slot.
    pub fn new(slot: SlotName) -> Self {
        Self { slot, facts: Facts::default(), notes: Notes::default() }
    }

    /// The slot that it works on.
    pub fn slot(&self) -> &SlotName {
        &self.slot
    }

    /// Work in flight of an instance, where it is known.
    pub(super) fn in_flight(&self, instance: &InstanceId) -> Option<u64> {
        self.notes.inflight.get(instance)?.as_ref().ok().copied()
    }

    /// The list under way.
    pub(super) fn entry(&self) -> Option<&Entry> {
        self.facts.current.as_ref().and_then(|id| self.facts.commands.get(id))
    }

    /// The list under way, the step at work in it, and how far it is.
    pub(super) fn at_work(&self) -> Option<(&Entry, &CommandStep, &Work)> {
        let entry = self.entry()?;
        let step = entry.next()?;
        let work = self.notes.work.as_ref().filter(|work| work.step == step.step)?;
        Some((entry, step, work))
    }
}

/// The probe that a step asks for while it waits: the instance and its definition.
pub(super) fn probed(act: &Act) -> Option<(&InstanceId, &Digest)> {
    match act {
        Act::Ready { instance, definition, wait: crate::model::ReadyWait::Probe { .. } }
        | Act::Soak { instance, definition, probed: true, .. } => Some((instance, definition)),
        _ => None,
    }
}

/// How often a failed look or act is tried again.
pub(super) const RETRY: Duration = Duration::from_millis(250);
/// How often an instance is looked at while its steadiness counts: a crash that its keeper mends within this time is
/// still seen by its restart count.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(500);
