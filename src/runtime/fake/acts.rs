//! What an agent does to instances, and bigger faults.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::instance::{Draining, FakeInstance, Phase};
use super::knobs::{FakeAct, Fault};
use super::log::Happening;
use super::world::{BACK_OFF, FakeWorld};
use crate::model::{Admission, Endpoint, ExitStatus, FailureKind, InstanceId, Port, SlotName, Timestamp};
use crate::runtime::{Blueprint, RuntimeError};

/// An error that is known not to have happened.
pub(super) fn refused(message: String) -> RuntimeError {
    RuntimeError { kind: FailureKind::Refused, unknown: false, retryable: false, message }
}

pub(super) fn missing(message: String) -> RuntimeError {
    RuntimeError { kind: FailureKind::Missing, unknown: false, retryable: false, message }
}

impl FakeWorld {
    /// Carries an act out as its fault says.
    pub(super) fn with_fault<T>(
        &mut self,
        now: Timestamp,
        slot: &SlotName,
        act: FakeAct,
        carry_out: impl FnOnce(&mut Self) -> Result<T, RuntimeError>,
    ) -> Result<T, RuntimeError> {
        let fault = self.faults.get_mut(&(slot.clone(), act)).and_then(VecDeque::pop_front);
        let Some(fault) = fault else { return carry_out(self) };
        self.note(now, Happening::Faulted { slot: slot.clone(), act });
        match fault {
            Fault::Fails(error) => Err(error),
            Fault::Lost { happened } => {
                if happened {
                    carry_out(self)?;
                }
                let message = format!("{slot}: the answer was lost");
                Err(RuntimeError { kind: FailureKind::Deadline, unknown: true, retryable: true, message })
            }
        }
    }

    /// See `Runtime::prepare`.
    ///
    /// # Errors
    /// As the real one, or as told by a fault.
    pub fn prepare(&mut self, now: Timestamp, id: &InstanceId, blueprint: &Blueprint) -> Result<(), RuntimeError> {
        self.settle(now);
        self.with_fault(now, &id.slot, FakeAct::Prepare, |world| {
            if let Some(existing) = world.instance(id) {
                if existing.spec == blueprint.spec {
                    return Ok(());
                }
                return Err(refused(format!("instance {id} exists with another spec; numbers are never used again")));
            }
            if world.knobs_for(id, blueprint.version.as_deref()).release_missing {
                return Err(missing(format!("{id}: its release does not exist on this host")));
            }
            let mut endpoint = Endpoint { address: "127.0.0.1".to_owned(), ports: BTreeMap::new() };
            for named in &blueprint.definition.ports {
                let number = match named.port {
                    Port::Number(number) => number,
                    Port::Auto => {
                        world.next_port += 1;
                        world.next_port
                    }
                };
                endpoint.ports.insert(named.name.clone(), number);
            }
            let instance = FakeInstance {
                id: id.clone(),
                definition: blueprint.definition.clone(),
                definition_digest: blueprint.definition_digest.clone(),
                spec: blueprint.spec.clone(),
                version: blueprint.version.clone(),
                phase: Phase::Created,
                held: false,
                restarts: 0,
                runs: 0,
                back_off: BACK_OFF,
                exit: None,
                endpoint,
                sockets_held: true,
                adopted: false,
                down_with_host: false,
                admission: Admission::Admitting,
            };
            world.slots.entry(id.slot.clone()).or_default().insert(id.number, instance);
            world.note(now, Happening::Prepared(id.clone()));
            Ok(())
        })
    }

    /// See `Runtime::start`.
    ///
    /// # Errors
    /// As the real one, or as told by a knob or fault.
    pub fn start(&mut self, now: Timestamp, id: &InstanceId) -> Result<Endpoint, RuntimeError> {
        self.settle(now);
        self.with_fault(now, &id.slot, FakeAct::Start, |world| {
            let knobs = world.behaviour(id);
            let instance = world.existing(id)?;
            instance.held = false;
            if !instance.is_running() {
                if let Some(why) = knobs.start_refused {
                    return Err(refused(format!("{id}: {why}")));
                }
                instance.back_off = BACK_OFF;
                world.begin(now, id);
                world.settle(now);
            }
            Ok(world.existing(id)?.endpoint.clone())
        })
    }

