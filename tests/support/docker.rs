//! Real Compose projects in tests: of a name of their own, and gone when the test is over, however it ends.

use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

#[path = "gate.rs"]
pub mod gate;

/// A Compose project in a folder of its own, with images of its own.
pub struct Site {
    folder: tempfile::TempDir,
    /// The project's name, and the repository of its images.
    pub name: String,
    /// `DOCKER_HOST`, where it is not everybody's.
    engine: Option<String>,
    /// Given back when it is gone.
    _pass: gate::Pass,
}

/// Whether there are an engine and Compose v2. A test without them says so and passes, unless `BATON_TEST_NO_SKIP=1`.
///
/// # Panics
/// When a skip is a failure.
pub fn is_here(test: &str) -> bool {
    let answers = |args: &[&str]| {
        Command::new("docker")
            .args(args)
            .output()
            .is_ok_and(|output| output.status.success() && !output.stdout.is_empty())
    };
    let missing = if !answers(&["version", "--format", "{{.Server.Version}}"]) {
        "a Docker Engine (install docker.io and start it)"
    } else if !answers(&["compose", "version", "--short"]) {
        "Docker Compose v2 (install docker-compose-v2 or docker-compose-plugin)"
    } else if !Path::new(BUSYBOX).exists() {
        "a static busybox at /bin/busybox (install busybox-static)"
    } else {
        return true;
    };
    assert!(std::env::var("BATON_TEST_NO_SKIP").as_deref() != Ok("1"), "{test} needs {missing}");
    eprintln!("\n*** SKIPPED {test}: it needs {missing} ***\n");
    false
}

const BUSYBOX: &str = "/bin/busybox";

/// An image with this Baton, the quickstart's toys and a busybox. Its name says what is in it: the next test program
/// finds it, and a prune of what has no name leaves it alone.
fn toolbox(quickstart: &Path) -> &'static str {
    static BUILT: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    BUILT.get_or_init(|| {
        let mut content = std::hash::DefaultHasher::new();
        for program in [Path::new(env!("CARGO_BIN_EXE_baton")), quickstart] {
            let about = std::fs::metadata(program).expect("a program");
            (program, about.len(), about.modified().expect("a time")).hash(&mut content);
        }
        let name = format!("baton-test-tools:{:016x}", content.finish());
        let there = Command::new("docker").args(["image", "inspect", &name]).output().expect("docker");
        if there.status.success() {
            return name;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let into = |from: &Path, name: &str| {
            let to = folder.path().join(name);
            // Without what only a debugger reads it is a third of the size.
            let stripped = Command::new("strip").arg("-o").args([&to, &from.to_owned()]).status();
            if !stripped.is_ok_and(|status| status.success()) {
                std::fs::copy(from, &to).expect("a copy");
            }
        };
        into(Path::new(env!("CARGO_BIN_EXE_baton")), "baton");
        into(quickstart, "quickstart");
        std::fs::copy(BUSYBOX, folder.path().join("busybox")).expect("a busybox");
        let linked = Command::new("ldd").arg(env!("CARGO_BIN_EXE_baton")).output().expect("ldd");
        let linked = String::from_utf8_lossy(&linked.stdout).into_owned();
        let mut file = "FROM scratch\nCOPY busybox baton quickstart /bin/\n".to_owned();
        for library in linked.split_whitespace().filter(|word| word.starts_with('/')) {
            let name = library.rsplit('/').next().expect("a name");
            std::fs::copy(library, folder.path().join(name)).expect("a library");
            file.push_str(&format!("COPY {name} {library}\n"));
        }
        std::fs::write(folder.path().join("Dockerfile"), file).expect("a Dockerfile");
        let built =
            Command::new("docker").args(["build", "-q", "-t", &name]).arg(folder.path()).output().expect("docker");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        name
    })
}

impl Site {
    /// A new project, whose images `NAME:1`, `NAME:2` have this Baton (`/bin/baton`), the toys of the quickstart
    /// (`/bin/quickstart toy`) and a busybox.
    ///
    /// # Panics
    /// When the images cannot be built.
    pub fn with_baton(what: &str, quickstart: &Path) -> Self {
        Self::with_baton_and(what, quickstart, "")
    }

    /// The same, with more lines of a Dockerfile.
    ///
    /// # Panics
    /// When the images cannot be built.
    pub fn with_baton_and(what: &str, quickstart: &Path, more: &str) -> Self {
        let base = toolbox(quickstart);
        Self::built(None, what, &format!("FROM {base}\nARG V\nARG OF\nENV V=$V OF=$OF\n{more}"))
    }

