//! `up`: what becomes of each slot, and in which order.

use super::fleet::*;
use crate::model::*;
use crate::planner::{Ask, Planned, PlanningInput, check, plan};

fn settled() -> Fleet {
    let mut fleet = quickstart();
    fleet.roll(Fleet::up("v1"));
    fleet
}

fn change<'a>(planned: &'a Planned, text: &str) -> &'a Change {
    planned.plan.changes.iter().find(|change| change.slot == slot(text)).unwrap()
}

#[test]
fn a_first_install_starts_everything_in_start_order_behind_a_gateway_of_its_own() {
    let mut fleet = quickstart();
    let planned = fleet.roll(Fleet::up("v1"));
    assert!(planned.plan.changes.iter().all(|change| change.kind == ChangeKind::Add && change.order.is_none()));
    let starts: Vec<String> = planned
        .plan
        .steps
        .iter()
        .filter(|step| step.kind.verb() == "start")
        .map(|step| step.instance.as_ref().unwrap().to_string())
        .collect();
    assert_eq!(
        starts,
        [
            "gateway-1.1",
            "worker-1.1",
            "worker-2.1",
            "worker-3.1",
            "worker-4.1",
            "executor-1.1",
            "executor-2.1",
            "scheduler-1.1",
            "api-1.1",
            "api-2.1"
        ]
    );
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
}

#[test]
fn a_staged_roll_stops_in_order_starts_in_reverse_and_swaps_the_api_last() {
    let mut fleet = settled();
    let planned = fleet.roll(Fleet::up("v2"));
    let plan = &planned.plan;
    assert_eq!(plan.strategy, Strategy::Staged);
    for executor in ["executor-1.1", "executor-2.1", "scheduler-1.1"] {
        for worker in 1..=4 {
            let drain = at(plan, "drain", &format!("worker-{worker}.1"));
            assert!(waits(plan, drain, at(plan, "stop", executor)));
            let start = at(plan, "start", &executor.replace(".1", ".2"));
            let ready = at(plan, "ready", &format!("worker-{worker}.2"));
            assert!(waits(plan, start, ready));
            assert!(!waits(plan, start, at(plan, "soak", &format!("worker-{worker}.2"))), "a soak holds nobody up");
        }
    }
    // The quiet point: nothing starts before everything in the stop stages is down.
    for worker in 1..=4 {
        for stopped in ["executor-1.1", "scheduler-1.1", "worker-1.1", "worker-4.1"] {
            assert!(waits(plan, at(plan, "start", &format!("worker-{worker}.2")), at(plan, "stop", stopped)));
        }
    }
    assert_eq!(
        steps_of(plan, "api"),
        [
            "prepare api-1.2",
            "prepare api-2.2",
            "start api-1.2",
            "ready api-1.2",
            "soak api-1.2",
            "switch +api-1.2 -api-1.1",
            "drain api-1.1",
            "stop api-1.1",
            "retire api-1.1",
            "start api-2.2",
            "ready api-2.2",
            "soak api-2.2",
            "switch +api-2.2 -api-2.1",
            "drain api-2.1",
            "stop api-2.1",
            "retire api-2.1",
        ]
    );
    assert!(waits(plan, at(plan, "start", "api-1.2"), at(plan, "ready", "executor-1.2")));
    let limits = &plan.limits[&name("api")];
    assert_eq!((limits.min_available, limits.parallelism, limits.lane.len()), (1, 1, 2));
    assert!(plan.limits[&name("worker")].lane.is_empty());
    assert_eq!(steps_of(plan, "gateway"), Vec::<String>::new());
    assert_planning_makes_no_changes(&fleet, Fleet::up("v2"));
    assert_planning_makes_no_changes(&fleet, Ask::Up { to: None, only: vec![], remove_orphans: false });
}

