//! A runtime without processes: a synchronous machine that does what it is told, fails where it is told to, and writes
//! down everything that happened. Time is an argument; no clock, no IO, no randomness.
//!
//! Whoever drives it calls [`FakeWorld::advance`] up to each [`FakeWorld::next_deadline`]; every act settles first what
//! was due before it, so its log is always in order of time.

mod acts;
mod gateway;
mod instance;
mod knobs;
mod log;
mod port;
mod world;

#[cfg(test)]
mod tests;

pub use gateway::GatewayReading;
pub use knobs::{FakeAct, Fault, GatewayKnobs, Knobs};
pub use log::{Entry, FakeEvent, FakeEventKind, Happening, Span, spans};
pub use port::FakeRuntime;
pub use world::FakeWorld;

// What the fake is asked with and answers with: those who may know only this part of the room find it here.
pub use super::{Blueprint, RuntimeError};
