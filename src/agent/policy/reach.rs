//! Whether a container could reach into its host.
//!
//! What is known to stay inside is listed; everything else that is set counts as reaching out, so a key of tomorrow's
//! engine is refused and not overlooked.

use serde_json::Value;

/// Keys of `HostConfig` that keep a container where it is, whatever they say.
const INSIDE: &[&str] = &[
    "AutoRemove",
    "BlkioWeight",
    "CapDrop",
    "ConsoleSize",
    "CpuCount",
    "CpuPercent",
    "CpuPeriod",
    "CpuQuota",
    "CpuShares",
    "CpusetCpus",
    "CpusetMems",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "ExtraHosts",
    "GroupAdd",
    "Init",
    "Memory",
    "MemoryReservation",
    "MemorySwap",
    "MemorySwappiness",
    "NanoCpus",
    "OomScoreAdj",
    "PidsLimit",
    "PortBindings",
    "PublishAllPorts",
    "ReadonlyRootfs",
    "RestartPolicy",
    "ShmSize",
    "StorageOpt",
    "Tmpfs",
    "Ulimits",
];

/// The image that a create body names.
pub(super) fn image(body: &Value) -> Option<&str> {
    body["Image"].as_str()
}

/// The first thing in a create body that could reach into the host, by its key.
pub(super) fn reaches_out(body: &Value) -> Option<String> {
    let host = match &body["HostConfig"] {
        Value::Null => return None,
        Value::Object(host) => host,
        _ => return Some("HostConfig".to_owned()),
    };
    host.iter().find(|(key, value)| !stays(key, value)).map(|(key, _)| key.clone())
}

/// The first thing in the body of a volume or a network that could reach into the host, by its key.
pub(super) fn needs_out(body: &Value) -> Option<String> {
    let Value::Object(body) = body else { return Some("body".to_owned()) };
    let stays = |key: &str, value: &Value| match key {
        "Name" | "Labels" | "CheckDuplicate" | "Internal" | "Attachable" | "EnableIPv4" | "EnableIPv6" | "IPAM" => true,
        _ if is_nothing(value) => true,
        "Driver" => matches!(value.as_str(), Some("local" | "bridge")),
        "Scope" => value == "local",
        _ => false,
    };
    body.iter().find(|(key, value)| !stays(key, value)).map(|(key, _)| key.clone())
}

fn stays(key: &str, value: &Value) -> bool {
    let word = value.as_str().unwrap_or_default();
    match key {
        _ if INSIDE.contains(&key) => true,
        // An empty list lifts what the engine hides by itself.
        "MaskedPaths" | "ReadonlyPaths" => value.is_null(),
        _ if is_nothing(value) => true,
        "Binds" => value.as_array().is_some_and(|binds| binds.iter().all(|bind| is_volume(bind.as_str()))),
        "Mounts" => value.as_array().is_some_and(|mounts| mounts.iter().all(is_inside)),
        "NetworkMode" => word != "host" && !word.starts_with("container:"),
        "IpcMode" | "CgroupnsMode" => matches!(word, "private" | "shareable" | "none"),
        "LogConfig" => matches!(value["Type"].as_str(), None | Some("" | "json-file" | "local" | "none" | "journald")),
        "SecurityOpt" => value.as_array().is_some_and(|options| {
            options.iter().all(|option| option.as_str().is_some_and(|option| option.starts_with("no-new-privileges")))
        }),
        _ => false,
    }
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty(),
        Value::Bool(true) => false,
    }
}

/// An entry of `Binds` whose source is a volume's name, not a path.
fn is_volume(bind: Option<&str>) -> bool {
    bind.is_some_and(|bind| !bind.starts_with(['/', '.', '~']))
}

/// A mount of a volume of the engine's own making. A driver with options can mount any path.
fn is_inside(mount: &Value) -> bool {
    match mount["Type"].as_str() {
        Some("tmpfs") => true,
        Some("volume") => is_nothing(&mount["VolumeOptions"]["DriverConfig"]),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_reaches_out_is_found_and_the_ordinary_is_not() {
        let ordinary = json!({ "Image": "x", "HostConfig": {
            "Binds": ["data:/data:rw"], "NetworkMode": "shop_default", "RestartPolicy": { "Name": "always" },
            "Mounts": [{ "Type": "volume", "Source": "v", "Target": "/v", "VolumeOptions": {} }, { "Type": "tmpfs" }],
            "PortBindings": { "80/tcp": [{ "HostPort": "8080" }] }, "Privileged": false, "PidMode": "", "Devices": null,
            "ConsoleSize": [0, 0], "LogConfig": { "Type": "", "Config": null }, "IpcMode": "private", "Memory": 7,
            "SecurityOpt": ["no-new-privileges:true"], "MaskedPaths": null, "VolumesFrom": [],
        }});
        assert_eq!(reaches_out(&ordinary), None);
        assert_eq!(reaches_out(&json!({ "Image": "x" })), None);
        for (key, value) in [
            ("Privileged", json!(true)),
            ("Binds", json!(["data:/d", "/var/run/docker.sock:/s"])),
            ("Mounts", json!([{ "Type": "bind", "Source": "/", "Target": "/host" }])),
            (
                "Mounts",
                json!([{ "Type": "volume", "VolumeOptions": { "DriverConfig": { "Options": { "device": "/" } } } }]),
            ),
            ("PidMode", json!("host")),
            ("PidMode", json!("container:abc")),
            ("NetworkMode", json!("host")),
            ("IpcMode", json!("host")),
            ("CapAdd", json!(["SYS_ADMIN"])),
            ("Devices", json!([{ "PathOnHost": "/dev/sda" }])),
            ("SecurityOpt", json!(["seccomp=unconfined"])),
            ("MaskedPaths", json!([])),
            ("VolumesFrom", json!(["other"])),
            ("KeyOfTomorrow", json!("on")),
        ] {
            let body = json!({ "HostConfig": { key: value } });
            assert_eq!(reaches_out(&body).as_deref(), Some(key));
        }
        assert_eq!(reaches_out(&json!({ "HostConfig": "x" })).as_deref(), Some("HostConfig"));
    }

    #[test]
    fn volumes_and_networks_of_the_engines_own_making_stay_inside() {
        let network = json!({
            "Name": "shop_default", "Driver": "bridge", "CheckDuplicate": true, "Options": null, "IPAM": null,
            "Internal": false, "Labels": { "com.docker.compose.project": "shop" },
        });
        assert_eq!(needs_out(&network), None);
        assert_eq!(needs_out(&json!({ "Name": "shop_data", "Driver": "local", "DriverOpts": {} })), None);
        for (key, value) in [
            ("DriverOpts", json!({ "device": "/" })),
            ("Driver", json!("macvlan")),
            ("Driver", json!("host")),
            ("Options", json!({ "parent": "eth0" })),
            ("ConfigFrom", json!({ "Network": "other" })),
            ("KeyOfTomorrow", json!("on")),
        ] {
            assert_eq!(needs_out(&json!({ "Name": "x", key: value })).as_deref(), Some(key));
        }
        assert_eq!(needs_out(&json!("x")).as_deref(), Some("body"));
    }
}
