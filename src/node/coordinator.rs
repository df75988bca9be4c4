//! A coordinator's machines: one engine, one link end for each agent that was ever heard of.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::engine::{self, Engine};
use crate::link::{CoordinatorEnd, CoordinatorEndEvent, CoordinatorEndRecord};
use crate::model::{
    AgentHello, AgentId, Command, CommandId, FleetName, IllegalTransition, Inventory, Machine, Outcome, Progress,
    Recordable, Refusal, RollId, StepId, Timestamp,
};

/// What happened to a coordinator.
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorEvent {
    /// Time passed.
    Tick,
    /// An agent's hello was found good (see [`CoordinatorNode::judge`]).
    Attached {
        /// Who.
        agent: AgentId,
        /// The stream's number.
        session: u64,
        /// All it has.
        inventory: Box<Inventory>,
    },
    /// A stream ended.
    Detached {
        /// Whose.
        agent: AgentId,
        /// The stream's number.
        session: u64,
    },
    /// Anything came from an agent.
    Heard(AgentId),
    /// A step ended.
    Outcome {
        /// Who says so.
        agent: AgentId,
        /// How.
        outcome: Outcome,
    },
    /// A step is getting on.
    Progress {
        /// Who says so.
        agent: AgentId,
        /// How.
        progress: Progress,
    },
    /// An inventory came. It is believed only from the agent that it names.
    Reported(Box<Inventory>),
    /// Something for the engine alone.
    Engine(Box<engine::Event>),
}

/// What the coordinator's journal holds, and its notes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "of")]
pub enum CoordinatorRecord {
    /// The engine's.
    Engine {
        /// It.
        entry: engine::Record,
    },
    /// A link's (all notes).
    Link {
        /// With whom.
        agent: AgentId,
        /// It.
        entry: CoordinatorEndRecord,
    },
}

impl Recordable for CoordinatorRecord {
    fn kind(&self) -> &'static str {
        match self {
            CoordinatorRecord::Engine { entry } => entry.kind(),
            CoordinatorRecord::Link { entry, .. } => entry.kind(),
        }
    }

    fn is_fact(&self) -> bool {
        match self {
            CoordinatorRecord::Engine { entry } => entry.is_fact(),
            CoordinatorRecord::Link { entry, .. } => entry.is_fact(),
        }
    }
}

/// What names an effect of a coordinator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CoordinatorKey {
    /// Send a command or a recall, once in each epoch of the agent's session.
    Send(AgentId, u64, engine::Key),
    /// Send a heartbeat; the number grows.
    Heartbeat(AgentId, u64),
    /// Acknowledge an outcome; the number grows with each time it is told.
    Acknowledge(AgentId, CommandId, StepId, u32),
    /// Something that the engine wants of the coordinator itself.
    Engine(engine::Key),
}

/// What a coordinator wants done.
#[derive(Clone, Debug, PartialEq)]
pub enum CoordinatorEffect {
    /// Send a command, with the term of the day and the definitions that it names.
    Command {
        /// To whom.
        agent: AgentId,
        /// What.
        command: Box<Command>,
    },
    /// Send a recall.
    Recall {
        /// To whom.
        agent: AgentId,
        /// Which list.
        command: CommandId,
    },
    /// Say that rolls are over.
    Forget {
        /// To whom.
        agent: AgentId,
        /// Which.
        rolls: Vec<RollId>,
    },
    /// Ask for a fresh inventory.
    Refresh {
        /// Whom.
        agent: AgentId,
    },
    /// Send a heartbeat.
    Heartbeat {
        /// To whom.
        agent: AgentId,
    },
    /// Acknowledge an outcome.
    Acknowledge {
        /// To whom.
        agent: AgentId,
        /// The command.
        command: CommandId,
        /// The step.
        step: StepId,
    },
    /// Plan the way back of this roll on a fresh inventory.
    PlanRollback {
        /// Which.
        roll: RollId,
    },
}

/// A coordinator's machines.
#[derive(Clone, Debug, PartialEq)]
pub struct CoordinatorNode {
    engine: Engine,
    heartbeat: Duration,
    links: BTreeMap<AgentId, CoordinatorEnd>,
}