#[test]
fn nothing_is_touched_before_everything_is_created() {
    let mut fleet = settled();
    let plan = fleet.roll(Fleet::up("v2")).plan;
    let prepared: Vec<usize> =
        plan.steps.iter().filter(|s| s.kind.verb() == "prepare").map(|s| s.id.0 as usize).collect();
    assert_eq!(prepared.len(), 9);
    for step in plan.steps.iter().filter(|step| step.kind.verb() != "prepare") {
        assert!(prepared.iter().all(|made| waits(&plan, step.id.0 as usize, *made)), "step {}", step.id);
    }
}

#[test]
fn steps_carry_their_deadlines_and_what_must_be_ready_meanwhile() {
    let mut fleet = settled();
    let plan = fleet.roll(Fleet::up("v2")).plan;
    let step = |verb: &str, instance: &str| &plan.steps[at(&plan, verb, instance)];
    for (verb, instance, deadline) in [
        ("prepare", "worker-1.2", 60),
        ("drain", "worker-1.1", 300),
        ("stop", "worker-1.1", 330),
        ("start", "worker-1.2", 60),
        ("ready", "worker-1.2", 120),
        ("soak", "worker-1.2", 35),
        ("retire", "worker-1.1", 60),
    ] {
        assert_eq!(step(verb, instance).deadline, seconds(deadline), "{verb}");
    }
    assert_eq!(plan.steps.iter().find(|s| s.kind.verb() == "switch").unwrap().deadline, seconds(90));
    assert_eq!(step("drain", "api-1.1").while_ready, Some(id("api-1.2")));
    assert_eq!(step("stop", "api-1.1").while_ready, Some(id("api-1.2")));
    assert_eq!(step("drain", "worker-1.1").while_ready, None);
    assert!(matches!(step("start", "worker-1.2").kind, StepKind::Start { alone: true }));
    assert!(matches!(step("start", "api-1.2").kind, StepKind::Start { alone: false }));
    let StepKind::Drain { begin, inflight, grace, stop_timeout, .. } = &step("drain", "worker-1.1").kind else {
        panic!()
    };
    assert_eq!((begin, *inflight), (&DrainStart::Signal("SIGTERM".to_owned()), true));
    assert_eq!((*grace, *stop_timeout), (seconds(300), seconds(10)));
    let StepKind::Drain { begin, inflight, .. } = &step("drain", "api-1.1").kind else { panic!() };
    assert_eq!((begin, *inflight), (&DrainStart::Nothing, false));
}

#[test]
fn what_begins_a_drain_follows_the_definition() {
    let signal = |name: &str| Some(DrainBegin::Signal(name.to_owned()));
    for (begin, traffic, expected) in [
        (None, true, DrainStart::Nothing),
        (None, false, DrainStart::Signal("SIGTERM".to_owned())),
        (signal("SIGUSR1"), true, DrainStart::Signal("SIGUSR1".to_owned())),
        (signal("SIGUSR1"), false, DrainStart::Signal("SIGUSR1".to_owned())),
        (Some(DrainBegin::Http("http://x/drain".to_owned())), false, DrainStart::Call),
        (Some(DrainBegin::Exec(vec!["drain".to_owned()])), true, DrainStart::Call),
    ] {
        let mut web = component("web", 1);
        web.drain.begin = begin.clone();
        let web = if traffic { with_traffic(web) } else { web };
        let mut fleet = Fleet::new(manifest(vec![web]), &["a"]);
        fleet.roll(Fleet::up("v1"));
        let plan = fleet.roll(Fleet::up("v2")).plan;
        let StepKind::Drain { begin: planned, .. } = &plan.steps[at(&plan, "drain", "web-1.1")].kind else { panic!() };
        assert_eq!(*planned, expected, "{begin:?} with traffic {traffic}");
    }
}

