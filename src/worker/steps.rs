//! The short steps: prepare, start, retire, undrain and hooks. Each looks first, acts once, and settles what is unknown
//! by another look.

use super::decide::Scene;
use super::state::{Phase, RETRY};
use super::{ActError, ActKind, Record};
use crate::model::{
    Act, Admission, Digest, DrainStart, Endpoint, FailureKind, How, InstanceId, InstanceObservation, InstanceState,
    StepResult, Timestamp,
};

impl Scene<'_> {
    /// Prepare, start, retire and undrain.
    pub(super) fn simple(&self) -> Vec<Record> {
        let Some(instance) = self.step.act.instance() else { return Vec::new() };
        match self.work.phase {
            Phase::Precheck => {
                if self.clock.passed(self.deadline()) {
                    return self.failed(FailureKind::Deadline, true, format!("{}; nothing was done", self.blind()));
                }
                match self.look_at(instance) {
                    Ok(seen) => self.precheck(instance, seen),
                    Err(wait) => wait,
                }
            }
            Phase::Act(kind) => self.simple_act(instance, kind),
            Phase::Verify | Phase::Wait | Phase::Close => self.settle(instance),
        }
    }

    fn precheck(&self, instance: &InstanceId, seen: Option<&InstanceObservation>) -> Vec<Record> {
        match &self.step.act {
            Act::Prepare { spec, .. } => self.precheck_prepare(instance, spec, seen),
            Act::Start { .. } => self.precheck_start(instance, seen),
            Act::Retire { .. } => self.precheck_retire(instance, seen),
            Act::Undrain { .. } => self.precheck_undrain(instance, seen),
            _ => Vec::new(),
        }
    }

    fn precheck_prepare(
        &self,
        instance: &InstanceId,
        spec: &Digest,
        seen: Option<&InstanceObservation>,
    ) -> Vec<Record> {
        match seen {
            Some(seen) if seen.is_made_of(spec) => self.done(How::AlreadySo),
            Some(_) => self.failed(
                FailureKind::Refused,
                false,
                format!("{instance} exists with another spec; a number is never used again, so plan anew"),
            ),
            None => match self.precondition(Some(instance)) {
                Ok(()) => self.act(ActKind::Prepare),
                Err(records) => records,
            },
        }
    }

    fn precheck_start(&self, instance: &InstanceId, seen: Option<&InstanceObservation>) -> Vec<Record> {
        let Some(seen) = seen else {
            return self.failed(
                FailureKind::Missing,
                false,
                format!(
                    "{instance} is not there: it was never prepared, or somebody else removed it; `baton up` plans anew"
                ),
            );
        };
        let known = self.worker.facts.known(instance);
        if seen.state == InstanceState::Running {
            if known.is_some_and(|known| !known.signals.is_empty()) {
                let message = format!("{instance} still ends after its stop signal; start it again when it has gone");
                return self.failed(FailureKind::Refused, true, message);
            }
            let mut records = self.admit(instance);
            records.push(self.end(StepResult::Done(How::AlreadySo), seen.endpoint.clone()));
            return records;
        }
        if seen.state == InstanceState::Exited && self.ran_before(instance) {
            return vec![self.end(StepResult::Done(How::AlreadySo), seen.endpoint.clone())];
        }
        if let Err(records) = self.precondition(Some(instance)) {
            return records;
        }
        let mut records = self.admit(instance);
        records.extend(self.act(ActKind::Start));
        records
    }

    /// A job that a former life of the agent has started in this very step, and that has ended since: it must not run
    /// twice, and how it ended is for its ready step to say.
    fn ran_before(&self, instance: &InstanceId) -> bool {
        let known = self.worker.facts.known(instance);
        !self.worker.notes.fresh.contains(&self.entry.command.id)
            && known.is_some_and(|known| known.job && known.admission == Some(Admission::Admitting))
    }

    /// Opens the instance to requests and clears what its former life left behind, where that is not so already.
    fn admit(&self, instance: &InstanceId) -> Vec<Record> {
        let mut records = Vec::new();
        let open = self.worker.facts.known(instance).is_some_and(|known| {
            known.admission == Some(Admission::Admitting) && known.drain.is_none() && known.signals.is_empty()
        });
        if !open {
            records.push(Record::AdmissionSet { instance: instance.clone(), admission: Admission::Admitting });
        }
        if self.worker.facts.held {
            records.push(Record::HeldDrained { held: false });
        }
        records
    }

    fn precheck_retire(&self, instance: &InstanceId, seen: Option<&InstanceObservation>) -> Vec<Record> {
        let Some(seen) = seen else { return self.done(How::AlreadySo) };
        if seen.may_run() {
            let message = format!("{instance} may still be running; stop it before it is removed");
            return self.failed(FailureKind::Precondition, true, message);
        }
        match self.precondition(Some(instance)) {
            Ok(()) => self.act(ActKind::Remove),
            Err(records) => records,
        }
    }

    fn precheck_undrain(&self, instance: &InstanceId, seen: Option<&InstanceObservation>) -> Vec<Record> {
        let known = self.worker.facts.known(instance);
        if known.is_some_and(|known| !known.signals.is_empty()) {
            let message =
                format!("the drain of {instance} began with a signal, which cannot be undone; start it again");
            return self.failed(FailureKind::Refused, false, message);
        }
        if !seen.is_some_and(|seen| seen.state == InstanceState::Running) {
            return self.failed(FailureKind::Refused, false, format!("{instance} does not run; start it instead"));
        }
        if let Err(records) = self.precondition(Some(instance)) {
            return records;
        }
        let drained = known.is_some_and(|known| {
            known.drain.is_some() || known.admission.is_some_and(|admission| admission != Admission::Admitting)
        });
        if !drained {
            let mut records = self.admit(instance);
            records.extend(self.done(How::AlreadySo));
            return records;
        }
        match known.and_then(|known| known.begin.as_ref()) {
            Some(DrainStart::Call) => self.act(ActKind::UndrainCall),
            _ => self.act(ActKind::AllowRestart),
        }
    }

    fn simple_act(&self, instance: &InstanceId, kind: ActKind) -> Vec<Record> {
        let Some((at, result)) = &self.work.acted else {
            if self.clock.passed(self.deadline()) {
                let verb = self.step.act.verb();
                return self
                    .unknown(format!("{verb} of {instance} did not answer in time; look at it, then settle the step"));
            }
            return Vec::new();
        };
        let error = match result {
            Ok(endpoint) => return self.simple_acted(instance, kind, endpoint.clone()),
            Err(error) => error,
        };
        match kind {
            // Both may be asked any number of times, and nothing shows whether they happened.
            ActKind::AllowRestart | ActKind::UndrainCall if error.unknown || error.retryable => {
                self.again(kind, *at + RETRY, error)
            }
            _ if error.unknown => self.advance(Phase::Verify),
            _ => self.failed_by(error),
        }
    }

    /// The same act once more after a pause, within the step's deadline.
    fn again(&self, kind: ActKind, when: Timestamp, error: &ActError) -> Vec<Record> {
        if self.clock.passed(self.deadline()) {
            return if error.unknown { self.unknown(error.message.clone()) } else { self.failed_by(error) };
        }
        if self.clock.passed(when) { self.act(kind) } else { Vec::new() }
    }

    fn simple_acted(&self, instance: &InstanceId, kind: ActKind, endpoint: Option<Endpoint>) -> Vec<Record> {
        match kind {
            ActKind::Start => vec![self.end(StepResult::Done(How::Completed), endpoint)],
            ActKind::UndrainCall => self.act(ActKind::AllowRestart),
            ActKind::AllowRestart => {
                let mut records = vec![Record::Undrained { instance: instance.clone() }];
                records.extend(self.admit(instance));
                records.extend(self.done(How::Completed));
                records
            }
            _ => self.done(How::Completed),
        }
    }

    /// A look settles an act whose answer was lost.
    fn settle(&self, instance: &InstanceId) -> Vec<Record> {
        let why = self.work.error.as_ref().map_or_else(|| self.blind(), |error| error.message.clone());
        if self.clock.passed(self.deadline()) {
            return self.unknown(format!("{why}; {}", self.blind()));
        }
        let seen = match self.look_at(instance) {
            Ok(seen) => seen,
            Err(wait) => return wait,
        };
        let (so, endpoint) = match &self.step.act {
            Act::Prepare { spec, .. } => (seen.is_some_and(|seen| seen.is_made_of(spec)), None),
            Act::Start { .. } => match seen {
                Some(seen) => {
                    let job = self.worker.facts.known(instance).is_some_and(|known| known.job);
                    let so = seen.state == InstanceState::Running || (job && seen.state == InstanceState::Exited);
                    (so, seen.endpoint.clone())
                }
                None => (false, None),
            },
            _ => (seen.is_none(), None),
        };
        match &self.work.error {
            _ if so => vec![self.end(StepResult::Done(How::Completed), endpoint)],
            Some(error) => self.failed_by(error),
            None => self.unknown(why),
        }
    }

    /// A hook runs once. Whether a former life of the agent ran it, nobody can see.
    pub(super) fn run(&self, hook: &str) -> Vec<Record> {
        match self.work.phase {
            Phase::Act(_) => match &self.work.acted {
                Some((_, Ok(_))) => self.done(How::Completed),
                Some((_, Err(error))) if error.unknown => self.unknown(error.message.clone()),
                Some((_, Err(error))) => self.failed_by(error),
                None if self.clock.passed(self.deadline()) => {
                    self.unknown(format!("hook {hook} did not end in time and may still be running; settle the step"))
                }
                None => Vec::new(),
            },
            _ if self.worker.notes.fresh.contains(&self.entry.command.id) => self.act(ActKind::Run),
            _ => self.unknown(format!(
                "the agent was started again while hook {hook} was under way; find out whether it ran, then \
                 settle the step"
            )),
        }
    }
}
