//! The quickstart itself: sets the stage, starts everything, rolls under load, judges, and leaves nothing behind.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};

use super::crew::Crew;
use super::jobs::JobReport;
use super::leftovers::end_all;
use super::lines::{Line, Lines, now_ms};
use super::load::LoadReport;
use super::stage::{Stage, WORKER_GRACE_S};
use super::story::Story;
use super::toy::EVENT_LOG;
use super::verdict::Evidence;

/// The version that runs first and the one that it is rolled to.
const VERSIONS: (&str, &str) = ("v1", "v2");
/// Until the load has opened its connections: counted, and left out of the comparison.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long the fleet is watched before the roll.
const BEFORE: Duration = Duration::from_secs(5);
/// How long it is watched after it.
const AFTER: Duration = Duration::from_secs(3);
/// The longest that a first install or a `down` may take.
const INSTALL_WITHIN: Duration = Duration::from_secs(60);
/// The longest that the roll may take: a worker's grace and ample time for the rest.
const ROLL_WITHIN: Duration = Duration::from_secs(WORKER_GRACE_S + 60);
/// How long jobs may take to come to rest after the last one was submitted.
const REST_WITHIN: Duration = Duration::from_secs(30);
/// How often the API is asked for its version.
const VERSION_ASKED: usize = 20;
/// What processes that are left over get between SIGTERM and SIGKILL.
const END_PATIENCE: Duration = Duration::from_secs(2);

/// How the quickstart is called.
#[derive(Clone, Debug, clap::Args)]
pub struct ShowOptions {
    /// End with one line of JSON on standard output; everything else goes to standard error
    #[arg(long)]
    pub json: bool,
    /// Keep the folder with all logs
    #[arg(long)]
    pub keep: bool,
    /// Work in this folder (empty or missing), which is kept
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// How many requests a second the load generator sends
    #[arg(long, default_value_t = 500)]
    pub requests_per_second: u32,
    /// Decides what is asked and how long each job is
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Why the quickstart could not be shown to its end.
#[derive(Debug, thiserror::Error)]
enum ShowError {
    #[error("interrupted")]
    Interrupted,
    #[error("cannot {doing}")]
    Io {
        doing: String,
        #[source]
        source: io::Error,
    },
    #[error("baton did not do what was asked")]
    Baton(#[from] super::crew::BatonError),
}

fn doing(doing: &str) -> impl FnOnce(io::Error) -> ShowError {
    let doing = doing.to_owned();
    move |source| ShowError::Io { doing, source }
}

/// Tells people what happens: on standard output, or on standard error where that is for JSON.
#[derive(Clone, Copy)]
struct Teller {
    json: bool,
    begun: Instant,
}

impl Teller {
    fn say(self, text: &str) {
        // A reader that went away is no reason to stop before everything is ended.
        let said = if self.json { writeln!(io::stderr(), "{text}") } else { writeln!(io::stdout(), "{text}") };
        said.ok();
    }

