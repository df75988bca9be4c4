//! What two containers of one and the same file differ in, whoever makes them. A closed list: anything else is a fault.

/// A path in what the engine says of a container, `*` for any one name or number; everything below it is left out.
pub const IGNORED: &[(&str, &str)] = &[
    ("Created", "a time"),
    ("ExecIDs", "probes that run at this moment"),
    ("GraphDriver.Data", "folders that the engine names by chance"),
    ("NetworkSettings.EndpointID", "the engine makes it up"),
    ("NetworkSettings.Gateway", "of a network whose addresses the engine chose; a chosen one is in IPAMConfig"),
    ("NetworkSettings.IPAddress", "the next free one; a chosen one is in IPAMConfig"),
    ("NetworkSettings.IPPrefixLen", "of the network that the engine had left to give"),
    ("NetworkSettings.MacAddress", "made from the address; a chosen one is in Config.MacAddress"),
    ("NetworkSettings.Networks.*.EndpointID", "the engine makes it up"),
    ("NetworkSettings.Networks.*.Gateway", "as above"),
    ("NetworkSettings.Networks.*.IPAddress", "as above"),
    ("NetworkSettings.Networks.*.IPPrefixLen", "as above"),
    ("NetworkSettings.Networks.*.MacAddress", "as above"),
    ("NetworkSettings.Ports.*.*.HostPort", "one of a range or any; what was asked for is in HostConfig.PortBindings"),
    ("NetworkSettings.SandboxID", "the engine makes it up"),
    ("NetworkSettings.SandboxKey", "the engine makes it up"),
    ("State.FinishedAt", "a time"),
    ("State.Health", "what a probe said, and when"),
    ("State.Pid", "the kernel gives it"),
    ("State.StartedAt", "a time"),
];

/// Lists whose order Compose or the engine leaves to chance, and which mean the same in any.
pub const UNORDERED: &[&str] = &[
    "Config.Env",
    "HostConfig.Binds",
    "HostConfig.ExtraHosts",
    "HostConfig.Links",
    "HostConfig.Mounts",
    "HostConfig.Ulimits",
    "Mounts",
    "NetworkSettings.Networks.*.Aliases",
    "NetworkSettings.Networks.*.DNSNames",
    "NetworkSettings.Networks.*.Links",
    "NetworkSettings.Ports.*",
];

/// Whether a path is on the list, or below one that is.
pub fn is_ignored(path: &[String]) -> bool {
    IGNORED.iter().any(|(pattern, _)| begins(pattern, path).is_some())
}

/// Whether a path is that of a list without order.
pub fn is_unordered(path: &[String]) -> bool {
    UNORDERED.iter().any(|pattern| begins(pattern, path) == Some(path.len()))
}

/// How many parts a pattern has, if a path begins with them.
fn begins(pattern: &str, path: &[String]) -> Option<usize> {
    // A name may have dots of its own, so it is the pattern that is taken apart.
    let parts: Vec<&str> = pattern.split('.').collect();
    let fits = parts.len() <= path.len() && parts.iter().zip(path).all(|(part, name)| *part == "*" || part == name);
    fits.then_some(parts.len())
}
