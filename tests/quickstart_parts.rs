//! The parts of the quickstart by themselves: toys, load generator and checker against each other, without Baton.
//!
//! What cannot fail proves nothing, so most of these tests break something and ask whether it is seen.

#[path = "../examples/quickstart/jobs.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod jobs;
#[path = "../examples/quickstart/lines.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod lines;
#[path = "../examples/quickstart/load.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod load;
#[path = "../examples/quickstart/stage.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod stage;
#[path = "../examples/quickstart/story.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod story;
mod support;
#[path = "../examples/quickstart/verdict.rs"]
#[allow(dead_code, reason = "the example uses all of it")]
mod verdict;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use load::{Load, LoadOptions, LoadReport};
use rustix::process::Signal;
use support::fault_proxy::{Address, Fault, FaultProxy, Way};
use support::procs::{Stage, free_port, quickstart};
use support::wait::{wait_for, wait_some, wait_until};

/// For anything that should happen at once, on a machine that is busy.
const BOUND: Duration = Duration::from_secs(20);

// === Toys ===

/// A toy with its place on the stage and its port.
struct Toy {
    place: usize,
    port: u16,
}

fn toy_command(stage: &Stage, kind: &str, instance: &str, more: &[&str]) -> Command {
    let mut command = Command::new(quickstart());
    command.args(["toy", kind, "--instance", instance, "--boot-ms", "50", "--work"]).arg(stage.path("work")).args(more);
    command
}

/// Starts a toy and waits until it is ready.
fn toy(stage: &mut Stage, kind: &str, instance: &str, version: &str) -> Toy {
    let port = free_port();
    let mut command = toy_command(stage, kind, instance, &["--version", version, "--port", &port.to_string()]);
    let place = stage.spawn(instance, &mut command);
    wait_for(&format!("{instance} is ready"), BOUND, || get(port, "/health").is_some_and(|(status, _)| status == 200));
    Toy { place, port }
}

