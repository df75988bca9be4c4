//! Carrying out one effect of a worker on the fake runtime.

use std::collections::BTreeMap;
use std::time::Duration;

use super::options::{Mutant, Node};
use super::simulation::{Item, Simulation};
use crate::model::{
    AgentId, CommandId, Definition, Digest, DrainBegin, Endpoint, ExitStatus, FailureKind, InstanceId,
    InstanceObservation, InstanceState, SlotName,
};
use crate::node::{AgentEffect, AgentEvent, AgentKey};
use crate::runtime::fake::{Blueprint, FakeAct, RuntimeError};
use crate::worker::{self, ActError, ActKind, Effect, EffectKey, Pace, Verdict};

/// Between two probes of an instance that nobody waits for.
const SLOW_PACE: Duration = Duration::from_secs(2);
/// Between two looks at how far a gateway is.
const SWITCH_PACE: Duration = Duration::from_millis(100);
/// From the end of a look to its answer.
const LOOK: Duration = Duration::from_millis(1);

fn is_watching(key: &EffectKey) -> bool {
    matches!(
        key,
        EffectKey::Probe(_)
            | EffectKey::WatchInflight(_)
            | EffectKey::WatchExit(_)
            | EffectKey::Act(_, _, ActKind::Switch)
    )
}

fn failed(error: RuntimeError) -> ActError {
    let RuntimeError { kind, unknown, retryable, message } = error;
    ActError { kind, unknown, retryable, message, log: vec![] }
}

fn missing(message: String) -> ActError {
    ActError { kind: FailureKind::Missing, unknown: false, retryable: false, message, log: vec![] }
}

impl Simulation {
    pub(super) fn stop_watch(&mut self, id: &AgentId, key: &AgentKey) {
        if let Some(live) = self.agents.get_mut(id).and_then(|agent| agent.live.as_mut()) {
            live.watches.remove(key);
        }
    }

    pub(super) fn slot_effect(&mut self, id: &AgentId, slot: SlotName, key: EffectKey, effect: Effect) {
        let name = AgentKey::Slot(slot.clone(), key.clone());
        let now = self.now;
        let (serial, at) = (self.serial(), now + self.latency());
        let Some(agent) = self.agents.get_mut(id) else { return };
        let life = agent.life;
        let Some(live) = &mut agent.live else { return };
        if is_watching(&key) {
            live.watches.insert(name.clone(), serial);
            return self.put(now, Item::Watch { agent: id.clone(), life, key: name, serial });
        }
        if effect == Effect::Inspect {
            let event = match self.look(&slot) {
                Ok(instances) => worker::Event::Inspected(instances),
                Err(error) => worker::Event::InspectFailed(error.message),
            };
            return self.put(at, Item::Told { agent: id.clone(), life, slot, event: Box::new(event) });
        }
        let EffectKey::Act(command, _, kind) = &key else { return };
        if !live.acting.insert(name) {
            return; // It is being carried out; once is enough.
        }
        self.check_intent(id, command);
        self.note(|_| format!("  agent {id} acts: {effect:?}"));
        let act = fake_act(*kind);
        let (result, takes) = self.act(id, &slot, effect, act);
        let event = Box::new(worker::Event::Acted { key, result });
        self.put(at + LOOK + takes, Item::Told { agent: id.clone(), life, slot, event });
    }

    /// Nothing acts before the intent is on disk.
    fn check_intent(&mut self, id: &AgentId, command: &CommandId) {
        let known = self.agents.get(id).is_some_and(|agent| agent.accepted.contains(command));
        if !known {
            self.broken.push(format!(
                "{}: {} acts for {command} before its intent is on disk",
                self.now,
                Node::Agent(id.clone())
            ));
        }
    }

    fn definition(&self, id: &AgentId, digest: &Digest) -> Result<Definition, ActError> {
        let known = self.agents.get(id).and_then(|agent| agent.specs.get(digest));
        known.cloned().ok_or_else(|| missing(format!("definition {} is not in the spec store", digest.short())))
    }

