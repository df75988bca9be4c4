//! The machine itself: slots, instances, what they do as time passes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::acts::missing;
use super::gateway::Table;
use super::instance::{FakeInstance, Phase, Run};
use super::knobs::{FakeAct, Fault, GatewayKnobs, Knobs};
use super::log::{Entry, FakeEvent, FakeEventKind, Happening};
use crate::model::{
    ComponentName, Definition, Digest, ExitStatus, InstanceId, InstanceObservation, Port, Resolution, SlotName,
    Timestamp,
};
use crate::runtime::RuntimeError;

/// The first wait before a crashed instance starts again; doubles up to [`BACK_OFF_MAX`]. As the real keeper's.
pub(super) const BACK_OFF: Duration = Duration::from_millis(100);
/// The longest such wait.
const BACK_OFF_MAX: Duration = Duration::from_secs(10);
/// One that ran so long is not taken for one that crashes again and again.
const STEADY: Duration = Duration::from_secs(10);
/// The first of the ports chosen for `auto`.
const FIRST_PORT: u16 = 20_000;
/// How one ends that finds its port taken.
const PORT_TAKEN: ExitStatus = ExitStatus::Code(98);

/// All hosts of a fleet.
#[derive(Clone, Debug)]
pub struct FakeWorld {
    pub(super) slots: BTreeMap<SlotName, BTreeMap<u64, FakeInstance>>,
    pub(super) tables: BTreeMap<(SlotName, ComponentName), Table>,
    pub(super) gateway_knobs: GatewayKnobs,
    knobs: BTreeMap<(ComponentName, Option<String>), Knobs>,
    instance_knobs: BTreeMap<InstanceId, Knobs>,
    pub(super) faults: BTreeMap<(SlotName, FakeAct), VecDeque<Fault>>,
    log: Vec<Entry>,
    events: Vec<FakeEvent>,
    now: Timestamp,
    pub(super) next_port: u16,
    next_pid: u32,
}

impl Default for FakeWorld {
    fn default() -> Self {
        Self {
            slots: BTreeMap::new(),
            tables: BTreeMap::new(),
            gateway_knobs: GatewayKnobs::default(),
            knobs: BTreeMap::new(),
            instance_knobs: BTreeMap::new(),
            faults: BTreeMap::new(),
            log: Vec::new(),
            events: Vec::new(),
            now: Timestamp::ZERO,
            next_port: FIRST_PORT,
            next_pid: 1,
        }
    }
}

impl FakeWorld {
    /// Nothing anywhere, and everything well-behaved.
    pub fn new() -> FakeWorld {
        FakeWorld::default()
    }

    // === knobs ===

    /// Sets the behaviour of a component's instances of one version, or of every version that has none of its own.
    pub fn set(&mut self, component: &ComponentName, version: Option<&str>, knobs: Knobs) {
        self.knobs.insert((component.clone(), version.map(str::to_owned)), knobs);
    }

    /// Sets the behaviour of one instance, before it is started.
    pub fn set_instance(&mut self, instance: &InstanceId, knobs: Knobs) {
        self.instance_knobs.insert(instance.clone(), knobs);
    }

    /// The next act of that kind on that slot goes wrong; more of them in the order given. For hooks, the slot on
    /// whose agent they run.
    pub fn inject(&mut self, slot: &SlotName, act: FakeAct, fault: Fault) {
        self.faults.entry((slot.clone(), act)).or_default().push_back(fault);
    }

    /// How long the answer to an act takes.
    pub fn takes(&self, instance: &InstanceId, act: FakeAct) -> Duration {
        let version = self.instance(instance).and_then(|instance| instance.version.clone());
        self.knobs_for(instance, version.as_deref()).latency.get(&act).copied().unwrap_or_default()
    }

    pub(super) fn knobs_for(&self, instance: &InstanceId, version: Option<&str>) -> Knobs {
        if let Some(knobs) = self.instance_knobs.get(instance) {
            return knobs.clone();
        }
        let component = &instance.slot.component;
        let of_version = version.and_then(|version| self.knobs.get(&(component.clone(), Some(version.to_owned()))));
        of_version.or_else(|| self.knobs.get(&(component.clone(), None))).cloned().unwrap_or_default()
    }

    pub(super) fn behaviour(&self, instance: &InstanceId) -> Knobs {
        let version = self.instance(instance).and_then(|instance| instance.version.clone());
        self.knobs_for(instance, version.as_deref())
    }

    // === what happened ===

    /// Everything that happened, in order of time.
    pub fn log(&self) -> &[Entry] {
        &self.log
    }

    pub(super) fn note(&mut self, at: Timestamp, what: Happening) {
        self.log.push(Entry { at, what });
    }

    fn tell(&mut self, at: Timestamp, instance: &InstanceId, kind: FakeEventKind) {
        self.events.push(FakeEvent { at, instance: instance.clone(), kind });
    }

