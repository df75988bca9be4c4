//! Unix sockets at paths of any length: the system takes 107 bytes, so the folder is opened and named by descriptor.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use tokio::net::{UnixListener, UnixStream};

/// A short way to a file: valid while the folder is held open.
struct ShortPath {
    path: PathBuf,
    _folder: OwnedFd,
}

fn short(path: &Path) -> io::Result<ShortPath> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let folder = rustix::fs::open(folder, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let path = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
    Ok(ShortPath { path, _folder: folder })
}

/// Listens at `path` with mode 0600, in the place of whatever was left there. The caller makes sure that nobody lives
/// there. It appears under its name only with its mode set.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    let new = PathBuf::from(new);
    match std::fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&short(&new)?.path)?;
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new, path)?;
    Ok(listener)
}

/// Connects to the socket at `path`.
pub(super) async fn connect(path: &Path) -> io::Result<UnixStream> {
    let short = short(path)?;
    UnixStream::connect(&short.path).await
}

/// Tells whoever started us, if it wants to know (`NOTIFY_SOCKET`), that we are ready.
pub(super) fn notify_ready() -> io::Result<()> {
    let Some(socket) = std::env::var_os("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()) else { return Ok(()) };
    let sender = UnixDatagram::unbound()?;
    match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => sender.connect_addr(&SocketAddr::from_abstract_name(name)?)?,
        None => sender.connect(&short(Path::new(&socket))?.path)?,
    }
    sender.send(b"READY=1")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_at_a_long_path_is_found_and_is_private() {
        let dir = tempfile::tempdir().expect("a folder");
        let long = dir.path().join("f".repeat(120));
        std::fs::create_dir(&long).expect("a folder");
        let path = long.join("control.sock");
        std::fs::write(&path, "left behind").expect("written");
        let listener = listen(&path).expect("listening");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let (connected, accepted) = tokio::join!(connect(&path), listener.accept());
        assert!(connected.is_ok() && accepted.is_ok());
    }
}
