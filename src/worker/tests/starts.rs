//! Rules of prepare, start, ready, soak, retire and hooks, and of the ledger.

use super::rig::*;
use crate::model::*;
use crate::worker::*;

/// What goes wrong in the world.
type Fault = fn(&mut Rig);

const PROBE: ReadyWait = ReadyWait::Probe { successes: 2 };

fn one(rig: &mut Rig, id: &str, act: Act) -> String {
    let results = rig.carry(&command(id, vec![step(0, act)]));
    short(&results[0])
}

#[test]
fn what_is_so_already_is_done_without_an_act() {
    let mut rig = Rig::with_running(&[1]);
    assert_eq!(one(&mut rig, "a/0/1", prepare(1)), "done AlreadySo");
    assert_eq!(one(&mut rig, "b/0/1", start(1)), "done AlreadySo");
    assert_eq!(one(&mut rig, "c/0/1", retire(7)), "done AlreadySo");
    assert_eq!(one(&mut rig, "d/0/1", stop(7)), "done AlreadySo");
    assert_eq!(one(&mut rig, "e/0/1", drain(7, term(), false)), "done AlreadySo");
    assert_eq!(rig.log, Vec::<String>::new());
}

#[test]
fn what_must_not_be_done_is_refused_without_an_act() {
    let mut rig = Rig::with_running(&[1]);
    rig.create(2);
    let other = Act::Prepare { instance: instance(1), definition: digest("d"), spec: digest("other"), version: None };
    assert_eq!(one(&mut rig, "a/0/1", other), "failed Refused");
    assert_eq!(one(&mut rig, "b/0/1", retire(1)), "failed Precondition");
    assert_eq!(one(&mut rig, "c/0/1", start(9)), "failed Missing");
    let mut alone = step(0, start(2));
    alone.precondition = Precondition::Alone;
    assert_eq!(shorts(&rig.carry(&command("d/0/1", vec![alone.clone()]))), ["failed Precondition"]);
    rig.proc(1).state = InstanceState::Unknown;
    assert_eq!(
        shorts(&rig.carry(&command("d/0/2", vec![alone.clone()]))),
        ["failed Precondition"],
        "unknown is not stopped"
    );
    rig.proc(1).state = InstanceState::Exited;
    rig.proc(1).exit = Some(ExitStatus::Code(0));
    assert_eq!(shorts(&rig.carry(&command("d/0/3", vec![alone]))), ["done Completed"]);
}

#[test]
fn no_deadline_lies_in_the_past_while_a_look_is_under_way() {
    let mut rig = Rig::new();
    rig.look_takes = secs(3);
    let list =
        command("a/0/1", vec![step(0, prepare(1)), step(1, start(1)), step(2, ready(1, PROBE)), step(3, soak(1))]);
    rig.command(&list);
    assert!(rig.settle());
    let mut looks = 0;
    while rig.busy() {
        let deadline = rig.worker.next_deadline();
        assert!(deadline.is_none_or(|deadline| deadline > rig.now), "{deadline:?} at {}", rig.now);
        looks += usize::from(rig.out.values().any(|effect| *effect == Effect::Inspect));
        assert!(rig.pass());
    }
    assert!(looks > 3, "no look was under way");
}

#[test]
fn the_first_step_that_is_not_done_ends_the_list() {
    let mut rig = Rig::new();
    let list = command("a/0/1", vec![step(0, start(1)), step(1, ready(1, PROBE)), step(2, soak(1))]);
    assert_eq!(shorts(&rig.carry(&list)), ["failed Missing", "skipped EarlierStep", "skipped EarlierStep"]);
}

#[test]
fn ready_needs_enough_good_answers_in_a_row_and_tells_the_endpoint() {
    let mut rig = Rig::new();
    let list = command("a/0/1", vec![step(0, prepare(1)), step(1, start(1)), step(2, ready(1, PROBE))]);
    let begun = rig.now;
    assert_eq!(shorts(&rig.carry(&list)), ["done Completed", "done Completed", "done Completed"]);
    let took = rig.now.since(begun).as_millis();
    assert!((1100..=1300).contains(&took), "ready after 1 s and two probes, not {took} ms");
    assert!(rig.outcomes[&(list.id.clone(), StepId(1))].endpoint.is_some());
    assert!(rig.outcomes[&(list.id.clone(), StepId(2))].endpoint.is_some());
    assert_eq!(rig.worker.should_run(), [instance(1)]);
    assert!(!rig.reports.is_empty(), "nobody was told how it is getting on");
}

#[test]
fn an_instance_that_never_gets_ready_fails_at_the_deadline_with_the_last_word_of_its_probe() {
    let mut rig = Rig::new();
    rig.knobs.ready_after = secs(1000);
    let list = command("a/0/1", vec![step(0, prepare(1)), step(1, start(1)), step(2, ready(1, PROBE))]);
    let results = rig.carry(&list);
    let StepResult::Failed { kind: FailureKind::NotReady, message, .. } = &results[2] else { panic!("{results:?}") };
    assert!(message.contains("503"), "{message}");
}

