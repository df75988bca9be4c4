//! `baton up --to V` on Compose projects whose images are named with a variable: once the roll has succeeded the env
//! file says so, whoever saw it succeed, and `docker compose up -d` finds nothing to do.

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::docker::{Site, is_here};
use crate::support::wait::wait_for;

const FILE: &str = r#"
services:
  api:
    image: @:${TAG:-1}
    command: ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.05; done"]
    x-baton: { update: { monitor: 200ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms } }
  worker:
    image: @:${TAG:-1}
    command: ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.05; done"]
    x-baton: { update: { monitor: 200ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms } }
x-baton: { version: { variable: TAG } }
"#;
const ENV: &str = "# what runs\nOTHER='a b'\n\nexport TAG=\"1\"  # the version\nLAST=1";

fn env_at(version: &str) -> String {
    ENV.replace("TAG=\"1\"", &format!("TAG=\"{version}\""))
}

/// A project at version 1, made by Compose.
fn site(what: &str) -> Site {
    let site = Site::new(what);
    site.compose_file(FILE);
    std::fs::write(site.path(".env"), ENV).unwrap();
    std::fs::set_permissions(site.path(".env"), std::fs::Permissions::from_mode(0o640)).unwrap();
    site.compose(&["up", "-d"]);
    site
}

fn verb(site: &Site, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
    command.args(["--state", site.path("state").to_str().unwrap()]).args(args);
    command.current_dir(site.path("")).env_remove("TAG").env_remove("COMPOSE_FILE");
    command
}

#[track_caller]
fn expect(command: &mut Command, code: i32) -> String {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert_eq!(output.status.code(), Some(code), "{command:?}: {text}");
    text
}

fn env_of(site: &Site) -> String {
    std::fs::read_to_string(site.path(".env")).unwrap_or_default()
}

/// Both services on that version.
fn is_at(site: &Site, version: &str) -> bool {
    let filter = format!("label=com.docker.compose.project={}", site.name);
    let list = site.docker(&["ps", "--filter", &filter, "--format", "{{.Image}} {{.Names}}"]);
    let mut at: Vec<&str> = list.lines().collect();
    at.sort_unstable();
    let one = |service: &str| format!("{0}:{version} {0}-{service}-1", site.name);
    at == [one("api"), one("worker")]
}

/// Compose, with nothing but its own files, finds nothing to do.
#[track_caller]
fn compose_is_content(site: &Site, args: &[&str]) {
    let all: Vec<&str> = args.iter().copied().chain(["up", "-d"]).collect();
    let said = site.compose(&all);
    for word in ["Creating", "Recreate", "Removing"] {
        assert!(!said.contains(word), "docker compose {all:?}: {said}");
    }
}

#[test]
fn the_line_of_the_version_is_replaced_once_the_roll_has_succeeded_and_nothing_else() {
    if !is_here("the_line_of_the_version_is_replaced_once_the_roll_has_succeeded_and_nothing_else") {
        return;
    }
    let site = site("commit");
    // A link stays one, and what it leads to keeps its mode and owner.
    std::fs::rename(site.path(".env"), site.path("real.env")).unwrap();
    std::os::unix::fs::symlink("real.env", site.path(".env")).unwrap();
    let mine = std::os::unix::fs::chown(site.path("real.env"), Some(12_345), Some(12_345)).is_ok();
    // Asked for only: nothing is written.
    expect(&mut verb(&site, &["plan", "--to", "2"]), 0);
    assert_eq!(env_of(&site), ENV);
    let said = expect(&mut verb(&site, &["up", "--to", "2", "--yes"]), 0);
    assert!(said.contains(".env says TAG=2 now"), "{said}");
    assert!(is_at(&site, "2"));
    assert_eq!(env_of(&site), env_at("2"));
    let about = std::fs::metadata(site.path("real.env")).unwrap();
    assert_eq!(about.mode() & 0o7777, 0o640);
    assert!(!mine || (about.uid(), about.gid()) == (12_345, 12_345));
    assert!(std::fs::symlink_metadata(site.path(".env")).unwrap().is_symlink());
    compose_is_content(&site, &[]);
    assert!(!expect(&mut verb(&site, &["up", "--yes"]), 0).contains("replace"));
    // A way back never edits the file, and says what that means.
    let said = expect(&mut verb(&site, &["rollback", "--yes"]), 0);
    assert!(said.contains("still asks for what was taken back"), "{said}");
    assert!(is_at(&site, "1"));
    assert_eq!(env_of(&site), env_at("2"));
    // By hand, or with `up --to`, which finds nothing to roll.
    let said = expect(&mut verb(&site, &["up", "--to", "1", "--yes"]), 0);
    assert!(said.contains("says TAG=1 now"), "{said}");
    assert_eq!(env_of(&site), ENV);
    compose_is_content(&site, &[]);
}

