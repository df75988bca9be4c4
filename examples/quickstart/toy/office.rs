//! The scheduler and the executor: both move jobs one place on.

use std::io;

use super::{LOOK_EVERY, Life, take};
use crate::jobs::names;

/// Puts incoming jobs on the schedule until it is asked to end.
pub async fn schedule(life: &Life) -> io::Result<()> {
    move_on(life, "incoming", "scheduled", "schedule", "scheduler").await
}

/// Hands scheduled jobs out until it is asked to end. Several executors take turns as they come.
pub async fn hand_out(life: &Life) -> io::Result<()> {
    move_on(life, "scheduled", "queue", "dispatch", "executor").await
}

async fn move_on(life: &Life, from: &str, to: &str, what: &str, role: &str) -> io::Result<()> {
    let (from, to) = (life.folder(from), life.folder(to));
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            () = life.ending() => return Ok(()),
        }
        if !life.takes_work() {
            continue;
        }
        for job in names(&from)? {
            if take(&from.join(&job), &to.join(&job))? {
                life.job(what, &job, role)?;
            }
        }
    }
}
