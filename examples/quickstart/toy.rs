//! The toys: an API server, a scheduler, an executor and a worker, each a real process with real work.
//!
//! A job goes `incoming/` (the API took it) → `scheduled/` (the scheduler saw it) → `queue/` (an executor handed it
//! out) → `running/INSTANCE/` (a worker runs it) → `done/`. Each arrow is one atomic rename, so no job is ever in two
//! hands, and one that is left in `running/INSTANCE/` by a killed worker is lost: nobody takes it up again, on purpose.
//!
//! Every toy writes its own life to `events.log`: `up`, `ready`, `drain`, `resume`, `idle`, `term`, `exit`. What
//! happened in a roll is judged from there, never from what Baton says about it.

mod api;
mod http;
mod office;
mod socket;
mod worker;

use std::fmt::Display;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::lines::Log;

/// The file in the work folder to which each toy writes its life.
pub const EVENT_LOG: &str = "events.log";
/// How often the toys look for work.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// The socket that a keeper passes: the first one after standard input, output and error (sd_listen_fds(3)).
const FIRST_PASSED_SOCKET: i32 = 3;

/// Which toy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum ToyKind {
    /// Answers requests and takes jobs.
    Api,
    /// Puts each job on the schedule. There must never be two.
    Scheduler,
    /// Hands scheduled jobs out.
    Executor,
    /// Runs jobs.
    Worker,
}

/// How a toy is started.
#[derive(Clone, Debug, clap::Args)]
pub struct ToyOptions {
    /// Which toy
    #[arg(value_enum)]
    pub kind: ToyKind,
    /// Its name in the logs, such as worker-2.7 [default: the host's, which in a container is the container's id]
    #[arg(long, default_value_t = host_name(), hide_default_value = true)]
    pub instance: String,
    /// The version that it claims to be
    #[arg(long, env = "VERSION")]
    pub version: String,
    /// Where its HTTP server listens
    #[arg(long, required_unless_present = "passed_socket")]
    pub port: Option<u16>,
    /// On which address
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST), conflicts_with = "passed_socket")]
    pub host: IpAddr,
    /// Take the listening socket that a keeper passes instead (LISTEN_FDS)
    #[arg(long, conflicts_with = "port")]
    pub passed_socket: bool,
    /// The folder of the job pipeline and of the logs
    #[arg(long)]
    pub work: PathBuf,
    /// How long it boots before it is ready
    #[arg(long, default_value_t = 300, value_name = "MS")]
    pub boot_ms: u64,
    /// How many jobs a worker runs at once
    #[arg(long, default_value_t = 5)]
    pub jobs_at_once: usize,
    /// A bad release: it runs and never gets ready
    #[arg(long)]
    pub never_ready: bool,
    /// A bad release: it ends with this code as soon as it is up
    #[arg(long, value_name = "CODE")]
    pub exit_at_once: Option<u8>,
    /// A bad release: it dies so long after it got ready
    #[arg(long, value_name = "MS")]
    pub die_after_ms: Option<u64>,
    /// Does not listen to SIGTERM
    #[arg(long)]
    pub ignore_term: bool,
    /// Leaves a double-forked child behind, in a session of its own and deaf to SIGTERM
    #[arg(long)]
    pub stray_child: bool,
}

/// What the parts of one toy share.
pub struct Life {
    /// As started.
    pub options: ToyOptions,
    events: Log,
    jobs: Log,
    stage: watch::Sender<Stage>,
    /// Jobs or requests in flight.
    pub in_flight: AtomicUsize,
    /// Whether new work is refused, though it was not asked to end.
    draining: Mutex<bool>,
}

/// How far a toy's life has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Not ready yet.
    Booting,
    /// At work.
    Ready,
    /// Asked to end: takes no new work and finishes what it has.
    Ending,
}

/// Runs a toy to its end.
pub fn run(options: ToyOptions) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail("start a runtime", &error),
    };
    let name = options.instance.clone();
    match runtime.block_on(live(options)) {
        Ok(code) => code,
        Err(error) => fail(&format!("run {name}"), &error),
    }
}

fn fail(doing: &str, error: &dyn Display) -> ExitCode {
    eprintln!("cannot {doing}: {error}");
    ExitCode::FAILURE
}

async fn live(options: ToyOptions) -> io::Result<ExitCode> {
    // The handler first: a SIGTERM in the very first moment must find it.
    let mut term = signal(SignalKind::terminate())?;
    let life: &'static Life = Box::leak(Box::new(Life::begin(options)?));
    if let Some(code) = life.options.exit_at_once {
        life.event("exit", &[("code", &code)])?;
        return Ok(ExitCode::from(code));
    }
    if life.options.stray_child {
        leave_stray_child()?;
    }
    let listener = life.listen()?;
    println!("{} {} listens on {}", life.options.instance, life.options.version, listener.local_addr()?);

    let server = tokio::spawn(async move {
        if life.options.passed_socket {
            // Whoever connects to a shared socket is some instance's client: it is taken by one that can serve it.
            life.ready_or_ending().await;
        }
        http::serve(listener, life).await
    });
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(life.options.boot_ms)).await;
        if !life.options.never_ready {
            life.become_ready().await;
        }
    });
    tokio::spawn(async move {
        loop {
            term.recv().await;
            if life.options.ignore_term {
                println!("{} does not listen to SIGTERM", life.options.instance);
            } else {
                life.end();
            }
        }
    });

    match life.options.kind {
        ToyKind::Api => life.ending().await,
        ToyKind::Scheduler => office::schedule(life).await?,
        ToyKind::Executor => office::hand_out(life).await?,
        ToyKind::Worker => worker::work(life).await?,
    }
    // The API ends with its last request; the others have nothing left to answer for.
    if life.options.kind == ToyKind::Api {
        server.await.map_err(io::Error::other)??;
    }
    life.event("exit", &[("code", &0)])?;
    Ok(ExitCode::SUCCESS)
}

