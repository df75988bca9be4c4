//! An agent's shell without IO: the same routing as the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::network::Wire;
use super::options::{Mutant, Node, Place, Point};
use super::simulation::{Item, Simulation};
use crate::driver::{Batch, Driver, Tag};
use crate::journal::{AppendFault, Journal, MemoryJournal};
use crate::link::{AgentEndEvent, AgentEndRecord};
use crate::model::{
    AgentHello, AgentId, Command, CommandId, ComponentName, Definition, Digest, InstanceObservation, Inventory,
    Machine, PROTOCOL_VERSION, Recordable, RuntimeKind, SlotName, Term, Timestamp, ToAgent, ToCoordinator,
};
use crate::node::{AgentEffect, AgentEvent, AgentKey, AgentNode, AgentRecord};
use crate::worker;

/// News that nobody asked for goes out so long after something changed, and otherwise so often.
const NEWS_AFTER: Duration = Duration::from_millis(200);
const NEWS_EVERY: Duration = Duration::from_secs(5);
/// How long an agent takes to look at all of its slots.
const GATHERING: Duration = Duration::from_millis(3);

/// Why a gathering of inventory was begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Hello(u64),
    Report(u64),
}

/// An agent: its disk, and its process while it lives.
pub(super) struct Agent {
    pub(super) id: AgentId,
    pub(super) journal: MemoryJournal<AgentRecord>,
    pub(super) specs: BTreeMap<Digest, Definition>,
    /// Commands whose intent is on disk.
    pub(super) accepted: BTreeSet<CommandId>,
    pub(super) life: u64,
    pub(super) effects: u64,
    /// When it wants to be asked again, as of its last step.
    pub(super) due: Option<Timestamp>,
    pub(super) live: Option<LiveAgent>,
}

pub(super) struct LiveAgent {
    pub(super) driver: Driver<AgentNode>,
    /// Its dial's number and the wire.
    pub(super) wire: Option<(u64, u64)>,
    pub(super) watches: BTreeMap<AgentKey, u64>,
    pub(super) acting: BTreeSet<AgentKey>,
    pub(super) stale: bool,
}

impl Agent {
    pub(super) fn new(id: AgentId, journal: MemoryJournal<AgentRecord>, specs: BTreeMap<Digest, Definition>) -> Self {
        Self { id, journal, specs, accepted: BTreeSet::new(), life: 0, effects: 0, due: None, live: None }
    }

    pub(super) fn fresh(id: &AgentId) -> AgentNode {
        AgentNode::new(id.clone(), seed_of(id))
    }

    /// Reads again when it wants to be asked: nothing but a step changes that.
    fn set_due(&mut self, now: Timestamp) {
        let wait = self.live.as_ref().and_then(|live| live.driver.next_deadline().ok().flatten());
        self.due = wait.map(|wait| now + wait);
    }

    pub(super) fn node(&self) -> Option<&AgentNode> {
        self.live.as_ref().and_then(|live| live.driver.machine().ok())
    }

    /// Connected, with nothing to do and nothing to tell.
    pub(super) fn is_at_rest(&self) -> bool {
        let busy = |key: &AgentKey| {
            use crate::worker::EffectKey;
            matches!(key, AgentKey::Tell(..) | AgentKey::Slot(_, EffectKey::Act(..) | EffectKey::Inspect(_)))
        };
        self.live.as_ref().is_some_and(|live| live.acting.is_empty())
            && self.node().is_some_and(|node| node.link().is_up() && !node.outstanding().keys().any(busy))
    }
}

fn tag(node: &AgentNode, _: &AgentRecord) -> Tag {
    let term = node.link().obeys().map_or(0, |claim| claim.term.0);
    Tag { roll: String::new(), term, actor: "agent".to_owned() }
}

/// Commands whose intent is on that disk.
fn accepted(journal: &MemoryJournal<AgentRecord>) -> BTreeSet<CommandId> {
    let entries = journal.read(0).unwrap_or_default().into_iter();
    entries
        .filter_map(|entry| match entry.record {
            AgentRecord::Slot { entry: worker::Record::Accepted { command }, .. } => Some(command.id),
            _ => None,
        })
        .collect()
}

