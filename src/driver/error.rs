//! Why a step was not made. Each of these ends the process.

use crate::journal::JournalError;
use crate::model::IllegalTransition;

/// Why a step was not made, or why nothing is shown after one that was not.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The facts could not be appended.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The machine decided on a record that it does not allow: a fault of the code.
    #[error("the machine decided what it does not allow")]
    Illegal(#[from] IllegalTransition),
    /// The machine never had enough: a fault of the code.
    #[error("the machine still has more to record after {ticks} ticks, last a record of kind {kind}")]
    Restless {
        /// How often it was asked.
        ticks: usize,
        /// The kind of the first record of its last answer.
        kind: &'static str,
    },
    /// An earlier step failed, so memory may be ahead of the disk.
    #[error("an earlier step failed ({why}); start again")]
    Poisoned {
        /// What failed then.
        why: String,
    },
}
