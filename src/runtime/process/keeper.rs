//! The keeper: the small parent process of one slot's processes. It is told what to do over a Unix socket and decides
//! nothing but when to start a crashed instance again.
//!
//! One thread and one poll; it sleeps until something happens. Everything that must outlive it is on disk before it is
//! told (`files`), so that the next keeper can go on where a killed one was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec};

use super::files::{self, SlotFolder};
use super::keeper_exec::Exec;
use super::keeper_instance::Instance;
use super::keeper_serve::Client;
use super::keeper_sockets::Sockets;
use super::record::{Run, SlotRecord, State};
use super::{keeper_notify, protocol};
use crate::sys::process;
use crate::sys::signals::SignalFd;

/// How long a new keeper waits for the one before it to let go of the slot.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);
/// How often logs are looked at while something runs.
const LOG_CHECK: Duration = Duration::from_secs(5);
/// The same while a log grows fast.
const LOG_CHECK_FAST: Duration = Duration::from_millis(250);
/// How long until a state that could not be written is written again.
const SAVE_AGAIN: Duration = Duration::from_secs(1);
/// How long until the next try after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// A keeper's own log is begun anew at its start beyond this size.
const OWN_LOG_MAX: u64 = 1 << 20;

/// What a keeper may be told at its start.
#[derive(Clone, Debug)]
pub struct KeeperOptions {
    /// A log is rotated when it is larger, in bytes.
    pub log_limit: u64,
    /// How long it stays with no instance and no request.
    pub idle: Duration,
    /// How long it waits before it starts a crashed instance again for the first time; doubles each time.
    pub back_off: Duration,
    /// The longest such wait.
    pub back_off_max: Duration,
    /// An instance that ran so long is not taken for one that crashes again and again.
    pub steady: Duration,
}

impl Default for KeeperOptions {
    fn default() -> Self {
        Self {
            log_limit: 10 << 20,
            idle: Duration::from_secs(3),
            back_off: Duration::from_millis(100),
            back_off_max: Duration::from_secs(10),
            steady: Duration::from_secs(10),
        }
    }
}

/// Why a keeper could not begin.
#[derive(Debug, thiserror::Error)]
enum KeeperError {
    /// Its folder, a record in it, or its sockets.
    #[error("keeper of {folder}: cannot {what}")]
    Io {
        /// Whose.
        folder: PathBuf,
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Keeps one slot until nothing is left in it. Returns the process's exit code: 0 also when another keeper has it.
/// To be called first thing in a process of its own with a single thread.
///
/// `folder` is the slot's folder; it is made when it is not there.
pub fn keeper_main(folder: &Path, options: &KeeperOptions) -> u8 {
    match Keeper::begin(folder, options) {
        Ok(Some(mut keeper)) => match keeper.run() {
            Ok(()) => 0,
            Err(error) => {
                say(&format!("ends: {}", protocol::chain(&error)));
                1
            }
        },
        Ok(None) => 0,
        Err(error) => {
            say(&protocol::chain(&error));
            1
        }
    }
}

/// One line in the keeper's own log. A full disk must not end it.
pub(super) fn say(text: &str) {
    let now = humantime::format_rfc3339_millis(SystemTime::now());
    let _ = writeln!(io::stderr(), "{now} {text}");
}

/// Everything of a running keeper.
pub(super) struct Keeper {
    pub(super) folder: SlotFolder,
    /// The folder's path as processes carry it.
    pub(super) folder_text: String,
    pub(super) options: KeeperOptions,
    pub(super) pid: i32,
    pub(super) instances: BTreeMap<u64, Instance>,
    pub(super) sockets: Sockets,
    /// What the record of the sockets says.
    saved_sockets: SlotRecord,
    pub(super) clients: BTreeMap<u64, Client>,
    pub(super) next_client: u64,
    pub(super) execs: Vec<Exec>,
    /// What programs are told to send their notifications to.
    pub(super) notify_address: String,
    pub(super) last_request: Instant,
    pub(super) shutdown: bool,
    listener: UnixListener,
    notify: UnixDatagram,
    signals: SignalFd,
    next_log_check: Instant,
    save_again: Option<Instant>,
    _lock: OwnedFd,
}

/// What a poll was about.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Listener,
    Notify,
    Client(u64),
    Main(u64),
    Exec(usize),
}

impl Keeper {
    fn begin(folder: &Path, options: &KeeperOptions) -> Result<Option<Keeper>, KeeperError> {
        let at = |what: &'static str| {
            let folder = folder.to_owned();
            move |source: io::Error| KeeperError::Io { folder, what, source }
        };
        let absolute = std::path::absolute(folder).map_err(at("find its folder"))?;
        let slot = SlotFolder::new(&absolute);
        slot.create().map_err(at("make its folder"))?;
        let Some(lock) = lock(&slot).map_err(at("lock its folder"))? else {
            say("another keeper has this slot");
            return Ok(None);
        };
        begin_own_log_anew(&slot);
        let signals = SignalFd::new(&[libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP])
            .map_err(at("receive signals"))?;
        rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
            .map_err(|errno| at("become a subreaper")(errno.into()))?;
        // Sockets are made for this user alone; instances get the mask that this process was started with.
        let mask = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
        let made = keeper_notify::bind(&slot).and_then(|notify| Ok((bind_control(&slot)?, notify)));
        rustix::process::umask(mask);
        let (listener, (notify, notify_address)) = made.map_err(at("bind its sockets"))?;
        let now = Instant::now();
        let mut keeper = Keeper {
            folder_text: absolute.display().to_string(),
            folder: slot,
            options: options.clone(),
            pid: rustix::process::getpid().as_raw_pid(),
            instances: BTreeMap::new(),
            sockets: Sockets::default(),
            saved_sockets: SlotRecord::default(),
            clients: BTreeMap::new(),
            next_client: 1,
            execs: Vec::new(),
            notify_address,
            last_request: now,
            shutdown: false,
            listener,
            notify,
            signals,
            next_log_check: now,
            save_again: None,
            _lock: lock,
        };
        keeper.adopt().map_err(at("read the records of its slot"))?;
        say(&format!("keeps the slot with {} instances as process {}", keeper.instances.len(), keeper.pid));
        Ok(Some(keeper))
    }

