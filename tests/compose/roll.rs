//! `baton up` on Compose projects that run: real containers under load, and Compose itself is the judge of what is left.

use crate::docker::{Site, is_here};
use serde_json::json;

#[track_caller]
fn all_on(site: &Site, services: &[&str], version: &str) {
    let image = format!("{}:{version}", site.name);
    for (name, (_, on)) in site.containers() {
        assert!(!name.contains(".baton-"), "{name} has no final name");
        let service = services.iter().any(|service| name.starts_with(&format!("{}-{service}-", site.name)));
        assert!(!service || *on == image, "{name} is on {on}, not {image}");
    }
}

/// A shop of services that hang on each other. Everything is quick to be ready and to end.
const SHOP: &str = r#"
services:
  db:
    image: @:1
    volumes: ["data:/data"]
    healthcheck: { test: ["CMD", "/bin/busybox", "true"], interval: 500ms }
  seed:
    image: @:${TAG:-1}
    command: ["/bin/busybox", "true"]
    depends_on: { db: { condition: service_healthy } }
  api:
    image: @:${TAG:-1}
    command: ["/bin/busybox", "sh", "-c", "${API:-trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.1; done}"]
    depends_on: { db: { condition: service_healthy }, seed: { condition: service_completed_successfully } }
    environment: { TOKEN: hunter2 }
    restart: always
    deploy: { replicas: 2 }
    networks: { back: { aliases: [backend] }, default: {} }
    x-baton: { update: { monitor: 300ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms } }
  worker:
    image: @:${TAG:-1}
    depends_on: [api]
    restart: unless-stopped
    x-baton: { update: { monitor: 300ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms } }
  side:
    image: @:${TAG:-1}
    network_mode: service:db
    x-baton: { update: { monitor: 300ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms } }
networks: { back: {} }
volumes: { data: {} }
"#;
const CHANGED: [&str; 4] = ["seed", "api", "worker", "side"];

#[test]
fn a_project_that_compose_made_is_rolled_and_taken_back_and_compose_stays_content() {
    if !is_here("a_project_that_compose_made_is_rolled_and_taken_back_and_compose_stays_content") {
        return;
    }
    let site = Site::new("shop");
    site.compose_file(SHOP);
    site.compose_up("1");
    let made = site.containers();
    // Engines differ in how they write that there is none.
    let policy = |name: &str| site.inspect(&format!("{}-{name}", site.name))["HostConfig"]["RestartPolicy"].clone();
    let policies = ["api-1", "api-2", "worker-1", "side-1"].map(|name| (name, policy(name)));
    assert_eq!((&policies[0].1["Name"], &policies[2].1["Name"]), (&json!("always"), &json!("unless-stopped")));
    site.baton("1", &["up", "--yes"], 0);
    assert_eq!(made, site.containers(), "as the file says already: nothing is touched");
    site.baton("2", &["up", "--yes"], 0);
    all_on(&site, &CHANGED, "2");
    assert_eq!(made[&format!("{}-db-1", site.name)], site.containers()[&format!("{}-db-1", site.name)]);
    for (name, before) in policies {
        assert_eq!(policy(name), before, "{name}");
    }
    site.compose_is_content("2");
    site.baton("2", &["up", "--yes"], 0);
    // Back to what was there before Baton ever came.
    let said = site.baton("2", &["rollback", "--yes"], 0);
    let last = said.trim_end().lines().last().unwrap_or_default();
    assert!(last.contains("still asks for") && last.contains("would make api, seed, side, worker anew"), "{said}");
    all_on(&site, &["api", "worker", "side"], "1");
    site.compose_is_content("1");
    site.compose(&["down", "-v"]);
    assert!(site.objects().is_empty(), "{:?}", site.objects());
}

#[test]
fn a_first_roll_that_fails_gives_back_the_containers_that_were_there() {
    if !is_here("a_first_roll_that_fails_gives_back_the_containers_that_were_there") {
        return;
    }
    let site = Site::new("bad");
    site.compose_file(SHOP);
    site.compose_up("1");
    let made = site.containers();
    let file = std::fs::read_to_string(site.path("compose.yaml")).unwrap();
    let sick =
        file.replace("${API:-trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.1; done}", "echo no schema; exit 3");
    assert_ne!(file, sick);
    std::fs::write(site.path("compose.yaml"), sick).unwrap();
    let said = site.baton("2", &["up", "--yes"], 3);
    assert!(said.contains("no schema"), "the last words of what failed: {said}");
    std::fs::write(site.path("compose.yaml"), file).unwrap();
    let now = site.containers();
    // It stopped before it had replaced any of these for good: they are the very same ones, and run again.
    for name in ["api-1", "api-2", "db-1"].map(|name| format!("{}-{name}", site.name)) {
        assert_eq!(made[&name], now[&name]);
        assert_eq!(site.inspect(&name)["State"]["Running"], true, "{name}");
    }
    all_on(&site, &["api", "worker", "side"], "1");
    for name in ["api-1", "api-2"] {
        let about = site.inspect(&format!("{}-{name}", site.name));
        assert_eq!(about["HostConfig"]["RestartPolicy"]["Name"], "always", "{name} has its own policy again");
    }
    site.compose_is_content("1");
}

