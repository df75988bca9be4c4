//! A plan with its indexes: made once when a roll begins, so that no step costs work in proportion to the fleet.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{AgentId, ChangeKind, ComponentName, InstanceId, Plan, ReadyWait, SlotName, Step, StepId, StepKind};

/// What the engine knows of one step beyond the plan's own words. Slots are places in [`Graph::slots`].
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// The slot whose worker carries it out.
    pub slot: Option<usize>,
    /// The slots whose change it serves: its own; for a switch, those whose instances it admits or releases. A hook
    /// and a gate serve none.
    pub owners: Vec<usize>,
    /// Steps that wait for it.
    pub dependents: Vec<StepId>,
    /// The next step of the same slot for the same agent.
    pub next: Option<StepId>,
    /// Takes a place of `parallelism` (everything but prepare, retire, run and gate).
    pub work: bool,
    /// Must not run while an old instance of a slot given up may: hooks and jobs.
    pub exclusive: bool,
    /// It changes who serves in a component that has a floor.
    pub floored: bool,
}

/// Slots of one component that share places.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Lane {
    pub component: ComponentName,
    /// Places; `usize::MAX`: all.
    pub limit: usize,
    /// In the order in which places are given.
    pub order: Vec<usize>,
}

/// A plan with its indexes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Graph {
    pub plan: Plan,
    pub slots: Vec<SlotName>,
    pub nodes: Vec<Node>,
    /// By slot: all steps that it owns, in order.
    pub owned: Vec<Vec<StepId>>,
    pub lanes: Vec<Lane>,
    /// By slot: its lane.
    pub lane_of: Vec<Option<usize>>,
    /// By slot: its turn in its lane.
    pub turn_of: Vec<usize>,
    /// By slot name: who acts for it.
    pub agent_of: BTreeMap<SlotName, AgentId>,
    /// Everybody that has a slot in this roll, kept ones too: the floor counts those as well.
    pub agents: BTreeSet<AgentId>,
    /// Steps that take an instance out of service.
    pub down_by: BTreeMap<InstanceId, Vec<StepId>>,
    /// Steps that bring an instance into service.
    pub up_by: BTreeMap<InstanceId, Vec<StepId>>,
    /// Components that have no probe: running is all that can be said of them.
    pub weak: BTreeSet<ComponentName>,
    /// By component: gateway slots that carry its traffic, with their agents.
    pub gateways: BTreeMap<ComponentName, BTreeMap<SlotName, AgentId>>,
}

/// Instances that a step takes out of service.
pub(super) fn takes_down(step: &Step) -> &[InstanceId] {
    match &step.kind {
        StepKind::Drain { .. } | StepKind::Stop { .. } => step.instance.as_slice(),
        StepKind::Switch { release, .. } => release,
        _ => &[],
    }
}

/// Instances that a step brings into service.
fn brings_up(step: &Step) -> &[InstanceId] {
    match &step.kind {
        StepKind::Ready { .. } | StepKind::Undrain { .. } => step.instance.as_slice(),
        StepKind::Switch { admit, .. } => admit,
        _ => &[],
    }
}

/// What makes a plan impossible to carry out, if anything does.
pub(super) fn malformed(plan: &Plan) -> Option<String> {
    for (place, step) in plan.steps.iter().enumerate() {
        let id = step.id;
        let verb = step.kind.verb();
        if id.0 as usize != place {
            return Some(format!("step {id} stands at place {place}"));
        }
        if let Some(later) = step.after.iter().find(|other| **other >= id) {
            return Some(format!("step {id} ({verb}) waits for step {later}, which is not before it"));
        }
        let own = matches!(step.kind, StepKind::Delay { .. } | StepKind::Gate { .. });
        let on_instance =
            !own && !matches!(step.kind, StepKind::Switch { .. } | StepKind::Run { .. }) && step.instance.is_none();
        if own && step.agent.is_some() {
            return Some(format!("step {id} ({verb}) is the coordinator's own, yet it names an agent"));
        }
        if !own && step.agent.is_none() {
            return Some(format!("step {id} ({verb}) names no agent"));
        }
        if !own && step.slot.is_none() {
            return Some(format!("step {id} ({verb}) names no slot"));
        }
        if on_instance {
            return Some(format!("step {id} ({verb}) names no instance"));
        }
        if let (Some(instance), Some(slot)) = (&step.instance, &step.slot)
            && !matches!(step.kind, StepKind::Switch { .. } | StepKind::Run { .. })
            && instance.slot != *slot
        {
            return Some(format!("step {id} ({verb}) acts on {instance} in slot {slot}"));
        }
    }
    None
}

