//! Verbs that plan and carry out: up, restart, down, drain, undrain.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Exit;
use super::args::{Global, HowArgs, RestartArgs, RollArgs, SlotArgs, UpArgs};
use super::commit;
use super::confirm::confirm;
use super::connect::{self, Connection};
use super::exit::{Problem, went_away};
use super::follow::{self, Follow};
use super::hands::are_containers;
use super::output;
use super::plan::{self, Asked, up_ask};
use super::project::{Purpose, Written, tell_what_is_still_asked};
use super::ready::{Ready, needed, ready, written};
use crate::engine::{FleetView, HoldReason, Request, RollState};
use crate::model::{ComponentName, Definition, Manifest};
use crate::planner::{Ask, render};
use crate::proto::v1::{BeginRequest, OperateRequest};

/// How often a plan that time has overtaken is made again.
const REPLANS: u32 = 5;
/// Between two looks while waiting for another roll's end.
const WAIT_PACE: Duration = Duration::from_millis(250);

pub(super) async fn up(global: &Global, mut args: UpArgs) -> Result<Exit, Problem> {
    let (Written { manifest, version, commit }, met) = needed(global, args.what.to.as_deref(), Purpose::Pull).await?;
    args.what.to = args.what.to.or(version);
    let before = moving(&manifest);
    // Some components alone do not bring the project to a version.
    let (commit, kept) = if args.what.only.is_empty() { (commit, None) } else { (None, commit) };
    let asked = Asked {
        ask: Some(up_ask(&args.what)),
        manifest: Some(manifest),
        pull: true,
        supersede: args.supersede,
        commit,
    };
    let exit = carry(global, asked, met, &args.how).await?;
    if let (Exit::Done, Some(kept)) = (exit, kept) {
        kept.tell_what_is_missing(global, &args.what.only);
    }
    settle(global, exit, before, args.what.to, &args.how).await
}

/// Services whose digest by Compose may have another container's id in it, and nobody but Compose could say how, with
/// that digest.
fn moving(manifest: &Manifest) -> BTreeMap<ComponentName, String> {
    let compose =
        |definition: &Definition| definition.compose.clone().filter(|it| !it.follows.is_empty() && it.digest.is_none());
    let digests = manifest.components.iter();
    digests.filter_map(|(name, definition)| Some((name.clone(), compose(definition)?.config_hash))).collect()
}

/// An id is known only when its container is there. Where a container and one that lives in it were both made anew by a
/// Compose whose digests we cannot make, the second has one that Compose would not give it, and Compose would make it
/// once more: so that is done here, as a roll of its own. A crash before it changes nothing: the next `up` finds the
/// same to do.
async fn settle(
    global: &Global,
    exit: Exit,
    before: BTreeMap<ComponentName, String>,
    to: Option<String>,
    how: &HowArgs,
) -> Result<Exit, Problem> {
    if exit != Exit::Done || before.is_empty() {
        return Ok(exit);
    }
    let Some(Written { manifest, .. }) = written(global, to.as_deref(), Purpose::Act).await? else { return Ok(exit) };
    let now = moving(&manifest).into_iter();
    let only: Vec<ComponentName> =
        now.filter(|(name, digest)| before.get(name).is_some_and(|was| was != digest)).map(|(name, _)| name).collect();
    if only.is_empty() {
        return Ok(exit);
    }
    if !global.json {
        let names: Vec<&str> = only.iter().map(ComponentName::as_str).collect();
        output::line(&format!(
            "{}: made once more, because Compose's digest has the id of the container that it lives in, which is new",
            names.join(", ")
        ));
    }
    let ask = Some(Ask::Up { to, only, remove_orphans: false });
    let how = HowArgs { yes: true, ..how.clone() };
    let asked = Asked { ask, manifest: Some(manifest), pull: false, supersede: false, commit: None };
    carry(global, asked, None, &how).await
}

/// The manifest, where one is here, for a verb that can do without, and the coordinator where it was met already.
async fn here(global: &Global) -> Result<(Option<Manifest>, Option<Connection>), Problem> {
    let Ready { written, connection } = ready(global, None, Purpose::Act).await?;
    Ok((written.map(|written| written.manifest), connection))
}