#[test]
fn an_end_or_a_restart_before_ready_fails_at_once() {
    let mut rig = Rig::new();
    rig.knobs.job = Some((secs(0), ExitStatus::Code(3)));
    let list = command("a/0/1", vec![step(0, prepare(1)), step(1, start(1)), step(2, ready(1, PROBE))]);
    let begun = rig.now;
    let results = rig.carry(&list);
    let StepResult::Failed { kind: FailureKind::Exited, log, message, .. } = &results[2] else { panic!("{results:?}") };
    assert_eq!(log, &["last words".to_owned()]);
    assert!(message.contains("exit code 3"), "{message}");
    assert!(rig.now.since(begun) < secs(2));

    let mut rig = Rig::with_running(&[1]);
    rig.knobs.ready_after = secs(100);
    rig.proc(1).ready_at = rig.now + secs(100);
    rig.command(&command("b/0/1", vec![step(0, ready(1, PROBE))]));
    assert!(rig.run(secs(2)));
    rig.proc(1).restarts += 1;
    assert!(rig.run(secs(5)));
    assert_eq!(shorts(&rig.results(&command("b/0/1", vec![step(0, ready(1, PROBE))]))), ["failed Exited"]);
}

#[test]
fn weak_readiness_is_running_steadily_and_a_job_is_ready_when_it_ended_with_0() {
    let mut rig = Rig::with_running(&[1]);
    let begun = rig.now;
    assert_eq!(one(&mut rig, "a/0/1", ready(1, ReadyWait::Weak { steady: secs(5) })), "done Completed");
    let took = rig.now.since(begun).as_millis();
    assert!((5000..5200).contains(&took), "{took}");
    assert_eq!(rig.worker.inventory(&rig.look()).instances[0].health, Health::Ready);

    for (code, expected) in [(0, "done Completed"), (1, "failed Exited")] {
        let mut rig = Rig::new();
        rig.knobs.job = Some((secs(3), ExitStatus::Code(code)));
        let done = step(2, ready(1, ReadyWait::Completed));
        let list = command("a/0/1", vec![step(0, prepare(1)), step(1, start(1)), done]);
        assert_eq!(short(&rig.carry(&list)[2]), expected);
    }
}

#[test]
fn a_soak_ends_with_an_exit_a_restart_or_two_bad_answers_and_not_with_one() {
    let list = command("a/0/1", vec![step(0, soak(1))]);
    let cases: [(&str, Fault, &str); 5] = [
        ("nothing", |_| {}, "done Completed"),
        ("no contact for a while", |rig| rig.knobs.lost_until = rig.now + secs(2), "done Completed"),
        ("exit", |rig| rig.proc(1).exits_at = Some((Timestamp(0), ExitStatus::Code(1))), "failed Unstable"),
        ("restart", |rig| rig.proc(1).pid += 1, "failed Unstable"),
        ("unready", |rig| rig.proc(1).ready_at = Timestamp(u64::MAX), "failed Unstable"),
    ];
    for (name, fault, expected) in cases {
        let mut rig = Rig::with_running(&[1]);
        rig.proc(1).ready_at = Timestamp::ZERO;
        rig.command(&list);
        assert!(rig.run(secs(2)));
        fault(&mut rig);
        assert!(rig.run(secs(60)));
        assert_eq!(shorts(&rig.results(&list)), [expected], "{name}");
    }
    let mut rig = Rig::with_running(&[1]);
    rig.proc(1).ready_at = Timestamp::ZERO;
    rig.command(&list);
    assert!(rig.run(secs(2)));
    rig.tell(Event::Probed {
        instance: instance(1),
        verdict: Verdict { ready: false, lost: false, text: "lost".into(), log: vec![] },
    });
    assert!(rig.run(secs(60)));
    assert_eq!(shorts(&rig.results(&list)), ["done Completed"]);
}

#[test]
fn an_act_with_a_lost_answer_is_settled_by_a_look_and_never_repeated() {
    for (happens, expected) in [(true, "done Completed"), (false, "failed Refused")] {
        let mut rig = Rig::new();
        rig.knobs.errors.insert(ActKind::Prepare, (error(FailureKind::Refused, true), happens));
        assert_eq!(one(&mut rig, "a/0/1", prepare(1)), expected);
        assert_eq!(rig.log, ["Prepare worker-1.1"]);
    }
    let mut rig = Rig::new();
    rig.knobs.errors.insert(ActKind::Prepare, (error(FailureKind::Refused, true), true));
    rig.command(&command("a/0/1", vec![step(0, prepare(1))]));
    assert!(rig.settle() && rig.log.len() == 1);
    let mut rig = Rig::new();
    rig.create(1);
    rig.knobs.errors.insert(ActKind::Start, (error(FailureKind::Refused, false), false));
    assert_eq!(one(&mut rig, "a/0/1", start(1)), "failed Refused");
}

