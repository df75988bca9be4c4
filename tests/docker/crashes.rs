//! An agent that is killed between two calls: what it left is finished or made anew, never doubled.

use baton::model::InstanceState;
use baton::runtime::Runtime;
use serde_json::Value;

use super::GOOD;
use super::engine::{Project, docker, worker};

/// Turns the record back to the moment before the container's id was written.
fn unfinish(project: &Project, number: u64) {
    change(project, |record| record["instances"][number.to_string()]["container"] = Value::Null);
}

fn change(project: &Project, change: impl FnOnce(&mut Value)) {
    let path = project.folder.path().join("agent/docker/worker-1.json");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    change(&mut record);
    std::fs::write(&path, record.to_string()).unwrap();
}

fn id(project: &Project, name: &str) -> String {
    docker(&["inspect", "-f", "{{.Id}}", &format!("{}-worker-1{name}", project.name)])
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_half_made_is_no_instance_and_is_made_anew() {
    let Some(project) = Project::new("half") else { return };
    project.composed(1, "1", GOOD, &[]);
    let blueprint = project.blueprint("2", &project.body("2", GOOD));
    let slot = worker(2).slot;
    project.runtime().prepare(&worker(2), &blueprint).await.unwrap();
    let half = id(&project, ".baton-2");
    unfinish(&project, 2);

    let runtime = project.runtime();
    assert_eq!(runtime.inspect(&slot).await.unwrap().len(), 1);
    runtime.prepare(&worker(2), &blueprint).await.unwrap();
    assert_ne!(id(&project, ".baton-2"), half);
    assert_eq!(project.names().len(), 2);

    // Nobody goes on with it: whoever makes the next one clears it away.
    unfinish(&project, 2);
    let runtime = project.runtime();
    runtime.prepare(&worker(3), &blueprint).await.unwrap();
    let name = format!("{}-worker-1", project.name);
    assert_eq!(project.names(), [name.clone(), format!("{name}.baton-3")]);
    let numbers: Vec<u64> = runtime.inspect(&slot).await.unwrap().iter().map(|seen| seen.id.number).collect();
    assert_eq!(numbers, [1, 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_its_memory_reads_a_temporary_name() {
    let Some(project) = Project::new("lost") else { return };
    project.composed(1, "1", GOOD, &[]);
    let blueprint = project.blueprint("2", &project.body("2", GOOD));
    let runtime = project.runtime();
    runtime.inspect(&worker(1).slot).await.unwrap();
    runtime.prepare(&worker(7), &blueprint).await.unwrap();
    runtime.start(&worker(7)).await.unwrap();

    let anew = project.runtime_in("another", false);
    let seen = anew.inspect(&worker(1).slot).await.unwrap();
    assert_eq!(seen.iter().map(|seen| seen.id.number).collect::<Vec<_>>(), [1, 7]);
    assert_eq!(seen[1].spec, Some(blueprint.spec));
    anew.kill(&worker(1)).await.unwrap();
    anew.remove(&worker(1)).await.unwrap();
    assert_eq!(project.names(), [format!("{}-worker-1", project.name)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_not_finished_is_finished_by_the_next_look() {
    let Some(project) = Project::new("name") else { return };
    let old = project.composed(1, "1", GOOD, &[]);
    let blueprint = project.blueprint("2", &project.body("2", GOOD));
    let runtime = project.runtime();
    runtime.prepare(&worker(2), &blueprint).await.unwrap();
    runtime.start(&worker(2)).await.unwrap();
    // Killed after the engine had removed the old one.
    docker(&["rm", "-f", "-v", &old]);
    let name = format!("{}-worker-1", project.name);
    // Whoever only looks changes nothing.
    project.runtime_in("agent", true).inspect(&worker(2).slot).await.unwrap();
    assert_eq!(project.names(), [format!("{name}.baton-2")]);
    project.runtime().adopt_running(&[worker(2)]).await.unwrap();
    assert_eq!(project.names(), std::slice::from_ref(&name));
    // What a person has renamed is theirs.
    docker(&["rename", &name, &format!("{name}-mine")]);
    runtime.inspect(&worker(2).slot).await.unwrap();
    assert_eq!(project.names(), [format!("{name}-mine")]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_somebody_else_has_is_waited_for() {
    let Some(project) = Project::new("taken") else { return };
    let name = format!("{}-worker-1", project.name);
    let label = format!("--label=com.docker.compose.project={}", project.name);
    docker(&["create", "--name", &name, &label, &project.image("1")]);
    let runtime = project.runtime();
    let blueprint = project.blueprint("1", &project.body("1", GOOD));
    runtime.prepare(&worker(1), &blueprint).await.unwrap();
    runtime.start(&worker(1)).await.unwrap();
    assert_eq!(runtime.inspect(&worker(1).slot).await.unwrap()[0].state, InstanceState::Running);
    assert_eq!(project.names(), [name.clone(), format!("{name}.baton-1")]);
    docker(&["rm", &name]);
    runtime.inspect(&worker(1).slot).await.unwrap();
    assert_eq!(project.names(), [name]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_was_recorded_and_not_changed_is_given_back_as_it_was() {
    let Some(project) = Project::new("policy") else { return };
    project.composed(1, "1", GOOD, &["--restart=on-failure:5"]);
    let runtime = project.runtime();
    runtime.inspect(&worker(1).slot).await.unwrap();
    runtime.hold_restart(&worker(1)).await.unwrap();
    let policy = || {
        let format = "{{.HostConfig.RestartPolicy.Name}}:{{.HostConfig.RestartPolicy.MaximumRetryCount}}";
        docker(&["inspect", "-f", format, &format!("{}-worker-1", project.name)])
    };
    assert_eq!(policy(), "no:0");
    // Killed before the engine was asked: the record is ahead of it.
    docker(&["update", "--restart=on-failure:5", &format!("{}-worker-1", project.name)]);
    let runtime = project.runtime();
    runtime.hold_restart(&worker(1)).await.unwrap();
    assert_eq!(policy(), "no:0");
    runtime.start(&worker(1)).await.unwrap();
    assert_eq!(policy(), "on-failure:5");
}
