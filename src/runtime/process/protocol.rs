//! What an agent asks of a keeper: one JSON object a line, and the answers the same way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::model::{Definition, Digest, Endpoint, ExitStatus, FailureKind, InstanceId, InstanceObservation};
use crate::runtime::RuntimeError;

/// The name of the keeper's socket in the slot's folder.
pub(super) const SOCKET: &str = "keeper.sock";
/// The longest line of either side: definitions with long environments fit, a flood does not.
pub(super) const LINE_MAX: usize = 4 << 20;

/// One request.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "op")]
pub(super) enum Request {
    /// All instances.
    Inspect,
    /// See `Runtime::prepare`.
    Prepare(Box<Prepare>),
    /// See `Runtime::start`.
    Start { number: u64 },
    /// See `Runtime::hold_restart`.
    HoldRestart { number: u64 },
    /// See `Runtime::allow_restart`.
    AllowRestart { number: u64 },
    /// See `Runtime::signal`.
    Signal { number: u64, signal: String },
    /// See `Runtime::kill`.
    Kill { number: u64 },
    /// See `Runtime::remove`.
    Remove { number: u64 },
    /// See `Runtime::wait_exit`.
    WaitExit { number: u64 },
    /// See `Runtime::exec`.
    Exec { number: u64, argv: Vec<String>, timeout_ms: u64 },
    /// From now on, a line for each change.
    Watch,
    /// End; instances run on.
    Shutdown,
}

/// What an instance is made from.
#[derive(Serialize, Deserialize)]
pub(super) struct Prepare {
    pub(super) instance: InstanceId,
    pub(super) definition: Definition,
    pub(super) definition_digest: Digest,
    pub(super) spec: Digest,
    pub(super) version: Option<String>,
    pub(super) address: String,
    /// The content of its `env_file`, read by the agent.
    pub(super) env_file: BTreeMap<String, String>,
}

/// One answer.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Answer {
    Done,
    Instances(Vec<InstanceObservation>),
    Endpoint(Endpoint),
    Exit(ExitStatus),
    Output { code: Option<i32>, tail: String },
    Changed { number: u64 },
    Failed { kind: FailureKind, unknown: bool, retryable: bool, message: String },
}

impl From<RuntimeError> for Answer {
    fn from(error: RuntimeError) -> Self {
        let RuntimeError { kind, unknown, retryable, message } = error;
        Answer::Failed { kind, unknown, retryable, message }
    }
}

/// An error that a person can act on: known not to have happened.
pub(super) fn refused(kind: FailureKind, message: impl Into<String>) -> RuntimeError {
    RuntimeError { kind, unknown: false, retryable: false, message: message.into() }
}

/// An error that may go away by itself.
pub(super) fn retryable(kind: FailureKind, message: impl Into<String>) -> RuntimeError {
    RuntimeError { kind, unknown: false, retryable: true, message: message.into() }
}

/// Nobody knows whether it happened.
pub(super) fn unknown(message: impl Into<String>) -> RuntimeError {
    RuntimeError { kind: FailureKind::Deadline, unknown: true, retryable: true, message: message.into() }
}

/// An error with all its causes, in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
