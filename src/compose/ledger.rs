//! The pretend engine's memory: what it was told to write, and what it says of it when it is asked. No IO.
//!
//! What is only read comes from the real engine, with what was made here added and what was removed here left out. In a
//! rehearsal [`Stage::Empty`] the project's own containers, networks and volumes are left out too: then Compose makes
//! all of them, with their final names and the numbers from 1, whatever there is now.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::recording::{CONFIG_HASH, IMAGE, NUMBER, PROJECT, Present, SERVICE, VERSION};

/// More than any project writes; beyond it something is wrong.
pub(super) const WRITES_MAX: usize = 20_000;

/// Of an image that is not there. Whoever pulls it knows the real one.
pub const NO_IMAGE: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// What of a network or a volume a file can say.
const STANDING: [&str; 7] = ["Driver", "Options", "Internal", "Attachable", "EnableIPv6", "IPAM", "Labels"];

/// Before what a rehearsal begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// What there is.
    AsItIs,
    /// As if nothing of the project were there.
    Empty,
}

/// What the pretend engine answers.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Ask the real engine, and show the answer to [`Ledger::seen`].
    Upstream,
    /// This. `Null`: no body.
    Here(u16, Value),
}

/// A container that was made here.
#[derive(Clone, Debug, Default)]
pub(super) struct Made {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) body: Value,
    pub(super) networks: Vec<(String, Value)>,
    pub(super) archives: Vec<(String, Vec<u8>)>,
    started: bool,
}

/// What of an image decides how its containers can be rolled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageFacts {
    /// It has a healthcheck of its own.
    pub healthcheck: bool,
    /// `STOPSIGNAL`.
    pub stop_signal: Option<String>,
    /// `VOLUME`s.
    pub volumes: Vec<String>,
}

/// What was written and seen.
#[derive(Debug)]
pub struct Ledger {
    pub(super) project: String,
    stage: Stage,
    /// Services that end by themselves: a container of theirs has ended as soon as it was started.
    jobs: BTreeSet<String>,
    pub(super) made: Vec<Made>,
    pub(super) removed: BTreeSet<String>,
    pub(super) networks: Vec<(String, Value)>,
    pub(super) volumes: Vec<(String, Value)>,
    pub(super) missing_images: BTreeSet<String>,
    pub(super) images: BTreeMap<String, ImageFacts>,
    pub(super) present: BTreeMap<String, Present>,
    /// Networks and volumes of the project that are there, by name: of what the engine tells, what a file can say.
    pub(super) standing: BTreeMap<String, Value>,
    pub(super) unknown: Vec<String>,
    writes: usize,
}

/// A request's path without the API's version, in its parts, and its query.
struct Target {
    parts: Vec<String>,
    query: BTreeMap<String, String>,
}

impl Target {
    fn of(target: &str) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let mut parts: Vec<String> = path.split('/').filter(|part| !part.is_empty()).map(decoded).collect();
        let is_version = |part: &String| {
            part.strip_prefix('v').is_some_and(|n| n.starts_with(|c: char| c.is_ascii_digit()) && !n.contains('-'))
        };
        if parts.len() > 1 && is_version(&parts[0]) {
            parts.remove(0);
        }
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        let query = pairs.map(|(name, value)| (decoded(name), decoded(&value.replace('+', " ")))).collect();
        Self { parts, query }
    }

    fn parts(&self) -> Vec<&str> {
        self.parts.iter().map(String::as_str).collect()
    }

    fn asked(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }
}

/// `%2F` and the like.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let (mut plain, mut at) = (Vec::with_capacity(bytes.len()), 0);
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                plain.push(byte);
                at += 3;
            }
            None => {
                plain.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&plain).into_owned()
}

impl Ledger {
    /// An empty one for a project.
    pub fn new(project: &str, stage: Stage, jobs: BTreeSet<String>) -> Self {
        Self {
            project: project.to_owned(),
            stage,
            jobs,
            made: Vec::new(),
            removed: BTreeSet::new(),
            networks: Vec::new(),
            volumes: Vec::new(),
            missing_images: BTreeSet::new(),
            images: BTreeMap::new(),
            present: BTreeMap::new(),
            standing: BTreeMap::new(),
            unknown: Vec::new(),
            writes: 0,
        }
    }

