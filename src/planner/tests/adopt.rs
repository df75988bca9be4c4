//! What somebody else had made before the first roll.

use std::collections::BTreeMap;

use super::fleet::*;
use crate::model::*;
use crate::planner::{Ask, plan};

const OLD: &str = "sha256:aaaa";
const NEW: &str = "sha256:w:2";

fn service(hash: &str, numbers: &[u32]) -> ComposeService {
    let made = |number: &u32| {
        let (networks, archives) = (Vec::new(), Vec::new());
        let body = Secret::new(format!("{{\"made\": \"{hash}\"}}"));
        (*number, ComposeContainer { name: format!("shop-worker-{number}"), body, networks, archives })
    };
    ComposeService {
        project: "shop".to_owned(),
        service: "worker".to_owned(),
        config_hash: hash.to_owned(),
        containers: numbers.iter().map(made).collect(),
        ..ComposeService::default()
    }
}

/// Two workers of a Compose file that names another image now.
fn composed() -> Fleet {
    let mut worker = component("worker", 2);
    worker.runtime = RuntimeKind::Docker;
    worker.release = None;
    worker.command.clear();
    worker.versioned = false;
    worker.ports.clear();
    worker.image = Some("w:2".to_owned());
    worker.compose = Some(service("new", &[1, 2]));
    let mut fleet = Fleet::new(manifest(vec![worker]), &["here"]);
    fleet.inventory.get_mut(&agent("here")).unwrap().runtimes = vec![RuntimeKind::Docker];
    for text in ["worker-1.1", "worker-2.1"] {
        fleet.put(text, "any");
        let stranger = fleet.instance_mut(text);
        (stranger.definition, stranger.version) = (None, None);
        stranger.spec = Some(compose_spec("old", OLD));
    }
    fleet
}

/// As an agent answers that has found them.
fn input(fleet: &Fleet, ask: Ask) -> crate::planner::PlanningInput {
    let mut input = fleet.input(ask);
    for answer in input.inventory.get_mut(&agent("here")).unwrap().resolutions.values_mut() {
        let found = ComposeFound { image: OLD.to_owned(), service: service("old", &[1, 2]) };
        answer.found = Some(Box::new(found));
    }
    input
}

fn up() -> Ask {
    Ask::Up { to: None, only: Vec::new(), remove_orphans: false }
}

#[test]
fn what_was_there_before_the_first_roll_is_its_way_back() {
    let mut fleet = composed();
    let planned = plan(&input(&fleet, up())).unwrap();
    let digest = &planned.plan.adopted[&name("worker")];
    let former = &planned.definitions[digest];
    assert_eq!((former.image.as_deref(), former.replicas), (Some(OLD), 2));
    assert_eq!(former.compose.as_ref().unwrap().config_hash, "old");
    let told = planned.report.way_back.join("\n");
    assert!(!told.contains("removes what this one makes"), "{told}");

    // It fails when the first of them has been replaced for good and the second has stopped.
    let second = at(&planned.plan, "start", "worker-2.2");
    fleet.carry_out_until(&planned, second);
    assert_eq!(fleet.running(), ["worker-1.2"]);
    // As the coordinator does it, for what has never succeeded.
    fleet.history.succeeded.insert(name("worker"), (digest.clone(), former.clone()));
    let of = RollId::new("r1").unwrap();
    let ask = Ask::Rollback { of, number: RollNumber(1), plan: Box::new(planned.plan.clone()) };
    let mut back = fleet.input(ask);
    for answer in back.inventory.get_mut(&agent("here")).unwrap().resolutions.values_mut() {
        answer.image_id = Some(OLD.to_owned());
    }
    let back = plan(&back).unwrap();
    assert!(back.plan.adopted.is_empty(), "a way back adopts nothing");
    fleet.carry_out(&back);
    assert_eq!(fleet.running(), ["worker-1.3", "worker-2.1"], "the one that is still there starts again");
    for text in ["worker-1.3", "worker-2.1"] {
        assert_eq!(fleet.instance_mut(text).spec, Some(compose_spec("old", OLD)), "{text}");
    }
}

#[test]
fn what_has_succeeded_once_or_does_not_change_is_not_adopted() {
    let mut fleet = composed();
    for text in ["worker-1.1", "worker-2.1"] {
        fleet.instance_mut(text).spec = Some(compose_spec("new", NEW));
    }
    assert_eq!(plan(&input(&fleet, up())).unwrap().plan.adopted, BTreeMap::new());
    let mut fleet = composed();
    let first = plan(&input(&fleet, up())).unwrap();
    fleet.carry_out(&first);
    fleet.component("worker").compose = Some(service("newer", &[1, 2]));
    assert_eq!(plan(&input(&fleet, up())).unwrap().plan.adopted, BTreeMap::new());
}

#[test]
fn what_changes_of_what_somebody_else_made_is_said() {
    let fleet = composed();
    for (image, hash, said) in [
        ("w:1", "old", "image w:1 -> w:2"),
        ("w:2", "old", "its service in the Compose file changed"),
        ("w:2", "new", "image id changed"),
        (OLD, "old", "image id changed"),
    ] {
        let mut input = input(&fleet, up());
        for answer in input.inventory.get_mut(&agent("here")).unwrap().resolutions.values_mut() {
            answer.found = Some(Box::new(ComposeFound { image: image.to_owned(), service: service(hash, &[1, 2]) }));
        }
        let changes = plan(&input).unwrap().report.changes.join("\n");
        assert_eq!(changes.matches(said).count(), 2, "{said}: {changes}");
    }
}