impl Graph {
    /// Indexes a plan.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub fn new(plan: Plan) -> Result<Graph, String> {
        if let Some(why) = malformed(&plan) {
            return Err(why);
        }
        let mut graph = Graph {
            slots: Vec::new(),
            nodes: Vec::with_capacity(plan.steps.len()),
            owned: Vec::new(),
            lanes: Vec::new(),
            lane_of: Vec::new(),
            turn_of: Vec::new(),
            agent_of: plan.changes.iter().map(|change| (change.slot.clone(), change.agent.clone())).collect(),
            agents: plan.changes.iter().map(|change| change.agent.clone()).collect(),
            down_by: BTreeMap::new(),
            up_by: BTreeMap::new(),
            weak: BTreeSet::new(),
            gateways: BTreeMap::new(),
            plan,
        };
        graph.index_slots();
        graph.index_steps();
        graph.index_lanes();
        Ok(graph)
    }

    fn index_slots(&mut self) {
        let mut names = BTreeSet::new();
        for step in &self.plan.steps {
            names.extend(step.slot.clone());
            if let StepKind::Switch { admit, release, .. } = &step.kind {
                names.extend(admit.iter().chain(release).map(|instance| instance.slot.clone()));
            }
        }
        for limits in self.plan.limits.values() {
            names.extend(limits.lane.iter().cloned());
        }
        self.slots = names.into_iter().collect();
        self.owned = vec![Vec::new(); self.slots.len()];
        self.lane_of = vec![None; self.slots.len()];
        self.turn_of = vec![0; self.slots.len()];
    }

    /// A slot's place. Every slot that a step or a lane names has one.
    pub fn slot_index(&self, slot: &SlotName) -> Option<usize> {
        self.slots.binary_search(slot).ok()
    }

    fn index_steps(&mut self) {
        let kept: BTreeSet<&SlotName> = self
            .plan
            .changes
            .iter()
            .filter(|change| change.kind == ChangeKind::Keep)
            .map(|change| &change.slot)
            .collect();
        let jobs: BTreeSet<&SlotName> = self
            .plan
            .steps
            .iter()
            .filter(|step| matches!(&step.kind, StepKind::Ready { wait: ReadyWait::Completed, .. }))
            .filter_map(|step| step.slot.as_ref())
            .collect();
        let mut last: BTreeMap<(usize, &AgentId), usize> = BTreeMap::new();
        let mut nodes: Vec<Node> = Vec::with_capacity(self.plan.steps.len());
        for (place, step) in self.plan.steps.iter().enumerate() {
            let slot = step.slot.as_ref().and_then(|slot| self.slot_index(slot));
            let owners: Vec<usize> = match &step.kind {
                StepKind::Run { .. } | StepKind::Gate { .. } => Vec::new(),
                StepKind::Switch { admit, release, .. } => {
                    // A switch that only carries kept instances over serves the gateway's own change.
                    let served: BTreeSet<&SlotName> =
                        admit.iter().chain(release).map(|instance| &instance.slot).collect();
                    let changing: Vec<usize> = served
                        .into_iter()
                        .filter(|slot| !kept.contains(slot))
                        .filter_map(|slot| self.slot_index(slot))
                        .collect();
                    if changing.is_empty() { slot.into_iter().collect() } else { changing }
                }
                _ => slot.into_iter().collect(),
            };
            let floor_of = |component: &ComponentName| {
                self.plan.limits.get(component).is_some_and(|limits| limits.min_available > 0)
            };
            let floored = takes_down(step).iter().chain(brings_up(step)).any(|one| floor_of(&one.slot.component));
            nodes.push(Node {
                slot,
                owners,
                dependents: Vec::new(),
                next: None,
                work: !matches!(
                    step.kind,
                    StepKind::Prepare { .. } | StepKind::Retire | StepKind::Run { .. } | StepKind::Gate { .. }
                ),
                exclusive: matches!(step.kind, StepKind::Run { .. })
                    || (!matches!(step.kind, StepKind::Prepare { .. })
                        && step.slot.as_ref().is_some_and(|slot| jobs.contains(slot))),
                floored,
            });
            if let (Some(slot), Some(agent)) = (slot, &step.agent)
                && let Some(before) = last.insert((slot, agent), place)
            {
                nodes[before].next = Some(step.id);
            }
            for before in &step.after {
                nodes[before.0 as usize].dependents.push(step.id);
            }
        }
        for (place, step) in self.plan.steps.iter().enumerate() {
            for owner in &nodes[place].owners {
                self.owned[*owner].push(step.id);
            }
            for instance in takes_down(step) {
                self.down_by.entry(instance.clone()).or_default().push(step.id);
            }
            if let (StepKind::Ready { wait: ReadyWait::Weak { .. }, .. }, Some(slot)) = (&step.kind, &step.slot) {
                self.weak.insert(slot.component.clone());
            }
            for instance in brings_up(step) {
                self.up_by.entry(instance.clone()).or_default().push(step.id);
            }
            if let (Some(slot), Some(agent)) = (&step.slot, &step.agent) {
                self.agents.insert(agent.clone());
                self.agent_of.entry(slot.clone()).or_insert_with(|| agent.clone());
                if let StepKind::Switch { component, .. } = &step.kind {
                    self.gateways.entry(component.clone()).or_default().insert(slot.clone(), agent.clone());
                }
            }
        }
        self.nodes = nodes;
    }

    fn index_lanes(&mut self) {
        for (component, limits) in &self.plan.limits {
            let order: Vec<usize> = limits
                .lane
                .iter()
                .filter_map(|slot| self.slots.binary_search(slot).ok())
                .filter(|slot| self.owned[*slot].iter().any(|step| self.nodes[step.0 as usize].work))
                .collect();
            if order.is_empty() {
                continue;
            }
            for (turn, slot) in order.iter().enumerate() {
                self.lane_of[*slot] = Some(self.lanes.len());
                self.turn_of[*slot] = turn;
            }
            let limit = if limits.parallelism == 0 { usize::MAX } else { limits.parallelism as usize };
            self.lanes.push(Lane { component: component.clone(), limit, order });
        }
    }

    /// A step of the plan; ids come from the plan or were checked against it.
    pub fn step(&self, id: StepId) -> &Step {
        &self.plan.steps[id.0 as usize]
    }

    /// What is known beside it.
    pub fn node(&self, id: StepId) -> &Node {
        &self.nodes[id.0 as usize]
    }
}
