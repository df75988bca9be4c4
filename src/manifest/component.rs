//! One component: from what is written to its definition, and what can be wrong with it alone.

use std::collections::BTreeMap;

use super::forms::Form;
use super::net;
use super::report::Report;
use super::scalar::{Argv, Choice};
use super::shape;
use super::text::{Filled, Texts};
use crate::model::{
    AgentId, ComponentName, ComposeService, Condition, Definition, NamedPort, Order, Placement, Port, RETAIN, Ratio,
    Release, Role, RuntimeKind, Secret, Update,
};

/// More slots than any host has use for: a slip of the finger, not a wish.
const MAX_REPLICAS: u32 = 10_000;

/// Makes a component's definition. Whatever is wrong goes to the report and a default takes its place, so that the
/// rest can be judged too.
pub(crate) fn resolve(name: ComponentName, written: shape::Component, report: &mut Report) -> Definition {
    let complete = !report.is_spoilt(&["components", name.as_str()]);
    let mut here = Here { report, name: name.as_str().to_owned(), complete };
    let role = here.role(&written);
    let compose = here.of_hosts(&written);
    let runtime = here.runtime(&written, role.as_ref());
    let ports = here.ports(&written, runtime);
    let mut texts = Texts::new(written.release.is_some(), &ports);
    let image = here.image(&written, &mut texts);
    let release = here.release(&written, &mut texts);
    let command = here.argv(&["command"], written.command.as_ref(), &mut texts);
    let env = here.env(&written, &mut texts);
    let env_file = here.path(&["env_file"], written.env_file.as_ref(), Filled::Release, &mut texts);
    let cwd = here.path(&["cwd"], written.cwd.as_ref(), Filled::All, &mut texts);
    let on = here.on(&written);
    let replicas = here.replicas(&written, &on);
    let singleton = here.singleton(&written, role.as_ref(), replicas);
    let update = here.update("update", written.update.unwrap_or_default(), singleton);
    let rollback = written.rollback.map(|rollback| here.update("rollback", rollback.into(), singleton));
    let rolls = (&update, rollback.as_ref());
    let ready = here.ready(written.ready.unwrap_or_default(), rolls, (role.as_ref(), runtime), &mut texts);
    let traffic = here.traffic(written.traffic.as_ref(), role.as_ref(), runtime, &ports);
    let agent = here.agent(written.agent, runtime);
    let drain = here.drain(written.drain.unwrap_or_default(), &mut texts);
    let min_available = written.min_available.map(|count| count.0);
    let definition = Definition {
        component: name,
        role,
        runtime,
        image,
        compose,
        release,
        command: command.into_iter().map(Secret::new).collect(),
        env,
        env_file,
        cwd,
        ports,
        fronts: BTreeMap::new(),
        on,
        replicas,
        singleton,
        // Filled in by the fleet, which knows who else there is.
        depends_on: BTreeMap::<ComponentName, Condition>::new(),
        update,
        rollback,
        ready,
        traffic,
        min_available,
        drain,
        agent,
        retain: written.retain.map_or(RETAIN, |count| count.0),
        versioned: texts.versioned(),
    };
    here.together(&definition);
    definition
}

/// Where findings about one component go.
pub(super) struct Here<'r> {
    report: &'r mut Report,
    name: String,
    /// Nothing is known to be wrong yet: what is not there is missing.
    pub(super) complete: bool,
}

