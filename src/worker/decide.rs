//! What should be written down because of an event: the machine itself, and the frame around each step.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::time::Duration;

use super::state::{Entry, LOOK_EVERY, Phase, RETRY, Work, Worker};
use super::{ActError, ActKind, Effect, EffectKey, Event, Record};
use crate::model::{
    Act, Command, CommandStep, DrainStart, Endpoint, ExitStatus, FailureKind, How, IllegalTransition, InstanceId,
    InstanceObservation, InstanceState, Machine, RollId, SkipReason, StepResult, Timestamp,
};

/// What a command is to a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// It can be accepted.
    New,
    /// It was accepted before: its outcomes are told again, nothing is done twice.
    Known,
    /// Its id stands for another body, or it is for another slot: it is refused.
    Conflict,
    /// Another list is not finished: it is refused.
    Busy,
}

/// The time of a decision. It remembers the earliest instant that a decision asked about and that has not come, so
/// that "when to ask again" is by construction the same code as "what to do now".
pub(super) struct Clock {
    pub now: Timestamp,
    due: Cell<Option<Timestamp>>,
}

impl Clock {
    fn new(now: Timestamp) -> Self {
        Self { now, due: Cell::new(None) }
    }

    /// Whether that instant has come.
    pub(super) fn passed(&self, instant: Timestamp) -> bool {
        if self.now >= instant {
            return true;
        }
        self.due.set(Some(self.due.get().map_or(instant, |due| due.min(instant))));
        false
    }
}

/// All that a decision about the step at work looks at.
pub(super) struct Scene<'a> {
    pub worker: &'a Worker,
    pub entry: &'a Entry,
    pub step: &'a CommandStep,
    pub work: &'a Work,
    pub clock: &'a Clock,
}

impl Machine for Worker {
    type Event = Event;
    type Record = Record;
    type Key = EffectKey;
    type Effect = Effect;

    fn decide(&self, now: Timestamp, event: &Event) -> Vec<Record> {
        match event {
            Event::Tick => self.tick(&Clock::new(now)),
            Event::Started => vec![Record::Restarted],
            Event::Command(command) => match self.judge(command) {
                Judgement::New => vec![
                    Record::Accepted { command: command.as_ref().clone() },
                    Record::Taken { command: command.id.clone() },
                ],
                Judgement::Known => vec![Record::Retold { command: command.id.clone() }],
                Judgement::Conflict | Judgement::Busy => Vec::new(),
            },
            Event::Recall(command) => match self.facts.commands.get(command) {
                Some(entry) if !entry.recalled && !entry.finished() => {
                    vec![Record::Recalled { command: command.clone() }]
                }
                _ => Vec::new(),
            },
            Event::Acknowledged(outcomes) => {
                let told = outcomes.iter().filter(|(command, step)| self.tells(command, *step));
                let told: Vec<_> = told.cloned().collect();
                if told.is_empty() { Vec::new() } else { vec![Record::Acknowledged { outcomes: told }] }
            }
            Event::Forget(rolls) => {
                let here = self.rolls();
                let news = |roll: &&RollId| here.contains(roll) && !self.facts.forgotten.contains(roll);
                let rolls: Vec<_> = rolls.iter().filter(news).cloned().collect();
                if rolls.is_empty() { Vec::new() } else { vec![Record::Forgotten { rolls }] }
            }
            Event::Inspected(instances) => {
                vec![Record::Seen {
                    instances: instances.iter().filter(|seen| seen.id.slot == self.slot).cloned().collect(),
                }]
            }
            Event::InspectFailed(why) => vec![Record::Unseen { why: why.clone() }],
            Event::Acted { key, result } => vec![Record::Acted { key: key.clone(), result: result.clone() }],
            Event::Probed { instance, verdict } => {
                vec![Record::Probed { instance: instance.clone(), verdict: verdict.clone() }]
            }
            Event::Inflight { instance, count } => {
                vec![Record::Inflight { instance: instance.clone(), count: count.clone() }]
            }
            Event::Exited { instance, status, log } => {
                vec![Record::Exited { instance: instance.clone(), status: *status, log: log.clone() }]
            }
            Event::Gateway { component, in_use, inflight, closed, text } => vec![Record::Gateway {
                component: component.clone(),
                in_use: *in_use,
                inflight: *inflight,
                closed: *closed,
                text: text.clone(),
            }],
        }
    }

