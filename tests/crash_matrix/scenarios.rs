//! The fleets of the crash matrix and what happens to them.

use std::time::Duration;

use baton::model::{ComponentName, Manifest, Plan, Step, StepId, StepKind};
use baton::planner::Ask;
use baton::runtime::fake::{GatewayKnobs, Knobs};
use baton::simulator::{Move, Scenario};

fn name(text: &str) -> ComponentName {
    text.parse().unwrap()
}

fn manifest(text: &str) -> Manifest {
    baton::manifest::parse(text, "crash_matrix").unwrap_or_else(|error| panic!("{error}"))
}

fn up() -> Ask {
    Ask::Up { to: Some("v2".to_owned()), only: vec![], remove_orphans: false }
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn ready_after(millis: u64) -> Knobs {
    Knobs { ready_after: Some(Duration::from_millis(millis)), ..Knobs::default() }
}

fn scenario(name: &'static str, manifest: Manifest, agents: &[&str]) -> Scenario {
    Scenario {
        name,
        manifest,
        agents: agents.iter().map(|agent| agent.parse().unwrap()).collect(),
        from: "v1".to_owned(),
        ask: up(),
        knobs: vec![],
        traffic: GatewayKnobs { requests: vec![Duration::from_millis(300), seconds(1)], upgraded: 0 },
        edit: None,
        moves: vec![Move::Begin],
    }
}

const STAGED: &str = r#"
fleet: staged
strategy: staged
components:
  api:
    runtime: process
    release: { path: "/r/{version}" }
    command: ["run", "{version}"]
    ports: { http: auto }
    on: [front]
    replicas: 2
    update: { order: start-first, parallelism: 1, monitor: 1s }
    ready: { http: "http://{address}:{port}/health", every: 1s }
    traffic: { gateway: { listen: ":8080", port: http } }
    min_available: 1
    drain: { grace: 20s }
  scheduler:
    runtime: process
    release: { path: "/r/{version}" }
    command: ["run", "{version}"]
    on: [back]
    update: { monitor: 1s }
    ready: { http: "http://{address}/health", every: 1s }
    drain: { grace: 20s }
  executor:
    runtime: process
    release: { path: "/r/{version}" }
    command: ["run", "{version}"]
    on: [back]
    update: { monitor: 1s }
    ready: { http: "http://{address}/health", every: 1s }
    drain: { grace: 20s }
  worker:
    runtime: process
    release: { path: "/r/{version}" }
    command: ["run", "{version}"]
    ports: { http: auto }
    on: [front, back]
    replicas: 2
    update: { monitor: 1s }
    ready: { http: "http://{address}:{port}/health", every: 1s }
    drain:
      begin: { http: "http://{address}:{port}/drain" }
      undo: { http: "http://{address}:{port}/resume" }
      inflight: { http: "http://{address}:{port}/inflight", pointer: /inflight, every: 1s }
      grace: 30s
      stop_timeout: 5s
"#;

/// Two stop stages, a quiet point, two start stages, the API last behind a gateway.
pub fn staged() -> Scenario {
    let mut scenario = scenario("staged", manifest(STAGED), &["front", "back"]);
    scenario.knobs = vec![
        (name("api"), None, ready_after(400)),
        (name("scheduler"), None, ready_after(300)),
        (name("worker"), None, Knobs { jobs: vec![seconds(4)], ..ready_after(700) }),
    ];
    scenario
}

/// The same, paused in the middle and resumed.
pub fn paused() -> Scenario {
    let mut scenario = staged();
    scenario.name = "paused";
    scenario.moves = vec![Move::Begin, Move::Pause { ended: 12 }, Move::Resume { after: seconds(40) }];
    scenario
}

const ROLLING: &str = r#"
fleet: rolling
components:
  api:
    runtime: process
    release: { path: "/r/{version}" }
    command: ["run", "{version}"]
    ports: { http: auto }
    on: [front]
    replicas: 3
    update: { order: start-first, parallelism: 1, monitor: 2s }
    ready: { http: "http://{address}:{port}/health", every: 1s, successes: 2 }
    traffic: { gateway: { listen: ":8080", port: http } }
    min_available: 3
    drain: { grace: 20s }
"#;

/// Three of an API, start-first, one after the other.
pub fn rolling() -> Scenario {
    let mut scenario = scenario("rolling", manifest(ROLLING), &["front"]);
    scenario.knobs = vec![(name("api"), None, ready_after(400))];
    scenario
}

const FAILING: &str = r#"
fleet: failing
strategy: rolling
components:
  api:
    runtime: process
    release: { path: "/r/{version}" }
    command: ["run", "{version}"]
    ports: { http: auto }
    on: [front]
    replicas: 2
    update: { order: start-first, parallelism: 1, monitor: 1s }
    ready: { http: "http://{address}:{port}/health", every: 1s, deadline: 5s }
    traffic: { gateway: { listen: ":8080", port: http } }
    min_available: 2
    drain: { grace: 20s }
  worker:
    runtime: process
    release: { path: "/r/{version}" }
    command: ["run", "{version}"]
    on: [back]
    update: { monitor: 1s }
    ready: { http: "http://{address}/health", every: 1s }
    drain: { grace: 10s }
"#;

/// The worker gets its new version, the API's never gets ready: everything goes back by itself.
pub fn failing() -> Scenario {
    let mut scenario = scenario("failing", manifest(FAILING), &["front", "back"]);
    scenario.knobs = vec![
        (name("api"), Some("v2".to_owned()), Knobs::never_ready()),
        (name("worker"), None, Knobs { jobs: vec![seconds(2)], ..ready_after(200) }),
    ];
    scenario
}

const DRAINING: &str = r#"
fleet: draining
strategy: staged
components:
  worker:
    runtime: process
    release: { path: "/r/{version}" }
    command: ["run", "{version}"]
    ports: { http: auto }
    on: [front, back]
    replicas: 2
    update: { monitor: 1s }
    ready: { http: "http://{address}:{port}/health", every: 1s }
    drain:
      begin: { http: "http://{address}:{port}/drain" }
      inflight: { http: "http://{address}:{port}/inflight", pointer: /inflight, every: 1s }
      grace: 60s
      stop_timeout: 5s
  mule:
    runtime: process
    release: { path: "/r/{version}" }
    command: ["run", "{version}"]
    on: [back]
    update: { monitor: 1s }
    ready: { http: "http://{address}/health", every: 1s }
    drain: { begin: { signal: SIGTERM }, grace: 20s, stop_timeout: 5s }
"#;

/// Workers with a long job each, one process that only SIGKILL ends, and agents that stay away for long.
pub fn draining() -> Scenario {
    let mut scenario = scenario("draining", manifest(DRAINING), &["front", "back"]);
    scenario.knobs = vec![
        (name("worker"), None, Knobs { jobs: vec![seconds(12), seconds(3)], ..ready_after(200) }),
        (name("mule"), None, Knobs { ignores_term: true, ..ready_after(200) }),
    ];
    scenario
}

/// A gate and a hook at the quiet point, put into the plan by hand.
pub fn hooked() -> Scenario {
    let mut scenario = staged();
    scenario.name = "hooked";
    scenario.edit = Some(put_hook);
    scenario
}

fn put_hook(plan: &mut Plan) {
    let is_start = |step: &Step| matches!(step.kind, StepKind::Start { .. }) && step.stage.starts_with("start");
    let place = plan.steps.iter().position(is_start).unwrap() as u32;
    let moved = |id: StepId| if id.0 < place { id } else { StepId(id.0 + 2) };
    let mut steps = std::mem::take(&mut plan.steps);
    let stops: Vec<StepId> = steps
        .iter()
        .filter(|step| matches!(step.kind, StepKind::Stop { .. }) && step.id.0 < place)
        .map(|s| s.id)
        .collect();
    for step in &mut steps {
        let starts = is_start(step);
        step.id = moved(step.id);
        step.after.iter_mut().for_each(|after| *after = moved(*after));
        if starts {
            step.after.push(StepId(place + 1));
            step.after.sort();
        }
    }
    let like = steps[place as usize].clone();
    let own = |id: u32, kind: StepKind, after: Vec<StepId>| Step {
        id: StepId(id),
        kind,
        instance: None,
        after,
        while_ready: None,
        stage: "quiet point".to_owned(),
        ..like.clone()
    };
    let gate = Step { slot: None, agent: None, ..own(place, StepKind::Gate { name: "migrate?".to_owned() }, stops) };
    let run = own(place + 1, StepKind::Run { hook: "migrate".to_owned() }, vec![StepId(place)]);
    steps.splice(place as usize..place as usize, [gate, run]);
    plan.steps = steps;
}
