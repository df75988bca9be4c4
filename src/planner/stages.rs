//! Staged or rolling, and who stops and starts when.

use std::collections::{BTreeMap, BTreeSet};

use super::PlanError;
use super::gateway::is_gateway;
use super::policy::is_api;
use crate::model::{ApiAt, ComponentName, Definition, Role, Stages, Strategy};

/// The default stop stages; the start stages are the reverse.
const DEFAULT_STOP: [&[Role]; 2] = [&[Role::Executor, Role::Scheduler], &[Role::Worker, Role::Indexer]];

/// What the manifest says about the whole roll, or what a former plan tells of it.
pub(super) struct Wishes {
    pub(super) strategy: Option<Strategy>,
    pub(super) stages: Option<Stages>,
    pub(super) api_at: ApiAt,
}

/// The order of a roll.
#[derive(Debug)]
pub(super) struct Layout {
    pub(super) strategy: Strategy,
    pub(super) api_at: ApiAt,
    pub(super) stop: Vec<Vec<ComponentName>>,
    pub(super) start: Vec<Vec<ComponentName>>,
    /// All components but the gateway, in the order of a rolling roll.
    pub(super) rolling: Vec<ComponentName>,
    pub(super) reasons: Vec<String>,
    pub(super) warnings: Vec<String>,
}

type Components = BTreeMap<ComponentName, Definition>;

/// Whether it takes part in stop and start stages.
pub(super) fn is_staged(definition: &Definition) -> bool {
    !is_api(definition) && !is_gateway(definition) && !definition.is_job()
}