    fn act(
        &mut self,
        id: &AgentId,
        slot: &SlotName,
        effect: Effect,
        act: FakeAct,
    ) -> (Result<Option<Endpoint>, ActError>, Duration) {
        let now = self.now;
        let done = |result: Result<(), RuntimeError>| result.map(|()| None).map_err(failed);
        let mut takes = Duration::ZERO;
        let result = match effect {
            Effect::Prepare { instance, definition, spec, version } => {
                self.homes.insert(slot.clone(), id.clone());
                self.definition(id, &definition).and_then(|known| {
                    let blueprint = Blueprint { definition: known, definition_digest: definition, spec, version };
                    done(self.world.prepare(now, &instance, &blueprint))
                })
            }
            Effect::Start { instance } => {
                takes = self.world.takes(&instance, act);
                self.world.start(now, &instance).map(Some).map_err(failed)
            }
            Effect::HoldRestart { instance } => done(self.world.hold_restart(now, &instance)),
            Effect::AllowRestart { instance } => done(self.world.allow_restart(now, &instance)),
            Effect::Signal { instance, signal } => done(self.world.signal(now, &instance, &signal)),
            Effect::Kill { instance } => done(self.world.kill(now, &instance)),
            Effect::Remove { instance } => done(self.world.remove(now, &instance)),
            Effect::DrainCall { instance, definition, .. } => {
                self.definition(id, &definition).and_then(|known| match known.drain.begin {
                    Some(DrainBegin::Http(_) | DrainBegin::Exec(_)) => done(self.world.drain_call(now, &instance)),
                    Some(DrainBegin::Signal(_)) | None => Ok(None),
                })
            }
            Effect::UndrainCall { instance, definition } => self.definition(id, &definition).and_then(|known| {
                if known.drain.undo.is_some() { done(self.world.undrain_call(now, &instance)) } else { Ok(None) }
            }),
            Effect::Run { hook } => done(self.world.run(now, slot, &hook)),
            other => Err(missing(format!("{other:?} is no act on the runtime"))),
        };
        self.wake_exit_watches();
        (result, takes)
    }

    /// What the runtime says of a slot, where it can say.
    pub(super) fn look(&mut self, slot: &SlotName) -> Result<Vec<InstanceObservation>, RuntimeError> {
        let now = self.now;
        let mut seen = self.world.inspect(now, slot)?;
        let unclear = self.options.unclear;
        if self.may_fail() && self.chance.one_in(unclear) {
            let said = match self.options.mutant {
                Some(Mutant::UnknownIsStopped) => InstanceState::Exited,
                _ => InstanceState::Unknown,
            };
            for seen in seen.iter_mut().filter(|seen| seen.state == InstanceState::Running) {
                (seen.state, seen.pid) = (said, None);
            }
            self.note(|_| format!("  a look at {slot} cannot say"));
        }
        Ok(seen)
    }

    pub(super) fn agent_is_told(&mut self, id: &AgentId, life: u64, slot: SlotName, event: Box<worker::Event>) {
        if self.agents.get(id).is_some_and(|agent| agent.life == life) {
            self.step_agent(id, vec![AgentEvent::Slot(slot, event)]);
        }
    }

    // === watching ===

