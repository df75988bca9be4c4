//! A host for tests: a runtime over a folder of its own, and everything that runs there gone at the end.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use baton::model::*;
use baton::runtime::process::{KeeperCommand, ProcessConfig, ProcessRuntime};
use baton::runtime::{Blueprint, Runtime};

/// What every wait in these tests ends with.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct House {
    folder: tempfile::TempDir,
    root: PathBuf,
    env: Vec<(String, String)>,
    pub runtime: ProcessRuntime,
}

impl House {
    pub fn new(env: &[(&str, &str)]) -> House {
        House::at("state", env)
    }

    /// With the state folder at a path of the test's own choosing.
    pub fn at(path: &str, env: &[(&str, &str)]) -> House {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join(path);
        let env: Vec<_> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        House { runtime: runtime(&root, &env), folder, root, env }
    }

    /// Another agent over the same state, as after a restart.
    pub fn restart_agent(&mut self, env: &[(&str, &str)]) {
        self.env.extend(env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.runtime = runtime(&self.root, &self.env);
    }

    /// A folder for the test's own files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn slot_folder(&self, slot: &str) -> PathBuf {
        self.root.join("slots").join(slot)
    }

    /// The slot's keeper, from its own log.
    pub fn keeper_pid(&self, slot: &str) -> i32 {
        let log = std::fs::read_to_string(self.slot_folder(slot).join("keeper.log")).unwrap_or_default();
        let line = log.lines().rev().find(|line| line.contains("keeps the slot")).expect("a keeper has begun");
        line.rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// SIGKILL to the slot's keeper, and waits until it has gone.
    pub fn kill_keeper(&self, slot: &str) {
        let pid = self.keeper_pid(slot);
        kill(pid);
        wait_until("the keeper is gone", || !alive(pid));
    }

    pub async fn make(&self, instance: &InstanceId, definition: &Definition) {
        self.runtime.prepare(instance, &blueprint(definition)).await.unwrap();
    }

    pub async fn run(&self, instance: &InstanceId, definition: &Definition) -> Endpoint {
        self.make(instance, definition).await;
        self.runtime.start(instance).await.unwrap()
    }

    pub async fn see(&self, instance: &InstanceId) -> InstanceObservation {
        let seen = self.runtime.inspect(&instance.slot).await.unwrap();
        seen.into_iter().find(|seen| seen.id == *instance).expect("the instance is there")
    }

    /// Ends everything and lets the keepers go.
    pub async fn clean_up(&self) {
        for slot in self.runtime.slots().await.unwrap() {
            for seen in self.runtime.inspect(&slot).await.unwrap() {
                self.runtime.kill(&seen.id).await.unwrap();
                self.runtime.remove(&seen.id).await.unwrap();
            }
        }
    }
}

fn runtime(root: &Path, env: &[(String, String)]) -> ProcessRuntime {
    let keeper = KeeperCommand { program: this(), leading: Vec::new(), env: env.to_vec() };
    ProcessRuntime::new(ProcessConfig { root: root.to_owned(), address: "127.0.0.1".to_owned(), keeper })
}

/// This test program.
pub fn this() -> PathBuf {
    std::env::current_exe().unwrap()
}

pub fn id(text: &str) -> InstanceId {
    text.parse().unwrap()
}

pub fn definition(argv: &[&str]) -> Definition {
    Definition {
        component: ComponentName::new("worker").unwrap(),
        role: None,
        runtime: RuntimeKind::Process,
        image: None,
        compose: None,
        release: None,
        command: argv.iter().map(|part| Secret::new(*part)).collect(),
        env: BTreeMap::new(),
        env_file: None,
        cwd: None,
        ports: Vec::new(),
        fronts: BTreeMap::new(),
        on: Vec::new(),
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

pub fn shell(script: &str) -> Definition {
    definition(&["/bin/sh", "-c", script])
}

pub fn job(script: &str) -> Definition {
    Definition { role: Some(Role::Job), ..shell(script) }
}

pub fn toy(args: &[&str]) -> Definition {
    let this = this().display().to_string();
    let mut argv = vec![this.as_str(), "toy"];
    argv.extend(args);
    definition(&argv)
}

pub fn blueprint(definition: &Definition) -> Blueprint {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    serde_json::to_string(definition).unwrap().hash(&mut hasher);
    let digest = Digest(format!("{:016x}", hasher.finish()));
    Blueprint { definition: definition.clone(), definition_digest: digest.clone(), spec: digest, version: None }
}

pub fn passed(port: u16) -> Vec<NamedPort> {
    let host = Some("127.0.0.1".to_owned());
    vec![NamedPort { name: "http".to_owned(), port: Port::Number(port), host, passed: true }]
}

/// A number that is free now; the tests run one after the other.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

#[track_caller]
pub fn wait_until(what: &str, mut so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub async fn wait_for<F: Future<Output = bool>>(what: &str, mut so: impl FnMut() -> F) {
    let begun = Instant::now();
    while !so().await {
        assert!(begun.elapsed() < PATIENCE, "never: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process runs; a zombie does not.
pub fn alive(pid: i32) -> bool {
    baton::sys::process::Identity::of(pid).is_ok_and(|identity| identity.is_alive().unwrap())
}

pub fn kill(pid: i32) {
    if let Some(pidfd) = baton::sys::process::Identity::of(pid).ok().and_then(|it| it.open().unwrap()) {
        pidfd.signal(9).unwrap();
    }
}

/// The number in a file that a program writes; waits for it.
pub fn number_in(path: &Path) -> i32 {
    let read = || std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
    wait_until(&format!("a number in {}", path.display()), || read().is_some());
    read().unwrap()
}
