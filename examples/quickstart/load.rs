//! The load generator: an open loop that never waits for answers, never retries and never hides a delay.
//!
//! Request *n* is due at begin + n / rate, whatever became of the ones before it, and its latency counts from that
//! moment; the time that a slow request asked the server to take is not counted. About half of the requests go over new
//! connections, the others over kept ones. Anything that is not a 2xx within five seconds of the moment when it was due
//! is a failure, and the first failures are kept with their reason.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Handle;

/// From the moment when a request was due to its failure.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How many failures are kept with their reason.
const FAILURES_KEPT: usize = 20;
/// The longest head of a response.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The longest response that is read.
const RESPONSE_BYTES_MAX: usize = 1024 * 1024;
/// Kept connections that may lie idle.
const IDLE_MAX: usize = 256;
/// How long a slow request takes at the server.
const SLOW_MS: u64 = 300;

/// What to send.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Where to.
    pub to: SocketAddr,
    /// How many requests a second.
    pub requests_per_second: u32,
    /// Decides kinds and lengths: the same seed asks for the same things in the same order.
    pub seed: u64,
    /// One request in so many submits a job; 0: none.
    pub one_job_in: u64,
    /// One request in so many takes 300 ms at the server; 0: none.
    pub one_slow_in: u64,
}

/// A finished load run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LoadReport {
    /// Requests sent.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// The worst delay between the moment when a request was due and the one when it was sent: what the generator
    /// itself added.
    pub sent_late_ms_max: f64,
    /// In the order of the marks.
    pub phases: Vec<PhaseReport>,
    /// How often each reason occurred.
    pub reasons: BTreeMap<String, u64>,
    /// The first failures.
    pub first_failures: Vec<Failure>,
}

impl LoadReport {
    /// The phase of that name.
    pub fn phase(&self, name: &str) -> Option<&PhaseReport> {
        self.phases.iter().find(|phase| phase.name == name)
    }
}

/// What was sent between two marks. Latencies are those of requests that did not fail.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PhaseReport {
    /// The mark that began it.
    pub name: String,
    /// Requests that were due in it.
    pub requests: u64,
    /// Those of them that failed.
    pub failed: u64,
    /// The median.
    pub p50_ms: f64,
    /// The 99th percentile.
    pub p99_ms: f64,
    /// The worst.
    pub max_ms: f64,
}

/// One request that failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// When it was due, since the begin of the load.
    pub due_ms: u64,
    /// In which phase.
    pub phase: String,
    /// What was asked, and over what.
    pub what: String,
    /// What went wrong.
    pub why: String,
}

/// A running load.
pub struct Load {
    shared: Arc<Shared>,
    pacer: std::thread::JoinHandle<()>,
}

struct Shared {
    options: LoadOptions,
    begun: Instant,
    idle: Mutex<VecDeque<TcpStream>>,
    book: Mutex<Book>,
}

#[derive(Default)]
struct Book {
    stop: bool,
    in_flight: u64,
    sent_late_max: Duration,
    phases: Vec<Phase>,
    reasons: BTreeMap<String, u64>,
    first_failures: Vec<Failure>,
}

#[derive(Default)]
struct Phase {
    name: String,
    requests: u64,
    failed: u64,
    latencies: Vec<Duration>,
}

/// What one request asks for.
#[derive(Clone, Copy)]
struct Ask {
    kind: Kind,
    kept: bool,
}

#[derive(Clone, Copy)]
enum Kind {
    Plain,
    Slow,
    Job { ms: u64 },
}

// === impl Load ===

impl Load {
    /// Begins sending, in a phase of that name. Needs a tokio runtime with IO and time.
    pub fn start(options: LoadOptions, phase: &str) -> io::Result<Self> {
        if options.requests_per_second == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a load of 0 requests per second sends nothing"));
        }
        let book = Book { phases: vec![Phase { name: phase.to_owned(), ..Phase::default() }], ..Book::default() };
        let shared =
            Arc::new(Shared { options, begun: Instant::now(), idle: Mutex::default(), book: Mutex::new(book) });
        let runtime = Handle::current();
        let pace = Arc::clone(&shared);
        let pacer =
            std::thread::Builder::new().name("pacer".to_owned()).spawn(move || pace_requests(&pace, &runtime))?;
        Ok(Self { shared, pacer })
    }

    /// Begins the next phase: requests that are due from now on count for it.
    pub fn mark(&self, phase: &str) {
        self.shared.book().phases.push(Phase { name: phase.to_owned(), ..Phase::default() });
    }

    /// How it stands.
    pub fn so_far(&self) -> LoadReport {
        let book = self.shared.book();
        let report = book.report();
        // Those still have their time.
        LoadReport { failed: report.failed - book.in_flight, ..report }
    }

    /// Sends nothing more, waits for what is in flight (at most until its time-out) and reports.
    pub async fn stop(self) -> LoadReport {
        self.shared.book().stop = true;
        let end = Instant::now() + REQUEST_TIMEOUT + Duration::from_secs(1);
        while (!self.pacer.is_finished() || self.shared.book().in_flight > 0) && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        self.shared.book().report()
    }
}

