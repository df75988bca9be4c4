//! A linter for finished plans. It is written against the rules, not against the planner: it shares none of its helpers
//! and works from the plan, its labels and the input alone.

mod order;

use std::collections::{BTreeMap, BTreeSet};

use super::{Ask, PlanningInput, plan_digest};
use crate::model::{
    AgentId, Change, ChangeKind, ComponentName, Definition, Digest, InstanceId, InstanceObservation, InstanceState,
    Order, Plan, PlanKind, Role, SlotName, Step, StepId, StepKind,
};

/// Judges a plan against the input that it was made from.
///
/// # Errors
/// Every fault found, a sentence each. A fault is one of the planner, never of the input.
pub fn check(plan: &Plan, input: &PlanningInput) -> Result<(), Vec<String>> {
    let mut lint = Lint::new(plan, input);
    lint.ids_and_digest();
    if lint.faults.is_empty() {
        // The rest relies on an order that makes sense.
        lint.reach();
        lint.places();
        lint.instances();
        lint.prepare_first();
        lint.orders();
        lint.traffic();
        lint.stages();
        lint.api();
        lint.jobs();
        lint.limits();
        lint.verbs();
        lint.one_digest();
    }
    if lint.faults.is_empty() { Ok(()) } else { Err(lint.faults) }
}

struct Lint<'a> {
    plan: &'a Plan,
    input: &'a PlanningInput,
    /// For each step the set of steps that are surely done before it begins.
    before: Vec<Vec<u64>>,
    changes: BTreeMap<&'a SlotName, &'a Change>,
    seen: BTreeMap<&'a InstanceId, (&'a AgentId, &'a InstanceObservation)>,
    /// The first step of each verb for each instance.
    steps: BTreeMap<(&'a InstanceId, &'static str), &'a Step>,
    by_slot: BTreeMap<&'a SlotName, Vec<&'a Step>>,
    faults: Vec<String>,
}

impl<'a> Lint<'a> {
    fn new(plan: &'a Plan, input: &'a PlanningInput) -> Self {
        let mut seen = BTreeMap::new();
        for (agent, report) in &input.inventory {
            for instance in report.slots.values().flat_map(|slot| &slot.instances) {
                seen.insert(&instance.id, (agent, instance));
            }
        }
        let changes = plan.changes.iter().map(|change| (&change.slot, change)).collect();
        let mut steps = BTreeMap::new();
        let mut by_slot: BTreeMap<&SlotName, Vec<&Step>> = BTreeMap::new();
        for step in &plan.steps {
            if let Some(instance) = &step.instance {
                steps.entry((instance, step.kind.verb())).or_insert(step);
            }
            if let Some(slot) = &step.slot {
                by_slot.entry(slot).or_default().push(step);
            }
        }
        Self { plan, input, before: Vec::new(), changes, seen, steps, by_slot, faults: Vec::new() }
    }

    fn fault(&mut self, text: String) {
        self.faults.push(text);
    }

    fn ids_and_digest(&mut self) {
        for (index, step) in self.plan.steps.iter().enumerate() {
            if step.id.0 as usize != index {
                self.fault(format!("step {} stands at place {index}", step.id));
            }
            if let Some(later) = step.after.iter().find(|after| **after >= step.id) {
                self.fault(format!("step {} waits for {later}, which is not before it", step.id));
            }
        }
        if plan_digest(self.plan) != self.plan.digest {
            self.fault("the digest is not that of the plan".to_owned());
        }
        if self.changes.len() != self.plan.changes.len() {
            self.fault("a slot has two changes".to_owned());
        }
    }

    fn reach(&mut self) {
        let words = self.plan.steps.len().div_ceil(64);
        for step in &self.plan.steps {
            let mut set = vec![0u64; words];
            for after in &step.after {
                let index = after.0 as usize;
                for (word, other) in set.iter_mut().zip(&self.before[index]) {
                    *word |= other;
                }
                set[index / 64] |= 1 << (index % 64);
            }
            self.before.push(set);
        }
    }

