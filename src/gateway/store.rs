//! The table file: what every listener serves from after a restart.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::limits::TABLE_BYTES_MAX;
use crate::model::{TableTarget, millis};

/// The layout of the file. A file with another number is refused: guessing at a table sends requests to strangers.
const FORMAT: u32 = 1;

/// One table as it was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct SavedTable {
    pub(super) targets: Vec<TableTarget>,
    #[serde(with = "millis")]
    pub(super) hold_max: Duration,
}

/// What is kept of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct SavedListener {
    /// The table in use.
    pub(super) in_use: SavedTable,
    /// The one that still waits for its targets.
    pub(super) asked: Option<SavedTable>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Document {
    format: u32,
    listeners: BTreeMap<String, SavedListener>,
}

/// Why the table file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be read.
    #[error("failed to read the gateway's table {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// It is not what this program wrote.
    #[error(
        "the gateway's table {path} is damaged: restore it, or move it away to start with an empty table; the next \
         roll fills it"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// It is of another version of this program.
    #[error(
        "the gateway's table {path} has format {found}, this version reads {FORMAT}: start the version that wrote it, \
         or move the file away to start with an empty table"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// The number in it.
        found: u32,
    },
    /// It is too large to be a table.
    #[error(
        "the gateway's table {path} is larger than {TABLE_BYTES_MAX} bytes: move it away to start with an empty table"
    )]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be written.
    #[error("failed to write the gateway's table {path}: the table in use stays as it was")]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// The table file and what it says.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    path: PathBuf,
    listeners: BTreeMap<String, SavedListener>,
}

impl Store {
    /// Reads the file in `dir`. None there is an empty table; a damaged one is an error.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let path = dir.join("table.json");
        let read = |path: &Path| -> io::Result<Option<String>> {
            let file = match File::open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other?,
            };
            let mut text = String::new();
            file.take(TABLE_BYTES_MAX + 1).read_to_string(&mut text)?;
            Ok(Some(text))
        };
        let listeners = match read(&path) {
            Ok(None) => BTreeMap::new(),
            Ok(Some(text)) if text.len() as u64 > TABLE_BYTES_MAX => return Err(StoreError::TooLarge { path }),
            Ok(Some(text)) => Self::parse(&path, &text)?,
            Err(source) => return Err(StoreError::Read { path, source }),
        };
        Ok(Self { dir: dir.to_owned(), path, listeners })
    }

    fn parse(path: &Path, text: &str) -> Result<BTreeMap<String, SavedListener>, StoreError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
        }
        let damaged = |source| StoreError::Damaged { path: path.to_owned(), source };
        let head: Head = serde_json::from_str(text).map_err(damaged)?;
        if head.format != FORMAT {
            return Err(StoreError::Format { path: path.to_owned(), found: head.format });
        }
        serde_json::from_str::<Document>(text).map(|document| document.listeners).map_err(damaged)
    }

    /// What is kept of `listener`.
    pub(super) fn listener(&self, listener: &str) -> SavedListener {
        self.listeners.get(listener).cloned().unwrap_or_default()
    }

    /// Keeps `saved` for `listener`: on the disk when this returns. Blocks for as long as a sync takes. The same
    /// content
    /// again costs nothing.
    pub(super) fn save(&mut self, listener: &str, saved: SavedListener) -> Result<(), StoreError> {
        if self.listeners.get(listener) == Some(&saved) {
            return Ok(());
        }
        let mut listeners = self.listeners.clone();
        listeners.insert(listener.to_owned(), saved);
        let document = Document { format: FORMAT, listeners };
        self.write(&document).map_err(|source| StoreError::Write { path: self.path.clone(), source })?;
        self.listeners = document.listeners;
        Ok(())
    }

    /// A whole new file takes the place of the old one: a crash at any instant leaves one or the other.
    fn write(&self, document: &Document) -> io::Result<()> {
        let new = self.dir.join("table.json.new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec_pretty(document)?)?;
        file.sync_all()?;
        std::fs::rename(&new, &self.path)?;
        File::open(&self.dir)?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Admission;

    fn saved(port: u16) -> SavedListener {
        let target = TableTarget {
            instance: "api-1.2".parse().expect("an instance id"),
            host: "127.0.0.1".to_owned(),
            port,
            admission: Admission::Admitting,
        };
        SavedListener { in_use: SavedTable { targets: vec![target], hold_max: Duration::from_secs(30) }, asked: None }
    }

    #[test]
    fn what_was_saved_is_read_again() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut store = Store::open(dir.path()).expect("no file is an empty table");
        store.save("api", saved(80)).expect("saved");
        store.save("web", saved(81)).expect("saved");
        let again = Store::open(dir.path()).expect("read");
        assert_eq!((again.listener("api"), again.listener("web")), (saved(80), saved(81)));
        assert_eq!(again.listener("other"), SavedListener::default());
    }

    #[test]
    fn a_write_that_fails_is_told_and_leaves_the_old_table() {
        let dir = tempfile::tempdir().expect("a folder");
        let mut store = Store::open(dir.path()).expect("opened");
        store.save("api", saved(80)).expect("saved");
        std::fs::create_dir(dir.path().join("table.json.new")).expect("in the way");
        assert!(matches!(store.save("api", saved(81)), Err(StoreError::Write { .. })));
        assert_eq!(store.listener("api"), saved(80));
        assert_eq!(Store::open(dir.path()).expect("read").listener("api"), saved(80));
    }

    #[test]
    fn a_damaged_file_is_refused_by_name() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("table.json");
        for text in ["", "{\"format\": 1", "{\"format\": 1, \"listeners\": {\"api\": {}}}", "[]"] {
            std::fs::write(&path, text).expect("written");
            let error = Store::open(dir.path()).expect_err("refused");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
            assert!(matches!(error, StoreError::Damaged { .. }), "{text:?}: {error}");
        }
        std::fs::write(&path, "{\"format\": 2, \"listeners\": {}}").expect("written");
        assert!(matches!(Store::open(dir.path()), Err(StoreError::Format { found: 2, .. })));
    }
}
