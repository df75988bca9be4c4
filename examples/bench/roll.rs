//! Rolls begun over the control socket, as the CLI begins them.

use std::time::{Duration, Instant};

use baton::engine::{FleetView, RollResult, RollSummary};
use baton::planner::Ask;
use baton::proto::v1::control_client::ControlClient;
use baton::proto::v1::{Asker, BeginRequest, HistoryRequest, PlanRequest, StatusRequest};
use baton::transport::{Address, MESSAGE_MAX, connect};
use tonic::transport::Channel;

use crate::rig::Outcome;

/// Between two questions whether a roll is over: far apart, so that they cost the roll nothing.
const POLL: Duration = Duration::from_millis(20);

/// How long a roll may take.
const ROLL_MAX: Duration = Duration::from_secs(300);

/// A way to ask a coordinator.
pub struct Asking {
    client: ControlClient<Channel>,
    fleet: String,
}

/// How a roll went.
pub struct Rolled {
    /// Steps in it.
    pub steps: u32,
    /// To make the plan (an inventory asked for included).
    pub planned: Duration,
    /// From the record of its begin to the record of its end, in journal time.
    pub rolled: Duration,
}

impl Asking {
    pub async fn connect(address: &Address, fleet: &str) -> Outcome<Self> {
        let channel = connect(address, None, fleet).await?;
        let client =
            ControlClient::new(channel).max_decoding_message_size(MESSAGE_MAX).max_encoding_message_size(MESSAGE_MAX);
        Ok(Self { client, fleet: fleet.to_owned() })
    }

    fn asker(&self) -> Option<Asker> {
        Some(Asker { fleet: self.fleet.clone(), actor: "bench".to_owned(), reason: String::new() })
    }

    /// What is, now.
    pub async fn view(&mut self) -> Outcome<FleetView> {
        let asker = self.asker();
        let reply = self.client.status(StatusRequest { asker }).await?.into_inner();
        Ok(serde_json::from_slice(&reply.view_json)?)
    }

    /// How long a status takes, its answer read.
    pub async fn status_time(&mut self) -> Outcome<(Duration, usize)> {
        let asker = self.asker();
        let begun = Instant::now();
        let reply = self.client.status(StatusRequest { asker }).await?.into_inner();
        Ok((begun.elapsed(), reply.view_json.len()))
    }

    /// Waits until so many agents are attached.
    pub async fn attached(&mut self, count: usize) -> Outcome<()> {
        let begun = Instant::now();
        while self.view().await?.agents.iter().filter(|agent| agent.up).count() < count {
            if begun.elapsed() > Duration::from_secs(60) {
                return Err("the agents did not attach within a minute".into());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    async fn newest(&mut self) -> Outcome<Option<RollSummary>> {
        let asker = self.asker();
        let reply = self.client.history(HistoryRequest { asker, limit: 1 }).await?.into_inner();
        let rolls: Vec<RollSummary> = serde_json::from_slice(&reply.rolls_json)?;
        Ok(rolls.into_iter().next())
    }

    /// Plans `ask`, begins it, and waits for its end.
    pub async fn carry_out(&mut self, ask: &Ask, manifest: Option<&baton::model::Manifest>) -> Outcome<Rolled> {
        let plan = PlanRequest {
            asker: self.asker(),
            ask_json: serde_json::to_vec(ask)?,
            manifest_json: manifest.map(serde_json::to_vec).transpose()?.unwrap_or_default(),
            pull: false,
            supersede: false,
            rollback_last: false,
        };
        let begun = Instant::now();
        let planned = self.client.plan(plan.clone()).await?.into_inner();
        let plan_time = begun.elapsed();
        let begin = BeginRequest { plan: Some(plan), expected_digest: planned.plan_digest };
        let reply = self.client.begin(begin).await?.into_inner();
        if reply.nothing_to_do {
            return Err("there is nothing to do".into());
        }
        let begun = Instant::now();
        loop {
            tokio::time::sleep(POLL).await;
            let newest = self.newest().await?.ok_or("the roll has gone")?;
            let Some(result) = &newest.result else {
                if begun.elapsed() > ROLL_MAX {
                    return Err("the roll did not end in time".into());
                }
                continue;
            };
            if *result != RollResult::Succeeded {
                return Err(format!("the roll came to {result:?}").into());
            }
            let ended = newest.ended.ok_or("an ended roll has an end")?;
            return Ok(Rolled { steps: newest.steps_total, planned: plan_time, rolled: newest.began.until(ended) });
        }
    }
}