    /// See `Runtime::hold_restart`.
    ///
    /// # Errors
    /// When there is no such instance, or as told by a fault.
    pub fn hold_restart(&mut self, now: Timestamp, id: &InstanceId) -> Result<(), RuntimeError> {
        self.settle(now);
        self.with_fault(now, &id.slot, FakeAct::HoldRestart, |world| world.hold(now, id))
    }

    fn hold(&mut self, now: Timestamp, id: &InstanceId) -> Result<(), RuntimeError> {
        let instance = self.existing(id)?;
        if matches!(instance.phase, Phase::Restarting { .. }) {
            instance.phase = Phase::Exited;
        }
        if !std::mem::replace(&mut instance.held, true) {
            self.note(now, Happening::Held(id.clone()));
        }
        Ok(())
    }

    /// See `Runtime::allow_restart`.
    ///
    /// # Errors
    /// When there is no such instance, or as told by a fault.
    pub fn allow_restart(&mut self, now: Timestamp, id: &InstanceId) -> Result<(), RuntimeError> {
        self.settle(now);
        self.with_fault(now, &id.slot, FakeAct::AllowRestart, |world| {
            if std::mem::replace(&mut world.existing(id)?.held, false) {
                world.note(now, Happening::Allowed(id.clone()));
            }
            Ok(())
        })
    }

    /// See `Runtime::signal`. Any signal but SIGKILL asks it to finish its work and end.
    ///
    /// # Errors
    /// When there is no such instance, or as told by a fault.
    pub fn signal(&mut self, now: Timestamp, id: &InstanceId, signal: &str) -> Result<(), RuntimeError> {
        self.settle(now);
        self.with_fault(now, &id.slot, FakeAct::Signal, |world| {
            let Phase::Running(run) = &mut world.existing(id)?.phase else { return Ok(()) };
            if !run.signals.insert(signal.to_owned()) {
                return Ok(());
            }
            world.note(now, Happening::Signalled { instance: id.clone(), signal: signal.to_owned() });
            let knobs = world.behaviour(id);
            if signal == "SIGKILL" {
                world.end(now, id, ExitStatus::Signal(9));
            } else if !knobs.ignores_term {
                world.begin_drain(now, id, true);
                world.settle(now);
            }
            Ok(())
        })
    }

    /// The http or exec call that begins a drain.
    ///
    /// # Errors
    /// When it does not run, or as told by a fault.
    pub fn drain_call(&mut self, now: Timestamp, id: &InstanceId) -> Result<(), RuntimeError> {
        self.settle(now);
        self.with_fault(now, &id.slot, FakeAct::DrainCall, |world| {
            if !world.existing(id)?.is_running() {
                return Err(refused(format!("{id}: connection refused")));
            }
            world.begin_drain(now, id, false);
            world.settle(now);
            Ok(())
        })
    }

    /// The http or exec call that gives a drain back.
    ///
    /// # Errors
    /// When it does not run or a signal began its drain, or as told by a fault.
    pub fn undrain_call(&mut self, now: Timestamp, id: &InstanceId) -> Result<(), RuntimeError> {
        self.settle(now);
        self.with_fault(now, &id.slot, FakeAct::UndrainCall, |world| {
            let Phase::Running(run) = &mut world.existing(id)?.phase else {
                return Err(refused(format!("{id}: connection refused")));
            };
            match run.drain.take() {
                Some(drain) if drain.signalled => {
                    run.drain = Some(drain);
                    Err(refused(format!("{id} has begun to end; a signal cannot be undone")))
                }
                Some(_) => {
                    world.note(now, Happening::Undrained(id.clone()));
                    Ok(())
                }
                None => Ok(()),
            }
        })
    }

    fn begin_drain(&mut self, now: Timestamp, id: &InstanceId, signalled: bool) {
        let knobs = self.behaviour(id);
        let Some(Phase::Running(run)) = self.instance_mut(id).map(|instance| &mut instance.phase) else { return };
        let fresh = run.drain.is_none();
        let jobs = || knobs.jobs.iter().map(|left| now + *left).collect();
        let drain = run.drain.get_or_insert_with(|| Draining { signalled, jobs: jobs(), idle: false });
        if signalled && (fresh || !drain.signalled) {
            drain.signalled = true;
            let last = drain.jobs.iter().copied().max().unwrap_or(now).max(now);
            let end = (last + knobs.stop_takes, knobs.stop_exit);
            // An end of its own may come first.
            run.ends = Some(run.ends.filter(|(at, _)| *at <= end.0).unwrap_or(end));
        }
        if fresh {
            self.note(now, Happening::DrainBegan(id.clone()));
        }
    }

