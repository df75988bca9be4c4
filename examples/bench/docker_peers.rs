//! The contenders: each takes the stack from the first version to the second in its own way.

use std::path::Path;
use std::time::Duration;

use crate::docker::STACK;
use crate::docker_limit::{self, Order};
use crate::docker_site::{BOUND, Site};
use crate::rig::Outcome;

/// Who rolls the stack.
#[derive(Clone, Copy, PartialEq)]
pub enum Peer {
    Compose,
    Rollout,
    SwarmUpdates,
    SwarmDeploy,
    LimitStartFirst,
    Rolling,
    LimitStopFirst,
    Staged,
}

/// In this order: a limit comes right before what is set against it.
pub const PEERS: [Peer; 8] = [
    Peer::Compose,
    Peer::Rollout,
    Peer::SwarmUpdates,
    Peer::SwarmDeploy,
    Peer::LimitStartFirst,
    Peer::Rolling,
    Peer::LimitStopFirst,
    Peer::Staged,
];

/// The project of the contender that is at it.
pub const PROJECT: &str = "stack";
/// Between two questions of docker-rollout after the health of what it started.
const ROLLOUT_ASKS_EVERY: Duration = Duration::from_secs(1);

/// Usual settings, and the shortest sensible times: it asks the engine's DNS who there is, and each for its health.
const HAPROXY: &str = "
defaults
  mode http
  timeout connect 1s
  timeout client 30s
  timeout server 30s
  timeout check 2s
  option redispatch
  retries 3
resolvers engine
  nameserver dns 127.0.0.11:53
  hold valid 200ms
  timeout resolve 200ms
  timeout retry 200ms
frontend front
  bind :8080
  default_backend api
backend api
  option httpchk GET /health
  server-template api 4 api:8080 check inter 200ms fall 2 rise 1 resolvers engine init-addr none
";

impl Peer {
    /// As the table has it.
    pub fn name(self) -> &'static str {
        match self {
            Peer::Compose => "docker compose up -d",
            Peer::Rollout => "like docker-rollout",
            Peer::SwarmUpdates => "Swarm, service update in order",
            Peer::SwarmDeploy => "Swarm, stack deploy",
            Peer::LimitStartFirst => "limit, start-first in order",
            Peer::Rolling => "Baton rolling, start-first",
            Peer::LimitStopFirst => "limit, staged",
            Peer::Staged => "Baton staged",
        }
    }

    /// What its figures are set against.
    pub fn limit(self) -> Option<Peer> {
        match self {
            Peer::Rolling => Some(Peer::LimitStartFirst),
            Peer::Staged => Some(Peer::LimitStopFirst),
            _ => None,
        }
    }

    pub fn is_swarm(self) -> bool {
        matches!(self, Peer::SwarmUpdates | Peer::SwarmDeploy)
    }

    /// Its project, `port` being where clients ask.
    fn project(self, site: &Site, port: u16) -> String {
        let top = match self {
            Peer::Rolling => "x-baton: { strategy: rolling }\n",
            Peer::Staged => {
                "x-baton: { strategy: staged, stages: { stop: [[executor], [scheduler], [worker]], start: [[worker], \
                 [scheduler], [executor]] } }\n"
            }
            _ => "",
        };
        let mut text = format!("{top}services:\n");
        let mut before = None;
        for (service, count) in STACK {
            let image = if self.is_swarm() || self == Peer::Rollout { "@:well${TAG:-1}" } else { "@:${TAG:-1}" };
            text.push_str(&format!("  {service}:\n    image: \"{image}\"\n    command: [/bin/bench, box]\n"));
            let update = match self {
                Peer::SwarmUpdates | Peer::SwarmDeploy => {
                    ", update_config: { parallelism: 2, order: start-first, monitor: 1ms }"
                }
                _ => "",
            };
            let behind_proxy = service == "api" && self.is_swarm() && !has_ingress();
            let names = if behind_proxy { ", endpoint_mode: dnsrr" } else { "" };
            text.push_str(&format!("    deploy: {{ replicas: {count}{update}{names} }}\n"));
            if service == "api" && (self == Peer::Compose || (self.is_swarm() && has_ingress())) {
                text.push_str(&format!("    ports: [\"{port}:8080\"]\n"));
            }
            let order = match self {
                Peer::Rolling => "start-first",
                Peer::Staged if service == "api" => "start-first",
                Peer::Staged => "stop-first",
                _ => continue,
            };
            let mut keys = format!(
                "ready: {{ http: \"http://{{address}}:8080/health\", every: 10ms }}, update: {{ order: {order}, \
                 parallelism: 0, monitor: 0s }}"
            );
            if service == "api" {
                keys.push_str(", traffic: { gateway: { port: 8080 } }");
            }
            if service == "scheduler" && self == Peer::Rolling {
                keys.push_str(", singleton: false");
            }
            text.push_str(&format!("    x-baton: {{ {keys} }}\n"));
            if let Some(before) = before.filter(|_| self == Peer::Rolling) {
                text.push_str(&format!("    depends_on: [{before}]\n"));
            }
            before = Some(service);
        }
        let door = |command: &str, more: &str| {
            let ports = format!("    ports: [\"127.0.0.1:{port}:8080\"]\n");
            format!("  gateway:\n    image: \"@:door\"\n    command: {command}\n{ports}{more}")
        };
        let gateway = "[/bin/baton, gateway, --listen, \"api=:8080\", --backend, \"api=api:8080\"]";
        match self {
            Peer::Rollout if site.haproxy => {
                text.push_str(&door(
                    "[/bin/haproxy, -db, -f, /haproxy.cfg]",
                    "    volumes: [\"./haproxy.cfg:/haproxy.cfg:ro\"]\n",
                ));
            }
            Peer::Rollout | Peer::Rolling | Peer::Staged => text.push_str(&door(gateway, "")),
            // The limit reaches the control socket at once, as a folder of this host.
            Peer::LimitStartFirst | Peer::LimitStopFirst => {
                let user = rustix::process::getuid().as_raw();
                let more = format!("    user: \"{user}\"\n    volumes: [\"./door:/var/lib/baton\"]\n");
                text.push_str(&door(gateway, &more));
            }
            Peer::SwarmUpdates | Peer::SwarmDeploy if !has_ingress() => text.push_str(&format!(
                r#"  gateway:
    image: "@:door"
    command: [/bin/haproxy, -db, -f, /haproxy.cfg]
    volumes: ["{}:/haproxy.cfg:ro"]
    ports: [{{ target: 8080, published: {port}, mode: host }}]
"#,
                site.path(PROJECT).join("haproxy.cfg").display()
            )),
            Peer::Compose | Peer::SwarmUpdates | Peer::SwarmDeploy => {}
        }
        text
    }

    /// The first version runs.
    pub async fn set_up(self, site: &Site, port: u16) -> Outcome<()> {
        // What the last one has left there is its own, a gateway's table above all.
        let _ = std::fs::remove_dir_all(site.path(PROJECT));
        site.write(PROJECT, &self.project(site, port))?;
        std::fs::write(site.path(PROJECT).join("haproxy.cfg"), HAPROXY)?;
        std::fs::create_dir_all(site.path(PROJECT).join("door"))?;
        if self.is_swarm() {
            if !has_ingress() && !site.haproxy {
                return Err("Swarm's ports need IPVS in the kernel (`modprobe ip_vs`), or HAProxy installed".into());
            }
            site.swarm().await?;
            self.deploy(site, "1").await?;
        } else {
            site.compose(PROJECT, "1", &["up", "-d"]).await?;
        }
        Ok(())
    }

    async fn deploy(self, site: &Site, tag: &str) -> Outcome<()> {
        let file = site.path(PROJECT).join("stack.yaml");
        // Swarm's reader knows no name at the top.
        let text = std::fs::read_to_string(site.path(PROJECT).join("compose.yaml"))?;
        let text: Vec<&str> = text.lines().skip(1).collect();
        std::fs::write(&file, format!("version: \"3.8\"\n{}\n", text.join("\n")))?;
        let (file, stack) = (file.to_string_lossy().into_owned(), format!("{}-{PROJECT}", site.name));
        let arguments = ["stack", "deploy", "--resolve-image", "never", "-c", &file, &stack];
        site.docker_with(&arguments, &[("TAG", tag)]).await.map(|_| ())
    }

    /// The command, or the sequence of them.
    pub async fn roll(self, site: &Site) -> Outcome<()> {
        let socket = site.path(PROJECT).join("door/gateway/control.sock");
        match self {
            Peer::Compose => site.compose(PROJECT, "2", &["up", "-d"]).await.map(|_| ()),
            Peer::Rollout => rollout(site).await,
            Peer::SwarmDeploy => self.deploy(site, "2").await,
            Peer::SwarmUpdates => {
                let image = format!("{}:well2", site.name);
                for (service, _) in STACK {
                    let name = format!("{}-{PROJECT}_{service}", site.name);
                    let update =
                        ["service", "update", "-q", "--no-resolve-image", "--detach=false", "--image", &image, &name];
                    site.docker(&update).await?;
                }
                Ok(())
            }
            Peer::LimitStartFirst => docker_limit::stack(site, PROJECT, Order::StartFirst, &socket).await,
            Peer::LimitStopFirst => docker_limit::stack(site, PROJECT, Order::StopFirst, &socket).await,
            Peer::Rolling | Peer::Staged => site.baton(PROJECT, "2", &["up", "--yes"]).await.map(|_| ()),
        }
    }
}