/// One request on a connection of its own; `None` when there was no whole answer.
fn request(port: u16, method: &str, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    let head = format!("{method} {path} HTTP/1.1\r\nHost: toy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.get(9..12)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

fn get(port: u16, path: &str) -> Option<(u16, String)> {
    request(port, "GET", path)
}

fn post(port: u16, path: &str) -> u16 {
    request(port, "POST", path).map_or(0, |(status, _)| status)
}

fn in_flight(port: u16) -> u64 {
    let (_, body) = get(port, "/inflight").expect("an answer");
    serde_json::from_str::<serde_json::Value>(&body).unwrap()["inflight"].as_u64().unwrap()
}

/// Calls the checker as a process: its exit code and its report.
fn check(work: &Path, wait: &str) -> (i32, jobs::JobReport) {
    let mut command = Command::new(quickstart());
    let output = command.arg("check-jobs").arg("--work").arg(work).args(["--wait", wait]).output().unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap())
}

fn events(stage: &Stage) -> story::Story {
    let events = lines::Lines::read(&stage.path("work/events.log")).unwrap();
    assert_eq!(events.damaged, 0);
    story::Story::read(&events)
}

#[test]
fn jobs_go_through_the_pipeline_once_while_every_part_is_replaced() {
    let mut stage = Stage::new();
    let api = toy(&mut stage, "api", "api-1.1", "v1");
    let mut fleet: Vec<(&str, &str, Toy)> = Vec::new();
    for (kind, slot) in [
        ("scheduler", "scheduler-1"),
        ("executor", "executor-1"),
        ("executor", "executor-2"),
        ("worker", "worker-1"),
        ("worker", "worker-2"),
    ] {
        let toy = toy(&mut stage, kind, &format!("{slot}.1"), "v1");
        fleet.push((kind, slot, toy));
    }
    let mut submitted = 0;
    let mut submit = |many: u64| {
        for number in 0..many {
            assert_eq!(post(api.port, &format!("/jobs?ms={}", 20 + 400 * (number % 3))), 202);
        }
        submitted += many;
    };
    submit(30);
    for (kind, slot, old) in &fleet {
        submit(5);
        stage.child(old.place).signal(Signal::TERM);
        assert!(stage.child(old.place).wait(BOUND).success(), "{slot} ended badly");
        toy(&mut stage, kind, &format!("{slot}.2"), "v2");
    }
    submit(10);
    let (code, report) = check(&stage.path("work"), "20");
    assert_eq!(code, 0, "{report:?}");
    assert!(report.is_clean(), "{report:?}");
    assert_eq!((report.jobs_submitted, report.jobs_finished), (submitted, submitted));

    let story = events(&stage);
    assert_eq!(
        story.stop_order("v1", 0),
        ["scheduler-1", "executor-1", "executor-2", "worker-1", "worker-2"],
        "the order in which this test stopped them"
    );
    assert_eq!(story.overlap("scheduler"), None);
    assert_eq!(story.too_early("v1", &["executor", "scheduler"], "worker", 0), None);
}

#[test]
fn a_worker_killed_in_the_middle_of_a_job_has_lost_it_and_the_checker_says_so() {
    let mut stage = Stage::new();
    let api = toy(&mut stage, "api", "api-1.1", "v1");
    toy(&mut stage, "scheduler", "scheduler-1.1", "v1");
    toy(&mut stage, "executor", "executor-1.1", "v1");
    let worker = toy(&mut stage, "worker", "worker-1.1", "v1");
    assert_eq!(post(api.port, "/jobs?ms=10"), 202);
    assert_eq!(post(api.port, "/jobs?ms=30000"), 202);
    wait_for("the long job runs and the short one is over", BOUND, || {
        let (_, report) = check(&stage.path("work"), "0");
        (report.jobs_started, report.jobs_finished) == (2, 1)
    });
    stage.child(worker.place).signal(Signal::KILL);
    stage.child(worker.place).wait(BOUND);
    let (code, report) = check(&stage.path("work"), "0");
    assert_eq!((code, report.jobs_lost, report.jobs_run_twice), (1, 1, 0), "{report:?}");
    assert!(report.lost[0].contains("started by worker-1.1") && report.lost[0].contains("running/worker-1.1"));

    toy(&mut stage, "worker", "worker-1.2", "v1");
    let (code, report) = check(&stage.path("work"), "1");
    assert_eq!((code, report.jobs_lost), (1, 1), "a lost job stays lost: {report:?}");
}

#[test]
fn a_job_that_comes_back_into_the_queue_is_run_twice_and_the_checker_says_so() {
    let mut stage = Stage::new();
    let api = toy(&mut stage, "api", "api-1.1", "v1");
    toy(&mut stage, "scheduler", "scheduler-1.1", "v1");
    toy(&mut stage, "executor", "executor-1.1", "v1");
    toy(&mut stage, "worker", "worker-1.1", "v1");
    assert_eq!(post(api.port, "/jobs?ms=10"), 202);
    let work = stage.path("work");
    assert_eq!(check(&work, "20").0, 0);
    let done = wait_some("the job lies in done", BOUND, || jobs::names(&work.join("done")).unwrap().pop_first());
    std::fs::rename(work.join("done").join(&done), work.join("queue").join(&done)).unwrap();
    wait_for("the job is run again", BOUND, || check(&work, "0").1.jobs_run_twice == 1);
    let (code, report) = check(&work, "0");
    assert_eq!((code, report.jobs_lost), (1, 0), "{report:?}");
    assert!(report.twice[0].contains("worker-1.1 and worker-1.1"), "{report:?}");
}

#[test]
fn the_checker_sees_jobs_that_vanish_and_lines_that_are_torn() {
    let stage = Stage::new();
    let log = "submit job=a api=api-1.1 version=v1 at=1\n\
               submit job=b api=api-1.1 version=v1 at=2\n\
               start job=c worker=worker-1.1 version=v1 at=3\n\
               finish job=c worker=worker-1.1 version=v1 at=4\n\
               start job=a work";
    std::fs::create_dir_all(stage.path("incoming")).unwrap();
    std::fs::write(stage.path("incoming/b"), "ms=1").unwrap();
    std::fs::write(stage.path(jobs::JOB_LOG), log).unwrap();
    let report = jobs::judge(stage.dir()).unwrap();
    assert_eq!((report.jobs_lost, report.jobs_unasked, report.lines_damaged), (2, 1, 1), "{report:?}");
    assert!(report.lost[0].contains("nowhere") && report.lost[1].contains("incoming"), "{report:?}");
    assert!(!report.is_clean());
}

#[test]
fn an_api_server_that_is_asked_to_end_finishes_what_is_in_flight() {
    let mut stage = Stage::new();
    let api = toy(&mut stage, "api", "api-1.1", "v1");
    let port = api.port;
    let slow: Vec<_> = (0..4).map(|_| std::thread::spawn(move || get(port, "/slow?ms=1000"))).collect();
    wait_for("four requests in flight", BOUND, || in_flight(port) == 4);
    stage.child(api.place).signal(Signal::TERM);
    wait_for("nobody listens any more", BOUND, || TcpStream::connect(("127.0.0.1", port)).is_err());
    for answer in slow {
        let (status, body) = answer.join().unwrap().expect("a whole answer");
        assert!(status == 200 && body.contains("api-1.1") && body.contains("v1"), "{status} {body}");
    }
    assert!(stage.child(api.place).wait(BOUND).success());
    let life = events(&stage).lives.remove(0);
    assert_eq!(life.in_flight, 4);
    assert!(life.exit.is_some());
}

#[test]
fn a_drained_worker_takes_no_job_and_takes_them_again_when_resumed() {
    let mut stage = Stage::new();
    let api = toy(&mut stage, "api", "api-1.1", "v1");
    toy(&mut stage, "scheduler", "scheduler-1.1", "v1");
    toy(&mut stage, "executor", "executor-1.1", "v1");
    let worker = toy(&mut stage, "worker", "worker-1.1", "v1");
    assert_eq!(post(api.port, "/jobs?ms=500"), 202);
    wait_for("the job runs", BOUND, || in_flight(worker.port) == 1);
    assert_eq!(post(worker.port, "/drain"), 200);
    assert_eq!(post(api.port, "/jobs?ms=1"), 202);
    wait_for("the first job has ended", BOUND, || in_flight(worker.port) == 0);
    wait_for("the worker has said so", BOUND, || events(&stage).lives.iter().any(|life| life.idle.is_some()));
    assert_eq!(check(&stage.path("work"), "0").1.jobs_started, 1);
    assert_eq!(post(worker.port, "/resume"), 200);
    assert_eq!(check(&stage.path("work"), "20").0, 0);
}

#[test]
fn bad_releases_are_as_bad_as_asked() {
    let mut stage = Stage::new();
    let port = free_port().to_string();
    let flags = ["--version", "v2", "--port", &port];
    let mut command = toy_command(&stage, "worker", "worker-1.1", &[&flags[..], &["--exit-at-once", "3"]].concat());
    let place = stage.spawn("exits", &mut command);
    assert_eq!(stage.child(place).wait(BOUND).code(), Some(3));

    let mut command = toy_command(&stage, "api", "api-1.1", &[&flags[..], &["--die-after-ms", "200"]].concat());
    let place = stage.spawn("dies", &mut command);
    assert_eq!(stage.child(place).wait(BOUND).code(), Some(1));
    assert!(events(&stage).lives[1].ready.is_some(), "it was ready before it died");

    let mut command = toy_command(&stage, "api", "api-2.1", &[&flags[..], &["--never-ready"]].concat());
    let place = stage.spawn("never", &mut command);
    wait_for("it answers", BOUND, || get(port.parse().unwrap(), "/health").is_some());
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(get(port.parse().unwrap(), "/health").unwrap().0, 503);
    assert_eq!(get(port.parse().unwrap(), "/").unwrap().0, 503);
    stage.child(place).signal(Signal::TERM);
    assert!(stage.child(place).wait(BOUND).success());
}

#[test]
fn a_passed_socket_is_served_and_readiness_is_told() {
    let mut stage = Stage::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let notify = notify_socket(&stage);
    let place = toy_on_passed_socket(&mut stage, "api-1.1", "v1", &listener);
    drop(listener);
    assert_eq!(heard(&notify), "READY=1");
    assert_eq!(get(port, "/").unwrap().0, 200);
    stage.child(place).signal(Signal::TERM);
    assert_eq!(heard(&notify), "STOPPING=1");
    assert!(stage.child(place).wait(BOUND).success());
    assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "somebody still has the socket");
}

