//! Two fake runtimes behind one port.

use super::*;
use crate::model::{Digest, InstanceState};
use crate::runtime::fake::{FakeAct, FakeRuntime, FakeWorld, Fault};
use crate::runtime::process::testing::definition;

struct Rig {
    processes: Arc<FakeRuntime>,
    containers: Arc<FakeRuntime>,
    several: Several,
}

fn rig() -> Rig {
    let processes = Arc::new(FakeRuntime::of_kind(FakeWorld::new(), RuntimeKind::Process));
    let containers = Arc::new(FakeRuntime::of_kind(FakeWorld::new(), RuntimeKind::Docker));
    let several = Several::new(vec![processes.clone(), containers.clone()]);
    Rig { processes, containers, several }
}

fn blueprint(component: &str, runtime: RuntimeKind) -> Blueprint {
    let definition = Definition { runtime, ..definition(component) };
    Blueprint { definition, definition_digest: Digest("d".into()), spec: Digest("s".into()), version: None }
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn broken() -> RuntimeError {
    RuntimeError { kind: FailureKind::Deadline, unknown: true, retryable: true, message: "engine down".to_owned() }
}

#[tokio::test]
async fn each_instance_is_handed_to_the_runtime_that_has_it() {
    let Rig { processes, containers, several } = rig();
    assert_eq!(several.kinds(), [RuntimeKind::Docker, RuntimeKind::Process]);
    let (door, api) = (id("gateway-1.1"), id("api-1.1"));
    several.prepare(&door, &blueprint("gateway", RuntimeKind::Process)).await.unwrap();
    several.prepare(&api, &blueprint("api", RuntimeKind::Docker)).await.unwrap();
    several.start(&api).await.unwrap();
    assert_eq!(processes.slots().await.unwrap(), std::slice::from_ref(&door.slot));
    assert_eq!(containers.slots().await.unwrap(), std::slice::from_ref(&api.slot));
    assert_eq!(several.slots().await.unwrap(), [api.slot.clone(), door.slot.clone()]);
    // One that knows nothing yet finds out by itself.
    let anew = Several::new(vec![processes.clone(), containers.clone()]);
    anew.kill(&api).await.unwrap();
    assert_eq!(containers.inspect(&api.slot).await.unwrap()[0].state, InstanceState::Exited);
    anew.remove(&api).await.unwrap();
    assert!(anew.inspect(&api.slot).await.unwrap().is_empty());
}

#[tokio::test]
async fn an_engine_that_is_down_hides_no_process_and_loses_no_container() {
    let Rig { processes, containers, several } = rig();
    let (door, api) = (id("gateway-1.1"), id("api-1.1"));
    several.prepare(&door, &blueprint("gateway", RuntimeKind::Process)).await.unwrap();
    several.prepare(&api, &blueprint("api", RuntimeKind::Docker)).await.unwrap();
    // Both have something in this slot: it was moved from one runtime to the other.
    processes.prepare(&id("api-1.2"), &blueprint("api", RuntimeKind::Process)).await.unwrap();
    for slot in [&door.slot, &api.slot] {
        containers.world().inject(slot, FakeAct::Inspect, Fault::Fails(broken()));
    }
    assert_eq!(several.inspect(&door.slot).await.unwrap().len(), 1);
    assert!(several.inspect(&api.slot).await.is_err(), "a container was taken for gone");
    assert_eq!(several.inspect(&api.slot).await.unwrap().len(), 2);
    // Nobody knows yet whose it is, and one does not answer: that is no reason to ask the other.
    containers.world().inject(&id("new-1.1").slot, FakeAct::Inspect, Fault::Fails(broken()));
    assert!(several.signal(&id("new-1.1"), "SIGTERM").await.unwrap_err().message.contains("engine down"));
}

#[tokio::test]
async fn a_definition_that_no_runtime_is_for_is_a_problem_in_words() {
    let only = Several::new(vec![Arc::new(FakeRuntime::new(FakeWorld::new()))]);
    let docker = blueprint("api", RuntimeKind::Docker);
    let problem = only.resolve(&docker.definition, false).await.problem.unwrap();
    assert!(problem.contains("no runtime") && problem.contains("docker"), "{problem}");
    assert!(only.prepare(&id("api-1.1"), &docker).await.is_err());
}

#[tokio::test]
async fn hints_of_all_arrive() {
    let Rig { processes, containers, several } = rig();
    let mut hints = several.hints();
    for (runtime, instance) in [(&processes, "door-1.1"), (&containers, "api-1.1")] {
        let instance = id(instance);
        let kind = runtime.kinds()[0];
        let component = instance.slot.component.to_string();
        runtime.prepare(&instance, &blueprint(&component, kind)).await.unwrap();
        runtime.start(&instance).await.unwrap();
        runtime.set_now(crate::model::Timestamp::ZERO);
        assert_eq!(hints.recv().await.unwrap().slot, instance.slot);
    }
}