    /// A new project, whose images `NAME:1`, `NAME:2` are there.
    ///
    /// # Panics
    /// When the images cannot be built.
    pub fn new(what: &str) -> Self {
        Self::on(None, what)
    }

    /// The same on another engine (`DOCKER_HOST`).
    ///
    /// # Panics
    /// When the images cannot be built.
    pub fn on(engine: Option<&str>, what: &str) -> Self {
        // Images of its own, not only names: of two that are alike the engine makes one.
        Self::built(
            engine,
            what,
            "FROM scratch\nCOPY busybox /bin/busybox\nARG V\nARG OF\nENV V=$V OF=$OF\nCMD [\"/bin/busybox\", \"sh\", \"-c\", \
             \"trap 'exit 0' TERM; while :; do /bin/busybox sleep 1; done\"]\n",
        )
    }

    fn built(engine: Option<&str>, what: &str, file: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let pass = gate::shared();
        let folder = tempfile::Builder::new().prefix("bt-").tempdir().expect("a temporary folder");
        let name = format!("bt{}-{}-{what}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let site = Self { folder, name, engine: engine.map(str::to_owned), _pass: pass };
        let context = site.path("image");
        std::fs::create_dir(&context).expect("a folder");
        std::fs::copy(BUSYBOX, context.join("busybox")).expect("a busybox");
        std::fs::write(context.join("Dockerfile"), file).expect("a Dockerfile");
        for version in ["1", "2"] {
            let (v, of) = (format!("V={version}"), format!("OF={}", site.name));
            let tag = format!("{}:{version}", site.name);
            site.docker(&["build", "-q", "--build-arg", &v, "--build-arg", &of, "-t", &tag, "image"]);
        }
        site
    }

    /// A path in its folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes its Compose file: `@` is the images' repository.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn compose_file(&self, services: &str) -> &Self {
        let text = format!("name: {}\n{}", self.name, services.replace('@', &self.name));
        std::fs::write(self.path("compose.yaml"), text).expect("a Compose file");
        self
    }

