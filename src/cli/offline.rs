//! What the journal and the runtimes say when nobody coordinates. Reads only.

use super::Exit;
use super::args::Global;
use super::connect::state_root;
use super::exit::Problem;
use super::hands;
use crate::coordinator::HEARTBEAT;
use crate::driver::{Driver, Tag};
use crate::engine::{self, FleetView, RollSummary};
use crate::journal::SqliteJournal;
use crate::model::{AgentId, FleetName, Inventory, Machine, SlotName, Term};
use crate::node::{AgentNode, AgentRecord, CoordinatorEvent, CoordinatorNode, CoordinatorRecord};
use crate::sys::clock::{SystemClock, boot_id};

fn recover(global: &Global, fleet: &FleetName) -> Result<Driver<CoordinatorNode>, Problem> {
    let path = state_root(global)?.join(fleet.as_str()).join("journal.db");
    if !path.exists() {
        return Err(Problem::new(
            Exit::Refused,
            format!("fleet {fleet} has no journal in {}: nothing was ever rolled here", path.display()),
        ));
    }
    let journal = SqliteJournal::<CoordinatorRecord>::open_read_only(&path)
        .map_err(|error| Problem::of(Exit::Refused, &error))?;
    Driver::recover(
        CoordinatorNode::new(fleet.clone(), HEARTBEAT),
        Box::new(journal),
        Box::new(clock()?),
        Box::new(|_: &CoordinatorNode, _: &CoordinatorRecord| Tag::default()),
    )
    .map_err(|error| Problem::of(Exit::Refused, &error))
}

fn clock() -> Result<SystemClock, Problem> {
    SystemClock::new().map_err(|error| Problem::of(Exit::Failed, &error))
}

/// Agents that were embedded here, by their folders.
fn agents(global: &Global, fleet: &FleetName) -> Result<Vec<(AgentId, std::path::PathBuf)>, Problem> {
    let folder = state_root(global)?.join(fleet.as_str()).join("agents");
    Ok(std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((AgentId::new(entry.file_name().to_string_lossy()).ok()?, entry.path())))
        .collect())
}

/// The journal's view, with what the runtimes of this host say now.
pub(super) async fn view(global: &Global, fleet: &FleetName) -> Result<FleetView, Problem> {
    let driver = recover(global, fleet)?;
    let now = driver.now();
    let mut node = driver.machine().map_err(|error| Problem::of(Exit::Failed, &error))?.clone();
    // As it will be for the verb that comes next: nothing of an unfinished roll goes on by itself.
    for record in node.decide(now, &CoordinatorEvent::Engine(Box::new(engine::Event::FellAsleep))) {
        let _ = node.apply(now, &record);
    }
    let boot = boot_id().map_err(|error| Problem::of(Exit::Failed, &error))?;
    for (agent, folder) in agents(global, fleet)? {
        let runtime = hands::looking(global, fleet, &folder)?;
        let clock = clock()?;
        let ledger = SqliteJournal::<AgentRecord>::open_read_only(&folder.join("ledger.db")).and_then(|journal| {
            Driver::recover(
                AgentNode::new(agent.clone(), 0),
                Box::new(journal),
                Box::new(clock),
                Box::new(|_: &AgentNode, _: &AgentRecord| Tag::default()),
            )
        });
        let mut inventory = Inventory {
            agent,
            boot_id: boot.clone(),
            runtimes: runtime.kinds(),
            address: "127.0.0.1".to_owned(),
            term: Term(0),
            nonce: String::new(),
            rolls: vec![],
            slots: std::collections::BTreeMap::new(),
            resolutions: std::collections::BTreeMap::new(),
        };
        // What the ledger knows of terms and rolls may show that the journal is older than the fleet. One that obeys
        // another coordinator id is for the coordinator to refuse.
        if let Ok(ledger) = &ledger
            && let Ok(of_agent) = ledger.machine()
            && let Some(obeyed) = of_agent.link().hello_obeys()
            && node.engine().claim().is_some_and(|claim| claim.coordinator == obeyed.coordinator)
        {
            (inventory.term, inventory.nonce) = (obeyed.term, obeyed.nonce.clone());
            inventory.rolls = of_agent.rolls().into_iter().collect();
        }
        for slot in runtime.slots().await.unwrap_or_default() {
            let Ok(instances) = runtime.inspect(&slot).await else { continue };
            let fresh = crate::worker::Worker::new(slot.clone());
            let worker = ledger.as_ref().ok().and_then(|ledger| ledger.machine().ok()?.workers().get(&slot));
            inventory.slots.insert(slot, worker.unwrap_or(&fresh).inventory(&instances));
        }
        let seen = CoordinatorEvent::Engine(Box::new(engine::Event::Inventory(Box::new(inventory))));
        for record in node.decide(now, &seen) {
            // Notes only: nothing of this is written anywhere.
            let _ = node.apply(now, &record);
        }
    }
    Ok(node.engine().view(now))
}

pub(super) fn history(global: &Global, fleet: &FleetName, limit: usize) -> Result<Vec<RollSummary>, Problem> {
    let driver = recover(global, fleet)?;
    let node = driver.machine().map_err(|error| Problem::of(Exit::Failed, &error))?;
    let mut rolls = node.engine().summaries();
    rolls.reverse();
    rolls.truncate(limit);
    Ok(rolls)
}

pub(super) async fn logs(
    global: &Global,
    fleet: &FleetName,
    slot: &SlotName,
    lines: u32,
) -> Result<Vec<String>, Problem> {
    for (_, folder) in agents(global, fleet)? {
        let runtime = hands::looking(global, fleet, &folder)?;
        if !runtime.slots().await.unwrap_or_default().contains(slot) {
            continue;
        }
        let refused = |error: crate::runtime::RuntimeError| Problem::of(Exit::Refused, &error);
        let instances = runtime.inspect(slot).await.map_err(refused)?;
        if let Some(newest) = instances.last() {
            return runtime.logs(&newest.id, lines).await.map_err(refused);
        }
    }
    Err(Problem::new(Exit::Refused, format!("there is no slot {slot} on this host; `baton status` names them")))
}
