//! Containers that Baton did not make, as bodies that would make them again: the way back of a project's first roll.

use std::collections::{BTreeMap, BTreeSet};

use bollard::models::ContainerInspectResponse;
use serde_json::{Map, Value, json};

use super::look::{CONFIG_HASH, NUMBER, PROJECT, SERVICE, Seen};
use super::runtime::Inner;
use crate::model::{ComposeContainer, ComposeFound, ComposeService, Definition, Secret, SlotName, published_ports};
use crate::runtime::RuntimeError;

impl Inner {
    /// What is there of a service and was made by somebody else. Not an error when it cannot be looked at: the
    /// inventory tells that.
    pub(super) async fn found(&self, definition: &Definition) -> Option<Box<ComposeFound>> {
        let asked = definition.compose.as_ref()?;
        let slots = self.slots().await.ok()?;
        let mut containers = BTreeMap::new();
        let mut first: Option<(String, String)> = None;
        let names = self.names(&slots).ok()?;
        let mut host_ports = BTreeSet::new();
        let mut images = BTreeMap::new();
        // Of the containers that it lives in, by name: another one may have or have had the same.
        let mut ids = BTreeMap::new();
        for slot in slots.into_iter().filter(|slot| slot.component == definition.component) {
            let all = self.look(&slot).await.ok()?;
            let Some(seen) = all.iter().rfind(|seen| seen.entry.definition.is_none()) else { continue };
            let image = self.image_of(&seen.about, &mut images).await?;
            let mut container = container(seen, &image);
            let own = container.body.expose().to_owned();
            ids.extend(names.iter().filter(|(id, _)| own.contains(*id)).map(|(id, name)| (name.clone(), id.clone())));
            // It may live in a container that is made anew before it: the name stays, the id does not.
            let body = names.iter().fold(own, |body, (id, name)| body.replace(id, name));
            container.body = Secret::new(body);
            let host = seen.about.host_config.as_ref();
            let bindings = host.and_then(|host| host.port_bindings.as_ref()).into_iter().flatten();
            let published =
                bindings.flat_map(|(_, bound)| bound.iter().flatten()).filter_map(|one| one.host_port.clone());
            host_ports.extend(published.filter_map(|text| published_ports(&text)).flatten());
            // Compose puts the same files into each container of a service.
            if let Some(wanted) = asked.containers.get(&slot.index).or_else(|| asked.containers.values().next()) {
                container.archives = self.copied(seen, wanted).await?;
            }
            let hash = label(&seen.about, CONFIG_HASH);
            first.get_or_insert((image, hash));
            containers.insert(slot.index, container);
        }
        let (image, config_hash) = first?;
        // Nobody knows what Compose digested when these were made. As often as not it was the same with another image,
        // and then it gives the digest that they have.
        let digest = asked.digest.as_ref().zip(definition.image.as_deref());
        let digest = digest
            .map(|(digest, now)| digest.with_image(now, &image))
            .filter(|digest| digest.with(&ids).as_ref() == Some(&config_hash));
        let service = ComposeService {
            project: asked.project.clone(),
            service: asked.service.clone(),
            config_hash,
            containers,
            networks: asked.networks.clone(),
            volumes: asked.volumes.clone(),
            copied: asked.copied.clone(),
            alone: asked.alone.clone(),
            follows: asked.follows.clone(),
            asked_hash: None,
            digest,
            host_ports,
            clients: asked.clients.clone(),
            remote: None,
        };
        Some(Box::new(ComposeFound { image, service }))
    }

    /// The final names of all containers of these slots, by id.
    fn names(&self, slots: &[SlotName]) -> Result<BTreeMap<String, String>, RuntimeError> {
        let mut names = BTreeMap::new();
        for slot in slots {
            let entries = self.records.read(slot)?.instances.into_values();
            names.extend(entries.filter_map(|entry| Some((entry.container?, entry.name))));
        }
        Ok(names)
    }

