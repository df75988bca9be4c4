//! What tasks ask of the coordinator's loop, and what they get.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use crate::engine::{FleetView, News, Request, RollSummary};
use crate::model::{
    AgentHello, AgentId, ComponentName, Definition, Digest, InstanceId, Inventory, Plan, Refusal, RollId, RollNumber,
    SlotName, ToAgent, ToCoordinator,
};

/// One piece of news with its place.
#[derive(Clone, Debug)]
pub(super) struct NewsItem {
    pub(super) sequence: u64,
    pub(super) wall_ms: u64,
    pub(super) news: News,
}

/// What a watcher gets.
pub(super) struct Watching {
    pub(super) backlog: Vec<Arc<NewsItem>>,
    pub(super) news: broadcast::Receiver<Arc<NewsItem>>,
    pub(super) views: watch::Receiver<Arc<FleetView>>,
    /// The number of the roll asked for: one that began before this coordinator did has no news of its begin.
    pub(super) number: Option<RollNumber>,
}

/// Why a request was turned down: nothing was touched.
#[derive(Clone, Debug, thiserror::Error)]
pub(super) enum Turned {
    /// As things are.
    #[error("{0}")]
    Refused(String),
    /// The coordinator is going down.
    #[error("the coordinator is stopping")]
    Stopping,
}

/// What a plan is made from beside the manifest and the ask.
pub(super) struct Snapshot {
    pub(super) history: crate::node::Knowledge,
    pub(super) attached: Vec<AgentId>,
    /// For people: agents that were refused, or that refused this coordinator, since their last session.
    pub(super) turned_away: Vec<String>,
    /// What shows that the journal is older than the fleet.
    pub(super) older: Option<String>,
    pub(super) unfinished: Option<(RollId, RollNumber, Box<Plan>)>,
    /// Instances without which it cannot go on, while nobody carries it on.
    pub(super) counts_on: BTreeSet<InstanceId>,
    /// The last roll that changed the fleet and has ended.
    pub(super) last: Option<(RollId, RollNumber, Box<Plan>)>,
}

/// What tasks ask of the loop.
pub(super) enum Message {
    Attach {
        hello: Box<AgentHello>,
        words: mpsc::Sender<ToAgent>,
        answer: oneshot::Sender<Result<u64, Refusal>>,
    },
    Word {
        agent: AgentId,
        session: u64,
        word: ToCoordinator,
    },
    Detach {
        agent: AgentId,
        session: u64,
    },
    Report {
        agent: AgentId,
        resolve: BTreeMap<ComponentName, Definition>,
        pull: bool,
        answer: oneshot::Sender<Inventory>,
    },
    Snapshot {
        answer: oneshot::Sender<Snapshot>,
    },
    Begin {
        plan: Box<Plan>,
        definitions: BTreeMap<Digest, Definition>,
        actor: String,
        reason: String,
        answer: oneshot::Sender<Result<(RollId, RollNumber), Turned>>,
    },
    Operate {
        request: Request,
        actor: String,
        reason: String,
        answer: oneshot::Sender<Result<Option<RollId>, Turned>>,
    },
    Rollback {
        parent: RollId,
        planned: Result<Box<crate::planner::Planned>, String>,
    },
    View {
        answer: oneshot::Sender<(FleetView, Vec<String>)>,
    },
    Watch {
        roll: Option<RollId>,
        answer: oneshot::Sender<Watching>,
    },
    Summaries {
        limit: usize,
        answer: oneshot::Sender<Vec<RollSummary>>,
    },
    Logs {
        slot: SlotName,
        lines: u32,
        answer: oneshot::Sender<Result<Vec<String>, String>>,
    },
}
