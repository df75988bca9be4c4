//! A journal in one SQLite file: write-ahead log, `synchronous=FULL`, one writer.

use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rusqlite::{OptionalExtension, Row as SqlRow, Transaction, TransactionBehavior};

use super::codec::{CODEC, CodecError, Hash, Row, decode, first_hash, hex, unhex};
use super::fault::{StorageFault, damage_words, is_damage, with_causes};
use super::storage::{self, Meta, Store, open_error, read_error};
use super::tail::{self, TailWriter, Witness};
use super::{Entry, Head, Journal, JournalError};
use crate::model::{FleetName, Recordable, Timestamp};
use crate::sys::files::folder_of;

/// What a journal is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JournalKind {
    /// A fleet's rolls.
    Coordinator,
    /// An agent's intents and outcomes.
    Ledger,
}

impl JournalKind {
    fn as_str(self) -> &'static str {
        match self {
            JournalKind::Coordinator => "coordinator",
            JournalKind::Ledger => "ledger",
        }
    }
}

static COORDINATOR_SYNCS: AtomicU64 = AtomicU64::new(0);
static LEDGER_SYNCS: AtomicU64 = AtomicU64::new(0);

/// How often this process has synced journals of this kind since it started, all of them together: what a roll costs
/// is counted from outside of the loops that own them.
pub fn syncs_so_far(kind: JournalKind) -> u64 {
    counter(kind).load(Ordering::Relaxed)
}

fn counter(kind: JournalKind) -> &'static AtomicU64 {
    match kind {
        JournalKind::Coordinator => &COORDINATOR_SYNCS,
        JournalKind::Ledger => &LEDGER_SYNCS,
    }
}

/// A journal in a file of its own.
///
/// It does not lock its folder: whoever writes holds the lock of the state directory. A second writer is found out by
/// the position all the same ([`JournalError::Moved`]).
#[derive(Debug)]
pub struct SqliteJournal<R> {
    store: Store,
    path: PathBuf,
    meta: Meta,
    /// The last record: what the next one is chained to.
    last: Last,
    access: Access,
    kind: JournalKind,
    syncs: u64,
    _record: PhantomData<fn() -> R>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Last {
    sequence: u64,
    hash: Hash,
}

#[derive(Debug)]
enum Access {
    Write(TailWriter),
    Read,
    /// An append failed: what is on disk is not known.
    Halted,
}

const COLUMNS: &str = "sequence, at, wall_ms, boot_id, boottime_ms, roll, term, actor, kind, codec, payload, hash";

impl<R: Recordable> SqliteJournal<R> {
    /// Opens the journal to write; makes it when it is not there. Private to its user (0600), in an existing folder.
    ///
    /// # Errors
    /// [`JournalError::Open`] with a [`StorageFault`], [`JournalError::Newer`], or [`JournalError::Damaged`] when what
    /// stands before the records, or the last record, is not what was written. Earlier records are checked as they are
    /// read.
    pub fn open(path: &Path, fleet: &FleetName, kind: JournalKind) -> Result<Self, JournalError> {
        // Before the journal itself, which nobody may have written to in between.
        let witness = tail::read(path);
        let store = storage::open(path, fleet.as_str(), kind.as_str())?;
        let meta = storage::meta(path, &store.connection)?;
        if meta.fleet != fleet.as_str() || meta.kind != kind.as_str() {
            let fault = StorageFault::Foreign {
                found_fleet: meta.fleet,
                found_kind: meta.kind,
                fleet: fleet.to_string(),
                kind: kind.as_str().to_owned(),
            };
            return Err(open_error(path, fault));
        }
        let tail = TailWriter::open(path).map_err(|error| open_error(path, StorageFault::Io(error)))?;
        Self::with(path, store, meta, Access::Write(tail), witness)
    }

    /// Opens the journal to read while nobody writes to it, or beside the one who does. The folder may be read-only.
    ///
    /// # Errors
    /// [`JournalError::Missing`], and as [`SqliteJournal::open`].
    pub fn open_read_only(path: &Path) -> Result<Self, JournalError> {
        let witness = tail::read(path);
        let store = storage::open_read_only(path)?;
        let meta = storage::meta(path, &store.connection)?;
        Self::with(path, store, meta, Access::Read, witness)
    }

    fn with(
        path: &Path,
        store: Store,
        meta: Meta,
        access: Access,
        witness: Option<Witness>,
    ) -> Result<Self, JournalError> {
        let start = Last { sequence: 0, hash: first_hash(&meta.fleet, &meta.kind) };
        let kind = match meta.kind.as_str() {
            "ledger" => JournalKind::Ledger,
            _ => JournalKind::Coordinator,
        };
        let mut journal =
            Self { store, path: path.to_owned(), meta, last: start, access, kind, syncs: 0, _record: PhantomData };
        journal.last = journal.find_last()?;
        if let Some(witness) = witness {
            journal.check_witness(&witness)?;
        }
        Ok(journal)
    }

