//! What a failure does: ratio, action, the safe point, and the way back.

use super::world::*;
use crate::engine::{Effect, Event, HoldReason, Key, Record, Request, RequestError, RollResult, RollState};
use crate::model::*;

/// Workers one after the other, with this action and ratio (parts per million).
fn workers(count: usize, action: FailureAction, ratio: u32) -> Build {
    let mut build = Build::workers(count);
    build.lane("worker", 1).limits("worker", |limits| {
        limits.failure_action = action;
        limits.max_failure_ratio = Ratio(ratio);
    });
    build
}

/// The slot's old one is down and its new one never gets ready.
fn never_ready(world: &mut World, on: &str) -> Vec<Record> {
    world.answer(on, &[DONE, DONE, DONE, failed(FailureKind::NotReady), SKIPPED, SKIPPED])
}

fn rollback_of(parent: &str) -> Build {
    let mut build = Build::new(PlanKind::Rollback { of: roll(parent) });
    build.plan.version = Some("v1".to_owned());
    build.slot("worker-1", "host-1", ChangeKind::Replace);
    build.start("worker-1", 1, &[]);
    build.limits("worker", |_| {});
    build
}

fn planned(parent: &str, child: &str) -> Event {
    Event::RollbackPlanned { parent: roll(parent), roll: roll(child), plan: Box::new(rollback_of(parent).plan) }
}

#[test]
fn a_failure_is_rolled_back_by_itself() {
    let mut build = workers(2, FailureAction::Rollback, 0);
    build.limits("worker", |limits| limits.parallelism = 2);
    let mut world = World::begun(build);
    let other = world.command("worker-2").id;
    never_ready(&mut world, "worker-1");
    assert_eq!(world.state(), RollState::TurningBack);
    // What has begun is called back; the way back is planned only when nothing moves any more.
    assert_eq!(
        world.engine.effect(&Key::Recall(other.clone())),
        Some(Effect::Recall { agent: agent("host-2"), command: other.clone() })
    );
    assert!(!world.has(&Key::PlanRollback(roll("r1"))));
    assert!(world.event(planned("r1", "r2")).is_empty(), "too early");
    assert!(matches!(world.reasons()[0], HoldReason::Finishing { .. }));
    world.answer("worker-2", &[DONE, RECALLED, RECALLED, RECALLED, RECALLED, RECALLED]);
    assert_eq!(world.engine.effect(&Key::PlanRollback(roll("r1"))), Some(Effect::PlanRollback { roll: roll("r1") }));
    assert!(world.event(planned("r9", "r2")).is_empty(), "the answer to another question");

    let records = world.single(planned("r1", "r2"));
    let [Record::RollEnded { result, .. }, Record::RollBegan { parent, number, actor, .. }] = records.as_slice() else {
        panic!("the end and the begin must be one append: {records:?}")
    };
    assert!(matches!(result, RollResult::RolledBack { by, .. } if *by == roll("r2")));
    assert_eq!((parent.as_ref(), *number, actor.as_str()), (Some(&roll("r1")), RollNumber(2), "baton"));
    world.event(Event::Tick);
    world.finish_all();
    assert_eq!(world.state(), RollState::Ended(RollResult::Succeeded));
    assert_eq!(world.engine.last_version().as_deref(), Some("v1"));
    let summary = &world.engine.summaries()[0];
    assert!(summary.result.as_ref().unwrap().why().unwrap().contains("ready of worker-1.2 failed: it said no"));
    assert_eq!(summary.failures[0].log, ["last line"]);
}