#[test]
fn what_counts_as_ready_follows_the_definition() {
    let mut fleet = settled();
    fleet.component("worker").ready.probe = None;
    fleet.component("worker").update.monitor = seconds(200);
    fleet.component("executor").ready.successes = 3;
    fleet.component("executor").update.monitor = seconds(0);
    let planned = fleet.roll(Fleet::up("v2"));
    let plan = &planned.plan;
    let ready = &plan.steps[at(plan, "ready", "worker-1.2")];
    assert!(matches!(ready.kind, StepKind::Ready { wait: ReadyWait::Weak { steady }, .. } if steady == seconds(200)));
    assert_eq!(ready.deadline, seconds(230), "the wait itself must fit into the deadline");
    assert!(matches!(
        plan.steps[at(plan, "ready", "executor-1.2")].kind,
        StepKind::Ready { wait: ReadyWait::Probe { successes: 3 }, .. }
    ));
    assert!(!steps_of(plan, "executor").iter().any(|step| step.starts_with("soak")), "monitor is 0");
    assert!(planned.report.warnings.iter().any(|line| line.starts_with("worker: weak readiness")));
    assert!(!planned.report.warnings.iter().any(|line| line.starts_with("executor: weak")));
    assert_planning_makes_no_changes(&fleet, Fleet::up("v2"));
}

#[test]
fn only_the_spec_decides_whether_a_slot_changes() {
    type Edit = fn(&mut Definition);
    let steering: [(&str, Edit); 9] = [
        ("grace", |d| d.drain.grace = seconds(77)),
        ("inflight", |d| d.drain.inflight = None),
        ("ready", |d| d.ready.successes = 9),
        ("update", |d| d.update.parallelism = 3),
        ("floor", |d| d.min_available = Some(0)),
        ("traffic", |d| {
            d.traffic = match d.traffic.clone() {
                Traffic::Gateway { listen, port, .. } => Traffic::Gateway { listen, port, hold_max: seconds(1) },
                other => other,
            }
        }),
        ("role", |d| d.role = d.role.clone()),
        ("depends_on", |d| d.depends_on = [(name("worker"), Condition::Ready)].into()),
        ("on", |d| d.on.push(agent("agent-worker"))),
    ];
    for (what, edit) in steering {
        let mut fleet = settled();
        edit(fleet.component("api"));
        assert!(fleet.plan(Fleet::up("v1")).unwrap().plan.is_noop(), "{what} changed a slot");
    }
    let spec: [(&str, Edit, &str); 8] = [
        ("command", |d| d.command.push(Secret::new("--canary-secret")), "command changed"),
        ("env added", |d| drop(d.env.insert("TOKEN".to_owned(), Secret::new("canary-secret"))), "env TOKEN added"),
        ("cwd", |d| d.cwd = Some("/srv".to_owned()), "cwd /srv added"),
        ("ports", |d| d.ports[0].name = "web".to_owned(), "ports http: auto -> web: auto"),
        ("release", |d| d.release.as_mut().unwrap().path.push('x'), "release /opt/orders/v1 -> /opt/orders/v1x"),
        ("env_file", |d| d.env_file = Some("/etc/orders.env".to_owned()), "env_file /etc/orders.env added"),
        ("no release", |d| d.release = None, "release /opt/orders/v1 removed"),
        ("image", |d| d.image = Some("orders".to_owned()), "image orders added"),
    ];
    for (what, edit, why) in spec {
        let mut fleet = settled();
        edit(fleet.component("api"));
        let planned = fleet.plan(Fleet::up("v1")).unwrap();
        assert_eq!(change(&planned, "api-1").kind, ChangeKind::Replace, "{what}");
        assert_eq!(change(&planned, "api-1").why, why);
        let text = format!("{}{:?}{}", crate::planner::render(&planned.report), planned.plan, planned.plan.digest);
        assert!(!text.contains("canary-secret"), "a secret is shown");
    }
}

#[test]
fn a_changed_env_file_rolls_the_slots_that_read_it() {
    let mut fleet = quickstart();
    fleet.component("worker").env_file = Some("/etc/worker.env".to_owned());
    fleet.component("worker").release = None;
    fleet.roll(Fleet::up("v1"));
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
    fleet.env_file = "two".to_owned();
    let planned = fleet.roll(Fleet::up("v1"));
    let changed: Vec<String> =
        planned.plan.changes.iter().filter(|c| c.kind == ChangeKind::Replace).map(|c| c.slot.to_string()).collect();
    assert_eq!(changed, ["worker-1", "worker-2", "worker-3", "worker-4"]);
    assert_eq!(change(&planned, "worker-1").why, "env_file content changed");
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
}

