//! `restart`: the present instance of each slot replaced, with the definition it runs with.

use std::collections::{BTreeMap, BTreeSet};

use super::digest::{definition_digest, manifest_digest, no_manifest_digest, spec_on};
use super::draft::{Draft, refuse_unknown, refuse_unresolved, set_orders, want, wishes};
use super::fill::fill_version;
use super::follow;
use super::gateway::{is_gateway, with_gateway};
use super::hosts;
use super::scene::{Found, Pool, Scene};
use super::work::{View, Want, Work, present, work_for};
use super::{PlanError, stages};
use crate::model::{AgentId, ComponentName, Definition, Digest, Manifest, PlanKind, Resolution, SlotName};

pub(super) fn restart(scene: &Scene<'_>, asked: &[ComponentName]) -> Result<Draft, PlanError> {
    let fleet = scene.fleet()?;
    let present_components = scene.components();
    refuse_unknown(asked, &present_components)?;
    let version = scene.history.version.clone();
    let manifest = scene.input.manifest.as_ref();
    let filled: BTreeMap<ComponentName, Definition> = manifest
        .map(|manifest| manifest.components.iter())
        .into_iter()
        .flatten()
        .map(|(name, definition)| (name.clone(), fill_version(definition, version.as_deref())))
        .collect();
    let from_manifest = with_gateway(&filled, &scene.input.inventory)?;
    let from_manifest = hosts::settled(from_manifest, scene, version.as_deref())?;

    let mut all: BTreeMap<ComponentName, Definition> = BTreeMap::new();
    let mut definitions = BTreeMap::new();
    let mut pool = Pool::default();
    let mut works = Vec::new();
    let mut refused = BTreeSet::new();
    let last_of = |name: &ComponentName| from_manifest.get(name).or_else(|| scene.last_definition(name));
    let known = present_components.iter().filter_map(|name| Some((name.clone(), last_of(name)?.clone()))).collect();
    let chosen = follow::with_followers(asked, &known);
    for name in &present_components {
        let last = from_manifest.get(name).or_else(|| scene.last_definition(name));
        // Jobs and gateways are restarted only when somebody says so.
        let by_itself = !last.is_some_and(|definition| definition.is_job() || is_gateway(definition));
        let replaced = if asked.is_empty() { by_itself } else { chosen.contains(name) };
        for slot in scene.slots_of(name) {
            let Some(found) = present(&scene.instances(&slot)) else { continue };
            if !replaced {
                works.push(Work::keep(scene, &slot, found.agent, "not among the components asked for"));
                continue;
            }
            match runs_with(scene, &slot, &found, from_manifest.get(name), manifest.is_some()) {
                Ok(definition) => {
                    works.push(replace(scene, &mut pool, &slot, &found, definition));
                    all.insert(name.clone(), definition.clone());
                    definitions.insert(name.clone(), definition_digest(definition));
                }
                Err(why) => {
                    refused.insert(why);
                }
            }
        }
        if let (false, Some(last)) = (all.contains_key(name), last) {
            all.insert(name.clone(), last.clone());
        }
    }
    if !refused.is_empty() {
        return Err(PlanError::Refused(refused.into_iter().collect::<Vec<_>>().join("; ")));
    }
    let runs_job =
        works.iter().any(|work| work.changes() && all.get(&work.slot.component).is_some_and(Definition::is_job));
    let mut warnings = Vec::new();
    let mut layout = stages::layout(&all, &wishes(scene), runs_job)?;
    warnings.append(&mut layout.warnings);
    set_orders(&mut works, &all, &mut layout, &mut warnings);
    refuse_unresolved(scene, &works, &pool, &mut warnings)?;
    Ok(Draft {
        fleet,
        kind: PlanKind::Restart,
        manifest: manifest.map_or_else(no_manifest_digest, |manifest| manifest_digest(manifest, version.as_deref())),
        version,
        only: asked.iter().map(ToString::to_string).collect(),
        components: all,
        works,
        layout,
        pool,
        definitions,
        warnings,
        way_back: vec![
            "until a slot's retire its old instance is kept, and a rollback starts it again".to_owned(),
            "after that a rollback makes it anew from the same definition".to_owned(),
        ],
    })
}

