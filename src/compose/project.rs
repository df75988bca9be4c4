//! What a project is: Compose's own resolved model, and of it what decides how it is rolled.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::{Compose, ComposeError, Selection, duration};
use crate::model::{Secret, published_ports};

/// In the order in which Compose looks for them.
const NAMES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];

/// Where secrets are in a container that says nothing else.
const SECRETS: &str = "/run/secrets/";

/// A resolved project.
#[derive(Clone, Default, Deserialize)]
pub struct Project {
    /// Its name.
    pub name: String,
    /// Its services, those of profiles that are not asked for left out.
    #[serde(default)]
    pub services: BTreeMap<String, Service>,
    /// `x-baton` at the top.
    #[serde(default, rename = "x-baton")]
    pub baton: Option<Value>,
    #[serde(default)]
    configs: BTreeMap<String, Content>,
    #[serde(default)]
    secrets: BTreeMap<String, Content>,
    /// Whether something is copied into containers instead of mounted: inline configs, secrets of the environment.
    #[serde(skip)]
    pub has_content: bool,
    /// What Compose warned of.
    #[serde(skip)]
    pub warnings: String,
    /// The folder that relative paths in it start from.
    #[serde(skip)]
    pub folder: PathBuf,
}

#[derive(Clone, Deserialize)]
struct Content {
    #[serde(default)]
    file: Option<Value>,
    #[serde(default)]
    external: Option<Value>,
}

/// A service, as far as it decides how it is rolled. What its keys mean to the engine, Compose knows.
#[derive(Clone, Default, Deserialize)]
pub struct Service {
    /// The image, where it is named.
    #[serde(default)]
    pub image: Option<String>,
    /// How its image is built, if it is.
    #[serde(default)]
    build: Option<Value>,
    #[serde(default)]
    entrypoint: Option<Vec<String>>,
    #[serde(default)]
    command: Option<Vec<String>>,
    #[serde(default, deserialize_with = "secrets")]
    environment: Vec<Secret>,
    /// What must be there before it.
    #[serde(default)]
    pub depends_on: BTreeMap<String, Dependency>,
    /// From the stop signal to SIGKILL.
    #[serde(default, deserialize_with = "span")]
    pub stop_grace_period: Option<Duration>,
    /// What asks it to end.
    #[serde(default)]
    pub stop_signal: Option<String>,
    /// Its own healthcheck.
    #[serde(default)]
    pub healthcheck: Option<Healthcheck>,
    #[serde(default)]
    scale: Option<u32>,
    /// `deploy`
    #[serde(default)]
    pub deploy: Deploy,
    /// A fixed name.
    #[serde(default)]
    pub container_name: Option<String>,
    /// Published ports.
    #[serde(default)]
    pub ports: Vec<Published>,
    /// Networks, with what is fixed there.
    #[serde(default)]
    pub networks: Option<BTreeMap<String, Option<Attachment>>>,
    /// Whose network it has.
    #[serde(default)]
    pub network_mode: Option<String>,
    /// Whose processes it sees.
    #[serde(default)]
    pub pid: Option<String>,
    /// Whose shared memory it has.
    #[serde(default)]
    pub ipc: Option<String>,
    /// Volumes and folders of the host.
    #[serde(default)]
    pub volumes: Vec<Mount>,
    /// Volumes of other services.
    #[serde(default)]
    pub volumes_from: Vec<String>,
    #[serde(default)]
    configs: Vec<Given>,
    #[serde(default)]
    secrets: Vec<Given>,
    /// `x-baton`
    #[serde(default, rename = "x-baton")]
    pub baton: Option<Value>,
}

/// An entry of `depends_on`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Dependency {
    /// `service_started`, `service_healthy`, `service_completed_successfully`.
    #[serde(default)]
    pub condition: String,
    /// Whether it is made anew with what it depends on.
    #[serde(default)]
    pub restart: bool,
}

/// `healthcheck`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Healthcheck {
    #[serde(default)]
    disable: bool,
    #[serde(default)]
    test: Option<Vec<String>>,
    #[serde(default, deserialize_with = "span")]
    interval: Option<Duration>,
    #[serde(default, deserialize_with = "span")]
    timeout: Option<Duration>,
    #[serde(default, deserialize_with = "span")]
    start_period: Option<Duration>,
    #[serde(default)]
    retries: Option<u32>,
}

/// `deploy`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Deploy {
    #[serde(default)]
    replicas: Option<u32>,
    /// How it is updated.
    #[serde(default)]
    pub update_config: Option<UpdateConfig>,
    /// How an update is taken back.
    #[serde(default)]
    pub rollback_config: Option<UpdateConfig>,
}