/// Whether that effect only looks.
fn looks(key: &AgentKey) -> bool {
    use crate::worker::EffectKey;
    match key {
        AgentKey::Slot(_, key) => !matches!(key, EffectKey::Act(..)),
        AgentKey::Heartbeat(_) | AgentKey::Report(..) => true,
        AgentKey::Dial(_) | AgentKey::Tell(..) | AgentKey::Refuse(..) => false,
    }
}

/// Different agents dial at different moments, always the same.
fn seed_of(id: &AgentId) -> u64 {
    id.as_str().bytes().fold(7, |seed: u64, byte| seed.wrapping_mul(31).wrapping_add(u64::from(byte)))
}

impl Simulation {
    pub(super) fn boot_agent(&mut self, id: &AgentId) {
        let clock = self.clock.clone();
        let Some(agent) = self.agents.get_mut(id) else { return };
        agent.journal = agent.journal.reopen();
        agent.accepted = accepted(&agent.journal);
        let node = Agent::fresh(id);
        match Driver::recover(node, Box::new(agent.journal.clone()), Box::new(clock), Box::new(tag)) {
            Ok(driver) => {
                let (wire, watches, acting) = (None, BTreeMap::new(), BTreeSet::new());
                agent.live = Some(LiveAgent { driver, wire, watches, acting, stale: false });
                agent.life += 1;
            }
            Err(error) => {
                self.broken.push(format!("agent {id} cannot read its ledger: {}", crate::cause::chain(&error)));
                return;
            }
        }
        let life = agent.life;
        let should_run: Vec<_> = agent
            .node()
            .into_iter()
            .flat_map(|node| node.workers().values().flat_map(worker::Worker::should_run))
            .collect();
        self.note(|_| format!("agent {id} boots, life {life}"));
        let now = self.now;
        self.world.adopt_running(now, &should_run);
        self.put(now + NEWS_EVERY, Item::News { agent: id.clone(), life });
        self.step_agent(id, vec![AgentEvent::Started]);
        let Some(live) = self.agents.get(id).and_then(|agent| agent.live.as_ref()) else { return };
        let outstanding = live.driver.outstanding().unwrap_or_default();
        self.agent_effects(id, outstanding.into_iter().map(|(key, effect)| (key, Some(effect))).collect(), false);
    }

    /// Decides on events, appends, and carries out what follows.
    pub(super) fn step_agent(&mut self, id: &AgentId, events: Vec<AgentEvent>) {
        let Some(agent) = self.agents.get_mut(id) else { return };
        let Some(live) = &mut agent.live else { return };
        for event in &events {
            if let AgentEvent::Slot(slot, event) = event
                && let worker::Event::Acted { key, .. } = &**event
            {
                live.acting.remove(&AgentKey::Slot(slot.clone(), key.clone()));
            }
        }
        let node = Node::Agent(id.clone());
        let before = agent.journal.len();
        let nth = agent.journal.appends() + 1;
        let at_append = |fault| Place::Append { nth, fault };
        let here = self.options.crash.as_ref().filter(|point| point.node == node).map(|point| point.place);
        // The fault in the code acts first and writes afterwards: here it dies between the two.
        let acts_first = self.options.mutant == Some(Mutant::RecordAfterEffect);
        let fault = [AppendFault::Before, AppendFault::After].into_iter().find(|fault| here == Some(at_append(*fault)));
        if let Some(fault) = fault.filter(|_| !acts_first) {
            agent.journal.fail_append(nth, fault);
        }
        let batch = match live.driver.step(events, || AgentEvent::Tick) {
            Ok(batch) => batch,
            Err(error) => {
                if fault.is_none() {
                    self.broken.push(format!("{node} failed: {}", crate::cause::chain(&error)));
                }
                return self.kill(&node);
            }
        };
        agent.set_due(self.now);
        let appended = !batch.facts.is_empty();
        if appended {
            self.note_agent_facts(id, &batch, nth);
        }
        if !acts_first {
            self.agent_has_on_disk(id, &batch);
        }
        self.agent_notes(id, &batch);
        self.agent_effects(id, batch.changed.clone(), appended);
        if acts_first {
            if appended && fault.is_some() {
                let Some(agent) = self.agents.get_mut(id) else { return };
                agent.journal = agent.journal.copy_of_first(before);
                return self.kill(&node);
            }
            self.agent_has_on_disk(id, &batch);
        }
    }

