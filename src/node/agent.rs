//! An agent's machines: one link, one worker for each slot.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::link::{AgentEnd, AgentEndEvent, AgentEndRecord};
use crate::model::{
    AgentId, Command, CommandId, CoordinatorId, HelloReply, IllegalTransition, InstanceObservation, Machine, Outcome,
    Progress, Recordable, RollId, SlotInventory, SlotName, StepId, Term, Timestamp,
};
use crate::worker::{self, EffectKey, Judgement, Worker};

/// What happened to an agent.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentEvent {
    /// Time passed.
    Tick,
    /// The agent has started; replay is over.
    Started,
    /// Something about the session.
    Link(AgentEndEvent),
    /// A command came and the policy admits it.
    Command(Box<Command>),
    /// A command came and the policy does not admit it.
    Forbidden {
        /// Which.
        command: CommandId,
        /// For people: which line of the policy is missing.
        why: String,
    },
    /// A list is recalled.
    Recall {
        /// Which.
        command: CommandId,
        /// Under which term.
        term: Term,
    },
    /// Outcomes are in the coordinator's journal.
    Acknowledged(Vec<(CommandId, StepId)>),
    /// Rolls are over.
    Forget(Vec<RollId>),
    /// Something happened to a slot.
    Slot(SlotName, Box<worker::Event>),
}

/// What an agent's ledger holds, and its notes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "of")]
pub enum AgentRecord {
    /// The link's.
    Link {
        /// It.
        entry: AgentEndRecord,
    },
    /// A worker's.
    Slot {
        /// Whose.
        slot: SlotName,
        /// It.
        entry: worker::Record,
    },
    /// Note: a command was refused before a worker took it. Kept only to be told.
    Refused {
        /// Which.
        command: CommandId,
        /// For people.
        why: String,
    },
}

impl Recordable for AgentRecord {
    fn kind(&self) -> &'static str {
        match self {
            AgentRecord::Link { entry } => entry.kind(),
            AgentRecord::Slot { entry, .. } => entry.kind(),
            AgentRecord::Refused { .. } => "command-refused",
        }
    }

    fn is_fact(&self) -> bool {
        match self {
            AgentRecord::Link { entry } => entry.is_fact(),
            AgentRecord::Slot { entry, .. } => entry.is_fact(),
            AgentRecord::Refused { .. } => false,
        }
    }
}

/// What names an effect of an agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AgentKey {
    /// Dial; the number grows.
    Dial(u64),
    /// Send a heartbeat; the number grows.
    Heartbeat(u64),
    /// Tell an outcome, once in each epoch.
    Tell(SlotName, CommandId, StepId, u64),
    /// Tell how a step is getting on; latest wins.
    Report(SlotName, CommandId, StepId),
    /// Tell that a command was refused.
    Refuse(CommandId, u32),
    /// An effect on a slot.
    Slot(SlotName, EffectKey),
}

/// What an agent wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum AgentEffect {
    /// Open a stream to the coordinator and say hello.
    Dial,
    /// Say that it is still here.
    Heartbeat,
    /// Tell an outcome.
    Tell(Box<Outcome>),
    /// Tell how a step is getting on.
    Report(Box<Progress>),
    /// Tell that a command was refused.
    Refuse {
        /// Which.
        command: CommandId,
        /// For people.
        why: String,
    },
    /// Something on a slot's runtime.
    Slot(Box<worker::Effect>),
}

/// A command that was refused before a worker took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// How often it was refused; part of the key, so that a repeated command is answered again.
    pub times: u32,
    /// For people.
    pub why: String,
}

/// An agent's machines.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentNode {
    link: AgentEnd,
    workers: BTreeMap<SlotName, Worker>,
    /// When each worker that waits for an instant wants to be asked, earliest first: a tick asks those that are due,
    /// not
    /// every worker of a large host. Derived from the workers by `apply`.
    due: BTreeSet<(Timestamp, SlotName)>,
    refused: BTreeMap<CommandId, Refused>,
}

