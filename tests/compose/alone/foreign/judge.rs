//! One project on its way, judged after each act by what Compose and the engine say.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::own_engine::{OwnEngine, copy, serves};
use super::projects::{Foreign, Serves};
use super::stand_ins;

/// What was found wrong, in words.
pub type Judged = Result<(), String>;

/// For what the engine does in its own time.
const PATIENCE: Duration = Duration::from_secs(60);

/// The engine's names stand for an instance from its start to its end, ready or not: a few requests may find nobody,
/// but the next one finds another.
const GAP: Duration = Duration::from_secs(10);

macro_rules! ensure {
    ($holds:expr, $($why:tt)+) => {
        if !$holds {
            return Err(format!($($why)+));
        }
    };
}

/// A project in a folder of its own, on that engine.
pub struct Run {
    pub project: Foreign,
    folder: PathBuf,
    state: PathBuf,
    engine: String,
}

/// A container, as the engine tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Container {
    id: String,
    service: String,
    image: String,
    policy: String,
    running: bool,
}

impl Run {
    /// A copy of the project's folder, as somebody's checkout.
    pub fn new(project: Foreign, from: &Path, to: &Path, engine: &str) -> Self {
        let folder = to.join(project.name);
        copy(&from.join(project.name), &folder);
        Self { project, folder, state: to.join("state"), engine: engine.to_owned() }
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(args).current_dir(&self.folder).env("DOCKER_HOST", &self.engine).stdin(Stdio::null());
        for name in ["COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "COMPOSE_PROFILES", "TAG"] {
            command.env_remove(name);
        }
        command
    }

    fn output(&self, program: &str, args: &[&str]) -> Output {
        self.command(program, args).output().unwrap_or_else(|error| panic!("cannot start {program}: {error}"))
    }

    /// What a program said, which has to end with that code.
    fn said(&self, program: &str, args: &[&str], code: i32) -> Result<String, String> {
        let output = self.output(program, args);
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        let program = program.rsplit('/').next().unwrap_or(program);
        ensure!(
            output.status.code() == Some(code),
            "{program} {} ended with {}:\n{said}",
            args.join(" "),
            output.status
        );
        Ok(said)
    }

    fn docker(&self, args: &[&str]) -> Result<String, String> {
        self.said("docker", args, 0)
    }

    fn baton(&self, args: &[&str]) -> Result<String, String> {
        let state = self.state.display().to_string();
        let args: Vec<&str> = ["--state", &state].iter().chain(args).copied().collect();
        self.said(env!("CARGO_BIN_EXE_baton"), &args, 0)
    }

