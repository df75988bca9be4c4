//! A coordinator's shell without IO: the same routing as the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::options::{Mutant, Node, Place, Point};
use super::planning::Asking;
use super::simulation::{Item, Simulation};
use crate::driver::{Driver, Tag};
use crate::engine;
use crate::journal::{AppendFault, Journal, MemoryJournal};
use crate::link::CoordinatorEndRecord;
use crate::model::{
    AgentId, Claim, Command, CommandId, CoordinatorId, Definition, Digest, FleetName, HelloReply, Machine,
    PROTOCOL_VERSION, Recordable, RollId, StepId, Term, Timestamp, ToAgent, ToCoordinator,
};
use crate::node::{CoordinatorEffect, CoordinatorEvent, CoordinatorKey, CoordinatorNode, CoordinatorRecord};

const HEARTBEAT: Duration = Duration::from_secs(5);

/// The coordinator: its disk, and its process while it lives.
pub(super) struct Coordinator {
    pub(super) fleet: FleetName,
    pub(super) journal: MemoryJournal<CoordinatorRecord>,
    pub(super) specs: BTreeMap<Digest, Definition>,
    /// Lists whose begin is on disk.
    pub(super) begun: BTreeSet<CommandId>,
    pub(super) life: u64,
    pub(super) effects: u64,
    /// Commands that this life has sent.
    pub(super) sent: Vec<(AgentId, Command)>,
    /// When it wants to be asked again, as of its last step.
    pub(super) due: Option<Timestamp>,
    pub(super) live: Option<LiveCoordinator>,
}

pub(super) struct LiveCoordinator {
    pub(super) driver: Driver<CoordinatorNode>,
    pub(super) claim: Claim,
    /// By agent: the session's number and its wire.
    pub(super) sessions: BTreeMap<AgentId, (u64, u64)>,
    next_session: u64,
    pub(super) next_number: u64,
    pub(super) asking: Option<Asking>,
}

impl Coordinator {
    pub(super) fn new(fleet: FleetName) -> Self {
        Self {
            fleet,
            journal: MemoryJournal::new(),
            specs: BTreeMap::new(),
            begun: BTreeSet::new(),
            life: 0,
            effects: 0,
            sent: Vec::new(),
            due: None,
            live: None,
        }
    }

    pub(super) fn fresh(fleet: &FleetName) -> CoordinatorNode {
        CoordinatorNode::new(fleet.clone(), HEARTBEAT)
    }

    pub(super) fn node(&self) -> Option<&CoordinatorNode> {
        self.live.as_ref().and_then(|live| live.driver.machine().ok())
    }

    fn set_due(&mut self, now: Timestamp) {
        let wait = self.live.as_ref().and_then(|live| live.driver.next_deadline().ok().flatten());
        self.due = wait.map(|wait| now + wait);
    }

    /// No roll, nothing to send, nothing to plan.
    pub(super) fn is_at_rest(&self) -> bool {
        self.live.as_ref().is_some_and(|live| live.asking.is_none())
            && self.node().is_some_and(|node| {
                node.engine().current().is_none()
                    && !node.outstanding().keys().any(|key| matches!(key, CoordinatorKey::Send(..)))
            })
    }

    /// How each roll ended, oldest first.
    pub(super) fn results(&self) -> Vec<&'static str> {
        let summaries = self.node().map(|node| node.engine().summaries()).unwrap_or_default();
        summaries.iter().map(|summary| summary.result.as_ref().map_or("unfinished", |result| result.word())).collect()
    }
}

fn tag(node: &CoordinatorNode, _: &CoordinatorRecord) -> Tag {
    let term = node.engine().claim().map_or(0, |claim| claim.term.0);
    let roll = node.engine().current().map(|current| current.roll.to_string()).unwrap_or_default();
    Tag { roll, term, actor: "baton".to_owned() }
}