    fn step(self, text: &str) {
        self.say(&format!("[{:5.1} s] {text}", self.begun.elapsed().as_secs_f64()));
    }
}

/// Shows everything. Exit code 0 when every promise was kept.
pub fn run(options: ShowOptions) -> ExitCode {
    let teller = Teller { json: options.json, begun: Instant::now() };
    match perform(&options, teller) {
        Ok(code) => code,
        Err(error) => {
            teller.say(&format!("quickstart: {}", chain(&error)));
            match error {
                ShowError::Interrupted => ExitCode::from(130),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn perform(options: &ShowOptions, teller: Teller) -> Result<ExitCode, ShowError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(doing("start a runtime"))?;
    // Short, because a Unix socket's path may have 107 bytes and there are sockets deep in it.
    let temporary = match options.dir {
        Some(_) => None,
        None => Some(tempfile::Builder::new().prefix("baton-").tempdir().map_err(doing("make a folder"))?),
    };
    let dir = match (&options.dir, &temporary) {
        (Some(dir), _) => dir.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => std::env::temp_dir(),
    };
    let stage = Stage::set_up(dir).map_err(doing("set the stage"))?;
    teller.step(&format!("everything is in {}", stage.dir.display()));

    let shown = runtime.block_on(async {
        let mut crew = Crew::new(&stage)?;
        let shown = tokio::select! {
            shown = show(&stage, &mut crew, options, teller) => shown,
            interrupted = interrupted() => interrupted.and(Err(ShowError::Interrupted)),
        };
        if matches!(shown, Err(ShowError::Io { .. } | ShowError::Baton(_))) {
            teller.say(&crew.last_words());
        }
        let stopped = crew.stop().await;
        let shown = shown?;
        stopped?;
        Ok::<_, ShowError>(shown)
    });
    // Whatever happened, nobody stays behind. After `down` only keepers may still be there.
    let ended = end_all(&stage.dir, END_PATIENCE).map_err(doing("end what was left"));
    if options.keep || options.dir.is_some() {
        teller.say(&format!("kept: {}", stage.dir.display()));
        if let Some(temporary) = temporary {
            // The folder stays; only its deletion is called off.
            let _path = temporary.keep();
        }
    }
    let mut broken = Vec::new();
    let evidence: Evidence = shown?;
    let left: Vec<String> = ended?.into_iter().filter(|process| process.contains(" --instance ")).collect();
    if !left.is_empty() {
        broken.push(format!("`baton down` left {} instances running: {}", left.len(), left.join("; ")));
    }
    broken.extend(evidence.broken());
    teller.say("");
    evidence.told().iter().for_each(|line| teller.say(line));
    teller.say("");
    if broken.is_empty() {
        teller.say("Every promise was kept: nobody noticed.");
    } else {
        broken.iter().for_each(|promise| teller.say(&format!("BROKEN: {promise}")));
    }
    if options.json {
        let line = serde_json::to_string(&evidence.sums()).map_err(io::Error::from).map_err(doing("write the sums"))?;
        writeln!(io::stdout(), "{line}").map_err(doing("write the sums"))?;
    }
    Ok(if broken.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The play itself.
async fn show(
    stage: &Stage,
    crew: &mut Crew<'_>,
    options: &ShowOptions,
    teller: Teller,
) -> Result<Evidence, ShowError> {
    let (old, new) = VERSIONS;
    stage.release(old, &[]).map_err(doing("write a release"))?;
    stage.release(new, &[]).map_err(doing("write a release"))?;
    teller.step("starting one coordinator and four agents, one for each component");
    crew.start().await?;
    teller.step(&format!("baton up --to {old}: two API servers, a scheduler, two executors, four workers"));
    crew.up(old, INSTALL_WITHIN).await?;

    let rate = options.requests_per_second;
    teller.step(&format!("the load begins: {rate} requests/s to http://{}, some of them jobs", stage.gateway));
    let mut load = LoadProcess::start(stage, options).map_err(doing("start the load"))?;
    tokio::time::sleep(WARM_UP).await;
    load.mark("before").await?;
    tokio::time::sleep(BEFORE).await;
    let version_before = versions(stage.gateway).await.map_err(doing("ask for the version"))?;

    teller.step(&format!("baton up --to {new}, while the load goes on"));
    load.mark("during").await?;
    let from = now_ms();
    let rolled = tokio::select! {
        rolled = crew.up(new, ROLL_WITHIN) => rolled,
        never = tell_events(stage, old, from, teller) => match never {},
    };
    let to = now_ms();
    load.mark("after").await?;
    rolled?;
    teller.step(&format!("rolled in {:.1} s; watching a little longer", (to - from) as f64 / 1000.0));
    tokio::time::sleep(AFTER).await;
    let version_after = versions(stage.gateway).await.map_err(doing("ask for the version"))?;
    let report = load.stop().await?;
    teller.step("the load has ended; the last jobs are finishing");
    let jobs = check(stage).await?;
    // Read before `down`, which ends everybody.
    let events = Lines::read(&stage.work().join(EVENT_LOG)).map_err(doing("read the events"))?;
    crew.still_there()?;
    teller.step("baton down");
    crew.down(INSTALL_WITHIN).await?;
    Ok(Evidence {
        load: report,
        jobs,
        story: Story::read(&events),
        version_before,
        version_after,
        roll_ms: (from, to),
        versions: VERSIONS,
    })
}

/// Ctrl-C, or being asked to end in another way.
async fn interrupted() -> Result<(), ShowError> {
    let listen = |kind| signal(kind).map_err(doing("listen for signals"));
    let (mut int, mut term, mut hup) =
        (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?, listen(SignalKind::hangup())?);
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
        _ = hup.recv() => {}
    }
    Ok(())
}

/// Tells what the instances write while they are rolled.
async fn tell_events(stage: &Stage, old: &str, from: u64, teller: Teller) -> std::convert::Infallible {
    let path = stage.work().join(EVENT_LOG);
    let mut told = Lines::read(&path).map(|events| events.lines.len()).unwrap_or(0);
    let mut begun: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Ok(events) = Lines::read(&path) else { continue };
        for line in events.lines.iter().skip(told) {
            if let Some(text) = describe(line, &mut begun) {
                let baton = if line.get("version") == old { "  " } else { "->" };
                let after = line.at.saturating_sub(from) as f64 / 1000.0;
                let (instance, version) = (line.get("instance"), line.get("version"));
                teller.say(&format!("  +{after:5.1} s {baton} {instance:14} {version}  {text}"));
            }
        }
        told = events.lines.len();
    }
}

/// One event in words; `None` for those that add nothing.
fn describe(line: &Line, begun: &mut BTreeMap<String, (u64, u64)>) -> Option<String> {
    let instance = line.get("instance").to_owned();
    let in_flight = line.number("inflight");
    match line.what.as_str() {
        "ready" => Some("ready".to_owned()),
        "drain" | "term" => {
            if begun.contains_key(&instance) {
                return None;
            }
            begun.insert(instance, (line.at, in_flight));
            Some(match in_flight {
                0 => "takes no new work".to_owned(),
                1 => "takes no new work, 1 still in flight".to_owned(),
                many => format!("takes no new work, {many} still in flight"),
            })
        }
        "idle" => {
            let (at, in_flight) = begun.get(&instance)?;
            let took = line.at.saturating_sub(*at) as f64 / 1000.0;
            (*in_flight > 0).then(|| format!("its last job ended, {took:.1} s into a grace of {WORKER_GRACE_S} s"))
        }
        "exit" => Some("gone".to_owned()),
        _ => None,
    }
}

/// The versions that answer at the gateway, joined by `+`.
async fn versions(gateway: SocketAddr) -> io::Result<String> {
    let mut seen = BTreeSet::new();
    for _ in 0..VERSION_ASKED {
        let mut stream = tokio::net::TcpStream::connect(gateway).await?;
        let request = format!("GET / HTTP/1.1\r\nHost: {gateway}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut answer)).await??;
        // A body in chunks has its sizes around it; the object is the same.
        let body = answer.find('{').zip(answer.rfind('}')).map_or("", |(from, to)| &answer[from..=to]);
        let about: serde_json::Value = serde_json::from_str(body)?;
        seen.insert(about["version"].as_str().unwrap_or("nobody").to_owned());
    }
    Ok(seen.into_iter().collect::<Vec<_>>().join("+"))
}

/// Has the checker, a process of its own, judge the jobs once they have come to rest.
async fn check(stage: &Stage) -> Result<JobReport, ShowError> {
    let asked = || -> io::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("check-jobs").arg("--work").arg(stage.work());
        command.args(["--wait", &REST_WITHIN.as_secs().to_string()]).current_dir(&stage.dir).kill_on_drop(true);
        Ok(command)
    };
    let output = asked().map_err(doing("call the checker"))?.output().await.map_err(doing("run the checker"))?;
    serde_json::from_slice(&output.stdout).map_err(io::Error::from).map_err(doing("read what the checker says"))
}

/// The load generator as a process of its own, so that nothing here can slow it down.
struct LoadProcess {
    child: Child,
    words: ChildStdin,
}

impl LoadProcess {
    fn start(stage: &Stage, options: &ShowOptions) -> io::Result<Self> {
        // One request in so many is a job: about eight jobs a second at any rate.
        let one_job_in = (options.requests_per_second / 8).max(1).to_string();
        let mut child = Command::new(std::env::current_exe()?)
            .args(["load", "--to", &stage.gateway.to_string(), "--seed", &options.seed.to_string()])
            .args(["--requests-per-second", &options.requests_per_second.to_string(), "--one-job-in", &one_job_in])
            .current_dir(&stage.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        let words = child.stdin.take().ok_or(io::ErrorKind::BrokenPipe)?;
        Ok(Self { child, words })
    }

    async fn mark(&mut self, phase: &str) -> Result<(), ShowError> {
        self.words.write_all(format!("mark {phase}\n").as_bytes()).await.map_err(doing("speak to the load generator"))
    }

    async fn stop(mut self) -> Result<LoadReport, ShowError> {
        self.words.write_all(b"stop\n").await.map_err(doing("speak to the load generator"))?;
        let output = self.child.wait_with_output().await.map_err(doing("wait for the load generator"))?;
        serde_json::from_slice(&output.stdout).map_err(io::Error::from).map_err(doing("read what the load saw"))
    }
}

/// An error with its causes.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
