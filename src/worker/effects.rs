//! What should be going on outside, as a function of the state.

use super::state::{Phase, Worker, probed};
use super::{ActKind, Effect, EffectKey, Pace};
use crate::model::{Act, CommandId, CommandStep, Digest, InstanceId, Outcome, Precondition, StepId};

impl Worker {
    /// Every key that may stand for an effect now.
    pub(super) fn keys(&self) -> Vec<EffectKey> {
        let mut keys = Vec::new();
        if self.notes.looking {
            keys.push(EffectKey::Inspect(self.notes.looks));
        }
        for (id, entry) in &self.facts.commands {
            keys.extend(entry.outcomes.keys().map(|step| EffectKey::Tell(id.clone(), *step)));
        }
        keys.extend(self.facts.known.keys().map(|instance| EffectKey::Probe(instance.clone())));
        let Some((entry, step, work)) = self.at_work() else { return keys };
        let id = &entry.command.id;
        keys.push(EffectKey::Report(id.clone(), step.step));
        let act = match (&step.act, work.phase) {
            (Act::Switch { .. }, _) => Some(ActKind::Switch),
            (_, Phase::Act(kind)) => Some(kind),
            _ => None,
        };
        keys.extend(act.map(|kind| EffectKey::Act(id.clone(), step.step, kind)));
        if let Some(instance) = step.act.instance() {
            keys.push(EffectKey::Probe(instance.clone()));
            keys.push(EffectKey::WatchExit(instance.clone()));
            keys.push(EffectKey::WatchInflight(instance.clone()));
        }
        keys
    }

    pub(super) fn effect_of(&self, key: &EffectKey) -> Option<Effect> {
        match key {
            EffectKey::Inspect(number) => {
                (self.notes.looking && *number == self.notes.looks).then_some(Effect::Inspect)
            }
            EffectKey::Act(id, step, kind) => self.act_effect(id, *step, *kind),
            EffectKey::Probe(instance) => self.probe_effect(instance),
            EffectKey::WatchInflight(instance) => self.waiting(instance).and_then(|step| match &step.act {
                Act::Drain { definition, inflight: true, .. } => {
                    Some(Effect::WatchInflight { instance: instance.clone(), definition: definition.clone() })
                }
                _ => None,
            }),
            EffectKey::WatchExit(instance) => self.waiting(instance).and_then(|step| match &step.act {
                Act::Ready { .. } | Act::Soak { .. } => {
                    Some(Effect::WatchExit { instance: instance.clone(), lines: true })
                }
                Act::Drain { .. } | Act::Stop { .. } => {
                    Some(Effect::WatchExit { instance: instance.clone(), lines: false })
                }
                _ => None,
            }),
            EffectKey::Tell(id, step) => {
                let entry = self.facts.commands.get(id)?;
                let ending = entry.outcomes.get(step)?;
                self.tells(id, *step).then(|| {
                    Effect::Tell(Box::new(Outcome {
                        command: id.clone(),
                        slot: self.slot.clone(),
                        step: *step,
                        result: ending.result.clone(),
                        endpoint: ending.endpoint.clone(),
                    }))
                })
            }
            EffectKey::Report(id, step) => {
                let (entry, now, work) = self.at_work()?;
                let (_, progress) = work.progress.as_ref()?;
                (entry.command.id == *id && now.step == *step).then(|| Effect::Report(Box::new(progress.clone())))
            }
        }
    }

    /// Every outcome that is being told.
    pub fn told(&self) -> impl Iterator<Item = (CommandId, StepId)> {
        let outcomes = |(id, entry): (&CommandId, &super::state::Entry)| -> Vec<_> {
            let told = entry.outcomes.keys().filter(|step| self.tells(id, **step));
            told.map(|step| (id.clone(), *step)).collect()
        };
        self.facts.commands.iter().flat_map(outcomes)
    }

