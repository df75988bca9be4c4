//! A coordinator and an agent in this process, and a runtime on which nothing needs doing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use baton::agent::{self, AgentConfig, Policy};
use baton::coordinator::{Coordinator, CoordinatorConfig, HEARTBEAT};
use baton::model::{
    Admission, AgentId, ComponentName, Definition, Digest, Endpoint, ExitStatus, FailureKind, FleetName, Health,
    InstanceId, InstanceObservation, InstanceState, Resolution, RuntimeKind, SlotName,
};
use baton::runtime::{Blueprint, ExecOutput, Hint, Runtime, RuntimeError};
use tokio::sync::{mpsc, oneshot};

/// What a benchmark comes to.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Gatherings of inventory that may be under way at a time, with a wide margin.
const GATHERINGS: usize = 64;

/// Slots that run in every inventory and have ended whenever a worker looks: every stop is found already so.
///
/// An agent gathers an inventory in one task, which asks for all slots first; a worker's look is a task of its own.
/// That is how the two are told apart.
pub struct Settled {
    component: ComponentName,
    count: u32,
    gatherings: Mutex<VecDeque<tokio::task::Id>>,
    /// Acts that somebody asked for all the same: none, or the benchmark measures something else.
    pub acts: std::sync::atomic::AtomicU64,
}

impl Settled {
    fn new(component: ComponentName, count: u32) -> Self {
        Self { component, count, gatherings: Mutex::default(), acts: std::sync::atomic::AtomicU64::new(0) }
    }

    fn gathering(&self) -> bool {
        let gatherings = self.gatherings.lock().expect("nobody panics with it");
        tokio::task::try_id().is_some_and(|task| gatherings.contains(&task))
    }

    fn acted(&self) {
        self.acts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

fn nothing_here(what: &str) -> RuntimeError {
    let kind = FailureKind::Missing;
    RuntimeError { kind, unknown: false, retryable: false, message: format!("{what} is not part of this benchmark") }
}

#[async_trait::async_trait]
impl Runtime for Settled {
    fn kinds(&self) -> Vec<RuntimeKind> {
        vec![RuntimeKind::Process]
    }

    async fn resolve(&self, _: &Definition, _: bool) -> Resolution {
        Resolution::default()
    }

    async fn slots(&self) -> Result<Vec<SlotName>, RuntimeError> {
        if let Some(task) = tokio::task::try_id() {
            let mut gatherings = self.gatherings.lock().expect("nobody panics with it");
            gatherings.push_back(task);
            if gatherings.len() > GATHERINGS {
                gatherings.pop_front();
            }
        }
        Ok((1..=self.count).map(|index| SlotName::new(self.component.clone(), index)).collect())
    }

    async fn inspect(&self, slot: &SlotName) -> Result<Vec<InstanceObservation>, RuntimeError> {
        let runs = self.gathering();
        Ok(vec![InstanceObservation {
            id: InstanceId::new(slot.clone(), 1),
            spec: Some(Digest("settled".to_owned())),
            asked: None,
            definition: None,
            version: None,
            state: if runs { InstanceState::Running } else { InstanceState::Exited },
            health: Health::Ready,
            admission: Admission::Admitting,
            endpoint: None,
            pid: None,
            restarts: 0,
            crashing: false,
            exit: (!runs).then_some(ExitStatus::Code(0)),
            sockets_held: true,
        }])
    }

    async fn prepare(&self, _: &InstanceId, _: &Blueprint) -> Result<(), RuntimeError> {
        self.acted();
        Ok(())
    }

    async fn start(&self, _: &InstanceId) -> Result<Endpoint, RuntimeError> {
        self.acted();
        Ok(Endpoint::default())
    }

    async fn hold_restart(&self, _: &InstanceId) -> Result<(), RuntimeError> {
        self.acted();
        Ok(())
    }

    async fn allow_restart(&self, _: &InstanceId) -> Result<(), RuntimeError> {
        self.acted();
        Ok(())
    }

    async fn signal(&self, _: &InstanceId, _: &str) -> Result<(), RuntimeError> {
        self.acted();
        Ok(())
    }

    async fn kill(&self, _: &InstanceId) -> Result<(), RuntimeError> {
        self.acted();
        Ok(())
    }

    async fn wait_exit(&self, _: &InstanceId) -> Result<ExitStatus, RuntimeError> {
        std::future::pending().await
    }

    async fn remove(&self, _: &InstanceId) -> Result<(), RuntimeError> {
        self.acted();
        Ok(())
    }

    async fn exec(&self, _: &InstanceId, _: &[String], _: Duration) -> Result<ExecOutput, RuntimeError> {
        Err(nothing_here("a command"))
    }

    async fn notified(&self, _: &InstanceId) -> Option<bool> {
        None
    }

    async fn placeholders(&self, _: &InstanceId) -> Result<BTreeMap<String, String>, RuntimeError> {
        Ok(BTreeMap::new())
    }

    async fn logs(&self, _: &InstanceId, _: u32) -> Result<Vec<String>, RuntimeError> {
        Ok(vec![])
    }

    async fn adopt_running(&self, _: &[InstanceId]) -> Result<(), RuntimeError> {
        Ok(())
    }

    fn hints(&self) -> mpsc::Receiver<Hint> {
        // Nothing changes by itself; a closed channel is one that nobody listens to any more.
        mpsc::channel(1).1
    }
}

/// Both ends in this process, joined by the coordinator's Unix socket.
pub struct Rig {
    pub coordinator: Coordinator,
    pub runtime: Arc<Settled>,
    pub fleet: FleetName,
    agent: tokio::task::JoinHandle<Result<(), agent::AgentError>>,
    stop: oneshot::Sender<()>,
}

impl Rig {
    /// A fleet of one component with so many slots, all on one agent.
    pub async fn start(folder: &Path, count: u32) -> Outcome<Self> {
        let fleet = FleetName::new("bench")?;
        let component = ComponentName::new("worker")?;
        let coordinator = Coordinator::start(CoordinatorConfig {
            fleet: fleet.clone(),
            folder: folder.join("coordinator"),
            listen: vec![],
            security: None,
            heartbeat: HEARTBEAT,
            new_id: false,
            asleep: false,
        })
        .await?;
        let runtime = Arc::new(Settled::new(component.clone(), count));
        let (stop, stopped) = oneshot::channel::<()>();
        let agent = tokio::spawn(agent::run(
            AgentConfig {
                project: None,
                fleet: fleet.clone(),
                id: AgentId::new("host")?,
                folder: folder.join("agent"),
                coordinator: coordinator.addresses()[0].clone(),
                security: None,
                policy: Policy { components: BTreeSet::from([component]), ..Policy::default() },
                address: None,
                runtime: runtime.clone(),
                runtime_ids: vec![format!("bench-{}", std::process::id())],
            },
            async move {
                let _ = stopped.await;
            },
        ));
        Ok(Self { coordinator, runtime, fleet, agent, stop })
    }

    /// Ends both.
    pub async fn stop(self) -> Outcome<()> {
        let _ = self.stop.send(());
        self.agent.await??;
        self.coordinator.stop().await?;
        Ok(())
    }
}

/// The middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
