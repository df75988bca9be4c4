//! Crash before every record; start again from the facts alone; the same end in the same world.

use super::rig::*;
use crate::model::*;

const PROBE: ReadyWait = ReadyWait::Probe { successes: 2 };

struct Scenario {
    name: &'static str,
    rig: fn() -> Rig,
    commands: fn() -> Vec<Command>,
}

fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "stop-first by signal",
            rig: || Rig::with_running(&[1]),
            commands: || {
                let mut begin = step(4, start(2));
                begin.precondition = Precondition::Alone;
                let wait = step(5, ready(2, PROBE));
                vec![
                    command("r/0/1", vec![step(0, prepare(2))]),
                    command("r/1/1", vec![step(1, drain(1, term(), false)), step(2, stop(1))]),
                    command("r/4/1", vec![begin, wait, step(6, soak(2)), step(7, retire(1))]),
                ]
            },
        },
        Scenario {
            name: "an instance that ignores its signal",
            rig: || {
                let mut rig = Rig::with_running(&[1]);
                rig.knobs.exit_after = None;
                rig
            },
            commands: || {
                let steps = vec![step(1, drain(1, term(), true)), step(2, stop(1)), step(3, retire(1))];
                vec![command("r/1/1", steps)]
            },
        },
        Scenario {
            name: "start-first by call",
            rig: || {
                let mut rig = Rig::with_running(&[1]);
                rig.knobs.idle_at = Some(rig.now + secs(12));
                rig
            },
            commands: || {
                let mut old = step(3, drain(1, DrainStart::Call, true));
                old.precondition = Precondition::Ready(instance(2));
                vec![
                    command("r/0/1", vec![step(0, prepare(2)), step(1, start(2)), step(2, ready(2, PROBE))]),
                    command("r/3/1", vec![old, step(4, stop(1)), step(5, retire(1))]),
                ]
            },
        },
        Scenario {
            name: "a stop without a drain",
            rig: || Rig::with_running(&[1]),
            commands: || vec![command("r/0/1", vec![step(0, stop(1)), step(1, retire(1))])],
        },
        Scenario {
            name: "drained and given back",
            rig: || Rig::with_running(&[1]),
            commands: || {
                vec![
                    command("r/0/1", vec![step(0, drain(1, DrainStart::Call, true))]),
                    command("s/0/1", vec![step(0, undrain(1))]),
                ]
            },
        },
        Scenario {
            name: "a job",
            rig: || {
                let mut rig = Rig::new();
                rig.knobs.job = Some((secs(3), ExitStatus::Code(0)));
                rig
            },
            commands: || {
                let done = step(2, ready(1, ReadyWait::Completed));
                vec![command("r/0/1", vec![step(0, prepare(1)), step(1, start(1)), done])]
            },
        },
    ]
}

/// All there is at the end: without times, which a crash may stretch.
fn end(rig: &Rig, commands: &[Command]) -> (Vec<String>, String) {
    let procs = rig.procs.iter().map(|(id, p)| {
        format!(
            "{id} {:?} starts {} signals {:?} children {} held {}",
            p.state, p.starts, p.signals, p.children, p.held
        )
    });
    for command in commands {
        for result in rig.results(command) {
            assert!(result.is_done(), "{}: {result:?}", command.id);
        }
        assert_eq!(rig.results(command).len(), command.steps.len(), "{} has steps without outcome", command.id);
    }
    let inventory = rig.worker.inventory(&rig.look());
    let open: Vec<_> = inventory.instances.iter().map(|seen| (seen.id.to_string(), seen.admission)).collect();
    let world = format!("{open:?} held {} should run {:?}", inventory.held_drained, rig.worker.should_run());
    (procs.collect(), world)
}

/// Carries out all commands; where the fuse burns through, the agent is started again and asked again.
fn play(scenario: &Scenario, fuse: Option<usize>) -> Rig {
    let mut rig = (scenario.rig)();
    rig.poll_every = secs(1);
    rig.fuse = fuse;
    for command in (scenario.commands)() {
        rig.command(&command);
        for _ in 0..20 {
            if rig.run(secs(300)) {
                break;
            }
            let world = rig.procs.clone();
            rig.restart();
            let mut live = rig.worker.clone();
            live.forget_notes();
            assert_eq!(live, rig.worker, "replay knows more than facts");
            assert_eq!(world, rig.procs, "a replay acts on nothing");
            rig.settle();
            rig.command(&command);
        }
        assert!(!rig.busy(), "{} did not end: {:?}", command.id, rig.worker);
    }
    rig
}

#[test]
fn a_crash_before_any_record_leads_to_the_same_end_and_sends_no_signal_twice() {
    for scenario in scenarios() {
        let calm = play(&scenario, None);
        let commands = (scenario.commands)();
        let expected = end(&calm, &commands);
        for fuse in 0..calm.applied {
            let rig = play(&scenario, Some(fuse));
            for proc in rig.procs.values() {
                assert!(proc.signals.len() <= 1, "{}, crash at {fuse}: {:?}", scenario.name, proc.signals);
            }
            let (procs, world) = end(&rig, &commands);
            assert_eq!(procs, expected.0, "{}, crash at {fuse}", scenario.name);
            assert_eq!(world, expected.1, "{}, crash at {fuse}", scenario.name);
        }
    }
}

#[test]
fn every_command_delivered_twice_changes_nothing() {
    for scenario in scenarios() {
        let calm = play(&scenario, None);
        let mut rig = (scenario.rig)();
        rig.poll_every = secs(1);
        for command in (scenario.commands)() {
            rig.command(&command);
            rig.command(&command);
            assert!(rig.run(secs(300)));
            rig.command(&command);
            assert!(rig.run(secs(1)));
        }
        assert_eq!(calm.log, rig.log, "{}", scenario.name);
    }
}

#[test]
fn replay_of_the_facts_gives_the_live_state_without_its_notes_at_every_record() {
    for scenario in scenarios() {
        let calm = play(&scenario, None);
        for fuse in 0..calm.applied {
            let mut rig = (scenario.rig)();
            rig.poll_every = secs(1);
            rig.fuse = Some(fuse);
            for command in (scenario.commands)() {
                rig.command(&command);
                if !rig.run(secs(300)) {
                    break;
                }
            }
            rig.worker.forget_notes();
            let live = rig.worker.clone();
            rig.restart();
            assert_eq!(live, rig.worker, "{}, record {fuse}", scenario.name);
        }
    }
}