    fn note_agent_facts(&mut self, id: &AgentId, batch: &Batch<AgentNode>, nth: u64) {
        let kinds: Vec<&str> = batch.facts.iter().map(|entry| entry.record.kind()).collect();
        let what = kinds.join(", ");
        self.facts += kinds.len();
        self.note(|_| format!("  agent {id} appends {what}"));
        for fault in [AppendFault::Before, AppendFault::After] {
            let place = Place::Append { nth, fault };
            self.points.push(Point { node: Node::Agent(id.clone()), place, looks: false, what: what.clone() });
        }
    }

    fn agent_has_on_disk(&mut self, id: &AgentId, batch: &Batch<AgentNode>) {
        let Some(agent) = self.agents.get_mut(id) else { return };
        for entry in &batch.facts {
            if let AgentRecord::Slot { entry: worker::Record::Accepted { command }, .. } = &entry.record {
                agent.accepted.insert(command.id.clone());
            }
        }
    }

    /// What the shell itself does about a record.
    fn agent_notes(&mut self, id: &AgentId, batch: &Batch<AgentNode>) {
        use crate::worker::Record;
        for record in batch.notes.iter().chain(batch.facts.iter().map(|entry| &entry.record)) {
            match record {
                AgentRecord::Link { entry: AgentEndRecord::Down { why } } => {
                    self.note(|_| format!("  agent {id} has no session: {why}"));
                    let live = self.agents.get_mut(id).and_then(|agent| agent.live.as_mut());
                    if let Some((_, wire)) = live.and_then(|live| live.wire.take()) {
                        self.cut(wire, false);
                    }
                }
                AgentRecord::Slot { slot, entry } => match entry {
                    Record::Ended { step, result, .. } => {
                        self.note(|_| format!("  agent {id} {slot} step {step}: {result:?}"));
                        self.stale(slot);
                    }
                    Record::Exited { .. }
                    | Record::AdmissionSet { .. }
                    | Record::HeldDrained { .. }
                    | Record::TableSet { .. } => self.stale(slot),
                    _ => {}
                },
                _ => {}
            }
        }
    }

    fn agent_effects(&mut self, id: &AgentId, changed: Vec<(AgentKey, Option<AgentEffect>)>, appended: bool) {
        let node = Node::Agent(id.clone());
        // After one effect is before the next, and after the append is before the first.
        let mut first = !appended;
        for (key, effect) in changed {
            let Some(agent) = self.agents.get_mut(id) else { return };
            if agent.live.is_none() {
                return;
            }
            let Some(effect) = effect else {
                self.stop_watch(id, &key);
                continue;
            };
            agent.effects += 1;
            let nth = agent.effects;
            self.may_die_at(&node, nth, std::mem::replace(&mut first, false), looks(&key), &key);
            if self.dies_at(&node, nth, false) {
                return self.kill(&node);
            }
            self.agent_effect(id, key, effect);
            if self.dies_at(&node, nth, true) {
                return self.kill(&node);
            }
        }
    }

    fn agent_effect(&mut self, id: &AgentId, key: AgentKey, effect: AgentEffect) {
        match (key, effect) {
            (AgentKey::Dial(number), AgentEffect::Dial) => {
                let life = self.agents.get(id).map_or(0, |agent| agent.life);
                let at = self.now + self.latency();
                self.put(at, Item::Dial { agent: id.clone(), life, number });
            }
            (_, AgentEffect::Heartbeat) => self.agent_says(id, &ToCoordinator::Heartbeat),
            (_, AgentEffect::Tell(outcome)) => self.agent_says(id, &ToCoordinator::Outcome(*outcome)),
            (_, AgentEffect::Report(progress)) => self.agent_says(id, &ToCoordinator::Progress(*progress)),
            (_, AgentEffect::Refuse { command, why }) => {
                self.agent_says(id, &ToCoordinator::CommandRefused { command, why });
            }
            (AgentKey::Slot(slot, key), AgentEffect::Slot(effect)) => self.slot_effect(id, slot, key, *effect),
            _ => {}
        }
    }