    fn is_before(&self, first: StepId, second: StepId) -> bool {
        let index = first.0 as usize;
        self.before.get(second.0 as usize).is_some_and(|set| set[index / 64] >> (index % 64) & 1 == 1)
    }

    fn find(&self, instance: &InstanceId, verb: &'static str) -> Option<&'a Step> {
        self.steps.get(&(instance, verb)).copied()
    }

    fn on(&self, slot: &SlotName) -> &[&'a Step] {
        self.by_slot.get(slot).map_or(&[], Vec::as_slice)
    }

    fn may_run(&self, instance: &InstanceId) -> bool {
        self.seen
            .get(instance)
            .is_some_and(|(_, seen)| !matches!(seen.state, InstanceState::Created | InstanceState::Exited))
    }

    /// What is known of a component: the manifest says most, else what ran before.
    fn definition(&self, component: &ComponentName) -> Option<&'a Definition> {
        let input = self.input;
        let succeeded = || input.history.succeeded.get(component).map(|(_, definition)| definition);
        let manifest = || input.manifest.as_ref().and_then(|manifest| manifest.components.get(component));
        let known = match self.plan.kind {
            PlanKind::Rollback { .. } => succeeded().or_else(manifest),
            _ => manifest().or_else(succeeded),
        };
        known.or_else(|| input.history.definitions.values().find(|definition| definition.component == *component))
    }

    fn has_role(&self, component: &ComponentName, role: &Role) -> bool {
        match self.definition(component) {
            Some(definition) => definition.role.as_ref() == Some(role),
            None => *role == Role::Gateway && component.as_str() == "gateway",
        }
    }

    /// Every step names an agent that is there and a slot that the plan knows.
    fn places(&mut self) {
        for step in &self.plan.steps {
            let own = matches!(step.kind, StepKind::Delay { .. } | StepKind::Gate { .. });
            let id = step.id;
            if own != step.agent.is_none() {
                self.fault(format!("step {id}: {} is done by the wrong side", step.kind.verb()));
            }
            if let Some(agent) = step.agent.as_ref().filter(|agent| !self.input.inventory.contains_key(*agent)) {
                self.fault(format!("step {id}: there is no agent {agent}"));
            }
            if step.deadline.is_zero() {
                self.fault(format!("step {id}: {} has no time", step.kind.verb()));
            }
            let Some(slot) = &step.slot else {
                if !own {
                    self.fault(format!("step {id}: {} on no slot", step.kind.verb()));
                }
                continue;
            };
            let Some(change) = self.changes.get(slot).copied() else {
                self.fault(format!("step {id} is on {slot}, which the plan does not know"));
                continue;
            };
            let switch = matches!(step.kind, StepKind::Switch { .. });
            if change.kind == ChangeKind::Keep && !switch {
                self.fault(format!("step {id}: {slot} is kept, yet there is {}", step.kind.verb()));
            }
            match &step.instance {
                Some(instance) if instance.slot != *slot => {
                    self.fault(format!("step {id}: {instance} is not an instance of {slot}"));
                }
                None if !switch && !own => self.fault(format!("step {id}: {} on no instance", step.kind.verb())),
                _ => {}
            }
            if let (Some(instance), Some(agent)) = (&step.instance, &step.agent) {
                let home = self.seen.get(instance).map_or(&change.agent, |(agent, _)| *agent);
                if home != agent {
                    self.fault(format!("step {id}: {instance} lives on {home}, not on {agent}"));
                }
            }
        }
    }