pub(super) async fn restart(global: &Global, args: RestartArgs) -> Result<Exit, Problem> {
    let ask = Some(Ask::Restart { components: args.components });
    let (manifest, met) = here(global).await?;
    let before = manifest.as_ref().map(moving).unwrap_or_default();
    let exit =
        carry(global, Asked { ask, manifest, pull: true, supersede: false, commit: None }, met, &args.how).await?;
    settle(global, exit, before, None, &args.how).await
}

pub(super) async fn down(global: &Global, args: RollArgs) -> Result<Exit, Problem> {
    let (manifest, met) = here(global).await?;
    carry(global, Asked { ask: Some(Ask::Down), manifest, pull: true, supersede: false, commit: None }, met, &args.how)
        .await
}

pub(super) async fn drain(global: &Global, args: SlotArgs) -> Result<Exit, Problem> {
    let ask = Some(Ask::Drain { slot: args.slot });
    let (manifest, met) = here(global).await?;
    carry(global, Asked { ask, manifest, pull: true, supersede: false, commit: None }, met, &args.how).await
}

pub(super) async fn undrain(global: &Global, args: SlotArgs) -> Result<Exit, Problem> {
    let ask = Some(Ask::Undrain { slot: args.slot });
    let (manifest, met) = here(global).await?;
    carry(global, Asked { ask, manifest, pull: true, supersede: false, commit: None }, met, &args.how).await
}

/// Finds the coordinator, unless it was met already, carries the ask out, and lets go.
pub(super) async fn carry(
    global: &Global,
    asked: Asked,
    met: Option<Connection>,
    how: &HowArgs,
) -> Result<Exit, Problem> {
    let mut connection = match met {
        Some(connection) => connection,
        None => meet(global, &asked).await?,
    };
    let fleet = connection.fleet.clone();
    let result = carry_on(global, &mut connection, &asked, how).await;
    connection.close().await;
    // Asked for without a question of its own: the verb is `rollback`.
    let taken_back = match result {
        Ok(Exit::RolledBack) => true,
        Ok(Exit::Done) => asked.ask.is_none(),
        _ => false,
    };
    if taken_back {
        tell_what_is_still_asked(global).await;
    }
    if let (Ok(Exit::Done), Some(commit)) = (&result, &asked.commit) {
        commit.carry_out(global, &fleet).await?;
    }
    result
}

async fn meet(global: &Global, asked: &Asked) -> Result<Connection, Problem> {
    // A way back needs no manifest, but whose it is stands in the one that is here.
    let here = if asked.manifest.is_none() { connect::manifest(global).await? } else { None };
    let fleet = connect::fleet(global, asked.manifest.as_ref().or(here.as_ref()))?;
    if asked.ask.is_some() {
        // This roll would hide that the one before it has succeeded. A way back never writes.
        commit::settle(global, &fleet, true).await?;
    }
    connect::any(global, &fleet, are_containers(asked.manifest.as_ref())).await
}

async fn carry_on(global: &Global, connection: &mut Connection, asked: &Asked, how: &HowArgs) -> Result<Exit, Problem> {
    let begun = Instant::now();
    if asked.supersede {
        supersede(connection).await?;
    }
    // With --yes nobody has looked at the plan: one that time has overtaken (a container got ready) is made again.
    let mut again = if how.yes { REPLANS } else { 0 };
    loop {
        match carry_planned(global, connection, asked, how, begun).await? {
            Some(exit) => return Ok(exit),
            None if again == 0 => {
                return Err(Problem::new(
                    Exit::Refused,
                    "the fleet or its files changed since the plan was shown; run the command again to see the new \
                     plan",
                ));
            }
            None => again -= 1,
        }
    }
}

