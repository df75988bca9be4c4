//! No-op rolls: every step is found already so, and what is left is what Baton itself costs.

use baton::journal::{JournalKind, syncs_so_far};
use baton::planner::Ask;

use crate::rig::{Outcome, Rig, median};
use crate::roll::Asking;
use crate::trips::{Trips, syncs};

/// Each figure is the middle of so many rolls.
const ROLLS: usize = 5;

/// `bench noop [SLOTS...]`
pub fn run(arguments: &[String]) -> Outcome<()> {
    let mut sizes: Vec<u32> = arguments.iter().map(|argument| argument.parse()).collect::<Result<_, _>>()?;
    if sizes.is_empty() {
        sizes = vec![10, 100, 1_000];
    }
    println!("no-op rolls over gRPC on a Unix socket: each slot commanded, ledgered, found already so, answered");
    println!("limit = as many bare round trips on one stream, all at once, plus as many bare syncs one by one\n");
    println!(
        "{:>6} {:>9} {:>11} {:>10} {:>9} {:>7} {:>13} {:>9} {:>9}",
        "slots", "roll ms", "round trips", "syncs ms", "limit ms", "ratio", "syncs c+a", "per slot", "plan ms"
    );
    for size in sizes {
        // A runtime for each size: nothing of the last one is left over.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(measure(size))?;
        runtime.shutdown_background();
    }
    Ok(())
}

async fn measure(size: u32) -> Outcome<()> {
    let folder = tempfile::Builder::new().prefix("bb-").tempdir()?;
    let rig = Rig::start(folder.path(), size).await?;
    let mut asking = Asking::connect(&rig.coordinator.addresses()[0], rig.fleet.as_str()).await?;
    asking.attached(1).await?;
    let trips = Trips::serve(folder.path()).await?;
    let (mut rolls, mut round_trips, mut synced, mut ratios, mut plans) = (vec![], vec![], vec![], vec![], vec![]);
    let (mut of_coordinator, mut of_agent) = (vec![], vec![]);
    for round in 0..=ROLLS {
        let before = (syncs_so_far(JournalKind::Coordinator), syncs_so_far(JournalKind::Ledger));
        let rolled = asking.carry_out(&Ask::Down, None).await?;
        let coordinator = syncs_so_far(JournalKind::Coordinator) - before.0;
        let agent = syncs_so_far(JournalKind::Ledger) - before.1;
        if rolled.steps != size {
            return Err(format!("{} steps where {size} were expected", rolled.steps).into());
        }
        let trip = trips.time(size).await?;
        // A step is begun and ended in the journal, accepted and ended in the ledger.
        let sync = tokio::task::block_in_place(|| syncs(folder.path(), coordinator + agent, 4 * u64::from(size)))?;
        if round == 0 {
            continue; // Caches, pages and the allocator are cold.
        }
        let roll = rolled.rolled.as_secs_f64() * 1e3;
        let (trip, sync) = (trip.as_secs_f64() * 1e3, sync.as_secs_f64() * 1e3);
        ratios.push(roll / (trip + sync));
        rolls.push(roll);
        round_trips.push(trip);
        synced.push(sync);
        plans.push(rolled.planned.as_secs_f64() * 1e3);
        of_coordinator.push(coordinator as f64);
        of_agent.push(agent as f64);
    }
    let acts = rig.runtime.acts.load(std::sync::atomic::Ordering::Relaxed);
    if acts > 0 {
        return Err(format!("{acts} acts on a fleet where nothing needed doing").into());
    }
    let (coordinator, agent) = (median(of_coordinator), median(of_agent));
    let (trips_ms, syncs_ms) = (median(round_trips), median(synced));
    println!(
        "{size:>6} {:>9.1} {trips_ms:>11.1} {syncs_ms:>10.1} {:>9.1} {:>6.2}x {:>13} {:>9.3} {:>9.1}",
        median(rolls),
        trips_ms + syncs_ms,
        median(ratios),
        format!("{coordinator}+{agent}"),
        (coordinator + agent) / f64::from(size),
        median(plans),
    );
    rig.stop().await
}
