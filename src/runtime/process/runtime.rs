//! [`ProcessRuntime`]: the port of an agent, answered by keepers.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::client::{self, KeeperCommand, Repeat, Watch};
use super::files::{self, SlotFolder};
use super::logs;
use super::placeholders;
use super::protocol::{Answer, Prepare, Request, refused, retryable, unknown};
use super::record::{Private, Run, State};
use super::release::{Depth, words};
use super::resolve;
use crate::model::{
    ComponentName, Definition, Endpoint, ExitStatus, FailureKind, InstanceId, InstanceObservation, InstanceState,
    Proxy, Resolution, Role, RuntimeKind, Secret, SlotName,
};
use crate::runtime::{Blueprint, Door, ExecOutput, Hint, Inside, Runtime, RuntimeError};
use crate::sys::unix_socket::ShortPath;

/// How long a keeper may take for an ordinary request: a few synced files.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a keeper gets on top of the time-out of a command that it runs.
const EXEC_SLACK: Duration = Duration::from_secs(5);
/// Before a keeper that ended is brought up again for the first time; doubles.
const REVIVE_FIRST: Duration = Duration::from_millis(20);
/// The longest such wait.
const REVIVE_LAST: Duration = Duration::from_secs(5);
/// How many hints may wait to be read. Beyond it they are dropped: they are hints.
const HINTS_MAX: usize = 1024;
/// The most log lines that are read at a time.
const LINES_MAX: u32 = 10_000;

/// What a process runtime needs to know.
#[derive(Clone, Debug)]
pub struct ProcessConfig {
    /// The agent's state folder; slots lie in `slots` in it.
    pub root: PathBuf,
    /// By what address others reach this host's instances; `{address}`.
    pub address: String,
    /// What runs as keepers and gateways.
    pub keeper: KeeperCommand,
}

/// An agent's hands on processes of this host.
pub struct ProcessRuntime {
    inner: Arc<Inner>,
    receiver: Mutex<Option<mpsc::Receiver<Hint>>>,
}

struct Inner {
    config: ProcessConfig,
    hints: mpsc::Sender<Hint>,
    /// Slots whose keepers are followed and, when they end, brought up again.
    watched: Mutex<BTreeMap<SlotName, AbortHandle>>,
    /// One at a time brings a slot's keeper up.
    starting: Mutex<BTreeMap<SlotName, Arc<tokio::sync::Mutex<()>>>>,
}

impl Drop for ProcessRuntime {
    fn drop(&mut self) {
        for watch in lock(&self.inner.watched).values() {
            watch.abort();
        }
    }
}

