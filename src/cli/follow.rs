//! Following a roll to its end, and the exit code that its end means.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tonic::Streaming;

use super::Exit;
use super::args::Global;
use super::carry::{is_older, operate};
use super::connect::Connection;
use super::exit::{Problem, went_away};
use super::live::Live;
use super::output;
use crate::engine::{FleetView, HoldReason, News, Request, RollResult, RollState, RollView};
use crate::proto::v1::{WatchEvent, WatchRequest};

/// How long a daemon that went away may take to come back while its roll is watched.
const RETURN_MAX: Duration = Duration::from_secs(60);

/// What to follow.
pub(super) struct Follow {
    /// Which roll.
    pub(super) roll: String,
    /// Come to a safe point after so long.
    pub(super) timeout: Option<Duration>,
    /// An end that is what was asked for (a rollback by hand succeeds by rolling back).
    pub(super) wanted: Option<Exit>,
}

/// What the state of a roll means for a verb that follows it; `None`: go on.
fn judge(view: &FleetView, roll: &RollView, interrupted: bool) -> Option<(Exit, String)> {
    let because = |fallback: &str| {
        view.holds.first().map_or_else(|| fallback.to_owned(), |hold| format!("{}; until {}", hold.text, hold.until))
    };
    match &roll.state {
        RollState::Ended(RollResult::Succeeded) if roll.parent.is_some() => {
            Some((Exit::RolledBack, "failed and rolled back".to_owned()))
        }
        RollState::Ended(RollResult::Succeeded) => {
            let missing: Vec<String> =
                view.slots.iter().filter(|slot| slot.phase == "failed").map(|slot| slot.slot.to_string()).collect();
            let done = match missing.as_slice() {
                [] => "done".to_owned(),
                missing => format!("done without {}, as max_failure_ratio allows", missing.join(", ")),
            };
            Some((Exit::Done, done))
        }
        RollState::Ended(RollResult::RolledBack { .. }) => None,
        RollState::Ended(RollResult::Failed { why }) => Some((Exit::Failed, why.clone())),
        RollState::Ended(RollResult::Aborted { actor }) => Some((Exit::Stopped, format!("aborted by {actor}"))),
        RollState::Ended(RollResult::Superseded { actor }) => Some((Exit::Stopped, format!("superseded by {actor}"))),
        RollState::Paused { safe: true } if interrupted => {
            Some((Exit::Interrupted, "interrupted at a safe point; the same command goes on".to_owned()))
        }
        RollState::Paused { safe: true } => Some((Exit::Stopped, because("paused; until `baton resume`"))),
        RollState::NeedsPerson { safe: true } => {
            Some((Exit::Failed, because("a step failed; until `baton retry`, `baton rollback` or `baton abort`")))
        }
        RollState::Running if is_older(view) => Some((Exit::Failed, because("the journal is older than the fleet"))),
        RollState::Running => {
            // A gate is a hold that a person ends: `up` never waits for one.
            let gate = view.holds.iter().find(|hold| matches!(hold.reason, HoldReason::Gate { .. }));
            let busy = view.slots.iter().any(|slot| slot.at_work.is_some());
            gate.filter(|_| !busy).map(|hold| (Exit::Stopped, hold.text.clone()))
        }
        _ => None,
    }
}

