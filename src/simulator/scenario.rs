//! What is to happen: a fleet, what it runs, how that behaves, and what a person does.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::agent::Agent;
use super::options::Options;
use super::person::Person;
use super::simulation::{Item, Run, Simulation, SimulationError};
use crate::journal::MemoryJournal;
use crate::model::{AgentId, ComponentName, Definition, Digest, Manifest, Plan, SlotName, Timestamp};
use crate::node::{AgentRecord, CoordinatorRecord};
use crate::planner::{Ask, plan_digest};
use crate::runtime::fake::{FakeWorld, GatewayKnobs, Knobs};

/// What a person does, one after the other.
#[derive(Clone, Debug, PartialEq)]
pub enum Move {
    /// Asks for the roll.
    Begin,
    /// Pauses when so many steps have ended.
    Pause {
        /// How many.
        ended: usize,
    },
    /// Resumes after so long a pause.
    Resume {
        /// How long.
        after: Duration,
    },
}

/// A fleet and what is to happen to it.
#[derive(Clone)]
pub struct Scenario {
    /// For people.
    pub name: &'static str,
    /// The manifest, `{version}` not filled in.
    pub manifest: Manifest,
    /// The agents.
    pub agents: BTreeSet<AgentId>,
    /// What the fleet runs before.
    pub from: String,
    /// What is asked.
    pub ask: Ask,
    /// How instances behave, by component and version (`None`: every other).
    pub knobs: Vec<(ComponentName, Option<String>, Knobs)>,
    /// What goes through the gateways.
    pub traffic: GatewayKnobs,
    /// A change of the plan by hand: hooks and gates, which no manifest asks for yet.
    pub edit: Option<fn(&mut Plan)>,
    /// What a person does.
    pub moves: Vec<Move>,
}

/// A fleet that runs its first version, at rest: where every run of a scenario begins.
pub struct Ground {
    /// What is to happen.
    pub scenario: Scenario,
    /// The plan that is asked for.
    pub plan: Plan,
    definitions: BTreeMap<Digest, Definition>,
    world: FakeWorld,
    at: Timestamp,
    journal: MemoryJournal<CoordinatorRecord>,
    ledgers: BTreeMap<AgentId, MemoryJournal<AgentRecord>>,
    specs: BTreeMap<Digest, Definition>,
    stores: BTreeMap<AgentId, BTreeMap<Digest, Definition>>,
    homes: BTreeMap<SlotName, AgentId>,
    broken: Vec<String>,
}

/// Installs a scenario's first version in virtual time, and plans what is asked of it.
///
/// # Errors
/// When it does not come to rest, or there is no plan.
pub fn lay(scenario: &Scenario) -> Result<Ground, SimulationError> {
    let mut simulation = Simulation::empty(scenario, Options::default());
    simulation.install(&scenario.from)?;
    simulation.ground(scenario.clone())
}

impl Simulation {
    /// Nothing anywhere: every agent and the coordinator on an empty disk.
    fn empty(scenario: &Scenario, options: Options) -> Self {
        let mut world = FakeWorld::new();
        for (component, version, knobs) in &scenario.knobs {
            world.set(component, version.as_deref(), knobs.clone());
        }
        world.set_gateway(scenario.traffic.clone());
        let mut simulation = Self::new(scenario, options, world, Timestamp::ZERO);
        for id in &scenario.agents {
            let agent = Agent::new(id.clone(), MemoryJournal::new(), BTreeMap::new());
            simulation.agents.insert(id.clone(), agent);
        }
        simulation
    }

    fn boot_all(&mut self) {
        self.boot_coordinator();
        let agents: Vec<AgentId> = self.agents.keys().cloned().collect();
        for agent in agents {
            self.boot_agent(&agent);
        }
    }

    fn install(&mut self, version: &str) -> Result<(), SimulationError> {
        self.boot_all();
        // At rest: every agent is connected and has reported.
        self.run()?;
        let ask = Ask::Up { to: Some(version.to_owned()), only: vec![], remove_orphans: false };
        let planned = self.plan_now(ask)?;
        self.person = Person::new(vec![Move::Begin], planned.plan, planned.definitions, 0);
        self.put(self.now, Item::Person);
        self.run()
    }

    fn ground(self, scenario: Scenario) -> Result<Ground, SimulationError> {
        let mut planned = self.plan_now(scenario.ask.clone())?;
        if let Some(edit) = scenario.edit {
            edit(&mut planned.plan);
            planned.plan.digest = plan_digest(&planned.plan);
        }
        let ledgers = self.agents.iter().map(|(id, agent)| (id.clone(), agent.journal.clone())).collect();
        Ok(Ground {
            scenario,
            plan: planned.plan,
            definitions: planned.definitions,
            at: self.now,
            journal: self.coordinator.journal.clone(),
            specs: self.coordinator.specs,
            stores: self.agents.into_iter().map(|(id, agent)| (id, agent.specs)).collect(),
            ledgers,
            homes: self.homes,
            broken: self.broken,
            world: self.world,
        })
    }
}

impl Ground {
    /// One run of the scenario, from the same begin each time, with what is to go wrong in it.
    ///
    /// # Errors
    /// [`SimulationError::Stuck`], with everything that happened until then.
    pub fn run(&self, options: Options) -> (Run, Option<SimulationError>) {
        let mut simulation = Simulation::new(&self.scenario, options, self.world.clone(), self.at);
        simulation.homes.clone_from(&self.homes);
        simulation.broken.clone_from(&self.broken);
        simulation.coordinator.journal = self.journal.copy_of_first(usize::MAX);
        simulation.coordinator.specs.clone_from(&self.specs);
        for (id, ledger) in &self.ledgers {
            let specs = self.stores.get(id).cloned().unwrap_or_default();
            let agent = Agent::new(id.clone(), ledger.copy_of_first(usize::MAX), specs);
            simulation.agents.insert(id.clone(), agent);
        }
        let moves = self.scenario.moves.clone();
        simulation.person = Person::new(moves, self.plan.clone(), self.definitions.clone(), 1);
        simulation.put(self.at, Item::Person);
        simulation.boot_all();
        let stuck = simulation.run().err();
        simulation.check_replay();
        let end = simulation.end();
        let Simulation { world, begin, points, facts, effects, turns, kills, away, broken, trace, lines, .. } =
            simulation;
        let log = world.log().to_vec();
        (Run { end, log, begin, points, facts, effects, turns, kills, away, broken, trace, lines }, stuck)
    }
}
