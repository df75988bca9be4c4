//! Unknown keys and empty values: the tree is walked beside the schema.

use serde_json::{Map, Value};

use super::error::nearest;
use super::report::Report;
use super::yaml::{Data, Node};

/// Keys that people bring from elsewhere, and what they are called here.
const ELSEWHERE: &[(&str, &str)] = &[
    ("services", "components"),
    ("name", "fleet"),
    ("project", "fleet"),
    ("environment", "env"),
    ("args", "command"),
    ("cmd", "command"),
    ("entrypoint", "command"),
    ("exec_start", "command"),
    ("working_dir", "cwd"),
    ("healthcheck", "ready"),
    ("readiness", "ready"),
    ("probe", "ready"),
    ("deploy", "update"),
    ("update_config", "update"),
    ("stop_grace_period", "drain.grace"),
    ("grace_period", "drain.grace"),
    ("scale", "replicas"),
    ("count", "replicas"),
    ("hosts", "on"),
    ("interval", "every"),
    ("retries", "successes"),
    ("url", "http"),
    ("kill_timeout", "stop_timeout"),
];

/// Finds every key that the schema does not know and every key without a value, and takes them out of the tree.
pub(crate) fn check(root: &mut Node, schema: &Value, report: &mut Report) {
    let mut walk = Walk { schema, report, path: Vec::new() };
    walk.node(root, schema);
}

struct Walk<'a, 'r> {
    schema: &'a Value,
    report: &'r mut Report,
    path: Vec<String>,
}

impl<'a> Walk<'a, '_> {
    fn node(&mut self, node: &mut Node, schema: &'a Value) {
        match &mut node.data {
            Data::Scalar(..) => {}
            Data::List(items) => {
                let of = self.branches(schema).into_iter().find_map(|branch| branch.get("items"));
                for (index, item) in items.iter_mut().enumerate() {
                    if let Some(of) = of {
                        self.path.push(index.to_string());
                        self.node(item, of);
                        self.path.pop();
                    }
                }
            }
            Data::Map(entries) => {
                let objects: Vec<&'a Map<String, Value>> =
                    self.branches(schema).into_iter().filter(|branch| is_object(branch)).collect();
                if objects.is_empty() {
                    return;
                }
                entries.retain_mut(|entry| {
                    self.path.push(entry.key.clone());
                    let keep = match child(&objects, &entry.key) {
                        None => {
                            let what = self.unknown(&entry.key, &objects);
                            self.report.key(&self.path, what);
                            self.report.hide(entry.value.stretch);
                            false
                        }
                        Some(_) if is_null(&entry.value) => {
                            self.report.key(&self.path, "no value; write one, or remove the key");
                            false
                        }
                        Some(schema) => {
                            self.node(&mut entry.value, schema);
                            true
                        }
                    };
                    if !keep {
                        self.report.spoil(&self.path);
                    }
                    self.path.pop();
                    keep
                });
            }
        }
    }

    /// What a schema stands for: references followed, alternatives laid side by side.
    fn branches(&self, schema: &'a Value) -> Vec<&'a Map<String, Value>> {
        let Some(object) = schema.as_object() else { return Vec::new() };
        let mut all = vec![object];
        if let Some(target) = object.get("$ref").and_then(Value::as_str) {
            let target = target.strip_prefix('#').and_then(|pointer| self.schema.pointer(pointer));
            all.extend(target.into_iter().flat_map(|target| self.branches(target)));
        }
        if let Some(alternatives) = object.get("anyOf").and_then(Value::as_array) {
            all.extend(alternatives.iter().flat_map(|branch| self.branches(branch)));
        }
        all
    }

    fn unknown(&self, key: &str, objects: &[&'a Map<String, Value>]) -> String {
        if key == "hooks" && self.path.len() == 1 {
            return "hooks are not there yet: this version of Baton runs none; remove the key".to_owned();
        }
        let known: Vec<&str> = objects.iter().flat_map(|object| names(object)).collect();
        let elsewhere = ELSEWHERE.iter().find(|(theirs, _)| *theirs == key).map(|(_, ours)| *ours);
        if let Some(ours) = elsewhere.filter(|ours| known.contains(&ours.split('.').next().unwrap_or(ours))) {
            return format!("unknown key; here it is {ours:?}");
        }
        if let Some(near) = nearest(key, known.iter().copied()) {
            return format!("unknown key; did you mean {near:?}?");
        }
        // The right key in the wrong place: `parallelism` beside `update` and not in it.
        for object in objects {
            for (name, schema) in object.get("properties").and_then(Value::as_object).into_iter().flatten() {
                let inside = self.branches(schema).into_iter().flat_map(names).any(|inner| inner == key);
                if inside {
                    return format!("unknown key; it belongs in {name:?}: `{name}: {{ {key}: ... }}`");
                }
            }
        }
        format!("unknown key; known here: {}", known.join(", "))
    }
}

fn is_null(node: &Node) -> bool {
    matches!(node.data, Data::Scalar(_, super::yaml::Scalar::Null))
}

fn is_object(branch: &Map<String, Value>) -> bool {
    branch.contains_key("properties") || branch.get("additionalProperties").is_some_and(Value::is_object)
}

fn names<'a>(object: &'a Map<String, Value>) -> impl Iterator<Item = &'a str> + use<'a> {
    object.get("properties").and_then(Value::as_object).into_iter().flat_map(Map::keys).map(String::as_str)
}

/// The schema of a key, if one of the objects knows it.
fn child<'a>(objects: &[&'a Map<String, Value>], key: &str) -> Option<&'a Value> {
    objects.iter().find_map(|object| {
        let own = object.get("properties").and_then(|properties| properties.get(key));
        own.or_else(|| object.get("additionalProperties").filter(|any| any.is_object()))
    })
}
