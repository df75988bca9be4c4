//! What the Docker benchmarks stand on: images of their own, projects of their own, a look at what runs, and the end of
//! all of it. Every container carries a label from its image, so nothing else of the engine is ever touched.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use bollard::Docker;
use bollard::models::{ContainerSummary, ContainerSummaryStateEnum};
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use futures_util::StreamExt;
use tokio::process::Command;

use crate::docker_toy::{PORT, get};
use crate::rig::Outcome;

/// The label of every image here: whose it is.
const WHOSE: &str = "baton.bench";
/// And its version; what stands before the API has none.
const VERSION: &str = "baton.bench.version";
/// Between two questions to what is not ready yet.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// The engine's list is asked for when it tells of a change, and at least so often: asked all the time, it would be slower
/// for whoever is measured.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// For anything that is waited for.
pub const BOUND: Duration = Duration::from_secs(150);
/// The engine's own limit is reached long before; more at a time make each of them slower.
const REMOVALS: usize = 4;
/// What Swarm makes on a host for the ways out of its networks, and leaves behind.
const SWARM_BRIDGE: &str = "docker_gwbridge";

/// The benchmark's own corner of an engine.
pub struct Site {
    pub docker: Docker,
    /// The prefix of every name.
    pub name: String,
    folder: tempfile::TempDir,
    /// Whether there is a HAProxy that could go into the image.
    pub haproxy: bool,
}

/// A container as the engine's list has it.
pub struct Seen {
    pub id: String,
    pub version: Option<String>,
    pub service: String,
    pub running: bool,
    /// On any network that this host reaches.
    pub address: Option<String>,
}

impl Site {
    /// Connects and builds the images: `NAME:1` and `NAME:2`, the same with a health check as `NAME:well1` and
    /// `NAME:well2`, and `NAME:door` for what stands before the API.
    pub async fn new() -> Outcome<Site> {
        let host = std::env::var("DOCKER_HOST").ok();
        let socket = baton::runtime::docker::socket_of(host.as_deref())?;
        let docker = Docker::connect_with_unix(&socket, 600, bollard::API_DEFAULT_VERSION)?;
        let docker = docker.negotiate_version().await.map_err(|error| {
            format!("no Docker Engine answers at {socket} ({error}): start it, or name its socket with DOCKER_HOST")
        })?;
        let folder = tempfile::Builder::new().prefix("bb-").tempdir()?;
        let name = format!("bb{}", std::process::id());
        let mut site = Site { docker, name, folder, haproxy: false };
        match site.build().await {
            Ok(()) => Ok(site),
            Err(error) => {
                site.end().await;
                Err(error)
            }
        }
    }

