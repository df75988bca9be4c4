//! What people see, computed from the state: slots, steps, agents, and where the roll stands.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::decide::describe;
use super::graph::Graph;
use super::known::Reach;
use super::roll::{Mode, Phase, Roll};
use super::state::Engine;
use super::{AgentView, FleetView, RollState, RollView, SlotView, StepView};
use crate::model::{AgentId, SlotName, StepId, StepKind, Timestamp};

/// Where a roll stands, for people and for exit codes.
pub(super) fn roll_state(engine: &Engine, roll: &Roll) -> RollState {
    let safe = roll.is_safe();
    match &roll.mode {
        Mode::Running if roll.unknown.iter().any(|step| is_for_a_person(engine, roll, *step)) => {
            RollState::NeedsPerson { safe }
        }
        Mode::Running => RollState::Running,
        Mode::Paused { .. } => RollState::Paused { safe },
        Mode::Aborting { .. } | Mode::Superseding { .. } => RollState::Aborting,
        Mode::TurningBack { .. } => RollState::TurningBack,
        Mode::NeedsPerson { .. } => RollState::NeedsPerson { safe },
        Mode::Ended(result) => RollState::Ended(result.clone()),
    }
}

/// Whether looking has not settled an unknown step, or cannot.
pub(super) fn is_for_a_person(engine: &Engine, roll: &Roll, id: StepId) -> bool {
    let step = roll.graph.step(id);
    if matches!(step.kind, StepKind::Run { .. } | StepKind::Soak { .. }) {
        return true;
    }
    let note = step.agent.as_ref().and_then(|agent| engine.known.agents.get(agent));
    note.is_some_and(|note| note.fresh && !note.wants_look)
}

pub(super) fn fleet_view(engine: &Engine, now: Timestamp) -> FleetView {
    let roll = engine.roll.as_ref();
    FleetView {
        fleet: engine.fleet.clone(),
        coordinator: engine.claim().map(|claim| claim.coordinator.clone()),
        term: engine.term(),
        roll: roll.map(|roll| roll_view(engine, roll, now)),
        slots: slot_views(engine, now),
        holds: super::hold::holds(engine, now),
        agents: agent_views(engine, now),
    }
}

fn roll_view(engine: &Engine, roll: &Roll, now: Timestamp) -> RollView {
    let until = if roll.is_over() { roll.mode_since } else { now };
    let plan = &roll.graph.plan;
    RollView {
        roll: roll.id.clone(),
        number: roll.number,
        kind: plan.kind.to_string(),
        version: plan.version.clone(),
        parent: roll.parent.clone(),
        state: roll_state(engine, roll),
        actor: roll.actor.clone(),
        elapsed: until.since(roll.began),
        done: (roll.done, plan.steps.len() as u32),
        plan: plan.digest.clone(),
        manifest: plan.manifest.clone(),
    }
}

fn agent_views(engine: &Engine, now: Timestamp) -> Vec<AgentView> {
    let known = &engine.known;
    let mut agents: BTreeSet<&AgentId> = known.agents.keys().collect();
    if let Some(roll) = engine.unfinished() {
        agents.extend(&roll.graph.agents);
    }
    agents
        .into_iter()
        .map(|agent| {
            let note = known.agents.get(agent);
            AgentView {
                agent: agent.clone(),
                up: note.is_some_and(|note| note.up.unwrap_or(note.fresh)),
                since: note.map_or(engine.term_began, |note| note.since),
                report_age: note.and_then(|note| note.reported).map(|at| now.since(at)),
            }
        })
        .collect()
}

fn slot_views(engine: &Engine, now: Timestamp) -> Vec<SlotView> {
    let roll = engine.roll.as_ref();
    let mut agents: BTreeMap<&SlotName, &AgentId> = BTreeMap::new();
    for (agent, inventory) in &engine.known.inventories {
        agents.extend(inventory.slots.keys().map(|slot| (slot, agent)));
    }
    if let Some(roll) = roll {
        agents.extend(&roll.graph.agent_of);
    }
    agents
        .into_iter()
        .map(|(slot, agent)| {
            let reported = engine.known.inventories.get(agent).and_then(|inventory| inventory.slots.get(slot));
            let instances = reported.map(|slot| slot.instances.clone()).unwrap_or_default();
            let mut view = SlotView {
                slot: slot.clone(),
                agent: agent.clone(),
                instances,
                at_work: None,
                done: (0, 0),
                phase: "idle".to_owned(),
                failure: None,
                held_drained: reported.is_some_and(|slot| slot.held_drained),
            };
            if let Some(roll) = roll {
                fill(engine, roll, now, &mut view);
            }
            view
        })
        .collect()
}