#[test]
fn a_roll_that_fails_and_one_of_some_components_leave_the_file_as_it_is() {
    if !is_here("a_roll_that_fails_and_one_of_some_components_leave_the_file_as_it_is") {
        return;
    }
    let site = site("uncommitted");
    let sick = FILE.replacen("trap 'exit 0' TERM;", "[ $$V = 2 ] && exit 3; trap 'exit 0' TERM;", 1);
    assert_ne!(sick, FILE);
    site.compose_file(&sick);
    site.compose(&["up", "-d"]);
    expect(&mut verb(&site, &["up", "--to", "2", "--yes"]), 3);
    assert!(is_at(&site, "1"));
    assert_eq!(env_of(&site), ENV);
    // What was owed for it is owed no more.
    expect(&mut verb(&site, &["status"]), 0);
    assert_eq!(env_of(&site), ENV);
    compose_is_content(&site, &[]);
    let said = expect(&mut verb(&site, &["up", "--to", "2", "--only", "worker", "--yes"]), 0);
    assert!(said.contains(".env was not changed: only worker went to 2"), "{said}");
    assert_eq!(env_of(&site), ENV);
}

#[test]
fn the_file_that_compose_reads_is_the_one_that_is_changed() {
    if !is_here("the_file_that_compose_reads_is_the_one_that_is_changed") {
        return;
    }
    let site = site("files");
    std::fs::write(site.path("a.env"), "TAG=1\n").unwrap();
    std::fs::write(site.path("b.env"), "OTHER=1\n").unwrap();
    let named = ["--env-file", "a.env", "--env-file", "b.env"];
    expect(verb(&site, &named).args(["up", "--to", "2", "--yes"]), 0);
    assert_eq!(std::fs::read_to_string(site.path("a.env")).unwrap(), "TAG=2\n");
    assert_eq!(std::fs::read_to_string(site.path("b.env")).unwrap(), "OTHER=1\n");
    assert_eq!(env_of(&site), ENV);
    compose_is_content(&site, &named);
    // The environment wins over any file, so a file alone does not settle it.
    let said = expect(verb(&site, &named).args(["up", "--to", "1", "--yes"]).env("TAG", "2"), 0);
    assert!(said.contains("TAG is also set in the environment, which Compose prefers"), "{said}");
    assert_eq!(std::fs::read_to_string(site.path("a.env")).unwrap(), "TAG=1\n");
    // One that is not there is made, where the project's files are.
    std::fs::remove_file(site.path(".env")).unwrap();
    std::fs::create_dir(site.path("below")).unwrap();
    let mut up = verb(&site, &["-f", "../compose.yaml", "up", "--to", "2", "--yes"]);
    expect(up.current_dir(site.path("below")), 0);
    assert_eq!(env_of(&site), "TAG=2\n");
    compose_is_content(&site, &[]);
}

