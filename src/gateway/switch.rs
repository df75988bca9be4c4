//! Brings tables into use: written down first, then proven, then swapped in one step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::Mutex as SyncMutex;
use std::time::Duration;

use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::task::JoinSet;

use super::Backend;
use super::control::TableState;
use super::front::Front;
use super::limits::{PROBE_EVERY, TARGETS_MAX};
use super::listener::Listener;
use super::pool;
use super::store::{SavedListener, SavedTable, Store, StoreError};
use super::target::Target;
use crate::model::{Admission, ComponentName, InstanceId, Proxy, SlotName, TableTarget};

/// How often a table that is proven but cannot be written is tried again: a full disk is freed by people, not in
/// milliseconds.
const WRITE_AGAIN_EVERY: Duration = Duration::from_secs(1);

/// How long a request waits for a back end that nobody has put into a table: what the first answers of a project that
/// is just starting may take.
const FIRST_HOLD: Duration = Duration::from_secs(30);

/// Targets named in the text of a waiting table; the rest is counted.
const NAMED_MAX: usize = 3;

/// Why a table was not taken.
#[derive(Debug, thiserror::Error)]
pub(super) enum SetTableError {
    /// No such listener.
    #[error("this gateway has no listener {name:?}; it has {known}")]
    NoListener { name: String, known: String },
    /// An instance stands in it twice.
    #[error("instance {instance} is in the table of {listener:?} twice")]
    Twice { listener: String, instance: String },
    /// Too many targets.
    #[error("a table of {count} targets for {listener:?} is more than the {TARGETS_MAX} that a listener takes")]
    TooMany { listener: String, count: usize },
    /// It could not be written down.
    #[error("failed to keep the table of {listener:?}")]
    Store {
        listener: String,
        #[source]
        source: StoreError,
    },
}

/// All listeners and the file that keeps their tables.
#[derive(Debug)]
pub(super) struct Switch {
    listeners: BTreeMap<String, Arc<Listener>>,
    /// Other proxies, by the component whose table they are told.
    fronts: BTreeMap<String, Arc<Front>>,
    /// Whoever changes a table holds this from the check to the swap: changes come one after the other.
    store: Arc<Mutex<Store>>,
}

impl Switch {
    /// Every listener with the table it had, in use at once; tables that were still waiting wait again.
    pub(super) async fn new(
        names: impl IntoIterator<Item = String>,
        store: Store,
        backends: &[Backend],
        fronts: Vec<(ComponentName, Proxy)>,
    ) -> Arc<Self> {
        let first = |name: &str| {
            let backend = backends.iter().find(|backend| backend.component.as_str() == name)?;
            // An instance has a number from 1 on: this one is nobody's, and no table ever names it.
            let instance = InstanceId::new(SlotName::new(backend.component.clone(), 1), 0);
            let (host, port) = (backend.host.clone(), backend.port);
            let target = TableTarget { instance, host, port, admission: Admission::Admitting };
            Some(SavedTable { targets: vec![target], hold_max: FIRST_HOLD })
        };
        let listeners: BTreeMap<String, Arc<Listener>> = names
            .into_iter()
            .map(|name| {
                let saved = store.listener(&name);
                let none = saved.in_use.targets.is_empty() && saved.asked.is_none();
                let in_use = if none { first(&name).unwrap_or(saved.in_use) } else { saved.in_use };
                (name.clone(), Listener::new(name, in_use))
            })
            .collect();
        let asked: Vec<(Arc<Listener>, SavedTable)> = listeners
            .values()
            .filter_map(|listener| Some((Arc::clone(listener), store.listener(listener.name()).asked?)))
            .collect();
        let fronts = fronts.into_iter().map(|(component, proxy)| {
            let table = store.listener(component.as_str()).in_use;
            (component.to_string(), Arc::new(Front::new(component, proxy, table)))
        });
        let fronts = fronts.collect();
        let switch = Arc::new(Self { listeners, fronts, store: Arc::new(Mutex::new(store)) });
        let store = switch.store.lock().await;
        for (listener, table) in asked {
            let unproven = listener.unproven(&table);
            switch.prove(&listener, table, false, unproven);
        }
        drop(store);
        switch
    }

    pub(super) fn listeners(&self) -> impl Iterator<Item = &Arc<Listener>> {
        self.listeners.values()
    }

    pub(super) fn fronts(&self) -> impl Iterator<Item = &Arc<Front>> {
        self.fronts.values()
    }

    /// How the listener or the other proxy of this name is.
    pub(super) fn state(&self, name: &str) -> Result<TableState, SetTableError> {
        match self.fronts.get(name) {
            Some(front) => Ok(front.state()),
            None => self.listener(name).map(|listener| listener.state()),
        }
    }

    /// The listener of this name.
    pub(super) fn listener(&self, name: &str) -> Result<&Arc<Listener>, SetTableError> {
        self.listeners.get(name).ok_or_else(|| SetTableError::NoListener {
            name: name.to_owned(),
            known: self
                .listeners
                .keys()
                .chain(self.fronts.keys())
                .map(|name| format!("{name:?}"))
                .collect::<Vec<_>>()
                .join(", "),
        })
    }

