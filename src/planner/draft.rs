//! Everything that is decided before there are steps.

use std::collections::{BTreeMap, BTreeSet};

use super::digest::spec_on;
use super::gateway::is_gateway;
use super::policy::{self, Mode};
use super::scene::{Pool, Scene};
use super::stages::{Layout, Wishes};
use super::work::{Want, Work, leaving, present};
use super::{PlanError, stages};
use crate::model::{
    AgentId, ApiAt, ChangeKind, ComponentName, Definition, Digest, FleetName, Order, PlanKind, Resolution, RuntimeKind,
    SlotName, Strategy,
};

/// Everything about a plan but its steps.
pub(super) struct Draft {
    pub(super) fleet: FleetName,
    pub(super) kind: PlanKind,
    pub(super) manifest: Digest,
    pub(super) version: Option<String>,
    pub(super) only: Vec<String>,
    /// The definition that governs each component: where it goes, or how it leaves.
    pub(super) components: BTreeMap<ComponentName, Definition>,
    /// One for each slot, in order.
    pub(super) works: Vec<Work>,
    pub(super) layout: Layout,
    pub(super) pool: Pool,
    /// What success records.
    pub(super) definitions: BTreeMap<ComponentName, Digest>,
    pub(super) warnings: Vec<String>,
    pub(super) way_back: Vec<String>,
}

impl Draft {
    pub(super) fn definition(&self, component: &ComponentName) -> Option<&Definition> {
        self.components.get(component)
    }

    pub(super) fn mode(&self, definition: &Definition) -> Mode {
        policy::mode(definition, self.layout.strategy, self.layout.api_at)
    }

    pub(super) fn works_of<'a>(&'a self, component: &'a ComponentName) -> impl Iterator<Item = &'a Work> {
        self.works.iter().filter(move |work| work.slot.component == *component)
    }

    /// The slots of a component that are rolled one after the other, in the order in which they take their turn: what
    /// only comes first (it adds to what serves), then in order of index, what only goes last. A rollback begins with
    /// what is broken.
    pub(super) fn lane<'a>(&'a self, component: &'a ComponentName) -> Vec<&'a Work> {
        let mut lane: Vec<&Work> = self.works_of(component).filter(|work| work.changes() && !work.orphan).collect();
        let rollback = matches!(self.kind, PlanKind::Rollback { .. });
        lane.sort_by_key(|work| (!(rollback && work.broken), work.leaves(), work.coming.is_none(), work.slot.index));
        lane
    }
}

/// Gives each slot its order, now that the strategy is known, and says where it is not the one asked for.
pub(super) fn set_orders(
    works: &mut [Work],
    components: &BTreeMap<ComponentName, Definition>,
    layout: &mut Layout,
    warnings: &mut Vec<String>,
) {
    let mut said = BTreeSet::new();
    for work in works.iter_mut() {
        let Some(definition) = components.get(&work.slot.component) else { continue };
        let mode = policy::mode(definition, layout.strategy, layout.api_at);
        work.order = policy::order(definition, mode, Some(work));
        let Some(why) = policy::obstacle(definition, mode, Some(work)).filter(|_| work.changes()) else { continue };
        let name = &work.slot.component;
        let asked = definition.update.order == Some(Order::StartFirst);
        let text = if asked {
            format!("{name}: order: start-first is not possible: {why}; it is rolled stop-first")
        } else if policy::is_api(definition) {
            format!("{name}: stop-first, because {why}")
        } else {
            // What would lift it is for those who want start-first: this one, a database say, is stop-first anyway.
            format!("{name}: stop-first, because {}", why.split(" (`x-baton:").next().unwrap_or(&why))
        };
        // Of Compose's services what stands in the way is in the file, where its owner may not look for it.
        let told = policy::is_api(definition) || (mode == policy::Mode::Lane && definition.compose.is_some());
        let wished = definition.update.order.is_none() && told;
        if said.insert(text.clone()) {
            if asked {
                warnings.push(text);
            } else if wished {
                layout.reasons.push(text);
            }
        }
    }
}

/// What a slot on an agent shall run, with what the agent has resolved for it.
pub(super) fn want<'a>(
    scene: &Scene<'_>,
    definition: &'a Definition,
    digest: Digest,
    agent: &AgentId,
    version: Option<&String>,
) -> Want<'a> {
    let unresolved = Resolution::default();
    let resolution = scene.resolution(agent, &definition.component).unwrap_or(&unresolved);
    Want {
        definition,
        digest,
        agent: agent.clone(),
        spec: spec_on(definition, agent, resolution),
        version: match &definition.compose {
            Some(compose) if compose.remote.is_some() => compose.on(agent).and_then(|host| host.version.clone()),
            _ => version.filter(|_| definition.versioned).cloned(),
        },
    }
}

