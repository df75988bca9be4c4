//! Strategies, stages, orders, floors and jobs.

#![expect(clippy::type_complexity, reason = "a table of cases is a list of plain tuples")]

use super::fleet::*;
use crate::model::*;

/// Starts v1 of these components on one agent.
fn fleet_of(components: Vec<Definition>) -> Fleet {
    let mut fleet = Fleet::new(manifest(components), &["host"]);
    fleet.roll(Fleet::up("v1"));
    fleet
}

fn after(mut definition: Definition, on: &[&str]) -> Definition {
    definition.depends_on = on.iter().map(|text| (name(text), Condition::Ready)).collect();
    definition
}

fn ordered(mut definition: Definition, order: Order) -> Definition {
    definition.update.order = Some(order);
    definition
}

fn job(text: &str) -> Definition {
    let mut job = component(text, 1);
    job.role = Some(Role::Job);
    job
}

/// Components in the order of the first step that disturbs them.
fn order_of(plan: &Plan) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for step in plan.steps.iter().filter(|step| step.kind.verb() != "prepare") {
        let component = match &step.kind {
            StepKind::Switch { component, .. } => component.to_string(),
            _ => step.slot.as_ref().unwrap().component.to_string(),
        };
        if !order.contains(&component) {
            order.push(component);
        }
    }
    order
}

fn stages(list: &[&[&str]]) -> Vec<Vec<String>> {
    list.iter().map(|stage| stage.iter().map(|entry| (*entry).to_owned()).collect()).collect()
}

#[test]
fn the_strategy_follows_what_is_there_and_the_report_says_why() {
    let plain = || vec![component("web", 1), component("cache", 1)];
    let cases: [(&str, Vec<Definition>, fn(&mut Manifest), Strategy, &str); 7] = [
        ("nothing", plain(), |_| (), Strategy::Rolling, "rolling: no stages are given"),
        (
            "scheduler",
            vec![component("scheduler", 1)],
            |_| (),
            Strategy::Staged,
            "staged: component scheduler has role",
        ),
        ("executor", vec![component("executor", 1)], |_| (), Strategy::Staged, "staged: component executor has role"),
        (
            "stages",
            plain(),
            |m| m.stages = Some(Stages { stop: stages(&[&["web"], &["cache"]]), start: vec![] }),
            Strategy::Staged,
            "staged: stages are given",
        ),
        ("job", vec![component("web", 1), job("migrate")], |_| (), Strategy::Staged, "staged: this roll runs a job"),
        ("api_at", plain(), |m| m.api_at = ApiAt::Quiet, Strategy::Staged, "staged: api_at is given"),
        (
            "written",
            vec![component("executor", 1)],
            |m| m.strategy = Some(Strategy::Rolling),
            Strategy::Rolling,
            "rolling: as written",
        ),
    ];
    for (what, components, edit, expected, why) in cases {
        let mut fleet = Fleet::new(manifest(components), &["host"]);
        edit(&mut fleet.manifest);
        let planned = fleet.roll(Fleet::up("v1"));
        assert_eq!(planned.plan.strategy, expected, "{what}");
        assert!(planned.report.reasons[0].starts_with(why), "{what}: {:?}", planned.report.reasons);
    }
    let mut fleet = Fleet::new(manifest(plain()), &["host"]);
    fleet.manifest.strategy = Some(Strategy::Rolling);
    fleet.manifest.api_at = ApiAt::Quiet;
    assert!(usage(fleet.plan(Fleet::up("v1"))).contains("api_at: quiet needs the quiet point"));
}

