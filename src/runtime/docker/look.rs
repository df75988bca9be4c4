//! What the engine has of a slot, and which instance each container is.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary, HealthStatusEnum,
};
use bollard::query_parameters::{ListContainersOptionsBuilder, RenameContainerOptionsBuilder};

use super::engine::{ACT, ASK, Trouble};
use super::record::{Entry, SlotRecord, read_temporary};
use super::runtime::Inner;
use super::volumes::OldMount;
use crate::model::{
    Admission, Digest, Endpoint, ExitStatus, Health, InstanceId, InstanceObservation, InstanceState, SlotName,
    compose_spec, runs_baton, runs_gateway,
};
use crate::runtime::RuntimeError;

pub(super) const PROJECT: &str = "com.docker.compose.project";
pub(super) const SERVICE: &str = "com.docker.compose.service";
pub(super) const NUMBER: &str = "com.docker.compose.container-number";
pub(super) const CONFIG_HASH: &str = "com.docker.compose.config-hash";
pub(super) const ONE_OFF: &str = "com.docker.compose.oneoff";
/// On containers that no Compose project has: made from a `baton.yaml`.
pub(super) const FLEET: &str = "baton.fleet";
pub(super) const SLOT: &str = "baton.slot";
pub(super) const INSTANCE: &str = "baton.instance";
pub(super) const SPEC: &str = "baton.spec";

/// One list serves all looks of this time: to an engine of a hundred containers it is as much as forty inspects. It
/// only finds what nobody knows yet, and what it names is looked at again by its id. A container that somebody else
/// makes meanwhile is told by an event, after which there is a new list.
const LIST_EVERY: Duration = Duration::from_secs(5);
/// The same while nobody listens to events.
const LIST_EVERY_UNTOLD: Duration = Duration::from_millis(100);
/// Exit code of a main process that SIGKILL ended, as engines tell it.
const KILLED: i64 = 137;

/// One instance, as the engine has it now.
pub(super) struct Seen {
    pub(super) id: InstanceId,
    pub(super) entry: Entry,
    pub(super) about: ContainerInspectResponse,
}

/// A container of the fleet, from a list.
#[derive(Clone)]
pub(super) struct Listed {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) created: i64,
    labels: HashMap<String, String>,
}

/// Whether a container of a project is the project's coordinator or agent. Its gateway is a component.
fn is_batons_own(found: &ContainerSummary) -> bool {
    let command: Vec<&str> = found.command.iter().flat_map(|command| command.split(' ')).collect();
    let image = found.image.as_deref();
    runs_baton(image, &command) && !runs_gateway(image, &command)
}

impl Inner {
    /// Every container of the fleet, as of a moment ago.
    async fn list(&self) -> Result<Arc<Vec<Listed>>, Trouble> {
        let holds = if self.memo.is_listening() { LIST_EVERY } else { LIST_EVERY_UNTOLD };
        let mut listed = self.listed.lock().await;
        if let Some((at, found)) = &*listed
            && at.elapsed() < holds
        {
            return Ok(Arc::clone(found));
        }
        let found = Arc::new(self.list_now().await?);
        *listed = Some((Instant::now(), Arc::clone(&found)));
        Ok(found)
    }

    async fn list_now(&self) -> Result<Vec<Listed>, Trouble> {
        let client = self.engine.client().await?;
        let list = |label: String| {
            let filters = HashMap::from([("label".to_owned(), vec![label])]);
            let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
            self.engine.bounded("listing containers", ASK, client.list_containers(Some(options)))
        };
        let projects = self.places.projects().into_iter().map(|project| list(format!("{PROJECT}={project}")));
        let composed = futures_util::future::try_join_all(projects);
        let (composed, made) = tokio::try_join!(composed, list(format!("{FLEET}={}", self.fleet)))?;
        // Baton's own services are no part of a fleet: a roll that removed its agent would be stuck for good.
        let composed = composed.into_iter().flatten().filter(|found| !is_batons_own(found));
        let listed = composed.chain(made).filter_map(|found| {
            Some(Listed {
                id: found.id?,
                name: found.names?.first()?.trim_start_matches('/').to_owned(),
                created: found.created.unwrap_or(0),
                labels: found.labels.unwrap_or_default(),
            })
        });
        Ok(listed.collect())
    }