impl AgentNode {
    /// An agent that knows nothing yet. `seed` spreads its attempts to dial.
    pub fn new(agent: AgentId, seed: u64) -> Self {
        Self {
            link: AgentEnd::new(agent, seed),
            workers: BTreeMap::new(),
            due: BTreeSet::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Its end of the session.
    pub fn link(&self) -> &AgentEnd {
        &self.link
    }

    /// Its workers, by slot.
    pub fn workers(&self) -> &BTreeMap<SlotName, Worker> {
        &self.workers
    }

    /// Rolls whose commands the ledger holds.
    pub fn rolls(&self) -> BTreeSet<RollId> {
        self.workers.values().flat_map(Worker::rolls).collect()
    }

    /// Every slot as the agent reports it: what its runtime says, with what its workers know. A slot of which nothing
    /// is
    /// and nothing was is left out.
    pub fn inventory(&self, seen: &BTreeMap<SlotName, Vec<InstanceObservation>>) -> BTreeMap<SlotName, SlotInventory> {
        let of_slot = |(slot, instances): (&SlotName, &Vec<InstanceObservation>)| {
            let fresh = Worker::new(slot.clone());
            let inventory = self.workers.get(slot).unwrap_or(&fresh).inventory(instances);
            (!inventory.instances.is_empty() || inventory.highest > 0).then(|| (slot.clone(), inventory))
        };
        seen.iter().filter_map(of_slot).collect()
    }

    /// What a person hands the agent over with.
    pub fn adopt(coordinator: CoordinatorId) -> AgentEvent {
        AgentEvent::Link(AgentEndEvent::Adopt(coordinator))
    }

    /// What the coordinator's answer to the hello is.
    pub fn greeted(reply: HelloReply) -> AgentEvent {
        AgentEvent::Link(AgentEndEvent::Greeted(reply))
    }

    fn slot_records(slot: &SlotName, entries: Vec<worker::Record>) -> Vec<AgentRecord> {
        entries.into_iter().map(|entry| AgentRecord::Slot { slot: slot.clone(), entry }).collect()
    }

    fn accept(&self, now: Timestamp, command: &Command) -> Vec<AgentRecord> {
        if !self.link.admits(command.term) {
            // Sent before this session, or by nobody we obey: the coordinator sends again what it still wants.
            return vec![];
        }
        let fresh = Worker::new(command.slot.clone());
        let worker = self.workers.get(&command.slot).unwrap_or(&fresh);
        match worker.judge(command) {
            Judgement::New | Judgement::Known => Self::slot_records(
                &command.slot,
                worker.decide(now, &worker::Event::Command(Box::new(command.clone()))),
            ),
            Judgement::Conflict => vec![AgentRecord::Refused {
                command: command.id.clone(),
                why: format!("command {} came before with another body; nothing was done", command.id),
            }],
            // It stays outstanding at the coordinator and comes again.
            Judgement::Busy => vec![],
        }
    }

    /// Every key of a worker's effect as the agent names it; several where the epoch is part of it.
    fn key_of(&self, slot: &SlotName, key: EffectKey) -> Option<AgentKey> {
        match key {
            EffectKey::Tell(command, step) => {
                self.link.epoch().map(|epoch| AgentKey::Tell(slot.clone(), command, step, epoch))
            }
            EffectKey::Report(command, step) => Some(AgentKey::Report(slot.clone(), command, step)),
            other => Some(AgentKey::Slot(slot.clone(), other)),
        }
    }

    fn effect_of(&self, effect: worker::Effect) -> Option<AgentEffect> {
        match effect {
            worker::Effect::Tell(outcome) => self.link.is_up().then_some(AgentEffect::Tell(outcome)),
            worker::Effect::Report(progress) => self.link.is_up().then_some(AgentEffect::Report(progress)),
            other => Some(AgentEffect::Slot(Box::new(other))),
        }
    }

    /// All keys of effects that exist only while the session is up.
    fn session_keys(&self) -> Vec<AgentKey> {
        let mut keys = vec![];
        for (slot, worker) in &self.workers {
            for key in worker.outstanding().into_keys() {
                if matches!(key, EffectKey::Tell(..) | EffectKey::Report(..)) {
                    keys.extend(self.key_of(slot, key));
                }
            }
        }
        keys.extend(self.refused.iter().map(|(command, refused)| AgentKey::Refuse(command.clone(), refused.times)));
        keys
    }
}

impl Machine for AgentNode {
    type Event = AgentEvent;
    type Record = AgentRecord;
    type Key = AgentKey;
    type Effect = AgentEffect;

    fn decide(&self, now: Timestamp, event: &AgentEvent) -> Vec<AgentRecord> {
        let link = |entries: Vec<AgentEndRecord>| -> Vec<AgentRecord> {
            entries.into_iter().map(|entry| AgentRecord::Link { entry }).collect()
        };
        match event {
            AgentEvent::Tick => {
                let mut records = link(self.link.decide(now, &AgentEndEvent::Tick));
                // In the order of the slots, whoever was due first.
                let due: BTreeSet<_> = self.due.iter().take_while(|(at, _)| *at <= now).map(|(_, slot)| slot).collect();
                for slot in due {
                    if let Some(worker) = self.workers.get(slot) {
                        records.extend(Self::slot_records(slot, worker.decide(now, &worker::Event::Tick)));
                    }
                }
                records
            }
            AgentEvent::Started => {
                let mut records = vec![];
                for (slot, worker) in &self.workers {
                    records.extend(Self::slot_records(slot, worker.decide(now, &worker::Event::Started)));
                }
                records
            }
            AgentEvent::Link(event) => link(self.link.decide(now, event)),
            AgentEvent::Command(command) => self.accept(now, command),
            AgentEvent::Forbidden { command, why } => {
                vec![AgentRecord::Refused { command: command.clone(), why: why.clone() }]
            }
            AgentEvent::Recall { command, term } if self.link.admits(*term) => self
                .workers
                .iter()
                .flat_map(|(slot, worker)| {
                    Self::slot_records(slot, worker.decide(now, &worker::Event::Recall(command.clone())))
                })
                .collect(),
            AgentEvent::Recall { .. } => vec![],
            AgentEvent::Acknowledged(outcomes) => {
                // Each worker is asked about its own: a thousand of them times a thousand outcomes is a second.
                let acknowledged: BTreeSet<_> = outcomes.iter().collect();
                let of = |worker: &Worker| -> Vec<_> {
                    worker.told().filter(|outcome| acknowledged.contains(outcome)).collect()
                };
                let told = self.workers.iter().map(|(slot, worker)| (slot, worker, of(worker)));
                told.filter(|(.., outcomes)| !outcomes.is_empty())
                    .flat_map(|(slot, worker, outcomes)| {
                        Self::slot_records(slot, worker.decide(now, &worker::Event::Acknowledged(outcomes)))
                    })
                    .collect()
            }
            AgentEvent::Forget(rolls) => self.tell_workers(now, &worker::Event::Forget(rolls.clone())),
            AgentEvent::Slot(slot, event) => {
                let fresh = Worker::new(slot.clone());
                let worker = self.workers.get(slot).unwrap_or(&fresh);
                Self::slot_records(slot, worker.decide(now, event))
            }
        }
    }

    fn apply(&mut self, at: Timestamp, record: &AgentRecord) -> Result<Vec<AgentKey>, IllegalTransition> {
        match record {
            AgentRecord::Link { entry } => {
                // The most frequent of all: they change no key of an outcome, so nobody looks for one.
                let narrow = matches!(entry, AgentEndRecord::Heard | AgentEndRecord::HeartbeatDue);
                let mut changed = if narrow { vec![] } else { self.session_keys() };
                changed.extend(self.link.dial().map(AgentKey::Dial));
                self.link.apply(at, entry);
                changed.extend(self.link.dial().map(AgentKey::Dial));
                changed.extend(self.link.beat().map(AgentKey::Heartbeat));
                if !narrow {
                    changed.extend(self.session_keys());
                }
                Ok(changed)
            }
            AgentRecord::Slot { slot, entry } => {
                let worker = self.workers.entry(slot.clone()).or_insert_with(|| Worker::new(slot.clone()));
                let before = worker.next_deadline();
                let keys = worker.apply(at, entry)?;
                let after = worker.next_deadline();
                if before != after {
                    if let Some(before) = before {
                        self.due.remove(&(before, slot.clone()));
                    }
                    self.due.extend(after.map(|after| (after, slot.clone())));
                }
                Ok(keys.into_iter().filter_map(|key| self.key_of(slot, key)).collect())
            }
            AgentRecord::Refused { command, why } => {
                let refused =
                    self.refused.entry(command.clone()).or_insert_with(|| Refused { times: 0, why: String::new() });
                refused.times += 1;
                refused.why.clone_from(why);
                let times = refused.times;
                // A bound: only the coordinator at hand can cause these, and it asks again for what it still wants.
                while self.refused.len() > 1_000 {
                    self.refused.pop_first();
                }
                Ok(vec![AgentKey::Refuse(command.clone(), times)])
            }
        }
    }

    fn effect(&self, key: &AgentKey) -> Option<AgentEffect> {
        match key {
            AgentKey::Dial(number) => (self.link.dial() == Some(*number)).then_some(AgentEffect::Dial),
            AgentKey::Heartbeat(number) => (self.link.beat() == Some(*number)).then_some(AgentEffect::Heartbeat),
            AgentKey::Tell(slot, command, step, epoch) => {
                let current = self.link.epoch() == Some(*epoch);
                let effect = self.workers.get(slot)?.effect(&EffectKey::Tell(command.clone(), *step));
                effect.filter(|_| current).and_then(|effect| self.effect_of(effect))
            }
            AgentKey::Report(slot, command, step) => {
                let effect = self.workers.get(slot)?.effect(&EffectKey::Report(command.clone(), *step))?;
                self.effect_of(effect)
            }
            AgentKey::Refuse(command, times) => {
                let refused = self.refused.get(command).filter(|refused| refused.times == *times)?;
                self.link.is_up().then(|| AgentEffect::Refuse { command: command.clone(), why: refused.why.clone() })
            }
            AgentKey::Slot(slot, key) => {
                let effect = self.workers.get(slot)?.effect(key)?;
                self.effect_of(effect)
            }
        }
    }

    fn outstanding(&self) -> BTreeMap<AgentKey, AgentEffect> {
        let mut keys = vec![];
        keys.extend(self.link.dial().map(AgentKey::Dial));
        keys.extend(self.link.beat().map(AgentKey::Heartbeat));
        for (slot, worker) in &self.workers {
            keys.extend(worker.outstanding().into_keys().filter_map(|key| self.key_of(slot, key)));
        }
        keys.extend(self.refused.iter().map(|(command, refused)| AgentKey::Refuse(command.clone(), refused.times)));
        keys.into_iter().filter_map(|key| self.effect(&key).map(|effect| (key, effect))).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.due.first().map(|(at, _)| *at).into_iter().chain(self.link.next_deadline()).min()
    }

    fn forget_notes(&mut self) {
        self.link.forget_notes();
        self.refused.clear();
        for worker in self.workers.values_mut() {
            worker.forget_notes();
        }
        let deadline = |(slot, worker): (&SlotName, &Worker)| worker.next_deadline().map(|at| (at, slot.clone()));
        self.due = self.workers.iter().filter_map(deadline).collect();
    }
}

impl AgentNode {
    fn tell_workers(&self, now: Timestamp, event: &worker::Event) -> Vec<AgentRecord> {
        self.workers.iter().flat_map(|(slot, worker)| Self::slot_records(slot, worker.decide(now, event))).collect()
    }
}
