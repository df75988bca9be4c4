//! How the quickstart uses Baton: the one place that knows its command line.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use super::stage::{AGENTS, FLEET, Stage, tail};

/// How long the coordinator may take until it can be spoken to, and the agents until they have reported.
const CREW_READY_WITHIN: Duration = Duration::from_secs(15);
/// How long an agent or coordinator may take to end once asked.
const CREW_GONE_WITHIN: Duration = Duration::from_secs(5);
/// How many lines of a log are shown when something went wrong.
const TAIL_LINES: usize = 15;

/// What can go wrong with Baton.
#[derive(Debug, thiserror::Error)]
pub enum BatonError {
    /// It did not start or could not be spoken to.
    #[error("cannot {doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It said no.
    #[error("`{command}` ended with {status}\n{log}")]
    Refused {
        /// What was called.
        command: String,
        /// How it ended.
        status: ExitStatus,
        /// Its last words.
        log: String,
    },
    /// It took too long.
    #[error("`{command}` did not end within {within:?}\n{log}")]
    Late {
        /// What was called.
        command: String,
        /// The bound.
        within: Duration,
        /// Its last words.
        log: String,
    },
    /// A daemon ended by itself.
    #[error("{name} {problem}\n{log}")]
    Daemon {
        /// Which.
        name: String,
        /// What is wrong.
        problem: String,
        /// Its last words.
        log: String,
    },
}

/// The coordinator and the agents, and the verbs that speak to them.
pub struct Crew<'a> {
    stage: &'a Stage,
    exe: PathBuf,
    daemons: Vec<(String, Child)>,
}

impl<'a> Crew<'a> {
    /// Nobody runs yet.
    pub fn new(stage: &'a Stage) -> Result<Self, BatonError> {
        let exe = std::env::current_exe().map_err(|source| failed("find the program itself", source))?;
        Ok(Self { stage, exe, daemons: Vec::new() })
    }

