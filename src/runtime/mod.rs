//! The port through which an agent acts on instances, in terms of slots and specs. It says slot, release, start and
//! stop, never "container": adapters are `process` (keepers), `docker` (an engine), `fake`, and `several` of them.
//!
//! Every method is idempotent: "already so" is success. Every method is bounded in time by its adapter, and a bound
//! that is reached is an error with `unknown: true` where the act may have happened all the same.

pub mod docker;
pub mod fake;
pub mod process;
mod redact;
pub mod several;

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;

use crate::model::{
    Definition, Digest, Endpoint, ExitStatus, InstanceId, InstanceObservation, Resolution, RuntimeKind, SlotName,
};

/// Why an act failed.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct RuntimeError {
    /// What kind of failure a step would have.
    pub kind: crate::model::FailureKind,
    /// Whether it may have happened all the same.
    pub unknown: bool,
    /// Whether trying again may help.
    pub retryable: bool,
    /// For people: the thing, what was tried, what to do next. Free of secrets.
    pub message: String,
}

/// What a new instance is made from.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// Its definition, `{version}` filled in.
    pub definition: Definition,
    /// The definition's digest; kept and reported with the instance.
    pub definition_digest: Digest,
    /// The spec's digest; kept and reported with the instance.
    pub spec: Digest,
    /// Its version, where its component has one.
    pub version: Option<String>,
}

/// A hint that something about a slot changed. The truth is [`Runtime::inspect`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hint {
    /// Where.
    pub slot: SlotName,
    /// Its instance, where known.
    pub instance: Option<InstanceId>,
}

/// What a command run beside an instance said.
#[derive(Clone, Debug)]
pub struct ExecOutput {
    /// Exit code; `None`: ended by a signal or by the time-out.
    pub code: Option<i32>,
    /// The last part of its output (at most 4 KiB), not redacted.
    pub tail: String,
}

/// A stream of bytes, both ways.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What of Baton's own a door leads to.
#[derive(Clone, Copy, Debug)]
pub enum Inside<'a> {
    /// The control socket of the gateway in a slot.
    Gateway(&'a SlotName),
    /// The agent inside an instance's own container.
    Component {
        /// Which instance.
        instance: &'a InstanceId,
        /// The manifest says that it is there: the command need not show it.
        said: bool,
    },
}

/// A way to a socket that only what runs beside it can open. Dropped, it is closed.
pub type Door = Box<dyn Stream>;

/// An agent's hands.
#[async_trait::async_trait]
pub trait Runtime: Send + Sync {
    /// What it can run.
    fn kinds(&self) -> Vec<RuntimeKind>;

    /// Finds image, release and env_file of a definition and proves them. A `problem` is part of the answer.
    async fn resolve(&self, definition: &Definition, pull: bool) -> Resolution;

    /// Every slot that it has anything of.
    async fn slots(&self) -> Result<Vec<SlotName>, RuntimeError>;

    /// All instances of a slot by number. `health` and `admission` are the agent's to fill in, except where the runtime
    /// itself knows (sd_notify): `Health::Unknown` and `Admission::Admitting` otherwise.
    async fn inspect(&self, slot: &SlotName) -> Result<Vec<InstanceObservation>, RuntimeError>;

    /// Creates, starts nothing. The same instance with the same spec again is success; with another it is refused.
    async fn prepare(&self, instance: &InstanceId, blueprint: &Blueprint) -> Result<(), RuntimeError>;

    /// Starts a created or ended instance, at once also where a back-off is under way, and says where it is reached.
    /// From here on it is started again when it crashes (jobs are not), until [`Runtime::hold_restart`].
    async fn start(&self, instance: &InstanceId) -> Result<Endpoint, RuntimeError>;

    /// From here on its end is its end.
    async fn hold_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError>;

    /// Gives the restart policy back.
    async fn allow_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError>;

    /// A signal, by its name, to the main process only. To one that has gone: success. One run of a process gets each
    /// signal at most once: asked again, which an agent does that was killed before it heard the answer, it is done.
    async fn signal(&self, instance: &InstanceId, signal: &str) -> Result<(), RuntimeError>;

    /// SIGKILL to everything left of it, children that left its session included. Done when all is gone.
    async fn kill(&self, instance: &InstanceId) -> Result<(), RuntimeError>;

    /// Waits for the end of the main process; at once when it has ended or never started.
    async fn wait_exit(&self, instance: &InstanceId) -> Result<ExitStatus, RuntimeError>;

    /// Removes an instance that has ended or never started, logs included.
    async fn remove(&self, instance: &InstanceId) -> Result<(), RuntimeError>;

    /// Runs an argv beside the instance with its environment, for probes and drain calls. Placeholders are filled in
    /// by the caller. At the time-out it is killed.
    async fn exec(&self, instance: &InstanceId, argv: &[String], timeout: Duration)
    -> Result<ExecOutput, RuntimeError>;

    /// Whether the instance said READY=1 (sd_notify) since its last start. `None`: the runtime cannot know.
    async fn notified(&self, instance: &InstanceId) -> Option<bool>;

    /// What the agent's placeholders stand for: `release`, `slot`, `instance`, `address`, `port`, `port.NAME`.
    async fn placeholders(&self, instance: &InstanceId) -> Result<BTreeMap<String, String>, RuntimeError>;

    /// The last lines of its output, oldest first, with the values of its environment replaced by `***`.
    async fn logs(&self, instance: &InstanceId, lines: u32) -> Result<Vec<String>, RuntimeError>;

    /// Opens a way to a socket of Baton's own. `None`: there is nothing of the kind.
    async fn door(&self, _to: Inside<'_>) -> Result<Option<Door>, RuntimeError> {
        Ok(None)
    }

    /// The host by which a gateway reaches an instance, where that is another than the instance's endpoint says: on a
    /// network of containers a name outlives an address.
    async fn gateway_route(&self, _gateway: &SlotName, _to: &InstanceId) -> Option<String> {
        None
    }

    /// An agent has started: brings up whatever watches over these instances (what its ledger has as started and
    /// neither
    /// drained nor stopped). All are tried; the first error is told.
    async fn adopt_running(&self, should_run: &[InstanceId]) -> Result<(), RuntimeError>;

    /// Hints, latest-wins; may miss some. One receiver.
    fn hints(&self) -> mpsc::Receiver<Hint>;
}
