//! Carrying out one effect of a worker.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, mpsc, watch};

use super::project;
use crate::gateway::control::Control;
use crate::journal::SpecStore;
use crate::model::{
    AgentId, Call, ComponentName, Definition, Digest, DrainBegin, Endpoint, FailureKind, Health, InstanceId, Probe,
    SlotName, TableTarget, placeholder,
};
use crate::node::AgentEvent;
use crate::probe;
use crate::runtime::{Blueprint, Runtime, RuntimeError};
use crate::worker::{self, ActError, Effect, EffectKey, Pace, Verdict};

/// Between two probes of an instance that nobody waits for: fresh enough for a floor, cheap for a large host.
const SLOW_PACE: Duration = Duration::from_secs(2);

/// Between two looks at how far a gateway is with a switch: the control socket answers in well under a millisecond.
const SWITCH_PACE: Duration = Duration::from_millis(10);

/// Log lines that go with a failure.
const LOG_LINES: u32 = 20;
/// How often they are read of an instance that is waited for.
const LOG_EVERY: Duration = Duration::from_millis(500);

/// Starts at a time on a host. More make each of them slower and their first answers later.
pub(super) const STARTS_MAX: usize = 4;

/// For a drain call: an application that only flips a flag answers at once.
const CALL_MAX: Duration = Duration::from_secs(10);

