//! The engine: its state, what others may ask of it, and its place among the machines.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::graph::{Graph, malformed};
use super::known::{Known, Reach};
use super::roll::{Mode, Phase, Roll};
use super::{BeginError, Effect, Event, FleetView, Key, Record, Request, RequestError, RollState, RollSummary};
use crate::model::{
    AgentId, Claim, Command, ComponentName, Digest, FleetName, IllegalTransition, Inventory, Machine, Plan, PlanKind,
    Progress, RollId, RollNumber, SlotName, StepId, StepKind, Term, Timestamp,
};

/// A roll and what history keeps of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Log {
    pub graph: Arc<Graph>,
    pub summary: RollSummary,
}

/// The roll at hand: begun and not ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Current<'a> {
    /// Its random id.
    pub roll: &'a RollId,
    /// Its number.
    pub number: RollNumber,
    /// What it does.
    pub plan: &'a Plan,
    /// Where it stands.
    pub state: RollState,
    /// The roll that it takes back.
    pub parent: Option<&'a RollId>,
    /// Who asked.
    pub actor: &'a str,
}

/// One fleet's roll as a pure machine. See the module's page for its rules.
#[derive(Clone, Debug, PartialEq)]
pub struct Engine {
    pub(super) fleet: FleetName,
    // === from facts ===
    pub(super) claim: Option<Claim>,
    pub(super) term_began: Timestamp,
    /// By term of this coordinator id: its nonce.
    pub(super) nonces: BTreeMap<Term, String>,
    /// The coordinator id has changed on this journal.
    pub(super) renewed: bool,
    /// By agent: rolls of the coordinator before, reported when it first answered the new one.
    pub(super) disowned: BTreeMap<AgentId, BTreeSet<RollId>>,
    pub(super) logs: Vec<Log>,
    pub(super) known_rolls: BTreeMap<RollId, usize>,
    /// The last roll, under way or ended.
    pub(super) roll: Option<Roll>,
    pub(super) succeeded: BTreeMap<ComponentName, Digest>,
    pub(super) last_version: Option<String>,
    pub(super) completed_jobs: BTreeMap<SlotName, Digest>,
    pub(super) highest: BTreeMap<SlotName, u64>,
    /// By slot: its last prepared instance's number and spec.
    pub(super) prepared: BTreeMap<SlotName, (u64, Digest)>,
    // === from notes ===
    /// Nobody has asked this coordinator for anything yet, and it goes on with nothing by itself.
    pub(super) asleep: bool,
    pub(super) known: Known,
    pub(super) progress: BTreeMap<StepId, (Timestamp, Progress)>,
    // === kept ===
    /// What `outstanding` would say, kept so that `apply` can tell what changed.
    pub(super) kept: BTreeMap<Key, Effect>,
}

impl Engine {
    /// An engine that has seen nothing yet; replay the journal into it, then give it `Event::Started`.
    pub fn new(fleet: FleetName) -> Self {
        Self {
            fleet,
            claim: None,
            term_began: Timestamp::ZERO,
            nonces: BTreeMap::new(),
            renewed: false,
            disowned: BTreeMap::new(),
            logs: Vec::new(),
            known_rolls: BTreeMap::new(),
            roll: None,
            succeeded: BTreeMap::new(),
            last_version: None,
            completed_jobs: BTreeMap::new(),
            highest: BTreeMap::new(),
            prepared: BTreeMap::new(),
            asleep: false,
            known: Known::default(),
            progress: BTreeMap::new(),
            kept: BTreeMap::new(),
        }
    }

    // === what may be asked ===

    /// Whether a roll with this plan may begin now.
    ///
    /// # Errors
    /// Why not; nothing has been touched.
    pub fn may_begin(&self, plan: &Plan) -> Result<(), BeginError> {
        if self.claim.is_none() {
            return Err(BeginError::NotStarted);
        }
        if let Some(why) = self.known.older() {
            return Err(BeginError::OlderThanFleet { why: why.to_owned() });
        }
        if let Some(roll) = self.unfinished() {
            return Err(BeginError::Unfinished {
                roll: roll.id.clone(),
                number: roll.number,
                kind: roll.graph.plan.kind.to_string(),
                actor: roll.actor.clone(),
                state: roll.mode_word(),
            });
        }
        if plan.fleet != self.fleet {
            return Err(BeginError::WrongFleet { ours: self.fleet.clone(), theirs: plan.fleet.clone() });
        }
        match malformed(plan) {
            Some(why) => Err(BeginError::Malformed { why }),
            None => Ok(()),
        }
    }

