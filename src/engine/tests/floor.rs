//! `min_available`: what must keep serving at every instant.

use super::world::*;
use crate::engine::{Event, HoldReason};
use crate::model::*;

/// Three APIs on three hosts, replaced stop-first, all at once as far as the floor lets them.
fn three(min: u32) -> Build {
    let mut build = Build::up();
    for index in 1..=3 {
        build.slot(&format!("api-{index}"), &format!("host-{index}"), ChangeKind::Replace);
    }
    for index in 1..=3 {
        build.stop_first(&format!("api-{index}"), &[]);
    }
    build.lane("api", 0).floor("api", min);
    build
}

fn floor(serving: u32, min_available: u32) -> HoldReason {
    HoldReason::Floor { component: component("api"), serving, min_available }
}

#[test]
fn as_many_go_at_once_as_the_floor_allows() {
    for (min, at_once) in [(0, 3), (1, 2), (2, 1), (3, 0)] {
        let world = World::begun(three(min));
        assert_eq!(world.flight().len(), at_once, "floor {min}");
        assert_eq!(world.reasons().contains(&floor(3 - at_once as u32, min)), min > 0);
    }
}

#[test]
fn the_next_goes_when_the_new_one_is_ready() {
    let mut world = World::begun(three(2));
    world.answer("api-1", &[DONE, DONE, DONE]);
    assert!(world.is_idle("api-2"), "started is not ready");
    world.answer("api-1", &[DONE]);
    assert!(!world.is_idle("api-2"), "ready counts without waiting for the next report");
}

#[test]
fn one_unhealthy_of_three_keeps_the_healthy_up_and_is_itself_repaired() {
    let build = three(2);
    let mut world = World::new();
    world.observe(&build.plan);
    world.set("host-3", seen("api-3.1", InstanceState::Running, Health::Unready));
    world.report("host-3");
    world.begin(build, "r1");
    assert_eq!(world.flight(), ["api-3: drain stop start ready soak retire"], "what does not serve costs nothing");
    assert!(world.reasons().contains(&floor(2, 2)));
    world.answer("api-3", &[DONE; 4]);
    assert!(!world.is_idle("api-1"), "the repaired one carries the next");
}

#[test]
fn only_what_is_known_and_fresh_serves() {
    type Spoil = fn(&mut World);
    let cases: [(&str, Spoil); 5] = [
        ("session lost", |world| drop(world.event(Event::SessionLost(agent("host-3"))))),
        ("no report since it came back", |world| {
            world.event(Event::SessionLost(agent("host-3")));
            world.event(Event::SessionUp(agent("host-3")));
        }),
        ("nobody could look", |world| {
            world.set("host-3", seen("api-3.1", InstanceState::Unknown, Health::Ready));
            world.report("host-3");
        }),
        ("never probed", |world| {
            world.set("host-3", seen("api-3.1", InstanceState::Running, Health::Unknown));
            world.report("host-3");
        }),
        ("drained", |world| {
            let drained = InstanceObservation { admission: Admission::Drained, ..running("api-3.1") };
            world.set("host-3", drained);
            world.report("host-3");
        }),
    ];
    for (name, spoil) in cases {
        let build = three(2);
        let mut world = World::new();
        world.observe(&build.plan);
        spoil(&mut world);
        world.begin(build, "r1");
        assert!(world.is_idle("api-1") && world.is_idle("api-2"), "{name}: {:?}", world.flight());
        assert!(world.reasons().contains(&floor(2, 2)), "{name}: {:?}", world.reasons());
    }
}

#[test]
fn what_may_serve_though_nobody_can_say_is_not_taken_down_below_the_floor() {
    // The gateway answers, the APIs' agents do not: releasing them would cost nobody that is known to serve.
    let (build, _) = behind_gateway();
    let mut world = World::new();
    world.observe(&build.plan);
    for host in ["host-1", "host-2"] {
        world.event(Event::SessionLost(agent(host)));
    }
    world.begin(build, "r1");
    assert!(world.is_idle("gateway-1"));
    assert!(world.reasons().contains(&HoldReason::Floor { component: component("api"), serving: 0, min_available: 1 }));
    world.event(Event::SessionUp(agent("host-1")));
    assert!(world.is_idle("gateway-1"), "back is not yet known");
    world.report("host-1");
    // The only one known to serve stays; it carries the floor for the other.
    assert_eq!(world.command("gateway-1").id.step, StepId(6));
}

