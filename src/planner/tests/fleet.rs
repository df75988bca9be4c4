//! Fleets to plan for: manifests, what agents would report of them, and carrying a plan out on paper.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::model::*;
use crate::planner::{
    Ask, History, PlanError, Planned, PlanningInput, definition_digest, fill_version, plan, spec_digest, wanted_for,
};

pub(crate) fn name(text: &str) -> ComponentName {
    ComponentName::new(text).unwrap()
}

pub(crate) fn agent(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

pub(crate) fn slot(text: &str) -> SlotName {
    text.parse().unwrap()
}

pub(crate) fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

pub(crate) fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// A process component of that role (the name, where it is a known role) with a readiness probe.
pub(crate) fn component(text: &str, replicas: u32) -> Definition {
    Definition {
        component: name(text),
        role: Role::known(text),
        runtime: RuntimeKind::Process,
        image: None,
        compose: None,
        release: Some(Release { path: "/opt/orders/{version}".to_owned(), sha256_file: Some("SHA256SUMS".to_owned()) }),
        command: vec![Secret::new(format!("{{release}}/bin/{text}")), Secret::new("--port={port}")],
        env: BTreeMap::new(),
        env_file: None,
        cwd: None,
        ports: vec![NamedPort { name: "http".to_owned(), port: Port::Auto, host: None, passed: false }],
        fronts: BTreeMap::new(),
        on: Vec::new(),
        replicas,
        singleton: text == "scheduler",
        depends_on: BTreeMap::new(),
        update: Update::default(),
        rollback: None,
        agent: None,
        retain: RETAIN,
        ready: Ready { probe: Some(Probe::Http("http://{address}:{port}/health".to_owned())), ..Ready::default() },
        traffic: Traffic::None,
        min_available: None,
        drain: Drain::default(),
        versioned: true,
    }
}

pub(crate) fn with_traffic(mut definition: Definition) -> Definition {
    definition.traffic =
        Traffic::Gateway { listen: ":8080".to_owned(), port: PortRef::Name("http".to_owned()), hold_max: seconds(30) };
    definition
}

pub(crate) fn manifest(components: Vec<Definition>) -> Manifest {
    Manifest {
        fleet: FleetName::new("orders").unwrap(),
        strategy: None,
        stages: None,
        api_at: ApiAt::Last,
        components: components.into_iter().map(|definition| (definition.component.clone(), definition)).collect(),
        notes: Vec::new(),
    }
}

/// Two API servers behind the gateway, a scheduler, two executors, four workers; one agent for each component.
pub(crate) fn quickstart() -> Fleet {
    let place = |mut definition: Definition| {
        definition.on = vec![agent(&format!("agent-{}", definition.component))];
        definition
    };
    let mut worker = component("worker", 4);
    worker.drain = Drain {
        inflight: Some(DrainInflight {
            http: "http://{address}:{port}/inflight?token=hush".to_owned(),
            pointer: "/inflight".to_owned(),
            every: seconds(1),
            timeout: seconds(2),
        }),
        grace: seconds(300),
        ..Drain::default()
    };
    let components = vec![
        place(with_traffic(component("api", 2))),
        place(component("scheduler", 1)),
        place(component("executor", 2)),
        place(worker),
    ];
    Fleet::new(manifest(components), &["agent-api", "agent-executor", "agent-scheduler", "agent-worker"])
}

/// A manifest, the world that it meets, and its history.
#[derive(Clone)]
pub(crate) struct Fleet {
    pub(crate) manifest: Manifest,
    pub(crate) inventory: BTreeMap<AgentId, Inventory>,
    pub(crate) history: History,
    /// What each agent answers to *resolve*, by component, where it is not all well.
    pub(crate) problems: BTreeMap<(AgentId, ComponentName), String>,
    /// The content of every env_file.
    pub(crate) env_file: String,
    /// Agents answer *resolve* at all.
    pub(crate) resolves: bool,
}

impl Fleet {
    pub(crate) fn new(manifest: Manifest, agents: &[&str]) -> Self {
        let inventory = agents.iter().map(|id| (agent(id), report(id))).collect();
        let history = History { fleet: Some(manifest.fleet.clone()), ..History::default() };
        Self { manifest, inventory, history, problems: BTreeMap::new(), env_file: "one".to_owned(), resolves: true }
    }

    pub(crate) fn component(&mut self, text: &str) -> &mut Definition {
        self.manifest.components.get_mut(&name(text)).unwrap()
    }

    pub(crate) fn up(to: &str) -> Ask {
        Ask::Up { to: Some(to.to_owned()), only: Vec::new(), remove_orphans: false }
    }

    pub(crate) fn only(to: &str, components: &[&str]) -> Ask {
        Ask::Up {
            to: Some(to.to_owned()),
            only: components.iter().map(|text| name(text)).collect(),
            remove_orphans: false,
        }
    }

    /// The input of a plan, resolutions included, as a coordinator would gather it.
    pub(crate) fn input(&self, ask: Ask) -> PlanningInput {
        self.input_with(ask, Some(self.manifest.clone()))
    }

    pub(crate) fn input_with(&self, ask: Ask, manifest: Option<Manifest>) -> PlanningInput {
        let mut input =
            PlanningInput { manifest, inventory: self.inventory.clone(), history: self.history.clone(), ask };
        let wanted = wanted_for(&input).unwrap_or_default();
        for (agent, components) in wanted.into_iter().filter(|_| self.resolves) {
            for (component, definition) in components {
                let answer = self.resolve(&agent, &definition);
                input.inventory.get_mut(&agent).unwrap().resolutions.insert(component, answer);
            }
        }
        input
    }

    fn resolve(&self, agent: &AgentId, definition: &Definition) -> Resolution {
        Resolution {
            image_id: definition.image.as_ref().map(|image| format!("sha256:{image}")),
            release: definition.release.as_ref().map(|release| Digest(format!("content of {}", release.path))),
            env_file: definition.env_file.as_ref().map(|_| Digest(self.env_file.clone())),
            port_in_use: None,
            found: None,
            outdated: Default::default(),
            notes: Vec::new(),
            compose: None,
            problem: self.problems.get(&(agent.clone(), definition.component.clone())).cloned(),
        }
    }

    pub(crate) fn plan(&self, ask: Ask) -> Result<Planned, PlanError> {
        plan(&self.input(ask))
    }

    /// Plans, carries it out, and records the success. The plan is handed back.
    pub(crate) fn roll(&mut self, ask: Ask) -> Planned {
        let planned = self.plan(ask).unwrap();
        self.carry_out(&planned);
        planned
    }

    pub(crate) fn carry_out(&mut self, planned: &Planned) {
        let all = planned.plan.steps.len();
        self.carry_out_until(planned, all);
        self.record_success(planned);
    }

    /// The first steps only, in order of id: one of the orders that the engine could choose.
    pub(crate) fn carry_out_until(&mut self, planned: &Planned, count: usize) {
        self.history.definitions.extend(planned.definitions.clone());
        for step in planned.plan.steps.iter().take(count) {
            self.apply(step, &planned.plan);
        }
    }

    fn record_success(&mut self, planned: &Planned) {
        let plan = &planned.plan;
        if matches!(plan.kind, PlanKind::Up) && plan.version.is_some() {
            self.history.version.clone_from(&plan.version);
        }
        for (component, digest) in &plan.definitions {
            let definition = planned.definitions[digest].clone();
            self.history.succeeded.insert(component.clone(), (digest.clone(), definition));
            if let (Some(version), PlanKind::Up) = (&plan.version, &plan.kind) {
                self.history.versions.insert(component.clone(), version.clone());
            }
        }
    }

    fn apply(&mut self, step: &Step, plan: &Plan) {
        let Some(slot) = step.slot.clone() else { return };
        let Some(agent) = step.agent.clone() else { return };
        let report = self.inventory.get_mut(&agent).unwrap();
        let address = report.address.clone();
        let found = report.slots.entry(slot.clone()).or_default();
        let instance = |found: &mut SlotInventory| -> usize {
            let wanted = step.instance.as_ref().unwrap();
            found.instances.iter().position(|i| i.id == *wanted).unwrap_or_else(|| panic!("{wanted} is not there"))
        };
        match &step.kind {
            StepKind::Prepare { definition, spec, version } => {
                let id = step.instance.clone().unwrap();
                assert!(id.number > found.highest, "{id} was used before");
                found.highest = id.number;
                self.history.highest.insert(slot, id.number);
                found.instances.push(created(id, definition.clone(), spec.clone(), version.clone(), &address));
            }
            StepKind::Start { alone } => {
                let at = instance(found);
                let running = found.instances.iter().filter(|i| i.may_run()).count();
                assert!(!alone || running == 0, "{slot} has one running already");
                let started = &mut found.instances[at];
                started.state = InstanceState::Running;
                started.health = Health::Unready;
                started.admission = Admission::Admitting;
                started.exit = None;
            }
            StepKind::Ready { wait, .. } => {
                let at = instance(found);
                let spec = found.instances[at].spec.clone().unwrap();
                if *wait == ReadyWait::Completed {
                    found.instances[at].state = InstanceState::Exited;
                    found.instances[at].exit = Some(ExitStatus::Code(0));
                    self.history.completed_jobs.insert(slot, spec);
                } else {
                    assert!(found.instances[at].may_run(), "{slot} does not run and is asked whether it is ready");
                    found.instances[at].health =
                        if matches!(wait, ReadyWait::Weak { .. }) { Health::Unknown } else { Health::Ready };
                    found.instances[at].state = InstanceState::Running;
                }
            }
            StepKind::Drain { .. } => {
                let at = instance(found);
                found.instances[at].admission = Admission::Drained;
                if plan.kind == PlanKind::Drain {
                    found.held_drained = true;
                }
            }
            StepKind::Undrain { .. } => {
                let at = instance(found);
                found.instances[at].admission = Admission::Admitting;
                found.held_drained = false;
            }
            StepKind::Stop { .. } => {
                let at = instance(found);
                found.instances[at].state = InstanceState::Exited;
                found.instances[at].health = Health::Unknown;
                found.instances[at].exit = Some(ExitStatus::Code(0));
            }
            StepKind::Retire => {
                let at = instance(found);
                assert!(!found.instances[at].may_run(), "{slot}: a running instance is removed");
                found.instances.remove(at);
            }
            StepKind::Switch { component, admit, release, .. } => {
                let table = found.table.entry(component.clone()).or_default();
                table.retain(|target| !release.contains(&target.instance) && !admit.contains(&target.instance));
                table.extend(admit.iter().map(|id| TableTarget {
                    instance: id.clone(),
                    host: address.clone(),
                    port: 1,
                    admission: Admission::Admitting,
                }));
            }
            StepKind::Soak { .. } | StepKind::Delay { .. } | StepKind::Run { .. } | StepKind::Gate { .. } => {}
        }
    }

    pub(crate) fn instances(&self, text: &str) -> Vec<&InstanceObservation> {
        let all = self.inventory.values().filter_map(|report| report.slots.get(&slot(text)));
        all.flat_map(|found| &found.instances).collect()
    }

    pub(crate) fn slot_mut(&mut self, text: &str) -> &mut SlotInventory {
        let slot = slot(text);
        self.inventory.values_mut().find_map(|report| report.slots.get_mut(&slot)).unwrap()
    }

    pub(crate) fn instance_mut(&mut self, text: &str) -> &mut InstanceObservation {
        let wanted = id(text);
        let all = self.inventory.values_mut().flat_map(|report| report.slots.values_mut());
        all.flat_map(|slot| &mut slot.instances).find(|found| found.id == wanted).unwrap()
    }

    /// Ids of all instances that may run, in order.
    pub(crate) fn running(&self) -> Vec<String> {
        let slots = self.inventory.values().flat_map(|report| report.slots.values());
        let mut ids: Vec<InstanceId> =
            slots.flat_map(|slot| &slot.instances).filter(|i| i.may_run()).map(|i| i.id.clone()).collect();
        ids.sort();
        ids.iter().map(ToString::to_string).collect()
    }

    /// Puts a running instance of the component's present definition at a version into a slot.
    pub(crate) fn put(&mut self, text: &str, version: &str) {
        let id = id(text);
        let definition = fill_version(&self.manifest.components[&id.slot.component], Some(version));
        let home = definition.on.first().cloned().unwrap_or_else(|| self.inventory.keys().next().unwrap().clone());
        let resolution = self.resolve(&home, &definition);
        let digest = definition_digest(&definition);
        let spec = spec_digest(&definition, &resolution);
        let address = self.inventory[&home].address.clone();
        let mut made = created(id.clone(), digest.clone(), spec, Some(version.to_owned()), &address);
        made.state = InstanceState::Running;
        made.health = Health::Ready;
        self.history.definitions.insert(digest, definition);
        let found = self.inventory.get_mut(&home).unwrap().slots.entry(id.slot.clone()).or_default();
        found.highest = found.highest.max(id.number);
        found.instances.push(made);
        found.instances.sort_by_key(|i| i.id.number);
    }
}

fn created(
    id: InstanceId,
    definition: Digest,
    spec: Digest,
    version: Option<String>,
    address: &str,
) -> InstanceObservation {
    InstanceObservation {
        id,
        spec: Some(spec),
        asked: None,
        definition: Some(definition),
        version,
        state: InstanceState::Created,
        health: Health::Unknown,
        admission: Admission::Admitting,
        endpoint: Some(Endpoint { address: address.to_owned(), ports: BTreeMap::new() }),
        pid: None,
        restarts: 0,
        crashing: false,
        exit: None,
        sockets_held: true,
    }
}

pub(crate) fn report(id: &str) -> Inventory {
    Inventory {
        agent: agent(id),
        boot_id: "boot".to_owned(),
        runtimes: vec![RuntimeKind::Process],
        address: "127.0.0.1".to_owned(),
        term: Term(1),
        nonce: String::new(),
        rolls: Vec::new(),
        slots: BTreeMap::new(),
        resolutions: BTreeMap::new(),
    }
}

/// Planning from a finished roll's inventory makes no changes.
#[track_caller]
pub(crate) fn assert_planning_makes_no_changes(fleet: &Fleet, ask: Ask) {
    let again = fleet.plan(ask).unwrap();
    let steps: Vec<String> = lines(&again.plan);
    assert!(again.plan.is_noop(), "planning again changes things: {:#?}\n{steps:#?}", again.report.changes);
}

/// Each step as `id verb instance [after]`, for reading and comparing.
pub(crate) fn lines(plan: &Plan) -> Vec<String> {
    plan.steps
        .iter()
        .map(|step| {
            let on = match &step.kind {
                StepKind::Switch { admit, release, .. } => {
                    let list = |ids: &[InstanceId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
                    format!("+{} -{}", list(admit), list(release))
                }
                _ => step.instance.as_ref().map_or("-".to_owned(), ToString::to_string),
            };
            let after: Vec<String> = step.after.iter().map(ToString::to_string).collect();
            format!("{} {} {on} [{}] {}", step.id, step.kind.verb(), after.join(","), step.stage)
        })
        .collect()
}

/// Verbs and instances of the steps that touch one component, in order.
pub(crate) fn steps_of(plan: &Plan, component: &str) -> Vec<String> {
    plan.steps
        .iter()
        .filter_map(|step| match &step.kind {
            StepKind::Switch { component: of, admit, release, .. } if of.as_str() == component => {
                let list = |ids: &[InstanceId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join("+");
                Some(format!("switch +{} -{}", list(admit), list(release)))
            }
            StepKind::Switch { .. } => None,
            kind => {
                let slot = step.slot.as_ref().filter(|slot| slot.component.as_str() == component)?;
                let on = step.instance.as_ref().map_or(slot.to_string(), ToString::to_string);
                Some(format!("{} {on}", kind.verb()))
            }
        })
        .collect()
}

/// The place of the first such step.
#[track_caller]
pub(crate) fn at(plan: &Plan, verb: &str, instance: &str) -> usize {
    plan.steps
        .iter()
        .position(|step| step.kind.verb() == verb && step.instance.as_ref().is_some_and(|i| i.to_string() == instance))
        .unwrap_or_else(|| panic!("no {verb} of {instance} in {:#?}", lines(plan)))
}

/// Whether the second of two steps waits, directly or not, for the first.
pub(crate) fn waits(plan: &Plan, second: usize, first: usize) -> bool {
    let mut open = vec![second];
    let mut seen = std::collections::BTreeSet::new();
    while let Some(next) = open.pop() {
        for after in plan.steps[next].after.iter().map(|after| after.0 as usize) {
            if after == first {
                return true;
            }
            if seen.insert(after) {
                open.push(after);
            }
        }
    }
    false
}

#[track_caller]
pub(crate) fn usage(result: Result<Planned, PlanError>) -> String {
    match result {
        Err(PlanError::Usage(text)) => text,
        Ok(planned) => panic!("planned: {:#?}", planned.report),
        Err(other) => panic!("{other:?}"),
    }
}

#[track_caller]
pub(crate) fn refused(result: Result<Planned, PlanError>) -> String {
    match result {
        Err(PlanError::Refused(text)) => text,
        Ok(planned) => panic!("planned: {:#?}", planned.report),
        Err(other) => panic!("{other:?}"),
    }
}