    /// Every slot that has a container.
    pub(super) async fn slots(&self) -> Result<Vec<SlotName>, RuntimeError> {
        let listed = self.list().await?;
        let mut slots: Vec<SlotName> = listed.iter().filter_map(|found| self.places.slot_of(&found.labels)).collect();
        // One whose place was given away is known by what is on record of it.
        let on_record = if self.places.are_given() { self.records.slots()? } else { Vec::new() };
        for slot in on_record {
            if !self.records.read(&slot)?.instances.is_empty() {
                slots.push(slot);
            }
        }
        slots.sort();
        slots.dedup();
        Ok(slots)
    }

    /// What an inspect says of a container, or has said a moment ago; `None`: there is none. Of one that has just
    /// ended, what it will say.
    pub(super) async fn container(&self, id: &str) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        match self.ends.about(id).or_else(|| self.memo.said(id)) {
            Some(about) => Ok(Some(about)),
            None => self.container_now(id).await,
        }
    }

    pub(super) async fn container_now(&self, id: &str) -> Result<Option<ContainerInspectResponse>, RuntimeError> {
        let client = self.engine.client().await?;
        let asked = Instant::now();
        match self.engine.bounded("inspecting a container", ASK, client.inspect_container(id, None)).await {
            Ok(about) => {
                // By its id: a name can become another's.
                if let Some(id) = &about.id {
                    self.memo.keep(id, asked, &about);
                }
                Ok(Some(about))
            }
            Err(trouble) if trouble.is_absent() => Ok(None),
            Err(trouble) => Err(trouble.into()),
        }
    }

    /// An act on a container: what was known of it a moment ago is past, whatever comes of it.
    pub(super) async fn act<T>(
        &self,
        id: &str,
        what: &str,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, Trouble> {
        let done = self.engine.bounded(what, ACT, call).await;
        self.memo.forget(id);
        done
    }

    /// All instances of a slot. A container that nobody has given a number gets the next, written before it is told.
    pub(super) async fn look(&self, slot: &SlotName) -> Result<Vec<Seen>, RuntimeError> {
        // The list comes before the record: what Baton makes or removes meanwhile is in the record, or gone, by then.
        let all = self.list().await?;
        let here = |found: &&Listed| self.places.slot_of(&found.labels).as_ref() == Some(slot);
        let mut listed: Vec<&Listed> = all.iter().filter(here).collect();
        // An instance that was there first has the lower number.
        listed.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));

        let _turn = self.records.turn(slot).await;
        let before = self.records.read(slot)?;
        let mut record = before.clone();
        let looks = before.instances.iter().filter_map(|(number, entry)| {
            let id = entry.container.as_ref()?;
            Some(async { Ok::<_, RuntimeError>(self.container(id).await?.map(|about| (*number, about))) })
        });
        let known = futures_util::future::try_join_all(looks).await?;
        let mut found: BTreeMap<u64, ContainerInspectResponse> = known.into_iter().flatten().collect();
        for stranger in listed {
            let has = |entry: &Entry| entry.container.as_ref() == Some(&stranger.id);
            let making = |entry: &Entry| entry.container.is_none() && entry.made_as == stranger.name;
            if record.instances.values().any(|entry| has(entry) || making(entry)) {
                continue;
            }
            let Some(about) = self.container(&stranger.id).await? else { continue };
            let number = number_of(stranger, &record);
            record.highest = record.highest.max(number);
            record.instances.insert(number, adopted(stranger));
            found.insert(number, about);
        }
        if record != before {
            self.records.write(slot, &record).await?;
        }
        self.finish_name(&record, &mut found).await;
        let seen = found.into_iter().filter_map(|(number, about)| {
            let entry = record.instances.get(&number)?.clone();
            Some(Seen { id: InstanceId::new(slot.clone(), number), entry, about })
        });
        Ok(seen.collect())
    }

    /// The one container that is left of a slot gets its final name, where a crash or an act has left it without. Call
    /// it in the slot's turn.
    async fn finish_name(&self, record: &SlotRecord, found: &mut BTreeMap<u64, ContainerInspectResponse>) {
        let making = record.instances.values().any(|entry| entry.container.is_none());
        let (1, false, false) = (found.len(), making, self.records.is_read_only()) else { return };
        for (number, about) in found {
            let Some(entry) = record.instances.get(number) else { continue };
            let now = name_of(about);
            // Only from the name that it was made under: what a person has renamed is theirs.
            if now == entry.made_as && now != entry.name {
                match self.rename(about.id.as_deref().unwrap_or_default(), &entry.name).await {
                    Ok(()) => about.name = Some(format!("/{}", entry.name)),
                    Err(error) => tracing::warn!(
                        container = now,
                        name = entry.name,
                        why = error.message,
                        "a container could not be given its final name; remove what has it"
                    ),
                }
            }
        }
    }

    pub(super) async fn rename(&self, id: &str, name: &str) -> Result<(), RuntimeError> {
        let client = self.engine.client().await?;
        let options = RenameContainerOptionsBuilder::new().name(name).build();
        let what = format!("renaming a container to {name}");
        Ok(self.act(id, &what, client.rename_container(id, options)).await?)
    }

    /// By what address an instance is reached.
    pub(super) async fn endpoint(&self, seen: &Seen) -> Result<Endpoint, RuntimeError> {
        let mut address = address_of(&seen.about);
        // In another container's network it has that one's address.
        if let (None, Some(other)) = (&address, network_mode(&seen.about).strip_prefix("container:")) {
            address = self.container(other).await?.and_then(|about| address_of(&about));
        }
        let address = address.unwrap_or_default();
        let exposed = seen.about.config.as_ref().and_then(|config| config.exposed_ports.as_ref());
        let numbers = exposed.into_iter().flatten().filter_map(|port| port.split('/').next()?.parse::<u16>().ok());
        let mut ports: BTreeMap<String, u16> = numbers.map(|number| (number.to_string(), number)).collect();
        ports.extend(seen.entry.ports.clone());
        Ok(Endpoint { address, ports })
    }

    pub(super) async fn observe(&self, seen: &Seen) -> Result<InstanceObservation, RuntimeError> {
        let nothing = ContainerState::default();
        let about = seen.about.state.as_ref().unwrap_or(&nothing);
        let state = state_of(about);
        let runs = state == InstanceState::Running;
        let ended = matches!(state, InstanceState::Exited | InstanceState::Restarting);
        let spec = spec_of(&seen.about).or_else(|| seen.entry.spec.clone());
        Ok(InstanceObservation {
            id: seen.id.clone(),
            asked: seen.entry.spec.clone().filter(|asked| spec.as_ref().is_some_and(|shown| shown != asked)),
            spec,
            definition: seen.entry.definition.clone(),
            version: seen.entry.version.clone(),
            state,
            health: health_of(about),
            admission: Admission::Admitting,
            endpoint: if runs { Some(self.endpoint(seen).await?) } else { None },
            pid: about.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
            restarts: seen.about.restart_count.and_then(|count| u32::try_from(count).ok()).unwrap_or(0),
            crashing: state == InstanceState::Restarting,
            exit: ended.then(|| exit_of(about.exit_code)),
            sockets_held: true,
        })
    }
}

