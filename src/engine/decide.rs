//! What is written down because of an event. Reads only.

use super::known::{evidence, shows_done};
use super::roll::{Mode, Phase, Roll};
use super::schedule::schedule;
use super::state::Engine;
use super::{Event, Record, Request, RollResult};
use crate::model::{
    AgentId, CommandId, FailureAction, FailureKind, How, InstanceId, Inventory, Outcome, Plan, PlanKind, Ratio, RollId,
    SkipReason, StepId, StepKind, StepResult, Timestamp,
};

/// Who settles by looking.
const OBSERVATION: &str = "observation";

pub(super) fn decide(engine: &Engine, now: Timestamp, event: &Event) -> Vec<Record> {
    match event {
        Event::Tick => tick(engine, now),
        Event::Started(claim) => {
            let mut records = vec![Record::TermBegan { claim: claim.clone() }];
            let renewed = engine.claim().is_some_and(|before| before.coordinator != claim.coordinator);
            if let (true, Some(roll)) = (renewed, engine.unfinished()) {
                let result = RollResult::Superseded { actor: "baton coordinator --new-id".to_owned() };
                records.push(Record::RollEnded { roll: roll.id.clone(), result });
            }
            records
        }
        Event::FellAsleep => vec![Record::FellAsleep],
        Event::RollRequested { roll, plan, actor, reason } => {
            if engine.may_begin(plan).is_err() || engine.plan_of(roll).is_some() {
                return Vec::new();
            }
            vec![Record::RollBegan {
                roll: roll.clone(),
                number: engine.next_roll_number(),
                plan: plan.clone(),
                parent: match &plan.kind {
                    PlanKind::Rollback { of } => Some(of.clone()),
                    _ => None,
                },
                actor: actor.clone(),
                reason: reason.clone(),
            }]
        }
        Event::Operator { request, actor, reason } => operator(engine, request, actor, reason),
        Event::RollbackPlanned { parent, roll, plan } => rollback_planned(engine, parent, roll, plan),
        Event::RollbackImpossible { parent, why } => match turning_back(engine, parent) {
            Some(_) => vec![Record::NoWayBack { why: why.clone() }],
            None => Vec::new(),
        },
        Event::Outcome { agent, outcome } => outcome_of(engine, agent, outcome),
        Event::Progress { agent, progress } => {
            let of_list = engine.unfinished().and_then(|roll| roll.lists.get(&progress.command));
            match of_list.filter(|list| list.agent == *agent && list.open.contains(&progress.step)) {
                Some(_) => vec![Record::ProgressSeen { agent: agent.clone(), progress: progress.clone() }],
                None => Vec::new(),
            }
        }
        Event::CommandRefused { agent, command, why } => refused(engine, agent, command, why),
        Event::Inventory(inventory) => observed(engine, now, inventory),
        Event::SessionUp(agent) => vec![Record::SessionSeen { agent: agent.clone(), up: true }],
        Event::SessionLost(agent) => vec![Record::SessionSeen { agent: agent.clone(), up: false }],
    }
}

/// An outcome counts when its list is open and that step of it has not ended: everything else is a repeat, or belongs
/// to an attempt that nobody waits for.
fn outcome_of(engine: &Engine, agent: &AgentId, outcome: &Outcome) -> Vec<Record> {
    let Some(roll) = engine.unfinished().filter(|_| engine.acknowledges()) else { return Vec::new() };
    let list = roll.lists.get(&outcome.command);
    if list.is_none_or(|list| list.agent != *agent || !list.open.contains(&outcome.step)) {
        return Vec::new();
    }
    vec![Record::StepEnded {
        step: outcome.step,
        attempt: roll.state(outcome.step).attempt,
        result: outcome.result.clone(),
        endpoint: outcome.endpoint.clone(),
        by: None,
    }]
}

/// A refused list never reached the ledger: its first step has failed, the rest has not begun.
fn refused(engine: &Engine, agent: &AgentId, command: &CommandId, why: &str) -> Vec<Record> {
    let Some(roll) = engine.unfinished().filter(|_| engine.acknowledges()) else { return Vec::new() };
    let Some(list) = roll.lists.get(command).filter(|list| list.agent == *agent) else { return Vec::new() };
    let failure = StepResult::Failed {
        kind: FailureKind::Forbidden,
        retryable: false,
        message: format!("agent {agent} refused it: {why}"),
        log: Vec::new(),
    };
    end_list(roll, list.open.iter().copied(), failure, SkipReason::EarlierStep, None)
}

