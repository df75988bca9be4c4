//! A real Docker Engine: containers of one made-up project, all gone when the test is over, however it ends.
//!
//! Which engine: `DOCKER_HOST`, as everybody knows it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use baton::model::{
    ComponentName, ComposeContainer, ComposeService, Definition, Digest, Drain, FleetName, InstanceId, RETAIN, Ready,
    RuntimeKind, Secret, Traffic, Update, compose_spec,
};
use baton::runtime::Blueprint;
use baton::runtime::docker::{DockerConfig, DockerRuntime, socket_of};
use serde_json::{Value, json};

/// Says that a test cannot run here, loudly; a failure where skipping is not allowed.
fn skip(why: &str) {
    assert!(std::env::var_os("BATON_TEST_NO_SKIP").is_none_or(|set| set != "1"), "{why}");
    eprintln!("SKIPPED: {why}");
}

/// A project on the engine.
pub struct Project {
    pub name: String,
    pub folder: tempfile::TempDir,
    /// Ids of its images: a test may give their tags to others.
    images: Vec<String>,
}

impl Project {
    /// A new project with images `NAME:1` and `NAME:2`: busybox. `None`: no engine here.
    pub fn new(name: &str) -> Option<Project> {
        Project::from(name, "")
    }

    /// The same with a volume at `/anon` in both images. A volume that no container has any more at the end of the test
    /// stays behind, so only for tests that hand it on.
    pub fn with_volume(name: &str) -> Option<Project> {
        Project::from(name, "VOLUME /anon\n")
    }

    fn from(name: &str, volume: &str) -> Option<Project> {
        if Command::new("docker").arg("version").output().is_ok_and(|output| !output.status.success()) {
            skip("no Docker Engine answers: install docker.io and start it (DOCKER_HOST names another socket)");
            return None;
        }
        let busybox = Path::new("/bin/busybox");
        if !busybox.exists() {
            skip("there is no /bin/busybox to make images of: install busybox-static");
            return None;
        }
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bt-{name}-{}-{number}", std::process::id());
        let mut project = Project { name, folder: tempfile::tempdir().expect("a folder"), images: vec![] };
        let context = project.folder.path().join("image");
        std::fs::create_dir(&context).expect("a folder");
        std::fs::copy(busybox, context.join("busybox")).expect("busybox");
        let command = r#"CMD ["/bin/busybox", "sh"]"#;
        let lines = format!("FROM scratch\nCOPY busybox /bin/busybox\nARG V\nENV V=$V\n{volume}{command}\n");
        std::fs::write(context.join("Dockerfile"), lines).expect("a Dockerfile");
        for version in ["1", "2"] {
            let tag = project.image(version);
            let argument = format!("V={version}");
            let context = context.display().to_string();
            // Layers of its own: another test may remove those that they would share, in the middle of this.
            let id = docker(&["build", "-q", "--no-cache", "--build-arg", &argument, "-t", &tag, &context]);
            project.images.push(id);
        }
        Some(project)
    }

    pub fn image(&self, version: &str) -> String {
        format!("{}:{version}", self.name)
    }

    /// Its agent's hands. Asked again: a new agent with the same memory.
    pub fn runtime(&self) -> DockerRuntime {
        self.runtime_in("agent", false)
    }

    pub fn runtime_in(&self, folder: &str, read_only: bool) -> DockerRuntime {
        let host = std::env::var("DOCKER_HOST").ok();
        DockerRuntime::new(DockerConfig {
            root: self.folder.path().join(folder),
            fleet: FleetName::new(self.name.clone()).expect("a fleet's name"),
            socket: socket_of(host.as_deref()).expect("a Unix socket"),
            read_only,
        })
    }

    /// A container as Compose makes it; running. Returns its id.
    pub fn composed(&self, number: u32, version: &str, script: &str, more: &[&str]) -> String {
        let name = format!("{}-worker-{number}", self.name);
        let labels = self.labels(number, version);
        let labels: Vec<String> = labels.iter().map(|(name, value)| format!("--label={name}={value}")).collect();
        let mut args = vec!["run", "-d", "--name", &name];
        args.extend(labels.iter().map(String::as_str));
        args.extend(more);
        let image = self.image(version);
        args.extend([&image as &str, "/bin/busybox", "sh", "-c", script]);
        docker(&args)
    }