/// A poisoned lock holds what it held: each of these maps is whole after every statement.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProcessRuntime {
    /// A runtime over the slots in `config.root`. Does nothing yet.
    pub fn new(config: ProcessConfig) -> ProcessRuntime {
        let (hints, receiver) = mpsc::channel(HINTS_MAX);
        let (watched, starting) = (Mutex::default(), Mutex::default());
        let inner = Arc::new(Inner { config, hints, watched, starting });
        ProcessRuntime { inner, receiver: Mutex::new(Some(receiver)) }
    }

    /// Brings a slot's keeper up, unless one answers, and follows it from now on.
    ///
    /// # Errors
    /// When it cannot be started or does not answer.
    pub async fn ensure_keeper(&self, slot: &SlotName) -> Result<(), RuntimeError> {
        self.inner.ensure_keeper(slot).await
    }

    /// Brings up the keeper of every slot of `should_run` (what the ledger has as started, neither drained nor
    /// stopped). After a reboot the keepers start those instances again by themselves. All are tried.
    ///
    /// # Errors
    /// The first keeper that did not come up.
    pub async fn adopt_running(&self, should_run: &[InstanceId]) -> Result<(), RuntimeError> {
        let slots: BTreeSet<&SlotName> = should_run.iter().map(|instance| &instance.slot).collect();
        let mut result = Ok(());
        for slot in slots {
            let brought_up = self.inner.ensure_keeper(slot).await;
            result = result.and(brought_up);
        }
        result
    }

    /// Puts a new keeper in the place of a slot's present one, as after an upgrade of Baton. Instances run on; how
    /// those end that the old keeper started will not be known.
    ///
    /// # Errors
    /// When the new one does not come up.
    pub async fn replace_keeper(&self, slot: &SlotName) -> Result<(), RuntimeError> {
        self.inner.ask(slot, &Request::Shutdown, Repeat::Harmless, Some(PATIENCE)).await?;
        self.inner.ensure_keeper(slot).await
    }

    async fn ask(&self, instance: &InstanceId, request: Request) -> Result<Answer, RuntimeError> {
        self.inner.ask(&instance.slot, &request, Repeat::Harmless, Some(PATIENCE)).await
    }

    async fn done(&self, instance: &InstanceId, request: Request) -> Result<(), RuntimeError> {
        match self.ask(instance, request).await? {
            Answer::Done => Ok(()),
            _ => Err(odd(&instance.slot)),
        }
    }

    /// The path of a gateway's control socket; `None` for slots that are no gateways.
    pub fn gateway_socket(&self, slot: &SlotName) -> Option<PathBuf> {
        let folder = self.inner.folder(slot);
        let newest = folder.numbers().ok()?.into_iter().next_back()?;
        let private = files::read_json::<Private>(&folder.definition(newest)).ok()??;
        (private.definition.role == Some(Role::Gateway)).then(|| folder.gateway().join("control.sock"))
    }

    fn state(&self, instance: &InstanceId) -> Result<State, RuntimeError> {
        let path = self.inner.folder(&instance.slot).state(instance.number);
        read(instance, files::read_json(&path))
    }

    fn private(&self, instance: &InstanceId) -> Result<Private, RuntimeError> {
        let path = self.inner.folder(&instance.slot).definition(instance.number);
        read(instance, files::read_json(&path))
    }
}

fn read<T>(instance: &InstanceId, found: std::io::Result<Option<T>>) -> Result<T, RuntimeError> {
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(refused(FailureKind::Missing, format!("there is no instance {instance} on this host"))),
        Err(error) => {
            Err(retryable(FailureKind::Refused, format!("cannot read the records of {instance}: {}", words(&error))))
        }
    }
}

/// An answer that does not fit the request: a keeper of another version.
fn odd(slot: &SlotName) -> RuntimeError {
    unknown(format!("the keeper of {slot} gave an answer of another kind; it may be of another version of Baton"))
}

impl Inner {
    fn slots_folder(&self) -> PathBuf {
        self.config.root.join("slots")
    }

    fn folder(&self, slot: &SlotName) -> SlotFolder {
        SlotFolder::new(self.slots_folder().join(slot.to_string()))
    }

    async fn ensure_keeper(self: &Arc<Self>, slot: &SlotName) -> Result<(), RuntimeError> {
        let turn = Arc::clone(lock(&self.starting).entry(slot.clone()).or_default());
        let _turn = turn.lock().await;
        client::bring_up(&self.folder(slot), slot, &self.config.keeper).await?;
        self.follow(slot);
        Ok(())
    }

    async fn ask(
        self: &Arc<Self>,
        slot: &SlotName,
        request: &Request,
        repeat: Repeat,
        patience: Option<Duration>,
    ) -> Result<Answer, RuntimeError> {
        let folder = self.folder(slot);
        if !lock(&self.watched).contains_key(slot) {
            self.ensure_keeper(slot).await?;
        }
        let answer = client::ask(&folder, slot, Some(&self.config.keeper), request, repeat, patience).await;
        self.follow(slot);
        answer
    }

    fn follow(self: &Arc<Self>, slot: &SlotName) {
        let mut watched = lock(&self.watched);
        if watched.get(slot).is_some_and(|watch| !watch.is_finished()) {
            return;
        }
        let task = tokio::spawn(follow(Arc::downgrade(self), slot.clone()));
        watched.insert(slot.clone(), task.abort_handle());
    }

