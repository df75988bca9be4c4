//! The API stays up: Compose projects whose API is behind a gateway are rolled under load, a long request and a WebSocket.

#[allow(dead_code, reason = "shared with tests that use the rest")]
#[path = "support/docker.rs"]
mod docker;
mod support;

use std::net::TcpStream;
use std::process::Command;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use docker::{Site, is_here};
use support::front::{Front, Load};
use support::leftovers::end_all;
use support::procs::{free_port, quickstart};
use support::wait::wait_for;
use tokio_tungstenite::tungstenite::{self, Message, WebSocket, protocol::frame::coding::CloseCode};

/// Requests of the load.
const A_SECOND: u32 = 200;

/// One at a time: two loads at once would measure this machine.
static TURN: Mutex<()> = Mutex::new(());

fn turn() -> MutexGuard<'static, ()> {
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

#[track_caller]
fn baton(site: &Site, tag: &str, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_baton"))
        .args(["--state", site.path("state").to_str().unwrap()])
        .args(args)
        .current_dir(site.path(""))
        .env("TAG", tag)
        .env_remove("COMPOSE_FILE")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "baton {args:?} with TAG={tag}: {text}");
    text
}

/// An API of so many replicas; `more` are further services.
fn api(replicas: u32, traffic: &str, more: &str) -> String {
    format!(
        r#"
services:
  api:
    image: @:${{TAG:-1}}
    command: ["/bin/quickstart", "toy", "api", "--instance", "api", "--version", "${{TAG:-1}}", "--host", "0.0.0.0",
              "--port", "8080", "--work", "/work", "--boot-ms", "50"]
    tmpfs: [/work]
    restart: always
    deploy: {{ replicas: {replicas} }}
    x-baton:
      traffic: {{ gateway: {traffic} }}
      ready: {{ http: "http://{{address}}:8080/health", every: 50ms }}
      update: {{ monitor: 100ms }}
      drain: {{ grace: 8s, stop_timeout: 3s }}
{more}"#
    )
}

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

#[track_caller]
fn compose_is_content(site: &Site, tag: &str) {
    let said = site.compose_up(tag);
    for word in ["Creating", "Recreate", "Removing"] {
        assert!(!said.contains(word), "docker compose up -d with TAG={tag}: {said}");
    }
}

/// Says something; what comes back.
fn echo(socket: &mut WebSocket<TcpStream>, text: &str) -> tungstenite::Result<Message> {
    socket.send(Message::text(text))?;
    socket.read()
}

fn open_socket(port: u16) -> WebSocket<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", port)).expect("the gateway listens");
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    tungstenite::client(format!("ws://127.0.0.1:{port}/socket"), stream).expect("a WebSocket").0
}

