//! Terms, lost sessions, stale journals, and records that may not be.

use super::world::*;
use crate::engine::{BeginError, Effect, Event, HoldReason, Key, Record, Request, RequestError, RollResult, RollState};
use crate::model::*;

#[test]
fn nothing_begins_before_a_fresh_report() {
    let build = Build::workers(2);
    let mut world = World::new();
    world.event(Event::SessionUp(agent("host-1")));
    world.begin(Build::workers(2), "r1");
    assert!(world.flight().is_empty());
    for host in ["host-1", "host-2"] {
        assert!(world.reasons().contains(&HoldReason::NoFreshReport { agent: agent(host) }));
        assert_eq!(
            world.engine.effect(&Key::Refresh(agent(host))),
            Some(Effect::Refresh { agent: agent(host) }),
            "it is asked for"
        );
    }
    world.observe(&build.plan);
    assert_eq!(world.flight().len(), 2);
    assert!(world.reasons().is_empty());
    assert!(!world.has(&Key::Refresh(agent("host-1"))));
}

#[test]
fn after_a_restart_outstanding_lists_are_sent_again_under_the_new_term() {
    let mut world = World::begun(Build::workers(2));
    let before = world.command("worker-1");
    world.answer("worker-1", &[DONE]);
    world.restart();
    assert!(world.flight().is_empty(), "only a report can show that this journal is older than the fleet");
    world.event(Event::SessionUp(agent("host-1")));
    let records = world.report("host-1");
    assert_eq!(records.len(), 1, "nothing new begins: {records:?}");
    let after = world.command("worker-1");
    assert_eq!(after.term, Term(2));
    assert!(after.same_body(&before));
    assert!(world.is_idle("worker-2"));
}

#[test]
fn a_lost_session_holds_and_fails_nothing() {
    let mut world = World::begun(Build::workers(2));
    world.now = world.now + secs(1);
    world.event(Event::SessionLost(agent("host-1")));
    world.pass(secs(3600 * 24));
    assert_eq!(world.state(), RollState::Running);
    let hold = world.view().holds.pop().unwrap();
    assert_eq!(hold.reason, HoldReason::AgentUnreachable { agent: agent("host-1") });
    assert_eq!(hold.slots, [slot("worker-1")]);
    assert_eq!(hold.age, secs(3600 * 24));
    assert!(!world.is_idle("worker-1"), "it stays outstanding until the agent tells");
    world.finish("worker-2");
    world.event(Event::SessionUp(agent("host-1")));
    world.report("host-1");
    world.finish("worker-1");
    assert_eq!(world.state(), RollState::Ended(RollResult::Succeeded));
}

/// An agent that knows more than the journal.
fn stale(change: impl Fn(&mut Inventory)) -> World {
    let mut world = World::begun(Build::workers(2));
    change(world.reports.get_mut(&agent("host-1")).unwrap());
    world.restart();
    world.report_all();
    world
}

#[test]
fn a_journal_older_than_the_fleet_does_nothing_and_says_what_to_type() {
    for (name, mut world) in [
        ("a higher term", stale(|inventory| inventory.term = Term(9))),
        (
            "the same term of another start",
            stale(|inventory| {
                inventory.term = Term(2);
                inventory.nonce = "of another start".to_owned();
            }),
        ),
        (
            "an earlier term of another start",
            stale(|inventory| {
                inventory.term = Term(1);
                inventory.nonce = "of another start".to_owned();
            }),
        ),
        ("a roll that the journal lacks", stale(|inventory| inventory.rolls = vec![roll("r1"), roll("lost")])),
    ] {
        assert!(world.engine.outstanding().is_empty(), "{name}: nothing leaves, not even what was outstanding");
        assert!(!world.engine.acknowledges(), "{name}");
        let view = world.view();
        assert!(matches!(view.holds[0].reason, HoldReason::OlderThanFleet { .. }), "{name}: {:?}", view.holds);
        assert!(view.holds[0].until.contains("baton coordinator --new-id"), "{name}");
        assert!(matches!(world.engine.may(&Request::Abort), Err(RequestError::OlderThanFleet { .. })), "{name}");
        assert!(world.pass(secs(3600)).is_empty(), "{name}: nothing is believed or begun");
        let outcome = Outcome {
            command: CommandId { roll: roll("r1"), step: StepId(0), attempt: Attempt(1) },
            slot: slot("worker-1"),
            step: StepId(0),
            result: DONE,
            endpoint: None,
        };
        assert!(world.event(Event::Outcome { agent: agent("host-1"), outcome }).is_empty(), "{name}");
    }
}

#[test]
fn the_same_term_and_a_known_roll_are_no_sign_of_age() {
    let world = stale(|inventory| {
        inventory.term = Term(1);
        inventory.nonce = "n1".to_owned();
        inventory.rolls = vec![roll("r1")];
    });
    assert!(world.engine.acknowledges());
    assert_eq!(world.flight().len(), 2);
}

