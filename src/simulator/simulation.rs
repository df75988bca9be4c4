//! The queue, the clock, and the points at which a node can be killed.

use std::collections::BTreeMap;
use std::time::Duration;

use super::agent::{Agent, Purpose};
use super::chance::Chance;
use super::coordinator::Coordinator;
use super::network::{self, Wire};
use super::options::{Node, Options, Place, Point};
use super::person::Person;
use super::scenario::Scenario;
use crate::journal::{Journal, ManualClock};
use crate::model::{
    Admission, AgentId, Command, ComponentName, Definition, InstanceObservation, InstanceState, Machine, SlotName,
    TableTarget, Timestamp,
};
use crate::node::AgentKey;
use crate::planner::PlanError;
use crate::runtime::fake::{Entry, FakeEventKind, FakeWorld};
use crate::worker;

/// No roll of these scenarios takes longer, whatever happens to it.
const VIRTUAL_MAX: Duration = Duration::from_secs(15 * 60);
/// A run that takes more turns than this goes round in circles.
const TURNS_MAX: usize = 100_000;
/// How long everything must stay at rest before a run is over.
const REST: Duration = Duration::from_millis(1_500);

/// Why a run could not be made or did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum SimulationError {
    /// There is no plan.
    #[error("no plan")]
    Plan(#[from] PlanError),
    /// Nothing more happens, or it does not end.
    #[error("not at rest after {turns} turns and {at} of virtual time: {why}")]
    Stuck {
        /// How often something happened.
        turns: usize,
        /// When.
        at: Timestamp,
        /// What it waits for.
        why: String,
    },
}

/// Something that will happen.
#[derive(Clone, Debug)]
pub(super) enum Item {
    Dial {
        agent: AgentId,
        life: u64,
        number: u64,
    },
    Word {
        wire: u64,
        to: network::End,
        text: String,
    },
    Ended {
        wire: u64,
        to: network::End,
    },
    Told {
        agent: AgentId,
        life: u64,
        slot: SlotName,
        event: Box<worker::Event>,
    },
    Watch {
        agent: AgentId,
        life: u64,
        key: AgentKey,
        serial: u64,
    },
    Gathered {
        agent: AgentId,
        life: u64,
        purpose: Purpose,
        seen: BTreeMap<SlotName, Vec<InstanceObservation>>,
        resolve: BTreeMap<ComponentName, Definition>,
    },
    News {
        agent: AgentId,
        life: u64,
    },
    Planning {
        life: u64,
    },
    Boot(Node),
    Person,
    Late {
        agent: AgentId,
        command: Box<Command>,
    },
}

/// What is there when everything is at rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// By slot: version and state of each of its instances.
    pub slots: BTreeMap<SlotName, Vec<(Option<String>, InstanceState, Admission)>>,
    /// By gateway and component: the versions of the slots that it sends requests to.
    pub tables: BTreeMap<(SlotName, ComponentName), Vec<(SlotName, Admission)>>,
    /// How each roll ended, oldest first.
    pub results: Vec<&'static str>,
}

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Run {
    /// What is there.
    pub end: End,
    /// What the fake runtime wrote down, its first version's installation included.
    pub log: Vec<Entry>,
    /// Where in the log this run began.
    pub begin: usize,
    /// Every point at which a node could have been killed.
    pub points: Vec<Point>,
    /// How many facts were appended.
    pub facts: usize,
    /// How many effects were carried out.
    pub effects: usize,
    /// How often something happened.
    pub turns: usize,
    /// How often a node was killed.
    pub kills: u32,
    /// How long agents were away, all together.
    pub away: Duration,
    /// Rules broken that only the simulator could see: an act before its record, a replay that differs.
    pub broken: Vec<String>,
    /// A hash over everything that happened; says something only with [`Options::trace`].
    pub trace: u64,
    /// Everything that happened, for people; only with [`Options::trace`].
    pub lines: Vec<String>,
}

