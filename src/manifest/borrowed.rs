//! A manifest whose keys stand in another file: in a Compose file, under `x-baton`.
//!
//! What the other file says in its own words comes as keys of ours, too, and gives way to what `x-baton` says. Both
//! together are laid out as `baton.yaml` would be, and go the way of every manifest: same keys, same checks.

use serde_json::{Map, Value};

use super::error::{Finding, ManifestError};
use super::report::Report;
use super::yaml::{self, Data, Entry, Node, Place, Scalar, Stretch};
use super::{component_names, fleet, keys, read_shape, report, schema};
use crate::model::Manifest;

/// Keys that a Compose file has words of its own for.
const COMPOSES_OWN: &[(&str, &str)] = &[
    ("image", "image"),
    ("command", "command"),
    ("env", "environment"),
    ("env_file", "env_file"),
    ("cwd", "working_dir"),
    ("replicas", "deploy.replicas"),
];

/// A fleet that another file describes.
#[derive(Clone, Default)]
pub struct Borrowed {
    /// Its name.
    pub fleet: String,
    /// Keys for the whole, as the file has them under `x-baton`.
    pub own: Map<String, Value>,
    /// Its components, by name.
    pub components: Vec<BorrowedComponent>,
    /// The file, as people know it, and its text: for the places of what is wrong.
    pub file: Option<(String, String)>,
}

/// A component that another file describes.
#[derive(Clone, Default)]
pub struct BorrowedComponent {
    /// Its name.
    pub name: String,
    /// What the file says in its own words, in ours.
    pub given: Map<String, Value>,
    /// What it says under `x-baton`. Wins.
    pub own: Map<String, Value>,
}

/// Validates it.
///
/// # Errors
/// With everything that is wrong in it.
pub fn assemble(borrowed: &Borrowed) -> Result<Manifest, ManifestError> {
    let (name, text) = borrowed.file.as_ref().map_or(("compose", ""), |(name, text)| (name.as_str(), text.as_str()));
    let raw = yaml::read(text, &mut Vec::new()).map(|document| document.root);
    let mut report = Report::default();
    let manifest = validate(borrowed, raw.as_ref(), &mut report);
    match manifest {
        Some(manifest) if report.is_clean() => Ok(manifest),
        _ => Err(in_their_words(report.into_error(name, text))),
    }
}

fn validate(borrowed: &Borrowed, raw: Option<&Node>, report: &mut Report) -> Option<Manifest> {
    let at_top = ["x-baton".to_owned()];
    let mut top = vec![entry("fleet", placed(&Value::String(borrowed.fleet.clone()), &at_top, raw))];
    for (key, value) in &borrowed.own {
        if key != "fleet" && key != "components" {
            top.push(entry_at(key, value, &at_top, raw));
        }
    }
    let mut components = Vec::new();
    for component in &borrowed.components {
        let at: Vec<String> = ["services", component.name.as_str(), "x-baton"].map(str::to_owned).into();
        let merged = merged(&component.given, &component.own);
        let keys = merged.iter().map(|(key, value)| entry_at(key, value, &at, raw)).collect();
        let stretch = place(&at, raw);
        components.push(Entry {
            key: component.name.clone(),
            key_stretch: stretch,
            value: Node { stretch, data: Data::Map(keys) },
        });
    }
    let stretch = place(&at_top, raw);
    top.push(entry("components", Node { stretch, data: Data::Map(components) }));
    let mut root = Node { stretch, data: Data::Map(top) };
    report.locate(&root);
    for key in ["fleet", "components"].iter().filter(|key| borrowed.own.contains_key(**key)) {
        report.key(&[*key], "the Compose file says that itself: the project and its services; remove the key");
    }
    for component in &borrowed.components {
        for (ours, theirs) in COMPOSES_OWN.iter().filter(|(ours, _)| component.own.contains_key(*ours)) {
            let message = format!("the service says that itself, with `{theirs}`; remove the key here");
            report.key(&["components", component.name.as_str(), ours], message);
        }
        for key in ["release", "runtime"].iter().filter(|key| component.own.contains_key(**key)) {
            report.key(&["components", component.name.as_str(), key], "a service of Compose is a container; remove it");
        }
        if component.own.contains_key("compose") {
            let message = "this is the service itself; `compose` is for a baton.yaml that names services of hosts";
            report.key(&["components", component.name.as_str(), "compose"], message);
        }
    }
    keys::check(&mut root, &schema(), report);
    let names = component_names(&root);
    let written = read_shape(report::to_json(&root), report)?;
    fleet::resolve(written, &names, report)
}

/// What is said in ours wins: key by key in a mapping that both have, else the whole.
fn merged(given: &Map<String, Value>, own: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = given.clone();
    for (key, value) in own {
        match (merged.get_mut(key), value) {
            (Some(Value::Object(below)), Value::Object(above)) if key != "depends_on" => {
                *below = self::merged(below, above)
            }
            _ => {
                merged.insert(key.clone(), value.clone());
            }
        }
    }
    merged
}

fn entry(key: &str, value: Node) -> Entry {
    Entry { key: key.to_owned(), key_stretch: value.stretch, value }
}

fn entry_at(key: &str, value: &Value, above: &[String], raw: Option<&Node>) -> Entry {
    let at: Vec<String> = above.iter().cloned().chain([key.to_owned()]).collect();
    let key_stretch = found(&at, raw).and_then(|(_, key)| key).unwrap_or_else(|| place(&at, raw));
    Entry { key: key.to_owned(), key_stretch, value: placed(value, &at, raw) }
}