#[test]
fn a_new_coordinator_id_ends_unfinished_rolls_and_takes_the_agents_as_they_are() {
    let mut world = stale(|inventory| inventory.rolls = vec![roll("lost")]);
    let plan = Build::workers(2).plan;
    assert!(matches!(world.engine.may_begin(&plan), Err(BeginError::OlderThanFleet { .. })));
    world.engine = world.replayed();
    world.event(Event::Started(claim("c2", 3)));
    let RollState::Ended(RollResult::Superseded { .. }) = world.state() else { panic!("{:?}", world.state()) };
    world.report_all();
    assert!(world.engine.acknowledges(), "what they did for the coordinator before is history");
    world.begin(Build::workers(2), "r2");
    assert_eq!(world.flight().len(), 2);
    // From here on a roll that is missing means again that this journal is old; also after a restart.
    world.reports.get_mut(&agent("host-1")).unwrap().rolls.push(roll("lost-again"));
    world.engine = world.replayed();
    world.event(Event::Started(claim("c2", 4)));
    world.report_all();
    assert!(!world.engine.acknowledges());
}

#[test]
fn a_plan_may_begin_only_when_it_makes_sense() {
    let plan = Build::workers(1).plan;
    let idle = crate::engine::Engine::new(FleetName::new("orders").unwrap());
    assert_eq!(idle.may_begin(&plan), Err(BeginError::NotStarted));
    let mut world = World::new();
    world.engine.may_begin(&plan).unwrap();
    let other = Plan { fleet: FleetName::new("other").unwrap(), ..plan.clone() };
    assert!(matches!(world.engine.may_begin(&other), Err(BeginError::WrongFleet { .. })));
    type Break = fn(&mut Step);
    let cases: [(&str, Break); 6] = [
        ("place", |step| step.id = StepId(7)),
        ("waits for", |step| step.after = vec![step.id]),
        ("names no agent", |step| step.agent = None),
        ("names no slot", |step| step.slot = None),
        ("names no instance", |step| step.instance = None),
        ("in slot", |step| step.instance = Some(instance("other-1.1"))),
    ];
    for (word, spoil) in cases {
        let mut plan = plan.clone();
        spoil(&mut plan.steps[3]);
        let Err(BeginError::Malformed { why }) = world.engine.may_begin(&plan) else {
            panic!("{word} was let through")
        };
        assert!(why.contains(word), "{why}");
        let event = Event::RollRequested {
            roll: roll("r1"),
            plan: Box::new(plan),
            actor: String::new(),
            reason: String::new(),
        };
        assert!(world.event(event).is_empty());
    }
    world.begin(Build::workers(1), "r1");
    let error = world.engine.may_begin(&Build::workers(1).plan).unwrap_err();
    assert!(error.to_string().contains("roll 1 (up) by ann is running"), "{error}");
}

#[test]
fn records_that_the_state_does_not_allow_are_refused_and_change_nothing() {
    let mut build = Build::workers(2);
    build.gate("go", &[]);
    let mut world = World::begun(build);
    world.answer("worker-1", &[DONE]);
    let command = world.command("worker-1");
    let ended = |step: u32, attempt: u32, result: StepResult| Record::StepEnded {
        step: StepId(step),
        attempt: Attempt(attempt),
        result,
        endpoint: None,
        by: None,
    };
    let asked = |request: Request| Record::Asked { request, actor: "ann".into(), reason: String::new() };
    let over = |id: &str, result: RollResult| Record::RollEnded { roll: roll(id), result };
    let again = Record::RollBegan {
        roll: roll("r2"),
        number: RollNumber(2),
        plan: Box::new(Build::workers(1).plan),
        parent: None,
        actor: "ann".into(),
        reason: String::new(),
    };
    let cases = [
        Record::TermBegan { claim: claim("c1", 1) },
        again,
        Record::ListBegan { agent: agent("host-1"), command: command.clone() },
        Record::ListBegan { agent: agent("host-1"), command: Command { steps: Vec::new(), ..command.clone() } },
        Record::OwnStepBegan { step: StepId(0) },
        Record::OwnStepBegan { step: StepId(12) }, // the gate: it waits already
        ended(0, 1, DONE),                         // done
        ended(1, 2, DONE),                         // no such attempt
        ended(99, 1, DONE),
        ended(12, 1, failed(FailureKind::Refused)), // a gate cannot fail
        asked(Request::Approve { step: StepId(99) }),
        Record::FailureActed { step: StepId(1), action: FailureAction::Pause, why: String::new() },
        Record::NoWayBack { why: String::new() },
        over("r1", RollResult::Succeeded),
        over("r1", RollResult::Aborted { actor: "ann".into() }), // lists are in flight
        over("r9", RollResult::Superseded { actor: "ann".into() }),
    ];
    for record in cases {
        let before = world.engine.clone();
        let error = world.engine.apply(world.now, &record).expect_err(&format!("{record:?} was allowed"));
        assert_eq!(error.record, record.kind());
        assert!(world.engine == before, "{record:?} was refused and changed something");
    }
}

#[test]
fn notes_are_never_refused() {
    let mut world = World::new();
    let progress = Progress {
        command: CommandId { roll: roll("r9"), step: StepId(1), attempt: Attempt(1) },
        slot: slot("worker-1"),
        step: StepId(1),
        text: String::new(),
        inflight: None,
        elapsed: secs(1),
        left: secs(1),
    };
    assert!(world.event(Event::Progress { agent: agent("host-1"), progress }).is_empty());
    assert_eq!(world.event(Event::Inventory(Box::new(inventory("host-9")))).len(), 1);
    assert_eq!(world.event(Event::SessionLost(agent("host-8"))).len(), 1);
}