/// Lists whose begin is on that disk.
fn begun(journal: &MemoryJournal<CoordinatorRecord>) -> BTreeSet<CommandId> {
    let entries = journal.read(0).unwrap_or_default().into_iter();
    entries
        .filter_map(|entry| match entry.record {
            CoordinatorRecord::Engine { entry: engine::Record::ListBegan { command, .. } } => Some(command.id),
            _ => None,
        })
        .collect()
}

impl Simulation {
    pub(super) fn boot_coordinator(&mut self) {
        let clock = self.clock.clone();
        let host = &mut self.coordinator;
        host.life += 1;
        host.journal = host.journal.reopen();
        host.begun = begun(&host.journal);
        let node = Coordinator::fresh(&host.fleet);
        let driver = match Driver::recover(node, Box::new(host.journal.clone()), Box::new(clock), Box::new(tag)) {
            Ok(driver) => driver,
            Err(error) => {
                let why = crate::cause::chain(&error);
                return self.broken.push(format!("the coordinator cannot read its journal: {why}"));
            }
        };
        let before = driver.machine().ok().and_then(|node| node.engine().claim().cloned());
        let term = Term(before.map_or(0, |claim| claim.term.0) + 1);
        let Ok(coordinator) = CoordinatorId::new("the-one") else { return };
        let claim = Claim { coordinator, term, nonce: format!("life-{}", host.life) };
        let started = CoordinatorEvent::Engine(Box::new(engine::Event::Started(claim.clone())));
        host.live = Some(LiveCoordinator {
            driver,
            claim,
            sessions: BTreeMap::new(),
            next_session: 1,
            next_number: 1,
            asking: None,
        });
        let life = host.life;
        self.note(|_| format!("coordinator boots, life {life}, term {term}"));
        self.step_coordinator(vec![started]);
        let Some(live) = &self.coordinator.live else { return };
        let outstanding = live.driver.outstanding().unwrap_or_default();
        self.coordinator_effects(outstanding.into_iter().collect(), false);
    }

    /// Decides on events, appends, and carries out what follows.
    pub(super) fn step_coordinator(&mut self, mut events: Vec<CoordinatorEvent>) {
        let host = &mut self.coordinator;
        let Some(live) = &mut host.live else { return };
        events.push(CoordinatorEvent::Tick);
        let before = host.journal.len();
        let nth = host.journal.appends() + 1;
        let here = self.options.crash.as_ref().filter(|point| point.node == Node::Coordinator).map(|point| point.place);
        let fault = [AppendFault::Before, AppendFault::After]
            .into_iter()
            .find(|fault| here == Some(Place::Append { nth, fault: *fault }));
        let acts_first = self.options.mutant == Some(Mutant::RecordAfterEffect);
        if let Some(fault) = fault.filter(|_| !acts_first) {
            host.journal.fail_append(nth, fault);
        }
        let batch = match live.driver.step(events, || CoordinatorEvent::Tick) {
            Ok(batch) => batch,
            Err(error) => {
                if fault.is_none() {
                    self.broken.push(format!("the coordinator failed: {}", crate::cause::chain(&error)));
                }
                return self.kill(&Node::Coordinator);
            }
        };
        let mut begun = Vec::new();
        let mut lost = Vec::new();
        for record in batch.facts.iter().map(|entry| &entry.record).chain(&batch.notes) {
            match record {
                CoordinatorRecord::Engine { entry: engine::Record::ListBegan { command, .. } } => {
                    begun.push(command.id.clone());
                }
                CoordinatorRecord::Link { agent, entry: CoordinatorEndRecord::Down { .. } } => {
                    lost.extend(live.sessions.remove(agent));
                }
                _ => {}
            }
        }
        let now = self.now;
        host.set_due(now);
        if !acts_first {
            host.begun.extend(begun.iter().cloned());
        }
        if !batch.facts.is_empty() {
            let kinds: Vec<&str> = batch.facts.iter().map(|entry| entry.record.kind()).collect();
            let what = kinds.join(", ");
            self.facts += kinds.len();
            self.note(|_| format!("  coordinator appends {what}"));
            for fault in [AppendFault::Before, AppendFault::After] {
                let place = Place::Append { nth, fault };
                self.points.push(Point { node: Node::Coordinator, place, looks: false, what: what.clone() });
            }
        }
        for (_, wire) in lost {
            self.cut(wire, false);
        }
        let changed = batch.changed.into_iter().filter_map(|(key, effect)| effect.map(|effect| (key, effect)));
        self.coordinator_effects(changed.collect(), !batch.facts.is_empty());
        if acts_first {
            if fault.is_some() && !batch.facts.is_empty() {
                self.coordinator.journal = self.coordinator.journal.copy_of_first(before);
                return self.kill(&Node::Coordinator);
            }
            self.coordinator.begun.extend(begun);
        }
    }

