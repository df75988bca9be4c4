//! What the coordinator asks of an agent, and what the agent answers.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    Admission, CommandId, ComponentName, Digest, Endpoint, ExitStatus, InstanceId, SlotName, StepId, Term, millis,
};

/// One instance in a gateway's table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableTarget {
    /// Which instance; an address may belong to another one tomorrow.
    pub instance: InstanceId,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// `Admitting` takes new requests; `Draining` only finishes those it has.
    pub admission: Admission,
}

/// What must still be so when an act is about to happen; checked again in the same critical section as the effect.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Precondition {
    /// Nothing beyond the act's own check of its instance.
    #[default]
    None,
    /// No other instance of the slot may be running (stop-first, singletons). Unknown counts as running.
    Alone,
    /// This instance runs and is ready: the old one does not go before the new one has the baton in hand.
    Ready(InstanceId),
}

/// What counts as ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadyWait {
    /// So many consecutive good answers of the probe.
    Probe {
        /// How many.
        successes: u32,
    },
    /// No probe: running so long without exit or restart ("weak readiness").
    Weak {
        /// How long.
        #[serde(with = "millis")]
        steady: Duration,
    },
    /// A job: it ended with 0.
    Completed,
}

/// What begins a drain on the agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DrainStart {
    /// Nothing more: the switch before it took the traffic away.
    Nothing,
    /// A signal to the main process. Cannot be undone.
    Signal(String),
    /// The http or exec call in the definition.
    Call,
}

/// One act on one slot. All idempotent: "already so" is success.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// Create the instance; start nothing.
    Prepare {
        /// The new instance.
        instance: InstanceId,
        /// Its definition, in the spec store.
        definition: Digest,
        /// The digest of its spec.
        spec: Digest,
        /// Its version.
        version: Option<String>,
    },
    /// Start a created or ended instance.
    Start {
        /// Which.
        instance: InstanceId,
    },
    /// Wait until its own probe says ready (for a job: until it ended with 0).
    Ready {
        /// Which.
        instance: InstanceId,
        /// How to ask, in the spec store.
        definition: Digest,
        /// What counts.
        wait: ReadyWait,
    },
    /// Watch that it stays ready: same pid, same start, no restart, and no failing probe where it has one.
    Soak {
        /// Which.
        instance: InstanceId,
        /// For how long.
        #[serde(with = "millis")]
        monitor: Duration,
        /// How to ask, in the spec store.
        definition: Digest,
        /// Whether there is a probe to ask.
        probed: bool,
    },
    /// Begin its drain and wait for zero, for its end, or for the end of what is left of the grace.
    Drain {
        /// Which.
        instance: InstanceId,
        /// How, in the spec store.
        definition: Digest,
        /// What begins it.
        begin: DrainStart,
        /// Whether there is an in-flight source to watch beside the process.
        inflight: bool,
        /// What is left of the grace, `stop_timeout` included.
        #[serde(with = "millis")]
        grace: Duration,
        /// The part of it kept for signal-to-kill.
        #[serde(with = "millis")]
        stop_timeout: Duration,
    },
    /// Give the drain back.
    Undrain {
        /// Which.
        instance: InstanceId,
        /// How, in the spec store.
        definition: Digest,
    },
    /// Signal, wait for the rest of the grace that its drain began, kill everything left. An instance that was never
    /// drained gets `timeout`.
    Stop {
        /// Which.
        instance: InstanceId,
        /// By its name.
        signal: String,
        /// From signal to kill.
        #[serde(with = "millis")]
        timeout: Duration,
    },
    /// Remove a stopped instance for good.
    Retire {
        /// Which.
        instance: InstanceId,
    },
    /// On a gateway's slot: wait until new targets answer, take the table into use, wait for zero in flight on the
    /// draining ones (at most `drain`).
    Switch {
        /// Whose targets these are; also the name of the listener.
        component: ComponentName,
        /// The whole list: a target not in it is gone.
        targets: Vec<TableTarget>,
        /// How long a request may be held while no target admits.
        #[serde(with = "millis")]
        hold_max: Duration,
        /// How long to wait for zero in flight. Then upgraded connections are closed properly and the step is done.
        #[serde(with = "millis")]
        drain: Duration,
    },
    /// A hook.
    Run {
        /// Its name in the agent's own configuration.
        hook: String,
    },
}

impl Act {
    /// The instance acted on, where there is one.
    pub fn instance(&self) -> Option<&InstanceId> {
        match self {
            Act::Prepare { instance, .. }
            | Act::Start { instance }
            | Act::Ready { instance, .. }
            | Act::Soak { instance, .. }
            | Act::Drain { instance, .. }
            | Act::Undrain { instance, .. }
            | Act::Stop { instance, .. }
            | Act::Retire { instance } => Some(instance),
            Act::Switch { .. } | Act::Run { .. } => None,
        }
    }

    /// The definition that it needs from the spec store, where it needs one.
    pub fn definition(&self) -> Option<&Digest> {
        match self {
            Act::Prepare { definition, .. }
            | Act::Ready { definition, .. }
            | Act::Soak { definition, .. }
            | Act::Drain { definition, .. }
            | Act::Undrain { definition, .. } => Some(definition),
            _ => None,
        }
    }

