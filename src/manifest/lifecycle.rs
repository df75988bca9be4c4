//! A component's life: when it is ready, how requests reach it, how it is drained and stopped.

use std::time::Duration;

use super::component::Here;
use super::net;
use super::scalar::Span;
use super::shape;
use super::text::{Filled, Texts};
use crate::model::{Call, Drain, DrainBegin, DrainInflight, Probe, Ready, Role, RuntimeKind, Update};

/// Weak readiness waits for max(monitor, this).
const WEAK_AT_LEAST: Duration = Duration::from_secs(5);

fn said(span: Duration) -> String {
    humantime::format_duration(span).to_string()
}

impl Here<'_> {
    pub(super) fn ready(
        &mut self,
        written: shape::Ready,
        (update, rollback): (&Update, Option<&Update>),
        (role, runtime): (Option<&Role>, RuntimeKind),
        texts: &mut Texts,
    ) -> Ready {
        let defaults = Ready::default();
        let probe = self.probe(&written, runtime, texts);
        let ready = Ready {
            probe,
            every: self.positive(&["ready", "every"], written.every, defaults.every),
            timeout: self.positive(&["ready", "timeout"], written.timeout, defaults.timeout),
            successes: written.successes.map_or(defaults.successes, |count| count.0),
            deadline: self.positive(&["ready", "deadline"], written.deadline, defaults.deadline),
        };
        if ready.successes == 0 {
            self.value(&["ready", "successes"], "at least 1 good answer is needed to be ready");
        }
        if role == Some(&Role::Job) {
            if ready.probe.is_some() {
                self.key(&["ready"], "a job is ready when it has ended with 0; remove the check");
            }
            return ready;
        }
        if ready.probe.is_some() {
            let needed = ready.every.saturating_mul(ready.successes.saturating_sub(1));
            if needed > ready.deadline {
                self.key(
                    &["ready"],
                    format!(
                        "it could never get ready: {} answers, one every {}, take longer than the deadline of {}",
                        ready.successes,
                        said(ready.every),
                        said(ready.deadline)
                    ),
                );
            }
        }
        let rolls = [("update", Some(update)), ("rollback", rollback)];
        for (key, roll) in rolls.into_iter().filter_map(|(key, roll)| Some((key, roll?))) {
            self.watched(key, roll.monitor, &ready, (written.deadline.is_some(), written.every.is_some()));
        }
        ready
    }

    /// Whether a new instance can get ready and be watched for as long as `key` (`update` or `rollback`) says.
    fn watched(&mut self, key: &str, monitor: Duration, ready: &Ready, (deadline, every): (bool, bool)) {
        let at_monitor = [key, "monitor"];
        if ready.probe.is_none() {
            let steady = monitor.max(WEAK_AT_LEAST);
            if ready.deadline < steady {
                let at = if deadline { ["ready", "deadline"] } else { at_monitor };
                self.value(
                    &at,
                    format!(
                        "it could never get ready: without a check it has to run for {}, and `ready.deadline` is {}",
                        said(steady),
                        said(ready.deadline)
                    ),
                );
            }
        } else if !monitor.is_zero() && monitor < ready.every && ready.probe != Some(Probe::Notify) {
            let at = if every { ["ready", "every"] } else { at_monitor };
            self.value(
                &at,
                format!(
                    "monitor ({}) ends before the next check (every {}), so it would see nothing",
                    said(monitor),
                    said(ready.every)
                ),
            );
        }
    }

    fn probe(&mut self, written: &shape::Ready, runtime: RuntimeKind, texts: &mut Texts) -> Option<Probe> {
        let mut probes = Vec::new();
        if let Some(url) = &written.http {
            self.url(&["ready", "http"], &url.0, texts);
            probes.push(("http", Probe::Http(url.0.clone())));
        }
        if let Some(address) = &written.tcp {
            if self.text(&["ready", "tcp"], &address.0, Filled::All, texts) {
                self.checked(&["ready", "tcp"], net::tcp(&address.0));
            }
            probes.push(("tcp", Probe::Tcp(address.0.clone())));
        }
        if written.exec.is_some() {
            let argv = self.argv(&["ready", "exec"], written.exec.as_ref(), texts);
            probes.push(("exec", Probe::Exec(argv)));
        }
        if written.notify == Some(true) {
            probes.push(("notify", Probe::Notify));
        }
        if written.health == Some(true) {
            if runtime == RuntimeKind::Process {
                self.value(&["ready", "health"], "a process has no healthcheck of its own; write http, tcp or exec");
            }
            probes.push(("health", Probe::Health));
        }
        self.only_one(&["ready"], probes)
    }

    /// The one of several that is given; more than one is reported.
    fn only_one<T>(&mut self, at: &[&str], mut given: Vec<(&'static str, T)>) -> Option<T> {
        if given.len() > 1 {
            let names: Vec<&str> = given.iter().map(|(name, _)| *name).collect();
            self.key(at, format!("{} at once; keep one of them", names.join(" and ")));
        }
        (!given.is_empty()).then(|| given.remove(0).1)
    }

    fn url(&mut self, at: &[&str], url: &str, texts: &mut Texts) {
        if self.text(at, url, Filled::All, texts) {
            self.checked(at, net::http(url));
        }
    }

    /// A duration that cannot be zero.
    fn positive(&mut self, at: &[&str], written: Option<Span>, default: Duration) -> Duration {
        match written {
            Some(span) if span.0.is_zero() => {
                self.value(at, "0 makes no sense here; write 1s or more (or 50ms)");
                default
            }
            Some(span) => span.0,
            None => default,
        }
    }

    pub(super) fn drain(&mut self, written: shape::Drain, texts: &mut Texts) -> Drain {
        let defaults = Drain::default();
        if written.undo.is_some() && written.begin.is_none() && self.complete {
            self.key(&["drain", "undo"], "there is nothing to undo without `begin`; add one, or remove `undo`");
        }
        let grace = self.positive(&["drain", "grace"], written.grace, defaults.grace);
        let stop_timeout = written.stop_timeout.map(|span| span.0);
        if stop_timeout.is_some_and(|timeout| timeout > grace) {
            let timeout = said(stop_timeout.unwrap_or_default());
            self.value(
                &["drain", "stop_timeout"],
                format!(
                    "stop_timeout ({timeout}) is the last part of the grace and cannot be longer than it ({}); \
                     write `grace: {timeout}` or more",
                    said(grace)
                ),
            );
        }
        let signal = written.stop_signal.map(|signal| self.checked(&["drain", "stop_signal"], net::signal(&signal.0)));
        Drain {
            begin: written.begin.and_then(|begin| self.begin(begin, texts)),
            undo: written.undo.and_then(|undo| self.undo(undo, texts)),
            inflight: written.inflight.and_then(|inflight| self.inflight(inflight, texts)),
            grace,
            stop_timeout,
            stop_signal: signal.flatten().unwrap_or(defaults.stop_signal),
        }
    }

    fn begin(&mut self, written: shape::DrainBegin, texts: &mut Texts) -> Option<DrainBegin> {
        let mut given = Vec::new();
        if let Some(signal) = &written.signal {
            let name = self.checked(&["drain", "begin", "signal"], net::signal(&signal.0));
            given.push(("signal", DrainBegin::Signal(name.unwrap_or_default())));
        }
        if let Some(url) = &written.http {
            self.url(&["drain", "begin", "http"], &url.0, texts);
            given.push(("http", DrainBegin::Http(url.0.clone())));
        }
        if written.exec.is_some() {
            let argv = self.argv(&["drain", "begin", "exec"], written.exec.as_ref(), texts);
            given.push(("exec", DrainBegin::Exec(argv)));
        }
        if given.is_empty() && self.complete {
            self.key(&["drain", "begin"], "needs one of signal, http, exec");
        }
        self.only_one(&["drain", "begin"], given)
    }

    fn undo(&mut self, written: shape::DrainUndo, texts: &mut Texts) -> Option<Call> {
        let mut given = Vec::new();
        if let Some(url) = &written.http {
            self.url(&["drain", "undo", "http"], &url.0, texts);
            given.push(("http", Call::Http(url.0.clone())));
        }
        if written.exec.is_some() {
            let argv = self.argv(&["drain", "undo", "exec"], written.exec.as_ref(), texts);
            given.push(("exec", Call::Exec(argv)));
        }
        if given.is_empty() && self.complete {
            self.key(&["drain", "undo"], "needs one of http, exec");
        }
        self.only_one(&["drain", "undo"], given)
    }

    fn inflight(&mut self, written: shape::DrainInflight, texts: &mut Texts) -> Option<DrainInflight> {
        let defaults = Ready::default();
        let Some(url) = written.http else {
            if self.complete {
                self.key(&["drain", "inflight"], "needs `http`: a URL that answers JSON");
            }
            return None;
        };
        self.url(&["drain", "inflight", "http"], &url.0, texts);
        let pointer = written.pointer.map(|pointer| pointer.0).unwrap_or_default();
        self.checked(&["drain", "inflight", "pointer"], net::pointer(&pointer));
        Some(DrainInflight {
            http: url.0,
            pointer,
            every: self.positive(&["drain", "inflight", "every"], written.every, defaults.every),
            timeout: self.positive(&["drain", "inflight", "timeout"], written.timeout, defaults.timeout),
        })
    }
}
