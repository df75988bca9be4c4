//! The data plane: the API's front door, a process of its own.
//!
//! A request meets, in this order: `serve` (a client's connection), `forward` (which target, and what if there is
//! none),
//! `listener` (the table in use), `target` (may it, and how much is in flight), `pool` (a connection to it), `body` and
//! `upgrade` (what is streamed, and ends with it). Control comes from the other side: `control` (the socket), `switch`
//! (written down, proven, swapped), `store` (the file).
//!
//! Nothing here asks anybody before it serves: without a coordinator and without an agent the last table stays in use.

mod body;
pub mod control;
mod crew;
mod forward;
mod front;
mod haproxy;
mod headers;
mod io;
mod limits;
mod listener;
mod pool;
mod serve;
mod shutdown;
mod store;
mod switch;
mod target;
mod unix;
mod upgrade;
mod websocket;

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::FlockOperation;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use self::store::StoreError;
use crate::model::{ComponentName, Proxy};
use crate::sys::listen_fds::{self, ListenFdsError};
use crew::Crew;
use limits::{CONNECTIONS_MAX, SHUTDOWN_MAX, SWEEP_EVERY, TARGET_IDLE_MAX};
use serve::Shared;
use shutdown::Shutdown;
use store::Store;
use switch::Switch;

/// What a gateway needs to begin.
#[derive(Debug)]
pub struct GatewayConfig {
    /// Its state: the table, the control socket, a lock. Made with mode 0700 if it is not there.
    pub dir: PathBuf,
    /// Listening sockets by name, beside those that the environment passes (`LISTEN_FDS`).
    pub listeners: Vec<(String, std::net::TcpListener)>,
    /// Where requests go before the first table, at most one for each listener.
    pub backends: Vec<Backend>,
    /// Other proxies that are told the tables of these components.
    pub fronts: Vec<(ComponentName, Proxy)>,
}

/// Where the requests for a component go until a first table says it: what a gateway that Compose has just started for
/// the first time works with. It is in no file and gives way to the first table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// The listener's name.
    pub component: ComponentName,
    /// Host name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

