//! Finding a coordinator, or being one.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tonic::transport::Channel;

use super::args::Global;
use super::exit::Problem;
pub(super) use super::project::manifest;
use super::{Exit, hands};
use crate::agent::{self, AgentConfig, Policy};
use crate::coordinator::{Coordinator, CoordinatorConfig, HEARTBEAT};
use crate::engine::{FleetView, HoldReason};
use crate::model::{AgentId, FleetName, Manifest};
use crate::proto::v1::control_client::ControlClient;
use crate::proto::v1::{Asker, StatusRequest};
use crate::sys;
use crate::transport::{Address, MESSAGE_MAX, connect};

/// How long the embedded agent may take to attach: it first brings up the keepers of everything that should run.
const ATTACH_MAX: Duration = Duration::from_secs(30);

/// The state root.
pub(super) fn state_root(global: &Global) -> Result<PathBuf, Problem> {
    match &global.state {
        Some(path) => std::path::absolute(path).map_err(|error| Problem::of(Exit::Usage, &error)),
        None => sys::state_dir::default_root().map_err(|error| Problem::of(Exit::Usage, &error)),
    }
}

/// The fleet: named, in the manifest, or the only one in the state folder.
pub(super) fn fleet(global: &Global, manifest: Option<&Manifest>) -> Result<FleetName, Problem> {
    match (&global.fleet, manifest) {
        (_, Some(manifest)) => named(global, &manifest.fleet),
        (Some(named), None) => Ok(named.clone()),
        (None, None) => {
            let root = state_root(global)?;
            let mut found: Vec<FleetName> = std::fs::read_dir(&root)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().join("journal.db").exists())
                .filter_map(|entry| FleetName::new(entry.file_name().to_string_lossy()).ok())
                .collect();
            found.sort();
            match found.as_slice() {
                [only] => Ok(only.clone()),
                [] => Err(Problem::new(
                    Exit::Usage,
                    format!(
                        "which fleet? there is no baton.yaml here and none in {}; name it with --fleet",
                        root.display()
                    ),
                )),
                many => {
                    let names: Vec<_> = many.iter().map(FleetName::as_str).collect();
                    Err(Problem::new(Exit::Usage, format!("which fleet? name one with --fleet: {}", names.join(", "))))
                }
            }
        }
    }
}

/// The fleet of what is written here, unless another was named.
pub(super) fn named(global: &Global, written: &FleetName) -> Result<FleetName, Problem> {
    match &global.fleet {
        Some(named) if named != written => {
            Err(Problem::new(Exit::Usage, format!("--fleet says {named}, the manifest says {written}; leave one out")))
        }
        _ => Ok(written.clone()),
    }
}

/// This host's name as an agent id.
pub(super) fn host_id() -> AgentId {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name: String = name
        .chars()
        .map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_' { c } else { '-' })
        .take(63)
        .collect();
    AgentId::new(name.trim_start_matches(['-', '_'])).unwrap_or_else(|_| {
        // A host without a usable name still is one host.
        AgentId::new("host").expect("a plain word is an id")
    })
}

/// Coordinator and agent inside this process.
pub(super) struct Embedded {
    coordinator: Coordinator,
    agent: tokio::task::JoinHandle<Result<(), agent::AgentError>>,
    stop: tokio::sync::oneshot::Sender<()>,
}

impl Embedded {
    async fn start(global: &Global, fleet: &FleetName, containers: bool) -> Result<Self, Problem> {
        let folder = state_root(global)?.join(fleet.as_str());
        let coordinator = Coordinator::start(CoordinatorConfig {
            fleet: fleet.clone(),
            folder: folder.clone(),
            listen: vec![],
            security: None,
            heartbeat: HEARTBEAT,
            new_id: false,
            asleep: true,
        })
        .await
        .map_err(|error| {
            let exit = match &error {
                crate::coordinator::CoordinatorError::Held { .. } => Exit::Refused,
                crate::coordinator::CoordinatorError::Journal(_)
                | crate::coordinator::CoordinatorError::Driver(_)
                | crate::coordinator::CoordinatorError::Folder { .. } => Exit::Refused,
                _ => Exit::Failed,
            };
            Problem::of(exit, &error)
        })?;
        let id = host_id();
        let agent_folder = folder.join("agents").join(id.as_str());
        let hands = hands::embedded(global, fleet, &agent_folder, containers).await?;
        let config = AgentConfig {
            fleet: fleet.clone(),
            id: id.clone(),
            folder: agent_folder.clone(),
            coordinator: coordinator.addresses()[0].clone(),
            security: None,
            policy: Policy::own_manifest(),
            address: None,
            runtime: hands.runtime,
            runtime_ids: hands.ids,
            project: hands.project,
        };
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let agent = tokio::spawn(agent::run(config, async move {
            let _ = stopped.await;
        }));
        Ok(Self { coordinator, agent, stop })
    }