    /// Starts the coordinator and, once it listens, the agents; returns when all of them have reported.
    pub async fn start(&mut self) -> Result<(), BatonError> {
        let state = self.stage.dir.join("coordinator");
        self.daemon("coordinator", &["coordinator", "--state", &text(&state), "--fleet", FLEET])?;
        let begun = Instant::now();
        while self.control_socket().is_none() {
            self.still_there()?;
            if begun.elapsed() > CREW_READY_WITHIN {
                return Err(self.daemon_error("coordinator", "does not listen on control.sock"));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let coordinator = self.address();
        for agent in AGENTS {
            let state = text(&self.stage.dir.join(format!("agent-{agent}")));
            let policy = text(&self.stage.policy(agent));
            let arguments = [
                "agent",
                "--coordinator",
                &coordinator,
                "--id",
                agent,
                "--fleet",
                FLEET,
                "--state",
                &state,
                "--policy",
                &policy,
            ];
            self.daemon(&format!("agent-{agent}"), &arguments)?;
        }
        while self.agents_up().await < AGENTS.len() {
            self.still_there()?;
            if begun.elapsed() > CREW_READY_WITHIN {
                // `up` knows better than this loop what is missing, and says it.
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Rolls the fleet to a version. Its events go to a file in `logs`.
    pub async fn up(&self, version: &str, within: Duration) -> Result<(), BatonError> {
        let manifest = text(&self.stage.manifest());
        let address = self.address();
        let arguments = ["up", "-f", &manifest, "--coordinator", &address, "--to", version, "--yes", "--json"];
        self.verb(&format!("up-{version}"), &arguments, within).await.map(|_| ())
    }

    /// Drains and stops everything.
    pub async fn down(&self, within: Duration) -> Result<(), BatonError> {
        let manifest = text(&self.stage.manifest());
        let address = self.address();
        let arguments = ["down", "-f", &manifest, "--coordinator", &address, "--yes", "--json"];
        self.verb("down", &arguments, within).await.map(|_| ())
    }

    /// Ends the agents and then the coordinator, each by its id.
    pub async fn stop(&mut self) -> Result<(), BatonError> {
        for (name, mut child) in self.daemons.drain(..).rev() {
            let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) else { continue };
            rustix::process::kill_process(pid, Signal::TERM).ok();
            let ended = match tokio::time::timeout(CREW_GONE_WITHIN, child.wait()).await {
                Ok(ended) => ended.map(|_| ()),
                Err(_) => child.kill().await,
            };
            ended.map_err(|source| failed(&format!("end {name}"), source))?;
        }
        Ok(())
    }

    /// An error when a daemon has ended by itself.
    pub fn still_there(&mut self) -> Result<(), BatonError> {
        for (name, child) in &mut self.daemons {
            if let Ok(Some(status)) = child.try_wait() {
                let (name, problem) = (name.clone(), format!("ended by itself with {status}"));
                return Err(self.daemon_error(&name, &problem));
            }
        }
        Ok(())
    }

    /// The last lines of every log, for a failure whose cause is not known.
    pub fn last_words(&self) -> String {
        let logs = self.stage.dir.join("logs");
        let mut names: Vec<PathBuf> = std::fs::read_dir(&logs)
            .map(|entries| entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect())
            .unwrap_or_default();
        names.sort();
        let words = names.iter().map(|path| (path, tail(path, TAIL_LINES))).filter(|(_, words)| !words.is_empty());
        words.map(|(path, words)| format!("--- {}\n{words}\n", path.display())).collect()
    }

    fn control_socket(&self) -> Option<PathBuf> {
        let state = self.stage.dir.join("coordinator");
        let places = [state.join(FLEET).join("control.sock"), state.join("control.sock")];
        places.into_iter().find(|place| std::os::unix::net::UnixStream::connect(place).is_ok())
    }

    fn address(&self) -> String {
        let fallback = || self.stage.dir.join("coordinator").join(FLEET).join("control.sock");
        format!("unix:{}", self.control_socket().unwrap_or_else(fallback).display())
    }

    /// How many agents the coordinator knows as connected.
    async fn agents_up(&self) -> usize {
        let manifest = text(&self.stage.manifest());
        let address = self.address();
        let arguments = ["status", "-f", &manifest, "--coordinator", &address, "--json"];
        let Ok(lines) = self.verb("status", &arguments, Duration::from_secs(5)).await else { return 0 };
        let Ok(view) = serde_json::from_str::<serde_json::Value>(&lines.join("\n")) else { return 0 };
        let agents = view.get("agents").and_then(|agents| agents.as_array());
        let up = |agent: &&serde_json::Value| agent.get("up").and_then(serde_json::Value::as_bool) == Some(true);
        agents.map_or(0, |agents| agents.iter().filter(up).count())
    }

    /// A call of this same program as Baton, in a process group of its own: Ctrl-C is for the quickstart, which ends
    /// the others in good order.
    fn command(&self, arguments: &[&str], log: &Path) -> io::Result<Command> {
        let mut command = Command::new(&self.exe);
        let log = File::options().append(true).create(true).open(log)?;
        // Whatever the caller's shell has set for a fleet of its own is not meant for this one.
        for name in
            ["BATON_STATE", "BATON_FLEET", "BATON_COORDINATOR", "BATON_TLS_CA", "BATON_TLS_CERT", "BATON_TLS_KEY"]
        {
            command.env_remove(name);
        }
        command.args(arguments).current_dir(&self.stage.dir).stdin(Stdio::null()).stderr(log).process_group(0);
        Ok(command)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.stage.dir.join("logs").join(format!("{name}.log"))
    }

    fn daemon(&mut self, name: &str, arguments: &[&str]) -> Result<(), BatonError> {
        let log = self.log(name);
        let start = || {
            let out = File::options().append(true).create(true).open(&log)?;
            self.command(arguments, &log)?.stdout(out).spawn()
        };
        let child = start().map_err(|source| failed(&format!("start {name}"), source))?;
        self.daemons.push((name.to_owned(), child));
        Ok(())
    }

    /// Runs a verb to its end; returns the lines that it printed, which also go to a file.
    async fn verb(&self, name: &str, arguments: &[&str], within: Duration) -> Result<Vec<String>, BatonError> {
        let log = self.log(name);
        let command = format!("baton {}", arguments.join(" "));
        let io_failed = |source| failed(&format!("run `{command}`"), source);
        let start = || self.command(arguments, &log)?.stdout(Stdio::piped()).kill_on_drop(true).spawn();
        let mut child = start().map_err(io_failed)?;
        let mut lines = Vec::new();
        let to_the_end = async {
            if let Some(out) = child.stdout.take() {
                let mut read = BufReader::new(out).lines();
                while let Some(line) = read.next_line().await? {
                    lines.push(line);
                }
            }
            child.wait().await
        };
        let ended = tokio::time::timeout(within, to_the_end).await;
        let events = self.stage.dir.join("logs").join(format!("{name}.jsonl"));
        std::fs::write(events, lines.join("\n")).map_err(io_failed)?;
        let words = || {
            let from = lines.len().saturating_sub(TAIL_LINES);
            format!("{}\n{}", lines[from..].join("\n"), tail(&log, TAIL_LINES))
        };
        match ended {
            Err(_) => Err(BatonError::Late { command, within, log: words() }),
            Ok(Err(source)) => Err(io_failed(source)),
            Ok(Ok(status)) if status.success() => Ok(lines),
            Ok(Ok(status)) => Err(BatonError::Refused { command, status, log: words() }),
        }
    }

    fn daemon_error(&self, name: &str, problem: &str) -> BatonError {
        let log = tail(&self.log(name), TAIL_LINES);
        BatonError::Daemon { name: name.to_owned(), problem: problem.to_owned(), log }
    }
}

fn failed(doing: &str, source: io::Error) -> BatonError {
    BatonError::Io { doing: doing.to_owned(), source }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}
