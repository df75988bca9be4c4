//! The limit: what Baton has done to a project, by bare calls of the engine's API. No coordinator, no journal, no plan:
//! whoever wrote this knew the project. Everything is created before anything stops, and two containers start at a
//! time: more make the first ones slower and the whole no faster.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use baton::gateway::control::Control;
use baton::model::{Admission, ComponentName, InstanceId, SlotName, TableTarget};
use bollard::models::{ContainerCreateBody, EndpointSettings, HostConfig, NetworkingConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder,
    RenameContainerOptionsBuilder,
};
use futures_util::StreamExt;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::docker_site::{BOUND, Site};
use crate::docker_toy::{PORT, get};
use crate::rig::Outcome;

const STARTS: usize = 2;
const CREATES: usize = 4;
const PROBE_EVERY: Duration = Duration::from_millis(2);

/// A container that is there, and what to know for its end.
pub struct Old {
    id: String,
    name: String,
    pid: i32,
}

/// The same calls for whoever makes them.
pub struct Hands<'a> {
    pub site: &'a Site,
    /// The project's network.
    pub network: String,
    pub command: Vec<String>,
}

impl Hands<'_> {
    /// What runs of a service.
    pub async fn running(&self, service: &str) -> Outcome<Vec<Old>> {
        let mut found = vec![];
        for seen in self.site.containers().await?.into_iter().filter(|seen| seen.service == service) {
            let about = self.site.docker.inspect_container(&seen.id, None).await?;
            let pid = about.state.and_then(|state| state.pid).ok_or("a running container has a process")?;
            let name = about.name.unwrap_or_default().trim_start_matches('/').to_owned();
            found.push(Old { id: seen.id, name, pid: i32::try_from(pid)? });
        }
        Ok(found)
    }

    /// So many new ones, which do not run yet.
    pub async fn create(&self, service: &str, count: usize) -> Outcome<Vec<String>> {
        let making = (0..count).map(|index| async move {
            let endpoint = EndpointSettings { aliases: Some(vec![service.to_owned()]), ..EndpointSettings::default() };
            let body = ContainerCreateBody {
                image: Some(format!("{}:2", self.site.name)),
                cmd: Some(self.command.clone()),
                host_config: Some(HostConfig { network_mode: Some(self.network.clone()), ..HostConfig::default() }),
                networking_config: Some(NetworkingConfig {
                    endpoints_config: Some([(self.network.clone(), endpoint)].into()),
                }),
                ..ContainerCreateBody::default()
            };
            let name = format!("{}-new-{service}-{index}", self.site.name);
            let options = CreateContainerOptionsBuilder::new().name(&name).build();
            Ok::<_, bollard::errors::Error>(self.site.docker.create_container(Some(options), body).await?.id)
        });
        let made: Vec<_> = futures_util::stream::iter(making).buffered(CREATES).collect().await;
        Ok(made.into_iter().collect::<Result<_, _>>()?)
    }

    /// Starts one and waits until it answers: its address.
    pub async fn start(&self, id: &str) -> Outcome<String> {
        self.site.docker.start_container(id, None).await?;
        self.ready(id).await
    }

    async fn ready(&self, id: &str) -> Outcome<String> {
        let about = self.site.docker.inspect_container(id, None).await?;
        let networks = about.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
        let address = networks.into_values().find_map(|network| network.ip_address).ok_or("it has an address")?;
        let begun = Instant::now();
        while !get(&address, PORT, "/health", Duration::from_millis(250)).await {
            if begun.elapsed() > BOUND {
                return Err(format!("the container at {address} does not get ready").into());
            }
            tokio::time::sleep(PROBE_EVERY).await;
        }
        Ok(address)
    }

    /// The same for several, two starts at a time.
    async fn start_all(&self, ids: &[String]) -> Outcome<Vec<String>> {
        let gate = tokio::sync::Semaphore::new(STARTS);
        let starts = ids.iter().map(async |id| {
            let place = gate.acquire().await?;
            self.site.docker.start_container(id, None).await?;
            // The place is for the start; while this one boots the next one starts.
            drop(place);
            self.ready(id).await
        });
        futures_util::future::join_all(starts).await.into_iter().collect()
    }

    /// Asks one to end and waits until it has.
    pub async fn stop(&self, old: &Old) -> Outcome<()> {
        // Opened before the signal: afterwards the number might be another's.
        let process = pidfd_open(Pid::from_raw(old.pid).ok_or("a pid")?, PidfdFlags::empty())?;
        let ended = tokio::task::spawn_blocking(move || {
            let bound = Timespec::try_from(BOUND)?;
            let count = poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&bound))?;
            if count == 0 { Err("a container does not end".into()) } else { Outcome::Ok(()) }
        });
        let options = KillContainerOptionsBuilder::new().signal("SIGTERM").build();
        self.site.docker.kill_container(&old.id, Some(options)).await?;
        ended.await?
    }

    /// Removes one that has ended.
    pub async fn remove(&self, old: &Old) -> Outcome<()> {
        let options = RemoveContainerOptionsBuilder::new().force(true).build();
        Ok(self.site.docker.remove_container(&old.id, Some(options)).await?)
    }

    /// Gives the name of one that was removed to its successor. Not while that starts: engine 20.10 then keeps an
    /// endpoint of the network for good.
    pub async fn rename(&self, old: &Old, new: &str) -> Outcome<()> {
        let options = RenameContainerOptionsBuilder::new().name(&old.name).build();
        Ok(self.site.docker.rename_container(new, options).await?)
    }

    async fn stop_all(&self, olds: &[Old]) -> Outcome<()> {
        let all = futures_util::future::join_all(olds.iter().map(|old| self.stop(old))).await;
        all.into_iter().collect()
    }

    async fn end_all(&self, olds: &[Old], news: &[String]) -> Outcome<()> {
        let all = futures_util::future::join_all(olds.iter().zip(news).map(async |(old, new)| {
            self.stop(old).await?;
            self.remove(old).await?;
            self.rename(old, new).await
        }));
        all.await.into_iter().collect()
    }
}

