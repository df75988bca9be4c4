//! How a gateway begins, ends, and comes back.

use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use baton::gateway::control;
use baton::gateway::{GatewayConfig, GatewayError, StoreError};
use baton::model::Admission;

use crate::backend::Backend;
use crate::client::{Client, get};
use crate::support::{Gateway, PATIENCE, admitting, draining, eventually, free_port, target};
use crate::upgrade::{GOING_AWAY, open, read, server};

#[tokio::test]
async fn the_table_survives_a_kill_and_is_served_without_anybody_asking() {
    let mut gateway = Gateway::start().await;
    let (old, new) = (Backend::start("api-1.1").await, Backend::start("api-1.2").await);
    let table = [draining(&old), admitting(&new)];
    gateway.ask(&table, Duration::from_secs(5), false).await.expect("taken");
    gateway.until("the table in use", |state| state.in_use).await;
    let before = gateway.state().await;
    gateway.kill().await;
    // Asked while it is down: its socket stays with the keeper.
    let waiting = tokio::spawn(get(gateway.address, "/"));
    gateway.begin().await;
    assert_eq!(waiting.await.expect("answered").text(), "api-1.2");
    assert_eq!(gateway.state().await, before);
    assert_eq!(old.requests(), 0);
}

#[tokio::test]
async fn a_table_that_waited_waits_again_after_a_kill() {
    let mut gateway = Gateway::start().await;
    let old = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&old)]).await;
    let port = free_port();
    let asked = [draining(&old), target("api-1.2", port, Admission::Admitting)];
    gateway.ask(&asked, Duration::ZERO, false).await.expect("taken");
    gateway.kill().await;
    gateway.begin().await;
    assert!(!gateway.state().await.in_use);
    assert_eq!(get(gateway.address, "/").await.text(), "api-1.1");
    let _new = Backend::start_on("api-1.2", port).await;
    gateway.until("the table in use", |state| state.in_use && state.targets == asked).await;
    assert_eq!(get(gateway.address, "/").await.text(), "api-1.2");
}

#[tokio::test]
async fn a_damaged_table_is_refused_with_the_way_out() {
    let mut gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&backend)]).await;
    gateway.kill().await;
    let file = gateway.dir.path().join("table.json");
    let text = std::fs::read_to_string(&file).expect("kept");
    std::fs::write(&file, &text[..text.len() / 2]).expect("damaged");
    let error = baton::gateway::run(gateway.config()).await.expect_err("refused");
    let GatewayError::Store(cause) = &error else { panic!("{error}") };
    assert!(matches!(cause, StoreError::Damaged { .. }), "{cause}");
    let cause = cause.to_string();
    assert!(cause.contains(&file.display().to_string()) && cause.contains("move it away"), "{cause}");
    std::fs::remove_file(&file).expect("moved away");
    gateway.begin().await;
    assert_eq!(get(gateway.address, "/").await.status, 503);
}

#[tokio::test]
async fn a_second_gateway_and_one_without_a_socket_are_refused() {
    let gateway = Gateway::start().await;
    assert!(matches!(baton::gateway::run(gateway.config()).await, Err(GatewayError::InUse { .. })));
    let dir = tempfile::tempdir().expect("a folder");
    let config =
        || GatewayConfig { dir: dir.path().to_owned(), listeners: Vec::new(), backends: Vec::new(), fronts: vec![] };
    assert!(matches!(baton::gateway::run(config()).await, Err(GatewayError::NoListener)));
    let mut twice = config();
    twice.listeners = gateway.config().listeners.into_iter().chain(gateway.config().listeners).collect();
    assert!(matches!(baton::gateway::run(twice).await, Err(GatewayError::SameName { .. })));
}

const CHILD_DIR: &str = "BATON_TEST_GATEWAY_DIR";

/// Not a test of its own: what the process test below runs in another process.
#[test]
fn gateway_process() {
    let Some(dir) = std::env::var_os(CHILD_DIR) else { return };
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime
        .block_on(baton::gateway::run(GatewayConfig {
            dir: dir.into(),
            listeners: Vec::new(),
            backends: Vec::new(),
            fronts: vec![],
        }))
        .expect("ran");
}