/// Everything that a component depends on, directly or not.
pub(super) fn dependencies(components: &Components, name: &ComponentName) -> BTreeSet<ComponentName> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&ComponentName> = vec![name];
    while let Some(at) = open.pop() {
        for next in components.get(at).into_iter().flat_map(|definition| definition.depends_on.keys()) {
            if found.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    found
}

/// Decides the order of a roll. `runs_job`: a job is part of it.
pub(super) fn layout(components: &Components, wishes: &Wishes, runs_job: bool) -> Result<Layout, PlanError> {
    refuse_cycles(components)?;
    let mut reasons = Vec::new();
    let mut warnings = Vec::new();
    let strategy = strategy(components, wishes, runs_job, &mut reasons)?;
    if strategy == Strategy::Rolling && wishes.api_at == ApiAt::First {
        warnings.push("api_at: first has no meaning in a rolling roll".to_owned());
    }
    let (stop, start) = stages(components, wishes.stages.as_ref(), strategy, &mut reasons, &mut warnings);
    let rolling = rolling(components, &stop);
    if strategy == Strategy::Rolling {
        let order: Vec<&str> = rolling.iter().map(ComponentName::as_str).collect();
        reasons.push(format!(
            "order: {} (dependencies first, then stop order, the API last unless something depends on it)",
            order.join(", ")
        ));
    }
    Ok(Layout { strategy, api_at: wishes.api_at, stop, start, rolling, reasons, warnings })
}

fn strategy(
    components: &Components,
    wishes: &Wishes,
    runs_job: bool,
    reasons: &mut Vec<String>,
) -> Result<Strategy, PlanError> {
    if let Some(asked) = wishes.strategy {
        let name = if asked == Strategy::Staged { "staged" } else { "rolling" };
        if asked == Strategy::Rolling && wishes.api_at == ApiAt::Quiet {
            return Err(PlanError::Usage(
                "api_at: quiet needs the quiet point of a staged roll; write `strategy: staged`, or leave strategy out"
                    .to_owned(),
            ));
        }
        reasons.push(format!("{name}: as written"));
        return Ok(asked);
    }
    let planner = components.values().find(|c| matches!(c.role, Some(Role::Executor | Role::Scheduler)));
    let why = if wishes.stages.is_some() {
        "stages are given".to_owned()
    } else if let Some(definition) = planner {
        let role = definition.role.as_ref().map_or(String::new(), ToString::to_string);
        format!("component {} has role {role}", definition.component)
    } else if runs_job {
        "this roll runs a job".to_owned()
    } else if wishes.api_at != ApiAt::Last {
        "api_at is given, which says when the API goes in a staged roll".to_owned()
    } else {
        reasons.push(
            "rolling: no stages are given, nothing has the role executor or scheduler, and this roll runs no job"
                .to_owned(),
        );
        return Ok(Strategy::Rolling);
    };
    reasons.push(format!("staged: {why}"));
    Ok(Strategy::Staged)
}

type StageLists = Vec<Vec<ComponentName>>;

fn stages(
    components: &Components,
    given: Option<&Stages>,
    strategy: Strategy,
    reasons: &mut Vec<String>,
    warnings: &mut Vec<String>,
) -> (StageLists, StageLists) {
    let members: Vec<&Definition> = components.values().filter(|definition| is_staged(definition)).collect();
    let given_stop = given.map(|stages| &stages.stop).filter(|stop| !stop.is_empty());
    let mut source = "by role";
    let mut stop: StageLists = match given_stop {
        Some(entries) => {
            source = "as written";
            let api = entries.iter().flatten().find(|entry| names_api(components, entry));
            if let Some(entry) = api {
                warnings.push(format!(
                    "stages: {entry} is an API and in no stop stage: at the quiet point it still serves (see api_at)"
                ));
            }
            named(&members, entries)
        }
        None => match layers(components) {
            Some(layers) => {
                source = "the layers of depends_on, dependents first";
                layers
            }
            None => DEFAULT_STOP
                .iter()
                .map(|roles| {
                    let fits = |d: &&&Definition| d.role.as_ref().is_some_and(|role| roles.contains(role));
                    members.iter().filter(fits).map(|d| d.component.clone()).collect()
                })
                .collect(),
        },
    };
    stop.retain(|stage| !stage.is_empty());
    put_missing(&mut stop, &members, true);
    let given_start = given.map(|stages| &stages.start).filter(|start| !start.is_empty());
    let start = match given_start {
        Some(entries) => {
            let mut start = named(&members, entries);
            start.retain(|stage| !stage.is_empty());
            put_missing(&mut start, &members, false);
            start
        }
        None => stop.iter().rev().cloned().collect(),
    };
    if strategy == Strategy::Staged && !stop.is_empty() {
        reasons.push(format!("stop order: {} ({source})", show(&stop)));
        let reversed = if given_start.is_some() { "as written" } else { "the reverse" };
        reasons.push(format!("start order: {} ({reversed})", show(&start)));
    }
    (stop, start)
}

fn show(stages: &[Vec<ComponentName>]) -> String {
    let one = |stage: &Vec<ComponentName>| stage.iter().map(ComponentName::as_str).collect::<Vec<_>>().join(" + ");
    stages.iter().map(one).collect::<Vec<_>>().join(", then ")
}

fn names_api(components: &Components, entry: &str) -> bool {
    let by_name = components.iter().find(|(name, _)| name.as_str() == entry);
    by_name.map_or(entry == Role::Api.to_string(), |(_, definition)| is_api(definition))
}

/// Stages as written: an entry is a component's name, else a role. A component's own name wins over its role.
fn named(members: &[&Definition], entries: &[Vec<String>]) -> StageLists {
    let by_name = |entry: &String| members.iter().any(|d| d.component.as_str() == entry);
    let named_somewhere = |d: &Definition| entries.iter().flatten().any(|entry| d.component.as_str() == entry.as_str());
    let mut taken = BTreeSet::new();
    let mut stages = Vec::new();
    for entry_list in entries {
        let mut stage = Vec::new();
        for definition in members {
            let fits = entry_list.iter().any(|entry| {
                if by_name(entry) {
                    definition.component.as_str() == entry
                } else {
                    let role = definition.role.as_ref().map(ToString::to_string);
                    !named_somewhere(definition) && role.as_deref() == Some(entry)
                }
            });
            if fits && taken.insert(definition.component.clone()) {
                stage.push(definition.component.clone());
            }
        }
        stages.push(stage);
    }
    stages
}

/// A component in no stage stops in the last stop stage and starts in the first start stage.
fn put_missing(stages: &mut StageLists, members: &[&Definition], at_end: bool) {
    let known: BTreeSet<ComponentName> = stages.iter().flatten().cloned().collect();
    let missing: Vec<ComponentName> =
        members.iter().map(|d| d.component.clone()).filter(|name| !known.contains(name)).collect();
    if missing.is_empty() {
        return;
    }
    if stages.is_empty() {
        stages.push(Vec::new());
    }
    let place = if at_end { stages.last_mut() } else { stages.first_mut() };
    if let Some(stage) = place {
        stage.extend(missing);
        stage.sort();
    }
}

/// Stop stages from depends_on: dependents first. `None` when no staged component depends on another one.
fn layers(components: &Components) -> Option<StageLists> {
    let depth = depths(components);
    let staged = |name: &ComponentName| components.get(name).is_some_and(is_staged);
    let any = components
        .keys()
        .filter(|name| staged(name))
        .any(|name| dependencies(components, name).iter().any(|on| on != name && staged(on)));
    if !any {
        return None;
    }
    let mut by_depth: BTreeMap<std::cmp::Reverse<usize>, Vec<ComponentName>> = BTreeMap::new();
    for (name, depth) in depth {
        if staged(&name) {
            by_depth.entry(std::cmp::Reverse(depth)).or_default().push(name);
        }
    }
    Some(by_depth.into_values().collect())
}

/// The longest way from each component to one that depends on nothing. There are no cycles any more.
fn depths(components: &Components) -> BTreeMap<ComponentName, usize> {
    let mut depths: BTreeMap<ComponentName, usize> = BTreeMap::new();
    for name in topological(components, |_| 0) {
        let deepest = components
            .get(&name)
            .into_iter()
            .flat_map(|definition| definition.depends_on.keys())
            .filter_map(|on| depths.get(on).map(|depth| depth + 1))
            .max();
        depths.insert(name, deepest.unwrap_or(0));
    }
    depths
}

/// Dependencies first; among those that may come next the one with the least rank, then the first by name. Components
/// of
/// a cycle are left out.
fn topological(components: &Components, rank: impl Fn(&ComponentName) -> usize) -> Vec<ComponentName> {
    let mut order: Vec<ComponentName> = Vec::new();
    let mut done: BTreeSet<&ComponentName> = BTreeSet::new();
    loop {
        let free = |definition: &Definition| {
            definition.depends_on.keys().all(|on| done.contains(on) || !components.contains_key(on))
        };
        let next = components
            .iter()
            .filter(|(name, definition)| !done.contains(name) && free(definition))
            .min_by_key(|(name, _)| (rank(name), *name));
        let Some((name, _)) = next else { return order };
        done.insert(name);
        order.push(name.clone());
    }
}

fn refuse_cycles(components: &Components) -> Result<(), PlanError> {
    let sorted = topological(components, |_| 0);
    let stuck = components.keys().find(|name| !sorted.contains(name) && dependencies(components, name).contains(*name));
    let Some(start) = stuck else { return Ok(()) };
    // Walk along edges that lead back to the start.
    let mut path = vec![start.clone()];
    let mut at = start;
    while let Some(next) = components
        .get(at)
        .into_iter()
        .flat_map(|definition| definition.depends_on.keys())
        .find(|on| *on == start || (!path.contains(*on) && dependencies(components, on).contains(start)))
    {
        path.push(next.clone());
        if next == start {
            break;
        }
        at = next;
    }
    let names: Vec<&str> = path.iter().map(ComponentName::as_str).collect();
    Err(PlanError::Usage(format!("depends_on goes in a circle: {}; take one of these out", names.join(" -> "))))
}

/// Dependencies first, then in stop order, the API last unless something depends on it; a job as early as it can.
fn rolling(components: &Components, stop: &[Vec<ComponentName>]) -> Vec<ComponentName> {
    let rank = |name: &ComponentName| {
        let Some(definition) = components.get(name) else { return usize::MAX };
        if definition.is_job() {
            return 0;
        }
        if is_api(definition) {
            return usize::MAX;
        }
        stop.iter().position(|stage| stage.contains(name)).map_or(usize::MAX - 1, |index| index + 1)
    };
    let mut order = topological(components, rank);
    order.retain(|name| components.get(name).is_some_and(|definition| !is_gateway(definition)));
    order
}
