//! Which container is which instance, and what a new one is made of.

use std::time::{Duration, Instant};

use base64::Engine as _;
use baton::model::{ComposeArchive, FailureKind, InstanceState, NamedPort, Port, Secret};
use baton::runtime::Runtime;
use serde_json::json;

use super::engine::{Project, config_hash, docker, worker};
use super::support::wait::wait_until;
use super::{BOUND, GOOD};

#[tokio::test(flavor = "multi_thread")]
async fn a_container_of_compose_gets_a_number_and_keeps_it_and_a_one_off_gets_none() {
    let Some(project) = Project::new("adopt") else { return };
    let first = project.composed(1, "1", GOOD, &[]);
    let one_off = format!("{}-once", project.name);
    let project_label = format!("--label=com.docker.compose.project={}", project.name);
    docker(&[
        "create",
        "--name",
        &one_off,
        &project_label,
        "--label=com.docker.compose.service=worker",
        "--label=com.docker.compose.container-number=1",
        "--label=com.docker.compose.oneoff=True",
        &project.image("1"),
    ]);
    let slot = worker(1).slot;

    // Somebody who only looks leaves nothing behind.
    let looking = project.runtime_in("agent", true);
    assert_eq!(looking.inspect(&slot).await.unwrap()[0].id, worker(1));
    assert!(!project.folder.path().join("agent").exists());

    let runtime = project.runtime();
    assert_eq!(runtime.slots().await.unwrap(), std::slice::from_ref(&slot));
    let seen = runtime.inspect(&slot).await.unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!((&seen[0].id, seen[0].state, &seen[0].definition), (&worker(1), InstanceState::Running, &None));
    assert_eq!(seen[0].spec, Some(project.blueprint("1", &json!({})).spec));

    // Somebody removes it and makes another: that is another instance.
    docker(&["rm", "-f", "-v", &first]);
    project.composed(1, "1", GOOD, &[]);
    assert_eq!(project.runtime().inspect(&slot).await.unwrap()[0].id, worker(2));
    assert_eq!(runtime.inspect(&slot).await.unwrap()[0].id, worker(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_somebody_else_makes_is_found_before_the_list_is_made_again() {
    let Some(project) = Project::new("strange") else { return };
    let runtime = project.runtime();
    let mut hints = runtime.hints();
    // Until it listens, lists hold for a moment only. It does once it has told of something that happens.
    let first = project.composed(1, "1", GOOD, &[]);
    wait_until("an event to be told", BOUND, async || {
        docker(&["kill", "--signal", "CONT", &first]);
        hints.try_recv().is_ok()
    })
    .await;
    // A busy machine may take longer than a list holds; then nothing is shown by it.
    for index in 2..=10 {
        let begun = Instant::now();
        runtime.slots().await.unwrap();
        project.composed(index, "1", GOOD, &[]);
        let slot = worker(1).slot.component;
        wait_until("a container that somebody else made", BOUND, async || {
            runtime.slots().await.unwrap().iter().any(|found| found.component == slot && found.index == index)
        })
        .await;
        if begun.elapsed() < Duration::from_secs(4) {
            return;
        }
    }
    panic!("it takes as long as a list holds: nobody heard of it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_one_beside_an_old_one_has_a_temporary_name_the_old_ones_volume_and_starts_only_when_told() {
    let Some(project) = Project::with_volume("make") else { return };
    let keep = format!("echo kept > /anon/file; {GOOD}");
    let first = project.composed(1, "1", &keep, &[]);
    let runtime = project.runtime();
    let (old, new) = (worker(1), worker(2));
    assert_eq!(runtime.inspect(&old.slot).await.unwrap()[0].id, old);

    let blueprint = project.blueprint("2", &project.body("2", GOOD));
    runtime.prepare(&new, &blueprint).await.unwrap();
    runtime.prepare(&new, &blueprint).await.unwrap();
    let (final_name, temporary) = (format!("{}-worker-1", project.name), format!("{}-worker-1.baton-2", project.name));
    assert_eq!(project.names(), [final_name.clone(), temporary]);
    let seen = runtime.inspect(&old.slot).await.unwrap();
    assert_eq!(
        seen.iter().map(|seen| seen.state).collect::<Vec<_>>(),
        [InstanceState::Running, InstanceState::Created]
    );
    assert_eq!(
        (&seen[1].spec, &seen[1].definition),
        (&Some(blueprint.spec.clone()), &Some(blueprint.definition_digest.clone()))
    );

    // The number belongs to that spec.
    let another = project.blueprint("1", &project.body("1", GOOD));
    assert_eq!(runtime.prepare(&new, &another).await.unwrap_err().kind, FailureKind::Refused);

    let endpoint = runtime.start(&new).await.unwrap();
    assert!(endpoint.address.parse::<std::net::IpAddr>().is_ok(), "{endpoint:?}");
    let output = runtime.exec(&new, &words("/bin/busybox cat /anon/file"), super::BOUND).await.unwrap();
    assert_eq!((output.code, output.tail.trim()), (Some(0), "kept"));

    // The old one goes; what is left is what Compose would have made.
    runtime.kill(&old).await.unwrap();
    runtime.remove(&old).await.unwrap();
    runtime.remove(&old).await.unwrap();
    assert_eq!(project.names(), std::slice::from_ref(&final_name));
    assert_eq!(docker(&["inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", &final_name]), "always");
    let labels = docker(&["inspect", "-f", "{{json .Config.Labels}}", &final_name]);
    let mut labels: serde_json::Value = serde_json::from_str(&labels).unwrap();
    // As Compose writes it on a container that takes another one's place.
    let replaced = labels.as_object_mut().unwrap().remove("com.docker.compose.replace");
    assert_eq!(replaced, Some(json!(first)));
    assert_eq!(labels, project.body("2", GOOD)["Labels"]);
    let output = runtime.exec(&new, &words("/bin/busybox cat /anon/file"), super::BOUND).await.unwrap();
    assert_eq!(output.tail.trim(), "kept", "the volume went with the old container");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_of_a_slot_has_its_final_name_its_networks_and_its_files() {
    let Some(project) = Project::new("first") else { return };
    let network = format!("{}-net", project.name);
    docker(&["network", "create", &network]);
    let mut blueprint = project.blueprint("1", &project.body("1", GOOD));
    let container = blueprint.definition.compose.as_mut().unwrap().containers.get_mut(&1).unwrap();
    let connect = json!({ "Container": "made-up", "EndpointConfig": { "Aliases": ["worker", "w-alias"] } });
    container.networks = vec![(network.clone(), connect.to_string())];
    let inside = project.folder.path().join("secret");
    std::fs::write(&inside, "from an archive").unwrap();
    let tar =
        std::process::Command::new("tar").args(["-cC"]).arg(project.folder.path()).arg("secret").output().unwrap();
    let tar = base64::engine::general_purpose::STANDARD.encode(tar.stdout);
    container.archives = vec![ComposeArchive { path: "/".to_owned(), tar: Secret::new(tar) }];

    let runtime = project.runtime();
    runtime.prepare(&worker(1), &blueprint).await.unwrap();
    let name = format!("{}-worker-1", project.name);
    assert_eq!(project.names(), std::slice::from_ref(&name));
    runtime.start(&worker(1)).await.unwrap();
    let output = runtime.exec(&worker(1), &words("/bin/busybox cat /secret"), super::BOUND).await.unwrap();
    assert_eq!(output.tail, "from an archive");
    let format = format!("{{{{json (index .NetworkSettings.Networks \"{network}\").Aliases}}}}");
    let aliases = docker(&["inspect", "-f", &format, &name]);
    assert!(aliases.contains("w-alias"), "{aliases}");
    // Its own first network is the one that counts.
    let on_bridge = docker(&["inspect", "-f", "{{.NetworkSettings.Networks.bridge.IPAddress}}", &name]);
    let seen = runtime.inspect(&worker(1).slot).await.unwrap();
    assert_eq!(seen[0].endpoint.as_ref().unwrap().address, on_bridge);
    let values = runtime.placeholders(&worker(1)).await.unwrap();
    assert_eq!((values["slot"].as_str(), values["instance"].as_str()), ("worker-1", "worker-1.1"));
    assert_eq!(values["address"], on_bridge);
    runtime.kill(&worker(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_is_another_by_now_is_refused_and_leaves_nothing() {
    let Some(project) = Project::new("moved") else { return };
    let blueprint = project.blueprint("1", &project.body("1", GOOD));
    docker(&["tag", &project.image("2"), &project.image("1")]);
    let runtime = project.runtime();
    let error = runtime.prepare(&worker(1), &blueprint).await.unwrap_err();
    assert!(error.kind == FailureKind::Missing && error.message.contains("plan anew"), "{error:?}");
    assert!(project.names().is_empty());
    assert!(runtime.inspect(&worker(1).slot).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_engine_shows_no_value_of_the_environment() {
    let Some(project) = Project::new("quote") else { return };
    let mut body = project.body("1", GOOD);
    // An engine quotes a bind that it does not like; a path with a password in it is in the environment too.
    body["HostConfig"]["Binds"] = json!(["hunter22-hunter22/x:/y"]);
    let error = project.runtime().prepare(&worker(1), &project.blueprint("1", &body)).await.unwrap_err();
    assert!(error.message.contains("***") && !error.message.contains("hunter22"), "{error:?}");
    assert!(!error.unknown, "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn images_are_found_and_what_is_missing_is_told_before_anything_stops() {
    let Some(project) = Project::new("images") else { return };
    let runtime = project.runtime();
    let found = runtime.resolve(&project.definition("api", "1"), true).await;
    let id = docker(&["image", "inspect", "-f", "{{.Id}}", &project.image("1")]);
    assert_eq!((found.image_id, found.problem), (Some(id), None));

    let mut definition = project.definition("api", "1");
    // Port 1 of this host: a registry that is down.
    definition.image = Some("127.0.0.1:1/nothing:here".to_owned());
    let unpulled = runtime.resolve(&definition, false).await;
    assert_eq!((unpulled.image_id, unpulled.problem), (None, None));
    let problem = runtime.resolve(&definition, true).await.problem.unwrap();
    assert!(problem.contains("127.0.0.1:1/nothing:here") && problem.contains("is not on this host"), "{problem}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_a_baton_yaml_is_a_container_that_says_whose_it_is() {
    let Some(project) = Project::new("yaml") else { return };
    let runtime = project.runtime();
    let instance: baton::model::InstanceId = "api-1.4".parse().unwrap();
    let mut blueprint = project.blueprint("1", &json!({}));
    blueprint.definition = project.definition("api", "1");
    let port = Port::Number(8080);
    blueprint.definition.ports = vec![NamedPort { name: "http".to_owned(), port, host: None, passed: false }];
    let script = "echo started on $PORT as {instance}; /bin/busybox httpd -f -p {port}";
    let command = ["/bin/busybox", "sh", "-c", script];
    blueprint.definition.command = command.iter().map(|word| Secret::new(*word)).collect();
    blueprint.definition.env = [("PORT".to_owned(), Secret::new("{port.http}"))].into();
    let env_file = project.folder.path().join("api.env");
    std::fs::write(&env_file, "PORT=from-the-file\nWORD=from-{the}-file\n").unwrap();
    std::fs::set_permissions(&env_file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    blueprint.definition.env_file = Some(env_file.display().to_string());
    assert!(runtime.resolve(&blueprint.definition, false).await.env_file.is_some());
    runtime.prepare(&instance, &blueprint).await.unwrap();
    assert_eq!(project.names(), [format!("{}-api-1.4", project.name)]);
    let endpoint = runtime.start(&instance).await.unwrap();
    assert_eq!(endpoint.ports["http"], 8080);
    let values = runtime.placeholders(&instance).await.unwrap();
    assert_eq!((values["port"].as_str(), values["port.http"].as_str()), ("8080", "8080"));
    super::support::wait::wait_until("an answer", super::BOUND, async || {
        tokio::net::TcpStream::connect((endpoint.address.as_str(), 8080)).await.is_ok()
    })
    .await;
    assert_eq!(runtime.logs(&instance, 5).await.unwrap(), ["started on 8080 as api-1.4"]);

    let argv = ["/bin/busybox", "sh", "-c", "echo $WORD"].map(str::to_owned);
    let output = runtime.exec(&instance, &argv, super::BOUND).await.unwrap();
    assert_eq!(output.tail.trim(), "from-{the}-file");

    // An agent that has lost its memory knows it again by its labels.
    let anew = project.runtime_in("another", false);
    assert_eq!(anew.slots().await.unwrap(), std::slice::from_ref(&instance.slot));
    let seen = anew.inspect(&instance.slot).await.unwrap();
    assert_eq!((&seen[0].id, &seen[0].spec), (&instance, &Some(blueprint.spec.clone())));
    runtime.kill(&instance).await.unwrap();
    runtime.remove(&instance).await.unwrap();
    assert!(project.names().is_empty());
    assert!(config_hash("1").len() == 64);
}

pub(super) fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}
