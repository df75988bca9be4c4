//! `baton status` and `baton watch`.

use std::time::Duration;

use super::Exit;
use super::args::{Global, StatusArgs, WatchArgs};
use super::carry::is_older;
use super::commit;
use super::connect::{self, manifest};
use super::exit::Problem;
use super::follow;
use super::live::failures;
use super::{history, offline, output, words};
use crate::engine::{FleetView, HoldReason, RollResult, RollState};
use crate::model::{Admission, Health, InstanceObservation, InstanceState};

/// Among so many of the last rolls the one is looked for that the roll at hand takes back.
const PAST_ROLLS: u32 = 10;

pub(super) async fn run(global: &Global, _args: StatusArgs) -> Result<Exit, Problem> {
    let fleet = connect::fleet(global, manifest(global).await?.as_ref())?;
    commit::settle(global, &fleet, true).await?;
    let is_back = |view: &FleetView| view.roll.as_ref().is_some_and(|roll| roll.parent.is_some());
    let (view, notices, away, past) = match connect::running(global, &fleet).await? {
        Some(mut connection) => {
            let (view, notices) = connection.view_and_notices().await?;
            let past = if is_back(&view) { history::asked(&mut connection, PAST_ROLLS).await? } else { vec![] };
            (view, notices, false, past)
        }
        None => {
            let view = offline::view(global, &fleet).await?;
            let past = if is_back(&view) { offline::history(global, &fleet, PAST_ROLLS as usize)? } else { vec![] };
            (view, vec![], true, past)
        }
    };
    if global.json {
        let line = serde_json::to_string(&view).map_err(|error| Problem::of(Exit::Failed, &error))?;
        output::line(&line);
    } else {
        print(&view, away);
        notices.iter().for_each(|notice| output::line(&format!("  {notice}")));
        // The roll at hand is a way back: why there had to be one is what people ask next.
        let parent = view.roll.as_ref().and_then(|roll| roll.parent.as_ref());
        for roll in past.iter().filter(|roll| Some(&roll.roll) == parent && !roll.failures.is_empty()) {
            words::summary(roll).iter().for_each(|line| output::line(line));
        }
    }
    Ok(Exit::Done)
}

pub(super) async fn watch(global: &Global, _args: WatchArgs) -> Result<Exit, Problem> {
    let fleet = connect::fleet(global, manifest(global).await?.as_ref())?;
    let Some(mut connection) = connect::running(global, &fleet).await? else {
        return Err(Problem::new(
            Exit::Refused,
            format!("nobody coordinates fleet {fleet} now, so nothing moves; `baton status` shows what is there"),
        ));
    };
    follow::forever(global, &mut connection).await
}

fn short(span: Duration) -> String {
    humantime::format_duration(Duration::from_secs(span.as_secs())).to_string()
}

fn state(instance: &InstanceObservation) -> &'static str {
    match (instance.state, instance.health, instance.admission) {
        (InstanceState::Created, ..) => "created",
        (InstanceState::Restarting, ..) => "restarting",
        (InstanceState::Exited, ..) => "stopped",
        (InstanceState::Unknown, ..) => "unknown",
        (InstanceState::Running, _, Admission::Draining) => "draining",
        (InstanceState::Running, _, Admission::Drained) => "drained",
        (InstanceState::Running, Health::Ready, _) => "ready",
        (InstanceState::Running, Health::Unready, _) => "not ready",
        (InstanceState::Running, Health::Unknown, _) => "running",
    }
}

fn print(view: &FleetView, away: bool) {
    output::line(&format!("fleet {}", view.fleet));
    if let Some(roll) = &view.roll {
        let state = match &roll.state {
            RollState::Running | RollState::TurningBack if is_older(view) => "unfinished in this journal".to_owned(),
            RollState::Running if away => "unfinished; `baton resume` goes on".to_owned(),
            RollState::Running => "running".to_owned(),
            RollState::Paused { safe: true } => "paused".to_owned(),
            RollState::Paused { safe: false } => "pausing".to_owned(),
            RollState::Aborting => "ending at the next safe point".to_owned(),
            RollState::TurningBack => "failed, turning back".to_owned(),
            RollState::NeedsPerson { .. } => {
                "needs a person: `baton retry`, `baton settle`, `baton rollback` or `baton abort`".to_owned()
            }
            RollState::Ended(RollResult::Succeeded) => "succeeded".to_owned(),
            RollState::Ended(RollResult::RolledBack { why, .. }) => format!("failed and taken back: {why}"),
            RollState::Ended(RollResult::Failed { why }) => format!("failed: {why}"),
            RollState::Ended(RollResult::Aborted { actor }) => format!("aborted by {actor}"),
            RollState::Ended(RollResult::Superseded { actor }) => format!("superseded by {actor}"),
        };
        let version = roll.version.as_ref().map(|version| format!(" to {version}")).unwrap_or_default();
        output::line(&format!(
            "roll {} ({}{version}, by {}): {state}; {} of {} steps, {}",
            roll.number,
            roll.kind,
            roll.actor,
            roll.done.0,
            roll.done.1,
            short(roll.elapsed)
        ));
    }
    for hold in &view.holds {
        if !matches!(hold.reason, HoldReason::Parallelism { .. }) {
            output::line(&format!("  waits {}: {}; until {}", short(hold.age), hold.text, hold.until));
        }
    }
    for agent in view.agents.iter().filter(|agent| !agent.up && !away) {
        output::line(&format!("  agent {} is not connected", agent.agent));
    }
    let width = view.slots.iter().map(|slot| slot.slot.to_string().len()).max().unwrap_or(4).max(4);
    output::line(&format!(
        "{:<width$}  {:<12} {:<10} {:<10} {:<8} {}",
        "SLOT", "INSTANCE", "STATE", "VERSION", "AGENT", ""
    ));
    for slot in &view.slots {
        let mut name = slot.slot.to_string();
        if slot.instances.is_empty() {
            output::line(&format!("{name:<width$}  {:<12} {:<10} {:<10} {:<8}", "-", "absent", "", slot.agent));
        }
        for instance in &slot.instances {
            let mut notes = vec![];
            if instance.crashing {
                notes.push("crashes".to_owned());
            }
            if instance.restarts > 0 {
                notes.push(format!("restarted {} times", instance.restarts));
            }
            if let (InstanceState::Exited, Some(exit)) = (instance.state, instance.exit) {
                notes.push(exit.to_string());
            }
            if slot.held_drained {
                notes.push("drained by hand: `baton undrain` gives it back".to_owned());
            }
            if let Some(step) = slot.at_work.as_ref().filter(|step| step.instance.as_ref() == Some(&instance.id)) {
                let left = step.left.map(|left| format!(", {} left", short(left))).unwrap_or_default();
                notes.push(format!("step {} {}: {}{left}", step.step, step.verb, step.text));
            }
            output::line(
                format!(
                    "{name:<width$}  {:<12} {:<10} {:<10} {:<8} {}",
                    instance.id.number,
                    state(instance),
                    instance.version.as_deref().unwrap_or("-"),
                    slot.agent,
                    notes.join("; ")
                )
                .trim_end(),
            );
            name.clear();
        }
    }
    failures(view, &mut |line| output::line(line));
}
