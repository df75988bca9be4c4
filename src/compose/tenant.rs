//! Services that live in another one's container: on its network, among its processes, with its memory or volumes.
//!
//! Compose digests such a service with that container's id in it, which is known only when that container is there. So
//! what it digests is made here: the service as `config` writes it, but for some keys. That it is what Compose digests
//! is not believed but tried, with the ids that were made up in a rehearsal and the digests that Compose made there.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::Project;
use super::project::Service;
use super::recording::Recording;
use crate::model::{ComposeDigest, Secret};

/// Keys that no version of Compose digests.
const NEVER: [&str; 3] = ["build", "pull_policy", "scale"];
/// Keys that newer ones leave out as well.
const SOMETIMES: [&[&str]; 3] = [&[], &["depends_on"], &["depends_on", "profiles"]];

/// Whether the project has any.
pub(super) fn is_there(project: &Project) -> bool {
    project.services.values().any(lives)
}

fn lives(service: &Service) -> bool {
    service.landlords().next().is_some()
}

/// What Compose digests of each of them, from what its `config` writes as JSON. One that is not here is digested in a
/// way that is not known.
pub(super) fn digests(project: &Project, written: &str, whole: &Recording) -> BTreeMap<String, ComposeDigest> {
    let written: Value = serde_json::from_str(written).unwrap_or_default();
    let tenants = project.services.iter().filter(|(_, service)| lives(service));
    tenants
        .filter_map(|(name, _)| {
            let digest = whole.of_service(name).next()?.config_hash.as_str();
            let service = written["services"][name].as_object()?;
            let found = SOMETIMES.iter().find_map(|without| of(service, without, whole, digest))?;
            Some((name.clone(), found))
        })
        .collect()
}

/// Without these keys; `None`: that has another digest than Compose made in the rehearsal.
fn of(service: &Map<String, Value>, without: &[&str], whole: &Recording, digest: &str) -> Option<ComposeDigest> {
    let mut service: Map<String, Value> = service
        .iter()
        .filter(|(key, _)| !NEVER.contains(&key.as_str()) && !without.contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    if let Some(deploy) = service.get_mut("deploy").and_then(Value::as_object_mut) {
        deploy.shift_remove("replicas");
    }
    let mut stands_for = BTreeMap::new();
    let mut id_of = |landlord: &str| -> Option<String> {
        let name = &whole.of_service(landlord).next()?.container.name;
        let id = whole.made_up.get(name)?;
        stands_for.insert(id.clone(), name.clone());
        Some(id.clone())
    };
    for key in ["network_mode", "pid", "ipc"] {
        if let Some(Value::String(mode)) = service.get_mut(key)
            && let Some(landlord) = mode.strip_prefix("service:")
        {
            *mode = format!("container:{}", id_of(landlord)?);
        }
    }
    for from in service.get_mut("volumes_from").and_then(Value::as_array_mut).into_iter().flatten() {
        let text = from.as_str()?.to_owned();
        let mut words = text.split(':');
        *from = match (words.next()?, words.next()) {
            ("container", Some(name)) => name.into(),
            (landlord, _) => id_of(landlord)?.into(),
        };
    }
    let made = ComposeDigest::new(Secret::new(as_go_writes(&Value::Object(service))), stands_for);
    (made.made_up() == digest).then_some(made)
}

/// Go writes some characters otherwise, and `config` a dollar twice, so that what it writes can be read again.
fn as_go_writes(value: &Value) -> String {
    let written =
        [("&", "\\u0026"), ("<", "\\u003c"), (">", "\\u003e"), ("\u{2028}", "\\u2028"), ("\u{2029}", "\\u2029")];
    let text = value.to_string().replace("$$", "$");
    written.into_iter().fold(text, |text, (character, escape)| text.replace(character, escape))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::ledger::{Ledger, Stage};
    use serde_json::json;

    /// As Compose 2.26.1 has digested it, with `ID` in place of the landlord's id.
    const DIGESTED: &str = concat!(
        r#"{"command":["sleep","100000"],"depends_on":{"vpn":{"condition":"service_started","required":true}},"#,
        r#""deploy":{"placement":{}},"entrypoint":null,"environment":{"A":"a$b \u003c\u0026\u003e é"},"#,
        r#""image":"busybox:x","network_mode":"container:ID","volumes_from":["ID"]}"#
    );

    fn project() -> Project {
        Project::parse(
            "name: shop\nservices:\n  vpn: { image: a }\n  side:\n    image: busybox:x\n    network_mode: \
             \"service:vpn\"\n    volumes_from: [\"vpn:ro\"]\n",
        )
        .unwrap()
    }

    fn written() -> String {
        let side = json!({
            "build": { "context": "/x" }, "command": ["sleep", "100000"],
            "depends_on": { "vpn": { "condition": "service_started", "required": true } },
            "deploy": { "replicas": 1, "placement": {} }, "entrypoint": null,
            "environment": { "A": "a$$b <&> é" }, "image": "busybox:x", "network_mode": "service:vpn",
            "scale": 1, "volumes_from": ["vpn:ro"],
        });
        json!({ "name": "shop", "services": { "side": side, "vpn": { "image": "a" } } }).to_string()
    }

    /// What a rehearsal has recorded where Compose digested this text.
    fn whole(digested: &str) -> Recording {
        let mut ledger = Ledger::new("shop", Stage::Empty, Default::default());
        let label = |service: &str, hash: &str| {
            json!({ "Image": "a", "Labels": {
                "com.docker.compose.service": service, "com.docker.compose.container-number": "1",
                "com.docker.compose.config-hash": hash,
            } })
        };
        let mut make = |name: &str, body: Value| {
            ledger.asked("POST", &format!("/v1.41/containers/create?name={name}"), body.to_string().as_bytes())
        };
        make("shop-vpn-1", label("vpn", "h"));
        let id = Recording::of(ledger).made_up["shop-vpn-1"].clone();
        let hash = ComposeDigest::new(Secret::new(digested.replace("ID", &id)), BTreeMap::new()).made_up();
        let mut ledger = Ledger::new("shop", Stage::Empty, Default::default());
        for (name, body) in [("shop-vpn-1", label("vpn", "h")), ("shop-side-1", label("side", &hash))] {
            ledger.asked("POST", &format!("/v1.41/containers/create?name={name}"), body.to_string().as_bytes());
        }
        Recording::of(ledger)
    }

    #[test]
    fn what_compose_digests_is_found_and_tried() {
        let found = digests(&project(), &written(), &whole(DIGESTED));
        let ids = BTreeMap::from([("shop-vpn-1".to_owned(), "beef".to_owned())]);
        let real = ComposeDigest::new(Secret::new(DIGESTED.replace("ID", "beef")), BTreeMap::new());
        assert_eq!(found["side"].with(&ids), Some(real.made_up()));
        assert_eq!(found.len(), 1, "the landlord has no other one's id in its digest");
    }

    #[test]
    fn a_version_that_leaves_out_more_is_known_and_one_that_digests_otherwise_is_not_guessed_at() {
        let newer = DIGESTED.replace(r#""depends_on":{"vpn":{"condition":"service_started","required":true}},"#, "");
        assert!(digests(&project(), &written(), &whole(&newer)).contains_key("side"));
        let unknown = DIGESTED.replace("sleep", "slept");
        assert!(digests(&project(), &written(), &whole(&unknown)).is_empty());
        assert!(digests(&project(), "no json", &whole(DIGESTED)).is_empty());
    }
}
