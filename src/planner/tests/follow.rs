//! What lives in another one's container, on the way there and back.

use std::collections::{BTreeMap, BTreeSet};

use super::fleet::*;
use crate::model::*;
use crate::planner::{Ask, Planned, plan};

fn service(text: &str, version: u32, follows: &[&str]) -> Definition {
    let mut definition = component(text, 1);
    definition.runtime = RuntimeKind::Docker;
    definition.release = None;
    definition.command.clear();
    definition.versioned = false;
    definition.ports.clear();
    definition.image = Some(format!("{text}:{version}"));
    definition.update.order = Some(Order::StopFirst);
    let container = ComposeContainer {
        name: format!("shop-{text}-1"),
        body: Secret::new("{}".to_owned()),
        networks: Vec::new(),
        archives: Vec::new(),
    };
    definition.depends_on = follows.iter().map(|on| (name(on), Condition::Started)).collect();
    let lives = || ComposeDigest::new(Secret::new("made-up".to_owned()), BTreeMap::new());
    definition.compose = Some(ComposeService {
        project: "shop".to_owned(),
        service: text.to_owned(),
        config_hash: format!("{text} {version}"),
        containers: BTreeMap::from([(1, container)]),
        follows: follows.iter().map(|text| name(text)).collect::<BTreeSet<_>>(),
        digest: (!follows.is_empty()).then(lives),
        ..ComposeService::default()
    });
    definition
}

fn up() -> Ask {
    Ask::Up { to: None, only: Vec::new(), remove_orphans: false }
}

/// A program on the network of a tunnel, both at version 1. By name the tenant comes first, by order it does not.
fn house() -> Fleet {
    let fleet = manifest(vec![service("app", 1, &["vpn"]), service("vpn", 1, &[])]);
    let mut fleet = Fleet::new(fleet, &["here"]);
    fleet.inventory.get_mut(&agent("here")).unwrap().runtimes = vec![RuntimeKind::Docker];
    fleet.roll(up());
    assert_eq!(fleet.running(), ["app-1.1", "vpn-1.1"]);
    fleet
}

/// The roll to version 2, planned.
fn to_two(fleet: &mut Fleet) -> Planned {
    *fleet.component("app") = service("app", 2, &["vpn"]);
    *fleet.component("vpn") = service("vpn", 2, &[]);
    fleet.plan(up()).unwrap()
}

fn back(fleet: &Fleet, of: &Planned) -> Planned {
    let ask = Ask::Rollback { of: RollId::new("r1").unwrap(), number: RollNumber(1), plan: Box::new(of.plan.clone()) };
    plan(&fleet.input(ask)).unwrap()
}

/// As a runtime shows one whose label has an id in it that nobody could know before.
fn shown_otherwise(fleet: &mut Fleet, text: &str) {
    let seen = fleet.instance_mut(text);
    seen.asked = seen.spec.replace(Digest("with a real id".to_owned()));
}

#[test]
fn the_container_that_is_lived_in_is_made_first() {
    let mut fleet = house();
    let planned = to_two(&mut fleet);
    let (first, second) = (at(&planned.plan, "prepare", "vpn-1.2"), at(&planned.plan, "prepare", "app-1.2"));
    assert!(waits(&planned.plan, second, first), "{:?}", lines(&planned.plan));
}

#[test]
fn what_was_asked_for_is_there_though_its_label_says_more() {
    let mut fleet = house();
    let planned = to_two(&mut fleet);
    fleet.carry_out(&planned);
    shown_otherwise(&mut fleet, "app-1.2");
    assert!(fleet.plan(up()).unwrap().plan.steps.is_empty(), "up finds nothing to do");
    let restart = fleet.plan(Ask::Restart { components: Vec::new() });
    assert!(restart.is_ok(), "restart changes nothing of it: {:?}", restart.err());
}

#[test]
fn a_tenant_is_made_anew_where_its_landlord_is_on_the_way_back() {
    let mut fleet = house();
    let planned = to_two(&mut fleet);
    // The landlord has been replaced for good, the tenant has stopped, and its new one does not start.
    fleet.carry_out_until(&planned, at(&planned.plan, "start", "app-1.2"));
    let back = back(&fleet, &planned);
    let all = lines(&back.plan).join("\n");
    fleet.carry_out(&back);
    assert_eq!(fleet.running(), ["app-1.3", "vpn-1.3"], "{all}");
}

#[test]
fn a_landlord_that_was_not_touched_keeps_its_tenant() {
    let mut fleet = house();
    let planned = to_two(&mut fleet);
    fleet.carry_out_until(&planned, at(&planned.plan, "prepare", "app-1.2") + 1);
    let back = back(&fleet, &planned);
    fleet.carry_out(&back);
    assert_eq!(fleet.running(), ["app-1.1", "vpn-1.1"], "{:?}", lines(&back.plan));
}

#[test]
fn a_landlord_that_was_stopped_and_starts_again_gets_a_new_tenant() {
    let mut fleet = house();
    let planned = to_two(&mut fleet);
    fleet.carry_out_until(&planned, at(&planned.plan, "start", "vpn-1.2"));
    let back = back(&fleet, &planned);
    let all = lines(&back.plan).join("\n");
    fleet.carry_out(&back);
    let running = fleet.running();
    // A new tenant lives in the newest container of its landlord, so that one is not a former one beside a newer.
    assert_eq!(running, ["app-1.3", "vpn-1.3"], "{all}");
}
