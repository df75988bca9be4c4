//! Carrying out one effect of a worker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};

use super::contact::Contacts;
use super::definitions::Definitions;
use super::doors::Doors;
use super::project;
use crate::gateway::control::Control;
use crate::model::{
    AgentId, Call, ComponentName, Definition, Digest, DrainBegin, Endpoint, FailureKind, InstanceId, Probe, SlotName,
    TableTarget,
};
use crate::node::AgentEvent;
use crate::runtime::{Blueprint, Inside, Runtime, RuntimeError};
use crate::worker::{self, ActError, Effect, EffectKey, Pace, Verdict};

/// Between two probes of an instance that nobody waits for: fresh enough for a floor, cheap for a large host.
const SLOW_PACE: Duration = Duration::from_secs(2);

/// Between two looks at how far a gateway is with a switch: the control socket answers in well under a millisecond.
const SWITCH_PACE: Duration = Duration::from_millis(10);

/// Log lines that go with a failure.
const LOG_LINES: u32 = 20;
/// One that is waited for has a moment before they are read for the first time: most are ready by then.
const LOG_FIRST: Duration = Duration::from_millis(100);
/// How often they are read of it.
const LOG_EVERY: Duration = Duration::from_millis(500);

/// Starts at a time on a host: as many as it has cores. One more makes the first ones later and the last one no sooner,
/// while what runs beside them gets slower answers.
pub(super) fn starts_max() -> usize {
    std::thread::available_parallelism().map_or(2, |cores| cores.get().clamp(2, 8))
}

/// For a drain call: an application that only flips a flag answers at once.
pub(super) const CALL_MAX: Duration = Duration::from_secs(10);

/// What an effect is carried out with.
#[derive(Clone)]
pub(super) struct Hands {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) specs: Arc<Definitions>,
    /// Whose host this is.
    pub(super) me: AgentId,
    pub(super) starts: Arc<Semaphore>,
    pub(super) changes: Changes,
    pub(super) contacts: Contacts,
    pub(super) doors: Doors,
    pub(super) events: mpsc::Sender<AgentEvent>,
}

/// Tells who asks the runtime again and again that a slot has changed, so that they ask at once. Lost or superfluous
/// words do no harm: everybody asks at a pace of their own as well.
#[derive(Clone, Default)]
pub(super) struct Changes(Arc<Mutex<BTreeMap<SlotName, watch::Sender<()>>>>);

impl Changes {
    fn of(&self, slot: &SlotName) -> watch::Receiver<()> {
        let mut slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        slots.entry(slot.clone()).or_default().subscribe()
    }

    /// A slot has changed.
    pub(super) fn tell(&self, slot: &SlotName) {
        let slots = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asking) = slots.get(slot) {
            asking.send_replace(());
        }
    }
}

impl Hands {
    pub(super) async fn tell(&self, slot: &SlotName, event: worker::Event) {
        let _ = self.events.send(AgentEvent::Slot(slot.clone(), Box::new(event))).await;
    }

    fn definition(&self, digest: &Digest) -> Result<Arc<Definition>, ActError> {
        match self.specs.get(digest) {
            Ok(Some(definition)) => Ok(definition),
            Ok(None) => Err(missing(format!("definition {} is not in the spec store", digest.short()))),
            Err(error) => Err(missing(crate::cause::chain(&error))),
        }
    }

    /// Carries out an effect and says what came of it. Watching effects do not return; they are aborted.
    pub(super) async fn carry_out(self, slot: SlotName, key: EffectKey, effect: Effect) {
        match effect {
            Effect::Inspect => {
                let event = match self.runtime.inspect(&slot).await {
                    Ok(instances) => worker::Event::Inspected(instances),
                    Err(error) => worker::Event::InspectFailed(error.message),
                };
                self.tell(&slot, event).await;
            }
            Effect::Probe { instance, definition, pace } => self.probe(&slot, &instance, &definition, pace).await,
            Effect::WatchInflight { instance, definition } => self.inflight(&slot, &instance, &definition).await,
            Effect::WatchExit { instance, lines } => self.exit(&slot, &instance, lines).await,
            Effect::Switch { component, targets, hold_max, close } => {
                self.switch(&slot, component, targets, hold_max, close).await;
            }
            act => {
                let instance = acted_on(&act).cloned();
                // Should it be a gateway's, another one is behind its socket soon.
                self.doors.forget(&slot);
                let result = match self.act(act).await {
                    Ok(endpoint) => Ok(endpoint),
                    Err(mut error) => {
                        if let Some(instance) = instance
                            && error.log.is_empty()
                        {
                            error.log = self.runtime.logs(&instance, LOG_LINES).await.unwrap_or_default();
                        }
                        Err(error)
                    }
                };
                self.tell(&slot, worker::Event::Acted { key, result }).await;
            }
        }
    }

