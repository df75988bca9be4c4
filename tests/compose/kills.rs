//! `baton up` on a Compose project, killed at whatever moment and typed again: the same end every time.
//!
//! Six moments by default; `BATON_TEST_KILLS=40` for forty.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::docker::{Site, is_here};

/// How long a roll of this project takes, with room: moments are spread over it.
const SPAN: Duration = Duration::from_millis(6_000);
const MOMENTS: u32 = 6;

const SHOP: &str = r#"
services:
  api:
    image: @:${TAG:-1}
    restart: always
    deploy: { replicas: 2, update_config: { order: start-first } }
    x-baton: { update: { monitor: 200ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms } }
  worker:
    image: @:${TAG:-1}
    depends_on: [api]
    restart: unless-stopped
    volumes: ["data:/data"]
    x-baton: { update: { monitor: 200ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms } }
volumes: { data: {} }
"#;

fn baton(site: &Site, tag: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
    command.args(["--state", site.path("state").to_str().unwrap(), "up", "--yes"]);
    command.current_dir(site.path("")).env("TAG", tag).env_remove("COMPOSE_FILE");
    command
}

#[test]
fn up_killed_at_any_moment_and_typed_again_comes_to_the_same_end() {
    if !is_here("up_killed_at_any_moment_and_typed_again_comes_to_the_same_end") {
        return;
    }
    let site = Site::new("kills");
    site.compose_file(SHOP);
    site.compose(&["up", "-d"]);
    let moments = std::env::var("BATON_TEST_KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(MOMENTS);
    let mut tag = "1";
    let mut struck = 0;
    for moment in 0..moments {
        tag = if tag == "1" { "2" } else { "1" };
        // 0.618...: well spread, whatever their number, and the same in each run.
        let after = SPAN.mul_f64((f64::from(moment) * 0.618_033_988_75 + 0.1).fract());
        let mut up = baton(&site, tag).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        while begun.elapsed() < after && up.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        struck += u32::from(up.try_wait().unwrap().is_none());
        up.kill().unwrap();
        up.wait().unwrap();
        let between = site.states();
        let again = baton(&site, tag).output().unwrap();
        let said = String::from_utf8_lossy(&again.stdout).into_owned() + &String::from_utf8_lossy(&again.stderr);
        let told = || format!("moment {moment}, killed after {after:?} with {between:?}: {said}");
        assert_eq!(again.status.code(), Some(0), "{}", told());
        let end = |name: &str, policy: &str| {
            let image = format!("{}:{tag}", site.name);
            (format!("{}-{name}", site.name), (image, "running".to_owned(), policy.to_owned()))
        };
        let wanted: BTreeMap<_, _> =
            [end("api-1", "always"), end("api-2", "always"), end("worker-1", "unless-stopped")].into();
        assert_eq!(site.states(), wanted, "{}", told());
        // Compose is content.
        let compose = site.compose_up(tag);
        let touched = ["Creating", "Recreate", "Removing"].iter().any(|word| compose.contains(word));
        assert!(!touched, "{compose}\n{}", told());
    }
    println!("{moments} moments, {struck} of them in the middle");
    assert!(struck * 2 > moments, "most of the moments came too late: {struck} of {moments}");
}
