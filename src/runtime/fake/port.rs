//! A thin asynchronous wrapper, so that a [`FakeWorld`] can stand where a real runtime stands.
//!
//! Whoever holds it turns the clock with [`FakeRuntime::set_now`]; nothing here reads one.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::log::FakeEvent;
use super::world::FakeWorld;
use crate::model::{
    Definition, Endpoint, ExitStatus, InstanceId, InstanceObservation, Resolution, RuntimeKind, SlotName, Timestamp,
};
use crate::runtime::{Blueprint, ExecOutput, Hint, Runtime, RuntimeError};

/// How many hints may wait to be read.
const HINTS_MAX: usize = 1024;

/// A fake world behind the port of an agent.
pub struct FakeRuntime {
    world: Arc<Mutex<FakeWorld>>,
    kind: RuntimeKind,
    now: watch::Sender<Timestamp>,
    hints: mpsc::Sender<Hint>,
    receiver: Mutex<Option<mpsc::Receiver<Hint>>>,
}

impl FakeRuntime {
    /// Puts a world of processes behind the port, at time zero.
    pub fn new(world: FakeWorld) -> FakeRuntime {
        FakeRuntime::of_kind(world, RuntimeKind::Process)
    }

    /// The same, as another kind of runtime.
    pub fn of_kind(world: FakeWorld, kind: RuntimeKind) -> FakeRuntime {
        let (hints, receiver) = mpsc::channel(HINTS_MAX);
        let now = watch::Sender::new(Timestamp::ZERO);
        FakeRuntime { world: Arc::new(Mutex::new(world)), kind, now, hints, receiver: Mutex::new(Some(receiver)) }
    }

    /// Lets time pass until then, and tells what happened.
    pub fn set_now(&self, now: Timestamp) -> Vec<FakeEvent> {
        let events = self.world().advance(now);
        for event in &events {
            let instance = event.instance.clone();
            // Hints may be missed.
            let _ = self.hints.try_send(Hint { slot: instance.slot.clone(), instance: Some(instance) });
        }
        self.now.send_replace(now);
        events
    }

    /// The world itself.
    pub fn world(&self) -> MutexGuard<'_, FakeWorld> {
        // Every act of the world leaves it whole, so one that panicked elsewhere has not broken it.
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn time(&self) -> Timestamp {
        *self.now.borrow()
    }
}

#[async_trait::async_trait]
impl Runtime for FakeRuntime {
    async fn adopt_running(&self, should_run: &[InstanceId]) -> Result<(), RuntimeError> {
        let now = self.time();
        self.world().adopt_running(now, should_run);
        Ok(())
    }

    fn kinds(&self) -> Vec<RuntimeKind> {
        vec![self.kind]
    }

    async fn resolve(&self, definition: &Definition, _pull: bool) -> Resolution {
        self.world().resolve(definition, None)
    }

    async fn slots(&self) -> Result<Vec<SlotName>, RuntimeError> {
        Ok(self.world().slots())
    }

    async fn inspect(&self, slot: &SlotName) -> Result<Vec<InstanceObservation>, RuntimeError> {
        let now = self.time();
        self.world().inspect(now, slot)
    }

    async fn prepare(&self, instance: &InstanceId, blueprint: &Blueprint) -> Result<(), RuntimeError> {
        let now = self.time();
        self.world().prepare(now, instance, blueprint)
    }

    async fn start(&self, instance: &InstanceId) -> Result<Endpoint, RuntimeError> {
        let now = self.time();
        self.world().start(now, instance)
    }

    async fn hold_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        let now = self.time();
        self.world().hold_restart(now, instance)
    }

    async fn allow_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        let now = self.time();
        self.world().allow_restart(now, instance)
    }

    async fn signal(&self, instance: &InstanceId, signal: &str) -> Result<(), RuntimeError> {
        let now = self.time();
        self.world().signal(now, instance, signal)
    }

    async fn kill(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        let now = self.time();
        self.world().kill(now, instance)
    }

    async fn wait_exit(&self, instance: &InstanceId) -> Result<ExitStatus, RuntimeError> {
        let mut time = self.now.subscribe();
        loop {
            let now = *time.borrow_and_update();
            if let Some(status) = self.world().exit(now, instance) {
                return Ok(status);
            }
            // The sender lives in this value, so there is always a next time to wait for.
            let _ = time.changed().await;
        }
    }

    async fn remove(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        let now = self.time();
        self.world().remove(now, instance)
    }

    async fn exec(
        &self,
        instance: &InstanceId,
        _argv: &[String],
        _timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        let now = self.time();
        let code = Some(i32::from(self.world().probe(now, instance).is_err()));
        Ok(ExecOutput { code, tail: String::new() })
    }

    async fn notified(&self, instance: &InstanceId) -> Option<bool> {
        let now = self.time();
        Some(self.world().probe(now, instance).is_ok())
    }

    async fn placeholders(&self, instance: &InstanceId) -> Result<BTreeMap<String, String>, RuntimeError> {
        let (slot, instance) = (instance.slot.to_string(), instance.to_string());
        let address = "127.0.0.1".to_owned();
        Ok([("slot", slot), ("instance", instance), ("address", address)]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect())
    }

    async fn logs(&self, _instance: &InstanceId, _lines: u32) -> Result<Vec<String>, RuntimeError> {
        Ok(Vec::new())
    }

    fn hints(&self) -> mpsc::Receiver<Hint> {
        let mut receiver = self.receiver.lock().unwrap_or_else(PoisonError::into_inner);
        receiver.take().unwrap_or_else(|| mpsc::channel(1).1)
    }
}