pub(super) struct Simulation {
    pub(super) scenario: Scenario,
    pub(super) options: Options,
    pub(super) now: Timestamp,
    pub(super) clock: ManualClock,
    pub(super) world: FakeWorld,
    pub(super) chance: Chance,
    pub(super) coordinator: Coordinator,
    pub(super) agents: BTreeMap<AgentId, Agent>,
    pub(super) wires: BTreeMap<u64, Wire>,
    pub(super) person: Person,
    /// Which agent a slot belongs to.
    pub(super) homes: BTreeMap<SlotName, AgentId>,
    pub(super) points: Vec<Point>,
    pub(super) facts: usize,
    pub(super) effects: usize,
    pub(super) turns: usize,
    pub(super) kills: u32,
    pub(super) away: Duration,
    pub(super) broken: Vec<String>,
    pub(super) trace: u64,
    pub(super) lines: Vec<String>,
    pub(super) begin: usize,
    queue: BTreeMap<(Timestamp, u64), Item>,
    next: u64,
    serials: u64,
    logged: usize,
    settling: bool,
}

impl Simulation {
    pub(super) fn new(scenario: &Scenario, options: Options, world: FakeWorld, now: Timestamp) -> Self {
        let chance = Chance::new(options.seed);
        let clock = ManualClock::new(1_000_000 + now.0, 1_700_000_000_000 + now.0);
        let begin = world.log().len();
        Self {
            scenario: scenario.clone(),
            options,
            now,
            clock,
            world,
            chance,
            coordinator: Coordinator::new(scenario.manifest.fleet.clone()),
            agents: BTreeMap::new(),
            wires: BTreeMap::new(),
            person: Person::default(),
            homes: BTreeMap::new(),
            points: Vec::new(),
            facts: 0,
            effects: 0,
            turns: 0,
            kills: 0,
            away: Duration::ZERO,
            broken: Vec::new(),
            trace: 0xcbf2_9ce4_8422_2325,
            lines: Vec::new(),
            begin,
            queue: BTreeMap::new(),
            next: 0,
            serials: 0,
            logged: begin,
            settling: false,
        }
    }

    pub(super) fn put(&mut self, at: Timestamp, item: Item) {
        self.next += 1;
        self.queue.insert((at, self.next), item);
    }

    pub(super) fn serial(&mut self) -> u64 {
        self.serials += 1;
        self.serials
    }

