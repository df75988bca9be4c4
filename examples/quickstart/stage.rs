//! The stage of the quickstart: one folder with the releases, the manifest, the policies and everything that runs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The fleet's name.
pub const FLEET: &str = "quickstart";
/// The agents: one for each component. The gateway lives beside the API.
pub const AGENTS: [&str; 4] = ["api", "executor", "scheduler", "worker"];
/// How long a worker may take to finish its jobs.
pub const WORKER_GRACE_S: u64 = 20;
/// How long the scheduler and the executors may take: the shortest grace, and shorter than some jobs.
pub const OFFICE_GRACE_S: u64 = 3;

/// A folder that is set up and not yet in use.
pub struct Stage {
    /// The folder itself.
    pub dir: PathBuf,
    /// Where clients connect.
    pub gateway: SocketAddr,
    exe: PathBuf,
}

impl Stage {
    /// Sets the folder up, which must be empty or missing: manifest, policies, and folders for what runs.
    pub fn set_up(dir: PathBuf) -> io::Result<Self> {
        Self::set_up_with(dir, std::env::current_exe()?)
    }

    /// The same with toys from another program than this one.
    pub fn set_up_with(dir: PathBuf, exe: PathBuf) -> io::Result<Self> {
        std::fs::create_dir_all(&dir)?;
        let dir = dir.canonicalize()?;
        if std::fs::read_dir(&dir)?.next().is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is not empty", dir.display())));
        }
        if dir.to_str().is_none_or(|text| text.contains(['"', '\\', '{', '}', '\n', '\''])) {
            let why = format!("{} has a character that the manifest could not hold", dir.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        for folder in ["logs", "releases", "work"] {
            std::fs::create_dir(dir.join(folder))?;
        }
        let stage = Self { gateway: free_address()?, exe, dir };
        std::fs::write(stage.manifest(), stage.manifest_text())?;
        for agent in AGENTS {
            std::fs::write(stage.policy(agent), stage.policy_text(agent))?;
            // A policy that others may write is not the host's own word, whatever the umask says.
            std::fs::set_permissions(stage.policy(agent), std::fs::Permissions::from_mode(0o600))?;
        }
        Ok(stage)
    }

    /// The manifest file.
    pub fn manifest(&self) -> PathBuf {
        self.dir.join("baton.yaml")
    }

    /// An agent's policy file.
    pub fn policy(&self, agent: &str) -> PathBuf {
        self.dir.join(format!("policy-{agent}.yaml"))
    }

    /// The toys' folder: the job pipeline, `jobs.log` and `events.log`.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// Puts a release in place: a program that runs the toys as `version` with `flags`, and its checksums.
    pub fn release(&self, version: &str, flags: &[&str]) -> io::Result<()> {
        let release = self.dir.join("releases").join(version);
        std::fs::create_dir_all(release.join("bin"))?;
        let exe = self.exe.display().to_string().replace('\'', r"'\''");
        let flags: String = flags.iter().map(|flag| format!(" {flag}")).collect();
        let program = format!("#!/bin/sh\nexec '{exe}' toy \"$@\" --version {version}{flags}\n");
        let mut sums = String::new();
        for (name, text, mode) in [("bin/run", program, 0o755), ("VERSION", format!("{version}\n"), 0o644)] {
            let path = release.join(name);
            std::fs::write(&path, &text)?;
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))?;
            let digest: String = Sha256::digest(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
            sums.push_str(&format!("{digest}  {name}\n"));
        }
        std::fs::write(release.join("SHA256SUMS"), sums)
    }

    fn policy_text(&self, agent: &str) -> String {
        let components = if agent == "api" { "[api, gateway]".to_owned() } else { format!("[{agent}]") };
        format!("components: {components}\nrelease_roots: [\"{}\"]\n", self.dir.join("releases").display())
    }

    fn manifest_text(&self) -> String {
        let component = |kind: &str, replicas: u32, rest: &str| {
            let dir = self.dir.display();
            format!(
                r#"  {kind}:
    role: {kind}
    runtime: process
    release: {{ path: "{dir}/releases/{{version}}", sha256_file: SHA256SUMS }}
    command: ["{{release}}/bin/run", "{kind}", "--instance", "{{instance}}", "--port", "{{port}}",
              "--work", "{dir}/work"]
    ports: {{ http: auto }}
    on: [{kind}]
    replicas: {replicas}
    ready: {{ http: "http://{{address}}:{{port}}/health", every: 50ms, deadline: 30s }}
{rest}"#
            )
        };
        let api = format!(
            r#"    update: {{ order: start-first, parallelism: 1, monitor: 1s }}
    traffic: {{ gateway: {{ listen: "{}", port: http, hold_max: 10s }} }}
    min_available: 1
    drain: {{ grace: 10s }}
"#,
            self.gateway
        );
        let office = format!("    update: {{ monitor: 1s }}\n    drain: {{ grace: {OFFICE_GRACE_S}s }}\n");
        let worker = format!(
            r#"    update: {{ monitor: 1s }}
    drain:
      begin: {{ http: "http://{{address}}:{{port}}/drain" }}
      undo: {{ http: "http://{{address}}:{{port}}/resume" }}
      inflight: {{ http: "http://{{address}}:{{port}}/inflight", pointer: /inflight, every: 50ms }}
      grace: {WORKER_GRACE_S}s
"#
        );
        format!(
            "fleet: {FLEET}\nstrategy: staged\ncomponents:\n{}{}{}{}",
            component("api", 2, &api),
            component("scheduler", 1, &office),
            component("executor", 2, &office),
            component("worker", 4, &worker),
        )
    }
}

/// A loopback address that nobody listens on at this moment.
fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

/// The last lines of a file, for people.
pub fn tail(path: &Path, lines: usize) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
