//! Starting an instance's program: its environment, its descriptors, its place in the records.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::files::{self, Durability};
use super::keeper::{Keeper, say};
use super::keeper_instance::no_such;
use super::logs;
use super::members;
use super::protocol::{chain, refused, retryable};
use super::record::{Private, Run};
use super::release::words;
use crate::model::{Endpoint, FailureKind};
use crate::runtime::RuntimeError;
use crate::sys::spawn::{self, Launch, SpawnError};

/// What a program gets of the environment that its keeper was started in; everything else is in its definition.
pub(super) const INHERITED: [&str; 5] = ["HOME", "LANG", "PATH", "TZ", "USER"];
/// Where programs are looked for when the keeper itself has no PATH.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// How long what a former main process left behind may take to be gone before the next one starts.
const LEFTOVERS_PATIENCE: Duration = Duration::from_secs(2);

impl Keeper {
    /// Starts a created or ended instance; one that runs or is about to be started again: success.
    pub(super) fn start(&mut self, number: u64) -> Result<Endpoint, RuntimeError> {
        let instance = self.instances.get_mut(&number).ok_or_else(|| no_such(number))?;
        if instance.killing.is_some() {
            let text = format!("instance {} is being killed", instance.state.instance);
            return Err(retryable(FailureKind::Refused, text));
        }
        match instance.state.run {
            Run::Running { .. } => self.allow(number)?,
            // Somebody asks, so the cause may have gone: what is left of a back-off is not waited for.
            Run::Created | Run::Exited | Run::Restarting => {
                instance.back_off = None;
                self.start_process(number, false)?;
                if let Some(instance) = self.instances.get_mut(&number) {
                    instance.restart_at = None;
                }
            }
        }
        self.instances.get(&number).map(|instance| instance.state.endpoint()).ok_or_else(|| no_such(number))
    }

    /// Forks, writes down who it is, and lets it go. With `again`, as a restart.
    pub(super) fn start_process(&mut self, number: u64, again: bool) -> Result<(), RuntimeError> {
        self.kill_leftovers(number)?;
        self.remember_families(number);
        let former = self.instances.get(&number).ok_or_else(|| no_such(number))?.state.clone();
        let name = former.instance.clone();
        let broken = |what: &str, error: &std::io::Error| {
            refused(FailureKind::Missing, format!("{what} of {name}: {}", words(error)))
        };
        let private: Private = files::read_json(&self.folder.definition(number))
            .and_then(|found| found.ok_or_else(|| std::io::ErrorKind::NotFound.into()))
            .map_err(|error| broken("the definition", &error))?;
        let log = logs::open(&self.folder, &name).map_err(|error| broken("the log", &error))?;
        let null = File::open("/dev/null").map_err(|error| broken("the standard input", &error))?;
        for passed in &former.passed {
            self.sockets.bind(&passed.at)?;
        }
        let fds = former.passed.iter().map(|passed| self.sockets.listen(&passed.at)).collect::<Result<Vec<_>, _>>()?;

        let mut env = self.environment(&private, &name.to_string());
        env.insert("NOTIFY_SOCKET".into(), self.notify_address.clone().into());
        if !fds.is_empty() {
            let names: Vec<&str> = former.passed.iter().map(|passed| passed.name.as_str()).collect();
            env.insert("LISTEN_FDS".into(), fds.len().to_string().into());
            env.insert("LISTEN_FDNAMES".into(), names.join(":").into());
        }
        let program = find_program(&private, &env)?;
        let argv: Vec<OsString> = private.argv.iter().map(OsString::from).collect();
        let env: Vec<(OsString, OsString)> = env.into_iter().collect();
        let waiting = spawn::fork(&Launch {
            program: &program,
            argv: &argv,
            env: &env,
            cwd: Path::new(&private.cwd),
            stdin: null.as_fd(),
            stdout: log.as_fd(),
            stderr: log.as_fd(),
            fds: &fds,
            listen_pid: !fds.is_empty(),
        })
        .map_err(|error| cannot_start(&error))?;

        let mut state = former.clone();
        state.run = Run::Running { main: waiting.identity().clone() };
        state.last_main = Some(waiting.identity().clone());
        state.exit = None;
        state.notified = false;
        state.signals.clear();
        state.held = state.held && again;
        state.restarts += u32::from(again);
        // On disk before it is the program. If this keeper ends here, the gate never opens.
        self.replace_state(number, state, Durability::Synced)?;
        self.save_sockets();
        let identity = waiting.identity().clone();
        if let Some(instance) = self.instances.get_mut(&number) {
            instance.reserved.clear();
            instance.known.clear();
        }
        match waiting.release() {
            Ok(pidfd) => {
                if let Some(instance) = self.instances.get_mut(&number) {
                    instance.main = Some(pidfd);
                    instance.child = true;
                    instance.started = Some(Instant::now());
                }
                say(&format!("started {name} as process {}", identity.pid));
                self.watch_logs();
                self.changed(number);
                Ok(())
            }
            Err(error) => {
                // It never was the program: as if it had not been tried.
                if let Some(instance) = self.instances.get_mut(&number) {
                    instance.state = former;
                    instance.unsaved = true;
                }
                self.save_unsaved();
                self.reserve_chosen(number);
                self.drop_unused_sockets();
                self.changed(number);
                Err(cannot_start(&error))
            }
        }
    }

