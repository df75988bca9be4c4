//! Which slot lives on which agent, and what each agent must resolve before there can be a plan.

use std::collections::BTreeMap;

use super::PlanError;
use super::fill::fill_version;
use super::gateway::with_gateway;
use super::hosts;
use crate::model::{AgentId, ComponentName, Definition, Inventory, Manifest, Port, RuntimeKind, SlotName};

/// The agents that may run a component, in order of id.
fn allowed<'a>(
    definition: &Definition,
    inventory: &'a BTreeMap<AgentId, Inventory>,
) -> Result<Vec<&'a AgentId>, PlanError> {
    let name = &definition.component;
    let there = || match inventory.is_empty() {
        true => "no agent has reported".to_owned(),
        false => format!(
            "agents there: {}",
            inventory
                .iter()
                .map(|(id, report)| format!("{id} ({})", join(report.runtimes.iter())))
                .collect::<Vec<_>>()
                .join(", ")
        ),
    };
    for id in &definition.on {
        // Whether its slots still run over there is not known, so nothing may be placed elsewhere instead.
        let Some(report) = inventory.get(id) else {
            return Err(PlanError::Refused(format!(
                "component {name} is to run on agent {id}, which has not reported; start it there, or correct `on`; {}",
                there()
            )));
        };
        if !report.runtimes.contains(&definition.runtime) {
            return Err(PlanError::Refused(format!(
                "component {name} is to run on agent {id}, which does not offer the runtime {}; {}",
                definition.runtime,
                there()
            )));
        }
    }
    let agents: Vec<&AgentId> = inventory
        .iter()
        .filter(|(id, report)| {
            report.runtimes.contains(&definition.runtime) && (definition.on.is_empty() || definition.on.contains(id))
        })
        .map(|(id, _)| id)
        .collect();
    if agents.is_empty() && definition.replicas > 0 {
        return Err(PlanError::Refused(format!(
            "no agent can run component {name} (runtime {}); {}",
            definition.runtime,
            there()
        )));
    }
    Ok(agents)
}

fn join(items: impl Iterator<Item = impl ToString>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}

/// Assigns the slots of one component: a slot that an allowed agent already has stays there; new ones go, in order, to
/// the agent with the fewest, the first by id among equals.
///
/// # Errors
/// [`PlanError::Refused`] when no agent may run it or one named by `on` has not reported; [`PlanError::Usage`] when a
/// port number would be needed by two slots of one agent.
pub fn placement(
    definition: &Definition,
    inventory: &BTreeMap<AgentId, Inventory>,
) -> Result<BTreeMap<SlotName, AgentId>, PlanError> {
    let agents = allowed(definition, inventory)?;
    let wanted: Vec<SlotName> =
        (1..=definition.replicas).map(|index| SlotName::new(definition.component.clone(), index)).collect();
    let mut placed: BTreeMap<SlotName, AgentId> = BTreeMap::new();
    let mut load: BTreeMap<&AgentId, usize> = agents.iter().map(|id| (*id, 0)).collect();
    for slot in &wanted {
        let found = |id: &AgentId| inventory.get(id).and_then(|report| report.slots.get(slot));
        let home = agents.iter().filter(|id| found(id).is_some()).max_by_key(|id| {
            let instances = found(id).map_or(&[][..], |slot| &slot.instances);
            // Among several (a move that was cut short): where something may run, where anything is, the first by id.
            (instances.iter().any(|i| i.may_run()), !instances.is_empty(), std::cmp::Reverse(**id))
        });
        if let Some(home) = home {
            placed.insert(slot.clone(), (*home).clone());
            *load.entry(home).or_default() += 1;
        }
    }
    for slot in wanted {
        if !placed.contains_key(&slot)
            && let Some(agent) = load.iter().min_by_key(|(id, slots)| (**slots, **id)).map(|(id, _)| *id)
        {
            *load.entry(agent).or_default() += 1;
            placed.insert(slot, agent.clone());
        }
    }
    refuse_shared_numbers(definition, &load)?;
    Ok(placed)
}

/// A port number can be listened on once per host. A container has an address of its own, so this is about processes.
fn refuse_shared_numbers(definition: &Definition, load: &BTreeMap<&AgentId, usize>) -> Result<(), PlanError> {
    if definition.runtime != RuntimeKind::Process {
        return Ok(());
    }
    let fixed = definition.ports.iter().find_map(|port| match port.port {
        Port::Number(number) => Some((&port.name, number)),
        Port::Auto => None,
    });
    let crowded = load.iter().find(|(_, slots)| **slots > 1);
    match (fixed, crowded) {
        (Some((name, number)), Some((agent, slots))) => Err(PlanError::Usage(format!(
            "component {}: {slots} slots on agent {agent} cannot share port {number}; write `ports: {{ {name}: \
             auto }}`, \
             or place one slot on each agent",
            definition.component
        ))),
        _ => Ok(()),
    }
}

/// Which definitions (`{version}` filled in) each agent must resolve before `up` can be planned. What cannot be placed
/// is left out: the plan says why.
pub fn wanted(
    manifest: &Manifest,
    version: Option<&str>,
    inventory: &BTreeMap<AgentId, Inventory>,
) -> BTreeMap<AgentId, BTreeMap<ComponentName, Definition>> {
    let components: BTreeMap<ComponentName, Definition> =
        manifest.components.iter().map(|(name, entry)| (name.clone(), fill_version(entry, version))).collect();
    let components = with_gateway(&components, inventory).unwrap_or(components);
    wanted_by_agent(&components, inventory)
}

/// The same for components whose definitions are known.
pub(super) fn wanted_by_agent(
    components: &BTreeMap<ComponentName, Definition>,
    inventory: &BTreeMap<AgentId, Inventory>,
) -> BTreeMap<AgentId, BTreeMap<ComponentName, Definition>> {
    let mut wanted: BTreeMap<AgentId, BTreeMap<ComponentName, Definition>> = BTreeMap::new();
    for (name, definition) in components {
        for (slot, agent) in placement(definition, inventory).unwrap_or_default() {
            let entry = wanted.entry(agent).or_default().entry(name.clone()).or_insert_with(|| definition.clone());
            hosts::ask(entry, &slot);
        }
    }
    wanted
}
