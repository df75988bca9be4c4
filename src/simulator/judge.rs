//! Judges a run by what the fake runtime itself wrote down: what nodes believe counts for nothing here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::simulation::Run;
use crate::model::{Admission, ComponentName, InstanceId, Order, Plan, SlotName, StepKind, TableTarget, Timestamp};
use crate::runtime::fake::Happening;

/// What a process needs beyond its grace to be killed: the round trips of the agent, and its retries.
const KILL_SLACK: Duration = Duration::from_secs(2);

/// What must hold at every instant.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// Serving instances that must remain, by component.
    pub floors: BTreeMap<ComponentName, u32>,
    /// Components of which a slot may never have two running.
    pub alone: BTreeSet<ComponentName>,
    /// Components whose old instance may not leave before another one of its slot is ready.
    pub start_first: BTreeSet<ComponentName>,
    /// Components in the order in which they stop: nothing of a group is asked to stop before all of the former ones
    /// have. Judged for the version `from`.
    pub stop: Vec<Vec<ComponentName>>,
    /// Components in the order in which they start: nothing of a group starts before all of the former ones are ready.
    /// Judged for the version `to`.
    pub start: Vec<Vec<ComponentName>>,
    /// What ran before, and what comes.
    pub versions: (BTreeSet<InstanceId>, BTreeSet<InstanceId>),
    /// The grace of components whose kill is judged (those without traffic).
    pub graces: BTreeMap<ComponentName, Duration>,
}

impl Rules {
    /// What a plan promises.
    pub fn of(plan: &Plan) -> Self {
        let mut rules = Self::default();
        for (component, limits) in &plan.limits {
            if limits.min_available > 0 {
                rules.floors.insert(component.clone(), limits.min_available);
            }
        }
        for change in &plan.changes {
            let component = change.slot.component.clone();
            match change.order {
                Some(Order::StartFirst) => drop(rules.start_first.insert(component)),
                Some(Order::StopFirst) => drop(rules.alone.insert(component)),
                None => {}
            }
            rules.versions.0.extend(change.old.clone());
            rules.versions.1.extend(change.new.clone().filter(|new| change.old.as_ref() != Some(new)));
        }
        for step in &plan.steps {
            if let (StepKind::Drain { grace, .. }, Some(slot)) = (&step.kind, &step.slot) {
                rules.graces.insert(slot.component.clone(), *grace);
            }
        }
        rules
    }
}

/// What is known of an instance while its log is read.
#[derive(Clone, Default)]
struct Life {
    running: bool,
    ready: bool,
    draining: bool,
    /// The begin of its end: the first call or signal since its start.
    asked: Option<Timestamp>,
    signals: BTreeMap<String, u32>,
    down: bool,
}

struct Court<'a> {
    rules: &'a Rules,
    lives: BTreeMap<InstanceId, Life>,
    tables: BTreeMap<(SlotName, ComponentName), Vec<TableTarget>>,
    prepared: BTreeSet<InstanceId>,
    ran: BTreeMap<String, u32>,
    away: Duration,
    broken: Vec<String>,
}

/// Every rule that a run broke, in words; empty: none.
pub fn judge(run: &Run, rules: &Rules) -> Vec<String> {
    let mut court = Court {
        rules,
        lives: BTreeMap::new(),
        tables: BTreeMap::new(),
        prepared: BTreeSet::new(),
        ran: BTreeMap::new(),
        away: run.away,
        broken: run.broken.clone(),
    };
    for (place, entry) in run.log.iter().enumerate() {
        let judged = place >= run.begin;
        let before = court.broken.len();
        court.hear(entry.at, &entry.what);
        if judged {
            court.floors(entry.at);
        } else {
            // How the first version came up is not on trial.
            court.broken.truncate(before);
        }
    }
    court.broken
}