    /// The fleet that it belongs to.
    pub fn fleet(&self) -> &str {
        &self.meta.fleet
    }

    /// The sequence of the last record that was there when it was opened or that it appended; 0: none.
    pub fn last(&self) -> u64 {
        self.last.sequence
    }

    fn damaged(&self, sequence: u64, why: impl Into<String>) -> JournalError {
        JournalError::Damaged { path: self.name(), sequence, why: why.into() }
    }

    fn start(&self) -> Last {
        Last { sequence: 0, hash: first_hash(&self.meta.fleet, &self.meta.kind) }
    }

    fn find_last(&self) -> Result<Last, JournalError> {
        let found = self
            .store
            .connection
            .prepare_cached("SELECT sequence, hash FROM records ORDER BY sequence DESC LIMIT 1")
            .and_then(|mut last| last.query_row([], last_of).optional())
            .map_err(|error| read_error(&self.path, 0, error))?;
        match found {
            None => Ok(self.start()),
            Some((sequence, hash)) => self.parsed(sequence, &hash),
        }
    }

    fn parsed(&self, sequence: i64, hash: &str) -> Result<Last, JournalError> {
        match (u64::try_from(sequence), unhex(hash)) {
            (Ok(sequence), Some(hash)) if sequence > 0 => Ok(Last { sequence, hash }),
            (sequence, _) => Err(self.damaged(sequence.unwrap_or(0), "its number or its hash is not one")),
        }
    }

    fn hash_of(&self, sequence: u64) -> Result<Option<Hash>, JournalError> {
        if sequence == 0 {
            return Ok(Some(self.start().hash));
        }
        let asked = i64::try_from(sequence).unwrap_or(i64::MAX);
        let found = self
            .store
            .connection
            .query_row("SELECT sequence, hash FROM records WHERE sequence = ?1", [asked], last_of)
            .optional()
            .map_err(|error| read_error(&self.path, sequence, error))?;
        found.map(|(sequence, hash)| Ok(self.parsed(sequence, &hash)?.hash)).transpose()
    }

    fn check_witness(&self, witness: &Witness) -> Result<(), JournalError> {
        if witness.sequence > self.last.sequence {
            let why = format!(
                "the journal ends before it, and {} says that it went on to record {} (remove that file if an older \
                 journal was put here on purpose)",
                tail::path_of(&self.path).display(),
                witness.sequence
            );
            return Err(self.damaged(self.last.sequence + 1, why));
        }
        match self.hash_of(witness.sequence)? {
            Some(hash) if hash == witness.hash => Ok(()),
            _ => Err(self.damaged(witness.sequence, "it is not the record that was written there")),
        }
    }

    fn append_error(&self, error: impl std::error::Error + Send + Sync + 'static) -> JournalError {
        JournalError::Append { path: self.name(), source: Box::new(error) }
    }

    /// What an error of SQLite means while something is written.
    fn write_error(&self, error: rusqlite::Error) -> JournalError {
        if is_damage(&error) {
            self.damaged(self.last.sequence, damage_words(&error))
        } else {
            self.append_error(StorageFault::of(error, folder_of(&self.path)))
        }
    }

    fn encode(&self, expected: u64, entries: &[Entry<R>]) -> Result<Vec<Row>, JournalError> {
        let mut rows: Vec<Row> = Vec::with_capacity(entries.len());
        for (place, entry) in (expected.saturating_add(1)..).zip(entries) {
            if entry.head.sequence != place {
                let found = entry.head.sequence;
                return Err(self.append_error(StorageFault::OutOfOrder { expected: place, found }));
            }
            let before = rows.last().map_or(&self.last.hash, |row| &row.hash);
            rows.push(Row::new(before, entry).map_err(|error| self.append_error(error))?);
        }
        Ok(rows)
    }

