//! Finding Docker Compose, and running it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};

use super::ComposeError;

/// What a resolved project may be long. Real ones have some kilobytes; inline configs can be larger.
const OUTPUT_MAX: usize = 8 << 20;
/// Of what is said to people, the rest is not read by any.
const WORDS_MAX: usize = 64 << 10;
/// For a command that touches no engine.
const QUICK: Duration = Duration::from_secs(30);

/// What else would lead Compose to an engine.
pub(super) const ELSEWHERE: [&str; 4] = ["DOCKER_CONTEXT", "DOCKER_TLS", "DOCKER_TLS_VERIFY", "DOCKER_CERT_PATH"];

/// Compose v2 or newer.
#[derive(Clone, Debug)]
pub struct Compose {
    /// `docker compose` or `docker-compose`.
    program: Vec<&'static str>,
    /// As it says itself.
    version: String,
}

/// Which project, in the words of Compose's own options. What is not set here is Compose's to find: `COMPOSE_FILE`,
/// `.env`, the folder and its parents.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Where Compose is run. Empty: here.
    pub folder: PathBuf,
    /// `-f`
    pub files: Vec<PathBuf>,
    /// `-p`
    pub project_name: Option<String>,
    /// `--profile`
    pub profiles: Vec<String>,
    /// `--env-file`
    pub env_files: Vec<PathBuf>,
    /// The engine's Unix socket. `None`: as Compose finds it.
    pub engine: Option<PathBuf>,
    /// Variables that win over those of the environment and of `.env`.
    pub variables: BTreeMap<String, String>,
}

/// What a run of Compose wrote.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Output {
    /// May hold every value of the environment.
    pub(super) stdout: String,
    /// For people.
    pub(super) stderr: String,
}

/// The environment of one run.
#[derive(Clone, Debug, Default)]
pub(super) struct Environment {
    pub(super) set: Vec<(&'static str, OsString)>,
    pub(super) unset: Vec<&'static str>,
}

impl Compose {
    /// Finds it: `docker compose`, else `docker-compose` where that is v2.
    ///
    /// # Errors
    /// [`ComposeError::Missing`], or [`ComposeError::Old`] where only v1 is there.
    pub async fn find() -> Result<Self, ComposeError> {
        Self::find_among(&[vec!["docker", "compose"], vec!["docker-compose"]]).await
    }