    /// What to answer to a request.
    pub fn asked(&mut self, method: &str, target: &str, body: &[u8]) -> Reply {
        let target = Target::of(target);
        if matches!(method, "GET" | "HEAD") {
            return self.read(&target);
        }
        self.writes += 1;
        if self.writes > WRITES_MAX {
            return Reply::Here(507, json!({ "message": format!("more than {WRITES_MAX} writes in one rehearsal") }));
        }
        match self.write(method, &target, body) {
            Some(reply) => reply,
            None => {
                self.unknown.push(format!("{method} /{}", target.parts().join("/")));
                Reply::Here(501, json!({ "message": "not known in a rehearsal" }))
            }
        }
    }

    fn read(&self, target: &Target) -> Reply {
        match target.parts().as_slice() {
            // A stream without an end: nothing will happen here that it could tell.
            ["events"] => Reply::Here(200, Value::Null),
            ["containers", id, "json"] => match self.find(id) {
                Some(made) => Reply::Here(200, self.inspected(made)),
                None => Reply::Upstream,
            },
            ["networks", name] => match self.networks.iter().find(|(known, _)| known == name) {
                Some((name, body)) => Reply::Here(200, network(name, body)),
                None => Reply::Upstream,
            },
            ["volumes", name] => match self.volumes.iter().find(|(known, _)| known == name) {
                Some((name, body)) => Reply::Here(200, volume(name, body)),
                None => Reply::Upstream,
            },
            _ => Reply::Upstream,
        }
    }

    fn write(&mut self, method: &str, target: &Target, body: &[u8]) -> Option<Reply> {
        let parts = target.parts();
        let parsed = || serde_json::from_slice::<Value>(body).unwrap_or(Value::Null);
        let done = || Some(Reply::Here(204, Value::Null));
        match (method, parts.as_slice()) {
            ("POST", ["containers", "create"]) => Some(self.create(target.asked("name"), parsed())),
            ("POST", ["containers", id, "rename"]) => {
                let name = target.asked("name").to_owned();
                // One of the real ones would only be renamed to be removed.
                self.change(id, |made| made.name = name);
                done()
            }
            ("POST", ["containers", id, "start" | "restart"]) => {
                self.change(id, |made| made.started = true);
                done()
            }
            ("POST", ["containers", _, "stop" | "kill" | "pause" | "unpause"]) => done(),
            ("POST", ["containers", _, "wait"]) => Some(Reply::Here(200, json!({ "StatusCode": 0 }))),
            ("DELETE", ["containers", id]) => {
                self.removed.insert((*id).to_owned());
                self.made.retain(|made| made.id != *id && made.name != *id);
                done()
            }
            ("PUT", ["containers", id, "archive"]) => {
                let (path, body) = (target.asked("path").to_owned(), body.to_vec());
                self.change(id, |made| made.archives.push((path, body)));
                Some(Reply::Here(200, Value::Null))
            }
            ("POST", ["networks", "create"]) => {
                let body = parsed();
                let name = text(&body, "Name").to_owned();
                let answer = json!({ "Id": name, "Warning": "" });
                self.networks.retain(|(known, _)| *known != name);
                self.networks.push((name, body));
                Some(Reply::Here(201, answer))
            }
            ("POST", ["networks", name, "connect"]) => {
                let mut body = parsed();
                let container = text(&body, "Container").to_owned();
                if let Some(body) = body.as_object_mut() {
                    body.remove("Container");
                }
                let name = (*name).to_owned();
                self.change(&container, |made| made.networks.push((name, body)));
                Some(Reply::Here(200, Value::Null))
            }
            ("POST", ["networks", name, "disconnect"]) => {
                let container = text(&parsed(), "Container").to_owned();
                self.change(&container, |made| made.networks.retain(|(known, _)| known != name));
                Some(Reply::Here(200, Value::Null))
            }
            ("DELETE", ["networks" | "volumes", name]) => {
                self.removed.insert((*name).to_owned());
                done()
            }
            ("POST", ["volumes", "create"]) => {
                let body = parsed();
                let name = text(&body, "Name").to_owned();
                let answer = volume(&name, &body);
                self.volumes.retain(|(known, _)| *known != name);
                self.volumes.push((name, body));
                Some(Reply::Here(201, answer))
            }
            // A pull tells of its progress, a JSON value a line. This one is over at once.
            ("POST", ["images", "create"]) => Some(Reply::Here(200, json!({ "status": "not pulled in a rehearsal" }))),
            _ => None,
        }
    }

    fn create(&mut self, name: &str, body: Value) -> Reply {
        if self.made.iter().any(|made| made.name == name) {
            return Reply::Here(409, json!({ "message": format!("the name {name:?} is given twice") }));
        }
        // The same for the same name: what is made of it is the same in every rehearsal.
        let digest = Sha256::digest(name.as_bytes());
        let id: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        self.made.push(Made { id: id.clone(), name: name.to_owned(), body, ..Made::default() });
        Reply::Here(201, json!({ "Id": id, "Warnings": [] }))
    }

