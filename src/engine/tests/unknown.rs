//! Nobody knows how a step ended: looking settles it, or a person; nothing else happens meanwhile.

use super::world::*;
use crate::engine::{Event, HoldReason, Key, Record, Request, RollResult, RollState};
use crate::model::*;

/// One worker of which one step is unknown; the rest of its list was skipped. A second worker waits.
fn unknown_at(place: usize) -> World {
    let mut build = Build::up();
    build.slot("worker-1", "host-1", ChangeKind::Replace).slot("worker-2", "host-2", ChangeKind::Replace);
    let prepare = build.prepare("worker-1", 2, &[]);
    let [.., last] = build.stop_first("worker-1", &[prepare]);
    let prepare = build.prepare("worker-2", 2, &[]);
    build.stop_first("worker-2", &[prepare, last]);
    build.lane("worker", 1).limits("worker", |limits| limits.lane = vec![slot("worker-1")]);
    let mut world = World::begun(build);
    world.answer("worker-2", &[DONE]);
    let mut left = place;
    if left == 0 {
        world.answer("worker-1", &[unknown()]);
        return world;
    }
    world.answer("worker-1", &[DONE]);
    left -= 1;
    let mut results = vec![DONE; left];
    results.push(unknown());
    results.resize(6, SKIPPED);
    world.answer("worker-1", &results);
    world
}

fn exited(id: &str) -> InstanceObservation {
    InstanceObservation { exit: Some(ExitStatus::Code(0)), ..seen(id, InstanceState::Exited, Health::Unknown) }
}

#[test]
fn a_report_settles_what_it_shows_and_nothing_else() {
    let running_unready = |id| seen(id, InstanceState::Running, Health::Unready);
    let created = |id| seen(id, InstanceState::Created, Health::Unknown);
    let lost = |id| seen(id, InstanceState::Unknown, Health::Unknown);
    // (place in the list, the step, what is reported of old and new, whether that settles it)
    type Seen = Option<InstanceObservation>;
    let cases: Vec<(usize, &str, Seen, Seen, bool)> = vec![
        (0, "prepare", Some(running("worker-1.1")), None, false),
        (0, "prepare", Some(running("worker-1.1")), Some(created("worker-1.2")), true),
        (1, "drain", Some(running("worker-1.1")), None, false),
        (1, "drain", Some(exited("worker-1.1")), None, true),
        (1, "drain", None, None, true),
        (2, "stop", Some(running("worker-1.1")), None, false),
        (2, "stop", Some(lost("worker-1.1")), None, false), // unknown is not stopped
        (2, "stop", Some(seen("worker-1.1", InstanceState::Restarting, Health::Unknown)), None, false),
        (2, "stop", Some(exited("worker-1.1")), None, true),
        (2, "stop", None, None, true),
        (3, "start", None, Some(created("worker-1.2")), false),
        (3, "start", None, Some(lost("worker-1.2")), false),
        (3, "start", None, Some(exited("worker-1.2")), false),
        (3, "start", None, Some(running_unready("worker-1.2")), true),
        (4, "ready", None, Some(running_unready("worker-1.2")), false),
        (4, "ready", None, Some(running("worker-1.2")), true),
        (5, "soak", None, Some(running("worker-1.2")), false), // nobody watched
        (6, "retire", Some(exited("worker-1.1")), None, false),
        (6, "retire", None, Some(running("worker-1.2")), true),
    ];
    for (place, verb, old, new, settles) in cases {
        let mut world = unknown_at(place);
        let name =
            format!("{verb}, old {:?}, new {:?}", old.as_ref().map(|one| one.state), new.as_ref().map(|one| one.state));
        let unknown_step = StepId(place as u32);
        assert!(world.flight().is_empty(), "{name}: nothing begins while a step is unknown");
        assert!(matches!(world.reasons()[0], HoldReason::Unknown { .. }), "{name}");
        assert!(world.has(&Key::Refresh(agent("host-1"))), "{name}: a fresh look is asked for");
        world.gone("host-1", "worker-1.1");
        for one in [old, new].into_iter().flatten() {
            world.set("host-1", one);
        }
        let records = world.report("host-1");
        assert!(!world.has(&Key::Refresh(agent("host-1"))), "{name}");
        let settled = records.iter().any(|record| {
            matches!(record, Record::StepEnded { step, result: StepResult::Done(How::AlreadySo), by: Some(by), .. }
                if *step == unknown_step && by == "observation")
        });
        assert_eq!(settled, settles, "{name}");
        if settles {
            assert_ne!(world.flight().len(), 0, "{name}: it goes on");
            assert_eq!(world.state(), RollState::Running, "{name}");
        } else {
            assert!(world.flight().is_empty(), "{name}");
            assert_eq!(world.state(), RollState::NeedsPerson { safe: true }, "{name}");
        }
    }
}