/// `update_config`, `rollback_config`
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct UpdateConfig {
    /// Slots at a time; 0 means all.
    #[serde(default)]
    pub parallelism: Option<u32>,
    /// Between two.
    #[serde(default, deserialize_with = "span")]
    pub delay: Option<Duration>,
    /// What a failure does.
    #[serde(default)]
    pub failure_action: Option<String>,
    /// How long a failure counts.
    #[serde(default, deserialize_with = "span")]
    pub monitor: Option<Duration>,
    /// How many may fail.
    #[serde(default)]
    pub max_failure_ratio: Option<f64>,
    /// `stop-first` or `start-first`.
    #[serde(default)]
    pub order: Option<String>,
}

/// A config or a secret that a service gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
struct Given {
    #[serde(default)]
    source: String,
    #[serde(default)]
    target: Option<String>,
}

/// A published port.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Published {
    /// On the host: a number, a range, or nothing for any.
    #[serde(default)]
    pub published: Option<Value>,
}

/// A network that a service is on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Attachment {
    /// A fixed address.
    #[serde(default)]
    pub ipv4_address: Option<String>,
    /// A fixed address.
    #[serde(default)]
    pub ipv6_address: Option<String>,
    /// A fixed address.
    #[serde(default)]
    pub mac_address: Option<String>,
}

/// A volume or a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Mount {
    /// `volume`, `bind`, `tmpfs`, ...
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Its name, or a path on the host.
    #[serde(default)]
    pub source: Option<String>,
    /// In the container.
    #[serde(default)]
    pub target: String,
    /// Nobody writes there.
    #[serde(default)]
    pub read_only: bool,
}

fn span<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    match Option::<String>::deserialize(from)? {
        None => Ok(None),
        Some(text) => duration::parse(&text).map(Some).ok_or_else(|| serde::de::Error::custom("not a duration")),
    }
}

/// The values of a mapping.
fn secrets<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Secret>, D::Error> {
    let values = BTreeMap::<String, Value>::deserialize(from)?.into_values();
    Ok(values.filter_map(|value| value.as_str().map(Secret::new)).collect())
}

impl Project {
    /// Finds Compose and asks it what the project is. Contacts no engine.
    ///
    /// # Errors
    /// With Compose's own words, or when there is none that could be asked.
    pub async fn find(selection: &Selection) -> Result<(Compose, Self), ComposeError> {
        // Nearly always it is this one; where it does not read the project, whether it works at all is the first
        // question.
        if let Some(plugin) = Compose::plugin()
            && let Ok(project) = Self::read(&plugin, selection).await
        {
            return Ok((plugin, project));
        }
        let compose = Compose::find().await?;
        let project = Self::read(&compose, selection).await?;
        Ok((compose, project))
    }

    /// Asks this Compose what the project is. Contacts no engine.
    ///
    /// # Errors
    /// With Compose's own words.
    pub async fn read(compose: &Compose, selection: &Selection) -> Result<Self, ComposeError> {
        let output = compose.ask(selection, &["config"]).await?;
        let mut project = Self::parse(&output.stdout)?;
        project.warnings = output.stderr.trim().to_owned();
        let first = named_files(selection).and_then(|files| files.into_iter().next());
        let folder = first.and_then(|file| file.parent().map(Path::to_owned)).or_else(|| here(selection));
        project.folder = folder.unwrap_or_default();
        Ok(project)
    }

    /// Reads what `docker compose config` wrote. YAML, because its JSON leaves out `x-baton` inside services.
    ///
    /// # Errors
    /// When it is not understood. No value is repeated: it may be one of the environment.
    pub fn parse(text: &str) -> Result<Self, ComposeError> {
        let not_understood = |why: String| ComposeError::NotUnderstood { why };
        let value: Value = crate::manifest::strict(text).map_err(not_understood)?;
        let mut project: Self = serde_path_to_error::deserialize(value)
            .map_err(|error| not_understood(format!("{} has another form than expected", error.path())))?;
        project.has_content = project.configs.values().chain(project.secrets.values()).any(Content::is_copied);
        Ok(project)
    }

    /// Services that end by themselves, because others wait for their good end or `x-baton` says so.
    pub fn jobs(&self) -> BTreeSet<String> {
        let awaited = self.services.values().flat_map(|service| &service.depends_on);
        let awaited = awaited.filter(|(_, dependency)| dependency.condition == "service_completed_successfully");
        let said = self.services.iter().filter(|(_, service)| {
            service.baton.as_ref().and_then(|baton| baton.get("role")).is_some_and(|role| role == "job")
        });
        awaited.map(|(name, _)| name.clone()).chain(said.map(|(name, _)| name.clone())).collect()
    }

