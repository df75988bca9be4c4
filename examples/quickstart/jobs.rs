//! The checker of jobs: judges from the append-only job log and the folders alone what became of every job.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::lines::Lines;

/// The job log in a work folder.
pub const JOB_LOG: &str = "jobs.log";
/// How many jobs are named in a list for people.
const NAMED_MAX: usize = 20;

/// What became of the jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobReport {
    /// Acknowledged to a client, or about to be.
    pub jobs_submitted: u64,
    /// Begun by a worker at least once.
    pub jobs_started: u64,
    /// Ended by a worker at least once.
    pub jobs_finished: u64,
    /// Submitted or started, and not finished.
    pub jobs_lost: u64,
    /// Started or finished more than once.
    pub jobs_run_twice: u64,
    /// Started, though nobody had submitted it.
    pub jobs_unasked: u64,
    /// Lines of the log that could not be read.
    pub lines_damaged: u64,
    /// The longest time from start to finish.
    pub longest_ms: u64,
    /// Some of the lost ones, and where they were last seen.
    pub lost: Vec<String>,
    /// Some of those run twice, and by whom.
    pub twice: Vec<String>,
}

impl JobReport {
    /// Every job was run, once.
    pub fn is_clean(&self) -> bool {
        self.jobs_lost == 0 && self.jobs_run_twice == 0 && self.jobs_unasked == 0 && self.lines_damaged == 0
    }
}

#[derive(Default)]
struct Job {
    submitted: bool,
    started: Vec<(String, u64)>,
    finished: Vec<u64>,
}

/// Reads the log and the folders of a work folder and judges. Jobs that are still under way count as lost: ask when the
/// pipeline has come to rest.
pub fn judge(work: &Path) -> io::Result<JobReport> {
    let log = Lines::read(&work.join(JOB_LOG))?;
    let mut jobs: BTreeMap<&str, Job> = BTreeMap::new();
    for line in &log.lines {
        let job = jobs.entry(line.get("job")).or_default();
        match line.what.as_str() {
            "submit" => job.submitted = true,
            "start" => job.started.push((line.get("worker").to_owned(), line.at)),
            "finish" => job.finished.push(line.at),
            _ => {}
        }
    }
    // A job that was put into a folder without a line in the log must not go unnoticed.
    let places = places(work)?;
    for name in places.keys() {
        jobs.entry(name).or_default();
    }

    let mut report = JobReport { lines_damaged: log.damaged, ..JobReport::default() };
    for (name, job) in &jobs {
        report.jobs_submitted += u64::from(job.submitted);
        report.jobs_started += u64::from(!job.started.is_empty());
        report.jobs_finished += u64::from(!job.finished.is_empty());
        report.jobs_unasked += u64::from(!job.submitted && !job.started.is_empty());
        if let (Some((_, from)), Some(to)) = (job.started.first(), job.finished.last()) {
            report.longest_ms = report.longest_ms.max(to.saturating_sub(*from));
        }
        let place = || places.get(*name).map_or("nowhere", String::as_str);
        if job.finished.is_empty() {
            report.jobs_lost += 1;
            if report.lost.len() < NAMED_MAX {
                let seen = match job.started.first() {
                    Some((worker, _)) => format!("started by {worker}, never finished"),
                    None => "never started".to_owned(),
                };
                report.lost.push(format!("{name}: {seen}; its file is in {}", place()));
            }
        }
        if job.started.len() > 1 || job.finished.len() > 1 {
            report.jobs_run_twice += 1;
            if report.twice.len() < NAMED_MAX {
                let workers: Vec<&str> = job.started.iter().map(|(worker, _)| worker.as_str()).collect();
                report.twice.push(format!("{name}: started by {}", workers.join(" and ")));
            }
        }
    }
    Ok(report)
}

/// Where each job file lies, `done` included.
fn places(work: &Path) -> io::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for folder in ["incoming", "scheduled", "queue", "done"] {
        for name in names(&work.join(folder))? {
            found.insert(name, folder.to_owned());
        }
    }
    for instance in names(&work.join("running"))? {
        for name in names(&work.join("running").join(&instance))? {
            found.insert(name, format!("running/{instance}"));
        }
    }
    Ok(found)
}

/// The names in a folder, in order; hidden ones are files half made and left out. A missing folder is empty.
pub fn names(folder: &Path) -> io::Result<BTreeSet<String>> {
    let mut found = BTreeSet::new();
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !name.starts_with('.') {
            found.insert(name);
        }
    }
    Ok(found)
}