    async fn act(&self, effect: Effect) -> Result<Option<Endpoint>, ActError> {
        let done = |result: Result<(), RuntimeError>| result.map(|()| None).map_err(failed);
        match effect {
            Effect::Prepare { instance, definition, spec, version } => {
                let made_from = project::local((*self.definition(&definition)?).clone(), &self.me, &self.specs);
                let blueprint =
                    Blueprint { definition: made_from.map_err(missing)?, definition_digest: definition, spec, version };
                done(self.runtime.prepare(&instance, &blueprint).await)
            }
            Effect::Start { instance } => {
                let _turn = self.starts.acquire().await;
                self.runtime.start(&instance).await.map(Some).map_err(failed)
            }
            Effect::HoldRestart { instance } => done(self.runtime.hold_restart(&instance).await),
            Effect::AllowRestart { instance } => done(self.runtime.allow_restart(&instance).await),
            Effect::Signal { instance, signal } => done(self.runtime.signal(&instance, &signal).await),
            Effect::Kill { instance } => done(self.runtime.kill(&instance).await),
            Effect::Remove { instance } => {
                self.contacts.forget(&instance);
                done(self.runtime.remove(&instance).await)
            }
            Effect::DrainCall { instance, definition, left } => {
                let definition = self.definition(&definition)?;
                let call = match definition.drain.begin.clone() {
                    Some(DrainBegin::Http(url)) => Some(Call::Http(url)),
                    Some(DrainBegin::Exec(argv)) => Some(Call::Exec(argv)),
                    Some(DrainBegin::Signal(_)) | None => None,
                };
                self.begin_drain(&instance, &definition, call, left).await.map(|()| None)
            }
            Effect::UndrainCall { instance, definition } => {
                let definition = self.definition(&definition)?;
                self.undo_drain(&instance, &definition).await.map(|()| None)
            }
            Effect::Run { hook } => Err(missing(format!("hook {hook} is not configured on this agent"))),
            other => Err(missing(format!("{other:?} is no act on the runtime"))),
        }
    }

    async fn probe(&self, slot: &SlotName, instance: &InstanceId, definition: &Digest, pace: Pace) {
        let definition = match self.definition(definition) {
            Ok(definition) => definition,
            Err(error) => {
                let verdict = Verdict { ready: false, lost: false, text: error.message, log: Vec::new() };
                return self.tell(slot, worker::Event::Probed { instance: instance.clone(), verdict }).await;
            }
        };
        let ready = &definition.ready;
        let every = match pace {
            Pace::Fast => ready.every,
            Pace::Slow => ready.every.max(SLOW_PACE),
        };
        let mut ticker = tokio::time::interval(every.max(Duration::from_millis(5)));
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut log_due = Instant::now() + LOG_FIRST;
        // READY=1 is told to the runtime, which says so; every other probe has to be made to be answered.
        let told = ready.probe == Some(Probe::Notify);
        let mut changes = self.changes.of(slot);
        let mut place = None;
        loop {
            tokio::select! {
                _ = ticker.tick() => {}
                Ok(()) = changes.changed(), if told => ticker.reset(),
            }
            if changes.has_changed().unwrap_or(true) {
                changes.mark_unchanged();
                place = None;
            }
            let mut verdict = self.ask(instance, &definition, pace, &mut place).await;
            // Should its deadline pass, these are its last words.
            if !verdict.ready && pace == Pace::Fast && Instant::now() >= log_due {
                verdict.log = self.runtime.logs(instance, LOG_LINES).await.unwrap_or_default();
                log_due = Instant::now() + LOG_EVERY;
            }
            self.tell(slot, worker::Event::Probed { instance: instance.clone(), verdict }).await;
        }
    }