// === impl Life ===

impl Life {
    fn begin(options: ToyOptions) -> io::Result<Self> {
        for folder in ["incoming", "scheduled", "queue", "done"] {
            std::fs::create_dir_all(options.work.join(folder))?;
        }
        let events = Log::open(&options.work.join(EVENT_LOG))?;
        let jobs = Log::open(&options.work.join(super::jobs::JOB_LOG))?;
        let stage = watch::Sender::new(Stage::Booting);
        let life = Self { options, events, jobs, stage, in_flight: AtomicUsize::new(0), draining: Mutex::new(false) };
        life.event("up", &[("pid", &std::process::id())])?;
        Ok(life)
    }

    fn listen(&self) -> io::Result<TcpListener> {
        let listener = if self.options.passed_socket {
            passed_socket()?
        } else {
            TcpListener::bind((self.options.host, self.options.port.unwrap_or(0)))?
        };
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Writes an event of this toy.
    pub fn event(&self, what: &str, fields: &[(&str, &dyn Display)]) -> io::Result<()> {
        let mut all: Vec<(&str, &dyn Display)> =
            vec![("instance", &self.options.instance), ("version", &self.options.version)];
        all.extend_from_slice(fields);
        self.events.append(what, &all)
    }

    /// Writes a line about a job, signed with this toy's name as `role`.
    pub fn job(&self, what: &str, job: &str, role: &str) -> io::Result<()> {
        self.jobs.append(what, &[("job", &job), (role, &self.options.instance), ("version", &self.options.version)])
    }

    /// Writes an event that changes nothing if it cannot be written but must not go unnoticed.
    fn note(&self, what: &str, fields: &[(&str, &dyn Display)]) {
        if let Err(error) = self.event(what, fields) {
            eprintln!("cannot write the event {what}: {error}");
        }
    }

    /// The folder of that name in the work folder.
    pub fn folder(&self, name: &str) -> PathBuf {
        self.options.work.join(name)
    }

    /// How far it has come.
    pub fn stage(&self) -> Stage {
        *self.stage.borrow()
    }

    /// Whether it may take new work.
    pub fn takes_work(&self) -> bool {
        self.stage() == Stage::Ready && !self.is_draining()
    }

    /// Whether somebody asked it to drain.
    pub fn is_draining(&self) -> bool {
        *self.draining.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes no new work (or takes it again), on request and undoably.
    pub fn set_draining(&self, draining: bool) {
        let mut now = self.draining.lock().unwrap_or_else(PoisonError::into_inner);
        if *now != draining {
            *now = draining;
            self.note(if draining { "drain" } else { "resume" }, &[("inflight", &self.in_flight())]);
        }
    }

    /// Work in flight.
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Waits until it is asked to end.
    pub async fn ending(&self) {
        // The sender lives as long as `self`, so this wait cannot fail.
        self.stage.subscribe().wait_for(|stage| *stage == Stage::Ending).await.ok();
    }

    async fn ready_or_ending(&self) {
        self.stage.subscribe().wait_for(|stage| *stage > Stage::Booting).await.ok();
    }

    async fn become_ready(&self) {
        if self.stage() == Stage::Ending {
            return;
        }
        self.note("ready", &[]);
        self.stage.send_replace(Stage::Ready);
        notify("READY=1");
        if let Some(ms) = self.options.die_after_ms {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            eprintln!("{} has a fault and dies of it", self.options.instance);
            self.note("exit", &[("code", &1)]);
            std::process::exit(1);
        }
    }

    fn end(&self) {
        if self.stage.send_replace(Stage::Ending) != Stage::Ending {
            self.note("term", &[("inflight", &self.in_flight())]);
            notify("STOPPING=1");
        }
    }
}

/// Moves a file; `false` when another one was faster.
pub fn take(from: &Path, to: &Path) -> io::Result<bool> {
    match std::fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Tells whoever set NOTIFY_SOCKET (sd_notify(3)); nobody, when it is unset.
fn notify(state: &str) {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixDatagram};

    let Some(path) = std::env::var("NOTIFY_SOCKET").ok().filter(|path| !path.is_empty()) else { return };
    let told = UnixDatagram::unbound().and_then(|socket| {
        let address = match path.strip_prefix('@') {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        socket.send_to_addr(state.as_bytes(), &address)
    });
    if let Err(error) = told {
        eprintln!("cannot tell {state} to {path}: {error}");
    }
}

fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The listening socket that the parent passed.
fn passed_socket() -> io::Result<TcpListener> {
    let passed = std::env::var("LISTEN_FDS").ok().and_then(|count| count.parse::<u32>().ok()).unwrap_or(0);
    if passed == 0 {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no socket was passed: LISTEN_FDS is unset or 0"));
    }
    // A copy of one's own descriptor by its number, checked by the kernel instead of believed.
    let myself = rustix::process::pidfd_open(rustix::process::getpid(), rustix::process::PidfdFlags::empty())?;
    let copy = rustix::process::pidfd_getfd(&myself, FIRST_PASSED_SOCKET, rustix::process::PidfdGetfdFlags::empty())?;
    Ok(TcpListener::from(copy))
}

/// Starts a process that has nothing to do with its parent any more: another session, no terminal, deaf to SIGTERM.
fn leave_stray_child() -> io::Result<()> {
    let script = "(trap '' TERM; exec setsid sleep 3600) >/dev/null 2>&1 </dev/null &";
    std::process::Command::new("/bin/sh").args(["-c", script]).status().map(|_| ())
}
