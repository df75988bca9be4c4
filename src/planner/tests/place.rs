//! Placement, the gateway, versions and digests.

#![expect(clippy::type_complexity, reason = "a table of cases is a list of plain tuples")]

use std::collections::BTreeMap;

use super::fleet::*;
use crate::model::*;
use crate::planner::{Ask, definition_digest, fill_version, manifest_digest, placement, plan, spec_digest, wanted};

fn agents(ids: &[&str]) -> BTreeMap<AgentId, Inventory> {
    ids.iter().map(|id| (agent(id), report(id))).collect()
}

fn placed(definition: &Definition, inventory: &BTreeMap<AgentId, Inventory>) -> Vec<String> {
    placement(definition, inventory).unwrap().iter().map(|(slot, agent)| format!("{slot}@{agent}")).collect()
}

#[test]
fn replicas_are_spread_evenly_in_order_of_id() {
    let cases: [(u32, &[&str], &[&str], &[&str]); 4] = [
        (4, &["a", "b"], &[], &["web-1@a", "web-2@b", "web-3@a", "web-4@b"]),
        (3, &["b", "a", "c"], &[], &["web-1@a", "web-2@b", "web-3@c"]),
        (2, &["a", "b", "c"], &["b", "c"], &["web-1@b", "web-2@c"]),
        (1, &["a", "b"], &["b"], &["web-1@b"]),
    ];
    for (replicas, there, on, expected) in cases {
        let mut web = component("web", replicas);
        web.on = on.iter().map(|id| agent(id)).collect();
        assert_eq!(placed(&web, &agents(there)), expected);
    }
}

#[test]
fn a_slot_never_moves_by_itself() {
    let mut fleet = Fleet::new(manifest(vec![component("web", 2)]), &["m"]);
    fleet.roll(Fleet::up("v1"));
    // A new agent changes nothing for slots that are somewhere; new slots even things out.
    fleet.inventory.insert(agent("a"), report("a"));
    fleet.component("web").replicas = 4;
    assert_eq!(
        placed(&fleet.manifest.components[&name("web")], &fleet.inventory),
        ["web-1@m", "web-2@m", "web-3@a", "web-4@a"]
    );
    fleet.roll(Fleet::up("v1"));
    // An agent that is not allowed any more loses its slots: stopped there, started here.
    fleet.component("web").on = vec![agent("a")];
    let planned = fleet.roll(Fleet::up("v1"));
    let change = &planned.plan.changes[0];
    assert_eq!((change.slot.to_string(), change.agent.clone()), ("web-1".to_owned(), agent("a")));
    assert_eq!(change.why, "moves from agent m to a");
    let plan = &planned.plan;
    assert_eq!(plan.steps[at(plan, "stop", "web-1.1")].agent, Some(agent("m")));
    assert_eq!(plan.steps[at(plan, "start", "web-1.2")].agent, Some(agent("a")));
    assert!(waits(plan, at(plan, "start", "web-1.2"), at(plan, "stop", "web-1.1")));
    assert!(fleet.inventory[&agent("m")].slots.values().all(|slot| slot.instances.is_empty()));
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
}

#[test]
fn a_component_that_nobody_can_run_is_refused_and_says_who_is_there() {
    let fleet = Fleet::new(manifest(vec![component("web", 1)]), &[]);
    assert_eq!(
        refused(fleet.plan(Fleet::up("v1"))),
        "no agent can run component web (runtime process); no agent has reported"
    );
    let mut fleet = Fleet::new(manifest(vec![component("web", 1)]), &["a", "b"]);
    fleet.component("web").runtime = RuntimeKind::Docker;
    assert_eq!(
        refused(fleet.plan(Fleet::up("v1"))),
        "no agent can run component web (runtime docker); agents there: a (process), b (process)"
    );
    fleet.component("web").on = vec![agent("a")];
    assert!(refused(fleet.plan(Fleet::up("v1"))).contains("agent a, which does not offer the runtime docker"));
    fleet.component("web").on = vec![agent("a"), agent("c")];
    fleet.component("web").runtime = RuntimeKind::Process;
    assert!(
        refused(fleet.plan(Fleet::up("v1"))).contains("component web is to run on agent c, which has not reported")
    );
}

#[test]
fn a_port_number_with_two_slots_on_one_agent_names_auto() {
    let mut web = component("web", 3);
    web.ports = vec![NamedPort { name: "http".to_owned(), port: Port::Number(80), host: None, passed: true }];
    let fleet = Fleet::new(manifest(vec![web]), &["a", "b"]);
    let error = usage(fleet.plan(Fleet::up("v1")));
    assert!(error.contains("2 slots on agent a cannot share port 80; write `ports: { http: auto }`"), "{error}");
    let mut three = fleet.clone();
    three.inventory.insert(agent("c"), report("c"));
    assert!(three.plan(Fleet::up("v1")).is_ok());
}

