//! What a component agent starts and reaps: its program, commands beside it, and orphans that were left to it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use rustix::process::WaitOptions;
use tokio::sync::oneshot;

use crate::model::ExitStatus;
use crate::sys::process::{self, Identity, PidFd};
use crate::sys::spawn::{self, Launch, SpawnError};

/// How long after SIGKILL a command is waited for.
const KILL_PATIENCE: Duration = Duration::from_secs(2);
/// Where a container's programs are when nobody says it.
const USUAL_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Why a program could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// It has no name.
    #[error("no program is named")]
    Nameless,
    /// It is in no folder of PATH.
    #[error("program {0} is in no folder of PATH; name it by its path in the container")]
    NotFound(String),
    /// It is there and nobody may execute it.
    #[error("program {0} is not executable; run `chmod +x` on it when the image is built")]
    NotExecutable(String),
    /// Our own folder or descriptors.
    #[error("cannot set up the new process")]
    Setup(#[source] io::Error),
    /// The kernel's word.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
}

impl StartError {
    /// Whether there is no such program.
    pub(super) fn is_missing(&self) -> bool {
        match self {
            StartError::NotFound(_) | StartError::Nameless => true,
            StartError::Spawn(SpawnError::Exec { source, .. }) => source.kind() == io::ErrorKind::NotFound,
            _ => false,
        }
    }
}

/// Where a child's standard input and output go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outlets {
    /// Where ours do: the program is what people read.
    Inherited,
    /// Nowhere: a probe may run four times a second.
    Nowhere,
}

/// A child that was started.
pub(super) struct Started {
    identity: Identity,
    pidfd: PidFd,
    end: oneshot::Receiver<ExitStatus>,
}

impl Started {
    pub(super) fn pid(&self) -> i32 {
        self.identity.pid
    }

    /// A signal to it alone.
    pub(super) fn signal(&self, signal: i32) -> io::Result<()> {
        self.pidfd.signal(signal)
    }

    /// How it has ended, if it was reaped.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
        match self.end.try_recv() {
            Ok(status) => Some(status),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(ExitStatus::Unknown),
        }
    }
}

/// The children, by pid until they are reaped.
#[derive(Default)]
pub(super) struct Children {
    awaited: Mutex<BTreeMap<i32, oneshot::Sender<ExitStatus>>>,
}

impl Children {
    /// Starts a program with our environment, in our working folder.
    pub(super) fn start(&self, argv: &[OsString], outlets: Outlets) -> Result<Started, StartError> {
        let name = argv.first().filter(|name| !name.is_empty()).ok_or(StartError::Nameless)?;
        let cwd = std::env::current_dir().map_err(StartError::Setup)?;
        let program = find(name, &cwd)?;
        let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let null = File::options().read(true).write(true).open("/dev/null").map_err(StartError::Setup)?;
        let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
        let [stdin, stdout, stderr] = match outlets {
            Outlets::Inherited => [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()],
            Outlets::Nowhere => [null.as_fd(); 3],
        };
        let launch = Launch {
            program: &program,
            argv,
            env: &env,
            cwd: &cwd,
            stdin,
            stdout,
            stderr,
            fds: &[],
            listen_pid: false,
        };
        let (told, end) = oneshot::channel();
        // It is known before anybody can reap it.
        let waiting = {
            let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = spawn::fork(&launch)?;
            awaited.insert(waiting.identity().pid, told);
            waiting
        };
        let identity = waiting.identity().clone();
        Ok(Started { identity, pidfd: waiting.release()?, end })
    }

    /// Reaps all that have ended, whoever their parent was.
    pub(super) fn reap(&self) {
        let mut awaited = self.awaited.lock().unwrap_or_else(PoisonError::into_inner);
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let end = match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => ExitStatus::Code(code),
                (None, Some(signal)) => ExitStatus::Signal(signal),
                (None, None) => ExitStatus::Unknown,
            };
            if let Some(told) = awaited.remove(&pid.as_raw_pid()) {
                // Nobody waits for one that has had its time.
                let _ = told.send(end);
            }
        }
    }

    /// Runs a command beside the program: its exit code, `None` where it had to be killed at the time-out.
    pub(super) async fn run(&self, argv: &[String], timeout: Duration) -> Result<Option<i32>, StartError> {
        let argv: Vec<OsString> = argv.iter().map(OsString::from).collect();
        let mut started = self.start(&argv, Outlets::Nowhere)?;
        let code = |end| match end {
            Ok(ExitStatus::Code(code)) => Some(code),
            Ok(ExitStatus::Signal(_) | ExitStatus::Unknown) | Err(_) => None,
        };
        match tokio::time::timeout(timeout, &mut started.end).await {
            Ok(end) => Ok(code(end)),
            Err(_) => {
                process::kill_session(&started.identity);
                let _ = tokio::time::timeout(KILL_PATIENCE, started.end).await;
                Ok(None)
            }
        }
    }
}

/// The file of a program, as a shell finds it.
fn find(name: &OsStr, cwd: &Path) -> Result<PathBuf, StartError> {
    if name.as_encoded_bytes().contains(&b'/') {
        return Ok(PathBuf::from(name));
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| USUAL_PATH.into());
    let files = std::env::split_paths(&path).map(|folder| cwd.join(folder).join(name));
    let mut found: Vec<PathBuf> = files.filter(|file| file.is_file()).collect();
    let text = || name.to_string_lossy().into_owned();
    if found.is_empty() {
        return Err(StartError::NotFound(text()));
    }
    let executable = |file: &PathBuf| file.metadata().is_ok_and(|about| about.permissions().mode() & 0o111 != 0);
    found.retain(executable);
    found.into_iter().next().ok_or_else(|| StartError::NotExecutable(text()))
}
