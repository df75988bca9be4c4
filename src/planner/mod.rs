//! Pure: `(manifest, inventory, history) -> plan + report`. Same input, same bytes. Never a clock, never a look
//! outside.

mod adopt;
mod check;
mod diff;
mod digest;
mod down;
mod draft;
mod fill;
mod follow;
mod gateway;
mod graph;
mod hosts;
mod limits;
mod moved;
mod place;
mod policy;
mod render;
mod report;
mod restart;
mod roll;
mod rollback;
mod scene;
mod stages;
mod up;
mod work;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use check::check;
pub use digest::{definition_digest, manifest_digest, plan_digest, spec_digest, spec_on};
pub use fill::{fill_version, resolve_version};
pub use limits::refuse_floors;
pub use place::{placement, wanted};
pub use render::render;

use draft::Draft;
use scene::Scene;

use serde::{Deserialize, Serialize};

use crate::model::{
    AgentId, ComponentName, Definition, Digest, FleetName, Inventory, Manifest, Plan, RollId, RollNumber, SlotName,
    StepKind,
};

/// What the journal knows that no agent can.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct History {
    /// The version of the last roll that succeeded.
    pub version: Option<String>,
    /// Each component's definition as it was when it last succeeded: digest, and the definition from the spec store.
    pub succeeded: BTreeMap<ComponentName, (Digest, Definition)>,
    /// Other definitions that instances in the inventory were made with, by digest, as far as the spec store has them.
    pub definitions: BTreeMap<Digest, Definition>,
    /// The highest instance number that the journal knows, by slot.
    pub highest: BTreeMap<SlotName, u64>,
    /// Jobs that ended with 0, with the spec that they ran with.
    pub completed_jobs: BTreeMap<SlotName, Digest>,
    /// The fleet whose journal this is: what a plan without a manifest belongs to.
    #[serde(default)]
    pub fleet: Option<FleetName>,
    /// The version of each component when it last succeeded. A roll of some components leaves the others' as they were.
    #[serde(default)]
    pub versions: BTreeMap<ComponentName, String>,
}

/// What a person asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// `up`.
    Up {
        /// `--to`.
        to: Option<String>,
        /// `--only`.
        only: Vec<ComponentName>,
        /// `--remove-orphans`.
        remove_orphans: bool,
    },
    /// `restart`, with the components named (none: all).
    Restart {
        /// Which.
        components: Vec<ComponentName>,
    },
    /// `down`.
    Down,
    /// `drain SLOT`.
    Drain {
        /// Which.
        slot: SlotName,
    },
    /// `undrain SLOT`.
    Undrain {
        /// Which.
        slot: SlotName,
    },
    /// `rollback`: back to what was there before this roll.
    Rollback {
        /// Which roll is taken back.
        of: RollId,
        /// Its number, for people.
        number: RollNumber,
        /// Its plan.
        plan: Box<Plan>,
    },
}

/// Everything that a plan is made from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PlanningInput {
    /// What the operator wrote, `{version}` not filled in. For `restart`, `down`, `drain`, `undrain` and `rollback` it
    /// may be absent: the definitions that instances run with decide.
    pub manifest: Option<Manifest>,
    /// What agents last reported, resolutions included, by agent.
    pub inventory: BTreeMap<AgentId, Inventory>,
    /// What the journal knows.
    pub history: History,
    /// What is asked.
    pub ask: Ask,
}

/// Why there is no plan. Nothing has been touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlanError {
    /// Bad usage or manifest: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// It cannot be done as things are: exit code 5.
    #[error("{0}")]
    Refused(String),
}

/// A plan, what it is made of, and what it means.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    /// What will be done.
    pub plan: Plan,
    /// Every definition that the plan names, by digest, for the spec store and the agents.
    pub definitions: BTreeMap<Digest, Definition>,
    /// What people read.
    pub report: Report,
}

/// What people (and scripts) read about a plan. No secret in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// One line: `orders: v1 -> v2, staged, 9 of 11 slots change`.
    pub headline: String,
    /// Why staged or rolling, why this order, where each default came from.
    pub reasons: Vec<String>,
    /// In order: label, and the slots and verbs in it.
    pub stages: Vec<StageReport>,
    /// By component: effective grace and what it is made of, order, parallelism, floor, readiness.
    pub components: Vec<ComponentReport>,
    /// Who is out, for how long at most, and why; empty: nobody.
    pub outages: Vec<String>,
    /// What a rollback would do, and what it could not.
    pub way_back: Vec<String>,
    /// Weak readiness, releases without checksums, slots kept drained, orphans left.
    pub warnings: Vec<String>,
    /// Every slot's change in words: `worker-2  replace  v1 -> v2 (release changed)`.
    pub changes: Vec<String>,
}