/// A value with the places that its text has in the file.
fn placed(value: &Value, at: &[String], raw: Option<&Node>) -> Node {
    let below = |key: String| -> Vec<String> { at.iter().cloned().chain([key]).collect() };
    let data = match value {
        Value::Null => Data::Scalar(String::new(), Scalar::Null),
        Value::Bool(truth) => Data::Scalar(truth.to_string(), Scalar::Bool(*truth)),
        Value::Number(number) => Data::Scalar(
            number.to_string(),
            number.as_i64().map_or_else(|| Scalar::Float(number.as_f64().unwrap_or_default()), Scalar::Whole),
        ),
        Value::String(text) => Data::Scalar(text.clone(), Scalar::Text),
        Value::Array(items) => {
            let items = items.iter().enumerate();
            Data::List(items.map(|(index, item)| placed(item, &below(index.to_string()), raw)).collect())
        }
        Value::Object(object) => Data::Map(object.iter().map(|(key, value)| entry_at(key, value, at, raw)).collect()),
    };
    Node { stretch: place(at, raw), data }
}

/// Where it stands in the file, or the nearest thing around it.
fn place(at: &[String], raw: Option<&Node>) -> Stretch {
    let nearest = (1..=at.len()).rev().find_map(|length| {
        let (node, key) = found(&at[..length], raw)?;
        Some(if length == at.len() { node.stretch } else { key.unwrap_or(node.stretch) })
    });
    nearest.unwrap_or(Stretch { start: Place::START, end: Place::START })
}

/// The node at a path, and its key's place.
fn found<'n>(at: &[String], raw: Option<&'n Node>) -> Option<(&'n Node, Option<Stretch>)> {
    let mut node = raw?;
    let mut key = None;
    for part in at {
        match &node.data {
            Data::Map(entries) => {
                let entry = entries.iter().find(|entry| entry.key == *part)?;
                (node, key) = (&entry.value, Some(entry.key_stretch));
            }
            Data::List(items) => (node, key) = (items.get(part.parse::<usize>().ok()?)?, None),
            Data::Scalar(..) => return None,
        }
    }
    Some((node, key))
}

/// Paths as they are in the file.
fn in_their_words(error: ManifestError) -> ManifestError {
    let ManifestError::Wrong { mut findings, left_out } = error else { return error };
    for finding in &mut findings {
        finding.path = their_path(finding);
    }
    ManifestError::Wrong { findings, left_out }
}

fn their_path(finding: &Finding) -> String {
    match finding.path.strip_prefix("components.").map(|rest| rest.split_once('.').unwrap_or((rest, ""))) {
        Some((service, "")) => format!("services.{service}"),
        Some((service, rest)) => format!("services.{service}.x-baton.{rest}"),
        None if finding.path.is_empty() || finding.path == "components" => "services".to_owned(),
        None => format!("x-baton.{}", finding.path),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const FILE: &str = "services:\n  api:\n    image: shop:1\n    x-baton:\n      update: { ordr: stop-first }\n      \
                        replicas: 3\nx-baton:\n  strategy: fast\n";

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    fn borrowed(top: Value, own: Value) -> Borrowed {
        let given = json!({ "image": "shop:1", "replicas": 2, "update": { "parallelism": 3, "delay": "1s" } });
        Borrowed {
            fleet: "shop".to_owned(),
            own: object(top),
            components: vec![BorrowedComponent { name: "api".to_owned(), given: object(given), own: object(own) }],
            file: Some(("compose.yaml".to_owned(), FILE.to_owned())),
        }
    }

    #[test]
    fn what_is_ours_wins_key_by_key() {
        let manifest =
            assemble(&borrowed(json!({ "strategy": "rolling" }), json!({ "update": { "delay": "2s" } }))).unwrap();
        let api = manifest.components.values().next().unwrap();
        assert_eq!((api.replicas, api.update.parallelism, api.update.delay.as_secs()), (2, 3, 2));
        assert_eq!(manifest.fleet.as_str(), "shop");
    }

    #[test]
    fn what_is_wrong_is_told_with_its_place_in_the_file() {
        let own = json!({ "update": { "ordr": "stop-first" }, "replicas": 3 });
        let error = assemble(&borrowed(json!({ "strategy": "fast" }), own)).unwrap_err();
        let told: Vec<(usize, String)> =
            error.findings().iter().map(|finding| (finding.line, finding.path.clone())).collect();
        let expected = [
            (5, "services.api.x-baton.update.ordr".to_owned()),
            (6, "services.api.x-baton.replicas".to_owned()),
            (8, "x-baton.strategy".to_owned()),
        ];
        assert_eq!(told, expected, "{error}");
        let text = error.to_string();
        assert!(text.contains("compose.yaml:5:17") && text.contains("did you mean \"order\"?"), "{text}");
        assert!(text.contains("deploy.replicas"), "{text}");
    }

    #[test]
    fn a_file_that_is_not_known_costs_the_places_only() {
        let mut borrowed = borrowed(json!({}), json!({ "role": 7 }));
        borrowed.file = None;
        let error = assemble(&borrowed).unwrap_err();
        assert_eq!(error.findings()[0].path, "services.api.x-baton.role");
    }
}