    async fn build(&mut self) -> Outcome<()> {
        let context = self.path("image");
        std::fs::create_dir_all(context.join("bin"))?;
        let exe = std::env::current_exe()?;
        let bench = context.join("bin/bench");
        // Without what only a debugger reads it is a fraction of the size.
        let stripped = std::process::Command::new("strip").arg("-o").args([&bench, &exe]).status();
        if !stripped.is_ok_and(|status| status.success()) {
            std::fs::copy(&exe, &bench)?;
        }
        // Under its own name it is Baton: the gateway's container is known by what it runs.
        std::os::unix::fs::symlink("bench", context.join("bin/baton"))?;
        let mut programs = vec![exe];
        let haproxy = ["/usr/sbin/haproxy", "/usr/local/sbin/haproxy"].map(Path::new).into_iter().find(|p| p.exists());
        if let Some(haproxy) = haproxy {
            std::fs::copy(haproxy, context.join("bin/haproxy"))?;
            programs.push(haproxy.to_owned());
            self.haproxy = true;
        }
        let mut libraries = BTreeSet::new();
        for program in programs {
            let linked = std::process::Command::new("ldd").arg(program).output()?;
            let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
            libraries.extend(linked.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
        }
        let mut base = "FROM scratch\nCOPY bin /bin/\n".to_owned();
        for library in &libraries {
            let name = library.rsplit('/').next().unwrap_or_default();
            std::fs::copy(library, context.join(name))?;
            base.push_str(&format!("COPY {name} {library}\n"));
        }
        base.push_str(&format!("LABEL {WHOSE}={}\n", self.name));
        let from = format!("FROM {}:door\n", self.name);
        let check = "HEALTHCHECK --interval=500ms --timeout=5s --retries=3 CMD [\"/bin/bench\", \"box-health\"]\n";
        let versioned = |version: u32, more: &str| format!("{from}LABEL {VERSION}={version}\nENV V={version}\n{more}");
        for (tag, text) in [
            ("door", base),
            ("1", versioned(1, "")),
            ("2", versioned(2, "")),
            ("well1", versioned(1, check)),
            ("well2", versioned(2, check)),
        ] {
            std::fs::write(context.join("Dockerfile"), text)?;
            self.docker(&["build", "-q", "-t", &format!("{}:{tag}", self.name), "image"]).await?;
            // The layers are in the first one; what follows needs no context.
            if tag == "door" {
                std::fs::remove_dir_all(&context)?;
                std::fs::create_dir(&context)?;
            }
        }
        Ok(())
    }

    /// A path in its folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Runs `docker` in its folder.
    pub async fn docker(&self, arguments: &[&str]) -> Outcome<String> {
        self.docker_with(arguments, &[]).await
    }

    /// With these variables besides.
    pub async fn docker_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Outcome<String> {
        let mut command = Command::new("docker");
        command.args(arguments).current_dir(self.folder.path()).envs(variables.iter().copied());
        said(&mut command, &format!("docker {}", arguments.join(" "))).await
    }

    /// `docker compose` on the project in a folder of its own.
    pub async fn compose(&self, project: &str, tag: &str, arguments: &[&str]) -> Outcome<String> {
        let file = self.path(project).join("compose.yaml");
        let file = file.to_string_lossy();
        let all: Vec<&str> = ["compose", "-f", &file].into_iter().chain(arguments.iter().copied()).collect();
        self.docker_with(&all, &[("TAG", tag)]).await
    }

    /// This program as Baton, on that project, its state in the project's folder.
    pub async fn baton(&self, project: &str, tag: &str, arguments: &[&str]) -> Outcome<String> {
        let folder = self.path(project);
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--state").arg(folder.join("state")).args(arguments).current_dir(&folder).env("TAG", tag);
        for variable in ["BATON_COORDINATOR", "BATON_STATE", "COMPOSE_FILE"] {
            command.env_remove(variable);
        }
        said(&mut command, &format!("baton {}", arguments.join(" "))).await
    }

    /// Writes a project: `@` is the images' repository.
    pub fn write(&self, project: &str, services: &str) -> Outcome<()> {
        std::fs::create_dir_all(self.path(project))?;
        let text = format!("name: {}-{project}\n{}", self.name, services.replace('@', &self.name));
        Ok(std::fs::write(self.path(project).join("compose.yaml"), text)?)
    }

    fn filters(&self) -> HashMap<String, Vec<String>> {
        HashMap::from([("label".to_owned(), vec![self.label()])])
    }

    /// What every container of this benchmark bears.
    pub fn label(&self) -> String {
        format!("{WHOSE}={}", self.name)
    }

    /// Everything of this benchmark that the engine has.
    pub async fn containers(&self) -> Outcome<Vec<Seen>> {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&self.filters()).build();
        Ok(self.docker.list_containers(Some(options)).await?.into_iter().filter_map(seen).collect())
    }

    /// Waits until so many of that version answer and nothing of another version is left: since when.
    pub async fn converged(&self, version: &str, count: usize) -> Outcome<Instant> {
        let begun = Instant::now();
        let (mut ready, mut addresses) = (BTreeSet::new(), BTreeMap::new());
        let mut filters = self.filters();
        filters.insert("event".to_owned(), ["start", "die", "destroy"].map(str::to_owned).to_vec());
        let options = EventsOptionsBuilder::new().filters(&filters).build();
        let mut events = std::pin::pin!(self.docker.events(Some(options)).fuse());
        let (mut seen, mut looked) = (self.containers().await?, Instant::now());
        loop {
            let is_new = |seen: &&Seen| seen.version.as_deref() == Some(version);
            let others = seen.iter().filter(|seen| seen.version.is_some() && !is_new(seen)).count();
            let new: Vec<&Seen> = seen.iter().filter(is_new).filter(|seen| seen.running).collect();
            ready.retain(|id| new.iter().any(|seen| seen.id == *id));
            for seen in new.iter().filter(|seen| !ready.contains(&seen.id)).collect::<Vec<_>>() {
                let address = match &seen.address {
                    Some(address) => address.clone(),
                    None => match self.gateway_address(&seen.id, &mut addresses).await? {
                        Some(address) => address,
                        None => continue,
                    },
                };
                if get(&address, PORT, "/health", Duration::from_millis(250)).await {
                    ready.insert(seen.id.clone());
                }
            }
            if others == 0 && ready.len() == count {
                return Ok(Instant::now());
            }
            if begun.elapsed() > BOUND {
                let all = seen.len();
                return Err(format!(
                    "{} of {count} of version {version} are ready, {others} of another are left of {all} containers, \
                     after {BOUND:?}; `docker ps -a --filter label={}` shows them",
                    ready.len(),
                    self.label()
                )
                .into());
            }
            let waiting = new.len() > ready.len();
            let news = tokio::select! {
                Some(_) = events.next() => true,
                () = tokio::time::sleep(if waiting { ASK_EVERY } else { LOOK_EVERY }) => false,
            };
            if news || looked.elapsed() > LOOK_EVERY {
                (seen, looked) = (self.containers().await?, Instant::now());
            }
        }
    }

