//! `restart`, `down`, `drain`, `undrain`, `rollback`.

use super::fleet::*;
use crate::model::*;
use crate::planner::{self, Ask, Planned, check};

fn settled() -> Fleet {
    let mut fleet = quickstart();
    fleet.roll(Fleet::up("v1"));
    fleet
}

fn restart(components: &[&str]) -> Ask {
    Ask::Restart { components: components.iter().map(|text| name(text)).collect() }
}

fn back(planned: &Planned) -> Ask {
    Ask::Rollback { of: RollId::new("r2").unwrap(), number: RollNumber(2), plan: Box::new(planned.plan.clone()) }
}

fn versions(fleet: &Fleet) -> Vec<String> {
    let slots = fleet.inventory.values().flat_map(|report| report.slots.values());
    let running = slots.flat_map(|slot| &slot.instances).filter(|instance| instance.may_run());
    let mut found: Vec<String> = running
        .filter(|instance| instance.id.slot.component != name("gateway"))
        .map(|instance| format!("{}@{}", instance.id.slot, instance.version.as_deref().unwrap_or("-")))
        .collect();
    found.sort();
    found
}

/// Every slot once, at that version.
fn all_at(version: &str) -> Vec<String> {
    let slots =
        ["api-1", "api-2", "executor-1", "executor-2", "scheduler-1", "worker-1", "worker-2", "worker-3", "worker-4"];
    slots.iter().map(|slot| format!("{slot}@{version}")).collect()
}

#[test]
fn a_restart_replaces_every_instance_in_the_same_order_and_leaves_the_gateway() {
    for with_manifest in [true, false] {
        let mut fleet = settled();
        let manifest = with_manifest.then(|| fleet.manifest.clone());
        let planned = planner::plan(&fleet.input_with(restart(&[]), manifest)).unwrap();
        assert_eq!(planned.plan.kind, PlanKind::Restart);
        assert_eq!(planned.plan.strategy, Strategy::Staged);
        assert_eq!(steps_of(&planned.plan, "gateway"), Vec::<String>::new());
        let plan = &planned.plan;
        assert!(waits(plan, at(plan, "drain", "worker-1.1"), at(plan, "stop", "executor-2.1")));
        assert!(steps_of(plan, "api").contains(&"switch +api-1.2 -api-1.1".to_owned()));
        fleet.carry_out(&planned);
        assert_eq!(versions(&fleet), all_at("v1"));
        assert!(fleet.running().contains(&"worker-4.2".to_owned()));
        assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
    }
}

#[test]
fn a_restart_of_one_component_touches_no_other() {
    let mut fleet = settled();
    let plan = fleet.roll(restart(&["worker"])).plan;
    assert!(plan.steps.iter().all(|step| step.slot.as_ref().unwrap().component == name("worker")));
    assert_eq!(plan.only, ["worker"]);
    let plan = fleet.roll(restart(&["gateway"])).plan;
    assert_eq!(steps_of(&plan, "gateway")[0], "prepare gateway-1.2");
    assert!(usage(fleet.plan(restart(&["workers"]))).contains("did you mean worker?"));
}

#[test]
fn a_restart_that_would_change_something_is_refused() {
    let mut fleet = settled();
    fleet.component("worker").env.insert("TOKEN".to_owned(), Secret::new("canary"));
    let error = refused(fleet.plan(restart(&[])));
    assert!(error.contains("would change worker-1 (env TOKEN added)") && error.contains("`baton up`"), "{error}");
    assert!(!error.contains("canary"));
    assert!(fleet.plan(restart(&["api"])).is_ok(), "only slots that are named count");
    // Keys that only steer are the manifest's: they are no change.
    let mut fleet = settled();
    fleet.component("worker").drain.grace = seconds(999);
    let plan = fleet.roll(restart(&["worker"])).plan;
    assert_eq!(plan.steps[at(&plan, "drain", "worker-1.1")].deadline, seconds(999));
    // Without a manifest, what the definition means today decides.
    let mut fleet = settled();
    fleet.component("worker").env_file = Some("/etc/worker.env".to_owned());
    fleet.roll(Fleet::up("v1"));
    fleet.env_file = "two".to_owned();
    let error = refused(planner::plan(&fleet.input_with(restart(&["worker"]), None)));
    assert!(error.contains("worker-1: what worker-1.2 runs with is not what its definition means today"), "{error}");
}

