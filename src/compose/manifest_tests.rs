//! From a Compose file to a manifest.

use super::*;
use crate::compose::Recording;
use crate::compose::recording::{Created, Present};
use crate::model::{
    ComposeContainer, ComposeNeed, Condition, Definition, FailureAction, Order, Probe, Ratio, RuntimeKind, Secret,
};

fn read(services: &str) -> Project {
    Project::parse(&format!("name: shop\nservices:\n{services}")).unwrap_or_else(|error| panic!("{services}: {error}"))
}

fn component(services: &str, name: &str, rehearsal: Option<&Rehearsal>) -> Definition {
    let manifest = manifest(&read(services), rehearsal, None).unwrap_or_else(|error| panic!("{services}: {error}"));
    manifest.components[&ComponentName::new(name).unwrap()].clone()
}

fn created(service: &str, number: u32, hash: &str) -> Created {
    Created {
        service: service.to_owned(),
        number,
        config_hash: hash.to_owned(),
        image: "shop:1".to_owned(),
        replaces: None,
        on: BTreeSet::from(["shop_default".to_owned()]),
        mounts: BTreeSet::from(["shop_data".to_owned()]),
        container: ComposeContainer {
            name: format!("shop-{service}-{number}"),
            body: Secret::new("{}"),
            networks: Vec::new(),
            archives: Vec::new(),
        },
    }
}

fn need(name: &str) -> ComposeNeed {
    ComposeNeed { name: name.to_owned(), body: Secret::new("{}") }
}

#[test]
fn a_plain_file_is_a_manifest() {
    let worker = component("  worker:\n    image: shop:1\n    deploy: { replicas: 3 }\n", "worker", None);
    assert_eq!((worker.runtime, worker.replicas, worker.versioned), (RuntimeKind::Docker, 3, false));
    assert_eq!((worker.role, worker.image.as_deref()), (Some(Role::Worker), Some("shop:1")));
    // Compose's ten seconds, all of them between signal and kill.
    assert_eq!((worker.drain.grace, worker.drain.stop_timeout), (GRACE, Some(GRACE)));
    assert_eq!(worker.ready.probe, None);
    assert_eq!(worker.update, crate::model::Update::default());
    assert!(worker.env.is_empty() && worker.command.is_empty());
    let built = component("  web: { build: { context: . } }\n", "web", None);
    assert_eq!((built.image.as_deref(), built.role), (Some("shop-web"), None));
}

#[test]
fn requests_in_flight_have_their_time_before_composes_grace_begins() {
    let traffic = "x-baton: { traffic: { gateway: { port: 80 } } }";
    let api = component(&format!("  api: {{ image: x, stop_grace_period: 5s, {traffic} }}\n"), "api", None).drain;
    assert_eq!((api.grace, api.stop_timeout), (Duration::from_secs(35), Some(Duration::from_secs(5))));
    let none = component("  api: { image: x, stop_grace_period: 5s, x-baton: { traffic: none } }\n", "api", None).drain;
    assert_eq!((none.grace, none.stop_timeout), (Duration::from_secs(5), Some(Duration::from_secs(5))));
}

#[test]
fn the_grace_is_composes_and_an_own_drain_wins() {
    let text = |own: &str| format!("  a: {{ image: x, stop_grace_period: 1m0s, stop_signal: SIGUSR1{own} }}\n");
    let plain = component(&text(""), "a", None).drain;
    let minute = Duration::from_secs(60);
    assert_eq!((plain.grace, plain.stop_timeout, plain.stop_signal.as_str()), (minute, Some(minute), "SIGUSR1"));
    let own = component(&text(", x-baton: { drain: { begin: { signal: SIGINT } } }"), "a", None).drain;
    assert_eq!((own.grace, own.stop_timeout), (minute, None));
    let longer = component(&text(", x-baton: { drain: { grace: 5m } }"), "a", None).drain;
    assert_eq!((longer.grace, longer.stop_timeout()), (Duration::from_secs(300), GRACE));
}

