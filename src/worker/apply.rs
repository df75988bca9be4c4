//! The only mutator of a worker: what each record does to the state.

use super::state::{DrainFact, Ending, Entry, GatewayNote, Identity, Notes, Phase, ProbeNote, Work, Worker};
use super::{ActKind, EffectKey, Record};
use crate::model::{
    Act, Admission, Command, CommandId, How, IllegalTransition, InstanceId, InstanceObservation, InstanceState,
    ReadyWait, Recordable, StepId, StepResult, Timestamp,
};

fn illegal(record: &Record, why: impl Into<String>) -> IllegalTransition {
    IllegalTransition { record: record.kind().to_owned(), why: why.into() }
}

impl Worker {
    /// Applies one record without asking which effects changed.
    pub(super) fn change(&mut self, at: Timestamp, record: &Record) -> Result<(), IllegalTransition> {
        match record {
            Record::Accepted { command } => self.accepted(record, command)?,
            Record::DrainBegan { instance, kill_at } => {
                let known = self.facts.known.entry(instance.clone()).or_default();
                if known.drain.is_some() {
                    return Err(illegal(record, format!("the drain of {instance} has begun already")));
                }
                known.drain = Some(DrainFact { began: at, kill_at: *kill_at });
            }
            Record::Signalled { instance, signal } => {
                let known = self.facts.known.entry(instance.clone()).or_default();
                if !known.signals.insert(signal.clone()) {
                    return Err(illegal(record, format!("{instance} has had {signal} already")));
                }
                known.started = false;
            }
            Record::Undrained { instance } => {
                let known = self.facts.known.entry(instance.clone()).or_default();
                known.drain = None;
            }
            Record::AdmissionSet { instance, admission } => {
                let known = self.facts.known.entry(instance.clone()).or_default();
                known.admission = Some(*admission);
                if *admission == Admission::Admitting {
                    // A new life: what its former one was told no longer counts.
                    known.drain = None;
                    known.signals.clear();
                }
            }
            Record::HeldDrained { held } => self.facts.held = *held,
            Record::TableSet { component, targets, of } => {
                if of.is_some() && self.facts.table_of != *of {
                    // Another instance in its place knows nothing of what the former one was told.
                    self.facts.table.clear();
                    self.facts.table_of = of.clone();
                }
                self.facts.table.insert(component.clone(), targets.clone());
            }
            Record::Ended { command, step, result, endpoint } => {
                let ending = Ending { result: result.clone(), endpoint: endpoint.clone(), acknowledged: false };
                self.ended(record, command, *step, ending)?;
            }
            Record::Recalled { command } => match self.facts.commands.get_mut(command) {
                Some(entry) => entry.recalled = true,
                None => return Err(illegal(record, format!("there is no command {command}"))),
            },
            Record::Acknowledged { outcomes } => {
                for (command, step) in outcomes {
                    let entry = self.facts.commands.get_mut(command);
                    if let Some(ending) = entry.and_then(|entry| entry.outcomes.get_mut(step)) {
                        ending.acknowledged = true;
                    }
                    self.notes.retell.remove(&(command.clone(), *step));
                }
                self.sweep();
            }
            Record::Forgotten { rolls } => {
                self.facts.forgotten.extend(rolls.iter().cloned());
                self.sweep();
            }
            _ => self.note(at, record),
        }
        Ok(())
    }

    fn accepted(&mut self, record: &Record, command: &Command) -> Result<(), IllegalTransition> {
        if command.slot != self.slot {
            return Err(illegal(
                record,
                format!("command {} is for slot {}, not {}", command.id, command.slot, self.slot),
            ));
        }
        if self.facts.commands.contains_key(&command.id) {
            return Err(illegal(record, format!("command {} has been accepted already", command.id)));
        }
        if let Some(current) = &self.facts.current {
            return Err(illegal(record, format!("command {current} is not finished")));
        }
        for step in &command.steps {
            let Some(instance) = step.act.instance() else { continue };
            self.facts.highest = self.facts.highest.max(instance.number);
            let known = self.facts.known.entry(instance.clone()).or_default();
            match &step.act {
                Act::Ready { definition, wait, .. } => {
                    known.probe = matches!(wait, ReadyWait::Probe { .. }).then(|| definition.clone());
                    known.weak = matches!(wait, ReadyWait::Weak { .. });
                    known.job = *wait == ReadyWait::Completed;
                }
                Act::Drain { begin, .. } => known.begin = Some(begin.clone()),
                _ => {}
            }
        }
        let entry = Entry { command: command.clone(), recalled: false, outcomes: Default::default() };
        if !entry.finished() {
            self.facts.current = Some(command.id.clone());
        }
        self.facts.commands.insert(command.id.clone(), entry);
        Ok(())
    }

