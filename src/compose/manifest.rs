//! A project and what Compose would make of it, as a manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::front::{self, Doors};
use super::ledger::ImageFacts;
use super::obstacle::alone;
use super::project::{Service, UpdateConfig};
use super::recording::{CONFIG_HASH, Created};
use super::{ComposeError, Project, Rehearsal, another, duration, standing};
use crate::manifest::{Borrowed, BorrowedComponent, assemble};
use crate::model::{ComponentName, ComposeContainer, ComposeService, Definition, FleetName, Manifest, Role, Secret};

/// Compose's own, where a service says nothing.
const GRACE: Duration = Duration::from_secs(10);
/// Baton's own, for requests in flight when a service is taken out of traffic and says nothing of it.
const IN_FLIGHT: Duration = Duration::from_secs(30);
/// SwarmKit's, where `update_config` or `rollback_config` says nothing.
const MONITOR: Duration = Duration::from_secs(5);
/// Baton's, from the start to ready.
const DEADLINE: Duration = Duration::from_secs(120);

/// Makes the manifest. Without a rehearsal nothing was asked of an engine: enough to judge the file, not to run it.
/// `file` is the one that has `x-baton`, for the places of what is wrong there.
///
/// # Errors
/// With everything that is wrong.
pub fn manifest(
    project: &Project,
    rehearsal: Option<&Rehearsal>,
    file: Option<(String, String)>,
) -> Result<Manifest, ComposeError> {
    refuse(project)?;
    let doors = Doors::of(project);
    doors.check(project)?;
    let is_ours = |service: &Service| front::runs_baton(service) && !front::is_gateway(service);
    let ours: BTreeSet<&str> =
        project.services.iter().filter(|(_, service)| is_ours(service)).map(|(name, _)| name.as_str()).collect();
    let rolled: Vec<(&String, &Service)> =
        project.services.iter().filter(|(name, _)| !ours.contains(name.as_str())).collect();
    let jobs = project.jobs();
    let mut own = top(project);
    own.remove("version");
    let mut borrowed = Borrowed { fleet: project.name.clone(), own, components: Vec::new(), file };
    for (name, service) in &rolled {
        let facts = facts_of(project, rehearsal, name);
        let mut own = service.own();
        own.remove("share");
        front::from_here(&mut own, &project.folder);
        let mut given = given(name, service, &jobs, facts, &own);
        doors.give(name, service, &own, &mut given);
        let depends_on: Map<String, Value> = service
            .depends_on
            .iter()
            // One that is not required may belong to a profile that is not asked for.
            .filter(|(on, _)| project.services.contains_key(*on) && !ours.contains(on.as_str()))
            // A gateway comes before everything and is never rolled with its fleet.
            .filter(|(on, _)| !front::is_gateway(service) && !doors.contains(on))
            .map(|(on, dependency)| (on.clone(), json!({ "condition": dependency.condition })))
            .collect();
        given.insert("image".to_owned(), image_of(project, rehearsal, name).into());
        if !depends_on.is_empty() {
            given.insert("depends_on".to_owned(), Value::Object(depends_on));
        }
        borrowed.components.push(BorrowedComponent { name: (*name).clone(), given, own });
    }
    let mut manifest = assemble(&borrowed)?;
    for (name, service) in rolled {
        let Some(definition) = ComponentName::new(name.clone()).ok().and_then(|n| manifest.components.get_mut(&n))
        else {
            continue;
        };
        let share = service.baton.as_ref().and_then(|baton| baton.get("share")) == Some(&Value::Bool(true));
        definition.compose = Some(ComposeService {
            project: project.name.clone(),
            service: name.clone(),
            copied: project.copied(service),
            alone: alone(service, facts_of(project, rehearsal, name), share),
            follows: follows(service)
                .into_iter()
                .filter(|on| project.services.contains_key(*on) && !ours.contains(on))
                .filter_map(|on| ComponentName::new(on).ok())
                .collect(),
            host_ports: service.host_ports(),
            clients: clients(project, name),
            ..recorded(rehearsal, name)
        });
    }
    manifest.notes = rehearsal.map(standing::notes).unwrap_or_default();
    manifest.notes.extend(rehearsal.and_then(|rehearsal| another::note(&rehearsal.now)));
    Ok(manifest)
}