    /// Resolves when coordinator or agent failed: the verb must end.
    pub(super) async fn failed(&mut self) -> Problem {
        tokio::select! {
            ended = self.coordinator.ended() => match ended {
                Ok(()) => Problem::new(Exit::Failed, "the embedded coordinator ended"),
                Err(error) => Problem::of(Exit::Failed, &error),
            },
            ended = &mut self.agent => match ended {
                Ok(Ok(())) => Problem::new(Exit::Failed, "the embedded agent ended"),
                Ok(Err(error)) => {
                    let held = matches!(error, agent::AgentError::Held { .. });
                    let exit = if held { Exit::Refused } else { Exit::Failed };
                    Problem::of(exit, &error)
                }
                Err(error) => Problem::of(Exit::Failed, &error),
            },
        }
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        // One that has failed has been heard already, and must not be asked again.
        if !self.agent.is_finished() {
            let _ = tokio::time::timeout(Duration::from_secs(2), self.agent).await;
        }
        let _ = self.coordinator.stop().await;
    }
}

/// A way to a coordinator.
pub(super) struct Connection {
    pub(super) client: ControlClient<Channel>,
    pub(super) fleet: FleetName,
    pub(super) embedded: Option<Embedded>,
    reason: String,
}

impl Connection {
    /// Who asks: this process's user.
    pub(super) fn asker(&self) -> Option<Asker> {
        Some(Asker { fleet: self.fleet.to_string(), actor: actor(), reason: self.reason.clone() })
    }

    /// What is, now.
    pub(super) async fn view(&mut self) -> Result<FleetView, Problem> {
        self.view_and_notices().await.map(|(view, _)| view)
    }

    /// What is, now, and what no view has: agents that were refused, and why.
    pub(super) async fn view_and_notices(&mut self) -> Result<(FleetView, Vec<String>), Problem> {
        let asker = self.asker();
        let reply = self.client.status(StatusRequest { asker }).await?.into_inner();
        let view = serde_json::from_slice(&reply.view_json).map_err(|error| Problem::of(Exit::Failed, &error))?;
        Ok((view, reply.notices))
    }

    /// Ends what was embedded.
    pub(super) async fn close(self) {
        if let Some(embedded) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// The user, for the journal.
pub(super) fn actor() -> String {
    std::env::var("SUDO_USER")
        .or_else(|_| std::env::var("USER"))
        .unwrap_or_else(|_| format!("uid {}", rustix::process::getuid().as_raw()))
}

async fn client(address: &Address, global: &Global, fleet: &FleetName) -> Result<ControlClient<Channel>, Problem> {
    let security = global.security()?;
    let channel = connect(address, security.as_ref(), fleet.as_str()).await.map_err(|error| {
        let exit = match &error {
            crate::transport::ConnectError::Unsafe { .. } | crate::transport::ConnectError::Tls(_) => Exit::Usage,
            _ => Exit::Refused,
        };
        Problem::of(exit, &error)
    })?;
    Ok(ControlClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX))
}

/// A coordinator that runs: the one named, or the one behind the fleet's control socket. `None`: nobody is there.
pub(super) async fn running(global: &Global, fleet: &FleetName) -> Result<Option<Connection>, Problem> {
    let connection =
        |client| Connection { client, fleet: fleet.clone(), embedded: None, reason: global.reason.clone() };
    if let Some(address) = &global.coordinator {
        return client(address, global, fleet).await.map(|client| Some(connection(client)));
    }
    let socket = state_root(global)?.join(fleet.as_str()).join("control.sock");
    if !socket.exists() {
        return Ok(None);
    }
    // A socket that nobody listens on was left behind by a kill.
    Ok(client(&Address::Unix(socket), global, fleet).await.ok().map(connection))
}

/// The coordinator of what is written here, or of the fleet that is named.
pub(super) async fn of(global: &Global, manifest: Option<&Manifest>) -> Result<Connection, Problem> {
    any(global, &fleet(global, manifest)?, hands::are_containers(manifest)).await
}

/// A coordinator that runs, or one embedded here, with containers in its hands where the fleet has some.
pub(super) async fn any(global: &Global, fleet: &FleetName, containers: bool) -> Result<Connection, Problem> {
    if let Some(connection) = running(global, fleet).await? {
        return Ok(connection);
    }
    let mut embedded = Embedded::start(global, fleet, containers).await?;
    let address = embedded.coordinator.addresses()[0].clone();
    let mut connection = Connection {
        client: client(&address, global, fleet).await?,
        fleet: fleet.clone(),
        embedded: None,
        reason: global.reason.clone(),
    };
    let id = host_id();
    let begun = Instant::now();
    loop {
        let (view, notices) = connection.view_and_notices().await?;
        if view.agents.iter().any(|agent| agent.agent == id && agent.up) {
            connection.embedded = Some(embedded);
            return Ok(connection);
        }
        // It attaches for a moment only, to say so, and is gone before anybody looks.
        let older = view.holds.iter().find(|hold| matches!(hold.reason, HoldReason::OlderThanFleet { .. }));
        if let Some(hold) = older {
            let text = format!("{}; until {}", hold.text, hold.until);
            embedded.stop().await;
            return Err(Problem::new(Exit::Refused, text));
        }
        if let Some(notice) = notices.into_iter().find(|notice| notice.starts_with(&format!("agent {id} "))) {
            // It would dial again and be refused again.
            embedded.stop().await;
            return Err(Problem::new(Exit::Refused, notice));
        }
        if begun.elapsed() > ATTACH_MAX {
            return Err(Problem::new(
                Exit::Refused,
                format!("the embedded agent {id} did not attach within {ATTACH_MAX:?}"),
            ));
        }
        tokio::select! {
            problem = embedded.failed() => return Err(problem),
            () = tokio::time::sleep(Duration::from_millis(10)) => {}
        }
    }
}
