//! The container that a `baton.yaml` asks for.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::look::{FLEET, INSTANCE, SLOT, SPEC};
use crate::model::{Definition, InstanceId, Port, Secret, placeholder};
use crate::runtime::Blueprint;
use crate::runtime::process::read_env_file;

/// The container ports of a definition, by name.
///
/// # Errors
/// For people, when a port has no number.
pub(super) fn ports(definition: &Definition) -> Result<BTreeMap<String, u16>, String> {
    let number = |port: &crate::model::NamedPort| match port.port {
        Port::Number(number) => Ok((port.name.clone(), number)),
        Port::Auto => Err(format!(
            "port {}: a container has an address of its own, so its ports need no `auto`; write the number that the \
             program listens on",
            port.name
        )),
    };
    definition.ports.iter().map(number).collect()
}

/// What the agent's placeholders stand for. `address` is known once the container runs.
pub(super) fn placeholders(
    instance: &InstanceId,
    first_port: Option<u16>,
    ports: &BTreeMap<String, u16>,
    address: Option<&str>,
) -> BTreeMap<String, String> {
    let mut values =
        BTreeMap::from([("slot".to_owned(), instance.slot.to_string()), ("instance".to_owned(), instance.to_string())]);
    values.extend(address.map(|address| ("address".to_owned(), address.to_owned())));
    values.extend(first_port.map(|port| ("port".to_owned(), port.to_string())));
    values.extend(ports.iter().map(|(name, port)| (format!("port.{name}"), port.to_string())));
    values
}

/// The body of the create call.
///
/// # Errors
/// For people: a placeholder that has no value before the container runs.
pub(super) fn of_definition(
    fleet: &str,
    instance: &InstanceId,
    blueprint: &Blueprint,
    ports: &BTreeMap<String, u16>,
) -> Result<Secret, String> {
    let definition = &blueprint.definition;
    let first = definition.ports.first().and_then(|port| ports.get(&port.name).copied());
    let values = placeholders(instance, first, ports, None);
    let fill = |what: &str, text: &str| placeholder::fill(text, &values).map_err(|error| format!("{what}: {error}"));
    let mut body = json!({
        "Image": definition.image.as_deref().ok_or("it names no image")?,
        "Labels": {
            FLEET: fleet,
            SLOT: instance.slot.to_string(),
            INSTANCE: instance.to_string(),
            SPEC: blueprint.spec.0,
        },
        "ExposedPorts": ports.values().map(|port| (format!("{port}/tcp"), json!({}))).collect::<Map<_, _>>(),
        "HostConfig": {
            // Jobs run to their end; all else is there again after a crash and after a restart of the host.
            "RestartPolicy": { "Name": if definition.is_job() { "no" } else { "unless-stopped" } },
        },
    });
    let command: Result<Vec<String>, String> =
        definition.command.iter().map(|word| fill("command", word.expose())).collect();
    let command = command?;
    if !command.is_empty() {
        body["Cmd"] = json!(command);
    }
    let mut env = match &definition.env_file {
        Some(file) => read_env_file(file).map_err(|error| error.to_string())?.0,
        None => BTreeMap::new(),
    };
    for (name, value) in &definition.env {
        env.insert(name.clone(), fill(&format!("env {name}"), value.expose())?);
    }
    body["Env"] = env.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    if let Some(cwd) = &definition.cwd {
        body["WorkingDir"] = Value::from(fill("cwd", cwd)?);
    }
    Ok(Secret::new(body.to_string()))
}
