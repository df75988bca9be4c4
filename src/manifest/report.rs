//! Everything found wrong so far, and the map from keys to the places where they stand.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Number, Value};

use super::error::{Finding, MAX_FINDINGS, ManifestError};
use super::yaml::{Data, Node, Place, Scalar, Stretch};

/// Where a key and its value stand; an item of a list has no key.
#[derive(Clone, Copy, Debug)]
struct Spot {
    key: Option<Stretch>,
    value: Stretch,
}

/// Collects findings. Paths are the keys from the root, an item of a list by its index.
#[derive(Default)]
pub(crate) struct Report {
    spots: BTreeMap<Vec<String>, Spot>,
    findings: Vec<Finding>,
    /// Stretches of the text that no excerpt may show.
    secrets: Vec<Stretch>,
    /// Components and top-level keys about which something is known to be wrong already: what else is missing there
    /// may be missing because of it.
    spoilt: BTreeSet<Vec<String>>,
}

impl Report {
    /// Remembers where everything stands. Environments and command lines become places that no excerpt shows.
    pub(crate) fn locate(&mut self, root: &Node) {
        self.locate_node(root, &mut Vec::new());
    }

    fn locate_node(&mut self, node: &Node, path: &mut Vec<String>) {
        if is_secret(path, node) {
            self.secrets.push(node.stretch);
        }
        match &node.data {
            Data::Scalar(..) => {}
            Data::List(items) => {
                for (index, item) in items.iter().enumerate() {
                    path.push(index.to_string());
                    self.spots.insert(path.clone(), Spot { key: None, value: item.stretch });
                    self.locate_node(item, path);
                    path.pop();
                }
            }
            Data::Map(entries) => {
                for entry in entries {
                    if is_verbatim(path) && !is_plain_name(&entry.key) {
                        self.secrets.push(entry.key_stretch);
                    }
                    path.push(entry.key.clone());
                    let spot = Spot { key: Some(entry.key_stretch), value: entry.value.stretch };
                    self.spots.insert(path.clone(), spot);
                    self.locate_node(&entry.value, path);
                    path.pop();
                }
            }
        }
    }

    /// No excerpt may show this.
    pub(crate) fn hide(&mut self, stretch: Stretch) {
        self.secrets.push(stretch);
    }

    /// Findings that were made before there was a map.
    pub(crate) fn add(&mut self, findings: Vec<Finding>) {
        self.findings.extend(findings);
    }

    /// Something is wrong with a key.
    pub(crate) fn key<S: AsRef<str>>(&mut self, path: &[S], message: impl Into<String>) {
        self.find(path, message.into(), true);
    }

    /// Something is wrong with a value.
    pub(crate) fn value<S: AsRef<str>>(&mut self, path: &[S], message: impl Into<String>) {
        self.find(path, message.into(), false);
    }

    fn find<S: AsRef<str>>(&mut self, path: &[S], message: String, at_key: bool) {
        let path: Vec<String> = path.iter().map(|part| part.as_ref().to_owned()).collect();
        let shown = display(&path);
        // What is not written stands where the nearest thing around it stands.
        let spot = (0..=path.len()).rev().find_map(|length| Some((length, self.spots.get(&path[..length])?)));
        let finding = match spot {
            None => Finding::at(Place::START, shown, message),
            Some((length, spot)) => {
                let at_key = at_key || length < path.len();
                Finding::over(spot.key.filter(|_| at_key).unwrap_or(spot.value), shown, message)
            }
        };
        self.findings.push(finding);
    }

    /// From here on, the component or top-level key that this path is in is known to be wrong.
    pub(crate) fn spoil<S: AsRef<str>>(&mut self, path: &[S]) {
        let depth = if path.first().is_some_and(|top| top.as_ref() == "components") { 2 } else { 1 };
        self.spoilt.insert(path.iter().take(depth).map(|part| part.as_ref().to_owned()).collect());
    }