#[test]
fn turning_back_survives_a_restart_at_each_record() {
    for kill_after in 0..3 {
        let mut world = World::begun(workers(2, FailureAction::Rollback, 0));
        let command = world.command("worker-1");
        let tell = |step: u32, result: StepResult| Event::Outcome {
            agent: agent("host-1"),
            outcome: Outcome {
                command: command.id.clone(),
                slot: slot("worker-1"),
                step: StepId(step),
                result,
                endpoint: None,
            },
        };
        world.single(tell(0, failed(FailureKind::Refused)));
        if kill_after == 1 {
            world.single(Event::Tick);
        }
        for step in 1..6 {
            world.single(tell(step, SKIPPED));
        }
        if kill_after == 2 {
            world.event(Event::Tick);
        }
        world.restart();
        world.report_all();
        assert!(world.has(&Key::PlanRollback(roll("r1"))), "killed at {kill_after}");
    }
}

#[test]
fn a_rollback_is_never_rolled_back() {
    let mut world = World::begun(workers(1, FailureAction::Rollback, 0));
    never_ready(&mut world, "worker-1");
    world.event(planned("r1", "r2"));
    assert_eq!(world.engine.may(&Request::Rollback), Err(RequestError::RollbackOfRollback { number: RollNumber(2) }));
    world.answer("worker-1", &[failed(FailureKind::Refused)]);
    assert_eq!(world.state(), RollState::NeedsPerson { safe: true });
    world.ask(Request::Abort);
    assert!(matches!(world.state(), RollState::Ended(RollResult::Failed { .. })));
}

#[test]
fn without_a_way_back_a_person_is_needed() {
    let mut world = World::begun(workers(1, FailureAction::Rollback, 0));
    never_ready(&mut world, "worker-1");
    world.event(Event::RollbackImpossible { parent: roll("r1"), why: "v1 is gone".into() });
    assert_eq!(world.state(), RollState::NeedsPerson { safe: true });
    assert_eq!(world.reasons(), [HoldReason::NoWayBack { why: "v1 is gone".into() }]);
    world.ask(Request::Retry);
    assert_eq!(world.flight(), ["worker-1: start ready soak retire"]);

    // A plan that nobody could carry out is no way back either.
    let mut world = World::begun(workers(1, FailureAction::Rollback, 0));
    never_ready(&mut world, "worker-1");
    let mut plan = rollback_of("r1").plan;
    plan.steps[0].agent = None;
    world.event(Event::RollbackPlanned { parent: roll("r1"), roll: roll("r2"), plan: Box::new(plan) });
    assert!(matches!(world.reasons()[0], HoldReason::NoWayBack { .. }));
}

#[test]
fn pause_holds_the_roll_for_a_person() {
    let mut world = World::begun(workers(2, FailureAction::Pause, 0));
    never_ready(&mut world, "worker-1");
    assert_eq!(world.state(), RollState::NeedsPerson { safe: true });
    assert!(world.flight().is_empty(), "no other slot is touched");
    let view = world.view();
    let HoldReason::Failed { step: StepId(3), why } = &view.holds[0].reason else { panic!("{:?}", view.holds) };
    assert!(why.contains("it said no"));
    let of_slot = view.slots.iter().find(|one| one.slot == slot("worker-1")).unwrap();
    assert_eq!(of_slot.phase, "failed");
    assert_eq!(of_slot.failure.as_ref().unwrap().1, ["last line"]);
}

#[test]
fn continue_goes_on_without_the_slot_and_keeps_its_way_back() {
    let mut world = World::begun(workers(3, FailureAction::Continue, 0));
    never_ready(&mut world, "worker-1");
    assert_eq!(world.flight(), ["worker-2: drain stop start ready soak retire"]);
    world.finish_all();
    let RollState::Ended(RollResult::Failed { why }) = world.state() else { panic!("{:?}", world.state()) };
    assert!(why.contains("without worker-1,") && why.contains("`baton rollback`"), "{why}");
    assert!(world.engine.succeeded().is_empty(), "what is missing a slot has not succeeded");
    let summary = &world.engine.summaries()[0];
    assert_eq!(summary.given_up, [slot("worker-1")]);
    assert_eq!((summary.steps_done, summary.steps_total), (15, 18), "soak and retire of worker-1 were not done");
}