    /// Writes a line of the trace, where one is kept: writing it costs more than everything else in a run.
    pub(super) fn note(&mut self, line: impl FnOnce(&Self) -> String) {
        if !self.options.trace {
            return;
        }
        let line = format!("{} {}", self.now, line(self));
        for byte in line.bytes().chain([b'\n']) {
            self.trace = (self.trace ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        self.lines.push(line);
    }

    fn note_world(&mut self) {
        while let Some(entry) = self.world.log().get(self.logged) {
            let line = self.options.trace.then(|| format!("      world {}: {:?}", entry.at, entry.what));
            self.logged += 1;
            self.note(|_| line.unwrap_or_default());
        }
    }

    /// Whether chance may still do harm: not once everything is done and only rest is waited for.
    pub(super) fn may_fail(&self) -> bool {
        !self.settling && self.options.seed > 0
    }

    // === killing ===

    /// Whether the node is to be killed at this effect: before it, or after it.
    pub(super) fn dies_at(&mut self, node: &Node, nth: u64, after: bool) -> bool {
        let asked = self.options.crash.as_ref();
        if asked.is_some_and(|point| point.node == *node && point.place == (Place::Effect { nth, after })) {
            return true;
        }
        let (kill, kills) = (self.options.kill, self.options.kills);
        self.kills < kills && self.may_fail() && self.chance.one_in(kill)
    }

    /// Writes down the points around an effect; before it only where that is not after something else.
    pub(super) fn may_die_at(&mut self, node: &Node, nth: u64, first: bool, looks: bool, key: &impl std::fmt::Debug) {
        self.effects += 1;
        if !self.options.points {
            return;
        }
        let what = format!("{key:?}");
        for after in if first { &[false, true][..] } else { &[true] } {
            let place = Place::Effect { nth, after: *after };
            self.points.push(Point { node: node.clone(), place, looks, what: what.clone() });
        }
    }

    pub(super) fn kill(&mut self, node: &Node) {
        self.kills += 1;
        let by_chance = self.options.crash.is_none();
        let away = if by_chance && self.chance.one_in(4) { Duration::from_secs(22) } else { self.options.away };
        self.note(|_| format!("{node} KILLED, away for {away:?}"));
        match node {
            Node::Coordinator => {
                self.coordinator.live = None;
                let life = self.coordinator.life;
                self.cut_all(|wire| wire.host_life == life);
                if let Some(after) = self.options.late {
                    for (agent, command) in std::mem::take(&mut self.coordinator.sent) {
                        let at = self.now + after;
                        self.put(at, Item::Late { agent, command: Box::new(command) });
                    }
                }
            }
            Node::Agent(id) => {
                self.away += away;
                if let Some(agent) = self.agents.get_mut(id) {
                    agent.live = None;
                    let life = agent.life;
                    self.cut_all(|wire| wire.agent == *id && wire.life == life);
                }
            }
        }
        let at = self.now + away;
        self.put(at, Item::Boot(node.clone()));
    }

    // === time ===

    /// Runs until everything that was to happen has happened and everything is at rest.
    pub(super) fn run(&mut self) -> Result<(), SimulationError> {
        let started = self.now;
        let mut rest: Option<Timestamp> = None;
        for turns in 0..TURNS_MAX {
            self.turn();
            self.turns += 1;
            if self.now.since(started) > VIRTUAL_MAX {
                return Err(self.stuck(turns));
            }
            let done = self.is_done();
            self.settling = done;
            match (done, rest) {
                (false, _) => rest = None,
                (true, None) => rest = Some(self.now + REST),
                (true, Some(until)) if self.now >= until => return Ok(()),
                (true, Some(_)) => {}
            }
        }
        Err(self.stuck(TURNS_MAX))
    }

    fn stuck(&self, turns: usize) -> SimulationError {
        let holds = self.coordinator.live.as_ref().and_then(|live| live.driver.machine().ok()).map(|node| {
            let view = node.engine().view(live_now(&self.coordinator));
            format!("{:?} {:?}", view.roll.map(|roll| roll.state), view.holds)
        });
        let busy: Vec<_> = self.agents.values().filter(|agent| !agent.is_at_rest()).map(|agent| &agent.id).collect();
        let agents: Vec<_> = self.agents.values().map(|agent| agent.due).collect();
        let last = self.lines.iter().rev().take(12).rev().cloned().collect::<Vec<_>>().join("\n");
        let why = format!(
            "{}; agents at work {busy:?}; next: world {:?}, coordinator {:?}, agents {agents:?}, \
             queue {:?}; last:\n{last}",
            holds.unwrap_or_default(),
            self.world.next_deadline(),
            self.coordinator.due,
            self.queue.first_key_value(),
        );
        SimulationError::Stuck { turns, at: self.now, why }
    }

    fn is_done(&self) -> bool {
        let waits = |item: &Item| matches!(item, Item::Boot(_) | Item::Late { .. });
        self.person.is_done()
            && self.coordinator.is_at_rest()
            && self.agents.values().all(Agent::is_at_rest)
            && !self.queue.values().any(waits)
    }

    fn turn(&mut self) {
        let queued = self.queue.first_key_value().map(|((at, _), _)| *at);
        let world = self.world.next_deadline();
        let now = self.now;
        let agents = self.agents.values().filter(|agent| agent.live.is_some()).filter_map(|agent| agent.due).min();
        let coordinator = self.coordinator.due.filter(|_| self.coordinator.live.is_some());
        let next = [queued, world, agents, coordinator].into_iter().flatten().min();
        let next = next.unwrap_or(now + Duration::from_secs(1)).max(now);
        self.clock.advance(next.since(now));
        self.now = next;
        for event in self.world.advance(next) {
            self.stale(&event.instance.slot);
            if let FakeEventKind::Exited(status) = event.kind {
                self.tell_exit(&event.instance, status);
            }
        }
        self.note_world();
        let due = self.queue.first_key_value().map(|(key, _)| *key).filter(|(at, _)| *at <= next);
        if let Some(item) = due.and_then(|key| self.queue.remove(&key)) {
            self.happen(item);
        } else {
            let is_due = |due: Option<Timestamp>| due.is_some_and(|due| due <= next);
            if is_due(self.coordinator.due) {
                self.step_coordinator(vec![]);
            }
            let due = self.agents.values().filter(|agent| is_due(agent.due));
            let due: Vec<AgentId> = due.map(|agent| agent.id.clone()).collect();
            for id in due {
                self.step_agent(&id, vec![]);
            }
        }
        self.note_world();
    }

    fn happen(&mut self, item: Item) {
        match item {
            Item::Dial { agent, life, number } => self.connect(&agent, life, number),
            Item::Word { wire, to: network::End::Agent, text } => self.agent_hears(wire, &text),
            Item::Word { wire, to: network::End::Coordinator, text } => self.coordinator_hears(wire, &text),
            Item::Ended { wire, to: network::End::Agent } => self.agent_loses(wire),
            Item::Ended { wire, to: network::End::Coordinator } => self.coordinator_loses(wire),
            Item::Told { agent, life, slot, event } => self.agent_is_told(&agent, life, slot, event),
            Item::Watch { agent, life, key, serial } => self.watch(&agent, life, key, serial),
            Item::Gathered { agent, life, purpose, seen, resolve } => {
                self.gathered(&agent, life, purpose, &seen, &resolve);
            }
            Item::News { agent, life } => self.news(&agent, life),
            Item::Planning { life } => self.plan_way_back(life),
            Item::Boot(Node::Coordinator) => self.boot_coordinator(),
            Item::Boot(Node::Agent(id)) => self.boot_agent(&id),
            Item::Person => self.act_as_person(),
            Item::Late { agent, command } => self.arrive_late(&agent, *command),
        }
    }

    // === the end ===

    /// What every disk says is what every node knows, but for what only notes told.
    pub(super) fn check_replay(&mut self) {
        fn replayed<M: Machine + Clone + PartialEq>(
            live: &M,
            mut fresh: M,
            facts: Vec<(Timestamp, M::Record)>,
        ) -> bool {
            let mut live = live.clone();
            live.forget_notes();
            let legal = facts.iter().all(|(at, record)| fresh.apply(*at, record).is_ok());
            fresh.forget_notes();
            legal && live == fresh
        }
        if let Some(node) = self.coordinator.node() {
            let entries = self.coordinator.journal.read(0).unwrap_or_default();
            let facts = entries.into_iter().map(|entry| (entry.head.at, entry.record)).collect();
            if !replayed(node, Coordinator::fresh(&self.coordinator.fleet), facts) {
                self.broken.push("the coordinator's journal replays to another state".to_owned());
            }
        }
        for agent in self.agents.values() {
            let Some(node) = agent.node() else { continue };
            let entries = agent.journal.read(0).unwrap_or_default();
            let facts = entries.into_iter().map(|entry| (entry.head.at, entry.record)).collect();
            if !replayed(node, Agent::fresh(&agent.id), facts) {
                self.broken.push(format!("the ledger of agent {} replays to another state", agent.id));
            }
        }
    }

    /// What is there.
    pub(super) fn end(&mut self) -> End {
        let now = self.now;
        let mut slots = BTreeMap::new();
        for slot in self.world.slots() {
            let seen = self.world.inspect(now, &slot).unwrap_or_default();
            let of = |seen: InstanceObservation| (seen.version, seen.state, seen.admission);
            slots.insert(slot, seen.into_iter().map(of).collect());
        }
        let mut tables = BTreeMap::new();
        let gateways: Vec<SlotName> = slots.keys().cloned().collect();
        for gateway in gateways {
            for component in self.scenario.manifest.components.keys() {
                let table: Vec<TableTarget> = self.world.table(&gateway, component);
                if !table.is_empty() {
                    let mut targets: Vec<_> =
                        table.into_iter().map(|target| (target.instance.slot, target.admission)).collect();
                    targets.sort_by(|a, b| a.0.cmp(&b.0));
                    tables.insert((gateway.clone(), component.clone()), targets);
                }
            }
        }
        End { slots, tables, results: self.coordinator.results() }
    }
}

fn live_now(coordinator: &Coordinator) -> Timestamp {
    coordinator.live.as_ref().map_or(Timestamp::ZERO, |live| live.driver.now())
}
