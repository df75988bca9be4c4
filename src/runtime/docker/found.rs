//! Containers that Baton did not make, as bodies that would make them again: the way back of a project's first roll.

use std::collections::BTreeMap;

use bollard::models::ContainerInspectResponse;
use serde_json::{Map, Value, json};

use super::look::{CONFIG_HASH, NUMBER, PROJECT, SERVICE, Seen};
use super::runtime::Inner;
use crate::model::{ComposeContainer, ComposeFound, ComposeService, Definition, Secret};

impl Inner {
    /// What is there of a service and was made by somebody else. Not an error when it cannot be looked at: the
    /// inventory tells that.
    pub(super) async fn found(&self, definition: &Definition) -> Option<Box<ComposeFound>> {
        let asked = definition.compose.as_ref()?;
        let slots = self.slots().await.ok()?;
        let mut containers = BTreeMap::new();
        let mut first: Option<(String, String)> = None;
        for slot in slots.into_iter().filter(|slot| slot.component == definition.component) {
            let Some(seen) = self.look(&slot).await.ok()?.into_iter().rfind(|seen| seen.entry.definition.is_none())
            else {
                continue;
            };
            let image = self.image_of(&seen.about).await?;
            let container = container(&seen, &image);
            let hash = label(&seen.about, CONFIG_HASH);
            first.get_or_insert((image, hash));
            containers.insert(slot.index, container);
        }
        let (image, config_hash) = first?;
        let service = ComposeService {
            project: asked.project.clone(),
            service: asked.service.clone(),
            config_hash,
            containers,
            networks: asked.networks.clone(),
            volumes: asked.volumes.clone(),
            alone: asked.alone.clone(),
            remote: None,
        };
        Some(Box::new(ComposeFound { image, service }))
    }

    /// The name of a container's image, where it still names it; else its id.
    async fn image_of(&self, about: &ContainerInspectResponse) -> Option<String> {
        let id = about.image.clone()?;
        let name = about.config.as_ref().and_then(|config| config.image.clone()).unwrap_or_default();
        let same = !name.is_empty() && self.image_id(&name).await.ok().flatten().as_ref() == Some(&id);
        Some(if same { name } else { id })
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