#[test]
fn scaling_adds_at_the_end_and_removes_the_highest_indexes() {
    let mut fleet = settled();
    fleet.component("worker").replicas = 5;
    let planned = fleet.roll(Fleet::up("v1"));
    assert_eq!(change(&planned, "worker-5").kind, ChangeKind::Add);
    assert_eq!(steps_of(&planned.plan, "worker").len(), 4, "{:#?}", lines(&planned.plan));
    fleet.component("worker").replicas = 2;
    let planned = fleet.roll(Fleet::up("v1"));
    assert_eq!(
        steps_of(&planned.plan, "worker"),
        [
            "drain worker-3.1",
            "stop worker-3.1",
            "retire worker-3.1",
            "drain worker-4.1",
            "stop worker-4.1",
            "retire worker-4.1",
            "drain worker-5.1",
            "stop worker-5.1",
            "retire worker-5.1"
        ]
    );
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
    // A number is never used again, also where the slot was gone for a while.
    fleet.component("worker").replicas = 3;
    let planned = fleet.roll(Fleet::up("v1"));
    assert_eq!(change(&planned, "worker-3").new, Some(id("worker-3.2")));
}

#[test]
fn a_number_is_above_what_the_journal_the_ledger_and_the_runtime_know() {
    for (ledger, journal, expected) in [(1, 1, "worker-1.2"), (7, 1, "worker-1.8"), (1, 9, "worker-1.10")] {
        let mut fleet = settled();
        fleet.slot_mut("worker-1").highest = ledger;
        fleet.history.highest.insert(slot("worker-1"), journal);
        let planned = fleet.plan(Fleet::up("v2")).unwrap();
        assert_eq!(change(&planned, "worker-1").new, Some(id(expected)));
    }
}

#[test]
fn a_stopped_or_created_instance_with_the_wanted_spec_is_started_and_not_made_anew() {
    for state in [InstanceState::Exited, InstanceState::Created] {
        let mut fleet = settled();
        let worker = fleet.instance_mut("worker-1.1");
        worker.state = state;
        worker.health = Health::Unknown;
        let planned = fleet.roll(Fleet::up("v1"));
        assert_eq!(change(&planned, "worker-1").kind, ChangeKind::Add);
        assert_eq!(steps_of(&planned.plan, "worker"), ["start worker-1.1", "ready worker-1.1", "soak worker-1.1"]);
        assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
    }
}

#[test]
fn an_instance_of_unknown_state_is_never_taken_for_stopped() {
    let mut fleet = settled();
    fleet.instance_mut("worker-1.1").state = InstanceState::Unknown;
    let planned = fleet.plan(Fleet::up("v1")).unwrap();
    assert_eq!(steps_of(&planned.plan, "worker"), ["ready worker-1.1", "soak worker-1.1"]);
    let planned = fleet.plan(Fleet::up("v2")).unwrap();
    assert!(waits(&planned.plan, at(&planned.plan, "start", "worker-1.2"), at(&planned.plan, "stop", "worker-1.1")));
}

#[test]
fn of_two_instances_with_the_wanted_spec_the_newest_ready_one_stays() {
    let cases = [
        ((InstanceState::Running, Health::Ready), (InstanceState::Running, Health::Ready), "api-1.2"),
        ((InstanceState::Running, Health::Ready), (InstanceState::Running, Health::Unready), "api-1.1"),
        ((InstanceState::Running, Health::Unready), (InstanceState::Running, Health::Unready), "api-1.2"),
        ((InstanceState::Running, Health::Unready), (InstanceState::Exited, Health::Ready), "api-1.1"),
    ];
    for (first, second, stays) in cases {
        let mut fleet = settled();
        fleet.put("api-1.2", "v1");
        for (text, (state, health)) in [("api-1.1", first), ("api-1.2", second)] {
            let instance = fleet.instance_mut(text);
            instance.state = state;
            instance.health = health;
        }
        let planned = fleet.roll(Fleet::up("v1"));
        let change = change(&planned, "api-1");
        assert_eq!((change.kind, change.new.clone()), (ChangeKind::Touch, Some(id(stays))));
        assert_eq!(fleet.instances("api-1").len(), 1);
        assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
    }
}

