//! The fake behaves as a real runtime would, and its log can be believed.

use std::time::Duration;

use proptest::prelude::{Just, Strategy, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};

use super::*;
use crate::model::*;
use crate::runtime::process::testing::definition;
use crate::runtime::{Blueprint, Runtime};

fn at(millis: u64) -> Timestamp {
    Timestamp(millis)
}

fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

fn component(name: &str) -> ComponentName {
    ComponentName::new(name).unwrap()
}

fn blueprint(name: &str, version: &str) -> Blueprint {
    let digest = Digest(format!("{name}-{version}"));
    let definition = definition(name);
    Blueprint { definition, definition_digest: digest.clone(), spec: digest, version: Some(version.to_owned()) }
}

fn started(world: &mut FakeWorld, now: Timestamp, instance: &InstanceId, version: &str) {
    world.prepare(now, instance, &blueprint(instance.slot.component.as_str(), version)).unwrap();
    world.start(now, instance).unwrap();
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn state(world: &mut FakeWorld, now: Timestamp, instance: &InstanceId) -> InstanceState {
    let seen = world.inspect(now, &instance.slot).unwrap();
    seen.into_iter().find(|seen| seen.id == *instance).unwrap().state
}

#[test]
fn an_instance_is_ready_when_its_knob_says_and_not_before() {
    let mut world = FakeWorld::new();
    world.set(&component("api"), None, Knobs { ready_after: Some(seconds(2)), ..Knobs::default() });
    world.set(&component("api"), Some("bad"), Knobs::never_ready());
    let (good, bad) = (id("api-1.1"), id("api-2.1"));
    started(&mut world, at(0), &good, "v1");
    started(&mut world, at(0), &bad, "bad");
    assert_eq!(world.next_deadline(), Some(at(2_000)));
    assert_eq!(world.probe(at(1_999), &good).unwrap_err(), "HTTP 503");
    assert!(world.probe(at(2_000), &good).is_ok());
    assert!(world.probe(at(100_000), &bad).is_err());
    assert_eq!(world.serving(&component("api")), std::slice::from_ref(&good));
    let kinds: Vec<_> = world.advance(at(100_000)).into_iter().map(|event| (event.at, event.kind)).collect();
    assert_eq!(kinds, [(at(2_000), FakeEventKind::Ready)]);
}

#[test]
fn a_crashing_instance_starts_again_with_back_off_until_it_is_held() {
    let mut world = FakeWorld::new();
    world.set(&component("worker"), None, Knobs::exits_at_once(3));
    let instance = id("worker-1.1");
    started(&mut world, at(0), &instance, "v1");
    assert_eq!(state(&mut world, at(0), &instance), InstanceState::Restarting);
    world.advance(at(750));
    let begins: Vec<u64> = spans(world.log())[&instance].iter().map(|span| span.from.0).collect();
    assert_eq!(begins, [0, 100, 300, 700]);
    world.hold_restart(at(800), &instance).unwrap();
    assert_eq!(world.exit(at(60_000), &instance), Some(ExitStatus::Code(3)));
    assert_eq!(state(&mut world, at(60_000), &instance), InstanceState::Exited);
    assert_eq!(world.next_deadline(), None);
}

#[test]
fn a_drain_by_signal_ends_when_the_work_ends_and_a_kill_loses_it() {
    let mut world = FakeWorld::new();
    let knobs = Knobs { jobs: vec![seconds(10), seconds(3)], ..Knobs::default() };
    world.set(&component("worker"), None, knobs.clone());
    world.set(&component("deaf"), None, Knobs { ignores_term: true, ..knobs });
    let (good, killed, deaf) = (id("worker-1.1"), id("worker-2.1"), id("deaf-1.1"));
    for instance in [&good, &killed, &deaf] {
        started(&mut world, at(0), instance, "v1");
        world.hold_restart(at(1_000), instance).unwrap();
        world.signal(at(1_000), instance, "SIGTERM").unwrap();
    }
    assert_eq!(world.inflight(at(3_999), &good), Some(2));
    assert_eq!(world.inflight(at(4_000), &good), Some(1));
    world.kill(at(5_000), &killed).unwrap();
    assert_eq!(world.exit(at(10_999), &good), None);
    assert_eq!(world.exit(at(11_000), &good), Some(ExitStatus::Code(0)));
    assert_eq!(world.exit(at(11_000), &deaf), None);
    world.kill(at(12_000), &deaf).unwrap();
    let lost: Vec<_> = world
        .log()
        .iter()
        .filter_map(|entry| match &entry.what {
            Happening::JobsLost { instance, count } => Some((instance.clone(), *count)),
            _ => None,
        })
        .collect();
    assert_eq!(lost, [(killed, 1), (deaf, 2)]);
}

#[test]
fn a_drain_by_call_can_be_given_back_and_one_by_signal_cannot() {
    let mut world = FakeWorld::new();
    world.set(&component("worker"), None, Knobs { jobs: vec![seconds(5)], ..Knobs::default() });
    let instance = id("worker-1.1");
    started(&mut world, at(0), &instance, "v1");
    world.drain_call(at(0), &instance).unwrap();
    assert_eq!(world.inflight(at(6_000), &instance), Some(0));
    assert!(world.advance(at(6_000)).iter().any(|event| event.kind == FakeEventKind::Idle));
    world.undrain_call(at(7_000), &instance).unwrap();
    assert_eq!(world.inflight(at(7_000), &instance), Some(1));
    world.signal(at(8_000), &instance, "SIGTERM").unwrap();
    assert!(world.undrain_call(at(8_000), &instance).is_err());
}

#[test]
fn the_log_names_who_ran_beside_whom() {
    let mut world = FakeWorld::new();
    let (old, new) = (id("scheduler-1.1"), id("scheduler-1.2"));
    started(&mut world, at(0), &old, "v1");
    started(&mut world, at(5), &new, "v2");
    let beside: Vec<_> = world
        .log()
        .iter()
        .filter_map(
            |entry| if let Happening::Started { beside, .. } = &entry.what { Some(beside.clone()) } else { None },
        )
        .collect();
    assert_eq!(beside, [vec![], vec![old.clone()]]);
    assert!(spans(world.log())[&old][0].runs_at(at(5)));
    assert_eq!(world.running(&old.slot), [old, new]);
}

#[test]
fn a_second_process_on_a_port_that_is_not_passed_ends_at_once() {
    let mut world = FakeWorld::new();
    let port = |passed| NamedPort { name: "http".to_owned(), port: Port::Number(8080), host: None, passed };
    for (passed, running) in [(false, 1), (true, 2)] {
        let slot: SlotName = format!("api-{running}").parse().unwrap();
        for number in 1..=2 {
            let mut blueprint = blueprint("api", "v1");
            blueprint.definition.ports = vec![port(passed)];
            let instance = InstanceId::new(slot.clone(), number);
            world.prepare(at(0), &instance, &blueprint).unwrap();
            world.start(at(0), &instance).unwrap();
        }
        assert_eq!(world.running(&slot).len(), running);
    }
}

#[test]
fn faults_happen_once_each_and_a_lost_answer_is_unknown_whether_it_happened_or_not() {
    let mut world = FakeWorld::new();
    let instance = id("worker-1.1");
    world.prepare(at(0), &instance, &blueprint("worker", "v1")).unwrap();
    for happened in [false, true] {
        world.inject(&instance.slot, FakeAct::Start, Fault::Lost { happened });
    }
    for happened in [false, true] {
        let error = world.start(at(0), &instance).unwrap_err();
        assert!(error.unknown, "{error:?}");
        assert_eq!(state(&mut world, at(0), &instance) == InstanceState::Running, happened);
    }
    world.start(at(1), &instance).unwrap();
    assert_eq!(spans(world.log())[&instance].len(), 1, "a second start is no start");
}

#[test]
fn a_gateway_uses_a_table_when_its_targets_answer_and_counts_what_is_in_flight_on_the_released() {
    let mut world = FakeWorld::new();
    world.set(&component("api"), None, Knobs { ready_after: Some(seconds(1)), ..Knobs::default() });
    world.set_gateway(GatewayKnobs { requests: vec![seconds(2)], upgraded: 1 });
    let (gateway, api) = (id("gateway-1.1"), component("api"));
    let (old, new) = (id("api-1.1"), id("api-1.2"));
    started(&mut world, at(0), &old, "v1");
    let target = |instance: &InstanceId, admission| TableTarget {
        instance: instance.clone(),
        host: "127.0.0.1".to_owned(),
        port: 80,
        admission,
    };
    let first = [target(&old, Admission::Admitting)];
    assert!(world.switch(at(0), &gateway.slot, &api, &first, false).is_err(), "nobody is there");
    started(&mut world, at(0), &gateway, "v1");
    assert!(!world.switch(at(0), &gateway.slot, &api, &first, false).unwrap().in_use);
    assert!(world.gateway(at(1_000), &gateway.slot, &api).in_use);

    started(&mut world, at(2_000), &new, "v2");
    let second = [target(&new, Admission::Admitting), target(&old, Admission::Draining)];
    let reading = world.switch(at(2_000), &gateway.slot, &api, &second, false).unwrap();
    assert_eq!((reading.in_use, world.serving(&api)), (false, vec![old.clone()]));
    let reading = world.gateway(at(3_000), &gateway.slot, &api);
    assert_eq!((reading.in_use, reading.inflight), (true, 2));
    assert_eq!(world.serving(&api), std::slice::from_ref(&new));
    assert_eq!(world.next_deadline(), Some(at(5_000)));
    assert_eq!(world.gateway(at(5_000), &gateway.slot, &api).inflight, 1);
    let reading = world.switch(at(6_000), &gateway.slot, &api, &second, true).unwrap();
    assert_eq!((reading.inflight, reading.closed), (0, 1));
    world.kill(at(7_000), &old).unwrap();
    assert!(!world.log().iter().any(|entry| matches!(entry.what, Happening::RequestsCut { .. })));
    world.kill(at(8_000), &new).unwrap();
    assert!(world.log().iter().any(|entry| matches!(entry.what, Happening::RequestsCut { count: 1, .. })));
}

#[test]
fn after_a_reboot_what_was_started_and_not_held_is_started_by_whoever_adopts() {
    let mut world = FakeWorld::new();
    let (up, held) = (id("worker-1.1"), id("worker-2.1"));
    for instance in [&up, &held] {
        started(&mut world, at(0), instance, "v1");
    }
    world.hold_restart(at(10), &held).unwrap();
    world.reboot(at(1_000), &[up.slot.clone(), held.slot.clone()]);
    for instance in [&up, &held] {
        assert_eq!(world.exit(at(2_000), instance), Some(ExitStatus::Unknown));
        assert_eq!(state(&mut world, at(100_000), instance), InstanceState::Exited);
    }
    world.adopt_running(at(200_000), &[up.clone(), held.clone()]);
    let seen = world.inspect(at(200_000), &up.slot).unwrap().remove(0);
    assert_eq!((seen.state, seen.restarts), (InstanceState::Running, 1));
    assert_eq!(state(&mut world, at(200_000), &held), InstanceState::Exited);

    world.lose_keeper(at(201_000), &up.slot, false);
    world.hold_restart(at(201_000), &up).unwrap();
    world.kill(at(202_000), &up).unwrap();
    assert_eq!(world.exit(at(202_000), &up), Some(ExitStatus::Unknown));
}

#[test]
fn behind_the_port_it_waits_for_the_clock_that_it_is_given() {
    let mut world = FakeWorld::new();
    world.set(&component("migrate"), None, Knobs::job(seconds(3), 4));
    let runtime = FakeRuntime::new(world);
    let mut blueprint = blueprint("migrate", "v1");
    blueprint.definition.role = Some(Role::Job);
    let instance = id("migrate-1.1");
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        runtime.prepare(&instance, &blueprint).await.unwrap();
        runtime.start(&instance).await.unwrap();
        let mut hints = runtime.hints();
        let turn = async {
            tokio::task::yield_now().await;
            runtime.set_now(at(2_999));
            runtime.set_now(at(3_000));
        };
        let (status, ()) = tokio::join!(runtime.wait_exit(&instance), turn);
        assert_eq!(status.unwrap(), ExitStatus::Code(4));
        assert_eq!(hints.recv().await.unwrap().instance, Some(instance.clone()));
    });
}

