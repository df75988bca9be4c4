//! The Compose project of this host: components of a `baton.yaml` that are services of it.
//!
//! What Compose would make of a service, with the values of its environment, is found out here and stays here: in this
//! agent's spec store, by its digest. The coordinator is told the digest, and what it plans with.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::{Map, Value};

use super::Policy;
use super::definitions::Definitions;
use crate::compose::{self, Project, Rehearsal, Selection, Version};
use crate::model::{
    AgentId, ComposeAnswer, ComposeFound, ComposeHost, ComposeRemote, ComposeService, Definition, Digest, Resolution,
    Traffic,
};
use crate::planner::definition_digest;
use crate::runtime::Runtime;
use crate::runtime::docker::{DockerRuntime, HostService};

/// The longest tag that an image can have.
const TAG_MAX: usize = 128;

/// The Compose project that a host has of its own.
#[derive(Clone)]
pub struct HostProject {
    /// Its folder, as Compose is run in.
    pub folder: PathBuf,
    /// The engine's Unix socket.
    pub engine: PathBuf,
    /// The hands on its containers.
    pub containers: Arc<DockerRuntime>,
}

/// What an agent answers with about components that are services of its host's project. For one question: what Compose
/// says is asked once for all of them.
pub(super) struct Reader {
    pub(super) me: AgentId,
    pub(super) project: Option<HostProject>,
    pub(super) policy: Policy,
    pub(super) specs: Arc<Definitions>,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) pull: bool,
    pub(super) look: Option<Result<Arc<Look>, String>>,
}

/// The project, as Compose reads it and as it would make it.
pub(super) struct Look {
    project: Project,
    rehearsal: Rehearsal,
    version: Option<Version>,
}

/// A definition with what only this host knows: what the engine is to be sent.
///
/// # Errors
/// For people, when it is not kept here.
pub(super) fn local(definition: Definition, me: &AgentId, specs: &Definitions) -> Result<Definition, String> {
    let Some(compose) = definition.compose.as_ref().filter(|compose| compose.remote.is_some()) else {
        return Ok(definition);
    };
    let component = &definition.component;
    let host = compose.on(me).ok_or_else(|| {
        format!("the plan does not say what component {component} is in the Compose project of {me}; plan anew")
    })?;
    let kept = specs.get(&host.kept).map_err(|error| crate::cause::chain(&error))?.ok_or_else(|| {
        format!(
            "what component {component} was in the Compose project of {me} ({}) is not in its spec store any more; \
             plan anew",
            host.kept.short()
        )
    })?;
    if kept.component != *component {
        return Err(format!("{} is kept for component {}, not for {component}", host.kept.short(), kept.component));
    }
    Ok(Definition { image: kept.image.clone(), compose: kept.compose.clone(), ..definition })
}

fn problem(text: impl Into<String>) -> Resolution {
    Resolution { problem: Some(text.into()), ..Resolution::default() }
}

impl Reader {
    /// What a component is on this host, asked for or on record.
    pub(super) async fn resolve(&mut self, definition: &Definition) -> Resolution {
        let asked = definition.compose.as_ref().and_then(|compose| compose.remote.as_ref()?.ask.clone());
        let answered = match asked {
            Some(_) => self.found_out(definition).await,
            None => self.on_record(definition.clone()).await,
        };
        answered.unwrap_or_else(problem)
    }

    async fn on_record(&self, definition: Definition) -> Result<Resolution, String> {
        let local = local(definition, &self.me, &self.specs)?;
        self.policy.admit_definition(&local)?;
        let resolution = self.runtime.resolve(&local, self.pull).await;
        // What was found would be told with its values, and what is on record has a way back of its own.
        Ok(Resolution { found: None, ..resolution })
    }

