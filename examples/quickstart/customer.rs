//! The load generator as a service beside a fleet in containers (`docker-compose.yml`): it waits for the front door,
//! asks and orders jobs, says every few seconds how it stands, and gives its verdict when it is stopped.
//!
//! It ends by itself after some time, so that a fleet that somebody left running is not asked for ever; then it stays,
//! as a service does, until it is told to go.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::signal::unix::{SignalKind, signal};

use super::jobs::{self, JobReport};
use super::load::{Load, LoadOptions, LoadReport};

/// Between two knocks at the front door before the first request that counts.
const KNOCK_EVERY: Duration = Duration::from_millis(100);
/// For so long every knock has to be answered: where several are behind the door, the last one may still be booting.
const OPEN_FOR: Duration = Duration::from_secs(3);
/// How long one answer at the door may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Between two looks at jobs that are still on their way.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Whom it asks, and how much.
#[derive(clap::Args)]
pub struct CustomerOptions {
    /// The front door, HOST:PORT
    #[arg(long)]
    to: String,
    /// The folder of the job pipeline, where it is seen what becomes of jobs
    #[arg(long)]
    work: PathBuf,
    /// How many requests a second
    #[arg(long, default_value_t = 100)]
    requests_per_second: u32,
    /// One request in so many submits a job
    #[arg(long, default_value_t = 60)]
    one_job_in: u64,
    /// Ask nothing more after so many seconds
    #[arg(long, default_value_t = 900)]
    seconds: u64,
    /// Say how it stands every so many seconds
    #[arg(long, default_value_t = 5)]
    every: u64,
    /// How long jobs may take that are on their way when it stops asking, in seconds
    #[arg(long, default_value_t = 20)]
    patience: u64,
}

/// Runs until it is told to end. Exit code 1: something was lost.
pub fn run(options: CustomerOptions) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve_time(&options))
}

async fn serve_time(options: &CustomerOptions) -> io::Result<ExitCode> {
    // First: PID 1 of a container has no other handler.
    let mut term = signal(SignalKind::terminate())?;
    let to = tokio::select! {
        to = door(&options.to) => to,
        _ = term.recv() => return Ok(ExitCode::SUCCESS),
    };
    let before = jobs::judge(&options.work)?;
    println!("{} is open: {} requests a second from now on", options.to, options.requests_per_second);
    let load = Load::start(
        LoadOptions {
            to,
            requests_per_second: options.requests_per_second,
            seed: 1,
            one_job_in: options.one_job_in,
            one_slow_in: 250,
        },
        "all",
    )?;
    let begun = Instant::now();
    let last = Duration::from_secs(options.seconds);
    let is_told = loop {
        let wait = Duration::from_secs(options.every).min(last.saturating_sub(begun.elapsed()));
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            _ = term.recv() => break true,
        }
        if begun.elapsed() >= last {
            break false;
        }
        println!("{:>4} s: {}", begun.elapsed().as_secs(), so_far(&load.so_far(), &jobs::judge(&options.work)?));
    };
    let report = load.stop().await;
    let jobs = settled(&options.work, Duration::from_secs(options.patience)).await?;
    let is_clean = report.failed == 0 && jobs.is_clean();
    println!("{}", verdict(&report, &jobs, before.jobs_submitted));
    if !is_told {
        term.recv().await;
    }
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn so_far(report: &LoadReport, jobs: &JobReport) -> String {
    format!(
        "{}; {} jobs, {} done, {} on their way",
        asked(report),
        jobs.jobs_submitted,
        jobs.jobs_finished,
        jobs.jobs_lost
    )
}

fn asked(report: &LoadReport) -> String {
    let reasons: Vec<String> = report.reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    let why = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    format!("{} requests, {} failed{why}", report.requests, report.failed)
}

/// What went wrong, a line each, and the sums as the last line.
fn verdict(report: &LoadReport, jobs: &JobReport, before: u64) -> String {
    let submitted = jobs.jobs_submitted - before;
    let mut text = String::new();
    let failures = report.first_failures.iter();
    let failures = failures.map(|failed| format!("after {} ms {}: {}", failed.due_ms, failed.what, failed.why));
    for line in failures.chain(jobs.lost.iter().cloned()).chain(jobs.twice.iter().cloned()) {
        text.push_str(&format!("  {line}\n"));
    }
    text.push_str(&format!(
        "in the end: {}; {submitted} jobs, {} lost, {} run twice",
        asked(report),
        jobs.jobs_lost,
        jobs.jobs_run_twice
    ));
    text
}

/// The address behind which every knock has been answered with 200 for some time.
async fn door(name: &str) -> SocketAddr {
    println!("waiting for {name}");
    let mut open: Option<(SocketAddr, Instant)> = None;
    loop {
        let address = match open {
            Some((address, _)) => Some(address),
            None => tokio::net::lookup_host(name).await.ok().and_then(|mut found| found.next()),
        };
        open = match address {
            Some(address) if matches!(tokio::time::timeout(ANSWER_MAX, is_open(address)).await, Ok(true)) => {
                Some((address, open.map_or_else(Instant::now, |(_, since)| since)))
            }
            _ => None,
        };
        if let Some((address, _)) = open.filter(|(_, since)| since.elapsed() >= OPEN_FOR) {
            return address;
        }
        tokio::time::sleep(KNOCK_EVERY).await;
    }
}

async fn is_open(address: SocketAddr) -> bool {
    let asked = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: door\r\nConnection: close\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        io::Result::Ok(answer.starts_with(b"HTTP/1.1 200"))
    };
    asked.await.unwrap_or(false)
}

/// What became of the jobs, once none is on its way any more or patience is at its end.
async fn settled(work: &Path, patience: Duration) -> io::Result<JobReport> {
    let begun = Instant::now();
    loop {
        let report = jobs::judge(work)?;
        if report.jobs_lost == 0 || begun.elapsed() >= patience {
            return Ok(report);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
