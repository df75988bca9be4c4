//! What is wrong before anything begins: found, told, and nothing is touched.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{ONE, QUICK, said, shop, up, up_ends_well, verb};
use crate::docker::{Site, is_here};

#[test]
fn an_image_that_cannot_be_had_is_found_before_anything_stops() {
    if !is_here("an_image_that_cannot_be_had_is_found_before_anything_stops") {
        return;
    }
    let site = shop("noimage");
    let before = site.docker(&["ps", "-q", "--no-trunc"]);
    let missing = up(&site, "99");
    assert_eq!(missing.code, 5, "{}", missing.text);
    for word in [&format!("cannot pull {}:99 (api)", site.name), "(worker)", "nothing was touched", "docker login"] {
        assert!(missing.text.contains(word), "{word}: {}", missing.text);
    }
    site.compose_file(&format!("{ONE}{QUICK}").replace("image: @:${TAG:-1}", "image: @:77\n    build: ."));
    let unbuilt = up(&site, "1");
    assert_eq!(unbuilt.code, 5, "{}", unbuilt.text);
    assert!(unbuilt.text.contains("docker compose build w"), "{}", unbuilt.text);
    let after = site.docker(&["ps", "-q", "--no-trunc"]);
    let ours = |list: &str| list.lines().filter(|id| before.contains(*id)).count();
    assert!(ours(&after) >= 3, "{after}");
    site.compose_file(super::SHOP);
    up_ends_well(&site, "2");
    super::shop_is_whole(&site, "2", "with an image that is there");
}

#[test]
fn what_compose_says_of_a_wrong_file_is_told_as_it_is() {
    if !is_here("what_compose_says_of_a_wrong_file_is_told_as_it_is") {
        return;
    }
    let site = Site::new("wrong");
    for wrong in ["services:\n  api:\n    image: x\n    prots: [1]\n", "services:\n  api:\n    image: [x\n"] {
        site.compose_file(wrong);
        let compose = site.run("docker", &["compose", "config"]);
        let compose = String::from_utf8_lossy(&compose.stderr).trim().to_owned();
        let baton = up(&site, "1");
        assert_eq!(baton.code, 2, "{}", baton.text);
        assert!(!compose.is_empty() && baton.text.contains(&compose), "{compose:?} is not in {:?}", baton.text);
    }
}

fn program(folder: &Path, name: &str, script: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn without_compose_v2_it_is_said_what_to_install() {
    if !is_here("without_compose_v2_it_is_said_what_to_install") {
        return;
    }
    let site = Site::new("old");
    site.compose_file(ONE);
    let old = site.path("old");
    program(&old, "docker", "echo \"docker: 'compose' is not a docker command.\" >&2; exit 1");
    program(&old, "docker-compose", "echo 1.29.2");
    let none = site.path("none");
    std::fs::create_dir(&none).unwrap();
    // The plugin of this machine is not to be found: whoever names more folders leaves it to `docker` where to look.
    std::fs::write(site.path("config.json"), r#"{ "cliPluginsExtraDirs": [] }"#).unwrap();
    for (path, words) in [
        (&old, ["only Docker Compose 1.29.2 was found", "install the Compose plugin"]),
        (&none, ["Docker Compose v2 was not found", "install the Compose plugin"]),
    ] {
        for args in [&["up", "--yes"][..], &["-f", "compose.yaml", "up", "--yes"]] {
            let mut command = verb(&site, "1", args);
            command.env("PATH", path).env("DOCKER_CONFIG", site.path(""));
            let told = said(command);
            assert_eq!(told.code, 2, "{}", told.text);
            assert!(words.iter().all(|word| told.text.contains(word)), "{args:?}: {}", told.text);
        }
    }
}

#[test]
fn a_user_who_may_not_use_the_engine_is_told_about_its_group() {
    const NAME: &str = "a_user_who_may_not_use_the_engine_is_told_about_its_group";
    if !is_here(NAME) {
        return;
    }
    if !rustix::process::getuid().is_root() {
        assert!(std::env::var("BATON_TEST_NO_SKIP").as_deref() != Ok("1"), "{NAME} needs root");
        eprintln!("\n*** SKIPPED {NAME}: it needs root, to run as somebody else ***\n");
        return;
    }
    let site = Site::new("nobody");
    site.compose_file(ONE);
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    open(&site.path(""));
    std::fs::copy(env!("CARGO_BIN_EXE_baton"), site.path("baton")).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(site.path("baton"));
    command.args(["--state", "nowhere", "up", "--yes"]).current_dir(site.path("")).env("HOME", site.path("none"));
    command.env_remove("COMPOSE_FILE");
    let told = said(command);
    assert_eq!(told.code, 5, "{}", told.text);
    for word in [".sock", "may not use it", "group docker"] {
        assert!(told.text.contains(word), "{word}: {}", told.text);
    }
}

/// A Docker context in a configuration folder.
fn context(folder: &Path, name: &str, host: &str) {
    let docker = |args: &[&str]| {
        let output = Command::new("docker").args(args).env("DOCKER_CONFIG", folder).env_remove("DOCKER_HOST").output();
        let output = output.unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    };
    docker(&["context", "create", name, "--docker", &format!("host={host}")]);
    docker(&["context", "use", name]);
}

#[test]
fn the_docker_context_in_use_is_followed_or_refused_by_name() {
    if !is_here("the_docker_context_in_use_is_followed_or_refused_by_name") {
        return;
    }
    let site = Site::new("context");
    site.compose_file(&format!("{ONE}{QUICK}"));
    site.compose_up("1");
    let folder = site.path("config");
    let with = |name: Option<&str>, args: &[&str]| {
        let mut command = verb(&site, "2", args);
        command.env("DOCKER_CONFIG", &folder).env_remove("DOCKER_HOST").env_remove("DOCKER_CONTEXT");
        // Where the plugin is, is a matter of this folder too, on some hosts.
        command.envs(name.map(|name| ("DOCKER_CONTEXT", name)));
        said(command)
    };
    context(&folder, "far", "ssh://somebody@far.example");
    let far = with(None, &["up", "--yes"]);
    assert_eq!(far.code, 2, "{}", far.text);
    assert!(far.text.contains("context far") && far.text.contains("over ssh"), "{}", far.text);
    assert!(!far.text.contains("somebody"), "{}", far.text);
    let gone = site.path("gone.sock");
    context(&folder, "gone", &format!("unix://{}", gone.display()));
    let nobody = with(None, &["up", "--yes"]);
    assert_eq!(nobody.code, 5, "{}", nobody.text);
    assert!(nobody.text.contains(&gone.display().to_string()), "{}", nobody.text);
    // The same engine by another name: what is done, is done there. The environment wins over what is in use.
    let socket = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    let here = site.path("here.sock");
    std::os::unix::fs::symlink(socket.trim_start_matches("unix://"), &here).unwrap();
    context(&folder, "here", &format!("unix://{}", here.display()));
    context(&folder, "other", "unix:///nonexistent/other.sock");
    let done = with(Some("here"), &["up", "--yes"]);
    assert_eq!(done.code, 0, "{}", done.text);
    // The flag wins over all, for Compose as for the agent.
    let flag = format!("unix://{}", here.display());
    let same = with(Some("far"), &["--docker-host", &flag, "up", "--yes"]);
    assert_eq!(same.code, 0, "{}", same.text);
    assert!(same.text.contains("nothing to do"), "{}", same.text);
    site.compose_is_content("2");
}