    /// Whether that outcome is being told.
    pub(super) fn tells(&self, id: &CommandId, step: StepId) -> bool {
        let ending = self.facts.commands.get(id).and_then(|entry| entry.outcomes.get(&step));
        ending.is_some_and(|ending| !ending.acknowledged || self.notes.retell.contains(&(id.clone(), step)))
    }

    /// The step at work, if it waits for something about that instance.
    fn waiting(&self, instance: &InstanceId) -> Option<&CommandStep> {
        let (_, step, work) = self.at_work()?;
        (work.phase == Phase::Wait && step.act.instance() == Some(instance)).then_some(step)
    }

    fn probe_effect(&self, instance: &InstanceId) -> Option<Effect> {
        let effect = |definition: &Digest, pace| {
            Some(Effect::Probe { instance: instance.clone(), definition: definition.clone(), pace })
        };
        if let Some((asked, definition)) = self.waiting(instance).and_then(|step| probed(&step.act))
            && asked == instance
        {
            return effect(definition, Pace::Fast);
        }
        let known = self.facts.known(instance)?;
        let definition = known.probe.as_ref()?;
        let needed = self.at_work().is_some_and(|(_, step, work)| {
            let asked = Precondition::Ready(instance.clone());
            let verdict = self.notes.probes.get(instance).filter(|note| !note.lost);
            work.phase == Phase::Precheck && step.precondition == asked && verdict.is_none()
        });
        if needed {
            return effect(definition, Pace::Fast);
        }
        if known.started && known.drain.is_none() { effect(definition, Pace::Slow) } else { None }
    }

    fn act_effect(&self, id: &CommandId, step: StepId, kind: ActKind) -> Option<Effect> {
        let (entry, now, work) = self.at_work()?;
        if entry.command.id != *id || now.step != step || work.acted.as_ref().is_some_and(|_| kind != ActKind::Switch) {
            return None;
        }
        if let (Act::Switch { component, targets, hold_max, .. }, ActKind::Switch) = (&now.act, kind) {
            // Outstanding for as long as the step is at work, but for the pause after a failure.
            let paused = matches!(&work.acted, Some((_, Err(_)))) || work.phase == Phase::Precheck;
            return (!paused).then(|| Effect::Switch {
                component: component.clone(),
                targets: targets.clone(),
                hold_max: *hold_max,
                close: work.phase == Phase::Close,
            });
        }
        if work.phase != Phase::Act(kind) {
            return None;
        }
        if let (Act::Run { hook }, ActKind::Run) = (&now.act, kind) {
            return Some(Effect::Run { hook: hook.clone() });
        }
        let instance = now.act.instance()?.clone();
        match (kind, &now.act) {
            (ActKind::Prepare, Act::Prepare { definition, spec, version, .. }) => Some(Effect::Prepare {
                instance,
                definition: definition.clone(),
                spec: spec.clone(),
                version: version.clone(),
            }),
            (ActKind::Start, Act::Start { .. }) => Some(Effect::Start { instance }),
            (ActKind::HoldRestart, _) => Some(Effect::HoldRestart { instance }),
            (ActKind::AllowRestart, _) => Some(Effect::AllowRestart { instance }),
            (ActKind::DrainCall, Act::Drain { definition, grace, stop_timeout, .. }) => {
                let kill_at = self.facts.drain(&instance).map_or(work.phase_at + *grace, |fact| fact.kill_at);
                let left = (kill_at - *stop_timeout).since(work.phase_at);
                Some(Effect::DrainCall { instance, definition: definition.clone(), left })
            }
            (ActKind::UndrainCall, Act::Undrain { definition, .. }) => {
                Some(Effect::UndrainCall { instance, definition: definition.clone() })
            }
            (ActKind::Signal, Act::Drain { begin: crate::model::DrainStart::Signal(signal), .. })
            | (ActKind::Signal, Act::Stop { signal, .. }) => Some(Effect::Signal { instance, signal: signal.clone() }),
            (ActKind::Kill, _) => Some(Effect::Kill { instance }),
            (ActKind::Remove, Act::Retire { .. }) => Some(Effect::Remove { instance }),
            _ => None,
        }
    }
}
