//! Components that are services of their hosts' own Compose projects.

use super::fleet::*;
use crate::model::*;
use crate::planner::{Ask, PlanError, PlanningInput, plan, wanted_for};

/// An api on two hosts and four workers on them.
fn hosts() -> Fleet {
    let of_hosts = |text: &str, replicas| {
        let mut definition = component(text, replicas);
        definition.runtime = RuntimeKind::Docker;
        definition.release = None;
        definition.command.clear();
        definition.versioned = false;
        definition.ports.clear();
        definition.compose = Some(ComposeService::of_each_host(text.to_owned()));
        definition
    };
    let mut fleet = Fleet::new(manifest(vec![of_hosts("api", 2), of_hosts("worker", 4)]), &["a", "b"]);
    for report in fleet.inventory.values_mut() {
        report.runtimes = vec![RuntimeKind::Docker];
    }
    fleet
}

/// As agents answer whose hosts are at a tag; `change` has a look at each answer before it is sent.
fn asked(fleet: &Fleet, ask: Ask, tag: &str, change: impl Fn(&AgentId, &mut ComposeAnswer)) -> PlanningInput {
    let mut input = fleet.input(ask);
    for (agent, questions) in wanted_for(&input).unwrap() {
        for (component, definition) in questions {
            let remote = definition.compose.clone().unwrap().remote.unwrap();
            let image = remote.hosts.get(&agent).map_or(format!("w:{tag}"), |host| host.image.clone());
            let mut answer = Resolution { image_id: Some(format!("sha256:{image}")), ..Resolution::default() };
            if let Some(question) = remote.ask {
                let at = question.version.unwrap_or(tag.to_owned());
                let host = ComposeHost {
                    project: format!("shop-{agent}"),
                    image,
                    config_hash: format!("{component}-{agent}-{at}"),
                    names: question.slots.iter().zip(1..).map(|(i, n)| (*i, format!("{component}-{n}"))).collect(),
                    kept: Digest(format!("{component} of {agent} at {at}")),
                    alone: None,
                    follows: Default::default(),
                    version: Some(at),
                };
                let steering = Definition { compose: None, ..definition.clone() };
                let mut told = ComposeAnswer { host, steering, depends_on: [].into() };
                told.steering.drain.grace = seconds(77);
                change(&agent, &mut told);
                answer.compose = Some(Box::new(told));
            }
            input.inventory.get_mut(&agent).unwrap().resolutions.insert(component, answer);
        }
    }
    input
}

fn up() -> Ask {
    Ask::Up { to: None, only: Vec::new(), remove_orphans: false }
}

#[test]
fn each_agent_is_asked_for_the_slots_that_are_its_own() {
    let input = hosts().input(Fleet::up("7"));
    let wanted = wanted_for(&input).unwrap();
    for (agent_id, slots) in [("a", vec![1, 3]), ("b", vec![2, 4])] {
        let question = wanted[&agent(agent_id)][&name("worker")].compose.clone().unwrap().remote.unwrap();
        let asked = question.ask.unwrap();
        assert_eq!((asked.slots, asked.version.as_deref()), (slots, Some("7")));
    }
}

#[test]
fn each_host_has_a_spec_of_its_own_and_the_component_one_definition() {
    let mut fleet = hosts();
    let first = plan(&asked(&fleet, up(), "1", |_, _| ())).unwrap();
    assert_eq!(first.plan.version.as_deref(), Some("1"), "what the hosts are at");
    let definition = &first.definitions[&first.plan.definitions[&name("worker")]];
    assert_eq!(definition.drain.grace, seconds(77), "what the service says itself");
    fleet.carry_out(&first);
    assert_eq!(
        fleet.instance_mut("worker-2.1").spec,
        Some(compose_spec("worker-b-1", "sha256:w:1")),
        "as Compose has it on that host"
    );
    let again = plan(&asked(&fleet, up(), "1", |_, _| ())).unwrap();
    assert!(again.plan.steps.is_empty(), "{:?}", again.report.changes);
    let told = again.report.changes.join("\n");
    assert!(told.contains("worker-4") && told.contains("on b as worker-2"), "{told}");

    // One host's file has changed, and only that host's slots are rolled.
    let other = |agent: &AgentId, answer: &mut ComposeAnswer| {
        if agent.as_str() == "b" {
            answer.host.config_hash.push('x');
        }
    };
    let planned = plan(&asked(&fleet, up(), "1", other)).unwrap();
    let changed: Vec<String> = planned
        .plan
        .changes
        .iter()
        .filter(|change| change.kind != ChangeKind::Keep)
        .map(|change| change.slot.to_string())
        .collect();
    assert_eq!(changed, ["api-2", "worker-2", "worker-4"]);

    // And back, without a question: what was on each host is on record.
    fleet.carry_out_until(&planned, planned.plan.steps.len());
    let of = RollId::new("r2").unwrap();
    let back = Ask::Rollback { of, number: RollNumber(2), plan: Box::new(planned.plan.clone()) };
    let back = plan(&asked(&fleet, back, "9", |_, _| ())).unwrap();
    fleet.carry_out(&back);
    assert_eq!(fleet.instance_mut("worker-4.3").spec, Some(compose_spec("worker-b-1", "sha256:w:1")));
    assert_eq!(fleet.running().len(), 6);
}

