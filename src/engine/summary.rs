//! What `history` tells of a roll: how it went, step by step, long after it ended.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::RollResult;
use super::roll::Roll;
use crate::model::{
    Attempt, ComponentName, Digest, DrainReport, FailureKind, How, InstanceId, Plan, RollId, RollNumber, SlotName,
    StepId, StepResult, Timestamp, millis,
};

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureSummary {
    /// Which.
    pub step: StepId,
    /// Which try.
    pub attempt: Attempt,
    /// `start`, `ready`, ...
    pub verb: String,
    /// On which slot.
    pub slot: Option<SlotName>,
    /// On which instance.
    pub instance: Option<InstanceId>,
    /// Why.
    pub kind: FailureKind,
    /// For people.
    pub message: String,
    /// The instance's last log lines.
    pub log: Vec<String>,
    /// When.
    pub at: Timestamp,
    /// Who said so, when it was not the agent.
    pub by: Option<String>,
}

/// How the drain or the stop of an instance went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainSummary {
    /// Which.
    pub instance: InstanceId,
    /// `switch`, `drain` or `stop`.
    pub verb: String,
    /// How long, what was left, whether it was killed.
    pub report: DrainReport,
}

/// How long a step took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepSummary {
    /// Which.
    pub step: StepId,
    /// Which try.
    pub attempt: Attempt,
    /// `drain`, `start`, ...
    pub verb: String,
    /// On which slot.
    pub slot: Option<SlotName>,
    /// On which instance.
    pub instance: Option<InstanceId>,
    /// Its label.
    pub stage: String,
    /// `done`, `failed`, `unknown`.
    pub result: String,
    /// When it ended.
    pub ended: Timestamp,
    /// From its begin, or from the end of the step before it in its list.
    #[serde(with = "millis")]
    pub took: Duration,
}

/// A roll, as history shows it. No secret and no plan body in it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollSummary {
    /// Its random id.
    pub roll: RollId,
    /// Its number.
    pub number: RollNumber,
    /// The verb.
    pub kind: String,
    /// The version it went to.
    pub version: Option<String>,
    /// Components named by `--only` or `restart`.
    pub only: Vec<String>,
    /// The roll that it took back.
    pub parent: Option<RollId>,
    /// Who asked.
    pub actor: String,
    /// Why, in their words.
    pub reason: String,
    /// The digest of its plan.
    pub plan: Digest,
    /// The digest of the manifest that it was planned from.
    pub manifest: Digest,
    /// How it ended; `None`: it has not.
    pub result: Option<RollResult>,
    /// Its begin.
    pub began: Timestamp,
    /// Its end.
    pub ended: Option<Timestamp>,
    /// Steps done.
    pub steps_done: u32,
    /// Steps in its plan.
    pub steps_total: u32,
    /// Slots that failed at least once, by component.
    pub failed_slots: Vec<(ComponentName, Vec<SlotName>)>,
    /// Slots that it went on without and that are not as planned.
    pub given_up: Vec<SlotName>,
    /// In order of time.
    pub failures: Vec<FailureSummary>,
    /// In order of time.
    pub drains: Vec<DrainSummary>,
    /// Every step that ended, in order of time.
    pub steps: Vec<StepSummary>,
}

impl RollSummary {
    pub(super) fn new(roll: &Roll) -> Self {
        let plan: &Plan = &roll.graph.plan;
        Self {
            roll: roll.id.clone(),
            number: roll.number,
            kind: plan.kind.to_string(),
            version: plan.version.clone(),
            only: plan.only.clone(),
            parent: roll.parent.clone(),
            actor: roll.actor.clone(),
            reason: roll.reason.clone(),
            plan: plan.digest.clone(),
            manifest: plan.manifest.clone(),
            result: None,
            began: roll.began,
            ended: None,
            steps_done: 0,
            steps_total: plan.steps.len() as u32,
            failed_slots: Vec::new(),
            given_up: Vec::new(),
            failures: Vec::new(),
            drains: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Writes down how a step ended. `began`: its own begin as far as known.
    pub(super) fn step_ended(
        &mut self,
        roll: &Roll,
        id: StepId,
        began: Timestamp,
        at: Timestamp,
        result: &StepResult,
        by: Option<&str>,
    ) {
        let step = roll.graph.step(id);
        let attempt = roll.state(id).attempt;
        let word = match result {
            StepResult::Done(_) => "done",
            StepResult::Failed { .. } => "failed",
            StepResult::Unknown { .. } => "unknown",
            StepResult::Skipped(_) => return,
        };
        self.steps.push(StepSummary {
            step: id,
            attempt,
            verb: step.kind.verb().to_owned(),
            slot: step.slot.clone(),
            instance: step.instance.clone(),
            stage: step.stage.clone(),
            result: word.to_owned(),
            ended: at,
            took: at.since(began),
        });
        match result {
            StepResult::Done(How::Drained(report)) => {
                for instance in super::graph::takes_down(step) {
                    self.drains.push(DrainSummary {
                        instance: instance.clone(),
                        verb: step.kind.verb().to_owned(),
                        report: report.clone(),
                    });
                }
            }
            StepResult::Failed { kind, message, log, .. } => self.failures.push(FailureSummary {
                step: id,
                attempt,
                verb: step.kind.verb().to_owned(),
                slot: step.slot.clone(),
                instance: step.instance.clone(),
                kind: *kind,
                message: message.clone(),
                log: log.clone(),
                at,
                by: by.map(str::to_owned),
            }),
            _ => {}
        }
    }

    /// Brings the counts up to date.
    pub(super) fn count(&mut self, roll: &Roll) {
        self.steps_done = roll.done;
        self.failed_slots =
            roll.failed.iter().map(|(component, slots)| (component.clone(), slots.iter().cloned().collect())).collect();
        self.given_up = roll.abandoned.iter().map(|slot| roll.graph.slots[*slot].clone()).collect();
    }
}