#[test]
fn without_a_probe_running_is_all_that_can_be_said() {
    for (wait, goes) in [(ReadyWait::Weak { steady: secs(5) }, true), (ReadyWait::Probe { successes: 1 }, false)] {
        let mut build = three(2);
        for step in &mut build.plan.steps {
            if let StepKind::Ready { wait: of_step, .. } = &mut step.kind {
                *of_step = wait.clone();
            }
        }
        let mut world = World::new();
        world.observe(&build.plan);
        for index in 1..=3 {
            let host = format!("host-{index}");
            world.set(&host, seen(&format!("api-{index}.1"), InstanceState::Running, Health::Unknown));
            world.report(&host);
        }
        world.begin(build, "r1");
        assert_eq!(world.flight().len(), usize::from(goes), "{wait:?}");
    }
}

#[test]
fn an_old_report_does_not_bring_back_what_the_roll_takes_down() {
    let mut world = World::begun(three(2));
    assert_eq!(world.flight().len(), 1);
    // It still says that api-1.1 serves, and in a moment it will not.
    world.report("host-1");
    assert_eq!(world.flight().len(), 1);
    world.answer("api-1", &[DONE, DONE]);
    world.report("host-1");
    assert_eq!(world.flight().len(), 1);
}

#[test]
fn start_first_costs_nothing() {
    let mut build = Build::up();
    build.slot("api-1", "host-1", ChangeKind::Replace);
    build.start_first("api-1", &[]);
    build.lane("api", 1).floor("api", 1);
    let world = World::begun(build);
    assert_eq!(world.flight(), ["api-1: start ready soak drain stop retire"]);
}

#[test]
fn a_list_is_cut_before_the_step_that_the_floor_forbids() {
    let mut build = Build::up();
    for index in 1..=2 {
        build.slot(&format!("api-{index}"), "host-1", ChangeKind::Replace);
        let name = format!("api-{index}");
        let prepare = build.prepare(&name, 2, &[]);
        build.stop_first(&name, &[prepare]);
    }
    build.floor("api", 1);
    let world = World::begun(build);
    assert_eq!(world.flight(), ["api-1: prepare drain stop start ready soak retire", "api-2: prepare"]);
}

#[test]
fn drained_by_hand_neither_counts_nor_costs() {
    let mut build = three(2);
    build.limits("api", |limits| limits.counted.retain(|one| *one != slot("api-3")));
    let world = World::begun(build);
    assert_eq!(world.flight(), ["api-3: drain stop start ready soak retire"]);
}

/// Two APIs behind a gateway, replaced stop-first without a limit but the floor.
fn behind_gateway() -> (Build, [StepId; 2]) {
    let mut build = Build::up();
    build.slot("gateway-1", "host-g", ChangeKind::Keep);
    let mut admits = Vec::new();
    for index in 1..=2 {
        build.slot(&format!("api-{index}"), &format!("host-{index}"), ChangeKind::Replace);
    }
    for index in 1..=2 {
        let name = format!("api-{index}");
        let (old, new) = (format!("{name}.1"), format!("{name}.2"));
        let release = build.switch("gateway-1", &[], &[&old], &[]);
        let drain = build.drain(&name, 1, &[release]);
        let stop = build.stop(&name, 1, &[drain]);
        let start = build.start(&name, 2, &[stop]);
        let ready = build.ready(&name, 2, &[start]);
        admits.push(build.switch("gateway-1", &[&new], &[], &[ready]));
    }
    build.lane("api", 0).floor("api", 1);
    (build, [admits[0], admits[1]])
}

#[test]
fn an_instance_serves_only_when_the_gateway_sends_it_requests() {
    let (build, admits) = behind_gateway();
    let mut world = World::new();
    world.observe(&build.plan);
    let target = |id: &str| TableTarget {
        instance: instance(id),
        host: "10.0.0.1".into(),
        port: 8001,
        admission: Admission::Admitting,
    };
    let report = world.reports.get_mut(&agent("host-g")).unwrap();
    let of_gateway = report.slots.get_mut(&slot("gateway-1")).unwrap();
    of_gateway.table.insert(component("api"), vec![target("api-1.1"), target("api-2.1")]);
    world.report("host-g");
    world.begin(build, "r1");
    assert_eq!(world.command("gateway-1").id.step, StepId(0));
    world.finish("gateway-1");
    assert!(world.is_idle("gateway-1"), "the other release would leave nobody");
    world.finish("api-1");
    // Ready, but no request reaches it yet: releasing the other one now would be an outage.
    assert_eq!(world.command("gateway-1").id.step, admits[0]);
    world.finish("gateway-1");
    assert_eq!(world.command("gateway-1").id.step, StepId(6));
    world.finish_all();
}