#[test]
fn stages_come_from_the_manifest_then_from_dependencies_then_from_roles() {
    let all = || vec![component("executor", 1), component("worker", 1), component("cache", 1), component("db", 1)];
    type Edit = fn(&mut Manifest);
    let cases: [(&str, Edit, &[&[&str]], &[&[&str]]); 6] = [
        ("by role", |_| (), &[&["executor"], &["cache", "db", "worker"]], &[&["cache", "db", "worker"], &["executor"]]),
        (
            "written",
            |m| m.stages = Some(Stages { stop: stages(&[&["db"], &["executor", "worker"]]), start: vec![] }),
            &[&["db"], &["cache", "executor", "worker"]],
            &[&["cache", "executor", "worker"], &["db"]],
        ),
        (
            "start written",
            |m| {
                let (stop, start) = (stages(&[&["worker"], &["db"]]), stages(&[&["db"], &["executor"]]));
                m.stages = Some(Stages { stop, start });
            },
            &[&["worker"], &["cache", "db", "executor"]],
            &[&["cache", "db", "worker"], &["executor"]],
        ),
        (
            "a name wins over a role",
            |m| {
                m.components.get_mut(&name("cache")).unwrap().role = Some(Role::Worker);
                m.stages = Some(Stages { stop: stages(&[&["worker"], &["cache"]]), start: vec![] });
            },
            &[&["worker"], &["cache", "db", "executor"]],
            &[&["cache", "db", "executor"], &["worker"]],
        ),
        (
            "dependencies",
            |m| {
                m.components.get_mut(&name("executor")).unwrap().depends_on = [(name("db"), Condition::Ready)].into();
                m.components.get_mut(&name("worker")).unwrap().depends_on =
                    [(name("executor"), Condition::Ready)].into();
            },
            &[&["worker"], &["executor"], &["cache", "db"]],
            &[&["cache", "db"], &["executor"], &["worker"]],
        ),
        (
            "dependencies on a job say nothing about stages",
            |m| {
                m.components.insert(name("migrate"), job("migrate"));
                m.components.get_mut(&name("worker")).unwrap().depends_on =
                    [(name("migrate"), Condition::Completed)].into();
            },
            &[&["executor"], &["cache", "db", "worker"]],
            &[&["cache", "db", "worker"], &["executor"]],
        ),
    ];
    for (what, edit, stop, start) in cases {
        let mut fleet = Fleet::new(manifest(all()), &["host"]);
        edit(&mut fleet.manifest);
        fleet.roll(Fleet::up("v1"));
        let plan = fleet.roll(Fleet::up("v2")).plan;
        let staged = |label: &str, verb: &str| {
            let mut found: Vec<Vec<String>> = Vec::new();
            for step in plan.steps.iter().filter(|step| step.kind.verb() == verb) {
                let Some(number) = step.stage.strip_prefix(label) else { continue };
                let index: usize = number.trim().parse().unwrap();
                found.resize(found.len().max(index), Vec::new());
                found[index - 1].push(step.slot.as_ref().unwrap().component.to_string());
            }
            found.iter_mut().for_each(|stage| stage.sort());
            found
        };
        assert_eq!(staged("stop ", "stop"), stages(stop), "{what}");
        assert_eq!(staged("start ", "start"), stages(start), "{what}");
        assert_planning_makes_no_changes(&fleet, Fleet::up("v2"));
    }
}

#[test]
fn a_circle_of_dependencies_is_named() {
    let components =
        vec![after(component("a", 1), &["b"]), after(component("b", 1), &["c"]), after(component("c", 1), &["a"])];
    let fleet = Fleet::new(manifest(components), &["host"]);
    assert!(usage(fleet.plan(Fleet::up("v1"))).contains("a -> b -> c -> a"));
}

#[test]
fn an_api_named_in_a_stop_stage_is_not_stopped_there() {
    let mut fleet = fleet_of(vec![with_traffic(component("api", 2)), component("worker", 1)]);
    fleet.manifest.stages = Some(Stages { stop: stages(&[&["api", "worker"]]), start: vec![] });
    let planned = fleet.roll(Fleet::up("v2"));
    assert_eq!(order_of(&planned.plan), ["worker", "api"]);
    assert!(planned.report.warnings.iter().any(|line| line.contains("api is an API")));
}

