//! What was there before Baton came: written down as a definition, so that there is a way back to it.

use std::collections::BTreeMap;

use super::draft::Draft;
use super::scene::Scene;
use crate::model::{ComponentName, Definition, Digest, PlanKind};

/// The definitions of what this plan changes, of which no roll has succeeded yet, and which somebody else made. The
/// spec is what the runtime found; the keys that steer a roll come from the manifest.
pub(super) fn adopt(draft: &mut Draft, scene: &Scene<'_>) -> BTreeMap<ComponentName, Digest> {
    let mut adopted = BTreeMap::new();
    if matches!(draft.kind, PlanKind::Rollback { .. }) {
        return adopted;
    }
    for (name, definition) in &draft.components {
        let changes = draft.works.iter().any(|work| work.slot.component == *name && work.changes());
        if changes
            && !scene.history.succeeded.contains_key(name)
            && let Some(former) = former(scene, name, definition)
        {
            adopted.insert(name.clone(), draft.pool.add(&former));
        }
    }
    adopted
}

fn former(scene: &Scene<'_>, name: &ComponentName, definition: &Definition) -> Option<Definition> {
    let mut found = scene.input.inventory.keys().filter_map(|agent| scene.resolution(agent, name)?.found.as_deref());
    let first = found.next()?;
    let (image, mut service) = (first.image.clone(), first.service.clone());
    for other in found {
        service.containers.extend(other.service.containers.clone());
        if let (Some(all), Some(other)) = (&mut service.remote, &other.service.remote) {
            all.hosts.extend(other.hosts.clone());
        }
    }
    if service.remote.is_some() {
        service.alone = definition.compose.as_ref().and_then(|compose| compose.alone.clone());
        return Some(Definition { image: Some(image), compose: Some(service), ..definition.clone() });
    }
    let replicas = u32::try_from(service.containers.len()).ok().filter(|count| *count > 0)?;
    Some(Definition { image: Some(image), compose: Some(service), replicas, ..definition.clone() })
}
