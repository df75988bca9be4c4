//! What `check` alone can see. Each stands on file once, and `check`, `plan` and `up` must all say it.

use super::row::{Leaves, Row};
use super::snapshot::Snapshot;
use super::support::fleet::{Fleet, GOOD};

/// Name, and what stands under `fleet:`.
const WRONG: &[(&str, &str)] = &[
    ("unknown-key", "components:\n  worker:\n    runtime: process\n    command: [\"/bin/true\"]\n    colour: blue\n"),
    ("misspelt-key", "components:\n  worker:\n    runtime: process\n    command: [\"/bin/true\"]\n    replcas: 2\n"),
    (
        "cycle",
        "components:\n  api:\n    runtime: process\n    command: [\"/bin/true\"]\n    depends_on: [worker]\n  worker:\n    \
         runtime: process\n    command: [\"/bin/true\"]\n    depends_on: [api]\n",
    ),
    (
        "stage-names-no-component",
        "stages:\n  stop: [[worker], [wroker]]\ncomponents:\n  worker:\n    runtime: process\n    command: [\"/bin/true\"]\n",
    ),
    (
        "duration-without-unit",
        "components:\n  worker:\n    runtime: process\n    command: [\"/bin/true\"]\n    drain: { grace: 30 }\n",
    ),
    (
        "unknown-placeholder",
        "components:\n  worker:\n    runtime: process\n    command: [\"/bin/true\", \"{verison}\"]\n",
    ),
    (
        "grace-shorter-than-stop-timeout",
        "components:\n  worker:\n    runtime: process\n    command: [\"/bin/true\"]\n    \
         drain: { grace: 5s, stop_timeout: 10s }\n",
    ),
    (
        "http-probe-behind-a-shared-socket",
        "components:\n  api:\n    runtime: process\n    command: [\"/bin/true\"]\n    ports: { http: 8080 }\n    \
         ready: { http: \"http://{address}:{port}/health\" }\n    update: { order: start-first }\n",
    ),
    (
        "port-number-with-two-slots-on-one-host",
        "components:\n  worker:\n    runtime: process\n    command: [\"/bin/true\"]\n    ports: { http: 8080 }\n    \
         on: [host-a]\n    replicas: 2\n",
    ),
];

#[test]
fn a_wrong_manifest_is_refused_before_anything_is_contacted() {
    let fleet = Fleet::new("manifests");
    fleet.release("v1", GOOD);
    fleet.manifest("", "  worker:\n    {R}\n    ready: { exec: [\"true\"] }\n    update: { monitor: 300ms }\n");
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    let seen = Snapshot::of(&fleet, &fleet.stage.path("state"), Leaves::Nothing);
    assert_eq!(seen.processes(), 2, "a keeper and its instance run beside every row: {seen:?}");
    for (name, text) in WRONG {
        std::fs::write(fleet.stage.path("wrong.yaml"), format!("fleet: {}\n{text}", fleet.name)).unwrap();
        let row = Row::new(&fleet, name, Leaves::Nothing);
        let told = row.refused(&["check", "-f", "wrong.yaml"], 2);
        assert!(told.out.is_empty(), "{name}: {}", told.all());
        for verb in [&["plan"][..], &["up", "--yes"], &["restart", "--yes"], &["down", "--yes"], &["status"]] {
            let before = Snapshot::of(&fleet, &fleet.stage.path("state"), Leaves::Nothing);
            let again = fleet.expect(&[verb, &["-f", "wrong.yaml"]].concat(), 2);
            let after = Snapshot::of(&fleet, &fleet.stage.path("state"), Leaves::Nothing);
            before.assert_same(&after, name);
            assert_eq!((&told.out, &told.err), (&again.out, &again.err), "{name}: {verb:?}");
        }
    }
}

#[test]
fn where_there_is_no_manifest_it_is_said_what_to_write() {
    let fleet = Fleet::new("none");
    Row::new(&fleet, "no-manifest", Leaves::Nothing).refused(&["up", "--yes"], 2);
    Row::new(&fleet, "no-such-manifest", Leaves::Nothing).refused(&["up", "-f", "batno.yaml", "--yes"], 2);
    Row::new(&fleet, "which-fleet", Leaves::Nothing).refused(&["status"], 2);
    Row::new(&fleet, "bad-usage", Leaves::Nothing).refused(&["upp"], 2);
    Row::new(&fleet, "bad-option", Leaves::Nothing).refused(&["up", "--timeout", "30"], 2);
    Row::new(&fleet, "half-of-the-certificates", Leaves::Nothing)
        .refused(&["status", "--fleet", "none", "--coordinator", "127.0.0.1:1", "--tls-ca", "ca.pem"], 2);
    assert!(!fleet.stage.path("state").exists(), "not even the folder");
}
