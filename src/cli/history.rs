//! `baton history`: rolls that were, and why they ended as they did.

use super::Exit;
use super::args::{Global, HistoryArgs};
use super::connect::{self, Connection, manifest};
use super::exit::Problem;
use super::{offline, output, words};
use crate::engine::RollSummary;
use crate::proto::v1::HistoryRequest;

/// The last rolls, as a coordinator tells them; the newest first.
pub(super) async fn asked(connection: &mut Connection, limit: u32) -> Result<Vec<RollSummary>, Problem> {
    let request = HistoryRequest { asker: connection.asker(), limit };
    let reply = connection.client.history(request).await?.into_inner();
    serde_json::from_slice(&reply.rolls_json).map_err(|error| Problem::of(Exit::Failed, &error))
}

pub(super) async fn run(global: &Global, args: HistoryArgs) -> Result<Exit, Problem> {
    let fleet = connect::fleet(global, manifest(global).await?.as_ref())?;
    let rolls = match connect::running(global, &fleet).await? {
        Some(mut connection) => asked(&mut connection, args.limit).await?,
        None => offline::history(global, &fleet, args.limit as usize)?,
    };
    if global.json {
        for roll in &rolls {
            let line = serde_json::to_string(roll).map_err(|error| Problem::of(Exit::Failed, &error))?;
            output::line(&line);
        }
        return Ok(Exit::Done);
    }
    if rolls.is_empty() {
        output::line("no roll yet");
    }
    for roll in &rolls {
        for line in words::summary(roll) {
            output::line(&line);
        }
    }
    Ok(Exit::Done)
}
