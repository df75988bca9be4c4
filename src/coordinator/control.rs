//! The control service: what operators ask.
//!
//! The one place that turns errors into answers: `InvalidArgument` is bad usage (exit code 2), `FailedPrecondition` a
//! refusal that touched nothing (exit code 5).

use std::collections::BTreeSet;
use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::core::{CoreHandle, Message, NewsItem, Turned, Watching};
use super::planning::{self, PlanTurned};
use crate::engine::{BeginError, FleetView, News, RollResult, RollState};
use crate::model::{Manifest, RollId, RollNumber, SlotName};
use crate::planner::{Ask, Planned};
use crate::proto::v1::control_server::Control;
use crate::proto::v1::{
    Asker, BeginReply, BeginRequest, HistoryReply, HistoryRequest, LogsReply, LogsRequest, OperateReply,
    OperateRequest, PlanReply, PlanRequest, StatusReply, StatusRequest, WatchEvent, WatchRequest,
};

/// The most log lines that one call gives.
const LOG_LINES_MAX: u32 = 10_000;

/// The most rolls that one call gives.
const HISTORY_MAX: u32 = 1_000;

/// See the module.
pub(super) struct ControlService {
    core: CoreHandle,
}

impl ControlService {
    pub(super) fn new(core: CoreHandle) -> Self {
        Self { core }
    }

    fn asker(&self, asker: Option<Asker>) -> Result<Asker, Status> {
        let asker = asker.unwrap_or_default();
        if asker.fleet.is_empty() || asker.fleet == self.core.fleet().as_str() {
            return Ok(asker);
        }
        Err(Status::failed_precondition(format!(
            "this coordinator serves fleet {}, not {}",
            self.core.fleet(),
            asker.fleet
        )))
    }

    async fn planned(&self, request: &PlanRequest) -> Result<(Ask, Option<Manifest>, Planned), Status> {
        let (ask, manifest) = self.read(request).await?;
        let planned = planning::plan(&self.core, ask.clone(), manifest.clone(), request.pull).await?;
        Ok((ask, manifest, planned))
    }

    async fn read(&self, request: &PlanRequest) -> Result<(Ask, Option<Manifest>), Status> {
        let ask = if request.rollback_last {
            let snapshot = self.core.ask(|answer| Message::Snapshot { answer }).await?;
            let (of, number, plan) = snapshot
                .last
                .ok_or_else(|| Status::failed_precondition("there is no roll that could be taken back"))?;
            Ask::Rollback { of, number, plan }
        } else {
            document("ask", &request.ask_json)?
        };
        let manifest =
            if request.manifest_json.is_empty() { None } else { Some(document("manifest", &request.manifest_json)?) };
        Ok((ask, manifest))
    }
}

fn document<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Status> {
    // The text of serde's errors names keys and types only; values of a manifest must not come back in an error.
    serde_json::from_slice(bytes).map_err(|error| {
        Status::invalid_argument(format!(
            "cannot read the {what} at line {}, column {}: another version of Baton?",
            error.line(),
            error.column()
        ))
    })
}

fn json<T: serde::Serialize>(what: &str, value: &T) -> Result<Vec<u8>, Status> {
    serde_json::to_vec(value).map_err(|error| Status::internal(format!("cannot write the {what}: {error}")))
}

impl From<Turned> for Status {
    fn from(turned: Turned) -> Status {
        match turned {
            Turned::Refused(why) => Status::failed_precondition(why),
            Turned::Stopping => Status::unavailable("the coordinator is stopping"),
        }
    }
}

impl From<PlanTurned> for Status {
    fn from(turned: PlanTurned) -> Status {
        match turned {
            PlanTurned::Usage(why) => Status::invalid_argument(why),
            PlanTurned::Refused(why) | PlanTurned::Silent(why) => Status::failed_precondition(why),
        }
    }
}

