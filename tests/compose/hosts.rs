//! One fleet over two hosts, each with a Compose project of its own and an agent that reads it: another engine, another
//! `.env`, secrets that never leave. Compose is the judge on both, and once the hosts are cut off from each other.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::docker::{Site, is_here};
use crate::second::Second;
use crate::support::daemons::{Daemons, insecure};
use crate::support::fleet::BOUND;
use crate::support::procs::free_port;
use crate::support::wait::{wait_for, wait_some};

/// One for each host: no part of one is part of the other.
const SECRETS: [&str; 2] = ["canary-alpha-71d04c2e", "canary-bravo-e58b93f6"];

/// Both hosts have this, each with an `.env` of its own. The fleet does not name `db`.
const SERVICES: &str = r#"
services:
  db:
    image: @:1
  api:
    image: @:${TAG}
    command:
      - /bin/busybox
      - sh
      - -c
      - echo ${WHERE} $$V > /index.html; /bin/busybox httpd -f -p 8080 -h / & trap 'kill $$!; exit 0' TERM; wait
    environment: { PASSWORD: "${SECRET}" }
    stop_grace_period: 7s
    restart: always
  worker:
    image: @:${TAG}
    command:
      - /bin/busybox
      - sh
      - -c
      - trap '/bin/busybox sleep ${SLOW:-0}; exit 0' TERM; while :; do /bin/busybox sleep 0.1; done
    environment: { PASSWORD: "${SECRET}", WHERE: "${WHERE}" }
    depends_on: [db]
    stop_grace_period: 20s
    restart: unless-stopped
    deploy: { replicas: 2 }
x-baton: { version: { variable: TAG } }
"#;

/// What goes from an agent to its coordinator, byte for byte.
struct Relay {
    address: String,
    seen: Arc<Mutex<Vec<u8>>>,
}

impl Relay {
    /// Listens at `here` and passes everything on.
    fn new(here: &str, to: &str) -> Self {
        let listener = TcpListener::bind((here, 0)).expect("a port on the link");
        let address = listener.local_addr().expect("its address").to_string();
        let (seen, to) = (Arc::new(Mutex::new(Vec::new())), to.to_owned());
        let keep = seen.clone();
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let Ok(far) = TcpStream::connect(&to) else { continue };
                let (near_too, far_too) = (near.try_clone().expect("a socket"), far.try_clone().expect("a socket"));
                let seen = keep.clone();
                std::thread::spawn(move || pass(near, far, |bytes| seen.lock().expect("bytes").extend(bytes)));
                std::thread::spawn(move || pass(far_too, near_too, |_| ()));
            }
        });
        Self { address, seen }
    }

    fn saw(&self, text: &str) -> bool {
        holds(&self.seen.lock().expect("bytes"), text)
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, mut tell: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        tell(&buffer[..count]);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    // The other end sees an end, too.
    let _ = (to.shutdown(Shutdown::Both), from.shutdown(Shutdown::Both));
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Every file below a folder that holds a text.
fn files_with(folder: &Path, text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files_with(&path, text));
        } else if std::fs::read(&path).is_ok_and(|bytes| holds(&bytes, text)) {
            found.push(path.display().to_string());
        }
    }
    found
}

/// Two hosts and what rules them.
struct Hosts {
    daemons: Daemons,
    sites: [Site; 2],
    relay: Relay,
    port: u16,
    // Last: the next test has its turn when all is gone.
    second: Second,
}

const IDS: [&str; 2] = ["host-a", "host-b"];

impl Hosts {
    fn new(name: &str, second: Second) -> Self {
        let sites = [Site::new(&format!("{name}-a")), Site::on(Some(&second.engine), &format!("{name}-b"))];
        let mut daemons = Daemons::new(&sites[0].name, insecure());
        let inside = second.inside();
        daemons.tracer = Some(Box::new(move |name| if name == "agent-host-b" { inside.clone() } else { Vec::new() }));
        daemons.coordinator("127.0.0.1:0", &insecure(), &["--heartbeat", "1s"]);
        let relay = Relay::new(second.here(), &daemons.address);
        let mut hosts = Self { daemons, sites, relay, port: free_port(), second };
        for (site, _) in hosts.sites.iter().zip(IDS) {
            site.compose_file(SERVICES);
        }
        // What only that host has: Compose reads it beside the other one.
        let subnet = hosts.second.subnet();
        let network = format!("networks: {{ default: {{ ipam: {{ config: [{{ subnet: {subnet} }}] }} }} }}\n");
        std::fs::write(hosts.sites[1].path("compose.override.yaml"), network).expect("an override");
        hosts.tag("1", "0");
        for site in &hosts.sites {
            site.compose(&["up", "-d"]);
        }
        hosts.manifest("");
        for place in [0, 1] {
            hosts.agent(place);
        }
        hosts.daemons.wait_agents(2);
        hosts
    }