impl CoordinatorNode {
    /// A coordinator of a fleet that it knows nothing of yet.
    pub fn new(fleet: FleetName, heartbeat: Duration) -> Self {
        Self { engine: Engine::new(fleet), heartbeat, links: BTreeMap::new() }
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The link with an agent, if it was ever up in this process.
    pub fn link(&self, agent: &AgentId) -> Option<&CoordinatorEnd> {
        self.links.get(agent)
    }

    /// Agents whose session is up.
    pub fn attached(&self) -> impl Iterator<Item = &AgentId> {
        self.links.iter().filter(|(_, link)| link.session().is_some()).map(|(agent, _)| agent)
    }

    /// Judges a hello.
    ///
    /// # Errors
    /// The refusal that the agent is told.
    pub fn judge(&self, fleet: &FleetName, hello: &AgentHello) -> Result<u32, Refusal> {
        let fresh = CoordinatorEnd::new(self.heartbeat);
        let link = self.links.get(&hello.agent).unwrap_or(&fresh);
        match self.engine.claim() {
            Some(claim) => link.judge(claim, fleet, hello),
            None => Ok(hello.protocol),
        }
    }

    fn engine_records(entries: Vec<engine::Record>) -> Vec<CoordinatorRecord> {
        entries.into_iter().map(|entry| CoordinatorRecord::Engine { entry }).collect()
    }

    fn link_records(&self, now: Timestamp, agent: &AgentId, event: &CoordinatorEndEvent) -> Vec<CoordinatorRecord> {
        let fresh = CoordinatorEnd::new(self.heartbeat);
        let link = self.links.get(agent).unwrap_or(&fresh);
        let mut records: Vec<CoordinatorRecord> = vec![];
        for entry in link.decide(now, event) {
            // The engine holds what waits for an agent, so it hears of its session in the same breath.
            match &entry {
                CoordinatorEndRecord::Up { .. } => {
                    let up = engine::Event::SessionUp(agent.clone());
                    records.extend(Self::engine_records(self.engine.decide(now, &up)));
                }
                CoordinatorEndRecord::Down { .. } => {
                    let lost = engine::Event::SessionLost(agent.clone());
                    records.extend(Self::engine_records(self.engine.decide(now, &lost)));
                }
                _ => {}
            }
            records.push(CoordinatorRecord::Link { agent: agent.clone(), entry });
        }
        records
    }

    /// To whom an effect of the engine goes, where it goes to an agent.
    fn addressee(effect: &engine::Effect) -> Option<&AgentId> {
        match effect {
            engine::Effect::Send { agent, .. }
            | engine::Effect::Recall { agent, .. }
            | engine::Effect::Forget { agent, .. }
            | engine::Effect::Refresh { agent } => Some(agent),
            engine::Effect::PlanRollback { .. } => None,
        }
    }

    fn key_of(&self, key: engine::Key) -> Option<CoordinatorKey> {
        let effect = self.engine.effect(&key)?;
        match Self::addressee(&effect) {
            Some(agent) => {
                let epoch = self.links.get(agent)?.epoch()?;
                Some(CoordinatorKey::Send(agent.clone(), epoch, key))
            }
            None => Some(CoordinatorKey::Engine(key)),
        }
    }

    fn effect_of(effect: engine::Effect) -> CoordinatorEffect {
        match effect {
            engine::Effect::Send { agent, command } => CoordinatorEffect::Command { agent, command: Box::new(command) },
            engine::Effect::Recall { agent, command } => CoordinatorEffect::Recall { agent, command },
            engine::Effect::Refresh { agent } => CoordinatorEffect::Refresh { agent },
            engine::Effect::Forget { agent, rolls } => CoordinatorEffect::Forget { agent, rolls },
            engine::Effect::PlanRollback { roll } => CoordinatorEffect::PlanRollback { roll },
        }
    }

    fn agent_keys(&self, agent: &AgentId) -> Vec<CoordinatorKey> {
        let Some(link) = self.links.get(agent) else { return vec![] };
        let mut keys = vec![];
        keys.extend(link.beat().map(|beat| CoordinatorKey::Heartbeat(agent.clone(), beat)));
        keys.extend(
            link.acknowledgements()
                .map(|(command, step, times)| CoordinatorKey::Acknowledge(agent.clone(), command.clone(), step, times)),
        );
        if let Some(epoch) = link.epoch() {
            for (key, effect) in self.engine.outstanding() {
                if Self::addressee(&effect) == Some(agent) {
                    keys.push(CoordinatorKey::Send(agent.clone(), epoch, key));
                }
            }
        }
        keys
    }
}

impl Machine for CoordinatorNode {
    type Event = CoordinatorEvent;
    type Record = CoordinatorRecord;
    type Key = CoordinatorKey;
    type Effect = CoordinatorEffect;