#[tonic::async_trait]
impl Control for ControlService {
    async fn plan(&self, request: Request<PlanRequest>) -> Result<Response<PlanReply>, Status> {
        let request = request.into_inner();
        self.asker(request.asker.clone())?;
        let (ask, manifest) = self.read(&request).await?;
        let snapshot = self.core.ask(|answer| Message::Snapshot { answer }).await?;
        // Before anything is said of a roll that such a journal holds: nothing of it can go on.
        if let Some(why) = snapshot.older.clone().filter(|_| request.pull) {
            return Err(Status::failed_precondition(BeginError::OlderThanFleet { why }.to_string()));
        }
        if let Some((roll, _, unfinished)) = &snapshot.unfinished
            && !request.supersede
        {
            let same = manifest.as_ref().is_some_and(|manifest| planning::same_request(&ask, manifest, unfinished));
            if same {
                let lost_ground = planning::lost_ground(&self.core, &snapshot).await?.unwrap_or_default();
                return Ok(Response::new(PlanReply {
                    plan_digest: unfinished.digest.to_string(),
                    plan_json: json("plan", unfinished)?,
                    report_json: vec![],
                    changes: true,
                    unfinished_roll: roll.to_string(),
                    lost_ground,
                }));
            }
            if !matches!(ask, Ask::Up { .. }) || request.pull {
                return Err(unfinished_roll(&self.core).await);
            }
        }
        let planned = planning::plan(&self.core, ask, manifest, request.pull).await?;
        Ok(Response::new(PlanReply {
            plan_digest: planned.plan.digest.to_string(),
            report_json: json("report", &planned.report)?,
            plan_json: json("plan", &planned.plan)?,
            changes: !planned.plan.is_noop(),
            unfinished_roll: String::new(),
            lost_ground: String::new(),
        }))
    }

    async fn begin(&self, request: Request<BeginRequest>) -> Result<Response<BeginReply>, Status> {
        let request = request.into_inner();
        let inner = request.plan.ok_or_else(|| Status::invalid_argument("no plan asked for"))?;
        let asker = self.asker(inner.asker.clone())?;
        let snapshot = self.core.ask(|answer| Message::Snapshot { answer }).await?;
        if snapshot.unfinished.is_some() {
            return Err(unfinished_roll(&self.core).await);
        }
        let (_, _, planned) = self.planned(&inner).await?;
        if planned.plan.digest.0 != request.expected_digest {
            return Err(Status::aborted(
                "the fleet or its files changed since the plan was shown; run the command again to see the new plan",
            ));
        }
        if planned.plan.is_noop() {
            return Ok(Response::new(BeginReply { roll: String::new(), number: 0, nothing_to_do: true }));
        }
        let (roll, number) = self
            .core
            .ask(|answer| Message::Begin {
                plan: Box::new(planned.plan),
                definitions: planned.definitions,
                actor: asker.actor,
                reason: asker.reason,
                answer,
            })
            .await??;
        Ok(Response::new(BeginReply { roll: roll.to_string(), number: number.0, nothing_to_do: false }))
    }

    async fn operate(&self, request: Request<OperateRequest>) -> Result<Response<OperateReply>, Status> {
        let request = request.into_inner();
        let asker = self.asker(request.asker)?;
        let verb = document("request", &request.request_json)?;
        let roll = self
            .core
            .ask(|answer| Message::Operate { request: verb, actor: asker.actor, reason: asker.reason, answer })
            .await??;
        Ok(Response::new(OperateReply {
            roll: roll.map(|roll| roll.to_string()).unwrap_or_default(),
            text: String::new(),
        }))
    }

