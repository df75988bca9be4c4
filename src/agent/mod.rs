//! The sidecar: session IO, runtimes, ledger file, policy.
//!
//! A thin shell around [`crate::node::AgentNode`]. One loop owns the driver; everything that takes time runs in a task
//! of its own and comes back as an event.

mod acts;
pub mod component;
mod contact;
mod definitions;
mod doors;
mod policy;
mod project;
mod reach;
mod session;
mod shell;

use std::path::PathBuf;
use std::sync::Arc;

pub use policy::{Policy, PolicyError};
pub use project::HostProject;

use crate::driver::DriverError;
use crate::journal::JournalError;
use crate::model::{AgentId, CoordinatorId, FleetName};
use crate::runtime::Runtime;
use crate::transport::{Address, Security};

/// What an agent needs to know.
pub struct AgentConfig {
    /// Its fleet.
    pub fleet: FleetName,
    /// Its id.
    pub id: AgentId,
    /// Its own folder: ledger, spec store, lock.
    pub folder: PathBuf,
    /// Where its coordinator is.
    pub coordinator: Address,
    /// How a TCP connection to it is kept safe.
    pub security: Option<Security>,
    /// What it admits.
    pub policy: Policy,
    /// By what address others reach its instances; `None`: 127.0.0.1.
    pub address: Option<String>,
    /// Its hands.
    pub runtime: Arc<dyn Runtime>,
    /// Names of what its hands act on that nothing else on this machine has: the uid for processes, the engine's id for
    /// containers. It runs only where nobody else holds one of them for this fleet under its id.
    pub runtime_ids: Vec<String>,
    /// The Compose project of its host, whose services may be components of the fleet.
    pub project: Option<HostProject>,
}

/// Why an agent ended.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Another agent has this runtime, fleet and id.
    #[error(
        "another agent has {what}: {holder}; only one may act on a runtime for a fleet under one id: end \
         it first, or give this one another --id"
    )]
    Held {
        /// What is held.
        what: String,
        /// Who holds it.
        holder: String,
    },
    /// Its folder cannot be used.
    #[error("cannot use agent folder {path}")]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] JournalError),
    /// Its ledger cannot be written, or holds what it may not.
    #[error(transparent)]
    Driver(#[from] DriverError),
}

/// Runs until `stop` resolves or the ledger fails. What it runs goes on without it.
///
/// # Errors
/// See [`AgentError`].
pub async fn run(config: AgentConfig, stop: impl Future<Output = ()> + Send) -> Result<(), AgentError> {
    shell::Shell::start(config)?.run(stop).await
}

/// Hands the agent in `folder` over to another coordinator (`baton agent adopt`). The agent must not be running.
///
/// # Errors
/// When the agent is running or its ledger cannot be written.
pub fn adopt(
    folder: &std::path::Path,
    fleet: &FleetName,
    id: &AgentId,
    heir: &CoordinatorId,
) -> Result<(), AgentError> {
    shell::adopt(folder, fleet, id, heir)
}
