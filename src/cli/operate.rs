//! Verbs that ask something of the roll at hand.

use super::Exit;
use super::args::{AskArgs, Global, GoOnArgs, RollArgs, SettleArgs, StepArgs};
use super::carry::{carry, go_on, operate};
use super::commit;
use super::connect::{self, Connection, manifest};
use super::exit::Problem;
use super::follow::{Follow, follow};
use super::output;
use super::plan::Asked;
use crate::engine::{Request, RollState};
use crate::model::StepId;

async fn open(global: &Global) -> Result<Connection, Problem> {
    let manifest = manifest(global).await?;
    connect::of(global, manifest.as_ref()).await
}

/// Asks, and says so; does not wait.
pub(super) async fn pause(global: &Global, _args: AskArgs) -> Result<Exit, Problem> {
    let mut connection = open(global).await?;
    let result = operate(&mut connection, &Request::Pause).await;
    connection.close().await;
    result?;
    output::line("pausing: what has begun is finished, nothing more begins; `baton resume` goes on");
    Ok(Exit::Done)
}

/// Asks, then carries the roll on in this terminal.
async fn ask_and_follow(global: &Global, request: Request, args: GoOnArgs) -> Result<Exit, Problem> {
    let mut connection = open(global).await?;
    let result = async {
        let roll = unfinished(&mut connection).await?;
        let is_back = connection.view().await?.roll.is_some_and(|roll| roll.parent.is_some());
        operate(&mut connection, &request).await?;
        let wanted = match request {
            Request::Abort => Some(Exit::Stopped),
            Request::Rollback => Some(Exit::RolledBack),
            // A way back that a person carries on: that it gets there is what was asked for.
            _ if is_back => Some(Exit::RolledBack),
            _ => None,
        };
        follow(global, &mut connection, Follow { roll, timeout: args.timeout, wanted }).await
    }
    .await;
    let fleet = connection.fleet.clone();
    connection.close().await;
    commit::settle_after(global, &fleet, result).await
}

async fn unfinished(connection: &mut Connection) -> Result<String, Problem> {
    match connection.view().await?.roll {
        Some(roll) if !matches!(roll.state, RollState::Ended(_)) => Ok(roll.roll.to_string()),
        _ => Err(Problem::new(Exit::Refused, "no roll is unfinished; `baton history` tells how the last one ended")),
    }
}

pub(super) async fn resume(global: &Global, args: GoOnArgs) -> Result<Exit, Problem> {
    let mut connection = open(global).await?;
    let result = async {
        let roll = unfinished(&mut connection).await?;
        go_on(&mut connection).await?;
        follow(global, &mut connection, Follow { roll, timeout: args.timeout, wanted: None }).await
    }
    .await;
    let fleet = connection.fleet.clone();
    connection.close().await;
    commit::settle_after(global, &fleet, result).await
}

pub(super) async fn abort(global: &Global, args: GoOnArgs) -> Result<Exit, Problem> {
    ask_and_follow(global, Request::Abort, args).await
}

pub(super) async fn retry(global: &Global, args: GoOnArgs) -> Result<Exit, Problem> {
    ask_and_follow(global, Request::Retry, args).await
}

pub(super) async fn approve(global: &Global, args: StepArgs) -> Result<Exit, Problem> {
    ask_and_follow(global, Request::Approve { step: StepId(args.step) }, args.go_on).await
}

pub(super) async fn settle(global: &Global, args: SettleArgs) -> Result<Exit, Problem> {
    ask_and_follow(global, Request::Settle { step: StepId(args.step), done: args.done }, args.go_on).await
}

/// Takes back the roll at hand, or else the last one.
pub(super) async fn rollback(global: &Global, args: RollArgs) -> Result<Exit, Problem> {
    let mut connection = open(global).await?;
    let at_hand = unfinished(&mut connection).await;
    match at_hand {
        Ok(roll) => {
            let result = async {
                super::confirm::confirm("Take the unfinished roll back?", args.how.yes).and_then(|yes| {
                    if yes { Ok(()) } else { Err(Problem::new(Exit::Stopped, "nothing was touched")) }
                })?;
                match connection.view().await?.roll.map(|roll| roll.state) {
                    // It has failed and is on its way back already.
                    Some(RollState::TurningBack) => go_on(&mut connection).await?,
                    _ => operate(&mut connection, &Request::Rollback).await.map(drop)?,
                }
                let what = Follow { roll, timeout: args.how.timeout, wanted: Some(Exit::RolledBack) };
                follow(global, &mut connection, what).await
            }
            .await;
            connection.close().await;
            result
        }
        Err(_) => {
            connection.close().await;
            let asked = Asked { ask: None, manifest: None, pull: true, supersede: false, commit: None };
            carry(global, asked, None, &args.how).await
        }
    }
}
