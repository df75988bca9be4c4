//! Networks and volumes that are there and are not as the file says. `docker compose up` leaves such a one as it is,
//! and so does Baton: others are on it, or data is in it. But it is said.

use std::collections::BTreeMap;

use serde_json::Value;

use super::Rehearsal;
use super::ledger::text;

/// A line for each.
pub(super) fn notes(rehearsal: &Rehearsal) -> Vec<String> {
    let there = |name: &str| rehearsal.now.standing.get(name);
    let mut notes = Vec::new();
    for network in &rehearsal.whole.networks {
        let body: Value = serde_json::from_str(network.body.expose()).unwrap_or_default();
        let differs = there(&network.name).map(|there| network_differs(&body, there)).unwrap_or_default();
        if !differs.is_empty() {
            notes.push(format!(
                "network {} is there, and its {} is not what the file says; it is left as it is, as `docker compose \
                 up` does: `docker compose down` and `baton up` make it anew",
                network.name,
                differs.join(", ")
            ));
        }
    }
    for volume in &rehearsal.whole.volumes {
        let body: Value = serde_json::from_str(volume.body.expose()).unwrap_or_default();
        let differs = there(&volume.name).map(|there| volume_differs(&body, there)).unwrap_or_default();
        if !differs.is_empty() {
            notes.push(format!(
                "volume {0} is there, and its {1} is not what the file says; it is left as it is, as `docker compose \
                 up` does: save what is in it, then `docker compose down`, `docker volume rm {0}` and `baton up` make \
                 it anew",
                volume.name,
                differs.join(", ")
            ));
        }
    }
    notes
}

fn network_differs(body: &Value, there: &Value) -> Vec<&'static str> {
    let driver =
        |value: &Value| Some(text(value, "Driver")).filter(|name| !name.is_empty()).unwrap_or("bridge").to_owned();
    let flag = |value: &Value, key: &str| value[key].as_bool().unwrap_or(false);
    // What the file leaves open, the engine has chosen.
    let pools = body["IPAM"]["Config"].as_array().cloned().unwrap_or_default();
    let same_pools = pools.iter().all(|pool| {
        let said = |key: &str| Some(text(pool, key)).filter(|said| !said.is_empty()).map(str::to_owned);
        let all = there["IPAM"]["Config"].as_array().into_iter().flatten();
        all.into_iter().any(|has| {
            ["Subnet", "Gateway", "IPRange"].iter().all(|key| said(key).is_none_or(|said| said == text(has, key)))
        })
    });
    let same = [
        ("driver", driver(body) == driver(there)),
        ("driver_opts", options(&body["Options"]) == options(&there["Options"])),
        ("internal", flag(body, "Internal") == flag(there, "Internal")),
        ("attachable", flag(body, "Attachable") == flag(there, "Attachable")),
        ("enable_ipv6", flag(body, "EnableIPv6") == flag(there, "EnableIPv6")),
        ("ipam", same_pools),
        ("labels", labels(body) == labels(there)),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
}

fn volume_differs(body: &Value, there: &Value) -> Vec<&'static str> {
    let driver =
        |value: &Value| Some(text(value, "Driver")).filter(|name| !name.is_empty()).unwrap_or("local").to_owned();
    let same = [
        ("driver", driver(body) == driver(there)),
        ("driver_opts", options(&body["DriverOpts"]) == options(&there["Options"])),
        ("labels", labels(body) == labels(there)),
    ];
    same.into_iter().filter(|(_, same)| !same).map(|(key, _)| key).collect()
}

fn options(value: &Value) -> BTreeMap<&str, &str> {
    let pairs = value.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect()
}

/// The operator's own: what Compose writes there itself says nothing about the file.
fn labels(value: &Value) -> BTreeMap<&str, &str> {
    let mut labels = options(&value["Labels"]);
    labels.retain(|name, _| !name.starts_with("com.docker.compose."));
    labels
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_the_file_leaves_open_is_no_difference() {
        let label = json!({ "com.docker.compose.version": "2.26.1", "a": "b" });
        let there = json!({
            "Driver": "bridge", "Internal": false, "Attachable": false, "EnableIPv6": false, "Options": {},
            "IPAM": { "Driver": "default", "Config": [{ "Subnet": "10.1.0.0/16", "Gateway": "10.1.0.1" }] },
            "Labels": label,
        });
        let body = json!({ "Driver": "", "Options": null, "Labels": { "com.docker.compose.version": "9", "a": "b" } });
        assert!(network_differs(&body, &there).is_empty());
        let pool = |subnet: &str| json!({ "IPAM": { "Config": [{ "Subnet": subnet }] }, "Labels": label });
        assert!(network_differs(&pool("10.1.0.0/16"), &there).is_empty());
        assert_eq!(network_differs(&pool("10.2.0.0/16"), &there), ["ipam"]);
        let other = json!({ "Driver": "macvlan", "Internal": true, "Options": { "mtu": "1400" }, "Labels": {} });
        assert_eq!(network_differs(&other, &there), ["driver", "driver_opts", "internal", "labels"]);
    }

    #[test]
    fn a_volume_differs_by_what_was_asked_for() {
        let there = json!({ "Driver": "local", "Options": null, "Labels": {} });
        assert!(volume_differs(&json!({ "Driver": "", "DriverOpts": {}, "Labels": {} }), &there).is_empty());
        let other = json!({ "Driver": "local", "DriverOpts": { "type": "tmpfs" }, "Labels": { "a": "b" } });
        assert_eq!(volume_differs(&other, &there), ["driver_opts", "labels"]);
    }
}
