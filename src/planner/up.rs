//! `up`: the fleet as the manifest says.

use std::collections::{BTreeMap, BTreeSet};

use super::digest::{definition_digest, manifest_digest};
use super::draft::{Draft, refuse_unknown, refuse_unresolved, removal, set_orders, spares_gateway, want, wishes};
use super::fill::{fill_version, resolve_version};
use super::follow;
use super::gateway::{is_gateway, with_gateway};
use super::hosts;
use super::place::placement;
use super::scene::{Pool, Scene};
use super::work::{View, Want, Work, current, present, work_for};
use super::{PlanError, diff, stages};
use crate::model::{
    AgentId, ChangeKind, ComponentName, Definition, Digest, InstanceId, InstanceState, PlanKind, SlotName,
};

/// Which components an `up` may change.
struct Scope<'a> {
    only: &'a [ComponentName],
    /// A gateway that traffic in scope needs and that does not run.
    needed: BTreeSet<ComponentName>,
}

impl Scope<'_> {
    fn holds(&self, component: &ComponentName) -> bool {
        self.only.is_empty() || self.only.contains(component) || self.needed.contains(component)
    }
}

pub(super) fn up(scene: &Scene<'_>, only: &[ComponentName], remove_orphans: bool) -> Result<Draft, PlanError> {
    let manifest = scene
        .input
        .manifest
        .as_ref()
        .ok_or_else(|| PlanError::Usage("`up` needs a manifest; name one with -f FILE".to_owned()))?;
    let version = resolve_version(&scene.input.ask, Some(manifest), scene.history)?;
    let filled: BTreeMap<ComponentName, Definition> = manifest
        .components
        .iter()
        .map(|(name, definition)| (name.clone(), fill_version(definition, version.as_deref())))
        .collect();
    let components = with_gateway(&filled, &scene.input.inventory)?;
    let by_text = components.values().any(|definition| definition.versioned);
    let components = hosts::settled(components, scene, version.as_deref())?;
    hosts::refuse_idle_version(&components, &scene.input.ask)?;
    // Where no text of the manifest stands for it, the files of the hosts say what the version is.
    let version = if by_text { version } else { hosts::agreed_version(&components).or(version) };
    let orphans: BTreeSet<ComponentName> =
        scene.components().into_iter().filter(|name| !components.contains_key(name)).collect();
    refuse_unknown(only, &components.keys().chain(&orphans).cloned().collect())?;

    let mut up = Up {
        scene,
        components: &components,
        version: version.as_ref(),
        scope: Scope { only, needed: needed_gateways(scene, &components, only) },
        pool: Pool::default(),
        works: Vec::new(),
        warnings: Vec::new(),
    };
    let digests: BTreeMap<ComponentName, Digest> =
        components.iter().map(|(name, definition)| (name.clone(), definition_digest(definition))).collect();
    let leaders_first = follow::leaders_first(&components).into_iter();
    for (name, definition) in leaders_first.filter_map(|name| components.get_key_value(name)) {
        if !definition.is_job() {
            up.component(definition, &digests[name])?;
        }
    }
    for (name, definition) in components.iter().filter(|(_, definition)| definition.is_job()) {
        let changed = up.dependents_changed(name);
        up.job(definition, &digests[name], changed)?;
    }
    let mut all = components.clone();
    up.orphans(&orphans, remove_orphans, &mut all);
    let Up { mut works, mut pool, mut warnings, scope, .. } = up;
    works.sort_by(|a, b| a.slot.cmp(&b.slot));

    let runs_job =
        works.iter().any(|work| work.enters() && all.get(&work.slot.component).is_some_and(Definition::is_job));
    let mut layout = stages::layout(&components, &wishes(scene), runs_job)?;
    warnings.append(&mut layout.warnings);
    warnings.extend(manifest.notes.iter().cloned());
    outdated(scene, &works, &components, &mut warnings);
    set_orders(&mut works, &all, &mut layout, &mut warnings);
    if !scope.needed.is_empty() {
        let names: Vec<&str> = scope.needed.iter().map(ComponentName::as_str).collect();
        layout.reasons.push(format!("{} comes too: traffic needs it and it does not run", names.join(", ")));
    }
    let mut definitions = BTreeMap::new();
    let made = |name: &ComponentName| works.iter().any(|work| work.slot.component == *name && work.coming.is_some());
    for (name, definition) in components.iter().filter(|(name, _)| scope.holds(name) || made(name)) {
        definitions.insert(name.clone(), pool.add(definition));
    }
    refuse_unresolved(scene, &works, &pool, &mut warnings)?;
    let way_back = way_back(&works, &all, scene);
    Ok(Draft {
        fleet: manifest.fleet.clone(),
        kind: PlanKind::Up,
        manifest: manifest_digest(manifest, version.as_deref()),
        version,
        only: only.iter().map(ToString::to_string).collect(),
        components: all,
        works,
        layout,
        pool,
        definitions,
        warnings,
        way_back,
    })
}

