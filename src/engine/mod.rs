//! One fleet's roll as a pure machine: which step may begin now, and what every outcome means.
//!
//! No clock, no IO, no tokio, no randomness. `decide` reads, `apply` changes; see [`crate::model::Machine`].
//!
//! `decide` answers an event with the event's own records. What follows from them comes from [`Event::Tick`]: after
//! each event the driver repeats `decide(now, Tick)` and `apply` until it returns nothing. Each round costs work in
//! proportion to the steps that could begin now, never to the plan.
//!
//! | file | what |
//! |---|---|
//! | `event`, `record`, `effect`, `error`, `view`, `news`, `summary` | the words |
//! | `graph` | a plan with its indexes |
//! | `roll`, `index` | where each step stands; those that wait for nothing else; who has a place |
//! | `known` | what agents reported, brought up to date by outcomes; settling by observation |
//! | `budget` | the floor |
//! | `ground` | what an interrupted roll still counts on |
//! | `act`, `schedule` | from a ready step to a list on its way |
//! | `decide`, `apply` | the machine |
//! | `look`, `hold` | what people see |
//!
//! Rules worth knowing before reading on:
//! - A list that has begun is outstanding until each of its steps has ended; nothing else ends it.
//! - While any step is unknown nothing else begins. Looking settles it, or a person.
//! - Every failure is answered by exactly one `FailureActed`; *continue* gives the slot up: what it has not begun is
//!   not done, and others go on as if it were, except hooks and jobs behind a stop that nobody could do.
//! - Whether a record is allowed depends on facts alone, so that replay judges as the live machine did.

mod act;
mod apply;
mod budget;
mod decide;
mod effect;
mod error;
mod event;
mod graph;
mod ground;
mod hold;
mod index;
mod known;
mod look;
mod news;
mod record;
mod roll;
mod schedule;
mod state;
mod summary;
mod view;

#[cfg(test)]
mod tests;

pub use budget::floor_allows;
pub use effect::{Effect, Key};
pub use error::{BeginError, RequestError};
pub use event::{Event, Request};
pub use news::{News, ResultWord, StepName, hold_news, news};
pub use record::{Record, RollResult};
pub use state::{Current, Engine};
pub use summary::{DrainSummary, FailureSummary, RollSummary, StepSummary};
pub use view::{AgentView, FleetView, HoldReason, HoldView, RollState, RollView, SlotView, StepView};
