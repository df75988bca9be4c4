//! Growth: so many containers of one service, replaced by Compose, by Baton, and by bare calls of the engine's API.
//! Their programs boot and end at once, so what is measured is the engine and whoever drives it.

use std::time::{Duration, Instant};

use futures_util::StreamExt;

use crate::docker::last_roll;
use crate::docker_limit::Hands;
use crate::docker_site::Site;
use crate::rig::Outcome;

/// Containers.
pub const SIZES: [usize; 4] = [1, 5, 20, 50];
/// Containers that the bare calls replace at a time: with two or four it takes as long or longer.
const LANES: usize = 3;
/// The same for Baton, which starts as many at a time as the host has cores: while some start, others end.
const PARALLELISM: usize = 6;
/// Rounds, of which the middle one counts: one way after the other in each, for the machine itself moves by a tenth.
const ROUNDS: usize = 3;
const PROJECT: &str = "growth";

#[derive(Clone, Copy)]
enum Way {
    Limit,
    Baton,
    Compose,
}

/// A table of its own.
pub async fn run(site: &Site, sizes: &[usize]) -> Outcome<()> {
    println!(
        "\ncontainers of one service, v1 to v2, stop-first, {LANES} at a time by the limit and {PARALLELISM} by Baton; \
         seconds to converged, the middle one of {ROUNDS} rounds, and of the ratios\n"
    );
    println!(
        "{:>10} {:>9} {:>9} {:>10} {:>9} {:>10} {:>9} {:>10}",
        "containers", "limit", "Baton", "of limit", "roll", "of limit", "Compose", "of limit"
    );
    for size in sizes {
        let mut rounds: Vec<[f64; 4]> = vec![];
        for _ in 0..ROUNDS {
            let mut found = vec![];
            for way in [Way::Limit, Way::Baton, Way::Compose] {
                let outcome = measured(site, way, *size).await;
                site.clean().await;
                let (converged, roll) = outcome?;
                found.push(converged.as_secs_f64());
                found.extend(roll.map(|roll| roll.as_secs_f64()));
            }
            rounds.push(found.try_into().map_err(|found| format!("not four figures: {found:?}"))?);
        }
        let of = |figure: &dyn Fn(&[f64; 4]) -> f64| median(rounds.iter().map(figure).collect());
        print!("{size:>10} {:>9.2}", of(&|round| round[0]));
        for way in 1..4 {
            print!(" {:>9.2} {:>9.2}x", of(&|round| round[way]), of(&|round| round[way] / round[0]));
        }
        println!();
    }
    Ok(())
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

async fn measured(site: &Site, way: Way, size: usize) -> Outcome<(Duration, Option<Duration>)> {
    let text = format!(
        r#"services:
  worker:
    image: "@:${{TAG:-1}}"
    command: [/bin/bench, box, "0", "0"]
    deploy: {{ replicas: {size} }}
    x-baton:
      ready: {{ http: "http://{{address}}:8080/health", every: 10ms }}
      update: {{ order: stop-first, parallelism: {PARALLELISM}, monitor: 0s }}
"#
    );
    site.write(PROJECT, &text)?;
    site.compose(PROJECT, "1", &["up", "-d"]).await?;
    site.converged("1", size).await?;
    let begun = Instant::now();
    let roll = async {
        match way {
            Way::Compose => site.compose(PROJECT, "2", &["up", "-d"]).await.map(|_| ()),
            Way::Baton => site.baton(PROJECT, "2", &["up", "--yes"]).await.map(|_| ()),
            Way::Limit => by_hand(site, size).await,
        }
    };
    let ((), converged) = tokio::try_join!(roll, site.converged("2", size))?;
    let roll = match way {
        Way::Baton => Some(last_roll(site, PROJECT).await?),
        Way::Limit | Way::Compose => None,
    };
    Ok((converged - begun, roll))
}

/// All created first; then one after the other in as many lanes: stop, wait, start, ready, and remove the old one,
/// whose name goes to the new one.
async fn by_hand(site: &Site, size: usize) -> Outcome<()> {
    let command = ["/bin/bench", "box", "0", "0"].map(str::to_owned).to_vec();
    let hands = Hands { site, network: format!("{}-{PROJECT}_default", site.name), command };
    let (old, new) = (hands.running("worker").await?, hands.create("worker", size).await?);
    let lanes = old.iter().zip(&new).map(async |(old, new)| {
        hands.stop(old).await?;
        let (removed, started) = tokio::join!(hands.remove(old), hands.start(new));
        removed.and(started.map(|_| ()))?;
        hands.rename(old, new).await
    });
    let done: Vec<Outcome<()>> = futures_util::stream::iter(lanes).buffer_unordered(LANES).collect().await;
    done.into_iter().collect()
}