    /// The name of a container's image, where it still names it; else its id. `known` has what was asked of names so
    /// far.
    async fn image_of(
        &self,
        about: &ContainerInspectResponse,
        known: &mut BTreeMap<String, Option<String>>,
    ) -> Option<String> {
        let id = about.image.clone()?;
        let name = about.config.as_ref().and_then(|config| config.image.clone()).filter(|name| !name.is_empty());
        let Some(name) = name else { return Some(id) };
        let now = match known.get(&name) {
            Some(now) => now,
            None => {
                let now = self.image_id(&name).await.ok().flatten();
                known.entry(name.clone()).or_insert(now)
            }
        };
        Some(if now.as_ref() == Some(&id) { name } else { id })
    }
}

fn label(about: &ContainerInspectResponse, name: &str) -> String {
    let labels = about.config.as_ref().and_then(|config| config.labels.as_ref());
    labels.and_then(|labels| labels.get(name)).cloned().unwrap_or_default()
}

/// The body that would make a container again: what it was made with, without what the engine made up for it.
fn container(seen: &Seen, image: &str) -> ComposeContainer {
    let about = &seen.about;
    let short = about.id.as_deref().and_then(|id| id.get(..12)).unwrap_or_default();
    let mut body =
        about.config.as_ref().and_then(|config| serde_json::to_value(config).ok()).unwrap_or_else(|| json!({}));
    body["Image"] = image.into();
    if body["Hostname"] == short {
        body["Hostname"] = "".into();
    }
    let mut host =
        about.host_config.as_ref().and_then(|host| serde_json::to_value(host).ok()).unwrap_or_else(|| json!({}));
    // A drain holds it; what is written down is its own.
    if let Some(held) = &seen.entry.held {
        host["RestartPolicy"] = json!({ "Name": held.name, "MaximumRetryCount": held.retries });
    }
    let mode = host["NetworkMode"].as_str().unwrap_or_default().to_owned();
    if mode.starts_with("container:") || mode == "host" {
        // What it shows is the other one's, and the engine refuses it in a body.
        for others in ["Hostname", "Domainname", "ExposedPorts"] {
            if let Some(body) = body.as_object_mut() {
                body.remove(others);
            }
        }
    }
    body["HostConfig"] = host;
    let attached = about.network_settings.as_ref().and_then(|settings| settings.networks.clone()).unwrap_or_default();
    let mut networks: BTreeMap<String, Value> = attached
        .into_iter()
        .map(|(name, endpoint)| {
            let aliases: Vec<String> =
                endpoint.aliases.unwrap_or_default().into_iter().filter(|alias| alias != short).collect();
            let mut kept = Map::new();
            kept.insert("Aliases".to_owned(), json!(aliases));
            kept.insert("Links".to_owned(), json!(endpoint.links));
            kept.insert("IPAMConfig".to_owned(), json!(endpoint.ipam_config));
            kept.insert("DriverOpts".to_owned(), json!(endpoint.driver_opts));
            (name, Value::Object(kept))
        })
        .collect();
    if let Some(endpoint) = networks.remove(&mode) {
        body["NetworkingConfig"] = json!({ "EndpointsConfig": { mode: endpoint } });
    }
    let further = networks
        .into_iter()
        .map(|(name, endpoint)| (name, sorted(json!({ "EndpointConfig": endpoint })).to_string()))
        .collect();
    let name = if seen.entry.name.is_empty() {
        format!("{}-{}-{}", label(about, PROJECT), label(about, SERVICE), label(about, NUMBER))
    } else {
        seen.entry.name.clone()
    };

    ComposeContainer { name, body: Secret::new(sorted(body).to_string()), networks: further, archives: Vec::new() }
}

/// The client's types keep maps in random order; the same container must give the same bytes.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let sorted_map: BTreeMap<String, Value> =
                map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(sorted_map.into_iter().collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
        other => other,
    }
}
