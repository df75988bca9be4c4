//! Six workers on bare metal, two at a time: 1 s to drain, 0.3 s to boot. The floor is the same programs, signalled and
//! spawned by hand with nothing in between.

use std::io::Write;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};

use crate::rig::{Outcome, median};

const WORKERS: usize = 6;
const AT_A_TIME: usize = 2;
const BOOT: Duration = Duration::from_millis(300);
const DRAIN: Duration = Duration::from_secs(1);

/// Each figure is the middle of so many.
const ROUNDS: usize = 3;

/// For a verb or a worker that hangs.
const BOUND: Duration = Duration::from_secs(60);

/// A worker: boots, says that it is ready, and on SIGTERM takes its time to finish.
pub fn toy() -> Outcome<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // First the handler: a signal before it would be the end.
        let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
        tokio::time::sleep(BOOT).await;
        if let Some(socket) = std::env::var_os("NOTIFY_SOCKET") {
            UnixDatagram::unbound()?.send_to(b"READY=1", PathBuf::from(socket))?;
        }
        terminate.recv().await;
        tokio::time::sleep(DRAIN).await;
        Ok(())
    })
}

/// `bench relay`
pub fn run() -> Outcome<()> {
    let exe = std::env::current_exe()?;
    let folder = tempfile::Builder::new().prefix("bb-").tempdir()?;
    let fleet = Fleet { exe: exe.clone(), folder: folder.path().to_owned() };
    fleet.write()?;
    fleet.baton(&["up", "--to", "v1", "--yes"])?;
    let (mut floors, mut rolls, mut verbs, mut ratios, mut whole) = (vec![], vec![], vec![], vec![], vec![]);
    for round in 0..ROUNDS {
        // In pairs: what else the machine does weighs on both alike.
        let floor = floor(&exe, folder.path())?.as_secs_f64();
        let version = if round % 2 == 0 { "v2" } else { "v1" };
        let begun = Instant::now();
        fleet.baton(&["up", "--to", version, "--yes"])?;
        let verb = begun.elapsed().as_secs_f64();
        let roll = fleet.last_roll()?.as_secs_f64();
        floors.push(floor);
        rolls.push(roll);
        verbs.push(verb);
        ratios.push(roll / floor);
        whole.push(verb / floor);
    }
    let ideal = (BOOT + DRAIN).as_secs_f64() * (WORKERS / AT_A_TIME) as f64;
    println!("six workers, two at a time: 1 s to drain, 0.3 s to boot (sum of the sleeps: {ideal:.1} s)\n");
    println!("{:<44} {:>7} {:>7}", "", "s", "ratio");
    println!("{:<44} {:>7.2} {:>7}", "floor: bare signal, wait, spawn, wait", median(floors), "1.00x");
    println!("{:<44} {:>7.2} {:>6.3}x", "the roll, from its first record to its last", median(rolls), median(ratios));
    println!("{:<44} {:>7.2} {:>6.3}x", "`baton up` from its start to its exit", median(verbs), median(whole));
    fleet.baton(&["down", "--yes"])?;
    Ok(())
}

/// Two at a time: a signal to each, their ends, two new ones, their READY=1.
fn floor(exe: &Path, folder: &Path) -> Outcome<Duration> {
    let path = folder.join("ready.sock");
    let _ = std::fs::remove_file(&path);
    let ready = UnixDatagram::bind(&path)?;
    ready.set_read_timeout(Some(BOUND))?;
    let spawn = || -> Outcome<Child> {
        let mut worker = Command::new(exe);
        worker.arg("toy").env("NOTIFY_SOCKET", &path).stdin(Stdio::null()).stdout(Stdio::null());
        Ok(worker.spawn()?)
    };
    let booted = |count: usize| -> Outcome<()> {
        for _ in 0..count {
            ready.recv(&mut [0; 64])?;
        }
        Ok(())
    };
    let mut workers: Vec<Child> = (0..WORKERS).map(|_| spawn()).collect::<Outcome<_>>()?;
    let signal = |worker: &Child| -> Outcome<()> { Ok(kill_process(Pid::from_child(worker), Signal::TERM)?) };
    booted(WORKERS)?;
    let begun = Instant::now();
    for pair in workers.chunks_mut(AT_A_TIME) {
        for worker in pair.iter() {
            signal(worker)?;
        }
        for worker in pair.iter_mut() {
            worker.wait()?;
            *worker = spawn()?;
        }
        booted(pair.len())?;
    }
    let took = begun.elapsed();
    for worker in &mut workers {
        worker.kill()?;
        worker.wait()?;
    }
    Ok(took)
}

/// A fleet of real processes, driven through the verbs of this very program.
pub struct Fleet {
    pub exe: PathBuf,
    pub folder: PathBuf,
}

impl Fleet {
    /// Writes the manifest and two releases.
    pub fn write(&self) -> Outcome<()> {
        for version in ["v1", "v2"] {
            std::fs::create_dir_all(self.folder.join("releases").join(version))?;
        }
        let mut manifest = std::fs::File::create(self.folder.join("baton.yaml"))?;
        write!(
            manifest,
            r#"fleet: relay
strategy: rolling
components:
  worker:
    role: worker
    runtime: process
    release: {{ path: "{folder}/releases/{{version}}" }}
    command: ["{exe}", "toy", "{folder}"]
    replicas: {WORKERS}
    update: {{ order: stop-first, parallelism: {AT_A_TIME}, delay: 0s, monitor: 0s }}
    ready: {{ notify: true, every: 10ms, deadline: 30s }}
    drain: {{ grace: 30s }}
"#,
            folder = self.folder.display(),
            exe = self.exe.display(),
        )?;
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.exe);
        command.args(arguments).arg("--state").arg(self.folder.join("state")).current_dir(&self.folder);
        command.stdin(Stdio::null()).env_remove("BATON_COORDINATOR").env_remove("BATON_STATE");
        command
    }

    /// Runs a verb to its end.
    pub fn baton(&self, arguments: &[&str]) -> Outcome<String> {
        let output = self.command(arguments).output()?;
        if !output.status.success() {
            let said =
                format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            return Err(format!("baton {arguments:?} ended with {}: {said}", output.status).into());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// How long the last roll took, as the journal has it.
    fn last_roll(&self) -> Outcome<Duration> {
        let history = self.baton(&["history", "--json"])?;
        let rolls: Vec<serde_json::Value> = history.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let newest = rolls.iter().max_by_key(|roll| roll["number"].as_u64()).ok_or("there was a roll")?;
        let at = |key: &str| newest[key].as_u64().ok_or("a roll has a begin and an end");
        Ok(Duration::from_millis(at("ended")? - at("began")?))
    }
}

impl Drop for Fleet {
    /// Ends what has this folder in its arguments or works in it: keepers and instances outlive the verbs. First the
    /// keepers, which would start the others again.
    fn drop(&mut self) {
        for keepers in [true, false, true, false] {
            for (pid, arguments) in processes_of(&self.folder) {
                let is_keeper = arguments.split('\0').nth(1) == Some("keeper");
                if is_keeper == keepers
                    && let Some(pid) = Pid::from_raw(pid)
                    && let Ok(process) = pidfd_open(pid, PidfdFlags::empty())
                {
                    let _ = pidfd_send_signal(process, Signal::KILL);
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

/// The processes that name this folder in their arguments, this one left out.
pub fn processes_of(folder: &Path) -> Vec<(i32, String)> {
    let folder = folder.display().to_string();
    let mut found = vec![];
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments).into_owned();
        if pid.cast_unsigned() != std::process::id() && arguments.contains(&folder) {
            found.push((pid, arguments));
        }
    }
    found
}