    fn coordinator_effects(&mut self, changed: Vec<(CoordinatorKey, CoordinatorEffect)>, appended: bool) {
        let mut first = !appended;
        let mut acknowledgements: BTreeMap<AgentId, Vec<(CommandId, StepId)>> = BTreeMap::new();
        for (key, effect) in changed {
            if self.coordinator.live.is_none() {
                return;
            }
            self.coordinator.effects += 1;
            let nth = self.coordinator.effects;
            let looks = matches!(effect, CoordinatorEffect::Heartbeat { .. } | CoordinatorEffect::Refresh { .. });
            self.may_die_at(&Node::Coordinator, nth, std::mem::replace(&mut first, false), looks, &key);
            if self.dies_at(&Node::Coordinator, nth, false) {
                return self.kill(&Node::Coordinator);
            }
            if let CoordinatorEffect::Acknowledge { agent, command, step } = effect {
                acknowledgements.entry(agent).or_default().push((command, step));
            } else {
                self.coordinator_effect(effect);
            }
            if self.dies_at(&Node::Coordinator, nth, true) {
                return self.kill(&Node::Coordinator);
            }
        }
        for (agent, outcomes) in acknowledgements {
            self.coordinator_says(&agent, &ToAgent::Acknowledge(outcomes));
        }
    }

    fn coordinator_effect(&mut self, effect: CoordinatorEffect) {
        let Some(term) = self.coordinator.live.as_ref().map(|live| live.claim.term) else { return };
        match effect {
            CoordinatorEffect::Command { agent, mut command } => {
                command.term = term;
                if !self.coordinator.begun.contains(&command.id) {
                    self.broken.push(format!("{}: {} leaves before its begin is on disk", self.now, command.id));
                }
                let digests = command.steps.iter().filter_map(|step| step.act.definition());
                let specs = &self.coordinator.specs;
                let definitions =
                    digests.filter_map(|digest| Some((digest.clone(), specs.get(digest)?.clone()))).collect();
                self.coordinator.sent.push((agent.clone(), (*command).clone()));
                self.coordinator_says(&agent, &ToAgent::Command { command: *command, definitions });
            }
            CoordinatorEffect::Recall { agent, command } => {
                self.coordinator_says(&agent, &ToAgent::Recall { command, term });
            }
            CoordinatorEffect::Refresh { agent } => {
                let word = ToAgent::Report { number: 0, resolve: BTreeMap::new(), pull: false };
                self.coordinator_says(&agent, &word);
            }
            CoordinatorEffect::Forget { agent, rolls } => self.coordinator_says(&agent, &ToAgent::Forget(rolls)),
            CoordinatorEffect::Heartbeat { agent } => self.coordinator_says(&agent, &ToAgent::Heartbeat),
            CoordinatorEffect::Acknowledge { .. } => {}
            CoordinatorEffect::PlanRollback { roll } => self.begin_planning(roll),
        }
    }

    pub(super) fn coordinator_says(&mut self, agent: &AgentId, word: &ToAgent) {
        let session = self.coordinator.live.as_ref().and_then(|live| live.sessions.get(agent));
        if let Some((_, wire)) = session.copied() {
            self.send_to_agent(wire, word);
        }
    }

    // === the session ===

