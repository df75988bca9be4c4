//! What goes out as one command, what an outcome does, and how a roll ends well.

use super::world::*;
use crate::engine::{Effect, Event, Key, Record, RollResult, RollState};
use crate::model::*;

#[test]
fn consecutive_steps_of_one_slot_go_out_as_one_list() {
    let world = World::begun(Build::workers(2));
    assert_eq!(
        world.flight(),
        ["worker-1: drain stop start ready soak retire", "worker-2: drain stop start ready soak retire"]
    );
    let command = world.command("worker-1");
    assert_eq!(command.id.to_string(), "r1/0/1");
    assert_eq!(command.term, Term(1));
    assert!(command.steps.iter().all(|one| one.deadline == secs(60)));
}

#[test]
fn a_list_is_cut_where_a_step_waits_for_another_slot() {
    let mut build = Build::up();
    build.slot("worker-1", "host-1", ChangeKind::Replace).slot("worker-2", "host-2", ChangeKind::Replace);
    let [_, stop_one, ..] = build.stop_first("worker-1", &[]);
    let drain = build.drain("worker-2", 1, &[]);
    let stop = build.stop("worker-2", 1, &[drain]);
    build.start("worker-2", 2, &[stop, stop_one]);
    let mut world = World::begun(build);
    assert_eq!(world.flight(), ["worker-1: drain stop start ready soak retire", "worker-2: drain stop"]);
    world.finish("worker-2");
    assert!(world.is_idle("worker-2"));
    world.answer("worker-1", &[DONE, DONE]);
    assert_eq!(world.flight()[1], "worker-2: start");
}

#[test]
fn hooks_go_alone_and_gates_and_delays_stay_at_home() {
    let mut build = Build::up();
    build.slot("db-1", "host-1", ChangeKind::Touch).slot("worker-1", "host-1", ChangeKind::Add);
    let backup = build.run("db-1", "backup", &[]);
    let migrate = build.run("db-1", "migrate", &[backup]);
    let gate = build.gate("go", &[migrate]);
    let start = build.start("worker-1", 1, &[gate]);
    let delay = build.delay("worker-1", secs(7), &[start]);
    build.ready("worker-1", 1, &[delay]);
    let mut world = World::begun(build);
    assert_eq!(world.flight(), ["db-1: run"]);
    world.finish("db-1");
    assert_eq!(world.flight(), ["db-1: run"]);
    assert_eq!(world.command("db-1").id.step, migrate);
    world.finish("db-1");
    assert!(world.flight().is_empty());
    world.ask(crate::engine::Request::Approve { step: gate });
    assert_eq!(world.flight(), ["worker-1: start"]);
    world.finish("worker-1");
    assert!(world.flight().is_empty());
    assert_eq!(world.engine.next_deadline(), Some(world.now + secs(7)));
    assert!(world.pass(secs(6)).is_empty());
    world.pass(secs(1));
    assert_eq!(world.flight(), ["worker-1: ready"]);
}

#[test]
fn a_slot_has_one_list_at_a_time() {
    let mut build = Build::up();
    build.slot("db-1", "host-1", ChangeKind::Touch);
    build.run("db-1", "one", &[]);
    build.run("db-1", "two", &[]);
    let mut world = World::begun(build);
    assert_eq!(world.flight(), ["db-1: run"]);
    world.finish("db-1");
    assert_eq!(world.command("db-1").id.step, StepId(1));
}

#[test]
fn preconditions_follow_the_plan() {
    let mut build = Build::up();
    build.slot("worker-1", "host-1", ChangeKind::Replace).slot("scheduler-1", "host-1", ChangeKind::Add);
    build.start_first("worker-1", &[]);
    build.step(Some("scheduler-1"), Some(1), StepKind::Start { alone: true }, &[]);
    let world = World::begun(build);
    let wanted: Vec<Precondition> = world.command("worker-1").steps.into_iter().map(|one| one.precondition).collect();
    let ready = Precondition::Ready(instance("worker-1.2"));
    let none = Precondition::None;
    assert_eq!(wanted, [none.clone(), none.clone(), none.clone(), ready.clone(), ready, none]);
    assert_eq!(world.command("scheduler-1").steps[0].precondition, Precondition::Alone);
}

