//! Whether a container that Baton makes is the one that Compose would have made, key by key.
//!
//! One project is rolled from version 1 to 2 twice: by `docker compose up -d`, and, after `down -v`, by `baton up`. The
//! same name, folder, ports and addresses, so that even Compose's own digests have to be the same. Whatever the engine
//! then says of the containers is compared, save a closed list of what cannot be the same.

mod ignored;
mod keys;
mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::TcpListener;

use crate::docker::{Site, is_here};
use ignored::{IGNORED, UNORDERED};
use keys::{KEYS, NOT_TRIED};
use serde_json::Value;
use shown::{Shown, differences, shown};

/// Where a file is put before a roll, and what must be there afterwards.
const KEPT: [&str; 4] = ["/anonymous", "/long-anonymous", "/image-volume", "/other-volume"];
const DATA: &str = "written before the roll";

fn text(name: &str) -> String {
    let path = format!("{}/tests/compose/fidelity/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Ports of the host in a row that nobody has.
fn ports(many: u16) -> u16 {
    let free = |first: &u16| (*first..first + many).all(|port| TcpListener::bind(("0.0.0.0", port)).is_ok());
    let begin = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    (begin..begin + 2000).step_by(usize::from(many)).find(free).expect("free ports")
}

/// The project with all that its file speaks of.
fn site() -> Site {
    let site = Site::new("keys");
    let name = site.name.clone();
    std::fs::write(site.path("image/Rich"), text("Rich.Dockerfile")).unwrap();
    for version in ["1", "2"] {
        let (v, of) = (format!("V={version}"), format!("OF={name}-rich"));
        let tag = format!("{name}-rich:{version}");
        let args = ["--build-arg", &v, "--build-arg", &of, "-t", &tag, "-f", "image/Rich", "image"];
        site.docker(&[&["build", "-q"][..], &args[..]].concat());
        std::fs::write(site.path(format!("v{version}.env")), format!("ONLY_V{version}={version}\n")).unwrap();
    }
    std::fs::create_dir(site.path("folder")).unwrap();
    for file in ["base.yaml", "plain.env"] {
        std::fs::write(site.path(file), text(file)).unwrap();
    }
    std::fs::write(site.path(".env"), "SAID=a secret word\nCOMPOSE_PROFILES=used\nBARE=from outside\n").unwrap();
    let pid = std::process::id();
    let mut file = text("project.yaml").replace("@net", &format!("10.{}.{}", 200 + pid % 50, pid / 50 % 250));
    let first = ports(7);
    for number in 0..5_u16 {
        // The last is the end of a range of four.
        let port = first + number + if number == 4 { 2 } else { 0 };
        file = file.replace(&format!("@port{number}"), &port.to_string());
    }
    site.compose_file(&file);
    let outside = format!("{name}-outside");
    site.docker(&["network", "create", &outside]);
    site.docker(&["volume", "create", &outside]);
    for version in ["1", "2"] {
        compose(&site, version, &["build", "-q"]);
    }
    site
}

fn compose(site: &Site, tag: &str, args: &[&str]) -> String {
    let output = std::process::Command::new("docker")
        .arg("compose")
        .args(args)
        .current_dir(site.path(""))
        .env("TAG", tag)
        .env_remove("COMPOSE_FILE")
        .output()
        .unwrap();
    assert!(output.status.success(), "docker compose {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Brings the project up at version 1, by Compose, and writes what has to be kept.
fn at_first(site: &Site) -> Shown {
    site.compose_up("1");
    let keeper = format!("{}-keeps-1", site.name);
    for place in KEPT {
        let script = format!("echo '{DATA}' > {place}/file");
        site.docker(&["exec", &keeper, "/bin/busybox", "sh", "-c", &script]);
    }
    shown(site, None)
}

fn assert_kept(site: &Site) {
    let keeper = format!("{}-keeps-1", site.name);
    for place in KEPT {
        assert_eq!(site.docker(&["exec", &keeper, "/bin/busybox", "cat", &format!("{place}/file")]), DATA, "{place}");
    }
}

/// Fails with each difference, the service's name and the keys that it carries.
fn assert_same(what: &str, of_compose: &Shown, of_baton: &Shown) {
    let mut said = String::new();
    assert!(of_compose.ids.keys().eq(of_baton.ids.keys()), "{what}: {:?}, {:?}", of_compose.ids, of_baton.ids);
    for (name, container) in &of_compose.containers {
        let found = differences(container, &of_baton.containers[name]);
        if found.is_empty() {
            continue;
        }
        let service = container["Config"]["Labels"]["com.docker.compose.service"].as_str().unwrap_or_default();
        let keys: Vec<&str> = KEYS.iter().filter(|key| key.service == service).map(|key| key.name).collect();
        let _ = writeln!(said, "service {service} ({})", keys.join(", "));
        for difference in found {
            let _ = writeln!(said, "  {name}: {difference}");
        }
    }
    assert!(said.is_empty(), "{what}; Compose's container and Baton's differ:\n{said}");
}

#[track_caller]
fn assert_content(site: &Site, tag: &str) {
    let before = shown(site, None).ids;
    let said = site.compose_up(tag);
    assert_eq!(before, shown(site, None).ids, "docker compose up -d with TAG={tag} changes containers: {said}");
}

/// Takes the project away, with volumes that Compose forgets once a container has been made anew.
fn down(site: &Site) {
    let ids: Vec<String> = shown(site, None).ids.into_values().collect();
    let format = "{{range .Mounts}}{{if eq .Type \"volume\"}}{{.Name}} {{end}}{{end}}";
    let args: Vec<&str> = ["inspect", "-f", format].into_iter().chain(ids.iter().map(String::as_str)).collect();
    let volumes: BTreeSet<String> = site.docker(&args).split_whitespace().map(str::to_owned).collect();
    // A busy engine may hold a network after its last container has gone. It serves the next ones as well.
    let args = ["compose", "down", "-v", "-t", "1"];
    let mut command = std::process::Command::new("docker");
    let output = command.args(args).env("TAG", "2").current_dir(site.path("")).env_remove("COMPOSE_FILE").output();
    let said = String::from_utf8_lossy(&output.unwrap().stderr).into_owned();
    let filter = format!("label=com.docker.compose.project={}", site.name);
    assert_eq!(site.docker(&["ps", "-aq", "--filter", &filter]), "", "docker compose down: {said}");
    for volume in volumes.iter().filter(|name| name.len() == 64) {
        site.run("docker", &["volume", "rm", volume]);
    }
}

#[test]
fn each_key_of_the_compose_file_gives_the_container_that_compose_would_have_made() {
    if !is_here("each_key_of_the_compose_file_gives_the_container_that_compose_would_have_made") {
        return;
    }
    let site = site();
    let rows = rows(&site);
    let first = at_first(&site);
    site.compose_up("2");
    assert_kept(&site);
    let of_compose = shown(&site, Some(&first));
    down(&site);

    let first = at_first(&site);
    // The same file and containers give the same digests, whatever order Compose writes its lists in. Other parts of a
    // plan are of the moment: one that is young may not hear its stop signal yet, which is told.
    let [one, others @ ..] = [(); 3].map(|()| digests(&site));
    for other in others {
        let found = differences(&one, &other);
        assert!(found.is_empty(), "plans of one file differ: {found:?}");
    }
    site.baton("2", &["up", "--yes"], 0);
    assert_kept(&site);
    assert_same("from 1 to 2", &of_compose, &shown(&site, Some(&first)));
    assert_content(&site, "2");
    assert_documented(&rows);
    down(&site);
}

/// What a plan says of the file and of the containers that are there.
fn digests(site: &Site) -> Value {
    let shown: Value = serde_json::from_str(&site.baton("2", &["plan", "--json"], 0)).expect("a plan");
    let plan = &shown["plan"];
    let prepared = |step: &Value| {
        let spec = step.pointer("/kind/prepare/spec")?.clone();
        Some((step["slot"].as_str()?.to_owned(), spec))
    };
    let specs: serde_json::Map<String, Value> =
        plan["steps"].as_array().expect("steps").iter().filter_map(prepared).collect();
    assert!(specs.len() > 20, "{specs:?}");
    serde_json::json!({ "definitions": plan["definitions"], "adopted": plan["adopted"], "specs": specs })
}

/// The rows of the table: each key, looked up in what Compose makes of the file at either version.
fn rows(site: &Site) -> Vec<String> {
    let model = |tag| -> Value {
        serde_json::from_str(&compose(site, tag, &["config", "--format", "json"])).expect("Compose's model")
    };
    let models = ["1", "2"].map(model);
    let mut rows = Vec::new();
    let mut carried: BTreeMap<&str, ()> = BTreeMap::new();
    for key in KEYS {
        let found = models.each_ref().map(|model| {
            let service = &model["services"][key.service];
            assert!(service.is_object(), "{}: there is no service {}", key.name, key.service);
            let pointer = format!("/{}", key.path.replace('.', "/"));
            if key.path.is_empty() { None } else { service.pointer(&pointer).cloned() }
        });
        assert!(key.path.is_empty() || found[0].is_some(), "service {} has no {}", key.service, key.path);
        assert!(carried.insert(key.name, ()).is_none(), "{} is there twice", key.name);
        let changes = match &found {
            [Some(one), Some(two)] if one == two => "kept",
            [None, None] => "see remark",
            _ => "changed",
        };
        rows.push(format!("| `{}` | `{}` | {changes} | the same | {} |", key.name, key.service, key.remark));
    }
    rows
}

fn assert_documented(rows: &[String]) {
    let mut page = format!(
        "# Compose, key by key\n\n\
         This page is written by `tests/compose/fidelity.rs` from what it tries; `UPDATE_GOLDEN=1` writes it anew.\n\n\
         A project that carries these {} keys is taken from version 1 to version 2 twice: by `docker compose up -d` and\n\
         by `baton up`. *The same*: all that `docker inspect` says of the container that Baton made is what it says of\n\
         Compose's, Compose's own digests included, save what is listed below; and `docker compose up -d` afterwards has\n\
         nothing to do. *Kept* and *changed* say whether the key's own value is another one in version 2; the image is\n\
         another one always.\n\n\
         | key | service in `tests/compose/fidelity/project.yaml` | its value | result | remark |\n\
         |---|---|---|---|---|\n",
        rows.len()
    );
    for row in rows {
        let _ = writeln!(page, "{}", row.replace("|  |", "| |"));
    }
    page.push_str(
        "\n## Not tried\n\nThe engine that this was written beside cannot do these.\n\n| key | why |\n|---|---|\n",
    );
    for (key, why) in NOT_TRIED {
        let _ = writeln!(page, "| `{key}` | {why} |");
    }
    page.push_str("\n## Not compared\n\n| of `docker inspect` | why |\n|---|---|\n");
    for (path, why) in IGNORED {
        let _ = writeln!(page, "| `{path}` | {why} |");
    }
    let unordered: Vec<String> = UNORDERED.iter().map(|path| format!("`{path}`")).collect();
    let _ = writeln!(
        page,
        "\nThe order in these lists, which Compose or the engine leaves to chance: {}.",
        unordered.join(", ")
    );
    let path = format!("{}/docs/compose-fidelity.md", env!("CARGO_MANIFEST_DIR"));
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &page).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(there == page, "{path} is not what was tried; UPDATE_GOLDEN=1 writes it anew");
}