/// Whether Swarm can lead a port of this host to its containers: that is the kernel's IPVS. Else HAProxy does it here.
fn has_ingress() -> bool {
    let loads = || std::process::Command::new("modprobe").args(["-q", "-n", "ip_vs"]).status();
    Path::new("/proc/net/ip_vs").exists() || loads().is_ok_and(|status| status.success())
}

/// Service by service: twice as many, wait for their health, stop and remove the old ones.
async fn rollout(site: &Site) -> Outcome<()> {
    for (service, count) in STACK {
        let old: Vec<String> =
            site.containers().await?.into_iter().filter(|seen| seen.service == service).map(|seen| seen.id).collect();
        let scale = format!("{service}={}", 2 * count);
        let up = ["up", "-d", "--no-deps", "--no-recreate", "--scale", &scale, service];
        site.compose(PROJECT, "2", &up).await?;
        let begun = std::time::Instant::now();
        loop {
            let now = site.containers().await?.into_iter().filter(|seen| seen.service == service);
            let new: Vec<String> = now.map(|seen| seen.id).filter(|id| !old.contains(id)).collect();
            let ask: Vec<&str> = ["inspect", "--format", "{{.State.Health.Status}}"]
                .into_iter()
                .chain(new.iter().map(String::as_str))
                .collect();
            let said = site.docker(&ask).await?;
            if new.len() == count && said.lines().all(|line| line == "healthy") {
                break;
            }
            if begun.elapsed() > BOUND {
                return Err(format!("{service} does not get healthy: {said}").into());
            }
            tokio::time::sleep(ROLLOUT_ASKS_EVERY).await;
        }
        for verb in ["stop", "rm"] {
            let all: Vec<&str> = [verb].into_iter().chain(old.iter().map(String::as_str)).collect();
            site.docker(&all).await?;
        }
    }
    Ok(())
}
