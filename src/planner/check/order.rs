//! What comes before what: slots, traffic, stages, the API, jobs.

use std::collections::{BTreeMap, BTreeSet};

use super::Lint;
use crate::model::{
    ApiAt, ComponentName, Definition, DrainStart, Health, InstanceId, InstanceState, Order, PlanKind, Role, SlotName,
    Step, StepId, StepKind, Strategy,
};

impl<'a> Lint<'a> {
    /// Start-first: nothing old goes before the new one is ready. Stop-first: nothing new starts before the old is
    /// gone.
    pub(super) fn orders(&mut self) {
        for change in &self.plan.changes {
            if let (Some(Order::StartFirst), Some(_), Some(new)) = (change.order, &change.old, &change.new) {
                self.start_first(&change.slot, new);
            }
        }
        for step in &self.plan.steps {
            let (StepKind::Start { alone }, Some(slot), Some(instance)) = (&step.kind, &step.slot, &step.instance)
            else {
                continue;
            };
            let change = self.changes.get(slot).copied();
            let beside = change.is_some_and(|change| change.order == Some(Order::StartFirst));
            let running: Vec<InstanceId> =
                self.seen.keys().filter(|id| id.slot == *slot && self.may_run(id)).map(|id| (*id).clone()).collect();
            if self.definition(&slot.component).is_some_and(|d| d.singleton || d.is_job()) && (beside || !alone) {
                self.fault(format!("step {}: {instance} starts beside another one and must not", step.id));
            }
            if *alone && beside {
                self.fault(format!("step {}: {instance} starts first and alone at once", step.id));
            }
            // What crashes is not started beside itself: its keeper starts it, or lets it run.
            let crashes = |id: &InstanceId| id == instance && self.seen.get(id).is_some_and(|(_, it)| it.crashing);
            let running: Vec<InstanceId> = running.into_iter().filter(|old| !crashes(old)).collect();
            for old in running.iter().filter(|old| !beside || *old == instance) {
                let stop = self.find(old, "stop");
                if !stop.is_some_and(|stop| self.is_before(stop.id, step.id)) {
                    self.fault(format!("step {}: {instance} starts while {old} may run", step.id));
                }
            }
        }
    }

    fn start_first(&mut self, slot: &SlotName, new: &InstanceId) {
        let ready = self.find(new, "ready");
        if ready.is_none() {
            let proven = self
                .seen
                .get(new)
                .is_some_and(|(_, seen)| seen.state == InstanceState::Running && seen.health == Health::Ready);
            if !proven {
                self.fault(format!("{slot}: {new} is to take over and nobody asks whether it is ready"));
            }
        }
        for step in &self.plan.steps {
            let old = step.instance.as_ref().filter(|id| id.slot == *slot && *id != new);
            let released = match &step.kind {
                StepKind::Switch { release, .. } => release.iter().find(|id| id.slot == *slot && *id != new),
                StepKind::Drain { .. } | StepKind::Stop { .. } | StepKind::Retire => old,
                _ => None,
            };
            let Some(old) = released else { continue };
            let id = step.id;
            if ready.is_some_and(|ready| !self.is_before(ready.id, id)) {
                self.fault(format!("step {id}: {old} goes before {new} is ready"));
            }
            if !matches!(step.kind, StepKind::Retire) && step.while_ready.as_ref() != Some(new) {
                self.fault(format!("step {id}: {old} goes whether or not {new} is ready at that moment"));
            }
        }
    }

    /// Traffic goes only to what is ready, and is gone before a drain that counts on it.
    pub(super) fn traffic(&mut self) {
        let doors = self.doors();
        for step in &self.plan.steps {
            let id = step.id;
            match &step.kind {
                StepKind::Switch { admit, .. } => {
                    for instance in admit {
                        match self.find(instance, "ready").or_else(|| self.find(instance, "start")) {
                            // A gateway that comes up is handed what served before it.
                            Some(ready) if !self.is_before(ready.id, id) && !self.may_run(instance) => {
                                self.fault(format!("step {id}: {instance} gets traffic before it is ready"));
                            }
                            None if !self.may_run(instance) => {
                                self.fault(format!("step {id}: {instance} gets traffic and does not run"));
                            }
                            _ => {}
                        }
                    }
                    if let Some(slot) = &step.slot {
                        let up = self.on(slot).iter().filter(|other| matches!(other.kind, StepKind::Ready { .. }));
                        for ready in up.map(|ready| ready.id).collect::<Vec<_>>() {
                            if !self.is_before(ready, id) {
                                self.fault(format!("step {id}: gateway {slot} is not ready yet"));
                            }
                        }
                    }
                }
                StepKind::Drain { begin: DrainStart::Nothing, .. } => {
                    let Some(instance) = &step.instance else { continue };
                    for door in &doors {
                        let runs = self.seen.keys().any(|seen| seen.slot == *door && self.may_run(seen));
                        let starts = |other: &&&Step| matches!(other.kind, StepKind::Start { .. });
                        if !runs && self.on(door).iter().find(starts).is_some_and(|start| self.is_before(id, start.id))
                        {
                            continue;
                        }
                        let gone = self.on(door).iter().any(|other| {
                            self.is_before(other.id, id)
                                && matches!(&other.kind, StepKind::Switch { release, .. } if release.contains(instance))
                        });
                        if !gone {
                            self.fault(format!("step {id}: {instance} is drained while {door} sends it requests"));
                        }
                    }
                }
                _ => {}
            }
        }
    }

