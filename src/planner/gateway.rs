//! The gateway: a component that the planner adds where traffic needs one and none is declared.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::PlanError;
use super::place::placement;
use crate::model::{
    AgentId, ComponentName, Definition, Drain, Inventory, NamedPort, Port, Probe, RETAIN, Ready, Role, RuntimeKind,
    SlotName, Traffic, Update,
};

/// The name of the component that the planner adds.
pub(super) const GATEWAY: &str = "gateway";

/// Whether it is the front door.
pub(super) fn is_gateway(definition: &Definition) -> bool {
    definition.role == Some(Role::Gateway)
}

/// The components, with a gateway among them where one of them has traffic: declared ones of role gateway that run
/// Baton's own binary get their listeners and the proxies that they tell, and where none is declared, one is added.
pub(super) fn with_gateway(
    components: &BTreeMap<ComponentName, Definition>,
    inventory: &BTreeMap<AgentId, Inventory>,
) -> Result<BTreeMap<ComponentName, Definition>, PlanError> {
    let mut all = components.clone();
    let mut listeners = Vec::new();
    let mut fronts = BTreeMap::new();
    for definition in components.values() {
        match &definition.traffic {
            Traffic::None => {}
            Traffic::Gateway { listen, .. } => listeners.push(listener(&definition.component, listen)?),
            Traffic::Proxy { proxy, .. } => {
                fronts.insert(definition.component.clone(), proxy.clone());
            }
        }
    }
    if listeners.is_empty() && fronts.is_empty() {
        return Ok(all);
    }
    let mut declared = false;
    for definition in all.values_mut().filter(|definition| is_gateway(definition)) {
        declared = true;
        // In a container it opens its own.
        let ours = definition.command.is_empty() && definition.runtime == RuntimeKind::Process;
        if let (Some(behind), false) = (fronts.keys().next(), ours) {
            return Err(PlanError::Usage(format!(
                "component {behind} has a proxy of its own before it and {} is a gateway that cannot tell it anything; \
                 let {behind} go through the gateway too, or remove it",
                definition.component
            )));
        }
        if ours {
            definition.fronts = fronts.clone();
            for port in &listeners {
                if !definition.ports.iter().any(|known| known.name == port.name) {
                    definition.ports.push(port.clone());
                }
            }
            if definition.ready.probe.is_none() {
                definition.ready.probe = Some(Probe::Notify);
            }
        }
    }
    if declared {
        return Ok(all);
    }
    let name = ComponentName::new(GATEWAY).map_err(|error| PlanError::Usage(error.to_string()))?;
    if let Some(taken) = all.get(&name) {
        let role = taken.role.as_ref().map_or("no role".to_owned(), |role| format!("role {role}"));
        return Err(PlanError::Usage(format!(
            "component {GATEWAY} has {role}, but traffic needs a gateway of that name; give it another name, or `role: \
             gateway`"
        )));
    }
    let home = home(&name, components, inventory)?;
    all.insert(name.clone(), Definition { fronts, ..own(name, home, listeners) });
    Ok(all)
}

/// `host:port`, `[v6]:port` or `:port`, as a socket that the keeper holds.
fn listener(component: &ComponentName, listen: &str) -> Result<NamedPort, PlanError> {
    let wrong = || {
        PlanError::Usage(format!(
            "component {component}: traffic.gateway.listen {listen:?} is not an address; write \":8080\" or \
             \"127.0.0.1:8080\""
        ))
    };
    let (host, port) = listen.rsplit_once(':').ok_or_else(wrong)?;
    let port: u16 = port.parse().map_err(|_| wrong())?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let host = if host.is_empty() { "0.0.0.0" } else { host };
    Ok(NamedPort { name: component.to_string(), port: Port::Number(port), host: Some(host.to_owned()), passed: true })
}

/// Where the added gateway lives: where it is, else on the first agent by id that hosts the first component with
/// traffic, else on the first that can run a process at all.
fn home(
    name: &ComponentName,
    components: &BTreeMap<ComponentName, Definition>,
    inventory: &BTreeMap<AgentId, Inventory>,
) -> Result<AgentId, PlanError> {
    let slot = SlotName::new(name.clone(), 1);
    let offers = |id: &AgentId| inventory.get(id).is_some_and(|i| i.runtimes.contains(&RuntimeKind::Process));
    let present =
        inventory.iter().find(|(_, report)| report.slots.get(&slot).is_some_and(|found| !found.instances.is_empty()));
    if let Some((id, _)) = present {
        return Ok(id.clone());
    }
    let first = components.values().find(|definition| definition.has_traffic());
    let hosts: BTreeSet<AgentId> = match first {
        Some(definition) => placement(definition, inventory)?.into_values().collect(),
        None => BTreeSet::new(),
    };
    hosts.iter().find(|id| offers(id)).or_else(|| inventory.keys().find(|id| offers(id))).cloned().ok_or_else(|| {
        PlanError::Refused(format!(
            "no agent can run component {name} (runtime {}), which traffic needs; declare a component of role \
             gateway, or \
             start an agent that offers it",
            RuntimeKind::Process
        ))
    })
}

fn own(component: ComponentName, home: AgentId, ports: Vec<NamedPort>) -> Definition {
    Definition {
        component,
        role: Some(Role::Gateway),
        runtime: RuntimeKind::Process,
        image: None,
        compose: None,
        release: None,
        command: Vec::new(),
        env: BTreeMap::new(),
        env_file: None,
        cwd: None,
        ports,
        fronts: BTreeMap::new(),
        on: vec![home],
        replicas: 1,
        singleton: false,
        depends_on: BTreeMap::new(),
        update: Update::default(),
        rollback: None,
        agent: None,
        retain: RETAIN,
        // Its first probe comes from itself; it binds nothing, so it is ready at once or never.
        ready: Ready { probe: Some(Probe::Notify), every: Duration::from_millis(50), ..Ready::default() },
        traffic: Traffic::None,
        min_available: None,
        drain: Drain::default(),
        versioned: false,
    }
}