#[test]
fn a_list_is_outstanding_until_each_of_its_steps_has_ended() {
    let mut world = World::begun(Build::workers(1));
    let key = Key::List(world.command("worker-1").id);
    for _ in 0..6 {
        assert!(world.has(&key));
        world.answer("worker-1", &[DONE]);
    }
    assert!(!world.has(&key));
    assert_eq!(world.state(), RollState::Ended(RollResult::Succeeded));
}

#[test]
fn a_repeated_or_foreign_outcome_changes_nothing() {
    let mut world = World::begun(Build::workers(2));
    let command = world.command("worker-1");
    let outcome = |step: u32, result: StepResult| Outcome {
        command: command.id.clone(),
        slot: slot("worker-1"),
        step: StepId(step),
        result,
        endpoint: None,
    };
    let by = |on: &str, outcome: Outcome| Event::Outcome { agent: agent(on), outcome };
    assert!(world.event(by("host-2", outcome(0, DONE))).is_empty(), "another agent spoke for the slot");
    assert_eq!(world.event(by("host-1", outcome(0, DONE))).len(), 1);
    assert!(world.event(by("host-1", outcome(0, DONE))).is_empty(), "the same again");
    assert!(world.event(by("host-1", outcome(0, failed(FailureKind::Refused)))).is_empty(), "and never otherwise");
    assert!(world.event(by("host-1", outcome(99, DONE))).is_empty(), "no such step");
}

#[test]
fn an_outcome_of_an_older_attempt_is_ignored() {
    let mut build = Build::workers(1);
    build.limits("worker", |limits| limits.failure_action = FailureAction::Pause);
    let mut world = World::begun(build);
    let old = world.command("worker-1");
    world.answer("worker-1", &[failed(FailureKind::Refused), SKIPPED, SKIPPED, SKIPPED, SKIPPED, SKIPPED]);
    world.ask(crate::engine::Request::Retry);
    let new = world.command("worker-1");
    assert_eq!((new.id.step, new.id.attempt), (StepId(0), Attempt(2)));
    let outcome = Outcome { command: old.id, slot: slot("worker-1"), step: StepId(0), result: DONE, endpoint: None };
    assert!(world.event(Event::Outcome { agent: agent("host-1"), outcome }).is_empty());
    assert_eq!(world.command("worker-1").id, new.id);
}

#[test]
fn skipped_steps_wait_again_under_a_new_attempt() {
    let mut build = Build::workers(1);
    build.limits("worker", |limits| limits.failure_action = FailureAction::Pause);
    let mut world = World::begun(build);
    world.answer("worker-1", &[DONE, failed(FailureKind::Deadline), SKIPPED, SKIPPED, SKIPPED, SKIPPED]);
    let roll = world.engine.roll.as_ref().unwrap();
    let attempts: Vec<u32> = roll.steps.iter().map(|state| state.attempt.0).collect();
    assert_eq!(attempts, [1, 1, 2, 2, 2, 2], "a skipped step's old outcome must not count for the next try");
    world.ask(crate::engine::Request::Retry);
    assert_eq!(world.flight(), ["worker-1: stop start ready soak retire"]);
    assert_eq!(world.command("worker-1").id.to_string(), "r1/1/2");
}

#[test]
fn a_refused_command_fails_its_first_step_and_skips_the_rest() {
    let mut build = Build::workers(1);
    build.limits("worker", |limits| limits.failure_action = FailureAction::Pause);
    let mut world = World::begun(build);
    let command = world.command("worker-1").id;
    world.event(Event::CommandRefused { agent: agent("host-1"), command, why: "no policy".into() });
    assert_eq!(world.state(), RollState::NeedsPerson { safe: true });
    let summary = world.engine.summaries().pop().unwrap();
    assert_eq!(summary.failures.len(), 1);
    assert_eq!(summary.failures[0].kind, FailureKind::Forbidden);
    assert!(summary.failures[0].message.contains("no policy"));
}

