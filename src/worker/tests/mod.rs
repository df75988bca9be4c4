//! A worker in a tiny world: a test per rule, and every crash.

mod crash;
mod drains;
mod rig;
mod starts;