    /// An instance is made once, under a number that nobody has used; it starts, is ready, soaks, stops and goes in
    /// this
    /// order; going is the last of its slot.
    fn instances(&mut self) {
        let mut made = BTreeSet::new();
        for step in &self.plan.steps {
            let (Some(slot), Some(instance)) = (&step.slot, &step.instance) else { continue };
            let id = step.id;
            match &step.kind {
                StepKind::Prepare { .. } => {
                    if !made.insert(instance) {
                        self.fault(format!("step {id}: {instance} is made twice"));
                    }
                    let known = self.highest(slot);
                    if instance.number <= known {
                        self.fault(format!("step {id}: number {} of {slot} was used ({known})", instance.number));
                    }
                }
                StepKind::Start { .. } => match self.find(instance, "prepare") {
                    Some(prepare) if !self.is_before(prepare.id, id) => {
                        self.fault(format!("step {id}: {instance} starts before it is made"));
                    }
                    None if !self.seen.contains_key(instance) => {
                        self.fault(format!("step {id}: {instance} starts and was never made"));
                    }
                    _ => {}
                },
                StepKind::Ready { .. } => self.follows(step, instance, "start"),
                StepKind::Soak { .. } => {
                    self.follows(step, instance, "ready");
                    if self.find(instance, "ready").is_none() {
                        self.fault(format!("step {id}: {instance} soaks and nobody asks whether it is ready"));
                    }
                }
                StepKind::Drain { .. } | StepKind::Stop { .. } => {
                    if !self.may_run(instance) {
                        self.fault(format!("step {id}: {instance} does not run, yet there is {}", step.kind.verb()));
                    }
                    if matches!(step.kind, StepKind::Stop { .. }) {
                        self.follows(step, instance, "drain");
                    }
                }
                StepKind::Retire => self.retire(step, slot, instance),
                _ => {}
            }
        }
    }

    fn highest(&self, slot: &SlotName) -> u64 {
        let found = self.input.inventory.values().filter_map(|report| report.slots.get(slot));
        let known = found.flat_map(|slot| slot.instances.iter().map(|i| i.id.number).chain([slot.highest]));
        known.chain(self.input.history.highest.get(slot).copied()).max().unwrap_or(0)
    }

    /// If there is such a step for the instance, it is before this one.
    fn follows(&mut self, step: &Step, instance: &InstanceId, verb: &'static str) {
        if let Some(earlier) = self.find(instance, verb).filter(|earlier| !self.is_before(earlier.id, step.id)) {
            let (id, verb) = (step.id, step.kind.verb());
            self.fault(format!("step {id}: {verb} of {instance} does not wait for step {}", earlier.id));
        }
    }

    fn retire(&mut self, step: &Step, slot: &SlotName, instance: &InstanceId) {
        let id = step.id;
        if self.changes.get(slot).is_some_and(|change| change.new.as_ref() == Some(instance)) {
            self.fault(format!("step {id}: {instance} stays, yet it is retired"));
        }
        let stop = self.find(instance, "stop");
        if self.may_run(instance) && !stop.is_some_and(|stop| self.is_before(stop.id, id)) {
            self.fault(format!("step {id}: {instance} is retired and may still run"));
        }
        let others: Vec<StepId> = self
            .on(slot)
            .iter()
            .filter(|other| !matches!(other.kind, StepKind::Retire))
            .filter(|other| !matches!(other.kind, StepKind::Switch { .. }) || other.id < id)
            .map(|other| other.id)
            .collect();
        for other in others {
            if !self.is_before(other, id) {
                self.fault(format!("step {id}: retire is not the last of {slot} (step {other})"));
            }
        }
    }

    /// Nothing is touched before everything is made.
    fn prepare_first(&mut self) {
        let verb = |step: &&Step, prepare: bool| matches!(step.kind, StepKind::Prepare { .. }) == prepare;
        let made: Vec<StepId> = self.plan.steps.iter().filter(|s| verb(s, true)).map(|s| s.id).collect();
        for step in self.plan.steps.iter().filter(|step| verb(step, false)) {
            if let Some(late) = made.iter().find(|made| !self.is_before(**made, step.id)) {
                self.fault(format!("step {}: {} does not wait for prepare {late}", step.id, step.kind.verb()));
            }
        }
    }