    /// Takes a table: in use when this returns if it has no new targets, else as soon as they have answered.
    pub(super) async fn set(&self, name: &str, table: SavedTable, close: bool) -> Result<(), SetTableError> {
        check(name, &table)?;
        if let Some(front) = self.fronts.get(name) {
            let store = Arc::clone(&self.store).lock_owned().await;
            let kept = SavedListener { in_use: table.clone(), asked: None };
            let told = |source| SetTableError::Store { listener: name.to_owned(), source };
            let _store = save(store, name, kept).await.map_err(told)?;
            front.ask(table, close);
            return Ok(());
        }
        let listener = self.listener(name)?;
        let mut store = Arc::clone(&self.store).lock_owned().await;
        if listener.is_asked(&table, close) {
            return Ok(());
        }
        let unproven = listener.unproven(&table);
        let (in_use, _) = listener.saved();
        let told = |source| SetTableError::Store { listener: name.to_owned(), source };
        if unproven.is_empty() {
            store = save(store, name, SavedListener { in_use: table.clone(), asked: None }).await.map_err(told)?;
            listener.swap(table);
            if close {
                listener.close_upgraded();
            }
            tracing::info!(listener = name, "table in use");
        } else {
            store = save(store, name, SavedListener { in_use, asked: Some(table.clone()) }).await.map_err(told)?;
            self.prove(listener, table, close, unproven);
        }
        drop(store);
        Ok(())
    }

    /// Starts what brings `table` into use once all of `unproven` have answered. The caller holds the store, so that it
    /// cannot be through before it is noted.
    fn prove(&self, listener: &Arc<Listener>, table: SavedTable, close: bool, unproven: Vec<Arc<Target>>) {
        let reasons: BTreeMap<String, String> =
            unproven.iter().map(|target| (target.instance().to_string(), "no answer yet".to_owned())).collect();
        let waiting = describe(reasons.clone());
        let proving = prove(Arc::clone(listener), table.clone(), unproven, reasons, Arc::clone(&self.store));
        let task = tokio::spawn(proving);
        listener.ask(table, close, waiting, task.abort_handle());
    }
}

impl Drop for Switch {
    /// A gateway that has ended leaves its file to the next one.
    fn drop(&mut self) {
        self.listeners.values().for_each(|listener| listener.give_up());
    }
}

fn check(listener: &str, table: &SavedTable) -> Result<(), SetTableError> {
    if table.targets.len() > TARGETS_MAX {
        return Err(SetTableError::TooMany { listener: listener.to_owned(), count: table.targets.len() });
    }
    let mut seen = BTreeSet::new();
    match table.targets.iter().find(|target| !seen.insert(&target.instance)) {
        Some(target) => {
            Err(SetTableError::Twice { listener: listener.to_owned(), instance: target.instance.to_string() })
        }
        None => Ok(()),
    }
}

/// Saves without blocking the threads that carry requests. The guard travels along, so that no other change comes
/// between.
async fn save(
    mut store: OwnedMutexGuard<Store>,
    listener: &str,
    saved: SavedListener,
) -> Result<OwnedMutexGuard<Store>, StoreError> {
    let listener = listener.to_owned();
    let saving = tokio::task::spawn_blocking(move || store.save(&listener, saved).map(|()| store));
    match saving.await {
        Ok(saved) => saved,
        Err(failed) => match failed.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is going down and did not begin it: nobody is left to hear an answer.
            Err(_) => std::future::pending().await,
        },
    }
}

async fn prove(
    listener: Arc<Listener>,
    table: SavedTable,
    unproven: Vec<Arc<Target>>,
    reasons: BTreeMap<String, String>,
    store: Arc<Mutex<Store>>,
) {
    let reasons = Arc::new(SyncMutex::new(reasons));
    // Dropped, and so ended, with this task when a later table replaces this one.
    let mut probes = JoinSet::new();
    for target in unproven {
        let (listener, reasons) = (Arc::clone(&listener), Arc::clone(&reasons));
        probes.spawn(async move {
            let name = target.instance().to_string();
            loop {
                let answer = pool::probe(&target).await;
                {
                    let mut reasons = reasons.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    match &answer {
                        Ok(()) => reasons.remove(&name),
                        Err(error) => reasons.insert(name.clone(), error.reason()),
                    };
                    listener.set_waiting(describe(reasons.clone()));
                }
                if answer.is_ok() {
                    return;
                }
                tokio::time::sleep(PROBE_EVERY).await;
            }
        });
    }
    while probes.join_next().await.is_some() {}
    loop {
        let locked = Arc::clone(&store).lock_owned().await;
        match save(locked, listener.name(), SavedListener { in_use: table.clone(), asked: None }).await {
            Ok(locked) => {
                // Still under the lock: nobody can have asked for another table since.
                listener.swap(table);
                tracing::info!(listener = listener.name(), "table in use: its new targets have answered");
                drop(locked);
                return;
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
                tracing::error!(listener = listener.name(), "{error}{cause}");
                listener.set_waiting(format!("{error}{cause}"));
            }
        }
        tokio::time::sleep(WRITE_AGAIN_EVERY).await;
    }
}

/// `waiting for api-1.2: connection refused`.
fn describe(reasons: impl IntoIterator<Item = (String, String)>) -> String {
    let all: Vec<String> = reasons.into_iter().map(|(name, reason)| format!("{name}: {reason}")).collect();
    let named = all.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
    match all.len().saturating_sub(NAMED_MAX) {
        0 => format!("waiting for {named}"),
        more => format!("waiting for {named}; and {more} more"),
    }
}
