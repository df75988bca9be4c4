//! What a rehearsal yields: the containers that Compose would create, word for word, and what else it would do.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use serde_json::Value;

use super::archive::timeless;
use super::ledger::{ImageFacts, Ledger, text};
use crate::model::{ComposeArchive, ComposeContainer, ComposeNeed, Secret};

pub(super) const PROJECT: &str = "com.docker.compose.project";
pub(super) const SERVICE: &str = "com.docker.compose.service";
pub(super) const NUMBER: &str = "com.docker.compose.container-number";
pub(super) const CONFIG_HASH: &str = "com.docker.compose.config-hash";
pub(super) const IMAGE: &str = "com.docker.compose.image";
pub(super) const VERSION: &str = "com.docker.compose.version";
const DEPENDS_ON: &str = "com.docker.compose.depends_on";
pub(super) const REPLACE: &str = "com.docker.compose.replace";

/// A container of the project that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Present {
    /// Its name.
    pub name: String,
    /// Its service.
    pub service: String,
    /// Its number.
    pub number: u32,
    /// Compose's digest of the service as it was made with.
    pub config_hash: String,
    /// The image as Compose labelled it.
    pub image_id: String,
    /// The version of Compose that made it.
    pub made_by: String,
}

/// A container that Compose would create.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Created {
    /// Its service.
    pub service: String,
    /// Its number.
    pub number: u32,
    /// Compose's digest of the service.
    pub config_hash: String,
    /// The image reference.
    pub image: String,
    /// The id of the container in whose place it comes.
    pub replaces: Option<String>,
    /// The networks that it would be on, by name.
    pub on: BTreeSet<String>,
    /// The named volumes that it would mount.
    pub mounts: BTreeSet<String>,
    /// The body and the rest.
    pub container: ComposeContainer,
}

/// What Compose would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recording {
    /// Containers, by service and number.
    pub created: Vec<Created>,
    /// Ids of containers, networks or volumes that it would remove, save containers that are replaced.
    pub removed: BTreeSet<String>,
    /// Networks that it would create.
    pub networks: Vec<ComposeNeed>,
    /// Volumes that it would create.
    pub volumes: Vec<ComposeNeed>,
    /// Images that are not on this host.
    pub missing_images: BTreeSet<String>,
    /// What is known of those that are.
    pub images: BTreeMap<String, ImageFacts>,
    /// Containers of the project that are there, by id.
    pub present: BTreeMap<String, Present>,
    /// Networks and volumes of the project that are there, by name: of what the engine tells, what a file can say.
    pub standing: BTreeMap<String, Value>,
    /// The ids that stood for containers, by the container's name. They mean nothing outside of the rehearsal.
    pub made_up: BTreeMap<String, String>,
}

impl Recording {
    /// What a ledger holds when Compose has ended.
    pub fn of(ledger: Ledger) -> Self {
        let names: Vec<(String, String)> =
            ledger.made.iter().map(|made| (made.id.clone(), made.name.clone())).collect();
        // Compose makes them at once, so their order is a matter of chance.
        let needs = |made: Vec<(String, Value)>| -> Vec<ComposeNeed> {
            let made: BTreeMap<String, Value> = made.into_iter().collect();
            made.into_iter().map(|(name, body)| ComposeNeed { name, body: Secret::new(body.to_string()) }).collect()
        };
        let mut created: Vec<Created> = Vec::new();
        for made in ledger.made {
            let mut body = made.body;
            let labels = &body["Labels"];
            let (service, image) = (text(labels, SERVICE).to_owned(), text(&body, "Image").to_owned());
            let replaces = Some(text(labels, REPLACE).to_owned()).filter(|id| !id.is_empty());
            let number = text(labels, NUMBER).parse().unwrap_or(0);
            let config_hash = text(labels, CONFIG_HASH).to_owned();
            in_order(&mut body);
            let endpoints = body["NetworkingConfig"]["EndpointsConfig"].as_object();
            let mut on: BTreeSet<String> = endpoints.into_iter().flatten().map(|(name, _)| name.clone()).collect();
            on.extend(made.networks.iter().map(|(name, _)| name.clone()));
            // Without an endpoint of its own it is on the network of its mode, unless that is another container's.
            on.extend(Some(text(&body["HostConfig"], "NetworkMode").to_owned()).filter(|mode| !mode.contains(':')));
            let networks = made.networks.into_iter().map(|(name, body)| (name, body.to_string())).collect();
            let tar = |tar: &[u8]| Secret::new(base64::engine::general_purpose::STANDARD.encode(timeless(tar)));
            let archives =
                made.archives.iter().map(|(path, bytes)| ComposeArchive { path: path.clone(), tar: tar(bytes) });
            let mounts = mounted(&body);
            let container = ComposeContainer {
                name: made.name,
                body: Secret::new(named(body.to_string(), &names)),
                networks,
                archives: archives.collect(),
            };
            created.push(Created { service, number, config_hash, image, replaces, on, mounts, container });
        }
        created.sort_by(|a, b| (&a.service, a.number).cmp(&(&b.service, b.number)));
        let replaced: BTreeSet<&String> = created.iter().filter_map(|created| created.replaces.as_ref()).collect();
        Self {
            removed: ledger.removed.iter().filter(|id| !replaced.contains(id)).cloned().collect(),
            networks: needs(ledger.networks),
            volumes: needs(ledger.volumes),
            missing_images: ledger.missing_images,
            images: ledger.images,
            present: ledger.present,
            standing: ledger.standing,
            made_up: names.into_iter().map(|(id, name)| (name, id)).collect(),
            created,
        }
    }