    /// Whether this may be asked of the roll at hand.
    ///
    /// # Errors
    /// Why not; nothing has been touched.
    pub fn may(&self, request: &Request) -> Result<(), RequestError> {
        let roll = self.roll.as_ref().ok_or(RequestError::NoRoll)?;
        let number = roll.number;
        if let Mode::Ended(result) = &roll.mode {
            let result = result.word().to_owned();
            return Err(RequestError::Ended { roll: roll.id.clone(), number, result });
        }
        if let Some(why) = self.known.older() {
            return Err(RequestError::OlderThanFleet { why: why.to_owned() });
        }
        let ending = || RequestError::Ending { number, state: roll.mode_word() };
        match request {
            Request::Pause => match &roll.mode {
                Mode::Running => Ok(()),
                Mode::Paused { actor } => Err(RequestError::AlreadyPaused { number, actor: actor.clone() }),
                Mode::NeedsPerson { why, .. } => Err(RequestError::NeedsPerson { number, why: why.clone() }),
                _ => Err(ending()),
            },
            Request::Resume => match &roll.mode {
                Mode::Paused { .. } => Ok(()),
                // No way back was found and nothing has failed: going on is the only way there is.
                Mode::NeedsPerson { why, .. } => {
                    if roll.unknown.is_empty() && roll.blocking_failures().next().is_none() {
                        Ok(())
                    } else {
                        Err(RequestError::NeedsPerson { number, why: why.clone() })
                    }
                }
                _ if self.asleep => Ok(()),
                Mode::Running => Err(RequestError::NotPaused { number, state: roll.mode_word() }),
                _ => Err(ending()),
            },
            Request::Abort | Request::Supersede => match &roll.mode {
                Mode::Aborting { .. } | Mode::Superseding { .. } => Err(ending()),
                _ => Ok(()),
            },
            Request::Rollback => match &roll.mode {
                _ if matches!(roll.graph.plan.kind, PlanKind::Rollback { .. }) => {
                    Err(RequestError::RollbackOfRollback { number })
                }
                _ if roll.is_ending() => Err(ending()),
                _ => Ok(()),
            },
            Request::Retry => {
                if roll.is_ending() {
                    return Err(ending());
                }
                let any =
                    roll.steps.iter().any(|state| matches!(state.phase, Phase::Failed { .. } | Phase::Unknown { .. }));
                if any { Ok(()) } else { Err(RequestError::NothingToRetry { number }) }
            }
            Request::Settle { step, done } => self.may_settle(roll, *step, *done),
            Request::Approve { step } => {
                let planned = roll.graph.plan.step(*step).ok_or(RequestError::UnknownStep { number, step: *step })?;
                let StepKind::Gate { name } = &planned.kind else {
                    return Err(RequestError::NotAGate { step: *step, verb: planned.kind.verb().to_owned() });
                };
                if roll.gates.contains(step) && !roll.is_ending() {
                    return Ok(());
                }
                let state = roll.state(*step).phase.word().to_owned();
                Err(RequestError::GateNotWaiting { step: *step, name: name.clone(), state })
            }
        }
    }

    fn may_settle(&self, roll: &Roll, step: StepId, done: bool) -> Result<(), RequestError> {
        if roll.graph.plan.step(step).is_none() {
            return Err(RequestError::UnknownStep { number: roll.number, step });
        }
        let phase = &roll.state(step).phase;
        let settleable = match phase {
            Phase::Unknown { .. } => true,
            Phase::Failed { .. } => done,
            // A host that is gone for good would otherwise keep the roll from ever reaching its safe point.
            Phase::Begun { list: Some(list), .. } => {
                roll.at_work(list) == Some(step)
                    && roll.lists.get(list).is_some_and(|list| {
                        matches!(self.known.reach(&list.agent, self.term_began), Reach::Lost(_) | Reach::NoReport(_))
                    })
            }
            _ => false,
        };
        if settleable { Ok(()) } else { Err(RequestError::NotSettleable { step, state: phase.word().to_owned() }) }
    }

    // === what is known ===

    /// What people see.
    pub fn view(&self, now: Timestamp) -> FleetView {
        super::look::fleet_view(self, now)
    }

