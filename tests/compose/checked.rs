//! Real projects, real Compose, a real engine: what a rehearsal says is what Compose then does, and it touches nothing.

use std::collections::BTreeSet;

use crate::docker::{Site, is_here};
use baton::compose::{Compose, ComposeError, Project, Rehearsal, Selection, Version, manifest, rehearse};
use baton::model::{Manifest, Probe, Role};
use serde_json::Value;

/// A project with all that is looked at here.
const SHOP: &str = r#"
services:
  db:
    image: @:1
    volumes: ["data:/data"]
    healthcheck: { test: ["CMD", "/bin/busybox", "true"], interval: 1s }
  seed:
    image: @:1
    command: ["/bin/busybox", "true"]
    depends_on: { db: { condition: service_healthy } }
  api:
    image: @:${TAG:-1}
    depends_on: { db: { condition: service_healthy }, seed: { condition: service_completed_successfully } }
    environment: { TOKEN: hunter2 }
    deploy: { replicas: 2 }
    networks: { back: { aliases: [backend] }, default: {} }
    stop_grace_period: 42s
    configs: [{ source: motd, target: /motd }]
    x-baton: { role: api, ready: { deadline: 3m } }
  side:
    image: @:1
    network_mode: service:db
configs: { motd: { content: "hello" } }
networks: { back: {} }
volumes: { data: {} }
x-baton: { strategy: rolling, version: { variable: TAG } }
"#;

struct Read {
    project: Project,
    rehearsal: Rehearsal,
    manifest: Manifest,
}

fn selection(site: &Site, variables: &[(&str, &str)]) -> Selection {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Selection { folder: site.path(""), variables, ..Selection::default() }
}

fn engine() -> std::path::PathBuf {
    let named = std::env::var("DOCKER_HOST").ok();
    baton::runtime::docker::engine_socket(named.as_deref()).expect("a Unix socket").into()
}

async fn try_read(site: &Site, variables: &[(&str, &str)]) -> Result<Read, ComposeError> {
    let compose = Compose::find().await?;
    let selection = selection(site, variables);
    let project = Project::read(&compose, &selection).await?;
    let rehearsal = rehearse(&compose, &selection, &project, &engine()).await?;
    let manifest = manifest::manifest(&project, Some(&rehearsal), None)?;
    Ok(Read { project, rehearsal, manifest })
}

async fn read(site: &Site, variables: &[(&str, &str)]) -> Read {
    try_read(site, variables).await.unwrap_or_else(|error| panic!("{error}"))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).expect("JSON")
}

/// What a container is, in the words of its create body, as far as Compose decides it.
fn decided(inspect: &Value) -> Value {
    let (config, host) = (&inspect["Config"], &inspect["HostConfig"]);
    let labels: serde_json::Map<String, Value> = config["Labels"].as_object().unwrap().clone();
    let mut labels = Value::Object(labels);
    let mut depends_on: Vec<&str> =
        labels["com.docker.compose.depends_on"].as_str().unwrap_or_default().split(',').collect();
    depends_on.sort_unstable();
    labels["com.docker.compose.depends_on"] = depends_on.join(",").into();
    serde_json::json!({
        "name": inspect["Name"].as_str().unwrap().trim_start_matches('/'), "labels": labels, "image": config["Image"],
        "restart": host["RestartPolicy"], "mounts": host["Mounts"], "binds": host["Binds"],
    })
}

