//! A plan builder and a small world around the engine: agents that answer as the test says.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::engine::{Effect, Engine, Event, FleetView, HoldReason, Key, Record, Request, RollState};
use crate::model::*;

pub fn slot(text: &str) -> SlotName {
    text.parse().unwrap()
}

pub fn instance(text: &str) -> InstanceId {
    text.parse().unwrap()
}

pub fn agent(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

pub fn component(text: &str) -> ComponentName {
    ComponentName::new(text).unwrap()
}

pub fn roll(text: &str) -> RollId {
    RollId::new(text).unwrap()
}

pub fn digest(text: &str) -> Digest {
    Digest(text.to_owned())
}

pub fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

pub fn claim(id: &str, term: u64) -> Claim {
    Claim { coordinator: CoordinatorId::new(id).unwrap(), term: Term(term), nonce: format!("n{term}") }
}

/// Builds a plan step by step. Slots get their agent when they are first named.
pub struct Build {
    pub plan: Plan,
    agents: BTreeMap<SlotName, AgentId>,
}

impl Build {
    pub fn new(kind: PlanKind) -> Self {
        Self {
            plan: Plan {
                fleet: FleetName::new("orders").unwrap(),
                kind,
                manifest: digest("manifest"),
                version: Some("v2".to_owned()),
                only: Vec::new(),
                strategy: Strategy::Rolling,
                changes: Vec::new(),
                steps: Vec::new(),
                adopted: BTreeMap::new(),
                limits: BTreeMap::new(),
                definitions: BTreeMap::new(),
                digest: digest("plan"),
            },
            agents: BTreeMap::new(),
        }
    }

    pub fn up() -> Self {
        Self::new(PlanKind::Up)
    }

    /// A slot that changes, on its agent: `old` leaves, `new` comes.
    pub fn slot(&mut self, name: &str, on: &str, kind: ChangeKind) -> &mut Self {
        let name = slot(name);
        self.agents.insert(name.clone(), agent(on));
        let (old, new) = match kind {
            ChangeKind::Add => (None, Some(1)),
            ChangeKind::Replace => (Some(1), Some(2)),
            ChangeKind::Keep | ChangeKind::Touch => (None, Some(1)),
            ChangeKind::Remove => (Some(1), None),
        };
        self.plan.changes.push(Change {
            slot: name.clone(),
            agent: agent(on),
            kind,
            old: old.map(|number| InstanceId::new(name.clone(), number)),
            new: new.map(|number| InstanceId::new(name.clone(), number)),
            order: None,
            why: format!("{kind:?}"),
        });
        self.plan.definitions.insert(name.component.clone(), digest("definition"));
        self
    }

    pub fn limits(&mut self, name: &str, change: impl FnOnce(&mut ComponentLimits)) -> &mut Self {
        let slots: Vec<SlotName> = self.agents.keys().filter(|slot| slot.component.as_str() == name).cloned().collect();
        let limits = self.plan.limits.entry(component(name)).or_insert_with(|| ComponentLimits {
            parallelism: 1,
            lane: Vec::new(),
            min_available: 0,
            counted: slots.clone(),
            failure_action: FailureAction::Rollback,
            max_failure_ratio: Ratio(0),
            changed: slots.len() as u32,
        });
        change(limits);
        self
    }

    /// One place at a time, in order of slots.
    pub fn lane(&mut self, name: &str, parallelism: u32) -> &mut Self {
        self.limits(name, |limits| {
            limits.parallelism = parallelism;
            limits.lane = limits.counted.clone();
        })
    }

    pub fn floor(&mut self, name: &str, min: u32) -> &mut Self {
        self.limits(name, |limits| limits.min_available = min)
    }

    pub fn step(&mut self, on: Option<&str>, number: Option<u64>, kind: StepKind, after: &[StepId]) -> StepId {
        let id = StepId(self.plan.steps.len() as u32);
        let on = on.map(slot);
        let own = matches!(kind, StepKind::Delay { .. } | StepKind::Gate { .. });
        let agent = on.as_ref().filter(|_| !own).map(|slot| self.agents[slot].clone());
        let waits: BTreeSet<StepId> = after.iter().copied().collect();
        self.plan.steps.push(Step {
            id,
            kind,
            instance: number.zip(on.clone()).map(|(number, slot)| InstanceId::new(slot, number)),
            slot: on,
            agent,
            after: waits.into_iter().collect(),
            while_ready: None,
            deadline: secs(60),
            stage: "stage".to_owned(),
        });
        id
    }

    pub fn while_ready(&mut self, step: StepId, id: &str) -> &mut Self {
        self.plan.steps[step.0 as usize].while_ready = Some(instance(id));
        self
    }

    pub fn prepare(&mut self, on: &str, number: u64, after: &[StepId]) -> StepId {
        let kind =
            StepKind::Prepare { definition: digest("definition"), spec: digest("spec"), version: Some("v2".into()) };
        self.step(Some(on), Some(number), kind, after)
    }

    pub fn drain(&mut self, on: &str, number: u64, after: &[StepId]) -> StepId {
        let kind = StepKind::Drain {
            definition: digest("definition"),
            begin: DrainStart::Nothing,
            inflight: false,
            grace: secs(30),
            stop_timeout: secs(10),
        };
        self.step(Some(on), Some(number), kind, after)
    }

    pub fn stop(&mut self, on: &str, number: u64, after: &[StepId]) -> StepId {
        let kind = StepKind::Stop { signal: "SIGTERM".to_owned(), timeout: secs(10) };
        self.step(Some(on), Some(number), kind, after)
    }

    pub fn start(&mut self, on: &str, number: u64, after: &[StepId]) -> StepId {
        self.step(Some(on), Some(number), StepKind::Start { alone: false }, after)
    }

    pub fn ready(&mut self, on: &str, number: u64, after: &[StepId]) -> StepId {
        let kind = StepKind::Ready { definition: digest("definition"), wait: ReadyWait::Probe { successes: 1 } };
        self.step(Some(on), Some(number), kind, after)
    }

    pub fn completed(&mut self, on: &str, number: u64, after: &[StepId]) -> StepId {
        let kind = StepKind::Ready { definition: digest("definition"), wait: ReadyWait::Completed };
        self.step(Some(on), Some(number), kind, after)
    }

    pub fn soak(&mut self, on: &str, number: u64, after: &[StepId]) -> StepId {
        let kind = StepKind::Soak { definition: digest("definition"), monitor: secs(5), probed: true };
        self.step(Some(on), Some(number), kind, after)
    }

    pub fn delay(&mut self, on: &str, pause: Duration, after: &[StepId]) -> StepId {
        self.step(Some(on), None, StepKind::Delay { pause }, after)
    }

    pub fn retire(&mut self, on: &str, number: u64, after: &[StepId]) -> StepId {
        self.step(Some(on), Some(number), StepKind::Retire, after)
    }

    pub fn run(&mut self, on: &str, hook: &str, after: &[StepId]) -> StepId {
        self.step(Some(on), None, StepKind::Run { hook: hook.to_owned() }, after)
    }

    pub fn gate(&mut self, name: &str, after: &[StepId]) -> StepId {
        self.step(None, None, StepKind::Gate { name: name.to_owned() }, after)
    }

    pub fn switch(&mut self, gateway: &str, admit: &[&str], release: &[&str], after: &[StepId]) -> StepId {
        let admit: Vec<InstanceId> = admit.iter().map(|id| instance(id)).collect();
        let release: Vec<InstanceId> = release.iter().map(|id| instance(id)).collect();
        let component = admit.iter().chain(&release).next().unwrap().slot.component.clone();
        let kind = StepKind::Switch {
            component,
            admit,
            release,
            port: PortRef::Name("http".to_owned()),
            grace: secs(30),
            stop_timeout: secs(10),
            hold_max: secs(30),
        };
        self.step(Some(gateway), None, kind, after)
    }

    /// Drain and stop 1, start 2 and wait for it, remove 1: the six steps of a stop-first slot after its prepare.
    pub fn stop_first(&mut self, on: &str, after: &[StepId]) -> [StepId; 6] {
        let drain = self.drain(on, 1, after);
        let stop = self.stop(on, 1, &[drain]);
        let start = self.start(on, 2, &[stop]);
        let ready = self.ready(on, 2, &[start]);
        let soak = self.soak(on, 2, &[ready]);
        let retire = self.retire(on, 1, &[soak]);
        [drain, stop, start, ready, soak, retire]
    }

    /// Start 2 and wait for it, drain and stop 1 while it is ready, remove 1.
    pub fn start_first(&mut self, on: &str, after: &[StepId]) -> [StepId; 6] {
        let start = self.start(on, 2, after);
        let ready = self.ready(on, 2, &[start]);
        let soak = self.soak(on, 2, &[ready]);
        let drain = self.drain(on, 1, &[soak]);
        let stop = self.stop(on, 1, &[drain]);
        self.while_ready(drain, &format!("{on}.2")).while_ready(stop, &format!("{on}.2"));
        let retire = self.retire(on, 1, &[stop]);
        [start, ready, soak, drain, stop, retire]
    }

    /// `count` workers, one an agent each, all replaced stop-first.
    pub fn workers(count: usize) -> Self {
        let mut build = Self::up();
        for index in 1..=count {
            build.slot(&format!("worker-{index}"), &format!("host-{index}"), ChangeKind::Replace);
        }
        for index in 1..=count {
            build.stop_first(&format!("worker-{index}"), &[]);
        }
        build.limits("worker", |_| {});
        build
    }
}

/// How an instance is, in a report.
pub fn seen(id: &str, state: InstanceState, health: Health) -> InstanceObservation {
    InstanceObservation {
        id: instance(id),
        spec: Some(digest("spec")),
        asked: None,
        definition: Some(digest("definition")),
        version: None,
        state,
        health,
        admission: Admission::Admitting,
        endpoint: Some(Endpoint {
            address: "10.0.0.1".to_owned(),
            ports: [("http".to_owned(), 8000 + instance(id).number as u16)].into(),
        }),
        pid: None,
        restarts: 0,
        crashing: false,
        exit: None,
        sockets_held: true,
    }
}

pub fn running(id: &str) -> InstanceObservation {
    seen(id, InstanceState::Running, Health::Ready)
}

pub fn inventory(on: &str) -> Inventory {
    Inventory {
        agent: agent(on),
        boot_id: "boot".to_owned(),
        runtimes: vec![RuntimeKind::Process],
        address: "10.0.0.1".to_owned(),
        term: Term(1),
        nonce: String::new(),
        rolls: Vec::new(),
        slots: BTreeMap::new(),
        resolutions: BTreeMap::new(),
    }
}

pub fn failed(kind: FailureKind) -> StepResult {
    StepResult::Failed { kind, retryable: true, message: "it said no".to_owned(), log: vec!["last line".to_owned()] }
}

pub fn unknown() -> StepResult {
    StepResult::Unknown { why: "the connection was cut".to_owned() }
}

pub const DONE: StepResult = StepResult::Done(How::Completed);
pub const SKIPPED: StepResult = StepResult::Skipped(SkipReason::EarlierStep);
pub const RECALLED: StepResult = StepResult::Skipped(SkipReason::Recalled);

/// The engine, its clock, its journal and what its agents would report.
pub struct World {
    pub engine: Engine,
    pub now: Timestamp,
    pub facts: Vec<(Timestamp, Record)>,
    pub reports: BTreeMap<AgentId, Inventory>,
}

/// More rounds than any test needs: a machine that never gets quiet fails.
const TICKS_MAX: usize = 1000;

impl World {
    /// A coordinator at term 1, nothing begun.
    pub fn new() -> Self {
        let mut world = Self {
            engine: Engine::new(FleetName::new("orders").unwrap()),
            now: Timestamp(1000),
            facts: Vec::new(),
            reports: BTreeMap::new(),
        };
        world.event(Event::Started(claim("c1", 1)));
        world
    }

    /// A roll begun on a fleet in which every agent has reported: old instances run, are ready and admit.
    pub fn begun(build: Build) -> Self {
        let mut world = Self::new();
        world.observe(&build.plan);
        world.begin(build, "r1");
        world
    }

    /// Every agent of the plan connects and reports its old (or kept) instances as running.
    pub fn observe(&mut self, plan: &Plan) {
        for change in &plan.changes {
            let report = self.reports.entry(change.agent.clone()).or_insert_with(|| inventory(change.agent.as_str()));
            let of_slot = report.slots.entry(change.slot.clone()).or_default();
            let there = match change.kind {
                ChangeKind::Add => None,
                ChangeKind::Keep | ChangeKind::Touch => change.new.as_ref(),
                _ => change.old.as_ref(),
            };
            if let Some(id) = there
                && of_slot.instances.is_empty()
            {
                of_slot.instances.push(running(&id.to_string()));
            }
        }
        for on in self.reports.keys().cloned().collect::<Vec<_>>() {
            self.event(Event::SessionUp(on.clone()));
            self.report(on.as_str());
        }
    }

    pub fn begin(&mut self, build: Build, id: &str) {
        self.engine.may_begin(&build.plan).unwrap();
        let plan = Box::new(build.plan);
        self.event(Event::RollRequested { roll: roll(id), plan, actor: "ann".into(), reason: "release".into() });
    }

    /// One event, and ticks until nothing more comes of it. Returns all records.
    pub fn event(&mut self, event: Event) -> Vec<Record> {
        let mut all = self.single(event);
        for _ in 0..TICKS_MAX {
            let records = self.single(Event::Tick);
            if records.is_empty() {
                return all;
            }
            all.extend(records);
        }
        panic!("the engine never gets quiet");
    }

    /// One event without what follows.
    pub fn single(&mut self, event: Event) -> Vec<Record> {
        let records = self.engine.decide(self.now, &event);
        for record in &records {
            self.apply(record).unwrap();
        }
        records
    }

    pub fn apply(&mut self, record: &Record) -> Result<(), IllegalTransition> {
        let before = self.engine.kept().clone();
        let changed = self.engine.apply(self.now, record)?;
        if record.is_fact() {
            self.facts.push((self.now, record.clone()));
        }
        self.check();
        let after = self.engine.kept();
        let differ: BTreeSet<&Key> =
            before.keys().chain(after.keys()).filter(|key| before.get(key) != after.get(key)).collect();
        assert_eq!(changed.iter().collect::<BTreeSet<_>>(), differ, "changed keys after {record:?}");
        Ok(())
    }

    /// What is kept equals what is computed.
    pub fn check(&self) {
        assert_eq!(self.engine.outstanding(), *self.engine.kept());
        if let Some(roll) = self.engine.unfinished() {
            let mut anew = roll.clone();
            anew.rebuild(self.now);
            assert_eq!(anew, *roll, "indexes kept differ from indexes made anew");
        }
    }

    /// A coordinator that starts again on what was synced, at the next term. Nothing noted survives.
    pub fn restart(&mut self) {
        let term = self.engine.term().0 + 1;
        self.engine = self.replayed();
        self.event(Event::Started(claim("c1", term)));
    }

    /// An engine that has seen the facts only.
    pub fn replayed(&self) -> Engine {
        let mut engine = Engine::new(FleetName::new("orders").unwrap());
        for (at, record) in &self.facts {
            engine.apply(*at, record).unwrap();
        }
        engine
    }

    pub fn pass(&mut self, span: Duration) -> Vec<Record> {
        self.now = self.now + span;
        self.event(Event::Tick)
    }

    pub fn report(&mut self, on: &str) -> Vec<Record> {
        let report = self.reports[&agent(on)].clone();
        self.event(Event::Inventory(Box::new(report)))
    }

    pub fn report_all(&mut self) {
        for on in self.reports.keys().cloned().collect::<Vec<_>>() {
            self.report(on.as_str());
        }
    }

    /// Changes what an agent would report, without reporting it.
    pub fn set(&mut self, on: &str, observation: InstanceObservation) {
        let report = self.reports.get_mut(&agent(on)).unwrap();
        let of_slot = report.slots.entry(observation.id.slot.clone()).or_default();
        of_slot.instances.retain(|one| one.id != observation.id);
        of_slot.instances.push(observation);
    }

    pub fn gone(&mut self, on: &str, id: &str) {
        let report = self.reports.get_mut(&agent(on)).unwrap();
        let id = instance(id);
        report.slots.get_mut(&id.slot).unwrap().instances.retain(|one| one.id != id);
    }

    /// The command that a slot has in flight.
    pub fn command(&self, on: &str) -> Command {
        let on = slot(on);
        let mut found = self.engine.outstanding().into_values().filter_map(|effect| match effect {
            Effect::Send { command, .. } if command.slot == on => Some(command),
            _ => None,
        });
        let command =
            found.next().unwrap_or_else(|| panic!("{on} has no list; {:#?}", self.engine.view(self.now).holds));
        assert!(found.next().is_none(), "{on} has two lists");
        command
    }

    pub fn is_idle(&self, on: &str) -> bool {
        let on = slot(on);
        !self
            .engine
            .outstanding()
            .values()
            .any(|effect| matches!(effect, Effect::Send { command, .. } if command.slot == on))
    }

    /// All lists in flight: `worker-1: drain stop start`.
    pub fn flight(&self) -> Vec<String> {
        self.engine
            .outstanding()
            .into_values()
            .filter_map(|effect| match effect {
                Effect::Send { command, .. } => {
                    let verbs: Vec<&str> = command.steps.iter().map(|one| one.act.verb()).collect();
                    Some(format!("{}: {}", command.slot, verbs.join(" ")))
                }
                _ => None,
            })
            .collect()
    }

    pub fn outcome(&self, on: &str, command: &Command, step: StepId, result: StepResult) -> Event {
        let act = command.steps.iter().find(|one| one.step == step).map(|one| &one.act);
        let endpoint = match act {
            Some(Act::Start { instance }) => running(&instance.to_string()).endpoint,
            _ => None,
        };
        let outcome = Outcome { command: command.id.clone(), slot: command.slot.clone(), step, result, endpoint };
        let agent = self.engine.roll.as_ref().unwrap().graph.agent_of[&slot(on)].clone();
        Event::Outcome { agent, outcome }
    }

    /// The first steps in flight of a slot end with these results.
    pub fn answer(&mut self, on: &str, results: &[StepResult]) -> Vec<Record> {
        let command = self.command(on);
        let mut all = Vec::new();
        for result in results {
            let roll = self.engine.roll.as_ref().unwrap();
            let step = roll.at_work(&command.id).expect("the list has ended");
            let event = self.outcome(on, &command, step, result.clone());
            all.extend(self.event(event));
        }
        all
    }

    /// All steps in flight of a slot are done.
    pub fn finish(&mut self, on: &str) {
        let command = self.command(on);
        for one in &command.steps {
            let open = self.engine.unfinished().and_then(|roll| roll.lists.get(&command.id));
            if open.is_some_and(|list| list.open.contains(&one.step)) {
                let event = self.outcome(on, &command, one.step, DONE);
                self.event(event);
            }
        }
    }

    /// Answers everything with done until nothing is in flight.
    pub fn finish_all(&mut self) {
        for _ in 0..TICKS_MAX {
            let slots: Vec<SlotName> = self
                .engine
                .outstanding()
                .into_values()
                .filter_map(|effect| match effect {
                    Effect::Send { command, .. } => Some(command.slot),
                    _ => None,
                })
                .collect();
            if slots.is_empty() {
                match self.engine.next_deadline() {
                    Some(due) => {
                        self.now = self.now.max(due);
                        self.event(Event::Tick);
                        continue;
                    }
                    None => return,
                }
            }
            for one in slots {
                self.finish(&one.to_string());
            }
        }
        panic!("the roll never ends");
    }

    pub fn ask(&mut self, request: Request) -> Vec<Record> {
        self.engine.may(&request).unwrap();
        self.event(Event::Operator { request, actor: "ann".into(), reason: "because".into() })
    }

    pub fn view(&self) -> FleetView {
        self.engine.view(self.now)
    }

    pub fn state(&self) -> RollState {
        self.view().roll.unwrap().state
    }

    pub fn reasons(&self) -> Vec<HoldReason> {
        self.view().holds.into_iter().map(|hold| hold.reason).collect()
    }

    pub fn has(&self, key: &Key) -> bool {
        self.engine.outstanding().contains_key(key)
    }
}

impl Drop for World {
    /// Every test ends with this: a replay of the facts alone gives the live state with its notes cleared.
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        let mut live = self.engine.clone();
        live.forget_notes();
        assert!(self.replayed() == live, "replay differs from the live state with its notes cleared");
    }
}
