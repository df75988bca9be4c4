//! `rollback`: each component that a roll changed back to its definition as it was when it last succeeded.

use std::collections::{BTreeMap, BTreeSet};

use super::digest::spec_on;
use super::draft::{Draft, refuse_unresolved, removal, set_orders, spares_gateway, want};
use super::follow;
use super::gateway::is_gateway;
use super::place::{placement, wanted_by_agent};
use super::scene::{Found, Pool, Scene};
use super::stages::Wishes;
use super::work::{View, Want, Work, present, work_for};
use super::{PlanError, stages};
use crate::model::{
    AgentId, ApiAt, ChangeKind, ComponentName, Definition, Digest, InstanceId, InstanceObservation, Plan, PlanKind,
    Resolution, RollId, RollNumber, Stages, StepKind,
};

pub(super) fn rollback(scene: &Scene<'_>, of: &RollId, number: RollNumber, plan: &Plan) -> Result<Draft, PlanError> {
    let changed: BTreeSet<ComponentName> = plan
        .changes
        .iter()
        .filter(|change| change.kind != ChangeKind::Keep)
        .map(|change| change.slot.component.clone())
        .collect();
    let mut back = Back {
        scene,
        plan,
        made: plan
            .steps
            .iter()
            .filter(|step| matches!(step.kind, StepKind::Prepare { .. }))
            .filter_map(|step| step.instance.clone())
            .collect(),
        pool: Pool::default(),
        works: Vec::new(),
        components: BTreeMap::new(),
        definitions: BTreeMap::new(),
        warnings: Vec::new(),
        way_back: Vec::new(),
        anew: BTreeSet::new(),
    };
    back.anew = back.made_anew(&changed)?;
    for name in scene.components().union(&changed) {
        if !changed.contains(name) {
            back.leave_alone(name);
        } else if let Some((digest, definition)) = scene.history.succeeded.get(name) {
            back.component(digest, definition)?;
        } else {
            back.remove(name);
        }
    }
    back.way_back.insert(0, format!("this is the way back from roll {number}; a rollback is never rolled back"));
    let Back { mut works, mut components, pool, definitions, mut warnings, way_back, .. } = back;
    works.sort_by(|a, b| a.slot.cmp(&b.slot));
    forget_absent_dependencies(&mut components);
    let mut layout = stages::layout(&components, &wishes(scene, plan), false)?;
    layout.reasons.retain(|reason| !reason.ends_with("as written"));
    layout.reasons.insert(0, "the same strategy as the roll that is taken back; jobs are not run".to_owned());
    warnings.append(&mut layout.warnings);
    set_orders(&mut works, &components, &mut layout, &mut warnings);
    refuse_unresolved(scene, &works, &pool, &mut warnings)?;
    Ok(Draft {
        fleet: plan.fleet.clone(),
        kind: PlanKind::Rollback { of: of.clone() },
        // So that `up` with the manifest of the failed roll finds its rollback unfinished and goes on with it.
        manifest: plan.manifest.clone(),
        version: scene.history.version.clone(),
        only: plan.only.clone(),
        components,
        works,
        layout,
        pool,
        definitions,
        warnings,
        way_back,
    })
}

/// Definitions of different times may name each other no more; what is not there cannot be waited for, and a circle
/// between them is no reason to have no way back.
fn forget_absent_dependencies(components: &mut BTreeMap<ComponentName, Definition>) {
    let names: BTreeSet<ComponentName> = components.keys().cloned().collect();
    for definition in components.values_mut() {
        definition.depends_on.retain(|on, _| names.contains(on));
    }
    let circular: Vec<ComponentName> =
        names.iter().filter(|name| stages::dependencies(components, name).contains(*name)).cloned().collect();
    for name in circular {
        if let Some(definition) = components.get_mut(&name) {
            definition.depends_on.clear();
        }
    }
}

