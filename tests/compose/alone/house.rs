//! This repository's own `docker-compose.yml`: coordinator and agent as services beside the example fleet, and the
//! commands of the README on it, under load, with both of them killed on the way.
//!
//! The images are stand-ins of the same names, built from this machine's own programs: what a Dockerfile pulls is not
//! there everywhere. What the real Dockerfile names is checked by its text.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output};
use std::time::Duration;

use crate::docker::{Site, gate, is_here};
use crate::support::procs::{free_port, quickstart};
use crate::support::wait::{wait_for, wait_some};

const BOUND: Duration = Duration::from_secs(60);
/// As the README has them.
const ROLL: &str = "docker compose run --rm baton up --to v2 --yes";
const VERDICT: &str = "docker compose logs --tail 1 load";

fn repository(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn read(name: &str) -> String {
    std::fs::read_to_string(repository(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// The stand-ins: users, folders and programs where the Dockerfile has them.
const IMAGES: &str = r#"FROM @:1 AS base
COPY passwd group /etc/
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox mkdir -p -m 1777 /tmp"]

FROM base AS baton
COPY docker /usr/local/bin/docker
COPY docker-compose /usr/local/libexec/docker/cli-plugins/docker-compose
COPY libraries /
RUN ["/bin/busybox", "sh", "-c", "b=/bin/busybox; $b mkdir -p -m 700 /var/lib/baton; $b mkdir -p /run/baton; \
     $b chown 10001:10001 /var/lib/baton /run/baton"]
USER baton

FROM base AS example
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox mkdir /work; /bin/busybox chown 10001:10001 /work"]
USER baton
ARG VERSION
ENV VERSION=$VERSION
"#;

/// The project, under another name and with another port of the host.
struct House {
    site: Site,
}

impl House {
    fn new() -> Self {
        let site = Site::with_baton("house", quickstart());
        let house = Self { site };
        house.build();
        std::fs::copy(repository("docker-compose.yml"), house.site.path("docker-compose.yml")).expect("a copy");
        let name = &house.site.name;
        let port = free_port();
        // Not so many requests that the machine is what is measured: programs here are not optimized.
        let env = format!("# Ours.\nCOMPOSE_PROJECT_NAME={name}\nREPOSITORY={name}\nAPI_PORT={port}\nLOAD=40\n");
        std::fs::write(house.site.path(".env"), env).expect("an .env");
        house
    }

    fn build(&self) {
        let context = self.site.path("stand-ins");
        std::fs::create_dir_all(context.join("libraries")).expect("a folder");
        for (name, text) in [
            ("passwd", "root:x:0:0::/:/bin/sh\nbaton:x:10001:10001::/:/bin/sh\n"),
            ("group", "root:x:0:\nbaton:x:10001:\n"),
            ("Dockerfile", &IMAGES.replace('@', &self.site.name)),
        ] {
            std::fs::write(context.join(name), text).expect("a file");
        }
        let asked = r#"{{range .ClientInfo.Plugins}}{{if eq .Name "compose"}}{{.Path}}{{end}}{{end}}"#;
        let plugin = self.site.docker(&["info", "--format", asked]);
        let path = std::env::var_os("PATH").unwrap_or_default();
        let client = std::env::split_paths(&path).map(|folder| folder.join("docker")).find(|path| path.is_file());
        for (program, name) in [(client.expect("docker"), "docker"), (PathBuf::from(plugin), "docker-compose")] {
            std::fs::copy(&program, context.join(name)).expect("a copy");
            let linked = Command::new("ldd").arg(&program).output().expect("ldd");
            for library in String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|w| w.starts_with('/')) {
                let to = context.join("libraries").join(library.trim_start_matches('/'));
                std::fs::create_dir_all(to.parent().expect("a folder")).expect("a folder");
                std::fs::copy(library, to).expect("a library");
            }
        }
        let build = |target: &str, tag: &str, version: &str| {
            let (tag, version) = (format!("{}/{tag}", self.site.name), format!("VERSION={version}"));
            self.site.docker(&["build", "-q", "--target", target, "--build-arg", &version, "-t", &tag, "stand-ins"]);
        };
        build("baton", "baton", "");
        build("example", "example:v1", "v1");
        build("example", "example:v2", "v2");
    }

    /// A command line as a person types it in the folder; without a terminal, which Compose is told.
    fn command(&self, line: &str) -> Command {
        let mut words = line.split(' ');
        let mut command = Command::new(words.next().expect("a program"));
        for word in words {
            command.arg(word);
            if word == "run" {
                command.arg("-T");
            }
        }
        command.current_dir(self.site.path("")).env("PWD", self.site.path(""));
        for name in ["COMPOSE_FILE", "COMPOSE_PROJECT_NAME", "TAG", "API_PORT", "LOAD", "REPOSITORY"] {
            command.env_remove(name);
        }
        command
    }

    #[track_caller]
    fn typed(&self, line: &str) -> String {
        let output = self.command(line).output().expect("docker starts");
        assert!(output.status.success(), "{line}: {}", said(&output));
        said(&output)
    }

    fn container(&self, service: &str) -> String {
        format!("{}-{service}-1", self.site.name)
    }

    /// Id and image of every container, by name.
    fn containers(&self) -> BTreeMap<String, (String, String)> {
        let filter = format!("label=com.docker.compose.project={}", self.site.name);
        let format = "{{.Names}} {{.ID}} {{.Image}}";
        let list = self.site.docker(&["ps", "-a", "--no-trunc", "--filter", &filter, "--format", format]);
        let prefix = format!("{}-", self.site.name);
        let line = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let name = words.next()?.trim_start_matches(prefix.as_str()).to_owned();
            Some((name, (words.next()?, words.next()?)))
        };
        list.lines().filter_map(line).collect()
    }

    /// Ends the main process of a service as no person or Compose would; the engine starts it again.
    fn kill(&self, service: &str) {
        let main = || self.site.inspect(&self.container(service))["State"]["Pid"].as_i64().filter(|pid| *pid > 1);
        let pid = wait_some("a main process", BOUND, main);
        let tools = format!("{}:1", self.site.name);
        // From a container that sees the processes of the host, whoever runs this test.
        let kill = ["/bin/busybox", "kill", "-9", &pid.to_string()];
        self.site.docker(&[&["run", "--rm", "--pid", "host", "--network", "none", &tools], &kill[..]].concat());
        wait_for("the engine to start it again", BOUND, || main().is_some_and(|now| now != pid));
    }

    /// Waits until the log of a service has that.
    fn wait_log(&self, service: &str, text: &str) {
        wait_for(&format!("{text:?} from {service}"), BOUND, || {
            let output = self.site.run("docker", &["logs", &self.container(service)]);
            said(&output).contains(text)
        });
    }

    /// Starts a command line and leaves what it says in a file.
    fn spawn(&self, line: &str) -> Child {
        let file = std::fs::File::create(self.site.path("said")).expect("a file");
        let mut command = self.command(line);
        command.stdout(file.try_clone().expect("a file")).stderr(file);
        command.spawn().expect("docker starts")
    }

    /// Waits until what was started has said that.
    fn wait_said(&self, text: &str) {
        wait_for(&format!("{text:?}"), BOUND, || self.what_was_said().contains(text));
    }

    fn what_was_said(&self) -> String {
        std::fs::read_to_string(self.site.path("said")).unwrap_or_default()
    }
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text).into_owned()).concat()
}

