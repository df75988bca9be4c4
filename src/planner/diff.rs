//! What differs between what runs and what is wanted, in words. Names of variables, never values.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use crate::model::{ComposeFound, ComposeService, Definition, NamedPort, Port};

/// What differs in the spec of two definitions, a phrase each; empty when their texts say the same (then what they
/// stand for differs: the content of a release, an image or an env_file).
pub(super) fn differences(old: &Definition, new: &Definition) -> Vec<String> {
    let mut found = Vec::new();
    if old.runtime != new.runtime {
        found.push(format!("runtime {} -> {}", old.runtime, new.runtime));
    }
    if old.image != new.image {
        found.push(moved("image", old.image.as_deref(), new.image.as_deref()));
    }
    let path = |definition: &Definition| definition.release.as_ref().map(|release| release.path.clone());
    if path(old) != path(new) {
        found.push(moved("release", path(old).as_deref(), path(new).as_deref()));
    }
    if old.command != new.command {
        found.push("command changed".to_owned());
    }
    let names: BTreeSet<&String> = old.env.keys().chain(new.env.keys()).collect();
    for name in names {
        match (old.env.get(name), new.env.get(name)) {
            (None, Some(_)) => found.push(format!("env {name} added")),
            (Some(_), None) => found.push(format!("env {name} removed")),
            (before, after) if before != after => found.push(format!("env {name} changed")),
            _ => {}
        }
    }
    if old.env_file.is_some() != new.env_file.is_some() {
        found.push(moved("env_file", old.env_file.as_deref(), new.env_file.as_deref()));
    }
    if old.cwd != new.cwd {
        found.push(moved("cwd", old.cwd.as_deref(), new.cwd.as_deref()));
    }
    if old.fronts != new.fronts {
        found.push("the proxies that it tells changed".to_owned());
    }
    if old.ports != new.ports {
        found.push(format!("ports {} -> {}", ports(&old.ports), ports(&new.ports)));
    }
    found
}

/// The same, and when nothing differs in the text, what must differ behind it.
pub(super) fn explain(old: &Definition, new: &Definition) -> String {
    let mut found = differences(old, new);
    if let (Some(old), Some(new)) = (&old.compose, &new.compose) {
        let image_is_all = !found.is_empty();
        let more = composed(old, new);
        // The image's name is in Compose's digest too: where it changes, no other difference has to be looked for.
        found.extend(more.into_iter().filter(|what| !image_is_all || what != UNSEEN));
    }
    if found.is_empty() {
        let behind = [
            (new.release.is_some(), "release content"),
            (new.image.is_some(), "image id"),
            (new.env_file.is_some(), "env_file content"),
        ];
        let behind: Vec<&str> = behind.iter().filter(|(there, _)| *there).map(|(_, what)| *what).collect();
        let what = if behind.is_empty() { "spec".to_owned() } else { behind.join(" or ") };
        found.push(format!("{what} changed"));
    }
    found.join(", ")
}

/// What differs between a container that somebody else made and what is wanted. Its body is told by the engine in other
/// words than Compose's, so only what both have in common is compared.
pub(super) fn explain_found(old: &ComposeFound, new: &Definition) -> String {
    // An id stands there where no name names it any more: another image has its name.
    let named = !old.image.starts_with("sha256:");
    let hash = new.compose.as_ref().map(|service| &service.config_hash);
    if named && Some(&old.image) != new.image.as_ref() {
        moved("image", Some(&old.image), new.image.as_deref())
    } else if named && hash != Some(&old.service.config_hash) {
        UNSEEN.to_owned()
    } else {
        "image id changed".to_owned()
    }
}

/// Compose's digest differs, and no difference is seen in what it would create.
const UNSEEN: &str = "its service in the Compose file changed";

/// What differs between two services of Compose, by what it would create for the first container of each. Values of
/// these may be secrets: only names are told.
fn composed(old: &ComposeService, new: &ComposeService) -> Vec<String> {
    if old.config_hash == new.config_hash {
        return Vec::new();
    }
    let body = |service: &ComposeService| -> Map<String, Value> {
        let first = service.containers.values().next();
        first.and_then(|container| serde_json::from_str(container.body.expose()).ok()).unwrap_or_default()
    };
    let (old, new) = (parts(&body(old)), parts(&body(new)));
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let mut found: Vec<String> = Vec::new();
    for name in names {
        let what = match (old.get(name), new.get(name)) {
            (None, Some(_)) => "added",
            (Some(_), None) => "removed",
            (before, after) if before != after => "changed",
            _ => continue,
        };
        let text = if name.starts_with("env ") { format!("{name} {what}") } else { format!("{name} changed") };
        if !found.contains(&text) {
            found.push(text);
        }
    }
    if found.is_empty() { vec![UNSEEN.to_owned()] } else { found }
}

