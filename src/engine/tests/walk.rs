//! A seeded random walk: whatever happens in whatever order, what is kept equals what is computed, limits hold at every
//! begin, a replay gives the same state, and when the trouble ends so does the roll.

use std::collections::BTreeMap;

use super::world::*;
use crate::engine::{Effect, Event, Key, Record, Request, RollState};
use crate::model::*;

/// xorshift64*: small, seeded, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

/// Three APIs behind a gateway, two workers and a job on two hosts, a gate and a delay: every step kind.
fn fleet(dice: &mut Dice) -> Build {
    let mut build = Build::up();
    build.slot("gateway-1", "host-g", ChangeKind::Keep);
    for index in 1..=3 {
        build.slot(&format!("api-{index}"), "host-a", ChangeKind::Replace);
    }
    for index in 1..=2 {
        build.slot(&format!("worker-{index}"), "host-b", ChangeKind::Replace);
    }
    build.slot("init-1", "host-b", ChangeKind::Add);
    let mut prepared = Vec::new();
    for name in ["api-1", "api-2", "api-3", "worker-1", "worker-2"] {
        prepared.push(build.prepare(name, 2, &[]));
    }
    prepared.push(build.prepare("init-1", 1, &[]));
    let mut stopped = Vec::new();
    for name in ["worker-1", "worker-2"] {
        let drain = build.drain(name, 1, &prepared);
        stopped.push(build.stop(name, 1, &[drain]));
    }
    let hook = build.run("init-1", "backup", &stopped);
    let start = build.start("init-1", 1, &[hook]);
    let job = build.completed("init-1", 1, &[start]);
    let gate = build.gate("go", &[job]);
    let mut up = Vec::new();
    for name in ["worker-1", "worker-2"] {
        let start = build.start(name, 2, &[gate]);
        let ready = build.ready(name, 2, &[start]);
        up.push(ready);
        build.retire(name, 1, &[ready]);
    }
    for index in 1..=3 {
        let name = format!("api-{index}");
        let (old, new) = (format!("{name}.1"), format!("{name}.2"));
        let last = if dice.chance(50) {
            let start = build.start(&name, 2, &up);
            let ready = build.ready(&name, 2, &[start]);
            let switch = build.switch("gateway-1", &[&new], &[&old], &[ready]);
            build.while_ready(switch, &new);
            let drain = build.drain(&name, 1, &[switch]);
            build.stop(&name, 1, &[drain])
        } else {
            let release = build.switch("gateway-1", &[], &[&old], &up);
            let drain = build.drain(&name, 1, &[release]);
            let stop = build.stop(&name, 1, &[drain]);
            let start = build.start(&name, 2, &[stop]);
            let ready = build.ready(&name, 2, &[start]);
            let admit = build.switch("gateway-1", &[&new], &[], &[ready]);
            build.soak(&name, 2, &[admit])
        };
        let delay = build.delay(&name, secs(5), &[last]);
        build.retire(&name, 1, &[delay]);
    }
    build.lane("api", 1 + dice.below(3) as u32).floor("api", dice.below(3) as u32);
    let actions = [FailureAction::Pause, FailureAction::Continue, FailureAction::Rollback];
    for name in ["api", "worker", "init"] {
        let action = actions[dice.below(3) as usize];
        let ratio = if dice.chance(50) { Ratio(0) } else { Ratio(400_000) };
        build.limits(name, |limits| {
            limits.failure_action = action;
            limits.max_failure_ratio = ratio;
        });
    }
    build
}