    /// What is on a network that spans hosts is reached over Swarm's own bridge.
    async fn gateway_address(&self, id: &str, known: &mut BTreeMap<String, String>) -> Outcome<Option<String>> {
        if !known.contains_key(id) {
            let Ok(network) = self.docker.inspect_network(SWARM_BRIDGE, None).await else { return Ok(None) };
            for (id, about) in network.containers.unwrap_or_default() {
                let address = about.ipv4_address.unwrap_or_default();
                let address = address.split('/').next().unwrap_or_default();
                known.insert(id, address.to_owned());
            }
        }
        Ok(known.get(id).cloned())
    }

    /// Begins a Swarm of this host alone.
    pub async fn swarm(&self) -> Outcome<()> {
        let state = self.docker(&["info", "--format", "{{.Swarm.LocalNodeState}}"]).await?;
        if state != "inactive" {
            return Err(format!("this engine's Swarm is {state}, and is left alone").into());
        }
        let had_bridge = self.docker.inspect_network(SWARM_BRIDGE, None).await.is_ok();
        std::fs::write(self.path("swarm"), if had_bridge { "" } else { SWARM_BRIDGE })?;
        self.docker(&["swarm", "init", "--advertise-addr", "127.0.0.1"]).await?;
        Ok(())
    }

    /// Leaves it: it is the engine's, not ours. Nothing where it was not begun here.
    pub async fn leave(&self) {
        let Ok(bridge) = std::fs::read_to_string(self.path("swarm")) else { return };
        if let Err(error) = self.docker(&["swarm", "leave", "--force"]).await {
            eprintln!("bench docker: {error}");
        }
        self.remove_containers().await;
        if !bridge.is_empty() {
            let _ = self.docker(&["network", "rm", &bridge]).await;
        }
        let _ = std::fs::remove_file(self.path("swarm"));
    }

    async fn remove_containers(&self) {
        let options = ListContainersOptionsBuilder::new().all(true).filters(&self.filters()).build();
        let all = self.docker.list_containers(Some(options)).await.unwrap_or_default();
        let removals = all.into_iter().filter_map(|container| container.id).map(|id| async move {
            let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
            let _ = self.docker.remove_container(&id, Some(options)).await;
        });
        futures_util::stream::iter(removals).buffer_unordered(REMOVALS).collect::<()>().await;
    }

    /// Removes all containers, networks and volumes of the benchmark, and leaves a Swarm that it began. Images stay.
    pub async fn clean(&self) {
        self.leave().await;
        self.remove_containers().await;
        let names = format!("name={}-", self.name);
        for kind in ["network", "volume"] {
            let listed = self.docker(&[kind, "ls", "-q", "--filter", &names]).await.unwrap_or_default();
            for one in listed.lines() {
                let _ = self.docker(&[kind, "rm", one]).await;
            }
        }
    }

    /// The same, and the images.
    pub async fn end(&self) {
        self.clean().await;
        for repository in [format!("{}*", self.name), format!("baton/{}-*/*", self.name)] {
            let filter = format!("reference={repository}");
            let format = "{{.Repository}}:{{.Tag}}";
            let listed = self.docker(&["images", "--filter", &filter, "--format", format]).await.unwrap_or_default();
            for image in listed.lines() {
                let _ = self.docker(&["rmi", "-f", image]).await;
            }
        }
    }
}

fn seen(container: ContainerSummary) -> Option<Seen> {
    let labels = container.labels.unwrap_or_default();
    let state = container.state.map(|state| state == ContainerSummaryStateEnum::RUNNING).unwrap_or_default();
    let swarm = labels.get("com.docker.swarm.service.name");
    let ended = container.state == Some(ContainerSummaryStateEnum::EXITED);
    // Swarm keeps what has ended, for its history.
    if swarm.is_some() && ended {
        return None;
    }
    let service = labels.get("com.docker.compose.service").or(swarm).cloned().unwrap_or_default();
    let networks = container.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let reached = |name: &str| swarm.is_none() || name == "bridge";
    let address = networks
        .into_iter()
        .filter(|(name, _)| reached(name))
        .find_map(|(_, network)| network.ip_address.filter(|address| !address.is_empty()));
    Some(Seen { id: container.id?, version: labels.get(VERSION).cloned(), service, running: state, address })
}

/// Runs a program to its end; what it said. Whoever stops waiting ends it.
async fn said(command: &mut Command, what: &str) -> Outcome<String> {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let Output { status, stdout, stderr } =
        command.output().await.map_err(|error| format!("cannot start `{what}`: {error}"))?;
    let [stdout, stderr] = [stdout, stderr].map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned());
    if status.success() { Ok(stdout) } else { Err(format!("`{what}` ended with {status}: {stdout}{stderr}").into()) }
}