    /// One round of a watch, and the next.
    pub(super) fn watch(&mut self, id: &AgentId, life: u64, key: AgentKey, serial: u64) {
        let now = self.now;
        let Some(agent) = self.agents.get(id).filter(|agent| agent.life == life) else { return };
        let current = agent.live.as_ref().and_then(|live| live.watches.get(&key));
        if current != Some(&serial) {
            return;
        }
        let Some(AgentEffect::Slot(effect)) = agent.node().and_then(|node| crate::model::Machine::effect(node, &key))
        else {
            return;
        };
        let AgentKey::Slot(slot, name) = &key else { return };
        let slot = slot.clone();
        let (event, again) = match *effect {
            Effect::Probe { instance, definition, pace } => {
                let every = self.definition(id, &definition).map(|known| known.ready.every).unwrap_or(SLOW_PACE);
                let every = if pace == Pace::Fast { every } else { every.max(SLOW_PACE) };
                let verdict = match self.world.probe(now, &instance) {
                    Ok(()) => Verdict { ready: true, lost: false, text: "HTTP 200".to_owned(), log: vec![] },
                    Err(text) => Verdict { ready: false, lost: false, text, log: vec![] },
                };
                (worker::Event::Probed { instance, verdict }, Some(every))
            }
            Effect::WatchInflight { instance, definition } => {
                let source = self.definition(id, &definition).ok().and_then(|known| known.drain.inflight);
                let count = self.world.inflight(now, &instance).filter(|_| source.is_some());
                let count = count.ok_or_else(|| "no answer".to_owned());
                (worker::Event::Inflight { instance, count }, source.map(|source| source.every))
            }
            Effect::WatchExit { instance, .. } => match self.world.exit(now, &instance) {
                Some(status) => (worker::Event::Exited { instance, status, log: vec![] }, None),
                None => return, // Told when it happens.
            },
            Effect::Switch { component, targets, close, .. } => {
                if let EffectKey::Act(command, ..) = name {
                    let command = command.clone();
                    self.check_intent(id, &command);
                }
                let event = match self.world.switch(now, &slot, &component, &targets, close) {
                    Ok(reading) => worker::Event::Gateway {
                        component,
                        in_use: reading.in_use,
                        inflight: reading.inflight,
                        closed: reading.closed,
                        text: reading.text,
                    },
                    Err(error) => {
                        worker::Event::Gateway { component, in_use: false, inflight: 0, closed: 0, text: error.message }
                    }
                };
                (event, Some(SWITCH_PACE))
            }
            _ => return,
        };
        self.put(now + LOOK, Item::Told { agent: id.clone(), life, slot, event: Box::new(event) });
        if let Some(every) = again {
            self.put(now + every, Item::Watch { agent: id.clone(), life, key, serial });
        }
    }

    /// A main process ended by itself: whoever watches it is told.
    pub(super) fn tell_exit(&mut self, instance: &InstanceId, _: ExitStatus) {
        let key = AgentKey::Slot(instance.slot.clone(), EffectKey::WatchExit(instance.clone()));
        let watching: BTreeMap<AgentId, (u64, u64)> = self
            .agents
            .values()
            .filter_map(|agent| {
                let serial = agent.live.as_ref()?.watches.get(&key)?;
                Some((agent.id.clone(), (agent.life, *serial)))
            })
            .collect();
        for (agent, (life, serial)) in watching {
            self.put(self.now, Item::Watch { agent, life, key: key.clone(), serial });
        }
    }

    /// What an act itself ended is told as well.
    fn wake_exit_watches(&mut self) {
        let now = self.now;
        for event in self.world.advance(now) {
            self.stale(&event.instance.slot);
            if let crate::runtime::fake::FakeEventKind::Exited(status) = event.kind {
                self.tell_exit(&event.instance, status);
            }
        }
    }
}

fn fake_act(kind: ActKind) -> FakeAct {
    match kind {
        ActKind::Prepare => FakeAct::Prepare,
        ActKind::Start => FakeAct::Start,
        ActKind::HoldRestart => FakeAct::HoldRestart,
        ActKind::AllowRestart => FakeAct::AllowRestart,
        ActKind::DrainCall => FakeAct::DrainCall,
        ActKind::UndrainCall => FakeAct::UndrainCall,
        ActKind::Signal => FakeAct::Signal,
        ActKind::Kill => FakeAct::Kill,
        ActKind::Remove => FakeAct::Remove,
        ActKind::Switch => FakeAct::Switch,
        ActKind::Run => FakeAct::Run,
    }
}