/// One stage in a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StageReport {
    /// Its label.
    pub label: String,
    /// What happens in it, a line each.
    pub lines: Vec<String>,
}

/// One component in a report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentReport {
    /// Its name.
    pub component: String,
    /// `role worker, 4 slots on host-a, host-b`.
    pub line: String,
    /// `grace 5m: drain at most 4m 50s, then SIGTERM, SIGKILL 10s later`.
    pub grace: String,
    /// `start-first, 1 at a time, at least 1 serving`.
    pub roll: String,
    /// `ready when GET ... answers 2xx twice, within 2m`.
    pub ready: String,
}

/// Makes a plan: what is done, in which order, and what it means. The same input gives the same bytes.
///
/// # Errors
/// [`PlanError::Usage`] for a question or a manifest that makes no sense, [`PlanError::Refused`] for one that cannot be
/// carried out as things are. Nothing has been touched.
pub fn plan(input: &PlanningInput) -> Result<Planned, PlanError> {
    let scene = Scene::new(input);
    let draft = match &input.ask {
        Ask::Up { only, remove_orphans, .. } => up::up(&scene, only, *remove_orphans),
        Ask::Restart { components } => restart::restart(&scene, components),
        Ask::Down => down::down(&scene),
        Ask::Drain { slot } => down::drain(&scene, slot),
        Ask::Undrain { slot } => down::undrain(&scene, slot),
        Ask::Rollback { of, number, plan } => rollback::rollback(&scene, of, *number, plan),
    }?;
    let planned = finish(draft, &scene)?;
    check(&planned.plan, input)
        .map_err(|faults| PlanError::Refused(format!("planner fault: {}", faults.join("; "))))?;
    Ok(planned)
}

/// Which definitions (`{version}` filled in) each agent must resolve before this can be planned.
///
/// # Errors
/// As [`resolve_version`].
pub fn wanted_for(input: &PlanningInput) -> Result<BTreeMap<AgentId, BTreeMap<ComponentName, Definition>>, PlanError> {
    let scene = Scene::new(input);
    let version = resolve_version(&input.ask, input.manifest.as_ref(), &input.history)?;
    let mut wanted = match (&input.ask, &input.manifest) {
        (Ask::Up { .. }, Some(manifest)) => wanted(manifest, version.as_deref(), &input.inventory),
        (Ask::Restart { .. }, manifest) => restart::wanted(&scene, manifest.as_ref()),
        (Ask::Rollback { .. }, _) => rollback::wanted(&scene),
        _ => BTreeMap::new(),
    };
    wanted.values_mut().flat_map(BTreeMap::values_mut).for_each(|entry| hosts::ask_version(entry, &input.ask));
    Ok(wanted)
}

/// From everything decided to the plan, with its steps, limits, digest and report.
fn finish(mut draft: Draft, scene: &Scene<'_>) -> Result<Planned, PlanError> {
    let adopted = adopt::adopt(&mut draft, scene);
    let steps = roll::steps(&draft, scene);
    let limits = limits::limits(&draft)?;
    let mut plan = Plan {
        fleet: draft.fleet.clone(),
        kind: draft.kind.clone(),
        manifest: draft.manifest.clone(),
        version: draft.version.clone(),
        only: draft.only.clone(),
        strategy: draft.layout.strategy,
        changes: draft.works.iter().map(work::Work::change).collect(),
        steps,
        limits,
        definitions: draft.definitions.clone(),
        adopted,
        digest: Digest(String::new()),
    };
    plan.digest = plan_digest(&plan);
    let named: BTreeSet<&Digest> = plan
        .steps
        .iter()
        .filter_map(definition_of)
        .chain(plan.definitions.values())
        .chain(plan.adopted.values())
        .collect();
    let definitions =
        named.into_iter().filter_map(|digest| Some((digest.clone(), draft.pool.get(digest)?.clone()))).collect();
    let report = report::report(&draft, &plan, scene);
    Ok(Planned { plan, definitions, report })
}

/// The definition that a step needs from the spec store.
fn definition_of(step: &crate::model::Step) -> Option<&Digest> {
    match &step.kind {
        StepKind::Prepare { definition, .. }
        | StepKind::Drain { definition, .. }
        | StepKind::Undrain { definition }
        | StepKind::Ready { definition, .. }
        | StepKind::Soak { definition, .. } => Some(definition),
        StepKind::Switch { .. }
        | StepKind::Stop { .. }
        | StepKind::Start { .. }
        | StepKind::Delay { .. }
        | StepKind::Retire
        | StepKind::Run { .. }
        | StepKind::Gate { .. } => None,
    }
}
