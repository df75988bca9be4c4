//! What an operator does: the moves of the scenario, and what a roll that waits for a person asks for.

use std::time::Duration;

use super::scenario::Move;
use super::simulation::{Item, Simulation};
use crate::engine::{self, HoldReason, Request, RollState};
use crate::model::{Definition, Digest, Plan, StepId, StepKind, Timestamp};
use crate::runtime::fake::Happening;
use std::collections::BTreeMap;

/// How often a person looks.
const LOOKS_EVERY: Duration = Duration::from_millis(100);
/// How long a person waits for Baton to get on by itself.
const PATIENCE: Duration = Duration::from_secs(45);

/// An operator.
#[derive(Clone, Debug, Default)]
pub(super) struct Person {
    moves: Vec<Move>,
    at: usize,
    plan: Option<(Box<Plan>, BTreeMap<Digest, Definition>)>,
    /// How many rolls there were before.
    rolls: usize,
    paused: Option<Timestamp>,
    waits: Option<Timestamp>,
    busy: bool,
}

impl Person {
    pub(super) fn new(moves: Vec<Move>, plan: Plan, definitions: BTreeMap<Digest, Definition>, rolls: usize) -> Self {
        let plan = Some((Box::new(plan), definitions));
        Self { moves, at: 0, plan, rolls, paused: None, waits: None, busy: true }
    }

    /// Has done everything.
    pub(super) fn is_done(&self) -> bool {
        self.at >= self.moves.len()
    }
}

impl Simulation {
    pub(super) fn act_as_person(&mut self) {
        let now = self.now;
        if self.person.busy {
            self.put(now + LOOKS_EVERY, Item::Person);
        }
        if self.coordinator.node().is_none() {
            return;
        }
        match self.person.moves.get(self.person.at).cloned() {
            Some(Move::Begin) => self.ask_for_roll(),
            Some(Move::Pause { ended }) => self.pause(ended),
            Some(Move::Resume { after }) => self.resume(after),
            None => {}
        }
        self.help();
    }

    fn ask(&mut self, request: Request) {
        let may = self.coordinator.node().is_some_and(|node| node.engine().may(&request).is_ok());
        if may {
            self.note(|_| format!("person: {request:?}"));
            let (actor, reason) = ("person".to_owned(), String::new());
            self.engine_hears(engine::Event::Operator { request, actor, reason });
        }
    }

    fn ask_for_roll(&mut self) {
        let Some(node) = self.coordinator.node() else { return };
        if node.engine().known_rolls().count() > self.person.rolls {
            self.person.at += 1;
            return;
        }
        let Some((plan, definitions)) = self.person.plan.clone() else { return };
        if node.engine().may_begin(&plan).is_err() {
            return;
        }
        let Some(roll) = self.next_roll() else { return };
        // Kept before a record names them.
        self.coordinator.specs.extend(definitions);
        self.note(|_| format!("person: begins {roll}"));
        let (actor, reason) = ("person".to_owned(), String::new());
        self.engine_hears(engine::Event::RollRequested { roll, plan, actor, reason });
    }

    fn pause(&mut self, ended: usize) {
        let now = self.now;
        let Some(engine) = self.coordinator.node().map(|node| node.engine()) else { return };
        match engine.current().map(|current| current.state) {
            Some(RollState::Paused { .. }) => {
                self.person.paused = Some(now);
                self.person.at += 1;
            }
            Some(RollState::Running) => {
                let done = engine.view(now).roll.map_or(0, |roll| roll.done.0);
                if done as usize >= ended {
                    self.ask(Request::Pause);
                }
            }
            Some(_) => {}
            None => self.person.at += 1,
        }
    }

    fn resume(&mut self, after: Duration) {
        let now = self.now;
        let state = self.coordinator.node().and_then(|node| node.engine().current()).map(|current| current.state);
        match state {
            Some(RollState::Paused { .. }) if self.person.paused.is_none_or(|since| now.since(since) >= after) => {
                self.ask(Request::Resume);
            }
            Some(RollState::Paused { .. }) => {}
            _ => self.person.at += 1,
        }
    }

    /// Opens gates, and answers what only a person can once Baton has had time to find out by itself.
    fn help(&mut self) {
        let now = self.now;
        let Some(engine) = self.coordinator.node().map(|node| node.engine()) else { return };
        let Some(current) = engine.current() else { return };
        let gates: Vec<StepId> = current
            .plan
            .steps
            .iter()
            .filter(|step| matches!(step.kind, StepKind::Gate { .. }))
            .map(|step| step.id)
            .filter(|step| engine.may(&Request::Approve { step: *step }).is_ok())
            .collect();
        let needs = matches!(current.state, RollState::NeedsPerson { safe: true });
        let plan = current.plan.clone();
        for step in gates {
            self.ask(Request::Approve { step });
        }
        if !needs {
            self.person.waits = None;
            return;
        }
        let since = *self.person.waits.get_or_insert(now);
        if now.since(since) < PATIENCE {
            return;
        }
        self.person.waits = None;
        let Some(live) = &self.coordinator.live else { return };
        let Ok(node) = live.driver.machine() else { return };
        let holds = node.engine().view(live.driver.now()).holds;
        self.note(|_| format!("person: is needed: {:?}", holds.iter().map(|hold| &hold.text).collect::<Vec<_>>()));
        for hold in holds {
            match hold.reason {
                HoldReason::Unknown { step, .. } => {
                    let request = match plan.step(step).map(|step| &step.kind) {
                        Some(StepKind::Run { hook }) if self.ran(hook) => Request::Settle { step, done: true },
                        _ => Request::Retry,
                    };
                    self.ask(request);
                }
                HoldReason::Failed { .. } => self.ask(Request::Retry),
                HoldReason::NoWayBack { .. } => self.ask(Request::Rollback),
                _ => {}
            }
        }
    }

    fn ran(&self, hook: &str) -> bool {
        self.world.log().iter().any(|entry| matches!(&entry.what, Happening::Ran(name) if name == hook))
    }
}
