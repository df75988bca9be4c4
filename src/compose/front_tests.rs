//! Gateways among the services of a project.

use super::*;
use crate::compose::manifest::manifest;
use crate::model::{ComponentName, Manifest, Probe, Role, Traffic};

const DOOR: &str = "  door:\n    image: registry.example/baton:1\n    command: [gateway, --listen, \"api=:8080\"]\n";
const API: &str = "  api: { image: shop:1, x-baton: { traffic: { gateway: { port: 80 } } } }\n";

fn project(services: &str) -> Project {
    Project::parse(&format!("name: shop\nservices:\n{services}")).unwrap_or_else(|error| panic!("{services}: {error}"))
}

fn made(services: &str) -> Manifest {
    manifest(&project(services), None, None).unwrap_or_else(|error| panic!("{services}: {error}"))
}

#[test]
fn a_gateway_of_the_project_is_a_component_and_the_rest_of_baton_is_not() {
    let coordinator = "  coordinator: { image: baton, command: [coordinator] }\n";
    let sidecar = "  worker: { image: x, entrypoint: [/bin/baton, agent, --component, worker, --, /app/worker] }\n";
    let manifest = made(&format!("{DOOR}{API}{coordinator}{sidecar}"));
    let names: Vec<&str> = manifest.components.keys().map(ComponentName::as_str).collect();
    assert_eq!(names, ["api", "door", "worker"]);
    let of = |name: &str| &manifest.components[&ComponentName::new(name).unwrap()];
    assert_eq!(of("door").role, Some(Role::Gateway));
    assert_eq!(of("door").ready.probe, Some(Probe::Tcp("{address}:8080".to_owned())));
    let Traffic::Gateway { listen, .. } = &of("api").traffic else { panic!("no traffic") };
    assert_eq!(listen, ":8080", "as the gateway listens");
    // Without a gateway of the project: as the program does.
    let Traffic::Gateway { listen, .. } = &made(API).components[&ComponentName::new("api").unwrap()].traffic.clone()
    else {
        panic!("no traffic")
    };
    assert_eq!(listen, ":80");
}

#[test]
fn what_hangs_on_a_gateway_does_not_wait_for_it() {
    let door = format!("{DOOR}    depends_on: {{ api: {{ condition: service_started }} }}\n");
    let web = "  web: { image: x, depends_on: { door: { condition: service_started } } }\n";
    let manifest = made(&format!("{door}{API}{web}"));
    assert!(manifest.components.values().all(|definition| definition.depends_on.is_empty()));
}

#[test]
fn a_gateway_that_cannot_serve_a_service_is_refused_with_what_to_add() {
    for (door, api, words) in [
        (
            "  door: { image: baton, command: [gateway, \"--listen=web=:8080\"] }\n",
            API,
            "add `--listen api=:8080` to its command",
        ),
        (
            &format!("{DOOR}    networks: {{ front: null }}\n"),
            "  api: { image: x, networks: { back: null }, x-baton: { traffic: { gateway: { port: 80 } } } }\n",
            "add back to its `networks`",
        ),
    ] {
        let error = manifest(&project(&format!("{door}{api}")), None, None).unwrap_err().to_string();
        assert!(error.contains(words) && error.contains("services.door"), "{error}");
    }
    // On the host's network every bridge is in reach.
    made(&format!("{DOOR}    network_mode: host\n{API}"));
}

#[test]
fn what_runs_baton_is_known_by_image_or_program_and_its_gateway_by_its_verb() {
    use crate::model::{runs_baton, runs_gateway};
    for (image, command, baton, gateway) in [
        ("registry.example:5000/x/baton:1@sha256:ab", "agent --id host", true, false),
        ("sha256:ab", "/usr/local/bin/baton coordinator", true, false),
        ("tools", "baton gateway --listen api=:80", true, true),
        ("batons:1", "sh -c baton", false, false),
        ("baton/example:v1", "quickstart toy api", false, false),
        ("baton", "baton agent --component worker -- /app/gateway", false, false),
    ] {
        let words: Vec<&str> = command.split(' ').collect();
        assert_eq!(runs_baton(Some(image), &words), baton, "{image} {command}");
        assert_eq!(runs_gateway(Some(image), &words), gateway, "{image} {command}");
    }
}
