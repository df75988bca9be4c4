//! What can change in a Compose file, each by itself: applied, or said. Compose is the judge of what is left.

#[allow(dead_code, reason = "shared with tests that use the rest")]
#[path = "support/docker.rs"]
mod docker;

use std::collections::BTreeMap;

use docker::{Site, is_here};

const QUICK: &str = "init: true\n    x-baton: { update: { monitor: 200ms }, ready: { exec: [\"/bin/busybox\", \
                     \"true\"], every: 50ms } }";

/// A project of services `api` and whatever else is written, made by Compose.
fn site(what: &str, api: &str, more: &str) -> Site {
    let site = Site::new(what);
    write(&site, api, more);
    std::fs::write(site.path(".env"), "TOKEN=one\n").unwrap();
    site.compose(&["up", "-d"]);
    site
}

fn write(site: &Site, api: &str, more: &str) {
    site.compose_file(&format!("services:\n  api:\n    image: @:1\n    {QUICK}\n{api}{more}"));
}

fn service(name: &str) -> String {
    format!("  {name}:\n    image: @:1\n    {QUICK}\n")
}

#[track_caller]
fn baton(site: &Site, args: &[&str]) -> String {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_baton"))
        .args(["--state", site.path("state").to_str().unwrap()])
        .args(args)
        .current_dir(site.path(""))
        .env_remove("COMPOSE_FILE")
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert_eq!(output.status.code(), Some(0), "baton {args:?}: {text}");
    text
}

/// Ids of the project's containers, by name.
fn containers(site: &Site) -> BTreeMap<String, String> {
    let filter = format!("label=com.docker.compose.project={}", site.name);
    let told = site.docker(&["ps", "-a", "--no-trunc", "--filter", &filter, "--format", "{{.Names}} {{.ID}}"]);
    told.lines().filter_map(|line| line.split_once(' ')).map(|(name, id)| (name.to_owned(), id.to_owned())).collect()
}

#[track_caller]
fn compose_is_content(site: &Site) {
    let before = containers(site);
    let said = site.compose(&["up", "-d"]);
    for word in ["Creating", "Recreate", "Removing", "orphan"] {
        assert!(!said.contains(word), "docker compose up -d: {said}");
    }
    assert_eq!(before, containers(site));
}

fn reads(site: &Site, path: &str) -> String {
    site.docker(&["exec", &format!("{}-api-1", site.name), "/bin/busybox", "cat", path])
}

#[test]
fn a_service_that_comes_is_made_and_one_that_goes_is_named_and_left_unless_asked() {
    if !is_here("a_service_that_comes_is_made_and_one_that_goes_is_named_and_left_unless_asked") {
        return;
    }
    let site = site("services", "", "");
    let before = containers(&site);
    write(&site, "", &service("extra"));
    baton(&site, &["up", "--yes"]);
    let with = containers(&site);
    let extra = format!("{}-extra-1", site.name);
    assert!(with.contains_key(&extra) && before.iter().all(|(name, id)| with[name] == *id), "{with:?}");
    compose_is_content(&site);
    write(&site, "", "");
    let said = baton(&site, &["up", "--yes"]);
    assert!(said.contains("extra is not in the manifest and is left as it is"), "{said}");
    assert_eq!(containers(&site), with);
    baton(&site, &["up", "--remove-orphans", "--yes"]);
    assert_eq!(containers(&site), before);
    compose_is_content(&site);
}

#[test]
fn an_env_file_that_changed_is_applied() {
    if !is_here("an_env_file_that_changed_is_applied") {
        return;
    }
    let site = Site::new("envfile");
    std::fs::write(site.path("api.env"), "A=old\n").unwrap();
    write(&site, "    env_file: [api.env]\n", &service("other"));
    site.compose(&["up", "-d"]);
    let before = containers(&site);
    std::fs::write(site.path("api.env"), "A=new\n").unwrap();
    baton(&site, &["up", "--yes"]);
    let env = site.inspect(&format!("{}-api-1", site.name))["Config"]["Env"].to_string();
    assert!(env.contains("A=new") && !env.contains("A=old"), "{env}");
    let other = format!("{}-other-1", site.name);
    assert_eq!(before[&other], containers(&site)[&other]);
    compose_is_content(&site);
}

