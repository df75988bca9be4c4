//! Start, hold, signal, kill, wait, remove.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use bollard::errors::Error;
use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerUpdateBody, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{KillContainerOptionsBuilder, WaitContainerOptions};
use futures_util::StreamExt;

use super::engine::{Trouble, refused};
use super::host::{self, Handling};
use super::look::{Seen, exit_of, network_mode, state_of};
use super::record::{Entry, Policy};
use super::runtime::Inner;
use crate::model::{ComponentName, Endpoint, ExitStatus, FailureKind, InstanceId, InstanceState};
use crate::runtime::RuntimeError;
use crate::sys;

/// How long one wait for an end is believed in before the container is looked at again.
const WAIT_EVERY: Duration = Duration::from_secs(10);
/// What is killed is gone in milliseconds; what the kernel cannot end is never gone.
const KILL_BOUND: Duration = Duration::from_secs(20);
/// A young program may not have come to install its handler yet.
const YOUNG: Duration = Duration::from_secs(5);
const HANDLER_EVERY: Duration = Duration::from_millis(20);
/// What to do about a main process that ignores its stop signal.
const DEAF_FIX: &str = "write its command as a list that starts the program itself, or set `init: true`";
/// For how long an update of a container that comes and goes is tried.
const UPDATE_AGAIN: Duration = Duration::from_secs(5);

pub(super) fn state(about: &ContainerInspectResponse) -> InstanceState {
    about.state.as_ref().map_or(InstanceState::Unknown, state_of)
}

fn exit(about: &ContainerInspectResponse) -> ExitStatus {
    exit_of(about.state.as_ref().and_then(|state| state.exit_code))
}

/// It has ended by itself, or is not there: whoever asked for its end has what was asked for.
fn is_over(trouble: &Trouble) -> bool {
    trouble.is_absent() || trouble.is_conflict()
}

impl Inner {
    /// The container of an instance: its id, what is on record, and what the engine says now.
    pub(super) async fn known(
        &self,
        instance: &InstanceId,
    ) -> Result<Option<(String, Entry, ContainerInspectResponse)>, RuntimeError> {
        let Some((id, entry)) = self.records.entry(instance)? else { return Ok(None) };
        Ok(self.container(&id).await?.map(|about| (id, entry, about)))
    }

    pub(super) async fn existing(
        &self,
        instance: &InstanceId,
    ) -> Result<(String, Entry, ContainerInspectResponse), RuntimeError> {
        let missing = || refused(FailureKind::Missing, format!("instance {instance} has no container any more"));
        self.known(instance).await?.ok_or_else(missing)
    }

    pub(super) async fn start(&self, instance: &InstanceId) -> Result<Endpoint, RuntimeError> {
        let (id, _, about) = self.existing(instance).await?;
        // The engine says "already started" of one that it does not know to have ended.
        self.settle(&id).await?;
        if has_own_address(&about) {
            for other in self.ends.fresh() {
                self.settle(&other).await?;
            }
        }
        self.allow_restart(instance).await?;
        let client = self.engine.client().await?;
        if state(&about) == InstanceState::Restarting {
            // The engine says "already started" of one that waits for its next start.
            self.end(instance, &id).await?;
        }
        // The engine's word of this start may come late, after the end of the new run.
        self.ends.forget(&id);
        let what = format!("starting {instance}");
        let started = self.act(&id, &what, client.start_container(&id, None)).await;
        started.map_err(|mut trouble| {
            if let Some(port) = taken_port(&trouble.error.message) {
                let _ = write!(
                    trouble.error.message,
                    "; somebody else has port {port} of this host: free it (`ss -ltnp sport = :{port}` says who), or \
                     publish another one"
                );
            }
            trouble
        })?;
        let (_, entry, about) = self.existing(instance).await?;
        self.endpoint(&Seen { id: instance.clone(), entry, about }).await
    }