    /// Goes on with what the keeper before it has left.
    fn adopt(&mut self) -> io::Result<()> {
        let now = Instant::now();
        for number in self.folder.numbers()? {
            let Some(state) = files::read_json::<State>(&self.folder.state(number))? else { continue };
            self.instances.insert(number, Instance::new(state));
        }
        self.remove_leavings()?;
        let boot_id = process::boot_id()?;
        let numbers: Vec<u64> = self.instances.keys().copied().collect();
        for &number in &numbers {
            let Some(instance) = self.instances.get_mut(&number) else { continue };
            match instance.state.run.clone() {
                Run::Running { main } => match main.open()? {
                    Some(pidfd) => {
                        say(&format!("adopts {} as process {}", instance.state.instance, main.pid));
                        instance.adopted(pidfd, now);
                    }
                    None => {
                        let rebooted = main.boot_id != boot_id;
                        say(&format!("{} has ended unseen", instance.state.instance));
                        self.ended(number, crate::model::ExitStatus::Unknown);
                        if rebooted {
                            self.start_at_once(number);
                        }
                    }
                },
                Run::Restarting => self.start_at_once(number),
                Run::Created | Run::Exited => {}
            }
        }
        let record = files::read_json::<SlotRecord>(&self.folder.slot_record())?.unwrap_or_default();
        let holders = self.everybody()?;
        for socket in &record.sockets {
            if let Err(error) = self.sockets.take_back(socket, &holders) {
                say(&format!("cannot take back the socket of port {}: {error}", socket.at.port));
            }
        }
        self.saved_sockets = record;
        for &number in &numbers {
            self.reserve_chosen(number);
        }
        self.bind_again();
        self.drop_unused_sockets();
        Ok(())
    }

