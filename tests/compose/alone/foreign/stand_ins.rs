//! Images under the names of others: they start, serve, keep data, take signals and tell their health as those do, as
//! far as a roll can see it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";
const BASE: &str = "stand-in:base";

/// Their programs, by path.
const PROGRAMS: &[(&str, &str)] = &[
    ("usr/local/bin/web", "exec serve 8000\n"),
    (
        "usr/local/bin/serve",
        "mkdir -p /tmp/www && echo \"$IMAGE $HOSTNAME\" >/tmp/www/index.html\n\
         trap 'kill $(jobs -p); exit 0' TERM INT QUIT\n\
         sleep 0.2 & wait $!\n\
         for port; do httpd -f -p $port -h /tmp/www & done\n\
         wait\n",
    ),
    ("usr/local/bin/worker", "trap 'exit 0' TERM INT\nwhile :; do sleep 1 & wait $!; done\n"),
    ("usr/local/bin/migrate", "sleep 0.3\necho \"schema is at $IMAGE\"\n"),
    // A store keeps what is in its volume, and is ready a moment after it was started.
    (
        "usr/local/bin/store",
        "trap 'exit 0' TERM INT\n\
         cd \"$DATA\" && { [ -s MADE ] || echo \"$IMAGE\" >MADE; }\n\
         sleep 0.3 & wait $!\n\
         : >/tmp/.ready\n\
         while :; do sleep 1 & wait $!; done\n",
    ),
    ("usr/local/bin/redis-server", "exec store\n"),
    ("usr/local/bin/pg_isready", "test -e /tmp/.ready\n"),
    ("usr/local/bin/redis-cli", "test -e /tmp/.ready && echo PONG\n"),
    // Passes connections on. As nginx it looks a name up once, when it starts, unless it is given a resolver.
    (
        "usr/local/bin/nginx",
        "conf=/etc/nginx/conf.d/default.conf\n\
         set -- $(sed -n 's/.*http:\\/\\/\\([^;:]*\\):\\([0-9]*\\).*/\\1 \\2/p' $conf)\n\
         if ! grep -q resolver $conf; then\n\
         found=$(ping -c 1 -w 1 \"$1\" | sed -n '1s/.*(\\([0-9.]*\\)).*/\\1/p')\n\
         [ -n \"$found\" ] || { echo \"nginx: [emerg] host not found in upstream $1\" >&2; exit 1; }\n\
         set -- $found $2\n\
         fi\n\
         trap 'kill $!; exit 0' TERM QUIT\n\
         nc -ll -p 80 -e nc $1 $2 &\n\
         wait\n",
    ),
    ("usr/local/bin/curl", "for url; do :; done\nexec timeout 2 wget -q -O - \"$url\"\n"),
    (
        "app/kestra",
        "case \"$2\" in webserver) exec serve 8080 8081;; executor | scheduler | worker) exec serve 8081;; esac\n\
         echo \"Unmatched argument: $2\" >&2; exit 2\n",
    ),
];

/// Makes the image that the others are made from.
///
/// # Panics
/// When that does not succeed.
pub fn base(docker: &dyn Fn(&[&str]) -> String, folder: &Path) {
    let root = folder.join("root");
    for name in ["bin", "tmp", "etc/nginx/conf.d", "usr/local/bin", "app"] {
        std::fs::create_dir_all(root.join(name)).expect("a folder");
    }
    std::fs::copy(BUSYBOX, root.join("bin/busybox")).expect("a busybox");
    let list = Command::new(BUSYBOX).arg("--list").output().expect("busybox says what it can");
    for applet in String::from_utf8_lossy(&list.stdout).lines().filter(|applet| *applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet)).expect("a link");
    }
    std::fs::write(root.join("etc/passwd"), "root:x:0:0:root:/:/bin/sh\n").expect("a list of users");
    for (path, text) in PROGRAMS {
        let path = root.join(path);
        std::fs::write(&path, format!("#!/bin/sh\n{text}")).expect("a program");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).expect("a program");
    }
    std::fs::write(folder.join("base"), "FROM scratch\nCOPY root /\n").expect("a Dockerfile");
    let here = folder.display().to_string();
    let file = folder.join("base").display().to_string();
    docker(&["build", "-q", "-t", BASE, "-f", &file, &here]);
}

/// Makes them by their names, as `postgres:16.3`, all at once: they differ in what is said of them, not in their files.
/// Each is an image of its own, not only a name.
///
/// # Panics
/// When that does not succeed.
pub fn images(docker: &dyn Fn(&[&str]) -> String, folder: &Path, names: &[&str]) {
    let work = folder.join("images");
    std::fs::create_dir_all(&work).expect("a folder");
    let archive = |name: &str| folder.join(name).display().to_string();
    let tar = |args: &[&str]| {
        let done = Command::new("tar").args(args).current_dir(&work).status().expect("tar starts");
        assert!(done.success(), "tar {args:?}");
    };
    docker(&["save", "-o", &archive("base.tar"), BASE]);
    tar(&["-xf", &archive("base.tar")]);
    let read = |name: &str| -> Value {
        serde_json::from_slice(&std::fs::read(work.join(name)).expect("a file")).expect("JSON")
    };
    let manifest = read("manifest.json");
    let base = read(manifest[0]["Config"].as_str().expect("a file's name"));
    let mut all = Vec::new();
    for (number, name) in names.iter().enumerate() {
        let mut config = base.clone();
        let said = config["config"].as_object_mut().expect("what is said of it");
        said.insert("Env".to_owned(), json!([format!("IMAGE={name}")]));
        said.insert("Cmd".to_owned(), json!(["web"]));
        for (key, value) in said_of(name).as_object().into_iter().flatten() {
            if key == "Env" {
                said["Env"].as_array_mut().expect("a list").push(value.clone());
            } else {
                said.insert(key.clone(), value.clone());
            }
        }
        let file = format!("{number}.json");
        std::fs::write(work.join(&file), config.to_string()).expect("a file");
        all.push(json!({ "Config": file, "RepoTags": [name], "Layers": manifest[0]["Layers"] }));
    }
    std::fs::write(work.join("manifest.json"), Value::Array(all).to_string()).expect("a file");
    // It names the first image only, and wins where it is there.
    for old in ["repositories", "index.json", "oci-layout"] {
        let _ = std::fs::remove_file(work.join(old));
    }
    tar(&["-cf", &archive("all.tar"), "."]);
    docker(&["load", "-q", "-i", &archive("all.tar")]);
}

/// What is particular to one.
fn said_of(name: &str) -> Value {
    let store = |data: &str| json!({ "Env": format!("DATA={data}"), "Volumes": { data: {} }, "Cmd": ["store"] });
    let repository = name.rsplit_once(':').map_or(name, |(repository, _)| repository);
    match repository.rsplit('/').next().unwrap_or(repository) {
        "postgres" => {
            let mut said = store("/var/lib/postgresql/data");
            said["StopSignal"] = "SIGINT".into();
            said
        }
        "mysql" => store("/var/lib/mysql"),
        "redis" => store("/data"),
        "rabbitmq" => store("/var/lib/rabbitmq"),
        "prometheus" => json!({ "Volumes": { "/prometheus": {} } }),
        "nginx" => json!({
            "StopSignal": "SIGQUIT", "ExposedPorts": { "80/tcp": {} }, "Cmd": ["nginx", "-g", "daemon off;"],
        }),
        "kestra" => json!({ "Entrypoint": ["/app/kestra"], "Cmd": null }),
        _ => json!({}),
    }
}
