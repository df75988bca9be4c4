//! Wrong input, and every exit code: a clear error, the right code, and nothing touched.
//!
//! The real binary is driven through each; what it says is on file in `tests/golden/wrong_input` (`UPDATE_GOLDEN=1`
//! blesses). Beside it the state directory is compared file by file, journals and ledgers record by record, and every
//! keeper and instance by process id and start time.

mod support;

#[path = "wrong_input/codes.rs"]
mod codes;
#[path = "wrong_input/journals.rs"]
mod journals;
#[path = "wrong_input/lines.rs"]
mod lines;
#[path = "wrong_input/manifests.rs"]
mod manifests;
#[path = "wrong_input/plans.rs"]
mod plans;
#[path = "wrong_input/rolls.rs"]
mod rolls;
#[path = "wrong_input/row.rs"]
mod row;
#[path = "wrong_input/sessions.rs"]
mod sessions;
#[path = "wrong_input/snapshot.rs"]
mod snapshot;
