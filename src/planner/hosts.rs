//! Components that are services of their hosts' own Compose projects: what each agent is asked, and one definition out
//! of what all of them have answered.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::fill::fill_version;
use super::scene::Scene;
use super::stages;
use super::{Ask, PlanError};
use crate::model::{
    AgentId, ComponentName, ComposeAnswer, ComposeAsk, ComposeRemote, ComposeService, Condition, Definition, SlotName,
};

/// Adds a slot to what an agent is asked about a component of hosts. A definition that is on record is not asked about:
/// what it is on its hosts is in it.
pub(super) fn ask(definition: &mut Definition, slot: &SlotName) {
    if let Some(remote) = open(definition) {
        let asked = remote.ask.get_or_insert_with(ComposeAsk::default);
        if !asked.slots.contains(&slot.index) {
            asked.slots.push(slot.index);
        }
    }
}

/// Adds what `--to` says.
pub(super) fn ask_version(definition: &mut Definition, ask: &Ask) {
    if let (Some(ComposeRemote { ask: Some(asked), .. }), Ask::Up { to, .. }) = (open(definition), ask) {
        asked.version.clone_from(to);
    }
}

fn open(definition: &mut Definition) -> Option<&mut ComposeRemote> {
    definition.compose.as_mut()?.remote.as_mut().filter(|remote| remote.hosts.is_empty())
}

/// The components as their hosts have them, as far as agents have answered.
///
/// # Errors
/// [`PlanError::Refused`] where two hosts would have a component rolled in two ways, [`PlanError::Usage`] where their
/// Compose files and the manifest together make a circle of dependencies.
pub(super) fn settled(
    components: BTreeMap<ComponentName, Definition>,
    scene: &Scene<'_>,
    version: Option<&str>,
) -> Result<BTreeMap<ComponentName, Definition>, PlanError> {
    if !components.values().any(Definition::is_of_hosts) {
        return Ok(components);
    }
    let mut all = components.clone();
    for (name, definition) in components.iter().filter(|(_, definition)| definition.is_of_hosts()) {
        let answers: Vec<(&AgentId, &ComposeAnswer)> = scene
            .input
            .inventory
            .keys()
            .filter_map(|agent| Some((agent, scene.resolution(agent, name)?.compose.as_deref()?)))
            .collect();
        if let Some(joined) = joined(definition, &answers, &components)? {
            all.insert(name.clone(), fill_version(&joined, version));
        }
    }
    let jobs: BTreeSet<ComponentName> =
        all.values().filter(|definition| definition.is_job()).map(|definition| definition.component.clone()).collect();
    for definition in all.values_mut() {
        for (on, condition) in &mut definition.depends_on {
            if *condition == Condition::Completed && !jobs.contains(on) {
                *condition = Condition::Ready;
            }
        }
    }
    match all.keys().find(|name| stages::dependencies(&all, name).contains(*name)) {
        Some(name) => Err(PlanError::Usage(format!(
            "component {name} waits for itself: what baton.yaml and the Compose files of its hosts say of \
             `depends_on` makes a circle; write `depends_on` in baton.yaml, which wins"
        ))),
        None => Ok(all),
    }
}

fn joined(
    definition: &Definition,
    answers: &[(&AgentId, &ComposeAnswer)],
    components: &BTreeMap<ComponentName, Definition>,
) -> Result<Option<Definition>, PlanError> {
    let name = &definition.component;
    let (Some((first, answer)), Some(service)) = (answers.first(), &definition.compose) else { return Ok(None) };
    let steering = &answer.steering;
    for (agent, other) in answers {
        let differing = differing(steering, &other.steering);
        if !differing.is_empty() {
            return Err(PlanError::Refused(format!(
                "component {name}: the Compose files of {first} and {agent} say different things of {}, and a \
                 component is rolled in one way; write it in baton.yaml, which wins, or make the files alike",
                differing.join(", ")
            )));
        }
    }
    let alone = answers.iter().find_map(|(agent, answer)| Some(format!("on {agent} {}", answer.host.alone.as_ref()?)));
    let hosts = answers.iter().map(|(agent, answer)| ((*agent).clone(), answer.host.clone())).collect();
    let remote = ComposeRemote { hosts, ..ComposeRemote::default() };
    let own = service.remote.as_ref().map(|remote| remote.own.as_str()).unwrap_or_default();
    let own: serde_json::Value = serde_json::from_str(own).unwrap_or_default();
    let written = own.get("depends_on").is_some();
    let depends_on = if written { definition.depends_on.clone() } else { depends_on(name, answers, components) };
    Ok(Some(Definition {
        component: name.clone(),
        image: Some(answer.host.image.clone()),
        compose: Some(ComposeService {
            service: service.service.clone(),
            alone,
            follows: follows(name, answers, components),
            remote: Some(remote),
            ..Default::default()
        }),
        on: definition.on.clone(),
        replicas: definition.replicas,
        traffic: definition.traffic.clone(),
        depends_on,
        versioned: steering.versioned || answers.iter().any(|(_, answer)| answer.host.version.is_some()),
        ..steering.clone()
    }))
}