    async fn find_among(programs: &[Vec<&'static str>]) -> Result<Self, ComposeError> {
        let mut old = None;
        for program in programs {
            let candidate = Self { program: program.clone(), version: String::new() };
            let (anywhere, as_is) = (Selection::default(), Environment::default());
            let asked = candidate.raw(&anywhere, &["version", "--short"], &as_is, QUICK).await;
            let Ok((status, output)) = asked else { continue };
            let version = output.stdout.trim().trim_start_matches('v').to_owned();
            match version.split('.').next().and_then(|major| major.parse::<u32>().ok()) {
                Some(major) if status.success() && major >= 2 => return Ok(Self { version, ..candidate }),
                Some(_) if status.success() => old = Some(version),
                _ => {}
            }
        }
        Err(old.map_or(ComposeError::Missing, |version| ComposeError::Old { version }))
    }

    /// `docker compose`, without a look whether that is there.
    pub fn usual() -> Self {
        Self { program: vec!["docker", "compose"], version: String::new() }
    }

    /// Whether it is the same program.
    pub fn is(&self, other: &Self) -> bool {
        self.program == other.program
    }

    /// As it says itself, `2.26.1`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Runs it for a project, within `timeout`.
    ///
    /// # Errors
    /// With Compose's own words where it ends with anything but 0.
    pub(super) async fn run(
        &self,
        selection: &Selection,
        args: &[&str],
        environment: &Environment,
        timeout: Duration,
    ) -> Result<Output, ComposeError> {
        let (status, output) = self.raw(selection, args, environment, timeout).await?;
        if status.success() {
            return Ok(output);
        }
        let text = output.stderr.trim();
        let text =
            if text.is_empty() { format!("`{}` ended with {status}", self.named(args)) } else { text.to_owned() };
        Err(ComposeError::Said { text })
    }

    /// The same for what touches no engine.
    pub(super) async fn ask(&self, selection: &Selection, args: &[&str]) -> Result<Output, ComposeError> {
        self.run(selection, args, &Environment::default(), QUICK).await
    }

    fn named(&self, args: &[&str]) -> String {
        self.program.iter().chain(args).copied().collect::<Vec<_>>().join(" ")
    }

    async fn raw(
        &self,
        selection: &Selection,
        args: &[&str],
        environment: &Environment,
        timeout: Duration,
    ) -> Result<(ExitStatus, Output), ComposeError> {
        let mut command = std::process::Command::new(self.program[0]);
        command.args(&self.program[1..]).args(selection.options()).args(args);
        if !selection.folder.as_os_str().is_empty() {
            command.current_dir(&selection.folder);
        }
        command.envs(&selection.variables);
        if let Some(engine) = &selection.engine {
            let mut address = OsString::from("unix://");
            address.push(engine);
            command.env("DOCKER_HOST", address);
            ELSEWHERE.iter().for_each(|name| {
                command.env_remove(name);
            });
        }
        command.envs(environment.set.iter().map(|(name, value)| (*name, value)));
        environment.unset.iter().for_each(|name| {
            command.env_remove(name);
        });
        // `docker` starts Compose as a child of its own: what ends one must end both.
        command.process_group(0);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let failed = |source| ComposeError::Run { program: self.program.join(" "), source };
        let mut child = tokio::process::Command::from(command).spawn().map_err(failed)?;
        let group = Group(child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw));
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let work = async {
            let (stdout, stderr) = tokio::join!(read(stdout, OUTPUT_MAX), read(stderr, WORDS_MAX));
            let ((stdout, all), (stderr, _)) = (stdout.map_err(failed)?, stderr.map_err(failed)?);
            if !all {
                return Err(ComposeError::TooLong { what: self.named(args), max: OUTPUT_MAX });
            }
            let status = child.wait().await.map_err(failed)?;
            Ok((status, Output { stdout, stderr }))
        };
        let ended = tokio::time::timeout(timeout, work).await;
        match ended {
            Ok(Ok(ended)) => {
                group.has_ended();
                Ok(ended)
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(ComposeError::TimedOut { what: self.named(args), after: timeout }),
        }
    }
}

impl Selection {
    /// As options of Compose.
    fn options(&self) -> Vec<OsString> {
        let mut options: Vec<OsString> = Vec::new();
        let mut add = |name: &str, value: OsString| options.extend([OsString::from(name), value]);
        self.files.iter().for_each(|file| add("-f", file.into()));
        self.project_name.iter().for_each(|name| add("-p", name.into()));
        self.profiles.iter().for_each(|name| add("--profile", name.into()));
        self.env_files.iter().for_each(|file| add("--env-file", file.into()));
        options
    }
}

/// A process group that ends with this value, unless it is known to have ended. Its leader is not reaped before: tokio
/// reaps what is dropped unawaited only later, so that the id still is ours.
struct Group(Option<Pid>);

impl Group {
    fn has_ended(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Whatever is left of it; nothing is left where this fails.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Reads to the end, keeps `max` bytes, and says whether that was all.
async fn read(stream: Option<impl AsyncRead + Unpin>, max: usize) -> std::io::Result<(String, bool)> {
    let Some(mut stream) = stream else { return Ok((String::new(), true)) };
    let (mut kept, mut buffer, mut all) = (Vec::new(), vec![0; 64 << 10], true);
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return Ok((String::from_utf8_lossy(&kept).into_owned(), all));
        }
        let room = max - kept.len();
        all &= count <= room;
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[tokio::test]
    async fn only_a_second_version_is_taken() {
        let found = Compose::find_among(&[vec!["sh", "-c", "echo 1.29.2"], vec!["sh", "-c", "echo v2.26.1-4"]]).await;
        assert_eq!(found.unwrap().version(), "2.26.1-4");
        let old = Compose::find_among(&[vec!["sh", "-c", "exit 1"], vec!["sh", "-c", "echo 1.29.2"]]).await;
        let text = old.unwrap_err().to_string();
        assert!(text.contains("1.29.2") && text.contains("install the Compose plugin"), "{text}");
        let none = Compose::find_among(&[vec!["no-such-program-at-all"]]).await;
        assert!(matches!(none, Err(ComposeError::Missing)), "{none:?}");
    }

    #[tokio::test]
    async fn what_does_not_end_is_ended_with_its_children() {
        // As `docker` does it: the one that works is a child of the one that was started.
        let folder = tempfile::tempdir().unwrap();
        let script = "sh -c 'echo $$ > child; exec sleep 600' & wait";
        let compose = Compose { program: vec!["sh", "-c", script], version: String::new() };
        let here = Selection { folder: folder.path().to_owned(), ..Selection::default() };
        let begun = Instant::now();
        let ended = compose.run(&here, &[], &Environment::default(), Duration::from_millis(500)).await;
        assert!(matches!(ended, Err(ComposeError::TimedOut { .. })), "{:?}", ended.err());
        assert!(begun.elapsed() < Duration::from_secs(20));
        let child: i32 = std::fs::read_to_string(folder.path().join("child")).unwrap().trim().parse().unwrap();
        let gone = |pid: i32| match std::fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
            Err(_) => true,
        };
        while !gone(child) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{child} is still there");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn its_own_words_are_the_error() {
        let compose = Compose {
            program: vec!["sh", "-c", "echo services.api.ports must be a list >&2; exit 15"],
            version: String::new(),
        };
        let said = compose.ask(&Selection::default(), &[]).await.err().unwrap().to_string();
        assert_eq!(said, "services.api.ports must be a list");
    }
}
