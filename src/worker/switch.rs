//! Switch: a gateway takes a table into use, and the old targets finish what they have.

use std::time::Duration;

use super::decide::Scene;
use super::state::{GatewayNote, Phase, RETRY};
use super::{ActKind, Record};
use crate::model::{ComponentName, DrainReport, FailureKind, How, TableTarget};

/// How long closing upgraded connections properly may take: a close frame and its answer.
const CLOSE_WAIT: Duration = Duration::from_secs(2);

impl Scene<'_> {
    pub(super) fn switch(&self, component: &ComponentName, targets: &[TableTarget], drain: Duration) -> Vec<Record> {
        if self.work.phase == Phase::Precheck {
            let mut records = Vec::new();
            let of = self.worker.newest_that_runs();
            let facts = &self.worker.facts;
            let same = facts.table.get(component).map(Vec::as_slice) == Some(targets);
            if !same || (of.is_some() && facts.table_of != of) {
                records.push(Record::TableSet { component: component.clone(), targets: targets.to_vec(), of });
            }
            records.extend(self.act(ActKind::Switch));
            return records;
        }
        if let Some((at, Err(error))) = &self.work.acted {
            if !(error.unknown || error.retryable) {
                return self.failed_by(error);
            }
            // Once in use, the drain's own time counts.
            let in_use = self.work.gateway.as_ref().and_then(|note| note.in_use);
            let limit = in_use.map_or(self.deadline(), |since| self.deadline().max(since + drain + CLOSE_WAIT));
            if self.clock.passed(limit) {
                return if error.unknown { self.unknown(error.message.clone()) } else { self.failed_by(error) };
            }
            return if self.clock.passed(*at + RETRY) { self.advance(self.work.phase) } else { Vec::new() };
        }
        match &self.work.gateway {
            Some(note @ GatewayNote { in_use: Some(since), .. }) => {
                let report = |cut| DrainReport {
                    took: self.clock.now.since(*since),
                    left: Some(note.inflight),
                    closed: note.closed,
                    cut,
                    ..DrainReport::default()
                };
                if note.inflight == 0 {
                    return self.done(How::Drained(report(0)));
                }
                if self.work.phase != Phase::Close {
                    return if self.clock.passed(*since + drain) { self.advance(Phase::Close) } else { Vec::new() };
                }
                if self.clock.passed(self.work.phase_at + CLOSE_WAIT) {
                    return self.done(How::Drained(report(note.inflight)));
                }
                Vec::new()
            }
            note => {
                if !self.clock.passed(self.deadline()) {
                    return Vec::new();
                }
                let said = note.as_ref().map_or("the gateway said nothing", |note| note.text.as_str());
                let message = format!("the table of {component} did not come into use in time: {said}");
                self.failed(FailureKind::NotReady, true, message)
            }
        }
    }
}
