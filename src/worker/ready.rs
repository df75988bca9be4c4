//! Ready and soak: waiting until an instance is what it should be, and watching that it stays so.

use std::time::Duration;

use super::Record;
use super::decide::Scene;
use super::state::{Phase, ProbeNote};
use crate::model::{ExitStatus, FailureKind, How, InstanceId, InstanceState, ReadyWait, StepResult, Timestamp};

/// So many looks in a row that find it gone decide even when nobody has told of its exit: the word of the exit brings
/// the log lines with it and is given the time of one more look.
const GONE_LOOKS: u32 = 2;
/// What was started again has ended before: the word of that exit, with its log lines, is waited for so long. Where it
/// was lost, what crashes again and again has another one soon.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// So many bad verdicts in a row end a soak: one may be a probe that was lost.
const UNREADY_LIMIT: u32 = 2;
/// What a soak may take beyond its monitor when the slot cannot be looked at.
const SOAK_SLACK: Duration = Duration::from_secs(10);

impl Scene<'_> {
    pub(super) fn ready(&self, instance: &InstanceId, wait: &ReadyWait) -> Vec<Record> {
        if self.work.phase != Phase::Wait {
            return self.advance(Phase::Wait);
        }
        if let ReadyWait::Completed = wait {
            return self.completed(instance);
        }
        match self.broken(instance) {
            Some(Some((why, log))) => {
                return self.failed_with(
                    FailureKind::Exited,
                    true,
                    format!("{instance} did not get ready: {why}"),
                    log,
                );
            }
            Some(None) => return self.watch(),
            None => {}
        }
        let running = self.work.steady.is_some();
        let so = match (wait, self.work.steady) {
            (ReadyWait::Probe { successes }, _) => {
                let enough = (*successes).max(1);
                Ok(running && self.probe(instance).is_some_and(|note| note.ready && note.run >= enough))
            }
            (ReadyWait::Weak { steady }, Some((since, _))) => self.steady_at(since + *steady),
            _ => Ok(false),
        };
        if so == Ok(true) {
            let endpoint = self.worker.notes.seen.get(instance).and_then(|seen| seen.endpoint.clone());
            return vec![self.end(StepResult::Done(How::Completed), endpoint)];
        }
        if self.clock.passed(self.deadline()) {
            let said = match self.probe(instance) {
                Some(note) => format!("its probe last said {}", note.text),
                None if !running => self.blind(),
                None => "its probe never answered".to_owned(),
            };
            let why = format!("{instance} did not get ready in time: {said}");
            return self.failed_with(FailureKind::NotReady, true, why, self.last_words(instance));
        }
        so.err().unwrap_or_else(|| self.watch())
    }

    /// A job is ready when it ended with 0.
    fn completed(&self, instance: &InstanceId) -> Vec<Record> {
        if let Some((status, log)) = self.ended(instance) {
            if status.is_some_and(|status| status.success()) {
                let endpoint = self.worker.notes.seen.get(instance).and_then(|seen| seen.endpoint.clone());
                return vec![self.end(StepResult::Done(How::Completed), endpoint)];
            }
            let how = status.map_or_else(|| "it is gone".to_owned(), |status| format!("it ended with {status}"));
            return self.failed_with(FailureKind::Exited, true, format!("job {instance} failed: {how}"), log);
        }
        if self.clock.passed(self.deadline()) {
            return self.failed(FailureKind::NotReady, true, format!("job {instance} did not end in time"));
        }
        self.watch()
    }

    pub(super) fn soak(&self, instance: &InstanceId, monitor: Duration, probed: bool) -> Vec<Record> {
        if self.work.phase != Phase::Wait {
            return self.advance(Phase::Wait);
        }
        let unstable = |why: String, log| {
            self.failed_with(FailureKind::Unstable, true, format!("{instance} did not stay ready: {why}"), log)
        };
        match self.broken(instance) {
            Some(Some((why, log))) => return unstable(why, log),
            Some(None) => return self.watch(),
            None => {}
        }
        if probed
            && let Some(note) = self.probe(instance)
            && !note.ready
            && note.run >= UNREADY_LIMIT
        {
            return unstable(format!("its probe says {}", note.text), self.last_words(instance));
        }
        let end = self.work.phase_at + monitor;
        let so = self.steady_at(end);
        // A last verdict that was bad is given its second chance before the step counts as done.
        let doubtful = probed && self.probe(instance).is_some_and(|note| !note.ready);
        if so == Ok(true) && !doubtful {
            return self.done(How::Completed);
        }
        if self.clock.passed(self.deadline().max(end + SOAK_SLACK)) {
            return self.failed(
                FailureKind::Deadline,
                true,
                format!("{instance} was not seen to stay ready: {}", self.blind()),
            );
        }
        so.err().unwrap_or_else(|| self.watch())
    }

    /// Whether a look at or after that instant found it steady. `Err`: that look has to be made. The clock is asked
    /// only where its answer leads to something: an instant that has passed is no deadline any more.
    fn steady_at(&self, instant: Timestamp) -> Result<bool, Vec<Record>> {
        if self.work.steady.is_some_and(|(_, last)| last >= instant) {
            return Ok(true);
        }
        let looked = self.work.looked_at.is_some_and(|at| at >= instant);
        if looked || self.worker.notes.looking || self.work.unseen.is_some() {
            return Ok(false);
        }
        if self.clock.passed(instant) { Err(self.look()) } else { Ok(false) }
    }

    /// The log lines of an instance that runs and is not ready.
    fn last_words(&self, instance: &InstanceId) -> Vec<String> {
        self.probe(instance).map(|note| note.log.clone()).unwrap_or_default()
    }

    fn probe(&self, instance: &InstanceId) -> Option<&ProbeNote> {
        self.worker.notes.probes.get(instance)
    }

    /// How it ended, once it is certain: told, or seen gone often enough. The status is `None` when it is not there.
    fn ended(&self, instance: &InstanceId) -> Option<(Option<ExitStatus>, Vec<String>)> {
        if let Some((status, log)) = self.worker.notes.exits.get(instance) {
            return Some((Some(*status), log.clone()));
        }
        if self.work.gone < GONE_LOOKS {
            return None;
        }
        Some((self.worker.notes.seen.get(instance).and_then(|seen| seen.exit), Vec::new()))
    }

    /// Why it is not the same running instance any more, with its last log lines; `Some(None)`: these are waited for.
    fn broken(&self, instance: &InstanceId) -> Option<Option<(String, Vec<String>)>> {
        if let Some((status, log)) = self.ended(instance) {
            let why = match (status, self.worker.notes.seen.get(instance).map(|seen| seen.state)) {
                (Some(status), _) => format!("it ended with {status}"),
                (None, Some(InstanceState::Created)) => "it was never started".to_owned(),
                (None, Some(_)) => "it ended".to_owned(),
                (None, None) => "it is not there".to_owned(),
            };
            return Some(Some((why, log)));
        }
        let (at, why) = self.work.changed.clone()?;
        Some(self.clock.passed(at + LAST_WORDS).then(|| (why, Vec::new())))
    }
}
