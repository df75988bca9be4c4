//! `down`, and draining by hand: instances leave and stay where they are.

use std::collections::{BTreeMap, BTreeSet};

use super::digest::{manifest_digest, no_manifest_digest};
use super::draft::{Draft, plain_layout, unknown, wishes};
use super::fill::fill_version;
use super::gateway::{is_gateway, with_gateway};
use super::scene::{Found, Pool, Scene, in_table};
use super::stages::Wishes;
use super::work::{Coming, Work, leaving, present};
use super::{PlanError, stages};
use crate::model::{
    Admission, ChangeKind, ComponentName, Definition, Digest, DrainBegin, PlanKind, SlotName, Strategy,
};

/// How each component's instances leave: as the manifest says now, else as they were made.
fn governing(scene: &Scene<'_>) -> Result<BTreeMap<ComponentName, Definition>, PlanError> {
    let mut known = BTreeMap::new();
    if let Some(manifest) = &scene.input.manifest {
        let version = scene.history.version.as_deref();
        for (name, definition) in &manifest.components {
            // Without a version the manifest's text still has holes in it.
            // And what the hosts' own files say of it is in what it was made with.
            let made = definition.is_of_hosts() && scene.last_definition(name).is_some();
            if !made && (version.is_some() || !definition.versioned) {
                known.insert(name.clone(), fill_version(definition, version));
            }
        }
        known = with_gateway(&known, &scene.input.inventory)?;
    }
    let present = scene.components();
    known.retain(|name, _| present.contains(name));
    for name in present {
        if let (false, Some(last)) = (known.contains_key(&name), scene.last_definition(&name)) {
            known.insert(name, last.clone());
        }
    }
    let names: BTreeSet<ComponentName> = known.keys().cloned().collect();
    for definition in known.values_mut() {
        definition.depends_on.retain(|on, _| names.contains(on));
    }
    Ok(known)
}

fn manifest_of(scene: &Scene<'_>) -> Digest {
    let version = scene.history.version.as_deref();
    scene.input.manifest.as_ref().map_or_else(no_manifest_digest, |manifest| manifest_digest(manifest, version))
}

/// Everything is drained and stopped, in stop order, the API and the gateway last. Instances stay.
pub(super) fn down(scene: &Scene<'_>) -> Result<Draft, PlanError> {
    let components = governing(scene)?;
    let mut pool = Pool::default();
    let mut works = Vec::new();
    let mut warnings = Vec::new();
    for slot in scene.slots().cloned().collect::<Vec<_>>() {
        let instances = scene.instances(&slot);
        let Some(found) = present(&instances) else { continue };
        let mut work = Work::keep(scene, &slot, found.agent, "it does not run");
        let definition = components.get(&slot.component);
        if definition.is_none() {
            warnings.push(format!("{slot}: its definition is not in the spec store, so it is stopped without a drain"));
        }
        let digest = definition.map(|definition| pool.add(definition));
        work.going = instances
            .iter()
            .filter(|found| found.seen.may_run())
            .map(|found| leaving(found, digest.clone(), false))
            .collect();
        if !work.going.is_empty() {
            work.kind = ChangeKind::Touch;
            work.why = "it is drained and stopped, and stays".to_owned();
        }
        works.push(work);
    }
    let wishes = Wishes { strategy: Some(Strategy::Staged), ..wishes(scene) };
    let mut layout = stages::layout(&components, &wishes, false)?;
    layout.reasons.retain(|reason| reason.starts_with("stop order"));
    layout.reasons.push("the API stops after all other components, the gateway last".to_owned());
    warnings.append(&mut layout.warnings);
    Ok(Draft {
        fleet: scene.fleet()?,
        kind: PlanKind::Down,
        manifest: manifest_of(scene),
        version: scene.history.version.clone(),
        only: Vec::new(),
        components,
        works,
        layout,
        pool,
        definitions: BTreeMap::new(),
        warnings,
        way_back: vec!["every instance stays: `baton up` starts it again".to_owned()],
    })
}

/// The slot, its instance that runs, and its definition.
fn by_hand<'a>(
    scene: &'a Scene<'_>,
    components: &'a BTreeMap<ComponentName, Definition>,
    slot: &SlotName,
) -> Result<(Found<'a>, &'a Definition), PlanError> {
    let instances = scene.instances(slot);
    if instances.is_empty() {
        let known: Vec<String> = scene.slots().map(ToString::to_string).collect();
        return Err(unknown("slot", &slot.to_string(), &known));
    }
    let running = instances.iter().rev().find(|found| found.seen.may_run()).copied();
    let found =
        running.ok_or_else(|| PlanError::Refused(format!("{slot} has no running instance; `baton up` starts it")))?;
    let definition = components.get(&slot.component).ok_or_else(|| {
        PlanError::Refused(format!(
            "the definition that {} runs with is not in the spec store, so nobody knows how it is drained; give the \
             manifest with -f",
            found.seen.id
        ))
    })?;
    Ok((found, definition))
}