/// Why a gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// The state directory cannot be used.
    #[error("failed to use {path} as the gateway's state directory")]
    Dir {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Another gateway has it.
    #[error("another gateway runs with the state directory {path}: stop it first, or use another directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// The last table cannot be read.
    #[error("failed to load the gateway's last table")]
    Store(#[source] StoreError),
    /// Passed sockets cannot be taken.
    #[error("failed to take the passed listening sockets")]
    ListenFds(#[source] ListenFdsError),
    /// Nothing to listen on.
    #[error("no listening socket: a keeper passes them in LISTEN_FDS, named in LISTEN_FDNAMES")]
    NoListener,
    /// Two sockets have the same name.
    #[error("two listening sockets are named {name:?}: a listener has one")]
    SameName {
        /// The name.
        name: String,
    },
    /// A socket is not one to accept connections on.
    #[error("the socket passed as listener {name:?} does not accept TCP connections")]
    Listener {
        /// Its name.
        name: String,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The control socket cannot be opened.
    #[error("failed to open the control socket {path}")]
    Control {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The control socket broke.
    #[error("failed to serve the control socket")]
    ControlServe(#[source] tonic::transport::Error),
    /// The threads that carry traffic cannot be started.
    #[error("failed to start the threads that carry traffic")]
    Threads(#[source] std::io::Error),
    /// SIGTERM cannot be heard.
    #[error("failed to listen for signals")]
    Signal(#[source] std::io::Error),
    /// Whoever waits for us to be ready cannot be told.
    #[error("failed to report readiness to NOTIFY_SOCKET")]
    Notify(#[source] std::io::Error),
}

/// Runs a gateway until SIGTERM or SIGINT: then nothing new is accepted, what is in flight has 30 s to finish, and
/// upgraded connections are closed properly. Dropping the future ends it at once.
///
/// # Errors
/// When it cannot begin: the state directory is unusable or taken, the last table is damaged, or there is nothing to
/// listen on.
pub async fn run(config: GatewayConfig) -> Result<(), GatewayError> {
    let GatewayConfig { dir, listeners, backends, fronts } = config;
    let _lock = claim(&dir)?;
    let store = Store::open(&dir).map_err(GatewayError::Store)?;
    let sockets = sockets(listeners, fronts.is_empty())?;
    let mut terminate = signal(SignalKind::terminate()).map_err(GatewayError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(GatewayError::Signal)?;
    let path = dir.join("control.sock");
    let control = unix::listen(&path).map_err(|source| GatewayError::Control { path, source })?;

    let switch = Switch::new(sockets.iter().map(|(name, _)| name.clone()), store, &backends, fronts).await;
    let shutdown = Shutdown::new();
    let shared = Shared { connections: Arc::new(Semaphore::new(connections_max())), held: Arc::default() };
    let crew = Arc::new(Crew::start().map_err(GatewayError::Threads)?);
    let mut tasks = JoinSet::new();
    for (name, socket) in sockets {
        let Ok(listener) = switch.listener(&name) else { continue };
        tasks.spawn(serve::accept(socket, Arc::clone(listener), shared.clone(), Arc::clone(&crew), shutdown.stop()));
    }
    tasks.spawn(sweep(Arc::clone(&switch)));
    for front in switch.fronts() {
        tasks.spawn(front::keep(Arc::clone(front)));
    }
    let mut control = AbortOnDrop(tokio::spawn(control::serve(control, Arc::clone(&switch), shutdown.watch())));
    unix::notify_ready().map_err(GatewayError::Notify)?;
    let names: Vec<_> = switch.listeners().map(|l| l.name()).collect();
    tracing::info!(dir = %dir.display(), listeners = ?names, "serving");

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        ended = &mut control.0 => {
            // Traffic does not depend on control, but a gateway that cannot be told anything is a broken one: its
            // keeper
            // starts another, with the same table.
            if let Ok(Err(error)) = ended {
                shutdown.finish(SHUTDOWN_MAX).await;
                return Err(GatewayError::ControlServe(error));
            }
        }
    }
    tracing::info!(limit = ?SHUTDOWN_MAX, "ending: finishing what is in flight");
    if !shutdown.finish(SHUTDOWN_MAX).await {
        tracing::warn!(limit = ?SHUTDOWN_MAX, "ended with requests in flight");
    }
    Ok(())
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes the state directory ours. The lock ends with the process, however that ends.
fn claim(dir: &std::path::Path) -> Result<File, GatewayError> {
    let unusable = |source| GatewayError::Dir { path: dir.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(unusable)?;
    let path = dir.join("lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path).map_err(unusable)?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(GatewayError::InUse { path: dir.to_owned() }),
        Err(error) => Err(unusable(error.into())),
    }
}

/// The passed sockets and those of the environment, ready to accept.
fn sockets(
    mut given: Vec<(String, std::net::TcpListener)>,
    needed: bool,
) -> Result<Vec<(String, tokio::net::TcpListener)>, GatewayError> {
    let passed = listen_fds::take().map_err(GatewayError::ListenFds)?;
    given.extend(passed.into_iter().map(|(name, fd)| (name, std::net::TcpListener::from(fd))));
    if given.is_empty() && needed {
        return Err(GatewayError::NoListener);
    }
    let mut names = BTreeSet::new();
    if let Some((name, _)) = given.iter().find(|(name, _)| !names.insert(name.clone())) {
        return Err(GatewayError::SameName { name: name.clone() });
    }
    let open = |socket: std::net::TcpListener| -> std::io::Result<tokio::net::TcpListener> {
        socket.local_addr()?;
        if !rustix::net::sockopt::socket_acceptconn(&socket)? {
            return Err(std::io::Error::other("it is not listening"));
        }
        socket.set_nonblocking(true)?;
        tokio::net::TcpListener::from_std(socket)
    };
    given
        .into_iter()
        .map(|(name, socket)| match open(socket) {
            Ok(socket) => Ok((name, socket)),
            Err(source) => Err(GatewayError::Listener { name, source }),
        })
        .collect()
}

/// How many clients' connections this process may have: the limit, or what its descriptors allow. A connection needs
/// one
/// to the client and one to a target; a few more are for files and control.
fn connections_max() -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const OTHER: usize = 64;
    let limit = getrlimit(Resource::Nofile);
    let wanted = u64::try_from(2 * CONNECTIONS_MAX + OTHER).unwrap_or(u64::MAX);
    let raised = limit.maximum.map_or(wanted, |most| most.min(wanted)).max(limit.current.unwrap_or(u64::MAX));
    if limit.current.is_some()
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum: limit.maximum })
    {
        tracing::warn!(%error, "failed to raise the limit of open files");
    }
    let open = getrlimit(Resource::Nofile).current.and_then(|open| usize::try_from(open).ok()).unwrap_or(usize::MAX);
    (open.saturating_sub(OTHER) / 2).clamp(1, CONNECTIONS_MAX)
}

/// Closes idle connections to targets that nobody needed for a while.
async fn sweep(switch: Arc<Switch>) {
    let mut every = tokio::time::interval(SWEEP_EVERY);
    loop {
        every.tick().await;
        switch.listeners().for_each(|listener| listener.sweep(TARGET_IDLE_MAX));
    }
}
