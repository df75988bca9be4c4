//! Several runtimes as one: an agent that has containers and processes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc;

use super::{Blueprint, Door, ExecOutput, Hint, Inside, Runtime, RuntimeError};
use crate::model::{
    Definition, Endpoint, ExitStatus, FailureKind, InstanceId, InstanceObservation, Resolution, RuntimeKind, SlotName,
};

/// How many hints may wait to be read.
const HINTS_MAX: usize = 1024;

/// Hands every instance to the runtime that has it.
pub struct Several {
    runtimes: Vec<Arc<dyn Runtime>>,
    /// Who has an instance, as far as it was asked. An instance never moves.
    owners: Mutex<BTreeMap<InstanceId, usize>>,
}

impl Several {
    /// Joins them. The first is asked about what nobody has.
    pub fn new(runtimes: Vec<Arc<dyn Runtime>>) -> Several {
        Several { runtimes, owners: Mutex::default() }
    }

    fn owners(&self) -> MutexGuard<'_, BTreeMap<InstanceId, usize>> {
        // A map is whole after every statement.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn of_kind(&self, kind: RuntimeKind) -> Option<(usize, &Arc<dyn Runtime>)> {
        self.runtimes.iter().enumerate().find(|(_, runtime)| runtime.kinds().contains(&kind))
    }

    /// Whoever has the instance.
    async fn owner(&self, instance: &InstanceId) -> Result<&dyn Runtime, RuntimeError> {
        let known = self.owners().get(instance).copied();
        if let Some(place) = known {
            return Ok(&*self.runtimes[place]);
        }
        let mut failed = None;
        for (place, runtime) in self.runtimes.iter().enumerate() {
            match runtime.inspect(&instance.slot).await {
                Ok(seen) if seen.iter().any(|seen| seen.id == *instance) => {
                    self.owners().insert(instance.clone(), place);
                    return Ok(&**runtime);
                }
                Ok(_) => {}
                Err(error) => failed = Some(error),
            }
        }
        match (failed, self.runtimes.first()) {
            // The one that did not answer may be the one that has it.
            (Some(error), _) => Err(error),
            (None, Some(first)) => Ok(&**first),
            (None, None) => Err(nobody(&format!("instance {instance}"))),
        }
    }
}

fn nobody(what: &str) -> RuntimeError {
    RuntimeError {
        kind: FailureKind::Missing,
        unknown: false,
        retryable: false,
        message: format!("this agent has no runtime for {what}"),
    }
}

#[async_trait::async_trait]
impl Runtime for Several {
    fn kinds(&self) -> Vec<RuntimeKind> {
        let mut kinds: Vec<RuntimeKind> = self.runtimes.iter().flat_map(|runtime| runtime.kinds()).collect();
        kinds.sort();
        kinds.dedup();
        kinds
    }

    async fn resolve(&self, definition: &Definition, pull: bool) -> Resolution {
        match self.of_kind(definition.runtime) {
            Some((_, runtime)) => runtime.resolve(definition, pull).await,
            None => {
                let problem = nobody(&format!("{} ({})", definition.component, definition.runtime)).message;
                Resolution { problem: Some(problem), ..Resolution::default() }
            }
        }
    }

    async fn slots(&self) -> Result<Vec<SlotName>, RuntimeError> {
        let mut slots = Vec::new();
        let mut failed = None;
        for runtime in &self.runtimes {
            match runtime.slots().await {
                Ok(found) => slots.extend(found),
                Err(error) => failed = Some(error),
            }
        }
        slots.sort();
        slots.dedup();
        // What one of them has is worth telling while another is out of reach.
        match failed {
            Some(error) if slots.is_empty() => Err(error),
            _ => Ok(slots),
        }
    }

    async fn inspect(&self, slot: &SlotName) -> Result<Vec<InstanceObservation>, RuntimeError> {
        let mut all: Vec<InstanceObservation> = Vec::new();
        let mut failed = Vec::new();
        for (place, runtime) in self.runtimes.iter().enumerate() {
            match runtime.inspect(slot).await {
                Ok(found) => {
                    for seen in found {
                        self.owners().insert(seen.id.clone(), place);
                        all.push(seen);
                    }
                }
                Err(error) => failed.push((place, error)),
            }
        }
        for (place, error) in failed {
            // A gateway under its keeper is seen while the engine is down; what the engine may have of a slot is not
            // taken for gone.
            let has = self.owners().iter().any(|(instance, owner)| instance.slot == *slot && *owner == place);
            if has || all.is_empty() {
                return Err(error);
            }
        }
        all.sort_by_key(|seen| seen.id.number);
        Ok(all)
    }