#[test]
fn a_job_is_restarted_only_by_name() {
    let mut migrate = component("migrate", 1);
    migrate.role = Some(Role::Job);
    let mut fleet = Fleet::new(manifest(vec![component("web", 1), migrate]), &["a"]);
    fleet.roll(Fleet::up("v1"));
    assert_eq!(steps_of(&fleet.plan(restart(&[])).unwrap().plan, "migrate"), Vec::<String>::new());
    let plan = fleet.plan(restart(&["migrate"])).unwrap().plan;
    assert_eq!(
        steps_of(&plan, "migrate"),
        ["prepare migrate-1.2", "start migrate-1.2", "ready migrate-1.2", "retire migrate-1.1"]
    );
}

#[test]
fn down_stops_everything_in_order_and_up_starts_the_same_instances_again() {
    for with_manifest in [true, false] {
        let mut fleet = settled();
        let manifest = with_manifest.then(|| fleet.manifest.clone());
        let input = fleet.input_with(Ask::Down, manifest);
        let planned = planner::plan(&input).unwrap();
        let plan = &planned.plan;
        let stop = |instance: &str| at(plan, "stop", instance);
        assert!(waits(plan, at(plan, "drain", "worker-1.1"), stop("scheduler-1.1")));
        assert!(waits(plan, at(plan, "drain", "api-1.1"), stop("worker-4.1")));
        assert!(waits(plan, at(plan, "drain", "gateway-1.1"), stop("api-2.1")));
        assert_eq!(steps_of(plan, "api")[0], "switch + -api-1.1+api-2.1");
        assert!(!plan.steps.iter().any(|step| step.kind.verb() == "retire"), "instances stay");
        assert!(plan.changes.iter().all(|change| change.kind == ChangeKind::Touch));
        assert!(plan.definitions.is_empty(), "nothing has succeeded by going down");
        fleet.carry_out(&planned);
        assert_eq!(fleet.running(), Vec::<String>::new());
        assert_planning_makes_no_changes(&fleet, Ask::Down);

        let planned = fleet.roll(Fleet::up("v1"));
        assert!(!planned.plan.steps.iter().any(|step| step.kind.verb() == "prepare"));
        assert_eq!(versions(&fleet), all_at("v1"));
        assert!(fleet.running().contains(&"gateway-1.1".to_owned()));
        assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
    }
}

#[test]
fn a_slot_with_traffic_is_drained_and_given_back_by_hand() {
    let mut fleet = settled();
    let drain = || Ask::Drain { slot: slot("api-2") };
    let plan = fleet.roll(drain()).plan;
    assert_eq!(steps_of(&plan, "api"), ["switch + -api-2.1", "drain api-2.1"]);
    assert!(plan.changes.iter().all(|c| (c.kind == ChangeKind::Touch) == (c.slot == slot("api-2"))));
    assert_eq!(plan.limits[&name("api")].min_available, 0);
    assert_planning_makes_no_changes(&fleet, drain());
    let planned = fleet.plan(Ask::Drain { slot: slot("api-1") }).unwrap();
    assert!(planned.report.warnings[0].contains("no other instance of api serves"));
    let undrain = || Ask::Undrain { slot: slot("api-2") };
    let plan = fleet.roll(undrain()).plan;
    assert_eq!(steps_of(&plan, "api"), ["undrain api-2.1", "switch +api-2.1 -"]);
    assert_planning_makes_no_changes(&fleet, undrain());
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
}

