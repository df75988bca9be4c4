//! The agent's own word on what it will do, whoever asks.

mod reach;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;

use crate::model::{Act, Command, ComponentName, Definition, Digest, Proxy, Role, RuntimeKind};

/// What an agent admits. Default: nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Components that it may run, by exact name.
    #[serde(default)]
    pub components: BTreeSet<ComponentName>,
    /// Folders that releases may lie in.
    #[serde(default)]
    pub release_roots: BTreeSet<PathBuf>,
    /// Programs outside a release that a command may begin with, by exact path.
    #[serde(default)]
    pub programs: BTreeSet<PathBuf>,
    /// Image repositories (without tag) that it may run.
    #[serde(default)]
    pub images: BTreeSet<String>,
    /// Components whose containers may reach into this host: privileged ones, host paths, devices, the host's
    /// namespaces; also by a volume or a network whose driver can.
    #[serde(default)]
    pub host_access: BTreeSet<ComponentName>,
    /// HAProxies that it may steer, by their stats sockets as the manifest has them.
    #[serde(default)]
    pub proxies: BTreeSet<String>,
    /// Hooks, by exact name.
    #[serde(default)]
    pub hooks: BTreeSet<String>,
    /// Whatever this process's own manifest asks for: an agent embedded in a verb. Not a key of the file.
    #[serde(skip)]
    pub own_manifest: bool,
}

