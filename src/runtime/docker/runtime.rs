//! [`DockerRuntime`]: the port of an agent, answered by an engine.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::{StreamExt, TryStreamExt};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::body;
use super::ends::Ends;
use super::engine::{ASK, Engine};
use super::image::ImageAbout;
use super::look::{Listed, Seen};
use super::memo::{Lately, Memo};
use super::places::{HostService, Places};
use super::record::{Records, read_temporary};
use super::retain::Retained;
use crate::model::{
    Definition, Endpoint, ExitStatus, FleetName, InstanceId, InstanceObservation, Resolution, RuntimeKind, SlotName,
};
use crate::runtime::{Blueprint, Door, ExecOutput, Hint, Inside, Runtime, RuntimeError};

/// How many hints may wait to be read. Beyond it they are dropped: they are hints.
const HINTS_MAX: usize = 1024;
/// How many slots are looked at at a time when all are.
const LOOKS: usize = 8;
/// Before the engine's events are asked for again for the first time; doubles.
const LISTEN_FIRST: Duration = Duration::from_millis(100);
/// The longest such wait.
const LISTEN_LAST: Duration = Duration::from_secs(5);

/// What a docker runtime needs to know.
#[derive(Clone, Debug)]
pub struct DockerConfig {
    /// The agent's state folder; which container is which instance lies in `docker` in it.
    pub root: PathBuf,
    /// The fleet. On Compose, the project.
    pub fleet: FleetName,
    /// The engine's Unix socket.
    pub socket: String,
    /// Look only: nothing is written, adopted for good or renamed.
    pub read_only: bool,
}

/// An agent's hands on containers of an engine.
pub struct DockerRuntime {
    inner: Arc<Inner>,
    listener: Mutex<Option<AbortHandle>>,
}

pub(super) struct Inner {
    pub(super) engine: Engine,
    pub(super) records: Records,
    pub(super) fleet: String,
    /// One at a time makes networks and volumes: an engine takes two networks of the same name.
    pub(super) providing: tokio::sync::Mutex<()>,
    /// One at a time names former images; what it has named last.
    pub(super) retaining: tokio::sync::Mutex<Retained>,
    /// Which container is which slot.
    pub(super) places: Arc<Places>,
    /// One at a time gives places.
    pub(super) placing: tokio::sync::Mutex<()>,
    /// The last list of all containers, and when it was made.
    pub(super) listed: tokio::sync::Mutex<Option<(Instant, Arc<Vec<Listed>>)>>,
    /// Ends that the engine is not through with.
    pub(super) ends: Ends,
    /// What was asked a moment ago.
    pub(super) memo: Memo,
    /// The same of images, by whatever name they were asked for.
    pub(super) images: Lately<ImageAbout>,
    /// Networks and volumes that were there a moment ago, by kind and name.
    pub(super) provided: Lately<()>,
}

impl Drop for DockerRuntime {
    fn drop(&mut self) {
        if let Some(listener) = self.listener.get_mut().unwrap_or_else(PoisonError::into_inner) {
            listener.abort();
        }
    }
}

impl DockerRuntime {
    /// A runtime over the containers of a fleet. Does nothing yet.
    pub fn new(config: DockerConfig) -> DockerRuntime {
        let records = Records::new(config.root.join("docker"), config.read_only);
        DockerRuntime::with(config, records, false, BTreeMap::new())
    }

    /// The same for a host that has a Compose project of its own: of its containers, only those are the fleet's that
    /// were given a place ([`DockerRuntime::place`]).
    ///
    /// # Errors
    /// When the records of earlier places cannot be read.
    pub fn of_host(config: DockerConfig) -> Result<DockerRuntime, RuntimeError> {
        let records = Records::new(config.root.join("docker"), config.read_only);
        let mut given = BTreeMap::new();
        for slot in records.slots()? {
            if let Some(place) = records.read(&slot)?.place {
                given.insert(slot, place);
            }
        }
        Ok(DockerRuntime::with(config, records, true, given))
    }

