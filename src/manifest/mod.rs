//! Text to validated model, with errors that name the key, the line and the fix.
//!
//! The way of a text: [`yaml`] reads it to a tree that knows its places; [`keys`] walks the tree beside the JSON Schema
//! and takes out what the schema does not know; serde reads the rest into [`shape`], a wrong value at a time; then
//! [`component`] (with [`lifecycle`] and [`joint`]) and [`fleet`] judge what only the whole can tell. All of them add
//! to one [`report`], so that a person
//! sees everything that is wrong at once. Keys that stand in a Compose file come in through [`borrowed`].

mod borrowed;
mod component;
mod error;
mod fleet;
mod forms;
mod joint;
mod keys;
mod lifecycle;
mod net;
mod report;
mod scalar;
mod schema;
mod shape;
mod text;
mod traffic;
mod yaml;

use std::io::Read;
use std::path::Path;

use serde_json::Value;

pub use borrowed::{Borrowed, BorrowedComponent, assemble};
pub use error::{Finding, MAX_FINDINGS, ManifestError};
pub use schema::schema;

use crate::model::Manifest;
use report::Report;

/// Reads and validates the manifest in a file.
///
/// # Errors
/// When the file cannot be read, or with everything that is wrong in it.
pub fn load(path: &Path) -> Result<Manifest, ManifestError> {
    let name = path.display().to_string();
    let unreadable = |source| ManifestError::Read { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    // One byte more than allowed shows that there is more, however large the file is.
    file.take(yaml::MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() > yaml::MAX_BYTES {
        return Err(ManifestError::TooLarge { name });
    }
    let text = String::from_utf8(bytes).map_err(|_| ManifestError::NotText { name: name.clone() })?;
    parse(&text, &name)
}

/// Reads and validates a manifest's text; `name` is what errors call it.
///
/// # Errors
/// With everything that is wrong in it.
pub fn parse(text: &str, name: &str) -> Result<Manifest, ManifestError> {
    if text.len() > yaml::MAX_BYTES {
        return Err(ManifestError::TooLarge { name: name.to_owned() });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut report = Report::default();
    match validate(text, &mut report) {
        Some(manifest) if report.is_clean() => Ok(manifest),
        _ => Err(report.into_error(name, text)),
    }
}

/// Reads another small YAML file of ours (a policy) with the same strictness: no duplicate keys, bounded, one document.
/// The type itself must deny unknown fields.
///
/// # Errors
/// For people: everything that is wrong with it, joined by `; `.
pub fn strict<T: serde::de::DeserializeOwned>(text: &str) -> Result<T, String> {
    if text.len() > yaml::MAX_BYTES {
        return Err(format!("larger than {} bytes", yaml::MAX_BYTES));
    }
    let mut findings = Vec::new();
    let document = yaml::read(text, &mut findings);
    let Some(document) = document.filter(|_| findings.is_empty()) else {
        return Err(findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "));
    };
    serde_path_to_error::deserialize(report::to_json(&document.root)).map_err(|error| error.to_string())
}

fn validate(text: &str, report: &mut Report) -> Option<Manifest> {
    let mut early = Vec::new();
    let document = yaml::read(text, &mut early);
    report.add(early);
    let yaml::Document { mut root, dropped } = document?;
    report.locate(&root);
    dropped.into_iter().for_each(|stretch| report.hide(stretch));
    if !matches!(root.data, yaml::Data::Map(_)) {
        report.hide(root.stretch);
        report.value::<&str>(&[], "a manifest is a mapping with `fleet` and `components`");
        return None;
    }
    keys::check(&mut root, &schema(), report);
    let names = component_names(&root);
    let json = report::to_json(&root);
    let written = read_shape(json.clone(), report)?;
    let mut manifest = fleet::resolve(written, &names, report)?;
    for (name, definition) in &mut manifest.components {
        if let Some(remote) = definition.compose.as_mut().and_then(|compose| compose.remote.as_mut()) {
            remote.own = own_keys(&json["components"][name.as_str()]);
        }
    }
    Some(manifest)
}

/// What a component of hosts with projects of their own says itself: each host joins it to what its service says.
fn own_keys(written: &Value) -> String {
    let mut keys = written.as_object().cloned().unwrap_or_default();
    // Which hosts and how many is for the whole; what runs is for the hosts.
    ["compose", "on", "replicas", "runtime"].into_iter().for_each(|key| {
        keys.remove(key);
    });
    Value::Object(keys).to_string()
}

/// The names under `components`, those too whose entry is wrong: others may refer to them.
fn component_names(root: &yaml::Node) -> Vec<String> {
    let entries = |node: &yaml::Node| match &node.data {
        yaml::Data::Map(entries) => entries.clone(),
        _ => Vec::new(),
    };
    let components = entries(root).into_iter().find(|entry| entry.key == "components");
    components.map(|entry| entries(&entry.value)).unwrap_or_default().into_iter().map(|entry| entry.key).collect()
}

/// Reads the types. Serde stops at the first wrong value, so that one is reported, taken out, and the rest read again.
fn read_shape(mut json: Value, report: &mut Report) -> Option<shape::Fleet> {
    while !report.is_full() {
        let error = match serde_path_to_error::deserialize::<_, shape::Fleet>(&json) {
            Ok(written) => return Some(written),
            Err(error) => error,
        };
        let path: Vec<String> = error.path().iter().filter_map(segment).collect();
        report.value(&path, error.inner().to_string());
        report.spoil(&path);
        if !take_out(&mut json, &path) {
            return None;
        }
    }
    None
}

fn segment(segment: &serde_path_to_error::Segment) -> Option<String> {
    use serde_path_to_error::Segment;
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

/// Removes the innermost key on the path that stands in a mapping; an item of a list goes with its whole list, because
/// the places of the others would move.
fn take_out(json: &mut Value, path: &[String]) -> bool {
    for length in (1..=path.len()).rev() {
        let mut at = Some(&mut *json);
        for part in &path[..length - 1] {
            at = at.and_then(|value| match value {
                Value::Object(object) => object.get_mut(part),
                Value::Array(items) => part.parse().ok().and_then(|index: usize| items.get_mut(index)),
                _ => None,
            });
        }
        if let Some(Value::Object(object)) = at {
            return object.shift_remove(&path[length - 1]).is_some();
        }
    }
    false
}