    pub(super) async fn hold_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        let (id, entry, about) = self.existing(instance).await?;
        let present = policy_of(&about);
        let none = present.name.is_empty() || present.name == "no";
        if !none {
            if entry.held.is_none() {
                // Written first: whoever is killed between the two gives back what was there.
                self.change(instance, |entry| entry.held = Some(present)).await?;
            }
            self.set_policy(instance, &id, &Policy { name: "no".to_owned(), retries: 0 }).await?;
        }
        if state(&about) == InstanceState::Restarting {
            // The engine keeps a restart that it has planned, whatever the policy says by then.
            self.end(instance, &id).await?;
        }
        Ok(())
    }

    pub(super) async fn allow_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        let Some((id, entry)) = self.records.entry(instance)? else { return Ok(()) };
        if let Some(policy) = entry.held {
            self.set_policy(instance, &id, &policy).await?;
            self.change(instance, |entry| entry.held = None).await?;
        }
        Ok(())
    }

    async fn change(&self, instance: &InstanceId, change: impl FnOnce(&mut Entry)) -> Result<(), RuntimeError> {
        self.records
            .update(&instance.slot, |record| {
                if let Some(entry) = record.instances.get_mut(&instance.number) {
                    change(entry);
                }
            })
            .await
    }

    async fn set_policy(&self, instance: &InstanceId, id: &str, policy: &Policy) -> Result<(), RuntimeError> {
        let name = match policy.name.as_str() {
            "always" => RestartPolicyNameEnum::ALWAYS,
            "unless-stopped" => RestartPolicyNameEnum::UNLESS_STOPPED,
            "on-failure" => RestartPolicyNameEnum::ON_FAILURE,
            _ => RestartPolicyNameEnum::NO,
        };
        let update = ContainerUpdateBody {
            restart_policy: Some(RestartPolicy { name: Some(name), maximum_retry_count: Some(policy.retries) }),
            ..ContainerUpdateBody::default()
        };
        let client = self.engine.client().await?;
        let what = format!("setting the restart policy of {instance} to {}", policy.name);
        let begun = Instant::now();
        loop {
            match self.act(id, &what, client.update_container(id, update.clone())).await {
                Ok(()) => return Ok(()),
                // It ended in the middle of the update ("cannot update a stopped container"), and the engine took the
                // whole update back.
                Err(trouble) if trouble.is_internal() && begun.elapsed() < UPDATE_AGAIN => {
                    tokio::time::sleep(HANDLER_EVERY).await;
                }
                Err(trouble) => return Err(trouble.into()),
            }
        }
    }

    pub(super) async fn signal(&self, instance: &InstanceId, name: &str) -> Result<(), RuntimeError> {
        let number = sys::signals::number(name).ok_or_else(|| {
            refused(FailureKind::Refused, format!("{name} is no signal; write SIGTERM, SIGUSR1, ..."))
        })?;
        let Some((id, _, about)) = self.known(instance).await? else { return Ok(()) };
        let running = about.state.clone().filter(|state| state_of(state) == InstanceState::Running);
        let Some(running) = running else { return Ok(()) };
        self.await_handler(instance, &id, &running, number, name).await;
        self.ends.watch(&id, &about);
        let run = running.started_at.unwrap_or_default();
        let noted = |record: &mut super::record::SlotRecord| {
            let entry = record.instances.get_mut(&instance.number);
            entry.is_some_and(|entry| entry.signalled.note(&run, number))
        };
        if !self.records.update(&instance.slot, noted).await? {
            return Ok(());
        }
        match self.kill_with(instance, &id, name).await {
            Ok(()) => Ok(()),
            Err(trouble) if is_over(&trouble) => Ok(()),
            Err(trouble) => {
                if !trouble.error.unknown {
                    // It has certainly not had it: whoever asks again is to be heard.
                    self.change(instance, |entry| {
                        entry.signalled.signals.remove(&number);
                    })
                    .await?;
                }
                Err(trouble.into())
            }
        }
    }

    /// PID 1 of a container ignores a signal that it has no handler for. A young program gets the time to install one.
    async fn await_handler(&self, instance: &InstanceId, id: &str, running: &ContainerState, number: i32, name: &str) {
        let Some(pid) = running.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0) else { return };
        let begun = Instant::now();
        while host::handling(pid, id, number) == Handling::Ignored {
            let young = host::age(pid).is_some_and(|age| age < YOUNG);
            if !young || begun.elapsed() > YOUNG {
                tracing::warn!(
                    %instance,
                    signal = name,
                    "its main process has no handler for this signal and, as PID 1, will ignore it: it will be killed \
                     at the end of its grace (a shell-form CMD? write it as a list, or set `init: true`)"
                );
                return;
            }
            tokio::time::sleep(HANDLER_EVERY).await;
        }
    }

    /// Of a component's running instances, those whose main process will ignore their stop signal. One that cannot be
    /// looked at is left out: the inventory tells that.
    pub(super) async fn deaf(&self, component: &ComponentName) -> Vec<(InstanceId, String)> {
        let mut notes = Vec::new();
        for slot in self.slots().await.unwrap_or_default().into_iter().filter(|slot| slot.component == *component) {
            let Ok(all) = self.look(&slot).await else { continue };
            for seen in all.iter() {
                let about = seen.about.clone();
                let (state, config) = (about.state.unwrap_or_default(), about.config.unwrap_or_default());
                let name = config.stop_signal.unwrap_or_else(|| "SIGTERM".to_owned());
                let pid = state.pid.and_then(|pid| i32::try_from(pid).ok()).filter(|pid| *pid > 0);
                let Some((pid, number)) = pid.zip(sys::signals::number(&name)) else { continue };
                let id = about.id.unwrap_or_default();
                let old = host::age(pid).is_some_and(|age| age >= YOUNG);
                if old && host::handling(pid, &id, number) == Handling::Ignored {
                    let note = format!(
                        "its main process has no handler for {name} and, as PID 1, ignores it: it runs on until it is \
                         killed at the end of its grace; {DEAF_FIX}"
                    );
                    notes.push((seen.id.clone(), note));
                }
            }
        }
        notes
    }

    async fn kill_with(&self, instance: &InstanceId, id: &str, signal: &str) -> Result<(), Trouble> {
        let client = self.engine.client().await?;
        let options = KillContainerOptionsBuilder::new().signal(signal).build();
        let what = format!("sending {signal} to {instance}");
        self.act(id, &what, client.kill_container(id, Some(options))).await
    }

    pub(super) async fn kill(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        match self.records.entry(instance)? {
            Some((id, _)) => self.end(instance, &id).await,
            None => Ok(()),
        }
    }

    /// SIGKILL, and its end. A planned restart goes with it.
    async fn end(&self, instance: &InstanceId, id: &str) -> Result<(), RuntimeError> {
        let begun = Instant::now();
        loop {
            match self.container(id).await? {
                None => return Ok(()),
                Some(about) if matches!(state(&about), InstanceState::Created | InstanceState::Exited) => return Ok(()),
                Some(_) => {}
            }
            if begun.elapsed() > KILL_BOUND {
                return Err(RuntimeError {
                    kind: FailureKind::Deadline,
                    unknown: true,
                    retryable: true,
                    message: format!(
                        "{instance} was killed and is still there after {KILL_BOUND:?}; look at it with `docker \
                         inspect {}`",
                        &id[..id.len().min(12)]
                    ),
                });
            }
            match self.kill_with(instance, id, "SIGKILL").await {
                Ok(()) => {}
                Err(trouble) if is_over(&trouble) => {}
                Err(trouble) => return Err(trouble.into()),
            }
            // However this wait ends, the next look says what is so.
            let _ = self.wait_once(id, Duration::from_secs(1)).await;
            self.memo.forget(id);
        }
    }

    /// The end of a run, if it comes so soon.
    async fn wait_once(&self, id: &str, patience: Duration) -> Result<Option<ExitStatus>, RuntimeError> {
        let client = self.engine.client().await?;
        let mut ends = client.wait_container(id, None::<WaitContainerOptions>);
        match tokio::time::timeout(patience, ends.next()).await {
            Ok(Some(Ok(end))) => Ok(Some(exit_of(Some(end.status_code)))),
            // So bollard tells an end with another code than 0.
            Ok(Some(Err(Error::DockerContainerWaitError { code, error }))) if error.is_empty() => {
                Ok(Some(exit_of(Some(code))))
            }
            _ => Ok(None),
        }
    }

    /// Waits until the engine is through with the end of a container that was seen to be gone.
    async fn settle(&self, id: &str) -> Result<(), RuntimeError> {
        // After a while nothing is held of that end, and the engine's own lock makes the next call wait.
        while self.ends.about(id).is_some() {
            let now = self.container_now(id).await?;
            if now.is_none_or(|about| !matches!(state(&about), InstanceState::Running)) {
                self.ends.forget(id);
            } else {
                tokio::time::sleep(HANDLER_EVERY).await;
            }
        }
        Ok(())
    }

    pub(super) async fn wait_exit(&self, instance: &InstanceId) -> Result<ExitStatus, RuntimeError> {
        loop {
            let on_record = self.records.entry(instance)?;
            let watched = on_record.and_then(|(id, _)| self.ends.watched(&id).map(|watched| (id, watched.about)));
            let found = match watched {
                Some(watched) => Some(watched),
                None => self.known(instance).await?.map(|(id, _, about)| (id, about)),
            };
            let Some((id, about)) = found else { return Ok(ExitStatus::Unknown) };
            match state(&about) {
                InstanceState::Running | InstanceState::Unknown => {}
                _ => return Ok(exit(&about)),
            }
            let seen = async {
                let Some(watched) = self.ends.watch(&id, &about).filter(|_| !has_ports(&about)) else {
                    return std::future::pending().await;
                };
                watched.ended().await;
                // Of an end that nobody here has asked for, the engine has more to tell: what was said last, and
                // whether it comes back.
                let asked = self.records.entry(instance).ok().flatten().is_some_and(|(_, entry)| {
                    entry.signalled.is_of(run_of(&about)) && (entry.held.is_some() || stays_down(&about))
                });
                let code = if asked { watched.code().await } else { None };
                let code = match code {
                    Some(code) => code,
                    None => self.ends.code(&id).await,
                };
                // Who takes its place need not wait for the engine to take it apart. Where nobody does, nothing is
                // gained, and whoever asks the engine next is to find it ended there, too.
                if self.records.read(&instance.slot).is_ok_and(|record| record.instances.len() > 1) {
                    return code;
                }
                std::future::pending().await
            };
            let told = tokio::select! {
                told = self.wait_once(&id, WAIT_EVERY) => {
                    let told = told?;
                    // It tells who waits before it changes its list; what it answers about it comes after both.
                    if told.is_some() {
                        self.container_now(&id).await?;
                    }
                    told
                }
                code = seen => {
                    // Where the engine may start it again, it alone knows what comes next.
                    let held = self.records.entry(instance)?.is_some_and(|(_, entry)| entry.held.is_some());
                    if held || stays_down(&about) {
                        self.ends.is_gone(&id, about, code);
                    }
                    Some(exit_of(Some(code)))
                }
            };
            if let Some(status) = told {
                return Ok(status);
            }
            // A fresh look, should the engine have lost it.
            self.ends.unwatch(&id);
            // An engine that is down answers at once, with nothing.
            tokio::time::sleep(HANDLER_EVERY).await;
        }
    }

    pub(super) async fn remove(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        if let Some((id, _)) = self.records.entry(instance)? {
            self.retain_image(instance, &id).await;
            // Mostly the engine is through with its end; where not, it refuses.
            if let Err(error) = self.delete(&id).await {
                if self.ends.about(&id).is_none() {
                    return Err(error);
                }
                self.settle(&id).await?;
                self.delete(&id).await?;
            }
            self.ends.forget(&id);
            self.records
                .update(&instance.slot, |record| {
                    record.instances.remove(&instance.number);
                })
                .await?;
        }
        // The one that is left takes the final name. Should this fail, every look tries again.
        if let Err(error) = self.look(&instance.slot).await {
            tracing::warn!(slot = %instance.slot, why = error.message, "its last container has no final name yet");
        }
        Ok(())
    }
}