    /// The containers of a service.
    pub fn of_service<'a>(&'a self, service: &'a str) -> impl Iterator<Item = &'a Created> {
        self.created.iter().filter(move |created| created.service == service)
    }

    /// Services of which it would create or replace a container.
    pub fn touched(&self) -> BTreeSet<&str> {
        self.created.iter().map(|created| created.service.as_str()).collect()
    }
}

/// What Compose writes in random order, in order: the same file gives the same bytes, whoever asks again.
fn in_order(body: &mut Value) {
    let lists = ["/Env", "/HostConfig/Binds", "/HostConfig/Mounts", "/HostConfig/ExtraHosts", "/HostConfig/Ulimits"];
    for list in lists {
        if let Some(Value::Array(items)) = body.pointer_mut(list) {
            items.sort_by_cached_key(Value::to_string);
        }
    }
    if let Some(Value::String(label)) = body.get_mut("Labels").and_then(|labels| labels.get_mut(DEPENDS_ON)) {
        let mut entries: Vec<&str> = label.split(',').collect();
        entries.sort_unstable();
        *label = entries.join(",");
    }
    let before = |separator| move |item: &Value| item.as_str()?.split(separator).next().map(str::to_owned);
    let under = |key| move |item: &Value| Some(text(item, key).to_owned());
    by(body.get_mut("Env"), before('='));
    let Some(host) = body.get_mut("HostConfig") else { return };
    by(host.get_mut("Binds"), |bind| bind.as_str().map(str::to_owned));
    by(host.get_mut("ExtraHosts"), before(':'));
    by(host.get_mut("Mounts"), under("Target"));
    by(host.get_mut("Ulimits"), under("Name"));
}

/// Sorts a list by a name in its items. Those of one name stay as they are: of these the order can mean something.
fn by(list: Option<&mut Value>, name: impl Fn(&Value) -> Option<String>) {
    if let Some(Value::Array(items)) = list {
        items.sort_by_cached_key(name);
    }
}

/// A container that refers to another (`network_mode: service:db`) does so by its id. One that was made up stands for
/// nothing outside of the rehearsal, so the name is put in its place.
fn named(body: String, names: &[(String, String)]) -> String {
    names.iter().fold(body, |body, (id, name)| body.replace(id.as_str(), name))
}

/// Named volumes, in either of the ways that a body can mount them.
fn mounted(body: &Value) -> BTreeSet<String> {
    let host = &body["HostConfig"];
    let binds = host["Binds"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let binds = binds.filter_map(|bind| bind.split(':').next()).filter(|source| !source.starts_with('/'));
    let mounts = host["Mounts"].as_array().into_iter().flatten().filter(|mount| text(mount, "Type") == "volume");
    let sources = mounts.map(|mount| text(mount, "Source")).filter(|source| !source.is_empty());
    binds.chain(sources).map(str::to_owned).collect()
}
