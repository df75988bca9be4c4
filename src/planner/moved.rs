//! A port of the host that goes from an API's own containers to a gateway in front of them.

use std::collections::BTreeSet;

use super::draft::Draft;
use super::gateway::is_gateway;
use super::scene::Scene;
use super::work::Work;
use crate::model::{ComponentName, ComposeService};

/// A gateway that can only start when those who have its port have gone.
pub(super) struct Moved<'a> {
    /// The gateway.
    pub(super) work: &'a Work,
    /// Who has the port now.
    pub(super) from: BTreeSet<ComponentName>,
    /// The ports.
    pub(super) ports: BTreeSet<u16>,
}

/// The gateways of a plan for which that is so.
pub(super) fn moved<'a>(draft: &'a Draft, scene: &Scene<'_>) -> Vec<Moved<'a>> {
    let starts = |work: &&Work| work.coming.as_ref().is_some_and(|coming| coming.start) && !work.orphan;
    let mut found = Vec::new();
    for work in draft.works.iter().filter(starts) {
        let Some(gateway) = draft.definition(&work.slot.component).filter(|definition| is_gateway(definition)) else {
            continue;
        };
        let Some(wanted) = gateway.compose.as_ref().map(|service| &service.host_ports) else { continue };
        let mut moved = Moved { work, from: BTreeSet::new(), ports: BTreeSet::new() };
        for other in draft.works.iter().filter(|other| other.slot.component != work.slot.component && other.leaves()) {
            let taken: BTreeSet<u16> = present(scene, other)
                .iter()
                .flat_map(|service| service.host_ports.intersection(wanted))
                .copied()
                .collect();
            if !taken.is_empty() {
                moved.from.insert(other.slot.component.clone());
                moved.ports.extend(taken);
            }
        }
        if !moved.from.is_empty() {
            found.push(moved);
        }
    }
    found
}

/// What the instances of a slot were made as, as far as it is known.
fn present<'a>(scene: &Scene<'a>, work: &Work) -> Vec<&'a ComposeService> {
    let mut services = Vec::new();
    for found in scene.instances(&work.slot) {
        let made = scene.made_with(found.seen).and_then(|definition| definition.compose.as_ref());
        let strange = || {
            let resolution = scene.resolution(found.agent, &work.slot.component)?;
            resolution.found.as_ref().map(|found| &found.service)
        };
        services.extend(made.or_else(strange));
    }
    services
}