/// What really is, as the agents of the walk carry it out.
fn carry_out(world: &mut World, act: &Act) {
    let change = |world: &mut World, id: &InstanceId, change: &dyn Fn(&mut InstanceObservation)| {
        for report in world.reports.values_mut() {
            if let Some(of_slot) = report.slots.get_mut(&id.slot) {
                of_slot.instances.iter_mut().filter(|one| one.id == *id).for_each(change);
            }
        }
    };
    match act {
        Act::Prepare { instance, .. } => {
            for report in world.reports.values_mut() {
                if let Some(of_slot) = report.slots.get_mut(&instance.slot)
                    && of_slot.instances.iter().all(|one| one.id != *instance)
                {
                    of_slot.instances.push(seen(&instance.to_string(), InstanceState::Created, Health::Unknown));
                }
            }
        }
        Act::Start { instance } => change(world, instance, &|one| one.state = InstanceState::Running),
        Act::Ready { instance, wait: ReadyWait::Completed, .. } => change(world, instance, &|one| {
            one.state = InstanceState::Exited;
            one.exit = Some(ExitStatus::Code(0));
        }),
        Act::Ready { instance, .. } => change(world, instance, &|one| one.health = Health::Ready),
        Act::Drain { instance, .. } => change(world, instance, &|one| one.admission = Admission::Drained),
        Act::Stop { instance, .. } => change(world, instance, &|one| one.state = InstanceState::Exited),
        Act::Retire { instance } => {
            for report in world.reports.values_mut() {
                if let Some(of_slot) = report.slots.get_mut(&instance.slot) {
                    of_slot.instances.retain(|one| one.id != *instance);
                }
            }
        }
        Act::Switch { component, targets, .. } => {
            let report = world.reports.get_mut(&agent("host-g")).unwrap();
            let of_gateway = report.slots.get_mut(&slot("gateway-1")).unwrap();
            let in_use = targets.iter().cloned().map(|mut target| {
                if target.admission == Admission::Draining {
                    target.admission = Admission::Drained;
                }
                target
            });
            of_gateway.table.insert(component.clone(), in_use.collect());
        }
        _ => {}
    }
}

/// API slots that truly take requests now: an instance that runs, is ready, and is admitted by the gateway.
fn serving(world: &World) -> u32 {
    let gateway = &world.reports[&agent("host-g")].slots[&slot("gateway-1")];
    let table = &gateway.table[&component("api")];
    let admitted =
        |id: &InstanceId| table.iter().any(|one| one.instance == *id && one.admission == Admission::Admitting);
    let slots = &world.reports[&agent("host-a")].slots;
    slots.values().filter(|of_slot| of_slot.instances.iter().any(|one| one.serves() && admitted(&one.id))).count()
        as u32
}

/// Released or drained by lists in flight: they may stop serving at any moment.
fn leaving(world: &World) -> Vec<InstanceId> {
    let mut leaving = Vec::new();
    for effect in world.engine.outstanding().into_values() {
        let Effect::Send { command, .. } = effect else { continue };
        for one in command.steps {
            match one.act {
                Act::Switch { targets, .. } => {
                    let released = targets.into_iter().filter(|target| target.admission == Admission::Draining);
                    leaving.extend(released.map(|target| target.instance));
                }
                Act::Drain { instance, .. } | Act::Stop { instance, .. } => leaving.push(instance),
                _ => {}
            }
        }
    }
    leaving
}

/// At every instant: the floor, counting as gone whoever may go; and never more slots at work than places.
fn safe(world: &World, seed: u64, worst: &mut u32) {
    let Some(roll) = world.engine.unfinished() else { return };
    let plan = &roll.graph.plan;
    if matches!(plan.kind, PlanKind::Rollback { .. }) {
        return;
    }
    let limits = &plan.limits[&component("api")];
    let leaving = leaving(world);
    let gateway = &world.reports[&agent("host-g")].slots[&slot("gateway-1")];
    let table = &gateway.table[&component("api")];
    let coming: Vec<InstanceId> = world
        .engine
        .outstanding()
        .into_values()
        .filter_map(|effect| match effect {
            Effect::Send { command, .. } => Some(command),
            _ => None,
        })
        .flat_map(|command| command.steps)
        .filter_map(|one| match one.act {
            Act::Switch { targets, .. } => Some(targets),
            _ => None,
        })
        .flatten()
        .filter(|target| target.admission == Admission::Admitting)
        .map(|target| target.instance)
        .collect();
    let slots = &world.reports[&agent("host-a")].slots;
    let stay = slots.values().filter(|of_slot| {
        of_slot.instances.iter().any(|one| {
            let admitted = table.iter().any(|t| t.instance == one.id && t.admission == Admission::Admitting);
            one.serves() && !leaving.contains(&one.id) && (admitted || coming.contains(&one.id))
        })
    });
    let stay = stay.count() as u32;
    *worst = (*worst).min(stay);
    assert!(stay >= limits.min_available, "seed {seed}: {stay} of {} remain", limits.min_available);
    let lane = roll.graph.lanes.iter().position(|lane| lane.component == component("api")).unwrap();
    assert!(roll.placed[lane].len() as u32 <= limits.parallelism, "seed {seed}: too many at work");
}