/// A create body in pieces, by what people call them. The image has been looked at already.
fn parts(body: &Map<String, Value>) -> BTreeMap<String, Vec<Value>> {
    let mut parts: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    let host = body.get("HostConfig").and_then(Value::as_object).into_iter().flatten();
    for (key, value) in body.iter().chain(host) {
        let name = match key.as_str() {
            "HostConfig" | "Image" => continue,
            "Env" => {
                for entry in value.as_array().into_iter().flatten().filter_map(Value::as_str) {
                    let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
                    parts.insert(format!("env {name}"), vec![value.into()]);
                }
                continue;
            }
            "Labels" => {
                let mut own = value.as_object().cloned().unwrap_or_default();
                own.retain(|name, _| !name.starts_with("com.docker.compose."));
                parts.insert("labels".to_owned(), vec![Value::Object(own)]);
                continue;
            }
            "Cmd" => "command",
            "Entrypoint" => "entrypoint",
            "Healthcheck" => "healthcheck",
            "ExposedPorts" | "PortBindings" => "ports",
            "Binds" | "Mounts" | "Volumes" => "volumes",
            "NetworkMode" | "NetworkingConfig" => "networks",
            "RestartPolicy" => "restart",
            "StopSignal" => "stop_signal",
            "StopTimeout" => "stop_grace_period",
            other => other,
        };
        parts.entry(name.to_owned()).or_default().push(value.clone());
    }
    parts
}

fn moved(what: &str, old: Option<&str>, new: Option<&str>) -> String {
    match (old, new) {
        (None, Some(new)) => format!("{what} {new} added"),
        (Some(old), None) => format!("{what} {old} removed"),
        (old, new) => format!("{what} {} -> {}", old.unwrap_or("none"), new.unwrap_or("none")),
    }
}

fn ports(ports: &[NamedPort]) -> String {
    let one = |port: &NamedPort| match port.port {
        Port::Auto => format!("{}: auto", port.name),
        Port::Number(number) => {
            let host = port.host.as_deref().map_or(String::new(), |host| format!("{host}:"));
            format!("{}: {host}{number}{}", port.name, if port.passed { "" } else { " (not passed)" })
        }
    };
    if ports.is_empty() { "none".to_owned() } else { ports.iter().map(one).collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ComposeContainer, Secret};

    fn service(hash: &str, body: &str) -> ComposeService {
        let container = ComposeContainer {
            name: "shop-api-1".to_owned(),
            body: Secret::new(body),
            networks: Vec::new(),
            archives: Vec::new(),
        };
        ComposeService {
            config_hash: hash.to_owned(),
            containers: [(1, container)].into(),
            ..ComposeService::default()
        }
    }

    #[test]
    fn what_changed_in_a_compose_file_is_named_without_its_values() {
        let old = r#"{"Image":"a:1","Env":["TOKEN=hush","GONE=x"],"Cmd":["serve"],"Labels":
            {"com.docker.compose.config-hash":"1"},"HostConfig":{"Binds":["/a:/a"],"RestartPolicy":{"Name":"no"}}}"#;
        let new = r#"{"Image":"a:2","Env":["TOKEN=hush2","NEW=x"],"Cmd":["serve","hush"],"Labels":
            {"com.docker.compose.config-hash":"2","team":"x"},"HostConfig":{"Binds":["/b:/a"],"RestartPolicy":
            {"Name":"no"},"Memory":7}}"#;
        let said = composed(&service("1", old), &service("2", new));
        let wanted = [
            "Memory changed",
            "command changed",
            "env GONE removed",
            "env NEW added",
            "env TOKEN changed",
            "labels changed",
            "volumes changed",
        ];
        assert_eq!(said, wanted);
        // `update_config`, say, is in Compose's digest and not in what it creates.
        assert_eq!(composed(&service("1", old), &service("2", old)), [UNSEEN]);
        assert_eq!(composed(&service("1", old), &service("1", old)), [""; 0]);
    }
}