    fn with(
        config: DockerConfig,
        records: Records,
        of_host: bool,
        given: BTreeMap<SlotName, super::places::Place>,
    ) -> DockerRuntime {
        let fleet = config.fleet.to_string();
        let inner = Inner {
            engine: Engine::new(config.socket),
            records,
            places: Arc::new(Places::new(fleet.clone(), of_host, given)),
            placing: tokio::sync::Mutex::default(),
            fleet,
            providing: tokio::sync::Mutex::default(),
            retaining: tokio::sync::Mutex::default(),
            listed: tokio::sync::Mutex::default(),
            ends: Ends::default(),
            memo: Memo::default(),
            images: Lately::default(),
            provided: Lately::default(),
        };
        DockerRuntime { inner: Arc::new(inner), listener: Mutex::default() }
    }

    /// Gives the slots of a service with these indexes their places in a project of this host: numbers from 1, kept
    /// for as long as anything is there. Returns the number of each, by index, and the names of containers of the
    /// service that no slot has.
    ///
    /// # Errors
    /// When the engine does not answer or the records cannot be used.
    pub async fn place(
        &self,
        service: &HostService,
        indexes: &[u32],
    ) -> Result<(BTreeMap<u32, u32>, Vec<String>), RuntimeError> {
        self.inner.place(service, indexes).await
    }

    /// The engine's own id: the same whichever socket leads to it.
    ///
    /// # Errors
    /// When the engine does not answer.
    pub async fn engine_id(&self) -> Result<String, RuntimeError> {
        let client = self.inner.engine.client().await?;
        let about = self.inner.engine.bounded("asking the engine for its id", ASK, client.info()).await?;
        // An engine without one is known by the way to it.
        Ok(about.id.filter(|id| !id.is_empty()).unwrap_or_else(|| self.inner.engine.socket().to_owned()))
    }
}

/// Passes on what the engine tells of this fleet's containers, for as long as somebody listens.
async fn listen(inner: Weak<Inner>, hints: mpsc::Sender<Hint>) {
    let mut wait = LISTEN_FIRST;
    loop {
        let Some(strong) = inner.upgrade() else { return };
        if let Ok(client) = strong.engine.client().await {
            let filters = HashMap::from([("type".to_owned(), vec!["container".to_owned()])]);
            let options = EventsOptionsBuilder::new().filters(&filters).build();
            let mut events = client.events(Some(options));
            // What happened while nobody listened is found by looking everywhere once.
            for slot in strong.records.slots().unwrap_or_default() {
                let _ = hints.try_send(Hint { slot, instance: None });
            }
            let places = Arc::clone(&strong.places);
            // What came while nobody listened is in no list yet.
            *strong.listed.lock().await = None;
            strong.memo.listen(true);
            drop(strong);
            while let Some(Ok(event)) = events.next().await {
                wait = LISTEN_FIRST;
                let Some(strong) = inner.upgrade() else { return };
                // Probes run beside an instance all the time and change nothing.
                let action = event.action.unwrap_or_default();
                let probing = action.starts_with("exec_");
                let actor = event.actor.unwrap_or_default();
                let attributes = actor.attributes.unwrap_or_default();
                if let (false, Some(id)) = (probing, &actor.id) {
                    strong.memo.forget(id);
                    // What Baton makes beside another one is on record before it is there.
                    let name = attributes.get("name").map(String::as_str).unwrap_or_default();
                    if action == "create" && read_temporary(name).is_none() {
                        *strong.listed.lock().await = None;
                    }
                }
                if let (false, Some(slot)) = (probing, places.slot_of(&attributes)) {
                    let code = attributes.get("exitCode").and_then(|code| code.parse().ok());
                    match (action.as_str(), actor.id, code) {
                        ("die", Some(id), Some(code)) => strong.ends.died(&id, code),
                        ("start", Some(id), _) => strong.ends.forget(&id),
                        _ => {}
                    }
                    // A full queue means that somebody has enough to look at.
                    let _ = hints.try_send(Hint { slot, instance: None });
                }
            }
            if let Some(strong) = inner.upgrade() {
                strong.memo.listen(false);
            }
        } else {
            drop(strong);
        }
        if hints.is_closed() {
            return;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LISTEN_LAST);
    }
}

#[async_trait::async_trait]
impl Runtime for DockerRuntime {
    fn kinds(&self) -> Vec<RuntimeKind> {
        vec![RuntimeKind::Docker]
    }