/// The first step ends with `result`, the others as skipped.
fn end_list(
    roll: &Roll,
    steps: impl Iterator<Item = StepId>,
    result: StepResult,
    skipped: SkipReason,
    by: Option<&str>,
) -> Vec<Record> {
    steps
        .enumerate()
        .map(|(place, step)| Record::StepEnded {
            step,
            attempt: roll.state(step).attempt,
            result: if place == 0 { result.clone() } else { StepResult::Skipped(skipped) },
            endpoint: None,
            by: by.map(str::to_owned),
        })
        .collect()
}

/// A report: what is known from now on, and which unknown steps it shows to be done.
fn observed(engine: &Engine, now: Timestamp, inventory: &Inventory) -> Vec<Record> {
    let mut records = Vec::new();
    let agent = &inventory.agent;
    if engine.renewed && !engine.disowned.contains_key(agent) {
        let strangers = inventory.rolls.iter().filter(|roll| engine.plan_of(roll).is_none()).cloned();
        records.push(Record::RollsDisowned { agent: agent.clone(), rolls: strangers.collect() });
    }
    records.push(Record::InventorySeen { inventory: Box::new(inventory.clone()) });
    let Some((roll, claim)) = engine.unfinished().zip(engine.claim()) else { return records };
    if evidence(inventory, claim, &engine.nonces, |roll| engine.knows(agent, roll)).is_some() {
        return records;
    }
    for id in &roll.unknown {
        let step = roll.graph.step(*id);
        if step.agent.as_ref() != Some(agent) {
            continue;
        }
        let released = match &step.kind {
            StepKind::Switch { release, .. } => {
                release.iter().filter_map(|one| roll.released.get(one)).map(|(at, _)| now.since(*at)).min()
            }
            _ => None,
        };
        let given_up = match &step.kind {
            StepKind::Switch { admit, release, .. } => {
                admit.iter().chain(release).filter(|one| roll.is_of_given_up(one)).cloned().collect()
            }
            _ => Default::default(),
        };
        let since = released.unwrap_or_default();
        if shows_done(inventory, &engine.known, &roll.graph, step, &given_up, since) {
            let endpoint = step.instance.as_ref().and_then(|instance| endpoint_in(inventory, instance));
            records.push(Record::StepEnded {
                step: *id,
                attempt: roll.state(*id).attempt,
                result: StepResult::Done(How::AlreadySo),
                endpoint: endpoint.filter(|_| matches!(step.kind, StepKind::Start { .. } | StepKind::Ready { .. })),
                by: Some(OBSERVATION.to_owned()),
            });
        }
    }
    records
}

fn endpoint_in(inventory: &Inventory, id: &InstanceId) -> Option<crate::model::Endpoint> {
    inventory.slots.get(&id.slot)?.instances.iter().find(|one| one.id == *id)?.endpoint.clone()
}

fn operator(engine: &Engine, request: &Request, actor: &str, reason: &str) -> Vec<Record> {
    if engine.may(request).is_err() {
        return Vec::new();
    }
    let Some(roll) = engine.unfinished() else { return Vec::new() };
    let mut records =
        vec![Record::Asked { request: request.clone(), actor: actor.to_owned(), reason: reason.to_owned() }];
    match request {
        Request::Approve { step } => records.push(Record::StepEnded {
            step: *step,
            attempt: roll.state(*step).attempt,
            result: StepResult::Done(How::Completed),
            endpoint: None,
            by: Some(actor.to_owned()),
        }),
        Request::Settle { step, done } => records.extend(settled(roll, *step, *done, actor)),
        _ => {}
    }
    records
}

