//! Files that are there whole or not at all.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Puts `bytes` at `path` with the permissions `mode`: written beside it, synced, renamed, and the folder synced, so
/// that after a crash the old content or the new one is there.
///
/// # Errors
/// When a step fails; the old content is still there, unless only the folder's sync failed.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    put(path, bytes, mode, None)
}

/// The same to a file of somebody else: its mode and its owner are kept, and a link is followed. One that is not there
/// is made with the permissions `mode`; one that root makes belongs to whom its folder does, who would have made it.
///
/// # Errors
/// As [`write_atomic`]; and when the owner could not be kept.
pub fn rewrite(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let path = followed(path)?;
    match fs::metadata(&path) {
        Ok(about) => put(&path, bytes, about.mode() & 0o7777, Some((about.uid(), about.gid()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = fs::metadata(folder_of(&path))?;
            let owner = rustix::process::geteuid().is_root().then(|| (folder.uid(), folder.gid()));
            put(&path, bytes, mode, owner)
        }
        Err(error) => Err(error),
    }
}

/// What a path leads to at last, which need not be there.
fn followed(path: &Path) -> io::Result<PathBuf> {
    // As many as the kernel follows.
    const LINKS_MAX: usize = 40;
    let mut at = path.to_owned();
    for _ in 0..LINKS_MAX {
        match fs::read_link(&at) {
            Ok(target) => at = folder_of(&at).join(target),
            // No link, or nothing.
            Err(_) => return Ok(at),
        }
    }
    Err(io::Error::other(format!("{} is a link that leads nowhere", path.display())))
}

fn put(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let beside = beside(path)?;
    let written = write_synced(&beside, bytes, mode, owner).and_then(|()| fs::rename(&beside, path));
    if let Err(error) = written {
        // Best effort: what is left behind has a name that nobody reads.
        let _ = fs::remove_file(&beside);
        return Err(error);
    }
    sync_folder(folder_of(path))
}

fn write_synced(path: &Path, bytes: &[u8], mode: u32, owner: Option<(u32, u32)>) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode & 0o600).open(path)?;
    let about = file.metadata()?;
    if let Some((uid, gid)) = owner.filter(|owner| *owner != (about.uid(), about.gid())) {
        std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
    }
    // The mode of `open` goes through the umask; this one does not.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// A new name in the same folder. Hidden, and with the mark that [`is_leftover`] knows.
fn beside(path: &Path) -> io::Result<PathBuf> {
    let name = path
        .file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no file", path.display())))?;
    let mut hidden = OsString::from(".");
    hidden.push(name);
    hidden.push(format!(".{}{LEFTOVER}", super::random::id()?));
    Ok(path.with_file_name(hidden))
}

const LEFTOVER: &str = ".partial";

/// Whether the file is what a crash in [`write_atomic`] left behind. Whoever lists a folder skips it.
pub fn is_leftover(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    name.starts_with('.') && name.ends_with(LEFTOVER)
}

/// The folder that a path lies in; `.` for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Makes names added to or taken from a folder survive a power loss.
///
/// # Errors
/// When the folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_replaced_whole_with_the_mode_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("table.json");
        write_atomic(&path, b"one", 0o600).unwrap();
        write_atomic(&path, b"two", 0o644).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o644);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "something was left beside the file");
    }

    #[test]
    fn a_failure_leaves_the_old_content_and_no_leftover() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("taken");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("inside"), b"old").unwrap();
        assert!(write_atomic(&path, b"new", 0o600).is_err(), "a folder was replaced by a file");
        assert_eq!(fs::read(path.join("inside")).unwrap(), b"old");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(write_atomic(Path::new("/"), b"x", 0o600).is_err());
    }

    #[test]
    fn a_file_of_somebody_else_keeps_its_mode_and_owner_and_a_link_is_followed() {
        let folder = tempfile::tempdir().unwrap();
        let (real, link) = (folder.path().join("real"), folder.path().join("link"));
        std::os::unix::fs::symlink("real", &link).unwrap();
        rewrite(&link, b"made", 0o640).unwrap();
        assert_eq!((fs::read(&real).unwrap(), fs::metadata(&real).unwrap().mode() & 0o7777), (b"made".to_vec(), 0o640));
        fs::set_permissions(&real, fs::Permissions::from_mode(0o444)).unwrap();
        let foreign = std::os::unix::fs::chown(&real, Some(12_345), Some(54_321)).is_ok();
        rewrite(&link, b"changed", 0o600).unwrap();
        let about = fs::metadata(&real).unwrap();
        assert_eq!((fs::read(&real).unwrap(), about.mode() & 0o7777), (b"changed".to_vec(), 0o444));
        assert!(!foreign || (about.uid(), about.gid()) == (12_345, 54_321));
        assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        std::os::unix::fs::symlink("round", folder.path().join("round")).unwrap();
        assert!(rewrite(&folder.path().join("round"), b"x", 0o600).is_err());
    }

    #[test]
    fn a_file_that_root_makes_belongs_to_whom_its_folder_does() {
        let folder = tempfile::tempdir().unwrap();
        if std::os::unix::fs::chown(folder.path(), Some(12_345), Some(54_321)).is_err() {
            return; // not root
        }
        rewrite(&folder.path().join("made"), b"made", 0o644).unwrap();
        let about = fs::metadata(folder.path().join("made")).unwrap();
        assert_eq!((about.uid(), about.gid(), about.mode() & 0o777), (12_345, 54_321, 0o644));
    }

    #[test]
    fn leftovers_are_told_from_files() {
        assert!(is_leftover(&beside(Path::new("/a/b")).unwrap()));
        assert!(!is_leftover(Path::new("/a/b.partial")));
        assert!(!is_leftover(Path::new("/a/.hidden")));
    }
}
