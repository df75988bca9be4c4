//! Verbs that stay: coordinator, agent, gateway, keeper.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};

use super::Exit;
use super::args::{AgentArgs, AgentVerb, CoordinatorArgs, GatewayArgs, Global};
use super::connect::{self, host_id, manifest, state_root};
use super::exit::Problem;
use super::{hands, output};
use crate::agent::component::ComponentConfig;
use crate::agent::{self, AgentConfig, AgentError, Policy};
use crate::coordinator::{Coordinator, CoordinatorConfig, CoordinatorError};
use crate::gateway::{self, Backend, GatewayConfig};
use crate::model::ComponentName;
use crate::runtime::process::{KeeperOptions, keeper_main};
use crate::transport::{Address, Security};

async fn told_to_stop() {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

pub(super) async fn coordinator(global: &Global, args: CoordinatorArgs) -> Result<Exit, Problem> {
    let fleet = connect::fleet(global, manifest(global).await?.as_ref())?;
    let config = CoordinatorConfig {
        folder: state_root(global)?.join(fleet.as_str()),
        fleet,
        listen: args.listen,
        security: global.security()?,
        heartbeat: args.heartbeat,
        new_id: args.new_id,
        asleep: false,
    };
    let mut coordinator = Coordinator::start(config).await.map_err(|error| {
        let exit = match &error {
            CoordinatorError::Listen(
                crate::transport::ListenError::Unsafe { .. } | crate::transport::ListenError::Tls(_),
            ) => Exit::Usage,
            _ => Exit::Refused,
        };
        Problem::of(exit, &error)
    })?;
    let addresses: Vec<String> = coordinator.addresses().iter().map(ToString::to_string).collect();
    // Scripts wait for this line: from here on agents and verbs are answered.
    output::line(&format!("coordinator {} listens on {}", coordinator.id(), addresses.join(", ")));
    tokio::select! {
        ended = coordinator.ended() => ended.map(|()| Exit::Done).map_err(|error| Problem::of(Exit::Failed, &error)),
        () = told_to_stop() => {
            coordinator.stop().await.map_err(|error| Problem::of(Exit::Failed, &error))?;
            Ok(Exit::Done)
        }
    }
}

pub(super) async fn agent(global: &Global, args: AgentArgs) -> Result<Exit, Problem> {
    let fleet = connect::fleet(global, manifest(global).await?.as_ref())?;
    let refused = |error: AgentError| {
        let exit = if matches!(error, AgentError::Ledger(_)) { Exit::Failed } else { Exit::Refused };
        Problem::of(exit, &error)
    };
    let root = state_root(global)?.join(fleet.as_str());
    if let Some(AgentVerb::Adopt { coordinator_id, id }) = args.adopt {
        let id = id.unwrap_or_else(host_id);
        agent::adopt(&root.join("agents").join(id.as_str()), &fleet, &id, &coordinator_id).map_err(refused)?;
        output::line(&format!("agent {id} obeys coordinator {coordinator_id} from its next session on"));
        return Ok(Exit::Done);
    }
    let id = args.id.unwrap_or_else(host_id);
    let folder = root.join("agents").join(id.as_str());
    let coordinator = global.coordinator.clone().unwrap_or_else(|| Address::Unix(root.join("control.sock")));
    let security = global.security()?;
    if matches!(coordinator, Address::Tcp { .. }) && security.is_none() {
        let error = crate::transport::ConnectError::Unsafe { address: coordinator };
        return Err(Problem::of(Exit::Usage, &error));
    }
    // An agent dials for ever; files that cannot be used are said now, not at every dial.
    if let Some(Security::Tls(files)) = &security {
        files.client().map_err(|error| Problem::of(Exit::Usage, &error))?;
    }
    let policy = match &args.policy {
        Some(path) => Policy::load(path).map_err(|error| Problem::of(Exit::Usage, &error))?,
        None => {
            tracing::warn!("no --policy: this agent admits nothing");
            Policy::default()
        }
    };
    let hands = hands::daemon(global, &fleet, &folder, args.address.as_deref(), args.compose.as_deref()).await?;
    let config = AgentConfig {
        runtime: hands.runtime,
        runtime_ids: hands.ids,
        project: hands.project,
        fleet,
        id: id.clone(),
        folder,
        coordinator: coordinator.clone(),
        security,
        policy,
        address: args.address,
    };
    tracing::info!(%id, %coordinator, "starting");
    agent::run(config, told_to_stop()).await.map_err(refused)?;
    Ok(Exit::Done)
}

/// The agent inside a component's container. Its output is the program's own: it says only what is wrong.
pub(super) fn component(component: ComponentName, socket: PathBuf, program: Vec<OsString>) -> ExitCode {
    output::init_component_logging();
    match agent::component::run(ComponentConfig { component, socket, program }) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {}", crate::cause::chain(&error));
            ExitCode::from(error.exit_code())
        }
    }
}

pub(super) async fn gateway(args: GatewayArgs) -> Result<Exit, Problem> {
    let mut listeners = vec![];
    for listen in &args.listen {
        let wrong = || Problem::new(Exit::Usage, format!("{listen:?} is not COMPONENT=HOST:PORT or COMPONENT=:PORT"));
        let (name, address) = listen.split_once('=').ok_or_else(wrong)?;
        let address = if address.starts_with(':') { format!("0.0.0.0{address}") } else { address.to_owned() };
        let listener = std::net::TcpListener::bind(&address)
            .map_err(|error| Problem::new(Exit::Refused, format!("cannot listen on {address}: {error}")))?;
        listeners.push((name.to_owned(), listener));
    }
    let mut backends = vec![];
    for backend in &args.backend {
        let wrong = || Problem::new(Exit::Usage, format!("{backend:?} is not COMPONENT=HOST:PORT"));
        let (name, address) = backend.split_once('=').ok_or_else(wrong)?;
        let (host, port) = address.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(wrong)?;
        let component = name.parse::<ComponentName>().map_err(|_| wrong())?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        backends.push(Backend { component, host, port });
    }
    gateway::run(GatewayConfig { dir: args.dir, listeners, backends, fronts: args.front })
        .await
        .map_err(|error| Problem::of(Exit::Failed, &error))?;
    Ok(Exit::Done)
}

pub(super) fn keeper(dir: &Path) -> ExitCode {
    ExitCode::from(keeper_main(dir, &KeeperOptions::default()))
}
