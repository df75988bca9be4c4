//! What a person may ask, when, and what comes of it.

use super::world::*;
use crate::engine::{Engine, Event, HoldReason, Key, Record, Request, RequestError, RollResult, RollState};
use crate::model::*;

#[test]
fn pause_begins_nothing_and_finishes_what_has_begun() {
    let mut build = Build::workers(2);
    build.lane("worker", 1);
    let mut world = World::begun(build);
    world.ask(Request::Pause);
    assert_eq!(world.state(), RollState::Paused { safe: false });
    assert!(!world.engine.outstanding().keys().any(|key| matches!(key, Key::Recall(_))), "a pause recalls nothing");
    world.finish("worker-1");
    assert_eq!(world.state(), RollState::Paused { safe: true });
    assert!(world.flight().is_empty());
    assert_eq!(world.reasons(), [HoldReason::Paused { actor: "ann".into() }]);
    world.restart();
    world.report_all();
    assert!(world.flight().is_empty(), "a pause survives a restart");
    world.ask(Request::Resume);
    world.finish_all();
    assert_eq!(world.state(), RollState::Ended(RollResult::Succeeded));
}

#[test]
fn an_interrupted_roll_begins_nothing_before_somebody_asks_for_it() {
    let mut build = Build::workers(2);
    build.lane("worker", 1);
    let mut world = World::begun(build);
    let asleep = |world: &mut World| {
        world.engine = world.replayed();
        world.event(Event::FellAsleep);
        world.event(Event::Started(claim("c1", world.engine.term().0 + 1)));
        world.report_all();
    };
    let of_worker_1 = world.command("worker-1");
    asleep(&mut world);
    // The list that had begun is finished by its agent, without being told again: one that never arrived does not
    // begin.
    assert!(!world.engine.outstanding().keys().any(|key| matches!(key, Key::List(_))));
    assert_eq!(world.reasons(), [HoldReason::Interrupted]);
    assert_eq!(world.view().holds[0].until, "`baton resume`");
    for step in &of_worker_1.steps {
        let done = world.outcome("worker-1", &of_worker_1, step.step, DONE);
        world.event(done);
    }
    world.pass(secs(3600));
    assert!(world.flight().is_empty(), "{:?}", world.flight());
    assert!(world.engine.may(&Request::Resume).is_ok());
    world.ask(Request::Resume);
    assert!(!world.is_idle("worker-2"));
    assert!(world.engine.may(&Request::Resume).is_err(), "it runs");
    // Any request that is taken is such an asking; one that is refused is none.
    asleep(&mut world);
    assert!(world.engine.may(&Request::Retry).is_err());
    assert_eq!(world.reasons(), [HoldReason::Interrupted]);
    world.ask(Request::Rollback);
    world.answer("worker-2", &[DONE, RECALLED, RECALLED, RECALLED, RECALLED, RECALLED]);
    assert!(world.has(&Key::PlanRollback(roll("r1"))));
    // Nor is a way back begun that nobody has asked this coordinator for.
    asleep(&mut world);
    assert!(!world.has(&Key::PlanRollback(roll("r1"))));
    world.ask(Request::Resume);
    assert_eq!(world.state(), RollState::TurningBack);
    assert!(world.has(&Key::PlanRollback(roll("r1"))));
}

#[test]
fn abort_recalls_and_ends_the_roll_where_it_is() {
    let mut world = World::begun(Build::workers(2));
    world.answer("worker-1", &[DONE]);
    world.ask(Request::Abort);
    assert_eq!(world.state(), RollState::Aborting);
    let recalls = world.engine.outstanding().keys().filter(|key| matches!(key, Key::Recall(_))).count();
    assert_eq!(recalls, 2);
    let keys: Vec<Key> = world.engine.outstanding().into_keys().collect();
    let first_recall = keys.iter().position(|key| matches!(key, Key::Recall(_))).unwrap();
    let last_list = keys.iter().rposition(|key| matches!(key, Key::List(_))).unwrap();
    assert!(last_list < first_recall, "nothing is recalled before it is sent");
    world.answer("worker-1", &[DONE, RECALLED, RECALLED, RECALLED, RECALLED]);
    assert_eq!(world.state(), RollState::Aborting, "worker-2 is not at its safe point");
    world.answer("worker-2", &[RECALLED; 6]);
    assert_eq!(world.state(), RollState::Ended(RollResult::Aborted { actor: "ann".into() }));
    assert!(world.engine.outstanding().is_empty());
    assert_eq!(world.engine.summaries()[0].steps_done, 2);
}

#[test]
fn supersede_ends_the_roll_for_the_next_plan() {
    let mut world = World::begun(Build::workers(1));
    world.ask(Request::Supersede);
    world.answer("worker-1", &[DONE, RECALLED, RECALLED, RECALLED, RECALLED, RECALLED]);
    assert_eq!(world.state(), RollState::Ended(RollResult::Superseded { actor: "ann".into() }));
    world.begin(Build::workers(1), "r2");
    assert_eq!(world.command("worker-1").id.to_string(), "r2/0/1");
}

