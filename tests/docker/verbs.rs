//! Containers through the real binary, from a `baton.yaml`.

use super::engine::{Project, docker};
use super::support::fleet::{Fleet, GOOD};

fn fleet(project: &Project) -> Fleet {
    let fleet = Fleet::new(&project.name);
    let script = "echo hello from {instance}; trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.1; done";
    let worker = format!(
        "  worker:\n    image: \"{}:{{version}}\"\n    replicas: 2\n    \
         command: [/bin/busybox, sh, -c, \"{script}\"]\n    \
         update: {{ monitor: 300ms, parallelism: 0 }}\n    ready: {{ exec: [/bin/busybox, \"true\"] }}\n",
        project.name
    );
    fleet.manifest("", &worker);
    fleet
}

fn running(project: &Project) -> Vec<String> {
    let filter = format!("label=baton.fleet={}", project.name);
    let mut lines: Vec<String> = docker(&["ps", "--filter", &filter, "--format", "{{.Names}}@{{.Image}}"])
        .lines()
        .map(|line| line.replace(&project.name, "P"))
        .collect();
    lines.sort();
    lines
}

#[test]
fn containers_are_rolled_by_the_verbs_that_roll_processes() {
    let Some(project) = Project::new("verbs") else { return };
    let fleet = fleet(&project);
    fleet.expect(&["up", "--yes", "--to", "1"], 0);
    assert_eq!(running(&project), ["P-worker-1.1@P:1", "P-worker-2.1@P:1"]);
    fleet.expect(&["up", "--yes", "--to", "2"], 0);
    assert_eq!(running(&project), ["P-worker-1.2@P:2", "P-worker-2.2@P:2"]);
    assert_eq!(project.names().len(), 2, "something was left beside them");
    assert_eq!(fleet.expect(&["plan", "--to", "2", "--detailed-exitcode"], 0).code, 0);

    // Nobody coordinates now: what runs is looked at, not touched.
    assert_eq!(fleet.running(), ["worker-1.2@2", "worker-2.2@2"]);
    assert_eq!(fleet.expect(&["logs", "worker-1"], 0).out.trim(), "hello from worker-1.2");

    // An image that is nowhere is found before anything stops.
    let said = fleet.expect(&["up", "--yes", "--to", "3"], 5);
    assert!(said.all().contains(&format!("{}:3", project.name)), "{}", said.all());
    assert_eq!(running(&project), ["P-worker-1.2@P:2", "P-worker-2.2@P:2"]);

    // An engine that is not there is named, with what to do, and nothing is taken for gone.
    let said = fleet.baton(&["up", "--yes", "--to", "1", "--docker-host", "unix:///nowhere/docker.sock"]);
    assert!(said.code == 5 && said.all().contains("/nowhere/docker.sock"), "{}", said.all());
    let said = fleet.expect(&["up", "--yes", "--to", "1", "--docker-host", "tcp://u:hunter22@nowhere:2375"], 2);
    assert!(said.all().contains("Unix socket") && !said.all().contains("hunter22"), "{}", said.all());

    fleet.expect(&["down", "--yes"], 0);
    assert!(running(&project).is_empty());
}

#[test]
fn a_fleet_of_processes_asks_no_engine() {
    let fleet = Fleet::new("no-engine");
    fleet.release("v1", GOOD).manifest("", "  worker:\n    {R}\n    update: { monitor: 100ms }\n");
    fleet.expect(&["up", "--yes", "--to", "v1", "--docker-host", "tcp://nowhere:2375"], 0);
    assert_eq!(fleet.running(), ["worker-1.1@v1"]);
}