    async fn resolve(&self, definition: &Definition, pull: bool) -> Resolution {
        let found = self.inner.found(definition).await;
        let outdated = self.inner.outdated(definition).await;
        let notes = self.inner.deaf(&definition.component).await;
        Resolution { found, outdated, notes, ..self.inner.resolve(definition, pull).await }
    }

    async fn slots(&self) -> Result<Vec<SlotName>, RuntimeError> {
        self.inner.slots().await
    }

    async fn inspect(&self, slot: &SlotName) -> Result<Vec<InstanceObservation>, RuntimeError> {
        let mut observed = Vec::new();
        for seen in self.inner.look(slot).await? {
            observed.push(self.inner.observe(&seen).await?);
        }
        Ok(observed)
    }

    async fn prepare(&self, instance: &InstanceId, blueprint: &Blueprint) -> Result<(), RuntimeError> {
        self.inner.prepare(instance, blueprint).await
    }

    async fn start(&self, instance: &InstanceId) -> Result<Endpoint, RuntimeError> {
        self.inner.start(instance).await
    }

    async fn hold_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        self.inner.hold_restart(instance).await
    }

    async fn allow_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        self.inner.allow_restart(instance).await
    }

    async fn signal(&self, instance: &InstanceId, signal: &str) -> Result<(), RuntimeError> {
        self.inner.signal(instance, signal).await
    }

    async fn kill(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        self.inner.kill(instance).await
    }

    async fn wait_exit(&self, instance: &InstanceId) -> Result<ExitStatus, RuntimeError> {
        self.inner.wait_exit(instance).await
    }

    async fn remove(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        self.inner.remove(instance).await
    }

    async fn exec(
        &self,
        instance: &InstanceId,
        argv: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        self.inner.exec(instance, argv, timeout).await
    }

    async fn notified(&self, _instance: &InstanceId) -> Option<bool> {
        // No socket of ours is in a container.
        None
    }

    async fn placeholders(&self, instance: &InstanceId) -> Result<BTreeMap<String, String>, RuntimeError> {
        let (_, entry, about) = self.inner.existing(instance).await?;
        let ports = entry.ports.clone();
        let seen = Seen { id: instance.clone(), entry, about };
        let endpoint = self.inner.endpoint(&seen).await?;
        // Where the manifest names no port and the image one, that one is meant.
        let only = || (endpoint.ports.len() == 1).then(|| endpoint.ports.values().next().copied()).flatten();
        let first = seen.entry.first_port.or_else(only);
        let address = Some(endpoint.address.as_str()).filter(|address| !address.is_empty());
        Ok(body::placeholders(instance, first, &ports, address))
    }

    async fn logs(&self, instance: &InstanceId, lines: u32) -> Result<Vec<String>, RuntimeError> {
        self.inner.logs(instance, lines).await
    }

    async fn door(&self, to: Inside<'_>) -> Result<Option<Door>, RuntimeError> {
        self.inner.door(to).await
    }

    async fn gateway_route(&self, gateway: &SlotName, to: &InstanceId) -> Option<String> {
        self.inner.gateway_route(gateway, to).await
    }

    async fn adopt_running(&self, should_run: &[InstanceId]) -> Result<(), RuntimeError> {
        // The engine keeps what runs; a look finishes the names that a crash has left half done.
        let mut slots: Vec<SlotName> = should_run.iter().map(|instance| instance.slot.clone()).collect();
        slots.extend(self.inner.records.slots()?);
        slots.sort();
        slots.dedup();
        // What is wrong with one is wrong with the engine.
        let looks: Vec<_> = slots.iter().map(|slot| async move { self.inner.look(slot).await.map(drop) }).collect();
        futures_util::stream::iter(looks).buffer_unordered(LOOKS).try_collect().await
    }

    fn hints(&self) -> mpsc::Receiver<Hint> {
        let (hints, receiver) = mpsc::channel(HINTS_MAX);
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(former) = listener.take() {
            former.abort();
        }
        *listener = Some(tokio::spawn(listen(Arc::downgrade(&self.inner), hints)).abort_handle());
        receiver
    }
}