    fn ended(
        &mut self,
        record: &Record,
        id: &CommandId,
        step: StepId,
        ending: Ending,
    ) -> Result<(), IllegalTransition> {
        let Some(entry) = self.facts.commands.get_mut(id) else {
            return Err(illegal(record, format!("there is no command {id}")));
        };
        let Some(place) = entry.command.steps.iter().find(|other| other.step == step) else {
            return Err(illegal(record, format!("command {id} has no step {step}")));
        };
        let act = place.act.clone();
        let result = ending.result.clone();
        if entry.outcomes.insert(step, ending).is_some() {
            return Err(illegal(record, format!("step {step} of command {id} has ended already")));
        }
        if entry.finished() && self.facts.current.as_ref() == Some(id) {
            self.facts.current = None;
        }
        if self.notes.work.as_ref().is_some_and(|work| work.step == step) {
            self.notes.work = None;
        }
        if result.is_done() {
            self.done(&act, &result);
        }
        Ok(())
    }

    /// What a step that is done says of its instance.
    fn done(&mut self, act: &Act, result: &StepResult) {
        match act {
            Act::Start { instance } => {
                self.facts.known.entry(instance.clone()).or_default().started = true;
            }
            Act::Stop { instance, .. } => {
                let known = self.facts.known.entry(instance.clone()).or_default();
                known.started = false;
            }
            Act::Drain { instance, .. } if *result == StepResult::Done(How::AlreadySo) => {
                // It was not running: whoever starts agents must not bring it back.
                self.facts.known.entry(instance.clone()).or_default().started = false;
            }
            Act::Retire { instance } => {
                self.facts.known.remove(instance);
                self.notes.probes.remove(instance);
                self.notes.exits.remove(instance);
                self.notes.inflight.remove(instance);
                self.notes.identity.remove(instance);
            }
            _ => {}
        }
    }

    /// Removes what is finished and acknowledged of rolls that are over.
    fn sweep(&mut self) {
        let forgotten = &self.facts.forgotten;
        self.facts
            .commands
            .retain(|id, entry| !(forgotten.contains(&id.roll) && entry.finished() && entry.acknowledged()));
        let commands = &self.facts.commands;
        self.facts.forgotten.retain(|roll| commands.keys().any(|id| &id.roll == roll));
        self.notes.fresh.retain(|id| commands.contains_key(id));
        self.notes.retell.retain(|(id, _)| commands.contains_key(id));
    }

    fn note(&mut self, at: Timestamp, record: &Record) {
        match record {
            Record::Restarted => self.notes = Notes::default(),
            Record::Taken { command } => {
                self.notes.fresh.insert(command.clone());
            }
            Record::Retold { command } => {
                if let Some(entry) = self.facts.commands.get(command) {
                    self.notes.retell.extend(entry.outcomes.keys().map(|step| (command.clone(), *step)));
                }
            }
            Record::Looking => {
                self.notes.looks += 1;
                self.notes.looking = true;
                self.notes.stale = false;
                if let Some(work) = &mut self.notes.work {
                    work.fresh = false;
                    work.unseen = None;
                }
            }
            Record::Seen { instances } => self.seen(at, instances),
            Record::Unseen { why } => {
                self.notes.looking = false;
                self.notes.stale = false;
                if let Some(work) = &mut self.notes.work {
                    work.unseen = Some((at, why.clone()));
                }
            }
            Record::Acted { key, result } => {
                let current = self.facts.current.clone();
                if let Some(work) = &mut self.notes.work
                    && let EffectKey::Act(command, step, kind) = key
                    && Some(command) == current.as_ref()
                    && *step == work.step
                    && (work.phase == Phase::Act(*kind) || *kind == ActKind::Switch)
                {
                    work.acted = Some((at, result.clone()));
                }
            }
            Record::Probed { instance, verdict } => {
                let run = match self.notes.probes.get(instance) {
                    _ if verdict.lost => 0,
                    Some(note) if note.ready == verdict.ready => note.run.saturating_add(1),
                    _ => 1,
                };
                let log = match self.notes.probes.get(instance) {
                    Some(note) if verdict.log.is_empty() && !verdict.ready => note.log.clone(),
                    _ => verdict.log.clone(),
                };
                let (ready, lost) = (verdict.ready && !verdict.lost, verdict.lost);
                let note = ProbeNote { ready, lost, run, text: verdict.text.clone(), log };
                self.notes.probes.insert(instance.clone(), note);
            }
            Record::Inflight { instance, count } => {
                self.notes.inflight.insert(instance.clone(), count.clone());
            }
            Record::Exited { instance, status, log } => {
                self.notes.exits.insert(instance.clone(), (*status, log.clone()));
            }
            Record::Gateway { component, in_use, inflight, closed, text } => {
                let ours = self.at_work().is_some_and(
                    |(_, step, _)| matches!(&step.act, Act::Switch { component: asked, .. } if asked == component),
                );
                if let Some(work) = self.notes.work.as_mut().filter(|_| ours) {
                    let since = work.gateway.as_ref().and_then(|note| note.in_use).or(in_use.then_some(at));
                    let note = GatewayNote { in_use: since, inflight: *inflight, closed: *closed, text: text.clone() };
                    work.gateway = Some(note);
                }
            }
            Record::Advanced { step, phase } => self.advanced(at, *step, *phase),
            Record::Reported { .. } => self.reported(at),
            _ => {}
        }
    }

