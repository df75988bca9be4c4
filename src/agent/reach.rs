//! Asking an instance: from this host, or through the component agent inside its container where it has one.
//!
//! Who has one is never asked from here, not even while there is no contact: `127.0.0.1` would be another machine's.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::acts::{CALL_MAX, Hands, failed};
use super::contact::{Heard, ODD_ANSWER};
use crate::model::{
    Call, Definition, DrainInflight, FailureKind, FromComponent, Health, InstanceId, Probe, ToComponent, placeholder,
};
use crate::probe;
use crate::worker::{ActError, Pace, Verdict};

type Values = BTreeMap<String, String>;

/// How long a place is asked without a question to the runtime whether the instance is still there.
const PLACE_HOLDS: Duration = Duration::from_millis(250);
/// The same for one that serves and that nobody waits for. Whoever asks it forgets the place when its slot changes.
const PLACE_HOLDS_SLOW: Duration = Duration::from_secs(5);

/// Where an instance was a moment ago.
pub(super) struct Place {
    since: Instant,
    values: Values,
}

fn fill(text: &str, values: &Values) -> Result<String, String> {
    placeholder::fill(text, values).map_err(|error| error.to_string())
}

fn fill_all(argv: &[String], values: &Values) -> Result<Vec<String>, String> {
    argv.iter().map(|part| fill(part, values)).collect()
}

fn verdict(ready: bool, text: &str) -> Verdict {
    Verdict { ready, lost: false, text: text.to_owned(), log: Vec::new() }
}

/// Nobody could be asked.
fn lost(text: String) -> Verdict {
    Verdict { ready: false, lost: true, text, log: Vec::new() }
}

impl Hands {
    async fn inside(
        &self,
        instance: &InstanceId,
        definition: &Definition,
        question: &ToComponent,
        patience: Duration,
    ) -> Heard {
        let said = definition.agent.is_some();
        self.contacts.ask(&*self.runtime, instance, said, question, patience).await
    }

    /// One probe.
    pub(super) async fn ask(
        &self,
        instance: &InstanceId,
        definition: &Definition,
        pace: Pace,
        place: &mut Option<Place>,
    ) -> Verdict {
        let wanted = match &definition.ready.probe {
            None => return verdict(true, "no probe"),
            Some(Probe::Notify) => {
                return match self.runtime.notified(instance).await {
                    Some(true) => verdict(true, "READY=1"),
                    Some(false) => verdict(false, "READY=1 not said yet"),
                    None => verdict(false, "nobody can say"),
                };
            }
            Some(Probe::Health) => return self.health(instance).await,
            Some(wanted) => wanted,
        };
        let holds = if pace == Pace::Slow { PLACE_HOLDS_SLOW } else { PLACE_HOLDS };
        let fresh = place.as_ref().is_none_or(|place| place.since.elapsed() >= holds);
        if fresh {
            *place = None;
        }
        let at = match self.place(instance, place).await {
            Ok(at) => at,
            Err(text) => return verdict(false, &text),
        };
        let answer = self.ask_at(instance, definition, wanted, &at).await;
        if pace == Pace::Slow {
            // Where one that serves has answered before it is believed: its end is told by others.
            place.take_if(|_| !answer.ready);
            return answer;
        }
        if fresh || !answer.ready {
            return answer;
        }
        // Good news is believed of where it is now: its former address may be another one's.
        *place = None;
        match self.place(instance, place).await {
            Ok(now) if now == at => answer,
            Ok(now) => self.ask_at(instance, definition, wanted, &now).await,
            Err(text) => verdict(false, &text),
        }
    }

    async fn place(&self, instance: &InstanceId, place: &mut Option<Place>) -> Result<Values, String> {
        if place.is_none() {
            let values = self.runtime.placeholders(instance).await.map_err(|error| error.message)?;
            *place = Some(Place { since: Instant::now(), values });
        }
        Ok(place.iter().flat_map(|place| place.values.clone()).collect())
    }

    async fn ask_at(&self, instance: &InstanceId, definition: &Definition, wanted: &Probe, values: &Values) -> Verdict {
        let timeout = definition.ready.timeout;
        let filled = match wanted {
            Probe::Http(url) => fill(url, values).map(Probe::Http),
            Probe::Tcp(address) => fill(address, values).map(Probe::Tcp),
            Probe::Exec(argv) => fill_all(argv, values).map(Probe::Exec),
            other => Ok(other.clone()),
        };
        let probe = match filled {
            Ok(probe) => probe,
            Err(why) => return verdict(false, &why),
        };
        let question = ToComponent::Probe { probe: probe.clone(), timeout };
        match self.inside(instance, definition, &question, timeout).await {
            Heard::Nobody => self.ask_from_here(instance, &probe, timeout).await,
            Heard::Answer(FromComponent::Probe { ready, text }) => verdict(ready, &text),
            Heard::Answer(_) => lost(ODD_ANSWER.to_owned()),
            Heard::Lost(text) => lost(text),
        }
    }

