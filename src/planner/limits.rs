//! What the engine may not exceed: places and floors.

use std::collections::BTreeMap;

use super::PlanError;
use super::draft::Draft;
use super::policy::{self, Mode, is_api, keepable};
use super::stages::{Wishes, layout};
use super::work::Work;
use crate::model::{ComponentLimits, ComponentName, Definition, Manifest, PlanKind};

/// The limits of every component that has a slot in the plan.
///
/// # Errors
/// [`PlanError::Usage`] when somebody set a floor that the roll cannot keep.
pub(super) fn limits(draft: &Draft) -> Result<BTreeMap<ComponentName, ComponentLimits>, PlanError> {
    let mut all = BTreeMap::new();
    for (name, definition) in &draft.components {
        let works: Vec<&Work> = draft.works_of(name).collect();
        if works.is_empty() {
            continue;
        }
        let mode = draft.mode(definition);
        let rolls = matches!(draft.kind, PlanKind::Up | PlanKind::Restart | PlanKind::Rollback { .. });
        let lane = match (rolls, mode) {
            (true, Mode::Lane) => draft.lane(name).iter().map(|work| work.slot.clone()).collect(),
            _ => Vec::new(),
        };
        let changed = works.iter().filter(|work| work.changes()).count();
        let limits = ComponentLimits {
            parallelism: definition.update.parallelism,
            lane,
            min_available: floor(draft, definition, mode, &works)?,
            counted: works.iter().filter(|work| !work.held).map(|work| work.slot.clone()).collect(),
            failure_action: definition.update.failure_action,
            max_failure_ratio: definition.update.max_failure_ratio,
            changed: u32::try_from(changed).unwrap_or(u32::MAX),
        };
        all.insert(name.clone(), limits);
    }
    Ok(all)
}

fn floor(draft: &Draft, definition: &Definition, mode: Mode, works: &[&Work]) -> Result<u32, PlanError> {
    let rolls = match draft.kind {
        // What is not asked for is not judged.
        PlanKind::Up | PlanKind::Restart => draft.definitions.contains_key(&definition.component),
        PlanKind::Rollback { .. } => false,
        // These take down what they are asked to take down.
        PlanKind::Down | PlanKind::Drain | PlanKind::Undrain => return Ok(0),
    };
    let stay = works.iter().filter(|work| !work.held && (work.coming.is_some() || work.stays.is_some())).count();
    let stay = u32::try_from(stay).unwrap_or(u32::MAX);
    // What is gone from the manifest goes as a whole.
    if works.iter().any(|work| work.orphan) || stay == 0 {
        return Ok(0);
    }
    let (most, why) = keepable(definition, mode, stay, works);
    let name = &definition.component;
    match definition.min_available {
        None if is_api(definition) => Ok(most.min(1)),
        None => Ok(0),
        Some(asked) if asked <= most => Ok(asked),
        Some(_) if !rolls => Ok(most),
        Some(asked)
            if stay < definition.replicas && asked <= keepable(definition, mode, definition.replicas, works).0 =>
        {
            // The manifest is right; it is the slots drained by hand that are missing now.
            match works.iter().find(|work| work.held).filter(|_| works.iter().any(|work| work.leaves())) {
                Some(held) => Err(PlanError::Refused(format!(
                    "{name}: min_available {asked} cannot be kept while {} is drained by hand ({most} can); run `baton \
                     undrain {}`",
                    held.slot, held.slot
                ))),
                None => Ok(most),
            }
        }
        Some(asked) => Err(refused(definition, mode, asked, most, &why)),
    }
}

/// A floor that somebody set and that no roll of the component can keep.
fn refused(definition: &Definition, mode: Mode, asked: u32, most: u32, why: &str) -> PlanError {
    let name = &definition.component;
    let way = match mode {
        Mode::Stage => "lower it, or write `strategy: rolling`",
        Mode::Quiet => "lower it, or choose another api_at",
        Mode::Lane if definition.singleton => "lower it: a singleton never runs twice",
        Mode::Lane => "lower it, add replicas, or write `order: start-first`",
        Mode::Job => "take it out",
    };
    PlanError::Usage(format!(
        "component {name}: min_available {asked} cannot be kept: {why}, so at most {most} can be; {way}"
    ))
}

/// Refuses a manifest with a floor that no `up` can keep, whatever runs at that moment: what `baton check` can say of
/// it before any plan.
///
/// # Errors
/// As the plan would say it; and what the order of its stages alone is wrong about.
pub fn refuse_floors(manifest: &Manifest) -> Result<(), PlanError> {
    let wishes = Wishes { strategy: manifest.strategy, stages: manifest.stages.clone(), api_at: manifest.api_at };
    // Whether a job runs may decide the strategy, and differs from roll to roll: what one of the two ways can keep, the
    // manifest alone does not refuse.
    let jobs = manifest.components.values().any(Definition::is_job);
    let layouts = if jobs { vec![false, true] } else { vec![false] };
    let layouts =
        layouts.into_iter().map(|runs| layout(&manifest.components, &wishes, runs)).collect::<Result<Vec<_>, _>>()?;
    for definition in manifest.components.values().filter(|definition| definition.replicas > 0) {
        let Some(asked) = definition.min_available else { continue };
        let kept = layouts.iter().map(|layout| {
            let mode = policy::mode(definition, layout.strategy, layout.api_at);
            (mode, keepable(definition, mode, definition.replicas, &[]))
        });
        let best = kept.max_by_key(|(_, (most, _))| *most);
        if let Some((mode, (most, why))) = best.filter(|(_, (most, _))| asked > *most) {
            return Err(refused(definition, mode, asked, most, &why));
        }
    }
    Ok(())
}