#[test]
fn rolling_goes_dependencies_first_then_in_stop_order_and_the_api_last() {
    let rolling = |components: Vec<Definition>| {
        let mut fleet = Fleet::new(manifest(components), &["host"]);
        fleet.manifest.strategy = Some(Strategy::Rolling);
        fleet.roll(Fleet::up("v1"));
        let plan = fleet.roll(Fleet::up("v2")).plan;
        assert_planning_makes_no_changes(&fleet, Fleet::up("v2"));
        plan
    };
    let all = || vec![component("api", 1), component("executor", 1), component("worker", 1), component("cache", 1)];
    assert_eq!(order_of(&rolling(all())), ["executor", "cache", "worker", "api"]);
    let mut depends = all();
    depends[1] = after(component("executor", 1), &["worker"]);
    assert_eq!(order_of(&rolling(depends)), ["cache", "worker", "executor", "api"]);
    let mut on_api = all();
    on_api[3] = after(component("cache", 1), &["api"]);
    let plan = rolling(on_api);
    assert_eq!(order_of(&plan), ["executor", "worker", "api", "cache"]);
    // Each component after the slots of the one before have soaked, and their old ones are gone.
    assert!(waits(&plan, at(&plan, "drain", "worker-1.1"), at(&plan, "soak", "executor-1.2")));
    assert!(waits(&plan, at(&plan, "drain", "cache-1.1"), at(&plan, "stop", "api-1.1")));
    assert!(!waits(&plan, at(&plan, "drain", "worker-1.1"), at(&plan, "retire", "executor-1.1")));
}

#[test]
fn what_only_starts_does_not_wait_for_the_end_of_those_before_it() {
    let first = |name: &str| {
        let mut definition = component(name, 1);
        definition.update.order = Some(Order::StartFirst);
        definition
    };
    let chain = vec![first("a"), after(first("b"), &["a"]), after(component("c", 1), &["b"])];
    let mut fleet = Fleet::new(manifest(chain), &["host"]);
    fleet.manifest.strategy = Some(Strategy::Rolling);
    fleet.roll(Fleet::up("v1"));
    let plan = fleet.roll(Fleet::up("v2")).plan;
    assert!(waits(&plan, at(&plan, "start", "b-1.2"), at(&plan, "soak", "a-1.2")));
    assert!(!waits(&plan, at(&plan, "start", "b-1.2"), at(&plan, "stop", "a-1.1")));
    // One that goes before it comes does wait: two components at a time would be short of an instance.
    for gone in ["a-1.1", "b-1.1"] {
        assert!(waits(&plan, at(&plan, "drain", "c-1.1"), at(&plan, "stop", gone)), "{gone}");
    }
}

#[test]
fn the_engine_gives_the_places_of_a_lane_and_labels_tell_the_batches() {
    let mut web = component("web", 5);
    web.update.parallelism = 2;
    web.update.delay = seconds(7);
    let mut fleet = fleet_of(vec![web, component("zoo", 1)]);
    let plan = fleet.roll(Fleet::up("v2")).plan;
    let limits = &plan.limits[&name("web")];
    assert_eq!((limits.parallelism, limits.changed), (2, 5));
    let lane: Vec<String> = limits.lane.iter().map(ToString::to_string).collect();
    assert_eq!(lane, ["web-1", "web-2", "web-3", "web-4", "web-5"]);
    let stage = |instance: &str| plan.steps[at(&plan, "start", instance)].stage.clone();
    for (instance, batch) in
        [("web-1.2", 1), ("web-2.2", 1), ("web-3.2", 2), ("web-4.2", 2), ("web-5.2", 3), ("zoo-1.2", 4)]
    {
        assert_eq!(stage(instance), format!("batch {batch}"));
    }
    // Slots of a lane do not wait for each other: the engine chooses when.
    assert!(!waits(&plan, at(&plan, "drain", "web-3.1"), at(&plan, "soak", "web-1.2")));
    let pauses: Vec<&Step> = plan.steps.iter().filter(|step| step.kind.verb() == "delay").collect();
    assert_eq!(pauses.len(), 4, "none after the last slot");
    for pause in pauses {
        assert_eq!((pause.agent.as_ref(), &pause.kind), (None, &StepKind::Delay { pause: seconds(7) }));
        let slot = pause.slot.as_ref().unwrap();
        let place = pause.id.0 as usize;
        assert!(waits(&plan, place, at(&plan, "soak", &format!("{slot}.2"))));
        assert!(waits(&plan, at(&plan, "retire", &format!("{slot}.1")), place));
    }
}

