//! How requests reach a component: through Baton's gateway, or through a proxy that people run themselves.

use std::time::Duration;

use super::component::Here;
use super::error::suggestion;
use super::forms::Form;
use super::net;
use super::scalar::{NoTraffic, PortName};
use super::shape;
use crate::model::{NamedPort, Port, PortRef, Proxy, Role, RuntimeKind, Traffic};

/// What a server is added to HAProxy with: nothing else proves that HAProxy itself reaches it.
const SERVER: &str = "check inter 500ms";
/// Until what a proxy had in flight counts as finished.
const SETTLE: Duration = Duration::from_secs(5);

impl Here<'_> {
    pub(super) fn traffic(
        &mut self,
        written: Option<&Form<NoTraffic, shape::Traffic>>,
        role: Option<&Role>,
        runtime: RuntimeKind,
        ports: &[NamedPort],
    ) -> Traffic {
        let Some(Form::Long(traffic)) = written else { return Traffic::None };
        match role {
            Some(Role::Job) => self.key(&["traffic"], "a job runs to its end and takes no traffic"),
            Some(Role::Gateway) => {
                self.key(&["traffic"], "a gateway carries the traffic of others; set `traffic` on the api");
            }
            _ => {}
        }
        match (&traffic.gateway, &traffic.haproxy, &traffic.exec) {
            (Some(gateway), None, None) => self.gateway(gateway, runtime, ports),
            (None, Some(haproxy), None) => self.haproxy(haproxy, runtime, ports),
            (None, None, Some(exec)) => self.switch(exec, runtime, ports),
            (None, None, None) => {
                if self.complete {
                    self.key(&["traffic"], "not a kind of traffic; write `gateway: { listen: \":8080\", port: http }`");
                }
                Traffic::None
            }
            _ => {
                self.key(&["traffic"], "one of gateway, haproxy, exec: requests come in one way");
                Traffic::None
            }
        }
    }

    fn gateway(&mut self, gateway: &shape::GatewayTraffic, runtime: RuntimeKind, ports: &[NamedPort]) -> Traffic {
        let (Some(listen), Some(port)) = (&gateway.listen, &gateway.port) else {
            if self.complete {
                self.key(&["traffic", "gateway"], "needs `listen` (as \":8080\") and `port` (a name from `ports`)");
            }
            return Traffic::None;
        };
        self.checked(&["traffic", "gateway", "listen"], net::Listen::parse(&listen.0));
        self.traffic_port("gateway", port, runtime, ports);
        let hold_max = gateway.hold_max.map_or(Duration::from_secs(30), |span| span.0);
        Traffic::Gateway { listen: listen.0.clone(), port: port.0.clone(), hold_max }
    }

    fn haproxy(&mut self, haproxy: &shape::HaproxyTraffic, runtime: RuntimeKind, ports: &[NamedPort]) -> Traffic {
        let (Some(socket), Some(port)) = (&haproxy.socket, &haproxy.port) else {
            if self.complete {
                self.key(&["traffic", "haproxy"], "needs `socket` (HAProxy's stats socket) and `port`");
            }
            return Traffic::None;
        };
        if !socket.0.starts_with('/') && net::Listen::parse(&socket.0).is_err() {
            let how = format!("{:?} is neither an absolute path nor host:port", socket.0);
            self.value(&["traffic", "haproxy", "socket"], how);
        }
        self.traffic_port("haproxy", port, runtime, ports);
        let backend = haproxy.backend.as_ref().map_or_else(|| self.name().to_owned(), |backend| backend.0.clone());
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | ':' | '_' | '-');
        if backend.is_empty() || !backend.chars().all(plain) {
            let how = "the name of a backend of HAProxy: letters, digits, . : _ -";
            self.value(&["traffic", "haproxy", "backend"], how);
        }
        let server = haproxy.server.as_ref().map_or_else(|| SERVER.to_owned(), |server| server.0.clone());
        if server.contains([';', '\n', '\r', '\\', '#']) {
            let how = "options of a server as HAProxy's configuration has them, on one line and without ; \\ or #";
            self.value(&["traffic", "haproxy", "server"], how);
        } else if !server.split_whitespace().any(|word| word == "check") {
            let how = "needs `check`: by it HAProxy says that it reaches an instance before the one before it leaves";
            self.value(&["traffic", "haproxy", "server"], how);
        }
        Traffic::Proxy { proxy: Proxy::Haproxy { socket: socket.0.clone(), backend, server }, port: port.0.clone() }
    }

    fn switch(&mut self, exec: &shape::ExecTraffic, runtime: RuntimeKind, ports: &[NamedPort]) -> Traffic {
        let (Some(switch), Some(port)) = (&exec.switch, &exec.port) else {
            if self.complete {
                self.key(&["traffic", "exec"], "needs `switch` (the command that tells the proxy) and `port`");
            }
            return Traffic::None;
        };
        if switch.0.iter().any(|word| word.contains('\0')) {
            self.value(&["traffic", "exec", "switch"], "an argument cannot hold a zero byte");
        }
        if !switch.0.first().is_some_and(|program| program.starts_with('/')) {
            self.value(&["traffic", "exec", "switch"], "begins with the program's absolute path");
        }
        self.traffic_port("exec", port, runtime, ports);
        let settle = exec.settle.map_or(SETTLE, |span| span.0);
        Traffic::Proxy { proxy: Proxy::Exec { switch: switch.0.clone(), settle }, port: port.0.clone() }
    }

    fn traffic_port(&mut self, kind: &str, port: &PortName, runtime: RuntimeKind, ports: &[NamedPort]) {
        let at = ["traffic", kind, "port"];
        let names = || ports.iter().map(|port| port.name.as_str());
        match &port.0 {
            PortRef::Name(name) if names().any(|known| known == name) => {}
            PortRef::Name(name) if ports.is_empty() => {
                self.value(&at, format!("there is no port {name:?}: the component has no `ports`"));
            }
            PortRef::Name(name) => {
                self.value(&at, format!("there is no port {name:?} in `ports`{}", suggestion(name, names())));
            }
            PortRef::Number(number) if ports.iter().any(|port| port.port == Port::Number(*number)) => {}
            // A container has addresses of its own: what its program listens on need not be declared.
            PortRef::Number(_) if ports.is_empty() && runtime == RuntimeKind::Docker => {}
            PortRef::Number(number) => {
                self.value(&at, format!("port {number} is not in `ports`; add `ports: {{ http: {number} }}`"));
            }
        }
    }
}
