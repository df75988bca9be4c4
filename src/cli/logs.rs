//! `baton logs SLOT`.

use super::Exit;
use super::args::{Global, LogsArgs};
use super::connect::{self, manifest};
use super::exit::Problem;
use super::{offline, output};
use crate::proto::v1::LogsRequest;

pub(super) async fn run(global: &Global, args: LogsArgs) -> Result<Exit, Problem> {
    let fleet = connect::fleet(global, manifest(global).await?.as_ref())?;
    let lines = match connect::running(global, &fleet).await? {
        Some(mut connection) => {
            let request = LogsRequest { asker: connection.asker(), slot: args.slot.to_string(), lines: args.lines };
            connection.client.logs(request).await?.into_inner().lines
        }
        None => offline::logs(global, &fleet, &args.slot, args.lines).await?,
    };
    for line in lines {
        output::line(&line);
    }
    Ok(Exit::Done)
}
