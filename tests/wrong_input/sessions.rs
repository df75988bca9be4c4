//! Coordinators and agents that do not fit together.

use std::collections::BTreeMap;

use baton::model::{
    AgentHello, AgentId, FleetName, Inventory, PROTOCOL_VERSION, Refusal, Term, ToAgent, ToCoordinator,
};
use baton::proto::v1::AgentFrame;
use baton::proto::v1::session_client::SessionClient;
use baton::proto::{FRAME_FORMAT, from_agent, to_agent};
use baton::transport::Address;

use super::row::{Leaves, Row, host};
use super::snapshot::Snapshot;
use super::support::fleet::{BOUND, Fleet, GOOD};
use super::support::procs::free_port;
use super::support::wait::wait_for;
use rustix::process::Signal;

const WORKER: &str = "  worker:\n    {R}\n    ready: { exec: [\"true\"] }\n    update: { monitor: 300ms }\n";

fn written(name: &str) -> Fleet {
    let fleet = Fleet::new(name);
    fleet.release("v1", GOOD).release("v2", GOOD);
    fleet.manifest("", WORKER);
    fleet
}

/// Starts a coordinator in the fleet's own state folder and waits until it answers.
fn coordinator(fleet: &mut Fleet) -> usize {
    let place = fleet.spawn("coordinator", &["coordinator"]);
    fleet.wait_log("coordinator", "listens on");
    place
}

#[test]
fn a_coordinator_that_cannot_be_reached_is_named_with_its_address() {
    let fleet = written("away");
    let row = |name| Row::new(&fleet, name, Leaves::Nothing);
    row("coordinator-that-is-not-there").refused(&["up", "--yes", "--coordinator", "unix:none.sock"], 5);
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let row = |name| Row::new(&fleet, name, Leaves::Nothing).stands_for(port, "PORT");
    row("coordinator-that-does-not-listen").refused(&["up", "--yes", "--coordinator", &address, "--insecure"], 5);
    row("coordinator-over-tcp-without-a-word-on-safety").refused(&["up", "--yes", "--coordinator", &address], 2);
    row("coordinator-address-that-is-none").refused(&["up", "--yes", "--coordinator", "nowhere"], 2);
    assert!(!fleet.stage.path("state").exists(), "not even the folder");
}

/// Dials as an agent would, says one frame, and returns what the coordinator answered.
fn dial(fleet: &Fleet, frame: AgentFrame) -> Result<ToAgent, tonic::Status> {
    let address = Address::Unix(fleet.stage.path("state").join(&fleet.name).join("control.sock"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let channel = baton::transport::connect(&address, None, &fleet.name).await.unwrap();
        // The stream stays open: the coordinator is the one to end it.
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        sender.send(frame).await.unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let answered = async {
            let mut incoming = SessionClient::new(channel).attach(outgoing).await?.into_inner();
            incoming.message().await
        };
        let frame = tokio::time::timeout(BOUND, answered).await.expect("an answer")?.expect("a word");
        Ok(to_agent(&frame).expect("a word that is understood"))
    })
}

fn hello(fleet: &Fleet, protocol: u32) -> ToCoordinator {
    let agent = AgentId::new("host-a").unwrap();
    ToCoordinator::Hello(Box::new(AgentHello {
        protocol,
        fleet: FleetName::new(&fleet.name).unwrap(),
        agent: agent.clone(),
        obeys: None,
        inventory: Inventory {
            agent,
            boot_id: "11111111-2222-3333-4444-555555555555".to_owned(),
            runtimes: vec![],
            address: "127.0.0.1".to_owned(),
            term: Term(0),
            nonce: String::new(),
            rolls: vec![],
            slots: BTreeMap::new(),
            resolutions: BTreeMap::new(),
        },
    }))
}

#[test]
fn an_agent_of_a_newer_protocol_is_refused_and_status_tells_of_it() {
    let mut fleet = written("protocol");
    coordinator(&mut fleet);
    let before = Snapshot::of(&fleet, &fleet.stage.path("state"), Leaves::Nothing);
    let newer = from_agent(&hello(&fleet, PROTOCOL_VERSION + 1));
    let ToAgent::Refused(refusal) = dial(&fleet, newer.clone()).unwrap() else { panic!("not refused") };
    assert!(matches!(refusal, Refusal::Protocol { .. }), "{refusal}");
    Row::new(&fleet, "agent-of-a-newer-protocol", Leaves::Nothing).against(&format!("{refusal}\n"));
    let status = dial(&fleet, AgentFrame { format: FRAME_FORMAT + 1, ..newer }).unwrap_err();
    assert_eq!(status.code(), tonic::Code::InvalidArgument);
    Row::new(&fleet, "agent-of-a-newer-frame-format", Leaves::Nothing).against(&format!("{}\n", status.message()));
    Row::new(&fleet, "agent-of-a-newer-protocol-status", Leaves::Nothing).refused(&["status"], 0);
    Row::new(&fleet, "agent-of-a-newer-protocol-up", Leaves::Nothing).refused(&["up", "--to", "v1", "--yes"], 5);
    let after = Snapshot::of(&fleet, &fleet.stage.path("state"), Leaves::Nothing);
    before.assert_same(&after, "agents that do not fit");
}

