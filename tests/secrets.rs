//! Values of `env`, `env_file` and command lines stay where they are needed: nothing that Baton writes shows them.

mod support;

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use support::fleet::{Fleet, Said};

/// One for each way in. No part of one is part of another.
const CANARIES: [(&str, &str); 6] = [
    ("env", "canary-alpha-5b1f09d2"),
    ("env_file", "canary-bravo-77c3e410"),
    ("a word of the command", "canary-charlie-0d9a6b3e"),
    ("an option with a value", "canary-delta-e88f4c15"),
    ("a word of the readiness check", "canary-echo-31a7d9f6"),
    ("a word of the begin of the drain", "canary-foxtrot-9c20b584"),
];

/// Says everything it knows, on both outputs, whatever it is asked to be.
const INDISCREET: &str = r#"#!/bin/sh
tell() { env; env >&2; echo "called as: $*"; echo "called as: $*" >&2; }
case "$1" in
probe) tell "$@"; echo "probed with $2" > /proc/self/fd/2; exit PROBE ;;
begin) tell "$@"; exit BEGIN ;;
esac
tell "$@"
trap 'tell "$@"; exit 0' TERM
while :; do sleep 0.1; done
"#;

fn fleet(name: &str) -> Fleet {
    let fleet = Fleet::new(name);
    let script = |probe, begin| INDISCREET.replace("PROBE", probe).replace("BEGIN", begin);
    fleet.release("v1", &script("0", "0")).release("v2", &script("1", "0")).release("v3", &script("0", "1"));
    let file = fleet.stage.path("worker.env");
    std::fs::write(&file, format!("FROM_FILE={}\n", CANARIES[1].1)).expect("an env file");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    let components = format!(
        r#"  worker:
    release: {{ path: "{}/{{version}}", sha256_file: SHA256SUMS }}
    command: ["{{release}}/run", "{{instance}}", "{}", "--token={}"]
    env: {{ TOKEN: "{}" }}
    env_file: {}
    replicas: 2
    ready: {{ exec: ["{{release}}/run", "probe", "{}"], deadline: 3s }}
    update: {{ monitor: 500ms }}
    drain:
      begin: {{ exec: ["{{release}}/run", "begin", "{}"] }}
      undo: {{ exec: ["true"] }}
      grace: 3s
"#,
        fleet.stage.path("releases").display(),
        CANARIES[2].1,
        CANARIES[3].1,
        CANARIES[0].1,
        file.display(),
        CANARIES[4].1,
        CANARIES[5].1,
    );
    fleet.manifest("", &components);
    fleet
}

fn canary_in(bytes: &[u8]) -> Option<&'static str> {
    let holds = |canary: &str| bytes.windows(canary.len()).any(|window| window == canary.as_bytes());
    CANARIES.iter().find(|(_, canary)| holds(canary)).map(|(place, _)| *place)
}

/// What verbs said so far, for one look at all of it.
struct Heard(Vec<(String, Said)>);

impl Heard {
    fn expect(&mut self, fleet: &Fleet, args: &[&str], code: i32) {
        let said = fleet.baton(args);
        assert_eq!(said.code, code, "baton {args:?}: {}", said.all());
        self.0.push((args.join(" "), said));
    }

    fn any(&mut self, fleet: &Fleet, args: &[&str]) {
        let said = fleet.baton(args);
        self.0.push((args.join(" "), said));
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        let kind = entry.file_type().expect("its type");
        if kind.is_dir() {
            files(&path, found);
        } else if kind.is_file() {
            found.push(path);
        }
    }
}

/// Whether this is one of the places that must hold values.
fn may_hold(path: &Path) -> bool {
    let text = path.display().to_string();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    text.contains("/specs/") || name == "definition.json" || (text.contains("/logs/worker-") && name.contains(".log"))
}