#[test]
fn the_example_fleet_is_rolled_by_agents_in_containers_and_nothing_is_lost_when_they_are_killed() {
    if !is_here("the_example_fleet_is_rolled_by_agents_in_containers_and_nothing_is_lost_when_they_are_killed") {
        return;
    }
    let _pass = gate::measuring();
    let house = House::new();
    house.typed("docker compose up -d");
    house.wait_log("load", "is open");
    house.wait_log("agent", "session is up");
    let before = house.containers();
    let planned = house.typed("docker compose run --rm baton plan --to v2");
    assert!(planned.contains("9 of 11 slots change"), "{planned}");
    for own in ["agent-1", "coordinator-1"] {
        assert!(!planned.contains(own), "{own} is no part of the fleet: {planned}");
    }

    // Each of them is killed once on the way. The verb waits for the coordinator, and the roll for the agent.
    let mut roll = house.spawn(ROLL);
    house.wait_said("worker-1: begins drain");
    house.kill("agent");
    house.wait_said("executor-1: begins start");
    house.kill("coordinator");
    let ended = wait_some("the end of the roll", 2 * BOUND, || roll.try_wait().expect("a child"));
    let told = house.what_was_said();
    assert!(ended.success() && told.contains("roll 1 succeeded"), "{ended}: {told}");
    assert!(told.contains("the session with agent"), "it was killed too late: {told}");
    for service in ["agent", "coordinator"] {
        assert_eq!(house.site.inspect(&house.container(service))["RestartCount"], 1, "{service}");
    }

    let after = house.containers();
    assert_eq!(before.keys().collect::<Vec<_>>(), after.keys().collect::<Vec<_>>(), "the same names");
    for (name, (id, image)) in &after {
        let fleet = ["api-", "scheduler-", "executor-", "worker-"].iter().any(|service| name.starts_with(service));
        assert_eq!(fleet, *id != before[name].0, "{name}: the fleet is new, and nothing else is");
        assert!(!fleet || image.ends_with("/example:v2"), "{name} is on {image}");
    }
    let env = std::fs::read_to_string(house.site.path(".env")).unwrap();
    assert!(env.starts_with("# Ours.\n") && env.contains("\nTAG=v2\n"), "{env}");
    let again = house.typed("docker compose up -d");
    for word in ["Creating", "Recreate", "Removing", "Starting"] {
        assert!(!again.contains(word), "docker compose up -d: {again}");
    }
    assert_eq!(after, house.containers());
    let nothing = house.typed(ROLL);
    assert!(nothing.contains("nothing to do"), "{nothing}");
    assert_eq!(after, house.containers());

    house.typed("docker compose stop load");
    let verdict = house.typed(VERDICT);
    eprintln!("{verdict}");
    let clean = verdict.contains(" requests, 0 failed; ") && verdict.contains(" 0 lost, 0 run twice");
    assert!(clean, "{}{told}", house.typed("docker compose logs --timestamps load agent gateway"));
    assert!(!verdict.contains(" 0 requests") && !verdict.contains(" 0 jobs"), "{verdict}");

    house.typed("docker compose down -v");
    assert_eq!(house.site.objects(), Vec::<String>::new());
}

