//! A journal in memory that fails on demand, for the simulator and for tests. No clock, no IO.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::codec::{CODEC, decode, encode};
use super::fault::{StorageFault, with_causes};
use super::{Entry, Journal, JournalError};
use crate::model::Recordable;

/// How an append fails. The writer is told the same each time; what is there afterwards differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppendFault {
    /// Nothing was written.
    Before,
    /// All of it was written and synced, and only the answer was lost.
    After,
    /// It was written and not synced: there until [`MemoryJournal::lose_unsynced`].
    Unsynced,
}

/// A journal in memory. Clones are handles to the same journal: it outlives the machine that writes to it, as a disk
/// does.
#[derive(Debug)]
pub struct MemoryJournal<R>(Arc<Mutex<Shared<R>>>);

#[derive(Debug)]
struct Shared<R> {
    entries: Vec<Entry<R>>,
    /// How many of the entries would survive a power loss.
    synced: usize,
    appends: u64,
    syncs: u64,
    faults: BTreeMap<u64, AppendFault>,
    halted: bool,
    checks_codec: bool,
}

impl<R> Clone for MemoryJournal<R> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<R> Default for MemoryJournal<R> {
    fn default() -> Self {
        Self::new()
    }
}

impl<R> MemoryJournal<R> {
    /// An empty one.
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Shared {
            entries: Vec::new(),
            synced: 0,
            appends: 0,
            syncs: 0,
            faults: BTreeMap::new(),
            halted: false,
            checks_codec: false,
        })))
    }

    fn shared(&self) -> MutexGuard<'_, Shared<R>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on every record is written as JSON and read back, and one that does not come back the same is refused
    /// as damage. Off by default, for it costs more than everything else in a simulated roll.
    #[must_use]
    pub fn checking_codec(self) -> Self {
        self.shared().checks_codec = true;
        self
    }

    /// The `nth` append from the journal's begin (the first is 1; empty ones do not count) will fail.
    pub fn fail_append(&self, nth: u64, fault: AppendFault) {
        self.shared().faults.insert(nth, fault);
    }

    /// How many appends there were, failed ones included.
    pub fn appends(&self) -> u64 {
        self.shared().appends
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.shared().entries.len()
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A power loss: what was written and not synced is gone.
    pub fn lose_unsynced(&self) {
        let mut shared = self.shared();
        let synced = shared.synced;
        shared.entries.truncate(synced);
    }

    /// The writer that saw an append fail has ended, and another one opens the journal.
    pub fn reopen(&self) -> Self {
        let mut shared = self.shared();
        shared.halted = false;
        // A new process finds what the operating system still has, and its own syncs make that durable.
        shared.synced = shared.entries.len();
        drop(shared);
        self.clone()
    }
}

impl<R: Clone> MemoryJournal<R> {
    /// A journal of its own with the first `records` records of this one: an older copy put back.
    pub fn copy_of_first(&self, records: usize) -> Self {
        let shared = self.shared();
        let copy = Self::new();
        {
            let mut other = copy.shared();
            other.entries = shared.entries.iter().take(records).cloned().collect();
            other.synced = other.entries.len();
            other.checks_codec = shared.checks_codec;
        }
        copy
    }
}

const NAME: &str = "(in memory)";

fn failed(source: impl std::error::Error + Send + Sync + 'static) -> JournalError {
    JournalError::Append { path: NAME.to_owned(), source: Box::new(source) }
}

fn damaged(sequence: u64, why: impl Into<String>) -> JournalError {
    JournalError::Damaged { path: NAME.to_owned(), sequence, why: why.into() }
}

fn check_codec<R: Recordable>(entry: &Entry<R>) -> Result<(), JournalError> {
    let text = encode(&entry.record).map_err(failed)?;
    let back: R =
        decode(CODEC, entry.record.kind(), &text).map_err(|error| damaged(entry.head.sequence, with_causes(&error)))?;
    if back == entry.record {
        Ok(())
    } else {
        Err(damaged(entry.head.sequence, format!("a record of kind {} reads back as another", entry.record.kind())))
    }
}

