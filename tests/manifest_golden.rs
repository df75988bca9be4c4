//! The manifest as its users meet it: what is read, what is refused and in which words. `UPDATE_GOLDEN=1` blesses.

use std::path::{Path, PathBuf};

use baton::manifest;

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn blessing() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1")
}

/// Compares with the file, or writes it when blessing. Returns what differs.
fn against(path: &Path, is: &str) -> Option<String> {
    if blessing() {
        std::fs::write(path, is).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
        return None;
    }
    let was = std::fs::read_to_string(path).unwrap_or_default();
    (was != is).then(|| format!("--- {}\n{was}\n--- is now\n{is}", path.display()))
}

fn goldens() -> Vec<(String, String)> {
    let folder = root().join("tests/golden/manifest");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let name = |path: &Path| path.file_stem().unwrap().to_str().unwrap().to_owned();
    files.iter().map(|path| (name(path), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn every_wrong_manifest_is_refused_in_the_words_on_file_and_every_right_one_is_read() {
    let mut differing = Vec::new();
    let (mut wrong, mut right) = (0, 0);
    for (name, text) in goldens() {
        let told = match manifest::parse(&text, "baton.yaml") {
            Ok(read) => {
                assert!(name.starts_with("right-"), "{name} was read");
                right += 1;
                format!("{read:#?}\n")
            }
            Err(error) => {
                assert!(name.starts_with("wrong-"), "{name} was refused:\n{error}");
                assert!(!error.findings().is_empty(), "{name}");
                wrong += 1;
                format!("{error}\n")
            }
        };
        differing.extend(against(&root().join(format!("tests/golden/manifest/{name}.txt")), &told));
    }
    assert!(differing.is_empty(), "{}\n(UPDATE_GOLDEN=1 blesses)", differing.join("\n"));
    assert!(wrong >= 25 && right >= 5, "{wrong} wrong and {right} right manifests");
}

#[test]
fn the_schema_on_file_is_the_one_of_the_types() {
    let is = format!("{}\n", serde_json::to_string_pretty(&manifest::schema()).unwrap());
    let differs = against(&root().join("schema/baton.schema.json"), &is);
    assert!(differs.is_none(), "schema/baton.schema.json is stale; UPDATE_GOLDEN=1 rewrites it");
}

/// The path of every key in a schema; a name that the user chooses is `NAME`.
fn keys(whole: &serde_json::Value, schema: &serde_json::Value, path: &str, found: &mut Vec<String>) {
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(target) = schema["$ref"].as_str() {
        keys(whole, whole.pointer(target.trim_start_matches('#')).unwrap(), path, found);
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        found.push(join(name));
        keys(whole, inner, &join(name), found);
    }
    if schema["additionalProperties"].is_object() {
        keys(whole, &schema["additionalProperties"], &join("NAME"), found);
    }
    schema["anyOf"].as_array().into_iter().flatten().for_each(|inner| keys(whole, inner, path, found));
    if schema["items"].is_object() {
        keys(whole, &schema["items"], path, found);
    }
}

#[test]
fn the_reference_names_every_key_and_no_other() {
    let reference = std::fs::read_to_string(root().join("docs/manifest.md")).unwrap();
    let schema = manifest::schema();
    let mut known = Vec::new();
    keys(&schema, &schema, "", &mut known);
    let mut known: Vec<&str> = known.iter().map(|key| key.trim_start_matches("components.NAME.")).collect();
    // A row of a table: | `key` | type | default | meaning |
    let mut told: Vec<&str> = reference
        .lines()
        .filter(|line| line.split('|').count() == 6)
        .filter_map(|line| line.split('|').nth(1)?.trim().strip_prefix('`')?.strip_suffix('`'))
        .collect();
    known.sort();
    told.sort();
    assert_eq!(told, known, "docs/manifest.md and the schema differ");
}

const CANARY: &str = "hunter2";

#[test]
fn no_error_and_no_dump_shows_what_stands_in_an_environment_or_a_command_line() {
    // Each is wrong in another way, on or beside the line with the secret.
    let wrong = [
        "fleet: f\ncomponents:\n  w: { runtime: process, command: [a, hunter2], env: { P: hunter2 }, replcas: 2 }\n",
        "fleet: f\ncomponents:\n  w: { runtime: process, comand: [a, hunter2] }\n",
        "fleet: f\ncomponents:\n  w: { runtime: process, command: hunter2 }\n",
        "fleet: f\ncomponents:\n  w:\n    runtime: process\n    command: [a, [hunter2]]\n",
        "fleet: f\ncomponents:\n  w:\n    runtime: process\n    command:\n      - a\n      - \"{hunter2}\"\n",
        "fleet: f\ncomponents:\n  w:\n    runtime: process\n    command: [a]\n    env:\n      P: \"{hunter2}\"\n",
        "fleet: f\ncomponents:\n  w:\n    runtime: process\n    command: [a]\n    env:\n      P: \"{port.hunter2}\"\n",
        "fleet: f\ncomponents:\n  w:\n    runtime: process\n    command: [a]\n    env:\n      P: \"hunter2}\"\n",
        "fleet: f\ncomponents:\n  w:\n    runtime: process\n    command: [a]\n    env: P=hunter2\n",
        "fleet: f\ncomponents:\n  w:\n    runtime: process\n    command: [a]\n    env: [P=hunter2]\n",
        "fleet: f\ncomponents:\n  w:\n    runtime: process\n    command: [a]\n    env: { P: [hunter2] }\n",
        "fleet: f\ncomponents:\n  w:\n    runtime: process\n    command: [a]\n    enviroment: { P: hunter2 }\n",
        "fleet: f\ncomponents:\n  w:\n    runtime: process\n    command: [a]\n    env: { P: a }\n    env: { P: hunter2 }\n",
        "fleet: f\ncomponents:\n  w:\n    env:\n      P: a\n      P: hunter2\n    runtime: process\n    command: [a]\n",
        "fleet: f\ncomponents:\n  w:\n    env: { P: !secret hunter2 }\n",
        "fleet: f\ncomponents:\n  w:\n    env: { P: hunter2\n",
        "fleet: f\ncomponents:\n  w:\n    env: { P: \"hunter2 }\n",
        "fleet: f\ncomponents:\n  w:\n    env: { P: @hunter2 }\n",
        "fleet: f\ncomponents:\n  w:\n    env: { P: *hunter2 }\n",
        // A colon that was forgotten makes a key of the value.
        "fleet: f\ncomponents:\n  w:\n    env: { P \"hunter2\" }\n",
        "fleet: f\ncomponents:\n  w:\n    env: { P=hunter2 }\n",
        "fleet: f\ncomponents:\n  w:\n    env: { P hunter2: [a] }\n",
        "fleet: f\ncomponents:\n  w: { runtime: process, command: { --token=hunter2: a } }\n",
        "fleet: f\ncomponents:\n  w: { runtime: process, command: [a], ready: { exec: [a, hunter2], evry: 1s } }\n",
        "fleet: f\ncomponents:\n  w: { runtime: process, command: [a], drain: { begin: { exec: hunter2 } } }\n",
        "fleet: f\ncomponents:\n  w: { runtime: process, command: [a], ready: { http: \"http://u:hunter2@x/\" } }\n",
        "hunter2\n",
        "- hunter2\n",
        "fleet: f\ncomponents: {}\nsecret: hunter2\n",
    ];
    for text in wrong {
        let error = manifest::parse(text, "baton.yaml").expect_err(text);
        let mut told = format!("{error}\n{error:?}");
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            told.push_str(&inner.to_string());
            cause = inner.source();
        }
        assert!(!told.contains(CANARY), "{text}\nwas told as\n{told}");
    }
    let right = "fleet: f\ncomponents:\n  w: { runtime: process, command: [a, hunter2], env: { P: hunter2 } }\n";
    let read = manifest::parse(right, "baton.yaml").unwrap();
    assert!(!format!("{read:?}").contains(CANARY));
    assert_eq!(read.components.values().next().unwrap().env["P"].expose(), CANARY);
}

#[test]
fn a_manifest_beyond_a_limit_is_refused_and_one_at_it_is_read() {
    let with_comment = |size: usize| {
        let head = "fleet: f\ncomponents:\n  w: { runtime: process, command: [a] }\n#";
        format!("{head}{}", "x".repeat(size - head.len()))
    };
    assert!(manifest::parse(&with_comment(1 << 20), "m").is_ok());
    let error = manifest::parse(&with_comment((1 << 20) + 1), "m").unwrap_err();
    assert!(matches!(error, manifest::ManifestError::TooLarge { .. }), "{error}");

    // 33 levels: one more than there may be.
    let nested = |levels: usize| format!("a: {}1{}\n", "[".repeat(levels - 1), "]".repeat(levels - 1));
    let told = |text: &str| manifest::parse(text, "m").unwrap_err().to_string();
    assert!(!told(&nested(32)).contains("levels deep"), "{}", told(&nested(32)));
    assert!(told(&nested(33)).contains("levels deep"), "{}", told(&nested(33)));

    // Each line stands for ten of the line before: a hundred thousand million values in the end.
    let mut bomb = "a0: &a0 [x]\n".to_owned();
    for level in 1..12 {
        bomb.push_str(&format!("a{level}: &a{level} [{}]\n", vec![format!("*a{}", level - 1); 10].join(", ")));
    }
    assert!(told(&bomb).contains("aliases expanded"), "{}", told(&bomb));

    let many: String = (0..30).map(|n| format!("wrong{n}: 1\n")).collect();
    let error = manifest::parse(&format!("fleet: f\ncomponents: {{}}\n{many}"), "m").unwrap_err();
    assert_eq!(error.findings().len(), manifest::MAX_FINDINGS);
    assert!(error.to_string().ends_with("more"), "{error}");
}

#[test]
fn a_file_is_read_and_one_that_cannot_be_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("baton.yaml");
    let error = manifest::load(&path).unwrap_err();
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert!(std::error::Error::source(&error).is_some());
    std::fs::write(&path, "fleet: f\ncomponents:\n  w: { runtime: process, command: [a] }\n").unwrap();
    assert_eq!(manifest::load(&path).unwrap().fleet.as_str(), "f");
    std::fs::write(&path, b"fleet: \xff\n").unwrap();
    assert!(manifest::load(&path).unwrap_err().to_string().contains("UTF-8"));
    std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
    assert!(matches!(manifest::load(&path).unwrap_err(), manifest::ManifestError::TooLarge { .. }));
}

mod any_text {
    use super::goldens;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        /// A piece of any manifest on file is replaced by anything: it is read or refused, never a panic, and every
        /// finding stands in the text.
        #[test]
        fn never_ends_the_reader(pick in any::<prop::sample::Index>(), from in any::<prop::sample::Index>(),
                                 length in 0usize..40, put in "[ -~\\n\\t€]{0,12}") {
            let all = goldens();
            let (_, text) = &all[pick.index(all.len())];
            let chars: Vec<char> = text.chars().collect();
            let from = from.index(chars.len());
            let to = (from + length).min(chars.len());
            let changed: String = chars[..from].iter().copied().chain(put.chars()).chain(chars[to..].iter().copied()).collect();
            if let Err(error) = baton::manifest::parse(&changed, "m") {
                let lines = changed.lines().count() + 1;
                for finding in error.findings() {
                    prop_assert!(finding.line >= 1 && finding.line <= lines, "{finding}");
                }
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}