    /// What is copied into containers of a service when they are made, by its place there.
    pub fn copied(&self, service: &Service) -> BTreeMap<String, String> {
        let kinds =
            [("config", &service.configs, &self.configs, "/"), ("secret", &service.secrets, &self.secrets, SECRETS)];
        let mut copied = BTreeMap::new();
        for (kind, given, contents, folder) in kinds {
            for one in given.iter().filter(|one| contents.get(&one.source).is_some_and(Content::is_copied)) {
                let target = one.target.as_deref().unwrap_or(&one.source);
                let place = if target.starts_with('/') { target.to_owned() } else { format!("{folder}{target}") };
                copied.insert(place, format!("{kind} {}", one.source));
            }
        }
        copied
    }

    /// The variable that stands for the version, as `x-baton` names it: `version: { variable: TAG }`.
    pub fn version_variable(&self) -> Option<&str> {
        self.baton.as_ref()?.get("version")?.get("variable")?.as_str()
    }
}

impl Content {
    /// Whether it is copied instead of mounted.
    fn is_copied(&self) -> bool {
        self.file.is_none() && self.external.is_none()
    }
}

impl Service {
    /// How many containers.
    pub fn replicas(&self) -> u32 {
        self.scale.or(self.deploy.replicas).unwrap_or(1)
    }

    /// Whether its image is built here.
    pub fn is_built(&self) -> bool {
        self.build.is_some()
    }

    /// Whether the file says how it is asked whether it is well.
    pub fn has_healthcheck(&self) -> bool {
        self.healthcheck.as_ref().is_some_and(Healthcheck::has_test)
    }

    /// Services whose container it lives in: on its network, among its processes, with its memory or volumes.
    pub fn landlords(&self) -> impl Iterator<Item = &str> {
        let modes = [&self.network_mode, &self.pid, &self.ipc].into_iter().flatten();
        let shared = modes.filter_map(|mode| mode.strip_prefix("service:"));
        // `container:NAME` is none of the project.
        let from = self.volumes_from.iter().filter(|from| !from.starts_with("container:"));
        shared.chain(from.filter_map(|from| from.split(':').next()))
    }

    /// Whether it is Baton itself.
    pub fn runs_baton(&self) -> bool {
        super::front::runs_baton(self)
    }

    /// Its command line, as far as the file says it.
    pub fn words(&self) -> impl Iterator<Item = &str> {
        self.entrypoint.iter().chain(&self.command).flatten().map(String::as_str)
    }

    /// The ports of the host that it publishes by number.
    pub fn host_ports(&self) -> BTreeSet<u16> {
        self.ports.iter().filter_map(Published::on_host).flatten().collect()
    }

    /// Whether its environment or its command names that host: `//NAME:80/`, `@NAME/`, or `NAME:80` alone.
    pub fn shows_host(&self, name: &str) -> bool {
        let values = self.environment.iter().map(Secret::expose);
        values.chain(self.words()).any(|text| names_host(text, name))
    }

    /// What `x-baton` says of it.
    pub fn own(&self) -> Map<String, Value> {
        self.baton.as_ref().and_then(Value::as_object).cloned().unwrap_or_default()
    }
}

fn names_host(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| {
        let (before, after) = (&text[..at], &text[at + name.len()..]);
        let begins = before.is_empty() || before.ends_with("//") || before.ends_with(['@', ',', '=', ' ']);
        let port = after.strip_prefix(':').is_some_and(|port| port.starts_with(|c: char| c.is_ascii_digit()));
        let path = (before.ends_with("//") || before.ends_with('@')) && (after.is_empty() || after.starts_with('/'));
        begins && (port || path)
    })
}

impl Published {
    /// The ports of the host that it takes one of; `None` where the engine chooses.
    pub fn on_host(&self) -> Option<RangeInclusive<u16>> {
        match self.published.as_ref()? {
            Value::String(text) => published_ports(text),
            Value::Number(number) => published_ports(&number.to_string()),
            _ => None,
        }
    }
}

impl Healthcheck {
    /// Whether it says that there is none, whatever the image has.
    pub fn is_off(&self) -> bool {
        self.disable || self.test.as_ref().is_some_and(|test| test.first().is_some_and(|word| word == "NONE"))
    }

    /// Whether it has a test of its own.
    pub fn has_test(&self) -> bool {
        !self.is_off() && self.test.as_ref().is_some_and(|test| !test.is_empty())
    }