fn target(number: u32, host: &str, admission: Admission) -> Outcome<TableTarget> {
    let instance = InstanceId::new(SlotName::new(ComponentName::new("api")?, 1), number.into());
    Ok(TableTarget { instance, host: host.to_owned(), port: PORT, admission })
}

/// Whom requests go to, and nothing in flight on any other.
async fn table(socket: &Path, targets: &[TableTarget]) -> Outcome<()> {
    let control = Control::at(socket).await?;
    control.set_table("api", targets, Duration::from_secs(5), true).await?;
    loop {
        let table = control.table("api").await?;
        if table.in_use && table.draining_inflight == 0 {
            return Ok(());
        }
        tokio::time::sleep(PROBE_EVERY).await;
    }
}

/// At last the new one.
async fn switch(socket: &Path, old: &str, new: &str) -> Outcome<()> {
    table(socket, &[target(1, old, Admission::Draining)?, target(2, new, Admission::Admitting)?]).await
}

/// Which comes first behind the API, the new or the old ones.
#[derive(Clone, Copy, PartialEq)]
pub enum Order {
    /// Executors, scheduler, workers, API: the new ones get ready, the old ones drain while the next service starts.
    StartFirst,
    /// Executors, scheduler and workers stop, one service after the other; then workers, scheduler and executors
    /// start. The API last, start-first.
    StopFirst,
}

/// The whole stack of a project. `socket` leads to its gateway.
pub async fn stack(site: &Site, project: &str, order: Order, socket: &Path) -> Outcome<()> {
    let command = vec!["/bin/bench".to_owned(), "box".to_owned()];
    let hands = Hands { site, network: format!("{}-{project}_default", site.name), command };
    let mut old = BTreeMap::new();
    let mut new = BTreeMap::new();
    for (service, count) in crate::docker::STACK {
        old.insert(service, hands.running(service).await?);
        new.insert(service, hands.create(service, count).await?);
    }
    let api = hands.site.docker.inspect_container(&old["api"][0].id, None).await?;
    let networks = api.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let former = networks.into_values().find_map(|network| network.ip_address).ok_or("the API has an address")?;
    // A gateway that knows the API by name alone would find the new one before it is ready.
    table(socket, &[target(1, &former, Admission::Admitting)?]).await?;
    let ends = async |service: &str| hands.end_all(&old[service], &new[service]).await;
    let starts = async |service: &str| hands.start_all(&new[service]).await;
    let api_last = async || -> Outcome<()> {
        let address = starts("api").await?;
        switch(socket, &former, &address[0]).await?;
        ends("api").await
    };
    match order {
        Order::StartFirst => {
            starts("executor").await?;
            let executors = ends("executor");
            let rest = async {
                starts("scheduler").await?;
                let scheduler = ends("scheduler");
                let rest = async {
                    starts("worker").await?;
                    let (workers, api) = tokio::join!(ends("worker"), api_last());
                    workers.and(api)
                };
                let (scheduler, rest) = tokio::join!(scheduler, rest);
                scheduler.and(rest)
            };
            let (executors, rest) = tokio::join!(executors, rest);
            executors.and(rest)
        }
        Order::StopFirst => {
            for service in ["executor", "scheduler", "worker"] {
                hands.stop_all(&old[service]).await?;
            }
            let removals = async {
                for service in ["executor", "scheduler", "worker"] {
                    for old in &old[service] {
                        hands.remove(old).await?;
                    }
                }
                Ok(())
            };
            let rest = async {
                for service in ["worker", "scheduler", "executor"] {
                    starts(service).await?;
                }
                api_last().await
            };
            let (removals, rest): (Outcome<()>, Outcome<()>) = tokio::join!(removals, rest);
            removals.and(rest)?;
            for service in ["executor", "scheduler", "worker"] {
                for (old, new) in old[service].iter().zip(&new[service]) {
                    hands.rename(old, new).await?;
                }
            }
            Ok(())
        }
    }
}
