//! What an agent of this host acts with: processes always, containers where they are wanted.
//!
//! A fleet of processes never waits for an engine: it is asked only when the manifest has containers, when this agent
//! has had some, or when it is a daemon on a host where an engine answers.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use super::Exit;
use super::args::Global;
use super::exit::Problem;
use crate::agent::HostProject;
use crate::model::{FleetName, Manifest, RuntimeKind};
use crate::runtime::Runtime;
use crate::runtime::docker::{DockerConfig, DockerRuntime, engine_socket};
use crate::runtime::process::{KeeperCommand, ProcessConfig, ProcessRuntime};
use crate::runtime::several::Several;

/// How long an engine that nobody asked for may take to say that it is there.
const GREET: Duration = Duration::from_secs(2);

/// An agent's runtime and the names that it holds.
pub(super) struct Hands {
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) ids: Vec<String>,
    pub(super) project: Option<HostProject>,
}

fn processes(folder: &Path, address: Option<&str>) -> Result<Arc<dyn Runtime>, Problem> {
    let keeper = KeeperCommand::current().map_err(|error| Problem::of(Exit::Failed, &error))?;
    Ok(Arc::new(ProcessRuntime::new(ProcessConfig {
        root: folder.to_owned(),
        address: address.unwrap_or("127.0.0.1").to_owned(),
        keeper,
    })))
}

/// The engine's Unix socket: the same for Compose and for the agent.
pub(super) fn socket(global: &Global) -> Result<String, Problem> {
    engine_socket(global.docker_host.as_deref()).map_err(|why| Problem::new(Exit::Usage, why))
}

pub(super) fn containers(
    global: &Global,
    fleet: &FleetName,
    folder: &Path,
    read_only: bool,
) -> Result<DockerRuntime, Problem> {
    let socket = socket(global)?;
    Ok(DockerRuntime::new(DockerConfig { root: folder.to_owned(), fleet: fleet.clone(), socket, read_only }))
}

/// Whether an agent with this folder has had containers.
fn has_had_containers(folder: &Path) -> bool {
    folder.join("docker").exists()
}

fn uid() -> String {
    format!("uid-{}", rustix::process::getuid().as_raw())
}

/// An engine's id, short enough for a name that is held.
fn short(engine: &str) -> String {
    let digest = Sha256::digest(engine.as_bytes());
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("engine-{hex}")
}

async fn with_containers(processes: Arc<dyn Runtime>, containers: Arc<DockerRuntime>) -> Hands {
    let mut ids = vec![uid()];
    match tokio::time::timeout(GREET, containers.engine_id()).await {
        Ok(Ok(engine)) => ids.push(short(&engine)),
        // What needs it says so in its own words when it is asked for something.
        Ok(Err(error)) => tracing::warn!(why = error.message, "the Docker Engine does not answer"),
        Err(_) => tracing::warn!("the Docker Engine does not answer within {GREET:?}"),
    }
    Hands { runtime: Arc::new(Several::new(vec![processes, containers])), ids, project: None }
}

/// Whether what is written here has containers.
pub(super) fn are_containers(manifest: Option<&Manifest>) -> bool {
    manifest.is_some_and(|manifest| manifest.components.values().any(|entry| entry.runtime == RuntimeKind::Docker))
}

/// For an agent inside a verb.
pub(super) async fn embedded(
    global: &Global,
    fleet: &FleetName,
    folder: &Path,
    wanted: bool,
) -> Result<Hands, Problem> {
    let processes = processes(folder, None)?;
    if !wanted && !has_had_containers(folder) {
        return Ok(Hands { runtime: processes, ids: vec![uid()], project: None });
    }
    Ok(with_containers(processes, Arc::new(containers(global, fleet, folder, false)?)).await)
}

/// For `baton agent`, which serves manifests that it does not see.
pub(super) async fn daemon(
    global: &Global,
    fleet: &FleetName,
    folder: &Path,
    address: Option<&str>,
    project: Option<&Path>,
) -> Result<Hands, Problem> {
    let processes = processes(folder, address)?;
    if let Some(project) = project {
        return of_host(global, fleet, folder, processes, project).await;
    }
    let containers = match containers(global, fleet, folder, false) {
        Ok(containers) => containers,
        Err(problem) => {
            tracing::warn!(why = problem.text, "no containers here");
            return Ok(Hands { runtime: processes, ids: vec![uid()], project: None });
        }
    };
    let wanted = global.docker_host.is_some() || has_had_containers(folder);
    if !wanted && !matches!(tokio::time::timeout(GREET, containers.engine_id()).await, Ok(Ok(_))) {
        return Ok(Hands { runtime: processes, ids: vec![uid()], project: None });
    }
    Ok(with_containers(processes, Arc::new(containers)).await)
}

/// For an agent whose host has a Compose project of its own.
async fn of_host(
    global: &Global,
    fleet: &FleetName,
    folder: &Path,
    processes: Arc<dyn Runtime>,
    project: &Path,
) -> Result<Hands, Problem> {
    let unusable = |why: &dyn std::fmt::Display| {
        let text = format!("--compose {}: {why}; name the folder of this host's Compose file", project.display());
        Problem::new(Exit::Usage, text)
    };
    let project = std::path::absolute(project).map_err(|error| unusable(&error))?;
    let found = std::fs::metadata(&project).map_err(|error| unusable(&error))?;
    if !found.is_dir() {
        return Err(unusable(&"it is no folder"));
    }
    let socket = socket(global)?;
    let engine = PathBuf::from(&socket);
    let config = DockerConfig { root: folder.to_owned(), fleet: fleet.clone(), socket, read_only: false };
    let containers = DockerRuntime::of_host(config).map_err(|error| Problem::new(Exit::Failed, error.message))?;
    let containers = Arc::new(containers);
    let hands = with_containers(processes, containers.clone()).await;
    Ok(Hands { project: Some(HostProject { folder: project, engine, containers }), ..hands })
}

/// For a look at what is there while no agent runs: changes nothing.
pub(super) fn looking(global: &Global, fleet: &FleetName, folder: &Path) -> Result<Arc<dyn Runtime>, Problem> {
    let processes = processes(folder, None)?;
    if !has_had_containers(folder) {
        return Ok(processes);
    }
    let containers = containers(global, fleet, folder, true)?;
    Ok(Arc::new(Several::new(vec![processes, Arc::new(containers)])))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_engine_is_known_by_a_short_name_of_its_own() {
        let one = short("4WJM:TIXG:5KYG:OUC6:GHYM:5RSH:4WJM:TIXG:5KYG:OUC6:GHYM:5RSH");
        assert_eq!(one.len(), 23);
        assert_ne!(one, short("another"));
    }
}