    /// See `Runtime::kill`.
    ///
    /// # Errors
    /// When there is no such instance, or as told by a fault.
    pub fn kill(&mut self, now: Timestamp, id: &InstanceId) -> Result<(), RuntimeError> {
        self.settle(now);
        self.with_fault(now, &id.slot, FakeAct::Kill, |world| {
            world.hold(now, id)?;
            if world.existing(id)?.is_running() {
                world.note(now, Happening::Killed(id.clone()));
                world.end(now, id, ExitStatus::Signal(9));
            }
            Ok(())
        })
    }

    /// See `Runtime::remove`.
    ///
    /// # Errors
    /// When it still runs, or as told by a fault.
    pub fn remove(&mut self, now: Timestamp, id: &InstanceId) -> Result<(), RuntimeError> {
        self.settle(now);
        self.with_fault(now, &id.slot, FakeAct::Remove, |world| {
            match world.instance(id) {
                None => return Ok(()),
                Some(instance) if instance.is_running() => {
                    return Err(refused(format!("instance {id} still runs; stop it first")));
                }
                Some(_) => {}
            }
            if let Some(slot) = world.slots.get_mut(&id.slot) {
                slot.remove(&id.number);
            }
            world.note(now, Happening::Removed(id.clone()));
            Ok(())
        })
    }

    /// Runs a hook on the agent of a slot.
    ///
    /// # Errors
    /// As told by a fault.
    pub fn run(&mut self, now: Timestamp, slot: &SlotName, hook: &str) -> Result<(), RuntimeError> {
        self.settle(now);
        self.with_fault(now, slot, FakeAct::Run, |world| {
            world.note(now, Happening::Ran(hook.to_owned()));
            Ok(())
        })
    }

    // === bigger faults ===

    /// The host of these slots goes down with everything on it. What was started and not held is started again by
    /// [`FakeWorld::adopt_running`], as the first agent does after a boot.
    pub fn reboot(&mut self, now: Timestamp, slots: &[SlotName]) {
        self.settle(now);
        self.note(now, Happening::Rebooted(slots.to_vec()));
        for slot in slots {
            let ids: Vec<InstanceId> =
                self.slots.get(slot).into_iter().flat_map(|slot| slot.values()).map(|i| i.id.clone()).collect();
            for id in ids {
                let Some(instance) = self.instance_mut(&id) else { continue };
                let was_up = matches!(instance.phase, Phase::Running(_) | Phase::Restarting { .. });
                instance.down_with_host = was_up && !instance.held && !instance.definition.is_job();
                // Nobody saw how.
                instance.adopted = true;
                self.end(now, &id, ExitStatus::Unknown);
                if let Some(instance) = self.instance_mut(&id)
                    && matches!(instance.phase, Phase::Restarting { .. })
                {
                    instance.phase = Phase::Exited;
                }
            }
        }
    }

    /// Brings up the keepers of the slots of these instances: what went down with its host is started again.
    pub fn adopt_running(&mut self, now: Timestamp, should_run: &[InstanceId]) {
        self.settle(now);
        let slots: BTreeSet<&SlotName> = should_run.iter().map(|id| &id.slot).collect();
        for slot in slots {
            for instance in self.slots.get_mut(slot).into_iter().flat_map(|slot| slot.values_mut()) {
                if std::mem::replace(&mut instance.down_with_host, false) && !instance.held {
                    instance.back_off = BACK_OFF;
                    instance.phase = Phase::Restarting { at: now };
                }
            }
        }
        self.settle(now);
    }

    /// A slot's keeper is killed and another takes its place: instances run on, their exit codes will be unknown, and
    /// passed sockets are taken back or not.
    pub fn lose_keeper(&mut self, now: Timestamp, slot: &SlotName, sockets_taken_back: bool) {
        self.settle(now);
        self.note(now, Happening::KeeperLost(slot.clone()));
        for instance in self.slots.get_mut(slot).into_iter().flat_map(|slot| slot.values_mut()) {
            if instance.is_running() {
                instance.adopted = true;
                instance.sockets_held = sockets_taken_back || !instance.definition.ports.iter().any(|it| it.passed);
            }
        }
    }
}
