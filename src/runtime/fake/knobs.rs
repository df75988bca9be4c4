//! How the instances of a component behave, and what goes wrong.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::ExitStatus;
use crate::runtime::RuntimeError;

/// The acts of a runtime that can be slowed down or made to fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FakeAct {
    /// `inspect`
    Inspect,
    /// `prepare`
    Prepare,
    /// `start`
    Start,
    /// `hold_restart`
    HoldRestart,
    /// `allow_restart`
    AllowRestart,
    /// `signal`
    Signal,
    /// The call that begins a drain.
    DrainCall,
    /// The call that gives it back.
    UndrainCall,
    /// `kill`
    Kill,
    /// `remove`
    Remove,
    /// A gateway's switch.
    Switch,
    /// A hook.
    Run,
}

/// What goes wrong with one act.
#[derive(Clone, Debug)]
pub enum Fault {
    /// It does not happen, and that is known.
    Fails(RuntimeError),
    /// The answer is lost: the error says `unknown`, whether it happened or not.
    Lost {
        /// Whether it did.
        happened: bool,
    },
}

/// How an instance behaves. The default is a good one: ready at once, ends at once when it is asked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Knobs {
    /// How long the answers to acts take; absent: none. The act itself happens when it is asked for.
    pub latency: BTreeMap<FakeAct, Duration>,
    /// From its start to ready; `None`: never.
    pub ready_after: Option<Duration>,
    /// From its start to an end of its own. For a job, its work.
    pub exits_after: Option<(Duration, ExitStatus)>,
    /// From ready to an end of its own.
    pub dies_after_ready: Option<(Duration, ExitStatus)>,
    /// How many of its runs end by themselves as above; later ones do not.
    pub crashes: u32,
    /// Only SIGKILL ends it.
    pub ignores_term: bool,
    /// From the end of its work to its end after a signal.
    pub stop_takes: Duration,
    /// How it ends after a signal.
    pub stop_exit: ExitStatus,
    /// Work in flight at every moment of its running; once it drains, how long each piece still takes.
    pub jobs: Vec<Duration>,
    /// Its work in flight cannot be read.
    pub inflight_unreadable: bool,
    /// Its release is not on the host.
    pub release_missing: bool,
    /// Its program cannot be executed: for people.
    pub start_refused: Option<String>,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            latency: BTreeMap::new(),
            ready_after: Some(Duration::ZERO),
            exits_after: None,
            dies_after_ready: None,
            crashes: u32::MAX,
            ignores_term: false,
            stop_takes: Duration::ZERO,
            stop_exit: ExitStatus::Code(0),
            jobs: Vec::new(),
            inflight_unreadable: false,
            release_missing: false,
            start_refused: None,
        }
    }
}

impl Knobs {
    /// Never ready.
    pub fn never_ready() -> Knobs {
        Knobs { ready_after: None, ..Knobs::default() }
    }

    /// Ends with this code as soon as it is started, every time.
    pub fn exits_at_once(code: i32) -> Knobs {
        Knobs { ready_after: None, exits_after: Some((Duration::ZERO, ExitStatus::Code(code))), ..Knobs::default() }
    }

    /// Gets ready and dies so long after it, every time.
    pub fn dies_after_ready(after: Duration) -> Knobs {
        Knobs { dies_after_ready: Some((after, ExitStatus::Code(1))), ..Knobs::default() }
    }

    /// A job that ends with this code after so long.
    pub fn job(takes: Duration, code: i32) -> Knobs {
        Knobs { ready_after: None, exits_after: Some((takes, ExitStatus::Code(code))), ..Knobs::default() }
    }
}

/// What goes through a gateway.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayKnobs {
    /// Requests in flight on a target at the moment of its release: how long each still takes.
    pub requests: Vec<Duration>,
    /// Upgraded connections on a target that last until they are closed.
    pub upgraded: u64,
}
