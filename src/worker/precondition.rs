//! What must still be so in the instant before an act.

use std::time::Duration;

use super::Record;
use super::decide::Scene;
use crate::model::{FailureKind, Health, InstanceId, InstanceState, Precondition};

/// How long an act waits for the first verdict about the instance that it needs ready. After a restart of the agent
/// the verdicts of its former life are gone; a probe answers within its time-out (2 s by default), twice over.
const VERDICT_WAIT: Duration = Duration::from_secs(5);

impl Scene<'_> {
    /// `Err`: what follows from a precondition that does not hold, or (nothing) that cannot be judged yet. Called with
    /// a fresh look only.
    pub(super) fn precondition(&self, instance: Option<&InstanceId>) -> Result<(), Vec<Record>> {
        let verb = self.step.act.verb();
        match &self.step.precondition {
            Precondition::None => Ok(()),
            Precondition::Alone => {
                let other = self.worker.notes.seen.values().find(|seen| Some(&seen.id) != instance && seen.may_run());
                let Some(other) = other else { return Ok(()) };
                let state = if other.state == InstanceState::Unknown { "may be running" } else { "is running" };
                Err(self.failed(
                    FailureKind::Precondition,
                    true,
                    format!("{verb} needs the slot for itself and {} {state}; stop it first", other.id),
                ))
            }
            Precondition::Ready(needed) => self.needs_ready(needed),
        }
    }

    fn needs_ready(&self, needed: &InstanceId) -> Result<(), Vec<Record>> {
        let verb = self.step.act.verb();
        let gone = |why: String| {
            let message = format!("{verb} needs {needed} ready and {why}; nothing was done");
            Err(self.failed(FailureKind::Precondition, true, message))
        };
        let Some(seen) = self.worker.notes.seen.get(needed) else { return gone("it is not there".into()) };
        if seen.state != InstanceState::Running {
            return gone("it does not run".into());
        }
        let probed = self.worker.facts.known(needed).is_some_and(|known| known.probe.is_some());
        match self.worker.notes.probes.get(needed).filter(|note| !note.lost) {
            Some(note) if note.ready => Ok(()),
            Some(note) => gone(format!("its probe says {}", note.text)),
            None if !probed || seen.health == Health::Ready => Ok(()),
            None if self.clock.passed(self.work.began + VERDICT_WAIT.min(self.step.deadline)) => {
                gone("its probe has not answered".into())
            }
            None => Err(Vec::new()),
        }
    }
}