/// Looks through the whole state folder; returns how many files hold a canary, all of them where they may.
fn search(fleet: &Fleet) -> usize {
    let mut all = vec![];
    files(&fleet.stage.path("state"), &mut all);
    let names: Vec<_> = all.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy()).collect();
    for name in ["journal.db", "ledger.db", "keeper.log"] {
        assert!(names.iter().any(|found| *found == name), "there is no {name} to look at: {names:?}");
    }
    let mut holders = 0;
    for path in &all {
        let mode = std::fs::metadata(path).expect("metadata").mode();
        // A file may go between the two: logs are rotated, old instances removed.
        let Ok(bytes) = std::fs::read(path) else { continue };
        if let Some(place) = canary_in(&bytes) {
            assert!(may_hold(path), "{} holds what came from {place}", path.display());
            assert_eq!(mode & 0o077, 0, "{} holds what came from {place} and has mode {mode:o}", path.display());
            holders += 1;
        }
    }
    holders
}

#[test]
fn a_secret_is_in_no_journal_log_of_baton_status_or_error() {
    let fleet = fleet("secrets");
    let mut heard = Heard(vec![]);
    heard.expect(&fleet, &["check"], 0);
    heard.expect(&fleet, &["plan", "--to", "v1"], 0);
    heard.expect(&fleet, &["plan", "--to", "v1", "--json"], 0);
    heard.expect(&fleet, &["up", "--to", "v1", "--yes", "--json"], 0);
    // The check fails and tells all it knows; so does what is left of the instance.
    heard.expect(&fleet, &["plan", "--to", "v2"], 0);
    heard.expect(&fleet, &["up", "--to", "v2", "--yes"], 3);
    heard.expect(&fleet, &["up", "--to", "v2", "--yes", "--json"], 3);
    for json in [false, true] {
        for args in [&["status"][..], &["history"], &["logs", "worker-1"], &["plan", "--to", "v3"]] {
            let mut words = args.to_vec();
            words.extend(json.then_some("--json"));
            heard.expect(&fleet, &words, 0);
        }
    }
    // The begin of a drain that fails, on the way from v3 to v1.
    heard.any(&fleet, &["up", "--to", "v3", "--yes"]);
    heard.any(&fleet, &["drain", "worker-1", "--yes", "--json"]);
    heard.any(&fleet, &["undrain", "worker-1", "--yes"]);
    heard.any(&fleet, &["up", "--to", "v1", "--yes", "--json"]);
    heard.any(&fleet, &["status"]);
    heard.any(&fleet, &["status", "--json"]);
    heard.any(&fleet, &["history", "--json"]);
    heard.any(&fleet, &["rollback", "--yes"]);
    // A manifest that is wrong beside the values.
    let good = std::fs::read_to_string(fleet.stage.path("baton.yaml")).expect("the manifest");
    for (from, to) in
        [("env: {", "env: { {"), ("command: [", "command: [ ["), ("replicas", "replikas"), ("TOKEN:", "TOKEN")]
    {
        let wrong = good.replace(from, to);
        assert_ne!(wrong, good);
        std::fs::write(fleet.stage.path("baton.yaml"), wrong).expect("a manifest");
        heard.expect(&fleet, &["check"], 2);
    }
    std::fs::write(fleet.stage.path("baton.yaml"), good).expect("the manifest");

    for (verb, said) in &heard.0 {
        for (stream, text) in [("stdout", &said.out), ("stderr", &said.err)] {
            let place = canary_in(text.as_bytes());
            assert_eq!(place, None, "baton {verb} shows on {stream} what came from {}: {text}", place.unwrap_or("-"));
        }
    }
    // The failure was told with the program's own words, so there was something to hide.
    let told = heard.0.iter().any(|(_, said)| said.out.contains("called as:"));
    assert!(told, "no failure came with what the program said");
    let holders = search(&fleet);
    // The definition in the spec store and the program's own log, at least: the search finds what it looks for.
    assert!(holders >= 2, "only {holders} files hold a value");

    let root = fleet.stage.path("state/secrets");
    for (path, mode) in [("", 0o700), ("specs", 0o700), ("journal.db", 0o600)] {
        let found = std::fs::metadata(root.join(path)).expect("metadata").mode() & 0o777;
        assert_eq!(found, mode, "{path:?} has mode {found:o}");
    }
}
