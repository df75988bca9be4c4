//! Former images of a Compose project: kept under a name of Baton's own, so that a prune leaves the way back.

use std::time::Duration;

use crate::docker::{Site, is_here};
use crate::support::wait::wait_for;

const FILE: &str = r#"
services:
  api:
    image: @:live
    init: true
    x-baton: { update: { monitor: 200ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms } }
  worker:
    image: @:live
    init: true
    x-baton: { update: { monitor: 200ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms }, retain: 2 }
"#;

/// Builds what the tag names from now on; its id. The image that it named before has no name any more.
fn build(site: &Site, version: &str) -> String {
    let (v, of, label) = (format!("V={version}"), format!("OF={}", site.name), format!("bt={}", site.name));
    let tag = format!("{}:live", site.name);
    let args = ["build", "-q", "--build-arg", &v, "--build-arg", &of, "--label", &label, "-t", &tag, "image"];
    site.docker(&args).lines().last().unwrap_or_default().trim().to_owned()
}

/// Takes every image of this test, and of no other, that has no name. An engine prunes for one caller at a time and
/// refuses the others, so another test's prune is waited for.
fn prune(site: &Site) {
    let filter = format!("label=bt={}", site.name);
    wait_for("a prune that is not in another one's way", Duration::from_secs(60), || {
        let output = site.run("docker", &["image", "prune", "-f", "--filter", &filter]);
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() || error.contains("a prune operation is already running"), "{error}");
        output.status.success()
    });
}

fn is_there(site: &Site, image: &str) -> bool {
    site.run("docker", &["image", "inspect", image]).status.success()
}

/// The images that have a name of ours, by their ids, in order.
fn kept(site: &Site, service: &str) -> Vec<String> {
    let repository = format!("baton/{}/{service}", site.name);
    let told = site.docker(&["images", "--no-trunc", "--format", "{{.ID}} {{.Tag}}", &repository]);
    let mut ids: Vec<String> = told
        .lines()
        .map(|line| {
            let (id, tag) = line.split_once(' ').unwrap();
            assert_eq!(id.trim_start_matches("sha256:").get(..12), Some(tag));
            id.to_owned()
        })
        .collect();
    ids.sort();
    ids
}

fn sorted(ids: &[&String]) -> Vec<String> {
    let mut ids: Vec<String> = ids.iter().map(|id| (*id).clone()).collect();
    ids.sort();
    ids
}

#[track_caller]
fn all_on(site: &Site, image: &str) {
    for service in ["api", "worker"] {
        let about = site.inspect(&format!("{}-{service}-1", site.name));
        assert_eq!(about["Image"], image, "{service}");
        assert_eq!(about["State"]["Running"], true, "{service}");
    }
}

#[test]
fn a_tag_that_moved_is_taken_back_after_a_prune_and_only_so_many_are_kept() {
    if !is_here("a_tag_that_moved_is_taken_back_after_a_prune_and_only_so_many_are_kept") {
        return;
    }
    let site = Site::new("retain");
    site.compose_file(FILE);
    let first = build(&site, "live-1");
    site.compose(&["up", "-d"]);
    // To what Baton made itself, the way back is another one than to what Compose had made: both are gone.
    let second = build(&site, "live-2");
    site.baton("1", &["up", "--yes"], 0);
    all_on(&site, &second);
    assert_eq!(kept(&site, "api"), [first.as_str()]);
    prune(&site);
    site.baton("1", &["rollback", "--yes"], 0);
    all_on(&site, &first);
    site.baton("1", &["up", "--yes"], 0);
    all_on(&site, &second);
    let third = build(&site, "live-3");
    site.baton("1", &["up", "--yes"], 0);
    all_on(&site, &third);
    assert_eq!(kept(&site, "api"), [second.as_str()]);
    assert_eq!(kept(&site, "worker"), sorted(&[&first, &second]));
    prune(&site);
    site.baton("1", &["rollback", "--yes"], 0);
    all_on(&site, &second);
    // What is made of it is what Compose would make of it, once the tag says so again.
    site.docker(&["tag", &second, &format!("{}:live", site.name)]);
    let said = site.compose(&["up", "-d"]);
    assert!(!said.contains("Recreate") && !said.contains("Creating"), "{said}");
    // One that nobody keeps is the prune's.
    let fourth = build(&site, "live-4");
    build(&site, "live-5");
    prune(&site);
    assert!(!is_there(&site, &fourth));
    site.baton("1", &["up", "--yes"], 0);
    let sixth = build(&site, "live-6");
    site.baton("1", &["up", "--yes"], 0);
    all_on(&site, &sixth);
    prune(&site);
    // Three former ones ago, and two for the one that keeps two: nobody has a name for it any more.
    assert_eq!((kept(&site, "api").len(), kept(&site, "worker").len()), (1, 2));
    assert!(!is_there(&site, &first));
}

#[test]
fn an_image_that_is_gone_is_no_way_back_and_that_is_said_before_anything_is_touched() {
    if !is_here("an_image_that_is_gone_is_no_way_back_and_that_is_said_before_anything_is_touched") {
        return;
    }
    let site = Site::new("gone");
    site.compose_file(&FILE.replace(", retain: 2", "").replace("50ms } }", "50ms }, retain: 0 }"));
    build(&site, "gone-1");
    site.compose(&["up", "-d"]);
    build(&site, "gone-2");
    site.baton("1", &["up", "--yes"], 0);
    let third = build(&site, "gone-3");
    site.baton("1", &["up", "--yes"], 0);
    assert!(kept(&site, "api").is_empty());
    prune(&site);
    let said = site.baton("1", &["rollback", "--yes"], 5);
    assert!(said.contains("is another one now than the one that is meant") && said.contains("retain"), "{said}");
    all_on(&site, &third);
}
