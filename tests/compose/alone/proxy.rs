//! The API stays up behind a proxy that people run themselves: HAProxy, and others that a command of theirs tells.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::docker::{Site, gate, is_here};
use crate::support::front::Front;
use crate::support::leftovers::end_all;
use crate::support::procs::{free_port, quickstart};
use crate::support::wait::wait_for;
use crate::under_load::{Ends, api, roll_under_load};

/// Where a program is, if it is here. Where it is not, the test says so and passes, unless `BATON_TEST_NO_SKIP=1`.
fn program(test: &str, name: &str) -> Option<String> {
    let found = ["/usr/sbin", "/usr/bin", "/usr/local/bin"].iter().map(|folder| format!("{folder}/{name}"));
    let found = found.into_iter().find(|path| Path::new(path).exists());
    if found.is_none() {
        assert!(std::env::var("BATON_TEST_NO_SKIP").as_deref() != Ok("1"), "{test} needs {name}");
        eprintln!("\n*** SKIPPED {test}: it needs {name} (install {name}) ***\n");
    }
    found
}

/// An image of the project's with a program of this host and the libraries that it is linked with.
fn image_of(site: &Site, program: &str) -> String {
    let name = program.rsplit('/').next().unwrap();
    let context = site.path(name);
    std::fs::create_dir(&context).unwrap();
    std::fs::copy(program, context.join(name)).unwrap();
    let linked = Command::new("ldd").arg(program).output().unwrap();
    let mut file = format!("FROM {}:1\nCOPY {name} {program}\n", site.name);
    for library in String::from_utf8_lossy(&linked.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        let file_name = library.rsplit('/').next().unwrap();
        std::fs::copy(library, context.join(file_name)).unwrap();
        file.push_str(&format!("COPY {file_name} {library}\n"));
    }
    std::fs::write(context.join("Dockerfile"), file).unwrap();
    let tag = format!("baton/{}/{name}:1", site.name);
    site.docker(&["build", "-q", "-t", &tag, name]);
    tag
}

/// HAProxy as people have it before an API: its server is the service's name.
const HAPROXY: &str = "
global
  stats socket /run/haproxy/admin.sock mode 600 level admin
defaults
  mode http
  option redispatch
  timeout connect 2s
  timeout client 60s
  timeout server 60s
frontend public
  bind :8080
  default_backend api
backend api
  server first api:8080 init-addr libc,none
";

/// HAProxy as a service of the project; its socket is in a folder of the project's.
fn haproxy(site: &Site, image: &str, port: u16) -> String {
    std::fs::write(site.path("haproxy.cfg"), HAPROXY).unwrap();
    std::fs::create_dir(site.path("run")).unwrap();
    format!(
        r#"  lb:
    image: {image}
    command: [/usr/sbin/haproxy, -db, -f, /etc/haproxy.cfg]
    volumes: ["./haproxy.cfg:/etc/haproxy.cfg:ro", "./run:/run/haproxy"]
    ports: ["127.0.0.1:{port}:8080"]
    depends_on: [api]
"#
    )
}

const BEHIND_HAPROXY: &str = "{ haproxy: { socket: ./run/admin.sock, port: 8080 } }";

/// What HAProxy says of its servers: name and status. Nothing while it does not run.
fn servers(site: &Site) -> Vec<(String, String)> {
    use std::io::{Read, Write};
    let Ok(mut socket) = std::os::unix::net::UnixStream::connect(site.path("run/admin.sock")) else { return vec![] };
    let mut text = String::new();
    if socket.write_all(b"show stat -1 4 -1\n").and_then(|()| socket.read_to_string(&mut text)).is_err() {
        return vec![];
    }
    let rows = text.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>()).filter(|row| row.len() > 17);
    rows.map(|row| (row[1].to_owned(), row[17].to_owned())).collect()
}

#[test]
fn ten_rolls_behind_haproxy_lose_no_request() {
    let test = "ten_rolls_behind_haproxy_lose_no_request";
    let Some(program) = program(test, "haproxy").filter(|_| is_here(test)) else { return };
    let _pass = gate::measuring();
    let site = Site::with_baton("haproxy", quickstart());
    let front = Front { port: free_port() };
    let lb = haproxy(&site, &image_of(&site, &program), front.port);
    site.compose_file(&api(2, BEHIND_HAPROXY, &lb));
    site.compose_up("1");
    let before = site.inspect(&format!("{}-lb-1", site.name))["Id"].clone();
    let planned = site.baton("2", &["plan"], 0);
    assert!(!planned.contains("so ask lb"), "a proxy is no client: {planned}");
    roll_under_load(&site, front, &Ends::Cut, 10, 10_000);
    site.compose_is_content("1");
    assert_eq!(before, site.inspect(&format!("{}-lb-1", site.name))["Id"]);
    let up = |servers: &[(String, String)]| servers.iter().filter(|(_, status)| status.starts_with("UP")).count();
    // The two, the one of its file, and at most the one that left last: the table names it until the next switch.
    let now = servers(&site);
    assert!(up(&now) == 2 && now.len() <= 4, "{now:?}");
    // Started anew it has what its file says; it is told again, and nobody has to ask for that.
    site.compose(&["restart", "lb"]);
    wait_for("HAProxy to be told again", Duration::from_secs(30), || {
        let now = servers(&site);
        up(&now) == 2 && now.iter().any(|(name, status)| name == "first" && status.starts_with("DRAIN"))
    });
    assert_eq!(front.get("/").map(|(status, _)| status), Some(200));
    site.baton("1", &["down", "--yes"], 0);
    end_all(&site.path("state"), Duration::from_secs(1)).unwrap();
}