/// Other services, gateways apart, that share a network with it and show its name: they depend on it, or name it as a
/// host.
fn clients(project: &Project, name: &str) -> BTreeSet<String> {
    let Some(service) = project.services.get(name) else { return BTreeSet::new() };
    let asks = |(other, of): &(&String, &Service)| {
        other.as_str() != name
            && !front::runs_baton(of)
            && !front::is_proxy(of)
            && !front::networks(of).is_disjoint(&front::networks(service))
            && (of.depends_on.contains_key(name) || of.shows_host(name))
    };
    project.services.iter().filter(asks).map(|(other, _)| other.clone()).collect()
}

/// Makes the definition of one service, for a component of a fleet that is more than this project: `own` are that
/// component's keys, and go over the service's `x-baton`, key by key. What `x-baton` says at the top or in other
/// services is for this project alone, and does not count.
///
/// # Errors
/// With everything that is wrong.
pub fn of_service(
    project: &Project,
    rehearsal: &Rehearsal,
    service: &str,
    own: Map<String, Value>,
) -> Result<Definition, ComposeError> {
    let mut project = project.clone();
    project.baton = None;
    for (name, other) in &mut project.services {
        let said = other.baton.take().filter(|_| name == service);
        if name == service {
            other.baton = Some(over(said.unwrap_or_else(|| json!({})), Value::Object(own.clone())));
        }
    }
    let manifest = manifest(&project, Some(rehearsal), None)?;
    let found = ComponentName::new(service).ok().and_then(|name| manifest.components.get(&name).cloned());
    found.ok_or_else(|| ComposeError::Project {
        why: vec![format!("services.{service}: it runs Baton itself, which is never rolled with what it rolls")],
    })
}

/// What is above wins: key by key in a mapping that both have, else the whole.
fn over(below: Value, above: Value) -> Value {
    match (below, above) {
        (Value::Object(mut below), Value::Object(above)) => {
            for (key, value) in above {
                let under = below.get(&key).cloned().unwrap_or(Value::Null);
                below.insert(key, over(under, value));
            }
            Value::Object(below)
        }
        (_, above) => above,
    }
}

/// What no manifest could say.
fn refuse(project: &Project) -> Result<(), ComposeError> {
    let mut why = Vec::new();
    if let Err(error) = FleetName::new(project.name.clone()) {
        why.push(format!("project {:?}: the name must be {}; choose one with `name:` or -p", project.name, error.rule));
    }
    if project.services.is_empty() {
        why.push(format!("project {} has no service; is its profile asked for (--profile)?", project.name));
    }
    if project.baton.as_ref().is_some_and(|baton| !baton.is_object()) {
        why.push("x-baton: expected a mapping (`key: value`, a line each)".to_owned());
    }
    if project.baton.as_ref().is_some_and(|baton| baton.get("version").is_some()) {
        let named = project.version_variable().is_some_and(is_variable);
        let alone = project.baton.as_ref().and_then(|baton| baton["version"].as_object()).is_some_and(|v| v.len() == 1);
        if !named || !alone {
            why.push(
                "x-baton.version: write the variable that the images are named with: `version: { variable: TAG }`"
                    .to_owned(),
            );
        }
    }
    for (name, service) in &project.services {
        if let Err(error) = ComponentName::new(name.clone()) {
            why.push(format!("services.{name}: Baton cannot call a component so: a name has {}", error.rule));
        }
        if service.baton.as_ref().is_some_and(|baton| !baton.is_object()) {
            why.push(format!("services.{name}.x-baton: expected a mapping (`key: value`, a line each)"));
        }
        if service.baton.as_ref().and_then(|baton| baton.get("share")).is_some_and(|share| !share.is_boolean()) {
            why.push(format!("services.{name}.x-baton.share: write true or false"));
        }
    }
    if why.is_empty() { Ok(()) } else { Err(ComposeError::Project { why }) }
}

fn is_variable(name: &str) -> bool {
    !name.starts_with(|c: char| c.is_ascii_digit())
        && !name.is_empty()
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

fn top(project: &Project) -> Map<String, Value> {
    project.baton.as_ref().and_then(Value::as_object).cloned().unwrap_or_default()
}

/// The image reference as Compose gives it to the engine.
fn image_of(project: &Project, rehearsal: Option<&Rehearsal>, name: &str) -> String {
    let recorded = rehearsal.and_then(|rehearsal| rehearsal.whole.of_service(name).next());
    let named = project.services.get(name).and_then(|service| service.image.clone());
    let built = || format!("{}-{name}", project.name);
    recorded.map(|created| created.image.clone()).or(named).unwrap_or_else(built)
}

fn facts_of<'a>(project: &Project, rehearsal: Option<&'a Rehearsal>, name: &str) -> Option<&'a ImageFacts> {
    rehearsal?.whole.images.get(&image_of(project, rehearsal, name))
}

