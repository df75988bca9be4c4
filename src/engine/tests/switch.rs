//! Gateways: tables, ports, and the grace that begins when traffic is taken away.

use super::world::*;
use crate::engine::{Event, HoldReason, RollState};
use crate::model::*;

/// One API behind one gateway, start-first: the whole path of a zero-downtime replacement.
fn relay() -> (Build, [StepId; 5]) {
    let mut build = Build::up();
    build.slot("gateway-1", "host-g", ChangeKind::Keep).slot("api-1", "host-1", ChangeKind::Replace);
    let start = build.start("api-1", 2, &[]);
    let ready = build.ready("api-1", 2, &[start]);
    let switch = build.switch("gateway-1", &["api-1.2"], &["api-1.1"], &[ready]);
    build.while_ready(switch, "api-1.2");
    let drain = build.drain("api-1", 1, &[switch]);
    let stop = build.stop("api-1", 1, &[drain]);
    build.floor("api", 1);
    (build, [start, ready, switch, drain, stop])
}

fn targets(world: &World, gateway: &str) -> Vec<(String, u16, Admission)> {
    let Act::Switch { targets, .. } = &world.command(gateway).steps[0].act else { panic!("no switch") };
    targets.iter().map(|one| (one.instance.to_string(), one.port, one.admission)).collect()
}

fn target(id: &str, admission: Admission) -> TableTarget {
    TableTarget { instance: instance(id), host: "10.0.0.1".into(), port: 8001, admission }
}

fn set_table(world: &mut World, gateway: &str, on: &str, table: Vec<TableTarget>) {
    let report = world.reports.get_mut(&agent(on)).unwrap();
    let of_gateway = report.slots.entry(slot(gateway)).or_default();
    of_gateway.table.insert(table[0].instance.slot.component.clone(), table);
}

#[test]
fn a_table_loses_the_released_keeps_the_others_and_forgets_what_is_gone() {
    let (build, _) = relay();
    let mut world = World::new();
    world.observe(&build.plan);
    let old = [("api-1.1", Admission::Admitting), ("api-7.1", Admission::Admitting), ("api-1.0", Admission::Draining)];
    let table = old.into_iter().map(|(id, admission)| target(id, admission)).collect();
    set_table(&mut world, "gateway-1", "host-g", table);
    world.report("host-g");
    world.begin(build, "r1");
    world.finish("api-1");
    assert_eq!(
        targets(&world, "gateway-1"),
        [
            ("api-1.1".to_owned(), 8001, Admission::Draining),
            // Of a slot that this plan does not know: nobody can say that it is gone.
            ("api-7.1".to_owned(), 8001, Admission::Admitting),
            ("api-1.2".to_owned(), 8002, Admission::Admitting),
        ]
    );
    let command = world.command("gateway-1");
    assert_eq!(command.steps[0].precondition, Precondition::None, "the gateway proves its new targets itself");
    let Act::Switch { hold_max, drain, .. } = &command.steps[0].act else { panic!() };
    assert_eq!((*hold_max, *drain), (secs(30), secs(20)), "the wait for zero leaves the stop timeout");
    world.finish_all();
}

#[test]
fn an_instance_that_may_run_stays_in_the_table() {
    for (state, stays) in [
        (InstanceState::Running, true),
        (InstanceState::Restarting, true),
        (InstanceState::Unknown, true),
        (InstanceState::Exited, false),
        (InstanceState::Created, false),
    ] {
        let (mut build, _) = relay();
        build.slot("api-2", "host-2", ChangeKind::Keep);
        let mut world = World::new();
        world.observe(&build.plan);
        set_table(&mut world, "gateway-1", "host-g", vec![target("api-2.1", Admission::Admitting)]);
        world.report("host-g");
        world.set("host-2", seen("api-2.1", state, Health::Unknown));
        world.report("host-2");
        world.begin(build, "r1");
        world.finish("api-1");
        let there = targets(&world, "gateway-1").iter().any(|(id, ..)| id == "api-2.1");
        assert_eq!(there, stays, "{state:?}");
        if stays {
            continue;
        }
        world.event(Event::SessionLost(agent("host-2")));
        assert!(!world.is_idle("gateway-1"));
    }
}

