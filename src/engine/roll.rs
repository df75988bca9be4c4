//! The state of one roll: where each step stands, and the indexes that say what may begin next.
//!
//! Every index is kept step by step and can be made anew from the steps alone ([`Roll::rebuild`]); a test compares
//! the two. A step is *resolved* when those who wait for it may go on: it is done, or its slot was given up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::RollResult;
use super::graph::{Graph, takes_down};
use crate::model::{
    AgentId, Attempt, Command, CommandId, ComponentName, Endpoint, InstanceId, Ratio, RollId, RollNumber, SlotName,
    StepId, StepKind, Timestamp,
};

/// What the roll as a whole is doing.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Mode {
    Running,
    Paused {
        actor: String,
    },
    Aborting {
        actor: String,
    },
    Superseding {
        actor: String,
    },
    TurningBack {
        why: String,
        actor: Option<String>,
    },
    /// `step`: the failure that stopped it; `None`: no way back was found.
    NeedsPerson {
        step: Option<StepId>,
        why: String,
    },
    Ended(RollResult),
}

/// Where a step stands.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Phase {
    Pending,
    /// At work, or behind another step of its list. `at`: its own begin as far as known: that of its list, or the end
    /// of the step before it.
    Begun {
        at: Timestamp,
        list: Option<CommandId>,
    },
    Done,
    Failed {
        at: Timestamp,
        why: String,
    },
    Unknown {
        at: Timestamp,
        why: String,
    },
}

impl Phase {
    /// For people.
    pub fn word(&self) -> &'static str {
        match self {
            Phase::Pending => "waiting",
            Phase::Begun { .. } => "in flight",
            Phase::Done => "done",
            Phase::Failed { .. } => "failed",
            Phase::Unknown { .. } => "unknown",
        }
    }
}

/// One step's state.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StepState {
    pub attempt: Attempt,
    pub phase: Phase,
    /// Nothing waits for it any more.
    pub resolved: bool,
    /// Steps that it still waits for.
    pub unmet: u32,
    /// Since when it waits for nothing but permission.
    pub ready_since: Timestamp,
}

/// A list that an agent has, or is to have.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct List {
    pub agent: AgentId,
    pub command: Command,
    /// Its steps that have not ended.
    pub open: BTreeSet<StepId>,
}

/// One roll.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Roll {
    pub id: RollId,
    pub number: RollNumber,
    pub graph: Arc<Graph>,
    pub parent: Option<RollId>,
    pub actor: String,
    pub reason: String,
    pub began: Timestamp,
    pub mode: Mode,
    pub mode_since: Timestamp,
    pub steps: Vec<StepState>,
    pub lists: BTreeMap<CommandId, List>,
    /// By slot: the list that its worker has.
    pub busy: Vec<Option<CommandId>>,
    /// Pending steps that wait for no other step.
    pub ready: BTreeSet<StepId>,
    /// Those of them that need no place of a lane, or have it.
    pub free: BTreeSet<StepId>,
    /// Delays at work, by their end.
    pub delays: BTreeSet<(Timestamp, StepId)>,
    /// Gates that wait for a person.
    pub gates: BTreeSet<StepId>,
    pub unknown: BTreeSet<StepId>,
    /// Failures about which nothing was decided yet.
    pub unacted: BTreeSet<StepId>,
    /// Slots given up after a failure that the roll goes on without.
    pub abandoned: BTreeSet<usize>,
    /// Each slot that has failed in this roll, once; survives retries.
    pub failed: BTreeMap<ComponentName, BTreeSet<SlotName>>,
    /// By slot: its unresolved work steps.
    pub work_left: Vec<u32>,
    /// By lane: slots that have a place.
    pub placed: Vec<BTreeSet<usize>>,
    /// By lane: slots that have work left and no place, by their turn.
    pub waiting: Vec<BTreeSet<(usize, usize)>>,
    /// By instance: when its first switch released it, and its grace from then on.
    pub released: BTreeMap<InstanceId, (Timestamp, Duration)>,
    /// Where instances are reached, as told with their start and ready.
    pub endpoints: BTreeMap<InstanceId, Endpoint>,
    /// Unresolved steps.
    pub left: u32,
    pub done: u32,
}

impl Roll {
    pub fn new(
        at: Timestamp,
        id: RollId,
        number: RollNumber,
        graph: Arc<Graph>,
        parent: Option<RollId>,
        actor: String,
        reason: String,
    ) -> Roll {
        let fresh =
            StepState { attempt: Attempt(1), phase: Phase::Pending, resolved: false, unmet: 0, ready_since: at };
        let mut roll = Roll {
            id,
            number,
            parent,
            actor,
            reason,
            began: at,
            mode: Mode::Running,
            mode_since: at,
            steps: vec![fresh; graph.plan.steps.len()],
            lists: BTreeMap::new(),
            busy: vec![None; graph.slots.len()],
            ready: BTreeSet::new(),
            free: BTreeSet::new(),
            delays: BTreeSet::new(),
            gates: BTreeSet::new(),
            unknown: BTreeSet::new(),
            unacted: BTreeSet::new(),
            abandoned: BTreeSet::new(),
            failed: BTreeMap::new(),
            work_left: vec![0; graph.slots.len()],
            placed: vec![BTreeSet::new(); graph.lanes.len()],
            waiting: vec![BTreeSet::new(); graph.lanes.len()],
            released: BTreeMap::new(),
            endpoints: BTreeMap::new(),
            left: 0,
            done: 0,
            graph,
        };
        roll.rebuild(at);
        roll
    }