    fn hint(&self, slot: &SlotName, number: Option<u64>) {
        let instance = number.map(|number| InstanceId::new(slot.clone(), number));
        // A full queue means that somebody has enough to look at.
        let _ = self.hints.try_send(Hint { slot: slot.clone(), instance });
    }

    /// What the records say and `/proc` confirms, with no keeper to ask.
    fn look(&self, slot: &SlotName) -> Result<Vec<InstanceObservation>, RuntimeError> {
        let folder = self.folder(slot);
        let broken = |error: std::io::Error| {
            retryable(FailureKind::Refused, format!("cannot look at {slot}: {}", words(&error)))
        };
        let mut seen = Vec::new();
        for number in folder.numbers().map_err(broken)? {
            let Some(mut state) = files::read_json::<State>(&folder.state(number)).map_err(broken)? else { continue };
            let found = match &state.run {
                Run::Created => InstanceState::Created,
                Run::Exited => InstanceState::Exited,
                // Its keeper is to start it again and is not there.
                Run::Restarting => InstanceState::Exited,
                Run::Running { main } => match main.is_alive() {
                    Ok(true) => InstanceState::Running,
                    Ok(false) => InstanceState::Exited,
                    Err(_) => InstanceState::Unknown,
                },
            };
            if found == InstanceState::Exited && matches!(state.run, Run::Running { .. }) {
                state.exit = Some(ExitStatus::Unknown);
            }
            seen.push(state.observe(found, true));
        }
        Ok(seen)
    }
}

