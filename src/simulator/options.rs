//! What is to go wrong in a run.

use std::fmt;
use std::time::Duration;

use crate::journal::AppendFault;
use crate::model::AgentId;

/// A process that can be killed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Node {
    /// The coordinator.
    Coordinator,
    /// That agent.
    Agent(AgentId),
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Node::Coordinator => f.write_str("coordinator"),
            Node::Agent(agent) => write!(f, "agent {agent}"),
        }
    }
}

/// Where in a node's work it can be killed. Numbers count from the begin of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// At its nth append: before anything is on disk, or with all of it on disk and nothing done about it.
    Append {
        /// From 1.
        nth: u64,
        /// What is on disk.
        fault: AppendFault,
    },
    /// Around its nth effect: before it is carried out, or after it was and before its result is told.
    Effect {
        /// From 1.
        nth: u64,
        /// After it.
        after: bool,
    },
}

/// One point at which a node can be killed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Point {
    /// Which node.
    pub node: Node,
    /// Where.
    pub place: Place,
    /// Whether the effect only looks: it changes nothing outside, so that a kill around it leaves what a kill at the
    /// append before it leaves.
    pub looks: bool,
    /// What happens there: the kinds of the records, or the effect's key.
    pub what: String,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} killed at {:?} ({})", self.node, self.place, self.what)
    }
}

/// A fault put into the code on purpose, from outside of it. The judges must catch each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// Agents obey commands of any term.
    NoFencing,
    /// Nodes act first and write down afterwards.
    RecordAfterEffect,
    /// What the runtime cannot see is taken for stopped.
    UnknownIsStopped,
}

/// What is to go wrong in a run. The default is a calm one.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Decides everything that chance decides.
    pub seed: u64,
    /// Kill a node there.
    pub crash: Option<Point>,
    /// How long a killed node is away.
    pub away: Duration,
    /// Every command is delivered twice: the second time up to so much later.
    pub twice: Option<Duration>,
    /// One word in so many is lost, and with it its session; 0: none.
    pub lose: u32,
    /// A word takes up to so much longer.
    pub delay: Duration,
    /// A node is killed at one effect in so many; 0: none.
    pub kill: u32,
    /// At most so many kills by chance.
    pub kills: u32,
    /// One look in so many finds that the runtime cannot say; 0: none.
    pub unclear: u32,
    /// Commands of a dead coordinator arrive once more, so long after its death.
    pub late: Option<Duration>,
    /// A fault in the code.
    pub mutant: Option<Mutant>,
    /// Collect every point at which a node can be killed.
    pub points: bool,
    /// Keep a line for everything that happens.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 0,
            crash: None,
            away: Duration::from_millis(700),
            twice: None,
            lose: 0,
            delay: Duration::ZERO,
            kill: 0,
            kills: 3,
            unclear: 0,
            late: None,
            mutant: None,
            points: false,
            trace: false,
        }
    }
}
