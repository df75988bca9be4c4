//! The append-only record of what was decided and what happened: resume, history and audit in one.
//!
//! Generic over what is recorded, so that the coordinator's journal and an agent's ledger are the same thing. Beside it
//! lies the [`SpecStore`]: the journal carries digests, never a definition's values.

mod clock;
mod codec;
mod fault;
mod in_place;
mod memory;
mod specs;
mod sqlite;
mod storage;
mod tail;
#[cfg(test)]
mod testing;

pub use clock::{JournalClock, ManualClock};
pub use codec::{CODEC, CodecError};
pub use fault::StorageFault;
pub use in_place::InPlace;
pub use memory::{AppendFault, MemoryJournal};
pub use specs::{SpecStore, SpecStoreError};
pub use sqlite::{JournalKind, SqliteJournal, syncs_so_far};

use crate::model::{Recordable, Timestamp};

/// What every record carries beside itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Place in the journal, from 1, without gaps.
    pub sequence: u64,
    /// Journal time.
    pub at: Timestamp,
    /// Wall time in milliseconds since 1970, for people only.
    pub wall_ms: u64,
    /// The host's boot when it was written.
    pub boot_id: String,
    /// `CLOCK_BOOTTIME` in milliseconds when it was written.
    pub boottime_ms: u64,
    /// The roll that it belongs to; empty for none.
    pub roll: String,
    /// The writer's term.
    pub term: u64,
    /// Who caused it.
    pub actor: String,
}

/// One record with its head.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry<R> {
    /// The head.
    pub head: Head,
    /// The record.
    pub record: R,
}

/// Why a journal could not be read or written. A failed append ends the process: memory ahead of the disk is never
/// seen.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// There is none, and it was to be read.
    #[error("there is no journal {path}")]
    Missing {
        /// Where it was looked for.
        path: String,
    },
    /// It is there and cannot be opened or read.
    #[error("cannot open journal {path}")]
    Open {
        /// Where.
        path: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// It was written by a newer Baton.
    #[error("journal {path} was written in format {found}, this Baton reads up to {known}; run the newer Baton")]
    Newer {
        /// Where.
        path: String,
        /// In it.
        found: u32,
        /// Here.
        known: u32,
    },
    /// A record is missing, changed or unreadable.
    #[error(
        "journal {path} is damaged {}: {why}; restore a copy of the state directory, then run \
         `baton coordinator --new-id`",
        place(*sequence)
    )]
    Damaged {
        /// Where.
        path: String,
        /// Which record; 0: what stands before the first.
        sequence: u64,
        /// What is wrong with it.
        why: String,
    },
    /// The append or its sync failed. Nothing of the batch may be acted on.
    #[error("cannot write journal {path}")]
    Append {
        /// Where.
        path: String,
        /// Why (disk full, read-only, ...).
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Somebody else appended since: there are two writers.
    #[error("journal {path} is at record {found}, not {expected}: another process has written to it")]
    Moved {
        /// Where.
        path: String,
        /// By this writer's count.
        expected: u64,
        /// In it.
        found: u64,
    },
}

fn place(sequence: u64) -> String {
    if sequence == 0 { "before its first record".to_owned() } else { format!("at record {sequence}") }
}

/// Append with the expected position, read from a position.
pub trait Journal<R: Recordable>: Send {
    /// Appends all of them, in one sync, or none. `expected` is the sequence of the last record so far (0: none); the
    /// heads' sequences must go on from it. An empty list makes no sync.
    ///
    /// # Errors
    /// [`JournalError::Append`], [`JournalError::Moved`], [`JournalError::Damaged`] when the last record is no longer
    /// the one that was written or read. After one of them nothing more may be appended.
    fn append(&mut self, expected: u64, entries: &[Entry<R>]) -> Result<(), JournalError>;

    /// Gives every record after `after` to `each`, in order and one at a time, so that a long journal need not fit in
    /// memory. Ends at the first error of its own or of `each`.
    ///
    /// # Errors
    /// [`JournalError::Damaged`], [`JournalError::Newer`], [`JournalError::Open`], and what `each` returns.
    fn replay(
        &self,
        after: u64,
        each: &mut dyn FnMut(Entry<R>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError>;

    /// All records after `after`, in order.
    ///
    /// # Errors
    /// As [`Journal::replay`].
    fn read(&self, after: u64) -> Result<Vec<Entry<R>>, JournalError> {
        let mut entries = Vec::new();
        self.replay(after, &mut |entry| {
            entries.push(entry);
            Ok(())
        })?;
        Ok(entries)
    }

    /// Where it lies, for messages.
    fn name(&self) -> String;

    /// How often a sync was made since it was opened, for benchmarks.
    fn syncs(&self) -> u64;
}