    pub(super) fn coordinator_loses(&mut self, wire: u64) {
        let life = self.coordinator.life;
        let Some(known) = self.wires.get(&wire).filter(|wire| wire.host_life == life) else { return };
        if let Some(session) = known.session {
            let agent = known.agent.clone();
            self.step_coordinator(vec![CoordinatorEvent::Detached { agent, session }]);
        }
    }

    pub(super) fn coordinator_hears(&mut self, wire: u64, text: &str) {
        let life = self.coordinator.life;
        let Some(known) = self.wires.get(&wire).filter(|wire| wire.host_life == life) else { return };
        let (agent, session) = (known.agent.clone(), known.session);
        let word: ToCoordinator = match serde_json::from_str(text) {
            Ok(word) => word,
            Err(error) => return self.broken.push(format!("a word of agent {agent} does not read back: {error}")),
        };
        let Some(live) = &mut self.coordinator.live else { return };
        if let ToCoordinator::Hello(hello) = word {
            return self.greet(wire, *hello);
        }
        if session.is_none() || live.sessions.get(&agent).map(|(live, _)| *live) != session {
            return;
        }
        let mut events = vec![CoordinatorEvent::Heard(agent.clone())];
        match word {
            ToCoordinator::Outcome(outcome) => events.push(CoordinatorEvent::Outcome { agent, outcome }),
            ToCoordinator::Progress(progress) => events.push(CoordinatorEvent::Progress { agent, progress }),
            ToCoordinator::Report { number, inventory } => {
                if number > 0 {
                    self.plan_hears(number, &inventory);
                }
                events.push(CoordinatorEvent::Reported(inventory));
            }
            ToCoordinator::CommandRefused { command, why } => {
                events.push(CoordinatorEvent::Engine(Box::new(engine::Event::CommandRefused { agent, command, why })));
            }
            ToCoordinator::Hello(_)
            | ToCoordinator::Refused(_)
            | ToCoordinator::Logs { .. }
            | ToCoordinator::Heartbeat => {}
        }
        self.step_coordinator(events);
    }

    fn greet(&mut self, wire: u64, hello: crate::model::AgentHello) {
        let judged = self.coordinator.node().map(|node| node.judge(&self.scenario.manifest.fleet, &hello));
        let Some(live) = &mut self.coordinator.live else { return };
        match judged {
            Some(Ok(protocol)) => {
                let session = live.next_session;
                live.next_session += 1;
                let claim = live.claim.clone();
                let reply = HelloReply { protocol: protocol.min(PROTOCOL_VERSION), claim, heartbeat: HEARTBEAT };
                live.sessions.insert(hello.agent.clone(), (session, wire));
                if let Some(known) = self.wires.get_mut(&wire) {
                    known.session = Some(session);
                }
                // The reply goes first; what is outstanding follows from the event.
                self.send_to_agent(wire, &ToAgent::Hello(reply));
                let (agent, inventory) = (hello.agent, Box::new(hello.inventory));
                self.step_coordinator(vec![CoordinatorEvent::Attached { agent, session, inventory }]);
            }
            Some(Err(refusal)) => {
                self.note(|_| format!("  coordinator refuses agent {}: {refusal}", hello.agent));
                self.send_to_agent(wire, &ToAgent::Refused(refusal));
                self.cut(wire, false);
            }
            None => {}
        }
    }

    /// A roll's random id, which is not random here.
    pub(super) fn next_roll(&self) -> Option<RollId> {
        let number = self.coordinator.node()?.engine().next_roll_number();
        RollId::new(format!("roll-{number}-{}", self.coordinator.life)).ok()
    }

    /// What happens to the engine by somebody's hand.
    pub(super) fn engine_hears(&mut self, event: engine::Event) {
        self.step_coordinator(vec![CoordinatorEvent::Engine(Box::new(event))]);
    }

    pub(super) fn plan_later(&mut self, after: Duration) {
        let (at, life) = (self.now + after, self.coordinator.life);
        self.put(at, Item::Planning { life });
    }
}