    /// Two incarnations of one instance never run beside each other, not even in parts.
    fn kill_leftovers(&self, number: u64) -> Result<(), RuntimeError> {
        let begun = Instant::now();
        loop {
            let living = self.with_family(number, |family| family.living()).map_err(|error| {
                retryable(FailureKind::Refused, format!("cannot look for what is left of it: {}", words(&error)))
            })?;
            if living.is_empty() {
                return Ok(());
            }
            members::kill_all(&living);
            if begun.elapsed() >= LEFTOVERS_PATIENCE {
                let pids: Vec<String> = living.iter().map(|identity| identity.pid.to_string()).collect();
                let text = format!("processes {} of its last run do not go; end them", pids.join(", "));
                return Err(retryable(FailureKind::Refused, text));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The environment of a program that runs for or beside an instance.
    pub(super) fn environment(&self, private: &Private, instance: &str) -> BTreeMap<OsString, OsString> {
        let mut env: BTreeMap<OsString, OsString> = INHERITED
            .iter()
            .filter_map(|name| std::env::var_os(name).map(|value| (OsString::from(name), value)))
            .collect();
        env.entry("PATH".into()).or_insert_with(|| PATH_DEFAULT.into());
        env.extend(private.env.iter().map(|(name, value)| (name.into(), value.into())));
        env.insert(members::INSTANCE.into(), instance.into());
        env.insert(members::SLOT_FOLDER.into(), self.folder_text.clone().into());
        env
    }
}

/// The file to execute: as a shell would find it, in the program's own PATH.
pub(super) fn find_program(private: &Private, env: &BTreeMap<OsString, OsString>) -> Result<PathBuf, RuntimeError> {
    let name = private.argv.first().filter(|name| !name.is_empty());
    let name = name.ok_or_else(|| refused(FailureKind::Refused, "command names no program"))?;
    find_executable(name, &private.cwd, env)
}

/// See [`find_program`].
pub(super) fn find_executable(
    name: &str,
    cwd: &str,
    env: &BTreeMap<OsString, OsString>,
) -> Result<PathBuf, RuntimeError> {
    if name.contains('/') {
        return Ok(PathBuf::from(name));
    }
    let path = env.get(std::ffi::OsStr::new("PATH")).cloned().unwrap_or_default();
    let executable = |file: &PathBuf| {
        // A relative folder in PATH is meant from the working folder.
        let about = std::fs::metadata(Path::new(cwd).join(file));
        about.is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
    };
    std::env::split_paths(&path)
        .map(|folder| folder.join(name))
        .find(executable)
        .ok_or_else(|| refused(FailureKind::Missing, format!("program {name} is in no folder of PATH")))
}

/// What a person makes of a program that cannot be started.
fn cannot_start(error: &SpawnError) -> RuntimeError {
    match error {
        SpawnError::Exec { program, source } => {
            let kind = match source.kind() {
                std::io::ErrorKind::NotFound => FailureKind::Missing,
                _ => FailureKind::Refused,
            };
            refused(kind, format!("cannot execute {program}: {}", words(source)))
        }
        SpawnError::Cwd { cwd, source } => {
            refused(FailureKind::Missing, format!("cannot enter the working folder {cwd}: {}", words(source)))
        }
        SpawnError::Nul(_) => refused(FailureKind::Refused, chain(error)),
        SpawnError::Fork(_) | SpawnError::Setup(_) => retryable(FailureKind::Refused, chain(error)),
    }
}
