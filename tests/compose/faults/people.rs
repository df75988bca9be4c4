//! People who act on the engine while a roll is under way, and the same `baton up` afterwards.

use super::{Under, running, shop, shop_is_whole, up, up_ends_well};
use crate::docker::{Site, is_here};

/// Where an `up` of the shop is cut: each is a line of its output.
const PLACES: [&str; 8] = [
    "api-1: begins prepare",
    "worker-1: begins start",
    "api-1: begins start",
    "start done",
    "ready done",
    "stop after",
    "api-2: begins start",
    "worker-1: begins drain",
];

fn other(tag: &str) -> &'static str {
    if tag == "1" { "2" } else { "1" }
}

#[test]
fn compose_up_by_a_person_at_the_new_tag_at_any_step_and_up_again_ends_well() {
    if !is_here("compose_up_by_a_person_at_the_new_tag_at_any_step_and_up_again_ends_well") {
        return;
    }
    let site = shop("new");
    let mut tag = "1";
    for place in PLACES.into_iter().filter(|place| *place != "worker-1: begins start") {
        tag = other(tag);
        let mut under = Under::way(&site, tag);
        under.until(place);
        under.kill();
        // Exit 0, and what served serves.
        site.compose_up(tag);
        assert_eq!((running(&site, "api"), running(&site, "worker")), (2, 1), "after {place:?}");
        let again = up(&site, tag);
        assert_eq!(again.code, 0, "killed after {place:?}: {}", again.text);
        shop_is_whole(&site, tag, &format!("killed after {place:?}: {}", again.text));
    }
}

#[test]
fn compose_up_by_a_person_at_the_old_tag_is_overcome_by_up() {
    if !is_here("compose_up_by_a_person_at_the_old_tag_is_overcome_by_up") {
        return;
    }
    let site = shop("old");
    let mut tag = "1";
    for place in ["api-1: begins start", "ready done", "stop after", "worker-1: begins drain"] {
        let old = tag;
        tag = other(tag);
        let mut under = Under::way(&site, tag);
        under.until(place);
        under.kill();
        // Compose takes the new ones for its own that have to be made anew, and may meet a name that is still taken;
        // then it ends with 1 and some of its containers wait to be started (docs/operations.md). Once more, and all is
        // as the old file says; or `baton up`, and all is as the new one does.
        let compose = |what: &[&str]| {
            let mut command = std::process::Command::new("docker");
            command.arg("compose").args(what).current_dir(site.path("")).env("TAG", old).env_remove("COMPOSE_FILE");
            command.output().unwrap()
        };
        let first = compose(&["up", "-d"]);
        let said = String::from_utf8_lossy(&first.stderr).into_owned();
        assert!(first.status.success() || said.contains("already in use"), "after {place:?}: {said}");
        let again = up(&site, tag);
        assert_eq!(again.code, 0, "killed after {place:?}, then compose at {old}: {said}: {}", again.text);
        shop_is_whole(&site, tag, &format!("killed after {place:?}: {}", again.text));
    }
}

/// What a person does to a container in the middle of a roll.
fn meddle(site: &Site, what: &[&str], name: &str) {
    let name = format!("{}-{name}", site.name);
    let name = if site.run("docker", &["inspect", &name]).status.success() {
        name
    } else {
        // The new one, under the name that it is made with.
        let names = site.docker(&["ps", "-a", "--format", "{{.Names}}", "--filter", &format!("name={name}")]);
        names.lines().next().unwrap_or_else(|| panic!("no {name}")).to_owned()
    };
    let target = name.as_str();
    let renamed = format!("{}-mine", site.name);
    let mut args = what.to_vec();
    args.push(target);
    if what == ["rename"] {
        args.push(&renamed);
    }
    site.docker(&args);
}

#[test]
fn containers_that_people_touch_in_the_middle_are_no_end_of_it() {
    if !is_here("containers_that_people_touch_in_the_middle_are_no_end_of_it") {
        return;
    }
    let site = shop("meddle");
    let mut tag = "1";
    // In the pause between two steps, and the verb goes on as if nobody had been there.
    for (place, what, name) in [
        ("start done", &["rm", "-f"][..], "api-1.baton"),
        ("api-1: begins start", &["rm", "-f"], "api-2"),
        ("api-2: begins start", &["stop", "-t", "1"], "api-2"),
        ("ready done", &["kill"], "api-1.baton"),
        ("api-1: begins start", &["restart", "-t", "1"], "worker-1"),
        ("api-1: begins start", &["rm", "-f"], "worker-1.baton"),
        ("api-2: begins start", &["kill"], "worker-1"),
    ] {
        tag = other(tag);
        let mut under = Under::way(&site, tag);
        under.until(place);
        under.signal(rustix::process::Signal::STOP);
        let present = site.docker(&["ps", "-a", "--format", "{{.Names}}"]);
        // A machine that is quicker than the one who looks has it final already.
        let there = present.lines().any(|line| line.starts_with(&format!("{}-{name}", site.name)));
        if there {
            meddle(&site, what, name);
        }
        under.signal(rustix::process::Signal::CONT);
        let first = under.end();
        let told = || format!("docker {what:?} of {name} after {place:?}: {}", first.text);
        assert!([0, 3].contains(&first.code), "{}: {}", first.code, told());
        assert!(running(&site, "api") >= 2 && running(&site, "worker") == 1, "{}", told());
        let again = up_ends_well(&site, tag);
        shop_is_whole(&site, tag, &format!("{}\nand again: {again}", told()));
    }
}

#[test]
fn a_temporary_name_that_a_stranger_has_is_told_and_the_stranger_left_alone() {
    if !is_here("a_temporary_name_that_a_stranger_has_is_told_and_the_stranger_left_alone") {
        return;
    }
    let site = shop("names");
    let name = format!("{}-api-1.baton-2", site.name);
    let image = format!("{}:1", site.name);
    let id = site.docker(&["create", "--name", &name, &image]);
    let refused = up(&site, "2");
    let there = site.run("docker", &["inspect", &id]).status.success();
    site.run("docker", &["rm", "-f", &id]);
    assert_eq!(refused.code, 3, "{}", refused.text);
    assert!(there, "a stranger was removed: {}", refused.text);
    assert!(refused.text.contains(&name) && refused.text.contains("none of this project's"), "{}", refused.text);
    shop_is_whole(&site, "1", &refused.text);
    let again = up_ends_well(&site, "2");
    shop_is_whole(&site, "2", &again);
}