    pub fn state(&self, id: StepId) -> &StepState {
        &self.steps[id.0 as usize]
    }

    pub fn state_mut(&mut self, id: StepId) -> &mut StepState {
        &mut self.steps[id.0 as usize]
    }

    pub fn is_over(&self) -> bool {
        matches!(self.mode, Mode::Ended(_))
    }

    /// On its way to an end that is not success: what is in flight is called back.
    pub fn is_ending(&self) -> bool {
        matches!(self.mode, Mode::Aborting { .. } | Mode::Superseding { .. } | Mode::TurningBack { .. })
    }

    /// Nothing is in flight on any agent.
    pub fn is_safe(&self) -> bool {
        self.lists.is_empty()
    }

    /// Whether its slots were all given up, so that it will not be carried out.
    pub fn is_given_up(&self, id: StepId) -> bool {
        let owners = &self.graph.node(id).owners;
        !owners.is_empty() && owners.iter().all(|owner| self.abandoned.contains(owner))
    }

    /// Failed steps that the roll does not go on without.
    pub fn blocking_failures(&self) -> impl Iterator<Item = StepId> {
        self.steps
            .iter()
            .enumerate()
            .filter(|(_, state)| matches!(state.phase, Phase::Failed { .. }) && !state.resolved)
            .map(|(place, _)| StepId(place as u32))
    }

    /// Slots that were given up, of components of which more were than `max_failure_ratio` allows.
    pub fn missing(&self) -> Vec<&SlotName> {
        let mut by_component: BTreeMap<&ComponentName, Vec<&SlotName>> = BTreeMap::new();
        for slot in self.abandoned.iter().map(|slot| &self.graph.slots[*slot]) {
            by_component.entry(&slot.component).or_default().push(slot);
        }
        by_component.retain(|component, slots| {
            let limits = self.graph.plan.limits.get(*component);
            let ratio = limits.map_or(Ratio(0), |limits| limits.max_failure_ratio);
            let changed = limits.map_or(1, |limits| limits.changed).max(1);
            ratio.exceeded_by(slots.len(), changed as usize)
        });
        by_component.into_values().flatten().collect()
    }

    /// For people.
    pub fn mode_word(&self) -> String {
        match &self.mode {
            Mode::Running => "running".to_owned(),
            Mode::Paused { actor } => format!("paused by {actor}"),
            Mode::Aborting { .. } => "aborting".to_owned(),
            Mode::Superseding { .. } => "being superseded".to_owned(),
            Mode::TurningBack { .. } => "turning back".to_owned(),
            Mode::NeedsPerson { .. } => "waiting for a person".to_owned(),
            Mode::Ended(result) => result.word().to_owned(),
        }
    }

    pub fn set_mode(&mut self, at: Timestamp, mode: Mode) {
        self.mode = mode;
        self.mode_since = at;
    }

    /// Takes an ended step out of its list; the next one of it is at work from now on.
    pub fn leave_list(&mut self, at: Timestamp, list: &CommandId, id: StepId) {
        let Some(held) = self.lists.get_mut(list) else { return };
        held.open.remove(&id);
        match held.open.first().copied() {
            Some(next) => self.state_mut(next).phase = Phase::Begun { at, list: Some(list.clone()) },
            None => {
                self.lists.remove(list);
                if let Some(slot) = self.graph.node(id).slot {
                    self.busy[slot] = None;
                }
            }
        }
    }

    pub fn step_done(&mut self, at: Timestamp, id: StepId) {
        let was_failed = matches!(self.state(id).phase, Phase::Failed { .. });
        self.state_mut(id).phase = Phase::Done;
        self.unacted.remove(&id);
        if !was_failed {
            self.done += 1;
            self.resolve(at, id);
            return;
        }
        // A person said that a failed step is done after all: the slot is not given up any more.
        let owners = self.graph.node(id).owners.clone();
        for owner in owners {
            let other =
                self.graph.owned[owner].iter().any(|other| matches!(self.state(*other).phase, Phase::Failed { .. }));
            if !other {
                self.abandoned.remove(&owner);
            }
        }
        self.rebuild(at);
        let stopped = matches!(self.mode, Mode::NeedsPerson { .. });
        if stopped && self.blocking_failures().next().is_none() {
            self.set_mode(at, Mode::Running);
        }
    }

