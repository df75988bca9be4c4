//! Services that are Baton itself, and the front door among them: Baton's gateway as a service of the project.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::{Map, Value, json};

use super::ComposeError;
use super::project::{Project, Service};

/// Whether a service runs Baton itself.
pub(super) fn runs_baton(service: &Service) -> bool {
    let said = service.baton.as_ref().and_then(|baton| baton.get("agent")).is_some();
    let command: Vec<&str> = service.words().collect();
    !said && crate::model::runs_baton(service.image.as_deref(), &command)
}

/// Whether a service is Baton's gateway.
pub(super) fn is_gateway(service: &Service) -> bool {
    let command: Vec<&str> = service.words().collect();
    crate::model::runs_gateway(service.image.as_deref(), &command)
}

/// The project's gateways.
pub(super) struct Doors<'a> {
    gateways: BTreeMap<&'a str, &'a Service>,
}

impl<'a> Doors<'a> {
    pub(super) fn of(project: &'a Project) -> Self {
        let services = project.services.iter().map(|(name, service)| (name.as_str(), service));
        Self { gateways: services.filter(|(_, service)| is_gateway(service)).collect() }
    }

    pub(super) fn contains(&self, service: &str) -> bool {
        self.gateways.contains_key(service)
    }

    /// What services with traffic and the gateways before them must have in common.
    pub(super) fn check(&self, project: &Project) -> Result<(), ComposeError> {
        let mut why = Vec::new();
        for (name, service) in project.services.iter().filter(|(_, service)| goes_through_a_gateway(service)) {
            for (door, gateway) in &self.gateways {
                let listeners = listeners(gateway);
                if !listeners.is_empty() && !listeners.contains_key(name.as_str()) {
                    let port = listeners.values().next().copied().unwrap_or(":8080");
                    why.push(format!(
                        "services.{door}: it has no listener for {name}; add `--listen {name}={port}` to its command"
                    ));
                }
                if !reaches(gateway, service) {
                    let networks: Vec<&str> = networks(service).into_iter().collect();
                    why.push(format!(
                        "services.{door}: it is on no network of {name}, so it cannot reach it; add {} to its \
                         `networks`",
                        networks.join(" or ")
                    ));
                }
            }
        }
        if why.is_empty() { Ok(()) } else { Err(ComposeError::Project { why }) }
    }

    /// What that makes of a service's manifest entry.
    pub(super) fn give(&self, name: &str, service: &Service, own: &Map<String, Value>, given: &mut Map<String, Value>) {
        if self.contains(name) {
            given.insert("role".to_owned(), "gateway".into());
            let listeners = listeners(service);
            let port = listeners.values().next().and_then(|address| address.rsplit(':').next());
            let healthcheck = given.get("ready").is_some_and(|ready| ready.get("health").is_some());
            if let (Some(port), false, false) = (port, healthcheck, own.contains_key("ready")) {
                given.insert("ready".to_owned(), json!({ "tcp": format!("{{address}}:{port}"), "every": "50ms" }));
            }
        }
        let traffic = own.get("traffic").and_then(|traffic| traffic.get("gateway")).and_then(Value::as_object);
        let Some(traffic) = traffic.filter(|traffic| !traffic.contains_key("listen")) else { return };
        let said = self.gateways.values().find_map(|gateway| listeners(gateway).get(name).map(|at| (*at).to_owned()));
        let same = traffic.get("port").and_then(Value::as_u64).map(|port| format!(":{port}"));
        if let Some(listen) = said.or(same) {
            given.insert("traffic".to_owned(), json!({ "gateway": { "listen": listen } }));
        }
    }
}

/// Whether its requests come through a gateway.
fn goes_through_a_gateway(service: &Service) -> bool {
    let own = service.baton.as_ref().and_then(|baton| baton.get("traffic"));
    own.is_some_and(|traffic| traffic.get("gateway").is_some())
}

/// Whether something can take it out of traffic.
pub(super) fn is_switched(service: &Service) -> bool {
    let own = service.baton.as_ref().and_then(|baton| baton.get("traffic"));
    own.is_some_and(|traffic| ["gateway", "haproxy", "exec"].iter().any(|kind| traffic.get(kind).is_some()))
}

/// Paths of a proxy's socket and of the command that tells it are relative to the project's folder, as all of a
/// Compose file's are.
pub(super) fn from_here(own: &mut Map<String, Value>, folder: &Path) {
    let Some(traffic) = own.get_mut("traffic") else { return };
    for place in ["/haproxy/socket", "/exec/switch/0"] {
        if let Some(Value::String(path)) = traffic.pointer_mut(place)
            && path.starts_with('.')
        {
            *path = folder.join(path.trim_start_matches("./")).display().to_string();
        }
    }
}

/// Whether it is a proxy by its image: it asks the API for others, and is told where that is.
pub(super) fn is_proxy(service: &Service) -> bool {
    let image = service.image.as_deref().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default().split([':', '@']).next().unwrap_or_default();
    ["haproxy", "nginx", "caddy", "traefik", "envoy"].contains(&name)
}

/// `--listen NAME=ADDRESS`, as far as the file shows the command.
fn listeners(gateway: &Service) -> BTreeMap<&str, &str> {
    let words: Vec<&str> = gateway.words().collect();
    let apart = words.windows(2).filter(|pair| pair[0] == "--listen").map(|pair| pair[1]);
    let joined = words.iter().filter_map(|word| word.strip_prefix("--listen="));
    apart.chain(joined).filter_map(|listen| listen.split_once('=')).collect()
}

pub(super) fn networks(service: &Service) -> BTreeSet<&str> {
    match &service.networks {
        Some(networks) => networks.keys().map(String::as_str).collect(),
        None if service.network_mode.is_some() => BTreeSet::new(),
        None => BTreeSet::from(["default"]),
    }
}

fn reaches(gateway: &Service, service: &Service) -> bool {
    // From the host every bridge is in reach; what shares another one's network is for whoever wrote that to know.
    if gateway.network_mode.as_deref() == Some("host") || service.network_mode.is_some() {
        return true;
    }
    !networks(gateway).is_disjoint(&networks(service))
}

#[cfg(test)]
#[path = "front_tests.rs"]
mod tests;