    async fn ask_from_here(&self, instance: &InstanceId, probe: &Probe, timeout: Duration) -> Verdict {
        match probe {
            Probe::Http(url) => {
                let answer = probe::http_ready(url, timeout).await;
                verdict(answer.ready, &answer.text)
            }
            Probe::Tcp(address) => {
                let answer = probe::tcp_ready(address, timeout).await;
                verdict(answer.ready, &answer.text)
            }
            Probe::Exec(argv) => match self.runtime.exec(instance, argv, timeout).await {
                Ok(output) if output.code == Some(0) => verdict(true, "exit code 0"),
                Ok(output) => match output.code {
                    Some(code) => verdict(false, &format!("exit code {code}")),
                    None => verdict(false, &format!("no end within {}", humantime::format_duration(timeout))),
                },
                Err(error) => verdict(false, &error.message),
            },
            Probe::Notify | Probe::Health => verdict(false, "nobody can say"),
        }
    }

    async fn health(&self, instance: &InstanceId) -> Verdict {
        match self.runtime.inspect(&instance.slot).await {
            Ok(instances) => match instances.iter().find(|seen| seen.id == *instance).map(|seen| seen.health) {
                Some(Health::Ready) => verdict(true, "healthy"),
                Some(Health::Unready) => verdict(false, "unhealthy"),
                Some(Health::Unknown) => verdict(false, "its healthcheck has not said healthy yet"),
                None => verdict(false, "it is not there"),
            },
            Err(error) => verdict(false, &error.message),
        }
    }

    /// One reading of work in flight; an error says why nobody knows.
    pub(super) async fn read_inflight(
        &self,
        instance: &InstanceId,
        definition: &Definition,
        source: &DrainInflight,
    ) -> Result<u64, String> {
        let values = self.runtime.placeholders(instance).await.map_err(|error| error.message)?;
        let source = DrainInflight { http: fill(&source.http, &values)?, ..source.clone() };
        let question = ToComponent::Inflight { source: source.clone() };
        match self.inside(instance, definition, &question, source.timeout).await {
            Heard::Nobody => {
                let count = probe::read_inflight(&source.http, &source.pointer, source.timeout).await;
                count.map_err(|error| crate::cause::chain(&error))
            }
            Heard::Answer(FromComponent::Inflight { count }) => count,
            Heard::Answer(_) => Err(ODD_ANSWER.to_owned()),
            Heard::Lost(text) => Err(text),
        }
    }

    /// The call that begins a drain, within what is `left` of its time.
    pub(super) async fn begin_drain(
        &self,
        instance: &InstanceId,
        definition: &Definition,
        call: Option<Call>,
        left: Duration,
    ) -> Result<(), ActError> {
        let left = left.min(CALL_MAX);
        self.call(instance, definition, call, "drain.begin", |call| ToComponent::Drain { call, left }, left).await
    }

    /// The call that gives it back.
    pub(super) async fn undo_drain(&self, instance: &InstanceId, definition: &Definition) -> Result<(), ActError> {
        let call = definition.drain.undo.clone();
        let question = |call| ToComponent::Undrain { call, left: CALL_MAX };
        self.call(instance, definition, call, "drain.undo", question, CALL_MAX).await
    }

    async fn call(
        &self,
        instance: &InstanceId,
        definition: &Definition,
        call: Option<Call>,
        what: &str,
        question: impl FnOnce(Call) -> ToComponent + Send,
        patience: Duration,
    ) -> Result<(), ActError> {
        let Some(call) = call else { return Ok(()) };
        let values = self.runtime.placeholders(instance).await.map_err(failed)?;
        let filled = match call {
            Call::Http(url) => fill(&url, &values).map(Call::Http),
            Call::Exec(argv) => fill_all(&argv, &values).map(Call::Exec),
        };
        let call = filled.map_err(|why| refused(format!("{what}: {why}")))?;
        match self.inside(instance, definition, &question(call.clone()), patience).await {
            Heard::Nobody => self.call_from_here(instance, &call, what).await,
            Heard::Answer(FromComponent::Called { result }) => {
                result.map_err(|why| refused(format!("{what} of {instance}: {why}")))
            }
            Heard::Answer(_) => Err(ActError { unknown: true, ..refused(ODD_ANSWER.to_owned()) }),
            Heard::Lost(text) => Err(self.not_called(instance, text).await),
        }
    }

    async fn call_from_here(&self, instance: &InstanceId, call: &Call, what: &str) -> Result<(), ActError> {
        match call {
            Call::Http(url) => {
                let answer = probe::http_post(url, CALL_MAX).await;
                if answer.ready { Ok(()) } else { Err(refused(format!("{what} of {instance}: {}", answer.text))) }
            }
            Call::Exec(argv) => {
                let output = self.runtime.exec(instance, argv, CALL_MAX).await.map_err(failed)?;
                match output.code {
                    Some(0) => Ok(()),
                    Some(code) => Err(refused(format!("{what} of {instance} ended with exit code {code}"))),
                    None => Err(refused(format!("{what} of {instance} did not end within {CALL_MAX:?}"))),
                }
            }
        }
    }

    /// Without contact nobody knows whether the call was made: it is asked for again. Only the engine's word that the
    /// program has ended makes it needless.
    async fn not_called(&self, instance: &InstanceId, why: String) -> ActError {
        let seen = self.runtime.inspect(&instance.slot).await;
        let gone = seen.is_ok_and(|seen| !seen.iter().any(|seen| seen.id == *instance && seen.may_run()));
        if gone {
            return ActError { retryable: false, ..refused(format!("{instance} does not run any more")) };
        }
        ActError { unknown: true, ..refused(why) }
    }
}

fn refused(message: String) -> ActError {
    ActError { kind: FailureKind::Refused, unknown: false, retryable: true, message, log: vec![] }
}