/// `drain SLOT`: out of rotation and drained, not stopped.
pub(super) fn drain(scene: &Scene<'_>, slot: &SlotName) -> Result<Draft, PlanError> {
    let components = governing(scene)?;
    let (found, definition) = by_hand(scene, &components, slot)?;
    if !definition.drain.can_be_undone(definition.has_traffic()) {
        let why = match &definition.drain.begin {
            Some(DrainBegin::Signal(signal)) => format!("begins with {signal}, which cannot be taken back"),
            Some(_) => "has no `undo` that could give it back".to_owned(),
            None => format!(
                "begins with {}, which cannot be taken back, as there is no traffic to take away",
                definition.drain.stop_signal
            ),
        };
        return Err(PlanError::Refused(format!(
            "{slot} cannot be drained by hand: its drain {why}; give it `drain.begin` and `drain.undo` by http or exec"
        )));
    }
    let mut pool = Pool::default();
    let digest = pool.add(definition);
    let already = found.seen.admission == Admission::Drained && scene.held(slot);
    let mut work = Work::keep(scene, slot, found.agent, "it is drained already");
    let mut warnings = Vec::new();
    if !already {
        work.kind = ChangeKind::Touch;
        work.why = "drained by hand; `baton undrain` gives it back".to_owned();
        work.going = vec![leaving(&found, Some(digest), false)];
        let others = scene
            .slots_of(&slot.component)
            .iter()
            .filter(|other| *other != slot && !scene.held(other))
            .flat_map(|other| scene.instances(other))
            .filter(|found| found.seen.serves())
            .count();
        if others == 0 && definition.has_traffic() {
            warnings
                .push(format!("no other instance of {} serves: its requests are held, then refused", slot.component));
        }
    }
    let line = format!("`baton undrain {slot}` gives it back");
    finish(scene, PlanKind::Drain, components, work, pool, warnings, line)
}

/// `undrain SLOT`: back in rotation.
pub(super) fn undrain(scene: &Scene<'_>, slot: &SlotName) -> Result<Draft, PlanError> {
    let components = governing(scene)?;
    let (found, definition) = by_hand(scene, &components, slot)?;
    let closed = found.seen.admission != Admission::Admitting || scene.held(slot);
    if closed && !definition.drain.can_be_undone(definition.has_traffic()) {
        return Err(PlanError::Refused(format!(
            "{slot} cannot be undrained: its drain began with a signal; `baton up` starts it again or makes a new one"
        )));
    }
    let missing = definition.has_traffic()
        && scene.running_gateways(&components).iter().any(|(.., table)| !in_table(table, &found.seen.id));
    let mut pool = Pool::default();
    let digest = pool.add(definition);
    let mut work = Work::keep(scene, slot, found.agent, "it is not drained");
    if closed || missing {
        work.kind = ChangeKind::Touch;
        work.why = "given back by hand".to_owned();
        work.held = false;
        work.coming = Some(Coming {
            id: found.seen.id.clone(),
            definition: digest,
            spec: found.seen.spec.clone().unwrap_or(Digest(String::new())),
            version: found.seen.version.clone(),
            prepare: false,
            again: false,
            start: false,
            ready: false,
            undrain: closed,
            admit: definition.has_traffic(),
        });
    }
    let line = match definition.drain.can_be_undone(definition.has_traffic()) {
        true => format!("`baton drain {slot}` drains it again"),
        false => "none is needed".to_owned(),
    };
    finish(scene, PlanKind::Undrain, components, work, pool, Vec::new(), line)
}

/// A plan of one slot; all others are kept.
fn finish(
    scene: &Scene<'_>,
    kind: PlanKind,
    components: BTreeMap<ComponentName, Definition>,
    work: Work,
    pool: Pool,
    warnings: Vec<String>,
    way_back: String,
) -> Result<Draft, PlanError> {
    let mut works = Vec::new();
    for slot in scene.slots().filter(|slot| **slot != work.slot) {
        if let Some(found) = present(&scene.instances(slot)) {
            works.push(Work::keep(scene, slot, found.agent, "not asked for"));
        }
    }
    works.push(work);
    works.sort_by(|a, b| a.slot.cmp(&b.slot));
    Ok(Draft {
        fleet: scene.fleet()?,
        kind,
        manifest: manifest_of(scene),
        version: scene.history.version.clone(),
        only: Vec::new(),
        layout: plain_layout(
            &components.iter().filter(|(_, d)| !is_gateway(d)).map(|(n, d)| (n.clone(), d.clone())).collect(),
        )?,
        components,
        works,
        pool,
        definitions: BTreeMap::new(),
        warnings,
        way_back: vec![way_back],
    })
}