#[test]
fn each_agent_resolves_what_it_would_run_with_the_version_filled_in() {
    let fleet = quickstart();
    let wanted = wanted(&fleet.manifest, Some("v7"), &fleet.inventory);
    let names = |id: &str| wanted[&agent(id)].keys().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(names("agent-api"), ["api", "gateway"]);
    assert_eq!(names("agent-worker"), ["worker"]);
    let release = wanted[&agent("agent-api")][&name("api")].release.clone().unwrap();
    assert_eq!(release.path, "/opt/orders/v7");
}

#[test]
fn the_gateway_is_added_beside_the_api_with_a_socket_for_each_component() {
    let mut web = with_traffic(component("web", 1));
    web.on = vec![agent("b")];
    web.traffic = Traffic::Gateway { listen: "[::1]:9090".to_owned(), port: PortRef::Number(1), hold_max: seconds(1) };
    let mut api = with_traffic(component("api", 2));
    api.on = vec![agent("c"), agent("b")];
    let mut fleet = Fleet::new(manifest(vec![web, api]), &["a", "b", "c"]);
    let planned = fleet.roll(Fleet::up("v1"));
    let gateway = &planned.definitions[&planned.plan.definitions[&name("gateway")]];
    let ports: Vec<(String, Port, Option<&str>, bool)> =
        gateway.ports.iter().map(|p| (p.name.clone(), p.port, p.host.as_deref(), p.passed)).collect();
    assert_eq!(
        ports,
        [
            ("api".to_owned(), Port::Number(8080), Some("0.0.0.0"), true),
            ("web".to_owned(), Port::Number(9090), Some("::1"), true)
        ]
    );
    assert_eq!(gateway.on, [agent("b")]);
    assert!(gateway.command.is_empty() && gateway.ready.probe == Some(Probe::Notify));
    // It keeps its place when the API goes elsewhere.
    fleet.component("api").on = vec![agent("a"), agent("c")];
    let planned = fleet.roll(Fleet::up("v1"));
    assert_eq!(steps_of(&planned.plan, "gateway"), Vec::<String>::new());
    assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));
}

#[test]
fn a_declared_gateway_gets_its_sockets_and_two_slots_mean_two_switches() {
    let mut gateway = component("gateway", 2);
    gateway.command = Vec::new();
    gateway.release = None;
    gateway.versioned = false;
    gateway.ready.probe = None;
    gateway.ports = Vec::new();
    let mut fleet = Fleet::new(manifest(vec![gateway, with_traffic(component("api", 1))]), &["a", "b"]);
    fleet.roll(Fleet::up("v1"));
    assert_eq!(fleet.history.succeeded[&name("gateway")].1.ports[0].port, Port::Number(8080));
    let plan = fleet.roll(Fleet::up("v2")).plan;
    let switches: Vec<&Step> = plan.steps.iter().filter(|step| step.kind.verb() == "switch").collect();
    let slots: Vec<String> = switches.iter().map(|step| step.slot.as_ref().unwrap().to_string()).collect();
    assert_eq!(slots, ["gateway-1", "gateway-2"]);
    for switch in switches {
        assert!(waits(&plan, at(&plan, "drain", "api-1.1"), switch.id.0 as usize));
        assert!(waits(&plan, switch.id.0 as usize, at(&plan, "soak", "api-1.2")), "proven before it gets a request");
        assert_eq!(switch.while_ready, Some(id("api-1.2")));
    }
}

#[test]
fn a_gateway_that_was_never_told_who_serves_is_told_before_a_new_one_starts() {
    let mut fleet = Fleet::new(manifest(vec![with_traffic(component("api", 2)), component("worker", 1)]), &["host"]);
    fleet.roll(Fleet::up("v1"));
    let told = |fleet: &mut Fleet| {
        let plan = fleet.roll(Fleet::up("v2")).plan;
        let steps = steps_of(&plan, "api");
        let first = plan.steps.iter().position(|step| step.kind.verb() == "switch").unwrap();
        let waits = waits(&plan, at(&plan, "start", "api-1.2"), first);
        (steps.iter().filter(|line| *line == "switch +api-1.1+api-2.1 -").count(), waits)
    };
    // Somebody has made it anew, or Compose had started it.
    fleet.slot_mut("gateway-1").table.clear();
    let before = (fleet.inventory.clone(), fleet.history.clone());
    assert_eq!(told(&mut fleet).0, 0, "nobody knows where they are reached");
    (fleet.inventory, fleet.history) = before;
    for api in ["api-1.1", "api-2.1"] {
        let ports = [("http".to_owned(), 8080)].into();
        fleet.instance_mut(api).endpoint = Some(Endpoint { address: "10.0.0.1".to_owned(), ports });
    }
    assert_eq!(told(&mut fleet), (1, true));
    let mut fleet = Fleet::new(manifest(vec![with_traffic(component("api", 2))]), &["host"]);
    fleet.roll(Fleet::up("v1"));
    assert_eq!(told(&mut fleet).0, 0, "it knows");
}

