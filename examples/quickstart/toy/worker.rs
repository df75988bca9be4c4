//! The worker: takes jobs as long as it has hands free, and finishes what it has taken.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;

use super::{LOOK_EVERY, Life, Stage, take};
use crate::jobs::names;

/// A job sleeps in pieces of this length and computes a little after each.
const PIECE: Duration = Duration::from_millis(50);
/// How much it computes then: some 10 µs.
const BYTES_HASHED: usize = 16 * 1024;

/// Runs jobs until it is asked to end and the last one has ended.
pub async fn work(life: &'static Life) -> io::Result<()> {
    let queue = life.folder("queue");
    let mine = life.folder("running").join(&life.options.instance);
    let done = life.folder("done");
    std::fs::create_dir_all(&mine)?;
    let mut running = JoinSet::new();
    let mut idle_told = false;
    loop {
        if life.takes_work() {
            idle_told = false;
            for job in names(&queue)? {
                if running.len() >= life.options.jobs_at_once {
                    break;
                }
                if take(&queue.join(&job), &mine.join(&job))? {
                    life.in_flight.fetch_add(1, Ordering::Relaxed);
                    life.job("start", &job, "worker")?;
                    running.spawn(run(life, job, mine.clone(), done.clone()));
                }
            }
        } else if running.is_empty() && life.stage() != Stage::Booting {
            if !idle_told {
                life.event("idle", &[])?;
                idle_told = true;
            }
            if life.stage() == Stage::Ending {
                // Empty by now; where it is not, what is in it is lost and must stay to be found.
                std::fs::remove_dir(&mine).ok();
                return Ok(());
            }
        }
        tokio::select! {
            Some(ended) = running.join_next() => ended.map_err(io::Error::other)??,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
    }
}

async fn run(life: &'static Life, job: String, mine: PathBuf, done: PathBuf) -> io::Result<()> {
    let mut left = length(&mine.join(&job))?;
    let mut page = vec![0u8; BYTES_HASHED];
    while !left.is_zero() {
        let piece = left.min(PIECE);
        tokio::time::sleep(piece).await;
        left -= piece;
        let mut hasher = DefaultHasher::new();
        page.hash(&mut hasher);
        page[..8].copy_from_slice(&hasher.finish().to_le_bytes());
    }
    life.job("finish", &job, "worker")?;
    std::fs::rename(mine.join(&job), done.join(&job))?;
    life.in_flight.fetch_sub(1, Ordering::Relaxed);
    Ok(())
}

fn length(file: &Path) -> io::Result<Duration> {
    let text = std::fs::read_to_string(file)?;
    let ms = text.trim().strip_prefix("ms=").and_then(|ms| ms.parse().ok());
    ms.map(Duration::from_millis).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidData, format!("not a job: {} holds {text:?}", file.display()))
    })
}
