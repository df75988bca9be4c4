//! Baton: a graceful rolling-restart coordinator for Docker Compose hosts and bare metal.
//!
//! # The map of the house
//!
//! | room | what | may import |
//! |---|---|---|
//! | [`model`] | the vocabulary: ids, definitions, plans, commands, observations, time | nothing of ours |
//! | [`planner`] | pure: manifest + inventory + history → plan + report | `model` |
//! | [`engine`] | pure: one fleet's roll | `model` |
//! | [`worker`] | pure: one slot | `model` |
//! | [`link`] | pure: both ends of a session | `model` |
//! | [`node`] | pure: the machines of one process, joined | `model`, `engine`, `worker`, `link` |
//! | [`driver`] | decide, apply, append, sync, effects | `model`, `journal` |
//! | [`simulator`] | virtual time over the pure rooms | the pure rooms, `driver`, `journal`, `runtime::fake` |
//! | [`journal`], [`runtime`], [`probe`], [`gateway`], [`manifest`] | thin IO | `model` (and [`sys`]) |
//! | [`compose`] | a Compose project → manifest, in Compose's own words | `model`, `manifest`, `sys` |
//! | [`transport`] | Unix sockets, TCP with mutual TLS, who is at the other end | `sys` |
//! | [`proto`] | generated code and the conversions between wire and model | `model` |
//! | [`agent`], [`coordinator`] | IO around the pure machines | all of the above, never each other |
//! | [`cli`] | composes; nobody imports it | everything |
//!
//! `gateway::control`, `agent`, `coordinator` and `cli` are the only users of [`proto`]. The pure rooms have no clock,
//! IO, tokio, randomness or hash order. `tests/tidy.rs` reads the sources and enforces all of this.

pub mod agent;
pub mod cause;
pub mod cli;
pub mod compose;
pub mod coordinator;
pub mod driver;
pub mod engine;
pub mod gateway;
pub mod journal;
pub mod link;
pub mod manifest;
pub mod model;
pub mod node;
pub mod planner;
pub mod probe;
pub mod proto;
pub mod runtime;
pub mod simulator;
pub mod sys;
pub mod transport;
pub mod worker;
