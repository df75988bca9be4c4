//! One slot as a pure machine: precheck, act, verify, drain, and the rules of the ledger.
//!
//! No clock, no IO, no tokio, no randomness. The agent's shell carries out effects and feeds back what came of them.
//!
//! Each step begins with a look ([`Effect::Inspect`]): "already so" is success, and after a restart an act whose
//! outcome nobody recorded is settled by what is there. Acts that may be asked twice are; a signal is not, and a hook
//! is not: the first is followed by the wait for its exit, the second by a person.

mod apply;
mod decide;
mod drain;
mod effects;
mod event;
mod inventory;
mod precondition;
mod progress;
mod ready;
mod record;
mod state;
mod steps;
mod switch;

#[cfg(test)]
mod tests;

pub use decide::Judgement;
pub use event::{ActError, ActKind, Effect, EffectKey, Event, Pace, Verdict};
pub use record::Record;
pub use state::{Phase, Worker};
