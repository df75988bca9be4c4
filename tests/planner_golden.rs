//! What people read before they say yes, as golden text. `UPDATE_GOLDEN=1` blesses what has changed on purpose.

// The fleets of the planner's own tests, seen from outside.
use baton::{model, planner};

#[allow(dead_code, reason = "shared with the planner's unit tests, which use the rest")]
#[path = "../src/planner/tests/fleet.rs"]
mod fleet;

use fleet::*;
use model::*;
use planner::{Ask, render};

#[track_caller]
fn assert_golden(scenario: &str, text: &str) {
    let path = format!("{}/tests/golden/planner/{scenario}.txt", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == text, "{path} differs; UPDATE_GOLDEN=1 blesses this:\n{text}");
}

#[test]
fn the_quickstart_fleet_from_v1_to_v2() {
    let mut fleet = quickstart();
    fleet.roll(Fleet::up("v1"));
    assert_golden("staged", &render(&fleet.plan(Fleet::up("v2")).unwrap().report));
}

#[test]
fn a_rolling_fleet_with_everything_worth_a_warning() {
    let mut web = with_traffic(component("web", 3));
    web.role = Some(Role::Api);
    web.update.delay = seconds(10);
    web.update.parallelism = 2;
    web.ports = vec![NamedPort { name: "http".to_owned(), port: Port::Number(9000), host: None, passed: false }];
    web.update.order = Some(Order::StartFirst);
    web.min_available = Some(1);
    web.ready.probe = Some(Probe::Http("http://user:hush@{address}:{port}/health?token=hush".to_owned()));
    web.drain.begin = Some(DrainBegin::Http("http://{address}:{port}/quiet".to_owned()));
    web.drain.undo = Some(Call::Http("http://{address}:{port}/resume".to_owned()));
    let mut cache = component("cache", 1);
    cache.ready.probe = None;
    cache.release = Some(Release { path: "/opt/cache/{version}".to_owned(), sha256_file: None });
    let mut migrate = component("migrate", 1);
    migrate.role = Some(Role::Job);
    let old = component("old", 2);
    let mut fleet = Fleet::new(manifest(vec![web, cache, migrate, old]), &["a", "b", "c"]);
    fleet.manifest.strategy = Some(Strategy::Rolling);
    fleet.roll(Fleet::up("v1"));
    fleet.manifest.components.remove(&name("old"));
    fleet.component("cache").env.insert("TOKEN".to_owned(), Secret::new("hush"));
    fleet.component("web").replicas = 2;
    fleet.roll(Ask::Drain { slot: slot("web-2") });
    let text = render(&fleet.plan(Fleet::up("v2")).unwrap().report);
    assert!(!text.contains("hush"), "a secret is shown");
    assert_golden("rolling", &text);
}

#[test]
fn the_way_back_from_the_middle_of_a_quiet_roll() {
    let mut fleet = quickstart();
    fleet.manifest.api_at = ApiAt::Quiet;
    fleet.roll(Fleet::up("v1"));
    let planned = fleet.plan(Fleet::up("v2")).unwrap();
    let started = at(&planned.plan, "start", "api-1.2");
    fleet.carry_out_until(&planned, started + 1);
    let of = RollId::new("r2").unwrap();
    let ask = Ask::Rollback { of, number: RollNumber(2), plan: Box::new(planned.plan.clone()) };
    let both = format!("{}\n=====\n\n{}", render(&planned.report), render(&fleet.plan(ask).unwrap().report));
    assert_golden("quiet-and-back", &both);
}

#[test]
fn a_fleet_that_is_as_wanted() {
    let mut fleet = quickstart();
    fleet.roll(Fleet::up("v1"));
    assert_golden("nothing-to-do", &render(&fleet.plan(Fleet::up("v1")).unwrap().report));
}