#[tokio::test]
async fn a_rehearsal_says_what_compose_then_does_and_touches_nothing() {
    if !is_here("a_rehearsal_says_what_compose_then_does_and_touches_nothing") {
        return;
    }
    let site = Site::new("twin");
    site.compose_file(SHOP);
    let begun = std::time::Instant::now();
    let before = read(&site, &[]).await;
    eprintln!("read in {:?}", begun.elapsed());
    assert_eq!(site.objects(), [""; 0], "a rehearsal made something");
    let name = |suffix: &str| format!("{}{suffix}", site.name);
    let names: Vec<&str> =
        before.rehearsal.whole.created.iter().map(|created| created.container.name.as_str()).collect();
    assert_eq!(names, [name("-api-1"), name("-api-2"), name("-db-1"), name("-seed-1"), name("-side-1")]);
    assert!(before.rehearsal.now.missing_images.is_empty());
    // The same again, byte for byte, although Compose throws a label and stamps what it copies.
    let again = read(&site, &[]).await.rehearsal;
    for (one, other) in before.rehearsal.whole.created.iter().zip(&again.whole.created) {
        assert_eq!(json(one.container.body.expose()), json(other.container.body.expose()));
        assert!(one == other, "{} differs beside its body", one.container.name);
    }
    assert!(again == before.rehearsal, "{again:?}\n{:?}", before.rehearsal);

    site.compose(&["up", "-d"]);
    for created in before.rehearsal.whole.created.iter().filter(|created| created.service != "side") {
        let body = json(created.container.body.expose());
        let real = site.inspect(&created.container.name);
        let said = serde_json::json!({
            "name": created.container.name, "labels": body["Labels"], "image": body["Image"],
            "restart": body["HostConfig"]["RestartPolicy"], "mounts": body["HostConfig"]["Mounts"],
            "binds": body["HostConfig"]["Binds"],
        });
        let mut real_words = decided(&real);
        // The engine writes what it makes of nothing.
        for (key, nothing) in [("restart", serde_json::json!({ "Name": "", "MaximumRetryCount": 0 }))] {
            if said[key] == nothing {
                real_words[key] = nothing;
            }
        }
        if said["mounts"].is_null() {
            real_words["mounts"] = Value::Null;
        }
        let mut said = said;
        if said["labels"].get("com.docker.compose.depends_on").is_none() {
            said["labels"]["com.docker.compose.depends_on"] = "".into();
        }
        assert_eq!(said, real_words, "{}", created.container.name);
        let on: BTreeSet<String> = real["NetworkSettings"]["Networks"].as_object().unwrap().keys().cloned().collect();
        assert!(on.is_subset(&created.on), "{on:?} {:?}", created.on);
    }
    let api = &before.rehearsal.whole.of_service("api").next().unwrap().container;
    assert_eq!(api.archives.len(), 1, "the inline config is copied in");
    assert_eq!((api.archives[0].path.as_str(), api.networks.len()), ("/", 1));
    assert!(
        format!("{:?}", before.rehearsal).contains("api-1") && !format!("{:?}", before.rehearsal).contains("hunter2")
    );

    // Now there is nothing to do, and every digest is that of the container which is there.
    let after = read(&site, &[]).await;
    assert_eq!(after.rehearsal.now.touched(), BTreeSet::new());
    assert_eq!(after.rehearsal.whole.created, before.rehearsal.whole.created, "what is there changes nothing");
    for (component, definition) in &after.manifest.components {
        let compose = definition.compose.as_ref().unwrap();
        let real = site.inspect(&name(&format!("-{component}-1")));
        let label = real["Config"]["Labels"]["com.docker.compose.config-hash"].as_str().unwrap();
        assert_eq!(compose.config_hash, label, "{component}");
    }

    // Another tag changes the api, and nothing else.
    let changed = read(&site, &[("TAG", "2")]).await;
    assert_eq!(changed.rehearsal.now.touched(), BTreeSet::from(["api"]));
    assert_eq!(site.objects().len(), 8, "{:?}", site.objects());
    let hash = |read: &Read| {
        read.manifest.components.values().find(|d| d.role == Some(Role::Api)).unwrap().compose.clone().unwrap()
    };
    assert_ne!(hash(&changed).config_hash, hash(&after).config_hash);
    let (compose, tagged) = (Compose::find().await.unwrap(), selection(&site, &[("TAG", "2")]));
    let version = Version::read(&compose, &tagged, &changed.project).await.unwrap().unwrap();
    assert_eq!((version.value.as_str(), version.services), ("2", BTreeSet::from(["api".to_owned()])));
}

#[tokio::test]
async fn a_project_becomes_a_manifest() {
    if !is_here("a_project_becomes_a_manifest") {
        return;
    }
    let site = Site::new("manifest");
    site.compose_file(SHOP);
    let Read { manifest, .. } = read(&site, &[]).await;
    assert_eq!(manifest.fleet.as_str(), site.name);
    let of = |name: &str| manifest.components.values().find(|entry| entry.component.as_str() == name).unwrap();
    let api = of("api");
    assert_eq!((api.replicas, api.drain.grace.as_secs(), api.drain.stop_timeout().as_secs()), (2, 42, 42));
    assert_eq!((api.ready.probe.clone(), api.ready.deadline.as_secs()), (None, 180));
    let service = api.compose.as_ref().unwrap();
    assert_eq!((service.containers.len(), service.alone.clone()), (2, None));
    let networks: Vec<&str> = service.networks.iter().map(|network| network.name.as_str()).collect();
    assert_eq!(networks, [format!("{}_back", site.name), format!("{}_default", site.name)]);
    let db = of("db");
    assert_eq!((db.ready.probe.clone(), of("seed").role.clone()), (Some(Probe::Health), Some(Role::Job)));
    let service = db.compose.as_ref().unwrap();
    assert_eq!(
        service.volumes.iter().map(|volume| volume.name.as_str()).collect::<Vec<_>>(),
        [format!("{}_data", site.name)]
    );
    assert!(service.alone.as_ref().unwrap().contains("data"));
    let body = json(of("side").compose.as_ref().unwrap().containers[&1].body.expose());
    assert_eq!(body["HostConfig"]["NetworkMode"], format!("container:{}-db-1", site.name));
}

