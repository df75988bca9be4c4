//! The definitions that an agent has at hand: its spec store, and what this life has written or read there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::journal::{SpecStore, SpecStoreError};
use crate::model::{Definition, Digest};

/// Definitions remembered. A stage names few, however many slots it has.
const KNOWN_MAX: usize = 64;

/// Definitions, by digest.
pub(super) struct Definitions {
    store: SpecStore,
    known: Mutex<BTreeMap<Digest, Arc<Definition>>>,
}

impl Definitions {
    pub(super) fn of(store: SpecStore) -> Self {
        Self { store, known: Mutex::default() }
    }

    /// Keeps one durably. What this life has kept is not looked at again.
    pub(super) fn keep(&self, digest: &Digest, definition: &Definition) -> Result<(), SpecStoreError> {
        if self.known(digest).is_some_and(|known| *known == *definition) {
            return Ok(());
        }
        self.store.put(digest, definition)?;
        self.remember(digest, Arc::new(definition.clone()));
        Ok(())
    }

    /// One that is kept.
    pub(super) fn get(&self, digest: &Digest) -> Result<Option<Arc<Definition>>, SpecStoreError> {
        if let Some(known) = self.known(digest) {
            return Ok(Some(known));
        }
        let found = self.store.get(digest)?.map(Arc::new);
        if let Some(found) = &found {
            self.remember(digest, Arc::clone(found));
        }
        Ok(found)
    }

    fn known(&self, digest: &Digest) -> Option<Arc<Definition>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    fn remember(&self, digest: &Digest, definition: Arc<Definition>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_MAX {
            known.clear();
        }
        known.insert(digest.clone(), definition);
    }
}