fn settled(roll: &Roll, step: StepId, done: bool, actor: &str) -> Vec<Record> {
    if done {
        let done = StepResult::Done(How::Settled);
        return end_list(roll, std::iter::once(step), done, SkipReason::EarlierStep, Some(actor));
    }
    let failure = StepResult::Failed {
        kind: FailureKind::Settled,
        retryable: true,
        message: format!("{actor} settled it as not done"),
        log: Vec::new(),
    };
    // Not done on an agent that is lost: the rest of its list is called off with it.
    let rest = match &roll.state(step).phase {
        Phase::Begun { list: Some(list), .. } => roll.lists.get(list).map(|list| list.open.iter().copied().collect()),
        _ => None,
    };
    let steps: Vec<StepId> = rest.unwrap_or_else(|| vec![step]);
    end_list(roll, steps.into_iter(), failure, SkipReason::Recalled, Some(actor))
}

/// The roll, when it waits for this answer.
fn turning_back<'a>(engine: &'a Engine, parent: &RollId) -> Option<(&'a Roll, &'a str, Option<&'a str>)> {
    let roll = engine.unfinished().filter(|roll| roll.id == *parent && roll.is_safe() && engine.acknowledges())?;
    match &roll.mode {
        Mode::TurningBack { why, actor } => Some((roll, why, actor.as_deref())),
        _ => None,
    }
}

/// The end of the failed roll and the begin of the one that takes it back are one append: there is no instant at which
/// neither is responsible.
fn rollback_planned(engine: &Engine, parent: &RollId, id: &RollId, plan: &Plan) -> Vec<Record> {
    let Some((_, why, actor)) = turning_back(engine, parent) else { return Vec::new() };
    let problem = if plan.fleet != engine.fleet {
        Some(format!("the plan is for fleet {}", plan.fleet))
    } else if engine.plan_of(id).is_some() {
        Some(format!("roll id {id} is used already"))
    } else {
        super::graph::malformed(plan)
    };
    if let Some(problem) = problem {
        return vec![Record::NoWayBack { why: format!("the plan of the way back is malformed: {problem}") }];
    }
    vec![
        Record::RollEnded {
            roll: parent.clone(),
            result: RollResult::RolledBack { by: id.clone(), why: why.to_owned() },
        },
        Record::RollBegan {
            roll: id.clone(),
            number: engine.next_roll_number(),
            plan: Box::new(plan.clone()),
            parent: Some(parent.clone()),
            actor: actor.unwrap_or("baton").to_owned(),
            reason: why.to_owned(),
        },
    ]
}

/// What follows from the state and the time: a failure's action, delays that are over, the end of the roll, and
/// everything that may begin.
fn tick(engine: &Engine, now: Timestamp) -> Vec<Record> {
    let Some(roll) = engine.unfinished().filter(|_| engine.acknowledges()) else { return Vec::new() };
    let end = |result: RollResult| vec![Record::RollEnded { roll: roll.id.clone(), result }];
    match &roll.mode {
        Mode::Ended(_) | Mode::TurningBack { .. } => return Vec::new(),
        Mode::Aborting { actor } if roll.is_safe() => return end(given_up_by(roll, actor)),
        Mode::Superseding { actor } if roll.is_safe() => return end(RollResult::Superseded { actor: actor.clone() }),
        Mode::Aborting { .. } | Mode::Superseding { .. } => return Vec::new(),
        Mode::Running => {
            if let Some(step) = roll.unacted.first() {
                let (action, why) = failure_action(roll, *step);
                return vec![Record::FailureActed { step: *step, action, why }];
            }
        }
        Mode::Paused { .. } | Mode::NeedsPerson { .. } => {}
    }
    let due: Vec<Record> = roll
        .delays
        .iter()
        .take_while(|(due, _)| *due <= now)
        .map(|(_, step)| Record::StepEnded {
            step: *step,
            attempt: roll.state(*step).attempt,
            result: StepResult::Done(How::Completed),
            endpoint: None,
            by: None,
        })
        .collect();
    if !due.is_empty() {
        return due;
    }
    if roll.left == 0 && roll.is_safe() {
        return end(carried_out(roll));
    }
    // Unknown is neither done nor failed: nothing else is touched before it is settled.
    if roll.mode != Mode::Running || !roll.unknown.is_empty() || engine.asleep {
        return Vec::new();
    }
    schedule(roll, &engine.known, now, engine.term(), engine.term_began).begins
}