/// Follows until the roll has ended, or waits for a person, or somebody interrupts.
pub(super) async fn follow(global: &Global, connection: &mut Connection, what: Follow) -> Result<Exit, Problem> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| Problem::of(Exit::Failed, &error))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(|error| Problem::of(Exit::Failed, &error))?;
    let mut live = Live::new(global);
    let mut interrupted = false;
    let mut embedded = connection.embedded.take();
    let mut stream = match watch(connection, &what.roll).await {
        // The roll has begun: a coordinator that goes away at this moment comes back as well as at any later one.
        Err(status) if embedded.is_none() && went_away(&status) => {
            again(connection, &what.roll).await.ok_or_else(gone)?
        }
        answered => answered?,
    };
    let deadline = what.timeout.map(|timeout| tokio::time::Instant::now() + timeout);
    let mut followed = what.roll.clone();
    let result = loop {
        tokio::select! {
            message = stream.message() => {
                let event = match message {
                    Ok(Some(event)) => event,
                    Ok(None) | Err(_) => {
                        // The coordinator ended the stream: the roll is over, or the daemon went away.
                        match again(connection, &followed).await {
                            Some(fresh) => { stream = fresh; continue; }
                            None => break Err(gone()),
                        }
                    }
                };
                if !event.news_json.is_empty() {
                    live.news(&event);
                    if let Ok(News::RollBegan { roll, parent: Some(parent), .. }) =
                        serde_json::from_slice::<News>(&event.news_json)
                        && parent.as_str() == followed
                    {
                        followed = roll.to_string();
                    }
                }
                if event.view_json.is_empty() { continue; }
                let Ok(view) = serde_json::from_slice::<FleetView>(&event.view_json) else { continue };
                live.view(&view);
                let Some(roll) = &view.roll else { continue };
                let ours = roll.roll.as_str() == followed
                    || roll.parent.as_ref().is_some_and(|parent| parent.as_str() == followed);
                if !ours { continue; }
                followed = roll.roll.to_string();
                if let Some((exit, text)) = judge(&view, roll, interrupted) {
                    let (exit, text) = match exit {
                        Exit::RolledBack if what.wanted == Some(exit) => (Exit::Done, "rolled back".to_owned()),
                        exit if what.wanted == Some(exit) => (Exit::Done, text),
                        exit => (exit, text),
                    };
                    live.end(&view, exit, &text);
                    break Ok(exit);
                }
            }
            _ = interrupt.recv() => {
                match stop(connection, embedded.is_some(), interrupted, &mut live).await {
                    Some(exit) => break Ok(exit),
                    None => interrupted = true,
                }
            }
            _ = terminate.recv() => {
                match stop(connection, embedded.is_some(), interrupted, &mut live).await {
                    Some(exit) => break Ok(exit),
                    None => interrupted = true,
                }
            }
            () = until(deadline), if !interrupted => {
                match stop(connection, embedded.is_some(), interrupted, &mut live).await {
                    Some(exit) => break Ok(exit),
                    None => interrupted = true,
                }
            }
            problem = failed(&mut embedded) => break Err(problem),
        }
    };
    connection.embedded = embedded;
    result
}

async fn failed(embedded: &mut Option<super::connect::Embedded>) -> Problem {
    match embedded {
        Some(embedded) => embedded.failed().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// The first interrupt brings an embedded roll to its safe point; the second leaves at once. With a daemon, only the
/// view ends.
async fn stop(connection: &mut Connection, embedded: bool, again: bool, live: &mut Live) -> Option<Exit> {
    if !embedded {
        live.say("the view ends; the coordinator goes on (`baton watch` shows it, `baton pause` stops it)");
        return Some(Exit::Interrupted);
    }
    if again {
        return Some(Exit::Interrupted);
    }
    live.say("coming to a safe point: what has begun is finished; interrupt again to leave at once");
    match operate(connection, &Request::Pause).await {
        Ok(_) => None,
        // Already pausing, aborting or turning back: wait for that.
        Err(_) => None,
    }
}

fn gone() -> Problem {
    Problem::new(Exit::Failed, "the coordinator went away and did not come back; `baton status` tells what is")
}

async fn watch(connection: &mut Connection, roll: &str) -> Result<Streaming<WatchEvent>, tonic::Status> {
    let asker = connection.asker();
    Ok(connection.client.watch(WatchRequest { asker, roll: roll.to_owned() }).await?.into_inner())
}

async fn again(connection: &mut Connection, roll: &str) -> Option<Streaming<WatchEvent>> {
    let begun = std::time::Instant::now();
    while begun.elapsed() < RETURN_MAX {
        if let Ok(stream) = watch(connection, roll).await {
            return Some(stream);
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    None
}

/// Shows whatever happens until it is interrupted.
pub(super) async fn forever(global: &Global, connection: &mut Connection) -> Result<Exit, Problem> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|error| Problem::of(Exit::Failed, &error))?;
    let mut live = Live::new(global);
    let mut stream = watch(connection, "").await?;
    loop {
        tokio::select! {
            message = stream.message() => match message {
                Ok(Some(event)) => {
                    if !event.news_json.is_empty() {
                        live.news(&event);
                    }
                    if let Ok(view) = serde_json::from_slice::<FleetView>(&event.view_json) {
                        live.view(&view);
                    }
                }
                Ok(None) | Err(_) => match again(connection, "").await {
                    Some(fresh) => stream = fresh,
                    None => return Err(Problem::new(Exit::Failed, "the coordinator went away and did not come back")),
                },
            },
            _ = interrupt.recv() => {
                output::line("");
                return Ok(Exit::Done);
            }
        }
    }
}