#[test]
fn a_roll_given_up_after_a_failure_has_failed() {
    let mut build = Build::workers(1);
    build.limits("worker", |limits| limits.failure_action = FailureAction::Pause);
    let mut world = World::begun(build);
    world.answer("worker-1", &[failed(FailureKind::Missing), SKIPPED, SKIPPED, SKIPPED, SKIPPED, SKIPPED]);
    world.ask(Request::Abort);
    let RollState::Ended(RollResult::Failed { why }) = world.state() else { panic!("{:?}", world.state()) };
    assert_eq!(why, "drain of worker-1.1: it said no; ann ended the roll");
}

#[test]
fn rollback_on_request_takes_the_same_way_as_a_failure() {
    let mut world = World::begun(Build::workers(1));
    world.ask(Request::Rollback);
    assert_eq!(world.state(), RollState::TurningBack);
    world.answer("worker-1", &[DONE, RECALLED, RECALLED, RECALLED, RECALLED, RECALLED]);
    let plan = Box::new(Build::new(PlanKind::Rollback { of: roll("r1") }).plan);
    let records = world.event(Event::RollbackPlanned { parent: roll("r1"), roll: roll("r2"), plan });
    assert!(matches!(&records[1], Record::RollBegan { actor, .. } if actor == "ann"));
    let before = world.engine.summaries();
    assert_eq!(before[1].parent, Some(roll("r1")));
    assert_eq!(before[0].result.as_ref().unwrap().word(), "rolled back");
}

#[test]
fn a_gate_waits_for_approve_and_for_nothing_else() {
    let mut build = Build::up();
    build.slot("worker-1", "host-1", ChangeKind::Add);
    let first = build.start("worker-1", 1, &[]);
    let gate = build.gate("go", &[first]);
    build.ready("worker-1", 1, &[gate]);
    let mut world = World::begun(build);
    assert!(matches!(world.engine.may(&Request::Approve { step: gate }), Err(RequestError::GateNotWaiting { .. })));
    world.finish("worker-1");
    assert_eq!(world.reasons(), [HoldReason::Gate { name: "go".into() }]);
    assert_eq!(world.view().holds[0].until, "`baton approve 1`");
    world.pass(secs(3600 * 24 * 30));
    world.restart();
    world.report_all();
    assert!(world.flight().is_empty());
    let records = world.ask(Request::Approve { step: gate });
    assert!(matches!(&records[1], Record::StepEnded { by: Some(by), .. } if by == "ann"));
    assert!(!world.is_idle("worker-1"));
    assert!(world.engine.may(&Request::Approve { step: gate }).is_err(), "once");
}

#[test]
fn a_person_may_settle_what_hangs_on_a_host_that_is_gone_for_good() {
    let mut world = World::begun(Build::workers(2));
    let settle = |done| Request::Settle { step: StepId(0), done };
    assert!(matches!(world.engine.may(&settle(false)), Err(RequestError::NotSettleable { .. })), "its agent answers");
    world.event(Event::SessionLost(agent("host-1")));
    world.finish("worker-2");
    world.ask(Request::Abort);
    assert_eq!(world.state(), RollState::Aborting);
    assert!(world.reasons().contains(&HoldReason::AgentUnreachable { agent: agent("host-1") }));
    assert!(matches!(
        world.engine.may(&Request::Settle { step: StepId(1), done: true }),
        Err(RequestError::NotSettleable { .. })
    ));
    world.ask(settle(false));
    assert!(matches!(world.state(), RollState::Ended(RollResult::Failed { .. })));
    // What the host says when it comes back after all belongs to nobody.
    world.event(Event::SessionUp(agent("host-1")));
    world.report("host-1");
    assert!(world.engine.outstanding().is_empty());
}

#[test]
fn settling_done_on_a_lost_agent_ends_that_step_only() {
    let mut world = World::begun(Build::workers(1));
    world.event(Event::SessionLost(agent("host-1")));
    world.ask(Request::Settle { step: StepId(0), done: true });
    assert_eq!(world.state(), RollState::Running);
    assert_eq!(world.command("worker-1").steps.len(), 6, "the list is as it was sent");
    world.event(Event::SessionUp(agent("host-1")));
    world.report("host-1");
    world.finish("worker-1");
    assert_eq!(world.state(), RollState::Ended(RollResult::Succeeded));
}