/// What is copied into containers is not in the digest of their service: where nothing else of it changes, they keep
/// what they have.
fn outdated(
    scene: &Scene<'_>,
    works: &[Work],
    components: &BTreeMap<ComponentName, Definition>,
    warnings: &mut Vec<String>,
) {
    let mut said = BTreeSet::new();
    for work in works.iter().filter(|work| work.coming.as_ref().is_none_or(|coming| !coming.prepare)) {
        let name = &work.slot.component;
        let service = components.get(name).and_then(|definition| definition.compose.as_ref());
        let (Some(service), Some(found)) = (service, scene.resolution(&work.agent, name)) else { continue };
        for place in &found.outdated {
            let what = service.copied.get(place).map_or_else(|| place.clone(), |what| format!("{what} ({place})"));
            said.insert(format!(
                "{name}: the content of {what} is not what its containers have, and Compose takes that for no change; \
                 `baton restart {name}` gives it to them"
            ));
        }
    }
    warnings.extend(said);
}

/// Gateways that traffic in scope needs and that do not run.
fn needed_gateways(
    scene: &Scene<'_>,
    components: &BTreeMap<ComponentName, Definition>,
    only: &[ComponentName],
) -> BTreeSet<ComponentName> {
    let traffic = only.iter().any(|name| components.get(name).is_some_and(Definition::has_traffic));
    let runs = |name: &ComponentName| {
        scene.slots_of(name).iter().any(|slot| scene.instances(slot).iter().any(|found| found.seen.may_run()))
    };
    components
        .values()
        .filter(|definition| traffic && is_gateway(definition) && !only.contains(&definition.component))
        .map(|definition| definition.component.clone())
        .filter(|name| !runs(name))
        .collect()
}

fn way_back(works: &[Work], components: &BTreeMap<ComponentName, Definition>, scene: &Scene<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    if works.iter().any(|work| work.kind == ChangeKind::Replace) {
        lines.push("until a slot's retire its old instance is kept, and a rollback starts it again".to_owned());
        lines.push(
            "after that a rollback makes it anew from its recorded definition: keep the old image or release"
                .to_owned(),
        );
    }
    let unknown: BTreeSet<&str> = works
        .iter()
        .filter(|work| work.changes() && !scene.history.succeeded.contains_key(&work.slot.component))
        .filter(|work| !scene.has_found(&work.slot.component))
        .map(|work| work.slot.component.as_str())
        .collect();
    if !unknown.is_empty() {
        let names: Vec<&str> = unknown.into_iter().collect();
        lines
            .push(format!("no roll of {} has succeeded yet: a rollback removes what this one makes", names.join(", ")));
    }
    let jobs: BTreeSet<&str> = works
        .iter()
        .filter(|work| work.enters() && components.get(&work.slot.component).is_some_and(Definition::is_job))
        .map(|work| work.slot.component.as_str())
        .collect();
    for job in jobs {
        lines.push(format!("what job {job} has done stays done: a rollback does not run it and does not undo it"));
    }
    lines
}