#[test]
fn within_the_ratio_the_roll_goes_on_and_beyond_it_the_action_is_taken() {
    // One of four is 25 %: allowed by 25 %, which is a strict bound; two are not.
    let mut world = World::begun(workers(4, FailureAction::Rollback, 250_000));
    never_ready(&mut world, "worker-1");
    assert_eq!(world.state(), RollState::Running);
    never_ready(&mut world, "worker-2");
    assert_eq!(world.state(), RollState::TurningBack);
    // What the ratio allows is allowed to the end, and with `continue` no more than that either.
    for (without, word) in [(&["worker-1"][..], "succeeded"), (&["worker-1", "worker-2"], "failed")] {
        let mut world = World::begun(workers(4, FailureAction::Continue, 250_000));
        for slot in without {
            never_ready(&mut world, slot);
        }
        world.finish_all();
        let RollState::Ended(result) = world.state() else { panic!("{:?}", world.state()) };
        assert_eq!(result.word(), word, "{without:?}");
    }
}

#[test]
fn failures_are_counted_across_restarts_of_the_coordinator() {
    let mut world = World::begun(workers(4, FailureAction::Rollback, 250_000));
    never_ready(&mut world, "worker-1");
    world.restart();
    world.report_all();
    never_ready(&mut world, "worker-2");
    assert_eq!(world.state(), RollState::TurningBack, "the first failure is not forgotten");
}

#[test]
fn a_slot_counts_once_however_often_it_fails() {
    let mut build = workers(4, FailureAction::Rollback, 250_000);
    build.limits("worker", |limits| limits.parallelism = 0);
    let mut world = World::begun(build);
    for _ in 0..3 {
        let steps = world.command("worker-1").steps.len();
        world.answer("worker-1", &[failed(FailureKind::Refused)]);
        world.answer("worker-1", &vec![SKIPPED; steps - 1]);
        assert_eq!(world.state(), RollState::Running, "one slot of four is within the ratio");
        world.ask(Request::Retry);
    }
    world.finish_all();
    assert_eq!(world.state(), RollState::Ended(RollResult::Succeeded));
    let summary = &world.engine.summaries()[0];
    assert_eq!(summary.failures.len(), 3);
    assert_eq!(summary.failed_slots, [(component("worker"), vec![slot("worker-1")])]);
    assert!(summary.given_up.is_empty());
}

#[test]
fn a_failure_after_a_retry_meets_what_was_counted_before() {
    let mut world = World::begun(workers(4, FailureAction::Rollback, 250_000));
    never_ready(&mut world, "worker-1");
    world.ask(Request::Retry);
    world.finish("worker-2");
    // worker-1 gets through now, and worker-3 fails: two of four have failed in this roll.
    world.finish("worker-1");
    never_ready(&mut world, "worker-3");
    assert_eq!(world.state(), RollState::TurningBack);
}

#[test]
fn a_later_stage_waits_only_for_slots_that_are_not_given_up() {
    let mut build = Build::up();
    for (name, host) in [("worker-1", "host-1"), ("worker-2", "host-2"), ("api-1", "host-3")] {
        build.slot(name, host, ChangeKind::Replace);
    }
    let one = build.stop_first("worker-1", &[]);
    let two = build.stop_first("worker-2", &[]);
    build.stop_first("api-1", &[one[4], two[4]]);
    build.limits("worker", |limits| limits.failure_action = FailureAction::Continue).limits("api", |_| {});
    let mut world = World::begun(build);
    never_ready(&mut world, "worker-1");
    assert!(world.is_idle("api-1"), "worker-2 is still to come");
    world.finish("worker-2");
    assert!(!world.is_idle("api-1"));
}

