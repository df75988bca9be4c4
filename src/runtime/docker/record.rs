//! Which container is which instance: one small synced file for each slot. Free of secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::engine::refused;
use super::places::Place;
use crate::model::{ComponentName, Digest, FailureKind, InstanceId, SlotName};
use crate::runtime::RuntimeError;
use crate::sys;

/// What is known of a slot beside what the engine says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SlotRecord {
    /// The highest number ever given; never used again.
    pub(super) highest: u64,
    /// By number.
    pub(super) instances: BTreeMap<u64, Entry>,
    /// Where this host has a Compose project of its own: which of its containers the slot is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) place: Option<Place>,
}

/// One instance.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Its container's id. `None` while it is being made: until then it is no instance, and what a crash left of it
    /// is made anew.
    pub(super) container: Option<String>,
    /// The name that it is to have in the end.
    pub(super) name: String,
    /// The name that it is made under.
    pub(super) made_as: String,
    /// What it was prepared with; `None` for one that Baton did not make.
    pub(super) spec: Option<Digest>,
    pub(super) definition: Option<Digest>,
    pub(super) version: Option<String>,
    /// Container ports by the names of the manifest.
    pub(super) ports: BTreeMap<String, u16>,
    /// The first of them; `{port}`.
    pub(super) first_port: Option<u16>,
    /// Its own restart policy, while it is held. Written before the engine is asked to change it.
    pub(super) held: Option<Policy>,
    /// The signals that its present run was sent.
    pub(super) signalled: Signalled,
    /// How many former images are kept when it takes another one's place. `None` for one that Baton did not make.
    #[serde(default)]
    pub(super) retain: Option<u32>,
}

/// A restart policy, as the engine names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Policy {
    pub(super) name: String,
    pub(super) retries: i64,
}

/// Signals of one run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Signalled {
    /// When that run began, in the engine's words.
    pub(super) run: String,
    /// By number.
    pub(super) signals: BTreeSet<i32>,
}

impl Signalled {
    /// Notes a signal of a run; `false`: that run has had it.
    pub(super) fn note(&mut self, run: &str, signal: i32) -> bool {
        if self.run != run {
            *self = Signalled { run: run.to_owned(), signals: BTreeSet::new() };
        }
        self.signals.insert(signal)
    }

    /// Whether that run has had one.
    pub(super) fn is_of(&self, run: &str) -> bool {
        self.run == run && !self.signals.is_empty()
    }
}

/// The temporary name of an instance: a new container must not take the name of the old one beside it.
pub(super) fn temporary_name(name: &str, number: u64) -> String {
    format!("{name}.baton-{number}")
}

/// What a temporary name says: the final name and the instance's number.
pub(super) fn read_temporary(name: &str) -> Option<(&str, u64)> {
    let (name, number) = name.rsplit_once(".baton-")?;
    let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit()) && !number.starts_with('0');
    (plain && !name.is_empty()).then(|| number.parse().ok().map(|number| (name, number))).flatten()
}

/// The component that a service of a Compose project is: its name, with what a component's name may not have replaced.
pub(super) fn component_of(service: &str) -> Option<ComponentName> {
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '_' { c.to_ascii_lowercase() } else { '-' };
    ComponentName::new(service.chars().map(plain).collect::<String>()).ok()
}

/// The files of all slots.
pub(super) struct Records {
    folder: PathBuf,
    /// Whoever only looks writes nothing.
    read_only: bool,
    turns: Mutex<BTreeMap<SlotName, Arc<tokio::sync::Mutex<()>>>>,
}

impl Records {
    pub(super) fn new(folder: PathBuf, read_only: bool) -> Records {
        Records { folder, read_only, turns: Mutex::default() }
    }

    pub(super) fn is_read_only(&self) -> bool {
        self.read_only
    }

