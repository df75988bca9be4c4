//! What people and scripts read: views, holds, news, summaries.

use super::world::*;
use crate::engine::{Event, News, ResultWord, RollSummary, hold_news, news};
use crate::model::*;

#[test]
fn a_slot_is_described_by_what_happens_to_it() {
    let mut build = Build::workers(2);
    build.lane("worker", 1).slot("cache-1", "host-1", ChangeKind::Keep);
    let mut world = World::begun(build);
    let phases = |world: &World| -> Vec<(String, String, (u32, u32))> {
        let slots = world.view().slots;
        slots.into_iter().map(|one| (one.slot.to_string(), one.phase, one.done)).collect()
    };
    let row = |name: &str, phase: &str, done: u32, of: u32| (name.to_owned(), phase.to_owned(), (done, of));
    let words = ["draining", "stopping", "starting", "getting ready", "soaking", "retiring"];
    for (done, word) in words.into_iter().enumerate() {
        let found = phases(&world);
        assert_eq!(found[0], row("cache-1", "kept", 0, 0));
        assert_eq!(found[1], row("worker-1", word, done as u32, 6));
        if done < 5 {
            assert_eq!(found[2], row("worker-2", "waiting", 0, 6));
        }
        world.answer("worker-1", &[DONE]);
    }
    assert_eq!(phases(&world)[1], row("worker-1", "done", 6, 6));
}

#[test]
fn a_step_at_work_tells_its_time_and_what_its_agent_said_last() {
    let mut world = World::begun(Build::workers(1));
    world.pass(secs(12));
    let at_work = |world: &World| world.view().slots[0].at_work.clone().unwrap();
    let before = at_work(&world);
    assert_eq!((before.verb.as_str(), before.elapsed, before.left), ("drain", secs(12), Some(secs(18))));
    assert_eq!(before.text, "drain of worker-1.1");
    let progress = Progress {
        command: world.command("worker-1").id,
        slot: slot("worker-1"),
        step: StepId(0),
        text: "2 jobs in flight".into(),
        inflight: Some(2),
        elapsed: secs(12),
        left: secs(17),
    };
    let event = Event::Progress { agent: agent("host-1"), progress: progress.clone() };
    let records = world.event(event);
    assert_eq!(records.len(), 1, "a note");
    assert!(!records[0].is_fact());
    world.pass(secs(2));
    let after = at_work(&world);
    assert_eq!((after.text.as_str(), after.inflight, after.left), ("2 jobs in flight", Some(2), Some(secs(15))));
    // What it said of a drain is not said of the stop that follows.
    world.answer("worker-1", &[DONE]);
    assert_eq!(at_work(&world).inflight, None);
    let foreign = Event::Progress { agent: agent("host-9"), progress };
    assert!(world.event(foreign).is_empty());
}

#[test]
fn agents_are_shown_with_the_age_of_their_report() {
    let mut world = World::begun(Build::workers(2));
    world.pass(secs(3));
    world.event(Event::SessionLost(agent("host-2")));
    world.pass(secs(4));
    let agents = world.view().agents;
    assert!(agents[0].up && !agents[1].up);
    assert_eq!(agents[0].report_age, Some(secs(7)));
    assert_eq!(agents[1].since, world.now - secs(4));
}

#[test]
fn a_summary_tells_durations_drains_and_failures() {
    let mut build = Build::workers(1);
    build.limits("worker", |limits| limits.failure_action = FailureAction::Pause);
    let mut world = World::begun(build);
    let began = world.now;
    world.pass(secs(9));
    let report = DrainReport { took: secs(9), left: Some(0), ..DrainReport::default() };
    world.answer("worker-1", &[StepResult::Done(How::Drained(report.clone()))]);
    world.pass(secs(2));
    let killed = DrainReport { took: secs(11), killed: true, ..DrainReport::default() };
    world.answer("worker-1", &[StepResult::Done(How::Drained(killed.clone()))]);
    world.pass(secs(1));
    world.answer("worker-1", &[failed(FailureKind::Exited), SKIPPED, SKIPPED, SKIPPED]);
    world.ask(crate::engine::Request::Abort);
    let summary = world.engine.summaries().pop().unwrap();
    let took: Vec<(String, String, u64)> =
        summary.steps.iter().map(|one| (one.verb.clone(), one.result.clone(), one.took.as_secs())).collect();
    let row = |verb: &str, result: &str, took: u64| (verb.to_owned(), result.to_owned(), took);
    assert_eq!(took, [row("drain", "done", 9), row("stop", "done", 2), row("start", "failed", 1)]);
    assert_eq!(summary.drains.len(), 2);
    assert_eq!((&summary.drains[0].report, &summary.drains[1].report), (&report, &killed));
    assert_eq!(summary.drains[1].instance, instance("worker-1.1"));
    assert_eq!((summary.began, summary.ended), (began, Some(world.now)));
    assert_eq!((summary.steps_done, summary.steps_total), (2, 6));
    assert_eq!(summary.failures[0].message, "it said no");
    let text = serde_json::to_string(&summary).unwrap();
    assert_eq!(serde_json::from_str::<RollSummary>(&text).unwrap(), summary);
}