    /// Every roll of the journal, oldest first.
    pub fn summaries(&self) -> Vec<RollSummary> {
        self.logs.iter().map(|log| log.summary.clone()).collect()
    }

    /// The newest rolls of the journal, newest first: only those are copied.
    pub fn newest_summaries(&self, limit: usize) -> Vec<RollSummary> {
        self.logs.iter().rev().take(limit).map(|log| log.summary.clone()).collect()
    }

    /// All rolls of the journal with their plans, oldest first, to look at.
    pub fn rolls(&self) -> impl DoubleEndedIterator<Item = (&RollSummary, &Plan)> {
        self.logs.iter().map(|log| (&log.summary, &log.graph.plan))
    }

    /// One roll of the journal.
    pub fn summary_of(&self, roll: &RollId) -> Option<&RollSummary> {
        self.known_rolls.get(roll).map(|place| &self.logs[*place].summary)
    }

    /// The plan of any roll of the journal.
    pub fn plan_of(&self, roll: &RollId) -> Option<&Plan> {
        self.known_rolls.get(roll).map(|place| &self.logs[*place].graph.plan)
    }

    /// The roll at hand, if one is unfinished.
    pub fn current(&self) -> Option<Current<'_>> {
        self.unfinished().map(|roll| Current {
            roll: &roll.id,
            number: roll.number,
            plan: &roll.graph.plan,
            state: super::look::roll_state(self, roll),
            parent: roll.parent.as_ref(),
            actor: &roll.actor,
        })
    }

    /// By slot: the highest instance number that the journal knows.
    pub fn highest_instances(&self) -> BTreeMap<SlotName, u64> {
        self.highest.clone()
    }

    /// By component: its definition as of its last roll that succeeded.
    pub fn succeeded(&self) -> BTreeMap<ComponentName, Digest> {
        self.succeeded.clone()
    }

    /// The version of the last `up`, `restart` or `rollback` that succeeded and had one.
    pub fn last_version(&self) -> Option<String> {
        self.last_version.clone()
    }

    /// By slot: the spec with which its job last ended with 0.
    pub fn completed_jobs(&self) -> BTreeMap<SlotName, Digest> {
        self.completed_jobs.clone()
    }

    /// What each agent last reported in this term, brought up to date by outcomes since.
    pub fn inventories(&self) -> &BTreeMap<AgentId, Inventory> {
        &self.known.inventories
    }

    /// Who coordinates; `None` before the first term.
    pub fn claim(&self) -> Option<&Claim> {
        self.claim.as_ref()
    }

    /// The term at hand; 0 before the first.
    pub fn term(&self) -> Term {
        self.claim.as_ref().map_or(Term(0), |claim| claim.term)
    }

    /// The fleet.
    pub fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// Every roll id of the journal.
    pub fn known_rolls(&self) -> impl Iterator<Item = &RollId> {
        self.known_rolls.keys()
    }

    /// The number that the next roll gets.
    pub fn next_roll_number(&self) -> RollNumber {
        RollNumber(self.logs.last().map_or(0, |log| log.summary.number.0) + 1)
    }

    /// What shows that the journal is older than the fleet, if anything does: then nothing may begin or go on.
    pub fn older(&self) -> Option<&str> {
        self.known.older()
    }

    /// Whether outcomes may be acknowledged: not while the journal is older than the fleet, because what it would
    /// write down is not what the agents have done.
    pub fn acknowledges(&self) -> bool {
        self.known.older().is_none()
    }

    // === for the other files of this room ===

    pub(super) fn unfinished(&self) -> Option<&Roll> {
        self.roll.as_ref().filter(|roll| !roll.is_over())
    }

    /// Whether a roll that an agent knows is no stranger.
    pub(super) fn knows(&self, agent: &AgentId, roll: &RollId) -> bool {
        self.known_rolls.contains_key(roll)
            || match self.disowned.get(agent) {
                Some(rolls) => rolls.contains(roll),
                // Its first report under a new coordinator id: whatever it brings is history of the one before.
                None => self.renewed,
            }
    }

    /// Recomputes the effects of these keys and returns those that are not as they were.
    pub(super) fn sync(&mut self, keys: impl IntoIterator<Item = Key>) -> Vec<Key> {
        let mut changed = Vec::new();
        for key in keys {
            let now = self.effect(&key);
            if self.kept.get(&key) == now.as_ref() {
                continue;
            }
            match now {
                Some(effect) => self.kept.insert(key.clone(), effect),
                None => self.kept.remove(&key),
            };
            changed.push(key);
        }
        changed
    }

    /// Every key that could have an effect now.
    pub(super) fn candidates(&self) -> BTreeSet<Key> {
        let mut keys = BTreeSet::new();
        for agent in self.known.inventories.keys() {
            keys.insert(Key::Forget(agent.clone()));
        }
        if let Some(roll) = self.unfinished() {
            keys.insert(Key::PlanRollback(roll.id.clone()));
            for list in roll.lists.keys() {
                keys.insert(Key::List(list.clone()));
                keys.insert(Key::Recall(list.clone()));
            }
            for agent in &roll.graph.agents {
                keys.insert(Key::Refresh(agent.clone()));
            }
        }
        keys
    }

    #[cfg(test)]
    pub(super) fn kept(&self) -> &BTreeMap<Key, Effect> {
        &self.kept
    }
}

