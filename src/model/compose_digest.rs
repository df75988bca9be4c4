//! Compose's digest of a service that lives in another one's container.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::compose::exposed;
use super::{Digest, Secret};

/// What Compose digests of a service that is on the network of another one's container, among its processes, or has its
/// memory or volumes. The id of that container is in it, so the digest is only known when that container is there.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeDigest {
    /// The service as Compose writes it for this, with made-up ids.
    #[serde(with = "exposed")]
    text: Secret,
    /// The container, by its final name, that each of these stands for.
    stands_for: BTreeMap<String, String>,
}

impl ComposeDigest {
    /// Of a text with made-up ids, which stand for containers of these names.
    pub fn new(text: Secret, stands_for: BTreeMap<String, String>) -> Self {
        Self { text, stands_for }
    }

    /// Names of the containers that it depends on.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.stands_for.values().map(String::as_str)
    }

    /// The digest with the made-up ids, SHA-256 in lower-case hex, as in the label `com.docker.compose.config-hash`.
    pub fn made_up(&self) -> String {
        hex(self.text.expose())
    }

    /// The digest with the ids that containers have by their names. `None`: one of them has none.
    pub fn with(&self, ids: &BTreeMap<String, String>) -> Option<String> {
        let mut text = self.text.expose().to_owned();
        for (made_up, name) in &self.stands_for {
            text = text.replace(made_up.as_str(), ids.get(name)?);
        }
        Some(hex(&text))
    }

    /// The same service with another image.
    pub fn with_image(&self, image: &str, other: &str) -> Self {
        let written = |image: &str| format!("\"image\":{}", serde_json::Value::from(image));
        let text = self.text.expose().replacen(&written(image), &written(other), 1);
        Self { text: Secret::new(text), stands_for: self.stands_for.clone() }
    }
}

impl fmt::Debug for ComposeDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ComposeDigest").field("stands_for", &self.stands_for).finish_non_exhaustive()
    }
}

fn hex(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The spec of a container that Compose made or would make: half of it is Compose's own digest of the service, half the
/// image's id. Both are SHA-256 already, so nothing is hashed again, and a person can read it off `docker inspect`.
pub fn compose_spec(config_hash: &str, image_id: &str) -> Digest {
    Digest(format!("{}{}", half(config_hash), half(image_id)))
}

/// Such a spec with another digest of the service, and the same image.
pub fn compose_spec_with(spec: &Digest, config_hash: &str) -> Digest {
    let image: String = spec.0.chars().skip(HALF).collect();
    Digest(format!("{}{image}", half(config_hash)))
}

/// Characters.
const HALF: usize = 32;

fn half(text: &str) -> String {
    text.trim_start_matches("sha256:").chars().take(HALF).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_that_of_the_ids_that_containers_have() {
        let text = |id: &str, image: &str| format!(r#"{{"image":"{image}","network_mode":"container:{id}"}}"#);
        let stands_for = BTreeMap::from([("f00d".to_owned(), "shop-vpn-1".to_owned())]);
        let digest = ComposeDigest::new(Secret::new(text("f00d", "a:2")), stands_for);
        let ids = BTreeMap::from([("shop-vpn-1".to_owned(), "beef".to_owned())]);
        assert_eq!(digest.made_up(), hex(&text("f00d", "a:2")));
        assert_eq!(digest.with(&ids), Some(hex(&text("beef", "a:2"))));
        assert_eq!(digest.with_image("a:2", "a:1").with(&ids), Some(hex(&text("beef", "a:1"))));
        assert_eq!(digest.with(&BTreeMap::new()), None, "nobody knows the id");
        assert_eq!(digest.names().collect::<Vec<_>>(), ["shop-vpn-1"]);
        let spec = compose_spec(&"1".repeat(64), &format!("sha256:{}", "2".repeat(64)));
        assert_eq!(
            compose_spec_with(&spec, &"3".repeat(64)),
            compose_spec(&"3".repeat(64), &format!("sha256:{}", "2".repeat(64)))
        );
    }
}
