//! Compose projects in trouble: wrong input, engines that fail, and people who act in the middle of a roll. Each time
//! the message says what to do, what served goes on or comes back, and the same `baton up` afterwards ends well.

mod engine;
mod host;
mod input;
mod people;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::docker::Site;

/// More than any verb here takes, on a busy machine too.
const BOUND: Duration = Duration::from_secs(240);

/// Two services. Everything is quick to be ready and to end; what waits is patient, for machines that are busy.
const SHOP: &str = r#"
services:
  api:
    image: @:${TAG:-1}
    command: ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.1; done"]
    stop_grace_period: 60s
    restart: always
    deploy: { replicas: 2, update_config: { order: start-first } }
    x-baton: { update: { monitor: 200ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms, timeout: 20s } }
  worker:
    image: @:${TAG:-1}
    command: ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.1; done"]
    depends_on: [api]
    stop_grace_period: 60s
    restart: unless-stopped
    volumes: ["data:/data"]
    x-baton: { update: { monitor: 200ms }, ready: { exec: ["/bin/busybox", "true"], every: 50ms, timeout: 20s } }
volumes: { data: {} }
"#;

/// One service with one container. `@@` is for keys of its own.
const ONE: &str = r#"
services:
  w:
    image: @:${TAG:-1}
    command: ["/bin/busybox", "sh", "-c", "trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.1; done"]
"#;
const QUICK: &str = r#"    x-baton:
      update: { monitor: 200ms }
      ready: { exec: ["/bin/busybox", "true"], every: 50ms, timeout: 20s }
"#;

struct Said {
    code: i32,
    text: String,
}

/// A verb in the project's folder, not run yet.
fn verb(site: &Site, tag: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
    command.args(["--state", site.path("state").to_str().unwrap()]).args(args);
    command.current_dir(site.path("")).env("TAG", tag).env_remove("COMPOSE_FILE");
    command
}

fn said(mut command: Command) -> Said {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    Said { code: output.status.code().unwrap_or(-1), text }
}

fn up(site: &Site, tag: &str) -> Said {
    said(verb(site, tag, &["up", "--yes"]))
}

#[track_caller]
fn up_ends_well(site: &Site, tag: &str) -> String {
    let up = up(site, tag);
    assert_eq!(up.code, 0, "baton up with TAG={tag}: {}", up.text);
    up.text
}

/// An `up` that was followed to a place in its output.
struct Under {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    seen: String,
}

impl Under {
    /// Begins an `up`.
    fn way(site: &Site, tag: &str) -> Under {
        Under::of(verb(site, tag, &["up", "--yes"]))
    }

    fn of(mut command: Command) -> Under {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| tell.send(line)));
        Under { child, lines, seen: String::new() }
    }

    /// Reads on until a line has these words.
    #[track_caller]
    fn until(&mut self, words: &str) {
        let begun = Instant::now();
        loop {
            let left = BOUND.saturating_sub(begun.elapsed());
            let line = self.lines.recv_timeout(left);
            let line = line.unwrap_or_else(|_| panic!("it never said {words:?}: {}", self.seen));
            self.seen += &format!("{line}\n");
            if line.contains(words) {
                return;
            }
        }
    }

    fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// To its end.
    fn end(mut self) -> Said {
        let begun = Instant::now();
        while let Ok(line) = self.lines.recv_timeout(BOUND.saturating_sub(begun.elapsed())) {
            self.seen += &format!("{line}\n");
        }
        if begun.elapsed() >= BOUND {
            let _ = self.child.kill();
            panic!("it did not end within {BOUND:?}: {}", self.seen);
        }
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        Said { code, text: self.seen.clone() }
    }
}

impl Drop for Under {
    fn drop(&mut self) {
        // Has it ended, this fails, which is well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Image, state and restart policy of each container of the project, by name without the project's.
fn containers(site: &Site) -> BTreeMap<String, (String, String, String)> {
    let short = |name: String| name.trim_start_matches(&site.name).to_owned();
    site.states().into_iter().map(|(name, state)| (short(name), state)).collect()
}

/// How many containers of a service run.
fn running(site: &Site, service: &str) -> usize {
    let service = format!("label=com.docker.compose.service={service}");
    let project = format!("label=com.docker.compose.project={}", site.name);
    site.docker(&["ps", "-q", "--filter", &project, "--filter", &service]).lines().count()
}

/// The shop is as the file with that tag says, and Compose finds nothing to do.
#[track_caller]
fn shop_is_whole(site: &Site, tag: &str, told: &str) {
    let end = |name: &str, policy: &str| {
        (name.to_owned(), (format!("{}:{tag}", site.name), "running".to_owned(), policy.to_owned()))
    };
    let wanted: BTreeMap<_, _> =
        [end("-api-1", "always"), end("-api-2", "always"), end("-worker-1", "unless-stopped")].into();
    assert_eq!(containers(site), wanted, "{told}");
    site.compose_is_content(tag);
}

/// A shop at tag 1, made by Compose.
fn shop(what: &str) -> Site {
    let site = Site::new(what);
    site.compose_file(SHOP);
    site.compose_up("1");
    site
}