impl Machine for Engine {
    type Event = Event;
    type Record = Record;
    type Key = Key;
    type Effect = Effect;

    /// The records of the event itself. What follows from them (steps that may now begin, a failure's action, the end
    /// of the roll) comes from `Event::Tick`: after each event the driver repeats it until it returns nothing.
    fn decide(&self, now: Timestamp, event: &Event) -> Vec<Record> {
        super::decide::decide(self, now, event)
    }

    fn apply(&mut self, at: Timestamp, record: &Record) -> Result<Vec<Key>, IllegalTransition> {
        super::apply::apply(self, at, record)
    }

    fn effect(&self, key: &Key) -> Option<Effect> {
        // A journal older than the fleet says nothing to anybody: what it would repeat may have been taken back since.
        if self.known.older().is_some() {
            return None;
        }
        match key {
            Key::List(id) => {
                let roll = self.unfinished()?;
                let list = roll.lists.get(id)?;
                // One that its agent never got would begin now. What it has got it finishes without being told again.
                if self.asleep && !roll.is_ending() {
                    return None;
                }
                // After a start nothing is sent before the agent's report: only it can show that this journal is old.
                let command = Command { term: self.term(), ..list.command.clone() };
                self.known.has_reported(&list.agent).then(|| Effect::Send { agent: list.agent.clone(), command })
            }
            Key::Recall(id) => {
                let roll = self.unfinished()?;
                let list = roll.lists.get(id)?;
                (roll.is_ending() && self.known.has_reported(&list.agent))
                    .then(|| Effect::Recall { agent: list.agent.clone(), command: id.clone() })
            }
            Key::PlanRollback(id) => {
                let roll = self.unfinished()?;
                let wanted = roll.id == *id && roll.is_safe() && matches!(roll.mode, Mode::TurningBack { .. });
                (wanted && !self.asleep).then(|| Effect::PlanRollback { roll: id.clone() })
            }
            Key::Refresh(agent) => {
                let roll = self.unfinished()?;
                let note = self.known.agents.get(agent);
                let wanted = roll.graph.agents.contains(agent)
                    && note.is_none_or(|note| note.wants_look || note.reported.is_none());
                wanted.then(|| Effect::Refresh { agent: agent.clone() })
            }
            Key::Forget(agent) => {
                let at_hand = self.unfinished().map(|roll| &roll.id);
                let rolls: Vec<RollId> = self
                    .known
                    .inventories
                    .get(agent)?
                    .rolls
                    .iter()
                    .filter(|roll| Some(*roll) != at_hand && self.knows(agent, roll))
                    .cloned()
                    .collect();
                (!rolls.is_empty()).then(|| Effect::Forget { agent: agent.clone(), rolls })
            }
        }
    }

    fn outstanding(&self) -> BTreeMap<Key, Effect> {
        self.candidates().into_iter().filter_map(|key| Some((key.clone(), self.effect(&key)?))).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        let roll = self.unfinished()?;
        if self.known.older().is_some() || roll.is_ending() {
            return None;
        }
        roll.delays.first().map(|(due, _)| *due)
    }

    fn forget_notes(&mut self) {
        self.asleep = false;
        self.known = Known::default();
        self.progress.clear();
        self.kept = self.outstanding();
    }
}