/// Starts each request when it is due. A thread of its own: it sleeps more exactly than a runtime's timer.
fn pace_requests(shared: &Arc<Shared>, runtime: &Handle) {
    let mut random = Random(shared.options.seed);
    for number in 0u64.. {
        let offset = Duration::from_nanos(number * 1_000_000_000 / u64::from(shared.options.requests_per_second));
        let due = shared.begun + offset;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        let phase = {
            let mut book = shared.book();
            if book.stop {
                return;
            }
            book.in_flight += 1;
            let phase = book.phases.len() - 1;
            book.phases[phase].requests += 1;
            phase
        };
        let ask = Ask::draw(&mut random, &shared.options);
        let shared = Arc::clone(shared);
        runtime.spawn(async move {
            let late = due.elapsed();
            let left = REQUEST_TIMEOUT.saturating_sub(late);
            let outcome = match tokio::time::timeout(left, send(&shared, ask)).await {
                Ok(outcome) => outcome,
                Err(_) => Err(Broken::new("timeout", format!("no whole answer within {REQUEST_TIMEOUT:?}"))),
            };
            let latency = due.elapsed().saturating_sub(ask.asked_delay());
            shared.book().settle(phase, offset, late, latency, ask, outcome);
        });
    }
}

impl Shared {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An idle connection that the server has not closed, as far as can be known before sending.
    fn take_idle(&self) -> Option<TcpStream> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while let Some(stream) = idle.pop_front() {
            // The kernel is asked, not the runtime: that one may not have heard yet of an end that has arrived.
            let waiting = rustix::net::recv(&stream, &mut [0u8; 1], RecvFlags::PEEK | RecvFlags::DONTWAIT);
            if matches!(waiting, Err(rustix::io::Errno::AGAIN)) {
                return Some(stream);
            }
        }
        None
    }

    fn give_idle(&self, stream: TcpStream) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push_back(stream);
        }
    }
}

// === impl Book ===

impl Book {
    fn settle(
        &mut self,
        phase: usize,
        due: Duration,
        late: Duration,
        latency: Duration,
        ask: Ask,
        outcome: Result<(), Broken>,
    ) {
        self.in_flight -= 1;
        self.sent_late_max = self.sent_late_max.max(late);
        match outcome {
            Ok(()) => self.phases[phase].latencies.push(latency),
            Err(broken) => {
                self.phases[phase].failed += 1;
                *self.reasons.entry(broken.reason).or_default() += 1;
                if self.first_failures.len() < FAILURES_KEPT {
                    self.first_failures.push(Failure {
                        due_ms: u64::try_from(due.as_millis()).unwrap_or(u64::MAX),
                        phase: self.phases[phase].name.clone(),
                        what: ask.describe(),
                        why: broken.why,
                    });
                }
            }
        }
    }

    fn report(&self) -> LoadReport {
        let phases: Vec<PhaseReport> = self.phases.iter().map(Phase::report).collect();
        LoadReport {
            requests: phases.iter().map(|phase| phase.requests).sum(),
            // Requests that never came to an end have not succeeded.
            failed: phases.iter().map(|phase| phase.failed).sum::<u64>() + self.in_flight,
            sent_late_ms_max: as_ms(self.sent_late_max),
            phases,
            reasons: self.reasons.clone(),
            first_failures: self.first_failures.clone(),
        }
    }
}

impl Phase {
    fn report(&self) -> PhaseReport {
        let mut sorted = self.latencies.clone();
        sorted.sort_unstable();
        PhaseReport {
            name: self.name.clone(),
            requests: self.requests,
            failed: self.failed,
            p50_ms: as_ms(nearest_rank(&sorted, 50)),
            p99_ms: as_ms(nearest_rank(&sorted, 99)),
            max_ms: as_ms(sorted.last().copied().unwrap_or_default()),
        }
    }
}

/// The smallest latency that at least `percent` of all do not exceed.
fn nearest_rank(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    rank.checked_sub(1).and_then(|index| sorted.get(index)).copied().unwrap_or_default()
}

/// Milliseconds with two places.
fn as_ms(span: Duration) -> f64 {
    (span.as_secs_f64() * 100_000.0).round() / 100.0
}

// === impl Ask ===

impl Ask {
    fn draw(random: &mut Random, options: &LoadOptions) -> Self {
        let one_in = |random: &mut Random, n: u64| n > 0 && random.below(n) == 0;
        let kept = random.below(2) == 0;
        let kind = if one_in(random, options.one_job_in) {
            Kind::Job { ms: job_length_ms(random) }
        } else if one_in(random, options.one_slow_in) {
            Kind::Slow
        } else {
            Kind::Plain
        };
        Self { kind, kept }
    }