#[test]
fn no_other_slot_is_touched_while_one_is_unknown() {
    let mut build = Build::workers(3);
    build.lane("worker", 2);
    let mut world = World::begun(build);
    world.answer("worker-1", &[DONE, unknown(), SKIPPED, SKIPPED, SKIPPED, SKIPPED]);
    world.finish("worker-2");
    assert!(world.flight().is_empty(), "worker-3 has a place and nothing to wait for, and waits");
    world.gone("host-1", "worker-1.1");
    world.report("host-1");
    assert_eq!(world.flight().len(), 2);
}

#[test]
fn a_report_from_before_settles_nothing() {
    let mut world = unknown_at(4);
    assert_eq!(world.state(), RollState::Running, "not yet a person's: a look may settle it");
    world.event(Event::SessionLost(agent("host-1")));
    world.pass(secs(600));
    assert!(world.flight().is_empty());
    assert_eq!(world.state(), RollState::Running);
    world.restart();
    assert!(world.has(&Key::Refresh(agent("host-1"))));
    world.set("host-1", running("worker-1.2"));
    world.event(Event::SessionUp(agent("host-1")));
    world.report("host-1");
    assert_eq!(world.flight(), ["worker-1: soak retire"]);
}

#[test]
fn a_job_is_settled_by_its_end() {
    for (code, settles) in [(0, true), (1, false)] {
        let mut build = Build::up();
        build.slot("init-1", "host-1", ChangeKind::Add);
        let prepare = build.prepare("init-1", 1, &[]);
        let start = build.start("init-1", 1, &[prepare]);
        build.completed("init-1", 1, &[start]);
        let mut world = World::begun(build);
        world.answer("init-1", &[DONE, DONE, unknown()]);
        let mut job = seen("init-1.1", InstanceState::Exited, Health::Unknown);
        job.exit = Some(ExitStatus::Code(code));
        world.set("host-1", job);
        world.report("host-1");
        assert_eq!(world.state() == RollState::Ended(RollResult::Succeeded), settles);
        assert_eq!(world.engine.completed_jobs().contains_key(&slot("init-1")), settles);
    }
}

#[test]
fn a_hook_that_must_run_once_waits_for_a_person() {
    for done in [true, false] {
        let mut build = Build::up();
        build.slot("db-1", "host-1", ChangeKind::Touch);
        let hook = build.run("db-1", "migrate", &[]);
        build.run("db-1", "verify", &[hook]);
        let mut world = World::begun(build);
        world.answer("db-1", &[unknown()]);
        world.report("host-1");
        assert!(world.flight().is_empty());
        assert_eq!(world.state(), RollState::NeedsPerson { safe: true });
        assert!(world.view().holds[0].until.contains("baton settle 0"));
        world.ask(Request::Settle { step: hook, done });
        if done {
            assert_eq!(world.command("db-1").id.step, StepId(1));
        } else {
            assert_eq!(world.state(), RollState::NeedsPerson { safe: true });
            assert_eq!(world.engine.summaries()[0].failures[0].kind, FailureKind::Settled);
        }
    }
}

#[test]
fn retry_tries_an_unknown_step_again_as_a_new_attempt() {
    let mut world = unknown_at(3);
    world.ask(Request::Retry);
    let command = world.command("worker-1");
    assert_eq!((command.id.step, command.id.attempt), (StepId(3), Attempt(2)));
}

#[test]
fn an_unknown_step_does_not_keep_the_way_back_waiting() {
    let mut world = unknown_at(3);
    world.ask(Request::Rollback);
    assert!(world.has(&Key::PlanRollback(roll("r1"))));
}

#[test]
fn a_switch_is_settled_by_the_table_in_use() {
    // (the released, what else is known, seconds since the switch began, settled)
    let gone: Option<Admission> = None;
    for (new, old, waited, settles) in [
        (Some(Admission::Admitting), gone, 0, true),
        (Some(Admission::Admitting), Some(Admission::Drained), 0, true),
        (Some(Admission::Admitting), Some(Admission::Draining), 5, false),
        (Some(Admission::Admitting), Some(Admission::Draining), 21, true), // the wait for zero is over by itself
        (Some(Admission::Admitting), Some(Admission::Admitting), 21, false),
        (gone, gone, 21, false),
    ] {
        let mut build = Build::up();
        build.slot("gateway-1", "host-g", ChangeKind::Keep).slot("api-1", "host-1", ChangeKind::Replace);
        let start = build.start("api-1", 2, &[]);
        let switch = build.switch("gateway-1", &["api-1.2"], &["api-1.1"], &[start]);
        build.drain("api-1", 1, &[switch]);
        let mut world = World::begun(build);
        world.finish("api-1");
        world.answer("gateway-1", &[unknown()]);
        world.pass(secs(waited));
        let table = [("api-1.2", new), ("api-1.1", old)].into_iter().filter_map(|(id, admission)| {
            Some(TableTarget { instance: instance(id), host: "h".into(), port: 1, admission: admission? })
        });
        let report = world.reports.get_mut(&agent("host-g")).unwrap();
        report.slots.entry(slot("gateway-1")).or_default().table.insert(component("api"), table.collect());
        world.report("host-g");
        assert_eq!(!world.is_idle("api-1"), settles, "{new:?} {old:?} after {waited}s");
    }
}