    fn apply(&mut self, at: Timestamp, record: &Record) -> Result<Vec<EffectKey>, IllegalTransition> {
        let before = self.outstanding();
        self.change(at, record)?;
        let after = self.outstanding();
        let gone = before.keys().filter(|key| !after.contains_key(key));
        let new = after.iter().filter(|(key, effect)| before.get(key) != Some(effect)).map(|(key, _)| key);
        Ok(gone.chain(new).cloned().collect())
    }

    fn effect(&self, key: &EffectKey) -> Option<Effect> {
        self.effect_of(key)
    }

    fn outstanding(&self) -> BTreeMap<EffectKey, Effect> {
        self.keys().into_iter().filter_map(|key| self.effect_of(&key).map(|effect| (key, effect))).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        // From one instant that matters to the next, until there is something to say. An instant that has passed and
        // says
        // nothing (a look is due, and one is under way) must not be told: whoever waits for it would never wait.
        let mut now = Timestamp::ZERO;
        loop {
            let clock = Clock::new(now);
            if !self.tick(&clock).is_empty() {
                return Some(now);
            }
            now = clock.due.get()?;
        }
    }

    fn forget_notes(&mut self) {
        self.notes = Default::default();
    }
}

impl Worker {
    /// What that command is here. The shell asks before it answers a command; `decide` asks again.
    pub fn judge(&self, command: &Command) -> Judgement {
        match self.facts.commands.get(&command.id) {
            Some(known) if known.command.same_body(command) => Judgement::Known,
            Some(_) => Judgement::Conflict,
            None if command.slot != self.slot => Judgement::Conflict,
            None if self.facts.current.is_some() => Judgement::Busy,
            None => Judgement::New,
        }
    }

    fn tick(&self, clock: &Clock) -> Vec<Record> {
        let Some(entry) = self.entry() else { return Vec::new() };
        let Some(next) = entry.next() else { return Vec::new() };
        let ended = |step: &CommandStep, why| Record::Ended {
            command: entry.command.id.clone(),
            step: step.step,
            result: StepResult::Skipped(why),
            endpoint: None,
        };
        let before = entry.command.steps.iter().take_while(|step| step.step != next.step);
        if before.filter_map(|step| entry.outcomes.get(&step.step)).any(|ending| !ending.result.is_done()) {
            return vec![ended(next, SkipReason::EarlierStep)];
        }
        let Some((_, step, work)) = self.at_work() else {
            return vec![Record::Advanced { step: next.step, phase: Phase::Precheck }];
        };
        if entry.recalled {
            let open = entry.command.steps.iter().filter(|step| !entry.outcomes.contains_key(&step.step)).skip(1);
            let mut records: Vec<_> = open.map(|step| ended(step, SkipReason::Recalled)).collect();
            let waits = match &step.act {
                Act::Ready { .. } | Act::Soak { .. } => true,
                Act::Drain { begin, .. } => !matches!(begin, DrainStart::Signal(_)),
                _ => false,
            };
            if waits {
                records.push(ended(step, SkipReason::Recalled));
            }
            if !records.is_empty() {
                return records;
            }
        }
        let scene = Scene { worker: self, entry, step, work, clock };
        let records = scene.decide();
        if records.is_empty() { scene.report() } else { records }
    }

    /// A view of the step at work, as decisions have it.
    pub(super) fn scene<T>(&self, now: Timestamp, view: impl FnOnce(&Scene<'_>) -> T) -> Option<T> {
        let clock = Clock::new(now);
        let (entry, step, work) = self.at_work()?;
        Some(view(&Scene { worker: self, entry, step, work, clock: &clock }))
    }

    /// Whether nothing of its main process is left, as far as anybody has told or a look of this step has shown.
    pub(super) fn gone(&self, instance: &InstanceId) -> bool {
        if self.notes.exits.contains_key(instance) {
            return true;
        }
        match self.notes.seen.get(instance) {
            Some(seen) => !seen.may_run(),
            None => self.notes.work.as_ref().is_some_and(|work| work.looked_at.is_some()),
        }
    }

    /// How that instance's main process ended, as far as anybody has told; `None` while it may be running.
    pub(super) fn exit(&self, instance: &InstanceId) -> Option<(ExitStatus, Vec<String>)> {
        if let Some(told) = self.notes.exits.get(instance) {
            return Some(told.clone());
        }
        let seen = self.notes.seen.get(instance)?;
        (seen.state == InstanceState::Exited).then(|| (seen.exit.unwrap_or(ExitStatus::Unknown), Vec::new()))
    }
}

impl<'a> Scene<'a> {
    fn decide(&self) -> Vec<Record> {
        match &self.step.act {
            Act::Prepare { .. } | Act::Start { .. } | Act::Retire { .. } | Act::Undrain { .. } => self.simple(),
            Act::Run { hook } => self.run(hook),
            Act::Ready { instance, wait, .. } => self.ready(instance, wait),
            Act::Soak { instance, monitor, probed, .. } => self.soak(instance, *monitor, *probed),
            Act::Drain { instance, .. } => self.drain(instance),
            Act::Stop { instance, .. } => self.stop(instance),
            Act::Switch { component, targets, drain, .. } => self.switch(component, targets, *drain),
        }
    }

