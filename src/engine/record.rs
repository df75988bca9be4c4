//! What the coordinator's journal holds.

use serde::{Deserialize, Serialize};

use super::Request;
use crate::model::{
    AgentId, Claim, Command, Endpoint, Inventory, Plan, Progress, Recordable, RollId, RollNumber, StepId, StepResult,
};

/// How a roll ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RollResult {
    /// Every step done, but for those of slots that `max_failure_ratio` lets it go on without.
    Succeeded,
    /// It failed and `by` takes it back.
    RolledBack {
        /// The rollback.
        by: RollId,
        /// What failed, for people.
        why: String,
    },
    /// A rollback that failed, a roll that a person gave up on after a failure, or one that was carried out without
    /// more slots than its limits allow.
    Failed {
        /// For people.
        why: String,
    },
    /// A person ended it where it was.
    Aborted {
        /// Who.
        actor: String,
    },
    /// A newer plan took its place.
    Superseded {
        /// Who.
        actor: String,
    },
}

impl RollResult {
    /// In a word, for people.
    pub fn word(&self) -> &'static str {
        match self {
            RollResult::Succeeded => "succeeded",
            RollResult::RolledBack { .. } => "rolled back",
            RollResult::Failed { .. } => "failed",
            RollResult::Aborted { .. } => "aborted",
            RollResult::Superseded { .. } => "superseded",
        }
    }

    /// Why, where there is more to say than the word.
    pub fn why(&self) -> Option<&str> {
        match self {
            RollResult::RolledBack { why, .. } | RollResult::Failed { why } => Some(why),
            _ => None,
        }
    }
}

/// One line of the coordinator's journal, or a note that never gets there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "record")]
pub enum Record {
    // === facts ===
    /// A coordinator started.
    TermBegan {
        /// Its claim.
        claim: Claim,
    },
    /// A roll began.
    RollBegan {
        /// Its random id.
        roll: RollId,
        /// Its number, for people.
        number: RollNumber,
        /// What to do.
        plan: Box<Plan>,
        /// The roll that it takes back.
        parent: Option<RollId>,
        /// Who asked.
        actor: String,
        /// Why, in their words.
        reason: String,
    },
    /// A command may leave: this record is synced before it does.
    ListBegan {
        /// To whom.
        agent: AgentId,
        /// What. Sent again with the term of the day.
        command: Command,
    },
    /// A step of the engine's own began (`delay`, `gate`).
    OwnStepBegan {
        /// Which.
        step: StepId,
    },
    /// A step ended. A later one for the same step replaces an `unknown`.
    StepEnded {
        /// Which.
        step: StepId,
        /// The try.
        attempt: crate::model::Attempt,
        /// How.
        result: StepResult,
        /// Where the instance is reached, as told.
        endpoint: Option<Endpoint>,
        /// For people, when somebody else than the agent said so.
        by: Option<String>,
    },
    /// A person asked; what follows from it is a function of the state.
    Asked {
        /// What.
        request: Request,
        /// Who.
        actor: String,
        /// Why.
        reason: String,
    },
    /// A failure action was taken.
    FailureActed {
        /// The step that tipped it.
        step: StepId,
        /// What was done.
        action: crate::model::FailureAction,
        /// For people.
        why: String,
    },
    /// No way back could be planned.
    NoWayBack {
        /// For people.
        why: String,
    },
    /// The roll ended.
    RollEnded {
        /// Which.
        roll: RollId,
        /// How.
        result: RollResult,
    },
    /// An agent reported for the first time under a new coordinator id, with rolls that this journal never held: they
    /// are history of the coordinator before, and no sign of a journal older than the fleet.
    RollsDisowned {
        /// Who.
        agent: AgentId,
        /// Which; may be empty.
        rolls: Vec<RollId>,
    },
    // === notes ===
    /// Nothing begins before somebody asks for something: any request that is taken wakes.
    FellAsleep,
    /// A session is up or lost.
    SessionSeen {
        /// With whom.
        agent: AgentId,
        /// Up.
        up: bool,
    },
    /// An inventory came.
    InventorySeen {
        /// It.
        inventory: Box<Inventory>,
    },
    /// Progress came.
    ProgressSeen {
        /// From whom.
        agent: AgentId,
        /// It.
        progress: Progress,
    },
}

impl Recordable for Record {
    fn kind(&self) -> &'static str {
        match self {
            Record::TermBegan { .. } => "term-began",
            Record::RollBegan { .. } => "roll-began",
            Record::ListBegan { .. } => "list-began",
            Record::OwnStepBegan { .. } => "own-step-began",
            Record::StepEnded { .. } => "step-ended",
            Record::Asked { .. } => "asked",
            Record::FailureActed { .. } => "failure-acted",
            Record::NoWayBack { .. } => "no-way-back",
            Record::RollEnded { .. } => "roll-ended",
            Record::RollsDisowned { .. } => "rolls-disowned",
            Record::FellAsleep => "fell-asleep",
            Record::SessionSeen { .. } => "session-seen",
            Record::InventorySeen { .. } => "inventory-seen",
            Record::ProgressSeen { .. } => "progress-seen",
        }
    }

    fn is_fact(&self) -> bool {
        !matches!(
            self,
            Record::FellAsleep
                | Record::SessionSeen { .. }
                | Record::InventorySeen { .. }
                | Record::ProgressSeen { .. }
        )
    }
}