    fn find(&self, id: &str) -> Option<&Made> {
        self.made.iter().find(|made| made.id == id || made.name == id)
    }

    fn change(&mut self, id: &str, change: impl FnOnce(&mut Made)) {
        if let Some(made) = self.made.iter_mut().find(|made| made.id == id || made.name == id) {
            change(made);
        }
    }

    /// What the real engine answered, and what is told of it.
    pub fn seen(&mut self, target: &str, status: u16, body: Value) -> (u16, Value) {
        let target = Target::of(target);
        let parts = target.parts();
        if let ["networks" | "volumes", name] = parts.as_slice()
            && self.stage == Stage::AsItIs
            && status == 200
            && text(&body["Labels"], PROJECT) == self.project
        {
            let kept = STANDING.map(|key| (key.to_owned(), body[key].clone()));
            self.standing.insert((*name).to_owned(), Value::Object(kept.into_iter().collect()));
        }
        match parts.as_slice() {
            ["containers", "json"] => (status, self.listed(&target, body)),
            ["containers", id, "json"] if self.is_hidden(&body["Config"]) || self.removed.contains(*id) => {
                (404, json!({ "message": format!("No such container: {id}") }))
            }
            ["networks"] => (status, self.without_hidden(body)),
            ["networks", name] if self.is_hidden(&body) => {
                (404, json!({ "message": format!("network {name} not found") }))
            }
            ["volumes", name] if self.is_hidden(&body) => {
                (404, json!({ "message": format!("get {name}: no such volume") }))
            }
            ["volumes"] => {
                let mut body = body;
                if let Some(volumes) = body.get_mut("Volumes") {
                    *volumes = self.without_hidden(volumes.take());
                }
                (status, body)
            }
            // The name of an image has slashes.
            ["images", name @ .., "json"] if !name.is_empty() => self.image(&name.join("/"), status, body),
            _ => (status, body),
        }
    }

    /// Whether something of the project is to be left out.
    fn is_hidden(&self, object: &Value) -> bool {
        self.stage == Stage::Empty && text(&object["Labels"], PROJECT) == self.project
    }

    fn without_hidden(&self, list: Value) -> Value {
        match list {
            Value::Array(items) => Value::Array(items.into_iter().filter(|item| !self.is_hidden(item)).collect()),
            other => other,
        }
    }

    fn image(&mut self, name: &str, status: u16, body: Value) -> (u16, Value) {
        if status == 404 {
            self.missing_images.insert(name.to_owned());
            let config = json!({ "Env": [], "Labels": {} });
            return (200, json!({ "Id": NO_IMAGE, "RepoTags": [name], "RepoDigests": [], "Config": config }));
        }
        let config = &body["Config"];
        let test = config["Healthcheck"]["Test"].as_array();
        let volumes = config["Volumes"].as_object();
        let facts = ImageFacts {
            healthcheck: test.is_some_and(|test| test.first().is_some_and(|word| word != "NONE")),
            stop_signal: config["StopSignal"].as_str().filter(|signal| !signal.is_empty()).map(str::to_owned),
            volumes: volumes.map(|volumes| volumes.keys().cloned().collect()).unwrap_or_default(),
        };
        self.images.insert(name.to_owned(), facts);
        (status, body)
    }

    /// A list of containers: the real ones, and those made here that the filters ask for.
    fn listed(&mut self, target: &Target, body: Value) -> Value {
        let Value::Array(real) = body else { return body };
        for entry in real.iter().filter(|entry| text(&entry["Labels"], PROJECT) == self.project) {
            let (id, labels) = (text(entry, "Id").to_owned(), &entry["Labels"]);
            let present = Present {
                service: text(labels, SERVICE).to_owned(),
                number: text(labels, NUMBER).parse().unwrap_or(0),
                config_hash: text(labels, CONFIG_HASH).to_owned(),
                image_id: text(labels, IMAGE).to_owned(),
                made_by: text(labels, VERSION).to_owned(),
                name: entry["Names"][0].as_str().unwrap_or_default().trim_start_matches('/').to_owned(),
            };
            self.present.insert(id, present);
        }
        let mut list: Vec<Value> = real
            .into_iter()
            .filter(|entry| !self.is_hidden(entry) && !self.removed.contains(text(entry, "Id")))
            .collect();
        let filters: Value = serde_json::from_str(target.asked("filters")).unwrap_or(Value::Null);
        let all = matches!(target.asked("all"), "1" | "true" | "True");
        for made in &self.made {
            let wanted = (all || self.state(made).0 == "running") && asked_for(&filters, made);
            if wanted {
                list.push(self.entry(made));
            }
        }
        Value::Array(list)
    }