#[test]
fn a_foreign_coordinator_is_refused_by_name_until_the_agent_is_handed_over() {
    let mut fleet = written("foreign");
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    // The roll is closed on both sides: one that only the agent knows would be another fault than the one meant here.
    let ledger = fleet.stage.path("state").join(&fleet.name).join("agents").join(host()).join("ledger.db");
    wait_for("the agent to let go of the roll", BOUND, || {
        fleet.expect(&["up", "--yes"], 0);
        records_of_kind(&ledger, "forgotten") > 0
    });
    // The journal is lost; the agent beside it has not forgotten whom it obeys.
    let folder = fleet.stage.path("state").join(&fleet.name);
    let kept = fleet.stage.path("kept.db");
    for end in ["", "-wal", "-shm", "-tail"] {
        let file = folder.join(format!("journal.db{end}"));
        if file.exists() {
            std::fs::rename(&file, if end.is_empty() { kept.clone() } else { fleet.stage.path(format!("kept{end}")) })
                .unwrap();
        }
    }
    let old = id_in(&kept);
    // Made by the first verb that is refused, and the same from then on.
    fleet.expect(&["up", "--to", "v2", "--yes"], 5);
    let new = id_in(&folder.join("journal.db"));
    let row = Row::new(&fleet, "foreign-coordinator", Leaves::Terms).stands_for(&old, "OLD").stands_for(&new, "NEW");
    row.refused(&["up", "--to", "v2", "--yes"], 5);
    assert_eq!(fleet.lives(), ["worker-1.1 up v=v1"], "what runs is left alone");
    // With a daemon: the same words, in the agent's log and in the status.
    let place = coordinator(&mut fleet);
    let agent = fleet.spawn("agent", &["agent"]);
    fleet.wait_log("agent", "baton agent adopt");
    let row = |name| Row::new(&fleet, name, Leaves::Nothing).stands_for(&old, "OLD").stands_for(&new, "NEW");
    row("foreign-coordinator-status").refused(&["status"], 0);
    fleet.stage.child(agent).signal(Signal::TERM);
    fleet.stage.child(agent).wait(BOUND);
    fleet.stage.child(place).signal(Signal::TERM);
    fleet.stage.child(place).wait(BOUND);
    // What the message says to type works.
    fleet.expect(&["agent", "adopt", &new], 0);
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    wait_for("the new version", BOUND, || fleet.lives().iter().any(|line| line.ends_with("up v=v2")));
}

fn records_of_kind(journal: &std::path::Path, kind: &str) -> u32 {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(journal, flags).unwrap();
    connection.query_row("SELECT count(*) FROM records WHERE kind = ?1", [kind], |row| row.get(0)).unwrap()
}

/// The id of the coordinator whose journal it is.
fn id_in(journal: &std::path::Path) -> String {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let connection = rusqlite::Connection::open_with_flags(journal, flags).unwrap();
    let sql = "SELECT payload FROM records WHERE kind = 'term-began' ORDER BY sequence DESC LIMIT 1";
    let payload: String = connection.query_row(sql, [], |row| row.get(0)).unwrap();
    let record: serde_json::Value = serde_json::from_str(&payload).unwrap();
    record["entry"]["claim"]["coordinator"].as_str().unwrap().to_owned()
}

#[test]
fn a_second_agent_for_the_same_runtime_and_fleet_is_told_who_was_first() {
    let mut fleet = written("twins");
    coordinator(&mut fleet);
    fleet.spawn("agent", &["agent"]);
    fleet.wait_log("agent", "session is up");
    let row = |name| Row::new(&fleet, name, Leaves::Nothing);
    // In the same folder, and in one of its own.
    let socket = format!("unix:{}", fleet.stage.path("state").join(&fleet.name).join("control.sock").display());
    let refused = fleet.expect(&["agent", "--coordinator", &socket], 5);
    row("second-agent-in-the-same-folder").against(&last_error(&refused.err));
    let uid = rustix::process::getuid().as_raw();
    let mut elsewhere = std::process::Command::new(env!("CARGO_BIN_EXE_baton"));
    elsewhere.args(["agent", "--coordinator", &socket, "--state"]).arg(fleet.stage.path("other"));
    let output = elsewhere.current_dir(fleet.stage.dir()).output().unwrap();
    assert_eq!(output.status.code(), Some(5), "uid {uid}, {}", host());
    row("second-agent-in-another-folder").against(&last_error(&String::from_utf8_lossy(&output.stderr)));
    assert!(fleet.expect(&["status"], 0).err.is_empty());
}

/// What a daemon says at its end, without its log.
fn last_error(log: &str) -> String {
    log.lines().filter(|line| line.starts_with("error: ")).map(|line| format!("{line}\n")).collect()
}