    fn agent_says(&mut self, id: &AgentId, word: &ToCoordinator) {
        let wire = self.agents.get(id).and_then(|agent| agent.live.as_ref()).and_then(|live| live.wire);
        if let Some((_, wire)) = wire {
            self.send_to_coordinator(wire, word);
        }
    }

    // === the session ===

    /// A dial arrives where the coordinator listens, or does not.
    pub(super) fn connect(&mut self, id: &AgentId, life: u64, number: u64) {
        let Some(agent) = self.agents.get_mut(id).filter(|agent| agent.life == life) else { return };
        if agent.node().and_then(|node| node.link().dial()) != Some(number) {
            return;
        }
        let Some(live) = &mut agent.live else { return };
        if self.coordinator.live.is_none() {
            let why = "connection refused".to_owned();
            return self.step_agent(id, vec![AgentEvent::Link(AgentEndEvent::Disconnected { why })]);
        }
        let wire = self.wires.len() as u64 + 1;
        live.wire = Some((number, wire));
        self.wires.insert(wire, Wire::new(id.clone(), life, self.coordinator.life, self.now));
        self.step_agent(id, vec![AgentEvent::Link(AgentEndEvent::Connected)]);
        self.gather(id, Purpose::Hello(number), BTreeMap::new());
    }

    fn is_current(&self, id: &AgentId, wire: u64) -> bool {
        let live = self.agents.get(id).and_then(|agent| agent.live.as_ref());
        live.and_then(|live| live.wire).is_some_and(|(_, current)| current == wire)
    }

    pub(super) fn agent_loses(&mut self, wire: u64) {
        let Some(id) = self.wires.get(&wire).map(|wire| wire.agent.clone()) else { return };
        if self.is_current(&id, wire) {
            if let Some(live) = self.agents.get_mut(&id).and_then(|agent| agent.live.as_mut()) {
                live.wire = None;
            }
            let why = "the stream ended".to_owned();
            self.step_agent(&id, vec![AgentEvent::Link(AgentEndEvent::Disconnected { why })]);
        }
    }

    pub(super) fn agent_hears(&mut self, wire: u64, text: &str) {
        let Some(id) = self.wires.get(&wire).map(|wire| wire.agent.clone()) else { return };
        if !self.is_current(&id, wire) {
            return;
        }
        let word: ToAgent = match serde_json::from_str(text) {
            Ok(word) => word,
            Err(error) => return self.broken.push(format!("a word to agent {id} does not read back: {error}")),
        };
        let mut events = vec![AgentEvent::Link(AgentEndEvent::Heard)];
        match word {
            ToAgent::Hello(reply) => events.push(AgentNode::greeted(reply)),
            ToAgent::Refused(refusal) => {
                events.push(AgentEvent::Link(AgentEndEvent::Disconnected { why: refusal.to_string() }));
            }
            ToAgent::Command { command, definitions } => {
                if let Some(agent) = self.agents.get_mut(&id) {
                    agent.specs.extend(definitions);
                }
                events.push(AgentEvent::Command(Box::new(command)));
            }
            ToAgent::Recall { command, term } => events.push(AgentEvent::Recall { command, term }),
            ToAgent::Acknowledge(outcomes) => events.push(AgentEvent::Acknowledged(outcomes)),
            ToAgent::Forget(rolls) => events.push(AgentEvent::Forget(rolls)),
            ToAgent::Report { number, resolve, .. } => self.gather(&id, Purpose::Report(number), resolve),
            ToAgent::Logs { .. } | ToAgent::Heartbeat => {}
        }
        self.step_agent(&id, events);
    }