#[test]
fn content_that_compose_takes_for_no_change_is_said_and_restart_applies_it() {
    if !is_here("content_that_compose_takes_for_no_change_is_said_and_restart_applies_it") {
        return;
    }
    let api = "    configs: [{ source: motd, target: /etc/motd }]\n    secrets: [token]\n";
    let content = |motd: &str| {
        let other = service("other");
        format!("{other}configs: {{ motd: {{ content: {motd} }} }}\nsecrets: {{ token: {{ environment: TOKEN }} }}\n")
    };
    let site = site("content", api, &content("hello"));
    assert_eq!((reads(&site, "/etc/motd"), reads(&site, "/run/secrets/token")), ("hello".to_owned(), "one".to_owned()));
    // As it is: nothing is said.
    assert!(!baton(&site, &["plan"]).contains("restart api"));
    let made = containers(&site);
    write(&site, api, &content("changed"));
    let notes = |said: &str| -> Vec<String> {
        said.lines().filter(|line| line.contains("`baton restart api`")).map(str::to_owned).collect()
    };
    let said = baton(&site, &["up", "--yes"]);
    assert!(matches!(notes(&said).as_slice(), [one] if one.contains("config motd (/etc/motd)")), "{said}");
    std::fs::write(site.path(".env"), "TOKEN=two\n").unwrap();
    let said = baton(&site, &["plan"]);
    let both = notes(&said);
    assert!(both.len() == 2 && both.iter().any(|note| note.contains("secret token (/run/secrets/token)")), "{said}");
    assert!(!said.contains("changed") || !said.contains("two"), "no content is shown: {said}");
    // Compose does nothing with it, nor did any of these.
    compose_is_content(&site);
    assert_eq!((made.clone(), reads(&site, "/etc/motd")), (containers(&site), "hello".to_owned()));
    baton(&site, &["restart", "api", "--yes"]);
    assert_eq!(
        (reads(&site, "/etc/motd"), reads(&site, "/run/secrets/token")),
        ("changed".to_owned(), "two".to_owned())
    );
    let other = format!("{}-other-1", site.name);
    assert_eq!(made[&other], containers(&site)[&other]);
    let said = baton(&site, &["plan"]);
    assert!(notes(&said).is_empty(), "{said}");
    compose_is_content(&site);
}

#[test]
fn networks_and_volumes_that_are_there_are_left_as_they_are_and_that_is_said() {
    if !is_here("networks_and_volumes_that_are_there_are_left_as_they_are_and_that_is_said") {
        return;
    }
    let api = "    networks: [back]\n    volumes: [\"data:/data\"]\n";
    let site = site("standing", api, "networks: { back: {} }\nvolumes: { data: {} }\n");
    assert!(!baton(&site, &["plan"]).contains("not what the file says"));
    let before = containers(&site);
    write(
        &site,
        api,
        "networks: { back: { driver_opts: { com.docker.network.driver.mtu: \"1400\" }, labels: { a: b } } }\nvolumes: \
         { data: { labels: { a: b } } }\n",
    );
    let said = baton(&site, &["up", "--yes"]);
    for note in [
        format!("network {}_back is there, and its driver_opts, labels is not what the file says", site.name),
        format!("volume {}_data is there, and its labels is not what the file says", site.name),
        format!("docker volume rm {}_data", site.name),
    ] {
        assert!(said.contains(&note), "{note} is missing: {said}");
    }
    assert_eq!(containers(&site), before);
    compose_is_content(&site);
    // As the notes say: anew, and then there is nothing more to say.
    site.compose(&["down", "-v"]);
    assert!(!baton(&site, &["up", "--yes"]).contains("not what the file says"));
    let options = site.docker(&["network", "inspect", &format!("{}_back", site.name), "--format", "{{.Options}}"]);
    assert!(options.contains("1400"), "{options}");
    assert!(!baton(&site, &["plan"]).contains("not what the file says"));
    compose_is_content(&site);
}