#[test]
fn what_adds_to_what_serves_takes_its_turn_before_what_takes_away() {
    let mut web = component("web", 2);
    web.min_available = Some(2);
    web.update.order = Some(Order::StartFirst);
    let mut fleet = fleet_of(vec![web]);
    fleet.component("web").replicas = 4;
    fleet.component("web").update.order = Some(Order::StopFirst);
    fleet.component("web").min_available = Some(3);
    let plan = fleet.roll(Fleet::up("v2")).plan;
    let lane: Vec<String> = plan.limits[&name("web")].lane.iter().map(ToString::to_string).collect();
    assert_eq!(lane, ["web-3", "web-4", "web-1", "web-2"], "else the floor could never be kept");
}

#[test]
fn the_order_of_a_slot_is_the_one_written_where_it_is_possible() {
    let number = |passed: bool| {
        move |d: &mut Definition| {
            d.ports = vec![NamedPort { name: "http".to_owned(), port: Port::Number(80), host: None, passed }];
        }
    };
    let none = |_: &mut Definition| ();
    type Edit = Box<dyn Fn(&mut Definition)>;
    let start = |order: Option<Order>| move |d: &mut Definition| d.update.order = order;
    let cases: Vec<(&str, &str, Vec<Edit>, Order, Option<&str>)> = vec![
        ("api", "an api", vec![Box::new(none)], Order::StartFirst, None),
        ("web", "another role", vec![Box::new(none)], Order::StopFirst, None),
        ("web", "written", vec![Box::new(start(Some(Order::StartFirst)))], Order::StartFirst, None),
        ("api", "written stop-first", vec![Box::new(start(Some(Order::StopFirst)))], Order::StopFirst, None),
        ("api", "a passed number", vec![Box::new(number(true))], Order::StartFirst, None),
        ("api", "a number", vec![Box::new(number(false))], Order::StopFirst, Some("api: stop-first, because port 80")),
        (
            "web",
            "a number, written",
            vec![Box::new(number(false)), Box::new(start(Some(Order::StartFirst)))],
            Order::StopFirst,
            Some("web: order: start-first is not possible: port 80 is not passed"),
        ),
        (
            "web",
            "a singleton, written",
            vec![Box::new(|d| d.singleton = true), Box::new(start(Some(Order::StartFirst)))],
            Order::StopFirst,
            Some("web: order: start-first is not possible: it is a singleton"),
        ),
        (
            "api",
            "a service of Compose that can be there once",
            vec![Box::new(|d| {
                d.image = Some("shop:{version}".to_owned());
                let alone = Some("port 80 of the host is its own".to_owned());
                d.compose = Some(ComposeService { alone, ..ComposeService::default() });
            })],
            Order::StopFirst,
            Some("api: stop-first, because port 80 of the host is its own"),
        ),
    ];
    for (text, what, edits, order, said) in cases {
        let mut definition = component(text, 1);
        edits.iter().for_each(|edit| edit(&mut definition));
        let mut fleet = fleet_of(vec![definition]);
        let planned = fleet.roll(Fleet::up("v2"));
        assert_eq!(planned.plan.changes[0].order, Some(order), "{what}");
        let stop = at(&planned.plan, "stop", &format!("{text}-1.1"));
        let start = at(&planned.plan, "start", &format!("{text}-1.2"));
        assert_eq!(waits(&planned.plan, start, stop), order == Order::StopFirst, "{what}");
        assert_eq!(planned.report.outages.is_empty(), order == Order::StartFirst, "{what}");
        let all: Vec<&String> = planned.report.warnings.iter().chain(&planned.report.reasons).collect();
        match said {
            Some(said) => assert!(all.iter().any(|line| line.starts_with(said)), "{what}: {all:?}"),
            None => assert!(!all.iter().any(|line| line.contains("stop-first, because")), "{what}: {all:?}"),
        }
        assert_planning_makes_no_changes(&fleet, Fleet::up("v2"));
    }
}

