//! What tests share. Each test crate takes what it needs: `mod support;`.

#![allow(dead_code, reason = "every test crate uses a part of this")]

pub mod certs;
pub mod daemons;
pub mod fault_proxy;
pub mod fleet;
pub mod front;
#[path = "../../examples/quickstart/leftovers.rs"]
pub mod leftovers;
pub mod procs;
pub mod trace;
pub mod wait;
