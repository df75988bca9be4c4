//! What the API server answers.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hyper::{Method, StatusCode};

use super::Life;
use super::http::{Answer, say};
use crate::lines::now_ms;

/// The longest wait and the longest job that a client may ask for.
const ASKED_MS_MAX: u64 = 60_000;

/// Jobs that this process has taken.
static JOBS_TAKEN: AtomicU64 = AtomicU64::new(0);

/// Answers one request.
pub async fn answer(method: &Method, path: &str, query: &str, life: &Life) -> Answer {
    let asked_ms = number(query, "ms").unwrap_or(0).min(ASKED_MS_MAX);
    match (method, path) {
        (&Method::GET, "/") => about(life),
        (&Method::GET, "/slow") => {
            tokio::time::sleep(Duration::from_millis(asked_ms)).await;
            about(life)
        }
        (&Method::GET, "/status") => {
            let code = number(query, "code").and_then(|code| u16::try_from(code).ok());
            match code.and_then(|code| StatusCode::from_u16(code).ok()) {
                Some(status) => say(status, "as asked"),
                None => say(StatusCode::BAD_REQUEST, "no such status"),
            }
        }
        (&Method::POST, "/jobs") => match take_job(asked_ms, life) {
            Ok(job) => (StatusCode::ACCEPTED, serde_json::json!({ "job": job }).to_string()),
            Err(error) => say(StatusCode::INTERNAL_SERVER_ERROR, &format!("the job was not taken: {error}")),
        },
        _ => say(StatusCode::NOT_FOUND, "no such path"),
    }
}

fn about(life: &Life) -> Answer {
    let about = serde_json::json!({
        "version": life.options.version,
        "instance": life.options.instance,
        "pid": std::process::id(),
    });
    (StatusCode::OK, about.to_string())
}

/// Takes a job: its file under a hidden name, its line in the log, and only then its place in the pipeline.
fn take_job(ms: u64, life: &Life) -> io::Result<String> {
    let number = JOBS_TAKEN.fetch_add(1, Ordering::Relaxed);
    // Sorts by age, so that jobs are served in turn.
    let job = format!("{:012}-{}-{number}", now_ms(), life.options.instance);
    let incoming = life.folder("incoming");
    let hidden = incoming.join(format!(".{job}"));
    std::fs::write(&hidden, format!("ms={ms}\n"))?;
    life.job("submit", &job, "api")?;
    std::fs::rename(&hidden, incoming.join(&job))?;
    Ok(job)
}

fn number(query: &str, key: &str) -> Option<u64> {
    query.split('&').filter_map(|pair| pair.split_once('=')).find(|(name, _)| *name == key)?.1.parse().ok()
}