/// What an effect is carried out with.
#[derive(Clone)]
pub(super) struct Hands {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) specs: Arc<SpecStore>,
    /// Whose host this is.
    pub(super) me: AgentId,
    pub(super) starts: Arc<Semaphore>,
    pub(super) changes: Changes,
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

    fn definition(&self, digest: &Digest) -> Result<Definition, ActError> {
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
            Effect::WatchExit { instance } => self.exit(&slot, &instance).await,
            Effect::Switch { component, targets, hold_max, close } => {
                self.switch(&slot, component, targets, hold_max, close).await;
            }
            act => {
                let instance = acted_on(&act).cloned();
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
                let made_from = project::local(self.definition(&definition)?, &self.me, &self.specs);
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
            Effect::Remove { instance } => done(self.runtime.remove(&instance).await),
            Effect::DrainCall { instance, definition } => {
                let call = match self.definition(&definition)?.drain.begin {
                    Some(DrainBegin::Http(url)) => Some(Call::Http(url)),
                    Some(DrainBegin::Exec(argv)) => Some(Call::Exec(argv)),
                    Some(DrainBegin::Signal(_)) | None => None,
                };
                self.call(&instance, call, "drain.begin").await
            }
            Effect::UndrainCall { instance, definition } => {
                let call = self.definition(&definition)?.drain.undo;
                self.call(&instance, call, "drain.undo").await
            }
            Effect::Run { hook } => Err(missing(format!("hook {hook} is not configured on this agent"))),
            other => Err(missing(format!("{other:?} is no act on the runtime"))),
        }
    }

    async fn call(&self, instance: &InstanceId, call: Option<Call>, what: &str) -> Result<Option<Endpoint>, ActError> {
        let values = self.runtime.placeholders(instance).await.map_err(failed)?;
        let refused = |message: String| ActError {
            kind: FailureKind::Refused,
            unknown: false,
            retryable: true,
            message,
            log: vec![],
        };
        let fill = |text: &str| placeholder::fill(text, &values).map_err(|error| refused(format!("{what}: {error}")));
        match call {
            None => Ok(None),
            Some(Call::Http(url)) => {
                let answer = probe::http_post(&fill(&url)?, CALL_MAX).await;
                if answer.ready { Ok(None) } else { Err(refused(format!("{what} of {instance}: {}", answer.text))) }
            }
            Some(Call::Exec(argv)) => {
                let argv = argv.iter().map(|part| fill(part)).collect::<Result<Vec<_>, _>>()?;
                let output = self.runtime.exec(instance, &argv, CALL_MAX).await.map_err(failed)?;
                match output.code {
                    Some(0) => Ok(None),
                    Some(code) => Err(refused(format!("{what} of {instance} ended with exit code {code}"))),
                    None => Err(refused(format!("{what} of {instance} did not end within {CALL_MAX:?}"))),
                }
            }
        }
    }

    async fn probe(&self, slot: &SlotName, instance: &InstanceId, definition: &Digest, pace: Pace) {
        let definition = match self.definition(definition) {
            Ok(definition) => definition,
            Err(error) => {
                let verdict = Verdict { ready: false, text: error.message, log: Vec::new() };
                return self.tell(slot, worker::Event::Probed { instance: instance.clone(), verdict }).await;
            }
        };
        let ready = definition.ready;
        let every = match pace {
            Pace::Fast => ready.every,
            Pace::Slow => ready.every.max(SLOW_PACE),
        };
        let mut ticker = tokio::time::interval(every.max(Duration::from_millis(5)));
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut log_due = Instant::now();
        // READY=1 is told to the runtime, which says so; every other probe has to be made to be answered.
        let told = ready.probe == Some(Probe::Notify);
        let mut changes = self.changes.of(slot);
        loop {
            tokio::select! {
                _ = ticker.tick() => {}
                Ok(()) = changes.changed(), if told => ticker.reset(),
            }
            let mut verdict = self.ask(instance, ready.probe.as_ref(), ready.timeout).await;
            // Should its deadline pass, these are its last words.
            if !verdict.ready && pace == Pace::Fast && Instant::now() >= log_due {
                verdict.log = self.runtime.logs(instance, LOG_LINES).await.unwrap_or_default();
                log_due = Instant::now() + LOG_EVERY;
            }
            self.tell(slot, worker::Event::Probed { instance: instance.clone(), verdict }).await;
        }
    }

    async fn ask(&self, instance: &InstanceId, wanted: Option<&Probe>, timeout: Duration) -> Verdict {
        let verdict = |ready: bool, text: &str| Verdict { ready, text: text.to_owned(), log: Vec::new() };
        let values = match self.runtime.placeholders(instance).await {
            Ok(values) => values,
            Err(error) => return verdict(false, &error.message),
        };
        let filled = |text: &str| placeholder::fill(text, &values).map_err(|error| verdict(false, &error.to_string()));
        match wanted {
            None => verdict(true, "no probe"),
            Some(Probe::Http(url)) => match filled(url) {
                Ok(url) => {
                    let answer = probe::http_ready(&url, timeout).await;
                    verdict(answer.ready, &answer.text)
                }
                Err(wrong) => wrong,
            },
            Some(Probe::Tcp(address)) => match filled(address) {
                Ok(address) => {
                    let answer = probe::tcp_ready(&address, timeout).await;
                    verdict(answer.ready, &answer.text)
                }
                Err(wrong) => wrong,
            },
            Some(Probe::Exec(argv)) => {
                let mut command = vec![];
                for part in argv {
                    match filled(part) {
                        Ok(part) => command.push(part),
                        Err(wrong) => return wrong,
                    }
                }
                match self.runtime.exec(instance, &command, timeout).await {
                    Ok(output) if output.code == Some(0) => verdict(true, "exit code 0"),
                    Ok(output) => match output.code {
                        Some(code) => verdict(false, &format!("exit code {code}")),
                        None => verdict(false, &format!("no end within {}", humantime::format_duration(timeout))),
                    },
                    Err(error) => verdict(false, &error.message),
                }
            }
            Some(Probe::Notify) => match self.runtime.notified(instance).await {
                Some(true) => verdict(true, "READY=1"),
                Some(false) => verdict(false, "READY=1 not said yet"),
                None => verdict(false, "nobody can say"),
            },
            Some(Probe::Health) => match self.runtime.inspect(&instance.slot).await {
                Ok(instances) => match instances.iter().find(|seen| seen.id == *instance).map(|seen| seen.health) {
                    Some(Health::Ready) => verdict(true, "healthy"),
                    Some(Health::Unready) => verdict(false, "unhealthy"),
                    Some(Health::Unknown) => verdict(false, "its healthcheck has not said healthy yet"),
                    None => verdict(false, "it is not there"),
                },
                Err(error) => verdict(false, &error.message),
            },
        }
    }

    async fn inflight(&self, slot: &SlotName, instance: &InstanceId, definition: &Digest) {
        let source = match self.definition(definition).map(|definition| definition.drain.inflight) {
            Ok(Some(source)) => source,
            Ok(None) | Err(_) => {
                return self.tell(slot, worker::Event::Inflight { instance: instance.clone(), count: None }).await;
            }
        };
        let mut ticker = tokio::time::interval(source.every.max(Duration::from_millis(5)));
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticker.tick().await;
            let url = match self.runtime.placeholders(instance).await {
                Ok(values) => placeholder::fill(&source.http, &values).ok(),
                Err(_) => None,
            };
            let count = match url {
                Some(url) => probe::read_inflight(&url, &source.pointer, source.timeout).await.ok(),
                None => None,
            };
            self.tell(slot, worker::Event::Inflight { instance: instance.clone(), count }).await;
        }
    }

    async fn exit(&self, slot: &SlotName, instance: &InstanceId) {
        loop {
            match self.runtime.wait_exit(instance).await {
                Ok(status) => {
                    let log = self.runtime.logs(instance, LOG_LINES).await.unwrap_or_default();
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
        let mut said: Option<Control> = None;
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
                    worker::Event::Gateway { component: component.clone(), in_use: false, inflight: 0, closed: 0, text }
                }
            };
            self.tell(slot, event).await;
            tokio::time::sleep(SWITCH_PACE).await;
        }
    }

    async fn gateway(&self, slot: &SlotName) -> Result<Control, String> {
        let door = match self.runtime.gateway_door(slot).await {
            None => return Err(format!("{slot} is no gateway")),
            Some(door) => door.map_err(|error| error.message)?,
        };
        Control::over(slot.to_string(), door).await.map_err(|error| crate::cause::chain(&error))
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

fn failed(error: RuntimeError) -> ActError {
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
