//! A port handed over by a passed socket, without a gateway, while new connections come at 1,000 a second.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::support::fleet::Fleet;
use crate::support::procs::{free_port, quickstart};

/// Each opens 25 connections a second, when they are due: so many that one who waits for an answer holds nobody up.
const CLIENTS: u32 = 40;
/// Between two connections of one client.
const PACE: Duration = Duration::from_millis(40);
/// For an answer. Patience is not what is tested: a refusal or a reset comes at once.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Clients at work.
struct Clients {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

fn connect(port: u16) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(ANSWER_MAX))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: toy\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    if answer.starts_with("HTTP/1.1 200") { Ok(()) } else { Err(std::io::Error::other(format!("{answer:?}"))) }
}

impl Clients {
    fn start(port: u16) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..CLIENTS)
            .map(|_| {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                std::thread::spawn(move || {
                    let begun = Instant::now();
                    let mut problems = Vec::new();
                    for number in 0u32.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        std::thread::sleep((begun + PACE * number).saturating_duration_since(Instant::now()));
                        match connect(port) {
                            Ok(()) => {
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => problems.push(error.to_string()),
                        }
                    }
                    problems
                })
            })
            .collect();
        Self { stop, answered, threads }
    }

    /// Lets this many more be answered.
    fn more(&self, count: u64) {
        let wanted = self.answered.load(Ordering::Relaxed) + count;
        let answered = || self.answered.load(Ordering::Relaxed) >= wanted;
        crate::support::wait::wait_for("more answers", Duration::from_secs(60), answered);
    }

    fn end(self) -> (u64, Vec<String>) {
        self.stop.store(true, Ordering::Relaxed);
        let problems = self.threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect();
        (self.answered.load(Ordering::Relaxed), problems)
    }
}

/// Rolls one API slot from v1 to v2 and restarts it.
pub fn run() {
    let fleet = Fleet::new(&format!("handover-{}", std::process::id()));
    let port = free_port();
    let work = fleet.stage.path("work");
    std::fs::create_dir_all(&work).expect("a folder for the toy");
    let script = format!(
        "#!/bin/sh\nexec '{}' toy api --instance \"$1\" --version \"$2\" --passed-socket --work '{}' --boot-ms 50\n",
        quickstart().display(),
        work.display()
    );
    fleet.release("v1", &script).release("v2", &script);
    let api = format!(
        "  api:\n    {{R}}\n    ports: {{ http: {port} }}\n    update: {{ order: start-first, monitor: 300ms }}\n    \
         min_available: 1\n    ready: {{ notify: true }}\n    drain: {{ grace: 20s }}\n"
    );
    fleet.manifest("", &api);
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    let clients = Clients::start(port);
    clients.more(500);
    let began = (clients.answered.load(Ordering::Relaxed), Instant::now());
    fleet.expect(&["up", "--to", "v2", "--yes"], 0);
    assert_eq!(fleet.running(), ["api-1.2@v2"]);
    clients.more(100);
    fleet.expect(&["restart", "api", "--yes"], 0);
    assert_eq!(fleet.running(), ["api-1.3@v2"]);
    let during = clients.answered.load(Ordering::Relaxed) - began.0;
    let took = began.1.elapsed();
    clients.more(100);
    let (answered, problems) = clients.end();
    println!("handover: {answered} answered, {} not; {during} in {took:.1?} of two rolls", problems.len());
    assert!(problems.is_empty(), "{} of {answered}: {:?}", problems.len(), &problems[..problems.len().min(5)]);
    assert!(during > 500, "only {during} connections during the rolls");
    let events = std::fs::read_to_string(work.join("events.log")).expect("the events");
    let place = |text: &str| events.find(text).unwrap_or_else(|| panic!("{text} in {events}"));
    assert!(place("ready instance=api-1.2") < place("term instance=api-1.1"), "{events}");
    assert!(place("ready instance=api-1.3") < place("term instance=api-1.2"), "{events}");
}
