//! The only mutator: what each record does to the state, live and in replay.
//!
//! Whether a record is allowed is judged from facts alone. A note must not matter here: replay sees none.

use std::sync::Arc;

use super::graph::Graph;
use super::known::evidence;
use super::roll::{List, Mode, Phase, Roll};
use super::state::{Engine, Log};
use super::{Key, Record, Request, RollResult, RollSummary};
use crate::model::{
    AgentId, Attempt, Claim, Command, Endpoint, FailureAction, IllegalTransition, Inventory, Plan, PlanKind, ReadyWait,
    Recordable, RollId, RollNumber, StepId, StepKind, StepResult, Timestamp,
};

/// Which effects a record may have changed.
enum Touched {
    Nothing,
    Keys(Vec<Key>),
    All,
}

/// Why a record is not allowed here.
type Refused = String;

pub(super) fn apply(engine: &mut Engine, at: Timestamp, record: &Record) -> Result<Vec<Key>, IllegalTransition> {
    let touched =
        engine.change(at, record).map_err(|why| IllegalTransition { record: record.kind().to_owned(), why })?;
    Ok(match touched {
        Touched::Nothing => Vec::new(),
        Touched::Keys(keys) => engine.sync(keys),
        Touched::All => {
            let mut keys = engine.candidates();
            keys.extend(engine.kept.keys().cloned());
            engine.sync(keys)
        }
    })
}

impl Engine {
    fn change(&mut self, at: Timestamp, record: &Record) -> Result<Touched, Refused> {
        match record {
            Record::TermBegan { claim } => self.term_began(at, claim),
            Record::RollBegan { roll, number, plan, parent, actor, reason } => {
                self.roll_began(at, roll, *number, plan, parent.as_ref(), actor, reason)
            }
            Record::ListBegan { agent, command } => self.list_began(at, agent, command),
            Record::OwnStepBegan { step } => self.own_step_began(at, *step),
            Record::StepEnded { step, attempt, result, endpoint, by } => {
                self.step_ended(at, *step, *attempt, result, endpoint.as_ref(), by.as_deref())
            }
            Record::Asked { request, actor, .. } => self.asked(at, request, actor),
            Record::FailureActed { step, action, why } => self.failure_acted(at, *step, *action, why),
            Record::NoWayBack { why } => {
                let roll = self.at_hand()?;
                if !matches!(roll.mode, Mode::TurningBack { .. }) {
                    return Err(format!("roll {} is {}, not turning back", roll.number, roll.mode_word()));
                }
                roll.set_mode(at, Mode::NeedsPerson { step: None, why: why.clone() });
                Ok(Touched::All)
            }
            Record::RollEnded { roll, result } => self.roll_ended(at, roll, result),
            Record::RollsDisowned { agent, rolls } => {
                self.disowned.entry(agent.clone()).or_default().extend(rolls.iter().cloned());
                Ok(Touched::All)
            }
            Record::FellAsleep => {
                self.asleep = true;
                Ok(Touched::All)
            }
            Record::SessionSeen { agent, up } => {
                self.known.session(at, agent, *up);
                Ok(Touched::Keys(vec![Key::Refresh(agent.clone())]))
            }
            Record::InventorySeen { inventory } => Ok(self.reported(at, inventory)),
            Record::ProgressSeen { progress, .. } => {
                self.progress.insert(progress.step, (at, progress.clone()));
                Ok(Touched::Nothing)
            }
        }
    }

    fn reported(&mut self, at: Timestamp, inventory: &Inventory) -> Touched {
        let agent = &inventory.agent;
        let claim = self.claim.as_ref();
        let older = claim.and_then(|claim| evidence(inventory, claim, &self.nonces, |roll| self.knows(agent, roll)));
        let before = (self.known.has_reported(agent), self.known.older().is_some());
        self.known.report(at, inventory, older);
        // A first report lets lists leave; a sign of age silences everything. Any other one moves little.
        if before == (true, self.known.older().is_some()) {
            Touched::Keys(vec![Key::Refresh(agent.clone()), Key::Forget(agent.clone())])
        } else {
            Touched::All
        }
    }

    fn at_hand(&mut self) -> Result<&mut Roll, Refused> {
        self.roll.as_mut().filter(|roll| !roll.is_over()).ok_or_else(|| "no roll is under way".to_owned())
    }

