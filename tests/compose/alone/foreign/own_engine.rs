//! A Docker Engine of the test's own: its own data, sockets and network namespace, so that it can be stopped and
//! started, and host ports and container names in it are nobody else's.

use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// For the engine to come up, and for its containers and itself to end.
const PATIENCE: Duration = Duration::from_secs(90);

/// An engine that runs until it is dropped.
pub struct OwnEngine {
    folder: tempfile::TempDir,
    daemon: Option<Child>,
    /// Keeps the namespace between two engines.
    network: Option<File>,
}

impl OwnEngine {
    /// Starts one.
    ///
    /// # Errors
    /// With why there can be none here.
    pub fn start() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("root: a Docker Engine of its own cannot be started without".to_owned());
        }
        let folder = tempfile::Builder::new().prefix("bf-").tempdir().map_err(|error| error.to_string())?;
        let mut engine = Self { folder, daemon: None, network: None };
        // What works for the host's engine works for this one.
        let driver = Command::new("docker").args(["info", "-f", "{{.Driver}}"]).output().ok();
        let driver = driver.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
        let config = match driver.as_str() {
            "" => "{}".to_owned(),
            driver => format!(r#"{{"storage-driver": "{driver}"}}"#),
        };
        std::fs::write(engine.path("daemon.json"), config).map_err(|error| error.to_string())?;
        engine.launch()?;
        Ok(engine)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What to give others as `DOCKER_HOST`.
    pub fn address(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    fn launch(&mut self) -> Result<(), String> {
        let enter = match &self.network {
            None => "unshare --net sh -c 'ip link set lo up && exec \"$@\"' sh".to_owned(),
            Some(network) => {
                use std::os::fd::AsRawFd;
                format!("nsenter --net=/proc/{}/fd/{}", std::process::id(), network.as_raw_fd())
            }
        };
        let flags = [
            format!("--config-file {}", self.path("daemon.json").display()),
            format!("-H {}", self.address()),
            format!("--data-root {}", self.path("data").display()),
            format!("--exec-root {}", self.path("exec").display()),
            format!("--pidfile {}", self.path("pid").display()),
        ];
        // It goes with this process, even if that is killed.
        let line = format!("exec setpriv --pdeathsig TERM {enter} dockerd {}", flags.join(" "));
        let log =
            File::options().create(true).append(true).open(self.path("log")).map_err(|error| error.to_string())?;
        let errors = log.try_clone().map_err(|error| error.to_string())?;
        let daemon = Command::new("sh").args(["-c", &line]).stdin(Stdio::null()).stdout(log).stderr(errors).spawn();
        let daemon = self.daemon.insert(daemon.map_err(|error| format!("dockerd: {error}"))?);
        let (pid, begun) = (daemon.id(), Instant::now());
        while !answers(&self.address()) {
            let ended = self.daemon.as_mut().is_some_and(|daemon| daemon.try_wait().ok().flatten().is_some());
            if ended || begun.elapsed() > PATIENCE {
                let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(format!("a Docker Engine of its own, which does not come up: {}", last.join(" / ")));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        if self.network.is_none() {
            let network = File::open(format!("/proc/{pid}/ns/net")).map_err(|error| error.to_string())?;
            self.network = Some(network);
        }
        Ok(())
    }

    /// Stops it, which stops every container, and starts it again.
    ///
    /// # Panics
    /// When it does not end or does not come back.
    pub fn restart(&mut self) {
        self.stop();
        self.launch().unwrap_or_else(|why| panic!("the engine is started again: {why}"));
    }

    fn stop(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let _ = Command::new("kill").args(["-TERM", &daemon.id().to_string()]).status();
        let begun = Instant::now();
        while daemon.try_wait().is_ok_and(|ended| ended.is_none()) {
            if begun.elapsed() > PATIENCE {
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Runs a closure on a thread that is in the engine's network: `127.0.0.1` is its host.
    pub fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
        let network = self.network.as_ref().and_then(|network| network.try_clone().ok()).expect("its namespace");
        std::thread::spawn(move || {
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), Some(LinkNameSpaceType::Network))
                .expect("into its network");
            work()
        })
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        let docker = |args: &[&str]| {
            let output = Command::new("docker").args(["-H", &self.address()]).args(args).output();
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
        };
        let ids = docker(&["ps", "-aq"]);
        let mut args = vec!["rm", "-f"];
        args.extend(ids.split_whitespace());
        if args.len() > 2 {
            docker(&args);
        }
        self.stop();
    }
}

fn answers(address: &str) -> bool {
    let asked = Command::new("docker").args(["-H", address, "version", "-f", "{{.Server.Version}}"]).output();
    asked.is_ok_and(|output| output.status.success())
}

/// Whether something at this port of the engine's host answers a request with 200. Call it [`OwnEngine::inside`].
pub fn serves(port: u16) -> bool {
    use std::io::{Read, Write};
    // On a busy machine slow is not away.
    let wait = Duration::from_secs(5);
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, wait) else { return false };
    let _ = stream.set_read_timeout(Some(wait));
    let mut said = String::new();
    let asked =
        stream.write_all(b"GET / HTTP/1.0\r\nHost: test\r\n\r\n").and_then(|()| stream.read_to_string(&mut said));
    asked.is_ok() && said.contains(" 200 ")
}

/// Copies a folder with all that is in it.
///
/// # Panics
/// When that does not succeed.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().expect("a kind").is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("a copy")),
        }
    }
}