    fn decide(&self, now: Timestamp, event: &CoordinatorEvent) -> Vec<CoordinatorRecord> {
        match event {
            CoordinatorEvent::Tick => {
                let mut records = Self::engine_records(self.engine.decide(now, &engine::Event::Tick));
                if records.is_empty() {
                    for agent in self.links.keys() {
                        records.extend(self.link_records(now, agent, &CoordinatorEndEvent::Tick));
                        if !records.is_empty() {
                            break;
                        }
                    }
                }
                records
            }
            CoordinatorEvent::Attached { agent, session, inventory } => {
                let up = CoordinatorEndEvent::Attached { session: *session, boot_id: inventory.boot_id.clone() };
                let mut records = self.link_records(now, agent, &up);
                let seen = engine::Event::Inventory(inventory.clone());
                records.extend(Self::engine_records(self.engine.decide(now, &seen)));
                records
            }
            CoordinatorEvent::Detached { agent, session } => {
                self.link_records(now, agent, &CoordinatorEndEvent::Detached { session: *session })
            }
            CoordinatorEvent::Heard(agent) => self.link_records(now, agent, &CoordinatorEndEvent::Heard),
            CoordinatorEvent::Outcome { agent, outcome } => {
                let told = engine::Event::Outcome { agent: agent.clone(), outcome: outcome.clone() };
                let mut records = Self::engine_records(self.engine.decide(now, &told));
                if self.engine.acknowledges() {
                    let (command, step) = (outcome.command.clone(), outcome.step);
                    records.extend(self.link_records(now, agent, &CoordinatorEndEvent::Acknowledge { command, step }));
                }
                records
            }
            CoordinatorEvent::Progress { agent, progress } => {
                let told = engine::Event::Progress { agent: agent.clone(), progress: progress.clone() };
                Self::engine_records(self.engine.decide(now, &told))
            }
            CoordinatorEvent::Reported(inventory) => {
                Self::engine_records(self.engine.decide(now, &engine::Event::Inventory(inventory.clone())))
            }
            CoordinatorEvent::Engine(event) => Self::engine_records(self.engine.decide(now, event)),
        }
    }

    fn apply(&mut self, at: Timestamp, record: &CoordinatorRecord) -> Result<Vec<CoordinatorKey>, IllegalTransition> {
        match record {
            CoordinatorRecord::Engine { entry } => {
                let keys = self.engine.apply(at, entry)?;
                Ok(keys
                    .into_iter()
                    .map(|key| self.key_of(key.clone()).unwrap_or(CoordinatorKey::Engine(key)))
                    .collect())
            }
            CoordinatorRecord::Link { agent, entry } => {
                let heartbeat = self.heartbeat;
                let quiet = matches!(entry, CoordinatorEndRecord::Heard);
                let narrow =
                    matches!(entry, CoordinatorEndRecord::HeartbeatDue | CoordinatorEndRecord::AcknowledgeDue { .. });
                let mut changed = if quiet || narrow { vec![] } else { self.agent_keys(agent) };
                let link = self.links.entry(agent.clone()).or_insert_with(|| CoordinatorEnd::new(heartbeat));
                link.apply(at, entry);
                match entry {
                    CoordinatorEndRecord::Heard => {}
                    CoordinatorEndRecord::HeartbeatDue => {
                        changed.extend(link.beat().map(|beat| CoordinatorKey::Heartbeat(agent.clone(), beat)));
                    }
                    CoordinatorEndRecord::AcknowledgeDue { command, step } => {
                        changed
                            .extend(link.acknowledged(command, *step).map(|times| {
                                CoordinatorKey::Acknowledge(agent.clone(), command.clone(), *step, times)
                            }));
                    }
                    _ => changed.extend(self.agent_keys(agent)),
                }
                Ok(changed)
            }
        }
    }

    fn effect(&self, key: &CoordinatorKey) -> Option<CoordinatorEffect> {
        match key {
            CoordinatorKey::Send(agent, epoch, key) => {
                let current = self.links.get(agent)?.epoch() == Some(*epoch);
                self.engine.effect(key).filter(|_| current).map(Self::effect_of)
            }
            CoordinatorKey::Heartbeat(agent, beat) => (self.links.get(agent)?.beat() == Some(*beat))
                .then(|| CoordinatorEffect::Heartbeat { agent: agent.clone() }),
            CoordinatorKey::Acknowledge(agent, command, step, times) => {
                let current = self.links.get(agent)?.acknowledged(command, *step) == Some(*times);
                current.then(|| CoordinatorEffect::Acknowledge {
                    agent: agent.clone(),
                    command: command.clone(),
                    step: *step,
                })
            }
            CoordinatorKey::Engine(key) => {
                let effect = self.engine.effect(key)?;
                Self::addressee(&effect).is_none().then(|| Self::effect_of(effect))
            }
        }
    }

    fn outstanding(&self) -> BTreeMap<CoordinatorKey, CoordinatorEffect> {
        let mut keys: Vec<CoordinatorKey> =
            self.engine.outstanding().into_keys().filter_map(|key| self.key_of(key)).collect();
        for (agent, link) in &self.links {
            keys.extend(link.beat().map(|beat| CoordinatorKey::Heartbeat(agent.clone(), beat)));
            keys.extend(link.acknowledgements().map(|(command, step, times)| {
                CoordinatorKey::Acknowledge(agent.clone(), command.clone(), step, times)
            }));
        }
        keys.into_iter().filter_map(|key| self.effect(&key).map(|effect| (key, effect))).collect()
    }

    fn next_deadline(&self) -> Option<Timestamp> {
        self.links.values().filter_map(CoordinatorEnd::next_deadline).chain(self.engine.next_deadline()).min()
    }

    fn forget_notes(&mut self) {
        self.engine.forget_notes();
        self.links.clear();
    }
}
