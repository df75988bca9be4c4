//! Another version of Compose than the one that is asked here: two of them may digest the same file in two ways. Then
//! each takes what the other has made for changed, and `docker compose up -d` after a roll makes everything anew.

use std::collections::BTreeSet;

use serde_json::Value;

use super::ledger::text;
use super::recording::{Created, IMAGE, Present, Recording, VERSION};

/// What is to be said where Compose would replace containers that another version may only have digested otherwise.
pub(super) fn note(now: &Recording) -> Option<String> {
    let mut services = BTreeSet::new();
    let mut made_by = BTreeSet::new();
    let mut here = String::new();
    for there in now.present.values() {
        let mut same = now.of_service(&there.service);
        let Some(created) = same.find(|created| created.number == there.number) else { continue };
        if let Some(version) = digested_otherwise(there, created) {
            services.insert(there.service.as_str());
            made_by.insert(there.made_by.as_str());
            here = version;
        }
    }
    let list = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(", ");
    (!services.is_empty()).then(|| {
        format!(
            "{} were made by Compose {} and have another digest than Compose {here} gives them here: if the file was \
             not changed since, the two do not digest it alike, and `docker compose up -d` there would make anew what \
             this roll makes. Use one version in both places",
            list(services),
            list(made_by)
        )
    })
}

/// The version that is asked here, where that may be why a container of the same image has another digest.
fn digested_otherwise(there: &Present, created: &Created) -> Option<String> {
    let body: Value = serde_json::from_str(created.container.body.expose()).unwrap_or_default();
    let label = |name: &str| text(&body["Labels"], name).to_owned();
    let same_image = there.image_id == label(IMAGE);
    let another = !there.made_by.is_empty() && there.made_by != label(VERSION);
    (another && same_image && there.config_hash != created.config_hash).then(|| label(VERSION))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ComposeContainer, Secret};
    use std::collections::BTreeMap;

    #[test]
    fn another_digest_of_the_same_image_by_another_version_is_told_and_a_change_is_not() {
        let there = |made_by: &str| Present {
            service: "api".to_owned(),
            number: 1,
            config_hash: "old".to_owned(),
            image_id: "sha256:1".to_owned(),
            made_by: made_by.to_owned(),
            ..Present::default()
        };
        let now = |made_by: &str, image: &str, config_hash: &str| {
            let labels = serde_json::json!({ "Labels": { IMAGE: image, VERSION: "2.38.2" } });
            let container = ComposeContainer {
                name: "shop-api-1".to_owned(),
                body: Secret::new(labels.to_string()),
                networks: Vec::new(),
                archives: Vec::new(),
            };
            let created = Created {
                service: "api".to_owned(),
                number: 1,
                config_hash: config_hash.to_owned(),
                image: "shop:1".to_owned(),
                replaces: None,
                on: BTreeSet::new(),
                mounts: BTreeSet::new(),
                container,
            };
            let present = BTreeMap::from([("1".to_owned(), there(made_by))]);
            note(&Recording { created: vec![created], present, ..Recording::default() })
        };
        let told = now("2.26.1", "sha256:1", "new").unwrap();
        assert!(told.contains("api were made by Compose 2.26.1") && told.contains("Compose 2.38.2"), "{told}");
        assert_eq!(now("2.38.2", "sha256:1", "new"), None, "the same version: the file was changed");
        assert_eq!(now("2.26.1", "sha256:2", "new"), None, "another image");
        assert_eq!(now("2.26.1", "sha256:1", "old"), None, "made anew for another reason");
        assert_eq!(now("", "sha256:1", "new"), None, "nobody knows");
    }
}