    async fn found_out(&mut self, definition: &Definition) -> Result<Resolution, String> {
        let component = &definition.component;
        let no_project = || {
            format!(
                "agent {} has no Compose project, and {component} is a service of its host's: start it with \
                 --compose DIR, the folder of its Compose file",
                self.me
            )
        };
        let host = self.project.clone().ok_or_else(no_project)?;
        let service = definition.compose.as_ref().map(|compose| compose.service.clone()).unwrap_or_default();
        let remote = definition.compose.as_ref().and_then(|compose| compose.remote.clone()).unwrap_or_default();
        let asked = remote.ask.unwrap_or_default();
        let look = self.look(&host, asked.version, &service).await?;
        let Some(written) = look.project.services.get(&service) else {
            let there: Vec<&str> = look.project.services.keys().map(String::as_str).collect();
            return Err(format!(
                "project {} in {} has no service {service}; it has {}",
                look.project.name,
                host.folder.display(),
                there.join(", ")
            ));
        };
        let replicas = written.replicas();
        if usize::try_from(replicas) != Ok(asked.slots.len()) {
            return Err(format!(
                "project {} would have {replicas} containers of service {service}, and the fleet places {} here: \
                 correct `replicas` of {component}, or `deploy.replicas` in {}",
                look.project.name,
                asked.slots.len(),
                host.folder.display()
            ));
        }
        let own = keys_over(definition, &remote.own);
        let mut local = compose::manifest::of_service(&look.project, &look.rehearsal, &service, own)
            .map_err(|error| format!("service {service} of project {}: {error}", look.project.name))?;
        local.component = component.clone();
        local.versioned |= look.version.as_ref().is_some_and(|version| version.services.contains(&service));
        let of = HostService {
            component: component.clone(),
            project: look.project.name.clone(),
            service: service.clone(),
            replicas,
        };
        self.placed(&host, &of, &mut local, &asked.slots).await?;
        self.policy.admit_definition(&local)?;
        let kept = self.keep(&local)?;
        let resolution = self.runtime.resolve(&local, self.pull).await;
        let found = match &resolution.found {
            Some(found) => Some(Box::new(self.found_before(&local, found)?)),
            None => None,
        };
        let version = look.version.as_ref().filter(|version| version.services.contains(&service));
        let host = ComposeHost { version: version.map(|version| version.value.clone()), ..host_of(&local, kept) };
        let depends_on = local.depends_on.iter().map(|(on, condition)| (on.to_string(), *condition)).collect();
        let answer = ComposeAnswer { host, steering: steering(local), depends_on };
        Ok(Resolution { found, compose: Some(Box::new(answer)), ..resolution })
    }

    /// Puts what Compose would make at the indexes of the slots that it is for.
    async fn placed(
        &self,
        host: &HostProject,
        of: &HostService,
        local: &mut Definition,
        slots: &[u32],
    ) -> Result<(), String> {
        let (numbers, strangers) = host.containers.place(of, slots).await.map_err(|error| error.message)?;
        let component = &of.component;
        if !strangers.is_empty() {
            return Err(format!(
                "{} of project {} are more than its file asks for, and no slot of {component}: remove them (`docker \
                 compose up -d`)",
                strangers.join(", "),
                of.project
            ));
        }
        let Some(compose) = &mut local.compose else { return Ok(()) };
        let made = std::mem::take(&mut compose.containers);
        for index in slots {
            let number = numbers.get(index).copied().unwrap_or_default();
            let container = made.get(&number).ok_or_else(|| {
                format!(
                    "{component}-{index} would be container {number} of service {}, and project {} makes {}: let \
                     the slots that leave this host go first",
                    of.service,
                    of.project,
                    made.len()
                )
            })?;
            compose.containers.insert(*index, container.clone());
        }
        Ok(())
    }

    /// What somebody else had made stays here, too.
    fn found_before(&self, local: &Definition, found: &ComposeFound) -> Result<ComposeFound, String> {
        let former =
            Definition { image: Some(found.image.clone()), compose: Some(found.service.clone()), ..local.clone() };
        let host = host_of(&former, self.keep(&former)?);
        let remote = ComposeRemote { hosts: [(self.me.clone(), host)].into(), ..ComposeRemote::default() };
        let service = found.service.service.clone();
        let service = ComposeService { service, remote: Some(remote), ..ComposeService::default() };
        Ok(ComposeFound { image: found.image.clone(), service })
    }

    fn keep(&self, definition: &Definition) -> Result<Digest, String> {
        let digest = definition_digest(definition);
        self.specs.keep(&digest, definition).map_err(|error| crate::cause::chain(&error))?;
        Ok(digest)
    }

