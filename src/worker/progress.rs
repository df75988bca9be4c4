//! How the step at work is getting on, for people.

use std::time::Duration;

use super::Record;
use super::decide::Scene;
use super::state::{Phase, Worker};
use crate::model::{Act, InstanceId, Progress, Timestamp};

/// Nothing new is told more often than this: as fast as an eye follows.
const NEWS_EVERY: Duration = Duration::from_millis(250);
/// With nothing new, the bar moves this often.
const BAR_EVERY: Duration = Duration::from_secs(1);

impl Scene<'_> {
    /// Tells people again, when it is time.
    pub(super) fn report(&self) -> Vec<Record> {
        let told = self.work.progress.as_ref();
        let news = told.is_none_or(|(_, told)| told.text != self.text() || told.inflight != self.inflight());
        let last = told.map_or(self.work.began, |(at, _)| *at);
        if self.clock.passed(last + if news { NEWS_EVERY } else { BAR_EVERY }) {
            return vec![Record::Reported { step: self.step.step }];
        }
        Vec::new()
    }

    fn inflight(&self) -> Option<u64> {
        match &self.step.act {
            Act::Drain { instance, .. } | Act::Stop { instance, .. } => self.worker.in_flight(instance),
            Act::Switch { .. } => self.work.gateway.as_ref().map(|note| note.inflight),
            _ => None,
        }
    }

    fn text(&self) -> String {
        if let Some((_, why)) = &self.work.unseen {
            return format!("cannot look at the slot: {why}");
        }
        match (&self.step.act, self.work.phase) {
            (_, Phase::Precheck) => "looking".to_owned(),
            (Act::Ready { instance, .. } | Act::Soak { instance, .. }, Phase::Wait) => self.readiness(instance),
            (Act::Drain { instance, .. }, Phase::Wait) => match self.worker.notes.inflight.get(instance) {
                Some(Ok(count)) => format!("{count} in flight"),
                Some(Err(why)) => format!("work in flight is unknown: {why}"),
                None => "waiting for work in flight".to_owned(),
            },
            // What is tried again says why.
            (Act::Drain { .. } | Act::Stop { .. } | Act::Undrain { .. }, Phase::Act(_)) if self.tried().is_some() => {
                self.tried().unwrap_or_default().to_owned()
            }
            (Act::Stop { .. }, Phase::Wait) => "waiting for its exit".to_owned(),
            (Act::Switch { .. }, _) => match &self.work.gateway {
                Some(note) if note.in_use.is_some() => format!("{} in flight on the old", note.inflight),
                Some(note) => note.text.clone(),
                None => "asking the gateway".to_owned(),
            },
            (act, _) => act.verb().to_owned(),
        }
    }

    /// Why the act of this phase has not been done yet, where it was tried.
    fn tried(&self) -> Option<&str> {
        let failed = self.work.acted.as_ref().and_then(|(_, result)| result.as_ref().err());
        failed.or(self.work.error.as_ref()).map(|error| error.message.as_str())
    }

    fn readiness(&self, instance: &InstanceId) -> String {
        match self.worker.notes.probes.get(instance) {
            Some(note) => format!("probe: {}", note.text),
            None if self.work.steady.is_some() => "running".to_owned(),
            None => "waiting for it to run".to_owned(),
        }
    }

    fn end_at(&self) -> Timestamp {
        match &self.step.act {
            Act::Drain { instance, grace, stop_timeout, .. } => {
                let kill_at = self.worker.facts.drain(instance).map(|fact| fact.kill_at);
                kill_at.unwrap_or(self.work.began + *grace) - *stop_timeout
            }
            Act::Stop { instance, timeout, .. } => {
                self.worker.facts.drain(instance).map_or(self.work.began + *timeout, |fact| fact.kill_at)
            }
            Act::Soak { monitor, .. } => self.work.phase_at + *monitor,
            Act::Switch { drain, .. } => match self.work.gateway.as_ref().and_then(|note| note.in_use) {
                Some(since) => since + *drain,
                None => self.deadline(),
            },
            _ => self.deadline(),
        }
    }

    fn progress(&self) -> Progress {
        Progress {
            command: self.entry.command.id.clone(),
            slot: self.worker.slot.clone(),
            step: self.step.step,
            text: self.text(),
            inflight: self.inflight(),
            elapsed: self.clock.now.since(self.work.began),
            left: self.clock.now.until(self.end_at()),
        }
    }
}

impl Worker {
    /// Keeps what people are told now: it stays the same until the next time.
    pub(super) fn reported(&mut self, at: Timestamp) {
        let progress = self.scene(at, |scene| scene.progress());
        if let Some((progress, work)) = progress.zip(self.notes.work.as_mut()) {
            work.progress = Some((at, progress));
        }
    }
}