    /// Runs a program in its folder.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut command = Command::new(program);
        command.args(args).current_dir(self.folder.path()).env_remove("COMPOSE_FILE");
        command.envs(self.engine.iter().map(|engine| ("DOCKER_HOST", engine)));
        command.output().unwrap_or_else(|error| panic!("cannot start {program}: {error}"))
    }

    /// Runs `docker`, which must succeed.
    ///
    /// # Panics
    /// When it does not.
    pub fn docker(&self, args: &[&str]) -> String {
        let output = self.run("docker", args);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "docker {args:?}: {error}");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Runs `docker compose`; what it said to people.
    ///
    /// # Panics
    /// When it does not succeed.
    pub fn compose(&self, args: &[&str]) -> String {
        let all: Vec<&str> = ["compose"].iter().chain(args).copied().collect();
        let output = self.run("docker", &all);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "docker compose {args:?}: {said}");
        said
    }

    /// `docker compose up -d` with that tag; what it said to people.
    ///
    /// # Panics
    /// When it does not succeed.
    pub fn compose_up(&self, tag: &str) -> String {
        let mut command = Command::new("docker");
        command.args(["compose", "up", "-d"]).current_dir(self.folder.path());
        command.envs(self.engine.iter().map(|engine| ("DOCKER_HOST", engine)));
        let output = command.env("TAG", tag).env_remove("COMPOSE_FILE").output().expect("docker starts");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "docker compose up -d with TAG={tag}: {said}");
        said
    }

    /// Runs this Baton in its folder with that tag, its state there too, and expects that exit code; what it said.
    ///
    /// # Panics
    /// When it ends with another.
    #[track_caller]
    pub fn baton(&self, tag: &str, args: &[&str], code: i32) -> String {
        let mut command = Command::new(env!("CARGO_BIN_EXE_baton"));
        command.args(["--state", self.path("state").to_str().expect("a path")]).args(args);
        command.current_dir(self.folder.path()).env("TAG", tag).env_remove("COMPOSE_FILE");
        command.envs(self.engine.iter().map(|engine| ("DOCKER_HOST", engine)));
        let output = command.output().expect("baton starts");
        let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
        assert_eq!(output.status.code(), Some(code), "baton {args:?} with TAG={tag}: {said}");
        said
    }

    /// Compose itself finds nothing to make or to remove with that tag.
    ///
    /// # Panics
    /// When it does.
    #[track_caller]
    pub fn compose_is_content(&self, tag: &str) {
        let before = self.containers();
        let said = self.compose_up(tag);
        for word in ["Creating", "Recreate", "Removing"] {
            assert!(!said.contains(word), "docker compose up -d with TAG={tag}: {said}");
        }
        assert_eq!(before, self.containers(), "the same containers");
    }

    /// Image, state and restart policy of every container of the project, by name. One that goes meanwhile is left out:
    /// an engine finishes what somebody asked for who is gone by then.
    ///
    /// # Panics
    /// When the engine does not tell.
    pub fn states(&self) -> BTreeMap<String, (String, String, String)> {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        let ids = self.docker(&["ps", "-aq", "--filter", &filter]);
        let about = |id: &str| {
            let output = self.run("docker", &["inspect", "--type", "container", id]);
            let said = String::from_utf8_lossy(&output.stderr);
            if said.contains("No such container") {
                return None;
            }
            assert!(output.status.success(), "docker inspect {id}: {said}");
            let about: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let about = &about[0];
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let name = text(&about["Name"]).trim_start_matches('/').to_owned();
            let policy = text(&about["HostConfig"]["RestartPolicy"]["Name"]);
            Some((name, (text(&about["Config"]["Image"]), text(&about["State"]["Status"]), policy)))
        };
        ids.lines().filter_map(about).collect()
    }

    /// Id and image of every container of the project, by name.
    ///
    /// # Panics
    /// When the engine does not tell.
    pub fn containers(&self) -> BTreeMap<String, (String, String)> {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        let format = "{{.Names}} {{.ID}} {{.Image}}";
        let list = self.docker(&["ps", "-a", "--no-trunc", "--filter", &filter, "--format", format]);
        let line = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            Some((words.next()?, (words.next()?, words.next()?)))
        };
        list.lines().filter_map(line).collect()
    }

    /// Containers, networks and volumes of the project, by name.
    pub fn objects(&self) -> Vec<String> {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        let containers = self.docker(&["ps", "-a", "--filter", &filter, "--format", "{{.Names}}"]);
        let networks = self.docker(&["network", "ls", "--filter", &filter, "--format", "{{.Name}}"]);
        let volumes = self.docker(&["volume", "ls", "--filter", &filter, "--format", "{{.Name}}"]);
        let mut all: Vec<String> =
            [containers, networks, volumes].iter().flat_map(|list| list.lines()).map(str::to_owned).collect();
        all.sort();
        all
    }

    /// What the engine says of a container.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn inspect(&self, container: &str) -> serde_json::Value {
        let text = self.docker(&["inspect", "--type", "container", container]);
        let list: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        list[0].clone()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let filter = format!("label=com.docker.compose.project={}", self.name);
        // What a test made beside the project bears its name too.
        let (named, images) = (format!("name={}", self.name), format!("reference={}*", self.name));
        let below = format!("reference={}/*", self.name);
        let former = format!("baton/{}/*", self.name);
        let listed = |args: &[&str]| -> Vec<String> {
            let output = self.run("docker", args);
            String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect()
        };
        for (list, remove) in [
            (vec!["ps", "-aq", "--filter", &filter], vec!["rm", "-f", "-v"]),
            (vec!["network", "ls", "-q", "--filter", &filter], vec!["network", "rm"]),
            (vec!["volume", "ls", "-q", "--filter", &filter], vec!["volume", "rm", "-f"]),
            (vec!["network", "ls", "-q", "--filter", &named], vec!["network", "rm"]),
            (vec!["volume", "ls", "-q", "--filter", &named], vec!["volume", "rm", "-f"]),
            (vec!["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", &images], vec!["rmi", "-f"]),
            (vec!["images", "--format", "{{.Repository}}:{{.Tag}}", "--filter", &below], vec!["rmi", "-f"]),
            (vec!["images", "--format", "{{.Repository}}:{{.Tag}}", &former], vec!["rmi", "-f"]),
        ] {
            let found = listed(&list);
            if !found.is_empty() {
                let all: Vec<&str> = remove.iter().copied().chain(found.iter().map(String::as_str)).collect();
                // What is left is named by the next person who looks; a panic here would hide the test's own.
                let _ = self.run("docker", &all);
            }
        }
    }
}
