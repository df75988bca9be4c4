//! The journal's file: made whole or not at all, private, and readable where nothing may be written.

use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::JournalError;
use super::fault::{StorageFault, damage_words, is_damage};
use super::tail;
use crate::sys::files::{folder_of, sync_folder};
use crate::sys::{random, state_dir};

/// The format of the file: its tables and what is hashed.
pub(super) const FORMAT: u32 = 1;

/// `BATN`, so that `file` and people can tell it from other databases.
const APPLICATION_ID: i32 = 0x4241_544e;

/// 3.51.3, the first SQLite in which two connections that write and checkpoint together cannot corrupt a WAL database.
const LEAST_SQLITE: i32 = 3_051_003;

/// How long to wait for another connection. Writers are kept apart by a lock on the state directory; what is left is a
/// reader that recovers the log, which takes milliseconds.
const BUSY_WAIT: Duration = Duration::from_secs(2);

/// The log is cut back to this size when it is begun anew: a single huge record does not keep its space for ever.
const LOG_SIZE_LIMIT: u32 = 8 * 1024 * 1024;

const TABLES: &str = "
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
    CREATE TABLE records (
        sequence INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        wall_ms INTEGER NOT NULL,
        boot_id TEXT NOT NULL,
        boottime_ms INTEGER NOT NULL,
        roll TEXT NOT NULL,
        term INTEGER NOT NULL,
        actor TEXT NOT NULL,
        kind TEXT NOT NULL,
        codec INTEGER NOT NULL,
        payload TEXT NOT NULL,
        hash TEXT NOT NULL
    ) STRICT;";

/// What the `meta` table says.
#[derive(Clone, Debug)]
pub(super) struct Meta {
    pub(super) fleet: String,
    pub(super) kind: String,
}

/// A connection and what has to be removed when it is closed.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) connection: Connection,
    // Dropped after the connection: fields are dropped in order.
    _copy: Option<Scratch>,
}

pub(super) fn open_error(path: &Path, source: impl std::error::Error + Send + Sync + 'static) -> JournalError {
    JournalError::Open { path: path.display().to_string(), source: Box::new(source) }
}

/// What an error of SQLite means while record `sequence` is read.
pub(super) fn read_error(path: &Path, sequence: u64, error: rusqlite::Error) -> JournalError {
    if is_damage(&error) {
        JournalError::Damaged { path: path.display().to_string(), sequence, why: damage_words(&error) }
    } else {
        open_error(path, StorageFault::of(error, folder_of(path)))
    }
}

pub(super) fn check_sqlite() -> Result<(), StorageFault> {
    check_sqlite_version(rusqlite::version_number())
}

fn check_sqlite_version(number: i32) -> Result<(), StorageFault> {
    if number < LEAST_SQLITE { Err(StorageFault::OldSqlite { found: rusqlite::version() }) } else { Ok(()) }
}

/// Opens the journal to write, and makes it when it is not there.
pub(super) fn open(path: &Path, fleet: &str, kind: &str) -> Result<Store, JournalError> {
    check_sqlite().map_err(|fault| open_error(path, fault))?;
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => create(path, fleet, kind)?,
        Err(error) => return Err(open_error(path, StorageFault::Io(error))),
        Ok(there) if !there.is_file() => return Err(open_error(path, StorageFault::NotAFile)),
        Ok(there) if there.permissions().mode() & 0o077 != 0 => {
            let mode = there.permissions().mode() & 0o7777;
            return Err(open_error(path, StorageFault::NotPrivate { path: path.to_owned(), mode }));
        }
        Ok(_) => {}
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags).map_err(|error| read_error(path, 0, error))?;
    let prepare = || -> Result<String, rusqlite::Error> {
        connection.busy_timeout(BUSY_WAIT)?;
        guard(&connection)?;
        let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update_and_check(None, "journal_size_limit", LOG_SIZE_LIMIT, |_| Ok(()))?;
        Ok(mode)
    };
    match prepare().map_err(|error| read_error(path, 0, error))? {
        mode if mode == "wal" => Ok(Store { connection, _copy: None }),
        mode => Err(open_error(path, StorageFault::NoWriteAheadLog { mode })),
    }
}