impl<R: Recordable> Journal<R> for MemoryJournal<R> {
    fn append(&mut self, expected: u64, entries: &[Entry<R>]) -> Result<(), JournalError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut shared = self.shared();
        if shared.halted {
            return Err(failed(StorageFault::Halted));
        }
        shared.appends += 1;
        let found = shared.entries.len() as u64;
        if found != expected {
            shared.halted = true;
            return Err(JournalError::Moved { path: NAME.to_owned(), expected, found });
        }
        let nth = shared.appends;
        let fault = shared.faults.remove(&nth);
        let checked = (expected + 1..).zip(entries).try_for_each(|(place, entry)| {
            if entry.head.sequence != place {
                return Err(failed(StorageFault::OutOfOrder { expected: place, found: entry.head.sequence }));
            }
            if shared.checks_codec { check_codec(entry) } else { Ok(()) }
        });
        if let Err(error) = checked {
            shared.halted = true;
            return Err(error);
        }
        if fault != Some(AppendFault::Before) {
            shared.entries.extend_from_slice(entries);
        }
        if matches!(fault, None | Some(AppendFault::After)) {
            shared.synced = shared.entries.len();
            shared.syncs += 1;
        }
        match fault {
            None => Ok(()),
            Some(_) => {
                shared.halted = true;
                Err(failed(std::io::Error::other("a fault was asked for")))
            }
        }
    }

    fn replay(
        &self,
        after: u64,
        each: &mut dyn FnMut(Entry<R>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        let after = usize::try_from(after).unwrap_or(usize::MAX);
        // Copied, so that `each` may use the journal too.
        let entries: Vec<Entry<R>> = self.shared().entries.iter().skip(after).cloned().collect();
        entries.into_iter().try_for_each(each)
    }

    fn name(&self) -> String {
        NAME.to_owned()
    }

    fn syncs(&self) -> u64 {
        self.shared().syncs
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::testing::{Toy, entries, entry};

    #[test]
    fn a_handle_sees_what_another_one_wrote() {
        let mut journal = MemoryJournal::new().checking_codec();
        journal.append(0, &entries(1..=3)).unwrap();
        journal.append(3, &[]).unwrap();
        journal.append(3, &entries(4..=4)).unwrap();
        assert_eq!(journal.clone().read(0).unwrap(), entries(1..=4));
        assert_eq!(journal.read(3).unwrap(), entries(4..=4));
        assert_eq!((journal.syncs(), journal.appends(), journal.len()), (2, 2, 4));
        assert_eq!(journal.copy_of_first(2).read(0).unwrap(), entries(1..=2));
    }

    #[test]
    fn a_failed_append_leaves_what_its_fault_says_and_nothing_follows_it() {
        let cases = [(AppendFault::Before, 1, 1), (AppendFault::After, 3, 3), (AppendFault::Unsynced, 3, 1)];
        for (fault, after_kill, after_power_loss) in cases {
            let mut journal = MemoryJournal::new();
            journal.fail_append(2, fault);
            journal.append(0, &entries(1..=1)).unwrap();
            assert!(matches!(journal.append(1, &entries(2..=3)), Err(JournalError::Append { .. })), "{fault:?}");
            assert!(journal.append(1, &entries(2..=3)).is_err(), "{fault:?}: an append after a failed one");
            assert_eq!(journal.len(), after_kill, "{fault:?}");
            journal.lose_unsynced();
            assert_eq!(journal.len(), after_power_loss, "{fault:?}");
            let mut next = journal.reopen();
            let place = next.len() as u64;
            next.append(place, &entries(place + 1..=place + 1)).unwrap();
        }
    }

    #[test]
    fn two_writers_and_wrong_numbers_are_found_out() {
        let mut journal = MemoryJournal::new();
        journal.append(0, &entries(1..=1)).unwrap();
        let error = journal.append(0, &entries(1..=1)).unwrap_err();
        assert!(matches!(error, JournalError::Moved { expected: 0, found: 1, .. }), "{error}");
        let mut journal = journal.reopen();
        assert!(journal.append(1, &entries(3..=3)).is_err());
    }

    #[test]
    fn a_note_and_a_record_that_does_not_read_back_are_refused_when_asked_to_look() {
        for record in [Toy::Seen { count: 1 }, Toy::Lossy { kept: 1, lost: 2 }] {
            let mut journal = MemoryJournal::new().checking_codec();
            assert!(journal.append(0, &[entry(1, record)]).is_err());
            assert!(journal.is_empty());
        }
    }
}