    /// One transaction, one sync.
    fn write(&self, expected: u64, rows: &[Row]) -> Result<(), JournalError> {
        let failed = |error| self.write_error(error);
        // Rolled back when it is dropped without a commit. Immediate: the position read in it cannot move any more.
        let transaction =
            Transaction::new_unchecked(&self.store.connection, TransactionBehavior::Immediate).map_err(failed)?;
        let found = self.find_last()?;
        for expected in [expected, self.last.sequence] {
            if found.sequence != expected {
                return Err(JournalError::Moved { path: self.name(), expected, found: found.sequence });
            }
        }
        if found.hash != self.last.hash {
            return Err(self.damaged(found.sequence, "another record stands where the last one was written"));
        }
        for row in rows {
            insert(&transaction, row).map_err(failed)?;
        }
        transaction.commit().map_err(failed)
    }
}

impl<R: Recordable> Journal<R> for SqliteJournal<R> {
    fn append(&mut self, expected: u64, entries: &[Entry<R>]) -> Result<(), JournalError> {
        if entries.is_empty() {
            return Ok(());
        }
        match &self.access {
            Access::Write(_) => {}
            Access::Read => {
                let folder = folder_of(&self.path).to_owned();
                return Err(self.append_error(StorageFault::ReadOnly { folder }));
            }
            Access::Halted => return Err(self.append_error(StorageFault::Halted)),
        }
        let written = self.encode(expected, entries).and_then(|rows| {
            self.write(expected, &rows)?;
            Ok(rows)
        });
        let rows = match written {
            Ok(rows) => rows,
            Err(error) => {
                self.access = Access::Halted;
                return Err(error);
            }
        };
        self.syncs += 1;
        counter(self.kind).fetch_add(1, Ordering::Relaxed);
        if let (Some(row), Access::Write(tail)) = (rows.last(), &mut self.access) {
            self.last = Last { sequence: row.head.sequence, hash: row.hash };
            tail.write(self.last.sequence, &self.last.hash);
        }
        Ok(())
    }

    fn replay(
        &self,
        after: u64,
        each: &mut dyn FnMut(Entry<R>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let Some(hash) = self.hash_of(after)? else {
            return Err(self.damaged(after, "it is missing"));
        };
        let mut before = Last { sequence: after, hash };
        let failed = |before: &Last, error| read_error(&self.path, before.sequence.saturating_add(1), error);
        let select = format!("SELECT {COLUMNS} FROM records WHERE sequence > ?1 ORDER BY sequence");
        let mut statement = self.store.connection.prepare(&select).map_err(|error| failed(&before, error))?;
        let mut rows = statement.query([after.cast_signed()]).map_err(|error| failed(&before, error))?;
        while let Some(row) = rows.next().map_err(|error| failed(&before, error))? {
            let row = row_of(row).map_err(|error| failed(&before, error))?;
            let (expected, sequence) = (before.sequence.saturating_add(1), row.head.sequence);
            if sequence != expected {
                return Err(self.damaged(expected, format!("it is missing, the next one is {sequence}")));
            }
            if !row.follows(&before.hash) {
                return Err(self.damaged(sequence, "its content does not match its hash"));
            }
            before = Last { sequence, hash: row.hash };
            let record = decode(row.codec, &row.kind, &row.payload).map_err(|error| match error {
                CodecError::Version { found } if found > CODEC => {
                    JournalError::Newer { path: self.name(), found, known: CODEC }
                }
                error => self.damaged(sequence, with_causes(&error)),
            })?;
            each(Entry { head: row.head, record })?;
        }
        if before.sequence < self.last.sequence {
            let why = format!("it is missing, there were {}", self.last.sequence);
            return Err(self.damaged(before.sequence.saturating_add(1), why));
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn syncs(&self) -> u64 {
        self.syncs
    }
}

/// SQLite's integers are signed: the same 64 bits, both ways.
fn insert(transaction: &Transaction<'_>, row: &Row) -> Result<(), rusqlite::Error> {
    let Row { head, kind, codec, payload, hash } = row;
    let values = rusqlite::params![
        head.sequence.cast_signed(),
        head.at.0.cast_signed(),
        head.wall_ms.cast_signed(),
        head.boot_id,
        head.boottime_ms.cast_signed(),
        head.roll,
        head.term.cast_signed(),
        head.actor,
        kind,
        codec,
        payload,
        hex(hash),
    ];
    let places = "?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12";
    transaction.prepare_cached(&format!("INSERT INTO records ({COLUMNS}) VALUES ({places})"))?.execute(values)?;
    Ok(())
}

fn last_of(row: &SqlRow<'_>) -> Result<(i64, String), rusqlite::Error> {
    Ok((row.get(0)?, row.get(1)?))
}

fn row_of(row: &SqlRow<'_>) -> Result<Row, rusqlite::Error> {
    let number = |column: usize| row.get::<_, i64>(column).map(i64::cast_unsigned);
    let head = Head {
        sequence: number(0)?,
        at: Timestamp(number(1)?),
        wall_ms: number(2)?,
        boot_id: row.get(3)?,
        boottime_ms: number(4)?,
        roll: row.get(5)?,
        term: number(6)?,
        actor: row.get(7)?,
    };
    let hash: String = row.get(11)?;
    let hash = unhex(&hash).ok_or_else(|| {
        rusqlite::Error::FromSqlConversionFailure(11, rusqlite::types::Type::Text, "it is no hash".into())
    })?;
    Ok(Row { head, kind: row.get(8)?, codec: row.get(9)?, payload: row.get(10)?, hash })
}

#[cfg(test)]
mod tests;
