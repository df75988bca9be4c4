//! A journal on a runtime's thread.

use super::{Entry, Journal, JournalError};
use crate::model::Recordable;

/// A journal whose appends let the other tasks of its thread go on elsewhere while they wait for the disk. Most turns
/// of a loop record nothing, and moving the others costs more than such a turn.
pub struct InPlace<J>(pub J);

impl<R: Recordable, J: Journal<R>> Journal<R> for InPlace<J> {
    fn append(&mut self, expected: u64, entries: &[Entry<R>]) -> Result<(), JournalError> {
        tokio::task::block_in_place(|| self.0.append(expected, entries))
    }

    fn replay(
        &self,
        after: u64,
        each: &mut dyn FnMut(Entry<R>) -> Result<(), JournalError>,
    ) -> Result<(), JournalError> {
        self.0.replay(after, each)
    }

    fn name(&self) -> String {
        self.0.name()
    }

    fn syncs(&self) -> u64 {
        self.0.syncs()
    }
}
