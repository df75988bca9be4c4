//! What can happen to a slot, and what its worker wants done.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{
    Command, CommandId, ComponentName, Digest, Endpoint, ExitStatus, FailureKind, InstanceId, InstanceObservation,
    Outcome, Progress, RollId, StepId, TableTarget,
};

/// Why an act on the runtime failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActError {
    /// What kind.
    pub kind: FailureKind,
    /// Whether it may have happened all the same (a cut connection, a time-out): settled by observation.
    pub unknown: bool,
    /// Whether trying again may help.
    pub retryable: bool,
    /// For people, free of secrets.
    pub message: String,
    /// The instance's last log lines, redacted.
    pub log: Vec<String>,
}

/// What one probe said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Ready.
    pub ready: bool,
    /// Nobody could be asked, so nothing is known: neither that it is ready nor that it is not.
    #[serde(default)]
    pub lost: bool,
    /// For people: `HTTP 503`, `connection refused`.
    pub text: String,
    /// The instance's last log lines, redacted, where somebody waits for it and it is not ready; read every now and
    /// then, so mostly empty.
    #[serde(default)]
    pub log: Vec<String>,
}

/// How often an instance is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// A step waits for the verdict: as often as the definition's `every` says.
    Fast,
    /// Nobody waits: often enough that the inventory stays truthful.
    Slow,
}

/// What names an effect of a worker: stable while it is outstanding.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EffectKey {
    /// Look at the slot (precheck, verify, and after a restart). The number grows, so a second look is a new effect.
    Inspect(u64),
    /// An act on the runtime for a step of a command; one at a time.
    Act(CommandId, StepId, ActKind),
    /// Keep probing an instance.
    Probe(InstanceId),
    /// Keep reading an instance's work in flight.
    WatchInflight(InstanceId),
    /// Tell when an instance's main process ends, at once if it has.
    WatchExit(InstanceId),
    /// Tell an outcome until it is acknowledged.
    Tell(CommandId, StepId),
    /// Tell how a step is getting on; latest wins.
    Report(CommandId, StepId),
}

/// Which act on the runtime; part of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ActKind {
    /// See [`Effect`].
    Prepare,
    /// See [`Effect`].
    Start,
    /// See [`Effect`].
    HoldRestart,
    /// See [`Effect`].
    AllowRestart,
    /// See [`Effect`].
    DrainCall,
    /// See [`Effect`].
    UndrainCall,
    /// See [`Effect`].
    Signal,
    /// See [`Effect`].
    Kill,
    /// See [`Effect`].
    Remove,
    /// See [`Effect`].
    Switch,
    /// See [`Effect`].
    Run,
}

/// What a worker wants done. An effect that leaves `outstanding` cancels nothing that has happened; watching effects
/// (`Probe`, `WatchInflight`, `WatchExit`) simply end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Answer with [`Event::Inspected`].
    Inspect,
    /// Create the instance. Idempotent by instance id.
    Prepare {
        /// Which.
        instance: InstanceId,
        /// In the spec store.
        definition: Digest,
        /// Kept with the instance and reported with it.
        spec: Digest,
        /// Kept with the instance and reported with it.
        version: Option<String>,
    },
    /// Start it. Answer with its endpoint.
    Start {
        /// Which.
        instance: InstanceId,
    },
    /// Keep keeper or engine from starting it again when it ends.
    HoldRestart {
        /// Which.
        instance: InstanceId,
    },
    /// Give its restart policy back.
    AllowRestart {
        /// Which.
        instance: InstanceId,
    },
    /// The http or exec call that begins its drain.
    DrainCall {
        /// Which.
        instance: InstanceId,
        /// In the spec store.
        definition: Digest,
        /// What was left of the drain's time when the call was decided on.
        left: Duration,
    },
    /// The http or exec call that gives the drain back.
    UndrainCall {
        /// Which.
        instance: InstanceId,
        /// In the spec store.
        definition: Digest,
    },
    /// A signal to its main process, once.
    Signal {
        /// Which.
        instance: InstanceId,
        /// By its name.
        signal: String,
    },
    /// SIGKILL to everything left of it. Done when all is gone.
    Kill {
        /// Which.
        instance: InstanceId,
    },
    /// Remove it for good.
    Remove {
        /// Which.
        instance: InstanceId,
    },
    /// On a gateway's slot: bring the table in line and keep telling with [`Event::Gateway`].
    Switch {
        /// Whose targets.
        component: ComponentName,
        /// The whole list.
        targets: Vec<TableTarget>,
        /// How long a request may be held.
        hold_max: Duration,
        /// True once the wait for zero is over: close upgraded connections properly.
        close: bool,
    },
    /// A hook.
    Run {
        /// Its name.
        hook: String,
    },
    /// Keep probing: answer with [`Event::Probed`] after each probe.
    Probe {
        /// Which.
        instance: InstanceId,
        /// In the spec store.
        definition: Digest,
        /// How often.
        pace: Pace,
    },
    /// Keep reading: answer with [`Event::Inflight`].
    WatchInflight {
        /// Which.
        instance: InstanceId,
        /// In the spec store.
        definition: Digest,
    },
    /// Answer with [`Event::Exited`].
    WatchExit {
        /// Which.
        instance: InstanceId,
        /// Whether the last lines that it wrote come with the word of its end: not of what was asked to end.
        lines: bool,
    },
    /// Send until acknowledged.
    Tell(Box<Outcome>),
    /// Send once; latest wins.
    Report(Box<Progress>),
}

/// What happened to a slot.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time passed: something may be due.
    Tick,
    /// The agent has started; replay is over. What was under way is unknown until looked at.
    Started,
    /// A command came, admitted by the session (term) and by the agent's policy.
    Command(Box<Command>),
    /// A list is recalled: steps that have not begun are skipped.
    Recall(CommandId),
    /// The coordinator has these outcomes in its journal.
    Acknowledged(Vec<(CommandId, StepId)>),
    /// These rolls are over: their acknowledged commands leave the ledger.
    Forget(Vec<RollId>),
    /// The answer to `Inspect`, or news.
    Inspected(Vec<InstanceObservation>),
    /// The slot could not be looked at. Nothing is known; nothing is taken for stopped.
    InspectFailed(String),
    /// An act ended.
    Acted {
        /// Which.
        key: EffectKey,
        /// How; with the endpoint for `Start`.
        result: Result<Option<Endpoint>, ActError>,
    },
    /// A probe answered (or could not be made: not ready).
    Probed {
        /// Which instance.
        instance: InstanceId,
        /// What it said.
        verdict: Verdict,
    },
    /// A reading of work in flight. An error is no answer, which is not zero.
    Inflight {
        /// Which instance.
        instance: InstanceId,
        /// How much, or for people why nobody knows.
        count: Result<u64, String>,
    },
    /// A main process ended.
    Exited {
        /// Which instance.
        instance: InstanceId,
        /// How.
        status: ExitStatus,
        /// Its last log lines, redacted.
        log: Vec<String>,
    },
    /// A gateway told how far a switch is.
    Gateway {
        /// Whose targets.
        component: ComponentName,
        /// The table asked for is in use (its new targets answered).
        in_use: bool,
        /// Requests and upgraded connections in flight on draining targets.
        inflight: u64,
        /// Upgraded connections closed at the end of the drain.
        closed: u64,
        /// For people.
        text: String,
    },
}