#[test]
fn a_single_replica_behind_haproxy_is_rolled_under_load() {
    let test = "a_single_replica_behind_haproxy_is_rolled_under_load";
    let Some(program) = program(test, "haproxy").filter(|_| is_here(test)) else { return };
    let _pass = gate::measuring();
    let site = Site::with_baton("haone", quickstart());
    let front = Front { port: free_port() };
    let lb = haproxy(&site, &image_of(&site, &program), front.port);
    site.compose_file(&api(1, BEHIND_HAPROXY, &lb));
    site.compose_up("1");
    roll_under_load(&site, front, &Ends::Cut, 2, 1_000);
    site.baton("1", &["down", "--yes"], 0);
    end_all(&site.path("state"), Duration::from_secs(1)).unwrap();
}

/// Tells nginx: its upstreams are a file, and a reload takes them in. So a user would write it.
const TELL_NGINX: &str = r#"#!/bin/sh
set -e
cd "$(dirname "$0")"
{
  echo "upstream api {"
  for target in $BATON_ADMITTING; do echo "  server $target;"; done
  [ -n "$BATON_ADMITTING" ] || echo "  server 127.0.0.1:9 down;"
  echo "}"
} > upstream.new
mv upstream.new upstream.conf
exec NGINX -p . -c nginx.conf -s reload
"#;

const NGINX: &str = "
daemon off;
master_process on;
pid nginx.pid;
error_log stderr;
events {}
http {
  access_log off;
  include upstream.conf;
  server {
    listen 127.0.0.1:PORT;
    location / {
      proxy_http_version 1.1;
      proxy_set_header Connection \"\";
      proxy_pass http://api;
    }
  }
}
";

/// Tells Caddy over its admin API, with nothing but a shell and curl's stand-in in busybox.
const TELL_CADDY: &str = r#"#!/bin/sh
set -e
list=
for target in $BATON_ADMITTING; do list="$list{\"dial\":\"$target\"},"; done
/bin/busybox wget -q -O /dev/null --header 'Content-Type: application/json' --post-data \
  "{\"admin\":{\"listen\":\"127.0.0.1:ADMIN\"},\"apps\":{\"http\":{\"servers\":{\"api\":{\"listen\":[\"127.0.0.1:PORT\"],\"routes\":[{\"handle\":[{\"handler\":\"reverse_proxy\",\"upstreams\":[${list%,}]}]}]}}}}}" \
  http://127.0.0.1:ADMIN/load
"#;

/// A process of the test, ended with it.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn script(site: &Site, name: &str, text: &str) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::write(site.path(name), text).unwrap();
    std::fs::set_permissions(site.path(name), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[test]
fn other_proxies_are_told_by_a_command_of_their_users() {
    let test = "other_proxies_are_told_by_a_command_of_their_users";
    let (Some(nginx), Some(caddy)) = (program(test, "nginx"), program(test, "caddy")) else { return };
    if !is_here(test) {
        return;
    }
    let _pass = gate::measuring();
    for name in ["nginx", "caddy"] {
        let site = Site::with_baton(name, quickstart());
        let front = Front { port: free_port() };
        let admin = free_port();
        let filled = |text: &str| {
            let text = text.replace("PORT", &front.port.to_string()).replace("ADMIN", &admin.to_string());
            text.replace("NGINX", &nginx)
        };
        let mut proxy = if name == "nginx" {
            script(&site, "tell", &filled(TELL_NGINX));
            std::fs::write(site.path("nginx.conf"), filled(NGINX)).unwrap();
            std::fs::write(site.path("upstream.conf"), "upstream api { server 127.0.0.1:9; }").unwrap();
            let mut command = Command::new(&nginx);
            command.args(["-p", ".", "-c", "nginx.conf"]);
            command
        } else {
            script(&site, "tell", &filled(TELL_CADDY));
            let config = filled(r#"{"admin":{"listen":"127.0.0.1:ADMIN"}}"#);
            std::fs::write(site.path("caddy.json"), config).unwrap();
            let mut command = Command::new(&caddy);
            command.args(["run", "--config", "caddy.json"]).env("HOME", site.path(""));
            command
        };
        let _proxy = Running(proxy.current_dir(site.path("")).stderr(Stdio::null()).spawn().unwrap());
        let behind = "{ exec: { switch: [./tell], port: 8080, settle: 1s } }";
        site.compose_file(&api(2, behind, ""));
        site.compose_up("1");
        // Whoever puts the API behind it for the first time: nothing is replaced, the proxy is told.
        site.baton("1", &["up", "--yes"], 0);
        wait_for("the first answer", Duration::from_secs(30), || {
            front.get("/").is_some_and(|(status, _)| status == 200)
        });
        let load = crate::support::front::Load::at(front, 100);
        for tag in ["2", "1"] {
            site.baton(tag, &["up", "--yes"], 0);
            let (_, about) = front.get("/").expect("an answer");
            assert!(about.contains(&format!(r#""version":"{tag}""#)), "{name}: {about}");
        }
        let report = load.stop();
        eprintln!("{name}: {} requests, {} failed", report["requests"], report["failed"]);
        // Both close kept connections when they are told: a request may meet that. An instance that went too soon would
        // fail far more.
        let (failed, requests) = (report["failed"].as_u64().unwrap(), report["requests"].as_u64().unwrap());
        assert!(failed * 100 <= requests, "{name}: {report}");
        site.compose_is_content("1");
        site.baton("1", &["down", "--yes"], 0);
        end_all(&site.path("state"), Duration::from_secs(1)).unwrap();
    }
}