#[test]
fn what_cannot_be_given_back_is_not_drained_by_hand() {
    let call = || Some(DrainBegin::Http("http://{address}/drain".to_owned()));
    let undo = || Some(Call::Http("http://{address}/undo".to_owned()));
    let cases: [(Option<DrainBegin>, Option<Call>, Option<&str>); 4] = [
        (None, None, Some("begins with SIGTERM, which cannot be taken back")),
        (Some(DrainBegin::Signal("SIGUSR2".to_owned())), undo(), Some("begins with SIGUSR2")),
        (call(), None, Some("has no `undo`")),
        (call(), undo(), None),
    ];
    for (begin, undo, refusal) in cases {
        let mut fleet = settled();
        fleet.component("worker").drain.begin = begin;
        fleet.component("worker").drain.undo = undo;
        let result = fleet.plan(Ask::Drain { slot: slot("worker-1") });
        match refusal {
            Some(text) => assert!(refused(result).contains(text)),
            None => assert_eq!(steps_of(&result.unwrap().plan, "worker"), ["drain worker-1.1"]),
        }
    }
    let fleet = settled();
    assert!(usage(fleet.plan(Ask::Drain { slot: slot("worker-9") })).contains("did you mean worker-"));
    let mut fleet = settled();
    fleet.roll(Ask::Down);
    assert!(refused(fleet.plan(Ask::Drain { slot: slot("api-1") })).contains("api-1 has no running instance"));
}

#[test]
fn a_roll_can_be_taken_back_from_every_point_and_finished_from_every_point() {
    let mut before = settled();
    let planned = before.plan(Fleet::up("v2")).unwrap();
    before.history.definitions.extend(planned.definitions.clone());
    let agents_know = |fleet: &Fleet, ask: Ask, manifest: Option<Manifest>| fleet.input_with(ask, manifest);
    for cut in 0..=planned.plan.steps.len() {
        for broken in [false, true] {
            let mut fleet = before.clone();
            fleet.carry_out_until(&planned, cut);
            if broken {
                // Whatever is new is not ready.
                for slot in fleet.inventory.values_mut().flat_map(|report| report.slots.values_mut()) {
                    for instance in slot.instances.iter_mut().filter(|i| i.id.number == 2 && i.may_run()) {
                        instance.health = Health::Unready;
                        instance.state = InstanceState::Restarting;
                    }
                }
            }
            let healthy_old: Vec<String> = fleet.running().into_iter().filter(|id| id.ends_with(".1")).collect();
            for with_manifest in [false, true] {
                let mut fleet = fleet.clone();
                let manifest = with_manifest.then(|| fleet.manifest.clone());
                let input = agents_know(&fleet, back(&planned), manifest);
                let rollback = planner::plan(&input).unwrap_or_else(|error| panic!("cut {cut}: {error}"));
                assert_eq!(check(&rollback.plan, &input), Ok(()));
                assert!(matches!(rollback.plan.kind, PlanKind::Rollback { .. }));
                let text = lines(&rollback.plan);
                for old in &healthy_old {
                    let undoable = old.starts_with("api");
                    let admitting = fleet.instance_mut(old).admission == Admission::Admitting;
                    let stopped = text.iter().any(|line| line.contains(&format!("stop {old} ")));
                    assert!(!stopped || (!undoable && !admitting), "cut {cut}: {old} is healthy and stops: {text:#?}");
                }
                assert!(rollback.plan.limits.values().all(|l| l.failure_action == FailureAction::Pause));
                fleet.carry_out(&rollback);
                assert_eq!(versions(&fleet), all_at("v1"), "cut {cut}, broken {broken}: {text:#?}");
                assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
                assert_planning_makes_no_changes(&fleet, back(&planned));
            }
            // The other way out: `up --supersede`.
            let mut fleet = fleet.clone();
            fleet.roll(Fleet::up("v2"));
            assert_eq!(versions(&fleet), all_at("v2"), "cut {cut}");
            assert_planning_makes_no_changes(&fleet, Fleet::up("v2"));
        }
    }
}

