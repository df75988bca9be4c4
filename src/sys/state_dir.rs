//! Where state lies, and folders that nobody else can write.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateDirError {
    /// No place for it is known.
    #[error("no place for state: neither XDG_STATE_HOME nor HOME is an absolute path; name one with --state")]
    NoHome,
    /// It cannot be made or read.
    #[error("cannot use the state folder {path}")]
    Io {
        /// Which folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is something else of that name.
    #[error("the state folder {path} is not a folder; name another with --state")]
    NotAFolder {
        /// Which.
        path: PathBuf,
    },
    /// Others could change what lies in it.
    #[error("the state folder {path} can be written by others (mode {mode:04o}); run `chmod go-w {path}`")]
    WritableByOthers {
        /// Which folder.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// It belongs to somebody else.
    #[error(
        "the state folder {path} belongs to user {owner}, not to {ours}; run as that user, or name another with --state"
    )]
    Foreign {
        /// Which folder.
        path: PathBuf,
        /// Its owner's uid.
        owner: u32,
        /// Our uid.
        ours: u32,
    },
}

/// The folder that holds one folder for each fleet: `/var/lib/baton` for root, else `$XDG_STATE_HOME/baton`, else
/// `~/.local/state/baton`. It may not exist yet.
///
/// # Errors
/// [`StateDirError::NoHome`].
pub fn default_root() -> Result<PathBuf, StateDirError> {
    let folder = |name| std::env::var_os(name).map(PathBuf::from);
    root_for(rustix::process::geteuid().is_root(), folder("XDG_STATE_HOME"), folder("HOME"))
}

/// A relative path counts as unset, as the XDG base directory specification asks for.
fn root_for(is_root: bool, state_home: Option<PathBuf>, home: Option<PathBuf>) -> Result<PathBuf, StateDirError> {
    if is_root {
        return Ok(PathBuf::from("/var/lib/baton"));
    }
    let absolute = |path: &PathBuf| path.is_absolute();
    match (state_home.filter(absolute), home.filter(absolute)) {
        (Some(state), _) => Ok(state.join("baton")),
        (None, Some(home)) => Ok(home.join(".local/state/baton")),
        (None, None) => Err(StateDirError::NoHome),
    }
}

/// Makes the folder and what is missing above it, each 0700, and refuses one that others can change.
///
/// # Errors
/// [`StateDirError`].
pub fn create(path: &Path) -> Result<(), StateDirError> {
    let failed = |source| StateDirError::Io { path: path.to_owned(), source };
    let missing: Vec<PathBuf> = path.ancestors().take_while(|above| !above.exists()).map(Path::to_owned).collect();
    match DirBuilder::new().recursive(true).mode(0o700).create(path) {
        Ok(()) => {}
        Err(_) if path.exists() && !path.is_dir() => {
            return Err(StateDirError::NotAFolder { path: path.to_owned() });
        }
        Err(error) => return Err(failed(error)),
    }
    for made in missing.iter().filter(|made| !made.as_os_str().is_empty()) {
        super::files::sync_folder(super::files::folder_of(made)).map_err(failed)?;
    }
    check(path)
}

/// Refuses a folder that others can change.
///
/// # Errors
/// [`StateDirError`].
pub fn check(path: &Path) -> Result<(), StateDirError> {
    let metadata = fs::metadata(path).map_err(|source| StateDirError::Io { path: path.to_owned(), source })?;
    let (mode, owner, ours) = (metadata.mode() & 0o7777, metadata.uid(), rustix::process::geteuid().as_raw());
    if !metadata.is_dir() {
        Err(StateDirError::NotAFolder { path: path.to_owned() })
    } else if owner != ours {
        Err(StateDirError::Foreign { path: path.to_owned(), owner, ours })
    } else if mode & 0o022 != 0 {
        Err(StateDirError::WritableByOthers { path: path.to_owned(), mode })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_default_follows_the_user() {
        let path = |text: &str| Some(PathBuf::from(text));
        let cases = [
            (true, path("/x"), path("/root"), Some("/var/lib/baton")),
            (false, path("/x/state"), path("/home/a"), Some("/x/state/baton")),
            (false, path("relative"), path("/home/a"), Some("/home/a/.local/state/baton")),
            (false, None, path("/home/a"), Some("/home/a/.local/state/baton")),
            (false, None, None, None),
            (false, path(""), path(""), None),
        ];
        for (is_root, state, home, expected) in cases {
            assert_eq!(root_for(is_root, state, home).ok(), expected.map(PathBuf::from));
        }
    }

    #[test]
    fn folders_are_made_private_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b");
        create(&path).unwrap();
        create(&path).unwrap();
        for made in [folder.path().join("a"), path] {
            assert_eq!(fs::metadata(made).unwrap().mode() & 0o7777, 0o700);
        }
    }

    #[test]
    fn a_folder_that_others_can_change_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        for mode in [0o770, 0o702, 0o777] {
            fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = create(folder.path()).unwrap_err().to_string();
            assert!(error.contains(&format!("chmod go-w {}", folder.path().display())), "{error}");
        }
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
        create(folder.path()).unwrap();
    }

    #[test]
    fn what_is_no_folder_or_not_ours_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, b"").unwrap();
        assert!(matches!(create(&file), Err(StateDirError::NotAFolder { .. })));
        assert!(matches!(create(&file.join("below")), Err(StateDirError::Io { .. })));
        let foreign = folder.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        if std::os::unix::fs::chown(&foreign, Some(12345), None).is_ok() {
            assert!(matches!(create(&foreign), Err(StateDirError::Foreign { owner: 12345, .. })));
        }
    }
}