#[test]
fn settling_a_failure_as_done_lets_the_roll_go_on_but_leaves_it_counted() {
    let mut build = Build::workers(1);
    build.limits("worker", |limits| limits.failure_action = FailureAction::Pause);
    let mut world = World::begun(build);
    world.answer("worker-1", &[DONE, failed(FailureKind::Deadline), SKIPPED, SKIPPED, SKIPPED, SKIPPED]);
    let settle = |done| Request::Settle { step: StepId(1), done };
    assert!(
        matches!(world.engine.may(&settle(false)), Err(RequestError::NotSettleable { .. })),
        "it has failed already"
    );
    world.ask(settle(true));
    assert_eq!(world.flight(), ["worker-1: start ready soak retire"]);
    world.finish_all();
    let summary = &world.engine.summaries()[0];
    assert_eq!(summary.result, Some(RollResult::Succeeded));
    assert_eq!(summary.failed_slots.len(), 1);
}

#[test]
fn settling_a_given_up_slots_failure_takes_it_back_into_the_roll() {
    let mut build = Build::workers(2);
    build.limits("worker", |limits| limits.failure_action = FailureAction::Continue);
    let mut world = World::begun(build);
    world.answer("worker-1", &[DONE, DONE, DONE, failed(FailureKind::NotReady), SKIPPED, SKIPPED]);
    assert!(world.is_idle("worker-1"));
    world.ask(Request::Settle { step: StepId(3), done: true });
    assert_eq!(world.flight()[0], "worker-1: soak retire");
    world.finish_all();
    assert!(world.engine.summaries()[0].given_up.is_empty());
}

/// Where a roll can stand, each with how it gets there.
fn places() -> Vec<(&'static str, World)> {
    let plain = || World::begun(Build::workers(1));
    let asked = |request: Request| {
        let mut world = plain();
        world.ask(request);
        world
    };
    let failing = |action: FailureAction| {
        let mut build = Build::workers(1);
        build.limits("worker", |limits| limits.failure_action = action);
        let mut world = World::begun(build);
        world.answer("worker-1", &[failed(FailureKind::Missing), SKIPPED, SKIPPED, SKIPPED, SKIPPED, SKIPPED]);
        world
    };
    let mut ended = plain();
    ended.finish_all();
    vec![
        ("no roll", World::new()),
        ("ended", ended),
        ("running", plain()),
        ("paused", asked(Request::Pause)),
        ("aborting", asked(Request::Abort)),
        ("superseding", asked(Request::Supersede)),
        ("turning back", asked(Request::Rollback)),
        ("needs person", failing(FailureAction::Pause)),
    ]
}

#[test]
fn each_request_is_allowed_or_refused_in_words_wherever_the_roll_stands() {
    //                 pause  resume abort  retry  rollb. superseded
    let table = [
        ("no roll", [false; 6]),
        ("ended", [false; 6]),
        ("running", [true, false, true, false, true, true]),
        ("paused", [false, true, true, false, true, true]),
        ("aborting", [false; 6]),
        ("superseding", [false; 6]),
        ("turning back", [false, false, true, false, false, true]),
        ("needs person", [false, false, true, true, true, true]),
    ];
    let requests =
        [Request::Pause, Request::Resume, Request::Abort, Request::Retry, Request::Rollback, Request::Supersede];
    for (name, world) in places() {
        let (_, allowed) = table.iter().find(|(place, _)| *place == name).unwrap();
        for (request, allowed) in requests.iter().zip(allowed) {
            let answer = world.engine.may(request);
            assert_eq!(answer.is_ok(), *allowed, "{request:?} when {name}: {answer:?}");
            let event = Event::Operator { request: request.clone(), actor: "ann".into(), reason: String::new() };
            assert_eq!(world.engine.decide(world.now, &event).is_empty(), !*allowed, "{request:?} when {name}");
            if let Err(error) = answer {
                let text = error.to_string();
                assert!(text.starts_with(char::is_lowercase) && !text.ends_with('.'), "{text}");
            }
        }
        for request in [
            Request::Settle { step: StepId(99), done: true },
            Request::Approve { step: StepId(99) },
            Request::Approve { step: StepId(0) },
        ] {
            assert!(world.engine.may(&request).is_err(), "{request:?} when {name}");
        }
    }
}

#[test]
fn a_rollback_of_an_ended_roll_is_told_apart_for_the_coordinator() {
    let mut world = World::begun(Build::workers(1));
    world.finish_all();
    assert_eq!(
        world.engine.may(&Request::Rollback),
        Err(RequestError::Ended { roll: roll("r1"), number: RollNumber(1), result: "succeeded".into() })
    );
    // It plans one itself then, and the engine knows whose child it is.
    world.begin(Build::new(PlanKind::Rollback { of: roll("r1") }), "r2");
    assert_eq!(world.engine.summaries()[1].parent, Some(roll("r1")));
    assert_eq!(Engine::new(FleetName::new("orders").unwrap()).may(&Request::Rollback), Err(RequestError::NoRoll));
}