#[test]
fn every_container_is_made_anew_by_restart_and_each_kind_of_change_is_applied() {
    if !is_here("every_container_is_made_anew_by_restart_and_each_kind_of_change_is_applied") {
        return;
    }
    let site = Site::new("kinds");
    let ready = "x-baton: { update: { monitor: 200ms }, ready: { exec: [\"/bin/busybox\", \"true\"], every: 50ms } }";
    let file = |api: &str, more: &str| {
        let text =
            format!("services:\n  api:\n    image: @:1\n    {ready}\n{api}  db:\n    image: @:1\n    {ready}\n{more}");
        site.compose_file(&text);
    };
    file("", "");
    site.compose_up("1");
    let before = site.containers();
    site.baton("1", &["restart", "--yes"], 0);
    let after = site.containers();
    assert!(before.keys().eq(after.keys()), "{after:?}");
    assert!(before.iter().all(|(name, about)| after[name] != *about), "every one is another: {after:?}");
    site.compose_is_content("1");
    site.baton("1", &["restart", "db", "--yes"], 0);
    assert_eq!(after[&format!("{}-api-1", site.name)], site.containers()[&format!("{}-api-1", site.name)]);
    let steps: [(&str, &str, &str); 8] = [
        ("an environment", "    environment: { A: b }\n", ""),
        ("a label", "    environment: { A: b }\n    labels: { l: m }\n", ""),
        ("a command", "    command: [\"/bin/busybox\", \"sleep\", \"100\"]\n    init: true\n", ""),
        ("a volume", "    volumes: [\"data:/data\"]\n", "volumes: { data: {} }\n"),
        ("a network", "    networks: [n]\n", "networks: { n: {} }\n"),
        ("two more replicas", "    deploy: { replicas: 3 }\n", ""),
        ("two replicas less", "", ""),
        ("update_config alone", "    deploy: { update_config: { parallelism: 2 } }\n", ""),
    ];
    for (what, api, more) in steps {
        file(api, more);
        let said = site.baton("1", &["up", "--yes"], 0);
        assert!(!said.contains("nothing to do"), "{what} is a change: {said}");
        let said = site.compose_up("1");
        for word in ["Creating", "Recreate", "Removing"] {
            assert!(!said.contains(word), "{what}: docker compose up -d: {said}");
        }
    }
    site.compose(&["down", "-v", "--remove-orphans"]);
    let left = site.objects();
    // A volume of an earlier file is nobody's to remove.
    assert!(left.iter().all(|name| name.ends_with("_data") || name.ends_with("_n")), "{left:?}");
}

/// Services that live in the container of another one, in each way, and one that says that it goes with it.
const HOUSE: &str = r#"
x-quick: &quick
  image: "@:${TAG:-1}"
  command: ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; /bin/busybox sleep 100000 & wait"]
  x-baton: { update: { monitor: 100ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms } }
services:
  landlord: { <<: *quick, ipc: shareable, volumes: ["data:/data"] }
  net: { <<: *quick, network_mode: "service:landlord" }
  processes: { <<: *quick, pid: "service:landlord" }
  memory: { <<: *quick, ipc: "service:landlord" }
  disk: { <<: *quick, volumes_from: ["landlord:ro"] }
  friend: { <<: *quick, depends_on: { landlord: { condition: service_started, restart: true } } }
  stranger: { <<: *quick, image: "@:1" }
volumes: { data: {} }
"#;
const TENANTS: [&str; 5] = ["disk", "friend", "memory", "net", "processes"];

#[test]
fn what_lives_in_another_ones_container_is_made_anew_with_it() {
    if !is_here("what_lives_in_another_ones_container_is_made_anew_with_it") {
        return;
    }
    let site = Site::new("house");
    site.compose_file(HOUSE);
    site.compose_up("1");
    let all: Vec<&str> = TENANTS.iter().copied().chain(["landlord"]).collect();
    let lives_in_it = || {
        let id = |service: &str| site.containers()[&format!("{}-{service}-1", site.name)].0.clone();
        for (service, key) in [("net", "NetworkMode"), ("processes", "PidMode"), ("memory", "IpcMode")] {
            let about = site.inspect(&format!("{}-{service}-1", site.name));
            assert_eq!(about["HostConfig"][key], format!("container:{}", id("landlord")), "{service}");
            assert_eq!(about["State"]["Running"], true, "{service}");
        }
    };
    lives_in_it();
    let rolls = || {
        let said = site.baton("2", &["history", "--json"], 0);
        said.lines().filter(|line| line.starts_with('{')).count()
    };
    site.baton("2", &["up", "--yes"], 0);
    all_on(&site, &all, "2");
    lives_in_it();
    assert_eq!(rolls(), 1, "both are made anew at once, with the digest that Compose gives them");
    site.compose_is_content("2");
    // Those that Compose has made are made again, with another digest: that of the id which their landlord has now.
    site.baton("2", &["rollback", "--yes"], 0);
    all_on(&site, &all, "1");
    lives_in_it();
    site.compose_is_content("1");
    site.baton("2", &["up", "--yes"], 0);
    all_on(&site, &all, "2");
    lives_in_it();
    site.compose_is_content("2");
    let before = site.containers();
    site.baton("2", &["restart", "landlord", "--yes"], 0);
    let after = site.containers();
    for service in &all {
        let name = format!("{}-{service}-1", site.name);
        assert_ne!(before[&name], after[&name], "{name} goes with its landlord");
    }
    let stranger = format!("{}-stranger-1", site.name);
    assert_eq!(before[&stranger], after[&stranger]);
    lives_in_it();
    site.compose_is_content("2");
    site.baton("2", &["up", "--yes"], 0);
    assert_eq!(after, site.containers(), "nothing is left to do");
}