/// A switch takes effect for all its targets at once, so what it releases leaves when what it admits has come.
fn step(world: &mut World, dice: &mut Dice, calm: bool) {
    let lists: Vec<Command> = world
        .engine
        .outstanding()
        .into_values()
        .filter_map(|effect| match effect {
            Effect::Send { command, .. } => Some(command),
            _ => None,
        })
        .collect();
    if lists.is_empty() {
        return;
    }
    let command = lists[dice.below(lists.len() as u64) as usize].clone();
    let roll = world.engine.unfinished().unwrap();
    let on = roll.lists[&command.id].agent.clone();
    let Some(at) = roll.at_work(&command.id) else { return };
    let act = command.steps.iter().find(|one| one.step == at).unwrap().act.clone();
    let recalled = world.has(&Key::Recall(command.id.clone()));
    let rest: Vec<StepId> = roll.lists[&command.id].open.iter().copied().skip(1).collect();
    let tell = |world: &mut World, step: StepId, result: StepResult, twice: bool| {
        let endpoint = match &act {
            Act::Start { instance } => running(&instance.to_string()).endpoint,
            _ => None,
        };
        let outcome = Outcome { command: command.id.clone(), slot: command.slot.clone(), step, result, endpoint };
        for _ in 0..=u32::from(twice) {
            world.event(Event::Outcome { agent: on.clone(), outcome: outcome.clone() });
        }
    };
    let twice = dice.chance(20);
    let trouble = if calm { 99 } else { dice.below(100) };
    let result = match trouble {
        _ if recalled && dice.chance(70) => RECALLED,
        0..=5 => failed(FailureKind::Refused),
        6..=8 => unknown(),
        _ => DONE,
    };
    // Of an unknown outcome nobody can say whether it happened; here half of them have.
    if result == DONE || (matches!(result, StepResult::Unknown { .. }) && dice.chance(50)) {
        carry_out(world, &act);
    }
    let on_with_it = result == DONE;
    tell(world, at, result, twice);
    if !on_with_it {
        for one in rest {
            tell(world, one, SKIPPED, false);
        }
    }
}

fn disturb(world: &mut World, dice: &mut Dice) {
    let hosts = ["host-a", "host-b", "host-g"];
    let host = hosts[dice.below(3) as usize];
    let actor = || ("ann".to_owned(), "walk".to_owned());
    match dice.below(12) {
        0 => drop(world.event(Event::SessionLost(agent(host)))),
        1 if dice.chance(50) => {
            world.event(Event::SessionUp(agent(host)));
            world.report(host);
        }
        1 => {
            world.report(host);
            world.event(Event::SessionUp(agent(host)));
        }
        2 => drop(world.report(host)),
        3 => {
            let seconds = dice.below(20);
            world.pass(secs(seconds));
        }
        4 => {
            world.restart();
            for host in hosts {
                if dice.chance(80) {
                    world.event(Event::SessionUp(agent(host)));
                    world.report(host);
                }
            }
        }
        kind => {
            let any = StepId(dice.below(50) as u32);
            let request = match kind {
                5 => Request::Pause,
                6 | 7 => Request::Resume,
                8 => Request::Retry,
                9 => Request::Approve { step: any },
                10 if dice.chance(5) => Request::Rollback,
                10 if dice.chance(5) => Request::Abort,
                _ => Request::Settle { step: any, done: dice.chance(50) },
            };
            // Settling says something about the world: keep it true.
            if let Request::Settle { step, done: true } = &request
                && world.engine.may(&request).is_ok()
            {
                let roll = world.engine.unfinished().unwrap();
                let planned = roll.graph.step(*step).clone();
                let known = roll.command_step(world.now, &world.engine.known, world.engine.term_began, &planned);
                let Ok(one) = known else { return };
                carry_out(world, &one.act);
            }
            let (actor, reason) = actor();
            world.event(Event::Operator { request, actor, reason });
        }
    }
}

