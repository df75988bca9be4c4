//! Why something a person asked for is refused. Nothing has been written down or touched.

use crate::model::{FleetName, RollId, RollNumber, StepId};

/// Why a plan may not begin.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BeginError {
    /// No term has begun: the engine only shows history.
    #[error("no coordinator has started on this journal")]
    NotStarted,
    /// One roll per fleet at a time.
    #[error(
        "roll {number} ({kind}) by {actor} is {state}; end it first with `baton resume`, `baton rollback`, \
         `baton abort` or `baton up --supersede`"
    )]
    Unfinished {
        /// Its random id.
        roll: RollId,
        /// Its number.
        number: RollNumber,
        /// Its verb.
        kind: String,
        /// Who began it.
        actor: String,
        /// Where it stands, in a word.
        state: String,
    },
    /// The journal is older than the fleet.
    #[error(
        "the journal is older than the fleet: {why}; run `baton coordinator --new-id`, then `baton agent adopt ID` \
         with the id that it prints on each host"
    )]
    OlderThanFleet {
        /// What shows it.
        why: String,
    },
    /// The plan was made for another fleet.
    #[error("the plan is for fleet {theirs}, this is fleet {ours}")]
    WrongFleet {
        /// The engine's.
        ours: FleetName,
        /// The plan's.
        theirs: FleetName,
    },
    /// The plan cannot be carried out by anybody: a fault of the planner.
    #[error("the plan is malformed: {why}")]
    Malformed {
        /// What is wrong with it.
        why: String,
    },
}

/// Why a request about the roll at hand is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// There has never been one.
    #[error("there is no roll in this fleet yet")]
    NoRoll,
    /// The last one is over.
    #[error("roll {number} has ended ({result}); nothing is under way")]
    Ended {
        /// Its random id.
        roll: RollId,
        /// Its number.
        number: RollNumber,
        /// How, in a word.
        result: String,
    },
    /// The journal is older than the fleet.
    #[error(
        "the journal is older than the fleet: {why}; run `baton coordinator --new-id`, then `baton agent adopt ID` \
         with the id that it prints on each host"
    )]
    OlderThanFleet {
        /// What shows it.
        why: String,
    },
    /// It is paused as asked.
    #[error("roll {number} is already paused by {actor}")]
    AlreadyPaused {
        /// Its number.
        number: RollNumber,
        /// Who paused it.
        actor: String,
    },
    /// It is not paused.
    #[error("roll {number} is not paused, it is {state}")]
    NotPaused {
        /// Its number.
        number: RollNumber,
        /// Where it stands, in a word.
        state: String,
    },
    /// It waits for a person already.
    #[error("roll {number} waits for a person: {why}; use `baton retry`, `settle`, `rollback` or `abort`")]
    NeedsPerson {
        /// Its number.
        number: RollNumber,
        /// Why.
        why: String,
    },
    /// It is on its way to its end.
    #[error("roll {number} is {state} already; it ends when the steps in flight have")]
    Ending {
        /// Its number.
        number: RollNumber,
        /// `aborting`, `turning back`.
        state: String,
    },
    /// No step has failed or is unknown.
    #[error("roll {number} has no failed or unknown step to retry")]
    NothingToRetry {
        /// Its number.
        number: RollNumber,
    },
    /// A rollback is never rolled back.
    #[error("roll {number} is a rollback, which is never rolled back; use `baton retry`, `settle` or `abort`")]
    RollbackOfRollback {
        /// Its number.
        number: RollNumber,
    },
    /// The plan has no such step.
    #[error("roll {number} has no step {step}")]
    UnknownStep {
        /// Its number.
        number: RollNumber,
        /// Which.
        step: StepId,
    },
    /// Only what is unknown, failed, or lost with its agent can be settled.
    #[error("step {step} is {state}; only a step that failed, is unknown, or hangs on a lost agent can be settled")]
    NotSettleable {
        /// Which.
        step: StepId,
        /// Where it stands, in a word.
        state: String,
    },
    /// It is no gate.
    #[error("step {step} is a {verb} step, not a gate")]
    NotAGate {
        /// Which.
        step: StepId,
        /// What it is.
        verb: String,
    },
    /// The gate does not wait (yet, or any more).
    #[error("gate {name} (step {step}) does not wait for approval now, it is {state}")]
    GateNotWaiting {
        /// Which.
        step: StepId,
        /// Its name.
        name: String,
        /// Where it stands, in a word.
        state: String,
    },
}
