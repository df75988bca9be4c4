//! What Docker Compose would make of a service, word for word.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{AgentId, ComponentName, ComposeDigest, Definition, Digest, Secret};

/// A service of a Compose project, with the containers that Compose itself would create for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeService {
    /// The project's name.
    pub project: String,
    /// The service's name.
    pub service: String,
    /// Compose's own digest of the service (label `com.docker.compose.config-hash`).
    pub config_hash: String,
    /// By the container's number (label `com.docker.compose.container-number`), which is the slot's.
    pub containers: BTreeMap<u32, ComposeContainer>,
    /// The project's networks that they are on. One that is not there is created with its body before a container is.
    #[serde(default)]
    pub networks: Vec<ComposeNeed>,
    /// The project's named volumes that they mount, likewise.
    #[serde(default)]
    pub volumes: Vec<ComposeNeed>,
    /// What is copied into them when they are made, by its place there: `config motd`, `secret token`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub copied: BTreeMap<String, String>,
    /// Why two of a slot's containers cannot be there at once, where that is so: its slots are always stop-first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<String>,
    /// Services that it is made anew with, whenever they are: those whose container it lives in (on its network, among
    /// its processes, with its memory or volumes), and those it depends on with `restart: true`.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub follows: BTreeSet<ComponentName>,
    /// Compose's digest of the service as if nothing of the project were there. Only where that one differs from
    /// `config_hash`, which then has another container's id in it and changes with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked_hash: Option<String>,
    /// Where it lives in another one's container: what its digest is made of, once that container is there. `None`
    /// there: this Compose digests in a way that is not known, and only it can say what the digest is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<ComposeDigest>,
    /// Ports of the host that its containers publish.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub host_ports: BTreeSet<u16>,
    /// Services that ask it by its name inside the project's networks, past any gateway, as far as the file shows.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub clients: BTreeSet<String>,
    /// Where each host has a project of its own, and its agent reads it: then what is above stays there, and is told
    /// here by reference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remote: Option<ComposeRemote>,
}

/// A service of the projects of several hosts. Nothing in it has a value of an environment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeRemote {
    /// The component's keys as `baton.yaml` has them, JSON: they win over what the service says itself. Empty once the
    /// agents have answered.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub own: String,
    /// What an agent is to find out; only in the question to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ask: Option<ComposeAsk>,
    /// What each agent has found out.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub hosts: BTreeMap<AgentId, ComposeHost>,
}

/// The question to one agent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeAsk {
    /// The indexes of the slots that it is to run.
    pub slots: Vec<u32>,
    /// `--to`: what the project's version variable is to be.
    pub version: Option<String>,
}

/// What a service is on one host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeHost {
    /// The project's name there.
    pub project: String,
    /// The image reference.
    pub image: String,
    /// Compose's own digest of the service there.
    pub config_hash: String,
    /// Names of its containers by the slot's index, for people.
    pub names: BTreeMap<u32, String>,
    /// The definition with everything that the engine is sent: it is in that agent's own spec store by this digest, and
    /// nowhere else.
    pub kept: Digest,
    /// Why two of a slot's containers cannot be there at once, where that is so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alone: Option<String>,
    /// Services there that it is made anew with.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub follows: BTreeSet<String>,
    /// The version there, where the project names a variable for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// An agent's answer for a service of its own host's project.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeAnswer {
    /// What the service is there.
    pub host: ComposeHost,
    /// The component as that host would have it: the keys that steer a roll are what counts, nothing else is in it.
    pub steering: Definition,
    /// By service: what must be there before it, in the words of the Compose file.
    pub depends_on: BTreeMap<String, super::Condition>,
}

impl ComposeService {
    /// A service that each agent finds in its own host's project.
    pub fn of_each_host(service: String) -> Self {
        Self { service, remote: Some(ComposeRemote::default()), ..Self::default() }
    }

    /// What the service is on an agent's host; `None`: nobody has said, or it is not of that kind.
    pub fn on(&self, agent: &AgentId) -> Option<&ComposeHost> {
        self.remote.as_ref()?.hosts.get(agent)
    }
}

/// Containers of a service that Baton did not make, as they are: what a way back would make again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeFound {
    /// Their image: its name where that still names it, else its id.
    pub image: String,
    /// The containers.
    pub service: ComposeService,
}

/// What must be there before a container is created.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeNeed {
    /// Its name in the engine.
    pub name: String,
    /// The body of `POST /networks/create` or `POST /volumes/create`, JSON. The options of a driver can hold a
    /// password, so it is a secret.
    #[serde(with = "exposed")]
    pub body: Secret,
}

/// One container, as Compose would create it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeContainer {
    /// Its final name.
    pub name: String,
    /// The body of `POST /containers/create` (Engine API), JSON. Carries the environment, so it is a secret.
    #[serde(with = "exposed")]
    pub body: Secret,
    /// Further networks to connect it to before its start, in order: name or id, and the body of `POST
    /// /networks/{id}/connect` as JSON.
    pub networks: Vec<(String, String)>,
    /// Archives to put into it before its start (inline configs, secrets from the environment), in order.
    pub archives: Vec<ComposeArchive>,
}

/// Files for a container.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeArchive {
    /// The folder in the container.
    pub path: String,
    /// A tar archive in base64.
    #[serde(with = "exposed")]
    pub tar: Secret,
}

impl fmt::Debug for ComposeContainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComposeContainer").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for ComposeNeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComposeNeed").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for ComposeArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComposeArchive").field("path", &self.path).finish_non_exhaustive()
    }
}

/// The ports that a published port names: `8080`, or a range `8080-8082`. None where the engine chooses.
pub fn published_ports(text: &str) -> Option<RangeInclusive<u16>> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first != 0 && first <= last).then_some(first..=last)
}

/// Whether a container of a project runs Baton itself, by its image and its command line. The sidecar of a component in
/// that one's own container does not count: it is there for the program that it starts.
pub fn runs_baton(image: Option<&str>, command: &[&str]) -> bool {
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let image = image.map(|image| {
        let image = last(image.split('@').next().unwrap_or_default());
        image.split(':').next().unwrap_or_default().to_owned()
    });
    let sidecar = command.iter().any(|word| *word == "--component" || word.starts_with("--component="));
    !sidecar
        && (image.as_deref() == Some("baton")
            || command.first().map(|program| last(program)).as_deref() == Some("baton"))
}

/// Whether it is Baton's gateway, which is a component like any other.
pub fn runs_gateway(image: Option<&str>, command: &[&str]) -> bool {
    runs_baton(image, command) && command.contains(&"gateway")
}

/// Serde for one secret, value included. For the spec store and the session only.
pub(super) mod exposed {
    use super::{Deserialize, Deserializer, Secret, Serializer};

    pub(in crate::model) fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose())
    }

    pub(in crate::model) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        String::deserialize(from).map(Secret::new)
    }
}