#[test]
fn an_old_api_goes_only_for_a_new_one_that_is_known_to_be_ready() {
    // The roll before this one was given up after the new instance had started.
    let mut fleet = settled();
    let planned = fleet.plan(Fleet::up("v2")).unwrap();
    let started = at(&planned.plan, "start", "api-1.2");
    fleet.carry_out_until(&planned, started + 1);
    let again = fleet.roll(Fleet::up("v2")).plan;
    let ready = at(&again, "ready", "api-1.2");
    assert!(waits(&again, at(&again, "drain", "api-1.1"), ready));
    assert_eq!(again.steps[at(&again, "stop", "api-1.1")].while_ready, Some(id("api-1.2")));
    assert!(!steps_of(&again, "api").contains(&"start api-1.2".to_owned()));
    assert_planning_makes_no_changes(&fleet, Fleet::up("v2"));
}

#[test]
fn a_kept_instance_that_lost_its_traffic_gets_it_back() {
    let mut fleet = settled();
    fleet.slot_mut("gateway-1").table.get_mut(&name("api")).unwrap().retain(|t| t.instance != id("api-2.1"));
    let planned = fleet.roll(Fleet::up("v1"));
    assert_eq!(steps_of(&planned.plan, "api"), ["switch +api-2.1 -"]);
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
    // A drain that a roll began and did not end: given back.
    fleet.instance_mut("api-2.1").admission = Admission::Draining;
    let planned = fleet.roll(Fleet::up("v1"));
    assert_eq!(steps_of(&planned.plan, "api"), ["undrain api-2.1", "switch +api-2.1 -"]);
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
    // One that cannot be given back: it ends, and is started again.
    fleet.instance_mut("worker-2.1").admission = Admission::Draining;
    let planned = fleet.roll(Fleet::up("v1"));
    assert_eq!(
        steps_of(&planned.plan, "worker"),
        ["drain worker-2.1", "stop worker-2.1", "start worker-2.1", "ready worker-2.1", "soak worker-2.1"]
    );
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
}

#[test]
fn a_slot_drained_by_hand_stays_so_until_its_next_instance() {
    let mut fleet = settled();
    fleet.roll(Ask::Drain { slot: slot("api-2") });
    let planned = fleet.plan(Fleet::up("v1")).unwrap();
    assert!(planned.plan.is_noop());
    assert!(planned.report.warnings[0].contains("api-2 was drained by hand"), "{:?}", planned.report.warnings);
    assert_eq!(planned.plan.limits[&name("api")].counted, [slot("api-1")]);
    let planned = fleet.roll(Fleet::up("v2"));
    assert_eq!(planned.plan.limits[&name("api")].counted, [slot("api-1"), slot("api-2")]);
    assert!(steps_of(&planned.plan, "api").contains(&"switch +api-2.2 -api-2.1".to_owned()));
}

#[test]
fn orphans_are_named_and_left_unless_asked_for() {
    let mut fleet = settled();
    fleet.component("worker").drain.grace = seconds(123);
    fleet.roll(Fleet::up("v2"));
    fleet.manifest.components.remove(&name("worker"));
    let planned = fleet.plan(Fleet::up("v2")).unwrap();
    assert!(planned.plan.is_noop());
    assert!(planned.report.warnings.iter().any(|line| line.contains("worker is not in the manifest")));
    assert_eq!(change(&planned, "worker-1").kind, ChangeKind::Keep);
    assert!(!planned.plan.definitions.contains_key(&name("worker")));

    let remove = |version: &str| Ask::Up { to: Some(version.to_owned()), only: vec![], remove_orphans: true };
    let planned = fleet.roll(remove("v3"));
    let drain = at(&planned.plan, "drain", "worker-1.2");
    assert!(waits(&planned.plan, drain, at(&planned.plan, "soak", "api-2.3")), "after everything else is ready");
    assert_eq!(planned.plan.steps[drain].deadline, seconds(123), "with its last definition");
    assert!(fleet.instances("worker-1").is_empty());
    assert_planning_makes_no_changes(&fleet, remove("v3"));
}