/// Follows a slot's keeper: passes on what it tells, and brings up the next one when it ends though something should
/// run. Ends with the runtime, or when nothing is left to keep.
async fn follow(inner: Weak<Inner>, slot: SlotName) {
    let mut wait = REVIVE_FIRST;
    loop {
        let Some(strong) = inner.upgrade() else { return };
        let folder = strong.folder(&slot);
        let watch = Watch::begin(&folder).await;
        strong.hint(&slot, None);
        drop(strong);
        if let Ok(mut watch) = watch {
            while let Some(number) = watch.next().await {
                wait = REVIVE_FIRST;
                let Some(strong) = inner.upgrade() else { return };
                strong.hint(&slot, Some(number));
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(REVIVE_LAST);
        let Some(strong) = inner.upgrade() else { return };
        if strong.folder(&slot).numbers().is_ok_and(|numbers| numbers.is_empty()) {
            return;
        }
        let turn = Arc::clone(lock(&strong.starting).entry(slot.clone()).or_default());
        let _turn = turn.lock().await;
        // An error is met again, and told, by whoever asks for something.
        let _ = client::bring_up(&folder, &slot, &strong.config.keeper).await;
    }
}

#[async_trait::async_trait]
impl Runtime for ProcessRuntime {
    async fn adopt_running(&self, should_run: &[InstanceId]) -> Result<(), RuntimeError> {
        ProcessRuntime::adopt_running(self, should_run).await
    }

    fn kinds(&self) -> Vec<RuntimeKind> {
        vec![RuntimeKind::Process]
    }

    async fn resolve(&self, definition: &Definition, _pull: bool) -> Resolution {
        let definition = definition.clone();
        let slots = self.slots().await.unwrap_or_default();
        let folders: Vec<SlotFolder> = slots.iter().map(|slot| self.inner.folder(slot)).collect();
        let resolved = tokio::task::spawn_blocking(move || Resolution {
            port_in_use: resolve::port_in_use(&definition, &folders),
            ..resolve::resolve(&definition, Depth::Verified)
        });
        resolved.await.unwrap_or_else(|error| Resolution {
            problem: Some(format!("the release could not be looked at: {error}")),
            ..Resolution::default()
        })
    }

    async fn slots(&self) -> Result<Vec<SlotName>, RuntimeError> {
        let folder = self.inner.slots_folder();
        let broken = |error: std::io::Error| {
            retryable(FailureKind::Refused, format!("cannot list {}: {}", folder.display(), words(&error)))
        };
        let entries = match std::fs::read_dir(&folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(broken(error)),
        };
        let mut slots = Vec::new();
        for entry in entries {
            let name = entry.map_err(broken)?.file_name();
            let Some(slot) = name.to_str().and_then(|name| name.parse::<SlotName>().ok()) else { continue };
            if !self.inner.folder(&slot).numbers().map_err(broken)?.is_empty() {
                slots.push(slot);
            }
        }
        slots.sort();
        Ok(slots)
    }

    async fn inspect(&self, slot: &SlotName) -> Result<Vec<InstanceObservation>, RuntimeError> {
        let folder = self.inner.folder(slot);
        let followed = lock(&self.inner.watched).contains_key(slot);
        // A runtime that only looks brings nothing up: a crashed instance would start again because of a `status`.
        let something = || folder.numbers().is_ok_and(|numbers| !numbers.is_empty());
        let command = (followed && something()).then_some(&self.inner.config.keeper);
        if command.is_none() && !client::is_kept(&folder).await {
            return self.inner.look(slot);
        }
        match client::ask(&folder, slot, command, &Request::Inspect, Repeat::Harmless, Some(PATIENCE)).await {
            Ok(Answer::Instances(instances)) => Ok(instances),
            Ok(_) => Err(odd(slot)),
            // It has just ended, or none can be brought up: what the records say is still true of the processes.
            Err(_) if !client::is_kept(&folder).await => self.inner.look(slot),
            Err(error) => Err(error),
        }
    }

    async fn prepare(&self, instance: &InstanceId, blueprint: &Blueprint) -> Result<(), RuntimeError> {
        let mut definition = blueprint.definition.clone();
        let checked = definition.clone();
        let checked = tokio::task::spawn_blocking(move || resolve::check(&checked)).await;
        let env_file = checked
            .map_err(|error| unknown(format!("{instance}: {error}")))?
            .map_err(|problem| refused(FailureKind::Missing, format!("{instance}: {problem}")))?;
        if definition.role == Some(Role::Gateway) && definition.command.is_empty() {
            definition.command = self.inner.gateway_command(&instance.slot, &definition.fronts);
        }
        let request = Request::Prepare(Box::new(Prepare {
            instance: instance.clone(),
            definition,
            definition_digest: blueprint.definition_digest.clone(),
            spec: blueprint.spec.clone(),
            version: blueprint.version.clone(),
            address: self.inner.config.address.clone(),
            env_file,
        }));
        self.done(instance, request).await
    }

    async fn start(&self, instance: &InstanceId) -> Result<Endpoint, RuntimeError> {
        match self.ask(instance, Request::Start { number: instance.number }).await? {
            Answer::Endpoint(endpoint) => Ok(endpoint),
            _ => Err(odd(&instance.slot)),
        }
    }

    async fn hold_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        self.done(instance, Request::HoldRestart { number: instance.number }).await
    }

    async fn allow_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        self.done(instance, Request::AllowRestart { number: instance.number }).await
    }

    async fn signal(&self, instance: &InstanceId, signal: &str) -> Result<(), RuntimeError> {
        let request = Request::Signal { number: instance.number, signal: signal.to_owned() };
        match self.inner.ask(&instance.slot, &request, Repeat::Never, Some(PATIENCE)).await? {
            Answer::Done => Ok(()),
            _ => Err(odd(&instance.slot)),
        }
    }

    async fn kill(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        self.done(instance, Request::Kill { number: instance.number }).await
    }

    async fn wait_exit(&self, instance: &InstanceId) -> Result<ExitStatus, RuntimeError> {
        let request = Request::WaitExit { number: instance.number };
        loop {
            // However long it runs; a keeper that ends meanwhile is followed by the next, which is asked again.
            match self.inner.ask(&instance.slot, &request, Repeat::Harmless, None).await {
                Ok(Answer::Exit(status)) => return Ok(status),
                Ok(_) => return Err(odd(&instance.slot)),
                Err(error) if error.unknown => tokio::time::sleep(REVIVE_FIRST).await,
                Err(error) => return Err(error),
            }
        }
    }

    async fn remove(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        // Of a slot with nothing in it no keeper is brought up for that.
        if self.inner.folder(&instance.slot).numbers().is_ok_and(|numbers| numbers.is_empty()) {
            return Ok(());
        }
        self.done(instance, Request::Remove { number: instance.number }).await
    }

    async fn exec(
        &self,
        instance: &InstanceId,
        argv: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Exec { number: instance.number, argv: argv.to_vec(), timeout_ms };
        let patience = timeout.saturating_add(EXEC_SLACK);
        match self.inner.ask(&instance.slot, &request, Repeat::Never, Some(patience)).await? {
            Answer::Output { code, tail } => Ok(ExecOutput { code, tail }),
            _ => Err(odd(&instance.slot)),
        }
    }

    async fn notified(&self, instance: &InstanceId) -> Option<bool> {
        // Written by the keeper whenever it changes.
        self.state(instance).ok().map(|state| state.notified)
    }

    async fn placeholders(&self, instance: &InstanceId) -> Result<BTreeMap<String, String>, RuntimeError> {
        let (state, private) = (self.state(instance)?, self.private(instance)?);
        Ok(placeholders::values(&private.definition, instance, &state.address, &state.ports))
    }

    async fn logs(&self, instance: &InstanceId, lines: u32) -> Result<Vec<String>, RuntimeError> {
        let (state, private) = (self.state(instance)?, self.private(instance)?);
        let values = placeholders::values(&private.definition, instance, &state.address, &state.ports);
        let folder = self.inner.folder(&instance.slot);
        let mut known: Vec<String> = values.into_values().collect();
        known.push(folder.gateway().display().to_string());
        let (name, shown) = (instance.clone(), instance.clone());
        let read = tokio::task::spawn_blocking(move || {
            let redactor = logs::redactor(&private, &known);
            let lines = usize::try_from(lines.min(LINES_MAX)).unwrap_or(usize::MAX);
            let lines = logs::last_lines(&folder, &name, lines)?;
            Ok(lines.into_iter().map(|line| redactor.redact(line)).collect())
        });
        let read = read.await.map_err(|error| unknown(format!("logs of {shown}: {error}")))?;
        read.map_err(|error: std::io::Error| {
            retryable(FailureKind::Refused, format!("cannot read the log of {shown}: {}", words(&error)))
        })
    }

    async fn door(&self, to: Inside<'_>) -> Result<Option<Door>, RuntimeError> {
        // A process has its keeper: there is no agent inside it.
        let Inside::Gateway(slot) = to else { return Ok(None) };
        let Some(socket) = self.gateway_socket(slot) else { return Ok(None) };
        let opened = match ShortPath::new(&socket) {
            Ok(short) => UnixStream::connect(short.as_path()).await,
            Err(error) => Err(error),
        };
        opened.map(|stream| Some(Box::new(stream) as Door)).map_err(|error| {
            let message = format!("cannot reach {slot} at {}: {error}; is it running?", socket.display());
            retryable(FailureKind::Refused, message)
        })
    }

    fn hints(&self) -> mpsc::Receiver<Hint> {
        lock(&self.receiver).take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}

impl Inner {
    /// A gateway without a command of its own is this program.
    fn gateway_command(&self, slot: &SlotName, fronts: &BTreeMap<ComponentName, Proxy>) -> Vec<Secret> {
        let keeper = &self.config.keeper;
        let folder = self.folder(slot).gateway();
        let mut argv = vec![keeper.program.display().to_string()];
        argv.extend(keeper.leading.iter().cloned());
        argv.extend(["gateway".to_owned(), "--dir".to_owned(), folder.display().to_string()]);
        for (component, proxy) in fronts {
            let proxy = serde_json::to_string(proxy).unwrap_or_default();
            argv.extend(["--front".to_owned(), format!("{component}={proxy}")]);
        }
        argv.iter().map(|part| Secret::new(placeholders::escape(part))).collect()
    }
}