impl Court<'_> {
    fn find(&mut self, at: Timestamp, what: String) {
        self.broken.push(format!("{at}: {what}"));
    }

    fn serves(&self, id: &InstanceId, life: &Life) -> bool {
        let mut tables = self.tables.iter().filter(|((_, of), _)| *of == id.slot.component);
        let admitted = |targets: &Vec<TableTarget>| {
            targets.iter().any(|target| target.instance == *id && target.admission == Admission::Admitting)
        };
        life.running && life.ready && !life.draining && tables.all(|(_, targets)| admitted(targets))
    }

    fn floors(&mut self, at: Timestamp) {
        for (component, floor) in &self.rules.floors {
            let here = self.lives.iter().filter(|(id, life)| id.slot.component == *component && self.serves(id, life));
            let count = here.count();
            if count < *floor as usize {
                self.broken.push(format!("{at}: {count} of {component} serve, {floor} must"));
            }
        }
    }

    fn hear(&mut self, at: Timestamp, what: &Happening) {
        match what {
            Happening::Prepared(id) => {
                if !self.prepared.insert(id.clone()) {
                    self.find(at, format!("{id} was made twice: numbers are never used again"));
                }
            }
            Happening::Started { instance, beside, .. } => {
                if self.rules.alone.contains(&instance.slot.component) && !beside.is_empty() {
                    self.find(at, format!("{instance} started beside {beside:?}"));
                }
                self.starts(at, instance);
                let life = self.lives.entry(instance.clone()).or_default();
                *life = Life { running: true, ..Life::default() };
            }
            Happening::Ready(id) => self.lives.entry(id.clone()).or_default().ready = true,
            Happening::Signalled { instance, signal } => {
                self.leaves(at, instance, signal);
                let life = self.lives.entry(instance.clone()).or_default();
                let count = life.signals.entry(signal.clone()).or_default();
                *count += 1;
                if *count > 1 {
                    self.find(at, format!("{instance} got {signal} again"));
                }
            }
            Happening::DrainBegan(id) => {
                self.leaves(at, id, "its drain");
                self.lives.entry(id.clone()).or_default().draining = true;
            }
            Happening::Undrained(id) => {
                let life = self.lives.entry(id.clone()).or_default();
                (life.draining, life.asked) = (false, None);
            }
            Happening::Killed(id) => {
                let asked = self.lives.get(id).and_then(|life| life.asked);
                self.leaves(at, id, "SIGKILL");
                if let Some((asked, grace)) = asked.zip(self.rules.graces.get(&id.slot.component)) {
                    self.kill(at, id, at.since(asked), *grace);
                }
            }
            Happening::Exited { instance, .. } => {
                let life = self.lives.entry(instance.clone()).or_default();
                (life.running, life.ready, life.down) = (false, false, true);
            }
            Happening::TableInUse { gateway, component, targets } => {
                let key = (gateway.clone(), component.clone());
                let admitting = |targets: &[TableTarget]| -> BTreeSet<InstanceId> {
                    let open = targets.iter().filter(|target| target.admission == Admission::Admitting);
                    open.map(|target| target.instance.clone()).collect()
                };
                let former = self.tables.insert(key, targets.clone()).unwrap_or_default();
                for released in admitting(&former).difference(&admitting(targets)) {
                    self.leaves(at, released, "the release from its gateway");
                }
            }
            Happening::RequestsCut { instance, count } => {
                self.find(at, format!("{count} requests were cut on {instance}"));
            }
            Happening::Ran(hook) => {
                let count = self.ran.entry(hook.clone()).or_default();
                *count += 1;
                if *count > 1 {
                    self.find(at, format!("hook {hook} ran again"));
                }
            }
            _ => {}
        }
    }

    /// An instance is asked to go.
    fn leaves(&mut self, at: Timestamp, id: &InstanceId, by: &str) {
        let running =
            |other: &InstanceId, life: &Life| life.running && life.ready && other.slot == id.slot && other != id;
        let others = self.lives.iter().any(|(other, life)| running(other, life));
        let life = self.lives.entry(id.clone()).or_default();
        let first = life.asked.is_none();
        life.asked.get_or_insert(at);
        let was_ready = life.running && life.ready;
        if first && was_ready && self.rules.start_first.contains(&id.slot.component) && !others {
            self.find(at, format!("{id} got {by} with nobody ready in its place"));
        }
        if self.rules.versions.0.contains(id)
            && let Some(place) = self.rules.stop.iter().position(|group| group.contains(&id.slot.component))
        {
            let earlier: BTreeSet<&ComponentName> = self.rules.stop[..place].iter().flatten().collect();
            let left: Vec<String> = (self.lives.iter())
                .filter(|(other, life)| earlier.contains(&other.slot.component) && life.running)
                .filter(|(other, _)| self.rules.versions.0.contains(other))
                .map(|(other, _)| other.to_string())
                .collect();
            if !left.is_empty() {
                self.find(at, format!("{id} got {by} while {} still ran", left.join(", ")));
            }
        }
    }

    /// An instance starts.
    fn starts(&mut self, at: Timestamp, id: &InstanceId) {
        if !self.rules.versions.1.contains(id) {
            return;
        }
        let Some(place) = self.rules.start.iter().position(|group| group.contains(&id.slot.component)) else { return };
        let earlier: BTreeSet<&ComponentName> = self.rules.start[..place].iter().flatten().collect();
        let missing: Vec<String> = (self.rules.versions.1.iter())
            .filter(|other| earlier.contains(&other.slot.component))
            .filter(|other| !self.lives.get(*other).is_some_and(|life| life.ready))
            .map(ToString::to_string)
            .collect();
        if !missing.is_empty() {
            self.find(at, format!("{id} started before {} were ready", missing.join(", ")));
        }
        let stopping: BTreeSet<&ComponentName> = self.rules.stop.iter().flatten().collect();
        let left: Vec<String> = (self.rules.versions.0.iter())
            .filter(|other| stopping.contains(&other.slot.component))
            .filter(|other| self.lives.get(*other).is_some_and(|life| life.running))
            .map(ToString::to_string)
            .collect();
        if !left.is_empty() {
            self.find(at, format!("{id} started before the quiet point: {} still ran", left.join(", ")));
        }
    }

    /// The grace is measured once: from the begin of the drain, whatever happens to who measures it.
    fn kill(&mut self, at: Timestamp, id: &InstanceId, after: Duration, grace: Duration) {
        // The begin is written down before it happens, and what happens takes its milliseconds.
        if after + Duration::from_millis(200) < grace {
            self.find(at, format!("{id} was killed {after:?} after the begin of its drain, its grace is {grace:?}"));
        }
        if after > grace + KILL_SLACK + self.away {
            self.find(
                at,
                format!("{id} was killed only {after:?} after the begin of its drain, its grace is {grace:?}"),
            );
        }
    }
}
