//! Everything that waits: why, since when, until what.

use std::collections::BTreeMap;

use super::decide::describe;
use super::known::Reach;
use super::look::{is_for_a_person, reach};
use super::roll::{Mode, Phase, Roll};
use super::schedule::{Block, schedule};
use super::state::Engine;
use super::{HoldReason, HoldView};
use crate::model::{AgentId, SlotName, StepId, StepKind, Timestamp};

/// Slots named in one sentence; the rest is counted.
const SLOTS_NAMED_MAX: usize = 4;

pub(super) fn holds(engine: &Engine, now: Timestamp) -> Vec<HoldView> {
    let mut holds = Vec::new();
    for note in engine.known.agents.values() {
        if let Some(why) = &note.older {
            holds.push(hold(
                now,
                HoldReason::OlderThanFleet { why: why.clone() },
                Vec::new(),
                note.reported.unwrap_or(engine.term_began),
                "`baton coordinator --new-id` has been run in the place of this one, and on each host, with its agent \
                 stopped, `baton agent adopt ID` with the id that it prints"
                    .to_owned(),
                format!("the journal is older than the fleet: {why}; nothing begins and nothing is acknowledged"),
            ));
        }
    }
    let Some(roll) = engine.unfinished() else { return holds };
    if engine.asleep && engine.acknowledges() && goes_on_by_itself(roll) {
        holds.push(hold(
            now,
            HoldReason::Interrupted,
            Vec::new(),
            roll.mode_since.max(engine.term_began),
            "`baton resume`".to_owned(),
            format!("roll {} was interrupted, and nothing of it begins by itself", roll.number),
        ));
    }
    if let Some(of_mode) = mode_hold(roll, now) {
        holds.push(of_mode);
    }
    holds.extend(roll.unknown.iter().map(|step| unknown_hold(engine, roll, now, *step)));
    holds.extend(roll.gates.iter().map(|step| gate_hold(roll, now, *step)));

    let mut waits = Waits::default();
    for list in roll.lists.values() {
        if reach(engine, &list.agent) != Reach::Good {
            waits.agent(&list.agent, Some(&list.command.slot), roll.mode_since.max(engine.term_began));
        }
    }
    if roll.mode == Mode::Running && roll.unknown.is_empty() && engine.acknowledges() && !engine.asleep {
        let found = schedule(roll, &engine.known, now, engine.term(), engine.term_began);
        for (step, block) in found.blocked {
            waits.add(roll, step, block);
        }
    }
    holds.extend(waits.into_holds(engine, roll, now));
    holds
}

/// Whether a coordinator that is awake would begin more without being asked.
fn goes_on_by_itself(roll: &Roll) -> bool {
    matches!(roll.mode, Mode::Running | Mode::TurningBack { .. })
}

fn hold(
    now: Timestamp,
    reason: HoldReason,
    slots: Vec<SlotName>,
    since: Timestamp,
    until: String,
    text: String,
) -> HoldView {
    HoldView { reason, slots, since, age: now.since(since), until, text }
}

/// `worker-1, worker-2`, or the first few and a count.
fn names(slots: &[SlotName]) -> String {
    let named: Vec<String> = slots.iter().take(SLOTS_NAMED_MAX).map(SlotName::to_string).collect();
    let rest = slots.len().saturating_sub(SLOTS_NAMED_MAX);
    if rest == 0 { named.join(", ") } else { format!("{} and {rest} more", named.join(", ")) }
}

fn owners(roll: &Roll, step: StepId) -> Vec<SlotName> {
    let graph = &roll.graph;
    let owners: Vec<SlotName> = graph.node(step).owners.iter().map(|slot| graph.slots[*slot].clone()).collect();
    if owners.is_empty() { graph.step(step).slot.iter().cloned().collect() } else { owners }
}

fn mode_hold(roll: &Roll, now: Timestamp) -> Option<HoldView> {
    let (number, since) = (roll.number, roll.mode_since);
    match &roll.mode {
        Mode::Running | Mode::Ended(_) => None,
        Mode::Paused { actor } => {
            let flight = if roll.is_safe() { "nothing is in flight" } else { "what is in flight finishes" };
            Some(hold(
                now,
                HoldReason::Paused { actor: actor.clone() },
                Vec::new(),
                since,
                "`baton resume`".to_owned(),
                format!("roll {number} is paused by {actor}; {flight}"),
            ))
        }
        Mode::NeedsPerson { step: Some(step), why } => Some(hold(
            now,
            HoldReason::Failed { step: *step, why: why.clone() },
            owners(roll, *step),
            since,
            format!("`baton retry`, `baton settle {step} --done`, `baton rollback` or `baton abort`"),
            format!("roll {number} waits for a person: {why}"),
        )),
        Mode::NeedsPerson { step: None, why } => Some(hold(
            now,
            HoldReason::NoWayBack { why: why.clone() },
            Vec::new(),
            since,
            "`baton retry`, `baton resume`, `baton rollback` or `baton abort`".to_owned(),
            format!("roll {number} cannot be taken back: {why}"),
        )),
        Mode::Aborting { .. } | Mode::Superseding { .. } | Mode::TurningBack { .. } => {
            let steps: Vec<StepId> = roll.lists.keys().filter_map(|list| roll.at_work(list)).collect();
            let what: Vec<String> = steps.iter().take(SLOTS_NAMED_MAX).map(|step| describe(roll, *step)).collect();
            let word = roll.mode_word();
            let (until, text) = if steps.is_empty() {
                let next = "nothing is in flight any more".to_owned();
                (next.clone(), format!("roll {number} is {word}; {next}"))
            } else {
                let flight = what.join(", ");
                (format!("these have ended: {flight}"), format!("roll {number} is {word} and waits for {flight}"))
            };
            let slots = roll.lists.values().map(|list| list.command.slot.clone()).collect();
            Some(hold(now, HoldReason::Finishing { steps }, slots, since, until, text))
        }
    }
}