#[test]
fn an_orphan_whose_definition_is_lost_is_stopped_without_a_drain() {
    let mut fleet = settled();
    fleet.manifest.components.remove(&name("worker"));
    fleet.history.succeeded.remove(&name("worker"));
    fleet.history.definitions.clear();
    let planned = fleet.roll(Ask::Up { to: None, only: vec![], remove_orphans: true });
    let steps = steps_of(&planned.plan, "worker");
    assert_eq!(steps[..2], ["stop worker-1.1", "retire worker-1.1"]);
    assert!(planned.report.warnings.iter().any(|line| line.contains("without a drain")));
}

#[test]
fn only_what_is_named_changes() {
    let mut fleet = settled();
    let planned = fleet.roll(Fleet::only("v2", &["worker"]));
    assert!(planned.plan.steps.iter().all(|step| step.slot.as_ref().unwrap().component == name("worker")));
    assert_eq!(planned.plan.only, ["worker"]);
    assert_eq!(planned.plan.definitions.keys().collect::<Vec<_>>(), [&name("worker")], "the others are as they were");
    assert_planning_makes_no_changes(&fleet, Fleet::only("v2", &["worker"]));
    let error = usage(fleet.plan(Fleet::only("v2", &["wroker"])));
    assert_eq!(error, "no component is named \"wroker\"; did you mean worker?");
    let error = usage(fleet.plan(Fleet::only("v2", &["zzz"])));
    assert!(error.contains("there are api, executor, gateway, scheduler, worker"), "{error}");
}

#[test]
fn what_cannot_be_made_is_refused_before_anything_is_touched() {
    let mut fleet = settled();
    let missing = "release /opt/orders/v2 does not exist".to_owned();
    fleet.problems.insert((agent("agent-worker"), name("worker")), missing);
    let error = refused(fleet.plan(Fleet::up("v2")));
    assert_eq!(error, "component worker on agent agent-worker: release /opt/orders/v2 does not exist");
    // Who is not asked for, and who does not change, needs nothing.
    assert!(fleet.plan(Fleet::only("v2", &["executor"])).is_ok());
    assert!(fleet.plan(Fleet::up("v1")).unwrap().plan.is_noop());
    fleet.resolves = false;
    let error = refused(fleet.plan(Fleet::up("v2")));
    assert!(error.contains("component api on agent agent-api: the agent has not said"), "{error}");
}

#[test]
fn a_version_comes_from_the_question_or_from_history() {
    let fleet = quickstart();
    let none = || Ask::Up { to: None, only: vec![], remove_orphans: false };
    let error = usage(fleet.plan(none()));
    assert!(error.contains("component api uses {version}") && error.contains("--to VERSION"), "{error}");
    let mut fleet = settled();
    assert_eq!(fleet.plan(none()).unwrap().plan.version.as_deref(), Some("v1"));
    for definition in fleet.manifest.components.values_mut() {
        definition.versioned = false;
        definition.release = None;
    }
    fleet.history.version = None;
    assert_eq!(fleet.plan(none()).unwrap().plan.version, None);
}

#[test]
fn the_same_input_gives_the_same_bytes_and_any_other_another_digest() {
    let fleet = settled();
    let bytes = |ask: Ask| serde_json::to_vec(&fleet.plan(ask).unwrap()).unwrap();
    assert_eq!(bytes(Fleet::up("v2")), bytes(Fleet::up("v2")));
    assert_ne!(fleet.plan(Fleet::up("v2")).unwrap().plan.digest, fleet.plan(Fleet::up("v3")).unwrap().plan.digest);
}