/// What a service says in Compose's words, in ours.
fn given(
    name: &str,
    service: &Service,
    jobs: &BTreeSet<String>,
    image: Option<&ImageFacts>,
    own: &Map<String, Value>,
) -> Map<String, Value> {
    let mut given = Map::new();
    let job = jobs.contains(name);
    let known = Role::known(name);
    if job {
        given.insert("role".to_owned(), "job".into());
    } else if matches!(known, Some(Role::Gateway | Role::Job)) {
        // A name chance gave: Baton's own gateway is left out, and a job is one by what others wait for.
        given.insert("role".to_owned(), "service".into());
    }
    let replicas = service.replicas();
    given.insert("replicas".to_owned(), replicas.into());
    let scheduler = own.get("role").map_or(known == Some(Role::Scheduler), |role| role == "scheduler");
    let singleton = match own.get("singleton").and_then(Value::as_bool) {
        Some(said) => said,
        // Whoever runs two of them means it.
        None if scheduler && replicas > 1 => {
            given.insert("singleton".to_owned(), false.into());
            false
        }
        None => scheduler,
    };
    if let Some(update) = service.deploy.update_config.as_ref().map(update_of) {
        let update = update.into_iter().filter(|(key, _)| !(singleton && key == "order"));
        given.insert("update".to_owned(), Value::Object(update.collect()));
    }
    if let Some(rollback) = service.deploy.rollback_config.as_ref().map(update_of) {
        let rollback = rollback.into_iter().filter(|(key, _)| !(singleton && key == "order"));
        given.insert("rollback".to_owned(), Value::Object(rollback.collect()));
    }
    let ready = if job { Map::new() } else { ready_of(service, image, own) };
    if !ready.is_empty() {
        given.insert("ready".to_owned(), Value::Object(ready));
    }
    let grace = service.stop_grace_period.unwrap_or(GRACE).max(Duration::from_millis(1));
    let mut drain = json!({ "grace": duration::written(grace) });
    if !own.contains_key("drain") {
        // What Compose calls its grace is the time from the signal on. Before it, requests in flight get theirs.
        let in_flight = if front::is_switched(service) { IN_FLIGHT } else { Duration::ZERO };
        drain = json!({
            "grace": duration::written(grace.saturating_add(in_flight)),
            "stop_timeout": duration::written(grace),
        });
    }
    if let Some(signal) = service.stop_signal.as_ref().or(image.and_then(|image| image.stop_signal.as_ref())) {
        drain["stop_signal"] = signal_name(signal).into();
    }
    given.insert("drain".to_owned(), drain);
    given
}

/// `update_config` or `rollback_config` as SwarmKit means it; what it does not say is Baton's default.
fn update_of(config: &UpdateConfig) -> Map<String, Value> {
    let mut update = Map::new();
    let mut set = |key: &str, value: Value| update.insert(key.to_owned(), value);
    if let Some(parallelism) = config.parallelism {
        set("parallelism", parallelism.into());
    }
    if let Some(delay) = config.delay {
        set("delay", duration::written(delay).into());
    }
    if let Some(action) = &config.failure_action {
        set("failure_action", action.as_str().into());
    }
    if let Some(order) = &config.order {
        set("order", order.as_str().into());
    }
    if let Some(ratio) = config.max_failure_ratio {
        set("max_failure_ratio", ratio.into());
    }
    set("monitor", duration::written(monitor_of(config)).into());
    update
}

/// SwarmKit looks at an instance for longer than it waits for the next.
fn monitor_of(config: &UpdateConfig) -> Duration {
    let (monitor, delay) = (config.monitor.unwrap_or(MONITOR), config.delay.unwrap_or_default());
    if !delay.is_zero() && delay >= monitor { delay.saturating_add(Duration::from_secs(1)) } else { monitor }
}