    /// Folders of instances that were never finished, or whose removal was not.
    fn remove_leavings(&self) -> io::Result<()> {
        for entry in std::fs::read_dir(self.folder.instances())? {
            let entry = entry?;
            let number = entry.file_name().to_str().and_then(|name| name.parse::<u64>().ok());
            if number.is_some_and(|number| !self.instances.contains_key(&number)) {
                std::fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    fn run(&mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            // Notifications first: their senders may be zombies that are about to be reaped, and nobody could say any
            // more whose they were.
            if ready.iter().any(|source| matches!(source, Source::Notify | Source::Signals)) {
                self.hear_notifications();
            }
            for source in ready {
                match source {
                    Source::Signals => self.hear_signals()?,
                    Source::Listener => self.accept(),
                    Source::Notify => {}
                    Source::Client(id) => self.serve(id),
                    Source::Main(number) => self.main_ended_unseen(number),
                    Source::Exec(at) => self.read_exec(at),
                }
            }
            self.timers();
            if self.shutdown || self.is_idle() {
                let _ = std::fs::remove_file(self.folder.path().join(protocol::SOCKET));
                say(if self.shutdown { "ends; instances run on" } else { "ends: nothing is left in this slot" });
                return Ok(());
            }
        }
    }

    fn wait(&self) -> io::Result<Vec<Source>> {
        let mut sources = vec![Source::Signals, Source::Listener, Source::Notify];
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
            PollFd::new(&self.notify, PollFlags::IN),
        ];
        for (&id, client) in &self.clients {
            let writing = if client.has_output() { PollFlags::OUT } else { PollFlags::empty() };
            sources.push(Source::Client(id));
            fds.push(PollFd::from_borrowed_fd(client.fd(), PollFlags::IN | writing));
        }
        for (&number, instance) in &self.instances {
            if let Some(fd) = instance.watched() {
                sources.push(Source::Main(number));
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
        }
        for (at, exec) in self.execs.iter().enumerate() {
            if let Some(fd) = exec.output() {
                sources.push(Source::Exec(at));
                fds.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
        }
        let now = Instant::now();
        let timeout = self.next_deadline().map(|at| at.saturating_duration_since(now));
        let timeout = timeout.and_then(|span| Timespec::try_from(span).ok());
        match rustix::event::poll(&mut fds, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(sources.into_iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty()).map(|(source, _)| source).collect())
    }

    fn hear_signals(&mut self) -> io::Result<()> {
        while let Some(signal) = self.signals.next()? {
            match signal {
                libc::SIGTERM | libc::SIGINT => self.shutdown = true,
                libc::SIGCHLD => self.reap(),
                _ => {}
            }
        }
        Ok(())
    }

    fn hear_notifications(&mut self) {
        // Bounded: a program that never stops talking must not keep the keeper from its work.
        for _ in 0..64 {
            match keeper_notify::receive(self.notify.as_fd()) {
                Ok(Some(notification)) => self.notified(&notification),
                Ok(None) => return,
                Err(error) => {
                    say(&format!("cannot receive notifications: {error}"));
                    return;
                }
            }
        }
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((stream, _)) => self.welcome(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                // Most likely no descriptor is free, and that does not change at once.
                say(&format!("cannot accept a connection: {error}"));
                std::thread::sleep(ACCEPT_AGAIN);
            }
        }
    }

    fn timers(&mut self) {
        let now = Instant::now();
        self.instance_timers(now);
        self.exec_timers(now);
        if self.save_again.is_some_and(|at| at <= now) {
            self.save_again = None;
            self.save_unsaved();
        }
        if self.anything_runs() && self.next_log_check <= now {
            let fast = self.check_logs();
            self.next_log_check = now + if fast { LOG_CHECK_FAST } else { LOG_CHECK };
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let logs = self.anything_runs().then_some(self.next_log_check);
        let idle = (self.instances.is_empty() && self.execs.is_empty()).then(|| self.last_request + self.options.idle);
        let instances = self.instances.values().filter_map(Instance::next_deadline).min();
        let execs = self.execs.iter().map(Exec::deadline).min();
        [logs, idle, instances, execs, self.save_again].into_iter().flatten().min()
    }

    fn anything_runs(&self) -> bool {
        self.instances.values().any(|instance| instance.state.main().is_some())
    }

    fn is_idle(&self) -> bool {
        self.instances.is_empty() && self.execs.is_empty() && self.last_request.elapsed() >= self.options.idle
    }

    /// A state could not be written: it is tried again until it can.
    pub(super) fn try_saving_again(&mut self) {
        self.save_again.get_or_insert(Instant::now() + SAVE_AGAIN);
    }

    /// Looks at logs soon: something has just begun to write.
    pub(super) fn watch_logs(&mut self) {
        self.next_log_check = self.next_log_check.min(Instant::now() + LOG_CHECK_FAST);
    }

    /// Lets go of sockets that no instance needs: of one that ended for good, connections are refused and not left
    /// waiting for nobody.
    pub(super) fn drop_unused_sockets(&mut self) {
        let used: BTreeSet<_> = self
            .instances
            .values()
            .filter(|instance| instance.state.run != Run::Exited)
            .flat_map(|instance| instance.state.passed.iter().map(|passed| passed.at.clone()))
            .collect();
        if self.sockets.keep_only(&used) {
            self.save_sockets();
        }
    }

    /// Writes down which sockets there are. Without it a later keeper could not take them back, nothing worse.
    /// With the host the sockets go, so the record need not outlive it.
    pub(super) fn save_sockets(&mut self) {
        let saved = self.sockets.record().and_then(|record| {
            if record != self.saved_sockets {
                files::write_json(&self.folder.slot_record(), &record, files::Durability::Whole)?;
                self.saved_sockets = record;
            }
            Ok(())
        });
        if let Err(error) = saved {
            say(&format!("cannot record the sockets: {error}"));
        }
    }
}

/// The lock that only one keeper of a slot can have; `None` when another keeps it.
fn lock(folder: &SlotFolder) -> io::Result<Option<OwnedFd>> {
    use rustix::fs::{FlockOperation, Mode, OFlags};
    let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(folder.lock(), flags, Mode::from_raw_mode(0o600))?;
    let begun = Instant::now();
    let open = File::open(folder.path())?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Some(file)),
            // One that is just ending holds it a little longer.
            Err(rustix::io::Errno::WOULDBLOCK) if begun.elapsed() < LOCK_PATIENCE => {
                if std::os::unix::net::UnixStream::connect(files::short_path(&open, protocol::SOCKET)).is_ok() {
                    return Ok(None);
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        }
    }
}

fn bind_control(folder: &SlotFolder) -> io::Result<UnixListener> {
    // What a killed keeper left; the lock says that nobody listens there.
    match std::fs::remove_file(folder.path().join(protocol::SOCKET)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let open = File::open(folder.path())?;
    let listener = UnixListener::bind(files::short_path(&open, protocol::SOCKET))?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Bounds the keeper's own log, if stderr is that file.
fn begin_own_log_anew(folder: &SlotFolder) {
    let path = folder.keeper_log();
    if std::fs::metadata(&path).is_ok_and(|about| about.len() > OWN_LOG_MAX)
        && let Ok(file) = File::options().write(true).open(&path)
    {
        let _ = file.set_len(0);
    }
}
