//! The whole fleet: what can be wrong between components.

use std::collections::{BTreeMap, BTreeSet};

use super::component;
use super::error::suggestion;
use super::forms::{Form, List};
use super::net::Listen;
use super::report::Report;
use super::scalar::Text;
use super::shape;
use crate::model::{
    ApiAt, ComponentName, Condition, Definition, FleetName, Manifest, NamedPort, Port, Role, RuntimeKind, Stages,
    Traffic,
};

/// Makes the manifest. `names` are all names under `components`, those too whose entry is wrong.
pub(crate) fn resolve(written: shape::Fleet, names: &[String], report: &mut Report) -> Option<Manifest> {
    let fleet = fleet_name(written.fleet.as_ref(), report);
    let entries = match written.components {
        Some(components) => components.0,
        None => {
            if !report.is_spoilt(&["components"]) && names.is_empty() {
                report.key::<&str>(&[], "`components` is missing: the components of the fleet, by name");
            }
            Vec::new()
        }
    };
    if entries.is_empty() && names.is_empty() && report.is_clean() {
        report.key(&["components"], "there is no component; name at least one");
    }
    let mut dependencies = BTreeMap::new();
    let mut components = BTreeMap::new();
    for (name, mut written) in entries {
        match ComponentName::new(name.clone()) {
            Err(error) => {
                report
                    .key(&["components", &name], format!("{name:?} cannot be the name of a component: {}", error.rule));
            }
            Ok(component) => {
                dependencies.insert(component.clone(), written.depends_on.take());
                components.insert(component.clone(), component::resolve(component, written, report));
            }
        }
    }
    for (name, written) in dependencies {
        let depends_on = depends_on(&name, written, names, &components, report);
        if let Some(definition) = components.get_mut(&name) {
            definition.depends_on = depends_on;
        }
    }
    cycles(&components, report);
    let stages = written.stages.map(|stages| stages_of(stages, names, &components, report));
    listeners(&components, report);
    fixed_ports(&components, report);
    Some(Manifest {
        fleet: fleet?,
        strategy: written.strategy.map(|strategy| strategy.0),
        stages,
        api_at: written.api_at.map_or_else(ApiAt::default, |at| at.0),
        components,
        notes: Vec::new(),
    })
}

fn fleet_name(written: Option<&Text>, report: &mut Report) -> Option<FleetName> {
    let Some(text) = written else {
        if !report.is_spoilt(&["fleet"]) {
            report.key::<&str>(&[], "`fleet` is missing: a name for what this manifest describes, as `fleet: orders`");
        }
        return None;
    };
    match FleetName::new(text.0.clone()) {
        Ok(name) => Some(name),
        Err(error) => {
            report.value(&["fleet"], format!("{:?} cannot be the name of a fleet: {}", text.0, error.rule));
            None
        }
    }
}

fn depends_on(
    name: &ComponentName,
    written: Option<Form<List<Text>, super::forms::Ordered<shape::Dependency>>>,
    names: &[String],
    components: &BTreeMap<ComponentName, Definition>,
    report: &mut Report,
) -> BTreeMap<ComponentName, Condition> {
    // What is depended on, under which key it stands, and the condition as written.
    let wanted: Vec<(String, String, Option<Condition>)> = match written {
        None => Vec::new(),
        Some(Form::Short(list)) => {
            list.0.into_iter().enumerate().map(|(index, text)| (text.0, index.to_string(), None)).collect()
        }
        Some(Form::Long(map)) => map
            .0
            .into_iter()
            .map(|(on, dependency)| (on.clone(), on, dependency.condition.map(|condition| condition.0)))
            .collect(),
    };
    let mut all = BTreeMap::new();
    for (on, key, condition) in wanted {
        let at = ["components", name.as_str(), "depends_on", key.as_str()];
        if !names.contains(&on) {
            let near = suggestion(&on, names.iter().map(String::as_str).filter(|other| *other != name.as_str()));
            report.key(&at, format!("there is no component {on:?}{near}"));
            continue;
        }
        let Ok(on) = ComponentName::new(on) else { continue };
        let job = components.get(&on).map(Definition::is_job);
        if job == Some(false) && condition == Some(Condition::Completed) {
            report.key(&at, format!("{on} is not a job, so it never completes; write `condition: ready`"));
        }
        // The ready of a job is that it ended with 0.
        let default = if job == Some(true) { Condition::Completed } else { Condition::Ready };
        if all.insert(on.clone(), condition.unwrap_or(default)).is_some() {
            report.key(&at, format!("{on} is named twice"));
        }
    }
    all
}

/// Reports each cycle once, by its names.
fn cycles(components: &BTreeMap<ComponentName, Definition>, report: &mut Report) {
    let mut done: BTreeSet<&ComponentName> = BTreeSet::new();
    for start in components.keys() {
        // An explicit stack of (component, dependencies not yet looked at): a chain may be as long as the fleet.
        let mut path: Vec<(&ComponentName, Vec<&ComponentName>)> = Vec::new();
        let open = |name| components.get(name).map(|definition| definition.depends_on.keys().rev().collect());
        if !done.contains(start) {
            path.push((start, open(start).unwrap_or_default()));
        }
        while let Some((name, rest)) = path.last_mut() {
            let name = *name;
            let Some(next) = rest.pop() else {
                done.insert(name);
                path.pop();
                continue;
            };
            if let Some(from) = path.iter().position(|(on_path, _)| *on_path == next) {
                let round: Vec<&str> =
                    path[from..].iter().map(|(name, _)| name.as_str()).chain([next.as_str()]).collect();
                let at = ["components", next.as_str(), "depends_on"];
                report.key(&at, format!("a cycle: {}; one of them cannot wait for the next", round.join(" -> ")));
            } else if !done.contains(next) {
                path.push((next, open(next).unwrap_or_default()));
            }
        }
    }
}