/// The order of the roll that is taken back: the manifest's, where there is one, else as the labels of its plan tell.
fn wishes(scene: &Scene<'_>, plan: &Plan) -> Wishes {
    if let Some(manifest) = &scene.input.manifest {
        return Wishes { strategy: Some(plan.strategy), stages: manifest.stages.clone(), api_at: manifest.api_at };
    }
    let stages = |label: &str, verb: &str| {
        let mut stages: BTreeMap<u32, BTreeSet<String>> = BTreeMap::new();
        for step in plan.steps.iter().filter(|step| step.kind.verb() == verb) {
            let number = step.stage.strip_prefix(label).and_then(|number| number.trim().parse().ok());
            if let (Some(number), Some(instance)) = (number, &step.instance) {
                stages.entry(number).or_default().insert(instance.slot.component.to_string());
            }
        }
        stages.into_values().map(|names| names.into_iter().collect()).collect::<Vec<Vec<String>>>()
    };
    let quiet = plan.steps.iter().any(|step| step.stage == super::roll::QUIET && step.kind.verb() == "switch");
    let stages = Stages { stop: stages("stop", "stop"), start: stages("start", "ready") };
    Wishes {
        strategy: Some(plan.strategy),
        stages: (!stages.stop.is_empty() || !stages.start.is_empty()).then_some(stages),
        api_at: if quiet { ApiAt::Quiet } else { ApiAt::Last },
    }
}

struct Back<'a> {
    scene: &'a Scene<'a>,
    plan: &'a Plan,
    /// Instances that the failed roll has made.
    made: BTreeSet<InstanceId>,
    pool: Pool,
    works: Vec<Work>,
    components: BTreeMap<ComponentName, Definition>,
    definitions: BTreeMap<ComponentName, Digest>,
    warnings: Vec<String>,
    way_back: Vec<String>,
    /// Components of which no former instance is kept.
    anew: BTreeSet<ComponentName>,
}

