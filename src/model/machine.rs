//! The one shape of every pure machine.

use std::collections::BTreeMap;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Timestamp;

/// A record that the state at hand does not allow: a fault of the code or of the journal, never of the fleet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("record {record} is not allowed here: {why}")]
pub struct IllegalTransition {
    /// The record's kind.
    pub record: String,
    /// What forbids it.
    pub why: String,
}

/// What a machine writes down. A *fact* is appended and synced before anything comes of it; a *note* is applied and
/// never appended (a heartbeat, one probe's result, a count), so replay never sees it.
pub trait Recordable: Clone + std::fmt::Debug + PartialEq + Serialize + DeserializeOwned + Send + 'static {
    /// The record's kind, as the journal's column and `history` show it: `step-began`.
    fn kind(&self) -> &'static str;
    /// Whether it is appended and synced.
    fn is_fact(&self) -> bool;
}

/// A synchronous machine without IO, clock or randomness.
///
/// `decide` reads only; `apply` is the only mutator, used live and in replay.
pub trait Machine {
    /// What happened outside.
    type Event;
    /// What is written down because of it.
    type Record: Recordable;
    /// What names an effect: stable while the effect is outstanding.
    type Key: Clone + Ord + std::fmt::Debug;
    /// What should be going on outside.
    type Effect: Clone + PartialEq + std::fmt::Debug;

    /// What should be written down because of `event`, in order. The records of one event are applied one after the
    /// other without another `decide` between them.
    fn decide(&self, now: Timestamp, event: &Self::Event) -> Vec<Self::Record>;

    /// Applies one record and returns the keys of effects that appeared, changed or went.
    ///
    /// # Errors
    /// When the state does not allow the record. `decide` never makes such a record; a journal that holds one is
    /// refused.
    fn apply(&mut self, at: Timestamp, record: &Self::Record) -> Result<Vec<Self::Key>, IllegalTransition>;

    /// One effect that should be in flight now, if it still should.
    fn effect(&self, key: &Self::Key) -> Option<Self::Effect>;

    /// Everything that should be in flight now. A function of the state, so a restart needs no second path.
    fn outstanding(&self) -> BTreeMap<Self::Key, Self::Effect>;

    /// When the machine wants to be asked again (with its tick event) though nothing happened.
    fn next_deadline(&self) -> Option<Timestamp>;

    /// Forgets what only notes told: the state that a replay of the facts alone would give.
    fn forget_notes(&mut self);
}