    /// How long the server is asked to wait before it answers.
    fn asked_delay(self) -> Duration {
        if matches!(self.kind, Kind::Slow) { Duration::from_millis(SLOW_MS) } else { Duration::ZERO }
    }

    fn target(self) -> (&'static str, String) {
        match self.kind {
            Kind::Plain => ("GET", "/".to_owned()),
            Kind::Slow => ("GET", format!("/slow?ms={SLOW_MS}")),
            Kind::Job { ms } => ("POST", format!("/jobs?ms={ms}")),
        }
    }

    fn describe(self) -> String {
        let (method, path) = self.target();
        format!("{method} {path} on a {} connection", if self.kept { "kept" } else { "new" })
    }
}

/// Mostly short jobs, and every eighth one of 3.5 s to 6 s: longer than the shortest grace of the fleet.
fn job_length_ms(random: &mut Random) -> u64 {
    if random.below(8) == 0 { 3500 + random.below(2500) } else { 50 + random.below(750) }
}

/// SplitMix64: small, seeded, and good enough to mix requests.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

// === One request ===

/// Why a request failed: a short reason to count, and the whole for people.
#[derive(Debug)]
struct Broken {
    reason: String,
    why: String,
}

impl Broken {
    fn new(reason: impl Into<String>, why: impl Into<String>) -> Self {
        Self { reason: reason.into(), why: why.into() }
    }

    fn io(doing: &str, error: &io::Error) -> Self {
        let reason = match error.kind() {
            io::ErrorKind::ConnectionRefused => "refused".to_owned(),
            io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => "reset".to_owned(),
            kind => format!("{kind}"),
        };
        Self::new(reason, format!("{doing}: {error}"))
    }
}

async fn send(shared: &Shared, ask: Ask) -> Result<(), Broken> {
    let idle = if ask.kept { shared.take_idle() } else { None };
    let mut stream = match idle {
        Some(stream) => stream,
        None => {
            let stream =
                TcpStream::connect(shared.options.to).await.map_err(|error| Broken::io("connecting", &error))?;
            stream.set_nodelay(true).map_err(|error| Broken::io("setting up the connection", &error))?;
            stream
        }
    };
    let (method, path) = ask.target();
    let connection = if ask.kept { "" } else { "Connection: close\r\n" };
    let length = if method == "POST" { "Content-Length: 0\r\n" } else { "" };
    let head = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n{length}{connection}\r\n", shared.options.to);
    stream.write_all(head.as_bytes()).await.map_err(|error| Broken::io("sending", &error))?;
    let answer = read_answer(&mut stream).await?;
    if ask.kept && answer.keep {
        shared.give_idle(stream);
    }
    if (200..300).contains(&answer.status) {
        Ok(())
    } else {
        Err(Broken::new(format!("status {}", answer.status), format!("the answer was {}", answer.status)))
    }
}

struct Answer {
    status: u16,
    keep: bool,
}

/// How far the body of a response goes.
enum Extent {
    Length(usize),
    Chunked,
    ToTheEnd,
}

/// Reads one whole response. A body that ends early is a failure, as is anything that is not HTTP/1.x.
async fn read_answer(stream: &mut TcpStream) -> Result<Answer, Broken> {
    let mut bytes = Vec::with_capacity(1024);
    let head_end = loop {
        if let Some(at) = find(&bytes, b"\r\n\r\n") {
            break at + 4;
        }
        if bytes.len() > HEAD_BYTES_MAX {
            return Err(Broken::new("malformed", format!("the head is longer than {HEAD_BYTES_MAX} bytes")));
        }
        more(stream, &mut bytes, "the head").await?;
    };
    let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
    let (status, mut keep, extent) = read_head(&head)?;
    let mut body = bytes.split_off(head_end);
    match extent {
        Extent::Length(length) => {
            while body.len() < length {
                more(stream, &mut body, "the body").await?;
            }
            // Anything after the body would be taken for the next answer.
            keep &= body.len() == length;
        }
        Extent::Chunked => {
            let end = loop {
                match chunks_end(&body)? {
                    Some(end) => break end,
                    None => more(stream, &mut body, "a chunk").await?,
                }
            };
            keep &= body.len() == end;
        }
        Extent::ToTheEnd => {
            keep = false;
            loop {
                let read = stream.read_buf(&mut body).await.map_err(|error| Broken::io("reading the body", &error))?;
                if read == 0 {
                    break;
                }
                if body.len() > RESPONSE_BYTES_MAX {
                    return Err(Broken::new("malformed", format!("more than {RESPONSE_BYTES_MAX} bytes")));
                }
            }
        }
    }
    Ok(Answer { status, keep })
}