    /// Only what Compose wrote to standard output.
    fn asked(&self, args: &[&str]) -> Vec<String> {
        let output = self.output("docker", args);
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    fn label(&self) -> String {
        format!("label=com.docker.compose.project={}", self.project.name)
    }

    /// Every container of the project, by name.
    fn containers(&self) -> Result<BTreeMap<String, Container>, String> {
        let ids = self.docker(&["ps", "-aq", "--no-trunc", "--filter", &self.label()])?;
        let format = "{{.Name}}|{{.Id}}|{{index .Config.Labels \"com.docker.compose.service\"}}|{{.Config.Image}}|\
                      {{.HostConfig.RestartPolicy.Name}}|{{.State.Running}}";
        let mut args = vec!["inspect", "--type", "container", "-f", format];
        args.extend(ids.lines());
        let said = if ids.is_empty() { String::new() } else { self.docker(&args)? };
        let one = |line: &str| {
            let mut words = line.split('|').map(str::to_owned);
            let name = words.next()?.trim_start_matches('/').to_owned();
            let (id, service, image, policy) = (words.next()?, words.next()?, words.next()?, words.next()?);
            Some((name, Container { id, service, image, policy, running: words.next()? == "true" }))
        };
        Ok(said.lines().filter_map(one).collect())
    }

    /// Puts one version in place of the other, as its owner does.
    fn edit(&self, forth: bool) -> Judged {
        let (file, old, new) = self.project.edit;
        let (from, to) = if forth { (old, new) } else { (new, old) };
        let path = self.folder.join(file);
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{file}: {error}"))?;
        ensure!(text.contains(from), "{file} does not have {from}");
        std::fs::write(&path, text.replace(from, to)).map_err(|error| format!("{file}: {error}"))?;
        if self.project.builds {
            self.docker(&["compose", "build", "--quiet"])?;
        }
        Ok(())
    }

    /// Compose finds nothing to do, and does nothing but start again what had ended.
    fn compose_is_content(&self) -> Judged {
        let before = self.containers()?;
        let said = self.docker(&["compose", "up", "-d"])?;
        for word in ["Creating", "Recreate", "Removing"] {
            ensure!(!said.contains(word), "docker compose up -d was not content:\n{said}");
        }
        let ids = |all: &BTreeMap<String, Container>| -> BTreeMap<String, String> {
            all.iter().map(|(name, about)| (name.clone(), about.id.clone())).collect()
        };
        let (before, after) = (ids(&before), ids(&self.containers()?));
        ensure!(before == after, "docker compose up -d has other containers: {before:?} {after:?}");
        Ok(())
    }

    /// The row that every store was given once is still there, and nothing else made the store anew.
    fn data_is_there(&self) -> Judged {
        for (service, path) in self.project.holds {
            let said = self.asked(&["compose", "exec", "-T", service, "cat", &format!("{path}/rows")]);
            ensure!(said == [self.project.name], "{service} has lost what was in {path}: {said:?}");
        }
        Ok(())
    }

    /// `docker compose up -d`, and a row in every store.
    pub fn made_by_compose(&self) -> Judged {
        self.docker(&["compose", "up", "-d"])?;
        for (service, path) in self.project.holds {
            let line = format!("echo {} >{path}/rows", self.project.name);
            self.docker(&["compose", "exec", "-T", service, "sh", "-c", &line])?;
        }
        let before = self.containers()?;
        let said = self.baton(&["up", "--yes"])?;
        ensure!(before == self.containers()?, "nothing was to be done, and something was:\n{said}");
        Ok(())
    }

    /// `baton up`, to the version that its owner has written into the file.
    pub fn rolled(&self, engine: &OwnEngine) -> Judged {
        let before = self.containers()?;
        self.edit(true)?;
        let plan = self.baton(&["plan"])?;
        println!("=== {}: baton plan\n{plan}", self.project.name);
        for word in ["spec store", "at most 0s"] {
            ensure!(!plan.contains(word), "nobody who owns this file understands \"{word}\":\n{plan}");
        }
        for text in self.project.told {
            ensure!(plan.contains(text), "the plan does not say \"{text}\":\n{plan}");
        }
        let events = Events::of(self)?;
        let watch = self.project.serves.map(|(port, _)| Watch::of(engine, port));
        let said = self.baton(&["up", "--yes"])?;
        println!("=== {}: baton up\n{said}", self.project.name);
        let watched = watch.map(Watch::end);
        let events = events.end();
        let after = self.containers()?;
        for (name, now) in &after {
            let was = before.get(name).ok_or_else(|| format!("{name} was not there before: {before:?}"))?;
            let anew = self.project.changes.contains(&now.service.as_str());
            ensure!(anew == (was.id != now.id), "{name} is new: {}, to be new: {anew}\n{said}", was.id != now.id);
            ensure!(was.policy == now.policy, "{name} had the restart policy {}, now {}", was.policy, now.policy);
            ensure!(was.running == now.running, "{name} ran: {}, runs: {}\n{said}", was.running, now.running);
        }
        ensure!(before.keys().eq(after.keys()), "other containers: {before:?} {after:?}");
        self.jobs_ran_once(&events)?;
        if let (Some(watched), Some((port, serves))) = (watched, self.project.serves) {
            println!("=== {}: port {port}: {watched:?}", self.project.name);
            ensure!(watched.asked > 20, "port {port} was hardly asked: {watched:?}");
            // Its lines about who is away stand under this word.
            let told = plan.split("\nOut\n").nth(1).and_then(|rest| rest.split("\n\n").next()).unwrap_or_default();
            let away = |service: &str| told.lines().any(|line| line.trim().starts_with(&format!("{service}: ")));
            match serves {
                Serves::Always => ensure!(watched.failed == 0, "port {port} was away: {watched:?}\n{plan}"),
                Serves::Again(service) => {
                    ensure!(!away(service), "{service} is said to be away:\n{plan}");
                    ensure!(watched.longest < GAP, "{service} was away for too long: {watched:?}\n{plan}");
                }
                Serves::ButFor(service) => {
                    ensure!(away(service), "{service} is away for a while and the plan does not say so:\n{plan}");
                }
            }
        }
        self.data_is_there()?;
        self.compose_is_content()
    }

    /// Each job was started once, and had ended before anything that waits for it was started.
    fn jobs_ran_once(&self, events: &[Event]) -> Judged {
        for job in self.project.jobs {
            let of = |what: &str| -> Vec<usize> {
                let is = |event: &Event| event.service == *job && event.what == what;
                events.iter().enumerate().filter(|(_, event)| is(event)).map(|(place, _)| place).collect()
            };
            let (starts, ends) = (of("start"), of("die"));
            ensure!(starts.len() == 1 && ends.len() == 1, "{job} was to run once: {events:?}");
            let config = self.asked(&["compose", "config", "--format=json"]).concat();
            let config: serde_json::Value = serde_json::from_str(&config).map_err(|error| error.to_string())?;
            for (service, about) in config["services"].as_object().into_iter().flatten() {
                let waits = !about["depends_on"][*job].is_null();
                let first = events.iter().position(|event| event.service == *service && event.what == "start");
                ensure!(!waits || first.is_none_or(|first| first > ends[0]), "{service} did not wait for {job}");
            }
        }
        Ok(())
    }

    /// The engine was stopped and started: what has to run runs, in the same containers.
    pub fn back_after_a_restart(&self) -> Judged {
        let begun = Instant::now();
        loop {
            let all = self.containers()?;
            let away: Vec<&String> = all
                .iter()
                .filter(|(_, about)| matches!(about.policy.as_str(), "always" | "unless-stopped") && !about.running)
                .map(|(name, _)| name)
                .collect();
            if away.is_empty() {
                break;
            }
            let why = away.iter().map(|name| self.docker(&["inspect", "-f", "{{.State.Error}}", name]));
            let why = why.collect::<Result<Vec<_>, _>>()?;
            // An engine that starts starts all at once: who is to live in another one's container may come too early,
            // and is not tried again. Its owner starts it.
            for (name, why) in away.iter().zip(&why).filter(|(_, why)| why.contains("of a non running container")) {
                println!("=== {}: {name} is started by hand: {why}", self.project.name);
                self.docker(&["start", name])?;
            }
            ensure!(begun.elapsed() < PATIENCE, "{away:?} did not come back with the engine: {why:?}");
            std::thread::sleep(Duration::from_millis(100));
        }
        self.compose_is_content()?;
        self.data_is_there()
    }

    /// `baton rollback`, and the former version in the file again.
    pub fn taken_back(&self, engine: &OwnEngine) -> Judged {
        let said = self.baton(&["rollback", "--yes"])?;
        let last = said.trim_end().lines().last().unwrap_or_default();
        println!("=== {}: baton rollback\n{said}", self.project.name);
        ensure!(last.contains("still asks for"), "it does not say what the file still asks for:\n{said}");
        let jobs = self.project.jobs;
        for service in self.project.changes.iter().filter(|service| !jobs.contains(service)) {
            ensure!(last.contains(service), "it does not say that the file still asks for another {service}: {last}");
        }
        self.edit(false)?;
        self.data_is_there()?;
        if let Some(service) = self.project.restart {
            self.baton(&["restart", service, "--yes"])?;
        }
        if let Some((port, _)) = self.project.serves {
            let answers = engine.inside(move || {
                let begun = Instant::now();
                while !serves(port) && begun.elapsed() < PATIENCE {
                    std::thread::sleep(Duration::from_millis(50));
                }
                serves(port)
            });
            ensure!(answers.join().is_ok_and(|answers| answers), "port {port} does not answer after the way back");
        }
        self.compose_is_content()
    }

    /// `docker compose ps` knows all of it, and `docker compose down` leaves nothing behind.
    pub fn ended_by_compose(&self) -> Judged {
        let all: BTreeSet<String> = self.containers()?.into_keys().collect();
        let listed: BTreeSet<String> =
            self.asked(&["compose", "ps", "-a", "--format", "{{.Name}}"]).into_iter().collect();
        ensure!(all == listed, "docker compose ps lists {listed:?} of {all:?}");
        self.docker(&["compose", "down"])?;
        let left = self.docker(&["ps", "-aq", "--filter", &self.label()])?;
        let networks = self.docker(&["network", "ls", "-q", "--filter", &self.label()])?;
        ensure!(left.is_empty() && networks.is_empty(), "docker compose down left {left} {networks}");
        Ok(())
    }
}

/// Makes every image that the projects name, before and after their edits.
///
/// # Panics
/// When that does not succeed.
pub fn make_images(runs: &[Run], folder: &Path) {
    let Some(first) = runs.first() else { return };
    let docker = |args: &[&str]| {
        let mut command = first.command("docker", args);
        let output = command.env("DOCKER_BUILDKIT", "0").output().expect("docker starts");
        assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    stand_ins::base(&docker, folder);
    let mut names = BTreeSet::from(["acme/runtime:12".to_owned()]);
    for run in runs {
        // What is built is made by Compose.
        let edits = if run.project.builds { vec![] } else { vec![true, false] };
        names.extend(run.asked(&["compose", "--profile", "*", "config", "--images"]));
        for forth in edits {
            run.edit(forth).unwrap_or_else(|fault| panic!("{}: {fault}", run.project.name));
            names.extend(run.asked(&["compose", "--profile", "*", "config", "--images"]));
        }
    }
    let names = names.iter().map(String::as_str).filter(|name| name.contains(':') && !name.ends_with(":local"));
    stand_ins::images(&docker, folder, &names.collect::<Vec<_>>());
}

/// A container that was started or has ended.
#[derive(Clone, Debug)]
struct Event {
    what: String,
    service: String,
}

/// What the engine tells of a project's containers while something is done to it.
struct Events {
    child: Child,
    file: PathBuf,
}

impl Events {
    fn of(run: &Run) -> Result<Self, String> {
        let file = run.folder.with_extension("events");
        let out = std::fs::File::create(&file).map_err(|error| error.to_string())?;
        let format = "{{.Action}} {{index .Actor.Attributes \"com.docker.compose.service\"}}";
        let label = run.label();
        let args =
            ["events", "--filter", &label, "--filter", "event=start", "--filter", "event=die", "--format", format];
        let child = run.command("docker", &args).stdout(out).stderr(Stdio::null()).spawn();
        Ok(Self { child: child.map_err(|error| error.to_string())?, file })
    }

    fn end(mut self) -> Vec<Event> {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let one = |line: &str| {
            let (what, service) = line.split_once(' ')?;
            Some(Event { what: what.to_owned(), service: service.to_owned() })
        };
        text.lines().filter_map(one).collect()
    }
}

/// Asks a port again and again.
struct Watch {
    thread: std::thread::JoinHandle<Watched>,
    over: Arc<AtomicBool>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default)]
struct Watched {
    asked: u32,
    failed: u32,
    /// The longest time without an answer.
    longest: Duration,
}

impl Watch {
    fn of(engine: &OwnEngine, port: u16) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let thread = engine.inside(move || {
            let mut watched = Watched::default();
            let mut last = Instant::now();
            while !until.load(Ordering::Relaxed) {
                watched.asked += 1;
                if serves(port) {
                    watched.longest = watched.longest.max(last.elapsed());
                    last = Instant::now();
                } else {
                    watched.failed += 1;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            watched
        });
        Self { thread, over }
    }

    fn end(self) -> Watched {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}