fn unknown_hold(engine: &Engine, roll: &Roll, now: Timestamp, step: StepId) -> HoldView {
    let (since, why) = match &roll.state(step).phase {
        Phase::Unknown { at, why } => (*at, why.clone()),
        _ => (now, String::new()),
    };
    let what = describe(roll, step);
    let until = if is_for_a_person(engine, roll, step) {
        format!("`baton settle {step} --done`, `baton settle {step} --not-done` or `baton retry`")
    } else {
        let agent = roll.graph.step(step).agent.as_ref();
        agent.map_or_else(String::new, |agent| format!("a fresh report of agent {agent} shows how it ended"))
    };
    let text = format!("nobody knows how {what} ended: {why}");
    hold(now, HoldReason::Unknown { step, why }, owners(roll, step), since, until, text)
}

fn gate_hold(roll: &Roll, now: Timestamp, step: StepId) -> HoldView {
    let name = match &roll.graph.step(step).kind {
        StepKind::Gate { name } => name.clone(),
        other => other.verb().to_owned(),
    };
    let since = match &roll.state(step).phase {
        Phase::Begun { at, .. } => *at,
        _ => now,
    };
    let text = format!("roll {} waits at gate {name}", roll.number);
    hold(now, HoldReason::Gate { name }, Vec::new(), since, format!("`baton approve {step}`"), text)
}

/// What waits, gathered so that each reason is told once.
#[derive(Default)]
struct Waits {
    agents: BTreeMap<AgentId, (Timestamp, Vec<SlotName>)>,
    floors: BTreeMap<crate::model::ComponentName, (Timestamp, super::budget::Broken, Vec<SlotName>)>,
    lanes: BTreeMap<usize, Timestamp>,
}

impl Waits {
    fn agent(&mut self, agent: &AgentId, slot: Option<&SlotName>, since: Timestamp) {
        let entry = self.agents.entry(agent.clone()).or_insert_with(|| (since, Vec::new()));
        entry.0 = entry.0.min(since);
        if let Some(slot) = slot
            && !entry.1.contains(slot)
        {
            entry.1.push(slot.clone());
        }
    }

    fn add(&mut self, roll: &Roll, step: StepId, block: Block) {
        let since = roll.state(step).ready_since.max(roll.mode_since);
        match block {
            Block::Agent(agent) => {
                for slot in owners(roll, step) {
                    self.agent(&agent, Some(&slot), since);
                }
            }
            Block::Floor(broken) => {
                let entry = self.floors.entry(broken.component.clone()).or_insert_with(|| (since, broken, Vec::new()));
                entry.0 = entry.0.min(since);
                for slot in owners(roll, step) {
                    if !entry.2.contains(&slot) {
                        entry.2.push(slot);
                    }
                }
            }
            Block::Places(lane) => {
                self.lanes.entry(lane).or_insert(since);
            }
            Block::Turn => {}
        }
    }

    fn into_holds(self, engine: &Engine, roll: &Roll, now: Timestamp) -> Vec<HoldView> {
        let mut holds = Vec::new();
        for (agent, (waiting_since, slots)) in self.agents {
            let waiting = names(&slots);
            let (reason, since, until, text) = match reach(engine, &agent) {
                Reach::Lost(at) => (
                    HoldReason::AgentUnreachable { agent: agent.clone() },
                    at.max(waiting_since),
                    format!("agent {agent} answers again"),
                    format!("{waiting}: the session with agent {agent} is lost; nothing is stopped because of it"),
                ),
                Reach::NoReport(at) => (
                    HoldReason::NoFreshReport { agent: agent.clone() },
                    at.max(waiting_since),
                    format!("agent {agent} reports"),
                    format!("{waiting}: agent {agent} has not reported yet, so nothing fresh is known"),
                ),
                Reach::Good => continue,
            };
            holds.push(hold(now, reason, slots, since, until, text));
        }
        for (component, (since, broken, slots)) in self.floors {
            let (serving, min) = (broken.serving, broken.min_available);
            holds.push(hold(
                now,
                HoldReason::Floor { component: component.clone(), serving, min_available: min },
                slots.clone(),
                since,
                format!("more than {min} of {component} serve"),
                format!(
                    "{}: {serving} of {component} serve and {min} must; one more down would break the floor",
                    names(&slots)
                ),
            ));
        }
        for (lane, since) in self.lanes {
            let graph = &roll.graph;
            let at = &graph.lanes[lane];
            let working: Vec<SlotName> = roll.placed[lane].iter().map(|slot| graph.slots[*slot].clone()).collect();
            let waiting: Vec<SlotName> =
                roll.waiting[lane].iter().map(|(_, slot)| graph.slots[*slot].clone()).collect();
            let (component, limit) = (&at.component, at.limit as u32);
            holds.push(hold(
                now,
                HoldReason::Parallelism { component: component.clone(), working: working.clone(), limit },
                waiting.clone(),
                since,
                format!("{} is done", names(&working)),
                format!("{}: {limit} of {component} at a time, {} at work", names(&waiting), names(&working)),
            ));
        }
        holds
    }
}