    async fn status(&self, request: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        self.asker(request.into_inner().asker)?;
        let (view, notices) = self.core.ask(|answer| Message::View { answer }).await?;
        Ok(Response::new(StatusReply { view_json: json("view", &view)?, notices }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<WatchEvent, Status>> + Send>>;

    async fn watch(&self, request: Request<WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        self.asker(request.asker)?;
        let roll = match request.roll.as_str() {
            "" => None,
            text => Some(RollId::new(text).map_err(|error| Status::invalid_argument(error.to_string()))?),
        };
        let watching = self.core.ask(|answer| Message::Watch { roll: roll.clone(), answer }).await?;
        let (sender, receiver) = mpsc::channel(256);
        tokio::spawn(feed(watching, roll, sender));
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn history(&self, request: Request<HistoryRequest>) -> Result<Response<HistoryReply>, Status> {
        let request = request.into_inner();
        self.asker(request.asker)?;
        let limit = match request.limit {
            0 => 20,
            limit => limit.min(HISTORY_MAX),
        };
        let rolls = self.core.ask(|answer| Message::Summaries { limit: limit as usize, answer }).await?;
        Ok(Response::new(HistoryReply { rolls_json: json("history", &rolls)? }))
    }

    async fn logs(&self, request: Request<LogsRequest>) -> Result<Response<LogsReply>, Status> {
        let request = request.into_inner();
        self.asker(request.asker)?;
        let slot: SlotName =
            request.slot.parse().map_err(|error: crate::model::IdError| Status::invalid_argument(error.to_string()))?;
        let lines = request.lines.clamp(1, LOG_LINES_MAX);
        let question = self.core.ask(|answer| Message::Logs { slot: slot.clone(), lines, answer });
        let answer = tokio::time::timeout(std::time::Duration::from_secs(15), question)
            .await
            .map_err(|_| Status::deadline_exceeded(format!("the agent of {slot} did not answer within 15s")))?;
        match answer? {
            Ok(lines) => Ok(Response::new(LogsReply { lines })),
            Err(why) => Err(Status::failed_precondition(why)),
        }
    }
}

/// Names the owner, and three ways on.
async fn unfinished_roll(core: &CoreHandle) -> Status {
    let who = match core.ask(|answer| Message::View { answer }).await {
        Ok((view, _)) => view.roll.map_or_else(String::new, |roll| {
            format!(
                "roll {} ({}, begun by {}, {} of {} steps done)",
                roll.number, roll.kind, roll.actor, roll.done.0, roll.done.1
            )
        }),
        Err(_) => "a roll".to_owned(),
    };
    Status::failed_precondition(format!(
        "{who} is unfinished; go on with `baton resume`, take it back with `baton rollback`, or end it with `baton up \
         --supersede`"
    ))
}

/// Which rolls a watcher follows: the one asked for and whatever takes it back.
struct Followed {
    wanted: Option<RollId>,
    numbers: BTreeSet<RollNumber>,
}

impl Followed {
    fn takes(&mut self, news: &News) -> bool {
        let Some(wanted) = &self.wanted else { return true };
        if let News::RollBegan { roll, number, parent, .. } = news
            && (roll == wanted || parent.as_ref() == Some(wanted))
        {
            self.numbers.insert(*number);
            self.wanted = Some(roll.clone());
        }
        number_of(news).is_none_or(|number| self.numbers.contains(&number))
    }
}

/// Which roll a piece of news belongs to.
fn number_of(news: &News) -> Option<RollNumber> {
    match news {
        News::RollBegan { number, .. }
        | News::StepBegan { number, .. }
        | News::StepEnded { number, .. }
        | News::Progress { number, .. }
        | News::Asked { number, .. }
        | News::FailureActed { number, .. }
        | News::NoWayBack { number, .. }
        | News::RollEnded { number, .. } => Some(*number),
        _ => None,
    }
}

/// Sends the backlog, then news and views as they come, until the roll (or the rollback of it) has ended.
async fn feed(mut watching: Watching, roll: Option<RollId>, sender: mpsc::Sender<Result<WatchEvent, Status>>) {
    let news_event = |item: &NewsItem| -> Result<WatchEvent, Status> {
        Ok(WatchEvent {
            sequence: item.sequence,
            wall_ms: item.wall_ms,
            news_json: json("news", &item.news)?,
            view_json: vec![],
        })
    };
    let view_event = |view: &FleetView| -> Result<WatchEvent, Status> {
        Ok(WatchEvent { sequence: 0, wall_ms: 0, news_json: vec![], view_json: json("view", view)? })
    };
    let mut followed = Followed { wanted: roll, numbers: watching.number.into_iter().collect() };
    for item in &watching.backlog {
        if followed.takes(&item.news) && sender.send(news_event(item)).await.is_err() {
            return;
        }
    }
    watching.views.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = sender.closed() => return,
            item = watching.news.recv() => match item {
                Ok(item) => {
                    if followed.takes(&item.news) && sender.send(news_event(&item)).await.is_err() {
                        return;
                    }
                }
                // A watcher that is too slow misses news, never the view.
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            },
            changed = watching.views.changed() => {
                if changed.is_err() {
                    return;
                }
                let view = watching.views.borrow_and_update().clone();
                if sender.send(view_event(&view)).await.is_err() {
                    return;
                }
                let Some(wanted) = followed.wanted.clone() else { continue };
                let Some(current) = view.roll.as_ref() else { return };
                if current.roll == wanted || current.parent.as_ref() == Some(&wanted) {
                    // News comes before the view that shows it: both are sent by the same loop in that order.
                    if let RollState::Ended(result) = &current.state
                        && !matches!(result, RollResult::RolledBack { .. })
                    {
                        return;
                    }
                } else {
                    return;
                }
            }
        }
    }
}