/// Refuses a plan that would create instances from what is not there or not right, or start them where their port is
/// taken.
pub(super) fn refuse_unresolved(
    scene: &Scene<'_>,
    works: &[Work],
    pool: &Pool,
    warnings: &mut Vec<String>,
) -> Result<(), PlanError> {
    let mut problems = BTreeSet::new();
    let mut notes = BTreeSet::new();
    for work in works {
        let Some(coming) = work.coming.as_ref().filter(|coming| coming.prepare || coming.start) else { continue };
        let (component, agent) = (&work.slot.component, &work.agent);
        if let Some(problem) = scene.resolution(agent, component).and_then(|found| found.port_in_use.as_ref()) {
            problems.insert(format!("component {component} on agent {agent}: {problem}"));
        }
        if !coming.prepare {
            continue;
        }
        match scene.resolution(agent, component) {
            None => {
                problems.insert(format!(
                    "component {component} on agent {agent}: the agent has not said whether it has what is needed"
                ));
            }
            Some(Resolution { problem: Some(problem), .. }) => {
                problems.insert(format!("component {component} on agent {agent}: {problem}"));
            }
            Some(resolution) => {
                let Some(definition) = pool.get(&coming.definition) else { continue };
                if let (RuntimeKind::Docker, Some(image), None) =
                    (definition.runtime, &definition.image, &resolution.image_id)
                {
                    notes.insert(format!("{component}: image {image} is not on {agent}: it will be pulled"));
                }
                if definition.release.as_ref().is_some_and(|release| release.sha256_file.is_none()) {
                    notes.insert(format!(
                        "{component}: its release names no sha256_file, so nothing proves that it is complete"
                    ));
                }
            }
        }
    }
    warnings.extend(notes);
    if problems.is_empty() {
        return Ok(());
    }
    Err(PlanError::Refused(problems.into_iter().collect::<Vec<_>>().join("; ")))
}

/// A slot that goes. `steering`: how it leaves; `None`: as each instance's own definition says.
pub(super) fn removal(
    scene: &Scene<'_>,
    pool: &mut Pool,
    slot: &SlotName,
    steering: Option<&Definition>,
    why: &str,
) -> Option<Work> {
    let instances = scene.instances(slot);
    let present = present(&instances)?;
    let going = instances
        .iter()
        .map(|found| {
            let own = || scene.made_with(found.seen).or_else(|| scene.last_definition(&slot.component));
            let definition = steering.or_else(own).map(|definition| pool.add(definition));
            leaving(found, definition, true)
        })
        .collect();
    Some(Work {
        slot: slot.clone(),
        agent: present.agent.clone(),
        kind: ChangeKind::Remove,
        coming: None,
        stays: None,
        going,
        order: Order::StopFirst,
        held: false,
        broken: present.seen.may_run() && !present.is_ready(),
        orphan: false,
        from: present.seen.version.clone(),
        to: None,
        why: why.to_owned(),
    })
}

/// Whether the gateway in that slot is left alone: it runs, and nobody named it.
pub(super) fn spares_gateway(scene: &Scene<'_>, definition: &Definition, slot: &SlotName, named: bool) -> bool {
    is_gateway(definition) && !named && scene.instances(slot).iter().any(|found| found.seen.may_run())
}

/// An unknown name, with the nearest known one.
pub(super) fn unknown(what: &str, name: &str, known: &[String]) -> PlanError {
    // Further away than this it is another word, not a slip of the finger.
    const SIMILAR: f64 = 0.7;
    let nearest = known
        .iter()
        .map(|candidate| (strsim::jaro_winkler(name, candidate), candidate))
        .filter(|(score, _)| *score >= SIMILAR)
        .max_by(|a, b| a.0.total_cmp(&b.0).then_with(|| b.1.cmp(a.1)));
    let hint = match nearest {
        Some((_, candidate)) => format!("did you mean {candidate}?"),
        None if known.is_empty() => format!("there is no {what}"),
        None => format!("there are {}", known.join(", ")),
    };
    PlanError::Usage(format!("no {what} is named {name:?}; {hint}"))
}

/// Checks that every name is a known component.
pub(super) fn refuse_unknown(asked: &[ComponentName], known: &BTreeSet<ComponentName>) -> Result<(), PlanError> {
    match asked.iter().find(|name| !known.contains(name)) {
        None => Ok(()),
        Some(name) => {
            let known: Vec<String> = known.iter().map(ToString::to_string).collect();
            Err(unknown("component", name.as_str(), &known))
        }
    }
}

/// What the manifest says about the whole roll; without one, the defaults.
pub(super) fn wishes(scene: &Scene<'_>) -> Wishes {
    match &scene.input.manifest {
        Some(manifest) => {
            Wishes { strategy: manifest.strategy, stages: manifest.stages.clone(), api_at: manifest.api_at }
        }
        None => Wishes { strategy: None, stages: None, api_at: ApiAt::default() },
    }
}

/// The layout of a plan that goes through no stages at all.
pub(super) fn plain_layout(components: &BTreeMap<ComponentName, Definition>) -> Result<Layout, PlanError> {
    let wishes = Wishes { strategy: Some(Strategy::Rolling), stages: None, api_at: ApiAt::default() };
    let mut layout = stages::layout(components, &wishes, false)?;
    layout.reasons.clear();
    Ok(layout)
}