    fn advanced(&mut self, at: Timestamp, step: StepId, phase: Phase) {
        self.notes.stale = self.notes.looking;
        if phase == Phase::Precheck {
            self.notes.work = Some(Work::new(step, at));
            let act = self.entry().and_then(|entry| entry.next()).map(|step| step.act.clone());
            let Some(instance) = act.as_ref().and_then(Act::instance) else { return };
            // What an earlier life of the process said does not count for this step.
            self.notes.exits.remove(instance);
            match &act {
                Some(Act::Ready { .. }) => {
                    self.notes.probes.remove(instance);
                    self.notes.identity.remove(instance);
                }
                Some(Act::Soak { .. }) => {
                    if let Some(note) = self.notes.probes.get_mut(instance) {
                        note.run = 0;
                    }
                }
                Some(Act::Drain { .. }) => {
                    self.notes.inflight.remove(instance);
                }
                Some(Act::Start { .. }) => {
                    self.notes.probes.remove(instance);
                    self.notes.identity.remove(instance);
                    self.notes.inflight.remove(instance);
                }
                _ => {}
            }
            return;
        }
        let exited =
            self.at_work().and_then(|(_, step, _)| step.act.instance()).is_some_and(|instance| self.gone(instance));
        if let Some(work) = &mut self.notes.work {
            work.error = match (phase, work.acted.take()) {
                (Phase::Verify, Some((_, Err(error)))) => Some(error),
                (Phase::Act(_), Some((_, Err(error)))) if phase == work.phase => Some(error),
                _ => None,
            };
            if phase == Phase::Act(ActKind::Kill) && !exited {
                work.killed = true;
            }
            if phase != work.phase || phase == Phase::Verify {
                work.phase_at = at;
            }
            work.phase = phase;
            work.fresh = false;
        }
    }

    fn seen(&mut self, at: Timestamp, instances: &[InstanceObservation]) {
        self.notes.seen = instances.iter().map(|seen| (seen.id.clone(), seen.clone())).collect();
        if std::mem::take(&mut self.notes.looking) && std::mem::take(&mut self.notes.stale) {
            return;
        }
        let Some((_, step, _)) = self.at_work() else { return };
        let watched: Option<InstanceId> = match &step.act {
            Act::Ready { instance, .. } | Act::Soak { instance, .. } => Some(instance.clone()),
            _ => None,
        };
        let notes = &mut self.notes;
        let Some(work) = &mut notes.work else { return };
        work.fresh = true;
        work.looked_at = Some(at);
        work.unseen = None;
        let Some(instance) = watched else { return };
        match notes.seen.get(&instance) {
            Some(seen) if seen.state == InstanceState::Running => {
                work.gone = 0;
                let now = Identity { pid: seen.pid, restarts: seen.restarts };
                let before = *notes.identity.entry(instance).or_insert(now);
                if before == now {
                    work.steady = Some((work.steady.map_or(at, |(since, _)| since), at));
                } else if work.changed.is_none() {
                    let why = format!("it was started again (restarts {} → {})", before.restarts, now.restarts);
                    work.changed = Some((at, why));
                }
            }
            Some(seen) if seen.state == InstanceState::Unknown => {}
            _ => {
                work.gone += 1;
                work.steady = None;
            }
        }
    }
}
