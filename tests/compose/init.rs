//! `baton init` on a project that runs: comments that can be accepted, and nothing else changed.

use std::process::{Command, Output};

use crate::docker::{Site, is_here};

/// Ordinary, with comments and blank lines of its own.
const SHOP: &str = r#"
services:

  # what everybody asks
  api:
    image: @:${TAG:-1}   # the tag is in .env
    command: ["/bin/busybox", "sh", "-c", "mkdir -p /w && echo ok > /w/healthz && exec /bin/busybox httpd -f -p 80 -h /w"]
    init: true
    ports:
      - "127.0.0.1::80"

  worker:
    image: @:${TAG:-1}
    init: true

  db: { image: "@:1", init: true, expose: ["5432"] }
"#;

fn baton(site: &Site, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_baton"))
        .args(["--state", site.path("state").to_str().unwrap()])
        .args(args)
        .current_dir(site.path(""))
        .env_remove("COMPOSE_FILE")
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).concat()
}

#[test]
fn a_project_that_runs_gets_comments_that_can_be_accepted() {
    if !is_here("a_project_that_runs_gets_comments_that_can_be_accepted") {
        return;
    }
    let site = Site::new("init");
    site.compose_file(SHOP);
    let file = site.path("compose.yaml");
    let before = std::fs::read_to_string(&file).unwrap();
    let early = baton(&site, &["init"]);
    assert_eq!(early.status.code(), Some(5), "{}", said(&early));
    assert!(said(&early).contains("does not run"), "{}", said(&early));

    site.compose_up("1");
    let shown = baton(&site, &["init", "--stdout"]);
    assert!(shown.status.success(), "{}", said(&shown));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), before, "only shown");
    let output = baton(&site, &["init"]);
    assert!(output.status.success(), "{}", said(&output));
    let after = std::fs::read_to_string(&file).unwrap();
    assert_eq!(String::from_utf8_lossy(&shown.stdout), after);
    let ours = |line: &&str| line.trim_start().starts_with("# x-baton:") || line.trim_start().starts_with("#   ");
    let kept: Vec<&str> = after.lines().filter(|line| !ours(line)).collect();
    assert_eq!(kept, before.lines().collect::<Vec<_>>(), "every other line is as it was");
    for line in [
        "# x-baton:\n#   version: { variable: TAG }\nservices:",
        "    # x-baton:\n    #   role: api\n    #   ready: { http: \"http://{address}:80/healthz\" }\n",
        "    # x-baton:\n    #   role: worker\n",
    ] {
        assert!(after.contains(line), "{line:?} in {after}");
    }
    assert!(said(&output).contains("db"), "{}", said(&output));
    let again = baton(&site, &["init"]);
    assert!(said(&again).contains("nothing to add"), "{}", said(&again));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), after, "twice is once");

    let accepted: String = after
        .lines()
        .map(|line| if ours(&line) { line.replacen("# ", "", 1) } else { line.to_owned() } + "\n")
        .collect();
    std::fs::write(&file, &accepted).unwrap();
    let check = baton(&site, &["check"]);
    assert!(check.status.success(), "{}: {accepted}", said(&check));
    let up = baton(&site, &["up", "--yes"]);
    assert!(up.status.success(), "accepting changes no container: {}", said(&up));
    assert!(said(&up).contains("nothing to do"), "{}", said(&up));
}
