//! What can be wrong with the place that a journal lies in.

use std::path::PathBuf;

use rusqlite::ErrorCode;

/// Why a journal's file cannot be used though its content may be sound. The cause of [`super::JournalError::Open`] and
/// [`super::JournalError::Append`].
#[derive(Debug, thiserror::Error)]
pub enum StorageFault {
    /// This build's SQLite can corrupt a database that two connections write to (fixed in 3.51.3).
    #[error("SQLite {found} is older than 3.51.3 and may corrupt a journal; build Baton with its bundled SQLite")]
    OldSqlite {
        /// Its version.
        found: &'static str,
    },
    /// It is another fleet's, or not of this kind.
    #[error("it is the {found_kind} of fleet {found_fleet}, not the {kind} of fleet {fleet}")]
    Foreign {
        /// Whose it is.
        found_fleet: String,
        /// What it is.
        found_kind: String,
        /// Whose was asked for.
        fleet: String,
        /// What was asked for.
        kind: String,
    },
    /// Others can read or write it.
    #[error("others can read or write it (mode {mode:04o}); run `chmod 600 {path}`")]
    NotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Something else has its name.
    #[error("it is no plain file")]
    NotAFile,
    /// No space left.
    #[error("no space is left in {folder}; free some, then start again")]
    Full {
        /// Where.
        folder: PathBuf,
    },
    /// It cannot be written.
    #[error("{folder} or a file in it is read-only; make it writable, or name another place with --state")]
    ReadOnly {
        /// Where.
        folder: PathBuf,
    },
    /// Another process is writing to it.
    #[error("another process holds it")]
    Busy,
    /// The file system cannot hold a write-ahead log.
    #[error("its file system cannot hold a write-ahead log (SQLite chose journal mode {mode:?}); use a local disk")]
    NoWriteAheadLog {
        /// What SQLite chose.
        mode: String,
    },
    /// An append failed before. What is on disk is not known, so nothing more is written.
    #[error("an earlier append failed; start again")]
    Halted,
    /// The caller's heads do not go on from the position: a fault of the code.
    #[error("record {found} was to be appended where record {expected} belongs")]
    OutOfOrder {
        /// What belongs there.
        expected: u64,
        /// What was given.
        found: u64,
    },
    /// The operating system refused.
    #[error("the operating system refused")]
    Io(#[source] std::io::Error),
    /// SQLite refused.
    #[error("SQLite refused")]
    Sqlite(#[source] rusqlite::Error),
}

impl StorageFault {
    /// What SQLite's error means for the files in `folder`.
    pub(super) fn of(error: rusqlite::Error, folder: &std::path::Path) -> Self {
        match error.sqlite_error_code() {
            // A file that is mapped to memory cannot grow: SQLite calls that an I/O error.
            Some(ErrorCode::SystemIoFailure) if is_full(folder) => Self::Full { folder: folder.to_owned() },
            Some(ErrorCode::DiskFull) => Self::Full { folder: folder.to_owned() },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly { folder: folder.to_owned() },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy,
            // SQLite could not make its files beside the database, and does not say why.
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) if !is_writable(folder) => {
                Self::ReadOnly { folder: folder.to_owned() }
            }
            _ => Self::Sqlite(error),
        }
    }
}

/// Less is left than SQLite takes for its smallest file beside a journal.
fn is_full(folder: &std::path::Path) -> bool {
    const LEAST: u64 = 64 * 1024;
    rustix::fs::statvfs(folder).is_ok_and(|left| left.f_bavail.saturating_mul(left.f_frsize) < LEAST)
}

fn is_writable(folder: &std::path::Path) -> bool {
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_ok()
}

/// An error with its causes on one line, for what can carry a text only.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(error.source(), |cause| cause.source());
    causes.fold(error.to_string(), |text, cause| format!("{text}: {cause}"))
}

/// What SQLite says of damage. The cause of its own failures says the same again.
pub(super) fn damage_words(error: &rusqlite::Error) -> String {
    match error {
        rusqlite::Error::SqliteFailure(..) => error.to_string(),
        other => with_causes(other),
    }
}

/// Whether SQLite's error says that the content is wrong, rather than the place it lies in.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => matches!(
            failure.code,
            // `Unknown` is SQLITE_ERROR: our statements are right, so the tables are not what they were.
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown | ErrorCode::TypeMismatch
        ),
        rusqlite::Error::SqlInputError { .. } => true,
        rusqlite::Error::FromSqlConversionFailure(..)
        | rusqlite::Error::IntegralValueOutOfRange(..)
        | rusqlite::Error::InvalidColumnType(..)
        | rusqlite::Error::InvalidColumnName(_)
        | rusqlite::Error::InvalidColumnIndex(_)
        | rusqlite::Error::QueryReturnedNoRows
        | rusqlite::Error::Utf8Error(..) => true,
        _ => false,
    }
}