/// Nothing is left to do. A roll that went on without more slots than its limits allow has not done what was asked.
fn carried_out(roll: &Roll) -> RollResult {
    let missing: Vec<String> = roll.missing().into_iter().map(|slot| slot.to_string()).collect();
    if missing.is_empty() {
        return RollResult::Succeeded;
    }
    let back = match roll.graph.plan.kind {
        PlanKind::Up | PlanKind::Restart => ", `baton rollback` takes the roll back",
        _ => "",
    };
    RollResult::Failed {
        why: format!(
            "it went on without {}, as `failure_action: continue` says; the same command tries again{back}",
            missing.join(", ")
        ),
    }
}

/// A roll that a person ends after a failure has failed; one that was fine was aborted.
fn given_up_by(roll: &Roll, actor: &str) -> RollResult {
    let failure = roll.blocking_failures().chain(roll.unknown.iter().copied()).next();
    match failure.map(|step| (step, &roll.state(step).phase)) {
        Some((step, Phase::Failed { why, .. } | Phase::Unknown { why, .. })) => {
            let what = describe(roll, step);
            RollResult::Failed { why: format!("{what}: {why}; {actor} ended the roll") }
        }
        _ => RollResult::Aborted { actor: actor.to_owned() },
    }
}

/// A step in words: `ready of worker-2.7`.
pub(super) fn describe(roll: &Roll, id: StepId) -> String {
    let step = roll.graph.step(id);
    let verb = step.kind.verb();
    match (&step.kind, &step.instance, &step.slot) {
        (StepKind::Run { hook }, ..) => format!("hook {hook}"),
        (StepKind::Gate { name }, ..) => format!("gate {name}"),
        (StepKind::Switch { component, .. }, _, Some(slot)) => format!("switch of {component} on {slot}"),
        (_, Some(instance), _) => format!("{verb} of {instance}"),
        (_, None, Some(slot)) => format!("{verb} of {slot}"),
        _ => format!("step {id} ({verb})"),
    }
}

/// What a failure does: the action of the component that failed when more of its slots failed than its ratio allows,
/// else the roll goes on without the slot.
fn failure_action(roll: &Roll, id: StepId) -> (FailureAction, String) {
    let graph = &roll.graph;
    let plan = &graph.plan;
    let owners = &graph.node(id).owners;
    let message = match &roll.state(id).phase {
        Phase::Failed { why, .. } => why.as_str(),
        _ => "",
    };
    let what = format!("{} failed: {message}", describe(roll, id));
    let Some(component) = owners.first().map(|owner| &graph.slots[*owner].component) else {
        // A hook or a gate belongs to no component: only a person knows what its failure means.
        return (FailureAction::Pause, what);
    };
    let limits = plan.limits.get(component);
    let ratio = limits.map_or(Ratio(0), |limits| limits.max_failure_ratio);
    let changed = limits.map_or(1, |limits| limits.changed).max(1);
    let failed = roll.failed.get(component).map_or(0, |slots| slots.len());
    let exceeded = ratio.exceeded_by(failed, changed as usize);
    let mut why = format!("{what}; {failed} of {changed} slots of {component} failed");
    let wanted = limits.map_or(FailureAction::default(), |limits| limits.failure_action);
    let action = match (exceeded, wanted) {
        (false, _) | (true, FailureAction::Continue) => FailureAction::Continue,
        (true, _) if matches!(plan.kind, PlanKind::Rollback { .. }) => {
            why = format!("{what}; a rollback is never rolled back");
            FailureAction::Pause
        }
        (true, FailureAction::Pause) => FailureAction::Pause,
        (true, FailureAction::Rollback) => match plan.kind {
            // Nothing new came, so there is nothing to go back from.
            PlanKind::Down | PlanKind::Drain | PlanKind::Undrain => FailureAction::Pause,
            _ => FailureAction::Rollback,
        },
    };
    // A hook or a job must not run beside an old instance that nobody could stop.
    if action == FailureAction::Continue
        && let Some(behind) = roll.exclusive_behind(owners)
    {
        let behind = describe(roll, behind);
        return (FailureAction::Pause, format!("{why}; {behind} may not begin while an old instance may run"));
    }
    (action, why)
}
