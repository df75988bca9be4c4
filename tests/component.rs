//! `baton agent --component` as a process of this machine: exit codes, signals, orphans, its socket.

mod support;

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::Signal;
use support::procs::kill;
use support::wait::{wait_for, wait_some};

const PATIENCE: Duration = Duration::from_secs(30);

fn agent(folder: &Path, program: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
    command.args(["agent", "--component", "worker", "--socket"]).arg(folder.join("run/agent.sock"));
    command.arg("--").args(program).current_dir(folder).stdin(Stdio::null());
    command
}

/// Begins a shell with this script and waits until it has written `ready`.
fn begin(folder: &Path, script: &str) -> Child {
    let child = agent(folder, &["sh", "-c", script]).spawn().expect("the agent");
    wait_for("the program", PATIENCE, || folder.join("ready").exists());
    child
}

fn code(mut child: Child) -> Option<i32> {
    wait_some("its end", PATIENCE, || child.try_wait().expect("an answer")).code()
}

#[test]
fn it_ends_as_its_program_does_and_says_why_one_cannot_be_started() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("plain"), "no program").unwrap();
    for (program, expected, words) in [
        (["sh", "-c", "exit 42"].as_slice(), 42, ""),
        (&["sh", "-c", "kill -USR1 $$"], 128 + 10, ""),
        (&["./plain"], 126, "cannot execute ./plain"),
        (&["./nowhere"], 127, "cannot execute ./nowhere"),
        (&["no-such-program"], 127, "no-such-program is in no folder of PATH"),
    ] {
        let output = agent(folder.path(), program).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(expected), "{program:?}: {said}");
        assert!(said.contains(words), "{program:?}: {said}");
    }
    // Nobody could ask it there: said before anything is started.
    let mut nowhere = Command::new(env!("CARGO_BIN_EXE_baton"));
    nowhere.args(["agent", "--component", "worker", "--socket", "/proc/none/agent.sock", "--", "touch", "started"]);
    let output = nowhere.current_dir(folder.path()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(125), "{said}");
    assert!(said.contains("--socket") && !folder.path().join("started").exists(), "{said}");
}

#[test]
fn it_passes_signals_on_and_its_socket_is_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let script = "trap 'echo usr1 >> said' USR1; trap 'echo hup >> said' HUP; trap 'exit 9' TERM; echo > ready; \
                  while :; do sleep 0.05; done";
    let child = begin(folder.path(), script);
    let socket = std::fs::metadata(at("run/agent.sock")).unwrap();
    assert!(socket.file_type().is_socket());
    assert_eq!(socket.permissions().mode() & 0o777, 0o600);
    for (signal, word) in [(Signal::USR1, "usr1"), (Signal::HUP, "hup")] {
        kill(child.id(), signal).unwrap();
        wait_for(word, PATIENCE, || std::fs::read_to_string(at("said")).is_ok_and(|said| said.contains(word)));
    }
    kill(child.id(), Signal::TERM).unwrap();
    assert_eq!(code(child), Some(9));
    assert_eq!(std::fs::read_to_string(at("said")).unwrap(), "usr1\nhup\n", "each once");
    assert!(!at("run/agent.sock").exists());
    // One that was killed leaves its socket behind: the next one takes its place.
    std::fs::remove_file(at("ready")).unwrap();
    let child = begin(folder.path(), "echo $$ > ready; exec sleep 1000");
    kill(child.id(), Signal::KILL).unwrap();
    assert_eq!(code(child), None);
    let left = std::fs::read_to_string(at("ready")).unwrap().trim().parse().unwrap();
    kill(left, Signal::KILL).unwrap();
    assert!(at("run/agent.sock").exists());
    assert_eq!(agent(folder.path(), &["true"]).status().unwrap().code(), Some(0));
}

#[test]
fn it_reaps_what_its_program_leaves_behind() {
    let folder = tempfile::tempdir().unwrap();
    // The inner shell ends at once: what it began is nobody's child.
    let script = "sh -c 'sh -c \"echo \\$\\$ > orphan; exec sleep 0.5\" &'; echo > ready; exec sleep 1000";
    let child = begin(folder.path(), script);
    let text = || std::fs::read_to_string(folder.path().join("orphan")).ok();
    let orphan: u32 = wait_some("the orphan", PATIENCE, || text()?.trim().parse().ok());
    // A zombie has a folder there until it is reaped.
    wait_for("its end", PATIENCE, || !Path::new(&format!("/proc/{orphan}")).exists());
    kill(child.id(), Signal::TERM).unwrap();
    assert_eq!(code(child), Some(143));
}