/// No memory map (an I/O error would be a signal, and a stray write damage), nothing run that a damaged schema says.
fn guard(connection: &Connection) -> Result<(), rusqlite::Error> {
    connection.pragma_update_and_check(None, "mmap_size", 0, |_| Ok(()))?;
    connection.pragma_update(None, "trusted_schema", "OFF")?;
    connection.pragma_update(None, "cell_size_check", "ON")
}

/// Makes an empty journal under another name and gives it its own when it is whole. So a file of no length is never
/// one that is being made: it is damage.
fn create(path: &Path, fleet: &str, kind: &str) -> Result<(), JournalError> {
    for left in [tail::path_of(path), log_of(path)] {
        if left.exists() {
            return Err(JournalError::Damaged {
                path: path.display().to_string(),
                sequence: 0,
                why: format!(
                    "the file is gone, and {} shows that it was there; to begin a new journal, remove that too",
                    left.display()
                ),
            });
        }
    }
    let io = |error: std::io::Error| match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT) => {
            open_error(path, StorageFault::Full { folder: folder_of(path).to_owned() })
        }
        Some(rustix::io::Errno::ROFS | rustix::io::Errno::ACCESS) => {
            open_error(path, StorageFault::ReadOnly { folder: folder_of(path).to_owned() })
        }
        _ => open_error(path, StorageFault::Io(error)),
    };
    let id = random::id().map_err(io)?;
    let beside = path.with_file_name(format!(".journal.{id}.partial"));
    // Made here and not by SQLite, so that it is private from its first instant.
    let made = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside);
    let file = made.map_err(io)?;
    let filled = fill(&beside, fleet, kind).map_err(|error| read_error(path, 0, error));
    let placed = filled.and_then(|()| {
        file.sync_all().map_err(io)?;
        // Not `rename`: a journal that somebody else made meanwhile is not replaced.
        std::fs::hard_link(&beside, path).map_err(io)
    });
    let removed = std::fs::remove_file(&beside);
    placed?;
    removed.and_then(|()| sync_folder(folder_of(path))).map_err(io)
}

fn fill(path: &Path, fleet: &str, kind: &str) -> Result<(), rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update_and_check(None, "journal_mode", "MEMORY", |_| Ok(()))?;
    connection.pragma_update(None, "application_id", APPLICATION_ID)?;
    connection.execute_batch(TABLES)?;
    for (key, value) in [("format", FORMAT.to_string().as_str()), ("fleet", fleet), ("kind", kind)] {
        connection.execute("INSERT INTO meta (key, value) VALUES (?1, ?2)", (key, value))?;
    }
    connection.close().map_err(|(_, error)| error)
}

/// SQLite's write-ahead log.
fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    PathBuf::from(name)
}

/// Reads what the file says about itself, and refuses a newer format before anything else is believed.
pub(super) fn meta(path: &Path, connection: &Connection) -> Result<Meta, JournalError> {
    let value = |key: &str| {
        connection
            .query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get::<_, String>(0))
            .map_err(|error| read_error(path, 0, error))
    };
    let format = value("format")?;
    match format.parse::<u32>() {
        Ok(FORMAT) => Ok(Meta { fleet: value("fleet")?, kind: value("kind")? }),
        Ok(found) if found > FORMAT => {
            Err(JournalError::Newer { path: path.display().to_string(), found, known: FORMAT })
        }
        _ => {
            let why = format!("its format is {format:?}, which never was one");
            Err(JournalError::Damaged { path: path.display().to_string(), sequence: 0, why })
        }
    }
}