impl Back<'_> {
    /// What lives in another one's container does not outlive it: where that one is made or started again, it is made
    /// anew, too. And what is made anew lives in the newest container of the other one, so no older one is kept then.
    fn made_anew(&self, changed: &BTreeSet<ComponentName>) -> Result<BTreeSet<ComponentName>, PlanError> {
        let targets: BTreeMap<ComponentName, Definition> = changed
            .iter()
            .filter_map(|name| Some((name.clone(), self.scene.history.succeeded.get(name)?.1.clone())))
            .collect();
        let (mut made, mut started, mut older) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        for (name, definition) in &targets {
            let Some((digest, _)) = self.scene.history.succeeded.get(name) else { continue };
            for (slot, agent) in &placement(definition, &self.scene.input.inventory)? {
                let version = self.version(digest, name);
                let wanted = want(self.scene, definition, digest.clone(), agent, version.as_ref());
                let instances = self.scene.instances(slot);
                let Some(kept) = self.kept(&instances, &wanted) else {
                    made.insert(name.clone());
                    continue;
                };
                if !kept.seen.may_run() {
                    started.insert(name.clone());
                }
                if instances.iter().any(|found| found.seen.id.number > kept.seen.id.number) {
                    older.insert(name.clone());
                }
            }
        }
        let mut anew: BTreeSet<ComponentName> = BTreeSet::new();
        loop {
            let is_made = |name: &ComponentName| made.contains(name) || anew.contains(name);
            let mut more = BTreeSet::new();
            for (name, definition) in &targets {
                for on in follow::follows(definition) {
                    if is_made(on) || started.contains(on) {
                        more.insert(name.clone());
                    }
                    let lives = definition.compose.as_ref().is_some_and(|compose| compose.digest.is_some());
                    if lives && is_made(name) && older.contains(on) {
                        more.insert(on.clone());
                    }
                }
            }
            let before = anew.len();
            anew.append(&mut more);
            if anew.len() == before {
                return Ok(anew);
            }
        }
    }

    fn leave_alone(&mut self, name: &ComponentName) {
        if let Some(definition) = self.scene.last_definition(name) {
            self.govern(definition);
        }
        for slot in self.scene.slots_of(name) {
            if let Some(found) = present(&self.scene.instances(&slot)) {
                self.works.push(Work::keep(self.scene, &slot, found.agent, "not changed by that roll"));
            }
        }
    }

    /// What governs how a component goes back: its own definition, rolled as `rollback` says.
    fn govern(&mut self, definition: &Definition) {
        let update = definition.taken_back();
        self.components.insert(definition.component.clone(), Definition { update, ..definition.clone() });
    }

    /// A component that never succeeded goes as it came.
    fn remove(&mut self, name: &ComponentName) {
        if let Some(definition) = self.scene.last_definition(name) {
            self.govern(definition);
        }
        for slot in self.scene.slots_of(name) {
            let work = removal(self.scene, &mut self.pool, &slot, None, "there was none before that roll");
            self.works.extend(work);
        }
    }

    fn component(&mut self, digest: &Digest, definition: &Definition) -> Result<(), PlanError> {
        let scene = self.scene;
        let name = &definition.component;
        self.govern(definition);
        self.definitions.insert(name.clone(), self.pool.add(definition));
        let placed = placement(definition, &scene.input.inventory)?;
        let running = scene.running_gateways(&self.components);
        let tables: Vec<_> = running.iter().map(|(.., inventory)| *inventory).collect();
        let by_hand = matches!(self.plan.kind, PlanKind::Drain);
        let view = View { gateways: &tables, own_drain: true, ignore_held: by_hand };
        let named = self.plan.only.iter().any(|only| only == name.as_str());
        for (slot, agent) in &placed {
            let absent = definition.is_of_hosts()
                && definition.compose.as_ref().is_some_and(|compose| compose.on(agent).is_none());
            if absent {
                let why = "there was none on its host before that roll";
                self.works.extend(removal(scene, &mut self.pool, slot, None, why));
                continue;
            }
            let version = self.version(digest, name);
            let wanted = want(scene, definition, digest.clone(), agent, version.as_ref());
            let instances = scene.instances(slot);
            let spared = spares_gateway(scene, definition, slot, named);
            let kept = if spared { present(&instances) } else { self.kept(&instances, &wanted) };
            // A job is not run on the way back.
            let follows = self.anew.contains(name) && !spared && !definition.is_job() && kept.is_some();
            let kept = kept.filter(|_| !follows);
            let wanted = match kept {
                Some(kept) => Want {
                    agent: if is_gateway(definition) { kept.agent.clone() } else { wanted.agent.clone() },
                    spec: kept.seen.spec.clone().unwrap_or_else(|| wanted.spec.clone()),
                    ..wanted
                },
                None => wanted,
            };
            if kept.is_some_and(|kept| kept.seen.crashing && self.was_only_started(&kept.seen.id)) {
                let why = "that roll made nothing new of it: it crashes as it did before";
                self.works.push(Work::keep(scene, slot, agent, why));
                continue;
            }
            let mut work = work_for(scene, &mut self.pool, slot, &wanted, kept, &view);
            if follows {
                work.why = "made anew with what it lives in, or with what lives in it".to_owned();
            }
            if definition.is_job() {
                self.made_not_run(&mut work);
                // It would only be kept for a later day: no reason to refuse the way back.
                let lacks = scene.resolution(&work.agent, name).is_none_or(|found| found.problem.is_some());
                if lacks && work.coming.as_ref().is_some_and(|coming| coming.prepare) && !work.leaves() {
                    work = Work::keep(scene, slot, agent, "what it was made from is not there, and it is not run");
                }
            }
            self.works.push(work);
        }
        for slot in scene.slots_of(name) {
            if !placed.contains_key(&slot) {
                let why = "there was none before that roll";
                self.works.extend(removal(scene, &mut self.pool, &slot, None, why));
            }
        }
        Ok(())
    }

    /// Whether the roll did no more with that instance than start it once again: there is nothing to go back to, and to
    /// try the same a second time is no way back.
    fn was_only_started(&self, id: &InstanceId) -> bool {
        let only = |change: &crate::model::Change| {
            change.new.as_ref() == Some(id) && change.old.as_ref().is_none_or(|old| old == id)
        };
        !self.made.contains(id) && self.plan.changes.iter().any(only)
    }

    /// What the version was when the component last succeeded: recorded, else told by an instance of that definition.
    fn version(&self, digest: &Digest, name: &ComponentName) -> Option<String> {
        let seen = || {
            let slots = self.scene.slots_of(name);
            let all = slots.iter().flat_map(|slot| self.scene.instances(slot));
            all.filter(|found| found.seen.definition.as_ref() == Some(digest)).find_map(|f| f.seen.version.clone())
        };
        let history = self.scene.history;
        history.versions.get(name).cloned().or_else(seen).or_else(|| history.version.clone())
    }

    /// The instance that a slot goes back to: a former one that runs; else one that the failed roll made, if it is
    /// ready
    /// and not different; else a former one that can be started again; else none, and one is made.
    fn kept<'f>(&self, instances: &[Found<'f>], wanted: &Want<'_>) -> Option<Found<'f>> {
        let here = |found: &&Found<'f>| *found.agent == wanted.agent;
        let former: Vec<&Found<'f>> = instances
            .iter()
            .filter(here)
            .filter(|found| !self.made.contains(&found.seen.id) && self.is_target(found, wanted))
            .collect();
        let running = || former.iter().rev().filter(|found| found.seen.may_run());
        // What was asked for: what was made of it may differ in what was not known before.
        let asked = |seen: &'f InstanceObservation| seen.asked.as_ref().or(seen.spec.as_ref());
        let spec = former.last().map_or(Some(&wanted.spec), |found| asked(found.seen));
        let equal = instances
            .iter()
            .rev()
            .filter(here)
            .find(|found| self.made.contains(&found.seen.id) && found.is_ready() && asked(found.seen) == spec);
        let found = running().find(|found| found.is_ready()).or(running().next()).copied();
        found.or(equal).or(former.last().copied()).copied()
    }

    /// Whether a former instance is what is gone back to. What a release or a file holds today may differ from what it
    /// held when the instance was made, so its own record counts.
    fn is_target(&self, found: &Found<'_>, wanted: &Want<'_>) -> bool {
        let unresolved = Resolution::default();
        let text = |definition: &Definition| spec_on(definition, found.agent, &unresolved);
        found.seen.definition.as_ref() == Some(&wanted.digest)
            || found.seen.is_made_of(&wanted.spec)
            || self.scene.made_with(found.seen).is_some_and(|made| text(made) == text(wanted.definition))
    }

    /// A job is made as it was, and not run.
    fn made_not_run(&mut self, work: &mut Work) {
        let name = &work.slot.component;
        if let Some(coming) = &mut work.coming {
            coming.start = false;
            coming.again = false;
            coming.ready = false;
            if !coming.prepare && work.going.is_empty() {
                work.kind = ChangeKind::Keep;
                work.coming = None;
            }
        }
        if work.changes() {
            work.why = "made as it was, and not run".to_owned();
        }
        let line = format!("job {name} is not run: what it has done stays done");
        if !self.way_back.contains(&line) {
            self.way_back.push(line);
        }
    }
}

/// What each agent must resolve before a rollback: what succeeded last, in case an instance has to be made anew.
pub(super) fn wanted(scene: &Scene<'_>) -> BTreeMap<AgentId, BTreeMap<ComponentName, Definition>> {
    let succeeded = scene.history.succeeded.iter();
    let components = succeeded.map(|(name, (_, definition))| (name.clone(), definition.clone())).collect();
    wanted_by_agent(&components, &scene.input.inventory)
}
