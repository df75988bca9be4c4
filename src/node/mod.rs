//! The pure machines of one process, joined: an agent's link and workers, a coordinator's engine and links.
//!
//! A room of its own because three others need the same joint: the agent, the coordinator and the simulator. It adds no
//! rules; it routes an event to the machine it belongs to and names effects so that no two collide. Both nodes follow
//! the driver's contract: after each event, `decide` is asked again with the tick until it has nothing to say.

mod agent;
mod coordinator;
mod knowledge;

pub use agent::{AgentEffect, AgentEvent, AgentKey, AgentNode, AgentRecord, Refused};
pub use coordinator::{CoordinatorEffect, CoordinatorEvent, CoordinatorKey, CoordinatorNode, CoordinatorRecord};
pub use knowledge::Knowledge;

#[cfg(test)]
mod tests;