#[test]
fn a_failed_first_install_goes_as_it_came() {
    let mut fleet = quickstart();
    let planned = fleet.plan(Fleet::up("v1")).unwrap();
    fleet.carry_out_until(&planned, planned.plan.steps.len() - 3);
    let rollback = fleet.plan(back(&planned)).unwrap();
    let plan = &rollback.plan;
    assert!(plan.changes.iter().all(|change| change.kind == ChangeKind::Remove));
    assert!(waits(plan, at(plan, "drain", "gateway-1.1"), at(plan, "stop", "api-1.1")), "the gateway goes last");
    fleet.carry_out(&rollback);
    assert_eq!(fleet.running(), Vec::<String>::new());
    assert!(fleet.inventory.values().all(|report| report.slots.values().all(|slot| slot.instances.is_empty())));
}

#[test]
fn a_rollback_never_runs_a_job_and_begins_with_what_is_broken() {
    let mut migrate = component("migrate", 1);
    migrate.role = Some(Role::Job);
    let mut fleet = Fleet::new(manifest(vec![component("web", 3), migrate]), &["a"]);
    fleet.manifest.strategy = Some(Strategy::Rolling);
    fleet.roll(Fleet::up("v1"));
    let planned = fleet.plan(Fleet::up("v2")).unwrap();
    let second = at(&planned.plan, "start", "web-2.2");
    fleet.carry_out_until(&planned, second + 1);
    fleet.history.completed_jobs.insert(slot("migrate-1"), Digest("v2".to_owned()));
    let rollback = fleet.plan(back(&planned)).unwrap();
    let text = lines(&rollback.plan);
    assert!(!text.iter().any(|line| line.contains("start migrate")), "{text:#?}");
    assert!(rollback.report.way_back.iter().any(|line| line.starts_with("job migrate is not run")));
    let lane: Vec<String> = rollback.plan.limits[&name("web")].lane.iter().map(ToString::to_string).collect();
    assert_eq!(lane, ["web-2", "web-3", "web-1"], "what is broken, what was only created, what works");
    fleet.carry_out(&rollback);
    assert_eq!(fleet.running(), ["web-1.3", "web-2.1", "web-3.1"]);
}

#[test]
fn an_old_instance_that_lost_only_its_traffic_gets_it_back() {
    let mut fleet = settled();
    let planned = fleet.plan(Fleet::up("v2")).unwrap();
    fleet.carry_out_until(&planned, at(&planned.plan, "drain", "api-1.1") + 1);
    let rollback = fleet.plan(back(&planned)).unwrap();
    assert_eq!(
        steps_of(&rollback.plan, "api")[..],
        [
            "retire api-2.2",
            "undrain api-1.1",
            "switch +api-1.1 -api-1.2",
            "drain api-1.2",
            "stop api-1.2",
            "retire api-1.2"
        ]
    );
}

#[test]
fn a_restart_that_failed_keeps_what_it_has_renewed() {
    let mut fleet = settled();
    let planned = fleet.plan(restart(&["worker"])).unwrap();
    let soaked = at(&planned.plan, "soak", "worker-1.2");
    fleet.carry_out_until(&planned, soaked + 2);
    fleet.instance_mut("worker-1.2").health = Health::Ready;
    let rollback = fleet.plan(back(&planned)).unwrap();
    assert!(!steps_of(&rollback.plan, "worker").iter().any(|step| step.contains("worker-1.2")), "it is as wanted");
    fleet.carry_out(&rollback);
    assert_eq!(versions(&fleet), all_at("v1"));
}

#[test]
fn a_down_and_a_drain_by_hand_can_be_taken_back_from_every_point() {
    for ask in [Ask::Down, Ask::Drain { slot: slot("api-2") }] {
        let settled = settled();
        let planned = settled.plan(ask).unwrap();
        for cut in 0..=planned.plan.steps.len() {
            let mut fleet = settled.clone();
            fleet.carry_out_until(&planned, cut);
            let rollback = fleet.plan(back(&planned)).unwrap();
            assert!(!rollback.plan.steps.iter().any(|step| step.kind.verb() == "prepare"), "nothing has to be made");
            fleet.carry_out(&rollback);
            assert_eq!(versions(&fleet), all_at("v1"), "cut {cut}");
            assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
        }
    }
}