#[test]
fn a_slot_that_cannot_be_looked_at_is_tried_again_within_the_deadline() {
    let mut rig = Rig::new();
    rig.knobs.blind_until = rig.now + secs(10);
    assert_eq!(one(&mut rig, "a/0/1", prepare(1)), "done Completed");
    rig.knobs.blind_until = rig.now + secs(1000);
    assert_eq!(one(&mut rig, "b/0/1", start(1)), "failed Deadline");
    assert_eq!(rig.log, ["Prepare worker-1.1"]);
}

#[test]
fn a_hook_runs_once_and_after_a_restart_nobody_knows() {
    let list = command("a/0/1", vec![step(0, Act::Run { hook: "migrate".into() })]);
    let mut rig = Rig::new();
    assert_eq!(shorts(&rig.carry(&list)), ["done Completed"]);
    assert_eq!(rig.log, ["Run migrate"]);
    let mut rig = Rig::new();
    rig.fuse = Some(3);
    rig.command(&list);
    assert!(!rig.run(secs(1)));
    rig.restart();
    assert!(rig.run(secs(100)));
    assert_eq!(shorts(&rig.results(&list)), ["unknown"]);
    assert!(rig.log.len() <= 1);
}

#[test]
fn an_id_stands_for_one_body_and_a_slot_for_one_list() {
    let mut rig = Rig::with_running(&[1]);
    let first = command("a/0/1", vec![step(0, ready(1, PROBE))]);
    assert_eq!(rig.worker.judge(&first), Judgement::New);
    rig.command(&first);
    assert!(rig.settle());
    let mut newer = first.clone();
    newer.term = Term(2);
    assert_eq!(rig.worker.judge(&newer), Judgement::Known);
    assert_eq!(rig.worker.judge(&command("a/0/1", vec![step(0, retire(1))])), Judgement::Conflict);
    assert_eq!(rig.worker.judge(&command("b/0/1", vec![step(0, retire(1))])), Judgement::Busy);
}

#[test]
fn outcomes_are_told_until_acknowledged_again_when_asked_and_forgotten_with_their_roll() {
    let mut rig = Rig::new();
    let list = command("a/0/1", vec![step(0, prepare(1))]);
    let key = EffectKey::Tell(list.id.clone(), StepId(0));
    let acknowledged = Event::Acknowledged(vec![(list.id.clone(), StepId(0))]);
    rig.carry(&list);
    assert!(rig.out.contains_key(&key));
    rig.tell(acknowledged.clone());
    assert!(rig.settle() && !rig.out.contains_key(&key));
    rig.command(&list);
    assert!(rig.settle() && rig.out.contains_key(&key), "a known command's outcomes are told again");
    assert_eq!(rig.log, ["Prepare worker-1.1"]);
    rig.tell(acknowledged);
    rig.tell(Event::Forget(vec![list.id.roll.clone()]));
    assert!(rig.settle() && !rig.out.contains_key(&key));
    assert!(rig.worker.rolls().is_empty());
    assert_eq!(rig.worker.inventory(&[]).highest, 1, "a number is never used again");

    let next = command("b/0/1", vec![step(0, prepare(2))]);
    rig.carry(&next);
    rig.tell(Event::Forget(vec![next.id.roll.clone()]));
    assert!(rig.settle() && rig.worker.rolls().contains(&next.id.roll), "nobody has its outcome yet");
    rig.tell(Event::Acknowledged(vec![(next.id.clone(), StepId(0))]));
    assert!(rig.settle() && rig.worker.rolls().is_empty());
}

#[test]
fn what_was_started_is_probed_slowly_until_its_drain() {
    let mut rig = Rig::new();
    let list = command("a/0/1", vec![step(0, prepare(1)), step(1, start(1)), step(2, ready(1, PROBE))]);
    rig.carry(&list);
    let key = EffectKey::Probe(instance(1));
    assert!(matches!(rig.out.get(&key), Some(Effect::Probe { pace: Pace::Slow, .. })));
    assert!(rig.worker.inventory(&rig.look()).instances[0].serves());
    rig.restart();
    assert!(matches!(rig.out.get(&key), Some(Effect::Probe { pace: Pace::Slow, .. })), "after a restart too");
    rig.carry(&command("b/0/1", vec![step(0, drain(1, term(), false))]));
    assert!(!rig.out.contains_key(&key));
    assert!(!rig.worker.inventory(&rig.look()).instances[0].serves());
    assert!(rig.worker.should_run().is_empty());
}
