//! Making plans: the first one at once, a way back from inventories that agents are asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::simulation::{Simulation, SimulationError};
use crate::engine;
use crate::model::{AgentId, ComponentName, Definition, Inventory, Plan, RollId, RollNumber, Timestamp, ToAgent};
use crate::node::Knowledge;
use crate::planner::{self, Ask, History, Planned, PlanningInput};

/// Between two tries while an agent is away, and how long an agent may take to answer.
const RETRY: Duration = Duration::from_secs(1);
const REPORT_MAX: Duration = Duration::from_secs(15);

/// A plan in the making.
pub(super) struct Asking {
    roll: RollId,
    waiting: BTreeMap<u64, AgentId>,
    found: BTreeMap<AgentId, Inventory>,
    resolving: bool,
    /// When what is waited for will not come any more; `None`: nobody has been asked yet.
    until: Option<Timestamp>,
}

impl Simulation {
    fn history(&self, known: &Knowledge, inventory: &BTreeMap<AgentId, Inventory>) -> History {
        let specs = &self.coordinator.specs;
        let seen = inventory.values().flat_map(|inventory| inventory.slots.values()).flat_map(|slot| &slot.instances);
        let named: BTreeSet<_> = seen.filter_map(|instance| instance.definition.as_ref()).collect();
        History {
            version: known.version.clone(),
            fleet: known.fleet.clone(),
            versions: known.versions.clone(),
            highest: known.highest.clone(),
            completed_jobs: known.completed_jobs.clone(),
            succeeded: known
                .succeeded
                .iter()
                .filter_map(|(component, digest)| {
                    Some((component.clone(), (digest.clone(), specs.get(digest)?.clone())))
                })
                .collect(),
            definitions: named.into_iter().filter_map(|d| Some((d.clone(), specs.get(d)?.clone()))).collect(),
        }
    }

    /// A plan from what the coordinator was told last, resolved at once.
    pub(super) fn plan_now(&self, ask: Ask) -> Result<Planned, SimulationError> {
        let Some(node) = self.coordinator.node() else {
            return Err(planner::PlanError::Refused("there is no coordinator".to_owned()).into());
        };
        let known = Knowledge::of(node.engine());
        let inventory = known.inventories.clone();
        let history = self.history(&known, &inventory);
        let manifest = Some(self.scenario.manifest.clone());
        let mut input = PlanningInput { manifest, inventory, history, ask };
        for (agent, wanted) in planner::wanted_for(&input)? {
            if let Some(inventory) = input.inventory.get_mut(&agent) {
                inventory.resolutions =
                    wanted.iter().map(|(name, known)| (name.clone(), self.world.resolve(known, None))).collect();
            }
        }
        Ok(planner::plan(&input)?)
    }

    // === the way back ===

    pub(super) fn begin_planning(&mut self, roll: RollId) {
        let Some(live) = &mut self.coordinator.live else { return };
        if live.asking.is_none() {
            let (waiting, found) = (BTreeMap::new(), BTreeMap::new());
            live.asking = Some(Asking { roll, waiting, found, resolving: false, until: None });
            self.plan_later(Duration::ZERO);
        }
    }

    fn failed_plan(&self, roll: &RollId) -> Option<Plan> {
        let current = self.coordinator.node()?.engine().current()?;
        (current.roll == roll).then(|| current.plan.clone())
    }

    /// Begins, or begins anew when somebody did not answer.
    pub(super) fn plan_way_back(&mut self, life: u64) {
        let now = self.now;
        if self.coordinator.life != life {
            return;
        }
        let Some(asking) = self.coordinator.live.as_ref().and_then(|live| live.asking.as_ref()) else { return };
        if asking.until.is_some_and(|until| now < until) {
            return;
        }
        let roll = asking.roll.clone();
        if self.failed_plan(&roll).is_none() {
            if let Some(live) = &mut self.coordinator.live {
                live.asking = None;
            }
            return;
        }
        let attached: BTreeSet<AgentId> =
            self.coordinator.node().map(|node| node.attached().cloned().collect()).unwrap_or_default();
        if self.agents.keys().all(|agent| attached.contains(agent)) {
            self.ask_all(&BTreeMap::new(), false);
        } else {
            self.plan_later(RETRY);
        }
    }

    fn ask_all(&mut self, wanted: &BTreeMap<AgentId, BTreeMap<ComponentName, Definition>>, resolving: bool) {
        let agents: Vec<AgentId> = self.agents.keys().cloned().collect();
        let until = self.now + REPORT_MAX;
        if let Some(asking) = self.coordinator.live.as_mut().and_then(|live| live.asking.as_mut()) {
            asking.waiting.clear();
        }
        for agent in agents {
            let Some(live) = &mut self.coordinator.live else { return };
            let number = live.next_number;
            live.next_number += 1;
            let Some(asking) = &mut live.asking else { return };
            asking.waiting.insert(number, agent.clone());
            (asking.resolving, asking.until) = (resolving, Some(until));
            let resolve = wanted.get(&agent).cloned().unwrap_or_default();
            self.coordinator_says(&agent, &ToAgent::Report { number, resolve, pull: false });
        }
        self.plan_later(REPORT_MAX);
    }

    pub(super) fn plan_hears(&mut self, number: u64, inventory: &Inventory) {
        let Some(asking) = self.coordinator.live.as_mut().and_then(|live| live.asking.as_mut()) else { return };
        if asking.waiting.remove(&number).is_none() {
            return;
        }
        asking.found.insert(inventory.agent.clone(), inventory.clone());
        let (roll, found, resolving) = (asking.roll.clone(), asking.found.clone(), asking.resolving);
        if !asking.waiting.is_empty() || found.len() < self.agents.len() {
            return;
        }
        let Some((node, plan)) = self.coordinator.node().zip(self.failed_plan(&roll)) else { return };
        let known = Knowledge::of(node.engine()).before(&roll);
        let history = self.history(&known, &found);
        let number = node.engine().summary_of(&roll).map_or(RollNumber(0), |summary| summary.number);
        let ask = Ask::Rollback { of: roll.clone(), number, plan: Box::new(plan) };
        let input = PlanningInput { manifest: None, inventory: found, history, ask };
        let wanted = planner::wanted_for(&input).unwrap_or_default();
        if !resolving && wanted.values().any(|wanted| !wanted.is_empty()) {
            return self.ask_all(&wanted, true);
        }
        if let Some(live) = &mut self.coordinator.live {
            live.asking = None;
        }
        let event = match (planner::plan(&input), self.next_roll()) {
            (Ok(planned), Some(fresh)) => {
                self.coordinator.specs.extend(planned.definitions);
                engine::Event::RollbackPlanned { parent: roll, roll: fresh, plan: Box::new(planned.plan) }
            }
            (Err(error), _) => engine::Event::RollbackImpossible { parent: roll, why: error.to_string() },
            (_, None) => return,
        };
        self.engine_hears(event);
    }
}
