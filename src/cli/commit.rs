//! What `up --to V` leaves behind for Compose: once the roll has succeeded, the version's line in the project's env
//! file. Only then `docker compose up -d` finds nothing to do.
//!
//! What is owed lies beside the journal before the roll begins. Whoever sees the roll succeed writes the line and takes
//! the note away; where that one was killed, the next verb finds both and does it. A way back never writes.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::args::Global;
use super::connect::{self, state_root};
use super::exit::Problem;
use super::project::version_now;
use super::{Exit, offline, output};
use crate::compose::dotenv;
use crate::engine::{FleetView, RollResult, RollState};
use crate::model::{ComponentName, FleetName};
use crate::sys;

const NOTE: &str = "owed.json";
/// Of an env file that is made here. Others read it: whoever types `docker compose`.
const MODE: u32 = 0o644;

/// The line to be written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Commit {
    /// In which env file.
    pub(super) file: PathBuf,
    /// For which variable.
    pub(super) variable: String,
    /// The version.
    pub(super) value: String,
}

/// What is owed, and for which roll.
#[derive(Serialize, Deserialize)]
struct Owed {
    commit: Commit,
    /// The digest of its plan.
    plan: String,
}

impl Commit {
    /// Notes that it is owed, before the roll of that plan begins. Should that fail, only a kill in the moment of
    /// success would lose it, so the roll goes on.
    pub(super) fn owe(&self, global: &Global, fleet: &FleetName, plan: &str) {
        let owed = Owed { commit: self.clone(), plan: plan.to_owned() };
        let noted = || -> Result<(), String> {
            let folder = state_root(global).map_err(|problem| problem.text)?.join(fleet.as_str());
            sys::state_dir::create(&folder).map_err(|error| crate::cause::chain(&error))?;
            let text = serde_json::to_vec(&owed).map_err(|error| error.to_string())?;
            sys::files::write_atomic(&folder.join(NOTE), &text, 0o600).map_err(|error| error.to_string())
        };
        if let Err(why) = noted() {
            let (file, variable) = (self.file.display(), &self.variable);
            say(global, &format!("{variable} is written to {file} only if this command is not killed before: {why}"));
        }
    }

    /// The roll has succeeded, or there was nothing to do: the line says so from now on.
    pub(super) async fn carry_out(&self, global: &Global, fleet: &FleetName) -> Result<(), Problem> {
        let Commit { file, variable, value } = self;
        let text = match std::fs::read(file) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| self.failed("it is no UTF-8 text"))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(self.failed(&error.to_string())),
        };
        let new = dotenv::with(&text, variable, value).map_err(|why| self.failed(&why))?;
        let by_environment = std::env::var_os(variable).is_some();
        if new != text {
            sys::files::rewrite(file, new.as_bytes(), MODE).map_err(|error| self.failed(&error.to_string()))?;
            say(global, &format!("{} says {variable}={value} now", file.display()));
            if !by_environment && let Some(other) = version_now(global).await.filter(|version| version != value) {
                say(
                    global,
                    &format!(
                        "but Compose still takes {other} for {variable}; find where that is set, else `docker compose \
                         up -d` goes back to it"
                    ),
                );
            }
        }
        if by_environment {
            say(
                global,
                &format!(
                    "{variable} is also set in the environment, which Compose prefers to {}: unset it there",
                    file.display()
                ),
            );
        }
        forget(global, fleet);
        Ok(())
    }

    fn failed(&self, why: &str) -> Problem {
        let Commit { file, variable, value } = self;
        Problem::new(
            Exit::Failed,
            format!(
                "the fleet is at {value}, but {} could not be made to say so: {why}; write {variable}={value} there, \
                 or correct that and run the same command again: until then `docker compose up -d` goes back",
                file.display()
            ),
        )
    }

    /// Only some components went to the version, so the file does not say so.
    pub(super) fn tell_what_is_missing(&self, global: &Global, only: &[ComponentName]) {
        let Commit { file, variable, value } = self;
        let only: Vec<&str> = only.iter().map(ComponentName::as_str).collect();
        say(
            global,
            &format!(
                "{} was not changed: only {} went to {value}; `baton up --to {value}` takes the rest there and writes \
                 {variable}",
                file.display(),
                only.join(", ")
            ),
        );
    }
}

/// Carries out what is owed for a roll that has succeeded since, where `write` says so; drops what no roll needs any
/// more. Returns the variable and the version of the roll that has succeeded.
pub(super) async fn settle(
    global: &Global,
    fleet: &FleetName,
    write: bool,
) -> Result<Option<(String, String)>, Problem> {
    let Some(owed) = owed(global, fleet) else { return Ok(None) };
    let view = match connect::running(global, fleet).await? {
        Some(mut connection) => connection.view().await?,
        // Without a journal nothing is known to have succeeded.
        None => match offline::view(global, fleet).await {
            Ok(view) => view,
            Err(_) => return Ok(None),
        },
    };
    match due(&view, &owed.plan) {
        Due::Later => Ok(None),
        Due::Never => {
            if write {
                forget(global, fleet);
            }
            Ok(None)
        }
        Due::Now => {
            if write {
                owed.commit.carry_out(global, fleet).await?;
            }
            Ok(Some((owed.commit.variable, owed.commit.value)))
        }
    }
}

/// The same at the end of a verb that carried a roll on.
pub(super) async fn settle_after(
    global: &Global,
    fleet: &FleetName,
    ended: Result<Exit, Problem>,
) -> Result<Exit, Problem> {
    if matches!(ended, Ok(Exit::Done)) {
        settle(global, fleet, true).await?;
    }
    ended
}

#[derive(Debug, PartialEq, Eq)]
enum Due {
    Now,
    /// The roll is not over.
    Later,
    /// It did not come to that, or something else came after it.
    Never,
}

fn due(view: &FleetView, plan: &str) -> Due {
    match &view.roll {
        Some(roll) if roll.plan.0 == plan => match roll.state {
            RollState::Ended(RollResult::Succeeded) => Due::Now,
            RollState::Ended(_) => Due::Never,
            _ => Due::Later,
        },
        _ => Due::Never,
    }
}

fn owed(global: &Global, fleet: &FleetName) -> Option<Owed> {
    let text = std::fs::read(state_root(global).ok()?.join(fleet.as_str()).join(NOTE)).ok()?;
    serde_json::from_slice(&text).ok()
}

fn forget(global: &Global, fleet: &FleetName) {
    if let Ok(root) = state_root(global) {
        // One that stays is found to be settled by the next verb.
        let _ = std::fs::remove_file(root.join(fleet.as_str()).join(NOTE));
    }
}

fn say(global: &Global, text: &str) {
    if global.json {
        output::line(&serde_json::json!({ "event": "message", "text": text }).to_string());
    } else {
        output::line(text);
    }
}