    async fn prepare(&self, instance: &InstanceId, blueprint: &Blueprint) -> Result<(), RuntimeError> {
        let kind = blueprint.definition.runtime;
        let (place, runtime) = self.of_kind(kind).ok_or_else(|| nobody(&format!("{instance} ({kind})")))?;
        runtime.prepare(instance, blueprint).await?;
        self.owners().insert(instance.clone(), place);
        Ok(())
    }

    async fn start(&self, instance: &InstanceId) -> Result<Endpoint, RuntimeError> {
        self.owner(instance).await?.start(instance).await
    }

    async fn hold_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        self.owner(instance).await?.hold_restart(instance).await
    }

    async fn allow_restart(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        self.owner(instance).await?.allow_restart(instance).await
    }

    async fn signal(&self, instance: &InstanceId, signal: &str) -> Result<(), RuntimeError> {
        self.owner(instance).await?.signal(instance, signal).await
    }

    async fn kill(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        self.owner(instance).await?.kill(instance).await
    }

    async fn wait_exit(&self, instance: &InstanceId) -> Result<ExitStatus, RuntimeError> {
        self.owner(instance).await?.wait_exit(instance).await
    }

    async fn remove(&self, instance: &InstanceId) -> Result<(), RuntimeError> {
        self.owner(instance).await?.remove(instance).await?;
        self.owners().remove(instance);
        Ok(())
    }

    async fn exec(
        &self,
        instance: &InstanceId,
        argv: &[String],
        timeout: Duration,
    ) -> Result<ExecOutput, RuntimeError> {
        self.owner(instance).await?.exec(instance, argv, timeout).await
    }

    async fn notified(&self, instance: &InstanceId) -> Option<bool> {
        self.owner(instance).await.ok()?.notified(instance).await
    }

    async fn placeholders(&self, instance: &InstanceId) -> Result<BTreeMap<String, String>, RuntimeError> {
        self.owner(instance).await?.placeholders(instance).await
    }

    async fn logs(&self, instance: &InstanceId, lines: u32) -> Result<Vec<String>, RuntimeError> {
        self.owner(instance).await?.logs(instance, lines).await
    }

    async fn door(&self, to: Inside<'_>) -> Result<Option<Door>, RuntimeError> {
        if let Inside::Component { instance, .. } = to {
            return self.owner(instance).await?.door(to).await;
        }
        for runtime in &self.runtimes {
            if let Some(door) = runtime.door(to).await? {
                return Ok(Some(door));
            }
        }
        Ok(None)
    }

    async fn gateway_route(&self, gateway: &SlotName, to: &InstanceId) -> Option<String> {
        for runtime in &self.runtimes {
            if let Some(host) = runtime.gateway_route(gateway, to).await {
                return Some(host);
            }
        }
        None
    }

    async fn adopt_running(&self, should_run: &[InstanceId]) -> Result<(), RuntimeError> {
        let mut result = Ok(());
        for (place, runtime) in self.runtimes.iter().enumerate() {
            let mut own = Vec::new();
            for instance in should_run {
                // Who cannot say whether it is theirs is asked: that is where the error will be told.
                let here = match runtime.inspect(&instance.slot).await {
                    Ok(seen) => seen.iter().any(|seen| seen.id == *instance),
                    Err(_) => true,
                };
                if here {
                    self.owners().insert(instance.clone(), place);
                    own.push(instance.clone());
                }
            }
            result = result.and(runtime.adopt_running(&own).await);
        }
        result
    }

    fn hints(&self) -> mpsc::Receiver<Hint> {
        let (all, receiver) = mpsc::channel(HINTS_MAX);
        for runtime in &self.runtimes {
            let (mut hints, all) = (runtime.hints(), all.clone());
            tokio::spawn(async move {
                while let Some(hint) = hints.recv().await {
                    if let Err(mpsc::error::TrySendError::Closed(_)) = all.try_send(hint) {
                        return;
                    }
                }
            });
        }
        receiver
    }
}

#[cfg(test)]
mod tests;
