//! Tests of the engine, on plans built by hand.
//!
//! Every record that a test applies is checked: what is kept of `outstanding` and of the indexes must equal what is
//! computed anew ([`World::check`]), and at the end of each test a replay of the facts must give the live state.

mod fail;
mod fence;
mod floor;
mod lane;
mod list;
mod person;
mod switch;
mod unknown;
mod walk;
mod words;
mod world;