fn notify_socket(stage: &Stage) -> UnixDatagram {
    let notify = UnixDatagram::bind(stage.path("notify.sock")).unwrap();
    notify.set_read_timeout(Some(BOUND)).unwrap();
    notify
}

fn heard(notify: &UnixDatagram) -> String {
    let mut word = [0u8; 64];
    let length = notify.recv(&mut word).unwrap();
    String::from_utf8_lossy(&word[..length]).into_owned()
}

/// Starts an API server as a keeper would: with the socket as descriptor 3, and with somebody to tell.
fn toy_on_passed_socket(stage: &mut Stage, instance: &str, version: &str, listener: &TcpListener) -> usize {
    let command = toy_command(stage, "api", instance, &["--version", version, "--passed-socket"]);
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec 3<&0 </dev/null; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    shell.env("LISTEN_FDS", "1").env("NOTIFY_SOCKET", stage.path("notify.sock"));
    let socket = listener.try_clone().unwrap();
    stage.spawn_with_stdin(instance, &mut shell, socket.into())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn api_servers_on_one_passed_socket_relieve_each_other_without_a_failure() {
    let mut stage = Stage::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let notify = notify_socket(&stage);
    let mut old = toy_on_passed_socket(&mut stage, "api-1.1", "v1", &listener);
    assert_eq!(heard(&notify), "READY=1");
    let mut asked = options(listener.local_addr().unwrap(), 600);
    asked.one_slow_in = 20;
    let load = Load::start(asked, "all").unwrap();
    for number in 2..5 {
        let new = toy_on_passed_socket(&mut stage, &format!("api-1.{number}"), "v2", &listener);
        assert_eq!(heard(&notify), "READY=1");
        stage.child(old).signal(Signal::TERM);
        assert_eq!(heard(&notify), "STOPPING=1");
        assert!(stage.child(old).wait(BOUND).success());
        old = new;
    }
    let report = load.stop().await;
    assert!(report.requests > 300 && report.failed == 0, "{report:?}");
}

#[test]
fn nothing_of_a_stage_outlives_it_and_nothing_else_is_touched() {
    let mut bystanders = Stage::new();
    let place = bystanders.spawn("bystander", Command::new("sleep").arg("600"));
    let mut stage = Stage::new();
    let flags = ["--version", "v1", "--port", &free_port().to_string(), "--ignore-term", "--stray-child"];
    let mut command = toy_command(&stage, "worker", "worker-1.1", &flags);
    let deaf = stage.spawn("deaf", &mut command);
    wait_for("the child that it left behind", BOUND, || !stage.pids_of("sleep 3600").is_empty());
    let strays = stage.pids_of("sleep 3600");
    stage.child(deaf).signal(Signal::TERM);
    wait_for("the signal was ignored", BOUND, || stage.log("deaf").contains("does not listen to SIGTERM"));
    assert!(stage.child(deaf).is_running());
    drop(stage);
    for pid in strays {
        // Where nobody reaps orphans it stays as a zombie, which has no arguments any more.
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        assert!(arguments.is_empty(), "the stray child {pid} is still there");
    }
    assert!(bystanders.child(place).is_running());
}

#[test]
fn a_release_that_the_stage_writes_is_complete_and_runs_as_its_version() {
    let mut stage = Stage::new();
    let set = stage::Stage::set_up_with(stage.path("set"), quickstart().to_owned()).unwrap();
    set.release("v7", &["--boot-ms", "10"]).unwrap();
    let release = stage.path("set/releases/v7");
    let sums = Command::new("sha256sum").args(["--check", "--strict", "SHA256SUMS"]).current_dir(&release).output();
    let sums = sums.unwrap();
    assert!(sums.status.success(), "{}", String::from_utf8_lossy(&sums.stdout));
    assert_eq!(String::from_utf8_lossy(&sums.stdout).lines().count(), 2, "every file but the list itself");
    let port = free_port();
    let mut command = Command::new(release.join("bin/run"));
    command.args(["api", "--instance", "api-1.1", "--port", &port.to_string(), "--work"]).arg(set.work());
    let place = stage.spawn("release", &mut command);
    let said = wait_some("an answer", BOUND, || get(port, "/").filter(|(status, _)| *status == 200));
    assert!(said.1.contains("\"version\":\"v7\""), "{said:?}");
    assert!(said.1.contains(&format!("\"pid\":{}", stage.child(place).pid())), "the shell stayed in between: {said:?}");
    assert!(stage::Stage::set_up_with(stage.path("set"), quickstart().to_owned()).is_err(), "a folder in use");
}

// === Load generator ===

fn options(to: SocketAddr, requests_per_second: u32) -> LoadOptions {
    LoadOptions { to, requests_per_second, seed: 1, one_job_in: 0, one_slow_in: 0 }
}

async fn loaded(to: SocketAddr, requests_per_second: u32, span: Duration) -> LoadReport {
    let load = Load::start(options(to, requests_per_second), "all").unwrap();
    tokio::time::sleep(span).await;
    load.stop().await
}

/// A server that reads one head per connection and answers with these bytes, then closes.
fn blunt_server(answer: &'static [u8]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut head = [0u8; 1024];
            stream.read(&mut head).and_then(|_| stream.write_all(answer)).ok();
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_is_a_failure_with_its_reason() {
    let report = loaded(([127, 0, 0, 1], free_port()).into(), 100, Duration::from_millis(300)).await;
    assert!(report.requests >= 10);
    assert_eq!(report.failed, report.requests, "{report:?}");
    assert_eq!(report.reasons["refused"], report.requests);
    assert!(report.first_failures[0].why.contains("refused"), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_answer_but_a_2xx_is_a_failure() {
    for (answer, reason) in [
        (&b"HTTP/1.1 500 Oh\r\nContent-Length: 2\r\n\r\nno"[..], "status 500"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "status 503"),
        (b"HTTP/1.1 302 There\r\nContent-Length: 0\r\nConnection: close\r\n\r\n", "status 302"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort", "closed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", "closed"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", "malformed"),
        (b"220 mail.example ESMTP\r\n\r\n", "malformed"),
        (b"", "closed"),
    ] {
        let report = loaded(blunt_server(answer), 50, Duration::from_millis(200)).await;
        assert!(report.requests > 0 && report.failed == report.requests, "{reason}: {report:?}");
        assert_eq!(report.reasons.keys().collect::<Vec<_>>(), [reason], "{report:?}");
    }
    let report =
        loaded(blunt_server(b"HTTP/1.1 204 Done\r\nConnection: close\r\n\r\n"), 50, Duration::from_millis(200)).await;
    assert!(report.requests > 0 && report.failed == 0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resets_are_counted_and_silence_becomes_a_failure_after_five_seconds() {
    let proxy = FaultProxy::tcp(Address::Tcp(blunt_server(b""))).await.unwrap();
    proxy.set(Fault::Reset).await;
    let report = loaded(proxy.tcp_address(), 50, Duration::from_millis(200)).await;
    assert_eq!(report.reasons.get("reset"), Some(&report.requests), "{report:?}");

    proxy.set(Fault::Blackhole(Way::Both)).await;
    let begun = Instant::now();
    let report = loaded(proxy.tcp_address(), 50, Duration::from_millis(200)).await;
    assert!(begun.elapsed() >= Duration::from_secs(5));
    assert_eq!(report.reasons.get("timeout"), Some(&report.requests), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_server_delays_answers_and_not_requests() {
    let mut stage = Stage::new();
    let api = toy(&mut stage, "api", "api-1.1", "v1");
    let proxy = FaultProxy::tcp(Address::Tcp(([127, 0, 0, 1], api.port).into())).await.unwrap();
    let load = Load::start(options(proxy.tcp_address(), 200), "before").unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    load.mark("stalled");
    proxy.set(Fault::Blackhole(Way::Both)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    proxy.set(Fault::None).await;
    let report = load.stop().await;
    assert_eq!(report.failed, 0, "{report:?}");
    let stalled = report.phase("stalled").unwrap();
    // A closed loop would have sent a handful and hidden the rest of the second.
    assert!(stalled.requests >= 150, "{report:?}");
    assert!(stalled.p50_ms >= 200.0 && stalled.p99_ms >= 800.0, "{report:?}");
    assert!(report.phase("before").unwrap().p50_ms < 200.0, "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_api_server_without_a_gateway_is_noticed() {
    let mut stage = Stage::new();
    let api = toy(&mut stage, "api", "api-1.1", "v1");
    let load = Load::start(options(([127, 0, 0, 1], api.port).into(), 200), "all").unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    stage.child(api.place).signal(Signal::TERM);
    stage.child(api.place).wait(BOUND);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let port = api.port.to_string();
    let mut command = toy_command(&stage, "api", "api-1.2", &["--version", "v2", "--port", &port]);
    stage.spawn("again", &mut command);
    wait_until("it answers again", BOUND, async || get(api.port, "/health").is_some_and(|(status, _)| status == 200))
        .await;
    let report = load.stop().await;
    assert!(report.failed > 0 && report.reasons.contains_key("refused"), "{report:?}");
}

#[test]
fn the_load_generator_as_a_process_serves_both_api_servers_without_a_failure() {
    let mut stage = Stage::new();
    let ports: Vec<u16> = ["api-1.1", "api-2.1"].map(|instance| toy(&mut stage, "api", instance, "v1").port).into();
    let loads: Vec<_> = ports
        .iter()
        .map(|port| {
            let mut command = Command::new(quickstart());
            command.args(["load", "--to", &format!("127.0.0.1:{port}"), "--requests-per-second", "250"]);
            let piped = std::process::Stdio::piped;
            let mut child = command.stdin(piped()).stdout(piped()).spawn().unwrap();
            (child.stdin.take().unwrap(), child)
        })
        .collect();
    std::thread::sleep(Duration::from_millis(500));
    for (mut words, child) in loads {
        writeln!(words, "mark second").unwrap();
        std::thread::sleep(Duration::from_secs(1));
        writeln!(words, "stop").unwrap();
        let output = child.wait_with_output().unwrap();
        let report: LoadReport = serde_json::from_slice(&output.stdout).unwrap();
        assert!(output.status.success() && report.failed == 0, "{report:?}");
        let names: Vec<&str> = report.phases.iter().map(|phase| phase.name.as_str()).collect();
        assert_eq!(names, ["start", "second"]);
        assert!(report.phases[1].requests >= 200, "{report:?}");
    }
    let report = jobs::judge(&stage.path("work")).unwrap();
    assert!(report.jobs_submitted > 0, "some of the requests were jobs: {report:?}");
    assert_eq!(report.jobs_lost, report.jobs_submitted, "nobody was there to run them");
}
