//! An API in containers that is rolled while people use it: short requests, a long one, a WebSocket.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::{self, Message, WebSocket, protocol::frame::coding::CloseCode};

use crate::docker::Site;
use crate::support::front::{Front, Load};
use crate::support::wait::wait_for;

/// How an open WebSocket ends that outlives its drain.
pub enum Ends {
    /// With a close frame that says why.
    Properly,
    /// Its connection does.
    Cut,
}

/// Requests of the load.
const A_SECOND: u32 = 200;

/// An API of so many replicas; `more` are further services.
pub fn api(replicas: u32, traffic: &str, more: &str) -> String {
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
      traffic: {traffic}
      ready: {{ http: "http://{{address}}:8080/health", every: 50ms }}
      update: {{ monitor: 100ms }}
      drain: {{ grace: 8s, stop_timeout: 3s }}
{more}"#
    )
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
pub fn roll_under_load(site: &Site, front: Front, ends: &Ends, rolls: u32, at_least: u64) {
    wait_for("the first answer", Duration::from_secs(30), || front.get("/").is_some_and(|(status, _)| status == 200));
    let load = Load::at(front, A_SECOND);
    let begun = Instant::now();
    let mut long = Some(std::thread::spawn(move || front.get("/slow?ms=4000")));
    let mut socket = open_socket(front.port);
    assert_eq!(echo(&mut socket, "before").unwrap(), Message::text("1: before"));
    for roll in 0..rolls {
        let tag = if roll % 2 == 0 { "2" } else { "1" };
        let said = site.baton(tag, &["up", "--yes"], 0);
        if roll == 0 {
            let (status, body) = long.take().expect("once").join().unwrap().expect("an answer to the long request");
            assert_eq!((status, body.contains(r#""version":"1""#)), (200, true), "{body}: {said}");
            // Nothing is sent any more: what a reset would throw away is read first.
            match (ends, socket.read()) {
                (Ends::Properly, Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, CloseCode::Away),
                (Ends::Cut, Err(_)) => {}
                (_, other) => panic!("a WebSocket across a roll: {other:?}: {said}"),
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