    // === time ===

    /// When something will happen by itself.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        let instances = self.slots.values().flat_map(|slot| slot.values()).filter_map(FakeInstance::next);
        let requests = self.tables.values().filter_map(|table| table.next_end(self.now));
        instances.chain(requests).min()
    }

    /// Lets time pass and tells what happened since the last call.
    pub fn advance(&mut self, now: Timestamp) -> Vec<FakeEvent> {
        self.settle(now);
        std::mem::take(&mut self.events)
    }

    /// Everything that is due until now, in its order; at the same instant in order of instance.
    pub(super) fn settle(&mut self, now: Timestamp) {
        loop {
            let due = |instance: &FakeInstance| Some((instance.next()?, instance.id.clone()));
            let next = self.slots.values().flat_map(|slot| slot.values()).filter_map(due).min();
            let Some((at, id)) = next.filter(|(at, _)| *at <= now) else { break };
            // A deadline that was overtaken by an act of later time happens at that time.
            let at = at.max(self.now);
            self.now = at;
            self.step(at, &id);
            self.settle_tables(at);
        }
        self.now = self.now.max(now);
        self.settle_tables(self.now);
    }

    /// The one next thing that an instance does by itself.
    fn step(&mut self, at: Timestamp, id: &InstanceId) {
        let Some(instance) = self.instance_mut(id) else { return };
        match &mut instance.phase {
            Phase::Restarting { .. } => {
                instance.restarts += 1;
                self.begin(at, id);
                self.tell(at, id, FakeEventKind::Started);
            }
            Phase::Running(run) => {
                if let Some((due, told)) = &mut run.ready
                    && !*told
                    && *due <= at
                {
                    *told = true;
                    self.note(at, Happening::Ready(id.clone()));
                    self.tell(at, id, FakeEventKind::Ready);
                } else if let Some(drain) = &mut run.drain
                    && !drain.idle
                    && drain.jobs.iter().all(|end| *end <= at)
                {
                    drain.idle = true;
                    self.note(at, Happening::Idle(id.clone()));
                    self.tell(at, id, FakeEventKind::Idle);
                } else if let Some((due, status)) = run.ends
                    && due <= at
                {
                    self.end(at, id, status);
                }
            }
            Phase::Created | Phase::Exited => {}
        }
    }

    /// A main process begins.
    pub(super) fn begin(&mut self, at: Timestamp, id: &InstanceId) {
        let knobs = self.behaviour(id);
        let beside: Vec<InstanceId> = self.running(&id.slot).into_iter().filter(|other| other != id).collect();
        let taken = self.port_is_taken(id, &beside);
        let pid = self.next_pid;
        self.next_pid += 1;
        let Some(instance) = self.instance_mut(id) else { return };
        instance.runs += 1;
        let crashes = instance.runs <= knobs.crashes || instance.definition.is_job();
        let ready_at = knobs.ready_after.filter(|_| !taken).map(|after| at + after);
        let own_end = knobs.exits_after.filter(|_| crashes).map(|(after, status)| (at + after, status));
        let dies = knobs.dies_after_ready.filter(|_| crashes).zip(ready_at);
        let dies = dies.map(|((after, status), ready_at)| (ready_at + after, status));
        let ends = [own_end, dies, taken.then_some((at, PORT_TAKEN))].into_iter().flatten().min_by_key(|(at, _)| *at);
        let ready = ready_at.map(|ready_at| (ready_at, false));
        instance.phase = Phase::Running(Run { since: at, pid, ready, ends, drain: None, signals: BTreeSet::new() });
        instance.exit = None;
        instance.adopted = false;
        instance.down_with_host = false;
        let restarts = instance.restarts;
        self.note(at, Happening::Started { instance: id.clone(), restarts, beside });
    }

    /// A port that the program binds itself can be had by one process only.
    fn port_is_taken(&self, id: &InstanceId, beside: &[InstanceId]) -> bool {
        let own = |id: &InstanceId| -> BTreeSet<u16> {
            let ports = self.instance(id).map(|instance| instance.definition.ports.clone()).unwrap_or_default();
            let number = |port| if let Port::Number(number) = port { Some(number) } else { None };
            ports.iter().filter(|named| !named.passed).filter_map(|named| number(named.port)).collect()
        };
        beside.iter().any(|other| !own(id).is_disjoint(&own(other)))
    }

    /// A main process ends.
    pub(super) fn end(&mut self, at: Timestamp, id: &InstanceId, status: ExitStatus) {
        let lost = self.work_in_flight(at, id);
        let Some(instance) = self.instance_mut(id) else { return };
        let Phase::Running(run) = &instance.phase else { return };
        if at.since(run.since) >= STEADY {
            instance.back_off = BACK_OFF;
        }
        let status = if instance.adopted { ExitStatus::Unknown } else { status };
        instance.exit = Some(status);
        if instance.held || instance.definition.is_job() {
            instance.phase = Phase::Exited;
        } else {
            instance.phase = Phase::Restarting { at: at + instance.back_off };
            instance.back_off = (instance.back_off * 2).min(BACK_OFF_MAX);
        }
        self.note(at, Happening::Exited { instance: id.clone(), status });
        if lost > 0 {
            self.note(at, Happening::JobsLost { instance: id.clone(), count: lost });
        }
        self.cut_requests(at, id);
        self.tell(at, id, FakeEventKind::Exited(status));
    }

    fn work_in_flight(&self, now: Timestamp, id: &InstanceId) -> u64 {
        let count = match self.instance(id).map(|instance| &instance.phase) {
            Some(Phase::Running(Run { drain: Some(drain), .. })) => drain.jobs.iter().filter(|end| **end > now).count(),
            Some(Phase::Running(_)) => self.behaviour(id).jobs.len(),
            _ => 0,
        };
        u64::try_from(count).unwrap_or(u64::MAX)
    }

    // === looking ===

    pub(super) fn instance(&self, id: &InstanceId) -> Option<&FakeInstance> {
        self.slots.get(&id.slot)?.get(&id.number)
    }

    pub(super) fn instance_mut(&mut self, id: &InstanceId) -> Option<&mut FakeInstance> {
        self.slots.get_mut(&id.slot)?.get_mut(&id.number)
    }

    pub(super) fn existing(&mut self, id: &InstanceId) -> Result<&mut FakeInstance, RuntimeError> {
        self.instance_mut(id).ok_or_else(|| missing(format!("there is no instance {id}; prepare it first")))
    }

    /// Instances of a slot whose main process runs.
    pub fn running(&self, slot: &SlotName) -> Vec<InstanceId> {
        let instances = self.slots.get(slot).into_iter().flat_map(|slot| slot.values());
        instances.filter(|instance| instance.is_running()).map(|instance| instance.id.clone()).collect()
    }

    /// Every slot that has anything.
    pub fn slots(&self) -> Vec<SlotName> {
        self.slots.iter().filter(|(_, slot)| !slot.is_empty()).map(|(name, _)| name.clone()).collect()
    }

    /// All instances of a slot.
    ///
    /// # Errors
    /// As told by a fault.
    pub fn inspect(&mut self, now: Timestamp, slot: &SlotName) -> Result<Vec<InstanceObservation>, RuntimeError> {
        self.settle(now);
        self.with_fault(now, slot, FakeAct::Inspect, |world| {
            let instances = world.slots.get(slot).into_iter().flat_map(|slot| slot.values());
            Ok(instances.map(FakeInstance::observe).collect())
        })
    }

    /// Whether an instance's own probe says ready; else why not, for people.
    ///
    /// # Errors
    /// It is not ready.
    pub fn probe(&mut self, now: Timestamp, instance: &InstanceId) -> Result<(), String> {
        self.settle(now);
        match self.instance(instance) {
            Some(instance) if instance.is_ready() => Ok(()),
            Some(instance) if instance.is_running() => Err("HTTP 503".to_owned()),
            _ => Err("connection refused".to_owned()),
        }
    }

    /// Its work in flight; `None`: no answer.
    pub fn inflight(&mut self, now: Timestamp, instance: &InstanceId) -> Option<u64> {
        self.settle(now);
        let running = self.instance(instance).is_some_and(FakeInstance::is_running);
        (running && !self.behaviour(instance).inflight_unreadable).then(|| self.work_in_flight(now, instance))
    }

    /// How it ended; `None` while it runs.
    pub fn exit(&mut self, now: Timestamp, instance: &InstanceId) -> Option<ExitStatus> {
        self.settle(now);
        match self.instance(instance) {
            Some(instance) if instance.is_running() => None,
            Some(instance) => Some(instance.exit.unwrap_or(ExitStatus::Unknown)),
            None => Some(ExitStatus::Unknown),
        }
    }

    /// What *resolve* answers for a definition of a version.
    pub fn resolve(&self, definition: &Definition, version: Option<&str>) -> Resolution {
        let any = InstanceId::new(SlotName::new(definition.component.clone(), 1), 0);
        let path = definition.release.as_ref().map(|release| release.path.clone());
        if self.knobs_for(&any, version).release_missing {
            let path = path.unwrap_or_else(|| definition.component.to_string());
            let problem = Some(format!("release {path} does not exist on this host"));
            return Resolution { problem, ..Resolution::default() };
        }
        // Not a hash, and as good as one here: the same for the same path alone.
        Resolution { release: path.map(|path| Digest(format!("fake:{path}"))), ..Resolution::default() }
    }
}
