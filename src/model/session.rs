//! The words of a session between a coordinator and an agent, whatever carries them.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{
    AgentId, Command, CommandId, ComponentName, CoordinatorId, Definition, Digest, FleetName, Inventory, Outcome,
    Progress, StepId, Term, millis,
};

/// The version of the session's protocol. An agent and a coordinator agree on the lower of both; below 1, none.
pub const PROTOCOL_VERSION: u32 = 1;

/// Who coordinates: the authority that an agent obeys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The coordinator and its journal.
    pub coordinator: CoordinatorId,
    /// Its incarnation.
    pub term: Term,
    /// Random for each start: two journals that grew from one backup can reach the same term, never the same nonce.
    pub nonce: String,
}

/// The first word of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// Its protocol version.
    pub protocol: u32,
    /// Its fleet.
    pub fleet: FleetName,
    /// Its id.
    pub agent: AgentId,
    /// The coordinator it obeys, if it has obeyed one.
    pub obeys: Option<Claim>,
    /// All it has.
    pub inventory: Inventory,
}

/// Why a hello was refused. For people it is one line that says what to type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// Too new or too old.
    #[error(
        "protocol version {theirs} is not spoken here (this side speaks up to {ours}); install the same Baton on both"
    )]
    Protocol {
        /// The other side's.
        theirs: u32,
        /// This side's.
        ours: u32,
    },
    /// The agent obeys another coordinator.
    #[error(
        "agent {agent} obeys coordinator {obeys}, not {asked}; to hand it over, run `baton agent adopt {asked}` on its \
         host"
    )]
    Foreign {
        /// Who refuses.
        agent: AgentId,
        /// Whom it obeys.
        obeys: CoordinatorId,
        /// Who asked.
        asked: CoordinatorId,
    },
    /// The coordinator's term is older than one that the agent has accepted, or the same with another nonce.
    #[error("term {asked} is not newer than term {known}, which agent {agent} has accepted")]
    Stale {
        /// Who refuses.
        agent: AgentId,
        /// The highest it knows.
        known: Term,
        /// What was offered.
        asked: Term,
    },
    /// Another agent of that id is connected.
    #[error("agent {agent} is already connected from elsewhere; ids must be unique in a fleet")]
    Duplicate {
        /// The id.
        agent: AgentId,
    },
    /// Another fleet.
    #[error("this is fleet {ours}, not {theirs}")]
    Fleet {
        /// This side's.
        ours: FleetName,
        /// The other side's.
        theirs: FleetName,
    },
}

/// The coordinator's answer to a hello.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// The agreed protocol version.
    pub protocol: u32,
    /// Who coordinates.
    pub claim: Claim,
    /// How often both sides send a heartbeat.
    #[serde(with = "millis")]
    pub heartbeat: Duration,
}

/// What a coordinator sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToAgent {
    /// The answer to the hello.
    Hello(HelloReply),
    /// The hello was refused; the session ends.
    Refused(Refusal),
    /// Carry this out. The definitions that its steps name come with it.
    Command {
        /// The list.
        command: Command,
        /// By digest.
        definitions: BTreeMap<Digest, Definition>,
    },
    /// Begin no further step of that list.
    Recall {
        /// The list.
        command: CommandId,
        /// Under which term.
        term: Term,
    },
    /// These outcomes are in the journal: the agent need not send them again.
    Acknowledge(Vec<(CommandId, StepId)>),
    /// These rolls are over: their commands may leave the ledger once acknowledged.
    Forget(Vec<super::RollId>),
    /// Report the inventory; with components, resolve them first. The answer carries the number.
    Report {
        /// To tell answers apart.
        number: u64,
        /// What to resolve, with `{version}` filled in.
        resolve: BTreeMap<ComponentName, Definition>,
        /// Whether missing images may be pulled.
        pull: bool,
    },
    /// Read an instance's log.
    Logs {
        /// To tell answers apart.
        number: u64,
        /// Which slot.
        slot: super::SlotName,
        /// At most so many lines from the end.
        lines: u32,
    },
    /// Still here.
    Heartbeat,
}

/// What an agent sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToCoordinator {
    /// The first word.
    Hello(Box<AgentHello>),
    /// The agent refuses the coordinator; the session ends.
    Refused(Refusal),
    /// A step ended. Re-sent until acknowledged.
    Outcome(Outcome),
    /// How a step is getting on. Latest wins.
    Progress(Progress),
    /// The answer to a report, or (number 0) news.
    Report {
        /// As asked.
        number: u64,
        /// All it has.
        inventory: Box<Inventory>,
    },
    /// The answer to a request for logs.
    Logs {
        /// As asked.
        number: u64,
        /// Lines, oldest first, redacted.
        lines: Vec<String>,
        /// Why there are none.
        problem: Option<String>,
    },
    /// The same id with another body, or not admitted at all, before it reached the ledger: the whole list.
    CommandRefused {
        /// The list.
        command: CommandId,
        /// For people.
        why: String,
    },
    /// Still here.
    Heartbeat,
}