    /// Its state, and whether that is a good end.
    fn state(&self, made: &Made) -> (&'static str, bool) {
        let job = self.jobs.contains(text(&made.body["Labels"], SERVICE));
        match (made.started, job) {
            (false, _) => ("created", false),
            (true, true) => ("exited", true),
            (true, false) => ("running", false),
        }
    }

    fn entry(&self, made: &Made) -> Value {
        json!({
            "Id": made.id, "Names": [format!("/{}", made.name)], "Image": made.body["Image"],
            "ImageID": text(&made.body["Labels"], IMAGE), "Command": "", "Created": 0, "Ports": [],
            "Labels": made.body["Labels"], "State": self.state(made).0, "Status": "",
            "HostConfig": { "NetworkMode": made.body["HostConfig"]["NetworkMode"] },
            "NetworkSettings": { "Networks": endpoints(made) }, "Mounts": [],
        })
    }

    fn inspected(&self, made: &Made) -> Value {
        let (status, _) = self.state(made);
        let running = status == "running";
        let config: Map<String, Value> = made
            .body
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(key, _)| !matches!(key.as_str(), "HostConfig" | "NetworkingConfig"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let mut state = json!({ "Status": status, "Running": running, "ExitCode": 0, "Error": "" });
        if running {
            state["Health"] = json!({ "Status": "healthy", "FailingStreak": 0, "Log": [] });
        }
        json!({
            "Id": made.id, "Name": format!("/{}", made.name), "Created": "2000-01-01T00:00:00Z", "Path": "",
            "Args": [], "State": state, "Image": text(&made.body["Labels"], IMAGE), "Config": config,
            "HostConfig": made.body["HostConfig"], "Mounts": [], "RestartCount": 0, "Driver": "", "Platform": "linux",
            "NetworkSettings": { "Networks": endpoints(made), "Ports": {} },
        })
    }
}

fn endpoints(made: &Made) -> Value {
    let mut all = made.body["NetworkingConfig"]["EndpointsConfig"].as_object().cloned().unwrap_or_default();
    all.extend(made.networks.iter().map(|(name, body)| (name.clone(), body["EndpointConfig"].clone())));
    Value::Object(all)
}

fn network(name: &str, body: &Value) -> Value {
    let or = |key: &str, default: Value| if body[key].is_null() { default } else { body[key].clone() };
    json!({
        "Name": name, "Id": name, "Created": "2000-01-01T00:00:00Z", "Scope": "local", "Containers": {},
        "Driver": or("Driver", json!("bridge")), "Labels": or("Labels", json!({})), "Options": or("Options", json!({})),
        "IPAM": or("IPAM", json!({})), "Internal": or("Internal", json!(false)),
        "Attachable": or("Attachable", json!(false)), "EnableIPv6": or("EnableIPv6", json!(false)),
    })
}

fn volume(name: &str, body: &Value) -> Value {
    let driver = body["Driver"].as_str().filter(|driver| !driver.is_empty()).unwrap_or("local");
    json!({
        "Name": name, "Driver": driver, "Labels": body["Labels"], "Options": body["DriverOpts"], "Scope": "local",
        "Mountpoint": "", "CreatedAt": "2000-01-01T00:00:00Z",
    })
}

/// The text under a key, else none.
pub(super) fn text<'a>(object: &'a Value, key: &str) -> &'a str {
    object.get(key).and_then(Value::as_str).unwrap_or_default()
}

/// Whether filters of a list ask for a container. Both spellings: a list, and a mapping to `true`.
fn asked_for(filters: &Value, made: &Made) -> bool {
    let words = |value: &Value| -> Vec<String> {
        match value {
            Value::Array(items) => items.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
            Value::Object(object) => object.keys().cloned().collect(),
            _ => Vec::new(),
        }
    };
    let labels = &made.body["Labels"];
    filters.as_object().into_iter().flatten().all(|(kind, wanted)| match kind.as_str() {
        "label" => words(wanted).iter().all(|label| match label.split_once('=') {
            Some((name, value)) => labels.get(name).and_then(Value::as_str) == Some(value),
            None => labels.get(label).is_some(),
        }),
        // Each name is a part to be found.
        "name" => words(wanted).iter().any(|name| made.name.contains(name.trim_matches(['^', '/', '$']))),
        "id" => words(wanted).iter().any(|id| made.id.starts_with(id)),
        _ => false,
    })
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
