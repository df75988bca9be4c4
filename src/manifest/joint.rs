//! What several keys of one component can be wrong about only together.

use super::component::Here;
use super::net::{self, Aim};
use crate::model::{Definition, Order, Port, Probe, RuntimeKind};

impl Here<'_> {
    /// What only several keys together can be wrong about.
    pub(super) fn together(&mut self, definition: &Definition) {
        if let Some(floor) = definition.min_available {
            if definition.is_job() {
                self.key(&["min_available"], "a job runs to its end; nothing of it is available");
            } else if floor > definition.replicas {
                let replicas = definition.replicas;
                self.value(&["min_available"], format!("{floor} can never be available of {replicas} replicas"));
            }
        }
        self.numbers_on_few_hosts(definition);
        self.numbers_start_first(definition);
        self.probe_behind_shared_socket(definition);
    }

    fn numbers_on_few_hosts(&mut self, definition: &Definition) {
        let hosts = definition.on.len();
        if definition.runtime != RuntimeKind::Process || hosts == 0 || definition.replicas as usize <= hosts {
            return;
        }
        for port in &definition.ports {
            if let Port::Number(number) = port.port {
                let (replicas, s) = (definition.replicas, if hosts == 1 { "" } else { "s" });
                self.value(
                    &["ports", &port.name],
                    format!("{replicas} replicas on {hosts} host{s} cannot all have port {number}; write `auto`"),
                );
            }
        }
    }

    fn numbers_start_first(&mut self, definition: &Definition) {
        if definition.runtime != RuntimeKind::Process || definition.update.order != Some(Order::StartFirst) {
            return;
        }
        let kept = definition.ports.iter().find(|port| matches!(port.port, Port::Number(_)) && !port.passed);
        if let Some(port) = kept {
            let name = &port.name;
            self.value(
                &["update", "order"],
                format!(
                    "start-first, but port {name:?} is a number that is not passed: two instances cannot both have \
                     it; write `auto`, `pass: true`, or `order: stop-first`"
                ),
            );
        }
    }

    /// The old process could answer for the new one: its word would count for nothing.
    fn probe_behind_shared_socket(&mut self, definition: &Definition) {
        let stop_first = definition.singleton || definition.update.order == Some(Order::StopFirst);
        if stop_first || definition.is_job() {
            return;
        }
        let (at, aim) = match &definition.ready.probe {
            Some(Probe::Http(url)) => (["ready", "http"], net::http(url)),
            Some(Probe::Tcp(address)) => (["ready", "tcp"], net::tcp(address)),
            _ => return,
        };
        let Ok(aim) = aim else { return };
        let port = match &aim {
            Aim::First => definition.ports.first(),
            Aim::Named(name) => definition.ports.iter().find(|port| port.name == *name),
            Aim::Number(number) => definition.ports.iter().find(|port| port.port == Port::Number(*number)),
            Aim::Unknown => None,
        };
        if let Some(port) = port.filter(|port| port.passed) {
            let name = &port.name;
            self.value(
                &at,
                format!(
                    "port {name:?} is behind a shared listening socket: the old process could answer; use \
                     `ready: {{ notify: true }}` or a second port (or `pass: false`, or `update: {{ order: \
                      stop-first }}`)"
                ),
            );
        }
    }
}
