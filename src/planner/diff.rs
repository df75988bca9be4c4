//! What differs between what runs and what is wanted, in words. Names of variables, never values.

use std::collections::BTreeSet;

use crate::model::{Definition, NamedPort, Port};

/// What differs in the spec of two definitions, a phrase each; empty when their texts say the same (then what they
/// stand for differs: the content of a release, an image or an env_file).
pub(super) fn differences(old: &Definition, new: &Definition) -> Vec<String> {
    let mut found = Vec::new();
    if old.runtime != new.runtime {
        found.push(format!("runtime {} -> {}", old.runtime, new.runtime));
    }
    if old.image != new.image {
        found.push(moved("image", old.image.as_deref(), new.image.as_deref()));
    }
    let path = |definition: &Definition| definition.release.as_ref().map(|release| release.path.clone());
    if path(old) != path(new) {
        found.push(moved("release", path(old).as_deref(), path(new).as_deref()));
    }
    if old.command != new.command {
        found.push("command changed".to_owned());
    }
    let names: BTreeSet<&String> = old.env.keys().chain(new.env.keys()).collect();
    for name in names {
        match (old.env.get(name), new.env.get(name)) {
            (None, Some(_)) => found.push(format!("env {name} added")),
            (Some(_), None) => found.push(format!("env {name} removed")),
            (before, after) if before != after => found.push(format!("env {name} changed")),
            _ => {}
        }
    }
    if old.env_file.is_some() != new.env_file.is_some() {
        found.push(moved("env_file", old.env_file.as_deref(), new.env_file.as_deref()));
    }
    if old.cwd != new.cwd {
        found.push(moved("cwd", old.cwd.as_deref(), new.cwd.as_deref()));
    }
    if old.ports != new.ports {
        found.push(format!("ports {} -> {}", ports(&old.ports), ports(&new.ports)));
    }
    found
}

/// The same, and when nothing differs in the text, what must differ behind it.
pub(super) fn explain(old: &Definition, new: &Definition) -> String {
    let mut found = differences(old, new);
    if found.is_empty() {
        let behind = [
            (new.release.is_some(), "release content"),
            (new.image.is_some(), "image id"),
            (new.env_file.is_some(), "env_file content"),
        ];
        let behind: Vec<&str> = behind.iter().filter(|(there, _)| *there).map(|(_, what)| *what).collect();
        let what = if behind.is_empty() { "spec".to_owned() } else { behind.join(" or ") };
        found.push(format!("{what} changed"));
    }
    found.join(", ")
}

fn moved(what: &str, old: Option<&str>, new: Option<&str>) -> String {
    match (old, new) {
        (None, Some(new)) => format!("{what} {new} added"),
        (Some(old), None) => format!("{what} {old} removed"),
        (old, new) => format!("{what} {} -> {}", old.unwrap_or("none"), new.unwrap_or("none")),
    }
}

fn ports(ports: &[NamedPort]) -> String {
    let one = |port: &NamedPort| match port.port {
        Port::Auto => format!("{}: auto", port.name),
        Port::Number(number) => {
            let host = port.host.as_deref().map_or(String::new(), |host| format!("{host}:"));
            format!("{}: {host}{number}{}", port.name, if port.passed { "" } else { " (not passed)" })
        }
    };
    if ports.is_empty() { "none".to_owned() } else { ports.iter().map(one).collect::<Vec<_>>().join(", ") }
}