    async fn look(&mut self, host: &HostProject, version: Option<String>, service: &str) -> Result<Arc<Look>, String> {
        if let Some(Ok(look)) = &self.look
            && self.pull
            && look.rehearsal.missing(&look.project).pulled.iter().any(|missing| missing == service)
        {
            // It was not among those that were pulled for the first one.
            self.look = None;
        }
        if self.look.is_none() {
            self.look = Some(look(host, version, service, self.pull).await.map(Arc::new));
        }
        self.look.clone().unwrap_or_else(|| Err("nobody has looked".to_owned()))
    }
}

async fn look(host: &HostProject, version: Option<String>, service: &str, pull: bool) -> Result<Look, String> {
    let told = |error: compose::ComposeError| {
        format!("the Compose project in {}: {}", host.folder.display(), crate::cause::chain(&error))
    };
    let mut selection = Selection { folder: host.folder.clone(), ..Selection::default() };
    // A pull goes to the same engine as everything else.
    selection.variables.insert("DOCKER_HOST".to_owned(), format!("unix://{}", host.engine.display()));
    let (compose, mut project) = Project::find(&selection).await.map_err(told)?;
    if let (Some(version), Some(variable)) = (version, project.version_variable().map(str::to_owned)) {
        if !is_tag(&version) {
            return Err(
                "--to is no tag: it has letters, digits, '_', '.' and '-', and begins with none of the last two"
                    .to_owned(),
            );
        }
        selection.variables.insert(variable, version);
        project = Project::read(&compose, &selection).await.map_err(told)?;
    }
    if !project.warnings.is_empty() {
        tracing::warn!(folder = %host.folder.display(), said = project.warnings, "Compose warns");
    }
    let (version, mut rehearsal) = tokio::try_join!(
        Version::read(&compose, &selection, &project),
        compose::rehearse(&compose, &selection, &project, &host.engine),
    )
    .map_err(told)?;
    let missing = rehearsal.missing(&project);
    if pull && missing.built.iter().any(|built| built == service) {
        return Err(format!(
            "the image of service {service} is not built; run `docker compose build {service}` in {}",
            host.folder.display()
        ));
    }
    if pull && missing.pulled.iter().any(|pulled| pulled == service) {
        compose::pull(&compose, &selection, &[service.to_owned()]).await.map_err(told)?;
        rehearsal = compose::rehearse(&compose, &selection, &project, &host.engine).await.map_err(told)?;
    }
    Ok(Look { project, rehearsal, version })
}

/// A coordinator says what the version is, and a project may use it anywhere: only what no path or option can be made
/// of is taken.
fn is_tag(text: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    text.len() <= TAG_MAX && text.starts_with(first) && text.chars().all(|c| first(c) || matches!(c, '.' | '-'))
}

/// The component's own keys, as they go over what its service says. Whom it waits for is the whole fleet's affair.
fn keys_over(definition: &Definition, own: &str) -> Map<String, Value> {
    let mut own: Map<String, Value> = serde_json::from_str(own).unwrap_or_default();
    own.remove("depends_on");
    // It may come from the component's name, which the service need not have.
    if let Some(role) = &definition.role {
        own.insert("role".to_owned(), role.to_string().into());
    }
    own
}

fn host_of(local: &Definition, kept: Digest) -> ComposeHost {
    let nothing = ComposeService::default();
    let compose = local.compose.as_ref().unwrap_or(&nothing);
    ComposeHost {
        project: compose.project.clone(),
        image: local.image.clone().unwrap_or_default(),
        config_hash: compose.config_hash.clone(),
        names: compose.containers.iter().map(|(index, container)| (*index, container.name.clone())).collect(),
        kept,
        alone: compose.alone.clone(),
        follows: compose.follows.iter().map(ToString::to_string).collect(),
        version: None,
    }
}

/// What steers a roll, and nothing of what runs.
fn steering(local: Definition) -> Definition {
    Definition {
        image: None,
        compose: None,
        env: Default::default(),
        command: Vec::new(),
        env_file: None,
        fronts: std::collections::BTreeMap::new(),
        on: Vec::new(),
        replicas: 1,
        depends_on: Default::default(),
        traffic: Traffic::None,
        ..local
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_tag_and_nothing_else() {
        for (text, good) in [
            ("v2", true),
            ("2026.01-rc_1", true),
            ("", false),
            ("../../etc", false),
            ("-x", false),
            ("a b", false),
            ("evil/image:1", false),
        ] {
            assert_eq!(is_tag(text), good, "{text}");
        }
        assert!(!is_tag(&"v".repeat(TAG_MAX + 1)));
    }
}
