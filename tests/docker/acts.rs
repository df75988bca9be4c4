//! Signals, ends, restart policies, commands beside, logs, health, hints.

use std::time::{Duration, Instant};

use baton::model::{ExitStatus, FailureKind, Health, InstanceId, InstanceState};
use baton::runtime::Runtime;
use baton::runtime::docker::DockerRuntime;
use serde_json::json;

use super::engine::{Project, docker, worker};
use super::making::words;
use super::support::wait::wait_until;
use super::{BOUND, GOOD};

async fn started(project: &Project, script: &str) -> DockerRuntime {
    let runtime = project.runtime();
    let blueprint = project.blueprint("1", &project.body("1", script));
    runtime.prepare(&worker(1), &blueprint).await.unwrap();
    runtime.start(&worker(1)).await.unwrap();
    runtime
}

async fn wait_log(runtime: &DockerRuntime, instance: &InstanceId, text: &str) {
    wait_until(&format!("{text:?} in the log"), BOUND, async || {
        runtime.logs(instance, 100).await.unwrap().iter().any(|line| line.contains(text))
    })
    .await;
}

async fn state(runtime: &DockerRuntime) -> InstanceState {
    runtime.inspect(&worker(1).slot).await.unwrap()[0].state
}

fn policy(project: &Project) -> String {
    docker(&["inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", &format!("{}-worker-1", project.name)])
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_is_held_stays_down_and_has_its_policy_back_when_it_is_let_go() {
    let Some(project) = Project::new("hold") else { return };
    let runtime = started(&project, GOOD).await;
    assert_eq!(policy(&project), "always");
    runtime.hold_restart(&worker(1)).await.unwrap();
    assert_eq!(policy(&project), "no");
    // An undrain by an agent that was killed in between: what it gives back is on record.
    project.runtime().allow_restart(&worker(1)).await.unwrap();
    assert_eq!(policy(&project), "always");
    runtime.hold_restart(&worker(1)).await.unwrap();
    runtime.hold_restart(&worker(1)).await.unwrap();

    let waiting = tokio::spawn({
        let again = project.runtime();
        async move { again.wait_exit(&worker(1)).await }
    });
    runtime.signal(&worker(1), "SIGTERM").await.unwrap();
    assert_eq!(tokio::time::timeout(BOUND, waiting).await.unwrap().unwrap().unwrap(), ExitStatus::Code(0));
    assert_eq!(state(&runtime).await, InstanceState::Exited);
    assert_eq!(runtime.wait_exit(&worker(1)).await.unwrap(), ExitStatus::Code(0));

    // Started again, it is its own master again.
    runtime.start(&worker(1)).await.unwrap();
    assert_eq!((policy(&project).as_str(), state(&runtime).await), ("always", InstanceState::Running));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_just_ended_is_known_before_the_engine_is_through() {
    ends_and_starts("end", None).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_of_the_host_goes_from_what_has_just_ended_to_what_starts() {
    ends_and_starts("port", Some(super::support::procs::free_port())).await;
}

async fn ends_and_starts(name: &str, port: Option<u16>) {
    let Some(project) = Project::new(name) else { return };
    let runtime = project.runtime();
    // The engine's events tell how it ended.
    let _hints = runtime.hints();
    let mut body = project.body("1", "trap 'exit 7' TERM; while :; do /bin/busybox sleep 0.1; done");
    if let Some(port) = port {
        body["ExposedPorts"] = json!({ "80/tcp": {} });
        body["HostConfig"]["PortBindings"] =
            json!({ "80/tcp": [{ "HostIp": "127.0.0.1", "HostPort": port.to_string() }] });
    }
    let blueprint = project.blueprint("1", &body);
    for number in [1, 2] {
        runtime.prepare(&worker(number), &blueprint).await.unwrap();
    }
    runtime.start(&worker(1)).await.unwrap();
    // Back and forth, with nothing in between: each start finds its port free, each end is told with its code.
    for (old, new) in [(1, 2), (2, 1), (1, 2)] {
        runtime.hold_restart(&worker(old)).await.unwrap();
        runtime.signal(&worker(old), "SIGTERM").await.unwrap();
        let end = tokio::time::timeout(BOUND, runtime.wait_exit(&worker(old))).await.expect("its end").unwrap();
        assert_eq!(end, ExitStatus::Code(7));
        runtime.kill(&worker(old)).await.unwrap();
        let seen = runtime.inspect(&worker(old).slot).await.unwrap();
        let seen = seen.iter().find(|seen| seen.id == worker(old)).unwrap();
        assert_eq!((seen.state, seen.exit), (InstanceState::Exited, Some(ExitStatus::Code(7))));
        runtime.start(&worker(new)).await.unwrap_or_else(|error| panic!("{}", error.message));
    }
    runtime.hold_restart(&worker(2)).await.unwrap();
    runtime.signal(&worker(2), "SIGTERM").await.unwrap();
    tokio::time::timeout(BOUND, runtime.wait_exit(&worker(2))).await.expect("its end").unwrap();
    // Started again at once, it runs; and it can be removed at once.
    runtime.start(&worker(2)).await.unwrap();
    let about = || docker(&["ps", "-aq", "--filter", "status=running", "--filter", &format!("name={}-", project.name)]);
    assert_eq!(about().lines().count(), 1);
    runtime.hold_restart(&worker(2)).await.unwrap();
    runtime.signal(&worker(2), "SIGTERM").await.unwrap();
    tokio::time::timeout(BOUND, runtime.wait_exit(&worker(2))).await.expect("its end").unwrap();
    runtime.remove(&worker(2)).await.unwrap();
    assert_eq!(runtime.inspect(&worker(2).slot).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_nobody_follows_has_ended_for_everybody_once_its_end_is_told() {
    let Some(project) = Project::new("last") else { return };
    let runtime = started(&project, GOOD).await;
    let _hints = runtime.hints();
    for _ in 0..8 {
        runtime.hold_restart(&worker(1)).await.unwrap();
        runtime.signal(&worker(1), "SIGTERM").await.unwrap();
        tokio::time::timeout(BOUND, runtime.wait_exit(&worker(1))).await.expect("its end").unwrap();
        let running = docker(&["ps", "-q", "--filter", &format!("name={}-", project.name)]);
        assert_eq!(running, "", "its end was told and `docker ps` still lists it");
        runtime.start(&worker(1)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_crashes_again_and_again_is_ended_by_a_hold_and_started_at_once() {
    let Some(project) = Project::new("loop") else { return };
    let runtime = started(&project, "exit 3").await;
    wait_until("a crash loop", BOUND, async || {
        let seen = runtime.inspect(&worker(1).slot).await.unwrap();
        seen[0].state == InstanceState::Restarting && seen[0].restarts > 2
    })
    .await;
    runtime.hold_restart(&worker(1)).await.unwrap();
    assert_eq!(state(&runtime).await, InstanceState::Exited);
    let before = docker(&["inspect", "-f", "{{.State.StartedAt}}", &format!("{}-worker-1", project.name)]);
    runtime.start(&worker(1)).await.unwrap();
    let after = docker(&["inspect", "-f", "{{.State.StartedAt}}", &format!("{}-worker-1", project.name)]);
    assert_ne!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_gets_each_signal_once_whoever_asks() {
    let Some(project) = Project::new("once") else { return };
    let script = "trap 'echo asked' TERM; echo up; while :; do /bin/busybox sleep 0.1; done";
    let runtime = started(&project, script).await;
    wait_log(&runtime, &worker(1), "up").await;
    runtime.signal(&worker(1), "SIGTERM").await.unwrap();
    wait_log(&runtime, &worker(1), "asked").await;
    runtime.signal(&worker(1), "SIGTERM").await.unwrap();
    project.runtime().signal(&worker(1), "TERM").await.unwrap();
    // A signal that was sent in spite of that has been answered when this command's successor is.
    let asked = async |runtime: &DockerRuntime| {
        runtime.logs(&worker(1), 100).await.unwrap().iter().filter(|line| *line == "asked").count()
    };
    runtime.exec(&worker(1), &words("/bin/busybox sleep 0.5"), BOUND).await.unwrap();
    assert_eq!(asked(&runtime).await, 1);
    // The next run has not had it.
    runtime.kill(&worker(1)).await.unwrap();
    assert_eq!(runtime.wait_exit(&worker(1)).await.unwrap(), ExitStatus::Signal(9));
    runtime.signal(&worker(1), "SIGTERM").await.unwrap();
    runtime.start(&worker(1)).await.unwrap();
    wait_until("it is up again", BOUND, async || {
        runtime.logs(&worker(1), 100).await.unwrap().iter().filter(|line| *line == "up").count() == 2
    })
    .await;
    runtime.signal(&worker(1), "SIGTERM").await.unwrap();
    wait_until("the second run is asked", BOUND, async || asked(&runtime).await == 2).await;
    assert_eq!(runtime.signal(&worker(1), "SIGNOTHING").await.unwrap_err().kind, FailureKind::Refused);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_young_program_gets_the_time_to_listen_and_a_deaf_one_is_not_waited_for_long() {
    let Some(project) = Project::new("young") else { return };
    let late = format!("/bin/busybox sleep 1; {GOOD}");
    let runtime = started(&project, &late).await;
    runtime.hold_restart(&worker(1)).await.unwrap();
    runtime.signal(&worker(1), "SIGTERM").await.unwrap();
    let end = tokio::time::timeout(BOUND, runtime.wait_exit(&worker(1))).await.expect("its end").unwrap();
    assert_eq!(end, ExitStatus::Code(0), "the signal came before the handler");

    let blueprint = project.blueprint("1", &project.body("1", "exec /bin/busybox sleep 1000"));
    runtime.prepare(&worker(2), &blueprint).await.unwrap();
    runtime.start(&worker(2)).await.unwrap();
    let begun = Instant::now();
    runtime.signal(&worker(2), "SIGTERM").await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    assert_eq!(runtime.inspect(&worker(2).slot).await.unwrap()[1].state, InstanceState::Running);
    runtime.kill(&worker(2)).await.unwrap();
    runtime.kill(&worker(2)).await.unwrap();
    assert_eq!(runtime.inspect(&worker(2).slot).await.unwrap()[1].state, InstanceState::Exited);
    // Killed by name, so its policy does not bring it back.
    assert_eq!(runtime.wait_exit(&worker(2)).await.unwrap(), ExitStatus::Signal(9));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_beside_it_is_bounded_and_what_is_cut_off_is_gone() {
    let Some(project) = Project::new("exec") else { return };
    let runtime = started(&project, GOOD).await;
    let output = runtime.exec(&worker(1), &words("/bin/busybox sh -c exit\\ 7"), BOUND).await.unwrap();
    assert!(output.code.is_some_and(|code| code != 0), "{output:?}");
    let argv = ["/bin/busybox", "sh", "-c", "echo $PASSWORD; exit 7"].map(str::to_owned);
    let output = runtime.exec(&worker(1), &argv, BOUND).await.unwrap();
    assert_eq!((output.code, output.tail.trim()), (Some(7), "hunter22-hunter22"));
    let output = runtime.exec(&worker(1), &words("/bin/busybox seq 1 100000"), BOUND).await.unwrap();
    assert_eq!((output.code, output.tail.len()), (Some(0), 4096));
    assert!(output.tail.ends_with("99999\n100000\n"));
    let output = runtime.exec(&worker(1), &words("/no/such/program"), BOUND).await.unwrap();
    assert!(output.code.is_some_and(|code| code >= 126), "{output:?}");

    // It has a child of its own, and both ignore what can be ignored.
    let argv = ["/bin/busybox", "sh", "-c", "trap '' TERM HUP; echo begun; /bin/busybox sleep 4711; echo over"];
    let output = runtime.exec(&worker(1), &argv.map(str::to_owned), Duration::from_secs(2)).await.unwrap();
    assert_eq!((output.code, output.tail.trim()), (None, "begun"));
    let top = docker(&["top", &format!("{}-worker-1", project.name)]);
    assert!(!top.contains("4711"), "{top}");
    assert_eq!(state(&runtime).await, InstanceState::Running);

    runtime.kill(&worker(1)).await.unwrap();
    assert!(runtime.exec(&worker(1), &words("/bin/busybox true"), BOUND).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn its_log_shows_no_value_of_its_environment_and_all_that_the_image_says() {
    let Some(project) = Project::new("logs") else { return };
    let script = format!("echo $PASSWORD is the word; echo $PATH >&2; echo last; {GOOD}");
    let runtime = started(&project, &script).await;
    wait_log(&runtime, &worker(1), "last").await;
    let mut log = runtime.logs(&worker(1), 100).await.unwrap();
    log.sort();
    assert_eq!(log, ["*** is the word", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "last"]);
    assert_eq!(runtime.logs(&worker(1), 1).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_engines_own_healthcheck_is_told_and_events_are_hints() {
    let Some(project) = Project::new("health") else { return };
    let runtime = project.runtime();
    let mut hints = runtime.hints();
    let mut body = project.body("1", GOOD);
    body["Healthcheck"] = json!({
        "Test": ["CMD", "/bin/busybox", "test", "-e", "/ready"], "Interval": 200_000_000, "Retries": 1,
    });
    let slot = worker(1).slot;
    runtime.prepare(&worker(1), &project.blueprint("1", &body)).await.unwrap();
    runtime.start(&worker(1)).await.unwrap();
    let hint = tokio::time::timeout(BOUND, hints.recv()).await.expect("a hint").unwrap();
    assert_eq!(hint.slot, slot);
    wait_until("unready", BOUND, async || runtime.inspect(&slot).await.unwrap()[0].health == Health::Unready).await;
    runtime.exec(&worker(1), &words("/bin/busybox touch /ready"), BOUND).await.unwrap();
    wait_until("ready", BOUND, async || runtime.inspect(&slot).await.unwrap()[0].health == Health::Ready).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_a_person_removed_is_gone_and_every_act_says_so() {
    let Some(project) = Project::new("gone") else { return };
    let runtime = started(&project, GOOD).await;
    docker(&["rm", "-f", "-v", &format!("{}-worker-1", project.name)]);
    // What the engine said a moment ago holds for a moment.
    let slot = worker(1).slot;
    wait_until("nothing is there", BOUND, async || runtime.inspect(&slot).await.unwrap().is_empty()).await;
    for act in [runtime.start(&worker(1)).await.map(|_| ()), runtime.hold_restart(&worker(1)).await] {
        let error = act.unwrap_err();
        assert!(error.kind == FailureKind::Missing && error.message.contains("worker-1.1"), "{error:?}");
    }
    runtime.signal(&worker(1), "SIGTERM").await.unwrap();
    runtime.kill(&worker(1)).await.unwrap();
    assert_eq!(runtime.wait_exit(&worker(1)).await.unwrap(), ExitStatus::Unknown);
    runtime.remove(&worker(1)).await.unwrap();
    // Its number is not used again.
    project.composed(1, "1", GOOD, &[]);
    assert_eq!(runtime.inspect(&worker(1).slot).await.unwrap()[0].id, worker(2));
}
