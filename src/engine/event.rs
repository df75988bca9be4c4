//! What can happen to a fleet.

use serde::{Deserialize, Serialize};

use crate::model::{AgentId, Claim, CommandId, Inventory, Outcome, Plan, Progress, RollId, StepId};

/// What a person asks of a roll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Begin nothing more; finish lists that have begun.
    Pause,
    /// Go on after a pause.
    Resume,
    /// Recall what has not begun, wait for the safe point, end the roll where it is.
    Abort,
    /// Try failed and unknown steps again: the same roll, attempt + 1.
    Retry,
    /// End the roll and put back what was there.
    Rollback,
    /// Settle an unknown or failed step by hand.
    Settle {
        /// Which.
        step: StepId,
        /// Whether it was done.
        done: bool,
    },
    /// End the roll as superseded: another plan follows.
    Supersede,
    /// Open a gate.
    Approve {
        /// Its step.
        step: StepId,
    },
}

/// What happened outside the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// Time passed: something may be due.
    Tick,
    /// A coordinator has started with this claim. The first event after replay.
    Started(Claim),
    /// The coordinator is embedded in a verb: nothing goes on by itself before somebody asks for something. Comes
    /// before `Started`, so that not even the ticks after that begin anything.
    FellAsleep,
    /// A plan is to be carried out. Refused beforehand (see `Engine::may_begin`) when a roll is unfinished.
    RollRequested {
        /// The new roll's random id.
        roll: RollId,
        /// What to do.
        plan: Box<Plan>,
        /// Who asked: a user name, or `baton`.
        actor: String,
        /// Why, in their words.
        reason: String,
    },
    /// A person asks something of the roll at hand.
    Operator {
        /// What.
        request: Request,
        /// Who.
        actor: String,
        /// Why, in their words.
        reason: String,
    },
    /// The plan that `Effect::PlanRollback` asked for.
    RollbackPlanned {
        /// The failed roll.
        parent: RollId,
        /// The new roll's random id.
        roll: RollId,
        /// What to do.
        plan: Box<Plan>,
    },
    /// No way back could be planned: a person is needed.
    RollbackImpossible {
        /// The failed roll.
        parent: RollId,
        /// For people.
        why: String,
    },
    /// An agent told a step's end.
    Outcome {
        /// Who.
        agent: AgentId,
        /// What.
        outcome: Outcome,
    },
    /// An agent told how a step is getting on.
    Progress {
        /// Who.
        agent: AgentId,
        /// How.
        progress: Progress,
    },
    /// An agent refused a command before its ledger took it.
    CommandRefused {
        /// Who.
        agent: AgentId,
        /// Which.
        command: CommandId,
        /// For people.
        why: String,
    },
    /// An agent reported its inventory (in its hello, on request, or as news).
    Inventory(Box<Inventory>),
    /// A session with an agent is up (its inventory follows).
    SessionUp(AgentId),
    /// A session was lost: a hold, never a failure.
    SessionLost(AgentId),
}