#[test]
fn a_proxy_that_people_run_is_told_by_a_gateway_process_that_listens_on_nothing() {
    let proxy =
        Proxy::Haproxy { socket: "/run/ha.sock".to_owned(), backend: "api".to_owned(), server: "check".to_owned() };
    let mut api = with_traffic(component("api", 1));
    api.traffic = Traffic::Proxy { proxy: proxy.clone(), port: PortRef::Name("http".to_owned()) };
    let mut fleet = Fleet::new(manifest(vec![api.clone()]), &["a"]);
    let planned = fleet.roll(Fleet::up("v1"));
    let gateway = &planned.definitions[&planned.plan.definitions[&name("gateway")]];
    assert!(gateway.ports.is_empty() && gateway.command.is_empty());
    assert_eq!(gateway.fronts, [(name("api"), proxy)].into());
    let plan = fleet.roll(Fleet::up("v2")).plan;
    assert_eq!(plan.steps.iter().filter(|step| step.kind.verb() == "switch").count(), 1);
    // Another socket: the gateway is another one, too, and is kept until somebody asks for it.
    let other = Proxy::Exec { switch: vec!["/bin/tell".to_owned()], settle: seconds(1) };
    fleet.component("api").traffic = Traffic::Proxy { proxy: other, port: PortRef::Name("http".to_owned()) };
    let warnings = fleet.roll(Fleet::up("v3")).report.warnings;
    assert!(warnings[0].contains("the proxies that it tells changed"), "{warnings:?}");
    assert_planning_makes_no_changes(&fleet, Fleet::up("v3"));

    let mut door = component("gateway", 1);
    door.role = Some(Role::Gateway);
    let fleet = Fleet::new(manifest(vec![door, api]), &["a"]);
    assert!(usage(fleet.plan(Fleet::up("v1"))).contains("a gateway that cannot tell it anything"));
}

#[test]
fn a_name_that_the_gateway_needs_and_a_listen_that_is_none_are_usage_errors() {
    let mut taken = component("gateway", 1);
    taken.role = Some(Role::Worker);
    let fleet = Fleet::new(manifest(vec![taken, with_traffic(component("api", 1))]), &["a"]);
    assert!(usage(fleet.plan(Fleet::up("v1"))).contains("component gateway has role worker"));
    let mut api = with_traffic(component("api", 1));
    api.traffic = Traffic::Gateway { listen: "8080".to_owned(), port: PortRef::Number(1), hold_max: seconds(1) };
    let fleet = Fleet::new(manifest(vec![api]), &["a"]);
    assert!(usage(fleet.plan(Fleet::up("v1"))).contains("\"8080\" is not an address"));
}

#[test]
fn a_running_gateway_is_never_rolled_with_its_fleet() {
    let mut fleet = quickstart();
    fleet.roll(Fleet::up("v1"));
    fleet.component("api").traffic =
        Traffic::Gateway { listen: ":9999".to_owned(), port: PortRef::Name("http".to_owned()), hold_max: seconds(30) };
    let planned = fleet.roll(Fleet::up("v2"));
    assert_eq!(steps_of(&planned.plan, "gateway"), Vec::<String>::new());
    let warning = &planned.report.warnings[0];
    assert!(warning.starts_with("gateway-1.1 is kept though") && warning.contains("--only gateway"), "{warning}");
    assert!(warning.contains("api: 0.0.0.0:8080 -> api: 0.0.0.0:9999"), "{warning}");

    let plan = fleet.roll(Fleet::only("v2", &["gateway"])).plan;
    assert_eq!(
        lines(&plan),
        [
            "0 prepare gateway-1.2 [] prepare",
            "1 drain gateway-1.1 [0] gateway",
            "2 stop gateway-1.1 [1] gateway",
            "3 start gateway-1.2 [2] gateway",
            "4 ready gateway-1.2 [3] gateway",
            "5 switch +api-1.2+api-2.2 - [4] gateway",
            "6 soak gateway-1.2 [5] gateway",
            "7 retire gateway-1.1 [2,6] gateway",
        ],
        "the new one is handed what serves before anybody watches it"
    );
    assert_planning_makes_no_changes(&fleet, Fleet::up("v2"));
}