/// The healthcheck of the service, else that of its image, where `x-baton` names no other way to ask.
fn ready_of(service: &Service, image: Option<&ImageFacts>, own: &Map<String, Value>) -> Map<String, Value> {
    let check = service.healthcheck.clone().unwrap_or_default();
    let there = check.has_test() || (!check.is_off() && image.is_some_and(|image| image.healthcheck));
    let asked = |probe: &str| own.get("ready").is_some_and(|ready| ready.get(probe).is_some());
    let health = there && !["http", "tcp", "exec", "notify"].into_iter().any(asked);
    let mut ready = Map::new();
    let mut deadline = DEADLINE;
    if health {
        ready.insert("health".to_owned(), true.into());
        // Before that the engine itself does not give up on it.
        deadline = deadline.max(check.patience());
    }
    // Without a probe it has to run for as long as it is looked at.
    let configs = [&service.deploy.update_config, &service.deploy.rollback_config];
    let monitor = configs.into_iter().flatten().map(monitor_of).max().unwrap_or_default();
    if monitor >= DEADLINE {
        deadline = deadline.max(monitor.saturating_add(DEADLINE));
    }
    if deadline > DEADLINE {
        ready.insert("deadline".to_owned(), duration::written(deadline).into());
    }
    ready
}

/// Signals that images and files name by number.
fn signal_name(signal: &str) -> &str {
    match signal {
        "1" => "SIGHUP",
        "2" => "SIGINT",
        "3" => "SIGQUIT",
        "10" => "SIGUSR1",
        "12" => "SIGUSR2",
        "15" => "SIGTERM",
        "28" => "SIGWINCH",
        other => other,
    }
}

/// What Compose would make of a service.
fn recorded(rehearsal: Option<&Rehearsal>, name: &str) -> ComposeService {
    let Some(rehearsal) = rehearsal else { return ComposeService::default() };
    let (mut containers, mut on, mut mounts) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    let digest = config_hash(rehearsal, name);
    let mut asked_hash = None;
    for created in rehearsal.whole.of_service(name) {
        containers.insert(created.number, container(created, &digest));
        asked_hash = Some(created.config_hash.clone()).filter(|asked| *asked != digest);
        on.extend(&created.on);
        mounts.extend(&created.mounts);
    }
    let networks = rehearsal.whole.networks.iter().filter(|network| on.contains(&network.name)).cloned().collect();
    let volumes = rehearsal.whole.volumes.iter().filter(|volume| mounts.contains(&volume.name)).cloned().collect();
    ComposeService {
        config_hash: digest,
        containers,
        networks,
        volumes,
        asked_hash,
        digest: rehearsal.digests.get(name).cloned(),
        ..ComposeService::default()
    }
}

/// One container. A service that lives in another one's container (its network, say) has that one's id in its digest
/// and in its body. In the rehearsal from nothing that id is made up; the body names the other one instead, which the
/// runtime finds, and the digest is that of things as they are.
fn container(created: &Created, digest: &str) -> ComposeContainer {
    if created.config_hash == digest {
        return created.container.clone();
    }
    let mut body: Value = serde_json::from_str(created.container.body.expose()).unwrap_or_default();
    if let Some(labels) = body.get_mut("Labels").and_then(Value::as_object_mut) {
        labels.insert(CONFIG_HASH.to_owned(), digest.into());
    }
    ComposeContainer { body: Secret::new(body.to_string()), ..created.container.clone() }
}

/// Services that a service is made anew with: whose container it lives in, and `depends_on.restart`.
fn follows(service: &Service) -> BTreeSet<&str> {
    let restarted = service.depends_on.iter().filter(|(_, on)| on.restart).map(|(on, _)| on.as_str());
    restarted.chain(service.landlords()).collect()
}

/// Compose's digest of a service as things are. That of a service which is on the network of another one's container,
/// or has its volumes, has that container's id in it; where Compose would leave such a service alone, it is the one
/// that its containers have.
fn config_hash(rehearsal: &Rehearsal, name: &str) -> String {
    let now = rehearsal.now.of_service(name).next().map(|created| &created.config_hash);
    let there = rehearsal.now.present.values().find(|present| present.service == name);
    let whole = rehearsal.whole.of_service(name).next().map(|created| &created.config_hash);
    now.or(there.map(|present| &present.config_hash)).or(whole).cloned().unwrap_or_default()
}

#[cfg(test)]
#[path = "manifest_tests.rs"]
mod tests;