fn way_back(world: &mut World, number: u64) {
    let Some(Effect::PlanRollback { roll: parent }) =
        world.engine.outstanding().into_values().find(|effect| matches!(effect, Effect::PlanRollback { .. }))
    else {
        return;
    };
    let mut build = Build::new(PlanKind::Rollback { of: parent.clone() });
    build.slot("worker-1", "host-b", ChangeKind::Replace).slot("worker-2", "host-b", ChangeKind::Replace);
    build.stop("worker-1", 2, &[]);
    build.start("worker-2", 1, &[]);
    let event = Event::RollbackPlanned { parent, roll: roll(&format!("back-{number}")), plan: Box::new(build.plan) };
    world.event(event);
}

#[test]
fn whatever_happens_the_machine_stays_true_and_the_roll_ends() {
    let mut ends: BTreeMap<String, u32> = BTreeMap::new();
    let mut worst = u32::MAX;
    for seed in 1..=100_u64 {
        let mut dice = Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let build = fleet(&mut dice);
        let mut world = World::new();
        world.observe(&build.plan);
        let table: Vec<TableTarget> = (1..=3)
            .map(|index| TableTarget {
                instance: instance(&format!("api-{index}.1")),
                host: "10.0.0.1".into(),
                port: 8001,
                admission: Admission::Admitting,
            })
            .collect();
        let report = world.reports.get_mut(&agent("host-g")).unwrap();
        report.slots.get_mut(&slot("gateway-1")).unwrap().table.insert(component("api"), table);
        world.report("host-g");
        assert_eq!(serving(&world), 3);
        world.begin(build, "r1");
        for turn in 0..160 {
            if dice.chance(35) {
                disturb(&mut world, &mut dice);
            } else {
                step(&mut world, &mut dice, false);
            }
            safe(&world, seed, &mut worst);
            if dice.chance(20) {
                way_back(&mut world, turn);
            }
        }
        // Calm: everybody is back, and a person answers whatever the roll asks.
        for turn in 200..600 {
            if world.engine.current().is_none() {
                break;
            }
            for host in ["host-a", "host-b", "host-g"] {
                world.event(Event::SessionUp(agent(host)));
                world.report(host);
            }
            for request in [Request::Resume, Request::Retry] {
                if world.engine.may(&request).is_ok() {
                    world.ask(request);
                }
            }
            let gates: Vec<StepId> =
                world.engine.unfinished().map(|roll| roll.gates.iter().copied().collect()).unwrap_or_default();
            for gate in gates {
                world.ask(Request::Approve { step: gate });
            }
            step(&mut world, &mut dice, true);
            safe(&world, seed, &mut worst);
            way_back(&mut world, turn);
            world.pass(secs(5));
        }
        let RollState::Ended(result) = world.state() else {
            panic!("seed {seed}: {:?}\n{:#?}", world.state(), world.view().holds)
        };
        *ends.entry(result.word().to_owned()).or_default() += 1;
        let facts = world.facts.iter().filter(|(_, record)| matches!(record, Record::StepEnded { .. })).count();
        assert!(facts > 0);
    }
    assert!(ends.get("succeeded").is_some_and(|count| *count > 50), "{ends:?}");
    assert!(worst <= 2, "the walk never took an API down, so it proved nothing");
}