#[test]
fn readiness_is_the_healthcheck_unless_there_is_none_or_something_better() {
    let check = "healthcheck: { test: [CMD, \"true\"], interval: 1m0s, timeout: 20s, retries: 2, start_period: 10s }";
    let ready = component(&format!("  a: {{ image: x, {check} }}\n"), "a", None).ready;
    assert_eq!((ready.probe, ready.deadline), (Some(Probe::Health), Duration::from_secs(170)));
    let own = "x-baton: { ready: { http: \"http://{address}:80/\" } }";
    let ready = component(&format!("  a: {{ image: x, {check}, {own} }}\n"), "a", None).ready;
    assert_eq!(ready.probe, Some(Probe::Http("http://{address}:80/".to_owned())));
    let patient = "x-baton: { ready: { deadline: 9m } }";
    let ready = component(&format!("  a: {{ image: x, {check}, {patient} }}\n"), "a", None).ready;
    assert_eq!((ready.probe, ready.deadline), (Some(Probe::Health), Duration::from_secs(540)));

    let quick = "healthcheck: { test: [CMD, \"true\"], interval: 1s, timeout: 1s }";
    let ready = component(&format!("  a: {{ image: x, {quick} }}\n"), "a", None).ready;
    assert_eq!((ready.probe, ready.deadline), (Some(Probe::Health), DEADLINE));

    // The image's own, unless the file switches it off.
    let facts = ImageFacts { healthcheck: true, stop_signal: Some("3".to_owned()), volumes: vec!["/v".to_owned()] };
    let whole = Recording {
        created: vec![created("a", 1, "h")],
        images: BTreeMap::from([("shop:1".to_owned(), facts)]),
        ..Recording::default()
    };
    let rehearsal = Rehearsal { now: whole.clone(), whole, ..Rehearsal::default() };
    let a = component("  a: { image: shop:1 }\n", "a", Some(&rehearsal));
    assert_eq!((a.ready.probe, a.drain.stop_signal.as_str()), (Some(Probe::Health), "SIGQUIT"));
    assert!(a.compose.unwrap().alone.unwrap().contains("/v"));
    let off = component("  a: { image: shop:1, healthcheck: { disable: true } }\n", "a", Some(&rehearsal));
    assert_eq!(off.ready.probe, None);
}

#[test]
fn update_config_means_what_swarmkit_makes_of_it() {
    let update = |config: &str| {
        component(&format!("  a: {{ image: x, deploy: {{ update_config: {config} }} }}\n"), "a", None).update
    };
    let all = update(
        "{ parallelism: 0, delay: 2s, monitor: 7s, failure_action: pause, max_failure_ratio: 0.25, order: start-first \
         }",
    );
    assert_eq!((all.parallelism, all.delay, all.monitor), (0, Duration::from_secs(2), Duration::from_secs(7)));
    assert_eq!((all.failure_action, all.max_failure_ratio), (FailureAction::Pause, Ratio(250_000)));
    assert_eq!(all.order, Some(Order::StartFirst));
    // What is looked at for less long than the pause is looked at for longer.
    assert_eq!(update("{ delay: 10s }").monitor, Duration::from_secs(11));
    assert_eq!(update("{ delay: 10s, monitor: 3s }").monitor, Duration::from_secs(11));
    assert_eq!(update("{ delay: 10s, monitor: 12s }").monitor, Duration::from_secs(12));
    assert_eq!(update("{ monitor: 0s }").monitor, Duration::ZERO);
    assert_eq!(update("{ parallelism: 2 }").monitor, MONITOR);
    // A pause of many minutes is Compose's to ask for, whatever Baton's own deadline is.
    let patient = component("  a: { image: x, deploy: { update_config: { delay: 5m } } }\n", "a", None);
    assert_eq!((patient.update.monitor.as_secs(), patient.ready.deadline.as_secs()), (301, 421));
}

#[test]
fn rollback_config_means_what_swarmkit_makes_of_it_and_without_one_update_says_how() {
    let back =
        |deploy: &str| component(&format!("  a: {{ image: x, deploy: {{ {deploy} }} }}\n"), "a", None).taken_back();
    let all = back(
        "rollback_config: { parallelism: 0, delay: 2s, monitor: 7s, failure_action: continue, max_failure_ratio: 0.25, \
         order: start-first }",
    );
    assert_eq!((all.parallelism, all.delay, all.monitor), (0, Duration::from_secs(2), Duration::from_secs(7)));
    assert_eq!((all.failure_action, all.max_failure_ratio), (FailureAction::Continue, Ratio(250_000)));
    assert_eq!(all.order, Some(Order::StartFirst));
    // What it does not say has a default of its own, whatever `update_config` says.
    let some = back("update_config: { parallelism: 3, order: start-first }, rollback_config: { delay: 10s }");
    assert_eq!((some.parallelism, some.order, some.monitor.as_secs()), (1, None, 11));
    assert_eq!((some.failure_action, some.max_failure_ratio), (FailureAction::Pause, Ratio(0)));
    // Nothing said at all: the way back goes as the way forth did, and what fails on it waits for a person.
    let none = back("update_config: { parallelism: 3, failure_action: continue, max_failure_ratio: 0.5 }");
    assert_eq!((none.parallelism, none.failure_action, none.max_failure_ratio), (3, FailureAction::Pause, Ratio(0)));
    let again = "  a: { image: x, deploy: { rollback_config: { failure_action: rollback } } }\n";
    let error = manifest(&read(again), None, None).unwrap_err().to_string();
    assert!(error.contains("rollback.failure_action") && error.contains("pause"), "{error}");
}