/// The number of a container that has none on record: its label or temporary name says it, else it is the next.
fn number_of(found: &Listed, record: &SlotRecord) -> u64 {
    let labelled = found.labels.get(INSTANCE).and_then(|id| id.parse::<InstanceId>().ok()).map(|id| id.number);
    let said = labelled.or_else(|| read_temporary(&found.name).map(|(_, number)| number));
    said.filter(|number| !record.instances.contains_key(number)).unwrap_or(record.highest + 1)
}

fn adopted(found: &Listed) -> Entry {
    let name = read_temporary(&found.name).map_or(found.name.as_str(), |(name, _)| name);
    Entry { container: Some(found.id.clone()), name: name.to_owned(), made_as: found.name.clone(), ..Entry::default() }
}

/// A container's present name.
pub(super) fn name_of(about: &ContainerInspectResponse) -> &str {
    about.name.as_deref().unwrap_or_default().trim_start_matches('/')
}

pub(super) fn network_mode(about: &ContainerInspectResponse) -> &str {
    about.host_config.as_ref().and_then(|host| host.network_mode.as_deref()).unwrap_or_default()
}

/// Its address on its first network. An engine lists networks in no order; the mode names the first.
fn address_of(about: &ContainerInspectResponse) -> Option<String> {
    let mode = network_mode(about);
    if mode == "host" {
        return Some("127.0.0.1".to_owned());
    }
    let networks = about.network_settings.as_ref()?.networks.as_ref()?;
    let address = |name: &str| networks.get(name)?.ip_address.clone().filter(|address| !address.is_empty());
    let first = if mode == "default" { "bridge" } else { mode };
    let mut names: Vec<&String> = networks.keys().collect();
    names.sort();
    address(first).or_else(|| names.into_iter().find_map(|name| address(name)))
}