#[test]
fn sockets_that_a_keeper_has_lost_make_that_slot_stop_first() {
    let mut api = component("api", 2);
    api.on = vec![agent("a"), agent("b")];
    api.ports = vec![NamedPort { name: "http".to_owned(), port: Port::Number(80), host: None, passed: true }];
    let mut fleet = Fleet::new(manifest(vec![api]), &["a", "b"]);
    fleet.roll(Fleet::up("v1"));
    fleet.instance_mut("api-1.1").sockets_held = false;
    let planned = fleet.roll(Fleet::up("v2"));
    let orders: Vec<Option<Order>> = planned.plan.changes.iter().map(|change| change.order).collect();
    assert_eq!(orders, [Some(Order::StopFirst), Some(Order::StartFirst)]);
    assert_eq!(planned.plan.limits[&name("api")].min_available, 1);
    assert!(planned.report.reasons.iter().any(|line| line.contains("keeper of api-1.1 could not take the socket")));
}

#[test]
fn in_a_staged_roll_start_first_is_for_the_api_alone() {
    let mut fleet = fleet_of(vec![component("executor", 1), ordered(component("worker", 2), Order::StartFirst)]);
    let planned = fleet.roll(Fleet::up("v2"));
    assert!(planned.plan.changes.iter().all(|change| change.order == Some(Order::StopFirst)));
    let warnings = &planned.report.warnings;
    assert!(warnings.iter().any(|line| line.starts_with("worker: order: start-first is not possible")), "{warnings:?}");
}

#[test]
fn a_floor_is_the_default_that_can_be_kept_and_a_written_one_that_cannot_is_refused() {
    type Edit = fn(&mut Manifest);
    let cases: [(&str, Edit, Result<u32, &str>); 9] = [
        ("default", |_| (), Ok(1)),
        ("one api", |m| m.components.get_mut(&name("api")).unwrap().replicas = 1, Ok(1)),
        (
            "one api, stop-first",
            |m| {
                let api = m.components.get_mut(&name("api")).unwrap();
                (api.replicas, api.update.order) = (1, Some(Order::StopFirst));
            },
            Ok(0),
        ),
        (
            "two, stop-first",
            |m| m.components.get_mut(&name("api")).unwrap().update.order = Some(Order::StopFirst),
            Ok(1),
        ),
        ("quiet", |m| m.api_at = ApiAt::Quiet, Ok(0)),
        ("all of them", |m| m.components.get_mut(&name("api")).unwrap().min_available = Some(2), Ok(2)),
        (
            "more than there are",
            |m| m.components.get_mut(&name("api")).unwrap().min_available = Some(3),
            Err("component api: min_available 3 cannot be kept: there are 2 slots, so at most 2 can be"),
        ),
        (
            "all of them, stop-first",
            |m| {
                let api = m.components.get_mut(&name("api")).unwrap();
                (api.min_available, api.update.order) = (Some(2), Some(Order::StopFirst));
            },
            Err("of 2 slots one is stopped before its new instance starts, so at most 1 can be"),
        ),
        (
            "a worker in a staged roll",
            |m| m.components.get_mut(&name("worker")).unwrap().min_available = Some(1),
            Err("component worker: min_available 1 cannot be kept: in a staged roll every worker is down"),
        ),
    ];
    for (what, edit, expected) in cases {
        // It is wrong on the first day, not only when there is something to lose.
        for installed in [false, true] {
            let mut fleet = quickstart();
            if installed {
                fleet.roll(Fleet::up("v1"));
            }
            edit(&mut fleet.manifest);
            match expected {
                Ok(floor) => {
                    let plan = fleet.plan(Fleet::up("v2")).unwrap().plan;
                    assert_eq!(plan.limits[&name("api")].min_available, floor, "{what}");
                }
                Err(text) => {
                    let error = usage(fleet.plan(Fleet::up("v2")));
                    assert!(error.contains(text), "{what}: {error}");
                }
            }
        }
    }
}

