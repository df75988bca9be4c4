//! The component agent in real containers: signals and exit codes, drains that are asked inside, and lost contact.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::docker::{Site, is_here};
use crate::support::procs::{kill, quickstart};
use crate::support::wait::{wait_for, wait_some};
use rustix::process::Signal;

/// What anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn baton(site: &Site, tag: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
    command.args(["--state", site.path("state").to_str().unwrap()]).args(args).current_dir(site.path(""));
    command.env("TAG", tag).env_remove("COMPOSE_FILE");
    command
}

fn text(output: Output) -> String {
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

#[track_caller]
fn expect(site: &Site, tag: &str, args: &[&str]) -> String {
    let output = baton(site, tag, args).output().unwrap();
    let done = output.status.success();
    let said = text(output);
    assert!(done, "baton {args:?} with TAG={tag}: {said}");
    said
}

fn status(site: &Site) -> String {
    text(baton(site, "1", &["status"]).output().unwrap())
}

/// Waits until `baton status` says it.
#[track_caller]
fn status_says(site: &Site, words: &str) -> String {
    let mut last = String::new();
    let found = wait_until(|| {
        last = status(site);
        last.contains(words)
    });
    assert!(found, "status never said {words:?}; last: {last}");
    last
}

fn wait_until(mut predicate: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    loop {
        let late = begun.elapsed() > PATIENCE;
        if predicate() || late {
            return !late;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// A roll in the background.
struct Rolling(Option<Child>);

impl Rolling {
    fn to(site: &Site, tag: &str) -> Self {
        let mut command = baton(site, tag, &["up", "--yes"]);
        Self(Some(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()))
    }

    /// It succeeds; what it said.
    #[track_caller]
    fn done(mut self) -> String {
        let output = self.0.take().expect("once").wait_with_output().unwrap();
        let done = output.status.success();
        let said = text(output);
        assert!(done, "{said}");
        said
    }
}

impl Drop for Rolling {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

#[track_caller]
fn compose_is_content(site: &Site, tag: &str) {
    let said = site.compose_up(tag);
    for word in ["Creating", "Recreate", "Removing"] {
        assert!(!said.contains(word), "docker compose up -d with TAG={tag}: {said}");
    }
}

/// A worker that only its own container can ask. `begin` is what begins its drain.
fn worker(begin: &str) -> String {
    format!(
        r#"
services:
  worker:
    image: @:${{TAG:-1}}
    entrypoint: [/bin/baton, agent, --component, worker, --]
    command: [/bin/quickstart, toy, worker, --instance, worker, --version, "${{TAG:-1}}", --port, "8080",
              --work, /work, --boot-ms, "50"]
    volumes: ["./work:/work"]
    restart: always
    x-baton:
      ready: {{ http: "http://127.0.0.1:8080/health", every: 50ms }}
      update: {{ monitor: 300ms }}
      drain:
        begin: {begin}
        inflight: {{ http: "http://127.0.0.1:8080/inflight", pointer: /inflight, every: 100ms, timeout: 500ms }}
        grace: 5m
"#
    )
}

/// Gives it a job and waits until it has it.
fn begin_job(site: &Site, ms: u64) {
    wait_for("the queue", PATIENCE, || site.path("work/queue").is_dir());
    // Written beside the queue and moved in: half a job would be no job.
    std::fs::write(site.path("work/job"), format!("ms={ms}")).unwrap();
    std::fs::rename(site.path("work/job"), site.path("work/queue/job")).unwrap();
    wait_for("the job's begin", PATIENCE, || site.path("work/running/worker/job").exists());
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Pids on this host of a container's processes whose command begins so.
fn pids(site: &Site, container: &str, begin: &str) -> Vec<u32> {
    let output = site.run("docker", &["top", container, "-eo", "pid,args"]);
    let listed = String::from_utf8_lossy(&output.stdout).into_owned();
    let split = listed.lines().filter_map(|line| line.trim_start().split_once(' '));
    let ours = split.filter(|(_, command)| command.trim_start().starts_with(begin));
    ours.filter_map(|(pid, _)| pid.parse().ok()).collect()
}

#[test]
fn a_job_is_finished_and_counted_by_a_worker_that_only_its_own_container_can_ask() {
    if !is_here("a_job_is_finished_and_counted_by_a_worker_that_only_its_own_container_can_ask") {
        return;
    }
    let site = Site::with_baton("inside", quickstart());
    site.compose_file(&worker("{ http: \"http://127.0.0.1:8080/drain\" }"));
    site.compose_up("1");
    begin_job(&site, 8_000);
    let up = Rolling::to(&site, "2");
    status_says(&site, "drain: 1 in flight");
    assert!(!site.path("work/done/job").exists());
    up.done();
    assert!(site.path("work/done/job").exists(), "the job is lost: {}", read(&site.path("work/events.log")));
    let events = read(&site.path("work/events.log"));
    let order: Vec<usize> =
        ["drain instance=worker version=1", "term instance=worker version=1", "ready instance=worker version=2"]
            .iter()
            .map(|words| events.find(words).unwrap_or_else(|| panic!("{words}: {events}")))
            .collect();
    assert!(order.is_sorted(), "{events}");
    let image = site.inspect(&format!("{}-worker-1", site.name))["Config"]["Image"].clone();
    assert_eq!(image, format!("{}:2", site.name));
    // Whoever asked has gone, and so have the ways in.
    let name = format!("{}-worker-1", site.name);
    wait_for("no relay", PATIENCE, || pids(&site, &name, "/bin/baton relay").is_empty());
    compose_is_content(&site, "2");
}

#[test]
fn lost_contact_is_unknown_and_the_drain_goes_on_when_it_is_back() {
    if !is_here("lost_contact_is_unknown_and_the_drain_goes_on_when_it_is_back") {
        return;
    }
    let site = Site::with_baton("lost", quickstart());
    // A call that takes its time and is counted.
    let call = "echo called >> /work/calls; /bin/busybox sleep 3; \
                /bin/busybox wget -q -O - --post-data= http://127.0.0.1:8080/drain";
    site.compose_file(&worker(&format!("{{ exec: [/bin/busybox, sh, -c, {call:?}] }}")));
    site.compose_up("1");
    begin_job(&site, 25_000);
    let name = format!("{}-worker-1", site.name);
    let up = Rolling::to(&site, "2");
    let relays = || pids(&site, &name, "/bin/baton relay");
    let kill_relays = |what: &str| {
        let old = wait_some(what, PATIENCE, || Some(relays()).filter(|found| !found.is_empty()));
        old.iter().for_each(|pid| kill(*pid, Signal::KILL).unwrap_or_default());
        wait_for("another relay", PATIENCE, || relays().iter().any(|pid| !old.contains(pid)));
    };
    // In the middle of the call that begins the drain: it is joined, not made again.
    wait_for("the call", PATIENCE, || site.path("work/calls").exists());
    kill_relays("a relay during the call");
    status_says(&site, "drain: 1 in flight");
    // In the middle of the wait.
    kill_relays("a relay during the wait");
    status_says(&site, "drain: 1 in flight");
    let nothing_happened = || {
        let state = site.inspect(&name)["State"].clone();
        assert_eq!((&state["Running"], &state["ExitCode"]), (&true.into(), &0.into()), "{state}");
        let events = read(&site.path("work/events.log"));
        assert!(!events.contains("term ") && !events.contains("version=2"), "{events}");
    };
    let said_lost = "work in flight is unknown: no contact with the component agent of worker-1.1 since 2";
    // All of the container stands still.
    site.docker(&["pause", &name]);
    status_says(&site, said_lost);
    nothing_happened();
    site.docker(&["unpause", &name]);
    status_says(&site, "drain: 1 in flight");
    // Only the agent stands still: its program works on.
    let agent = u32::try_from(site.inspect(&name)["State"]["Pid"].as_u64().unwrap()).unwrap();
    kill(agent, Signal::STOP).unwrap();
    status_says(&site, said_lost);
    nothing_happened();
    kill(agent, Signal::CONT).unwrap();
    let said = up.done();
    assert!(site.path("work/done/job").exists(), "the job is lost: {said}");
    assert_eq!(read(&site.path("work/calls")), "called\n", "the drain was begun once");
    compose_is_content(&site, "2");
}

/// Runs an image with the agent as PID 1; gone with the site.
fn run(site: &Site, name: &str, more: &[&str], program: &[&str]) -> (Output, String) {
    let (label, name) = (format!("com.docker.compose.project={}", site.name), format!("{}-{name}", site.name));
    let (image, agent) = (format!("{}:1", site.name), ["/bin/baton", "agent", "--component", "worker", "--"]);
    let mut args = vec!["run", "--label", &label, "--name", &name];
    args.extend(more);
    args.push(&image);
    args.extend(agent.iter().chain(program));
    (site.run("docker", &args), name)
}

#[test]
fn the_agent_passes_signals_on_reaps_and_ends_as_its_program_does() {
    if !is_here("the_agent_passes_signals_on_reaps_and_ends_as_its_program_does") {
        return;
    }
    let site = Site::with_baton("init", quickstart());
    let shell = |script: &'static str| ["/bin/busybox", "sh", "-c", script];
    for (name, program, code, words) in [
        ("code", shell("exit 42").as_slice(), 42, ""),
        ("killed", &shell("kill -9 $$"), 137, ""),
        ("missing", &["nowhere"], 127, "program nowhere is in no folder of PATH"),
        ("folder", &["/bin"], 126, "cannot execute /bin"),
    ] {
        let output = run(&site, name, &[], program).0;
        assert_eq!(output.status.code(), Some(code), "{name}");
        let said = text(output);
        assert!(said.contains(words), "{name}: {said}");
    }
    let logs = |name: &str| text(site.run("docker", &["logs", name]));
    let code = |name: &str| site.inspect(name)["State"]["ExitCode"].as_i64().unwrap();

    let handlers = "trap 'echo usr1' USR1; trap 'echo winch' WINCH; trap 'exit 9' HUP; echo ready; \
                    while :; do /bin/busybox sleep 0.1; done";
    for more in [&["-d"].as_slice(), &["-d", "--init"].as_slice()] {
        let (_, name) = run(&site, &format!("signals{}", more.len()), more, &shell(handlers));
        wait_for("its handlers", PATIENCE, || logs(&name).contains("ready"));
        for (signal, word) in [("USR1", "usr1"), ("WINCH", "winch")] {
            site.docker(&["kill", "-s", signal, &name]);
            wait_for(word, PATIENCE, || logs(&name).contains(word));
        }
        site.docker(&["kill", "-s", "HUP", &name]);
        assert_eq!(site.docker(&["wait", &name]), "9");
    }

    // As PID 1 it would ignore the signal until it is killed.
    let (_, name) = run(&site, "deaf", &["-d"], &["/bin/busybox", "sleep", "1000"]);
    wait_for("the program", PATIENCE, || !pids(&site, &name, "/bin/busybox sleep 1000").is_empty());
    let begun = Instant::now();
    site.docker(&["stop", "-t", "60", &name]);
    assert!(begun.elapsed() < Duration::from_secs(50), "it was killed: {:?}", begun.elapsed());
    assert_eq!(code(&name), 143);

    // An orphan: its parent ends at once.
    let orphan = "/bin/busybox sh -c '/bin/busybox sleep 3 & echo left'; exec /bin/busybox sleep 1000";
    let (_, name) = run(&site, "orphan", &["-d"], &shell(orphan));
    wait_for("the orphan", PATIENCE, || logs(&name).contains("left"));
    let orphan = pids(&site, &name, "/bin/busybox sleep 3");
    assert_eq!(orphan.len(), 1);
    // A zombie has a folder there until it is reaped; the engine does not list it.
    wait_for("its end", PATIENCE, || !Path::new(&format!("/proc/{}", orphan[0])).exists());
}

#[test]
fn an_agent_that_no_command_shows_is_named_in_the_file() {
    if !is_here("an_agent_that_no_command_shows_is_named_in_the_file") {
        return;
    }
    let site = Site::with_baton("said", quickstart());
    let toy = "/bin/quickstart toy worker --instance worker --version 1 --port 8080 --work /tmp --boot-ms 50";
    let entrypoint = format!("exec /bin/baton agent --component worker -- {toy}");
    let file = |say: &str| {
        format!(
            "services:\n  worker:\n    image: @:1\n    init: true\n    tmpfs: [/tmp]\n    entrypoint: [/bin/busybox, sh, -c, {entrypoint:?}]\n    \
             x-baton:\n      ready: {{ http: \"http://127.0.0.1:8080/health\", every: 50ms, deadline: 20s }}\n      \
             update: {{ monitor: 200ms }}\n{say}"
        )
    };
    site.compose_file(&file("      agent: component\n"));
    expect(&site, "1", &["up", "--yes"]);
    site.compose_file(&file("      agent: host\n"));
    let said = text(baton(&site, "1", &["check"]).output().unwrap());
    assert!(said.contains("\"host\" is not known here") && said.contains("component"), "{said}");
}

#[test]
fn the_example_runs_as_it_stands() {
    if !is_here("the_example_runs_as_it_stands") {
        return;
    }
    // In the place of its image: the same entrypoint over another worker with the same answers.
    let site = Site::with_baton_and(
        "example",
        quickstart(),
        "ENTRYPOINT [\"baton\", \"agent\", \"--component\", \"worker\", \"--\"]\n\
         CMD [\"/bin/busybox\", \"sh\", \"-c\", \"exec /bin/quickstart toy worker --instance $HOSTNAME --version $V \
         --port 8080 --work /work --boot-ms 50\"]\n",
    );
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/sidecar/docker-compose.yml");
    std::fs::copy(example, site.path("docker-compose.yml")).unwrap();
    std::fs::write(site.path(".env"), format!("COMPOSE_PROJECT_NAME={0}\nIMAGE={0}\n", site.name)).unwrap();
    site.compose_up("1");
    let first = format!("{}-worker-1", site.name);
    let inside = |script: &str| site.run("docker", &["exec", &first, "/bin/busybox", "sh", "-c", script]);
    wait_for("the queue", PATIENCE, || inside("test -d /work/queue").status.success());
    assert!(inside("echo ms=6000 > /work/one; mv /work/one /work/queue/one").status.success());
    wait_for("the job's begin", PATIENCE, || inside("ls /work/running/*/one").status.success());
    expect(&site, "2", &["up", "--yes"]);
    let left = text(inside("cat /work/events.log; ls /work/done /work/queue"));
    assert!(left.lines().any(|line| line == "one"), "{left}");
    assert_eq!(left.matches("drain instance=").count(), 2, "both were drained inside: {left}");
    compose_is_content(&site, "2");
}