    /// The verb, as people read it.
    pub fn verb(&self) -> &'static str {
        match self {
            Act::Prepare { .. } => "prepare",
            Act::Start { .. } => "start",
            Act::Ready { .. } => "ready",
            Act::Soak { .. } => "soak",
            Act::Drain { .. } => "drain",
            Act::Undrain { .. } => "undrain",
            Act::Stop { .. } => "stop",
            Act::Retire { .. } => "retire",
            Act::Switch { .. } => "switch",
            Act::Run { .. } => "run",
        }
    }
}

/// One step of a command's list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CommandStep {
    /// Its id in the plan.
    pub step: StepId,
    /// What to do.
    pub act: Act,
    /// What must still be so.
    #[serde(default)]
    pub precondition: Precondition,
    /// How long it may take from its begin on the agent; beyond it the step has failed. A drain's and a stop's end by
    /// their grace.
    #[serde(with = "millis")]
    pub deadline: Duration,
}

/// Consecutive steps of one slot that wait for nothing else. Carries durations, never instants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Survives retries of delivery.
    pub id: CommandId,
    /// Under which term it is sent. Not part of the body that an id stands for: a new term sends the same command.
    pub term: Term,
    /// Where.
    pub slot: SlotName,
    /// In order; the first that is not done ends the list.
    pub steps: Vec<CommandStep>,
}

impl Command {
    /// Whether both ask for the same: everything but the term.
    pub fn same_body(&self, other: &Command) -> bool {
        self.id == other.id && self.slot == other.slot && self.steps == other.steps
    }
}

/// How a drain or stop went: what the final report and `history` tell.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReport {
    /// From the begin of the drain to its end.
    #[serde(with = "millis")]
    pub took: Duration,
    /// Work in flight as last heard when it ended; `None`: nobody could say.
    pub left: Option<u64>,
    /// The process was gone before the end of the grace.
    pub exited: Option<ExitStatus>,
    /// SIGKILL was needed.
    pub killed: bool,
    /// Upgraded connections that were closed properly at the end of the drain.
    pub closed: u64,
    /// Requests that were cut.
    pub cut: u64,
}

/// How a step came to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// It was so before.
    AlreadySo,
    /// By acting.
    Completed,
    /// A drain or stop, with its report.
    Drained(DrainReport),
    /// A person said so (`settle --done`).
    Settled,
}

/// Why a step failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureKind {
    /// The release, image or file that it needs is not there or not right.
    Missing,
    /// The runtime refused (port taken, no such program, no permission).
    Refused,
    /// It did not get ready in time.
    NotReady,
    /// It ended before it was ready, or a job ended with another code than 0.
    Exited,
    /// It got ready, then ended, restarted or went unready within monitor.
    Unstable,
    /// The act did not end in time.
    Deadline,
    /// The precondition does not hold any more.
    Precondition,
    /// The agent's own policy forbids it.
    Forbidden,
    /// A person said so (`settle --not-done`).
    Settled,
}

impl fmt::Display for FailureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            FailureKind::Missing => "missing",
            FailureKind::Refused => "refused",
            FailureKind::NotReady => "not ready in time",
            FailureKind::Exited => "exited",
            FailureKind::Unstable => "unstable",
            FailureKind::Deadline => "too slow",
            FailureKind::Precondition => "precondition gone",
            FailureKind::Forbidden => "forbidden by the agent's policy",
            FailureKind::Settled => "settled as not done",
        })
    }
}

/// Why a step was not carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SkipReason {
    /// An earlier step of its list was not done.
    EarlierStep,
    /// It was recalled before it began.
    Recalled,
}

/// How a step ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StepResult {
    /// Done.
    Done(How),
    /// Not done, and known not to be.
    Failed {
        /// Why.
        kind: FailureKind,
        /// Whether trying the same again may help.
        retryable: bool,
        /// For people: the thing, what was tried, what to do next. Free of secrets.
        message: String,
        /// The instance's last log lines, redacted, where there are any.
        log: Vec<String>,
    },
    /// Nobody knows. Settled by observation or by a person, never by trying again blindly.
    Unknown {
        /// Why.
        why: String,
    },
    /// Not carried out.
    Skipped(SkipReason),
}

impl StepResult {
    /// Whether it is done.
    pub fn is_done(&self) -> bool {
        matches!(self, StepResult::Done(_))
    }
}

/// One step's end, told by an agent and re-sent until acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The command.
    pub command: CommandId,
    /// The slot.
    pub slot: SlotName,
    /// The step.
    pub step: StepId,
    /// How it ended.
    pub result: StepResult,
    /// Where the instance is reached, told with `start` and `ready`.
    pub endpoint: Option<Endpoint>,
}

/// How a step is getting on: latest wins, unacknowledged, a note everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// The command.
    pub command: CommandId,
    /// The slot.
    pub slot: SlotName,
    /// The step at work.
    pub step: StepId,
    /// For people: `2 jobs in flight`, `probe: connection refused`.
    pub text: String,
    /// Work in flight, as last heard.
    pub inflight: Option<u64>,
    /// How long the step has been at work.
    #[serde(with = "millis")]
    pub elapsed: Duration,
    /// What is left of its deadline or grace.
    #[serde(with = "millis")]
    pub left: Duration,
}
