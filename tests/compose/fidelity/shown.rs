//! What the engine says of a project's containers, so that two of them can be compared: made-up ids and names are
//! replaced by what they stand for.

use std::collections::BTreeMap;

use serde_json::Value;

use super::ignored::{is_ignored, is_unordered};
use crate::docker::Site;

/// A project's containers by name, and which service each belongs to.
pub struct Shown {
    pub containers: BTreeMap<String, Value>,
    /// Ids by name.
    pub ids: BTreeMap<String, String>,
}

/// Looks at all containers of a project. `former`: the ids of those that these came in place of.
pub fn shown(site: &Site, former: Option<&Shown>) -> Shown {
    let filter = format!("label=com.docker.compose.project={}", site.name);
    let list = site.docker(&["ps", "-aq", "--no-trunc", "--filter", &filter]);
    let mut args = vec!["inspect", "--type", "container"];
    args.extend(list.lines());
    let mut text = site.docker(&args);
    let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    let name = |about: &Value| about["Name"].as_str().unwrap_or_default().trim_start_matches('/').to_owned();
    let id = |about: &Value| about["Id"].as_str().unwrap_or_default().to_owned();
    let ids: BTreeMap<String, String> = all.iter().map(|about| (name(about), id(about))).collect();
    let mut stands_for: Vec<(String, String)> = Vec::new();
    for (of, ids) in [("", Some(&ids)), ("former ", former.map(|former| &former.ids))] {
        for (name, id) in ids.into_iter().flatten() {
            stands_for.push((id.clone(), format!("<{of}{name}>")));
            stands_for.push((id[..12].to_owned(), format!("<short {of}{name}>")));
        }
    }
    for about in &all {
        for (network, endpoint) in about["NetworkSettings"]["Networks"].as_object().into_iter().flatten() {
            stands_for.push((word(endpoint, "NetworkID"), format!("<network {network}>")));
        }
        for mount in about["Mounts"].as_array().into_iter().flatten() {
            let volume = word(mount, "Name");
            if volume.len() == 64 && volume.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                stands_for.push((volume, format!("<volume of {} at {}>", name(about), word(mount, "Destination"))));
            }
        }
    }
    for (made_up, meaning) in stands_for.iter().filter(|(made_up, _)| !made_up.is_empty()) {
        text = text.replace(made_up, meaning);
    }
    let all: Vec<Value> = serde_json::from_str(&text).expect("JSON");
    Shown { containers: all.into_iter().map(|about| (name(&about), in_order(about))).collect(), ids }
}

fn word(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

/// What is in an order of chance, in order.
fn in_order(mut about: Value) -> Value {
    if let Some(Value::String(label)) = about["Config"]["Labels"].get_mut("com.docker.compose.depends_on") {
        let mut entries: Vec<&str> = label.split(',').collect();
        entries.sort_unstable();
        *label = entries.join(",");
    }
    sort(&mut about, &mut Vec::new());
    about
}

fn sort(value: &mut Value, path: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            for (name, below) in map {
                path.push(name.clone());
                sort(below, path);
                path.pop();
            }
        }
        // Mounts go by where they are: the rest of them is what is compared.
        Value::Array(list) if is_unordered(path) => list.sort_by_key(|item| {
            let place = ["Destination", "Target"].map(|key| word(item, key)).concat();
            if place.is_empty() { item.to_string() } else { place }
        }),
        _ => {}
    }
}

/// Where two containers differ: paths, with what the one and the other says.
pub fn differences(one: &Value, other: &Value) -> Vec<String> {
    let mut found = Vec::new();
    compare(one, other, &mut Vec::new(), &mut found);
    found
}

fn compare(one: &Value, other: &Value, path: &mut Vec<String>, found: &mut Vec<String>) {
    if one == other || is_ignored(path) {
        return;
    }
    let steps: Vec<(String, &Value, &Value)> = match (one, other) {
        (Value::Object(a), Value::Object(b)) => {
            let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
            names.sort();
            names.dedup();
            names.into_iter().map(|name| (name.clone(), &one[name], &other[name])).collect()
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            a.iter().zip(b).enumerate().map(|(at, (a, b))| (at.to_string(), a, b)).collect()
        }
        _ => {
            found.push(format!("{}: {one} and {other}", path.join(".")));
            return;
        }
    };
    for (step, one, other) in steps {
        path.push(step);
        compare(one, other, path, found);
        path.pop();
    }
}