    /// Whether the component or top-level key is known to be wrong.
    pub(crate) fn is_spoilt(&self, path: &[&str]) -> bool {
        self.spoilt.iter().any(|spoilt| spoilt.iter().map(String::as_str).eq(path.iter().copied()))
    }

    /// Whether nothing is wrong.
    pub(crate) fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether there is more already than anybody will read.
    pub(crate) fn is_full(&self) -> bool {
        self.findings.len() > MAX_FINDINGS
    }

    /// All findings, in the order of the text.
    pub(crate) fn into_error(self, name: &str, text: &str) -> ManifestError {
        let secrets = self.secrets;
        let mut findings: Vec<Finding> =
            self.findings.into_iter().map(|finding| finding.located(name, text, &secrets)).collect();
        findings.sort_by_key(|finding| (finding.line, finding.column));
        findings.dedup();
        let left_out = findings.len().saturating_sub(MAX_FINDINGS);
        findings.truncate(MAX_FINDINGS);
        ManifestError::Wrong { findings, left_out }
    }
}

/// `components.api.stages[0]`: as people write a path. A key among verbatim values may be a value that lost its colon
/// (`TOKEN "secret"`), so no more of it is shown than could be the name of a variable.
fn display(path: &[String]) -> String {
    let mut text = String::new();
    for (place, part) in path.iter().enumerate() {
        if is_verbatim(&path[..place]) && !is_plain_name(part) {
            text.push('.');
            text.extend(part.chars().take_while(|c| is_of_name(*c)));
            text.push('…');
            break;
        }
        if part.bytes().all(|b| b.is_ascii_digit()) && !part.is_empty() && !text.is_empty() {
            text.push_str(&format!("[{part}]"));
            continue;
        }
        if !text.is_empty() {
            text.push('.');
        }
        text.push_str(part);
    }
    text
}

/// Whether values here are written as they stand and may be secrets.
fn is_verbatim(path: &[String]) -> bool {
    match path {
        [components, _, key, ..] if components == "components" && (key == "env" || key == "command") => true,
        [components, _, key, rest @ ..] if components == "components" && (key == "ready" || key == "drain") => {
            rest.iter().any(|part| part == "exec")
        }
        _ => false,
    }
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.')
}

/// Whether a key can be shown as the name of a variable, or as a place in a list.
fn is_plain_name(key: &str) -> bool {
    !key.is_empty() && key.chars().all(is_of_name)
}

fn is_secret(path: &[String], node: &Node) -> bool {
    let credentials = match &node.data {
        Data::Scalar(text, _) => text.contains("://") && text.contains('@'),
        _ => false,
    };
    credentials || is_verbatim(path)
}

/// The tree as JSON, for serde. In environments and command lines numbers and booleans become the text as written.
pub(crate) fn to_json(node: &Node) -> Value {
    json(node, &mut Vec::new())
}

fn json(node: &Node, path: &mut Vec<String>) -> Value {
    match &node.data {
        Data::Scalar(_, Scalar::Null) => Value::Null,
        Data::Scalar(text, _) if is_verbatim(path) => Value::String(text.clone()),
        Data::Scalar(_, Scalar::Bool(truth)) => Value::Bool(*truth),
        Data::Scalar(_, Scalar::Whole(number)) => Value::Number((*number).into()),
        Data::Scalar(text, Scalar::Float(number)) => {
            Number::from_f64(*number).map_or_else(|| Value::String(text.clone()), Value::Number)
        }
        Data::Scalar(text, Scalar::Text) => Value::String(text.clone()),
        Data::List(items) => {
            let items = items.iter().enumerate().map(|(index, item)| {
                path.push(index.to_string());
                let value = json(item, path);
                path.pop();
                value
            });
            Value::Array(items.collect())
        }
        Data::Map(entries) => {
            let entries = entries.iter().map(|entry| {
                path.push(entry.key.clone());
                let value = json(&entry.value, path);
                path.pop();
                (entry.key.clone(), value)
            });
            Value::Object(entries.collect::<Map<String, Value>>())
        }
    }
}
