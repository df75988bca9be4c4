//! Gathering what a plan is made from, and planning. Everything here may take its time: the loop goes on meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::core::{CoreHandle, Message, Snapshot, Turned};
use crate::engine::Engine;
use crate::journal::{SpecStore, SpecStoreError};
use crate::model::{
    AgentId, ComponentName, Definition, Digest, InstanceId, Inventory, Manifest, Plan, PlanKind, RollId,
};
use crate::node::Knowledge;
use crate::planner::{self, Ask, History, PlanError, Planned, PlanningInput};

/// How long an agent may take to look at its slots. Resolving verifies every file of a release, and pulling fetches
/// images: those have longer.
const REPORT_MAX: Duration = Duration::from_secs(15);
const RESOLVE_MAX: Duration = Duration::from_secs(300);

/// Between two looks whether an agent that was lost before it answered is there again.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// Between two tries to plan a way back while an agent that it needs is not connected.
const ROLLBACK_RETRY: Duration = Duration::from_secs(1);

/// What the journal and the spec store know that no agent can.
///
/// # Errors
/// When the spec store cannot be read.
pub fn history_of(
    engine: &Engine,
    specs: &SpecStore,
    inventory: &BTreeMap<AgentId, Inventory>,
) -> Result<History, SpecStoreError> {
    history(&Knowledge::of(engine), specs, inventory)
}

fn history(
    known: &Knowledge,
    specs: &SpecStore,
    inventory: &BTreeMap<AgentId, Inventory>,
) -> Result<History, SpecStoreError> {
    let mut history = History {
        version: known.version.clone(),
        fleet: known.fleet.clone(),
        versions: known.versions.clone(),
        highest: known.highest.clone(),
        completed_jobs: known.completed_jobs.clone(),
        ..History::default()
    };
    for (component, digest) in &known.succeeded {
        if let Some(definition) = specs.get(digest)? {
            history.succeeded.insert(component.clone(), (digest.clone(), definition));
        }
    }
    let named: BTreeSet<&Digest> = inventory
        .values()
        .flat_map(|inventory| inventory.slots.values())
        .flat_map(|slot| &slot.instances)
        .filter_map(|instance| instance.definition.as_ref())
        .collect();
    for digest in named {
        if let Some(definition) = specs.get(digest)? {
            history.definitions.insert(digest.clone(), definition);
        }
    }
    Ok(history)
}

/// Asks every connected agent, and resolves what it would run.
async fn gather(
    core: &CoreHandle,
    attached: &[AgentId],
    wanted: &BTreeMap<AgentId, BTreeMap<ComponentName, Definition>>,
    pull: bool,
) -> Result<BTreeMap<AgentId, Inventory>, Turned> {
    let mut asked = tokio::task::JoinSet::new();
    for agent in attached {
        let (core, agent) = (core.clone(), agent.clone());
        let resolve = wanted.get(&agent).cloned().unwrap_or_default();
        let bound = if resolve.is_empty() { REPORT_MAX } else { RESOLVE_MAX };
        asked.spawn(async move {
            let answer = tokio::time::timeout(bound, reported(&core, &agent, resolve, pull)).await;
            (agent, answer)
        });
    }
    let mut found = BTreeMap::new();
    while let Some(answer) = asked.join_next().await {
        if let Ok((agent, Ok(Some(inventory)))) = answer {
            found.insert(agent, inventory);
        }
    }
    Ok(found)
}

/// Asks one agent until it has answered. A session that ends before that says nothing about the agent: the next one is
/// asked, unless it is long in coming.
async fn reported(
    core: &CoreHandle,
    agent: &AgentId,
    resolve: BTreeMap<ComponentName, Definition>,
    pull: bool,
) -> Option<Inventory> {
    loop {
        let (agent_id, resolve) = (agent.clone(), resolve.clone());
        let question = core.ask(|answer| Message::Report { agent: agent_id, resolve, pull, answer });
        if let Ok(inventory) = question.await {
            return Some(inventory);
        }
        let attached = async {
            loop {
                tokio::time::sleep(ASK_AGAIN).await;
                let snapshot = core.ask(|answer| Message::Snapshot { answer }).await.ok()?;
                if snapshot.attached.contains(agent) {
                    return Some(());
                }
            }
        };
        tokio::time::timeout(REPORT_MAX, attached).await.ok()??;
    }
}

/// What planning answers to a caller.
pub(super) enum PlanTurned {
    Usage(String),
    Refused(String),
    /// An agent whose slots must be known is not there, or was lost before it answered.
    Silent(String),
}

impl From<PlanError> for PlanTurned {
    fn from(error: PlanError) -> Self {
        match error {
            PlanError::Usage(text) => PlanTurned::Usage(text),
            PlanError::Refused(text) => PlanTurned::Refused(text),
        }
    }
}