    /// Gateways that run, or are started here.
    fn doors(&self) -> BTreeSet<SlotName> {
        let running = self.seen.keys().copied().filter(|id| self.may_run(id));
        let started = self
            .plan
            .steps
            .iter()
            .filter(|s| matches!(s.kind, StepKind::Start { .. }))
            .filter_map(|s| s.instance.as_ref());
        running
            .chain(started)
            .filter(|id| self.has_role(&id.slot.component, &Role::Gateway))
            .map(|id| id.slot.clone())
            .collect()
    }

    fn labelled(&self, label: &str, verb: &str) -> BTreeMap<u32, Vec<&'a Step>> {
        let mut found: BTreeMap<u32, Vec<&Step>> = BTreeMap::new();
        for step in self.plan.steps.iter().filter(|step| step.kind.verb() == verb) {
            if let Some(number) = step.stage.strip_prefix(label).and_then(|rest| rest.trim().parse().ok()) {
                found.entry(number).or_default().push(step);
            }
        }
        found
    }

    /// A stage begins when the one before it is done, and nothing starts before everything has stopped.
    pub(super) fn stages(&mut self) {
        let stops = self.labelled("stop ", "stop");
        let drains = self.labelled("stop ", "drain");
        let starts = self.labelled("start ", "start");
        let readies = self.labelled("start ", "ready");
        for (later, begins) in drains.iter().chain(&stops) {
            for (earlier, ends) in stops.range(..later) {
                self.all_before(ends, begins, &format!("stop stage {later} does not wait for stage {earlier}"));
            }
        }
        for (later, begins) in &starts {
            for ends in stops.values() {
                self.all_before(ends, begins, &format!("start stage {later} does not wait for all stops"));
            }
            for (earlier, ends) in readies.range(..later) {
                self.all_before(ends, begins, &format!("start stage {later} does not wait for stage {earlier}"));
            }
        }
        if self.plan.strategy == Strategy::Staged {
            self.stop_order();
        }
    }

    fn all_before(&mut self, first: &[&Step], second: &[&Step], fault: &str) {
        if first.iter().any(|a| second.iter().any(|b| !self.is_before(a.id, b.id))) {
            self.fault(fault.to_owned());
        }
    }

    /// The stop order that the manifest asks for, by names or by roles, seen on components alone.
    fn stop_order(&mut self) {
        let Some(manifest) = self.input.manifest.as_ref().filter(|_| self.plan.kind != PlanKind::Down) else { return };
        let any_dependence = manifest.components.values().any(|definition| !definition.depends_on.is_empty());
        let given: Vec<Vec<String>> = match manifest.stages.as_ref().filter(|stages| !stages.stop.is_empty()) {
            Some(stages) => stages.stop.clone(),
            // A rollback goes by what its components depended on then.
            None if any_dependence || matches!(self.plan.kind, PlanKind::Rollback { .. }) => return,
            None => vec![
                vec!["executor".to_owned(), "scheduler".to_owned()],
                vec!["worker".to_owned(), "indexer".to_owned()],
            ],
        };
        let stage = |name: &ComponentName, definition: &Definition| {
            let by_name = given.iter().position(|stage| stage.iter().any(|entry| entry == name.as_str()));
            let role = definition.role.as_ref().map(ToString::to_string);
            let is_name = |entry: &String| manifest.components.keys().any(|name| name.as_str() == entry);
            let by_role = || {
                given.iter().position(|stage| stage.iter().any(|entry| Some(entry) == role.as_ref() && !is_name(entry)))
            };
            by_name.or_else(by_role)
        };
        let mut placed: Vec<(usize, &ComponentName)> = manifest
            .components
            .iter()
            .filter(|(_, definition)| !matches!(definition.role, Some(Role::Api | Role::Gateway | Role::Job)))
            .filter_map(|(name, definition)| Some((stage(name, definition)?, name)))
            .collect();
        placed.sort();
        for (later, name) in &placed {
            for (_, first) in placed.iter().filter(|(earlier, _)| earlier < later) {
                let of = |component: &ComponentName, verb: &str| -> Vec<&'a Step> {
                    let mine = |s: &&Step| s.slot.as_ref().is_some_and(|slot| slot.component == *component);
                    self.plan.steps.iter().filter(mine).filter(|step| step.kind.verb() == verb).collect()
                };
                let (ends, begins) = (of(first, "stop"), of(name, "drain"));
                self.all_before(&ends, &begins, &format!("{name} drains before {first} has stopped"));
            }
        }
    }

    /// The API is in no stop stage, and goes when `api_at` says.
    pub(super) fn api(&mut self) {
        let api: Vec<&Step> = self
            .plan
            .steps
            .iter()
            .filter(|s| s.instance.as_ref().is_some_and(|id| self.has_role(&id.slot.component, &Role::Api)))
            .collect();
        for step in api.iter().filter(|step| step.stage.starts_with("stop ")) {
            self.fault(format!("step {}: an API is in a stop stage", step.id));
        }
        let (Some(manifest), PlanKind::Up, Strategy::Staged) =
            (&self.input.manifest, &self.plan.kind, self.plan.strategy)
        else {
            return;
        };
        // What is gone from the manifest goes at the end, whatever it was.
        let of = |verbs: &[&str]| -> Vec<&Step> {
            let mine = |s: &&&Step| {
                verbs.contains(&s.kind.verb())
                    && s.slot.as_ref().is_some_and(|slot| manifest.components.contains_key(&slot.component))
            };
            api.iter().filter(mine).copied().collect()
        };
        let flat = |map: BTreeMap<u32, Vec<&'a Step>>| map.into_values().flatten().collect::<Vec<_>>();
        match manifest.api_at {
            ApiAt::Last => {
                let ready = flat(self.labelled("start ", "ready"));
                self.all_before(&ready, &of(&["drain", "stop", "start"]), "the API goes before all others are ready");
            }
            ApiAt::First => {
                let drains = flat(self.labelled("stop ", "drain"));
                self.all_before(&of(&["ready", "stop"]), &drains, "a stop stage begins before the API is through");
            }
            ApiAt::Quiet => {
                let stops = flat(self.labelled("stop ", "stop"));
                self.all_before(&stops, &of(&["drain", "stop"]), "the API stops before the quiet point");
                self.all_before(&of(&["stop"]), &of(&["start"]), "an old and a new API meet");
            }
        }
    }

    /// A job has ended before what depends on it starts anew; it never runs in a rollback.
    pub(super) fn jobs(&mut self) {
        let starts: Vec<(&InstanceId, StepId)> = self
            .plan
            .steps
            .iter()
            .filter(|step| matches!(step.kind, StepKind::Start { .. }))
            .filter_map(|step| Some((step.instance.as_ref()?, step.id)))
            .collect();
        let rollback = matches!(self.plan.kind, PlanKind::Rollback { .. });
        let is_job = |id: &InstanceId| self.has_role(&id.slot.component, &Role::Job);
        let runs: Vec<(&InstanceId, StepId)> = starts.iter().filter(|(id, _)| is_job(id)).copied().collect();
        for (job, start) in &runs {
            if rollback {
                self.fault(format!("step {start}: job {job} runs in a rollback"));
            }
            let Some(done) = self.find(job, "ready").map(|ready| ready.id) else {
                self.fault(format!("step {start}: nobody waits for the end of job {job}"));
                continue;
            };
            for (dependent, begin) in &starts {
                let depends = self
                    .definition(&dependent.slot.component)
                    .is_some_and(|definition| definition.depends_on.contains_key(&job.slot.component));
                if depends && !self.is_before(done, *begin) {
                    self.fault(format!("step {begin}: {dependent} starts before job {job} has ended"));
                }
            }
            if self.plan.steps[start.0 as usize].stage == "quiet point" {
                let stops: Vec<&Step> = self.labelled("stop ", "stop").into_values().flatten().collect();
                if stops.iter().any(|stop| !self.is_before(stop.id, *start)) {
                    self.fault(format!("step {start}: job {job} runs before everything is down"));
                }
            }
        }
    }
}