#[test]
fn what_the_dockerfile_copies_is_there_and_what_compose_builds_is_in_it() {
    let (dockerfile, ignored, compose) = (read("Dockerfile"), read(".dockerignore"), read("docker-compose.yml"));
    let joined = dockerfile.replace("\\\n", " ");
    let let_in: BTreeSet<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let mut copied = BTreeSet::new();
    for line in joined.lines().filter(|line| line.starts_with("COPY ") && !line.contains("--from=")) {
        let words: Vec<&str> = line.split_whitespace().skip(1).filter(|word| !word.starts_with("--")).collect();
        copied.extend(words[..words.len() - 1].iter().copied());
    }
    for source in &copied {
        assert!(repository(source).exists(), "the Dockerfile copies {source}, which is not there");
    }
    assert_eq!(copied, let_in, "the Dockerfile's sources, and what .dockerignore lets in");
    let word_after = |text: &str, key: &str| -> BTreeSet<String> {
        let words = text.split_whitespace().collect::<Vec<_>>();
        words.windows(2).filter(|pair| pair[0] == key).map(|pair| pair[1].to_owned()).collect()
    };
    let (stages, asked) = (word_after(&joined, "AS"), word_after(&compose, "target:"));
    assert!(asked.contains("baton") && asked.contains("example"), "{asked:?}");
    let missing: Vec<&String> =
        asked.iter().filter(|target| !target.starts_with('/') && !stages.contains(*target)).collect();
    assert!(missing.is_empty(), "docker-compose.yml builds {missing:?}, the Dockerfile has {stages:?}");
    for stage in joined.split("--from=").skip(1).filter_map(|rest| rest.split_whitespace().next()) {
        assert!(stages.contains(stage), "COPY --from={stage}: there is no such stage");
    }
    // Every target that Cargo.toml names by itself has to be in the build's context.
    for name in read("Cargo.toml").split("[[test]]").skip(1).filter_map(|part| part.split('"').nth(1)) {
        assert!(copied.contains(format!("tests/{name}.rs").as_str()), "Cargo.toml names the test {name}");
    }
}

#[test]
fn the_readme_has_the_commands_that_are_tested() {
    let (readme, compose) = (read("README.md"), read("docker-compose.yml"));
    for line in ["docker compose up -d --build", ROLL, VERDICT] {
        assert!(readme.contains(line) && compose.contains(line), "{line}");
    }
}
