//! A gateway under test, and waiting for what it says.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use baton::gateway::control::{self, ControlError, TableState};
use baton::gateway::{GatewayConfig, GatewayError};
use baton::model::{Admission, TableTarget};
use tokio::task::JoinHandle;

use crate::backend::Backend;

/// Longer than anything here takes on a busy machine; reaching it is a failure.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `probe` says something.
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < end, "gave up waiting for {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// One gateway with a listener named `api`. The listening socket stays with the test, as it does with a keeper.
pub struct Gateway {
    pub dir: tempfile::TempDir,
    pub address: SocketAddr,
    socket: std::net::TcpListener,
    task: Option<JoinHandle<Result<(), GatewayError>>>,
}

impl Gateway {
    pub async fn start() -> Self {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let dir = tempfile::tempdir().expect("a folder");
        let mut gateway = Self { dir, address: socket.local_addr().expect("an address"), socket, task: None };
        gateway.begin().await;
        gateway
    }

    pub fn config(&self) -> GatewayConfig {
        let socket = self.socket.try_clone().expect("another handle");
        GatewayConfig {
            dir: self.dir.path().to_owned(),
            listeners: vec![("api".to_owned(), socket)],
            backends: vec![],
            fronts: vec![],
        }
    }

    pub async fn begin(&mut self) {
        self.task = Some(tokio::spawn(baton::gateway::run(self.config())));
        eventually("the control socket", async || control::table(&self.control(), "api").await.ok()).await;
    }

    /// Ends it without a word, as a kill does.
    pub async fn kill(&mut self) {
        let task = self.task.take().expect("it runs");
        task.abort();
        let _ = task.await;
    }

    pub fn control(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    pub async fn ask(&self, targets: &[TableTarget], hold_max: Duration, close: bool) -> Result<(), ControlError> {
        control::set_table(&self.control(), "api", targets, hold_max, close).await
    }

    pub async fn state(&self) -> TableState {
        control::table(&self.control(), "api").await.expect("the gateway answers")
    }

    /// Waits until the state is as `wanted`.
    pub async fn until(&self, what: &str, wanted: impl Fn(&TableState) -> bool) -> TableState {
        eventually(what, async || Some(self.state().await).filter(|state| wanted(state))).await
    }

    /// Sets a table without a hold and waits until it is in use.
    pub async fn serve(&self, targets: &[TableTarget]) -> TableState {
        self.ask(targets, Duration::ZERO, false).await.expect("the table is taken");
        self.until("the table in use", |state| state.in_use).await
    }
}

pub fn admitting(backend: &Backend) -> TableTarget {
    target(backend.name(), backend.port(), Admission::Admitting)
}

pub fn draining(backend: &Backend) -> TableTarget {
    target(backend.name(), backend.port(), Admission::Draining)
}

pub fn target(instance: &str, port: u16, admission: Admission) -> TableTarget {
    let instance = instance.parse().expect("an instance id");
    TableTarget { instance, host: "127.0.0.1".to_owned(), port, admission }
}

/// A port where nobody listens.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port()
}
