//! A long job across a roll: Baton gives it the grace that the file names, and Compose's own ten seconds do not.

use std::process::Command;
use std::time::Duration;

use crate::docker::{Site, is_here};
use crate::support::wait::wait_for;

/// A worker with a job of 30 s, which it finishes when it is asked to end in the middle. What it does stands in a file
/// of the host.
fn worker(grace: &str) -> String {
    let script = "trap 'end=1' TERM; echo begun $$V >> /jobs/log; i=0; \
                  while [ $$i -lt 300 ]; do /bin/busybox sleep 0.1; i=$$((i+1)); done; \
                  echo done $$V >> /jobs/log; while [ -z \"$$end\" ]; do /bin/busybox sleep 0.1; done";
    format!(
        "services:\n  worker:\n    image: @:${{TAG:-1}}\n    command: [/bin/busybox, sh, -c, {script:?}]\n    volumes: \
         [\"./jobs:/jobs\"]\n{grace}    x-baton: {{ ready: {{ exec: [/bin/busybox, \"true\"] }}, update: {{ monitor: \
         500ms }} }}\n"
    )
}

fn begun(what: &str, grace: &str) -> Site {
    let site = Site::new(what);
    std::fs::create_dir(site.path("jobs")).unwrap();
    site.compose_file(&worker(grace));
    site.compose_up("1");
    wait_for("the job's begin", Duration::from_secs(20), || log(&site).contains("begun 1"));
    site
}

fn log(site: &Site) -> String {
    std::fs::read_to_string(site.path("jobs/log")).unwrap_or_default()
}

#[test]
fn a_long_job_ends_within_the_grace_of_the_file_and_plain_compose_kills_it() {
    if !is_here("a_long_job_ends_within_the_grace_of_the_file_and_plain_compose_kills_it") {
        return;
    }
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let site = begun("grace", "    stop_grace_period: 60s\n");
            let output = Command::new(env!("CARGO_BIN_EXE_baton"))
                .args(["--state", site.path("state").to_str().unwrap(), "up", "--yes"])
                .current_dir(site.path(""))
                .env("TAG", "2")
                .env_remove("COMPOSE_FILE")
                .output()
                .unwrap();
            let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
            assert!(output.status.success(), "{said}");
            assert!(log(&site).contains("done 1"), "the job is lost: {}: {said}", log(&site));
            wait_for("the next job", Duration::from_secs(20), || log(&site).contains("begun 2"));
        });
        scope.spawn(|| {
            let site = begun("plain", "");
            site.compose_up("2");
            wait_for("the next job", Duration::from_secs(20), || log(&site).contains("begun 2"));
            assert!(!log(&site).contains("done 1"), "Compose has changed its ways: {}", log(&site));
        });
    });
}
