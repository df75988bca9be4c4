//! The process runtime: releases in folders, run under keepers. One keeper a slot; agents come and go.

mod client;
mod files;
mod keeper;
mod keeper_exec;
mod keeper_instance;
mod keeper_notify;
mod keeper_serve;
mod keeper_sockets;
mod keeper_start;
mod logs;
mod members;
mod placeholders;
mod ports;
mod protocol;
mod record;
mod release;
mod resolve;
mod runtime;
#[cfg(test)]
pub(crate) mod testing;

pub use client::KeeperCommand;
pub use keeper::{KeeperOptions, keeper_main};
pub use placeholders::{FillError, fill};
pub(super) use release::read_env_file;
pub use runtime::{ProcessConfig, ProcessRuntime};