#[test]
fn an_absent_gateway_comes_before_any_switch_and_gets_what_serves() {
    let mut fleet = quickstart();
    fleet.roll(Fleet::up("v1"));
    fleet.inventory.get_mut(&agent("agent-api")).unwrap().slots.remove(&slot("gateway-1"));
    fleet.history.highest.insert(slot("gateway-1"), 1);
    let planned = fleet.roll(Fleet::only("v2", &["api"]));
    let plan = &planned.plan;
    let table = plan.steps.iter().position(|step| step.kind.verb() == "switch").unwrap();
    assert!(lines(plan)[table].contains("+api-1.1+api-2.1"), "{:#?}", lines(plan));
    assert!(waits(plan, at(plan, "start", "api-1.2"), at(plan, "ready", "gateway-1.2")));
    for step in plan.steps.iter().filter(|step| step.kind.verb() == "switch").skip(1) {
        assert!(waits(plan, step.id.0 as usize, at(plan, "soak", "gateway-1.2")));
    }
    assert!(planned.report.reasons.iter().any(|line| line.starts_with("gateway comes too")));
    assert_planning_makes_no_changes(&fleet, Fleet::only("v2", &["api"]));
}

#[test]
fn a_version_is_filled_in_wherever_it_stands_and_braces_are_left() {
    let mut web = component("web", 1);
    web.image = Some("web:{version}".to_owned());
    web.env.insert("V".to_owned(), Secret::new("{version}/{{version}}/{slot}/{"));
    web.env_file = Some("/etc/{version}.env".to_owned());
    web.cwd = Some("{version}{version}".to_owned());
    web.command = vec![Secret::new("{release}/{version}"), Secret::new("}}{version}}}")];
    web.ready.probe = Some(Probe::Exec(vec!["{version}".to_owned()]));
    web.drain.begin = Some(DrainBegin::Http("http://x/{version}".to_owned()));
    web.drain.undo = Some(Call::Exec(vec!["{version}".to_owned()]));
    web.drain.inflight = Some(DrainInflight {
        http: "http://x/{version}/{port.http}".to_owned(),
        pointer: "/{version}".to_owned(),
        every: seconds(1),
        timeout: seconds(1),
    });
    let filled = fill_version(&web, Some("é2"));
    assert_eq!(filled.image.as_deref(), Some("web:é2"));
    assert_eq!(filled.release.unwrap().path, "/opt/orders/é2");
    assert_eq!(filled.env["V"].expose(), "é2/{{version}}/{slot}/{");
    assert_eq!(filled.env_file.as_deref(), Some("/etc/é2.env"));
    assert_eq!(filled.cwd.as_deref(), Some("é2é2"));
    let argv: Vec<&str> = filled.command.iter().map(Secret::expose).collect();
    assert_eq!(argv, ["{release}/é2", "}}é2}}"]);
    assert_eq!(filled.ready.probe, Some(Probe::Exec(vec!["é2".to_owned()])));
    assert_eq!(filled.drain.begin, Some(DrainBegin::Http("http://x/é2".to_owned())));
    assert_eq!(filled.drain.undo, Some(Call::Exec(vec!["é2".to_owned()])));
    assert_eq!(filled.drain.inflight.unwrap().http, "http://x/é2/{port.http}");
    assert_eq!(fill_version(&web, None), web);
}

#[test]
fn digests_tell_what_they_should_apart() {
    let web = component("web", 1);
    let all_well = Resolution { release: Some(Digest("a".to_owned())), ..Resolution::default() };
    let other = Resolution { release: Some(Digest("b".to_owned())), ..Resolution::default() };
    assert_ne!(spec_digest(&web, &all_well), spec_digest(&web, &other));
    let mut image = component("web", 1);
    image.image = Some("web:1".to_owned());
    let id = Resolution { image_id: Some("sha256:1".to_owned()), ..Resolution::default() };
    let before = spec_digest(&image, &id);
    image.image = Some("web:latest".to_owned());
    assert_eq!(spec_digest(&image, &id), before, "two names of one image are one spec");
    assert_ne!(definition_digest(&web), definition_digest(&image));
    assert_eq!(definition_digest(&web).0.len(), 64);

    let fleet = quickstart();
    let digest = |version| manifest_digest(&fleet.manifest, Some(version));
    assert_eq!(digest("v1"), digest("v1"));
    assert_ne!(digest("v1"), digest("v2"));
    let mut edited = fleet.manifest.clone();
    edited.components.get_mut(&name("api")).unwrap().env.insert("A".to_owned(), Secret::new("b"));
    assert_ne!(manifest_digest(&edited, Some("v1")), digest("v1"), "values are in it");
    let planned =
        plan(&fleet.input(Ask::Up { to: Some("v1".to_owned()), only: vec![], remove_orphans: false })).unwrap();
    assert_eq!(planned.plan.manifest, digest("v1"));
}
