//! Components of a Compose project that are made anew with another one: they live in its container, or say so.

use std::collections::{BTreeMap, BTreeSet};

use super::work::Work;
use crate::model::{ComponentName, Definition};

/// Whom it is made anew with.
pub(super) fn follows(definition: &Definition) -> impl Iterator<Item = &ComponentName> {
    definition.compose.iter().flat_map(|compose| &compose.follows)
}

/// All components, each after those that it follows. Should some follow each other, they come last.
pub(super) fn leaders_first(components: &BTreeMap<ComponentName, Definition>) -> Vec<&ComponentName> {
    let mut order = Vec::new();
    let mut left: BTreeMap<&ComponentName, &Definition> = components.iter().collect();
    while !left.is_empty() {
        let waits = |name: &ComponentName| {
            left.get(name).is_some_and(|definition| follows(definition).any(|on| on != name && left.contains_key(on)))
        };
        let mut next: Vec<&ComponentName> = left.keys().copied().filter(|name| !waits(name)).collect();
        if next.is_empty() {
            next = left.keys().copied().collect();
        }
        left.retain(|name, _| !next.contains(name));
        order.append(&mut next);
    }
    order
}

/// A component that is followed and of which something is made anew.
pub(super) fn leader<'a>(definition: &'a Definition, works: &[Work]) -> Option<&'a ComponentName> {
    let is_made = |name: &&ComponentName| {
        let made = |work: &&Work| work.coming.as_ref().is_some_and(|coming| coming.prepare);
        works.iter().filter(made).any(|work| work.slot.component == **name)
    };
    follows(definition).find(is_made)
}

/// Components that are asked for, and those that follow them.
pub(super) fn with_followers(
    asked: &[ComponentName],
    components: &BTreeMap<ComponentName, Definition>,
) -> BTreeSet<ComponentName> {
    let mut all: BTreeSet<ComponentName> = asked.iter().cloned().collect();
    for name in leaders_first(components) {
        if components.get(name).is_some_and(|definition| follows(definition).any(|on| all.contains(on))) {
            all.insert(name.clone());
        }
    }
    all
}