/// What of the keys that steer a roll is not the same.
fn differing(one: &Definition, other: &Definition) -> Vec<&'static str> {
    let keys = [
        ("role", one.role == other.role),
        ("singleton", one.singleton == other.singleton),
        ("ports", one.ports == other.ports),
        ("update", one.update == other.update),
        ("ready", one.ready == other.ready),
        ("min_available", one.min_available == other.min_available),
        ("drain", one.drain == other.drain),
        ("agent", one.agent == other.agent),
    ];
    keys.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
}

/// What the Compose files wait for, where it is a component of the fleet. The rest is Compose's own business.
fn depends_on(
    name: &ComponentName,
    answers: &[(&AgentId, &ComposeAnswer)],
    components: &BTreeMap<ComponentName, Definition>,
) -> BTreeMap<ComponentName, Condition> {
    let mut all = BTreeMap::new();
    for (service, condition) in answers.iter().flat_map(|(_, answer)| &answer.depends_on) {
        all.extend(of_service(service, name, components).map(|other| (other, *condition)));
    }
    all
}

/// Whom it is made anew with, by what the Compose files say.
fn follows(
    name: &ComponentName,
    answers: &[(&AgentId, &ComposeAnswer)],
    components: &BTreeMap<ComponentName, Definition>,
) -> BTreeSet<ComponentName> {
    let services = answers.iter().flat_map(|(_, answer)| &answer.host.follows);
    services.flat_map(|service| of_service(service, name, components)).collect()
}

/// Other components that are this service on their hosts.
fn of_service<'a>(
    service: &'a str,
    name: &'a ComponentName,
    components: &'a BTreeMap<ComponentName, Definition>,
) -> impl Iterator<Item = ComponentName> + 'a {
    let of = move |definition: &&Definition| {
        definition.compose.as_ref().is_some_and(|of| of.remote.is_some() && of.service == service)
    };
    let others = components.values().filter(of).map(|other| &other.component);
    others.filter(move |other| *other != name).cloned()
}

/// A definition with the image as an agent's host calls it, for people.
pub(super) fn named_on<'d>(definition: &'d Definition, agent: &AgentId) -> Cow<'d, Definition> {
    match definition.compose.as_ref().and_then(|compose| compose.on(agent)) {
        Some(host) => Cow::Owned(Definition { image: Some(host.image.clone()), ..definition.clone() }),
        None => Cow::Borrowed(definition),
    }
}

/// The version that all hosts are at, where they are at one.
pub(super) fn agreed_version(components: &BTreeMap<ComponentName, Definition>) -> Option<String> {
    let hosts = components.values().filter_map(|definition| definition.compose.as_ref()?.remote.as_ref());
    let versions: BTreeSet<&String> =
        hosts.flat_map(|remote| remote.hosts.values()).filter_map(|host| host.version.as_ref()).collect();
    (versions.len() == 1).then(|| versions.into_iter().next().cloned()).flatten()
}

/// Refuses a `--to` that nothing in the fleet takes.
pub(super) fn refuse_idle_version(
    components: &BTreeMap<ComponentName, Definition>,
    asked: &Ask,
) -> Result<(), PlanError> {
    let answered = |definition: &Definition| {
        let remote = definition.compose.as_ref().and_then(|compose| compose.remote.as_ref());
        remote.is_some_and(|remote| !remote.hosts.is_empty())
    };
    match asked {
        Ask::Up { to: Some(to), .. }
            if components.values().any(answered) && !components.values().any(|definition| definition.versioned) =>
        {
            Err(PlanError::Usage(format!(
                "--to {to} changes nothing: no component uses {{version}}, and no Compose file says what it stands \
                 for; write `x-baton: {{ version: {{ variable: TAG }} }}` there, or change the tags in the files"
            )))
        }
        _ => Ok(()),
    }
}