#[test]
fn a_floor_that_a_drain_by_hand_makes_impossible_is_refused_and_says_what_to_type() {
    let mut fleet = quickstart();
    fleet.component("api").min_available = Some(2);
    fleet.roll(Fleet::up("v1"));
    fleet.roll(crate::planner::Ask::Drain { slot: slot("api-2") });
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
    fleet.put("api-1.2", "v1");
    let error = refused(fleet.plan(Fleet::up("v1")));
    assert!(error.contains("run `baton undrain api-2`"), "{error}");
}

#[test]
fn the_api_goes_last_first_or_at_the_quiet_point() {
    let settle = |api_at: ApiAt| {
        let mut fleet = quickstart();
        fleet.manifest.api_at = api_at;
        fleet.manifest.components.insert(name("migrate"), job("migrate"));
        fleet.component("migrate").on = vec![agent("agent-worker")];
        fleet.roll(Fleet::up("v1"));
        let planned = fleet.roll(Fleet::up("v2"));
        assert_planning_makes_no_changes(&fleet, Fleet::up("v2"));
        planned
    };
    let plan = settle(ApiAt::Last).plan;
    assert_eq!(order_of(&plan), ["executor", "scheduler", "worker", "migrate", "api"]);

    let plan = settle(ApiAt::First).plan;
    assert_eq!(order_of(&plan), ["migrate", "api", "executor", "scheduler", "worker"]);
    assert!(waits(&plan, at(&plan, "drain", "executor-1.1"), at(&plan, "soak", "api-2.2")));
    assert!(waits(&plan, at(&plan, "start", "api-1.2"), at(&plan, "ready", "migrate-1.2")));

    let planned = settle(ApiAt::Quiet);
    let plan = planned.plan;
    assert_eq!(order_of(&plan), ["executor", "scheduler", "worker", "api", "migrate"]);
    assert_eq!(
        steps_of(&plan, "api")[2..],
        [
            "switch + -api-1.1+api-2.1",
            "drain api-1.1",
            "stop api-1.1",
            "drain api-2.1",
            "stop api-2.1",
            "start api-1.2",
            "ready api-1.2",
            "switch +api-1.2 -",
            "soak api-1.2",
            "retire api-1.1",
            "start api-2.2",
            "ready api-2.2",
            "switch +api-2.2 -",
            "soak api-2.2",
            "retire api-2.1"
        ]
    );
    assert!(waits(&plan, at(&plan, "start", "migrate-1.2"), at(&plan, "stop", "api-2.1")));
    assert!(waits(&plan, at(&plan, "start", "api-1.2"), at(&plan, "ready", "migrate-1.2")));
    assert!(planned.report.outages.iter().any(|line| line.starts_with("api: nobody serves at the quiet point")));
}