#[test]
fn what_is_copied_into_containers_is_known_by_its_place() {
    let text = r#"
name: shop
services:
  a:
    image: x
    configs: [{ source: motd, target: /etc/motd }, { source: bare }, { source: mounted, target: /m }]
    secrets: [{ source: token }, { source: other, target: /o }]
configs: { motd: { content: hello }, bare: { content: x }, mounted: { file: ./m } }
secrets: { token: { environment: TOKEN }, other: { environment: OTHER } }
"#;
    let project = Project::parse(text).unwrap();
    let copied = project.copied(&project.services["a"]);
    let copied: Vec<(&str, &str)> = copied.iter().map(|(place, what)| (place.as_str(), what.as_str())).collect();
    let expected = [
        ("/bare", "config bare"),
        ("/etc/motd", "config motd"),
        ("/o", "secret other"),
        ("/run/secrets/token", "secret token"),
    ];
    assert_eq!(copied, expected);
}

#[test]
fn dependencies_keep_their_conditions_and_who_is_waited_for_to_its_end_is_a_job() {
    let text = r#"
  api:
    image: x
    depends_on:
      db: { condition: service_healthy }
      seed: { condition: service_completed_successfully }
      cache: { condition: service_started }
      extra: { condition: service_started, required: false }
      agent: { condition: service_started }
  db: { image: x, healthcheck: { test: [CMD, "true"] } }
  seed: { image: x, healthcheck: { test: [CMD, "true"] } }
  cache: { image: x }
  agent: { image: "registry.example/baton:1" }
"#;
    let api = component(text, "api", None);
    let on: Vec<(&str, Condition)> =
        api.depends_on.iter().map(|(name, condition)| (name.as_str(), *condition)).collect();
    assert_eq!(on, [("cache", Condition::Started), ("db", Condition::Ready), ("seed", Condition::Completed)]);
    let seed = component(text, "seed", None);
    assert_eq!((seed.role, seed.ready.probe), (Some(Role::Job), None));
    let manifest = manifest(&read(text), None, None).unwrap();
    assert!(!manifest.components.keys().any(|name| name.as_str() == "agent"), "Baton itself is never rolled");
}

#[test]
fn names_that_mean_something_to_baton_change_nothing_for_who_does_not_know_it() {
    let text = r#"
  gateway: { image: nginx }
  job: { image: x }
  scheduler: { image: x, deploy: { replicas: 2, update_config: { order: start-first } } }
"#;
    let other = Some(Role::Other("service".to_owned()));
    assert_eq!(component(text, "gateway", None).role, other);
    assert_eq!(component(text, "job", None).role, other);
    assert!(!component(text, "scheduler", None).singleton);
    let one =
        component("  scheduler: { image: x, deploy: { update_config: { order: start-first } } }\n", "scheduler", None);
    assert!(one.singleton && one.update.order.is_none());
}

#[test]
fn every_container_comes_with_what_it_needs_and_with_the_digest_that_it_will_have() {
    let present =
        Present { service: "side".to_owned(), number: 1, config_hash: "theirs".to_owned(), ..Present::default() };
    let rehearsal = Rehearsal {
        now: Recording {
            created: vec![created("api", 2, "new")],
            present: BTreeMap::from([("1".to_owned(), present)]),
            ..Recording::default()
        },
        whole: Recording {
            created: vec![created("api", 1, "new"), created("api", 2, "new"), created("side", 1, "made up")],
            networks: vec![need("shop_default"), need("shop_other")],
            volumes: vec![need("shop_data"), need("shop_more")],
            ..Recording::default()
        },
        ..Rehearsal::default()
    };
    let text =
        "  api: { image: shop:1, deploy: { replicas: 2 } }\n  side: { image: shop:1, network_mode: \"service:api\" }\n";
    let api = component(text, "api", Some(&rehearsal)).compose.unwrap();
    assert_eq!((api.project.as_str(), api.service.as_str(), api.config_hash.as_str()), ("shop", "api", "new"));
    assert_eq!(api.containers.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(api.containers[&2].name, "shop-api-2");
    assert_eq!(api.networks, [need("shop_default")]);
    assert_eq!(api.volumes, [need("shop_data")]);
    assert_eq!(api.alone, None);
    // Compose would leave it alone, so it is what it should be.
    let side = component(text, "side", Some(&rehearsal)).compose.unwrap();
    assert_eq!(side.config_hash, "theirs");
    assert!(side.alone.unwrap().contains("service:api"));
}

#[test]
fn what_cannot_be_is_told_all_at_once() {
    let text = r#"
name: shop
services:
  Web: { image: x, x-baton: 5 }
  a: { image: x, x-baton: { share: 3 } }
x-baton: { version: { tag: v } }
"#;
    let error = manifest(&Project::parse(text).unwrap(), None, None).unwrap_err().to_string();
    for word in ["services.Web: ", "services.Web.x-baton", "services.a.x-baton.share", "variable: TAG"] {
        assert!(error.contains(word), "{word} is missing in:\n{error}");
    }
    let unknown = "  a: { image: x, x-baton: { share: true, updte: { delay: 1s } } }\n";
    let error = manifest(&read(unknown), None, None).unwrap_err().to_string();
    assert!(error.contains("services.a.x-baton.updte") && error.contains("did you mean \"update\"?"), "{error}");
}