struct Up<'a> {
    scene: &'a Scene<'a>,
    components: &'a BTreeMap<ComponentName, Definition>,
    version: Option<&'a String>,
    scope: Scope<'a>,
    pool: Pool,
    works: Vec<Work>,
    warnings: Vec<String>,
}

impl Up<'_> {
    /// All slots of one component that is no job.
    fn component(&mut self, definition: &Definition, digest: &Digest) -> Result<(), PlanError> {
        let name = &definition.component;
        let scene = self.scene;
        // It would lose what it has of the other one's container.
        let leader = follow::leader(definition, &self.works);
        if !self.scope.holds(name) && leader.is_none() {
            self.leave_alone(definition);
            return Ok(());
        }
        let placed = placement(definition, &scene.input.inventory)?;
        let running = scene.running_gateways(self.components);
        let tables: Vec<_> = running.iter().map(|(.., inventory)| *inventory).collect();
        let view = View { gateways: &tables, own_drain: false, ignore_held: false };
        for (slot, agent) in &placed {
            let wanted = want(scene, definition, digest.clone(), agent, self.version);
            let named = self.scope.only.contains(name);
            let instances = scene.instances(slot);
            let kept = match spares_gateway(scene, definition, slot, named) {
                true => present(&instances),
                false => current(&instances, &wanted),
            };
            let wanted = match kept {
                // It stays where and what it is.
                Some(kept) if is_gateway(definition) && !named => Want { agent: kept.agent.clone(), ..wanted },
                _ => wanted,
            };
            if let Some(kept) = kept.filter(|kept| !kept.seen.is_made_of(&wanted.spec)) {
                let what = scene
                    .made_with(kept.seen)
                    .map_or("spec changed".to_owned(), |before| diff::explain(before, definition));
                self.warnings.push(format!(
                    "{} is kept though it is not as the manifest says ({what}): a gateway is never rolled with its \
                     fleet, `baton up --only {name}` does it",
                    kept.seen.id
                ));
            }
            let follows = leader.filter(|_| kept.is_some());
            let kept = kept.filter(|_| leader.is_none());
            let mut work = work_for(scene, &mut self.pool, slot, &wanted, kept, &view);
            if let Some(leader) = follows {
                work.why = format!("made anew with {leader}");
            }
            if work.held {
                self.warnings.push(format!(
                    "{slot} was drained by hand and stays so; the floor does not count it (`baton undrain {slot}`)"
                ));
            } else if scene.held(slot) {
                self.warnings.push(format!("{slot} was drained by hand; its next instance takes requests again"));
            }
            self.works.push(work);
        }
        self.remove_surplus(definition, &placed);
        Ok(())
    }

    fn leave_alone(&mut self, definition: &Definition) {
        for slot in self.scene.slots_of(&definition.component) {
            self.keep(&slot, "not among the components asked for");
        }
    }

    fn keep(&mut self, slot: &SlotName, why: &str) {
        if let Some(found) = present(&self.scene.instances(slot)) {
            self.works.push(Work::keep(self.scene, slot, found.agent, why));
        }
    }

    /// Fewer replicas: the highest indexes go.
    fn remove_surplus(&mut self, definition: &Definition, placed: &BTreeMap<SlotName, AgentId>) {
        for slot in self.scene.slots_of(&definition.component) {
            if !placed.contains_key(&slot) {
                let why = format!("replicas: {}", definition.replicas);
                self.works.extend(removal(self.scene, &mut self.pool, &slot, Some(definition), &why));
            }
        }
    }

    /// Whether anything that depends on a job is made anew in this plan.
    fn dependents_changed(&self, job: &ComponentName) -> bool {
        self.works.iter().any(|work| {
            work.coming.as_ref().is_some_and(|coming| coming.prepare)
                && stages::dependencies(self.components, &work.slot.component).contains(job)
        })
    }

    /// A job runs when it or a dependent changes.
    fn job(&mut self, definition: &Definition, digest: &Digest, dependents_changed: bool) -> Result<(), PlanError> {
        let name = &definition.component;
        let scene = self.scene;
        if !self.scope.holds(name) {
            if dependents_changed {
                self.warnings.push(format!("job {name} is not among the components asked for: it is not run"));
            }
            self.leave_alone(definition);
            return Ok(());
        }
        let placed = placement(definition, &scene.input.inventory)?;
        for (slot, agent) in &placed {
            let wanted = want(scene, definition, digest.clone(), agent, self.version);
            let instances = scene.instances(slot);
            let same =
                |found: &&super::scene::Found<'_>| *found.agent == wanted.agent && found.seen.is_made_of(&wanted.spec);
            let ended_well = instances
                .iter()
                .filter(same)
                .any(|found| !found.seen.may_run() && found.seen.exit.is_some_and(|exit| exit.success()));
            let completed = scene.history.completed_jobs.get(slot) == Some(&wanted.spec) || ended_well;
            // One that still runs with this spec is simply awaited; one that was made and never started is used.
            let running = instances.iter().rev().filter(same).find(|found| found.seen.may_run());
            if completed && !dependents_changed && running.is_none() {
                let mut kept = Work::keep(scene, slot, agent, "ended with 0 and nothing that depends on it changes");
                kept.stays = instances.iter().rev().find(same).map(|found| found.seen.id.clone());
                self.works.push(kept);
                continue;
            }
            let made = instances.iter().rev().filter(same).find(|found| found.seen.state == InstanceState::Created);
            let kept = running.or(made).copied();
            let view = View { gateways: &[], own_drain: false, ignore_held: false };
            let mut work = work_for(scene, &mut self.pool, slot, &wanted, kept, &view);
            if let Some(coming) = work.coming.as_mut() {
                coming.ready = true;
                coming.undrain = false;
            } else if let Some(kept) = running {
                work = awaited(work, kept.seen.id.clone(), &wanted, digest);
            }
            if completed && dependents_changed {
                work.why = "a component that depends on it changes".to_owned();
            }
            self.works.push(work);
        }
        self.remove_surplus(definition, &placed);
        Ok(())
    }

    /// Components that are gone from the manifest.
    fn orphans(
        &mut self,
        orphans: &BTreeSet<ComponentName>,
        remove: bool,
        all: &mut BTreeMap<ComponentName, Definition>,
    ) {
        for name in orphans {
            let definition = self.scene.last_definition(name);
            if let Some(definition) = definition {
                all.insert(name.clone(), definition.clone());
            }
            let slots = self.scene.slots_of(name);
            if !remove || !self.scope.holds(name) {
                self.warnings.push(format!(
                    "{name} is not in the manifest and is left as it is ({}); --remove-orphans removes it",
                    slots.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
                ));
                for slot in &slots {
                    self.keep(slot, "not in the manifest, left as it is");
                }
                continue;
            }
            if definition.is_none() {
                self.warnings.push(format!(
                    "{name}: its last definition is not in the spec store, so it is stopped without a drain"
                ));
            }
            for slot in &slots {
                let work = removal(self.scene, &mut self.pool, slot, None, "not in the manifest");
                self.works.extend(work.map(|work| Work { orphan: true, ..work }));
            }
        }
    }
}

/// A job that runs already: its end is awaited.
fn awaited(work: Work, id: InstanceId, wanted: &Want<'_>, digest: &Digest) -> Work {
    let coming = super::work::Coming {
        id,
        definition: digest.clone(),
        spec: wanted.spec.clone(),
        version: wanted.version.clone(),
        prepare: false,
        again: false,
        start: false,
        ready: true,
        undrain: false,
        admit: false,
    };
    Work {
        kind: ChangeKind::Touch,
        coming: Some(coming),
        why: "it runs already: its end is awaited".to_owned(),
        ..work
    }
}
