//! Long jobs: four workers, each with a job that outlives SIGTERM by twelve seconds. Who lets them end?

use std::time::{Duration, Instant};

use crate::docker::Kills;
use crate::docker_site::Site;
use crate::rig::Outcome;

const WORKERS: usize = 4;
const JOB_MS: u64 = 12_000;
const PROJECT: &str = "jobs";

#[derive(Clone, Copy, PartialEq)]
enum Way {
    Compose,
    Swarm,
    Baton,
}

/// A table of its own.
pub async fn run(site: &Site) -> Outcome<()> {
    println!("\n{WORKERS} workers, each with a job that takes {} s more after SIGTERM\n", JOB_MS / 1_000);
    println!("{:<32} {:>10} {:>13} {:>13}", "", "command s", "converged s", "jobs killed");
    for (way, name) in [
        (Way::Compose, "docker compose up -d"),
        (Way::Swarm, "Swarm, service update"),
        (Way::Baton, "Baton, stop_grace_period: 60s"),
    ] {
        let outcome = measured(site, way).await;
        site.clean().await;
        match outcome {
            Ok((command, converged, killed)) => println!(
                "{name:<32} {:>10.2} {:>13.2} {:>13}",
                command.as_secs_f64(),
                converged.as_secs_f64(),
                format!("{killed} of {WORKERS}")
            ),
            Err(error) => println!("{name:<32} {error}"),
        }
    }
    Ok(())
}

async fn measured(site: &Site, way: Way) -> Outcome<(Duration, Duration, u64)> {
    let mut text = format!(
        r#"services:
  worker:
    image: "@:${{TAG:-1}}"
    command: [/bin/bench, box, "0", "{JOB_MS}"]
    deploy: {{ replicas: {WORKERS} }}
"#
    );
    if way == Way::Baton {
        text.push_str(
            r#"    stop_grace_period: 60s
    x-baton:
      ready: { http: "http://{address}:8080/health", every: 50ms }
      update: { order: stop-first, parallelism: 0, monitor: 0s }
"#,
        );
    }
    site.write(PROJECT, &text)?;
    let name = format!("{}-worker", site.name);
    if way == Way::Swarm {
        site.swarm().await?;
        let (image, replicas, job) = (format!("{}:1", site.name), WORKERS.to_string(), JOB_MS.to_string());
        let create = ["service", "create", "-q", "--no-resolve-image", "--name", &name, "--replicas", &replicas];
        let update = ["--update-parallelism", "0", "--update-monitor", "1ms", &image, "/bin/bench", "box", "0", &job];
        site.docker(&[&create[..], &update[..]].concat()).await?;
    } else {
        site.compose(PROJECT, "1", &["up", "-d"]).await?;
    }
    site.converged("1", WORKERS).await?;
    let kills = Kills::watch(site);
    let begun = Instant::now();
    let roll = async {
        match way {
            Way::Compose => site.compose(PROJECT, "2", &["up", "-d"]).await?,
            Way::Swarm => {
                let image = format!("{}:2", site.name);
                site.docker(&["service", "update", "-q", "--no-resolve-image", "--image", &image, &name]).await?
            }
            Way::Baton => site.baton(PROJECT, "2", &["up", "--yes"]).await?,
        };
        Ok(begun.elapsed())
    };
    let (command, converged) = tokio::try_join!(roll, site.converged("2", WORKERS))?;
    Ok((command, converged - begun, kills.count()))
}
