//! Drain and stop: one grace from the begin of the drain to SIGKILL, measured once and kept by the ledger.

use std::time::Duration;

use super::decide::Scene;
use super::state::{DrainFact, Phase, RETRY};
use super::{ActError, ActKind, Record};
use crate::model::{
    Act, Admission, DrainReport, DrainStart, ExitStatus, FailureKind, How, InstanceId, InstanceObservation,
    InstanceState, StepResult, Timestamp,
};

/// However short a grace is, a look or an act before SIGKILL may take so long: a grace that ran out while the agent was
/// away is acted on only after a fresh look, and an engine under load takes its time.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// How long a runtime may take to kill what is left. SIGKILL itself is immediate; more than this is a process that the
/// kernel cannot end or a runtime that does not answer.
const KILL_LIMIT: Duration = Duration::from_secs(30);
/// The exit is told by an event; a look this often finds it where the event was lost.
const EXIT_LOOK_EVERY: Duration = Duration::from_secs(2);
/// What an exit by SIGKILL looks like.
const SIGKILL: ExitStatus = ExitStatus::Signal(9);

fn ended(seen: Option<&InstanceObservation>) -> bool {
    seen.is_none_or(|seen| !seen.may_run())
}

impl Scene<'_> {
    pub(super) fn drain(&self, instance: &InstanceId) -> Vec<Record> {
        let Act::Drain { begin, inflight, grace, stop_timeout, .. } = &self.step.act else { return Vec::new() };
        let fact = self.worker.facts.drain(instance);
        let limit = self.limit(fact, *grace);
        match self.work.phase {
            Phase::Precheck => match self.first_look(instance, fact, limit) {
                Err(records) => records,
                Ok(seen) if ended(seen) => match fact {
                    Some(fact) => self.drained(instance, fact),
                    None => self.done(How::AlreadySo),
                },
                Ok(_) => match fact.map_or_else(|| self.precondition(Some(instance)), |_| Ok(())) {
                    Ok(()) => self.act(ActKind::HoldRestart),
                    Err(records) => records,
                },
            },
            Phase::Act(kind) => match &self.work.acted {
                None => self.overdue(instance, limit),
                Some((at, Err(error))) => self.act_failed(kind, *at, error, limit),
                Some((_, Ok(_))) if kind == ActKind::HoldRestart => self.begin_drain(instance, begin, *grace),
                Some((_, Ok(_))) => self.advance(Phase::Wait),
            },
            Phase::Verify => match self.second_look(instance, limit) {
                Err(records) => records,
                Ok(seen) if ended(seen) => match fact {
                    Some(fact) => self.drained(instance, fact),
                    None => self.done(How::AlreadySo),
                },
                Ok(_) => self.signal_settled(),
            },
            Phase::Wait | Phase::Close => {
                let Some(fact) = fact else { return self.act(ActKind::HoldRestart) };
                let empty = *inflight && self.worker.notes.inflight.get(instance) == Some(&Ok(0));
                let nothing = *begin == DrainStart::Nothing && !inflight;
                let over = || self.clock.passed(fact.kill_at - *stop_timeout);
                if self.worker.gone(instance) || empty || nothing || over() {
                    return self.drained(instance, fact);
                }
                self.keep_looking(EXIT_LOOK_EVERY)
            }
        }
    }

    /// The facts of its begin, synced before the act that begins it.
    fn begin_drain(&self, instance: &InstanceId, begin: &DrainStart, grace: Duration) -> Vec<Record> {
        let mut records = self.grace_begins(instance, grace);
        records.extend(match begin {
            DrainStart::Nothing => self.advance(Phase::Wait),
            DrainStart::Call => self.act(ActKind::DrainCall),
            DrainStart::Signal(signal) => self.signal(instance, signal),
        });
        records
    }

    fn grace_begins(&self, instance: &InstanceId, grace: Duration) -> Vec<Record> {
        let mut records = Vec::new();
        if self.worker.facts.drain(instance).is_none() {
            records.push(Record::DrainBegan { instance: instance.clone(), kill_at: self.clock.now + grace });
        }
        let known = self.worker.facts.known(instance).and_then(|known| known.admission);
        if !matches!(known, Some(Admission::Draining | Admission::Drained)) {
            records.push(Record::AdmissionSet { instance: instance.clone(), admission: Admission::Draining });
        }
        records
    }

    /// The signal, after its fact. If the fact is there already, the agent may have been killed before the signal left:
    /// the runtime is asked again, and knows whether this run of the process has had it. Not once the grace is over: it
    /// would only be followed by SIGKILL at once, and a program that catches it would be cut off while it ends.
    fn signal(&self, instance: &InstanceId, signal: &str) -> Vec<Record> {
        let mut records = Vec::new();
        if self.worker.facts.known(instance).is_some_and(|known| known.signals.contains(signal)) {
            if self.worker.facts.drain(instance).is_some_and(|fact| self.clock.passed(fact.kill_at)) {
                return self.advance(Phase::Wait);
            }
        } else {
            records.push(Record::Signalled { instance: instance.clone(), signal: signal.to_owned() });
        }
        records.extend(self.act(ActKind::Signal));
        records
    }

    fn drained(&self, instance: &InstanceId, fact: DrainFact) -> Vec<Record> {
        let mut records = self.out_of_service(instance);
        if self.entry.command.steps.len() == 1 && !self.worker.facts.held {
            records.push(Record::HeldDrained { held: true });
        }
        records.extend(self.done(How::Drained(self.report_of(instance, fact))));
        records
    }

    fn out_of_service(&self, instance: &InstanceId) -> Vec<Record> {
        let known = self.worker.facts.known(instance).and_then(|known| known.admission);
        if known == Some(Admission::Drained) {
            return Vec::new();
        }
        vec![Record::AdmissionSet { instance: instance.clone(), admission: Admission::Drained }]
    }

    fn report_of(&self, instance: &InstanceId, fact: DrainFact) -> DrainReport {
        DrainReport {
            took: self.clock.now.since(fact.began),
            left: self.worker.in_flight(instance),
            exited: self.worker.exit(instance).map(|(status, _)| status),
            ..DrainReport::default()
        }
    }

    pub(super) fn stop(&self, instance: &InstanceId) -> Vec<Record> {
        let Act::Stop { signal, timeout, .. } = &self.step.act else { return Vec::new() };
        let fact = self.worker.facts.drain(instance);
        let limit = self.limit(fact, *timeout);
        match self.work.phase {
            Phase::Precheck => match self.first_look(instance, fact, limit) {
                Err(records) => records,
                Ok(seen) if ended(seen) => self.stop_ended(instance, seen, fact),
                Ok(_) => {
                    let signalled =
                        self.worker.facts.known(instance).is_some_and(|known| known.signals.contains(signal));
                    match if signalled { Ok(()) } else { self.precondition(Some(instance)) } {
                        Ok(()) => self.act(ActKind::HoldRestart),
                        Err(records) => records,
                    }
                }
            },
            Phase::Act(ActKind::Kill) => self.killing(instance, fact),
            Phase::Act(kind) => match &self.work.acted {
                None => self.overdue(instance, limit),
                Some((at, Err(error))) => self.act_failed(kind, *at, error, limit),
                Some((_, Ok(_))) if kind == ActKind::HoldRestart => {
                    let mut records = self.grace_begins(instance, *timeout);
                    records.extend(self.signal(instance, signal));
                    records
                }
                Some((_, Ok(_))) => self.advance(Phase::Wait),
            },
            Phase::Verify => match self.second_look(instance, limit) {
                Err(records) => records,
                Ok(seen) if ended(seen) => self.stop_ended(instance, seen, fact),
                Ok(_) => self.signal_settled(),
            },
            Phase::Wait | Phase::Close => {
                let Some(fact) = fact else { return self.act(ActKind::HoldRestart) };
                // Gone in time: what its main process left behind goes with it, at once.
                if self.worker.gone(instance) || self.clock.passed(fact.kill_at) {
                    return self.act(ActKind::Kill);
                }
                self.keep_looking(EXIT_LOOK_EVERY)
            }
        }
    }

    /// It ended before this step did anything: what a begun drain left of it is swept all the same.
    fn stop_ended(
        &self,
        instance: &InstanceId,
        seen: Option<&InstanceObservation>,
        fact: Option<DrainFact>,
    ) -> Vec<Record> {
        match (fact, seen) {
            (None, _) => self.done(How::AlreadySo),
            (Some(_), Some(seen)) if seen.state == InstanceState::Exited => self.act(ActKind::Kill),
            (Some(fact), _) => self.stopped(instance, fact),
        }
    }

    fn killing(&self, instance: &InstanceId, fact: Option<DrainFact>) -> Vec<Record> {
        let late = || self.clock.passed(self.work.phase_at + KILL_LIMIT);
        match (&self.work.acted, fact) {
            (Some((_, Ok(_))), Some(fact)) => self.stopped(instance, fact),
            (Some((_, Ok(_))), None) => self.done(How::Completed),
            (Some((at, Err(error))), _) if error.unknown || error.retryable => {
                if late() {
                    return self.unknown(format!("{}; what is left of {instance} may still run", error.message));
                }
                if self.clock.passed(*at + RETRY) { self.act(ActKind::Kill) } else { Vec::new() }
            }
            (Some((_, Err(error))), _) => self.failed_by(error),
            (None, _) if late() => {
                self.unknown(format!("what is left of {instance} could not be killed in time; look at it on its host"))
            }
            (None, _) => Vec::new(),
        }
    }

    fn stopped(&self, instance: &InstanceId, fact: DrainFact) -> Vec<Record> {
        let mut report = self.report_of(instance, fact);
        // A kill whose answer a restart of the agent has lost shows in how the process ended.
        report.killed = self.work.killed || (report.exited == Some(SIGKILL) && self.clock.now >= fact.kill_at);
        if report.killed {
            report.exited = None;
        }
        let mut records = self.out_of_service(instance);
        records.push(self.end(StepResult::Done(How::Drained(report)), None));
        records
    }

    // --- what both share ---

    /// How long looks and the acts before SIGKILL may take: until that is due.
    fn limit(&self, fact: Option<DrainFact>, grace: Duration) -> Timestamp {
        let end = fact.map_or(self.work.began + grace, |fact| fact.kill_at);
        end.max(self.work.began + ANSWER_LIMIT)
    }

    fn first_look(
        &self,
        instance: &InstanceId,
        fact: Option<DrainFact>,
        limit: Timestamp,
    ) -> Result<Option<&InstanceObservation>, Vec<Record>> {
        if self.clock.passed(limit) {
            return Err(match fact {
                Some(_) => self.unknown(self.blind()),
                None => self.failed(FailureKind::Deadline, true, format!("{}; nothing was done", self.blind())),
            });
        }
        self.look_at(instance)
    }

    fn second_look(
        &self,
        instance: &InstanceId,
        limit: Timestamp,
    ) -> Result<Option<&InstanceObservation>, Vec<Record>> {
        if self.clock.passed(limit) {
            return Err(self.unknown(self.blind()));
        }
        self.look_at(instance)
    }

    fn overdue(&self, instance: &InstanceId, limit: Timestamp) -> Vec<Record> {
        if self.clock.passed(limit) {
            let verb = self.step.act.verb();
            return self.unknown(format!("{verb} of {instance}: the runtime did not answer within the grace"));
        }
        Vec::new()
    }

    fn act_failed(&self, kind: ActKind, at: Timestamp, error: &ActError, limit: Timestamp) -> Vec<Record> {
        // A signal that may have arrived is waited out. The other acts may be asked any number of times.
        if kind == ActKind::Signal || !(error.unknown || error.retryable) {
            return self.advance(Phase::Verify);
        }
        if self.clock.passed(limit) {
            return if error.unknown { self.unknown(error.message.clone()) } else { self.failed_by(error) };
        }
        if self.clock.passed(at + RETRY) { self.act(kind) } else { Vec::new() }
    }

    /// It still runs after an act that failed: a signal that may have arrived is waited for, all else has failed.
    fn signal_settled(&self) -> Vec<Record> {
        match &self.work.error {
            Some(error) if !error.unknown => self.failed_by(error),
            _ => self.advance(Phase::Wait),
        }
    }
}