    /// One at a time changes a slot's file.
    pub(super) async fn turn(&self, slot: &SlotName) -> OwnedMutexGuard<()> {
        let turn = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(turns.entry(slot.clone()).or_default())
        };
        turn.lock_owned().await
    }

    fn path(&self, slot: &SlotName) -> PathBuf {
        self.folder.join(format!("{slot}.json"))
    }

    /// Every slot that has a file.
    pub(super) fn slots(&self) -> Result<Vec<SlotName>, RuntimeError> {
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(broken(&self.folder, "list", &error)),
        };
        let names = entries.flatten().map(|entry| entry.file_name());
        Ok(names.filter_map(|name| name.to_str()?.strip_suffix(".json")?.parse().ok()).collect())
    }

    fn former_path(&self, component: &ComponentName) -> PathBuf {
        self.folder.join("images").join(format!("{component}.json"))
    }

    /// Ids of images that a component's instances had here, the last one first.
    pub(super) fn former(&self, component: &ComponentName) -> Result<Vec<String>, RuntimeError> {
        let path = self.former_path(component);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| broken(&path, "understand", &io::Error::new(io::ErrorKind::InvalidData, error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(broken(&path, "read", &error)),
        }
    }

    /// Puts them on the disk, synced. One at a time.
    pub(super) async fn write_former(&self, component: &ComponentName, ids: &[String]) -> Result<(), RuntimeError> {
        let path = self.former_path(component);
        let text = serde_json::to_vec(ids).map_err(|error| broken(&path, "write", &error.into()))?;
        self.put(path, text).await
    }

    /// What the file says.
    pub(super) fn read(&self, slot: &SlotName) -> Result<SlotRecord, RuntimeError> {
        let path = self.path(slot);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| broken(&path, "understand", &io::Error::new(io::ErrorKind::InvalidData, error))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(SlotRecord::default()),
            Err(error) => Err(broken(&path, "read", &error)),
        }
    }

    /// Puts it on the disk, synced. Call it in the slot's turn.
    pub(super) async fn write(&self, slot: &SlotName, record: &SlotRecord) -> Result<(), RuntimeError> {
        if self.read_only {
            return Ok(());
        }
        let path = self.path(slot);
        let text = serde_json::to_vec(record).map_err(|error| broken(&path, "write", &error.into()))?;
        self.put(path, text).await
    }

    async fn put(&self, path: PathBuf, text: Vec<u8>) -> Result<(), RuntimeError> {
        let to = path.clone();
        let written = tokio::task::spawn_blocking(move || {
            make_folder(sys::files::folder_of(&to))?;
            sys::files::write_atomic(&to, &text, 0o600)
        });
        let failed = |error: &io::Error| broken(&path, "write", error);
        written.await.map_err(|error| failed(&io::Error::other(error)))?.map_err(|error| failed(&error))
    }

    /// Reads, changes and writes a slot's file.
    pub(super) async fn update<T>(
        &self,
        slot: &SlotName,
        change: impl FnOnce(&mut SlotRecord) -> T,
    ) -> Result<T, RuntimeError> {
        let _turn = self.turn(slot).await;
        let before = self.read(slot)?;
        let mut record = before.clone();
        let answer = change(&mut record);
        if record != before {
            self.write(slot, &record).await?;
        }
        Ok(answer)
    }

    /// The container of an instance, if it has one.
    pub(super) fn entry(&self, instance: &InstanceId) -> Result<Option<(String, Entry)>, RuntimeError> {
        let entry = self.read(&instance.slot)?.instances.remove(&instance.number);
        Ok(entry.and_then(|entry| Some((entry.container.clone()?, entry))))
    }
}

fn make_folder(folder: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

fn broken(path: &Path, verb: &str, error: &io::Error) -> RuntimeError {
    let message = format!("cannot {verb} {}: {error}; free space, or correct its owner and mode", path.display());
    RuntimeError { retryable: true, ..refused(FailureKind::Refused, message) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_name_says_which_instance_it_is() {
        assert_eq!(read_temporary(&temporary_name("p-w-2", 17)), Some(("p-w-2", 17)));
        for name in ["p-w-2", "p-w-2.baton-", "p-w-2.baton-x", "p-w-2.baton-07", ".baton-1", "p.baton-1x"] {
            assert_eq!(read_temporary(name), None, "{name}");
        }
    }

    #[test]
    fn a_run_has_each_signal_once_and_the_next_run_has_it_again() {
        let mut signalled = Signalled::default();
        assert!(!signalled.is_of("") && signalled.note("run 1", 15));
        assert!(signalled.is_of("run 1") && !signalled.is_of("run 2"));
        assert!(!signalled.note("run 1", 15));
        assert!(signalled.note("run 1", 10));
        assert!(signalled.note("run 2", 15));
    }

    #[test]
    fn a_service_has_a_component() {
        for (service, component) in [("worker", "worker"), ("My.API_2", "my-api_2"), ("a-b", "a-b")] {
            assert_eq!(component_of(service).unwrap().as_str(), component);
        }
        assert_eq!(component_of("_x"), None);
    }

    #[tokio::test]
    async fn a_file_is_kept_unless_it_is_only_looked_at() {
        let folder = tempfile::tempdir().unwrap();
        let slot: SlotName = "worker-2".parse().unwrap();
        let at = folder.path().join("docker");
        let looking = Records::new(at.clone(), true);
        looking.update(&slot, |record| record.highest = 7).await.unwrap();
        assert!(!at.exists());
        let records = Records::new(at.clone(), false);
        records.update(&slot, |record| record.highest = 7).await.unwrap();
        assert_eq!(records.read(&slot).unwrap().highest, 7);
        assert_eq!(records.slots().unwrap(), std::slice::from_ref(&slot));
        std::fs::write(at.join("worker-2.json"), "{").unwrap();
        assert!(records.read(&slot).unwrap_err().message.contains("worker-2.json"));
    }
}