/// Opens the journal to read, also from a folder in which nothing can be written.
///
/// SQLite needs a file of its own beside a database with a write-ahead log. Where it cannot make one, a journal without
/// a log is read as it is, and one with a log is copied to a private folder first.
pub(super) fn open_read_only(path: &Path) -> Result<Store, JournalError> {
    check_sqlite().map_err(|fault| open_error(path, fault))?;
    match std::fs::metadata(path) {
        Ok(there) if there.is_file() => {}
        Ok(_) => return Err(open_error(path, StorageFault::NotAFile)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(JournalError::Missing { path: path.display().to_string() });
        }
        Err(error) => return Err(open_error(path, StorageFault::Io(error))),
    }
    match connect_to_read(path.as_os_str().to_owned(), OpenFlags::empty()) {
        Ok(connection) => Ok(Store { connection, _copy: None }),
        Err(error) if cannot_write_beside(&error) => {
            let read = if std::fs::metadata(log_of(path)).is_ok_and(|log| log.len() > 0) {
                read_copy(path)
            } else {
                connect_to_read(immutable_uri(path), OpenFlags::SQLITE_OPEN_URI)
                    .map(|connection| Store { connection, _copy: None })
                    .map_err(|error| read_error(path, 0, error))
            };
            // A copy may be unreadable for the reason that the original is.
            read.map_err(|second| if std::fs::File::open(path).is_ok() { second } else { read_error(path, 0, error) })
        }
        Err(error) => Err(read_error(path, 0, error)),
    }
}

/// Connects and reads once: SQLite opens nothing before the first read.
fn connect_to_read(name: std::ffi::OsString, more: OpenFlags) -> Result<Connection, rusqlite::Error> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | more;
    let connection = Connection::open_with_flags(PathBuf::from(name), flags)?;
    connection.busy_timeout(BUSY_WAIT)?;
    guard(&connection)?;
    connection.query_row("SELECT count(*) FROM sqlite_schema", [], |_| Ok(()))?;
    Ok(connection)
}

fn cannot_write_beside(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::SystemIoFailure)
    )
}

fn immutable_uri(path: &Path) -> std::ffi::OsString {
    use std::os::unix::ffi::OsStrExt;
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let mut uri = String::from("file://");
    for byte in absolute.as_os_str().as_bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' => uri.push(char::from(*byte)),
            other => uri.push_str(&format!("%{other:02X}")),
        }
    }
    uri.push_str("?immutable=1");
    uri.into()
}

/// A private folder that is removed with this.
#[derive(Debug)]
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn read_copy(path: &Path) -> Result<Store, JournalError> {
    let io = |error| open_error(path, StorageFault::Io(error));
    let folder = std::env::temp_dir().join(format!("baton-read-{}", random::id().map_err(io)?));
    state_dir::create(&folder).map_err(|error| open_error(path, error))?;
    let scratch = Scratch(folder);
    let copy = scratch.0.join("journal.db");
    std::fs::copy(path, &copy).map_err(io)?;
    std::fs::copy(log_of(path), log_of(&copy)).map_err(io)?;
    for file in [&copy, &log_of(&copy)] {
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(0o600)).map_err(io)?;
    }
    let connection = connect_to_read(copy.into(), OpenFlags::empty()).map_err(|error| read_error(path, 0, error))?;
    Ok(Store { connection, _copy: Some(scratch) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_sqlite_with_the_log_reset_fault_is_refused() {
        check_sqlite().unwrap();
        assert!(check_sqlite_version(3_051_003).is_ok());
        assert!(matches!(check_sqlite_version(3_051_002), Err(StorageFault::OldSqlite { .. })));
    }

    #[test]
    fn a_path_becomes_a_uri_that_names_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a b?c#d%e.db");
        fill_at(&path);
        let connection = connect_to_read(immutable_uri(&path), OpenFlags::SQLITE_OPEN_URI).unwrap();
        assert_eq!(meta(&path, &connection).unwrap().fleet, "orders");
    }

    fn fill_at(path: &Path) {
        create(path, "orders", "ledger").unwrap();
    }
}
