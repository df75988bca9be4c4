//! The component agent: parent of one program inside its own container, without the engine's socket.
//!
//! The main thread is an init: it passes signals on, reaps, and ends as the program ends. A second thread answers the
//! host agent on a Unix socket. Nothing is kept on disk: what the host agent has to know after a cut it asks again.

mod calls;
mod children;
mod service;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::event::{PollFd, PollFlags};

use self::children::{Children, Outlets, StartError};
use self::service::{Program, Service};
use crate::model::{ComponentName, ExitStatus};
use crate::sys::signals::SignalFd;
use crate::transport::{Address, ListenError, Listener};

/// What is passed on. KILL and STOP are the kernel's own; CHLD is for us; faults (SEGV and the like) are nobody else's.
const PASSED_ON: [i32; 14] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGURG,
    libc::SIGVTALRM,
    libc::SIGWINCH,
    libc::SIGIO,
    libc::SIGPWR,
];

/// What shells say of a program that is not there, of one that cannot be executed, and `timeout` of itself.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
const OWN_FAILURE: u8 = 125;

/// What a component agent needs to know.
#[derive(Clone, Debug)]
pub struct ComponentConfig {
    /// Whose agent it is.
    pub component: ComponentName,
    /// Where the host agent asks it.
    pub socket: PathBuf,
    /// The program and its arguments.
    pub program: Vec<OsString>,
}

/// Why the program did not run.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// Nobody could have asked.
    #[error(
        "cannot listen at {socket}; name a folder that this container's user may write with --socket (the program was \
         not started)"
    )]
    Socket {
        /// Where.
        socket: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Signals, threads, the poll.
    #[error("cannot {what}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The program itself.
    #[error(transparent)]
    Program(StartError),
}

impl ComponentError {
    /// The exit code that a shell would have for it.
    pub fn exit_code(&self) -> u8 {
        match self {
            ComponentError::Program(error) if error.is_missing() => NOT_FOUND,
            ComponentError::Program(_) => NOT_EXECUTABLE,
            ComponentError::Socket { .. } | ComponentError::System { .. } => OWN_FAILURE,
        }
    }
}

/// Runs the program and answers for it until it ends. Returns its exit code, 128 + n after signal n. To be called first
/// thing in a process of its own with a single thread.
///
/// # Errors
/// When the program could not be started. It was not, then.
pub fn run(config: ComponentConfig) -> Result<u8, ComponentError> {
    let failed = |what: &'static str| move |source: io::Error| ComponentError::System { what, source };
    // Before any other thread is there: all of them are to have these blocked, or one might take a signal's default.
    let signals =
        SignalFd::new(&[PASSED_ON.as_slice(), &[libc::SIGCHLD]].concat()).map_err(failed("receive signals"))?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .map_err(|errno| failed("become a subreaper")(errno.into()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed("start"))?;
    let listener = runtime.block_on(listen(&config.socket))?;

    let children = Arc::new(Children::default());
    // A socket of nobody would be found stale at the next start; it is no harm if it cannot be removed.
    let leave = || drop(std::fs::remove_file(&config.socket));
    let mut started = children.start(&config.program, Outlets::Inherited).map_err(|error| {
        leave();
        ComponentError::Program(error)
    })?;
    let program = Arc::new(Program::new(config.component.clone(), started.pid()));
    let service = Service::new(program.clone(), children.clone());
    std::thread::Builder::new()
        .name("answers".to_owned())
        .spawn(move || runtime.block_on(service.serve(listener)))
        .map_err(failed("start a thread"))?;
    loop {
        match rustix::event::poll(&mut [PollFd::new(&signals, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(failed("wait for signals")(errno.into())),
        }
        while let Some(signal) = signals.next().map_err(failed("receive a signal"))? {
            if signal == libc::SIGCHLD {
                children.reap();
            } else if let Err(error) = started.signal(signal) {
                // As another user than ours, most likely: then it is for that user to end.
                tracing::warn!(signal, why = %error, "a signal could not be passed on");
            }
        }
        if let Some(status) = started.ended() {
            let code = exit_code(status);
            program.end(code);
            leave();
            return Ok(code);
        }
    }
}

async fn listen(socket: &Path) -> Result<Listener, ComponentError> {
    let failed =
        |source: Box<dyn std::error::Error + Send + Sync>| ComponentError::Socket { socket: socket.to_owned(), source };
    if let Some(folder) = socket.parent() {
        std::fs::create_dir_all(folder).map_err(|error| failed(error.into()))?;
    }
    let listener = Listener::bind(&Address::Unix(socket.to_owned()), None).await;
    listener.map_err(|error: ListenError| failed(error.into()))
}

/// What a shell says of an end.
fn exit_code(status: ExitStatus) -> u8 {
    let code = match status {
        ExitStatus::Code(code) => code,
        ExitStatus::Signal(signal) => 128 + signal,
        ExitStatus::Unknown => i32::from(OWN_FAILURE),
    };
    u8::try_from(code & 0xff).unwrap_or(OWN_FAILURE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_as_a_shell_tells_it() {
        assert_eq!(exit_code(ExitStatus::Code(0)), 0);
        assert_eq!(exit_code(ExitStatus::Code(42)), 42);
        assert_eq!(exit_code(ExitStatus::Signal(15)), 143);
        assert_eq!(exit_code(ExitStatus::Signal(9)), 137);
    }
}
