//! Real processes in tests: started, known by id, and gone when the test is over, however it ends.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::leftovers::{end_all, processes_of};
use super::wait::wait_some;

/// What is left over gets this long between SIGTERM and SIGKILL when a test is over.
const END_PATIENCE: Duration = Duration::from_millis(500);

/// A folder and every process that belongs to it. Dropped, it ends them all by their ids: those it started, and those
/// that they left behind, such as keepers and instances, which are known by the folder in their arguments.
pub struct Stage {
    dir: tempfile::TempDir,
    children: Vec<Running>,
}

/// A process that a [`Stage`] started.
pub struct Running {
    name: String,
    child: Child,
}

// === impl Stage ===

impl Stage {
    /// A new folder, short enough for the paths of Unix sockets in it.
    ///
    /// # Panics
    /// When no folder can be made.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("bt-").tempdir().expect("a temporary folder");
        Self { dir, children: Vec::new() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A path in the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir().join(name)
    }

    /// Starts a process with its working folder here and its output in `NAME.log`; returns its place for
    /// [`Stage::child`]. A name may be used again: both write to the same log.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn(&mut self, name: &str, command: &mut Command) -> usize {
        self.spawn_from(name, command, Stdio::null())
    }

    /// The same with something else than nothing as standard input, such as a socket to pass on. The command keeps no
    /// copy of it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn spawn_with_stdin(&mut self, name: &str, command: &mut Command, input: OwnedFd) -> usize {
        let place = self.spawn_from(name, command, Stdio::from(input));
        command.stdin(Stdio::null());
        place
    }

    fn spawn_from(&mut self, name: &str, command: &mut Command, input: Stdio) -> usize {
        let log = || File::options().append(true).create(true).open(self.path(format!("{name}.log")));
        command.current_dir(self.dir()).stdin(input);
        command.stdout(log().expect("a log")).stderr(log().expect("a log"));
        let child = command.spawn().unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        self.children.push(Running { name: name.to_owned(), child });
        self.children.len() - 1
    }

    /// The process at that place.
    pub fn child(&mut self, place: usize) -> &mut Running {
        &mut self.children[place]
    }

    /// What the processes of that name wrote.
    pub fn log(&self, name: &str) -> String {
        let bytes = std::fs::read(self.path(format!("{name}.log"))).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The ids and arguments of all processes of this folder, whoever started them.
    ///
    /// # Panics
    /// When `/proc` cannot be read.
    pub fn processes(&self) -> Vec<(u32, String)> {
        let found = processes_of(self.dir()).expect("a readable /proc");
        found.into_iter().map(|process| (process.pid, process.command)).collect()
    }

    /// The ids of those whose arguments contain `text`.
    pub fn pids_of(&self, text: &str) -> Vec<u32> {
        self.processes().into_iter().filter(|(_, command)| command.contains(text)).map(|(pid, _)| pid).collect()
    }
}

impl Default for Stage {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for running in &mut self.children {
            // Errors mean that it has gone already.
            running.child.kill().ok();
            running.child.wait().ok();
        }
        if let Err(error) = end_all(self.dir.path(), END_PATIENCE) {
            eprintln!("processes of {} are left: {error}", self.dir.path().display());
        }
        if std::thread::panicking() {
            for running in &self.children {
                eprintln!("--- log of {}\n{}", running.name, self.log(&running.name));
            }
        }
    }
}

// === impl Running ===

impl Running {
    /// Its id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it cannot be sent.
    pub fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).expect("a signal to a child");
    }

    /// Whether it has not ended yet.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it has not ended within `bound`.
    pub fn wait(&mut self, bound: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_some(&what, bound, || self.child.try_wait().ok().flatten())
    }
}

/// Sends a signal to a process that this test knows to be its own.
///
/// # Errors
/// When the process has gone or is not ours.
pub fn kill(pid: u32, signal: Signal) -> io::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidInput)?;
    kill_process(pid, signal).map_err(Into::into)
}

/// A port that nobody listens on at this moment.
///
/// # Panics
/// When there is none.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    listener.local_addr().expect("an address").port()
}

/// The quickstart's program, which is also the toys, the load generator and the checker. `cargo test` builds it with
/// everything else; `cargo test --test NAME` does not, so it is asked for here, which costs nothing when it is there.
///
/// # Panics
/// When it cannot be built.
pub fn quickstart() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        // target/PROFILE/deps/this-test
        let test = std::env::current_exe().expect("the path of the test");
        let profile = test.parent().and_then(Path::parent).expect("a folder of the profile").to_owned();
        let target = profile.parent().expect("a target folder");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--example", "quickstart", "--manifest-path"]);
        cargo.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).arg("--target-dir").arg(target);
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        // What cargo has told this test about itself would make it build crates anew that look at it.
        let told =
            ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_TARGET_TMPDIR", "OUT_DIR"];
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(|name| told.iter().any(|prefix| name.starts_with(prefix))) {
                cargo.env_remove(name);
            }
        }
        assert!(cargo.status().expect("cargo").success(), "the quickstart does not build");
        profile.join("examples/quickstart")
    })
}