    // --- what a step's decision may come to ---

    pub(super) fn end(&self, result: StepResult, endpoint: Option<Endpoint>) -> Record {
        Record::Ended { command: self.entry.command.id.clone(), step: self.step.step, result, endpoint }
    }

    pub(super) fn done(&self, how: How) -> Vec<Record> {
        vec![self.end(StepResult::Done(how), None)]
    }

    pub(super) fn failed(&self, kind: FailureKind, retryable: bool, message: impl Into<String>) -> Vec<Record> {
        self.failed_with(kind, retryable, message, Vec::new())
    }

    pub(super) fn failed_with(
        &self,
        kind: FailureKind,
        retryable: bool,
        message: impl Into<String>,
        log: Vec<String>,
    ) -> Vec<Record> {
        vec![self.end(StepResult::Failed { kind, retryable, message: message.into(), log }, None)]
    }

    pub(super) fn failed_by(&self, error: &ActError) -> Vec<Record> {
        self.failed_with(error.kind, error.retryable, error.message.clone(), error.log.clone())
    }

    pub(super) fn unknown(&self, why: impl Into<String>) -> Vec<Record> {
        vec![self.end(StepResult::Unknown { why: why.into() }, None)]
    }

    pub(super) fn advance(&self, phase: Phase) -> Vec<Record> {
        vec![Record::Advanced { step: self.step.step, phase }]
    }

    pub(super) fn act(&self, kind: ActKind) -> Vec<Record> {
        self.advance(Phase::Act(kind))
    }

    // --- looks ---

    /// Asks for a look unless one is under way or the last one failed just now.
    pub(super) fn look(&self) -> Vec<Record> {
        if self.worker.notes.looking {
            return Vec::new();
        }
        if let Some((at, _)) = &self.work.unseen
            && !self.clock.passed(*at + RETRY)
        {
            return Vec::new();
        }
        vec![Record::Looking]
    }

    /// Keeps looking every now and then while a step waits.
    pub(super) fn keep_looking(&self, every: Duration) -> Vec<Record> {
        if self.worker.notes.looking {
            return Vec::new();
        }
        match self.work.looked_at {
            Some(at) if self.work.unseen.is_none() && !self.clock.passed(at + every) => Vec::new(),
            _ => self.look(),
        }
    }

    /// As [`Self::keep_looking`], at the pace of a watched instance.
    pub(super) fn watch(&self) -> Vec<Record> {
        self.keep_looking(LOOK_EVERY)
    }

    /// Why nothing is known, for people.
    pub(super) fn blind(&self) -> String {
        match &self.work.unseen {
            Some((_, why)) => format!("{} could not be looked at: {why}", self.worker.slot),
            None => format!("{} could not be looked at in time", self.worker.slot),
        }
    }

    /// The instance, once this phase has had a fresh look at it that says something. `Err`: not yet.
    pub(super) fn look_at(&self, instance: &InstanceId) -> Result<Option<&'a InstanceObservation>, Vec<Record>> {
        if !self.work.fresh {
            return Err(self.look());
        }
        match self.worker.notes.seen.get(instance) {
            Some(seen) if seen.state == InstanceState::Unknown => Err(self.keep_looking(RETRY)),
            seen => Ok(seen),
        }
    }

    /// The step's own deadline.
    pub(super) fn deadline(&self) -> Timestamp {
        self.work.began + self.step.deadline
    }
}
