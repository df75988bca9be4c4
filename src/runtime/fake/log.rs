//! Everything that happened, for checkers of order, floor and exclusivity.

use std::collections::BTreeMap;

use super::knobs::FakeAct;
use crate::model::{ComponentName, ExitStatus, InstanceId, SlotName, TableTarget, Timestamp};

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: Happening,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// An instance was made.
    Prepared(InstanceId),
    /// Its main process began.
    Started {
        /// Which.
        instance: InstanceId,
        /// The first time, or the how-manieth start by itself.
        restarts: u32,
        /// Other instances of its slot that ran at that moment.
        beside: Vec<InstanceId>,
    },
    /// It got ready.
    Ready(InstanceId),
    /// It was sent a signal.
    Signalled {
        /// Which.
        instance: InstanceId,
        /// By its name.
        signal: String,
    },
    /// A drain began on it.
    DrainBegan(InstanceId),
    /// Its drain was given back.
    Undrained(InstanceId),
    /// Its last work in flight ended while it drained.
    Idle(InstanceId),
    /// SIGKILL was sent to everything of it.
    Killed(InstanceId),
    /// Its main process ended.
    Exited {
        /// Which.
        instance: InstanceId,
        /// How.
        status: ExitStatus,
    },
    /// It ended with work in flight.
    JobsLost {
        /// Which.
        instance: InstanceId,
        /// How many pieces.
        count: u64,
    },
    /// Its end is its end.
    Held(InstanceId),
    /// Its restart policy is back.
    Allowed(InstanceId),
    /// It was removed.
    Removed(InstanceId),
    /// A gateway took a table into use.
    TableInUse {
        /// The gateway's slot.
        gateway: SlotName,
        /// Whose targets.
        component: ComponentName,
        /// The whole list.
        targets: Vec<TableTarget>,
    },
    /// A target ended with requests in flight on it.
    RequestsCut {
        /// The target.
        instance: InstanceId,
        /// How many.
        count: u64,
    },
    /// A hook ran.
    Ran(String),
    /// A host went down with everything on it.
    Rebooted(Vec<SlotName>),
    /// A keeper was killed and followed by another.
    KeeperLost(SlotName),
    /// An act went wrong as it was told to.
    Faulted {
        /// Where.
        slot: SlotName,
        /// Which.
        act: FakeAct,
    },
}

/// News that nobody asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FakeEvent {
    /// When it happened.
    pub at: Timestamp,
    /// To which instance.
    pub instance: InstanceId,
    /// What.
    pub kind: FakeEventKind,
}

/// What kind of news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FakeEventKind {
    /// It began by itself (a restart).
    Started,
    /// Its probe says ready from now on.
    Ready,
    /// No work is in flight on it any more.
    Idle,
    /// Its main process ended.
    Exited(ExitStatus),
}

/// One run of an instance's main process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// When it began.
    pub from: Timestamp,
    /// When it got ready, if it did.
    pub ready: Option<Timestamp>,
    /// When it ended, if it has.
    pub until: Option<Timestamp>,
}

impl Span {
    /// Whether it ran at that moment. Its end belongs to it no more.
    pub fn runs_at(&self, at: Timestamp) -> bool {
        self.from <= at && self.until.is_none_or(|until| at < until)
    }

    /// Whether it ran and was ready at that moment.
    pub fn ready_at(&self, at: Timestamp) -> bool {
        self.runs_at(at) && self.ready.is_some_and(|ready| ready <= at)
    }
}

/// Who ran when, from a log.
pub fn spans(log: &[Entry]) -> BTreeMap<InstanceId, Vec<Span>> {
    let mut spans: BTreeMap<InstanceId, Vec<Span>> = BTreeMap::new();
    for entry in log {
        match &entry.what {
            Happening::Started { instance, .. } => {
                let span = Span { from: entry.at, ready: None, until: None };
                spans.entry(instance.clone()).or_default().push(span);
            }
            Happening::Ready(instance) => {
                if let Some(span) = spans.get_mut(instance).and_then(|spans| spans.last_mut()) {
                    span.ready = Some(entry.at);
                }
            }
            Happening::Exited { instance, .. } => {
                if let Some(span) = spans.get_mut(instance).and_then(|spans| spans.last_mut()) {
                    span.until = Some(entry.at);
                }
            }
            _ => {}
        }
    }
    spans
}
