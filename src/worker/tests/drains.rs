//! Rules of drain, stop, undrain, switch and recall; and a random walk.

use super::rig::*;
use crate::model::*;
use crate::worker::*;

fn report(result: &StepResult) -> &DrainReport {
    match result {
        StepResult::Done(How::Drained(report)) => report,
        other => panic!("not a drain's report: {other:?}"),
    }
}

#[test]
fn a_drain_by_signal_ends_when_the_process_is_gone_and_the_stop_sweeps_its_children() {
    let mut rig = Rig::with_running(&[1]);
    let list = command("a/0/1", vec![step(0, drain(1, term(), false)), step(1, stop(1)), step(2, retire(1))]);
    let results = rig.carry(&list);
    assert_eq!(report(&results[0]).exited, Some(ExitStatus::Code(0)));
    assert_eq!(report(&results[0]).took, secs(2));
    assert!(!report(&results[1]).killed);
    assert_eq!(
        rig.log,
        ["HoldRestart worker-1.1", "Signal worker-1.1", "Kill worker-1.1", "Remove worker-1.1"],
        "hold, one signal, sweep, remove"
    );
}

#[test]
fn a_process_that_ignores_its_signal_is_killed_at_the_end_of_one_grace() {
    let mut rig = Rig::with_running(&[1]);
    rig.knobs.exit_after = None;
    let begun = rig.now;
    let list = command("a/0/1", vec![step(0, drain(1, term(), true)), step(1, stop(1))]);
    let results = rig.carry(&list);
    assert_eq!(report(&results[0]).took, secs(20), "stop_timeout is kept");
    assert_eq!(report(&results[0]).left, Some(2));
    assert!(report(&results[1]).killed);
    assert_eq!(rig.now.since(begun), secs(30));
    assert_eq!(rig.proc(1).signals, ["SIGTERM"], "the signal of the drain is not sent again by the stop");
}

#[test]
fn a_drain_ends_early_at_a_known_zero_and_no_answer_is_not_zero() {
    let mut rig = Rig::with_running(&[1]);
    rig.proc(1).inflight = None;
    rig.knobs.idle_at = Some(rig.now + secs(7));
    let results = rig.carry(&command("a/0/1", vec![step(0, drain(1, DrainStart::Call, true))]));
    assert!(report(&results[0]).took >= secs(7) && report(&results[0]).took < secs(8));
    assert_eq!(report(&results[0]).left, Some(0));
    let seen = rig.worker.inventory(&rig.look());
    assert_eq!(seen.instances[0].admission, Admission::Drained);
    assert!(seen.held_drained, "drained by hand");
}

#[test]
fn without_contact_a_drain_waits_says_so_and_is_neither_done_nor_failed() {
    let says = |rig: &Rig, words: &str| rig.reports.iter().any(|(_, progress)| progress.text.contains(words));
    // It comes back: the call is made then, and the drain ends with the work.
    let mut rig = Rig::with_running(&[1]);
    rig.knobs.lost_until = rig.now + secs(5);
    rig.knobs.idle_at = Some(rig.now + secs(7));
    let results = rig.carry(&command("a/0/1", vec![step(0, drain(1, DrainStart::Call, true))]));
    assert!(report(&results[0]).took >= secs(7) && report(&results[0]).took < secs(8));
    assert!(says(&rig, "no contact"), "{:?}", rig.reports);
    // It never does: nobody knows whether the drain has begun, so nothing is stopped.
    let mut rig = Rig::with_running(&[1]);
    rig.knobs.lost_until = Timestamp(u64::MAX);
    let begun = rig.now;
    let results = rig.carry(&command("a/0/1", vec![step(0, drain(1, DrainStart::Call, true)), step(1, stop(1))]));
    assert!(matches!(results[0], StepResult::Unknown { .. }), "{results:?}");
    assert!(matches!(results[1], StepResult::Skipped(_)), "{results:?}");
    assert!(rig.now.since(begun) >= secs(20), "{:?}", rig.now.since(begun));
    assert!(rig.proc(1).signals.is_empty() && rig.proc(1).state == InstanceState::Running);
    // It goes after the drain has begun: the ledger owns the grace and its end.
    let mut rig = Rig::with_running(&[1]);
    let list = command("a/0/1", vec![step(0, drain(1, DrainStart::Call, true)), step(1, stop(1))]);
    rig.command(&list);
    assert!(rig.run(secs(2)));
    rig.knobs.lost_until = Timestamp(u64::MAX);
    assert!(rig.run(secs(60)));
    let results = rig.results(&list);
    assert_eq!((report(&results[0]).took, report(&results[0]).left), (secs(20), None));
    assert!(says(&rig, "work in flight is unknown: no contact"), "{:?}", rig.reports);
}

