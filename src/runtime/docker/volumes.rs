//! Anonymous volumes go from the container that is replaced to the one that replaces it, by destination.
//!
//! As Compose does it: what the old one has at a place that the image calls a volume, or that the service gives an
//! anonymous one, is mounted there again. What the new body names for a place itself, wins.

use std::collections::BTreeSet;

use serde_json::{Value, json};

/// What the old container has somewhere.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OldMount {
    /// `volume`, `bind`, ...
    pub(super) kind: String,
    /// The volume's name, or the path on the host.
    pub(super) source: String,
    /// Where.
    pub(super) at: String,
    pub(super) writable: bool,
}

/// Names that the engine makes up: 64 hex digits.
fn is_anonymous(name: &str) -> bool {
    name.is_empty() || (name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn plain(path: &str) -> &str {
    match path.trim_end_matches('/') {
        "" => "/",
        path => path,
    }
}

/// Source and place of an entry of `Binds`.
fn bind_parts(bind: &str) -> (&str, &str) {
    let mut parts = bind.split(':');
    match (parts.next(), parts.next()) {
        (Some(source), Some(at)) => (source, plain(at)),
        // A bare path: an anonymous volume there.
        (Some(at), None) => ("", plain(at)),
        _ => ("", ""),
    }
}

fn list<'a>(body: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
    body["HostConfig"][name].as_array().into_iter().flatten()
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_default()
}

fn is_anonymous_mount(mount: &Value) -> bool {
    text(mount, "Type") == "volume" && is_anonymous(text(mount, "Source"))
}

/// Puts the old container's volumes into the body of the new one. Untouched where nothing is to be carried.
pub(super) fn carry(body: &mut Value, image_volumes: &[String], old: &[OldMount]) {
    let mut named: BTreeSet<String> = BTreeSet::new();
    let mut open: BTreeSet<String> = image_volumes.iter().map(|path| plain(path).to_owned()).collect();
    let keys = |value: &Value| value.as_object().into_iter().flat_map(|map| map.keys()).cloned().collect::<Vec<_>>();
    open.extend(keys(&body["Volumes"]).iter().map(|path| plain(path).to_owned()));
    named.extend(keys(&body["HostConfig"]["Tmpfs"]).iter().map(|path| plain(path).to_owned()));
    for mount in list(body, "Mounts") {
        let places = if is_anonymous_mount(mount) { &mut open } else { &mut named };
        places.insert(plain(text(mount, "Target")).to_owned());
    }
    for bind in list(body, "Binds").filter_map(Value::as_str) {
        let (source, at) = bind_parts(bind);
        let places = if is_anonymous(source) { &mut open } else { &mut named };
        places.insert(at.to_owned());
    }
    for mount in old {
        let at = plain(&mount.at);
        if mount.kind == "tmpfs" || mount.source.is_empty() || named.contains(at) || !open.contains(at) {
            continue;
        }
        replace(body, at, mount);
    }
}

fn replace(body: &mut Value, at: &str, old: &OldMount) {
    if !body["HostConfig"].is_object() {
        body["HostConfig"] = json!({});
    }
    let host = &mut body["HostConfig"];
    if let Some(binds) = host.get_mut("Binds").and_then(Value::as_array_mut) {
        binds.retain(|bind| bind.as_str().is_none_or(|bind| bind_parts(bind).1 != at));
    }
    if !host["Mounts"].is_array() {
        host["Mounts"] = json!([]);
    }
    let Some(mounts) = host["Mounts"].as_array_mut() else { return };
    let mut carried = json!({ "Type": old.kind, "Source": old.source, "Target": at });
    if !old.writable {
        carried["ReadOnly"] = json!(true);
    }
    // Options that the file gives a new volume are not those of one that is there.
    match mounts.iter_mut().find(|mount| plain(text(mount, "Target")) == at) {
        Some(mount) => *mount = carried,
        None => mounts.push(carried),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const STALE: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn old(kind: &str, source: &str, at: &str) -> OldMount {
        OldMount { kind: kind.to_owned(), source: source.to_owned(), at: at.to_owned(), writable: true }
    }

    fn carried(mut body: Value, image: &[&str], mounts: &[OldMount]) -> Value {
        let image: Vec<String> = image.iter().map(|path| (*path).to_owned()).collect();
        carry(&mut body, &image, mounts);
        body["HostConfig"].take()
    }

    #[test]
    fn a_volume_of_the_image_is_carried_and_a_strange_one_is_not() {
        let mounts = [old("volume", OLD, "/data"), old("volume", OLD, "/gone"), old("tmpfs", "x", "/tmp")];
        let host = carried(json!({}), &["/data/", "/tmp"], &mounts);
        assert_eq!(host, json!({ "Mounts": [{ "Type": "volume", "Source": OLD, "Target": "/data" }] }));
    }

    #[test]
    fn an_anonymous_volume_of_the_service_is_carried_in_each_of_its_forms() {
        let mounts = [old("volume", OLD, "/data")];
        let wanted = json!([{ "Type": "volume", "Source": OLD, "Target": "/data" }]);
        assert_eq!(carried(json!({ "Volumes": { "/data": {} } }), &[], &mounts)["Mounts"], wanted);
        let stale = json!({ "HostConfig": { "Mounts": [{ "Type": "volume", "Source": STALE, "Target": "/data" }] } });
        assert_eq!(carried(stale, &[], &mounts)["Mounts"], wanted);
        let new = json!({ "Type": "volume", "Target": "/data", "VolumeOptions": { "NoCopy": true } });
        assert_eq!(carried(json!({ "HostConfig": { "Mounts": [new] } }), &[], &mounts)["Mounts"], wanted);
        let bind = json!({ "HostConfig": { "Binds": [format!("{STALE}:/data:rw"), "named:/other:rw"] } });
        let host = carried(bind, &[], &mounts);
        assert_eq!((&host["Mounts"], &host["Binds"]), (&wanted, &json!(["named:/other:rw"])));
    }

    #[test]
    fn what_the_body_names_itself_wins_and_a_body_without_need_is_left_word_for_word() {
        let mounts = [old("volume", OLD, "/data")];
        for host in [
            json!({ "Binds": ["named:/data:rw"], "Mounts": null }),
            json!({ "Mounts": [{ "Type": "volume", "Source": "named", "Target": "/data/" }] }),
            json!({ "Mounts": [{ "Type": "bind", "Source": "/srv", "Target": "/data" }] }),
            json!({ "Tmpfs": { "/data": "" } }),
        ] {
            let body = json!({ "Image": "x", "HostConfig": host });
            assert_eq!(carried(body, &["/data"], &mounts), host);
        }
    }

    #[test]
    fn a_mount_that_could_only_be_read_is_so_again() {
        let mounts = [OldMount { writable: false, ..old("volume", OLD, "/data") }];
        assert_eq!(carried(json!({}), &["/data"], &mounts)["Mounts"][0]["ReadOnly"], json!(true));
    }
}
