//! Engines that are not there, say nothing, fall silent in the middle of a roll, or are started again.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::{BOUND, ONE, QUICK, Said, Under, running, said, shop, shop_is_whole, up_ends_well, verb};
use crate::docker::{Site, is_here};
use crate::support::fault_proxy::{Address, Fault, FaultProxy, Way};

fn real_socket() -> PathBuf {
    let host = std::env::var("DOCKER_HOST").unwrap_or_else(|_| "unix:///var/run/docker.sock".to_owned());
    PathBuf::from(host.trim_start_matches("unix://"))
}

fn at(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

#[test]
fn an_engine_that_is_down_or_silent_is_told_soon_with_what_it_was_asked() {
    if !is_here("an_engine_that_is_down_or_silent_is_told_soon_with_what_it_was_asked") {
        return;
    }
    let site = Site::new("down");
    site.compose_file(&format!("{ONE}{QUICK}"));
    let up_at = |socket: &Path| {
        let mut command = verb(&site, "1", &["up", "--yes"]);
        command.env("DOCKER_HOST", at(socket));
        said(command)
    };
    let down = up_at(&site.path("none.sock"));
    assert_eq!(down.code, 5, "{}", down.text);
    assert!(down.text.contains("none.sock") && down.text.contains("systemctl start docker"), "{}", down.text);
    let silent = site.path("silent.sock");
    let _silent = std::os::unix::net::UnixListener::bind(&silent).unwrap();
    let begun = Instant::now();
    let hanging = up_at(&silent);
    assert_eq!(hanging.code, 5, "{}", hanging.text);
    for word in ["silent.sock", "GET /_ping", "is silent", "journalctl -u docker"] {
        assert!(hanging.text.contains(word), "{word}: {}", hanging.text);
    }
    assert!(begun.elapsed() < Duration::from_secs(60), "it took {:?}", begun.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_engine_that_fails_in_the_middle_is_no_end_of_what_serves() {
    if !is_here("an_engine_that_fails_in_the_middle_is_no_end_of_what_serves") {
        return;
    }
    let site = shop("middle");
    let mut tag = "1";
    for (place, fault) in [
        ("api-1: begins start", Fault::Blackhole(Way::ToClient)),
        ("ready done", Fault::Refuse),
        ("stop after", Fault::Reset),
    ] {
        tag = if tag == "1" { "2" } else { "1" };
        let socket = site.path("proxy.sock");
        let _ = std::fs::remove_file(&socket);
        let proxy = FaultProxy::unix(&socket, Address::Unix(real_socket())).unwrap();
        let mut command = verb(&site, tag, &["up", "--yes"]);
        command.env("DOCKER_HOST", at(&socket));
        let first: Said = tokio::task::spawn_blocking(move || {
            let mut under = Under::of(command);
            under.until(place);
            under
        })
        .await
        .map(|under| {
            let handle = tokio::runtime::Handle::current();
            std::thread::scope(|scope| {
                scope.spawn(|| {
                    handle.block_on(async {
                        proxy.set(fault).await;
                        // For as long as an engine takes to come back; not waited for, it is the fault itself.
                        tokio::time::sleep(Duration::from_secs(3)).await;
                        proxy.set(Fault::None).await;
                    });
                });
                under.end()
            })
        })
        .unwrap();
        let told = || format!("{fault:?} after {place:?}: {}", first.text);
        assert!([0, 1, 3].contains(&first.code), "{}: {}", first.code, told());
        assert!(running(&site, "api") >= 1, "{}", told());
        drop(proxy);
        let again = match first.code {
            // What nobody could see needs a person: one who has looked begins anew.
            1 => {
                let again = said(verb(&site, tag, &["up", "--yes", "--supersede"]));
                assert_eq!(again.code, 0, "{}\nand again: {}", told(), again.text);
                again.text
            }
            _ => up_ends_well(&site, tag),
        };
        shop_is_whole(&site, tag, &format!("{}\nand again: {again}", told()));
    }
}

/// An engine of our own, which may be killed.
struct Own {
    folder: tempfile::TempDir,
    /// Holds a network namespace of its own: without a bridge an engine takes `docker0` away, which is another one's.
    net: Child,
    daemon: Option<Child>,
}

impl Own {
    fn begin(what: &str) -> Option<Own> {
        if !rustix::process::getuid().is_root() || Command::new("dockerd").arg("--version").output().is_err() {
            assert!(std::env::var("BATON_TEST_NO_SKIP").as_deref() != Ok("1"), "{what} needs root and dockerd");
            eprintln!("\n*** SKIPPED {what}: it needs root and dockerd, for an engine of its own ***\n");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("bt-own-").tempdir().unwrap();
        let mut holder = Command::new("unshare");
        let net = holder.args(["--net", "sh", "-c", "ip link set lo up; exec sleep 600"]).spawn().unwrap();
        let place = |pid: &str| std::fs::read_link(format!("/proc/{pid}/ns/net")).ok();
        let begun = Instant::now();
        while place(&net.id().to_string()) == place("self") {
            assert!(begun.elapsed() < BOUND, "no network namespace of our own");
            std::thread::sleep(Duration::from_millis(10));
        }
        let mut own = Own { folder, net, daemon: None };
        own.start();
        Some(own)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn address(&self) -> String {
        at(&self.path("d.sock"))
    }

    fn docker(&self, args: &[&str]) -> (bool, String) {
        let output = Command::new("docker").args(args).env("DOCKER_HOST", self.address()).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn start(&mut self) {
        let begun = Instant::now();
        self.spawn();
        while !self.docker(&["version", "--format", "{{.Server.Version}}"]).0 {
            let log = || std::fs::read_to_string(self.path("log")).unwrap_or_default();
            assert!(begun.elapsed() < BOUND, "an engine of our own does not come up: {}", log());
            std::thread::sleep(Duration::from_millis(50));
            // It gives its own helpers few seconds, which is too little on a busy machine.
            if self.daemon.as_mut().is_none_or(|daemon| daemon.try_wait().unwrap().is_some()) {
                self.spawn();
            }
        }
    }

    fn spawn(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.net.id())).args(["dockerd", "-H", &self.address()]);
        for (option, name) in [("--data-root", "data"), ("--exec-root", "exec"), ("--pidfile", "pid")] {
            command.arg(option).arg(self.path(name));
        }
        command.args(["--bridge", "none", "--iptables=false", "--storage-driver", "vfs"]);
        let config = self.path("daemon.json");
        std::fs::write(&config, "{}").unwrap();
        command.arg("--config-file").arg(config);
        let containerd = format!("bt-{}", std::process::id());
        command.args(["--containerd-namespace", &containerd]);
        command.args(["--containerd-plugins-namespace", &format!("{containerd}-plugins")]);
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.daemon = Some(command.spawn().unwrap());
    }

    /// What a daemon that was killed has left: processes that name our own folder, and their children.
    fn leftovers(&self) -> Vec<Pid> {
        let folder = self.folder.path().display().to_string();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()).and_then(Pid::from_raw);
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let Some(pid) = pid.filter(|_| String::from_utf8_lossy(&command).contains(&folder)) else { continue };
            let number = pid.as_raw_nonzero();
            let children = std::fs::read_to_string(format!("/proc/{number}/task/{number}/children"));
            let children = children.unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|child| Pid::from_raw(child.parse().ok()?)));
            found.push(pid);
        }
        found
    }

    fn end(&mut self, signal: Signal) {
        if let Some(mut daemon) = self.daemon.take() {
            let _ = kill_process(Pid::from_child(&daemon), signal);
            let _ = daemon.wait();
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        let (_, ids) = self.docker(&["ps", "-aq"]);
        for id in ids.lines() {
            self.docker(&["rm", "-f", id]);
        }
        self.end(Signal::TERM);
        let _ = self.net.kill();
        let _ = self.net.wait();
        for pid in self.leftovers() {
            let _ = kill_process(pid, Signal::KILL);
        }
        for place in std::fs::read_dir(self.path("exec/netns")).into_iter().flatten().flatten() {
            let _ = Command::new("umount").arg("-l").arg(place.path()).stderr(Stdio::null()).output();
        }
        let _ = Command::new("umount").arg("-l").arg(self.path("data")).stderr(Stdio::null()).output();
    }
}

#[test]
fn an_engine_that_is_started_again_or_killed_in_the_middle_and_up_again_ends_well() {
    const NAME: &str = "an_engine_that_is_started_again_or_killed_in_the_middle_and_up_again_ends_well";
    if !is_here(NAME) {
        return;
    }
    let Some(mut own) = Own::begin(NAME) else { return };
    let site = Site::new("own");
    let archive = site.path("images.tar").display().to_string();
    site.docker(&["save", "-o", &archive, &format!("{}:1", site.name), &format!("{}:2", site.name)]);
    assert!(own.docker(&["load", "-i", &archive]).0);
    // No networks: an engine of a test makes no rules for packets.
    let text = format!("{ONE}{QUICK}    restart: always\n    network_mode: none\n    deploy: {{ replicas: 2 }}\n");
    site.compose_file(&text);
    let compose = |own: &Own, tag: &str| {
        let mut command = Command::new("docker");
        command.args(["compose", "up", "-d"]).current_dir(site.path("")).env("TAG", tag);
        let output = command.env("DOCKER_HOST", own.address()).env_remove("COMPOSE_FILE").output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "docker compose up -d with TAG={tag}: {said}");
        said
    };
    let on = |own: &Own, tag: &str, args: &[&str]| {
        let mut command = verb(&site, tag, args);
        command.env("DOCKER_HOST", own.address());
        command
    };
    compose(&own, "1");
    let mut tag = "1";
    for (place, signal) in [("w-1: begins drain", Signal::TERM), ("ready done", Signal::KILL)] {
        tag = if tag == "1" { "2" } else { "1" };
        let mut under = Under::of(on(&own, tag, &["up", "--yes"]));
        under.until(place);
        own.end(signal);
        own.start();
        let first = under.end();
        let told = || format!("engine ended with {signal:?} after {place:?}: {}", first.text);
        assert!([0, 1, 3].contains(&first.code), "{}: {}", first.code, told());
        let (_, serving) = own.docker(&["ps", "--format", "{{.Names}}"]);
        assert!(!serving.is_empty(), "nothing serves: {}", told());
        let args: &[&str] = if first.code == 1 { &["up", "--yes", "--supersede"] } else { &["up", "--yes"] };
        let again = said(on(&own, tag, args));
        assert_eq!(again.code, 0, "{}\nand again: {}", told(), again.text);
        let (_, left) = own.docker(&["ps", "-a", "--format", "{{.Names}} {{.Image}} {{.State}}"]);
        let mut left: Vec<&str> = left.lines().collect();
        left.sort_unstable();
        let wanted = [1, 2].map(|number| format!("{0}-w-{number} {0}:{tag} running", site.name));
        assert_eq!(left, wanted, "{}\nand again: {}", told(), again.text);
        for number in [1, 2] {
            let format = "{{.HostConfig.RestartPolicy.Name}}";
            let (_, policy) = own.docker(&["inspect", "-f", format, &format!("{}-w-{number}", site.name)]);
            assert_eq!(policy, "always", "{}", told());
        }
        let said = compose(&own, tag);
        for word in ["Creating", "Recreate", "Removing"] {
            assert!(!said.contains(word), "docker compose up -d: {said}");
        }
    }
}