#[test]
fn with_nothing_to_wait_for_a_drain_is_done_at_once() {
    let mut rig = Rig::with_running(&[1]);
    let results = rig.carry(&command("a/0/1", vec![step(0, drain(1, DrainStart::Nothing, false)), step(1, stop(1))]));
    assert_eq!(report(&results[0]).took, secs(0));
    assert_eq!(report(&results[1]).took, secs(2));
    assert_eq!(rig.proc(1).signals, ["SIGTERM"]);
    assert!(!rig.worker.inventory(&rig.look()).held_drained);
}

#[test]
fn a_second_drain_does_not_renew_the_grace() {
    let mut rig = Rig::with_running(&[1]);
    rig.knobs.exit_after = None;
    let begun = rig.now;
    rig.carry(&command("a/0/1", vec![step(0, drain(1, term(), true)), step(1, ready(9, ReadyWait::Completed))]));
    rig.carry(&command("a/0/2", vec![step(0, drain(1, term(), true)), step(1, stop(1))]));
    let began = rig.facts.iter().filter(|(_, record)| matches!(record, Record::DrainBegan { .. })).count();
    assert_eq!(began, 1);
    assert_eq!(rig.proc(1).signals, ["SIGTERM"]);
    assert!(rig.now.since(begun) <= secs(31), "{:?}", rig.now.since(begun));
}

#[test]
fn a_drain_is_given_back_unless_it_began_with_a_signal() {
    let mut rig = Rig::with_running(&[1]);
    rig.knobs.idle_at = Some(rig.now);
    rig.carry(&command("a/0/1", vec![step(0, drain(1, DrainStart::Call, true))]));
    rig.log.clear();
    assert_eq!(shorts(&rig.carry(&command("b/0/1", vec![step(0, undrain(1))]))), ["done Completed"]);
    assert_eq!(rig.log, ["UndrainCall worker-1.1", "AllowRestart worker-1.1"]);
    let seen = rig.worker.inventory(&rig.look());
    assert!(!seen.held_drained);
    assert_eq!(seen.instances[0].admission, Admission::Admitting);
    assert_eq!(shorts(&rig.carry(&command("c/0/1", vec![step(0, undrain(1))]))), ["done AlreadySo"]);

    rig.knobs.exit_after = None;
    rig.carry(&command("d/0/1", vec![step(0, drain(1, term(), true))]));
    assert_eq!(shorts(&rig.carry(&command("e/0/1", vec![step(0, undrain(1))]))), ["failed Refused"]);
}

#[test]
fn nothing_old_goes_before_the_new_one_is_ready() {
    let mut rig = Rig::with_running(&[1, 2]);
    let mut act = step(0, drain(1, term(), false));
    act.precondition = Precondition::Ready(instance(2));
    rig.proc(2).state = InstanceState::Exited;
    rig.proc(2).exit = Some(ExitStatus::Code(1));
    assert_eq!(shorts(&rig.carry(&command("a/0/1", vec![act.clone()]))), ["failed Precondition"]);
    assert!(rig.log.is_empty());
    rig.proc(2).state = InstanceState::Running;
    assert_eq!(shorts(&rig.carry(&command("a/0/2", vec![act]))), ["drained 2000ms"]);
}

#[test]
fn a_recalled_list_ends_its_waits_and_finishes_what_cannot_be_undone() {
    let cases: [(CommandStep, &str); 4] = [
        (step(0, soak(1)), "skipped Recalled"),
        (step(0, drain(1, DrainStart::Call, true)), "skipped Recalled"),
        (step(0, drain(1, term(), true)), "drained 2000ms"),
        (step(0, stop(1)), "drained 2000ms"),
    ];
    for (first, expected) in cases {
        let mut rig = Rig::with_running(&[1]);
        rig.proc(1).ready_at = Timestamp::ZERO;
        let list = command("a/0/1", vec![first, step(1, retire(1))]);
        rig.command(&list);
        assert!(rig.run(secs(1)));
        rig.tell(Event::Recall(list.id.clone()));
        assert!(rig.run(secs(600)));
        assert_eq!(shorts(&rig.results(&list)), [expected, "skipped Recalled"]);
    }
}

#[test]
fn a_lost_answer_to_a_signal_is_waited_out_and_a_refused_one_fails() {
    let mut rig = Rig::with_running(&[1]);
    rig.knobs.errors.insert(ActKind::Signal, (error(FailureKind::Refused, true), true));
    assert_eq!(shorts(&rig.carry(&command("a/0/1", vec![step(0, drain(1, term(), false))]))), ["drained 2000ms"]);
    let mut rig = Rig::with_running(&[1]);
    rig.knobs.errors.insert(ActKind::Signal, (error(FailureKind::Refused, false), false));
    assert_eq!(shorts(&rig.carry(&command("a/0/1", vec![step(0, drain(1, term(), false))]))), ["failed Refused"]);
}