    fn labels(&self, number: u32, version: &str) -> BTreeMap<&'static str, String> {
        BTreeMap::from([
            ("com.docker.compose.project", self.name.clone()),
            ("com.docker.compose.service", "worker".to_owned()),
            ("com.docker.compose.container-number", number.to_string()),
            ("com.docker.compose.oneoff", "False".to_owned()),
            ("com.docker.compose.config-hash", config_hash(version)),
        ])
    }

    /// What Compose would create for container 1 of service `worker`.
    pub fn body(&self, version: &str, script: &str) -> Value {
        json!({
            "Image": self.image(version),
            "Cmd": ["/bin/busybox", "sh", "-c", script],
            "Env": ["PASSWORD=hunter22-hunter22"],
            "Labels": self.labels(1, version),
            "Volumes": null,
            "HostConfig": { "RestartPolicy": { "Name": "always" }, "NetworkMode": "bridge" },
        })
    }

    pub fn blueprint(&self, version: &str, body: &Value) -> Blueprint {
        let container = ComposeContainer {
            name: format!("{}-worker-1", self.name),
            body: Secret::new(body.to_string()),
            networks: vec![],
            archives: vec![],
        };
        let compose = ComposeService {
            project: self.name.clone(),
            service: "worker".to_owned(),
            config_hash: config_hash(version),
            containers: [(1, container)].into(),
            ..ComposeService::default()
        };
        let definition = Definition { compose: Some(compose), ..self.definition("worker", version) };
        let image_id = docker(&["image", "inspect", "-f", "{{.Id}}", &self.image(version)]);
        let spec = compose_spec(&config_hash(version), &image_id);
        Blueprint { definition, definition_digest: Digest(format!("definition-{version}")), spec, version: None }
    }

    pub fn definition(&self, component: &str, version: &str) -> Definition {
        Definition {
            component: ComponentName::new(component).expect("a component's name"),
            role: None,
            runtime: RuntimeKind::Docker,
            image: Some(self.image(version)),
            compose: None,
            release: None,
            command: vec![],
            env: BTreeMap::new(),
            env_file: None,
            cwd: None,
            ports: vec![],
            fronts: BTreeMap::new(),
            on: vec![],
            replicas: 1,
            singleton: false,
            depends_on: BTreeMap::new(),
            update: Update::default(),
            rollback: None,
            agent: None,
            retain: RETAIN,
            ready: Ready::default(),
            traffic: Traffic::None,
            min_available: None,
            drain: Drain::default(),
            versioned: false,
        }
    }

    /// Names of all its containers, in order.
    pub fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        for id in self.containers() {
            names.push(docker(&["inspect", "-f", "{{.Name}}", &id]).trim_start_matches('/').to_owned());
        }
        names.sort();
        names
    }

    fn containers(&self) -> BTreeSet<String> {
        let list = |label: &str| {
            let filter = format!("label={label}={}", self.name);
            docker(&["ps", "-aq", "--no-trunc", "--filter", &filter])
        };
        let all = [list("com.docker.compose.project"), list("baton.fleet")].join("\n");
        all.split_whitespace().map(str::to_owned).collect()
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        let quietly =
            |args: &[&str]| Command::new("docker").args(args).output().map(|output| output.stdout).unwrap_or_default();
        let ids: Vec<String> = if std::thread::panicking() {
            // A listing that fails must not turn a failure into an abort.
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.containers())).unwrap_or_default()
        } else {
            self.containers()
        }
        .into_iter()
        .collect();
        let mut volumes = BTreeSet::new();
        for id in &ids {
            let format = "{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}} {{end}}{{end}}";
            let names = quietly(&["inspect", "-f", format, id]);
            volumes.extend(String::from_utf8_lossy(&names).split_whitespace().map(str::to_owned));
            quietly(&["rm", "-f", "-v", id]);
        }
        for volume in volumes {
            quietly(&["volume", "rm", &volume]);
        }
        quietly(&["network", "rm", &format!("{}-net", self.name)]);
        quietly(&["rmi", "-f", &self.image("1"), &self.image("2")]);
        for image in &self.images {
            quietly(&["rmi", "-f", image]);
        }
    }
}

pub fn config_hash(version: &str) -> String {
    format!("{version:0>64}")
}

pub fn worker(number: u64) -> InstanceId {
    InstanceId::new("worker-1".parse().expect("a slot"), number)
}

/// Runs docker and returns what it says.
pub fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().expect("docker");
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}
