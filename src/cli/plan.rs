//! `baton plan`: what would happen and why. Touches nothing, pulls nothing.

use super::Exit;
use super::args::{Global, PlanArgs, WhatArgs};
use super::commit::Commit;
use super::connect::{self, Connection};
use super::exit::Problem;
use super::output;
use super::project::{Purpose, Written};
use super::ready::needed;
use crate::model::{Manifest, Plan};
use crate::planner::{Ask, Report, render};
use crate::proto::v1::{PlanReply, PlanRequest};

/// A plan as the coordinator answered it.
pub(super) struct Shown {
    pub(super) digest: String,
    pub(super) changes: bool,
    pub(super) unfinished: Option<String>,
    /// Why that roll cannot go on.
    pub(super) lost_ground: Option<String>,
    pub(super) report: Option<Report>,
    pub(super) plan: Plan,
}

/// What to ask for.
pub(super) struct Asked {
    pub(super) ask: Option<Ask>,
    pub(super) manifest: Option<Manifest>,
    pub(super) pull: bool,
    pub(super) supersede: bool,
    /// What is to be written where Compose reads the version, once the roll has succeeded.
    pub(super) commit: Option<Commit>,
}

impl Asked {
    pub(super) fn request(&self, connection: &Connection) -> Result<PlanRequest, Problem> {
        let json = |error: serde_json::Error| Problem::of(Exit::Failed, &error);
        Ok(PlanRequest {
            asker: connection.asker(),
            rollback_last: self.ask.is_none(),
            ask_json: self.ask.as_ref().map(serde_json::to_vec).transpose().map_err(json)?.unwrap_or_default(),
            manifest_json: self
                .manifest
                .as_ref()
                .map(serde_json::to_vec)
                .transpose()
                .map_err(json)?
                .unwrap_or_default(),
            pull: self.pull,
            supersede: self.supersede,
        })
    }
}

/// Asks for a plan.
pub(super) async fn ask(connection: &mut Connection, asked: &Asked) -> Result<Shown, Problem> {
    let request = asked.request(connection)?;
    let reply: PlanReply = connection.client.plan(request).await?.into_inner();
    let json = |error: serde_json::Error| Problem::of(Exit::Failed, &error);
    Ok(Shown {
        digest: reply.plan_digest,
        changes: reply.changes,
        unfinished: Some(reply.unfinished_roll).filter(|roll| !roll.is_empty()),
        lost_ground: Some(reply.lost_ground).filter(|why| !why.is_empty()),
        report: if reply.report_json.is_empty() {
            None
        } else {
            Some(serde_json::from_slice(&reply.report_json).map_err(json)?)
        },
        plan: serde_json::from_slice(&reply.plan_json).map_err(json)?,
    })
}

pub(super) fn up_ask(what: &WhatArgs) -> Ask {
    Ask::Up { to: what.to.clone(), only: what.only.clone(), remove_orphans: what.remove_orphans }
}

pub(super) async fn run(global: &Global, mut args: PlanArgs) -> Result<Exit, Problem> {
    let (Written { manifest, version, .. }, met) = needed(global, args.what.to.as_deref(), Purpose::Look).await?;
    args.what.to = args.what.to.or(version);
    let mut connection = match met {
        Some(connection) => connection,
        None => connect::of(global, Some(&manifest)).await?,
    };
    let ask_for = Some(up_ask(&args.what));
    let asked = Asked { ask: ask_for, manifest: Some(manifest), pull: false, supersede: true, commit: None };
    let shown = ask(&mut connection, &asked).await;
    connection.close().await;
    let shown = shown?;
    if global.json {
        let line = serde_json::json!({ "plan": shown.plan, "report": shown.report, "changes": shown.changes });
        output::line(&line.to_string());
    } else if let Some(report) = &shown.report {
        output::line(render(report).trim_end());
    }
    Ok(if args.detailed_exitcode && shown.changes { Exit::Changes } else { Exit::Done })
}
