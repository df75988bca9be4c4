//! Words between nodes. A wire is one stream: words arrive in order or not at all, and what follows a lost one is lost
//! with it.

use std::time::Duration;

use super::simulation::{Item, Simulation};
use crate::model::{AgentId, Timestamp, ToAgent, ToCoordinator};

/// From one node to another and back, without any fault.
const LATENCY: Duration = Duration::from_millis(1);
/// How long until an end learns that its stream was cut, at most; one in four never learns it from the stream.
const NEWS_OF_A_CUT: Duration = Duration::from_secs(3);

/// Which end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Agent,
    Coordinator,
}

/// One stream.
#[derive(Clone, Debug)]
pub(super) struct Wire {
    pub(super) agent: AgentId,
    /// Which life of the agent dialled.
    pub(super) life: u64,
    /// Which life of the coordinator answered.
    pub(super) host_life: u64,
    /// The coordinator's number for it, once it said hello.
    pub(super) session: Option<u64>,
    /// Nothing sent from now on arrives.
    cut: bool,
    /// When the last word or news of the end arrives, by end.
    last: [Timestamp; 2],
}

impl Wire {
    pub(super) fn new(agent: AgentId, life: u64, host_life: u64, now: Timestamp) -> Self {
        Self { agent, life, host_life, session: None, cut: false, last: [now; 2] }
    }
}

fn place(end: End) -> usize {
    match end {
        End::Agent => 0,
        End::Coordinator => 1,
    }
}

impl Simulation {
    /// How long the next word takes.
    pub(super) fn latency(&mut self) -> Duration {
        LATENCY + self.chance.up_to(self.options.delay)
    }

    pub(super) fn send_to_agent(&mut self, wire: u64, word: &ToAgent) {
        let text = serde_json::to_string(word).unwrap_or_default();
        if matches!(word, ToAgent::Command { .. })
            && let Some(most) = self.options.twice
        {
            let later = self.chance.up_to(most);
            let at = self.now + LATENCY + later;
            self.put(at, Item::Word { wire, to: End::Agent, text: text.clone() });
        }
        self.send(wire, End::Agent, text);
    }

    pub(super) fn send_to_coordinator(&mut self, wire: u64, word: &ToCoordinator) {
        let text = serde_json::to_string(word).unwrap_or_default();
        self.send(wire, End::Coordinator, text);
    }

    fn send(&mut self, wire: u64, to: End, text: String) {
        if self.wires.get(&wire).is_none_or(|wire| wire.cut) {
            return;
        }
        if self.chance.one_in(self.options.lose) && self.may_fail() {
            self.note(|_| format!("word lost, wire {wire} cut"));
            self.cut(wire, true);
            return;
        }
        let at = self.now + self.latency();
        let Some(open) = self.wires.get_mut(&wire) else { return };
        let last = &mut open.last[place(to)];
        *last = at.max(*last);
        let at = *last;
        self.put(at, Item::Word { wire, to, text });
    }

    /// Ends a stream. Words under way still arrive; each end learns of it after them, or, where the network `failed`,
    /// later or by silence alone.
    pub(super) fn cut(&mut self, wire: u64, failed: bool) {
        let Some(open) = self.wires.get_mut(&wire) else { return };
        if std::mem::replace(&mut open.cut, true) {
            return;
        }
        for to in [End::Agent, End::Coordinator] {
            if failed && self.chance.one_in(4) {
                continue;
            }
            let news = if failed { self.chance.up_to(NEWS_OF_A_CUT) } else { Duration::ZERO };
            let Some(open) = self.wires.get(&wire) else { return };
            let at = (self.now + LATENCY + news).max(open.last[place(to)]);
            self.put(at, Item::Ended { wire, to });
        }
    }

    /// Ends every stream of a node that was killed.
    pub(super) fn cut_all(&mut self, mut concerns: impl FnMut(&Wire) -> bool) {
        let wires: Vec<u64> =
            self.wires.iter().filter(|(_, wire)| !wire.cut && concerns(wire)).map(|(id, _)| *id).collect();
        for wire in wires {
            self.cut(wire, false);
        }
    }
}
