//! The API stays up: Compose projects whose API is behind a gateway are rolled under load, a long request and a WebSocket.

use std::time::Duration;

use crate::docker::{Site, gate, is_here};
use crate::support::front::Front;
use crate::support::leftovers::end_all;
use crate::support::procs::{free_port, quickstart};
use crate::under_load::{Ends, api, roll_under_load};

/// The gateway as a service of the project.
fn door(port: u16) -> String {
    format!(
        r#"  gateway:
    image: @:1
    command: [/bin/baton, gateway, --listen, "api=:8080", --backend, "api=api:8080"]
    ports: ["127.0.0.1:{port}:8080"]
"#
    )
}

#[test]
fn ten_rolls_behind_the_projects_gateway_lose_no_request() {
    if !is_here("ten_rolls_behind_the_projects_gateway_lose_no_request") {
        return;
    }
    let _pass = gate::measuring();
    let site = Site::with_baton("door", quickstart());
    let front = Front { port: free_port() };
    // `worker` asks the API by its name in the network, past the gateway: the plan says so.
    let worker = "  worker: { image: @:1, command: [/bin/busybox, sleep, \"1000\"], depends_on: [api], init: true }\n";
    site.compose_file(&api(2, "{ gateway: { port: 8080 } }", &format!("{}{worker}", door(front.port))));
    site.compose_up("1");
    let gateway = site.inspect(&format!("{}-gateway-1", site.name))["Id"].clone();
    let planned = site.baton("2", &["plan"], 0);
    assert!(planned.contains("so ask worker: let them ask the gateway by its name"), "{planned}");
    roll_under_load(&site, front, &Ends::Properly, 10, 10_000);
    site.compose_is_content("1");
    let now = site.inspect(&format!("{}-gateway-1", site.name))["Id"].clone();
    assert_eq!(gateway, now, "a gateway is never rolled with its fleet");
}

#[test]
fn a_single_replica_is_rolled_under_load_and_a_gateway_that_a_person_made_anew_is_told_again() {
    if !is_here("a_single_replica_is_rolled_under_load_and_a_gateway_that_a_person_made_anew_is_told_again") {
        return;
    }
    let _pass = gate::measuring();
    let site = Site::with_baton("single", quickstart());
    let front = Front { port: free_port() };
    site.compose_file(&api(1, "{ gateway: { port: 8080 } }", &door(front.port)));
    // Nothing is there: the gateway comes with the rest.
    site.baton("1", &["up", "--yes"], 0);
    roll_under_load(&site, front, &Ends::Properly, 3, 1_000);
    site.compose_is_content("2");
    site.compose(&["rm", "-sf", "gateway"]);
    compose_is_content_but_for(&site, "2", "gateway");
    let table = || {
        let (name, file) = (format!("{}-gateway-1", site.name), "/var/lib/baton/gateway/table.json");
        let output = site.run("docker", &["exec", &name, "/bin/busybox", "cat", file]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(!table().contains("api-1."), "its table went with it");
    site.baton("2", &["up", "--yes"], 0);
    assert!(table().contains("api-1."), "{}", table());
    assert_eq!(front.get("/").map(|(status, _)| status), Some(200));
}

/// The same where one service has to be made.
#[track_caller]
fn compose_is_content_but_for(site: &Site, tag: &str, service: &str) {
    let said = site.compose_up(tag);
    let other =
        |line: &&str| !line.contains(service) && ["Creating", "Recreate", "Removing"].iter().any(|w| line.contains(w));
    assert_eq!(said.lines().find(other), None, "{said}");
}

#[test]
fn a_gateway_on_the_host_serves_a_project_that_has_none() {
    if !is_here("a_gateway_on_the_host_serves_a_project_that_has_none") {
        return;
    }
    let _pass = gate::measuring();
    let site = Site::with_baton("host", quickstart());
    let front = Front { port: free_port() };
    let listen = format!("{{ gateway: {{ listen: \"127.0.0.1:{}\", port: 8080 }} }}", front.port);
    site.compose_file(&api(1, &listen, ""));
    site.baton("1", &["up", "--yes"], 0);
    roll_under_load(&site, front, &Ends::Properly, 2, 1_000);
    site.compose_is_content("1");
    site.baton("1", &["down", "--yes"], 0);
    end_all(&site.path("state"), Duration::from_secs(1)).unwrap();
}

#[test]
fn a_fixed_port_of_the_host_moves_behind_the_gateway_with_one_command() {
    if !is_here("a_fixed_port_of_the_host_moves_behind_the_gateway_with_one_command") {
        return;
    }
    let _pass = gate::measuring();
    let site = Site::with_baton("moved", quickstart());
    let front = Front { port: free_port() };
    let published = api(1, "{ gateway: { port: 8080 } }", "").replace(
        "    x-baton:\n      traffic: { gateway: { port: 8080 } }\n",
        &format!("    ports: [\"127.0.0.1:{}:8080\"]\n    x-baton:\n", front.port),
    );
    site.compose_file(&published);
    site.compose_up("1");
    site.compose_file(&api(1, "{ gateway: { port: 8080 } }", &door(front.port)));
    let said = site.baton("1", &["plan"], 0);
    assert!(said.contains(&format!("port {} of the host goes from api to gateway", front.port)), "{said}");
    site.baton("1", &["up", "--yes"], 0);
    assert_eq!(front.get("/").map(|(status, _)| status), Some(200));
    site.compose_is_content("1");
    roll_under_load(&site, front, &Ends::Properly, 1, 500);
}