/// Plans, asks and carries out. `None`: what was planned for has changed meanwhile, and nothing was touched.
async fn carry_planned(
    global: &Global,
    connection: &mut Connection,
    asked: &Asked,
    how: &HowArgs,
    begun: Instant,
) -> Result<Option<Exit>, Problem> {
    let left = |begun: Instant| how.timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
    let shown = loop {
        match plan::ask(connection, asked).await {
            Ok(plan::Shown { lost_ground: Some(why), digest, .. }) => {
                if !global.json {
                    let plan = short(&digest);
                    output::line(&format!(
                        "the unfinished roll of plan {plan} cannot go on: {why}; it ends as superseded, and what there \
                         is now is planned for anew"
                    ));
                }
                supersede(connection).await?;
            }
            Ok(shown) => break shown,
            Err(problem)
                if problem.exit == Exit::Refused && how.wait_for_roll.is_some_and(|wait| begun.elapsed() < wait) =>
            {
                let view = connection.view().await?;
                // Nobody carries on what was interrupted: to wait for its end would be in vain.
                let interrupted = is_interrupted(&view);
                if interrupted || view.roll.is_none_or(|roll| matches!(roll.state, RollState::Ended(_))) {
                    return Err(problem);
                }
                tokio::time::sleep(WAIT_PACE).await;
            }
            Err(problem) => return Err(problem),
        }
    };
    if let Some(roll) = shown.unfinished {
        if let Some(commit) = &asked.commit {
            commit.owe(global, &connection.fleet, &shown.digest);
        }
        if !global.json {
            output::line(&format!("going on with the unfinished roll of plan {}", short(&shown.digest)));
        }
        go_on(connection).await?;
        return follow::follow(global, connection, Follow { roll, timeout: left(begun), wanted: None }).await.map(Some);
    }
    if let Some(report) = &shown.report
        && !global.json
    {
        output::line(render(report).trim_end());
    }
    if !shown.changes {
        if global.json {
            output::line(&serde_json::json!({ "event": "nothing-to-do" }).to_string());
        }
        return Ok(Some(Exit::Done));
    }
    if !confirm("Carry this out?", how.yes)? {
        output::line("nothing was touched");
        return Ok(Some(Exit::Stopped));
    }
    if let Some(commit) = &asked.commit {
        commit.owe(global, &connection.fleet, &shown.digest);
    }
    let request = BeginRequest { plan: Some(asked.request(connection)?), expected_digest: shown.digest };
    let reply = match connection.client.begin(request).await {
        Ok(reply) => reply,
        Err(status) if status.code() == tonic::Code::Aborted => return Ok(None),
        // Not "refused": it may have begun, and then nobody is left who could say so.
        Err(status) if went_away(&status) => {
            return Err(Problem::new(
                Exit::Interrupted,
                "the coordinator went away while it was asked to begin, so whether the roll began is not known; the \
                 same command begins it or goes on with it",
            ));
        }
        Err(status) => return Err(status.into()),
    };
    let reply = reply.into_inner();
    if reply.nothing_to_do {
        return Ok(Some(Exit::Done));
    }
    // The success of a rollback reads as "rolled back": where somebody asked for one, that is success.
    let wanted = asked.ask.is_none().then_some(Exit::RolledBack);
    follow::follow(global, connection, Follow { roll: reply.roll, timeout: left(begun), wanted }).await.map(Some)
}

fn short(digest: &str) -> &str {
    digest.get(..12).unwrap_or(digest)
}

/// Whether what carried the roll on was killed, and nobody has asked for more since.
fn is_interrupted(view: &FleetView) -> bool {
    view.holds.iter().any(|hold| hold.reason == HoldReason::Interrupted)
}

/// Whether the journal is older than the fleet, so that nothing may go on.
pub(super) fn is_older(view: &FleetView) -> bool {
    view.holds.iter().any(|hold| matches!(hold.reason, HoldReason::OlderThanFleet { .. }))
}

/// Goes on with a roll that was paused or interrupted; one that runs is let run. One that cannot go on is refused.
pub(super) async fn go_on(connection: &mut Connection) -> Result<(), Problem> {
    let view = connection.view().await?;
    let asks = is_interrupted(&view) || is_older(&view);
    if asks || view.roll.is_some_and(|roll| matches!(roll.state, RollState::Paused { .. })) {
        operate(connection, &Request::Resume).await?;
    }
    Ok(())
}

pub(super) async fn operate(connection: &mut Connection, request: &Request) -> Result<String, Problem> {
    let request_json = serde_json::to_vec(request).map_err(|error| Problem::of(Exit::Failed, &error))?;
    let asker = connection.asker();
    Ok(connection.client.operate(OperateRequest { asker, request_json }).await?.into_inner().roll)
}

/// Ends an unfinished roll as superseded and waits for its safe point.
async fn supersede(connection: &mut Connection) -> Result<(), Problem> {
    let unfinished = |roll: &crate::engine::RollView| !matches!(roll.state, RollState::Ended(_));
    if !connection.view().await?.roll.as_ref().is_some_and(unfinished) {
        return Ok(());
    }
    operate(connection, &Request::Supersede).await?;
    while connection.view().await?.roll.as_ref().is_some_and(unfinished) {
        tokio::time::sleep(WAIT_PACE).await;
    }
    Ok(())
}