/// Starts a gateway as a keeper does: its socket as descriptor 3, named, and a socket to say that it is ready.
fn spawn(socket: &std::net::TcpListener, dir: &Path, notify: &Path) -> Child {
    let flags = rustix::io::fcntl_getfd(socket).expect("flags");
    let inherited = socket.try_clone().expect("another handle");
    rustix::io::fcntl_setfd(&inherited, flags - rustix::io::FdFlags::CLOEXEC).expect("set");
    let fd = inherited.as_raw_fd();
    let child = Command::new("bash")
        .arg("-c")
        .arg(format!("exec 3<&{fd} {fd}<&-; LISTEN_PID=$$ exec \"$0\" --exact lifetime::gateway_process --nocapture"))
        .arg(std::env::current_exe().expect("this program"))
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "api")
        .env("NOTIFY_SOCKET", notify)
        .env(CHILD_DIR, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .expect("started");
    drop(inherited);
    child
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_passed_socket_is_served_readiness_is_told_and_sigterm_finishes_what_is_in_flight() {
    let dir = tempfile::tempdir().expect("a folder");
    let long = dir.path().join("n".repeat(150));
    std::fs::create_dir(&long).expect("a folder");
    // Bound by a short way, found by the long one.
    let short = std::fs::File::open(&long).expect("opened");
    let way = format!("/proc/self/fd/{}/ready.sock", short.as_raw_fd());
    let ready = std::os::unix::net::UnixDatagram::bind(way).expect("bound");
    ready.set_read_timeout(Some(PATIENCE)).expect("set");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = socket.local_addr().expect("an address");
    let state = long.join("state");
    let mut child = spawn(&socket, &state, &long.join("ready.sock"));

    let mut message = [0; 64];
    let count = ready.recv(&mut message).expect("it says that it is ready");
    assert_eq!(&message[..count], b"READY=1");
    let backend = Backend::start("api-1.1").await;
    let control = state.join("control.sock");
    let table = [admitting(&backend)];
    control::set_table(&control, "api", &table, Duration::ZERO, false).await.expect("at once, for it is ready");
    eventually("the table in use", async || control::table(&control, "api").await.ok().filter(|s| s.in_use)).await;
    assert_eq!(get(address, "/").await.text(), "api-1.1");

    let mut idle = Client::connect(address).await;
    assert_eq!(idle.get("/").await.status, 200);
    let mut long_one = Client::connect(address).await;
    long_one.send("GET /gated HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    eventually("the request to arrive", async || (backend.requests() == 3).then_some(())).await;
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("told to end");
    assert_eq!(idle.rest().await, b"", "an idle connection is closed");
    assert!(child.try_wait().expect("asked").is_none(), "it waits for what is in flight");
    let late = tokio::spawn(get(address, "/"));
    backend.open_gate();
    assert_eq!(long_one.answer(true).await.text(), "api-1.1");
    let begin = Instant::now();
    let status = eventually("it to end", async || child.try_wait().expect("asked")).await;
    assert!(status.success() && begin.elapsed() < Duration::from_secs(5), "{status} after {:?}", begin.elapsed());

    // The next one takes up what came in between, from the same socket and with the same table.
    let mut next = spawn(&socket, &state, &long.join("ready.sock"));
    assert_eq!(late.await.expect("answered").text(), "api-1.1");
    rustix::process::kill_process(rustix::process::Pid::from_child(&next), rustix::process::Signal::KILL)
        .expect("killed");
    next.wait().expect("reaped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_closes_websockets_with_1001() {
    let dir = tempfile::tempdir().expect("a folder");
    let ready = std::os::unix::net::UnixDatagram::bind(dir.path().join("ready.sock")).expect("bound");
    ready.set_read_timeout(Some(PATIENCE)).expect("set");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut child = spawn(&socket, dir.path(), &dir.path().join("ready.sock"));
    ready.recv(&mut [0; 64]).expect("it says that it is ready");
    let (port, listener) = server().await;
    let control = dir.path().join("control.sock");
    let table = [target("api-1.1", port, Admission::Admitting)];
    control::set_table(&control, "api", &table, Duration::ZERO, false).await.expect("taken");
    eventually("the table in use", async || control::table(&control, "api").await.ok().filter(|s| s.in_use)).await;
    let address = socket.local_addr().expect("an address");
    let (mut client, mut server) = open(address, &listener, "websocket").await;
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM)
        .expect("told");
    assert_eq!(read(&mut client.stream, 4).await, GOING_AWAY);
    assert_eq!(read(&mut server, 8).await[..2], [0x88, 0x82]);
    drop((client, server));
    assert!(eventually("it to end", async || child.try_wait().expect("asked")).await.success());
}