    pub fn step_failed(&mut self, at: Timestamp, id: StepId, why: &str) {
        let graph = Arc::clone(&self.graph);
        self.state_mut(id).phase = Phase::Failed { at, why: why.to_owned() };
        for owner in &graph.node(id).owners {
            let slot = &graph.slots[*owner];
            self.failed.entry(slot.component.clone()).or_default().insert(slot.clone());
        }
        if self.is_given_up(id) {
            self.resolve(at, id);
        } else {
            self.unacted.insert(id);
        }
    }

    /// Failed and unknown steps are tried again, as new attempts; slots that were given up take part again. What was
    /// counted stays counted.
    pub fn retry(&mut self, at: Timestamp) {
        let graph = Arc::clone(&self.graph);
        let open = |state: &StepState| matches!(state.phase, Phase::Failed { .. } | Phase::Unknown { .. });
        let mut again: BTreeSet<StepId> = BTreeSet::new();
        for step in graph.plan.steps.iter().filter(|step| open(self.state(step.id))) {
            again.insert(step.id);
            // One that ended while it was waited for or watched is waited for in vain: it is started again first.
            if matches!(step.kind, StepKind::Ready { .. } | StepKind::Soak { .. }) {
                let before = graph.plan.steps.iter().filter(|before| {
                    before.instance == step.instance
                        && before.slot == step.slot
                        && matches!(before.kind, StepKind::Start { .. } | StepKind::Ready { .. })
                        && self.state(before.id).phase == Phase::Done
                });
                again.extend(before.map(|before| before.id));
            }
        }
        for id in again {
            let state = self.state_mut(id);
            state.phase = Phase::Pending;
            state.attempt.0 += 1;
        }
        self.unknown.clear();
        self.unacted.clear();
        self.abandoned.clear();
        self.rebuild(at);
        self.set_mode(at, Mode::Running);
    }

    /// Back to waiting, as a new attempt: the old one's outcomes no longer count.
    pub fn reset(&mut self, at: Timestamp, id: StepId) {
        let given_up = self.is_given_up(id);
        let state = self.state_mut(id);
        state.phase = Phase::Pending;
        state.attempt.0 += 1;
        if state.unmet == 0 && !state.resolved && !given_up {
            state.ready_since = at;
            self.insert_ready(id);
        }
        if given_up {
            self.resolve(at, id);
        }
    }

    /// Remembers when the grace of the instances that a switch releases began.
    pub fn release(&mut self, at: Timestamp, id: StepId) {
        let graph = Arc::clone(&self.graph);
        if let StepKind::Switch { release, grace, .. } = &graph.step(id).kind {
            for instance in release {
                self.released.entry(instance.clone()).or_insert((at, *grace));
            }
        }
    }

    /// A switch that never began released nobody, unless another one did.
    pub fn unrelease(&mut self, id: StepId) {
        let graph = Arc::clone(&self.graph);
        if !matches!(graph.step(id).kind, StepKind::Switch { .. }) {
            return;
        }
        for instance in takes_down(graph.step(id)) {
            let another = graph.down_by.get(instance).into_iter().flatten().any(|other| {
                *other != id
                    && matches!(graph.step(*other).kind, StepKind::Switch { .. })
                    && self.state(*other).phase != Phase::Pending
            });
            if !another {
                self.released.remove(instance);
            }
        }
    }

    /// What is left of an instance's grace, when a switch has begun it.
    pub fn grace_left(&self, now: Timestamp, instance: &InstanceId) -> Option<Duration> {
        self.released.get(instance).map(|(at, grace)| grace.saturating_sub(now.since(*at)))
    }

    /// The first of `id`'s list that has not ended: the one that its agent is at.
    pub fn at_work(&self, list: &CommandId) -> Option<StepId> {
        self.lists.get(list).and_then(|list| list.open.first().copied())
    }

    /// Whether a hook or a job that is still to come waits, through others, for a stop that these slots have not done:
    /// it must not run beside an old instance.
    pub fn exclusive_behind(&self, slots: &[usize]) -> Option<StepId> {
        let mut seen = BTreeSet::new();
        let mut todo: Vec<StepId> = slots
            .iter()
            .flat_map(|slot| &self.graph.owned[*slot])
            .copied()
            .filter(|id| {
                matches!(self.graph.step(*id).kind, StepKind::Stop { .. }) && self.state(*id).phase != Phase::Done
            })
            .collect();
        while let Some(id) = todo.pop() {
            for dependent in &self.graph.node(id).dependents {
                let node = self.graph.node(*dependent);
                let of_these = node.owners.iter().any(|owner| slots.contains(owner));
                if node.exclusive && !of_these && self.state(*dependent).phase != Phase::Done {
                    return Some(*dependent);
                }
                if seen.insert(*dependent) {
                    todo.push(*dependent);
                }
            }
        }
        None
    }
}