/// The definition that a slot's instance runs with: the manifest's own text where it means the same (its keys that
/// steer the roll are the newest), else the recorded one.
fn runs_with<'a>(
    scene: &'a Scene<'_>,
    slot: &SlotName,
    found: &Found<'_>,
    from_manifest: Option<&'a Definition>,
    manifest_given: bool,
) -> Result<&'a Definition, String> {
    let recorded = scene.made_with(found.seen);
    let apply = "run `baton up` to apply the manifest first";
    let resolution = scene.resolution(found.agent, &slot.component);
    let Some(manifested) = from_manifest else {
        let Some(recorded) = recorded else {
            return Err(format!(
                "{slot}: the definition that {} runs with is not in the spec store; {apply}",
                found.seen.id
            ));
        };
        if manifest_given {
            return Err(format!("{slot} is not in the manifest; run `baton up --remove-orphans`, or put it back"));
        }
        return match same(recorded, found, resolution) {
            true => Ok(recorded),
            false => Err(format!(
                "{slot}: what {} runs with is not what its definition means today (release, image or env_file \
                 changed); \
                 {apply}",
                found.seen.id
            )),
        };
    };
    // Without an answer of the agent the texts can still be compared.
    let unresolved = Resolution::default();
    let unchanged = match (resolution, recorded) {
        (Some(_), _) | (None, None) => same(manifested, found, resolution),
        (None, Some(recorded)) => {
            let text = |definition: &Definition| spec_on(definition, found.agent, &unresolved);
            text(manifested) == text(recorded)
        }
    };
    if unchanged {
        return Ok(manifested);
    }
    let what = recorded.map_or("spec changed".to_owned(), |recorded| super::diff::explain(recorded, manifested));
    Err(format!("the manifest would change {slot} ({what}), and restart changes nothing; {apply}"))
}

fn same(definition: &Definition, found: &Found<'_>, resolution: Option<&Resolution>) -> bool {
    // Without an answer nothing speaks against it; the plan is refused later for want of one.
    resolution.is_none_or(|resolution| found.seen.is_made_of(&spec_on(definition, found.agent, resolution)))
}

fn replace(scene: &Scene<'_>, pool: &mut Pool, slot: &SlotName, found: &Found<'_>, definition: &Definition) -> Work {
    let digest: Digest = definition_digest(definition);
    let wanted = want(scene, definition, digest, found.agent, None);
    let wanted = Want { version: found.seen.version.clone(), ..wanted };
    let view = View { gateways: &[], own_drain: false, ignore_held: false };
    let mut work = work_for(scene, pool, slot, &wanted, None, &view);
    work.why = "restart".to_owned();
    work
}

/// What each agent must resolve before a restart: the definition of each present instance, as it would be replaced.
pub(super) fn wanted(
    scene: &Scene<'_>,
    manifest: Option<&Manifest>,
) -> BTreeMap<AgentId, BTreeMap<ComponentName, Definition>> {
    let version = scene.history.version.as_deref();
    let mut wanted: BTreeMap<AgentId, BTreeMap<ComponentName, Definition>> = BTreeMap::new();
    for slot in scene.slots() {
        let Some(found) = present(&scene.instances(slot)) else { continue };
        let manifested = manifest
            .and_then(|manifest| manifest.components.get(&slot.component))
            .map(|definition| fill_version(definition, version));
        if let Some(definition) = manifested.or_else(|| scene.made_with(found.seen).cloned()) {
            let of_agent = wanted.entry(found.agent.clone()).or_default();
            hosts::ask(of_agent.entry(slot.component.clone()).or_insert(definition), slot);
        }
    }
    wanted
}
