//! Definitions with their values, by digest. What the journal must not carry lies here, readable by its user alone.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::codec::hex;
use crate::model::{Definition, Digest};
use crate::sys::files::{is_leftover, sync_folder, write_atomic};
use crate::sys::state_dir::{self, StateDirError};

/// Why a definition could not be kept or read. No variant shows a value.
#[derive(Debug, thiserror::Error)]
pub enum SpecStoreError {
    /// The folder cannot be used.
    #[error("cannot use the spec store")]
    Folder(#[source] StateDirError),
    /// Not a digest: it would not be a file name.
    #[error("{text:?} is not a digest: lower-case hex, 64 characters")]
    NotADigest {
        /// What was given.
        text: String,
    },
    /// The file system refused.
    #[error("cannot {what} {path}")]
    Io {
        /// `read`, `write`, `list`, `remove`.
        what: &'static str,
        /// Which file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is not what was written, or written by a newer Baton.
    #[error("the definition {path} is damaged: {why}; restore a copy of the state directory")]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it, without its content.
        why: &'static str,
    },
    /// It cannot be expressed in JSON: a fault of the code.
    #[error("cannot encode the definition {digest}")]
    Encode {
        /// Which.
        digest: Digest,
    },
}

/// A folder (0700) with one file (0600) for each definition: on the first line the SHA-256 of the second, on the second
/// the definition as JSON.
#[derive(Clone, Debug)]
pub struct SpecStore {
    folder: PathBuf,
}

const EXTENSION: &str = "json";

impl SpecStore {
    /// Makes the folder where it is missing.
    ///
    /// # Errors
    /// [`SpecStoreError::Folder`] when it cannot be made or others can change it.
    pub fn open(folder: &Path) -> Result<Self, SpecStoreError> {
        state_dir::create(folder).map_err(SpecStoreError::Folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// For reading what is there, also where nothing can be written. The folder may be missing: then it holds nothing.
    pub fn at(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    fn path(&self, digest: &Digest) -> Result<PathBuf, SpecStoreError> {
        if is_digest(&digest.0) {
            Ok(self.folder.join(format!("{digest}.{EXTENSION}")))
        } else {
            Err(SpecStoreError::NotADigest { text: digest.0.clone() })
        }
    }

    /// Keeps a definition durably. One that is there already, sound and the same, is left as it is.
    ///
    /// # Errors
    /// [`SpecStoreError::NotADigest`], [`SpecStoreError::Io`].
    pub fn put(&self, digest: &Digest, definition: &Definition) -> Result<(), SpecStoreError> {
        let path = self.path(digest)?;
        let text = serde_json::to_string(definition).map_err(|_| SpecStoreError::Encode { digest: digest.clone() })?;
        let content = format!("{}\n{text}\n", checksum(&text));
        if std::fs::read(&path).is_ok_and(|there| there == content.as_bytes()) {
            return Ok(());
        }
        write_atomic(&path, content.as_bytes(), 0o600).map_err(|source| SpecStoreError::Io {
            what: "write",
            path,
            source,
        })
    }

    /// The definition with that digest, if it is kept.
    ///
    /// # Errors
    /// [`SpecStoreError::NotADigest`], [`SpecStoreError::Io`], [`SpecStoreError::Damaged`].
    pub fn get(&self, digest: &Digest) -> Result<Option<Definition>, SpecStoreError> {
        let path = self.path(digest)?;
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SpecStoreError::Io { what: "read", path, source }),
        };
        let damaged = |why| SpecStoreError::Damaged { path: path.clone(), why };
        let content = String::from_utf8(bytes).map_err(|_| damaged("it is no text"))?;
        let (sum, text) = content
            .strip_suffix('\n')
            .and_then(|content| content.split_once('\n'))
            .ok_or_else(|| damaged("it is cut short"))?;
        if sum != checksum(text) {
            return Err(damaged("its content does not match its checksum"));
        }
        // The parser's message could quote a value, so it is not passed on.
        serde_json::from_str(text).map(Some).map_err(|_| damaged("its definition is not one that this Baton can read"))
    }

    /// The digests of everything kept.
    ///
    /// # Errors
    /// [`SpecStoreError::Io`].
    pub fn list(&self) -> Result<BTreeSet<Digest>, SpecStoreError> {
        let paths = self.paths()?;
        Ok(paths.iter().filter_map(|path| digest_of(path)).collect())
    }

    fn paths(&self) -> Result<Vec<PathBuf>, SpecStoreError> {
        let failed = |source| SpecStoreError::Io { what: "list", path: self.folder.clone(), source };
        match std::fs::read_dir(&self.folder) {
            Ok(files) => files.map(|file| file.map(|file| file.path()).map_err(failed)).collect(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Removes everything else, and what a crash left half-written. Returns what was removed. Must not run while
    /// another process keeps definitions here.
    ///
    /// # Errors
    /// [`SpecStoreError::Io`]; some may be removed already.
    pub fn retain(&self, keep: &BTreeSet<Digest>) -> Result<BTreeSet<Digest>, SpecStoreError> {
        let mut removed = BTreeSet::new();
        let mut changed = false;
        for path in self.paths()? {
            let digest = digest_of(&path);
            let goes = digest.as_ref().map_or_else(|| is_leftover(&path), |digest| !keep.contains(digest));
            if goes {
                std::fs::remove_file(&path).map_err(|source| SpecStoreError::Io { what: "remove", path, source })?;
                changed = true;
                removed.extend(digest);
            }
        }
        if changed {
            let failed = |source| SpecStoreError::Io { what: "write", path: self.folder.clone(), source };
            sync_folder(&self.folder).map_err(failed)?;
        }
        Ok(removed)
    }
}

fn is_digest(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

fn digest_of(path: &Path) -> Option<Digest> {
    let text = path.file_stem()?.to_str()?;
    let ours = path.extension().is_some_and(|extension| extension == EXTENSION) && is_digest(text);
    ours.then(|| Digest(text.to_owned()))
}

fn checksum(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::model::{ComponentName, Drain, RETAIN, Ready, Release, RuntimeKind, Secret, Traffic, Update};

    const CANARY: &str = "canary-4711";

    fn definition(replicas: u32) -> Definition {
        Definition {
            component: ComponentName::new("worker").unwrap(),
            role: None,
            runtime: RuntimeKind::Process,
            image: None,
            compose: None,
            release: Some(Release { path: "/opt/orders/v1".to_owned(), sha256_file: None }),
            command: vec![Secret::new("{release}/bin/worker"), Secret::new(CANARY)],
            env: [("TOKEN".to_owned(), Secret::new(CANARY))].into(),
            env_file: None,
            cwd: None,
            ports: Vec::new(),
            fronts: std::collections::BTreeMap::new(),
            on: Vec::new(),
            replicas,
            singleton: false,
            depends_on: [].into(),
            update: Update::default(),
            rollback: None,
            agent: None,
            retain: RETAIN,
            ready: Ready::default(),
            traffic: Traffic::None,
            min_available: None,
            drain: Drain::default(),
            versioned: true,
        }
    }

    fn digest(fill: char) -> Digest {
        Digest(fill.to_string().repeat(64))
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn definitions_are_kept_private_and_whole_with_their_values() {
        let folder = tempfile::tempdir().unwrap();
        let place = folder.path().join("specs");
        let store = SpecStore::open(&place).unwrap();
        assert_eq!(store.get(&digest('a')).unwrap(), None);
        store.put(&digest('a'), &definition(1)).unwrap();
        store.put(&digest('a'), &definition(1)).unwrap();
        store.put(&digest('b'), &definition(2)).unwrap();
        let reopened = SpecStore::open(&place).unwrap();
        assert_eq!(reopened.get(&digest('a')).unwrap(), Some(definition(1)));
        assert_eq!(reopened.get(&digest('b')).unwrap().unwrap().env["TOKEN"].expose(), CANARY);
        assert_eq!(mode(&place), 0o700);
        for file in std::fs::read_dir(&place).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
        assert_eq!(SpecStore::at(&folder.path().join("none")).list().unwrap(), BTreeSet::new());
    }

    #[test]
    fn what_is_no_longer_needed_goes_with_what_a_crash_left() {
        let folder = tempfile::tempdir().unwrap();
        let store = SpecStore::open(folder.path()).unwrap();
        for fill in ['a', 'b', 'c'] {
            store.put(&digest(fill), &definition(1)).unwrap();
        }
        let leftover = folder.path().join(format!(".{}.json.0123456789ab.partial", digest('d')));
        let others = folder.path().join("README");
        std::fs::write(&leftover, b"half").unwrap();
        std::fs::write(&others, b"not ours").unwrap();
        assert_eq!(store.list().unwrap(), [digest('a'), digest('b'), digest('c')].into());
        assert_eq!(store.retain(&[digest('b'), digest('e')].into()).unwrap(), [digest('a'), digest('c')].into());
        assert_eq!(store.list().unwrap(), [digest('b')].into());
        assert!(!leftover.exists());
        assert!(others.exists());
    }

    #[test]
    fn a_damaged_definition_is_refused_without_showing_it_and_can_be_put_again() {
        let folder = tempfile::tempdir().unwrap();
        let store = SpecStore::open(folder.path()).unwrap();
        store.put(&digest('a'), &definition(1)).unwrap();
        let path = folder.path().join(format!("{}.json", digest('a')));
        let sound = std::fs::read(&path).unwrap();
        for place in 0..sound.len() {
            let mut broken = sound.clone();
            broken[place] ^= 4;
            std::fs::write(&path, &broken).unwrap();
            let error = store.get(&digest('a')).unwrap_err();
            assert!(matches!(error, SpecStoreError::Damaged { .. }), "byte {place}: {error}");
            assert!(!format!("{error} {error:?}").contains(CANARY));
            std::fs::write(&path, &sound[..place]).unwrap();
            assert!(store.get(&digest('a')).is_err(), "cut at {place}");
        }
        // A definition of another Baton: the checksum is right, the content is not known.
        let text = serde_json::to_string(&definition(1)).unwrap().replace("\"process\"", "\"canary-4711\"");
        std::fs::write(&path, format!("{}\n{text}\n", checksum(&text))).unwrap();
        let error = store.get(&digest('a')).unwrap_err();
        assert!(!format!("{error} {error:?}").contains(CANARY), "{error:?}");
        store.put(&digest('a'), &definition(1)).unwrap();
        assert_eq!(store.get(&digest('a')).unwrap(), Some(definition(1)));
    }

    #[test]
    fn a_digest_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let store = SpecStore::open(&folder.path().join("specs")).unwrap();
        for text in ["", "../escape", "/etc/passwd", "ABCDEF", &"g".repeat(64), &"a".repeat(63)] {
            let digest = Digest(text.to_owned());
            assert!(matches!(store.put(&digest, &definition(1)), Err(SpecStoreError::NotADigest { .. })), "{text}");
            assert!(matches!(store.get(&digest), Err(SpecStoreError::NotADigest { .. })), "{text}");
        }
    }

    #[test]
    fn a_folder_that_others_can_change_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
        assert!(matches!(SpecStore::open(folder.path()), Err(SpecStoreError::Folder(_))));
    }
}
