//! The coordinator: dispatch, sessions, control service. Embedded in a verb or as a daemon, it is the same code.
//!
//! A thin shell around [`crate::node::CoordinatorNode`]. One loop owns the engine and the journal; sessions and control
//! calls are tasks that talk to it through a bounded queue.

mod control;
mod core;
mod message;
mod planning;
mod sessions;
mod turned_away;

use std::path::PathBuf;
use std::time::Duration;

pub use self::core::CoreHandle;
pub use planning::history_of;

use crate::driver::DriverError;
use crate::journal::JournalError;
use crate::model::{CoordinatorId, FleetName};
use crate::transport::{Address, ListenError, Listener, MESSAGE_MAX, Security};

/// Heartbeats both ways, unless configured.
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// How long calls in flight may take to end when the coordinator stops. Streams never end by themselves, and a server
/// that waits for them without a bound can hang for hours (hyper issue 4170).
const SHUTDOWN_MAX: Duration = Duration::from_secs(2);

/// What a coordinator needs to know.
#[derive(Clone, Debug)]
pub struct CoordinatorConfig {
    /// Its fleet.
    pub fleet: FleetName,
    /// The fleet's folder: journal, spec store, lock, control socket.
    pub folder: PathBuf,
    /// Further addresses to listen on, beside `control.sock`.
    pub listen: Vec<Address>,
    /// How TCP is kept safe.
    pub security: Option<Security>,
    /// Heartbeats both ways.
    pub heartbeat: Duration,
    /// Take a new id: the journal was restored from a copy. Unfinished rolls end as superseded.
    pub new_id: bool,
    /// Begin nothing before somebody asks for something: a verb that is refused must not carry on, as long as it lives,
    /// a roll that nobody asked it for. A daemon goes on by itself.
    pub asleep: bool,
}

/// Why a coordinator did not start, or ended.
#[derive(Debug, thiserror::Error)]
pub enum CoordinatorError {
    /// Another one has the fleet.
    #[error("fleet {fleet} already has a coordinator: {holder}; every verb finds it, and there can be no second one")]
    Held {
        /// Which fleet.
        fleet: FleetName,
        /// Who.
        holder: String,
    },
    /// Its folder cannot be used.
    #[error("cannot use state folder {path}")]
    Folder {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Its journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// Its journal cannot be written, or holds what it may not.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The server failed.
    #[error("serving failed")]
    Serve(#[source] tonic::transport::Error),
    /// The loop ended without a reason of its own: a fault of the code.
    #[error("the coordinator's loop ended unexpectedly")]
    Lost,
}

/// A running coordinator.
pub struct Coordinator {
    handle: CoreHandle,
    addresses: Vec<Address>,
    /// `None`: its end was heard.
    task: Option<tokio::task::JoinHandle<Result<(), CoordinatorError>>>,
    stop: tokio::sync::watch::Sender<bool>,
}

impl Coordinator {
    /// Replays the journal, listens, and goes on where the last one was.
    ///
    /// # Errors
    /// See [`CoordinatorError`]. Nothing has been begun then.
    pub async fn start(config: CoordinatorConfig) -> Result<Self, CoordinatorError> {
        let core = core::Core::open(&config)?;
        let handle = core.handle();
        let mut listeners = vec![Listener::bind(&Address::Unix(config.folder.join("control.sock")), None).await?];
        for address in &config.listen {
            listeners.push(Listener::bind(address, config.security.as_ref()).await?);
        }
        let addresses = listeners.iter().map(|listener| listener.address().clone()).collect();
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let task = Some(tokio::spawn(serve(core, listeners, config, stopped)));
        Ok(Self { handle, addresses, task, stop })
    }

    /// Who it is.
    pub fn id(&self) -> &CoordinatorId {
        self.handle.id()
    }

    /// Where it listens, `control.sock` first.
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When the journal failed: the process must end.
    pub async fn ended(&mut self) -> Result<(), CoordinatorError> {
        let Some(task) = &mut self.task else { return Ok(()) };
        let ended = task.await.unwrap_or(Err(CoordinatorError::Lost));
        // A task that was heard must not be asked again.
        self.task = None;
        ended
    }

    /// Stops it. What runs goes on; a roll goes on with the next start.
    ///
    /// # Errors
    /// When the journal failed before.
    pub async fn stop(mut self) -> Result<(), CoordinatorError> {
        let _ = self.stop.send(true);
        self.ended().await
    }
}

async fn serve(
    core: core::Core,
    listeners: Vec<Listener>,
    config: CoordinatorConfig,
    mut stopped: tokio::sync::watch::Receiver<bool>,
) -> Result<(), CoordinatorError> {
    use crate::proto::v1::control_server::ControlServer;
    use crate::proto::v1::session_server::SessionServer;
    let handle = core.handle();
    let mut servers = tokio::task::JoinSet::new();
    for listener in listeners {
        let mut stop = stopped.clone();
        let guard = sessions::Guard::new(config.fleet.clone());
        let control = ControlServer::new(control::ControlService::new(handle.clone()))
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let session = SessionServer::new(sessions::SessionService::new(handle.clone()))
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        let server = tonic::transport::Server::builder()
            .max_concurrent_streams(Some(64))
            .concurrency_limit_per_connection(32)
            .http2_keepalive_interval(Some(Duration::from_secs(15)))
            .http2_keepalive_timeout(Some(Duration::from_secs(10)))
            .layer(sessions::GuardLayer::new(guard))
            .add_service(control)
            .add_service(session);
        servers.spawn(async move {
            let stop = async move {
                let _ = stop.wait_for(|stop| *stop).await;
            };
            server.serve_with_incoming_shutdown(listener.incoming(), stop).await
        });
    }
    let stop = stopped.clone();
    let result = tokio::select! {
        result = core.run(stop) => result,
        Some(ended) = servers.join_next() => match ended {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(CoordinatorError::Serve(error)),
            Err(_) => Err(CoordinatorError::Lost),
        },
        () = async { let _ = stopped.wait_for(|stop| *stop).await; } => Ok(()),
    };
    let _ = tokio::time::timeout(SHUTDOWN_MAX, async { while servers.join_next().await.is_some() {} }).await;
    servers.abort_all();
    let _ = std::fs::remove_file(config.folder.join("control.sock"));
    result
}