/// Rolls so often between the two versions; each time nobody notices.
fn roll_under_load(site: &Site, front: Front, rolls: u32, at_least: u64) {
    wait_for("the first answer", Duration::from_secs(30), || front.get("/").is_some_and(|(status, _)| status == 200));
    let load = Load::at(front, A_SECOND);
    let begun = Instant::now();
    let mut long = Some(std::thread::spawn(move || front.get("/slow?ms=4000")));
    let mut socket = open_socket(front.port);
    assert_eq!(echo(&mut socket, "before").unwrap(), Message::text("1: before"));
    for roll in 0..rolls {
        let tag = if roll % 2 == 0 { "2" } else { "1" };
        let said = baton(site, tag, &["up", "--yes"]);
        if roll == 0 {
            let (status, body) = long.take().expect("once").join().unwrap().expect("an answer to the long request");
            assert_eq!((status, body.contains(r#""version":"1""#)), (200, true), "{body}: {said}");
            // Nothing is sent any more: what a reset would throw away is read first.
            match socket.read() {
                Ok(Message::Close(Some(frame))) => assert_eq!(frame.code, CloseCode::Away),
                other => panic!("a WebSocket across a roll: {other:?}: {said}"),
            }
            assert_eq!(echo(&mut open_socket(front.port), "again").unwrap(), Message::text("2: again"));
        }
        let (_, about) = front.get("/").expect("an answer");
        assert!(about.contains(&format!(r#""version":"{tag}""#)), "after roll {roll}: {about}");
    }
    let long_enough = Duration::from_secs(at_least / u64::from(A_SECOND) + 1);
    wait_for("enough requests", 2 * long_enough, || begun.elapsed() >= long_enough);
    let report = load.stop();
    eprintln!("{rolls} rolls: {} requests, {} failed", report["requests"], report["failed"]);
    assert_eq!(report["failed"], 0, "{report}");
    assert!(report["requests"].as_u64().unwrap() >= at_least, "{report}");
}

#[test]
fn ten_rolls_behind_the_projects_gateway_lose_no_request() {
    if !is_here("ten_rolls_behind_the_projects_gateway_lose_no_request") {
        return;
    }
    let _turn = turn();
    let site = Site::with_baton("door", quickstart());
    let front = Front { port: free_port() };
    // `worker` asks the API by its name in the network, past the gateway: the plan says so.
    let worker = "  worker: { image: @:1, command: [/bin/busybox, sleep, \"1000\"], depends_on: [api], init: true }\n";
    site.compose_file(&api(2, "{ port: 8080 }", &format!("{}{worker}", door(front.port))));
    site.compose_up("1");
    let gateway = site.inspect(&format!("{}-gateway-1", site.name))["Id"].clone();
    let planned = baton(&site, "2", &["plan"]);
    assert!(planned.contains("so ask worker: let them ask the gateway by its name"), "{planned}");
    roll_under_load(&site, front, 10, 10_000);
    compose_is_content(&site, "1");
    let now = site.inspect(&format!("{}-gateway-1", site.name))["Id"].clone();
    assert_eq!(gateway, now, "a gateway is never rolled with its fleet");
}

#[test]
fn a_single_replica_is_rolled_under_load_and_a_gateway_that_a_person_made_anew_is_told_again() {
    if !is_here("a_single_replica_is_rolled_under_load_and_a_gateway_that_a_person_made_anew_is_told_again") {
        return;
    }
    let _turn = turn();
    let site = Site::with_baton("single", quickstart());
    let front = Front { port: free_port() };
    site.compose_file(&api(1, "{ port: 8080 }", &door(front.port)));
    // Nothing is there: the gateway comes with the rest.
    baton(&site, "1", &["up", "--yes"]);
    roll_under_load(&site, front, 3, 1_000);
    compose_is_content(&site, "2");
    site.compose(&["rm", "-sf", "gateway"]);
    compose_is_content_but_for(&site, "2", "gateway");
    let table = || {
        let (name, file) = (format!("{}-gateway-1", site.name), "/var/lib/baton/gateway/table.json");
        let output = site.run("docker", &["exec", &name, "/bin/busybox", "cat", file]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(!table().contains("api-1."), "its table went with it");
    baton(&site, "2", &["up", "--yes"]);
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
    let _turn = turn();
    let site = Site::with_baton("host", quickstart());
    let front = Front { port: free_port() };
    let listen = format!("{{ listen: \"127.0.0.1:{}\", port: 8080 }}", front.port);
    site.compose_file(&api(1, &listen, ""));
    baton(&site, "1", &["up", "--yes"]);
    roll_under_load(&site, front, 2, 1_000);
    compose_is_content(&site, "1");
    baton(&site, "1", &["down", "--yes"]);
    end_all(&site.path("state"), Duration::from_secs(1)).unwrap();
}

#[test]
fn a_fixed_port_of_the_host_moves_behind_the_gateway_with_one_command() {
    if !is_here("a_fixed_port_of_the_host_moves_behind_the_gateway_with_one_command") {
        return;
    }
    let _turn = turn();
    let site = Site::with_baton("moved", quickstart());
    let front = Front { port: free_port() };
    let published = api(1, "{ port: 8080 }", "").replace(
        "    x-baton:\n      traffic: { gateway: { port: 8080 } }\n",
        &format!("    ports: [\"127.0.0.1:{}:8080\"]\n    x-baton:\n", front.port),
    );
    site.compose_file(&published);
    site.compose_up("1");
    site.compose_file(&api(1, "{ port: 8080 }", &door(front.port)));
    let said = baton(&site, "1", &["plan"]);
    assert!(said.contains(&format!("port {} of the host goes from api to gateway", front.port)), "{said}");
    baton(&site, "1", &["up", "--yes"]);
    assert_eq!(front.get("/").map(|(status, _)| status), Some(200));
    compose_is_content(&site, "1");
    roll_under_load(&site, front, 1, 500);
}
