//! A fleet in virtual time: the real planner, engine, workers, links, driver and codec over a fake runtime, a network
//! that can be told to fail, and nodes that can be killed at every record and around every effect.
//!
//! No clock, no IO, no threads: the same scenario with the same [`Options`] makes the same [`Run::trace`], byte for
//! byte. What happened is judged by [`judge`] from what the fake runtime itself wrote down.
//!
//! | file | what |
//! |---|---|
//! | `scenario`, `options` | what is to happen, and what is to go wrong |
//! | `simulation` | the queue, the clock, the points at which a node can be killed |
//! | `agent`, `acts`, `coordinator`, `planning` | the shells of both nodes, without IO |
//! | `network` | words between them |
//! | `person` | what an operator does |
//! | `judge` | floor, order, exclusivity, signals, grace, hooks, end |

mod acts;
mod agent;
mod chance;
mod coordinator;
mod judge;
mod network;
mod options;
mod person;
mod planning;
mod scenario;
mod simulation;

pub use judge::{Rules, judge};
pub use options::{Mutant, Node, Options, Place, Point};
pub use scenario::{Ground, Move, Scenario, lay};
pub use simulation::{End, Run, SimulationError};