impl From<Turned> for PlanTurned {
    fn from(turned: Turned) -> Self {
        PlanTurned::Refused(turned.to_string())
    }
}

/// Resolves and plans on a fresh inventory.
pub(super) async fn plan(
    core: &CoreHandle,
    ask: Ask,
    manifest: Option<Manifest>,
    pull: bool,
) -> Result<Planned, PlanTurned> {
    let Snapshot { history: known, attached, turned_away, .. } =
        core.ask(|answer| Message::Snapshot { answer }).await?;
    planned_with(core, ask, manifest, pull, known, attached).await.map_err(|turned| match turned {
        // An agent that was turned away is the likely reason why one is missing.
        PlanTurned::Refused(why) if !turned_away.is_empty() => {
            PlanTurned::Refused(format!("{why}; {}", turned_away.join("; ")))
        }
        PlanTurned::Silent(why) if !turned_away.is_empty() => {
            PlanTurned::Silent(format!("{why}; {}", turned_away.join("; ")))
        }
        turned => turned,
    })
}

async fn planned_with(
    core: &CoreHandle,
    ask: Ask,
    manifest: Option<Manifest>,
    pull: bool,
    known: Knowledge,
    attached: Vec<AgentId>,
) -> Result<Planned, PlanTurned> {
    let known = match &ask {
        Ask::Rollback { of, .. } => known.before(of),
        _ => known,
    };
    // Agents that were heard of and are not here: their slots are there all the same, and a plan without them would
    // take them for gone.
    let absent: Vec<_> = known.inventories.keys().filter(|agent| !attached.contains(agent)).collect();
    if let Some(agent) = absent.first() {
        return Err(PlanTurned::Silent(format!(
            "agent {agent} is not connected, and what runs there is not known; start it, or take it out for good with \
             its host"
        )));
    }
    let bare = gather(core, &attached, &BTreeMap::new(), false).await?;
    if let Some(silent) = attached.iter().find(|agent| !bare.contains_key(*agent)) {
        return Err(PlanTurned::Silent(format!("agent {silent} did not report within {REPORT_MAX:?}")));
    }
    let unreadable = |error: SpecStoreError| PlanTurned::Refused(crate::cause::chain(&error));
    let mut known_history = history(&known, core.specs(), &bare).map_err(unreadable)?;
    if let Ask::Rollback { plan, .. } = &ask {
        // Before the first roll of a component, what was there is what is gone back to.
        for (component, digest) in &plan.adopted {
            if !known_history.succeeded.contains_key(component)
                && let Some(definition) = core.specs().get(digest).map_err(unreadable)?
            {
                known_history.succeeded.insert(component.clone(), (digest.clone(), definition));
            }
        }
    }
    let mut input = PlanningInput { manifest, inventory: bare, history: known_history, ask };
    let wanted = planner::wanted_for(&input)?;
    if !wanted.values().all(BTreeMap::is_empty) {
        input.inventory = gather(core, &attached, &wanted, pull).await?;
        if let Some(silent) = attached.iter().find(|agent| !input.inventory.contains_key(*agent)) {
            return Err(PlanTurned::Silent(format!("agent {silent} did not resolve within {RESOLVE_MAX:?}")));
        }
    }
    let planned = tokio::task::spawn_blocking(move || planner::plan(&input))
        .await
        .map_err(|_| PlanTurned::Refused("the planner failed; this is a fault in Baton".to_owned()))??;
    Ok(planned)
}

/// Plans the way back of a roll and hands it to the loop. Waits for the agents that it needs.
pub(super) async fn roll_back(core: CoreHandle, roll: RollId) {
    loop {
        let Ok(snapshot) = core.ask(|answer| Message::Snapshot { answer }).await else { return };
        let Some((current, number, failed)) = snapshot.unfinished.filter(|(current, ..)| *current == roll) else {
            return;
        };
        let needed: BTreeSet<&AgentId> = failed.changes.iter().map(|change| &change.agent).collect();
        if needed.iter().all(|agent| snapshot.attached.contains(agent)) {
            let ask = Ask::Rollback { of: current, number, plan: failed };
            let planned = match plan(&core, ask, None, false).await {
                Ok(planned) => Ok(Box::new(planned)),
                Err(PlanTurned::Silent(why)) => {
                    // An agent that restarts while it is asked is no reason to leave a failed roll to a person.
                    tracing::warn!(%roll, %why, "cannot plan the way back yet");
                    tokio::time::sleep(ROLLBACK_RETRY).await;
                    continue;
                }
                Err(PlanTurned::Usage(why) | PlanTurned::Refused(why)) => Err(why),
            };
            let _ = core.send(Message::Rollback { parent: roll, planned }).await;
            return;
        }
        tokio::time::sleep(ROLLBACK_RETRY).await;
    }
}