#[test]
fn news_tells_every_record_that_matters_in_a_stable_form() {
    let mut build = Build::workers(1);
    build.limits("worker", |limits| limits.failure_action = FailureAction::Pause);
    let mut world = World::new();
    world.observe(&build.plan);
    let mut told = Vec::new();
    let mut tell = |world: &mut World, event: Event| {
        let mut next = event;
        loop {
            let records = world.engine.decide(world.now, &next);
            if records.is_empty() {
                break;
            }
            for record in &records {
                world.apply(record).unwrap();
                told.extend(news(record, &world.engine));
            }
            next = Event::Tick;
        }
    };
    let plan = Box::new(build.plan);
    tell(&mut world, Event::RollRequested { roll: roll("r1"), plan, actor: "ann".into(), reason: "release".into() });
    let command = world.command("worker-1").id;
    for (step, result) in [(0, DONE), (1, failed(FailureKind::Deadline))] {
        let outcome =
            Outcome { command: command.clone(), slot: slot("worker-1"), step: StepId(step), result, endpoint: None };
        tell(&mut world, Event::Outcome { agent: agent("host-1"), outcome });
    }
    tell(&mut world, Event::SessionLost(agent("host-1")));
    let kinds: Vec<String> =
        told.iter().map(|one| serde_json::to_value(one).unwrap()["event"].as_str().unwrap().to_owned()).collect();
    assert_eq!(kinds, ["roll-began", "step-began", "step-ended", "step-ended", "failure-acted", "agent"]);
    for one in &told {
        let text = serde_json::to_string(one).unwrap();
        assert_eq!(serde_json::from_str::<News>(&text).unwrap(), *one, "{text}");
    }
    let News::StepEnded { result, failure, message, log, done, step, .. } = &told[3] else { panic!() };
    assert_eq!((result, failure), (&ResultWord::Failed, &Some(FailureKind::Deadline)));
    assert_eq!((message.as_deref(), log.len(), *done), (Some("it said no"), 1, (1, 6)));
    assert_eq!(step.verb, "stop");
    let text = serde_json::to_string(&told[0]).unwrap();
    assert!(!text.contains("definition"), "no plan bodies: {text}");
}

#[test]
fn holds_are_told_when_they_begin_and_when_they_end() {
    let mut world = World::begun(Build::workers(1));
    let quiet = world.view().holds;
    world.event(Event::SessionLost(agent("host-1")));
    let lost = world.view().holds;
    world.pass(secs(5));
    let still = world.view().holds;
    assert!(matches!(hold_news(&quiet, &lost).as_slice(), [News::Hold { .. }]));
    assert!(hold_news(&lost, &still).is_empty(), "growing older is no news");
    assert!(matches!(hold_news(&still, &quiet).as_slice(), [News::HoldEnded { .. }]));
    for one in hold_news(&quiet, &lost) {
        let text = serde_json::to_string(&one).unwrap();
        assert_eq!(serde_json::from_str::<News>(&text).unwrap(), one, "{text}");
    }
}

#[test]
fn records_keep_their_form_in_the_journal() {
    let mut world = World::begun(Build::workers(1));
    world.answer("worker-1", &[DONE]);
    world.ask(crate::engine::Request::Pause);
    for (_, record) in &world.facts {
        let text = serde_json::to_string(record).unwrap();
        assert_eq!(serde_json::from_str::<crate::engine::Record>(&text).unwrap(), *record, "{text}");
    }
}
