//! A Compose project as a manifest, in Compose's own words.
//!
//! No code here knows what a service's keys mean to the engine. Compose itself says it: it runs against a *pretend
//! engine*, which passes on what is only read and keeps what would be written. What is left of such a **rehearsal** is,
//! word for word, what `docker compose up` would do.
//!
//! [`command`] finds and runs Compose; [`project`] asks it what the project is; [`rehearsal`] lets it run against the
//! [`pretend`] engine, whose memory is [`ledger`] and whose yield is a [`recording`]; [`manifest`] joins both to what
//! the planner takes, and [`version`] finds what `--to` stands for; [`dotenv`] writes that down where Compose reads it.

mod another;
mod archive;
mod asked;
pub mod command;
pub mod dotenv;
mod duration;
mod error;
mod front;
pub mod ledger;
pub mod manifest;
mod obstacle;
mod pretend;
pub mod project;
pub mod recording;
pub mod rehearsal;
mod standing;
pub mod suggest;
mod tenant;
pub mod version;

pub use command::{Compose, Selection};
pub use error::ComposeError;
pub use project::Project;
pub use recording::Recording;
pub use rehearsal::{Missing, Rehearsal, pull, rehearse};
pub use version::Version;
