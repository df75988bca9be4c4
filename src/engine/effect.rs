//! What the engine wants done outside, and what names it.

use serde::{Deserialize, Serialize};

use crate::model::{AgentId, Command, CommandId, RollId};

/// What names an effect: stable while the effect is outstanding.
///
/// A list sorts before its recall, so that a driver that goes through `outstanding()` in order never calls something
/// back before it has sent it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Key {
    /// A list of steps that an agent must carry out.
    List(CommandId),
    /// A list whose remaining steps must not begin.
    Recall(CommandId),
    /// A plan for the way back is needed.
    PlanRollback(RollId),
    /// An agent must be looked at afresh.
    Refresh(AgentId),
    /// Ended rolls may leave an agent's ledger.
    Forget(AgentId),
}

/// What the engine wants done. An effect that leaves `outstanding` cancels nothing that has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// Deliver a list until each of its steps has ended. Sent again whenever a session comes up or the term changes;
    /// the agent's ledger makes that harmless.
    Send {
        /// To whom.
        agent: AgentId,
        /// What, under the term of the day.
        command: Command,
    },
    /// Begin no further step of that list; its steps end as done or skipped.
    Recall {
        /// To whom.
        agent: AgentId,
        /// Which.
        command: CommandId,
    },
    /// Plan the way back from fresh inventories and answer with `RollbackPlanned` or `RollbackImpossible`.
    PlanRollback {
        /// The roll that is taken back.
        roll: RollId,
    },
    /// Ask for an inventory, taken after this effect appeared.
    Refresh {
        /// Whom.
        agent: AgentId,
    },
    /// These rolls are over: their commands may leave the agent's ledger once acknowledged.
    Forget {
        /// To whom.
        agent: AgentId,
        /// Which.
        rolls: Vec<RollId>,
    },
}