    /// A command of a dead coordinator arrives by a way of its own. Only its term tells that it is old.
    pub(super) fn arrive_late(&mut self, id: &AgentId, mut command: Command) {
        let obeyed = self.agents.get(id).and_then(Agent::node).and_then(|node| node.link().obeys().cloned());
        if self.options.mutant == Some(Mutant::NoFencing) {
            command.term = obeyed.map_or(Term(0), |claim| claim.term);
        }
        self.note(|_| format!("  agent {id} gets {} late", command.id));
        self.step_agent(id, vec![AgentEvent::Command(Box::new(command))]);
    }

    // === inventory ===

    /// Something about a slot is no longer as it was reported.
    pub(super) fn stale(&mut self, slot: &SlotName) {
        let home = self.homes.get(slot).cloned();
        let Some(agent) = home.and_then(|home| self.agents.get_mut(&home)) else { return };
        let (id, life) = (agent.id.clone(), agent.life);
        if let Some(live) = &mut agent.live
            && !std::mem::replace(&mut live.stale, true)
        {
            let at = self.now + NEWS_AFTER;
            self.put(at, Item::News { agent: id, life });
        }
    }

    pub(super) fn news(&mut self, id: &AgentId, life: u64) {
        let now = self.now;
        let Some(agent) = self.agents.get_mut(id).filter(|agent| agent.life == life) else { return };
        let up = agent.node().is_some_and(|node| node.link().is_up());
        let Some(live) = &mut agent.live else { return };
        if !std::mem::replace(&mut live.stale, false) {
            // The one that comes round.
            self.put(now + NEWS_EVERY, Item::News { agent: id.clone(), life });
        }
        if up {
            self.gather(id, Purpose::Report(0), BTreeMap::new());
        }
    }

    fn gather(&mut self, id: &AgentId, purpose: Purpose, resolve: BTreeMap<ComponentName, Definition>) {
        let Some(agent) = self.agents.get(id) else { return };
        let life = agent.life;
        let mut names: BTreeSet<SlotName> =
            agent.node().into_iter().flat_map(|node| node.workers().keys().cloned()).collect();
        names.extend(self.world.slots().into_iter().filter(|slot| self.homes.get(slot) == Some(id)));
        let mut seen: BTreeMap<SlotName, Vec<InstanceObservation>> = BTreeMap::new();
        for slot in names {
            if let Ok(instances) = self.look(&slot) {
                seen.insert(slot, instances);
            }
        }
        let at = self.now + GATHERING;
        self.put(at, Item::Gathered { agent: id.clone(), life, purpose, seen, resolve });
    }

    pub(super) fn gathered(
        &mut self,
        id: &AgentId,
        life: u64,
        purpose: Purpose,
        seen: &BTreeMap<SlotName, Vec<InstanceObservation>>,
        resolve: &BTreeMap<ComponentName, Definition>,
    ) {
        let Some(agent) = self.agents.get(id).filter(|agent| agent.life == life) else { return };
        let Some((node, live)) = agent.node().zip(agent.live.as_ref()) else { return };
        let inventory = Inventory {
            agent: id.clone(),
            boot_id: "boot-1".to_owned(),
            runtimes: vec![RuntimeKind::Process],
            address: "127.0.0.1".to_owned(),
            term: node.link().hello_obeys().map_or(Term(0), |claim| claim.term),
            nonce: node.link().hello_obeys().map_or_else(String::new, |claim| claim.nonce.clone()),
            rolls: node.rolls().into_iter().collect(),
            slots: node.inventory(seen),
            resolutions: resolve
                .iter()
                .map(|(component, definition)| (component.clone(), self.world.resolve(definition, None)))
                .collect(),
        };
        let word = match purpose {
            Purpose::Hello(number) => {
                if live.wire.is_none_or(|(dial, _)| dial != number) {
                    return;
                }
                ToCoordinator::Hello(Box::new(AgentHello {
                    protocol: PROTOCOL_VERSION,
                    fleet: self.scenario.manifest.fleet.clone(),
                    agent: id.clone(),
                    obeys: node.link().hello_obeys().cloned(),
                    inventory,
                }))
            }
            Purpose::Report(number) => ToCoordinator::Report { number, inventory: Box::new(inventory) },
        };
        self.agent_says(id, &word);
    }
}