    /// Waits until every instance is known to be ready: a plan looks at that, and a busy machine takes its time.
    fn wait_ready(&self) {
        wait_for("every instance to be ready", BOUND, || {
            let view = self.daemons.view();
            let mut instances =
                view["slots"].as_array().into_iter().flatten().flat_map(|slot| slot["instances"].as_array()).flatten();
            instances.all(|instance| instance["health"] == "ready")
        });
    }

    fn agent(&mut self, place: usize) -> usize {
        let site = &self.sites[place];
        let policy = format!("components: [api, worker, gateway]\nimages: [\"{}\"]\n", site.name);
        let folder = site.path("");
        let to = [&self.daemons.address, &self.relay.address][place].clone();
        let engine = self.second.engine.clone();
        self.daemons.agent_with(IDS[place], &to, &policy, |command| {
            command.arg("--insecure").arg("--compose").arg(folder);
            if place == 1 {
                command.env("DOCKER_HOST", engine);
            }
        })
    }

    /// Writes `.env` on both hosts: what differs between them, and what is the same.
    fn tag(&self, tag: &str, slow: &str) {
        for ((site, id), secret) in self.sites.iter().zip(IDS).zip(SECRETS) {
            let text = format!("TAG={tag}\nSLOW={slow}\nWHERE={id}\nSECRET={secret}\n");
            std::fs::write(site.path(".env"), text).expect("an .env");
        }
    }

    /// Writes baton.yaml; `more` are further keys of the worker.
    fn manifest(&self, more: &str) {
        let ready = "ready: { exec: [\"/bin/busybox\", \"true\"], every: 50ms }";
        let components = format!(
            r#"  api:
    compose: {{}}
    on: [host-a, host-b]
    ready: {{ http: "http://{{address}}:8080/index.html", every: 50ms }}
    update: {{ monitor: 300ms }}
    drain: {{ stop_timeout: 2s }}
    traffic: {{ gateway: {{ listen: "127.0.0.1:{}", port: 8080 }} }}
  worker:
    compose: {{ service: worker }}
    on: [host-a, host-b]
    replicas: 4
    update: {{ monitor: 300ms }}
    {ready}
{more}"#,
            self.port
        );
        self.daemons.fleet.manifest("", &components);
    }

    fn up(&self, args: &[&str], code: i32) -> String {
        let words: Vec<&str> = ["up", "--yes"].iter().chain(args).copied().collect();
        let said = self.daemons.expect(&words, code).all();
        for secret in SECRETS {
            assert!(!said.contains(secret), "{said}");
        }
        said
    }

    /// Every container on a host: id and image, by name.
    fn containers(&self, place: usize) -> BTreeMap<String, (String, String)> {
        let site = &self.sites[place];
        let filter = format!("label=com.docker.compose.project={}", site.name);
        let list =
            site.docker(&["ps", "-a", "--no-trunc", "--filter", &filter, "--format", "{{.Names}} {{.ID}} {{.Image}}"]);
        let line = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            Some((words.next()?, (words.next()?, words.next()?)))
        };
        list.lines().filter_map(line).collect()
    }

    /// All of api and worker are on that version on both hosts, and Compose there finds nothing to do.
    #[track_caller]
    fn content_at(&self, version: &str) {
        for (place, site) in self.sites.iter().enumerate() {
            let before = self.containers(place);
            let names: Vec<String> = ["api-1", "db-1", "worker-1", "worker-2"]
                .iter()
                .map(|short| format!("{}-{short}", site.name))
                .collect();
            assert!(before.keys().eq(names.iter()), "{before:?}");
            for (name, (_, image)) in &before {
                let on = if name.ends_with("-db-1") { "1" } else { version };
                assert_eq!(*image, format!("{}:{on}", site.name), "{name}");
            }
            let said = site.compose(&["up", "-d"]);
            for word in ["Creating", "Recreate", "Removing", "Starting"] {
                assert!(!said.contains(word), "docker compose up -d on {}: {said}", IDS[place]);
            }
            assert_eq!(before, self.containers(place), "the same containers");
        }
    }

    /// From here on every signal that a container of a host's project is sent is written down. An engine remembers few
    /// events, so it is listened to all the while.
    fn listen(&mut self) {
        for (place, id) in IDS.iter().enumerate() {
            let site = &self.sites[place];
            let filter = format!("label=com.docker.compose.project={}", site.name);
            let mut command = std::process::Command::new("docker");
            command.args(["events", "--filter", &filter, "--filter", "event=kill", "--filter", "event=exec_die"]);
            command.args(["--format", "{{.Action}} {{.Actor.ID}} {{index .Actor.Attributes \"signal\"}}"]);
            if place == 1 {
                command.env("DOCKER_HOST", &self.second.engine);
            }
            self.daemons.fleet.stage.spawn(&format!("events-{id}"), &mut command);
            // It listens once it has told something: a command beside a container is an event.
            let container = format!("{}-db-1", site.name);
            wait_for("events to be told", BOUND, || {
                site.docker(&["exec", &container, "/bin/busybox", "true"]);
                self.daemons.fleet.stage.log(&format!("events-{id}")).contains("exec_die")
            });
        }
    }

    /// Signals since then, as `ID SIGNAL`.
    fn signals(&self, place: usize) -> Vec<String> {
        let log = self.daemons.fleet.stage.log(&format!("events-{}", IDS[place]));
        log.lines().filter_map(|line| line.strip_prefix("kill ")).map(str::to_owned).collect()
    }
}