/// One random act.
#[derive(Clone, Debug)]
enum Deed {
    Pass(u64),
    Prepare(u64),
    Start(u64),
    Hold(u64),
    Signal(u64),
    Kill(u64),
    Remove(u64),
    Reboot,
    Adopt,
}

fn deed() -> impl Strategy<Value = Deed> {
    let number = 1..4_u64;
    prop_oneof![
        (0..3_000_u64).prop_map(Deed::Pass),
        number.clone().prop_map(Deed::Prepare),
        number.clone().prop_map(Deed::Start),
        number.clone().prop_map(Deed::Hold),
        number.clone().prop_map(Deed::Signal),
        number.clone().prop_map(Deed::Kill),
        number.prop_map(Deed::Remove),
        Just(Deed::Reboot),
        Just(Deed::Adopt),
    ]
}

proptest! {
    #[test]
    fn whatever_is_done_the_log_is_in_order_and_agrees_with_what_is_seen(
        deeds in prop::collection::vec(deed(), 0..60),
        ready in prop::option::of(0..2_000_u64),
        dies in prop::option::of(0..2_000_u64),
        jobs in prop::collection::vec(0..4_000_u64, 0..3),
    ) {
        let mut world = FakeWorld::new();
        world.set(&component("worker"), None, Knobs {
            ready_after: ready.map(Duration::from_millis),
            dies_after_ready: dies.map(|after| (Duration::from_millis(after), ExitStatus::Code(1))),
            jobs: jobs.into_iter().map(Duration::from_millis).collect(),
            ..Knobs::default()
        });
        let slot: SlotName = "worker-1".parse().unwrap();
        let one = |number| InstanceId::new(slot.clone(), number);
        let mut now = at(0);
        for deed in deeds {
            // Errors are answers here: what may not be done is not done.
            match deed {
                Deed::Pass(millis) => { now = now + Duration::from_millis(millis); world.advance(now); }
                Deed::Prepare(number) => { let _ = world.prepare(now, &one(number), &blueprint("worker", "v1")); }
                Deed::Start(number) => { let _ = world.start(now, &one(number)); }
                Deed::Hold(number) => { let _ = world.hold_restart(now, &one(number)); }
                Deed::Signal(number) => { let _ = world.signal(now, &one(number), "SIGTERM"); }
                Deed::Kill(number) => { let _ = world.kill(now, &one(number)); }
                Deed::Remove(number) => { let _ = world.remove(now, &one(number)); }
                Deed::Reboot => world.reboot(now, std::slice::from_ref(&slot)),
                Deed::Adopt => world.adopt_running(now, &[one(1)]),
            }
            prop_assert!(world.next_deadline().is_none_or(|due| due > now), "something is due and was not done");
            let spans = spans(world.log());
            for seen in world.inspect(now, &slot).unwrap() {
                let runs = spans.get(&seen.id).and_then(|spans| spans.last()).is_some_and(|span| span.until.is_none());
                prop_assert_eq!(runs, seen.state == InstanceState::Running, "{:?}", seen);
                let open = spans.get(&seen.id).map_or(0, |spans| spans.iter().filter(|s| s.until.is_none()).count());
                prop_assert!(open <= 1, "one instance runs twice");
            }
        }
        prop_assert!(world.log().windows(2).all(|pair| pair[0].at <= pair[1].at));
    }
}
