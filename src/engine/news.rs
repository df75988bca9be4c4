//! What happened, as `--json` and watchers are told it. The schema that scripts read: variants and fields are only
//! added. No plan body and no secret in it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::state::Engine;
use super::{HoldView, Record, Request, RollResult};
use crate::model::{
    AgentId, ChangeKind, CoordinatorId, DrainReport, FailureAction, FailureKind, How, InstanceId, RollId, RollNumber,
    SkipReason, SlotName, StepId, StepResult, Term, millis,
};

/// A step by its names.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepName {
    /// Its place in the plan.
    pub step: StepId,
    /// `drain`, `start`, ...
    pub verb: String,
    /// On what.
    pub instance: Option<InstanceId>,
    /// Its label.
    pub stage: String,
}

/// How a step ended, in a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ResultWord {
    /// Done.
    Done,
    /// It was so before.
    AlreadySo,
    /// A person said that it is done.
    SettledDone,
    /// Failed.
    Failed,
    /// Nobody knows.
    Unknown,
    /// Not carried out: an earlier step of its list was not done.
    Skipped,
    /// Not carried out: called back in time.
    Recalled,
}

/// One event. `event` names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "event")]
#[non_exhaustive]
pub enum News {
    /// A coordinator started.
    TermBegan {
        /// Its id.
        coordinator: CoordinatorId,
        /// Its incarnation.
        term: Term,
    },
    /// A roll began.
    RollBegan {
        /// Its random id.
        roll: RollId,
        /// Its number.
        number: RollNumber,
        /// The verb.
        kind: String,
        /// The version it goes to.
        version: Option<String>,
        /// The roll that it takes back.
        parent: Option<RollId>,
        /// Who asked.
        actor: String,
        /// Why, in their words.
        reason: String,
        /// Steps in its plan.
        steps: u32,
        /// Slots that change, with the reason of each.
        changes: Vec<(SlotName, String)>,
    },
    /// Steps of one slot began as one list (or one step of the coordinator's own).
    StepBegan {
        /// The roll's number.
        number: RollNumber,
        /// Where; none for a gate.
        slot: Option<SlotName>,
        /// By whom; none for the coordinator's own.
        agent: Option<AgentId>,
        /// In order.
        steps: Vec<StepName>,
    },
    /// A step ended.
    StepEnded {
        /// The roll's number.
        number: RollNumber,
        /// Which.
        #[serde(flatten)]
        step: StepName,
        /// Where.
        slot: Option<SlotName>,
        /// How.
        result: ResultWord,
        /// Why it failed.
        failure: Option<FailureKind>,
        /// For people: the failure's message, or why nobody knows.
        message: Option<String>,
        /// The instance's last log lines, redacted.
        log: Vec<String>,
        /// How a drain or stop went.
        drain: Option<DrainReport>,
        /// Who said so, when it was not the agent.
        by: Option<String>,
        /// Steps done, of all.
        done: (u32, u32),
    },
    /// A step is getting on. Latest wins; some may be missing.
    Progress {
        /// The roll's number.
        number: RollNumber,
        /// Which.
        step: StepId,
        /// Where.
        slot: SlotName,
        /// For people.
        text: String,
        /// Work in flight.
        inflight: Option<u64>,
        /// Since its begin, in ms.
        #[serde(with = "millis")]
        elapsed: Duration,
        /// What is left of its deadline or grace, in ms.
        #[serde(with = "millis")]
        left: Duration,
    },
    /// A person asked something of the roll.
    Asked {
        /// The roll's number.
        number: RollNumber,
        /// What.
        request: Request,
        /// Who.
        actor: String,
        /// Why, in their words.
        reason: String,
    },
    /// A failure's action was taken.
    FailureActed {
        /// The roll's number.
        number: RollNumber,
        /// The step that tipped it.
        step: StepId,
        /// What was done.
        action: FailureAction,
        /// For people.
        why: String,
    },
    /// No way back could be planned.
    NoWayBack {
        /// The roll's number.
        number: RollNumber,
        /// For people.
        why: String,
    },
    /// A roll ended.
    RollEnded {
        /// Its random id.
        roll: RollId,
        /// Its number.
        number: RollNumber,
        /// How.
        result: RollResult,
        /// Steps done, of all.
        done: (u32, u32),
        /// Slots that it went on without.
        given_up: Vec<SlotName>,
    },
    /// A session is up or lost.
    Agent {
        /// With whom.
        agent: AgentId,
        /// Up.
        up: bool,
    },
    /// Something began to wait.
    Hold {
        /// All about it.
        #[serde(flatten)]
        hold: HoldView,
    },
    /// It waits no more (or for another reason).
    HoldEnded {
        /// As it was last.
        #[serde(flatten)]
        hold: HoldView,
    },
}