impl Here<'_> {
    fn full<'p>(&'p self, path: &[&'p str]) -> Vec<String> {
        ["components", &self.name].iter().chain(path).map(|part| (*part).to_owned()).collect()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn key(&mut self, path: &[&str], message: impl Into<String>) {
        let path = self.full(path);
        self.report.key(&path, message);
    }

    pub(super) fn value(&mut self, path: &[&str], message: impl Into<String>) {
        let path = self.full(path);
        self.report.value(&path, message);
    }

    /// Reports what a check says about a value, and gives back what it made.
    pub(super) fn checked<T>(&mut self, path: &[&str], made: Result<T, String>) -> Option<T> {
        made.map_err(|message| self.value(path, message)).ok()
    }

    /// Checks a text's placeholders. `false`: something is wrong and reported.
    pub(super) fn text(&mut self, path: &[&str], text: &str, filled: Filled, texts: &mut Texts) -> bool {
        let checked = texts.check(text, filled);
        self.checked(path, checked).is_some()
    }

    /// The same where the text may be a secret.
    fn secret(&mut self, path: &[&str], text: &str, texts: &mut Texts) -> bool {
        let checked = texts.check_secret(text);
        self.checked(path, checked).is_some()
    }

    fn role(&mut self, written: &shape::Component) -> Option<Role> {
        let Some(text) = &written.role else { return Role::known(&self.name) };
        if let Err(error) = ComponentName::new(text.0.clone()) {
            self.value(&["role"], format!("{:?} cannot be a role: {}", text.0, error.rule));
        }
        Some(Role::from(text.0.clone()))
    }

    /// A service of its hosts' own projects, which say what runs.
    fn of_hosts(&mut self, written: &shape::Component) -> Option<ComposeService> {
        let written_there = written.compose.as_ref()?;
        let said = [
            ("image", written.image.is_some()),
            ("release", written.release.is_some()),
            ("command", written.command.is_some()),
            ("env", written.env.is_some()),
            ("env_file", written.env_file.is_some()),
            ("cwd", written.cwd.is_some()),
            ("runtime", written.runtime.as_ref().is_some_and(|said| said.0 != RuntimeKind::Docker)),
        ];
        for (key, _) in said.iter().filter(|(_, said)| *said) {
            self.key(&[*key], "the Compose file on each host says what runs; remove the key, or `compose`");
        }
        let service = written_there.service.as_ref().map_or_else(|| self.name.clone(), |service| service.0.clone());
        if service.is_empty() {
            self.value(&["compose", "service"], "the name of a service in the Compose files of its hosts");
        }
        Some(ComposeService::of_each_host(service))
    }

    fn runtime(&mut self, written: &shape::Component, role: Option<&Role>) -> RuntimeKind {
        if written.compose.is_some() {
            return RuntimeKind::Docker;
        }
        let (image, release) = (written.image.is_some(), written.release.is_some());
        let gateway = role == Some(&Role::Gateway);
        if image && release {
            self.key(&["release"], "an image and a release: a component runs from one of them; remove the other");
        }
        let kind = match &written.runtime {
            Some(said) => said.0,
            None if image => RuntimeKind::Docker,
            None => RuntimeKind::Process,
        };
        if written.runtime.is_none() && !image && !release && !gateway && self.complete {
            self.key(
                &[],
                "nothing to run: write `image`, or `release` and `command`, or `runtime: process` and `command`, or \
                 `compose`",
            );
            return kind;
        }
        match kind {
            RuntimeKind::Docker if release && !image => {
                self.key(&["release"], "the docker runtime runs an image; write `image`, or `runtime: process`");
            }
            RuntimeKind::Docker if !image && self.complete => self.key(&[], "the docker runtime needs `image`"),
            RuntimeKind::Process if image && !release => {
                self.key(&["image"], "the process runtime runs no image; write `release`, or `runtime: docker`");
            }
            // The gateway is Baton's own program: the planner knows where that is.
            RuntimeKind::Process if written.command.is_none() && !gateway && self.complete => {
                self.key(&[], "the process runtime needs `command`: the program and its arguments");
            }
            _ => {}
        }
        kind
    }

    fn ports(&mut self, written: &shape::Component, runtime: RuntimeKind) -> Vec<NamedPort> {
        let mut ports: Vec<NamedPort> = Vec::new();
        for (name, form) in written.ports.iter().flat_map(|ports| &ports.0) {
            let at = ["ports", name.as_str()];
            if let Err(error) = ComponentName::new(name.clone()) {
                self.key(&at, format!("{name:?} cannot be the name of a port: {}", error.rule));
            }
            let (port, host, pass) = match form {
                Form::Short(word) => (Some(word.0), None, None),
                Form::Long(long) => (long.port.map(|word| word.0), long.host.clone().map(|host| host.0), long.pass),
            };
            let Some(port) = port else {
                if self.complete {
                    self.key(&at, "the long form of a port needs `port`: auto or a number");
                }
                continue;
            };
            if let Some(host) = &host {
                let listen = net::Listen::parse(&format!("{host}:1"));
                if host.is_empty() || listen.is_err() {
                    self.value(
                        &["ports", name, "host"],
                        format!("{host:?} is no address; write \"127.0.0.1\" or \"[::]\""),
                    );
                }
            }
            let may_pass = runtime == RuntimeKind::Process && matches!(port, Port::Number(_));
            if pass == Some(true) && !may_pass {
                let why = match port {
                    Port::Auto => {
                        "an auto port is new for each instance, so there is no socket to pass; write a number"
                    }
                    Port::Number(_) => "a container takes no passed socket; remove `pass`",
                };
                self.value(&["ports", name, "pass"], why);
            }
            if let (Port::Number(number), Some(twin)) = (port, ports.iter().find(|other| is_number(other, port))) {
                self.key(&at, format!("port {number} is given twice: as {} and as {name}", twin.name));
            }
            ports.push(NamedPort { name: name.clone(), port, host, passed: may_pass && pass.unwrap_or(true) });
        }
        ports
    }

    fn image(&mut self, written: &shape::Component, texts: &mut Texts) -> Option<String> {
        let image = written.image.as_ref()?.0.clone();
        if self.text(&["image"], &image, Filled::Version, texts)
            && (image.is_empty() || image.contains(char::is_whitespace))
        {
            self.value(&["image"], format!("{image:?} is not an image reference; write \"registry.example/name:tag\""));
        }
        Some(image)
    }

    fn release(&mut self, written: &shape::Component, texts: &mut Texts) -> Option<Release> {
        let release = written.release.as_ref()?;
        let Some(path) = &release.path else {
            if self.complete {
                self.key(&["release"], "a release needs `path`: the folder with the program");
            }
            return None;
        };
        self.path(&["release", "path"], Some(path), Filled::Version, texts);
        if let Some(file) = &release.sha256_file {
            let at = ["release", "sha256_file"];
            let inside = !file.0.is_empty() && !file.0.starts_with('/') && file.0.split('/').all(|part| part != "..");
            if self.text(&at, &file.0, Filled::Version, texts) && !inside {
                self.value(&at, "the checksum file lies in the release; write its path from there, as SHA256SUMS");
            }
        }
        Some(Release { path: path.0.clone(), sha256_file: release.sha256_file.clone().map(|file| file.0) })
    }

    pub(super) fn argv(&mut self, at: &[&str], argv: Option<&Argv>, texts: &mut Texts) -> Vec<String> {
        let words = argv.map(|argv| argv.0.clone()).unwrap_or_default();
        for (index, word) in words.iter().enumerate() {
            let index = index.to_string();
            let at: Vec<&str> = at.iter().copied().chain([index.as_str()]).collect();
            if word.contains('\0') {
                self.value(&at, "an argument cannot hold a zero byte");
            }
            self.secret(&at, word, texts);
        }
        words
    }

    fn env(&mut self, written: &shape::Component, texts: &mut Texts) -> BTreeMap<String, Secret> {
        let mut env = BTreeMap::new();
        for (name, value) in written.env.iter().flat_map(|env| &env.0) {
            let at = ["env", name.as_str()];
            if name.is_empty() || name.contains(['=', '\0']) || name.contains(char::is_whitespace) {
                self.key(&at, "not the name of an environment variable: it has no spaces and no '='");
            }
            if value.0.contains('\0') {
                self.value(&at, "a value cannot hold a zero byte");
            }
            self.secret(&at, &value.0, texts);
            env.insert(name.clone(), Secret::new(value.0.clone()));
        }
        env
    }

    /// A path on the agent's host: nobody knows what a relative one would be relative to.
    fn path(
        &mut self,
        at: &[&str],
        path: Option<&super::scalar::Text>,
        filled: Filled,
        texts: &mut Texts,
    ) -> Option<String> {
        let path = path?.0.clone();
        if self.text(at, &path, filled, texts) && !path.starts_with('/') && !path.starts_with("{release}") {
            self.value(at, format!("{path:?} is not absolute; it is a path on the agent's host: begin it with /"));
        }
        Some(path)
    }

    fn replicas(&mut self, written: &shape::Component, on: &[AgentId]) -> u32 {
        // A host is named because it has the service.
        let hosts = if written.compose.is_some() { u32::try_from(on.len()).unwrap_or(u32::MAX).max(1) } else { 1 };
        let replicas = written.replicas.map_or(hosts, |count| count.0);
        if replicas > MAX_REPLICAS {
            self.value(&["replicas"], format!("{replicas} slots are more than the {MAX_REPLICAS} that are allowed"));
        }
        replicas
    }

    fn singleton(&mut self, written: &shape::Component, role: Option<&Role>, replicas: u32) -> bool {
        let singleton = written.singleton.unwrap_or(role == Some(&Role::Scheduler));
        if singleton && replicas > 1 {
            let why = if written.singleton.is_some() { "" } else { " (a scheduler is one unless told otherwise)" };
            self.key(
                &["replicas"],
                format!("{replicas} replicas of a singleton{why}; write `replicas: 1`, or `singleton: false`"),
            );
        }
        singleton
    }

    fn on(&mut self, written: &shape::Component) -> Vec<AgentId> {
        let mut agents = Vec::new();
        for (index, text) in written.on.iter().flat_map(|on| &on.0).enumerate() {
            let index = index.to_string();
            match AgentId::new(text.0.clone()) {
                Ok(agent) if agents.contains(&agent) => self.value(&["on", &index], format!("{agent} is named twice")),
                Ok(agent) => agents.push(agent),
                Err(error) => {
                    self.value(&["on", &index], format!("{:?} is not an agent id: {}", text.0, error.rule));
                }
            }
        }
        if agents.is_empty() && self.complete && written.on.is_some() {
            self.value(&["on"], "no agent is named; name one, or remove `on` for all");
        }
        agents
    }

    fn agent(&mut self, written: Option<Choice<Placement>>, runtime: RuntimeKind) -> Option<Placement> {
        let placement = written?.0;
        if runtime == RuntimeKind::Process {
            self.key(&["agent"], "a component agent is inside a container; a process has its keeper: remove the key");
        }
        Some(placement)
    }

    /// `update`, or `rollback`: `key` says which.
    fn update(&mut self, key: &str, written: shape::Update, singleton: bool) -> Update {
        let defaults = Update::default();
        let order = written.order.map(|order| order.0);
        if singleton && order == Some(Order::StartFirst) {
            self.value(&[key, "order"], "a singleton never runs twice, so it is always stop-first");
        }
        Update {
            order,
            parallelism: written.parallelism.map_or(defaults.parallelism, |count| count.0),
            delay: written.delay.map_or(defaults.delay, |span| span.0),
            monitor: written.monitor.map_or(defaults.monitor, |span| span.0),
            failure_action: written.failure_action.map_or(defaults.failure_action, |action| action.0),
            // Exact to a part per million; the share was checked to lie in 0..=1.
            max_failure_ratio: written
                .max_failure_ratio
                .map_or(defaults.max_failure_ratio, |share| Ratio((share.0 * 1_000_000.0).round() as u32)),
        }
    }
}

fn is_number(port: &NamedPort, number: Port) -> bool {
    port.port == number && matches!(number, Port::Number(_))
}