#[test]
fn hosts_that_would_roll_a_component_in_two_ways_are_refused_by_name() {
    let fleet = hosts();
    let two_ways = |agent: &AgentId, answer: &mut ComposeAnswer| {
        if agent.as_str() == "b" {
            answer.steering.drain.grace = seconds(78);
        }
    };
    let Err(PlanError::Refused(why)) = plan(&asked(&fleet, up(), "1", two_ways)) else { panic!("it was planned") };
    assert!(why.contains("of a and b") && why.contains("drain"), "{why}");
}

#[test]
fn what_the_files_wait_for_counts_unless_the_manifest_says_it_itself() {
    let mut fleet = hosts();
    let waits = |_: &AgentId, answer: &mut ComposeAnswer| {
        if answer.steering.component == name("worker") {
            // A database that is no component of the fleet is Compose's own business.
            answer.depends_on = ["api", "db"].map(|on| (on.to_owned(), Condition::Started)).into();
        }
    };
    let depends_on = |fleet: &Fleet| {
        let planned = plan(&asked(fleet, up(), "1", waits)).unwrap();
        planned.definitions[&planned.plan.definitions[&name("worker")]].depends_on.clone()
    };
    assert_eq!(depends_on(&fleet), [(name("api"), Condition::Started)].into());
    let own = fleet.component("worker").compose.as_mut().unwrap().remote.as_mut().unwrap();
    own.own = "{\"depends_on\":[]}".to_owned();
    assert_eq!(depends_on(&fleet), [].into());
}

#[test]
fn what_lives_in_another_ones_container_on_its_host_is_made_anew_with_it() {
    let mut fleet = hosts();
    let lives = |_: &AgentId, answer: &mut ComposeAnswer| {
        if answer.steering.component == name("worker") {
            // What is no component of the fleet is never made anew by it.
            answer.host.follows = ["api", "db"].map(str::to_owned).into();
        }
    };
    let first = plan(&asked(&fleet, up(), "1", lives)).unwrap();
    fleet.carry_out(&first);
    let ask = Ask::Restart { components: vec![name("api")] };
    let again = plan(&asked(&fleet, ask, "1", lives)).unwrap().plan;
    let (api, worker) = (at(&again, "prepare", "api-1.2"), at(&again, "prepare", "worker-1.2"));
    assert!(waits(&again, worker, api), "{:?}", lines(&again));
}

#[test]
fn a_host_that_cannot_run_it_refuses_the_roll_in_its_own_words_and_an_idle_version_is_bad_usage() {
    let fleet = hosts();
    let mut input = asked(&fleet, up(), "1", |_, _| ());
    let answers = &mut input.inventory.get_mut(&agent("b")).unwrap().resolutions;
    let problem = Some("no service worker".to_owned());
    answers.insert(name("worker"), Resolution { problem, ..Resolution::default() });
    let Err(PlanError::Refused(why)) = plan(&input) else { panic!("it was planned") };
    assert!(why.contains("worker on agent b: no service worker"), "{why}");
    let idle = asked(&fleet, Fleet::up("2"), "1", |_, answer| answer.host.version = None);
    let Err(PlanError::Usage(why)) = plan(&idle) else { panic!("it was planned") };
    assert!(why.contains("--to 2 changes nothing"), "{why}");
}