#[test]
fn success_is_remembered_for_the_next_plan() {
    let mut build = Build::workers(1);
    build.slot("init-1", "host-1", ChangeKind::Add);
    let prepare = build.prepare("init-1", 1, &[]);
    let start = build.start("init-1", 1, &[prepare]);
    build.completed("init-1", 1, &[start]);
    let mut world = World::begun(build);
    assert!(world.engine.succeeded().is_empty());
    assert_eq!(world.engine.current().unwrap().number, RollNumber(1));
    world.finish_all();
    assert_eq!(world.state(), RollState::Ended(RollResult::Succeeded));
    assert!(world.engine.current().is_none());
    assert_eq!(world.engine.succeeded().len(), 2);
    assert_eq!(world.engine.last_version().as_deref(), Some("v2"));
    assert_eq!(world.engine.highest_instances()[&slot("worker-1")], 2);
    assert_eq!(world.engine.completed_jobs()[&slot("init-1")], digest("spec"));
    assert_eq!(world.engine.next_roll_number(), RollNumber(2));
    assert!(world.engine.plan_of(&roll("r1")).is_some());
    assert!(world.engine.outstanding().is_empty());
}

#[test]
fn only_a_success_and_only_a_roll_that_brings_versions_sets_the_last_version() {
    let mut world = World::begun(Build::workers(1));
    world.ask(crate::engine::Request::Abort);
    world.answer("worker-1", &[RECALLED; 6]);
    assert_eq!(world.state(), RollState::Ended(RollResult::Aborted { actor: "ann".into() }));
    assert_eq!(world.engine.last_version(), None);
    assert!(world.engine.succeeded().is_empty());
    let mut down = Build::new(PlanKind::Down);
    down.slot("worker-1", "host-1", ChangeKind::Touch);
    down.stop("worker-1", 1, &[]);
    world.begin(down, "r2");
    world.finish_all();
    assert_eq!(world.engine.last_version(), None);
}

#[test]
fn an_empty_plan_succeeds_at_once() {
    let mut world = World::new();
    world.begin(Build::up(), "r1");
    assert_eq!(world.state(), RollState::Ended(RollResult::Succeeded));
}

#[test]
fn what_has_ended_may_leave_the_ledgers() {
    let mut world = World::begun(Build::workers(1));
    let key = Key::Forget(agent("host-1"));
    world.reports.get_mut(&agent("host-1")).unwrap().rolls = vec![roll("r1")];
    world.report("host-1");
    assert!(!world.has(&key), "the roll is still under way");
    world.finish_all();
    let wanted = Effect::Forget { agent: agent("host-1"), rolls: vec![roll("r1")] };
    assert_eq!(world.engine.effect(&key), Some(wanted));
    world.reports.get_mut(&agent("host-1")).unwrap().rolls.clear();
    world.report("host-1");
    assert!(!world.has(&key));
}

#[test]
fn a_roll_is_carried_out_across_restarts_of_the_coordinator_at_any_record() {
    // However often it is killed, after whatever record: the same steps are done once each, and the same end.
    let mut reference = World::begun(Build::workers(2));
    reference.finish_all();
    let records = reference.facts.len();
    for kill_at in 1..records {
        let mut world = World::begun(Build::workers(2));
        let mut killed = false;
        for _ in 0..100 {
            if !killed && world.facts.len() >= kill_at {
                killed = true;
                world.restart();
                world.observe(&Build::workers(2).plan);
            }
            let Some(next) = world.flight().first().cloned() else { break };
            let on = next.split(':').next().unwrap().to_owned();
            world.answer(&on, &[DONE]);
        }
        assert!(killed || kill_at + 1 >= records, "never killed at {kill_at}");
        assert_eq!(world.state(), RollState::Ended(RollResult::Succeeded), "killed at record {kill_at}");
        let begun = world.facts.iter().filter(|(_, record)| matches!(record, Record::ListBegan { .. })).count();
        assert_eq!(begun, 2, "no list is begun twice");
    }
}