#[test]
fn no_hook_and_no_job_runs_beside_an_old_instance_that_nobody_could_stop() {
    for job in [false, true] {
        let mut build = Build::up();
        for (name, host) in [("worker-1", "host-1"), ("worker-2", "host-2"), ("init-1", "host-3")] {
            build.slot(name, host, ChangeKind::Replace);
        }
        let drain_one = build.drain("worker-1", 1, &[]);
        let stop_one = build.stop("worker-1", 1, &[drain_one]);
        let stop_two = build.stop("worker-2", 1, &[stop_one]);
        let last = if job {
            let start = build.start("init-1", 2, &[stop_two]);
            build.completed("init-1", 2, &[start])
        } else {
            build.run("init-1", "migrate", &[stop_two])
        };
        build.start("worker-1", 2, &[last]);
        build.limits("worker", |limits| limits.failure_action = FailureAction::Continue);
        let mut world = World::begun(build);
        world.answer("worker-1", &[DONE, failed(FailureKind::Deadline)]);
        assert_eq!(world.state(), RollState::NeedsPerson { safe: true }, "job: {job}");
        assert!(world.view().holds[0].text.contains("may not begin while an old instance may run"));
        // A person who knows that it is gone says so, and it goes on.
        world.ask(Request::Settle { step: stop_one, done: true });
        assert_eq!(world.flight(), ["worker-2: stop"]);
    }
}

#[test]
fn a_failed_hook_waits_for_a_person_whatever_components_say() {
    let mut build = Build::up();
    build.slot("db-1", "host-1", ChangeKind::Touch);
    build.run("db-1", "backup", &[]);
    build.limits("db", |limits| limits.failure_action = FailureAction::Continue);
    let mut world = World::begun(build);
    world.answer("db-1", &[failed(FailureKind::Exited)]);
    assert_eq!(world.state(), RollState::NeedsPerson { safe: true });
}

#[test]
fn what_brings_nothing_new_is_not_rolled_back() {
    for kind in [PlanKind::Down, PlanKind::Drain, PlanKind::Undrain] {
        let mut build = Build::new(kind.clone());
        build.slot("worker-1", "host-1", ChangeKind::Touch);
        build.drain("worker-1", 1, &[]);
        build.limits("worker", |_| {});
        let mut world = World::begun(build);
        world.answer("worker-1", &[failed(FailureKind::Refused)]);
        assert_eq!(world.state(), RollState::NeedsPerson { safe: true }, "{kind}");
    }
}

#[test]
fn a_switch_for_several_slots_goes_on_with_those_that_are_left() {
    let mut build = Build::up();
    build.slot("gateway-1", "host-g", ChangeKind::Keep);
    for name in ["api-1", "api-2"] {
        build.slot(name, "host-1", ChangeKind::Replace);
    }
    let one = build.start("api-1", 2, &[]);
    let two = build.start("api-2", 2, &[]);
    build.switch("gateway-1", &["api-1.2", "api-2.2"], &["api-1.1", "api-2.1"], &[one, two]);
    build.limits("api", |limits| limits.failure_action = FailureAction::Continue);
    let mut world = World::begun(build);
    world.answer("api-2", &[failed(FailureKind::Refused)]);
    world.finish("api-1");
    let Act::Switch { targets, .. } = &world.command("gateway-1").steps[0].act else { panic!() };
    let admitted: Vec<String> = targets.iter().map(|target| target.instance.to_string()).collect();
    assert_eq!(admitted, ["api-1.2"], "the failed one is not admitted, and its old one is not released");
    world.finish_all();
    assert!(matches!(world.state(), RollState::Ended(RollResult::Failed { .. })), "api-2 is missing");
}

#[test]
fn a_failure_while_paused_is_acted_on_at_resume() {
    let mut world = World::begun(workers(1, FailureAction::Rollback, 0));
    world.ask(Request::Pause);
    never_ready(&mut world, "worker-1");
    assert_eq!(world.state(), RollState::Paused { safe: true }, "a paused roll begins nothing, no way back either");
    world.ask(Request::Resume);
    assert_eq!(world.state(), RollState::TurningBack);
}
