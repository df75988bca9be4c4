//! Former images. One whose name was given to another image would be the next prune's, and with it the way back: so it
//! gets a name of ours, `baton/FLEET/COMPONENT:SHORTID`, before its container goes. `retain` says how many have one.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use bollard::query_parameters::{RemoveImageOptionsBuilder, TagImageOptionsBuilder};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::engine::ACT;
use super::runtime::Inner;
use crate::model::{ComponentName, Definition, InstanceId, RETAIN};

/// Compose's label for the id of a container's image.
const IMAGE: &str = "com.docker.compose.image";
/// Of an image's id: as engines themselves show it.
const SHORT: usize = 12;
/// The slots of a component go one after the other and mostly have one image: for so long its name is taken as given.
const NAMED: Duration = Duration::from_secs(60);

/// The image of each component that was named last, and when.
pub(super) type Retained = BTreeMap<ComponentName, (Instant, String)>;

impl Inner {
    /// Before an instance goes: its image is kept where another one has come in its place, and names beyond those that
    /// are to be kept go. What cannot be done is told; it fails nothing.
    pub(super) async fn retain_image(&self, instance: &InstanceId, container: &str) {
        if let Err(why) = self.try_to_retain(instance, container).await {
            tracing::warn!(
                target: "baton::tell",
                "the former image of {instance} has no name that keeps it from a prune ({why}); until it is gone, \
                 `baton rollback` still finds it"
            );
        }
    }

    async fn try_to_retain(&self, instance: &InstanceId, container: &str) -> Result<(), String> {
        let told = |error: crate::runtime::RuntimeError| error.message;
        let record = self.records.read(&instance.slot).map_err(told)?;
        let others = record.instances.iter().rfind(|(number, _)| **number != instance.number);
        let own = record.instances.get(&instance.number).and_then(|entry| entry.retain);
        let retain = others.and_then(|(_, entry)| entry.retain).or(own).unwrap_or(RETAIN) as usize;
        let Some(image) = self.container(container).await.map_err(told)?.and_then(|about| about.image) else {
            return Ok(());
        };
        if let Some(successor) = others.and_then(|(_, entry)| entry.container.as_deref())
            && let Some(about) = self.container(successor).await.map_err(told)?
            && about.image.as_ref() == Some(&image)
        {
            return Ok(());
        }
        let component = &instance.slot.component;
        let mut retained = self.retaining.lock().await;
        if retained.get(component).is_some_and(|(at, known)| known == &image && at.elapsed() < NAMED) {
            return Ok(());
        }
        let mut kept = self.records.former(component).map_err(told)?;
        kept.retain(|known| *known != image);
        kept.insert(0, image.clone());
        // Written first: what is listed here is found again, whether its name could be given or not.
        self.records.write_former(component, &kept).await.map_err(told)?;
        let client = self.engine.client().await.map_err(|trouble| trouble.error.message)?;
        let repository = repository(&self.fleet, component);
        if retain > 0 {
            let name = TagImageOptionsBuilder::new().repo(&repository).tag(short(&image)).build();
            let what = format!("naming image {}", short(&image));
            let tagged = self.engine.bounded(&what, ACT, client.tag_image(&image, Some(name))).await;
            tagged.map_err(|trouble| trouble.error.message)?;
        }
        let mut left = kept.split_off(retain.min(kept.len()));
        let mut still = Vec::new();
        for image in left.drain(..) {
            let name = format!("{repository}:{}", short(&image));
            let how = RemoveImageOptionsBuilder::new().force(false).build();
            let call = client.remove_image(&name, Some(how), None);
            match self.engine.bounded(&format!("taking the name {name} away"), ACT, call).await {
                Ok(_) => {}
                Err(trouble) if trouble.is_absent() => {}
                // It runs: it goes when it is a former one again.
                Err(_) => still.push(image),
            }
        }
        kept.extend(still);
        self.records.write_former(component, &kept).await.map_err(told)?;
        retained.insert(component.clone(), (Instant::now(), image));
        Ok(())
    }

    /// The image that a service's containers were made from when Compose said what they are, where its name has been
    /// given to another one since. `Err`: that one is gone, in words for people.
    pub(super) async fn former_image(&self, definition: &Definition, now: &str) -> Result<Option<String>, String> {
        let Some(meant) = meant(definition).filter(|meant| meant != now) else { return Ok(None) };
        let told = |error: crate::runtime::RuntimeError| error.message;
        // Only what this agent has seen running here: a name is what its policy has admitted.
        let known = self.records.former(&definition.component).map_err(told)?.contains(&meant);
        if known && self.image_id(&meant).await.map_err(|trouble| trouble.error.message)?.is_some() {
            return Ok(Some(meant));
        }
        let name = definition.image.as_deref().unwrap_or_default();
        Err(format!(
            "image {name} is another one now than the one that is meant ({}), which is not on this host any more; \
             build or pull that again under this name (`retain` says how many former images are kept, and `docker \
             image prune -a` takes them)",
            short(&meant)
        ))
    }
}

/// The image's id in Compose's own words.
fn meant(definition: &Definition) -> Option<String> {
    let container = definition.compose.as_ref()?.containers.values().next()?;
    let body: Value = serde_json::from_str(container.body.expose()).ok()?;
    let id = body["Labels"][IMAGE].as_str().and_then(|id| Some((id, id.strip_prefix("sha256:")?)));
    // Nothing but zeros: there was none at that time.
    id.filter(|(_, hex)| hex.bytes().any(|digit| digit != b'0')).map(|(id, _)| id.to_owned())
}

fn short(image: &str) -> &str {
    let id = image.trim_start_matches("sha256:");
    id.get(..SHORT).unwrap_or(id)
}

/// Where former images of a component have their names.
fn repository(fleet: &str, component: &ComponentName) -> String {
    format!("baton/{}/{}", part(fleet), part(component.as_str()))
}

/// A name as a part of a repository's: letters and digits, with one `_`, two, or any number of `-` between them. What
/// is no such name becomes one, with a digest so that two of them stay two.
fn part(name: &str) -> String {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let runs: Vec<&str> = name.split(plain).filter(|run| !run.is_empty()).collect();
    let ends = name.starts_with(plain) && name.ends_with(plain);
    let separates = |run: &&str| matches!(*run, "_" | "__") || run.chars().all(|c| c == '-');
    if ends && runs.iter().all(separates) {
        return name.to_owned();
    }
    let words: Vec<&str> = name.split(|c| !plain(c)).filter(|word| !word.is_empty()).collect();
    let digest: String = Sha256::digest(name.as_bytes()).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{digest}", words.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_images_have_names_that_engines_take() {
        for name in ["shop", "a-b", "a--b", "a_b", "a__b", "7"] {
            assert_eq!(part(name), name);
        }
        let odd: Vec<String> = ["a-", "a_", "a___b", "a-_b"].map(part).into();
        assert_eq!(odd.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
        assert!(
            odd.iter().all(|name| name.ends_with(|c: char| c.is_ascii_hexdigit()) && !name.contains('_')),
            "{odd:?}"
        );
        let component = ComponentName::new("api").unwrap();
        assert_eq!(repository("shop", &component), "baton/shop/api");
        assert_eq!(short("sha256:0123456789abcdef"), "0123456789ab");
    }
}