#[tokio::test]
async fn what_is_gone_missing_or_added_is_told() {
    if !is_here("what_is_gone_missing_or_added_is_told") {
        return;
    }
    let site = Site::new("change");
    site.compose_file("services:\n  a: { image: \"@:1\" }\n  b: { image: \"@:1\", deploy: { replicas: 2 } }\n");
    site.compose(&["up", "-d"]);
    let names = |read: &Read| -> Vec<String> {
        read.rehearsal.now.created.iter().map(|created| created.container.name.clone()).collect()
    };
    // Scaled down, and a service added with an image that is not there.
    site.compose_file("services:\n  a: { image: \"@:1\" }\n  b: { image: \"@:1\", deploy: { replicas: 1 } }\n  c: { image: \"@:none\" }\n");
    let read = read(&site, &[]).await;
    assert_eq!(names(&read), [format!("{}-c-1", site.name)]);
    let gone = site.inspect(&format!("{}-b-2", site.name))["Id"].as_str().unwrap().to_owned();
    assert_eq!(read.rehearsal.now.removed, BTreeSet::from([gone]));
    assert_eq!(read.rehearsal.now.missing_images, BTreeSet::from([format!("{}:none", site.name)]));
    assert_eq!(read.rehearsal.now.present.len(), 3);
    assert_eq!(site.objects().len(), 4, "a rehearsal removed something: {:?}", site.objects());
}

#[tokio::test]
async fn composes_own_words_are_shown_as_they_are_without_a_value_of_the_environment() {
    if !is_here("composes_own_words_are_shown_as_they_are_without_a_value_of_the_environment") {
        return;
    }
    let site = Site::new("wrong");
    for (services, word) in [
        ("services:\n  a: { image: \"@:1\", prts: [\"80\"] }\n", "prts"),
        ("services:\n  a: { image: \"@:1\", depends_on: [b] }\n", "undefined service"),
        ("services:\n  a: { image: \"@:1\", environment: { TOKEN: hunter2 }, networks: [x] }\n", "undefined network"),
        (
            "services:\n  a: { image: \"@:1\", networks: [x] }\nnetworks: { x: { external: true, name: @none } }\n",
            "not found",
        ),
    ] {
        site.compose_file(services);
        let error = try_read(&site, &[]).await.err().unwrap_or_else(|| panic!("{services} was taken"));
        assert!(matches!(error, ComposeError::Said { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(word) && !text.contains("hunter2"), "{text}");
    }
}

fn baton(site: &Site, args: &[&str]) -> (i32, String) {
    let state = site.path("state").display().to_string();
    let all: Vec<&str> = ["--state", &state].iter().chain(args).copied().collect();
    let output = site.run(env!("CARGO_BIN_EXE_baton"), &all);
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    (output.status.code().unwrap_or(-1), said)
}

#[test]
fn baton_finds_the_project_as_compose_does() {
    if !is_here("baton_finds_the_project_as_compose_does") {
        return;
    }
    let site = Site::new("cli");
    site.compose_file(SHOP);
    let (code, said) = baton(&site, &["check"]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("{}: 4 components, 5 slots", site.name)), "{said}");
    let (code, said) = baton(&site, &["-f", "compose.yaml", "-p", "other", "check"]);
    assert!(code == 0 && said.contains("other: 4 components"), "{said}");

    // What is missing is found before anything is touched. Port 1 of this host is no registry.
    site.compose_file("services:\n  a: { image: \"127.0.0.1:1/@:none\" }\n");
    let (code, said) = baton(&site, &["up", "--yes"]);
    assert!(code == 5 && said.contains("pulling the images of a") && said.contains("127.0.0.1:1"), "{code} {said}");
    site.compose_file("services:\n  b: { build: image }\n");
    let (code, said) = baton(&site, &["up", "--yes"]);
    assert!(code == 5 && said.contains("run `docker compose build b`"), "{code} {said}");
    assert_eq!(site.objects(), [""; 0], "nothing was to be touched");

    site.compose_file("services:\n  a: { image: \"@:1\" }\n");
    let (code, said) = baton(&site, &["plan", "--to", "2"]);
    assert!(code == 2 && said.contains("change the tag in the file"), "{code} {said}");
    site.compose_file("services:\n  a:\n    image: \"@:1\"\n    x-baton:\n      updte: { delay: 1s }\n");
    let (code, said) = baton(&site, &["check"]);
    assert!(code == 2 && said.contains("compose.yaml:6:7: services.a.x-baton.updte: unknown key"), "{code} {said}");
    assert!(said.contains("did you mean \"update\"?"), "{said}");
    std::fs::write(site.path("compose.yaml"), "services: [\n").unwrap();
    let (code, said) = baton(&site, &["check"]);
    assert!(code == 2 && said.contains("yaml"), "{code} {said}");
    // A manifest of its own wins over the project beside it.
    std::fs::write(
        site.path("baton.yaml"),
        "fleet: mine\ncomponents: { a: { command: [\"/bin/a\"], runtime: process } }\n",
    )
    .unwrap();
    let (code, said) = baton(&site, &["check"]);
    assert!(code == 0 && said.contains("mine: 1 component"), "{code} {said}");
}