/// Why a policy cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Not there or not readable.
    #[error("cannot read policy {path}")]
    Read {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Others may write it: it would not be this host's own word.
    #[error("policy {path} can be written by others; run `chmod go-w {path}`")]
    Writable {
        /// Where.
        path: PathBuf,
    },
    /// Not understood.
    #[error("cannot understand policy {path}: {why}")]
    Parse {
        /// Where.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

impl Policy {
    /// Whatever the manifest of this very process asks for.
    pub fn own_manifest() -> Self {
        Self { own_manifest: true, ..Self::default() }
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// When it is not there, not understood, or writable by others.
    pub fn load(path: &Path) -> Result<Self, PolicyError> {
        use std::os::unix::fs::PermissionsExt;
        let read = |source| PolicyError::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.permissions().mode() & 0o022 != 0 {
            return Err(PolicyError::Writable { path: path.to_owned() });
        }
        let text = std::fs::read_to_string(path).map_err(read)?;
        crate::manifest::strict(&text).map_err(|why| PolicyError::Parse { path: path.to_owned(), why })
    }

    /// Judges a command before the ledger takes it: everything that it would create or touch.
    ///
    /// # Errors
    /// For people: what is not admitted, and the line that would admit it.
    pub fn admit(&self, command: &Command, definitions: &BTreeMap<Digest, Definition>) -> Result<(), String> {
        if self.own_manifest {
            return Ok(());
        }
        let component = &command.slot.component;
        if !self.components.contains(component) {
            return Err(format!(
                "component {component} is not admitted here; add `components: [{component}]` to the policy"
            ));
        }
        for step in &command.steps {
            if let Act::Run { hook } = &step.act
                && !self.hooks.contains(hook)
            {
                return Err(format!("hook {hook} is not admitted here; add `hooks: [{hook}]` to the policy"));
            }
            if let Some(digest) = step.act.definition() {
                let definition = definitions
                    .get(digest)
                    .ok_or_else(|| format!("definition {} did not come with the command", digest.short()))?;
                self.admit_definition(definition)?;
            }
        }
        Ok(())
    }

    /// Judges a definition: where its program comes from.
    ///
    /// # Errors
    /// For people: what is not admitted, and the line that would admit it.
    pub fn admit_definition(&self, definition: &Definition) -> Result<(), String> {
        if self.own_manifest {
            return Ok(());
        }
        let component = &definition.component;
        if !self.components.contains(component) {
            return Err(format!(
                "component {component} is not admitted here; add `components: [{component}]` to the policy"
            ));
        }
        let process = definition.runtime == RuntimeKind::Process;
        if process && definition.role == Some(Role::Gateway) && definition.command.is_empty() {
            // Baton's own program: as it is, not as an environment would make it.
            if !definition.env.is_empty() || definition.env_file.is_some() {
                return Err(format!("component {component} is Baton's own program, which takes no environment here"));
            }
            return definition.fronts.values().try_for_each(|proxy| self.admit_proxy(proxy));
        }
        if let Some(image) = &definition.image {
            self.admit_image(image)?;
        }
        if let Some(compose) = &definition.compose {
            for container in compose.containers.values() {
                self.admit_container(component, &container.name, container.body.expose())?;
            }
            for need in compose.networks.iter().chain(&compose.volumes) {
                self.admit_need(component, &need.name, need.body.expose())?;
            }
        }
        if let Some(release) = &definition.release {
            let path = Path::new(&release.path);
            if !self.release_roots.iter().any(|root| lies_in(path, root)) {
                let parent = path.parent().unwrap_or(path).display();
                return Err(format!(
                    "release {} is not admitted here; add `release_roots: [{parent}]` to the policy",
                    release.path
                ));
            }
        }
        if let Some(program) = definition.command.first() {
            let program = program.expose();
            let inside = definition.release.is_some()
                && program.strip_prefix("{release}/").is_some_and(|rest| stays_inside(Path::new(rest)));
            if !inside && !self.programs.contains(Path::new(program)) && definition.image.is_none() {
                // The program's path is no secret, but an argv may be: name the component only.
                return Err(format!(
                    "the program of component {component} lies outside its release; add its path to `programs` in the \
                     policy, or begin its command with {{release}}/"
                ));
            }
        }
        Ok(())
    }
}

impl Policy {
    /// Whoever may steer a proxy can send its requests anywhere, and a command is a program of this host.
    fn admit_proxy(&self, proxy: &Proxy) -> Result<(), String> {
        match proxy {
            Proxy::Haproxy { socket, .. } if !self.proxies.contains(socket) => {
                Err(format!("HAProxy at {socket} is not admitted here; add `proxies: [\"{socket}\"]` to the policy"))
            }
            Proxy::Exec { switch, .. } => {
                let program = switch.first().map(String::as_str).unwrap_or_default();
                if self.programs.contains(Path::new(program)) {
                    return Ok(());
                }
                Err(format!("program {program} is not admitted here; add its path to `programs` in the policy"))
            }
            Proxy::Haproxy { .. } => Ok(()),
        }
    }

    fn admit_image(&self, image: &str) -> Result<(), String> {
        let repository = repository(image);
        if self.images.contains(repository) {
            return Ok(());
        }
        Err(format!("image {repository} is not admitted here; add `images: [{repository}]` to the policy"))
    }

    /// A volume whose driver has options can be any path of the host, and a network can be the host's own: what a
    /// container mounts by a harmless name is judged where it is made.
    fn admit_need(&self, component: &ComponentName, name: &str, body: &str) -> Result<(), String> {
        let body = serde_json::from_str(body).map_err(|_| format!("the body of {name} is no JSON"))?;
        self.admit_reach(component, name, reach::needs_out(&body))
    }

    /// Judges what the engine would be asked for, whatever the definition around it says.
    fn admit_container(&self, component: &ComponentName, name: &str, body: &str) -> Result<(), String> {
        let body = serde_json::from_str(body).map_err(|_| format!("the body of container {name} is no JSON"))?;
        self.admit_image(reach::image(&body).ok_or_else(|| format!("container {name} names no image"))?)?;
        self.admit_reach(component, &format!("container {name}"), reach::reaches_out(&body))
    }

    fn admit_reach(&self, component: &ComponentName, what: &str, key: Option<String>) -> Result<(), String> {
        match key {
            Some(key) if !self.host_access.contains(component) => Err(format!(
                "{what} would reach into this host ({key}); if that is meant, add `host_access: [{component}]` to the \
                 policy"
            )),
            _ => Ok(()),
        }
    }
}

/// An image reference without tag and digest.
fn repository(image: &str) -> &str {
    let image = image.split('@').next().unwrap_or(image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    }
}

/// Whether every part of the path is a plain name: nothing leads out of a folder that it is joined to.
fn stays_inside(path: &Path) -> bool {
    path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir))
}

/// Whether `path` is absolute, plain, and inside `root`, part by part (no prefix of a name counts).
fn lies_in(path: &Path, root: &Path) -> bool {
    path.is_absolute()
        && path.components().all(|part| matches!(part, Component::Normal(_) | Component::RootDir))
        && path.starts_with(root)
        && path != root
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_must_lie_inside_a_root_part_by_part() {
        let root = Path::new("/opt/orders");
        for (path, good) in [
            ("/opt/orders/v2", true),
            ("/opt/orders/a/b", true),
            ("/opt/orders", false),
            ("/opt/orders-evil/v2", false),
            ("/opt/orders/../x", false),
            ("opt/orders/v2", false),
            ("/", false),
        ] {
            assert_eq!(lies_in(Path::new(path), root), good, "{path}");
        }
    }

    #[test]
    fn a_repository_is_the_reference_without_tag_and_digest() {
        for (image, expected) in [
            ("registry.example/orders:v2", "registry.example/orders"),
            ("registry.example:5000/orders", "registry.example:5000/orders"),
            ("orders@sha256:abc", "orders"),
            ("r:5000/o:t@sha256:abc", "r:5000/o"),
        ] {
            assert_eq!(repository(image), expected);
        }
    }

    #[test]
    fn a_container_is_judged_by_what_the_engine_would_be_asked_for() {
        let component = ComponentName::new("api").unwrap();
        let mut policy = Policy { images: ["shop".to_owned()].into(), ..Policy::default() };
        let judge = |policy: &Policy, body: &str| policy.admit_container(&component, "p-api-1", body);
        assert_eq!(judge(&policy, r#"{ "Image": "shop:2" }"#), Ok(()));
        let why = judge(&policy, r#"{ "Image": "evil:2" }"#).unwrap_err();
        assert!(why.contains("images: [evil]"), "{why}");
        assert!(judge(&policy, "{}").is_err() && judge(&policy, "no").is_err());
        let privileged = r#"{ "Image": "shop:2", "HostConfig": { "Privileged": true } }"#;
        let why = judge(&policy, privileged).unwrap_err();
        assert!(why.contains("Privileged") && why.contains("host_access: [api]"), "{why}");
        // What it mounts by name is judged where it is made.
        let root = r#"{ "Name": "data", "DriverOpts": { "type": "none", "o": "bind", "device": "/" } }"#;
        let why = policy.admit_need(&component, "data", root).unwrap_err();
        assert!(why.contains("DriverOpts") && why.contains("host_access: [api]"), "{why}");
        assert_eq!(policy.admit_need(&component, "data", r#"{ "Name": "data", "Labels": { "l": "m" } }"#), Ok(()));
        policy.host_access.insert(component.clone());
        assert_eq!(judge(&policy, privileged), Ok(()));
        assert_eq!(policy.admit_need(&component, "data", root), Ok(()));
    }

    #[test]
    fn all_that_a_compose_definition_brings_is_judged_whatever_its_role() {
        use crate::model::{ComposeContainer, ComposeNeed, ComposeService, Secret};
        let text = "fleet: f\ncomponents:\n  api: { image: \"shop:2\" }\n";
        let manifest = crate::manifest::parse(text, "x").unwrap();
        let mut definition = manifest.components.values().next().unwrap().clone();
        let policy = Policy {
            components: [definition.component.clone()].into(),
            images: ["shop".to_owned()].into(),
            ..Policy::default()
        };
        assert_eq!(policy.admit_definition(&definition), Ok(()));
        let need = |body: &str| vec![ComposeNeed { name: "data".to_owned(), body: Secret::new(body) }];
        let root = need(r#"{ "Name": "data", "DriverOpts": { "device": "/" } }"#);
        let lan = need(r#"{ "Name": "data", "Driver": "macvlan" }"#);
        let (networks, archives) = (Vec::new(), Vec::new());
        let body = Secret::new(r#"{ "Image": "shop:2", "HostConfig": { "Privileged": true } }"#);
        let privileged = ComposeContainer { name: "p-api-1".to_owned(), body, networks, archives };
        for (service, key) in [
            (ComposeService { volumes: root, ..ComposeService::default() }, "DriverOpts"),
            (ComposeService { networks: lan, ..ComposeService::default() }, "Driver"),
            (ComposeService { containers: [(1, privileged)].into(), ..ComposeService::default() }, "Privileged"),
        ] {
            definition.compose = Some(service);
            for role in [None, Some(Role::Gateway)] {
                definition.role = role;
                let why = policy.admit_definition(&definition).unwrap_err();
                assert!(why.contains(key) && why.contains("host_access: [api]"), "{why}");
            }
        }
    }

    #[test]
    fn a_gateway_is_the_program_itself_and_steers_only_what_this_host_admits() {
        let text = "fleet: f\ncomponents:\n  gateway: {}\n";
        let manifest = crate::manifest::parse(text, "x").unwrap();
        let mut gateway = manifest.components.values().next().unwrap().clone();
        let mut policy = Policy { components: [gateway.component.clone()].into(), ..Policy::default() };
        assert_eq!(policy.admit_definition(&gateway), Ok(()));
        let api: ComponentName = "api".parse().unwrap();
        let (socket, program) = ("/run/ha.sock".to_owned(), "/opt/tell".to_owned());
        let haproxy = Proxy::Haproxy { socket: socket.clone(), backend: "api".to_owned(), server: String::new() };
        gateway.fronts = [(api.clone(), haproxy)].into();
        let why = policy.admit_definition(&gateway).unwrap_err();
        assert!(why.contains("proxies: [\"/run/ha.sock\"]"), "{why}");
        policy.proxies.insert(socket);
        assert_eq!(policy.admit_definition(&gateway), Ok(()));
        let settle = std::time::Duration::ZERO;
        gateway.fronts = [(api, Proxy::Exec { switch: vec![program.clone()], settle })].into();
        assert!(policy.admit_definition(&gateway).unwrap_err().contains("/opt/tell"));
        policy.programs.insert(program.into());
        assert_eq!(policy.admit_definition(&gateway), Ok(()));
        gateway.env = [("LD_PRELOAD".to_owned(), crate::model::Secret::new("/tmp/x.so"))].into();
        assert!(policy.admit_definition(&gateway).unwrap_err().contains("takes no environment"));
    }

    #[test]
    fn the_default_policy_admits_nothing_and_says_which_line_to_add() {
        let command = Command {
            id: "r/0/1".parse().unwrap(),
            term: crate::model::Term(1),
            slot: "worker-1".parse().unwrap(),
            steps: vec![],
        };
        let why = Policy::default().admit(&command, &BTreeMap::new()).unwrap_err();
        assert!(why.contains("components: [worker]"), "{why}");
        assert!(Policy::own_manifest().admit(&command, &BTreeMap::new()).is_ok());
    }
}