/// Somebody who asks the API all the time.
struct Load {
    stop: Arc<AtomicBool>,
    asking: std::thread::JoinHandle<(u32, Vec<String>)>,
}

impl Load {
    fn begin(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ended = stop.clone();
        let asking = std::thread::spawn(move || {
            let (mut good, mut bad) = (0, Vec::new());
            while !ended.load(Ordering::Relaxed) {
                match get(port) {
                    Ok(answer) if answer.starts_with("HTTP/1.1 200") => good += 1,
                    other => bad.push(format!("{other:?}")),
                }
            }
            (good, bad)
        });
        Self { stop, asking }
    }

    /// How many were answered; none may have failed.
    #[track_caller]
    fn end(self) -> u32 {
        self.stop.store(true, Ordering::Relaxed);
        let (good, bad) = self.asking.join().expect("the load");
        assert!(bad.is_empty(), "{} of {} requests failed: {:?}", bad.len(), bad.len() + good as usize, bad.first());
        good
    }
}

fn get(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(40)))?;
    stream.write_all(b"GET /index.html HTTP/1.1\r\nHost: api\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[test]
fn each_host_rolls_its_own_project_and_its_secrets_stay_there() {
    let test = "each_host_rolls_its_own_project_and_its_secrets_stay_there";
    let (true, Some(second)) = (is_here(test), Second::find(test)) else { return };
    let mut hosts = Hosts::new("own", second);
    let made = [hosts.containers(0), hosts.containers(1)];

    // What is there is what is wanted: only the front door is new.
    hosts.up(&[], 0);
    assert_eq!(made, [hosts.containers(0), hosts.containers(1)], "as the files say already: nothing is touched");
    let load = Load::begin(hosts.port);
    hosts.tag("2", "0");
    let said = hosts.up(&[], 0);
    let answered = load.end();
    assert!(answered > 20, "{answered} requests: {said}");
    hosts.content_at("2");
    let mut who: Vec<String> =
        (0..8).map(|_| get(hosts.port).unwrap().lines().last().unwrap_or_default().to_owned()).collect();
    who.sort();
    who.dedup();
    assert_eq!(who, ["host-a 2", "host-b 2"], "both hosts answer");
    // The fleet counts across hosts; each project from 1.
    let name = |site: usize, short: &str| format!("{}-{short}", hosts.sites[site].name);
    let logged = |id: &str, text: &str| hosts.daemons.fleet.stage.log(&format!("agent-{id}")).contains(text);
    assert!(logged("host-b", "slot=worker-4") && !logged("host-a", "slot=worker-4"));
    assert_ne!(made[1][&name(1, "worker-2")], hosts.containers(1)[&name(1, "worker-2")]);

    // Back to what was there before Baton came; the hosts' own files are not changed by that.
    hosts.wait_ready();
    hosts.daemons.expect(&["rollback", "--yes"], 0);
    hosts.tag("1", "0");
    hosts.content_at("1");
    // The tag from the command line, and the same in the files afterwards.
    let said = hosts.up(&["--to", "2"], 0);
    assert!(said.contains("2"), "{said}");
    hosts.tag("2", "0");
    hosts.content_at("2");
    hosts.up(&[], 0);
    let before = [hosts.containers(0), hosts.containers(1)];
    hosts.daemons.expect(&["restart", "worker", "--yes"], 0);
    for place in [0, 1] {
        let (before, after) = (&before[place], hosts.containers(place));
        assert_ne!(before[&name(place, "worker-1")], after[&name(place, "worker-1")], "{after:?}");
        assert_eq!(before[&name(place, "api-1")], after[&name(place, "api-1")]);
    }
    hosts.content_at("2");

    // What the service says where baton.yaml is silent, and what wins where it is not.
    hosts.tag("1", "0");
    let (old, new) = (format!("{}:2", hosts.sites[1].name), format!("{}:1", hosts.sites[1].name));
    let plan = hosts.daemons.expect(&["plan"], 0).all();
    assert!(plan.contains("grace 7s") && plan.contains("grace 20s"), "the grace of each service: {plan}");
    assert!(plan.contains(&format!("(image {old} -> {new})")), "as that host calls it: {plan}");
    hosts.manifest("    drain: { grace: 3s }\n");
    let plan = hosts.daemons.expect(&["plan"], 0).all();
    assert!(plan.contains("grace 7s") && plan.contains("grace 3s"), "baton.yaml wins: {plan}");

    // Nothing of a host's secrets has left it.
    let stage = &hosts.daemons.fleet.stage;
    for (place, secret) in SECRETS.iter().enumerate() {
        let there = files_with(&stage.path(format!("agent-{}", IDS[place])), secret);
        assert!(!there.is_empty() && there.iter().all(|file| file.contains("/specs/")), "{there:?}");
        for elsewhere in [stage.path("state"), stage.path(format!("agent-{}", IDS[1 - place]))] {
            assert_eq!(files_with(&elsewhere, secret), Vec::<String>::new(), "{}", elsewhere.display());
        }
        for log in ["coordinator", "agent-host-a", "agent-host-b"] {
            assert!(!stage.log(log).contains(secret), "the log of {log}");
        }
    }
    assert!(hosts.relay.saw("config_hash") && !hosts.relay.saw(SECRETS[1]), "what host-b told its coordinator");

    wrong_files_are_refused(&mut hosts);
}

/// What does not fit is refused before anything is touched, in words that say where and what to do.
fn wrong_files_are_refused(hosts: &mut Hosts) {
    let before = [hosts.containers(0), hosts.containers(1)];
    let there = std::fs::read_to_string(hosts.sites[1].path("compose.yaml")).unwrap();
    for (from, to, said) in [
        ("replicas: 2", "replicas: 3", "would have 3 containers of service worker, and the fleet places 2 here"),
        ("  worker:\n", "  labour:\n", "has no service worker; it has api, db, labour"),
        ("stop_grace_period: 7s", "stop_grace_period: 9s", "host-a and host-b say different things of drain"),
        ("services:", "servces:", "host-b"),
    ] {
        let text = there.replacen(from, to, 1);
        assert_ne!(text, there, "{from}");
        std::fs::write(hosts.sites[1].path("compose.yaml"), text).unwrap();
        let refused = hosts.up(&[], 5);
        assert!(refused.contains(said), "{to}: {refused}");
    }
    std::fs::write(hosts.sites[1].path("compose.yaml"), there).unwrap();
    let refused = hosts.up(&["--to", "../2"], 5);
    assert!(refused.contains("is no tag"), "{refused}");
    assert_eq!(before, [hosts.containers(0), hosts.containers(1)], "nothing was touched");
}

#[test]
fn a_roll_that_is_cut_off_from_a_host_holds_and_goes_on_when_the_host_is_back() {
    let test = "a_roll_that_is_cut_off_from_a_host_holds_and_goes_on_when_the_host_is_back";
    let (true, Some(second)) = (is_here(test), Second::find(test)) else { return };
    let mut hosts = Hosts::new("cut", second);
    hosts.up(&[], 0);
    // A worker that takes its time to end.
    hosts.tag("1", "4");
    hosts.up(&[], 0);
    hosts.listen();
    hosts.tag("2", "4");
    let up = hosts.daemons.spawn("up", &["up", "--yes"]);
    wait_for("a worker of host-b to be asked to end", 2 * BOUND, || !hosts.signals(1).is_empty());
    let cut = hosts.second.cut();
    let hold = wait_some("a hold that names host-b", BOUND, || {
        let view = hosts.daemons.view();
        let holds = view["holds"].as_array()?.clone();
        holds.into_iter().find(|hold| hold.to_string().contains("host-b"))
    });
    println!("held: {hold}");
    let status = hosts.daemons.expect(&["status"], 0).out;
    println!("{status}");
    assert!(status.contains("agent host-b"), "{status}");
    assert!(hosts.daemons.child(up).is_running(), "it holds, it does not fail");
    // What host-b was told is finished there, without anybody who listens: its safe point.
    let worker = format!("{}-worker-", hosts.sites[1].name);
    let image = format!("{}:2", hosts.sites[1].name);
    wait_for("host-b to finish what it was told", BOUND, || {
        hosts.containers(1).iter().any(|(name, (_, on))| name.starts_with(&worker) && *on == image)
    });
    drop(cut);
    let ended = hosts.daemons.child(up).wait(2 * BOUND);
    assert!(ended.success(), "{}", hosts.daemons.fleet.stage.log("up"));
    hosts.content_at("2");
    for place in [0, 1] {
        let mut told = hosts.signals(place);
        let all = told.len();
        told.sort();
        told.dedup();
        assert_eq!(told.len(), all, "nobody is asked twice on {}: {told:?}", IDS[place]);
        assert_eq!(all, 3, "an api and two workers of {}: {told:?}", IDS[place]);
    }
}