#[test]
fn a_file_that_cannot_be_changed_is_said_and_the_same_command_tries_again() {
    if !is_here("a_file_that_cannot_be_changed_is_said_and_the_same_command_tries_again") {
        return;
    }
    let site = site("unwritable");
    // A folder of that name: nobody can write to it, whoever asks. Compose takes it for no file.
    std::fs::rename(site.path(".env"), site.path("kept")).unwrap();
    let mut sick = verb(&site, &["up", "--to", "2", "--yes"]);
    std::fs::create_dir(site.path(".env")).unwrap();
    let said = expect(&mut sick, 1);
    assert!(said.contains("the fleet is at 2, but") && said.contains("write TAG=2 there"), "{said}");
    assert!(is_at(&site, "2"));
    std::fs::remove_dir(site.path(".env")).unwrap();
    std::fs::rename(site.path("kept"), site.path(".env")).unwrap();
    expect(&mut verb(&site, &["up", "--yes"]), 0);
    assert_eq!(env_of(&site), env_at("2"));
    assert!(is_at(&site, "2"), "a plain `up` did not go back to what the file said before");
    compose_is_content(&site, &[]);
}

#[test]
fn up_killed_in_the_middle_leaves_the_line_to_resume() {
    if !is_here("up_killed_in_the_middle_leaves_the_line_to_resume") {
        return;
    }
    let site = site("middle");
    kill_at(&site, "step-began");
    assert_eq!(env_of(&site), ENV, "nothing has succeeded yet");
    expect(&mut verb(&site, &["resume"]), 0);
    assert!(is_at(&site, "2"));
    assert_eq!(env_of(&site), env_at("2"));
    compose_is_content(&site, &[]);
}

#[test]
fn up_killed_between_success_and_the_line_leaves_it_to_the_next_verb() {
    if !is_here("up_killed_between_success_and_the_line_leaves_it_to_the_next_verb") {
        return;
    }
    for next in [&["status"][..], &["up", "--yes"], &["restart", "api", "--yes"]] {
        let site = site("between");
        // Whoever carries the roll on is another process, so its success does not wait for who asked for it.
        let mut coordinator = verb(&site, &["--fleet", &site.name, "coordinator"]);
        let mut coordinator = coordinator.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let socket = site.path("state").join(&site.name).join("control.sock");
        wait_for("a coordinator", Duration::from_secs(20), || socket.exists());
        std::fs::write(site.path("policy.yaml"), policy(&site)).unwrap();
        let policy = site.path("policy.yaml");
        let named = ["--fleet", &site.name, "agent", "--policy", policy.to_str().unwrap()];
        let mut agent = verb(&site, &named).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        wait_for("an agent", Duration::from_secs(20), || {
            let told = verb(&site, &["--fleet", &site.name, "status", "--json"]).output().unwrap();
            String::from_utf8_lossy(&told.stdout).contains("\"up\":true")
        });
        kill_at(&site, "roll-began");
        assert_eq!(env_of(&site), ENV);
        wait_for("the end of the roll", Duration::from_secs(60), || {
            let told = verb(&site, &["--fleet", &site.name, "history", "--json"]).output().unwrap();
            String::from_utf8_lossy(&told.stdout).contains("\"result\":\"succeeded\"")
        });
        assert!(is_at(&site, "2"));
        let said = expect(&mut verb(&site, next), 0);
        for daemon in [&mut agent, &mut coordinator] {
            daemon.kill().unwrap();
            daemon.wait().unwrap();
        }
        assert_eq!(env_of(&site), env_at("2"), "{next:?}: {said}");
        assert!(is_at(&site, "2"), "{next:?} did not go back");
        compose_is_content(&site, &[]);
    }
}

fn policy(site: &Site) -> String {
    format!("components: [api, worker]\nimages: [{}]\n", site.name)
}

/// `up --to 2`, killed as soon as it tells of this.
fn kill_at(site: &Site, event: &str) {
    let mut up = verb(site, &["up", "--to", "2", "--yes", "--json"]);
    let mut up = up.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let lines = BufReader::new(up.stdout.take().unwrap()).lines();
    let word = format!("\"event\":\"{event}\"");
    let told = lines.map_while(Result::ok).any(|line| line.contains(&word));
    up.kill().unwrap();
    up.wait().unwrap();
    assert!(told, "`up` ended before it told of {event}");
}