    /// How long the engine may take until it calls a container unhealthy: before that it may yet become healthy.
    pub fn patience(&self) -> Duration {
        let usual = Duration::from_secs(30);
        let round = self.interval.unwrap_or(usual).saturating_add(self.timeout.unwrap_or(usual));
        let rounds = self.retries.filter(|retries| *retries > 0).unwrap_or(3);
        self.start_period.unwrap_or_default().saturating_add(round.saturating_mul(rounds))
    }
}

/// Whether there is a project here that Compose would find by itself: `COMPOSE_FILE` in the environment or in `.env`,
/// or a file with one of its names here or in a folder above.
pub fn is_here(folder: &Path) -> bool {
    if std::env::var_os("COMPOSE_FILE").is_some_and(|files| !files.is_empty()) {
        return true;
    }
    names_files(&folder.join(".env")) || found(folder).is_some()
}

fn found(folder: &Path) -> Option<PathBuf> {
    let mut above = folder.ancestors();
    above.find_map(|folder| NAMES.iter().map(|name| folder.join(name)).find(|path| path.is_file()))
}

/// The first of the project's files that has an `x-baton`, for the places of what is wrong there. `None` where none is
/// found: then nothing is wrong in one, or it came another way than through a file.
pub fn file_with_ours(selection: &Selection) -> Option<(PathBuf, String)> {
    files(selection).into_iter().find_map(|file| {
        let text = std::fs::read_to_string(&file).ok()?;
        text.contains("x-baton").then_some((file, text))
    })
}

/// The project's files, as far as they are known by name: what they include is not among them. Of those that Compose
/// finds by itself the overriding ones come first.
pub fn files(selection: &Selection) -> Vec<PathBuf> {
    let mut files = named_files(selection).unwrap_or_default();
    let named = !selection.files.is_empty() || std::env::var_os("COMPOSE_FILE").is_some_and(|files| !files.is_empty());
    if let (false, [first]) = (named, files.as_slice()) {
        let beside = |name: &str| first.with_file_name(name.replacen("compose.", "compose.override.", 1));
        let overriding: Vec<PathBuf> = NAMES.iter().map(|name| beside(name)).filter(|path| path.is_file()).collect();
        files.splice(0..0, overriding);
    }
    files
}

/// Where Compose is run.
fn here(selection: &Selection) -> Option<PathBuf> {
    match selection.folder.as_os_str().is_empty() {
        true => std::env::current_dir().ok(),
        false => Some(selection.folder.clone()),
    }
}

/// The project's files, as far as they are named; of those that Compose finds by itself the first.
fn named_files(selection: &Selection) -> Option<Vec<PathBuf>> {
    let folder = here(selection)?;
    let named = std::env::var("COMPOSE_FILE").unwrap_or_default();
    let files: Vec<PathBuf> = if !selection.files.is_empty() {
        selection.files.clone()
    } else if !named.is_empty() {
        named.split(':').map(PathBuf::from).collect()
    } else {
        vec![found(&folder)?]
    };
    Some(files.into_iter().map(|file| folder.join(file)).collect())
}

/// The file that Compose reads a variable from: of those that are named (`--env-file`, else `COMPOSE_ENV_FILES`) the
/// last one that has it, else the last; where none is named `.env` in the project's folder. It may not be there.
pub fn env_file(selection: &Selection, variable: &str) -> Option<PathBuf> {
    let folder = here(selection)?;
    let named = std::env::var("COMPOSE_ENV_FILES").unwrap_or_default();
    let named: Vec<PathBuf> = match selection.env_files.is_empty() {
        false => selection.env_files.clone(),
        true => named.split(',').filter(|name| !name.is_empty()).map(PathBuf::from).collect(),
    };
    let has = |file: &PathBuf| std::fs::read_to_string(file).is_ok_and(|text| super::dotenv::has(&text, variable));
    let named: Vec<PathBuf> = named.into_iter().map(|file| folder.join(file)).collect();
    if let Some(last) = named.last() {
        return Some(named.iter().rfind(|file| has(file)).unwrap_or(last).clone());
    }
    // Where that names the project's file, its other variables count, too.
    let own = folder.join(".env");
    let first = named_files(selection).and_then(|files| files.into_iter().next());
    let of_project = first.map(|file| file.with_file_name(".env")).filter(|file| *file != own);
    Some(match of_project {
        Some(of_project) if has(&of_project) || !has(&own) || !names_files(&own) => of_project,
        _ => own,
    })
}

/// Whether an env file says which files the project is.
fn names_files(file: &Path) -> bool {
    std::fs::read_to_string(file).is_ok_and(|text| super::dotenv::has(&text, "COMPOSE_FILE"))
}

#[cfg(test)]
#[path = "project_tests.rs"]
mod tests;
