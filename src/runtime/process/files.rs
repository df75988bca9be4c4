//! The folder of one slot: where everything lies, and files that are either the old ones or the new ones, never half.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::model::InstanceId;

/// How many rotated files of a log are kept beside the one written to.
pub(super) const LOGS_KEPT: u32 = 3;

/// Where the parts of a slot lie.
#[derive(Clone, Debug)]
pub(super) struct SlotFolder {
    folder: PathBuf,
}

impl SlotFolder {
    pub(super) fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    pub(super) fn path(&self) -> &Path {
        &self.folder
    }

    /// Held locked by the one keeper of the slot.
    pub(super) fn lock(&self) -> PathBuf {
        self.folder.join("keeper.lock")
    }

    /// What the keeper says about itself.
    pub(super) fn keeper_log(&self) -> PathBuf {
        self.folder.join("keeper.log")
    }

    pub(super) fn notify_socket(&self) -> PathBuf {
        self.folder.join("notify.sock")
    }

    pub(super) fn slot_record(&self) -> PathBuf {
        self.folder.join("slot.json")
    }

    pub(super) fn instances(&self) -> PathBuf {
        self.folder.join("instances")
    }

    /// The state of an instance: free of secrets. Its existence is the instance's existence.
    pub(super) fn state(&self, number: u64) -> PathBuf {
        self.instances().join(format!("{number}.json"))
    }

    pub(super) fn instance(&self, number: u64) -> PathBuf {
        self.instances().join(number.to_string())
    }

    /// argv and environment with their values: the one file that holds them (0600).
    pub(super) fn definition(&self, number: u64) -> PathBuf {
        self.instance(number).join("definition.json")
    }

    pub(super) fn logs(&self) -> PathBuf {
        self.folder.join("logs")
    }

    pub(super) fn log(&self, instance: &InstanceId) -> PathBuf {
        self.logs().join(format!("{instance}.log"))
    }

    /// A rotated log: 1 is the youngest.
    pub(super) fn old_log(&self, instance: &InstanceId, age: u32) -> PathBuf {
        self.logs().join(format!("{instance}.log.{age}"))
    }

    /// The gateway's own folder, in slots of that role.
    pub(super) fn gateway(&self) -> PathBuf {
        self.folder.join("gateway")
    }

    /// Makes the folder and those in it, for this user alone.
    pub(super) fn create(&self) -> io::Result<()> {
        for folder in [self.folder.clone(), self.instances(), self.logs()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        }
        Ok(())
    }

    /// The numbers of all instances that exist.
    pub(super) fn numbers(&self) -> io::Result<Vec<u64>> {
        let entries = match fs::read_dir(self.instances()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut numbers = Vec::new();
        for entry in entries {
            let name = entry?.file_name();
            let stem = name.to_str().and_then(|name| name.strip_suffix(".json"));
            numbers.extend(stem.and_then(|stem| stem.parse::<u64>().ok()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

/// Whether a write must have reached the disk before anything comes of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Synced: file and folder.
    Synced,
    /// For what a reboot makes void anyway: after a loss of power there is the old file or the new one. Its content is
    /// synced all the same: some file systems rename first and write later, and half a record would be worse than an
    /// old one.
    Whole,
}

/// Replaces a file (0600) by a new one, or leaves it as it was.
pub(super) fn write_json<T: Serialize>(path: &Path, value: &T, durability: Durability) -> io::Result<()> {
    let folder = path.parent().ok_or_else(|| io::Error::other("a file without a folder"))?;
    let fresh = path.with_extension("json.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    if durability == Durability::Synced {
        sync_folder(folder)?;
    }
    Ok(())
}

/// Reads such a file; `None` when it is not there.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let text = match fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    // The cause would quote the text, which may be a secret: only the place is told.
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("{}: not readable at line {line}, column {column}", path.display()),
        )
    })
}

/// Removes a file and makes that durable. One that is not there: success.
pub(super) fn remove_durably(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => path.parent().map_or(Ok(()), sync_folder),
    }
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

/// A path to `name` in an open folder that is short enough for a Unix socket, however deep the folder lies.
pub(super) fn short_path(folder: &File, name: &str) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_for_its_owner_alone_and_an_unreadable_one_does_not_quote_itself() {
        use std::os::unix::fs::PermissionsExt;
        let temporary = tempfile::tempdir().unwrap();
        let folder = SlotFolder::new(temporary.path().join("a/b"));
        folder.create().unwrap();
        assert_eq!(fs::metadata(folder.path()).unwrap().permissions().mode() & 0o777, 0o700);
        let path = folder.state(7);
        write_json(&path, &"x", Durability::Synced).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(folder.numbers().unwrap(), [7]);
        assert_eq!(read_json::<String>(&path).unwrap().as_deref(), Some("x"));
        fs::write(&path, "\"topsecret").unwrap();
        assert!(!read_json::<u64>(&path).unwrap_err().to_string().contains("topsecret"));
        remove_durably(&path).unwrap();
        remove_durably(&path).unwrap();
        assert_eq!(read_json::<String>(&path).unwrap(), None);
    }
}
