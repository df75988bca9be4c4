//! What Compose wrote, and what is read of it.

use super::*;

const TEXT: &str = r#"
name: shop
services:
  api:
    image: shop:1
    command: ["serve", "--port", "80"]
    depends_on:
      db: { condition: service_healthy, required: true }
      seed: { condition: service_completed_successfully, restart: true, required: true }
    deploy:
      replicas: 2
      update_config: { parallelism: 0, delay: 1.5s, max_failure_ratio: 0.1, failure_action: pause, order: start-first }
      rollback_config: { order: stop-first }
    environment: { TOKEN: hunter2, EMPTY: null }
    stop_grace_period: 1h0m0s
    stop_signal: SIGUSR1
    networks: { default: null }
    x-baton: { drain: { grace: 5m } }
  db:
    image: db:1
    healthcheck: { test: ["CMD", "true"], interval: 1m0s, timeout: 10s, retries: 5, start_period: 20s }
  seed: { image: shop:1, scale: 3 }
configs: { c1: { name: shop_c1, content: hi } }
x-baton: { strategy: rolling, version: { variable: TAG } }
"#;

#[test]
fn what_compose_resolved_is_read() {
    let project = Project::parse(TEXT).unwrap();
    assert_eq!(project.name, "shop");
    assert!(project.has_content);
    assert_eq!(project.jobs(), BTreeSet::from(["seed".to_owned()]));
    assert_eq!(project.version_variable(), Some("TAG"));
    let api = &project.services["api"];
    assert_eq!((api.replicas(), api.words().next()), (2, Some("serve")));
    assert_eq!(api.stop_grace_period, Some(Duration::from_secs(3600)));
    assert!(api.depends_on["seed"].restart && !api.depends_on["db"].restart);
    let update = api.deploy.update_config.as_ref().unwrap();
    assert_eq!((update.parallelism, update.delay, update.monitor), (Some(0), Some(Duration::from_millis(1500)), None));
    assert_eq!(api.deploy.rollback_config.as_ref().unwrap().order.as_deref(), Some("stop-first"));
    assert_eq!(api.own()["drain"]["grace"], "5m");
    assert_eq!(project.services["seed"].replicas(), 3);
    let health = project.services["db"].healthcheck.as_ref().unwrap();
    assert!(health.has_test());
    assert_eq!(health.patience(), Duration::from_secs(20 + 5 * 70));
}

#[test]
fn files_and_external_secrets_are_not_copied_in() {
    for (contents, copied) in [
        ("secrets: { a: { name: x, file: /a } }", false),
        ("configs: { a: { name: x, external: true } }", false),
        ("secrets: { a: { name: x, environment: TOKEN } }", true),
        ("", false),
    ] {
        let project = Project::parse(&format!("name: p\nservices: {{}}\n{contents}\n")).unwrap();
        assert_eq!(project.has_content, copied, "{contents}");
    }
}

#[test]
fn what_is_not_understood_repeats_no_value() {
    let error = Project::parse("name: p\nservices:\n  a: { command: hunter2 }\n").err().unwrap().to_string();
    assert!(error.contains("services.a.command") && !error.contains("hunter2"), "{error}");
}

#[test]
fn a_project_is_here_or_above() {
    let top = tempfile::tempdir().unwrap();
    let below = top.path().join("a/b");
    std::fs::create_dir_all(&below).unwrap();
    assert!(found(&below).is_none());
    std::fs::write(top.path().join("docker-compose.yml"), "services: {}\n").unwrap();
    assert_eq!(found(&below), Some(top.path().join("docker-compose.yml")));
    std::fs::write(below.join("compose.yaml"), "services: {}\nx-baton: {}\n").unwrap();
    assert_eq!(found(&below), Some(below.join("compose.yaml")));
    let here = Selection { folder: below.clone(), ..Selection::default() };
    assert_eq!(file_with_ours(&here).unwrap().0, below.join("compose.yaml"));
    let named = Selection { files: vec!["../../docker-compose.yml".into()], ..here };
    assert!(file_with_ours(&named).is_none());
}
