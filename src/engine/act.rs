//! From a step of the plan to an act that an agent can carry out, with what is known at this moment filled in.

use std::time::Duration;

use super::known::{Known, Reach};
use super::roll::Roll;
use crate::model::{
    Act, Admission, AgentId, CommandStep, Endpoint, InstanceId, InstanceState, PortRef, Precondition, Step, StepKind,
    TableTarget, Timestamp,
};

/// Why a step cannot be made into an act now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum NoAct {
    /// Where an instance is reached is not known before this agent reports.
    Unreported(AgentId),
    /// It cannot be done as things are; for people.
    Impossible(String),
}

/// The port that a reference means at an endpoint. A number stands for a published port of that name (a container's
/// own port), else for itself.
fn port_at(endpoint: &Endpoint, port: &PortRef) -> Option<u16> {
    match port {
        PortRef::Name(name) => endpoint.ports.get(name).copied(),
        PortRef::Number(number) => Some(endpoint.ports.get(&number.to_string()).copied().unwrap_or(*number)),
    }
}

impl Roll {
    /// What is sent for a step.
    pub fn command_step(
        &self,
        now: Timestamp,
        known: &Known,
        term_began: Timestamp,
        step: &Step,
    ) -> Result<CommandStep, NoAct> {
        let precondition = match (&step.kind, &step.while_ready) {
            (StepKind::Start { alone: true }, _) => Precondition::Alone,
            // A gateway proves by itself that its new targets answer; its agent need not know them.
            (_, Some(instance)) if step.slot.as_ref() == Some(&instance.slot) => Precondition::Ready(instance.clone()),
            _ => Precondition::None,
        };
        let act = self.act(now, known, term_began, step)?;
        Ok(CommandStep { step: step.id, act, precondition, deadline: step.deadline })
    }

    fn act(&self, now: Timestamp, known: &Known, term_began: Timestamp, step: &Step) -> Result<Act, NoAct> {
        let instance =
            || step.instance.clone().ok_or_else(|| NoAct::Impossible(format!("step {} names no instance", step.id)));
        // The grace runs from the moment at which a switch took the traffic away, whatever happened in between.
        let left = |grace: Duration| {
            step.instance
                .as_ref()
                .and_then(|instance| self.grace_left(now, instance))
                .map_or(grace, |left| left.min(grace))
        };
        Ok(match &step.kind {
            StepKind::Prepare { definition, spec, version } => Act::Prepare {
                instance: instance()?,
                definition: definition.clone(),
                spec: spec.clone(),
                version: version.clone(),
            },
            StepKind::Start { .. } => Act::Start { instance: instance()? },
            StepKind::Ready { definition, wait } => {
                Act::Ready { instance: instance()?, definition: definition.clone(), wait: wait.clone() }
            }
            StepKind::Soak { definition, monitor, probed } => {
                Act::Soak { instance: instance()?, monitor: *monitor, definition: definition.clone(), probed: *probed }
            }
            StepKind::Drain { definition, begin, inflight, grace, stop_timeout } => Act::Drain {
                instance: instance()?,
                definition: definition.clone(),
                begin: begin.clone(),
                inflight: *inflight,
                grace: left(*grace),
                stop_timeout: (*stop_timeout).min(left(*grace)),
            },
            StepKind::Undrain { definition } => Act::Undrain { instance: instance()?, definition: definition.clone() },
            StepKind::Stop { signal, timeout } => {
                Act::Stop { instance: instance()?, signal: signal.clone(), timeout: left(*timeout) }
            }
            StepKind::Retire => Act::Retire { instance: instance()? },
            StepKind::Run { hook } => Act::Run { hook: hook.clone() },
            StepKind::Switch { component, admit, release, port, grace, stop_timeout, hold_max } => {
                let budget = release
                    .iter()
                    .filter_map(|instance| self.grace_left(now, instance))
                    .min()
                    .map_or(*grace, |left| left.min(*grace));
                Act::Switch {
                    component: component.clone(),
                    targets: self.targets(known, term_began, step, admit, port)?,
                    hold_max: *hold_max,
                    drain: budget.saturating_sub(*stop_timeout),
                }
            }
            StepKind::Delay { .. } | StepKind::Gate { .. } => {
                return Err(NoAct::Impossible(format!("step {} ({}) is not an agent's", step.id, step.kind.verb())));
            }
        })
    }

    /// A gateway's table after the switch: what it has, without the released (they only finish) and without those that
    /// are gone, and with the admitted.
    fn targets(
        &self,
        known: &Known,
        term_began: Timestamp,
        step: &Step,
        admit: &[InstanceId],
        port: &PortRef,
    ) -> Result<Vec<TableTarget>, NoAct> {
        let StepKind::Switch { component, .. } = &step.kind else { return Ok(Vec::new()) };
        let graph = &self.graph;
        let release: Vec<&InstanceId> = self.released_by(step).collect();
        let table = step
            .slot
            .as_ref()
            .zip(step.agent.as_ref())
            .and_then(|(slot, agent)| known.inventories.get(agent)?.slots.get(slot)?.table.get(component))
            .map(Vec::as_slice)
            .unwrap_or_default();
        let mut targets = Vec::new();
        for target in table {
            if admit.contains(&target.instance) || self.is_gone(known, term_began, &target.instance) {
                continue;
            }
            let admission = if release.contains(&&target.instance) { Admission::Draining } else { target.admission };
            targets.push(TableTarget { admission, ..target.clone() });
        }
        for instance in admit.iter().filter(|instance| !self.is_of_given_up(instance)) {
            let reported = known.instance(graph, instance).and_then(|one| one.endpoint.as_ref());
            // What its own start told is kept in the journal; a report is newer when there is one (a restart may
            // have moved it).
            let Some(endpoint) = reported.or_else(|| self.endpoints.get(instance)) else {
                let agent = graph.agent_of.get(&instance.slot);
                return Err(match agent {
                    Some(agent) if known.reach(agent, term_began) != Reach::Good => NoAct::Unreported(agent.clone()),
                    _ => NoAct::Impossible(format!(
                        "nobody told where {instance} is reached, so no request can be sent to it"
                    )),
                });
            };
            let Some(port) = port_at(endpoint, port) else {
                let ports: Vec<&str> = endpoint.ports.keys().map(String::as_str).collect();
                let name = match port {
                    PortRef::Name(name) => name.clone(),
                    PortRef::Number(number) => number.to_string(),
                };
                return Err(NoAct::Impossible(format!(
                    "{instance} has no port {name}, it has {}; correct `traffic.gateway.port`",
                    if ports.is_empty() { "none".to_owned() } else { ports.join(", ") }
                )));
            };
            targets.push(TableTarget {
                instance: instance.clone(),
                host: endpoint.address.clone(),
                port,
                admission: Admission::Admitting,
            });
        }
        Ok(targets)
    }

    /// Known to be gone: its agent answers and it is absent, created only, or ended. Unknown is not gone, and what this
    /// roll has started is not gone because a report from before does not have it.
    fn is_gone(&self, known: &Known, term_began: Timestamp, id: &InstanceId) -> bool {
        let Some(agent) = self.graph.agent_of.get(&id.slot) else { return false };
        if known.reach(agent, term_began) != Reach::Good {
            return false;
        }
        match known.instance(&self.graph, id).map(|instance| instance.state) {
            Some(InstanceState::Exited) => true,
            Some(InstanceState::Created) | None => !self.endpoints.contains_key(id) || self.is_down(known, id),
            Some(_) => false,
        }
    }
}