fn switch_list() -> Command {
    let component: ComponentName = "api".parse().unwrap();
    let act = Act::Switch { component, targets: Vec::new(), hold_max: secs(30), drain: secs(10) };
    command("a/0/1", vec![step(0, act)])
}

fn gateway(in_use: bool, inflight: u64) -> Event {
    let component = "api".parse().unwrap();
    Event::Gateway { component, in_use, inflight, closed: 1, text: "target answers 503".into() }
}

#[test]
fn a_switch_is_done_when_in_use_and_empty_and_closes_what_stays() {
    let list = switch_list();
    let mut rig = Rig::new();
    rig.command(&list);
    rig.tell(gateway(false, 0));
    rig.tell(gateway(true, 3));
    assert!(rig.run(secs(5)) && rig.results(&list).is_empty());
    rig.tell(gateway(true, 0));
    assert!(rig.run(secs(1)));
    assert_eq!(report(&rig.results(&list)[0]).took, secs(5));
    assert_eq!(rig.worker.inventory(&[]).table.len(), 1);

    let mut rig = Rig::new();
    rig.command(&list);
    rig.tell(gateway(true, 3));
    assert!(rig.run(secs(60)));
    assert_eq!(rig.log, ["Switch close=false", "Switch close=true"]);
    let told = report(&rig.results(&list)[0]).clone();
    assert_eq!((told.took, told.closed, told.cut), (secs(12), 1, 3));

    let mut rig = Rig::new();
    rig.command(&list);
    rig.tell(gateway(false, 0));
    assert!(rig.run(secs(100)));
    assert_eq!(shorts(&rig.results(&list)), ["failed NotReady"]);
}

/// A small generator of numbers: the walk must replay from its seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) % sides
    }
}

#[test]
fn a_random_walk_keeps_its_promises_and_always_comes_to_an_end() {
    for seed in 0..10 {
        let mut dice = Dice(seed);
        let mut rig = Rig::with_running(&[1]);
        let mut sent: Vec<Command> = Vec::new();
        for round in 0..60u32 {
            let number = 1 + dice.roll(3);
            match dice.roll(12) {
                0..=3 => {
                    let acts = [
                        prepare(number),
                        start(number),
                        ready(number, ReadyWait::Probe { successes: 2 }),
                        soak(number),
                        drain(number, DrainStart::Call, true),
                        drain(number, term(), dice.roll(2) == 0),
                        undrain(number),
                        stop(number),
                        retire(number),
                    ];
                    let first = dice.roll(acts.len() as u64) as usize;
                    let length = 1 + dice.roll(3) as usize;
                    let steps = acts.into_iter().skip(first).take(length);
                    let steps = steps.enumerate().map(|(place, act)| step(round * 10 + place as u32, act)).collect();
                    let list = command(&format!("r/{}/1", round * 10), steps);
                    if rig.worker.judge(&list) == Judgement::New {
                        sent.push(list.clone());
                    }
                    rig.command(&list);
                }
                4 => {
                    if let Some(list) = sent.last().cloned() {
                        rig.tell(Event::Recall(list.id));
                    }
                }
                5 => rig.restart(),
                6 => rig.tell(Event::Exited { instance: instance(number), status: ExitStatus::Unknown, log: vec![] }),
                7 => {
                    let kinds = [ActKind::Start, ActKind::Signal, ActKind::Kill, ActKind::DrainCall, ActKind::Prepare];
                    let kind = kinds[dice.roll(5) as usize];
                    rig.knobs.errors.insert(kind, (error(FailureKind::Refused, true), dice.roll(2) == 0));
                }
                10 => rig.look_takes = std::time::Duration::from_millis(dice.roll(900)),
                8 => rig.knobs.blind_until = rig.now + secs(dice.roll(20)),
                9 => rig.tell(Event::Acknowledged(rig.outcomes.keys().cloned().collect())),
                _ => {}
            }
            assert!(rig.run(secs(dice.roll(15))), "seed {seed}");
            for (id, proc) in &rig.procs {
                assert!(proc.signals.len() <= 1, "seed {seed}: {id} had {:?}", proc.signals);
            }
        }
        assert!(rig.run(secs(600)));
        assert!(!rig.busy(), "seed {seed} did not end: {:?}", rig.worker);
        let mut live = rig.worker.clone();
        live.forget_notes();
        rig.restart();
        assert_eq!(live, rig.worker, "seed {seed}");
    }
}