/// Whether it has ports of the host. They are free when the engine says that it is over, and whoever takes one next may
/// be no container.
fn has_ports(about: &ContainerInspectResponse) -> bool {
    let ports = about.host_config.as_ref().and_then(|host| host.port_bindings.as_ref());
    ports.is_some_and(|ports| !ports.is_empty()) || network_mode(about) == "host"
}

/// Whether it has an address that nobody else can have at the same time.
fn has_own_address(about: &ContainerInspectResponse) -> bool {
    let networks = about.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
    networks.into_iter().flatten().any(|(_, network)| {
        let own = network.ipam_config.as_ref();
        own.is_some_and(|own| own.ipv4_address.is_some() || own.ipv6_address.is_some())
    })
}

/// The port of the host that a start failed on, as engines and their proxies tell it.
fn taken_port(message: &str) -> Option<u16> {
    let taken = ["port is already allocated", "address already in use"];
    let place = taken.iter().find_map(|words| message.find(words))?;
    let before = message[..place].trim_end_matches(": bind: ").trim_end_matches(" failed: ");
    let digits = before.rsplit(':').next()?.trim_end();
    digits.parse().ok()
}

/// Whether the engine leaves it alone once it has ended.
fn stays_down(about: &ContainerInspectResponse) -> bool {
    matches!(policy_of(about).name.as_str(), "" | "no")
}

/// When its run began, in the engine's words.
fn run_of(about: &ContainerInspectResponse) -> &str {
    about.state.as_ref().and_then(|state| state.started_at.as_deref()).unwrap_or_default()
}

fn policy_of(about: &ContainerInspectResponse) -> Policy {
    let policy = about.host_config.as_ref().and_then(|host| host.restart_policy.clone()).unwrap_or_default();
    Policy {
        name: policy.name.map(|name| name.to_string()).unwrap_or_default(),
        retries: policy.maximum_retry_count.unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_that_somebody_else_has_is_found_in_the_engines_words() {
        for (message, port) in [
            ("Bind for 0.0.0.0:8080 failed: port is already allocated", Some(8080)),
            ("Error starting userland proxy: listen tcp4 0.0.0.0:18431: bind: address already in use", Some(18431)),
            ("listen tcp6 [::]:53: bind: address already in use", Some(53)),
            ("no such image: x:80", None),
        ] {
            assert_eq!(taken_port(message), port, "{message}");
        }
    }
}
