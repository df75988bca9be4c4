//! `parallelism`: who has a place, in which order, and for how long.

use super::world::*;
use crate::engine::{Event, HoldReason, Request};
use crate::model::*;

fn rolling(count: usize, parallelism: u32) -> Build {
    let mut build = Build::workers(count);
    build.lane("worker", parallelism);
    build
}

#[test]
fn one_at_a_time_in_the_lanes_order() {
    let mut build = rolling(3, 1);
    build.limits("worker", |limits| limits.lane = vec![slot("worker-2"), slot("worker-3"), slot("worker-1")]);
    let mut world = World::begun(build);
    let mut order = Vec::new();
    while let Some(next) = world.flight().first() {
        assert_eq!(world.flight().len(), 1);
        let on = next.split(':').next().unwrap().to_owned();
        world.finish(&on);
        order.push(on);
    }
    assert_eq!(order, ["worker-2", "worker-3", "worker-1"]);
}

#[test]
fn a_place_is_kept_through_soak_and_delay_and_given_back_before_retire() {
    let mut build = Build::up();
    for index in 1..=2 {
        let name = format!("worker-{index}");
        build.slot(&name, "host-1", ChangeKind::Replace);
    }
    for index in 1..=2 {
        let name = format!("worker-{index}");
        let drain = build.drain(&name, 1, &[]);
        let soak = build.soak(&name, 2, &[drain]);
        let delay = build.delay(&name, secs(9), &[soak]);
        build.retire(&name, 1, &[delay]);
    }
    build.lane("worker", 1);
    let mut world = World::begun(build);
    assert_eq!(world.flight(), ["worker-1: drain soak"]);
    world.finish("worker-1");
    assert!(world.flight().is_empty(), "the delay keeps the place");
    world.pass(secs(9));
    assert_eq!(world.flight(), ["worker-1: retire", "worker-2: drain soak"]);
}

#[test]
fn zero_means_all_and_two_means_two() {
    assert_eq!(World::begun(rolling(4, 0)).flight().len(), 4);
    let mut world = World::begun(rolling(4, 2));
    assert_eq!(world.flight().len(), 2);
    // Places are given back when the soak is done, before the old one is removed.
    world.answer("worker-1", &[DONE; 5]);
    assert_eq!(world.flight().len(), 3);
    assert!(world.is_idle("worker-4"));
}

#[test]
fn prepare_needs_no_place() {
    let mut build = Build::up();
    for index in 1..=3 {
        build.slot(&format!("worker-{index}"), "host-1", ChangeKind::Replace);
    }
    let prepared: Vec<StepId> = (1..=3).map(|index| build.prepare(&format!("worker-{index}"), 2, &[])).collect();
    for index in 1..=3 {
        build.stop_first(&format!("worker-{index}"), &prepared);
    }
    build.lane("worker", 1);
    let mut world = World::begun(build);
    assert_eq!(world.flight().len(), 3);
    world.finish("worker-1");
    world.finish("worker-3");
    assert_eq!(world.flight(), ["worker-2: prepare"], "create everything before anything stops");
    world.finish("worker-2");
    assert_eq!(world.flight(), ["worker-1: drain stop start ready soak retire"]);
}

#[test]
fn a_slot_whose_turn_has_not_come_waits_though_a_later_one_could_go() {
    let mut build = Build::up();
    for index in 1..=2 {
        build.slot(&format!("worker-{index}"), &format!("host-{index}"), ChangeKind::Replace);
    }
    let slow = build.prepare("worker-1", 2, &[]);
    build.stop_first("worker-1", &[slow]);
    build.stop_first("worker-2", &[]);
    build.lane("worker", 1);
    let mut world = World::begun(build);
    assert_eq!(world.flight(), ["worker-1: prepare"], "order does not depend on who prepares faster");
    world.event(Event::SessionLost(agent("host-1")));
    assert_eq!(world.flight().len(), 1 + 1, "but nobody waits with a lost agent");
    assert!(!world.is_idle("worker-2"));
}

#[test]
fn a_lost_agents_slots_do_not_keep_the_others_waiting() {
    let build = rolling(2, 1);
    let mut world = World::new();
    world.observe(&build.plan);
    world.event(Event::SessionLost(agent("host-1")));
    world.begin(build, "r1");
    assert_eq!(world.flight(), ["worker-2: drain stop start ready soak retire"]);
    world.finish("worker-2");
    assert!(world.reasons().contains(&HoldReason::AgentUnreachable { agent: agent("host-1") }));
    world.event(Event::SessionUp(agent("host-1")));
    assert!(world.flight().is_empty(), "nothing before a fresh report");
    assert!(world.reasons().contains(&HoldReason::NoFreshReport { agent: agent("host-1") }));
    world.report("host-1");
    assert_eq!(world.flight(), ["worker-1: drain stop start ready soak retire"]);
}

#[test]
fn a_retried_slot_asks_for_a_place_anew() {
    let mut build = rolling(3, 1);
    build.limits("worker", |limits| limits.failure_action = FailureAction::Continue);
    let mut world = World::begun(build);
    world.answer("worker-1", &[DONE, DONE, failed(FailureKind::Refused), SKIPPED, SKIPPED, SKIPPED]);
    assert_eq!(world.flight(), ["worker-2: drain stop start ready soak retire"], "the failed slot gave its place back");
    world.ask(Request::Retry);
    assert_eq!(world.flight().len(), 1, "two at a time would break the limit");
    world.answer("worker-2", &[DONE; 5]);
    let next = &world.flight()[0];
    assert_eq!(next, "worker-1: start ready soak retire", "in the lane's order it comes before worker-3");
    assert!(world.is_idle("worker-3"));
}

#[test]
fn the_view_tells_who_waits_for_a_place() {
    let world = World::begun(rolling(3, 1));
    let hold = world.view().holds.pop().unwrap();
    assert_eq!(
        hold.reason,
        HoldReason::Parallelism { component: component("worker"), working: vec![slot("worker-1")], limit: 1 }
    );
    assert_eq!(hold.slots, [slot("worker-2"), slot("worker-3")]);
}