    /// The floor can be kept, and places are given to slots that want one.
    fn limits(&mut self) {
        for (component, limits) in &self.plan.limits {
            let mine: Vec<&Change> =
                self.plan.changes.iter().filter(|change| change.slot.component == *component).collect();
            let changing: BTreeSet<&SlotName> =
                mine.iter().filter(|change| change.kind != ChangeKind::Keep).map(|change| &change.slot).collect();
            let lane: BTreeSet<&SlotName> = limits.lane.iter().collect();
            if lane.len() != limits.lane.len() || !lane.is_subset(&changing) {
                self.fault(format!("{component}: places are given to slots that want none"));
            }
            if limits.changed as usize != changing.len() {
                self.fault(format!("{component}: {} slots change, not {}", changing.len(), limits.changed));
            }
            let stopped: BTreeSet<&SlotName> = self
                .plan
                .steps
                .iter()
                .filter(|step| matches!(step.kind, StepKind::Stop { .. }))
                .filter_map(|step| step.slot.as_ref().filter(|slot| slot.component == *component))
                .collect();
            if limits.min_available > 0 && !stopped.is_empty() && lane.is_empty() {
                self.fault(format!("{component}: a floor of {} where all stop at once", limits.min_available));
            }
            let dips = mine.iter().any(|change| {
                change.order == Some(Order::StopFirst) && stopped.contains(&change.slot) && change.new.is_some()
            });
            let there = mine.iter().filter(|change| change.new.is_some()).count();
            let most = if dips { there.saturating_sub(1) } else { there };
            if limits.min_available as usize > most {
                self.fault(format!("{component}: a floor of {} that {most} cannot keep", limits.min_available));
            }
        }
    }

    /// Each verb does only what it is for, and nobody rolls a gateway by the way.
    fn verbs(&mut self) {
        let allowed: &[&str] = match self.plan.kind {
            PlanKind::Up | PlanKind::Restart | PlanKind::Rollback { .. } => &[
                "prepare", "switch", "drain", "undrain", "stop", "start", "ready", "soak", "delay", "retire", "run",
                "gate",
            ],
            PlanKind::Down => &["switch", "drain", "stop", "delay"],
            PlanKind::Drain => &["switch", "drain"],
            PlanKind::Undrain => &["switch", "undrain"],
        };
        for step in self.plan.steps.iter().filter(|step| !allowed.contains(&step.kind.verb())) {
            self.fault(format!("step {}: {} in a {}", step.id, step.kind.verb(), self.plan.kind));
        }
        let Ask::Up { only, remove_orphans, .. } = &self.input.ask else { return };
        for change in &self.plan.changes {
            let name = &change.slot.component;
            let ran = change.old.as_ref().is_some_and(|old| self.may_run(old));
            if change.kind == ChangeKind::Replace && ran && self.has_role(name, &Role::Gateway) && !only.contains(name)
            {
                self.fault(format!("{}: a running gateway is replaced and nobody asked for it", change.slot));
            }
            let manifest = self.input.manifest.as_ref();
            let gone = manifest.is_some_and(|m| !m.components.contains_key(name)) && name.as_str() != "gateway";
            if gone && change.kind == ChangeKind::Remove && !remove_orphans {
                self.fault(format!("{}: it is not in the manifest and goes without --remove-orphans", change.slot));
            }
        }
    }

    /// All new instances of a component are made from one definition, those on one agent from one spec.
    fn one_digest(&mut self) {
        if self.plan.kind == PlanKind::Restart {
            return;
        }
        let mut definitions: BTreeMap<&ComponentName, &Digest> = BTreeMap::new();
        let mut specs: BTreeMap<(&ComponentName, &AgentId), &Digest> = BTreeMap::new();
        for step in &self.plan.steps {
            if let (StepKind::Prepare { definition, spec, .. }, Some(slot), Some(agent)) =
                (&step.kind, &step.slot, &step.agent)
            {
                let name = &slot.component;
                let one = *definitions.entry(name).or_insert(definition) == definition
                    && *specs.entry((name, agent)).or_insert(spec) == spec
                    && self.plan.definitions.get(name) == Some(definition);
                if !one {
                    self.fault(format!("step {}: {slot} is made from another definition than the rest", step.id));
                }
            }
        }
    }
}
