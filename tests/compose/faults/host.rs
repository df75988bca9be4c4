//! A port that somebody has, health that comes and goes, a disk that is full, a program that ignores its signal.

use std::time::Duration;

use super::{ONE, QUICK, Under, running, said, up, up_ends_well, verb};
use crate::docker::{Site, is_here};
use crate::support::procs::free_port;

#[test]
fn a_port_that_somebody_else_has_is_named_and_the_old_one_serves_again() {
    if !is_here("a_port_that_somebody_else_has_is_named_and_the_old_one_serves_again") {
        return;
    }
    let site = Site::new("port");
    let port = free_port();
    site.compose_file(&format!("{ONE}{QUICK}"));
    site.compose_up("1");
    // A program of the engine's host, which need not be this one.
    let (name, image, at) = (format!("{}-else", site.name), format!("{}:1", site.name), port.to_string());
    let program = [&image, "/bin/busybox", "httpd", "-f", "-p", &at];
    site.docker(&[&["run", "-d", "--init", "--network", "host", "--name", &name][..], &program].concat());
    site.compose_file(&format!("{ONE}    ports: [\"{port}:80\"]\n{QUICK}"));
    let taken = up(&site, "2");
    assert_eq!(taken.code, 3, "{}", taken.text);
    assert!(taken.text.contains(&format!("somebody else has port {port} of this host")), "{}", taken.text);
    let filter = format!("label=com.docker.compose.project={}", site.name);
    let left = site.docker(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}} {{.Image}} {{.State}}"]);
    assert_eq!(left, format!("{0}-w-1 {0}:1 running", site.name));
    site.docker(&["rm", "-f", &name]);
    up_ends_well(&site, "2");
    site.compose_is_content("2");
}

#[test]
fn health_that_comes_and_goes_within_monitor_is_a_failure_and_the_old_one_comes_back() {
    if !is_here("health_that_comes_and_goes_within_monitor_is_a_failure_and_the_old_one_comes_back") {
        return;
    }
    let site = Site::new("flap");
    // Well, ill, well, ill ...
    let script = "[ $$V = 1 ] || { [ -e /flip ] && /bin/busybox rm /flip; } || { : > /flip; false; }";
    let file = |script: &str| {
        site.compose_file(&format!(
            "{ONE}    healthcheck:\n      test: [CMD, /bin/busybox, sh, -c, \"{script}\"]\n      \
             interval: 300ms\n      retries: 1\n    x-baton: {{ update: {{ monitor: 20s }} }}\n"
        ));
    };
    file(script);
    site.compose_up("1");
    let flapping = up(&site, "2");
    assert_eq!(flapping.code, 3, "{}", flapping.text);
    assert!(flapping.text.contains("did not stay ready") && flapping.text.contains("unhealthy"), "{}", flapping.text);
    assert_eq!(running(&site, "w"), 1);
    site.compose_is_content("1");
    site.compose_file(&format!("{ONE}{QUICK}"));
    up_ends_well(&site, "2");
    site.compose_is_content("2");
}

#[test]
fn a_program_that_will_ignore_its_stop_signal_is_told_before_and_after() {
    if !is_here("a_program_that_will_ignore_its_stop_signal_is_told_before_and_after") {
        return;
    }
    let site = Site::new("deaf");
    let file = format!("{ONE}    stop_grace_period: 1s\n{QUICK}");
    let script = r#"["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.1; done"]"#;
    assert!(file.contains(script));
    site.compose_file(&file.replace(script, r#"["/bin/busybox", "sleep", "1000"]"#));
    site.compose_up("1");
    // A young program may yet install its handler: nothing is said of it. So this waits until it is old enough.
    let mut plan = said(verb(&site, "2", &["plan"]));
    let begun = std::time::Instant::now();
    while !plan.text.contains("no handler") && begun.elapsed() < Duration::from_secs(60) {
        plan = said(verb(&site, "2", &["plan"]));
    }
    for word in ["w-1.1: its main process has no handler for SIGTERM", "init: true"] {
        assert!(plan.text.contains(word), "{word}: {}", plan.text);
    }
    let up = up_ends_well(&site, "2");
    assert!(up.contains("no handler for SIGTERM") && up.contains("killed at the end of its grace"), "{up}");
    site.compose_is_content("2");
}

#[test]
fn a_full_disk_is_told_and_with_room_it_goes_on() {
    const NAME: &str = "a_full_disk_is_told_and_with_room_it_goes_on";
    if !is_here(NAME) {
        return;
    }
    let site = Site::new("full");
    let state = site.path("state");
    std::fs::create_dir(&state).unwrap();
    let state_text = state.display().to_string();
    let mounted = site.run("mount", &["-t", "tmpfs", "-o", "size=4m,mode=0700", "baton-test", &state_text]);
    if !mounted.status.success() {
        assert!(std::env::var("BATON_TEST_NO_SKIP").as_deref() != Ok("1"), "{NAME} needs root and tmpfs");
        eprintln!("\n*** SKIPPED {NAME}: it needs root, to mount a small file system ***\n");
        return;
    }
    let mounted = Mounted(state_text);
    site.compose_file(&format!("{ONE}{QUICK}"));
    site.compose_up("1");
    up_ends_well(&site, "1");
    let filler = state.join("filler");
    // To the last byte.
    let fill = || {
        let mut file = std::fs::File::create(&filler).unwrap();
        while std::io::Write::write_all(&mut file, &[0; 512]).is_ok() {}
    };
    fill();
    let full = up(&site, "2");
    assert_eq!(full.code, 5, "{}", full.text);
    assert!(full.text.contains("no space is left in") && full.text.contains("free some"), "{}", full.text);
    assert_eq!(running(&site, "w"), 1, "{}", full.text);
    std::fs::remove_file(&filler).unwrap();
    // And in the middle: what cannot be written down is not done.
    let mut under = Under::way(&site, "2");
    under.until("w-1.2: prepare done");
    fill();
    let middle = under.end();
    assert!([1, 3, 5, 130].contains(&middle.code), "{}: {}", middle.code, middle.text);
    std::fs::remove_file(&filler).unwrap();
    let again = up_ends_well(&site, "2");
    assert_eq!(running(&site, "w"), 1, "{}\nand again: {again}", middle.text);
    site.compose_is_content("2");
    drop(mounted);
}

/// A mount that ends with this value.
struct Mounted(String);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").args(["-l", &self.0]).output();
    }
}
