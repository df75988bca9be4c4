//! Why two containers of one slot cannot be there at once. Decided from the file: a created container proves neither
//! its ports nor its addresses.

use super::ledger::ImageFacts;
use super::project::{Published, Service};

/// What forbids start-first, in words for people. `share`: old and new may write to the same volume.
pub(super) fn alone(service: &Service, image: Option<&ImageFacts>, share: bool) -> Option<String> {
    if let Some(name) = &service.container_name {
        return Some(format!("its `container_name` is {name}, and only one container can have it"));
    }
    if let Some(port) = service.ports.iter().find_map(|port| fixed(port, service.replicas())) {
        let replicas = service.replicas();
        return Some(match port.contains('-') {
            true => format!("its {replicas} containers take every port of {port} on the host"),
            false => format!("port {port} of the host is its own, and only one container can have it"),
        });
    }
    match service.network_mode.as_deref() {
        Some("host") => return Some("it is on the host's network (`network_mode: host`)".to_owned()),
        Some(mode) if mode.starts_with("service:") || mode.starts_with("container:") => {
            return Some(format!("it is on the network of another container (`network_mode: {mode}`)"));
        }
        _ => {}
    }
    for (name, attachment) in service.networks.iter().flatten() {
        let fixed = attachment.as_ref().and_then(|attachment| {
            let fixed = [&attachment.ipv4_address, &attachment.ipv6_address, &attachment.mac_address];
            fixed.into_iter().find_map(Option::as_ref)
        });
        if let Some(address) = fixed {
            return Some(format!("its address {address} on the network {name} is fixed"));
        }
    }
    if share {
        return None;
    }
    const LIFT: &str = "(`x-baton: { share: true }` says that both may)";
    let written =
        service.volumes.iter().find(|mount| !mount.read_only && matches!(mount.kind.as_str(), "volume" | "bind"));
    if let Some(mount) = written {
        let (what, target) = match (&mount.source, mount.kind.as_str()) {
            (Some(source), "bind") => (format!("the folder {source}"), &mount.target),
            (Some(source), _) => (format!("the volume {source}"), &mount.target),
            (None, _) => ("its anonymous volume".to_owned(), &mount.target),
        };
        return Some(format!("old and new would both write to {what} at {target} {LIFT}"));
    }
    if let Some(from) = service.volumes_from.iter().find(|from| !from.ends_with(":ro")) {
        return Some(format!("old and new would both write to the volumes of {from} {LIFT}"));
    }
    // A volume that the file mounts at the same place has been judged above.
    let own = |target: &&String| !service.volumes.iter().any(|mount| mount.target == **target);
    let target = image.and_then(|image| image.volumes.iter().find(own))?;
    Some(format!("old and new would both write to the image's volume at {target} {LIFT}"))
}

/// The port that a container would take for itself, if there are no more in its range than containers.
fn fixed(port: &Published, replicas: u32) -> Option<String> {
    let (first, last) = port.on_host()?.into_inner();
    match u32::from(last - first) {
        0 => Some(first.to_string()),
        // One free port more than containers is enough for one of them to be there twice.
        more if more >= replicas => None,
        _ => Some(format!("{first}-{last}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compose::Project;

    fn why(keys: &str, image: &ImageFacts, share: bool) -> Option<String> {
        let text = format!("name: p\nservices:\n  a:\n    image: x\n{keys}");
        let project = Project::parse(&text).unwrap_or_else(|error| panic!("{keys}: {error}"));
        alone(&project.services["a"], Some(image), share)
    }

    #[test]
    fn what_two_containers_cannot_both_have_is_named() {
        let plain = ImageFacts::default();
        for (keys, word) in [
            ("    container_name: only\n", "only"),
            ("    ports: [{ target: 80, published: \"8080\" }]\n", "8080"),
            ("    ports: [{ target: 80, published: \"8080-8081\" }]\n    deploy: { replicas: 2 }\n", "8080-8081"),
            ("    network_mode: host\n", "host"),
            ("    network_mode: service:db\n", "service:db"),
            ("    networks: { back: { ipv4_address: 10.0.0.7 } }\n", "10.0.0.7"),
            ("    volumes: [{ type: volume, source: data, target: /data }]\n", "data"),
            ("    volumes: [{ type: bind, source: /srv, target: /data }]\n", "/srv"),
            ("    volumes: [{ type: volume, target: /data }]\n", "anonymous"),
            ("    volumes_from: [db]\n", "db"),
        ] {
            let said = why(keys, &plain, false).unwrap_or_else(|| panic!("{keys} forbids nothing"));
            assert!(said.contains(word), "{said}");
        }
        let with_volume = ImageFacts { volumes: vec!["/anon".to_owned()], ..ImageFacts::default() };
        assert!(why("", &with_volume, false).unwrap().contains("/anon"));
    }

    #[test]
    fn what_both_can_have_forbids_nothing() {
        let plain = ImageFacts::default();
        for keys in [
            "",
            "    ports: [{ target: 80 }]\n",
            "    ports: [{ target: 80, published: \"0\" }]\n",
            "    ports: [{ target: 80, published: \"8080-8082\" }]\n    deploy: { replicas: 2 }\n",
            "    networks: { back: null }\n",
            "    volumes: [{ type: volume, source: data, target: /data, read_only: true }]\n",
            "    volumes: [{ type: tmpfs, target: /tmp }]\n",
            "    volumes_from: [\"db:ro\"]\n",
        ] {
            assert_eq!(why(keys, &plain, false), None, "{keys}");
        }
        // A volume can be shared, a port cannot.
        assert_eq!(why("    volumes: [{ type: volume, source: data, target: /data }]\n", &plain, true), None);
        assert!(why("    ports: [{ target: 80, published: \"8080\" }]\n", &plain, true).is_some());
        let with_volume = ImageFacts { volumes: vec!["/anon".to_owned()], ..ImageFacts::default() };
        assert_eq!(why("    volumes: [{ type: tmpfs, target: /anon }]\n", &with_volume, false), None);
    }
}