#[test]
fn a_job_runs_when_it_or_a_dependent_changes() {
    let mut migrate = job("migrate");
    migrate.versioned = false;
    migrate.release = None;
    migrate.command = vec![Secret::new("/bin/migrate")];
    let mut fleet = quickstart();
    migrate.on = vec![agent("agent-worker")];
    fleet.manifest.components.insert(name("migrate"), migrate);
    fleet.component("worker").depends_on = [(name("migrate"), Condition::Completed)].into();
    let plan = fleet.roll(Fleet::up("v1")).plan;
    assert_eq!(steps_of(&plan, "migrate"), ["prepare migrate-1.1", "start migrate-1.1", "ready migrate-1.1"]);
    assert!(matches!(
        plan.steps[at(&plan, "ready", "migrate-1.1")].kind,
        StepKind::Ready { wait: ReadyWait::Completed, .. }
    ));
    assert!(waits(&plan, at(&plan, "start", "worker-1.1"), at(&plan, "ready", "migrate-1.1")));
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));

    // Neither it nor what depends on it changes.
    fleet.component("executor").env.insert("A".to_owned(), Secret::new("b"));
    let plan = fleet.roll(Fleet::up("v1")).plan;
    assert_eq!(steps_of(&plan, "migrate"), Vec::<String>::new());
    // What depends on it changes.
    let plan = fleet.roll(Fleet::up("v2")).plan;
    assert_eq!(
        steps_of(&plan, "migrate"),
        ["prepare migrate-1.2", "start migrate-1.2", "ready migrate-1.2", "retire migrate-1.1"]
    );
    assert!(waits(&plan, at(&plan, "start", "migrate-1.2"), at(&plan, "stop", "worker-4.1")), "at the quiet point");
    // It changes itself.
    fleet.component("migrate").env.insert("A".to_owned(), Secret::new("b"));
    let plan = fleet.roll(Fleet::up("v2")).plan;
    assert_eq!(order_of(&plan), ["migrate"]);
    // It has failed: it runs again, as a new instance.
    let failed = fleet.history.completed_jobs.remove(&slot("migrate-1")).unwrap();
    let instance = fleet.instance_mut("migrate-1.3");
    assert_eq!(instance.spec, Some(failed));
    instance.exit = Some(ExitStatus::Code(1));
    let plan = fleet.roll(Fleet::up("v2")).plan;
    assert_eq!(steps_of(&plan, "migrate")[0], "prepare migrate-1.4");
    // It still runs: its end is awaited.
    fleet.history.completed_jobs.clear();
    fleet.instance_mut("migrate-1.4").state = InstanceState::Running;
    let plan = fleet.roll(Fleet::up("v2")).plan;
    assert_eq!(steps_of(&plan, "migrate"), ["ready migrate-1.4"]);
    assert_planning_makes_no_changes(&fleet, Fleet::up("v2"));
    // Not asked for.
    let planned = fleet.plan(Fleet::only("v3", &["worker"])).unwrap();
    assert_eq!(steps_of(&planned.plan, "migrate"), Vec::<String>::new());
    assert!(planned.report.warnings.iter().any(|line| line.starts_with("job migrate is not among")));
}

#[test]
fn a_job_waits_for_what_it_needs_and_comes_before_what_needs_it() {
    for strategy in [Strategy::Staged, Strategy::Rolling] {
        let mut fleet = Fleet::new(
            manifest(vec![
                component("db", 1),
                after(job("migrate"), &["db"]),
                after(job("seed"), &["migrate"]),
                after(component("worker", 1), &["seed"]),
                component("cache", 1),
            ]),
            &["host"],
        );
        fleet.manifest.strategy = Some(strategy);
        fleet.roll(Fleet::up("v1"));
        let plan = fleet.roll(Fleet::up("v2")).plan;
        for (first, second) in [
            (("ready", "db-1.2"), ("start", "migrate-1.2")),
            (("ready", "migrate-1.2"), ("start", "seed-1.2")),
            (("ready", "seed-1.2"), ("start", "worker-1.2")),
        ] {
            assert!(
                waits(&plan, at(&plan, second.0, second.1), at(&plan, first.0, first.1)),
                "{strategy:?} {second:?}"
            );
        }
        assert_planning_makes_no_changes(&fleet, Fleet::up("v2"));
    }
}

#[test]
fn a_plan_of_a_thousand_slots_has_no_million_edges() {
    let mut fleet = Fleet::new(manifest(vec![component("executor", 500), component("worker", 500)]), &["host"]);
    fleet.roll(Fleet::up("v1"));
    let plan = fleet.plan(Fleet::up("v2")).unwrap().plan;
    let edges: usize = plan.steps.iter().map(|step| step.after.len()).sum();
    assert!(edges < 20_000, "{edges} edges");
    let joins: Vec<&Step> = plan.steps.iter().filter(|step| step.slot.is_none()).collect();
    assert!(joins.iter().all(|step| step.kind == StepKind::Delay { pause: seconds(0) }));
    assert!(waits(&plan, at(&plan, "drain", "worker-500.1"), at(&plan, "stop", "executor-1.1")));
}
