//! Verbs that plan and carry out: up, restart, down, drain, undrain.

use std::time::{Duration, Instant};

use super::Exit;
use super::args::{Global, HowArgs, RestartArgs, RollArgs, SlotArgs, UpArgs};
use super::confirm::confirm;
use super::connect::{self, Connection};
use super::exit::{Problem, went_away};
use super::follow::{self, Follow};
use super::output;
use super::plan::{self, Asked, up_ask};
use super::project::{Written, needed, tell_what_is_still_asked, written};
use crate::engine::{FleetView, HoldReason, Request, RollState};
use crate::planner::{Ask, render};
use crate::proto::v1::{BeginRequest, OperateRequest};

/// Between two looks while waiting for another roll's end.
const WAIT_PACE: Duration = Duration::from_millis(250);

pub(super) async fn up(global: &Global, mut args: UpArgs) -> Result<Exit, Problem> {
    let Written { manifest, version } = needed(global, args.what.to.as_deref(), true).await?;
    args.what.to = args.what.to.or(version);
    let asked =
        Asked { ask: Some(up_ask(&args.what)), manifest: Some(manifest), pull: true, supersede: args.supersede };
    carry(global, asked, &args.how).await
}

pub(super) async fn restart(global: &Global, args: RestartArgs) -> Result<Exit, Problem> {
    let ask = Some(Ask::Restart { components: args.components });
    let manifest = written(global, None, false).await?.map(|written| written.manifest);
    carry(global, Asked { ask, manifest, pull: true, supersede: false }, &args.how).await
}

pub(super) async fn down(global: &Global, args: RollArgs) -> Result<Exit, Problem> {
    let manifest = written(global, None, false).await?.map(|written| written.manifest);
    carry(global, Asked { ask: Some(Ask::Down), manifest, pull: true, supersede: false }, &args.how).await
}

pub(super) async fn drain(global: &Global, args: SlotArgs) -> Result<Exit, Problem> {
    let ask = Some(Ask::Drain { slot: args.slot });
    let manifest = written(global, None, false).await?.map(|written| written.manifest);
    carry(global, Asked { ask, manifest, pull: true, supersede: false }, &args.how).await
}

pub(super) async fn undrain(global: &Global, args: SlotArgs) -> Result<Exit, Problem> {
    let ask = Some(Ask::Undrain { slot: args.slot });
    let manifest = written(global, None, false).await?.map(|written| written.manifest);
    carry(global, Asked { ask, manifest, pull: true, supersede: false }, &args.how).await
}

/// Finds the coordinator, carries the ask out, and lets go.
pub(super) async fn carry(global: &Global, asked: Asked, how: &HowArgs) -> Result<Exit, Problem> {
    // A way back needs no manifest, but whose it is stands in the one that is here.
    let here = if asked.manifest.is_none() { connect::manifest(global).await? } else { None };
    let fleet = connect::fleet(global, asked.manifest.as_ref().or(here.as_ref()))?;
    let mut connection = connect::any(global, &fleet, asked.manifest.as_ref()).await?;
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
    result
}

async fn carry_on(global: &Global, connection: &mut Connection, asked: &Asked, how: &HowArgs) -> Result<Exit, Problem> {
    let begun = Instant::now();
    let left = |begun: Instant| how.timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
    if asked.supersede {
        supersede(connection).await?;
    }
    let shown = loop {
        match plan::ask(connection, asked).await {
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
        if !global.json {
            output::line(&format!("going on with the unfinished roll of plan {}", short(&shown.digest)));
        }
        go_on(connection).await?;
        return follow::follow(global, connection, Follow { roll, timeout: left(begun), wanted: None }).await;
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
        return Ok(Exit::Done);
    }
    if !confirm("Carry this out?", how.yes)? {
        output::line("nothing was touched");
        return Ok(Exit::Stopped);
    }
    let request = BeginRequest { plan: Some(asked.request(connection)?), expected_digest: shown.digest };
    let reply = connection.client.begin(request).await.map_err(|status| {
        if went_away(&status) {
            // Not "refused": it may have begun, and then nobody is left who could say so.
            return Problem::new(
                Exit::Interrupted,
                "the coordinator went away while it was asked to begin, so whether the roll began is not known; the \
                 same command begins it or goes on with it",
            );
        }
        status.into()
    })?;
    let reply = reply.into_inner();
    if reply.nothing_to_do {
        return Ok(Exit::Done);
    }
    // The success of a rollback reads as "rolled back": where somebody asked for one, that is success.
    let wanted = asked.ask.is_none().then_some(Exit::RolledBack);
    follow::follow(global, connection, Follow { roll: reply.roll, timeout: left(begun), wanted }).await
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