#[test]
fn the_check_finds_what_is_wrong_with_a_plan() {
    let fleet = settled();
    let input: PlanningInput = fleet.input(Fleet::up("v2"));
    let good = plan(&input).unwrap().plan;
    assert_eq!(check(&good, &input), Ok(()));
    type Break = fn(&mut Plan);
    let broken: [(&str, Break); 14] = [
        ("at place", |plan| plan.steps.swap(3, 4)),
        ("which is not before it", |plan| plan.steps[3].after.push(StepId(60))),
        ("the digest is not", |plan| plan.version = Some("v9".to_owned())),
        ("does not wait for prepare", |plan| plan.steps[9].after.clear()),
        ("starts while", |plan| {
            let at = at(plan, "start", "worker-1.2");
            plan.steps[at].after = (0..9).map(StepId).collect();
        }),
        ("start stage 2 does not wait for stage 1", |plan| {
            let stop = StepId(u32::try_from(at(plan, "stop", "worker-1.1")).unwrap());
            let at = at(plan, "start", "executor-1.2");
            plan.steps[at].after = vec![stop];
        }),
        ("goes before api-1.2 is ready", |plan| {
            let at = at(plan, "drain", "api-1.1");
            plan.steps[at].after = (0..9).map(StepId).collect();
        }),
        ("whether or not", |plan| {
            let at = at(plan, "stop", "api-1.1");
            plan.steps[at].while_ready = None;
        }),
        ("retire is not the last", |plan| {
            let at = at(plan, "retire", "worker-1.1");
            plan.steps[at].after = vec![StepId(u32::try_from(at - 2).unwrap())];
        }),
        ("there is no agent", |plan| plan.steps[0].agent = Some(agent("nowhere"))),
        ("which the plan does not know", |plan| plan.changes.retain(|change| change.slot != slot("worker-4"))),
        ("an API is in a stop stage", |plan| {
            let at = at(plan, "drain", "api-1.1");
            plan.steps[at].stage = "stop 1".to_owned();
        }),
        ("a floor of 3", |plan| plan.limits.get_mut(&name("api")).unwrap().min_available = 3),
        ("was used", |plan| plan.steps[0].instance = Some(id("api-1.1"))),
    ];
    for (expected, spoil) in broken {
        let mut bad = good.clone();
        spoil(&mut bad);
        if !expected.contains("digest") {
            bad.digest = crate::planner::plan_digest(&bad);
        }
        let faults = check(&bad, &input).unwrap_err();
        assert!(faults.iter().any(|fault| fault.contains(expected)), "{expected}: {faults:#?}");
    }
}

#[test]
fn what_crashes_is_started_and_must_get_ready_in_whatever_moment_it_is_seen() {
    let seen_as = |state: InstanceState, health: Health, crashing: bool| {
        let mut fleet = settled();
        let instance = fleet.instance_mut("worker-2.1");
        (instance.state, instance.health, instance.crashing) = (state, health, crashing);
        (fleet.plan(Fleet::up("v1")).unwrap().plan, fleet)
    };
    let (first, mut fleet) = seen_as(InstanceState::Restarting, Health::Unready, true);
    assert_eq!(steps_of(&first, "worker"), ["start worker-2.1", "ready worker-2.1", "soak worker-2.1"]);
    for health in [Health::Ready, Health::Unready, Health::Unknown] {
        assert_eq!(seen_as(InstanceState::Running, health, true).0, first, "{health:?}");
    }
    assert!(seen_as(InstanceState::Running, Health::Ready, false).0.is_noop());
    // There is nothing that could be taken back, and to try the same again is no way back.
    let ask = Ask::Rollback { of: RollId::new("r9").unwrap(), number: RollNumber(9), plan: Box::new(first) };
    assert!(fleet.roll(ask).plan.is_noop());
}

#[test]
fn a_gateway_that_its_keeper_has_just_started_again_is_left_to_it() {
    let mut fleet = settled();
    fleet.instance_mut("gateway-1.1").crashing = true;
    assert!(fleet.plan(Fleet::up("v1")).unwrap().plan.is_noop());
    // One that does not run at all is brought up: traffic needs it.
    fleet.instance_mut("gateway-1.1").state = InstanceState::Exited;
    let plan = fleet.plan(Fleet::up("v1")).unwrap().plan;
    assert_eq!(steps_of(&plan, "gateway")[0], "start gateway-1.1");
}
