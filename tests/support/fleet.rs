//! A fleet of shell scripts, driven through the real binary.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use super::procs::Stage;
use super::wait::{wait_for, wait_some};

/// For anything that a verb does on two slow cores.
pub const BOUND: Duration = Duration::from_secs(60);

/// A program that lives until SIGTERM, tells its life to `life.log`, and is ready when `ready` says so.
pub const GOOD: &str = r#"#!/bin/sh
echo "$1 up v=$2" >> "$LIFE"
trap 'echo "$1 term v=$2" >> "$LIFE"; exit 0' TERM
echo "hello from $1 $2"
while :; do sleep 0.05; done
"#;

/// A stage with a manifest and releases.
pub struct Fleet {
    pub stage: Stage,
    pub name: String,
}

/// What a verb said.
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Said {
    /// Both outputs, for a failed assertion.
    pub fn all(&self) -> String {
        format!("exit code {}\n--- stdout\n{}\n--- stderr\n{}", self.code, self.out, self.err)
    }

    /// Lines of `--json`.
    pub fn events(&self) -> Vec<Value> {
        self.out.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Said {
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

impl Fleet {
    /// An empty fleet.
    pub fn new(name: &str) -> Self {
        Self { stage: Stage::new(), name: name.to_owned() }
    }

    /// Writes a release `releases/VERSION/run` with its checksums.
    pub fn release(&self, version: &str, script: &str) -> &Self {
        let folder = self.stage.path(format!("releases/{version}"));
        std::fs::create_dir_all(&folder).expect("a release folder");
        let script = script.replace("$LIFE", &self.life().display().to_string());
        std::fs::write(folder.join("run"), script).expect("a script");
        std::fs::set_permissions(folder.join("run"), std::fs::Permissions::from_mode(0o755)).expect("its mode");
        let sums = Command::new("sha256sum").arg("run").current_dir(&folder).output().expect("sha256sum");
        std::fs::write(folder.join("SHA256SUMS"), sums.stdout).expect("checksums");
        self
    }

    /// Writes the manifest: `components` is YAML, indented by two; `{R}` stands for the release and command lines of a
    /// component that runs the release's script with its instance and version.
    pub fn manifest(&self, head: &str, components: &str) -> &Self {
        let run = format!(
            "release: {{ path: \"{}/{{version}}\", sha256_file: SHA256SUMS }}\n    \
             command: [\"{{release}}/run\", \"{{instance}}\", \"{{version}}\"]",
            self.stage.path("releases").display()
        );
        let text = format!("fleet: {}\n{head}\ncomponents:\n{}", self.name, components.replace("{R}", &run));
        std::fs::write(self.stage.path("baton.yaml"), text).expect("a manifest");
        self
    }

    /// What instances wrote of their lives.
    pub fn life(&self) -> PathBuf {
        self.stage.path("life.log")
    }

    /// The lines of it.
    pub fn lives(&self) -> Vec<String> {
        std::fs::read_to_string(self.life()).unwrap_or_default().lines().map(str::to_owned).collect()
    }

    /// The binary with the state of this fleet, in its folder.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
        command.args(args).arg("--state").arg(self.stage.path("state")).current_dir(self.stage.dir());
        command
            .stdin(Stdio::null())
            .env_remove("BATON_COORDINATOR")
            .env_remove("BATON_STATE")
            .env_remove("BATON_FLEET")
            // Who asks is told in messages and in the history: the same whoever runs the tests.
            .env("USER", "operator")
            .env_remove("SUDO_USER");
        command
    }

    /// Runs a verb to its end.
    ///
    /// # Panics
    /// When it does not end within two minutes: a verb that hangs is a failure with a name.
    pub fn baton(&self, args: &[&str]) -> Said {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary");
        let mut out = child.stdout.take().expect("stdout");
        let mut err = child.stderr.take().expect("stderr");
        let read_out = std::thread::spawn(move || {
            let mut text = vec![];
            std::io::Read::read_to_end(&mut out, &mut text).ok();
            text
        });
        let read_err = std::thread::spawn(move || {
            let mut text = vec![];
            std::io::Read::read_to_end(&mut err, &mut text).ok();
            text
        });
        let begun = std::time::Instant::now();
        let status = loop {
            match child.try_wait().expect("its status") {
                Some(status) => break status,
                None if begun.elapsed() > 2 * BOUND => {
                    child.kill().ok();
                    child.wait().ok();
                    panic!("baton {args:?} did not end within {:?}", 2 * BOUND);
                }
                None => std::thread::park_timeout(Duration::from_millis(10)),
            }
        };
        let stdout = read_out.join().expect("stdout");
        let stderr = read_err.join().expect("stderr");
        Output { status, stdout, stderr }.into()
    }

    /// Runs a verb that must end with this code.
    pub fn expect(&self, args: &[&str], code: i32) -> Said {
        let said = self.baton(args);
        assert_eq!(said.code, code, "baton {args:?}: {}", said.all());
        said
    }

    /// The view of `status --json`.
    pub fn view(&self) -> Value {
        let said = self.expect(&["status", "--json"], 0);
        serde_json::from_str(said.out.trim()).unwrap_or_else(|error| panic!("{error}: {}", said.all()))
    }

    /// Every running instance as `slot.number@version`, in order.
    pub fn running(&self) -> Vec<String> {
        let view = self.view();
        let mut found = vec![];
        for slot in view["slots"].as_array().expect("slots") {
            for instance in slot["instances"].as_array().expect("instances") {
                if instance["state"] == "running" {
                    let version = instance["version"].as_str().unwrap_or("-");
                    found.push(format!("{}@{version}", instance["id"].as_str().expect("an id")));
                }
            }
        }
        found
    }

    /// Starts a verb in the background; its output goes to `NAME.log`.
    pub fn spawn(&mut self, name: &str, args: &[&str]) -> usize {
        let mut command = self.command(args);
        self.stage.spawn(name, &mut command)
    }

    /// Waits until the life log has such a line.
    pub fn wait_life(&self, text: &str) {
        wait_for(&format!("a life line with {text:?}"), BOUND, || self.lives().iter().any(|line| line.contains(text)));
    }

    /// Waits until a verb's log has such a text, and returns the log.
    pub fn wait_log(&self, name: &str, text: &str) -> String {
        wait_some(&format!("{text:?} in the output of {name}"), BOUND, || {
            let log = self.stage.log(name);
            log.contains(text).then_some(log)
        })
    }
}