#[test]
fn a_lost_agents_instances_stay_in_the_table() {
    let (mut build, _) = relay();
    build.slot("api-2", "host-2", ChangeKind::Keep);
    let mut world = World::new();
    world.observe(&build.plan);
    set_table(&mut world, "gateway-1", "host-g", vec![target("api-2.1", Admission::Admitting)]);
    world.report("host-g");
    world.set("host-2", seen("api-2.1", InstanceState::Exited, Health::Unknown));
    world.report("host-2");
    world.event(Event::SessionLost(agent("host-2")));
    world.begin(build, "r1");
    world.finish("api-1");
    assert!(targets(&world, "gateway-1").iter().any(|(id, ..)| id == "api-2.1"), "what it said is old");
}

#[test]
fn ports_are_found_by_name_by_published_number_or_stand_for_themselves() {
    for (port, ports, wanted) in [
        (PortRef::Name("http".into()), vec![("http", 1234)], Some(1234)),
        (PortRef::Name("http".into()), vec![("other", 1234)], None),
        (PortRef::Number(8080), vec![("8080", 32768)], Some(32768)),
        (PortRef::Number(8080), vec![("http", 8080)], Some(8080)),
        (PortRef::Number(8080), vec![], Some(8080)),
    ] {
        let (mut build, [_, _, switch, ..]) = relay();
        let StepKind::Switch { port: of_step, .. } = &mut build.plan.steps[switch.0 as usize].kind else { panic!() };
        *of_step = port.clone();
        let mut world = World::begun(build);
        let mut new = seen("api-1.2", InstanceState::Running, Health::Ready);
        let ports = ports.into_iter().map(|(name, number)| (name.to_owned(), number)).collect();
        new.endpoint = Some(Endpoint { address: "10.0.0.9".into(), ports });
        world.set("host-1", new);
        world.report("host-1");
        world.finish("api-1");
        match wanted {
            Some(number) => {
                let found = targets(&world, "gateway-1");
                assert_eq!(found.last().unwrap().1, number, "{port:?}");
            }
            None => {
                let failure = &world.engine.summaries()[0].failures[0];
                assert_eq!(failure.kind, FailureKind::Missing);
                assert_eq!(failure.by.as_deref(), Some("baton"));
                assert!(failure.message.contains("no port http, it has other"), "{}", failure.message);
                assert_eq!(world.state(), RollState::TurningBack);
            }
        }
    }
}

#[test]
fn where_an_instance_is_reached_is_remembered_across_a_restart() {
    let (build, _) = relay();
    let mut world = World::begun(build);
    world.finish("api-1");
    world.restart();
    world.event(Event::SessionUp(agent("host-g")));
    world.report("host-g");
    // The API's agent has not come back, its start has been told and synced.
    assert_eq!(targets(&world, "gateway-1").last().unwrap(), &("api-1.2".to_owned(), 8002, Admission::Admitting));
}

#[test]
fn an_instance_of_which_nothing_is_known_waits_for_its_agents_report() {
    let mut build = Build::up();
    build.slot("gateway-1", "host-g", ChangeKind::Touch).slot("api-1", "host-1", ChangeKind::Keep);
    build.switch("gateway-1", &["api-1.1"], &[], &[]);
    let mut world = World::new();
    world.reports.insert(agent("host-g"), inventory("host-g"));
    world.report("host-g");
    let plan = build.plan.clone();
    world.begin(build, "r1");
    assert!(world.flight().is_empty());
    assert_eq!(world.reasons(), [HoldReason::NoFreshReport { agent: agent("host-1") }]);
    world.observe(&plan);
    assert_eq!(targets(&world, "gateway-1"), [("api-1.1".to_owned(), 8001, Admission::Admitting)]);
}

