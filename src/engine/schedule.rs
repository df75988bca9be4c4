//! What may begin now, and what holds back the rest: one walk for both, so that `view` never tells another story than
//! `decide`.

use std::collections::BTreeSet;

use super::Record;
use super::act::NoAct;
use super::budget::{Broken, Budget};
use super::known::{Known, Reach};
use super::roll::Roll;
use crate::model::{
    AgentId, Command, CommandId, CommandStep, FailureKind, StepId, StepKind, StepResult, Term, Timestamp,
};

/// What holds back a step that waits for no other step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Block {
    /// Its agent's session is lost, or it has not reported.
    Agent(AgentId),
    /// A floor would break.
    Floor(Broken),
    /// All places of its lane are taken.
    Places(usize),
    /// Its slot's worker has another list, or its turn in the lane has not come.
    Turn,
}

/// What may begin now, and what may not.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Schedule {
    pub begins: Vec<Record>,
    pub blocked: Vec<(StepId, Block)>,
}

struct Scan<'a> {
    roll: &'a Roll,
    known: &'a Known,
    now: Timestamp,
    term: Term,
    term_began: Timestamp,
    budget: Budget<'a>,
    /// Slots that got a list in this walk.
    busy: BTreeSet<usize>,
    /// Slots that got a place in this walk.
    placed: BTreeSet<usize>,
    found: Schedule,
}

/// Walks the steps that wait for nothing else: O(of those), not of the plan.
pub(super) fn schedule(roll: &Roll, known: &Known, now: Timestamp, term: Term, term_began: Timestamp) -> Schedule {
    let mut scan = Scan {
        roll,
        known,
        now,
        term,
        term_began,
        budget: Budget::new(roll, known, term_began),
        busy: BTreeSet::new(),
        placed: BTreeSet::new(),
        found: Schedule::default(),
    };
    for step in &roll.free {
        if let Err(block) = scan.begin(*step) {
            scan.found.blocked.push((*step, block));
        }
    }
    for lane in 0..roll.graph.lanes.len() {
        scan.give_places(lane);
    }
    scan.found
}

impl Scan<'_> {
    /// Whether the step is work of a slot that shares places and has none yet.
    fn needs_place(&self, id: StepId) -> bool {
        let node = self.roll.graph.node(id);
        node.work && node.owners.iter().any(|owner| self.lacks_place(*owner))
    }

    fn lacks_place(&self, slot: usize) -> bool {
        self.roll.lacks_place(slot) && !self.placed.contains(&slot)
    }

    /// Gives free places in the lane's order. A slot that is held by its agent or by the floor is passed over: what
    /// comes after it may be what lifts the floor again. One that waits for another step keeps its turn.
    fn give_places(&mut self, lane: usize) {
        let graph = &self.roll.graph;
        let limit = graph.lanes[lane].limit;
        let mut waits_in_turn = false;
        for (_, slot) in &self.roll.waiting[lane] {
            if !self.lacks_place(*slot) {
                continue;
            }
            let next =
                graph.owned[*slot].iter().copied().find(|id| graph.node(*id).work && !self.roll.state(*id).resolved);
            let Some(next) = next else { continue };
            let ready = self.roll.ready.contains(&next);
            if !ready {
                // What it waits for may itself hang on a lost agent; then the others need not wait with it.
                let lost = graph
                    .agent_of
                    .get(&graph.slots[*slot])
                    .is_some_and(|agent| self.known.reach(agent, self.term_began) != Reach::Good);
                waits_in_turn |= !lost;
                continue;
            }
            let taken = self.roll.placed[lane].len() + self.placed_in(lane);
            let wanted: Vec<usize> =
                graph.node(next).owners.iter().copied().filter(|owner| self.lacks_place(*owner)).collect();
            // A step for more slots than there are places goes when nobody else is at work.
            let room = wanted.len() <= limit.saturating_sub(taken) || taken == 0;
            if !room {
                self.found.blocked.push((next, Block::Places(lane)));
                break;
            }
            if waits_in_turn {
                self.found.blocked.push((next, Block::Turn));
                continue;
            }
            self.placed.extend(&wanted);
            if let Err(block) = self.begin(next) {
                for slot in &wanted {
                    self.placed.remove(slot);
                }
                waits_in_turn |= block == Block::Turn;
                self.found.blocked.push((next, block));
            }
        }
    }

    fn placed_in(&self, lane: usize) -> usize {
        self.placed.iter().filter(|slot| self.roll.graph.lane_of[**slot] == Some(lane)).count()
    }

    fn begin(&mut self, id: StepId) -> Result<(), Block> {
        let graph = &self.roll.graph;
        let (step, node) = (graph.step(id), graph.node(id));
        let (Some(agent), Some(slot)) = (&step.agent, node.slot) else {
            self.found.begins.push(Record::OwnStepBegan { step: id });
            return Ok(());
        };
        if self.roll.busy[slot].is_some() || self.busy.contains(&slot) {
            return Err(Block::Turn);
        }
        if self.known.reach(agent, self.term_began) != Reach::Good {
            return Err(Block::Agent(agent.clone()));
        }
        let first = match self.roll.command_step(self.now, self.known, self.term_began, step) {
            Ok(first) => first,
            Err(NoAct::Unreported(agent)) => return Err(Block::Agent(agent)),
            Err(NoAct::Impossible(message)) => {
                self.found.begins.push(Record::StepEnded {
                    step: id,
                    attempt: self.roll.state(id).attempt,
                    result: StepResult::Failed {
                        kind: FailureKind::Missing,
                        retryable: true,
                        message,
                        log: Vec::new(),
                    },
                    endpoint: None,
                    by: Some("baton".to_owned()),
                });
                return Ok(());
            }
        };
        self.budget.take(step).map_err(Block::Floor)?;
        let steps = self.extend(id, first);
        self.busy.insert(slot);
        let command = Command {
            id: CommandId { roll: self.roll.id.clone(), step: id, attempt: self.roll.state(id).attempt },
            term: self.term,
            slot: graph.slots[slot].clone(),
            steps,
        };
        self.found.begins.push(Record::ListBegan { agent: agent.clone(), command });
        Ok(())
    }

    /// The list that begins with this step: the slot's next ones, as long as each waits only for what is done or in
    /// the list, and may begin by every limit. A switch and a hook go alone.
    fn extend(&mut self, first: StepId, command_step: CommandStep) -> Vec<CommandStep> {
        let graph = &self.roll.graph;
        let alone = |kind: &StepKind| matches!(kind, StepKind::Switch { .. } | StepKind::Run { .. });
        let mut list = vec![command_step];
        if alone(&graph.step(first).kind) {
            return list;
        }
        let mut last = first;
        while let Some(id) = graph.node(last).next {
            let step = graph.step(id);
            let state = self.roll.state(id);
            last = id;
            if state.resolved {
                continue;
            }
            let free = state.phase == super::roll::Phase::Pending
                && step
                    .after
                    .iter()
                    .all(|before| self.roll.state(*before).resolved || list.iter().any(|one| one.step == *before));
            if !free || alone(&step.kind) || self.needs_place(id) {
                break;
            }
            let Ok(next) = self.roll.command_step(self.now, self.known, self.term_began, step) else { break };
            if self.budget.take(step).is_err() {
                break;
            }
            list.push(next);
        }
        list
    }
}
