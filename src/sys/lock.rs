//! A lock that dies with its holder and says who that is.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};

/// Why a lock was not taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Somebody holds it.
    #[error("{path} is held by {holder}")]
    Held {
        /// The lock file.
        path: PathBuf,
        /// `process 4711 (coordinator of fleet orders)`.
        holder: String,
    },
    /// Nothing can be written there.
    #[error("{path} cannot be written; make its folder writable for this user, or name another place with --state")]
    ReadOnly {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file cannot be used.
    #[error("cannot lock {path}")]
    Io {
        /// The lock file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// A lock that is held. Given back when it is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct FileLock {
    file: File,
    path: PathBuf,
}

/// A holder writes its name right after it got the lock; a second one that comes in between waits for it at most
/// [`NAME_TRIES`] times this long.
const NAME_WAIT: Duration = Duration::from_millis(10);
const NAME_TRIES: usize = 10;

/// More than any description: a bound on what is read from a file that anything may have written.
const NAME_MAX: u64 = 4096;

impl FileLock {
    /// Takes the lock or says who holds it. `description` is what the refused one is told beside the process id; one
    /// line, no secrets.
    ///
    /// # Errors
    /// [`LockError::Held`], or [`LockError::Io`] when the file cannot be made, locked or written.
    pub fn take(path: &Path, description: &str) -> Result<Self, LockError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                LockError::ReadOnly { path: path.to_owned(), source }
            }
            _ => LockError::Io { path: path.to_owned(), source },
        };
        loop {
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .mode(0o600)
                .open(path)
                .map_err(failed)?;
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    return Err(LockError::Held { path: path.to_owned(), holder: holder(&mut file) });
                }
                Err(errno) => return Err(failed(errno.into())),
            }
            // The name may have been removed between open and lock: then this lock excludes nobody.
            let ours = file.metadata().map_err(failed)?;
            match std::fs::metadata(path) {
                Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {}
                _ => continue,
            }
            let line = format!("process {} ({})\n", std::process::id(), description.replace('\n', " "));
            match file.set_len(0).and_then(|()| file.write_all(line.as_bytes())) {
                // The name is a help, the lock is held without it; what else needs space says so in its own words.
                Err(error) if error.kind() == io::ErrorKind::StorageFull => {}
                named => named.map_err(failed)?,
            }
            return Ok(Self { file, path: path.to_owned() });
        }
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // The file stays: removing it would let two holders lock two files of one name. Its text goes, so that it
        // never names somebody who has left.
        let _ = self.file.set_len(0);
    }
}

fn holder(file: &mut File) -> String {
    for _ in 0..NAME_TRIES {
        let mut text = String::new();
        let read = file.seek(SeekFrom::Start(0)).and_then(|_| file.take(NAME_MAX).read_to_string(&mut text));
        match text.trim() {
            "" => {}
            name if read.is_ok() => return name.to_owned(),
            _ => break,
        }
        std::thread::sleep(NAME_WAIT);
    }
    "another process".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_locker_is_told_who_holds_it_and_gets_it_afterwards() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let first = FileLock::take(&path, "coordinator of fleet orders").unwrap();
        let refused = FileLock::take(&path, "another").unwrap_err();
        let expected = format!("process {} (coordinator of fleet orders)", std::process::id());
        assert!(matches!(&refused, LockError::Held { holder, .. } if *holder == expected), "{refused}");
        assert_eq!(std::fs::metadata(first.path()).unwrap().mode() & 0o777, 0o600);
        drop(first);
        assert_eq!(std::fs::read(&path).unwrap(), b"");
        let _second = FileLock::take(&path, "another").unwrap();
    }

    #[test]
    fn a_lock_dies_with_a_killed_holder() {
        const CHILD: &str = "BATON_TEST_LOCK_PATH";
        if let Some(path) = std::env::var_os(CHILD) {
            let _lock = FileLock::take(Path::new(&path), "the child").unwrap();
            println!("locked");
            // Until it is killed, or the test that started it is gone.
            let _ = io::stdin().read(&mut [0]);
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::lock::tests::a_lock_dies_with_a_killed_holder", "--nocapture"])
            .env(CHILD, &path)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let lines = io::BufRead::lines(io::BufReader::new(child.stdout.take().unwrap()));
        assert!(lines.map_while(Result::ok).any(|line| line.contains("locked")), "the child did not get the lock");
        let refused = FileLock::take(&path, "us").unwrap_err().to_string();
        assert!(refused.contains(&format!("process {} (the child)", child.id())), "{refused}");
        child.kill().unwrap();
        child.wait().unwrap();
        FileLock::take(&path, "us").unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_is_named() {
        let error = FileLock::take(Path::new("/nonexistent/lock"), "us").unwrap_err();
        assert_eq!(error.to_string(), "cannot lock /nonexistent/lock");
    }
}