/// What the roll makes of a slot.
fn fill(engine: &Engine, roll: &Roll, now: Timestamp, view: &mut SlotView) {
    let graph = &roll.graph;
    let place = graph.slot_index(&view.slot);
    let owned: &[StepId] = place.map(|slot| graph.owned[slot].as_slice()).unwrap_or_default();
    let at_work = place
        .and_then(|slot| roll.busy[slot].as_ref())
        .and_then(|list| roll.at_work(list))
        .or_else(|| owned.iter().copied().find(|id| is_at_work(roll, *id)));
    view.at_work = at_work.map(|step| step_view(engine, roll, now, step));
    let done = owned.iter().filter(|id| roll.state(**id).phase == Phase::Done).count();
    view.done = (done as u32, owned.len() as u32);
    view.phase = phase(roll, graph, place, owned, at_work).to_owned();
    view.failure = engine.logs[engine.known_rolls[&roll.id]]
        .summary
        .failures
        .iter()
        .rfind(|failure| owned.contains(&failure.step))
        .map(|failure| (format!("{}: {}", failure.kind, failure.message), failure.log.clone()));
}

/// Whether a step is the one of its list that its agent is at, or the engine's own at work.
fn is_at_work(roll: &Roll, id: StepId) -> bool {
    match &roll.state(id).phase {
        Phase::Begun { list: Some(list), .. } => roll.at_work(list) == Some(id),
        Phase::Begun { list: None, .. } => true,
        _ => false,
    }
}

fn phase(roll: &Roll, graph: &Graph, place: Option<usize>, owned: &[StepId], at_work: Option<StepId>) -> &'static str {
    let any = |wanted: fn(&Phase) -> bool| owned.iter().any(|id| wanted(&roll.state(*id).phase));
    if let Some(step) = at_work {
        return participle(&graph.step(step).kind);
    }
    let given_up = place.is_some_and(|slot| roll.abandoned.contains(&slot));
    if given_up || any(|phase| matches!(phase, Phase::Failed { .. })) {
        return "failed";
    }
    if any(|phase| matches!(phase, Phase::Unknown { .. })) {
        return "unknown";
    }
    if owned.is_empty() {
        return "kept";
    }
    if owned.iter().all(|id| roll.state(*id).phase == Phase::Done) {
        return "done";
    }
    if roll.is_over() { "left as it was" } else { "waiting" }
}

fn participle(kind: &StepKind) -> &'static str {
    match kind {
        StepKind::Prepare { .. } => "preparing",
        StepKind::Switch { .. } => "switching",
        StepKind::Drain { .. } => "draining",
        StepKind::Undrain { .. } => "undraining",
        StepKind::Stop { .. } => "stopping",
        StepKind::Start { .. } => "starting",
        StepKind::Ready { .. } => "getting ready",
        StepKind::Soak { .. } => "soaking",
        StepKind::Delay { .. } => "delaying",
        StepKind::Retire => "retiring",
        StepKind::Run { .. } => "running a hook",
        StepKind::Gate { .. } => "at a gate",
    }
}

fn step_view(engine: &Engine, roll: &Roll, now: Timestamp, id: StepId) -> StepView {
    let step = roll.graph.step(id);
    let begun = match &roll.state(id).phase {
        Phase::Begun { at, .. } => *at,
        _ => now,
    };
    // A report about the step is at most as old as itself; what it said of time goes on by now.
    let told = engine.progress.get(&id).filter(|(at, _)| *at >= begun);
    let budget = match &step.kind {
        StepKind::Drain { grace, .. } => {
            let left = step.instance.as_ref().and_then(|instance| roll.grace_left(begun, instance));
            Some(left.map_or(*grace, |left| left.min(*grace)))
        }
        StepKind::Stop { timeout, .. } => Some(*timeout),
        StepKind::Delay { pause } => Some(*pause),
        StepKind::Soak { monitor, .. } => Some(*monitor),
        StepKind::Gate { .. } => None,
        _ => Some(step.deadline).filter(|deadline| *deadline > Duration::ZERO),
    };
    StepView {
        step: id,
        verb: step.kind.verb().to_owned(),
        instance: step.instance.clone(),
        stage: step.stage.clone(),
        text: told.map_or_else(|| describe(roll, id), |(_, progress)| progress.text.clone()),
        inflight: told.and_then(|(_, progress)| progress.inflight),
        elapsed: now.since(begun),
        left: told
            .map(|(at, progress)| progress.left.saturating_sub(now.since(*at)))
            .or_else(|| budget.map(|budget| budget.saturating_sub(now.since(begun)))),
    }
}

/// Whether an agent may be acted through, for the holds.
pub(super) fn reach(engine: &Engine, agent: &AgentId) -> Reach {
    engine.known.reach(agent, engine.term_began)
}
