//! Agents that dialled and have no session, and why: an operator who misses one is told.

use std::collections::BTreeMap;

use crate::model::{AgentId, Refusal};

/// So many are remembered: an id can be any word that a stranger says.
const MOST: usize = 100;

/// By agent, the last refusal, until a session of it comes up.
#[derive(Debug, Default)]
pub(super) struct TurnedAway(BTreeMap<AgentId, Refusal>);

impl TurnedAway {
    /// It was refused, or it refused this coordinator.
    pub(super) fn add(&mut self, agent: AgentId, refusal: Refusal) {
        if self.0.len() < MOST || self.0.contains_key(&agent) {
            self.0.insert(agent, refusal);
        }
    }

    /// It has a session now.
    pub(super) fn forget(&mut self, agent: &AgentId) {
        self.0.remove(agent);
    }

    /// A line for people for each. Begins with `agent ID `.
    pub(super) fn notices(&self) -> Vec<String> {
        let words = |(agent, refusal): (&AgentId, &Refusal)| match refusal {
            // Its words begin with the agent already.
            Refusal::Foreign { .. } => refusal.to_string(),
            _ => format!("agent {agent} was refused: {refusal}"),
        };
        self.0.iter().map(words).collect()
    }
}
