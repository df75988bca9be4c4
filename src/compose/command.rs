//! Finding Docker Compose, and running it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
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

/// Where `docker` looks for its plugins after the user's own folder, in its order.
const PLUGINS: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// Compose v2 or newer.
#[derive(Clone, Debug)]
pub struct Compose {
    /// The plugin itself, `docker compose`, or `docker-compose`.
    program: Vec<String>,
    /// As it says itself; empty: it was not asked.
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
    /// Finds it: what `docker compose` is, else `docker-compose` where that is v2.
    ///
    /// # Errors
    /// [`ComposeError::Missing`], or [`ComposeError::Old`] where only v1 is there.
    pub async fn find() -> Result<Self, ComposeError> {
        let by_name = [vec!["docker".to_owned(), "compose".to_owned()], vec!["docker-compose".to_owned()]];
        Self::find_among(plugin().map(|plugin| vec![plugin]).into_iter().chain(by_name)).await
    }

    async fn find_among(programs: impl IntoIterator<Item = Vec<String>>) -> Result<Self, ComposeError> {
        let mut old = None;
        for program in programs {
            let candidate = Self { program, version: String::new() };
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

    /// The plugin that `docker compose` is, without a look whether it works. The first version was never a plugin.
    /// `None`: [`Compose::find`] knows more.
    pub fn plugin() -> Option<Self> {
        plugin().map(|plugin| Self { program: vec![plugin], version: String::new() })
    }

    /// As it says itself, `2.26.1`.
    pub async fn version(&self) -> String {
        if !self.version.is_empty() {
            return self.version.clone();
        }
        let asked = self.ask(&Selection::default(), &["version", "--short"]).await;
        asked.map_or_else(|_| "unknown".to_owned(), |said| said.stdout.trim().trim_start_matches('v').to_owned())
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
            if text.is_empty() { format!("`{}` ended with {status}", Self::named(args)) } else { text.to_owned() };
        Err(ComposeError::Said { text })
    }

    /// The same for what touches no engine.
    pub(super) async fn ask(&self, selection: &Selection, args: &[&str]) -> Result<Output, ComposeError> {
        self.run(selection, args, &Environment::default(), QUICK).await
    }

    /// In words that people can type.
    fn named(args: &[&str]) -> String {
        ["docker", "compose"].iter().chain(args).copied().collect::<Vec<_>>().join(" ")
    }

    async fn raw(
        &self,
        selection: &Selection,
        args: &[&str],
        environment: &Environment,
        timeout: Duration,
    ) -> Result<(ExitStatus, Output), ComposeError> {
        let mut command = std::process::Command::new(&self.program[0]);
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
        // Set where `docker` started us as a plugin of its own: another plugin would take itself for ours.
        command.env_remove("DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND");
        // `docker` starts Compose as a child of its own, and both start helpers: what ends one must end all.
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
                return Err(ComposeError::TooLong { what: Self::named(args), max: OUTPUT_MAX });
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
            Err(_) => Err(ComposeError::TimedOut { what: Self::named(args), after: timeout }),
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

/// The plugin that `docker` would run for `docker compose`. `docker` starts it twice, the first time to see what it is,
/// which makes each call twice as long; the plugin does the same by itself.
fn plugin() -> Option<String> {
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".docker"));
    let own = std::env::var_os("DOCKER_CONFIG").filter(|own| !own.is_empty()).map(PathBuf::from).or_else(home);
    plugin_among(own.as_deref(), PLUGINS)
}

fn plugin_among(own: Option<&Path>, folders: impl IntoIterator<Item = impl AsRef<Path>>) -> Option<String> {
    let settings = own.and_then(|own| std::fs::read_to_string(own.join("config.json")).ok()).unwrap_or_default();
    if settings.contains("cliPluginsExtraDirs") {
        return None; // `docker` knows best
    }
    // Run from another folder, a relative path would lead elsewhere.
    let own = own.filter(|own| own.is_absolute()).map(|own| own.join("cli-plugins"));
    let folders = own.into_iter().chain(folders.into_iter().map(|folder| folder.as_ref().to_owned()));
    let is_program =
        |path: &PathBuf| path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0);
    folders.map(|folder| folder.join("docker-compose")).find(is_program)?.into_os_string().into_string().ok()
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

    fn sh(script: &str) -> Compose {
        Compose { program: ["sh", "-c", script].map(str::to_owned).to_vec(), version: String::new() }
    }

    #[test]
    fn the_plugin_is_the_one_that_docker_would_run() {
        let (folder, system) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let make = |path: PathBuf, mode: u32| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "").unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let found = || plugin_among(Some(folder.path()), [system.path()]);
        assert_eq!(found(), None);
        let shared = make(system.path().join("docker-compose"), 0o755);
        make(folder.path().join("cli-plugins/docker-compose"), 0o644);
        assert_eq!(found(), Some(shared), "what cannot be run is none");
        let own = make(folder.path().join("cli-plugins/docker-compose"), 0o755);
        assert_eq!(found(), Some(own), "the user's own comes first");
        std::fs::write(folder.path().join("config.json"), r#"{"cliPluginsExtraDirs":["/opt"]}"#).unwrap();
        assert_eq!(found(), None, "docker looks in other places, too");
    }

    #[tokio::test]
    async fn only_a_second_version_is_taken() {
        let says = |script: &str| ["sh", "-c", script].map(str::to_owned).to_vec();
        let found = Compose::find_among([says("echo 1.29.2"), says("echo v2.26.1-4")]).await;
        assert_eq!(found.unwrap().version().await, "2.26.1-4");
        let old = Compose::find_among([says("exit 1"), says("echo 1.29.2")]).await;
        let text = old.unwrap_err().to_string();
        assert!(text.contains("1.29.2") && text.contains("install the Compose plugin"), "{text}");
        let none = Compose::find_among([vec!["no-such-program-at-all".to_owned()]]).await;
        assert!(matches!(none, Err(ComposeError::Missing)), "{none:?}");
    }

    #[tokio::test]
    async fn what_does_not_end_is_ended_with_its_children() {
        // As `docker` does it: the one that works is a child of the one that was started.
        let folder = tempfile::tempdir().unwrap();
        let script = "sh -c 'echo $$ > child; exec sleep 600' & wait";
        let compose = sh(script);
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
        let compose = sh("echo services.api.ports must be a list >&2; exit 15");
        let said = compose.ask(&Selection::default(), &[]).await.err().unwrap().to_string();
        assert_eq!(said, "services.api.ports must be a list");
    }
}