async fn more(stream: &mut TcpStream, bytes: &mut Vec<u8>, what: &str) -> Result<(), Broken> {
    if bytes.len() > RESPONSE_BYTES_MAX {
        return Err(Broken::new("malformed", format!("{what} is longer than {RESPONSE_BYTES_MAX} bytes")));
    }
    match stream.read_buf(bytes).await {
        Ok(0) => Err(Broken::new("closed", format!("the connection was closed in the middle of {what}"))),
        Ok(_) => Ok(()),
        Err(error) => Err(Broken::io(&format!("reading {what}"), &error)),
    }
}

fn read_head(head: &str) -> Result<(u16, bool, Extent), Broken> {
    let malformed =
        || Broken::new("malformed", format!("not an HTTP/1.x answer: {:?}", head.get(..80).unwrap_or(head)));
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let version = first.get(..9).ok_or_else(malformed)?;
    let status = first.get(9..12).and_then(|code| code.parse::<u16>().ok()).ok_or_else(malformed)?;
    let mut keep = match version {
        "HTTP/1.1 " => true,
        "HTTP/1.0 " => false,
        _ => return Err(malformed()),
    };
    let mut extent = if status == 204 || status == 304 { Extent::Length(0) } else { Extent::ToTheEnd };
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').ok_or_else(malformed)?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("content-length") {
            extent = Extent::Length(value.parse().map_err(|_| malformed())?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") && value.eq_ignore_ascii_case("chunked") {
            extent = Extent::Chunked;
        } else if name.eq_ignore_ascii_case("connection") && value.eq_ignore_ascii_case("close") {
            keep = false;
        }
    }
    Ok((status, keep, extent))
}

/// Where a chunked body without trailers ends, or `None` while it goes on.
fn chunks_end(body: &[u8]) -> Result<Option<usize>, Broken> {
    let mut at = 0;
    loop {
        let Some(line) = find(&body[at..], b"\r\n") else { return Ok(None) };
        let text = String::from_utf8_lossy(&body[at..at + line]).into_owned();
        let size = text.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16)
            .ok()
            .filter(|size| *size <= RESPONSE_BYTES_MAX)
            .ok_or_else(|| Broken::new("malformed", format!("not the size of a chunk: {text:?}")))?;
        at += line + 2 + size + 2;
        if body.len() < at {
            return Ok(None);
        }
        if size == 0 {
            return Ok(Some(at));
        }
    }
}

fn find(bytes: &[u8], pattern: &[u8]) -> Option<usize> {
    bytes.windows(pattern.len()).position(|window| window == pattern)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let hundred: Vec<Duration> = (1..=100).map(Duration::from_millis).collect();
        assert_eq!(nearest_rank(&hundred, 99), Duration::from_millis(99));
        assert_eq!(nearest_rank(&hundred, 50), Duration::from_millis(50));
        assert_eq!(nearest_rank(&hundred[..1], 99), Duration::from_millis(1));
        assert_eq!(nearest_rank(&[], 99), Duration::ZERO);
    }

    #[test]
    fn a_chunked_body_ends_at_its_last_chunk_and_not_before() {
        let body = b"3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(chunks_end(body).unwrap(), Some(body.len()));
        for cut in 0..body.len() {
            assert_eq!(chunks_end(&body[..cut]).unwrap(), None, "cut at {cut}");
        }
        assert!(chunks_end(b"zz\r\n").is_err());
    }

    #[test]
    fn a_head_says_how_far_its_body_goes() {
        let (status, keep, extent) = read_head("HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n").unwrap();
        assert!(status == 200 && keep && matches!(extent, Extent::Length(7)));
        let (status, keep, extent) = read_head("HTTP/1.1 503 No\r\nconnection: CLOSE\r\n\r\n").unwrap();
        assert!(status == 503 && !keep && matches!(extent, Extent::ToTheEnd));
        let (_, _, extent) = read_head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").unwrap();
        assert!(matches!(extent, Extent::Chunked));
        assert!(read_head("SSH-2.0-OpenSSH\r\n\r\n").is_err());
    }

    #[test]
    fn the_same_seed_asks_for_the_same_things() {
        let options = LoadOptions {
            to: ([127, 0, 0, 1], 1).into(),
            requests_per_second: 1,
            seed: 7,
            one_job_in: 10,
            one_slow_in: 20,
        };
        let draw = || {
            let mut random = Random(options.seed);
            (0..1000).map(|_| Ask::draw(&mut random, &options).describe()).collect::<Vec<_>>()
        };
        assert_eq!(draw(), draw());
        let kept = draw().iter().filter(|what| what.contains("kept")).count();
        assert!((400..600).contains(&kept), "{kept} of 1000 over kept connections");
        assert!(draw().iter().any(|what| what.starts_with("POST /jobs")));
    }
}
