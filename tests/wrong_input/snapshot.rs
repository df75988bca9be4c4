//! What must be the same before and after a refusal: files, records and instances.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::row::Leaves;
use super::support::fleet::Fleet;

/// A fleet at one moment.
#[derive(Debug, PartialEq, Eq)]
pub struct Snapshot(BTreeMap<String, String>);

impl Snapshot {
    /// Looks at the state directory, the releases and manifests beside it, and at every keeper and instance.
    pub fn of(fleet: &Fleet, state: &Path, leaves: Leaves) -> Self {
        let mut found = BTreeMap::new();
        files(state, state, leaves, &mut found);
        for (pid, command) in fleet.stage.processes() {
            // A program that forks is seen twice for a moment: keepers and their children are what counts.
            let Some((parent, started)) = parent_and_start(pid) else { continue };
            let keeper = |command: &str| command.contains(" keeper --dir ");
            if keeper(&command) || keeper(&command_of(parent)) {
                found.insert(format!("process {pid}"), format!("{command}, started at tick {started}"));
            }
        }
        Self(found)
    }

    /// How many instances and keepers were seen.
    pub fn processes(&self) -> usize {
        self.0.keys().filter(|key| key.starts_with("process ")).count()
    }

    /// Fails with every difference.
    pub fn assert_same(&self, after: &Self, what: &str) {
        let keys = self.0.keys().chain(after.0.keys()).collect::<std::collections::BTreeSet<_>>();
        let differing: Vec<String> = keys
            .into_iter()
            .filter(|key| self.0.get(*key) != after.0.get(*key))
            .map(|key| format!("{key}\n  before: {:?}\n  after:  {:?}", self.0.get(key), after.0.get(key)))
            .collect();
        assert!(differing.is_empty(), "{what}\nsomething was touched:\n{}", differing.join("\n"));
    }
}

fn files(root: &Path, folder: &Path, leaves: Leaves, found: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let key = path.strip_prefix(root).unwrap_or(&path).display().to_string();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.insert(key, "folder".to_owned());
            files(root, &path, leaves, found);
        } else if !kind.is_file() || name == "lock" || name.ends_with(".lock") || beside_a_journal(&name) {
            // Locks name their holder, sockets come and go, and what lies beside a journal is read with it.
        } else {
            let content = match name.strip_suffix(".db").and_then(|_| records(&path, leaves)) {
                Some(records) => records,
                None => std::fs::read(&path).unwrap_or_default(),
            };
            let hash: String = Sha256::digest(&content).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            found.insert(key, format!("{} bytes, {hash}", content.len()));
        }
    }
}

fn beside_a_journal(name: &str) -> bool {
    ["-shm", "-wal", "-tail"].iter().any(|suffix| name.ends_with(&format!(".db{suffix}")))
}

/// The records of a journal or a ledger, read from a copy: to look must not touch it. `None`: not readable as one, so
/// its bytes count.
fn records(path: &Path, leaves: Leaves) -> Option<Vec<u8>> {
    let copy = tempfile::tempdir().ok()?;
    let to = copy.path().join("copy.db");
    std::fs::copy(path, &to).ok()?;
    let log = PathBuf::from(format!("{}-wal", path.display()));
    if log.exists() {
        std::fs::copy(log, copy.path().join("copy.db-wal")).ok()?;
    }
    let connection = rusqlite::Connection::open(&to).ok()?;
    let mut statement = connection.prepare("SELECT kind, payload FROM records ORDER BY sequence").ok()?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))).ok()?;
    let mut all = vec![];
    for row in rows {
        let (kind, payload) = row.ok()?;
        if leaves == Leaves::Terms && matches!(kind.as_str(), "term-began" | "obeyed") {
            continue;
        }
        all.extend(format!("{kind} {payload}\n").into_bytes());
    }
    Some(all)
}

fn command_of(pid: u32) -> String {
    let bytes = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ")
}

/// A process's parent and when it started, in clock ticks since the boot.
fn parent_and_start(pid: u32) -> Option<(u32, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything: what counts stands after its closing bracket.
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}
