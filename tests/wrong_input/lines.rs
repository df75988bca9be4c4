//! What has to be in the table: every line has its rows, and no file is left that no row writes.

use std::collections::BTreeSet;

use super::row::golden;

/// Each line of what can be wrong, and the rows that show it.
const LINES: &[(&str, &[&str])] = &[
    ("unknown or misspelt keys", &["unknown-key", "misspelt-key"]),
    ("cycles", &["cycle"]),
    ("a stage naming no component", &["stage-names-no-component"]),
    ("a duration without unit", &["duration-without-unit", "bad-option"]),
    ("an unknown placeholder", &["unknown-placeholder"]),
    (
        "min_available above what the strategy can keep",
        &["min-available-above-what-the-strategy-can-keep", "min-available-above-what-check-can-see"],
    ),
    ("grace shorter than stop_timeout", &["grace-shorter-than-stop-timeout"]),
    ("an http probe behind a shared socket", &["http-probe-behind-a-shared-socket"]),
    ("no agent for a component", &["no-agent-for-a-component"]),
    (
        "an unreachable coordinator",
        &[
            "coordinator-that-is-not-there",
            "coordinator-that-does-not-listen",
            "coordinator-over-tcp-without-a-word-on-safety",
            "coordinator-address-that-is-none",
            "half-of-the-certificates",
        ],
    ),
    ("a second up while one runs", &["second-up-while-one-runs", "second-coordinator"]),
    (
        "a journal that is corrupt",
        &["journal-corrupt", "journal-corrupt-status", "journal-with-a-changed-record", "journal-that-is-none"],
    ),
    ("a journal that is read-only", &["journal-read-only"]),
    ("a journal on a full disk", &["journal-on-a-full-disk"]),
    ("a journal from a newer Baton", &["journal-of-a-newer-baton", "journal-of-a-newer-baton-status"]),
    ("a port in use", &["port-in-use"]),
    ("a release that does not exist", &["release-that-does-not-exist"]),
    ("a release that does not match its checksum", &["release-that-does-not-match-its-checksum"]),
    (
        "an agent of a newer protocol",
        &[
            "agent-of-a-newer-protocol",
            "agent-of-a-newer-frame-format",
            "agent-of-a-newer-protocol-status",
            "agent-of-a-newer-protocol-up",
        ],
    ),
    ("a foreign coordinator", &["foreign-coordinator", "foreign-coordinator-status"]),
    (
        "a second agent for the same runtime and fleet",
        &["second-agent-in-the-same-folder", "second-agent-in-another-folder"],
    ),
    ("{version} with no source", &["version-with-no-source"]),
    (
        "up with a changed manifest while a roll is unfinished",
        &[
            "changed-manifest-while-a-roll-is-unfinished",
            "another-version-while-a-roll-is-unfinished",
            "restart-while-a-roll-is-unfinished",
            "down-while-a-roll-is-unfinished",
            "drain-while-a-roll-is-unfinished",
        ],
    ),
    ("drain of what cannot be undrained", &["drain-of-what-cannot-be-undrained", "undrain-of-what-is-not-drained"]),
    (
        "a port number with two slots on one host",
        &["port-number-with-two-slots-on-one-host", "port-number-with-two-slots-on-this-host"],
    ),
    ("no terminal and no --yes", &["no-terminal-and-no-yes", "no-terminal-and-no-yes-for-a-rollback"]),
    ("names that nothing has", &["bad-usage", "drain-of-no-slot", "restart-of-no-component", "an-error-for-scripts"]),
    ("no manifest, no fleet", &["no-manifest", "no-such-manifest", "which-fleet"]),
    ("nothing there to act on", &["nothing-to-resume", "nothing-to-take-back"]),
    ("a restart that would have to change something", &["restart-of-what-the-manifest-changes"]),
    (
        "exit code 0",
        &[
            "code-0-manifest-is-good",
            "code-0-nothing-to-do",
            "code-0-no-change",
            "code-0-plan-with-changes",
            "code-0-rollback-by-hand",
            "code-0-abort-is-what-was-asked-for",
        ],
    ),
    ("exit code 1", &["code-1-needs-a-person"]),
    ("exit code 3", &["code-3-rolled-back"]),
    ("exit code 4", &["code-4-paused"]),
    ("exit code 10", &["code-10-changes"]),
    ("exit code 130", &["code-130-interrupted", "code-130-timeout"]),
];

#[test]
fn every_line_of_what_can_be_wrong_has_its_rows_and_every_file_has_a_row() {
    let named: BTreeSet<String> = LINES.iter().flat_map(|(_, rows)| *rows).map(|row| (*row).to_owned()).collect();
    let folder = golden("any").parent().unwrap().to_owned();
    let on_file: BTreeSet<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
        .collect();
    let told = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other).cloned().collect::<Vec<_>>().join(", ")
    };
    assert!(named.is_subset(&on_file), "rows without a file: {}", told(&named, &on_file));
    assert!(on_file.is_subset(&named), "files without a row here: {}", told(&on_file, &named));
    // Each row stands in the sources of the tests that write it, so that none is left over from a test that is gone.
    let sources = concat!(
        include_str!("codes.rs"),
        include_str!("journals.rs"),
        include_str!("manifests.rs"),
        include_str!("plans.rs"),
        include_str!("rolls.rs"),
        include_str!("sessions.rs"),
    );
    let unused: Vec<&String> = named.iter().filter(|row| !sources.contains(&format!("\"{row}\""))).collect();
    assert!(unused.is_empty(), "no test runs {unused:?}");
}