/// What a record tells watchers, if anything. `after`: the engine with this record applied and no later one of
/// another roll.
pub fn news(record: &Record, after: &Engine) -> Option<News> {
    let number = after.roll.as_ref().map_or(RollNumber(0), |roll| roll.number);
    let counts = || after.roll.as_ref().map_or((0, 0), |roll| (roll.done, roll.graph.plan.steps.len() as u32));
    Some(match record {
        Record::TermBegan { claim } => News::TermBegan { coordinator: claim.coordinator.clone(), term: claim.term },
        Record::RollBegan { roll, number, plan, parent, actor, reason } => News::RollBegan {
            roll: roll.clone(),
            number: *number,
            kind: plan.kind.to_string(),
            version: plan.version.clone(),
            parent: parent.clone(),
            actor: actor.clone(),
            reason: reason.clone(),
            steps: plan.steps.len() as u32,
            changes: plan
                .changes
                .iter()
                .filter(|change| change.kind != ChangeKind::Keep)
                .map(|change| (change.slot.clone(), change.why.clone()))
                .collect(),
        },
        Record::ListBegan { agent, command } => News::StepBegan {
            number,
            slot: Some(command.slot.clone()),
            agent: Some(agent.clone()),
            steps: command.steps.iter().map(|one| step_name(after, one.step)).collect(),
        },
        Record::OwnStepBegan { step } => {
            News::StepBegan { number, slot: slot_of(after, *step), agent: None, steps: vec![step_name(after, *step)] }
        }
        Record::StepEnded { step, result, by, .. } => {
            let (failure, message, log) = match result {
                StepResult::Failed { kind, message, log, .. } => (Some(*kind), Some(message.clone()), log.clone()),
                StepResult::Unknown { why } => (None, Some(why.clone()), Vec::new()),
                _ => (None, None, Vec::new()),
            };
            let drain = match result {
                StepResult::Done(How::Drained(report)) => Some(report.clone()),
                _ => None,
            };
            News::StepEnded {
                number,
                step: step_name(after, *step),
                slot: slot_of(after, *step),
                result: result_word(result),
                failure,
                message,
                log,
                drain,
                by: by.clone(),
                done: counts(),
            }
        }
        Record::ProgressSeen { progress, .. } => News::Progress {
            number,
            step: progress.step,
            slot: progress.slot.clone(),
            text: progress.text.clone(),
            inflight: progress.inflight,
            elapsed: progress.elapsed,
            left: progress.left,
        },
        Record::Asked { request, actor, reason } => {
            News::Asked { number, request: request.clone(), actor: actor.clone(), reason: reason.clone() }
        }
        Record::FailureActed { step, action, why } => {
            News::FailureActed { number, step: *step, action: *action, why: why.clone() }
        }
        Record::NoWayBack { why } => News::NoWayBack { number, why: why.clone() },
        Record::RollEnded { roll, result } => {
            let summary = after.summary_of(roll)?;
            News::RollEnded {
                roll: roll.clone(),
                number: summary.number,
                result: result.clone(),
                done: (summary.steps_done, summary.steps_total),
                given_up: summary.given_up.clone(),
            }
        }
        Record::SessionSeen { agent, up } => News::Agent { agent: agent.clone(), up: *up },
        Record::FellAsleep | Record::InventorySeen { .. } | Record::RollsDisowned { .. } => return None,
    })
}

/// What changed in what waits, between two views. A hold is the same as long as its reason is; counts and ages in it
/// may move.
pub fn hold_news(before: &[HoldView], after: &[HoldView]) -> Vec<News> {
    let same = |one: &HoldView, other: &HoldView| one.reason == other.reason;
    let ended = before.iter().filter(|one| !after.iter().any(|other| same(one, other)));
    let begun = after.iter().filter(|one| !before.iter().any(|other| same(one, other)));
    ended
        .map(|hold| News::HoldEnded { hold: hold.clone() })
        .chain(begun.map(|hold| News::Hold { hold: hold.clone() }))
        .collect()
}

fn result_word(result: &StepResult) -> ResultWord {
    match result {
        StepResult::Done(How::AlreadySo) => ResultWord::AlreadySo,
        StepResult::Done(How::Settled) => ResultWord::SettledDone,
        StepResult::Done(_) => ResultWord::Done,
        StepResult::Failed { .. } => ResultWord::Failed,
        StepResult::Unknown { .. } => ResultWord::Unknown,
        StepResult::Skipped(SkipReason::EarlierStep) => ResultWord::Skipped,
        StepResult::Skipped(SkipReason::Recalled) => ResultWord::Recalled,
    }
}

fn step_name(engine: &Engine, id: StepId) -> StepName {
    let step = engine.roll.as_ref().and_then(|roll| roll.graph.plan.step(id));
    StepName {
        step: id,
        verb: step.map_or_else(String::new, |step| step.kind.verb().to_owned()),
        instance: step.and_then(|step| step.instance.clone()),
        stage: step.map_or_else(String::new, |step| step.stage.clone()),
    }
}

fn slot_of(engine: &Engine, id: StepId) -> Option<SlotName> {
    engine.roll.as_ref()?.graph.plan.step(id)?.slot.clone()
}
