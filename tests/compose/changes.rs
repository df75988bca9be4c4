//! What can change in a Compose file, each by itself: applied, or said. Compose is the judge of what is left.

use crate::docker::{Site, is_here};

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
fn compose_is_content(site: &Site) {
    let before = site.containers();
    let said = site.compose(&["up", "-d"]);
    for word in ["Creating", "Recreate", "Removing", "orphan"] {
        assert!(!said.contains(word), "docker compose up -d: {said}");
    }
    assert_eq!(before, site.containers());
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
    let before = site.containers();
    write(&site, "", &service("extra"));
    site.baton("1", &["up", "--yes"], 0);
    let with = site.containers();
    let extra = format!("{}-extra-1", site.name);
    assert!(with.contains_key(&extra) && before.iter().all(|(name, id)| with[name] == *id), "{with:?}");
    compose_is_content(&site);
    write(&site, "", "");
    let said = site.baton("1", &["up", "--yes"], 0);
    assert!(said.contains("extra is not in the manifest and is left as it is"), "{said}");
    assert_eq!(site.containers(), with);
    site.baton("1", &["up", "--remove-orphans", "--yes"], 0);
    assert_eq!(site.containers(), before);
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
    let before = site.containers();
    std::fs::write(site.path("api.env"), "A=new\n").unwrap();
    site.baton("1", &["up", "--yes"], 0);
    let env = site.inspect(&format!("{}-api-1", site.name))["Config"]["Env"].to_string();
    assert!(env.contains("A=new") && !env.contains("A=old"), "{env}");
    let other = format!("{}-other-1", site.name);
    assert_eq!(before[&other], site.containers()[&other]);
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
    assert!(!site.baton("1", &["plan"], 0).contains("restart api"));
    let made = site.containers();
    write(&site, api, &content("changed"));
    let notes = |said: &str| -> Vec<String> {
        said.lines().filter(|line| line.contains("`baton restart api`")).map(str::to_owned).collect()
    };
    let said = site.baton("1", &["up", "--yes"], 0);
    assert!(matches!(notes(&said).as_slice(), [one] if one.contains("config motd (/etc/motd)")), "{said}");
    std::fs::write(site.path(".env"), "TOKEN=two\n").unwrap();
    let said = site.baton("1", &["plan"], 0);
    let both = notes(&said);
    assert!(both.len() == 2 && both.iter().any(|note| note.contains("secret token (/run/secrets/token)")), "{said}");
    assert!(!said.contains("changed") || !said.contains("two"), "no content is shown: {said}");
    // Compose does nothing with it, nor did any of these.
    compose_is_content(&site);
    assert_eq!((made.clone(), reads(&site, "/etc/motd")), (site.containers(), "hello".to_owned()));
    site.baton("1", &["restart", "api", "--yes"], 0);
    assert_eq!(
        (reads(&site, "/etc/motd"), reads(&site, "/run/secrets/token")),
        ("changed".to_owned(), "two".to_owned())
    );
    let other = format!("{}-other-1", site.name);
    assert_eq!(made[&other], site.containers()[&other]);
    let said = site.baton("1", &["plan"], 0);
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
    assert!(!site.baton("1", &["plan"], 0).contains("not what the file says"));
    let before = site.containers();
    write(
        &site,
        api,
        "networks: { back: { driver_opts: { com.docker.network.driver.mtu: \"1400\" }, labels: { a: b } } }\nvolumes: \
         { data: { labels: { a: b } } }\n",
    );
    let said = site.baton("1", &["up", "--yes"], 0);
    for note in [
        format!("network {}_back is there, and its driver_opts, labels is not what the file says", site.name),
        format!("volume {}_data is there, and its labels is not what the file says", site.name),
        format!("docker volume rm {}_data", site.name),
    ] {
        assert!(said.contains(&note), "{note} is missing: {said}");
    }
    assert_eq!(site.containers(), before);
    compose_is_content(&site);
    // As the notes say: anew, and then there is nothing more to say.
    site.compose(&["down", "-v"]);
    assert!(!site.baton("1", &["up", "--yes"], 0).contains("not what the file says"));
    let options = site.docker(&["network", "inspect", &format!("{}_back", site.name), "--format", "{{.Options}}"]);
    assert!(options.contains("1400"), "{options}");
    assert!(!site.baton("1", &["plan"], 0).contains("not what the file says"));
    compose_is_content(&site);
}
