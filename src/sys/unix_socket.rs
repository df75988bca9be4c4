//! Unix sockets by path: private to their owner, replaced when stale, and at paths of any length.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, open};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::files::folder_of;

/// The kernel's limit for the path of a Unix socket, in bytes (`sun_path` less its final zero).
const PATH_MAX: usize = 107;

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;

/// A name for a socket that fits the kernel's limit. A path that does not fit is reached through its open folder
/// (`/proc/self/fd/N/name`), so the name holds as long as this lives and in this process only.
#[derive(Debug)]
pub struct ShortPath {
    path: PathBuf,
    _folder: Option<OwnedFd>,
}

impl ShortPath {
    /// Finds a name that fits.
    ///
    /// # Errors
    /// When the folder cannot be opened, or the last part of the path is too long by itself.
    pub fn new(path: &Path) -> io::Result<Self> {
        if path.as_os_str().len() <= PATH_MAX {
            return Ok(Self { path: path.to_owned(), _folder: None });
        }
        let name = file_name(path)?;
        let folder = open(folder_of(path), OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd())).join(name);
        if short.as_os_str().len() > PATH_MAX {
            let why = format!("the socket name {} is too long", name.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(Self { path: short, _folder: Some(folder) })
    }

    /// The name that fits.
    pub fn as_path(&self) -> &Path {
        &self.path
    }
}

fn file_name(path: &Path) -> io::Result<&std::ffi::OsStr> {
    path.file_name()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{} names no socket", path.display())))
}

/// Listens at `path` for connections of this user only (0600). A stale socket, one that nobody listens on, is replaced
/// in one step; a live one, or something that is no socket, is left alone.
///
/// The check for a live one is no lock: whoever may meet a second of its kind holds one (see [`super::lock`]).
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] when somebody listens there, [`io::ErrorKind::AlreadyExists`] when it is no socket, and
/// whatever the file system says.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if !there.file_type().is_socket() => {
            let why = format!("{} is there and is no socket; remove it or name another path", path.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
        }
        Ok(_) => match connect(path) {
            Ok(_) => {
                let why = format!("another process listens on {}", path.display());
                return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    // Bound under another name, made private, and only then renamed: the socket is never seen with other permissions,
    // and there is no moment without one.
    let mut hidden = OsString::from(format!(".{}-", super::random::id()?));
    hidden.push(file_name(path)?);
    let beside = path.with_file_name(hidden);
    let bound = bind_private(&beside).and_then(|listener| {
        std::fs::rename(&beside, path)?;
        Ok(listener)
    });
    if bound.is_err() {
        let _ = std::fs::remove_file(&beside);
    }
    bound
}

fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let short = ShortPath::new(path)?;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(short.as_path())?)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(UnixListener::from(socket))
}

/// Connects to the socket at `path`. It blocks while the listener's queue is full; a caller that must not block uses
/// [`ShortPath`] with a connect of its own.
///
/// # Errors
/// [`io::ErrorKind::NotFound`], [`io::ErrorKind::ConnectionRefused`] when nobody listens, and the rest.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    UnixStream::connect(ShortPath::new(path)?.as_path())
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn talk(listener: &UnixListener, path: &Path) {
        let mut client = connect(path).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"hello").unwrap();
        drop(client);
        let mut text = String::new();
        server.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
    }

    #[test]
    fn a_socket_is_private_and_a_stale_one_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        let first = listen(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        talk(&first, &path);
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(path.exists());
        talk(&listen(&path).unwrap(), &path);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "something was left beside the socket");
    }

    #[test]
    fn a_path_longer_than_the_kernels_limit_works() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("d".repeat(100)).join("e".repeat(100));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("control.sock");
        let listener = listen(&path).unwrap();
        talk(&listener, &path);
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(listener);
        talk(&listen(&path).unwrap(), &path);
        let error = connect(&deep.join("s".repeat(100))).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }

    #[test]
    fn a_path_at_the_limit_is_used_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        for over in [0, 1] {
            let room = PATH_MAX - folder.path().as_os_str().len() - 1 + over;
            let path = folder.path().join("n".repeat(room));
            assert_eq!(path.as_os_str().len(), PATH_MAX + over);
            assert_eq!(ShortPath::new(&path).map(|short| short.as_path() == path).unwrap_or(false), over == 0);
        }
    }

    #[test]
    fn what_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control.sock");
        std::fs::write(&path, b"mine").unwrap();
        assert_eq!(listen(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"mine");
        assert_eq!(connect(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