/// Why an unfinished roll that nobody carries on cannot go on, for people; `None`: it can, as far as anybody knows.
pub(super) async fn lost_ground(core: &CoreHandle, snapshot: &Snapshot) -> Result<Option<String>, Turned> {
    if snapshot.counts_on.is_empty() {
        return Ok(None);
    }
    let found = gather(core, &snapshot.attached, &BTreeMap::new(), false).await?;
    let slot = |instance: &InstanceId| found.values().find_map(|inventory| inventory.slots.get(&instance.slot));
    // Of a slot that no agent has reported nothing is known, except where it was asked and has none.
    let all = snapshot.history.inventories.keys().all(|agent| found.contains_key(agent));
    let is_gone = |instance: &&InstanceId| match slot(instance) {
        Some(slot) => slot.instances.iter().all(|one| one.id != **instance),
        None => all,
    };
    let gone: Vec<String> = snapshot.counts_on.iter().filter(is_gone).map(ToString::to_string).collect();
    Ok((!gone.is_empty()).then(|| format!("somebody else has removed {}", gone.join(", "))))
}

/// Whether a request for `up` asks for what the unfinished roll is doing.
pub(super) fn same_request(ask: &Ask, manifest: &Manifest, unfinished: &Plan) -> bool {
    let Ask::Up { to, only, .. } = ask else { return false };
    let only: Vec<String> = only.iter().map(ToString::to_string).collect();
    planner::manifest_digest(manifest, unfinished.version.as_deref()) == unfinished.manifest
        && (to.is_none() || *to == unfinished.version)
        && (only.is_empty() || only == unfinished.only)
        && !matches!(unfinished.kind, PlanKind::Rollback { .. })
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::coordinator::{Coordinator, CoordinatorConfig, HEARTBEAT};
    use crate::model::{AgentHello, FleetName, PROTOCOL_VERSION, Term, ToAgent, ToCoordinator};

    fn inventory() -> Inventory {
        Inventory {
            agent: AgentId::new("host-a").unwrap(),
            boot_id: "boot-1".into(),
            runtimes: vec![],
            address: "127.0.0.1".into(),
            term: Term(0),
            nonce: String::new(),
            rolls: vec![],
            slots: BTreeMap::new(),
            resolutions: BTreeMap::new(),
        }
    }

    async fn attach(core: &CoreHandle) -> (u64, mpsc::Receiver<ToAgent>) {
        let (words, heard) = mpsc::channel(16);
        let hello = AgentHello {
            protocol: PROTOCOL_VERSION,
            fleet: FleetName::new("orders").unwrap(),
            agent: inventory().agent,
            obeys: None,
            inventory: inventory(),
        };
        let hello = Box::new(hello);
        let session = core.ask(|answer| Message::Attach { hello, words, answer }).await.unwrap().unwrap();
        (session, heard)
    }

    async fn asked_for_report(heard: &mut mpsc::Receiver<ToAgent>) -> u64 {
        let number = async {
            loop {
                // Zero: the coordinator's own look at a session that has just begun.
                if let ToAgent::Report { number, .. } = heard.recv().await.unwrap()
                    && number > 0
                {
                    return number;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), number).await.expect("it is asked")
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_agent_that_dials_anew_before_it_has_answered_is_asked_again() {
        let folder = tempfile::tempdir().unwrap();
        let coordinator = Coordinator::start(CoordinatorConfig {
            fleet: FleetName::new("orders").unwrap(),
            folder: folder.path().to_owned(),
            listen: vec![],
            security: None,
            heartbeat: HEARTBEAT,
            new_id: false,
            asleep: true,
        })
        .await
        .unwrap();
        let core = coordinator.handle.clone();
        let (_, mut first) = attach(&core).await;
        let agent = inventory().agent;
        let gathering = tokio::spawn({
            let (core, agent) = (core.clone(), agent.clone());
            async move { gather(&core, &[agent], &BTreeMap::new(), false).await.ok() }
        });
        asked_for_report(&mut first).await;
        // The same host, while its former session has not ended as far as anybody knows.
        let (session, mut second) = attach(&core).await;
        let number = asked_for_report(&mut second).await;
        let word = ToCoordinator::Report { number, inventory: Box::new(inventory()) };
        core.send(Message::Word { agent: agent.clone(), session, word }).await.ok().unwrap();
        let found = tokio::time::timeout(Duration::from_secs(10), gathering).await.unwrap().unwrap().unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), [&agent]);
        coordinator.stop().await.unwrap();
    }
}