/// The spec that a container shows by itself.
pub(super) fn spec_of(about: &ContainerInspectResponse) -> Option<Digest> {
    let labels = about.config.as_ref()?.labels.as_ref()?;
    match labels.get(SPEC) {
        Some(spec) => Some(Digest(spec.clone())),
        None => Some(compose_spec(labels.get(CONFIG_HASH)?, about.image.as_deref()?)),
    }
}

pub(super) fn state_of(state: &ContainerState) -> InstanceState {
    use ContainerStateStatusEnum as Status;
    match state.status {
        Some(Status::CREATED) => InstanceState::Created,
        // A paused one holds its memory, its ports and its work.
        Some(Status::RUNNING | Status::PAUSED) => InstanceState::Running,
        Some(Status::RESTARTING) => InstanceState::Restarting,
        Some(Status::EXITED | Status::DEAD) => InstanceState::Exited,
        _ => InstanceState::Unknown,
    }
}

fn health_of(state: &ContainerState) -> Health {
    match state.health.as_ref().and_then(|health| health.status) {
        Some(HealthStatusEnum::HEALTHY) => Health::Ready,
        Some(HealthStatusEnum::STARTING | HealthStatusEnum::UNHEALTHY) => Health::Unready,
        _ => Health::Unknown,
    }
}

/// How a main process ended. Engines tell a signal as 128 and its number, which a program may say too (`exit 143`), so
/// only the one that no program survives is told as a signal.
pub(super) fn exit_of(code: Option<i64>) -> ExitStatus {
    match code {
        Some(KILLED) => ExitStatus::Signal(libc::SIGKILL),
        Some(code) => i32::try_from(code).map_or(ExitStatus::Unknown, ExitStatus::Code),
        None => ExitStatus::Unknown,
    }
}

/// What a container has mounted.
pub(super) fn mounts_of(about: &ContainerInspectResponse) -> Vec<OldMount> {
    let mounts = about.mounts.iter().flatten().map(|mount| {
        let kind = mount.typ.clone().unwrap_or_default();
        let source = if kind == "volume" { &mount.name } else { &mount.source };
        OldMount {
            kind,
            source: source.clone().unwrap_or_default(),
            at: mount.destination.clone().unwrap_or_default(),
            writable: mount.rw.unwrap_or(true),
        }
    });
    mounts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_number_is_said_by_label_or_name_and_is_the_next_where_it_is_taken() {
        let listed = |name: &str, pairs: &[(&str, &str)]| Listed {
            id: "c".to_owned(),
            name: name.to_owned(),
            created: 0,
            labels: labels(pairs),
        };
        let record = SlotRecord { highest: 4, instances: [(4, Entry::default())].into(), ..SlotRecord::default() };
        assert_eq!(number_of(&listed("p-w-1", &[]), &record), 5);
        assert_eq!(number_of(&listed("p-w-1.baton-9", &[]), &record), 9);
        assert_eq!(number_of(&listed("p-w-1.baton-4", &[]), &record), 5);
        assert_eq!(number_of(&listed("x", &[(INSTANCE, "w-1.3")]), &record), 3);
        assert_eq!(adopted(&listed("p-w-1.baton-9", &[])).name, "p-w-1");
    }

    #[test]
    fn only_a_kill_is_told_as_a_signal() {
        assert_eq!(exit_of(Some(137)), ExitStatus::Signal(9));
        assert_eq!(exit_of(Some(143)), ExitStatus::Code(143));
        assert_eq!(exit_of(None), ExitStatus::Unknown);
    }
}
