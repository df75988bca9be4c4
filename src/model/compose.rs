//! What Docker Compose would make of a service, word for word.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Digest, Secret};

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

/// The spec of a container that Compose made or would make: half of it is Compose's own digest of the service, half the
/// image's id. Both are SHA-256 already, so nothing is hashed again, and a person can read it off `docker inspect`.
pub fn compose_spec(config_hash: &str, image_id: &str) -> Digest {
    let half = |text: &str| -> String { text.trim_start_matches("sha256:").chars().take(32).collect() };
    Digest(format!("{}{}", half(config_hash), half(image_id)))
}

/// Serde for one secret, value included. For the spec store and the session only.
mod exposed {
    use super::{Deserialize, Deserializer, Secret, Serializer};

    pub(super) fn serialize<S: Serializer>(secret: &Secret, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(secret.expose())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Secret, D::Error> {
        String::deserialize(from).map(Secret::new)
    }
}