    fn term_began(&mut self, at: Timestamp, claim: &Claim) -> Result<Touched, Refused> {
        if let Some(before) = &self.claim {
            if before.coordinator != claim.coordinator {
                self.renewed = true;
                self.disowned.clear();
                self.nonces.clear();
            } else if claim.term <= before.term {
                return Err(format!("term {} follows term {}", claim.term, before.term));
            }
        }
        self.nonces.insert(claim.term, claim.nonce.clone());
        self.claim = Some(claim.clone());
        self.term_began = at;
        self.known = Default::default();
        self.progress.clear();
        Ok(Touched::All)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one record")]
    fn roll_began(
        &mut self,
        at: Timestamp,
        id: &RollId,
        number: RollNumber,
        plan: &Plan,
        parent: Option<&RollId>,
        actor: &str,
        reason: &str,
    ) -> Result<Touched, Refused> {
        if let Some(roll) = self.unfinished() {
            return Err(format!("roll {} is {}", roll.number, roll.mode_word()));
        }
        if self.claim.is_none() {
            return Err("no term has begun".to_owned());
        }
        if self.known_rolls.contains_key(id) {
            return Err(format!("roll id {id} is used already"));
        }
        if number != self.next_roll_number() {
            return Err(format!("roll {number} follows roll {}", self.next_roll_number().0 - 1));
        }
        let graph = Arc::new(Graph::new(plan.clone())?);
        let instances = plan
            .changes
            .iter()
            .flat_map(|change| change.old.iter().chain(&change.new))
            .chain(plan.steps.iter().filter_map(|step| step.instance.as_ref()));
        for instance in instances {
            let highest = self.highest.entry(instance.slot.clone()).or_default();
            *highest = instance.number.max(*highest);
        }
        let roll =
            Roll::new(at, id.clone(), number, Arc::clone(&graph), parent.cloned(), actor.to_owned(), reason.to_owned());
        self.known_rolls.insert(id.clone(), self.logs.len());
        self.logs.push(Log { graph, summary: RollSummary::new(&roll) });
        self.roll = Some(roll);
        self.asleep = false;
        self.progress.clear();
        Ok(Touched::All)
    }

    fn list_began(&mut self, at: Timestamp, agent: &AgentId, command: &Command) -> Result<Touched, Refused> {
        let roll = self.at_hand()?;
        let graph = Arc::clone(&roll.graph);
        let Some(first) = command.steps.first() else { return Err("the list is empty".to_owned()) };
        if roll.mode != Mode::Running {
            return Err(format!("roll {} is {}", roll.number, roll.mode_word()));
        }
        if command.id.roll != roll.id || command.id.step != first.step {
            return Err(format!("list {} is not one of roll {} from step {}", command.id, roll.id, first.step));
        }
        let Some(slot) = graph.slot_index(&command.slot) else {
            return Err(format!("slot {} is not in the plan", command.slot));
        };
        if let Some(other) = &roll.busy[slot] {
            return Err(format!("slot {} has list {other}", command.slot));
        }
        for (place, one) in command.steps.iter().enumerate() {
            let Some(step) = graph.plan.step(one.step) else { return Err(format!("there is no step {}", one.step)) };
            let state = roll.state(one.step);
            if state.phase != Phase::Pending || state.resolved {
                return Err(format!("step {} is {}", one.step, state.phase.word()));
            }
            if step.slot.as_ref() != Some(&command.slot) || step.agent.as_ref() != Some(agent) {
                return Err(format!("step {} is not for slot {} on agent {agent}", one.step, command.slot));
            }
            let before = |id: &StepId| command.steps[..place].iter().any(|earlier| earlier.step == *id);
            if let Some(missing) = step.after.iter().find(|id| !roll.state(**id).resolved && !before(id)) {
                return Err(format!("step {} waits for step {missing}", one.step));
            }
        }
        if command.id.attempt != roll.state(first.step).attempt {
            return Err(format!("step {} is at attempt {}", first.step, roll.state(first.step).attempt));
        }
        for one in &command.steps {
            roll.state_mut(one.step).phase = Phase::Begun { at, list: Some(command.id.clone()) };
            roll.remove_ready(one.step);
            roll.take_places(one.step);
            roll.release(at, one.step);
        }
        roll.busy[slot] = Some(command.id.clone());
        let open = command.steps.iter().map(|one| one.step).collect();
        roll.lists.insert(command.id.clone(), List { agent: agent.clone(), command: command.clone(), open });
        Ok(Touched::Keys(vec![Key::List(command.id.clone())]))
    }

    fn own_step_began(&mut self, at: Timestamp, id: StepId) -> Result<Touched, Refused> {
        let roll = self.at_hand()?;
        if roll.mode != Mode::Running {
            return Err(format!("roll {} is {}", roll.number, roll.mode_word()));
        }
        if !roll.ready.contains(&id) {
            return Err(format!("step {id} may not begin"));
        }
        match roll.graph.step(id).kind {
            StepKind::Delay { pause } => {
                roll.delays.insert((at + pause, id));
            }
            StepKind::Gate { .. } => {
                roll.gates.insert(id);
            }
            _ => return Err(format!("step {id} is an agent's")),
        }
        roll.state_mut(id).phase = Phase::Begun { at, list: None };
        roll.remove_ready(id);
        roll.take_places(id);
        Ok(Touched::Nothing)
    }

    fn step_ended(
        &mut self,
        at: Timestamp,
        id: StepId,
        attempt: Attempt,
        result: &StepResult,
        endpoint: Option<&Endpoint>,
        by: Option<&str>,
    ) -> Result<Touched, Refused> {
        let Some(roll) = self.roll.as_mut().filter(|roll| !roll.is_over()) else {
            return Err("no roll is under way".to_owned());
        };
        let Some(planned) = roll.graph.plan.step(id) else { return Err(format!("there is no step {id}")) };
        let planned = planned.clone();
        let state = roll.state(id);
        if state.attempt != attempt {
            return Err(format!("step {id} is at attempt {}, not {attempt}", state.attempt));
        }
        let before = state.phase.clone();
        let failed = matches!(result, StepResult::Failed { .. });
        let allowed = match &before {
            Phase::Begun { list: Some(list), .. } => roll.lists.get(list).is_some_and(|list| list.open.contains(&id)),
            Phase::Begun { list: None, .. } => result.is_done(),
            Phase::Unknown { .. } => result.is_done() || failed,
            Phase::Failed { .. } => result.is_done() && by.is_some(),
            // What the engine itself finds impossible fails without having begun.
            Phase::Pending => failed && by.is_some() && roll.ready.contains(&id),
            Phase::Done => false,
        };
        if !allowed {
            return Err(format!("step {id} is {}", before.word()));
        }
        let began = match &before {
            Phase::Begun { at, .. } | Phase::Unknown { at, .. } => *at,
            _ => at,
        };
        self.logs[self.known_rolls[&roll.id]].summary.step_ended(roll, id, began, at, result, by);

        let mut command = None;
        let mut keys = vec![Key::PlanRollback(roll.id.clone())];
        keys.extend(planned.agent.clone().map(Key::Refresh));
        match before {
            Phase::Begun { list: Some(list), .. } => {
                keys.extend([Key::List(list.clone()), Key::Recall(list.clone())]);
                if matches!(planned.kind, StepKind::Switch { .. }) {
                    command = roll.lists.get(&list).map(|list| list.command.clone());
                }
                roll.leave_list(at, &list, id);
            }
            Phase::Begun { list: None, .. } => {
                roll.delays.retain(|(_, delay)| *delay != id);
                roll.gates.remove(&id);
            }
            Phase::Unknown { .. } => {
                roll.unknown.remove(&id);
            }
            Phase::Pending => {
                roll.remove_ready(id);
            }
            _ => {}
        }
        if let (Some(endpoint), Some(instance)) = (endpoint, &planned.instance) {
            roll.endpoints.insert(instance.clone(), endpoint.clone());
        }
        match result {
            StepResult::Done(_) => roll.step_done(at, id),
            StepResult::Failed { message, .. } => roll.step_failed(at, id, message),
            StepResult::Unknown { why } => {
                roll.state_mut(id).phase = Phase::Unknown { at, why: why.clone() };
                roll.unknown.insert(id);
            }
            StepResult::Skipped(_) => {
                roll.reset(at, id);
                roll.unrelease(id);
            }
        }
        let graph = Arc::clone(&roll.graph);
        self.logs[self.known_rolls[&roll.id]].summary.count(roll);
        self.known.done(&graph, &planned, command.as_ref(), result);
        if let Some(agent) = &planned.agent
            && (graph.node(id).floored || !result.is_done())
            && !matches!(result, StepResult::Skipped(_))
        {
            self.known.want_look(agent);
        }
        self.progress.remove(&id);
        if result.is_done() {
            self.job_step_done(&planned.kind, planned.instance.as_ref());
        }
        Ok(Touched::Keys(keys))
    }

    fn job_step_done(&mut self, kind: &StepKind, instance: Option<&crate::model::InstanceId>) {
        let Some(instance) = instance else { return };
        match kind {
            StepKind::Prepare { spec, .. } => {
                self.prepared.insert(instance.slot.clone(), (instance.number, spec.clone()));
            }
            StepKind::Ready { wait: ReadyWait::Completed, .. } => {
                if let Some((number, spec)) = self.prepared.get(&instance.slot)
                    && *number == instance.number
                {
                    self.completed_jobs.insert(instance.slot.clone(), spec.clone());
                }
            }
            _ => {}
        }
    }

    fn asked(&mut self, at: Timestamp, request: &Request, actor: &str) -> Result<Touched, Refused> {
        let woken = std::mem::take(&mut self.asleep);
        let roll = self.at_hand()?;
        let actor = actor.to_owned();
        let refuse = |roll: &Roll| Err(format!("roll {} is {}", roll.number, roll.mode_word()));
        match request {
            Request::Pause if roll.mode == Mode::Running => roll.set_mode(at, Mode::Paused { actor }),
            // One that was interrupted and neither paused nor stopped goes on as it was.
            Request::Resume => {
                if matches!(roll.mode, Mode::Paused { .. } | Mode::NeedsPerson { .. }) {
                    roll.set_mode(at, Mode::Running);
                }
            }
            Request::Abort if !matches!(roll.mode, Mode::Aborting { .. } | Mode::Superseding { .. }) => {
                roll.set_mode(at, Mode::Aborting { actor });
            }
            Request::Supersede if !matches!(roll.mode, Mode::Aborting { .. } | Mode::Superseding { .. }) => {
                roll.set_mode(at, Mode::Superseding { actor });
            }
            Request::Rollback if !roll.is_ending() && !matches!(roll.graph.plan.kind, PlanKind::Rollback { .. }) => {
                let why = format!("rolled back by {actor}");
                roll.set_mode(at, Mode::TurningBack { why, actor: Some(actor) });
            }
            Request::Retry if !roll.is_ending() => roll.retry(at),
            Request::Settle { step, .. } | Request::Approve { step } => {
                return if roll.graph.plan.step(*step).is_some() {
                    Ok(if woken { Touched::All } else { Touched::Nothing })
                } else {
                    Err(format!("there is no step {step}"))
                };
            }
            _ => return refuse(roll),
        }
        Ok(Touched::All)
    }

    fn failure_acted(
        &mut self,
        at: Timestamp,
        id: StepId,
        action: FailureAction,
        why: &str,
    ) -> Result<Touched, Refused> {
        let roll = self.at_hand()?;
        if roll.mode != Mode::Running || !roll.unacted.remove(&id) {
            return Err(format!("step {id} has no failure to act on"));
        }
        match action {
            FailureAction::Rollback => {
                roll.set_mode(at, Mode::TurningBack { why: why.to_owned(), actor: None });
            }
            FailureAction::Pause => roll.set_mode(at, Mode::NeedsPerson { step: Some(id), why: why.to_owned() }),
            FailureAction::Continue => {
                let owners = roll.graph.node(id).owners.clone();
                roll.give_up(at, &owners);
            }
        }
        if let Some(roll) = &self.roll {
            self.logs[self.known_rolls[&roll.id]].summary.count(roll);
        }
        Ok(Touched::All)
    }

    fn roll_ended(&mut self, at: Timestamp, id: &RollId, result: &RollResult) -> Result<Touched, Refused> {
        let renewed = self.renewed;
        let roll = self.at_hand()?;
        if roll.id != *id {
            return Err(format!("roll {} is under way, not {id}", roll.id));
        }
        // Under a new coordinator id the lists of the one before are nobody's any more.
        let superseded = renewed && matches!(result, RollResult::Superseded { .. });
        if !roll.is_safe() && !superseded {
            return Err(format!("roll {} has lists in flight", roll.number));
        }
        if *result == RollResult::Succeeded && roll.left > 0 {
            return Err(format!("roll {} has {} steps left", roll.number, roll.left));
        }
        roll.set_mode(at, Mode::Ended(result.clone()));
        roll.lists.clear();
        roll.busy.fill(None);
        roll.delays.clear();
        roll.gates.clear();
        let graph = Arc::clone(&roll.graph);
        let place = self.known_rolls[id];
        if let Some(roll) = &self.roll {
            self.logs[place].summary.count(roll);
        }
        self.logs[place].summary.result = Some(result.clone());
        self.logs[place].summary.ended = Some(at);
        self.progress.clear();
        if *result == RollResult::Succeeded {
            let plan = &graph.plan;
            self.succeeded.extend(plan.definitions.iter().map(|(name, digest)| (name.clone(), digest.clone())));
            let versioned = matches!(plan.kind, PlanKind::Up | PlanKind::Restart | PlanKind::Rollback { .. });
            if versioned && plan.version.is_some() {
                self.last_version = plan.version.clone();
            }
        }
        Ok(Touched::All)
    }
}