fn stages_of(
    written: shape::Stages,
    names: &[String],
    components: &BTreeMap<ComponentName, Definition>,
    report: &mut Report,
) -> Stages {
    let mut read = |key: &str, stages: Option<List<List<Text>>>| -> Vec<Vec<String>> {
        let mut seen: BTreeSet<&ComponentName> = BTreeSet::new();
        let stages: Vec<Vec<String>> = stages
            .map(|stages| stages.0)
            .unwrap_or_default()
            .into_iter()
            .map(|stage| stage.0.into_iter().map(|entry| entry.0).collect())
            .collect();
        for (number, stage) in stages.iter().enumerate() {
            if stage.is_empty() {
                report.value(&["stages", key, &number.to_string()], "an empty stage; remove it");
            }
            for (index, entry) in stage.iter().enumerate() {
                let path = ["stages".to_owned(), key.to_owned(), number.to_string(), index.to_string()];
                check_entry(entry, &path, names, components, report);
                for name in covered(entry, components) {
                    if !seen.insert(name) {
                        report.value(&path, format!("{name} is in the {key} stages twice"));
                    }
                }
            }
        }
        stages
    };
    let stop = read("stop", written.stop);
    let start = read("start", written.start);
    Stages { stop, start }
}

/// The components that an entry stands for: the one of that name, else all of that role.
fn covered<'a>(entry: &str, components: &'a BTreeMap<ComponentName, Definition>) -> Vec<&'a ComponentName> {
    if let Some((name, _)) = components.iter().find(|(name, _)| name.as_str() == entry) {
        return vec![name];
    }
    let of_role = |definition: &Definition| definition.role.as_ref().is_some_and(|role| role.to_string() == entry);
    components.iter().filter(|(_, definition)| of_role(definition)).map(|(name, _)| name).collect()
}

fn check_entry(
    entry: &str,
    path: &[String],
    names: &[String],
    components: &BTreeMap<ComponentName, Definition>,
    report: &mut Report,
) {
    let covered = covered(entry, components);
    if covered.is_empty() && !names.iter().any(|name| name == entry) {
        let roles: BTreeSet<String> =
            components.values().filter_map(|definition| definition.role.as_ref().map(Role::to_string)).collect();
        let known: BTreeSet<&str> = names.iter().chain(&roles).map(String::as_str).collect();
        let near = suggestion(entry, known);
        report.value(path, format!("{entry:?} is neither a component nor the role of one{near}"));
    }
    for name in covered {
        let role = components.get(name).and_then(|definition| definition.role.as_ref());
        let why = match role {
            Some(Role::Api) => "the API is in no stage: it serves all the while; say when it is rolled with `api_at`",
            Some(Role::Job) => "a job is in no stage: it runs at the quiet point, or before what depends on it",
            Some(Role::Gateway) => "a gateway is in no stage: it is never rolled with its fleet",
            _ => continue,
        };
        report.value(path, format!("{name}: {why}"));
    }
}

/// Two gateways' listeners on the same port.
fn listeners(components: &BTreeMap<ComponentName, Definition>, report: &mut Report) {
    let mut seen: Vec<(&ComponentName, Listen)> = Vec::new();
    for (name, definition) in components {
        let Traffic::Gateway { listen, .. } = &definition.traffic else { continue };
        let Ok(listen) = Listen::parse(listen) else { continue };
        if let Some((other, _)) = seen.iter().find(|(_, taken)| taken.clashes(&listen)) {
            let at = ["components", name.as_str(), "traffic", "gateway", "listen"];
            let port = listen.port;
            report.value(&at, format!("{other} listens on port {port} already; one gateway port serves one component"));
        }
        seen.push((name, listen));
    }
}

/// The same port number in two components that can only be on one and the same host.
fn fixed_ports(components: &BTreeMap<ComponentName, Definition>, report: &mut Report) {
    let mut seen: Vec<(&Definition, &NamedPort)> = Vec::new();
    for (name, definition) in components {
        if definition.runtime != RuntimeKind::Process || definition.on.len() != 1 || definition.replicas == 0 {
            continue;
        }
        for port in definition.ports.iter().filter(|port| matches!(port.port, Port::Number(_))) {
            let twin = seen.iter().find(|(other, taken)| {
                other.on == definition.on
                    && taken.port == port.port
                    && (taken.host == port.host || taken.host.is_none())
            });
            if let (Some((other, _)), Port::Number(number)) = (twin, port.port) {
                let (host, other) = (&definition.on[0], &other.component);
                let what = format!("{other} has port {number} on {host} already; write another, or `auto`");
                report.value(&["components", name.as_str(), "ports", &port.name], what);
            }
            seen.push((definition, port));
        }
    }
}
