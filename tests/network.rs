//! Coordinator, gateway and three agents as separate processes on separate addresses, cut apart in the middle of a roll.
//!
//! `BATON_TEST_LONG=1` takes the default heartbeat and a partition of 30 s.

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use support::certs::Authority;
use support::daemons::{Daemons, insecure};
use support::fault_proxy::{Address, Fault, FaultProxy, Way};
use support::fleet::BOUND;
use support::procs::{free_port, quickstart};
use support::wait::{wait_for, wait_some};

const COORDINATOR: &str = "127.0.0.2";
const GATEWAY: &str = "127.0.0.3";
const HOSTS: [(&str, &str); 3] = [("host-a", "127.0.0.11"), ("host-b", "127.0.0.12"), ("host-c", "127.0.0.13")];
const WORKERS: usize = 24;
const INSTANCES: usize = 30;

/// A worker that costs nothing while it waits.
const WORKER: &str = r#"#!/bin/sh
if [ "$1" = api ]; then shift; exec QUICKSTART toy api "$@"; fi
echo "$1 up v=$2" >> "$LIFE"
sleep 100000 & inner=$!
trap 'kill $inner; echo "$1 term v=$2" >> "$LIFE"; exit 0' TERM
wait
"#;

/// Asks the gateway again and again, each time on a new connection; returns how many were answered and what went wrong.
fn client(gateway: SocketAddr, stop: Arc<AtomicBool>) -> std::thread::JoinHandle<(u64, Vec<String>)> {
    std::thread::spawn(move || {
        let (mut good, mut bad) = (0, vec![]);
        while !stop.load(Ordering::Relaxed) {
            match ask(gateway) {
                Ok(status) if status.starts_with("HTTP/1.1 200") => good += 1,
                Ok(other) => bad.push(other),
                Err(error) => bad.push(error.to_string()),
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        (good, bad)
    })
}

fn ask(gateway: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(gateway)?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: orders\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.lines().next().unwrap_or_default().to_owned())
}

/// How many workers live, by what they wrote, and how many have ever been told to stop.
fn lives(daemons: &Daemons) -> (usize, usize) {
    let lives = daemons.fleet.lives();
    let count = |word: &str| lives.iter().filter(|line| line.contains(word)).count();
    (count(" up ") - count(" term "), count(" term "))
}

fn manifest(daemons: &Daemons, gateway_port: u16) {
    let dir = daemons.fleet.stage.dir().display().to_string();
    let release = format!("release: {{ path: \"{dir}/releases/{{version}}\", sha256_file: SHA256SUMS }}");
    let worker = "{R}\n    on: [host-a, host-b, host-c]\n    update: { monitor: 200ms }\n    drain: { grace: 20s }\n    \
                  ready: { exec: [\"true\"], every: 100ms }";
    let components = format!(
        r#"  api:
    {release}
    command: ["{{release}}/run", "api", "--instance", "{{instance}}", "--version", "{{version}}",
              "--host", "{{address}}", "--port", "{{port}}", "--work", "{dir}/work"]
    ports: {{ http: auto }}
    on: [host-a, host-b, host-c]
    replicas: 3
    ready: {{ http: "http://{{address}}:{{port}}/health", every: 100ms, deadline: 1m }}
    update: {{ order: start-first, monitor: 300ms }}
    traffic: {{ gateway: {{ listen: "{GATEWAY}:{gateway_port}", port: http, hold_max: 10s }} }}
    min_available: 2
    drain: {{ grace: 10s }}
  scheduler:
    {worker}
  executor:
    replicas: 2
    {worker}
  worker:
    replicas: {WORKERS}
    min_available: 20
    {}
"#,
        worker.replace("monitor: 200ms", "monitor: 200ms, parallelism: 3")
    );
    daemons.fleet.manifest("strategy: rolling", &components);
}

#[test]
fn a_partition_in_the_middle_holds_the_roll_stops_nothing_and_goes_on_by_itself() {
    let long = std::env::var_os("BATON_TEST_LONG").is_some();
    let (partition, heartbeat) = if long { (Duration::from_secs(30), "5s") } else { (Duration::from_secs(8), "1s") };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");

    // Everything over mutual TLS: agents dial the proxy, so the coordinator's certificate names its address too.
    let mut daemons = Daemons::new("network", vec![]);
    let fleet = daemons.fleet.name.clone();
    let authority = Authority::new(daemons.fleet.stage.path("certs"));
    let coordinator =
        authority.issue("coordinator", &[&format!("spiffe://{fleet}/coordinator/one")], &[COORDINATOR, "127.0.0.1"]);
    daemons.operator = authority.issue("operator", &[&format!("spiffe://{fleet}/operator/me")], &[]).args();
    std::fs::create_dir(daemons.fleet.stage.path("work")).expect("a folder for the toys");
    let script = WORKER.replace("QUICKSTART", &quickstart().display().to_string());
    daemons.fleet.release("v1", &script).release("v2", &script);
    let gateway: SocketAddr = format!("{GATEWAY}:{}", free_port()).parse().expect("an address");
    manifest(&daemons, gateway.port());

    daemons.coordinator(&format!("{COORDINATOR}:0"), &coordinator.args(), &["--heartbeat", heartbeat]);
    let server = Address::Tcp(daemons.address.parse().expect("an address"));
    let proxy = runtime.block_on(FaultProxy::tcp(server)).expect("a proxy");
    for (id, address) in HOSTS {
        let files = authority.issue(id, &[&format!("spiffe://{fleet}/agent/{id}")], &[]);
        let through = proxy.tcp_address().to_string();
        daemons.agent(id, &through, address, &files.args(), &["api", "scheduler", "executor", "worker", "gateway"]);
    }
    daemons.wait_agents(3);
    daemons.expect(&["up", "--to", "v1", "--yes"], 0);
    assert_eq!(lives(&daemons), (WORKERS + 3, 0));
    let running = daemons.view()["slots"].as_array().expect("slots").len();
    // The gateway's own slot is one more.
    assert_eq!(running, INSTANCES + 1);

    let stop = Arc::new(AtomicBool::new(false));
    let client = client(gateway, Arc::clone(&stop));
    let up = daemons.spawn("up", &["up", "--to", "v2", "--yes"]);
    wait_for("the middle of the roll", 2 * BOUND, || lives(&daemons).1 >= 8);

    runtime.block_on(proxy.set(Fault::Blackhole(Way::Both)));
    let cut = Instant::now();
    let (status, view) = wait_some("a hold with its reason", BOUND, || {
        let status = daemons.expect(&["status"], 0).out;
        let view = daemons.view();
        let all_gone = HOSTS.iter().all(|(id, _)| status.contains(&format!("agent {id} is not connected")));
        let holds = view["holds"].as_array().is_some_and(|holds| !holds.is_empty());
        (all_gone && holds && status.contains("  waits ")).then_some((status, view))
    });
    println!("{:?} after the cut:\n{status}", cut.elapsed());
    println!("{}", serde_json::to_string_pretty(&view["holds"]).expect("holds"));
    assert_eq!(view["roll"]["state"], "running", "a lost session is a hold, never a failure: {status}");
    // A list that had begun is finished without a session; then nothing moves and everything lives.
    wait_for("every worker lives", BOUND, || lives(&daemons).0 == WORKERS + 3);
    let (_, stopped) = lives(&daemons);
    assert!(stopped < WORKERS, "the roll was over before it was cut: {stopped}");
    while cut.elapsed() < partition {
        assert_eq!(lives(&daemons), (WORKERS + 3, stopped), "something was stopped by the partition");
        assert!(daemons.child(up).is_running(), "up ended: {}", daemons.fleet.stage.log("up"));
        std::thread::sleep(Duration::from_millis(100));
    }

    runtime.block_on(proxy.set(Fault::None));
    let healed = Instant::now();
    let ended = daemons.child(up).wait(4 * BOUND);
    assert_eq!(ended.code(), Some(0), "{}", daemons.fleet.stage.log("up"));
    println!("healed after {:?}; done {:?} later", healed - cut, healed.elapsed());
    let log = daemons.fleet.lives();
    for (component, count) in [("worker", WORKERS), ("executor", 2), ("scheduler", 1)] {
        for index in 1..=count {
            for line in [format!("{component}-{index}.1 term v=v1"), format!("{component}-{index}.2 up v=v2")] {
                assert_eq!(log.iter().filter(|found| **found == line).count(), 1, "{line}: {log:?}");
            }
        }
    }
    assert_eq!(lives(&daemons), (WORKERS + 3, WORKERS + 3), "{log:?}");
    let view = daemons.view();
    assert_eq!(view["holds"].as_array().map(Vec::len), Some(0), "{view}");
    stop.store(true, Ordering::Relaxed);
    let (good, bad) = client.join().expect("the client");
    assert!(bad.is_empty(), "{} of {} requests failed: {:?}", bad.len(), good, bad.first());
    println!("{good} requests, 0 failed");
    assert!(good > 100);
}

/// Of the outcomes in a ledger: how many there are, and how many the coordinator is known to have.
fn outcomes(ledger: &std::path::Path) -> (usize, usize) {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let ledger = rusqlite::Connection::open_with_flags(ledger, flags).expect("a ledger");
    let mut select = ledger.prepare("SELECT payload FROM records WHERE kind = ?1").expect("a query");
    let mut of = |kind: &str| -> Vec<serde_json::Value> {
        let payloads = select.query_map([kind], |row| row.get::<_, String>(0)).expect("rows");
        payloads.map(|payload| serde_json::from_str(&payload.expect("a payload")).expect("JSON")).collect()
    };
    let (ended, known) = (of("ended").len(), of("acknowledged"));
    (ended, known.iter().map(|record| record["entry"]["outcomes"].as_array().map_or(0, Vec::len)).sum())
}

#[test]
fn an_agent_that_is_to_stop_waits_for_the_word_that_its_last_outcome_has_arrived_and_not_long() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let mut daemons = Daemons::new("leaving", insecure());
    daemons.fleet.release("v1", WORKER).release("v2", WORKER);
    daemons.fleet.manifest("", "  worker:\n    {R}\n    on: [host-a]\n    update: { monitor: 0s }\n");
    daemons.coordinator("127.0.0.1:0", &insecure(), &[]);
    let server = Address::Tcp(daemons.address.parse().expect("an address"));
    let proxy = runtime.block_on(FaultProxy::tcp(server)).expect("a proxy");
    let through = proxy.tcp_address().to_string();
    let ledger = daemons.fleet.stage.path("agent-host-a/leaving/agents/host-a/ledger.db");

    let agent = daemons.agent("host-a", &through, "127.0.0.1", &insecure(), &["worker"]);
    daemons.wait_agents(1);
    // The coordinator knows the last outcome when the verb ends, and its word of that is still on its way.
    runtime.block_on(proxy.set(Fault::Delay(Duration::from_millis(400))));
    daemons.expect(&["up", "--to", "v1", "--yes"], 0);
    daemons.child(agent).signal(rustix::process::Signal::TERM);
    assert!(daemons.child(agent).wait(BOUND).success(), "{}", daemons.fleet.stage.log("agent-host-a"));
    let (ended, known) = outcomes(&ledger);
    assert!(ended > 0 && known == ended, "{known} of {ended} outcomes are known to have arrived");

    // A coordinator that says nothing any more is not waited for.
    runtime.block_on(proxy.set(Fault::None));
    daemons.wait_agents(0);
    let agent = daemons.agent("host-a", &through, "127.0.0.1", &insecure(), &["worker"]);
    daemons.wait_agents(1);
    let up = daemons.spawn("up", &["up", "--to", "v2", "--yes"]);
    wait_for("the middle of the roll", BOUND, || daemons.fleet.lives().iter().any(|line| line.contains(" term v=v1")));
    runtime.block_on(proxy.set(Fault::Blackhole(Way::ToClient)));
    daemons.child(agent).signal(rustix::process::Signal::TERM);
    let told = Instant::now();
    assert!(daemons.child(agent).wait(BOUND).success(), "{}", daemons.fleet.stage.log("agent-host-a"));
    assert!(told.elapsed() < Duration::from_secs(4), "it waited {:?} for nobody", told.elapsed());
    daemons.child(up).signal(rustix::process::Signal::KILL);
}