    async fn inflight(&self, slot: &SlotName, instance: &InstanceId, definition: &Digest) {
        let found = self.definition(definition).map_err(|error| error.message);
        let found = found.and_then(|definition| match definition.drain.inflight.clone() {
            Some(source) => Ok((definition, source)),
            None => Err("nothing says where it is read".to_owned()),
        });
        let tell = |count| self.tell(slot, worker::Event::Inflight { instance: instance.clone(), count });
        let (definition, source) = match found {
            Ok(found) => found,
            Err(why) => return tell(Err(why)).await,
        };
        let mut ticker = tokio::time::interval(source.every.max(Duration::from_millis(5)));
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticker.tick().await;
            tell(self.read_inflight(instance, &definition, &source).await).await;
        }
    }

    async fn exit(&self, slot: &SlotName, instance: &InstanceId, lines: bool) {
        loop {
            match self.runtime.wait_exit(instance).await {
                Ok(status) => {
                    let log = if lines { self.runtime.logs(instance, LOG_LINES).await } else { Ok(vec![]) };
                    let log = log.unwrap_or_default();
                    let event = worker::Event::Exited { instance: instance.clone(), status, log };
                    return self.tell(slot, event).await;
                }
                // A keeper that is being replaced: its successor can tell.
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    async fn switch(
        &self,
        slot: &SlotName,
        component: ComponentName,
        targets: Vec<TableTarget>,
        hold_max: Duration,
        close: bool,
    ) {
        // The connection, once the table was said on it. A gateway that died has its table from disk, which may be the
        // older one: on another connection it is said again.
        let mut said: Option<Arc<Control>> = None;
        loop {
            let answer = async {
                let control = match said.take() {
                    Some(control) => control,
                    None => {
                        let control = self.gateway(slot).await?;
                        let targets = self.routed(slot, &targets).await;
                        let set = control.set_table(component.as_str(), &targets, hold_max, close).await;
                        set.map_err(|error| crate::cause::chain(&error))?;
                        control
                    }
                };
                let state = control.table(component.as_str()).await.map_err(|error| crate::cause::chain(&error))?;
                self.doors.keep(slot, &control);
                said = Some(control);
                Ok::<_, String>(state)
            };
            let event = match answer.await {
                Ok(state) => worker::Event::Gateway {
                    component: component.clone(),
                    in_use: state.in_use,
                    inflight: state.draining_inflight,
                    closed: state.closed_upgraded,
                    text: state.text,
                },
                Err(text) => {
                    self.doors.forget(slot);
                    worker::Event::Gateway { component: component.clone(), in_use: false, inflight: 0, closed: 0, text }
                }
            };
            self.tell(slot, event).await;
            tokio::time::sleep(SWITCH_PACE).await;
        }
    }

    async fn gateway(&self, slot: &SlotName) -> Result<Arc<Control>, String> {
        if let Some(control) = self.doors.to(slot) {
            return Ok(control);
        }
        let door = self.runtime.door(Inside::Gateway(slot)).await.map_err(|error| error.message)?;
        let door = door.ok_or_else(|| format!("{slot} is no gateway"))?;
        Control::over(slot.to_string(), door).await.map(Arc::new).map_err(|error| crate::cause::chain(&error))
    }

    /// The targets, by the ways that this gateway has to them.
    async fn routed(&self, gateway: &SlotName, targets: &[TableTarget]) -> Vec<TableTarget> {
        let mut routed = targets.to_vec();
        for target in &mut routed {
            if let Some(host) = self.runtime.gateway_route(gateway, &target.instance).await {
                target.host = host;
            }
        }
        routed
    }
}

fn acted_on(effect: &Effect) -> Option<&InstanceId> {
    match effect {
        Effect::Start { instance }
        | Effect::Signal { instance, .. }
        | Effect::Kill { instance }
        | Effect::DrainCall { instance, .. }
        | Effect::UndrainCall { instance, .. } => Some(instance),
        _ => None,
    }
}

fn missing(message: String) -> ActError {
    ActError { kind: FailureKind::Missing, unknown: false, retryable: false, message, log: vec![] }
}

pub(super) fn failed(error: RuntimeError) -> ActError {
    ActError {
        kind: error.kind,
        unknown: error.unknown,
        retryable: error.retryable,
        message: error.message,
        log: vec![],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_to_those_who_ask_about_that_slot_and_kept_until_they_look() {
        let (one, other): (SlotName, SlotName) = ("worker-1".parse().unwrap(), "worker-2".parse().unwrap());
        let changes = Changes::default();
        changes.tell(&one);
        let asking = changes.of(&one);
        assert!(!asking.has_changed().unwrap(), "what was before is seen by the first question");
        changes.tell(&other);
        assert!(!asking.has_changed().unwrap());
        changes.tell(&one);
        assert!(asking.has_changed().unwrap());
        assert!(changes.of(&one).same_channel(&asking), "one channel a slot, however often it is asked about");
    }
}