#[test]
fn the_grace_is_measured_once_from_the_release() {
    for (passed, grace, stop_timeout) in [(0, 30, 10), (8, 22, 10), (25, 5, 5), (31, 0, 0), (3600, 0, 0)] {
        let (build, _) = relay();
        let mut world = World::begun(build);
        world.finish("api-1");
        world.pass(secs(passed));
        if passed > 10 {
            // Neither a restart nor a lost session begins it anew.
            world.restart();
            world.report_all();
        }
        world.finish("gateway-1");
        let command = world.command("api-1");
        let Act::Drain { grace: left, stop_timeout: kept, .. } = &command.steps[0].act else { panic!() };
        assert_eq!((*left, *kept), (secs(grace), secs(stop_timeout)), "{passed}s after the release");
        let Act::Stop { timeout, .. } = &command.steps[1].act else { panic!() };
        assert_eq!(*timeout, secs(stop_timeout));
    }
}

#[test]
fn a_second_gateway_gets_what_the_first_left_of_the_grace() {
    let mut build = Build::up();
    build.slot("gateway-1", "host-g", ChangeKind::Keep).slot("gateway-2", "host-h", ChangeKind::Keep);
    build.slot("api-1", "host-1", ChangeKind::Touch);
    let first = build.switch("gateway-1", &[], &["api-1.1"], &[]);
    let second = build.switch("gateway-2", &[], &["api-1.1"], &[first]);
    build.drain("api-1", 1, &[second]);
    let mut world = World::begun(build);
    world.pass(secs(6));
    world.finish("gateway-1");
    let Act::Switch { drain, .. } = &world.command("gateway-2").steps[0].act else { panic!() };
    assert_eq!(*drain, secs(14));
    world.finish("gateway-2");
    let Act::Drain { grace, .. } = &world.command("api-1").steps[0].act else { panic!() };
    assert_eq!(*grace, secs(24), "the second release does not begin the grace anew");
}

#[test]
fn switches_of_one_gateway_follow_each_other_and_see_each_others_table() {
    let mut build = Build::up();
    build.slot("gateway-1", "host-g", ChangeKind::Keep);
    for name in ["api-1", "api-2"] {
        build.slot(name, "host-1", ChangeKind::Replace);
    }
    for name in ["api-1", "api-2"] {
        let start = build.start(name, 2, &[]);
        let (old, new) = (format!("{name}.1"), format!("{name}.2"));
        build.switch("gateway-1", &[&new], &[&old], &[start]);
    }
    let mut world = World::begun(build);
    world.finish("api-1");
    world.finish("api-2");
    assert_eq!(targets(&world, "gateway-1").len(), 1);
    world.finish("gateway-1");
    let ids: Vec<String> = targets(&world, "gateway-1").into_iter().map(|(id, ..)| id).collect();
    assert_eq!(ids, ["api-1.2", "api-2.2"], "without waiting for a report of the gateway's agent");
}

#[test]
fn a_recalled_switch_has_released_nobody() {
    let (mut build, [_, _, switch, ..]) = relay();
    build.limits("api", |limits| limits.failure_action = FailureAction::Pause);
    let mut world = World::begun(build);
    world.finish("api-1");
    world.ask(crate::engine::Request::Rollback);
    world.answer("gateway-1", &[RECALLED]);
    world.event(Event::RollbackImpossible { parent: roll("r1"), why: "no".into() });
    world.pass(secs(20));
    world.ask(crate::engine::Request::Resume);
    assert_eq!(world.command("gateway-1").id.step, switch);
    world.finish("gateway-1");
    let Act::Drain { grace, .. } = &world.command("api-1").steps[0].act else { panic!() };
    assert_eq!(*grace, secs(30));
}
