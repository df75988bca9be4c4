//! The quickstart: a fleet of real processes is rolled from v1 to v2 under load, and nobody notices.
//!
//! ```text
//! cargo run --release --example quickstart
//! ```
//!
//! Two API servers behind Baton's gateway, a scheduler, two executors and four workers with jobs run under one
//! coordinator and four agents, each a process of its own. A load generator sends requests and jobs the whole time; a
//! checker that shares nothing with Baton judges what became of them.
//!
//! The example is everything it starts: called with a verb of Baton (`coordinator`, `agent`, `keeper`, `gateway`, `up`,
//! ...) it is Baton; as `toy`, `load`, `customer` or `check-jobs` it is one of its own
//! tools.

mod crew;
mod customer;
mod jobs;
mod leftovers;
mod lines;
mod load;
mod show;
mod stage;
mod story;
mod toy;
mod verdict;

use std::ffi::OsString;
use std::io::{self, BufRead, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

/// Rolls a small fleet from v1 to v2 under load and shows that nobody noticed.
///
/// Any verb of Baton works here too, as `baton` itself does it: the quickstart is its own coordinator, agents and
/// keepers.
#[derive(Parser)]
#[command(name = "quickstart", args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    tool: Option<Tool>,
    #[command(flatten)]
    show: show::ShowOptions,
}

#[derive(Subcommand)]
enum Tool {
    /// One part of the fleet that is rolled
    Toy(toy::ToyOptions),
    /// The load generator by itself; phases by lines on standard input: `mark NAME`, `stop`
    Load(LoadArguments),
    /// The load generator as a service beside a fleet: tells how it stands as it goes, and a verdict at the end
    Customer(customer::CustomerOptions),
    /// The checker of jobs by itself: exit code 1 when one was lost or run twice
    CheckJobs {
        /// The folder of the job pipeline
        #[arg(long)]
        work: PathBuf,
        /// Wait at most so long for jobs that are still under way
        #[arg(long, default_value_t = 0, value_name = "SECONDS")]
        wait: u64,
    },
}

#[derive(clap::Args)]
struct LoadArguments {
    /// Where to send
    #[arg(long)]
    to: SocketAddr,
    /// How many requests a second
    #[arg(long, default_value_t = 500)]
    requests_per_second: u32,
    /// The same seed asks for the same things
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// One request in so many submits a job; 0: none
    #[arg(long, default_value_t = 60)]
    one_job_in: u64,
    /// One request in so many takes 300 ms at the server; 0: none
    #[arg(long, default_value_t = 250)]
    one_slow_in: u64,
    /// Stop after so many seconds instead of at `stop` or the end of standard input
    #[arg(long)]
    seconds: Option<u64>,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let first = arguments.get(1).and_then(|first| first.to_str()).unwrap_or("");
    if !first.is_empty()
        && !first.starts_with('-')
        && !["toy", "load", "customer", "check-jobs", "help"].contains(&first)
    {
        return baton_cli(arguments);
    }
    let Arguments { tool, show } = Arguments::parse_from(arguments);
    match tool {
        None => show::run(show),
        Some(Tool::Toy(options)) => toy::run(options),
        Some(Tool::Load(options)) => told("load", send_load(options)),
        Some(Tool::Customer(options)) => told("customer", customer::run(options)),
        Some(Tool::CheckJobs { work, wait }) => told("check-jobs", check_jobs(&work, Duration::from_secs(wait))),
    }
}

/// Baton itself.
fn baton_cli(arguments: Vec<OsString>) -> ExitCode {
    baton::cli::run(arguments)
}

fn told(tool: &str, result: io::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        eprintln!("{tool}: {error}");
        ExitCode::from(2)
    })
}

/// Prints its report as one line of JSON; exit code 1 when a request failed.
fn send_load(options: LoadArguments) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(async move {
        let load = load::Load::start(
            load::LoadOptions {
                to: options.to,
                requests_per_second: options.requests_per_second,
                seed: options.seed,
                one_job_in: options.one_job_in,
                one_slow_in: options.one_slow_in,
            },
            "start",
        )?;
        if let Some(seconds) = options.seconds {
            tokio::time::sleep(Duration::from_secs(seconds)).await;
        } else {
            let mut words = words_of_standard_input();
            while let Some(line) = words.recv().await {
                match line.split_once(' ') {
                    Some(("mark", phase)) => load.mark(phase),
                    _ if line == "stop" => break,
                    _ => {
                        return Err(io::Error::new(
                            io::ErrorKind::InvalidInput,
                            format!("not a word of mine: {line:?}"),
                        ));
                    }
                }
            }
        }
        Ok(load.stop().await)
    })?;
    // A thread may still wait for standard input; nobody waits for it.
    runtime.shutdown_background();
    writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(if report.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Reads lines on a thread of its own: reading standard input cannot be called off.
fn words_of_standard_input() -> tokio::sync::mpsc::Receiver<String> {
    let (tell, told) = tokio::sync::mpsc::channel(16);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if tell.blocking_send(line).is_err() {
                return;
            }
        }
    });
    told
}

/// Prints its report as one line of JSON.
fn check_jobs(work: &std::path::Path, wait: Duration) -> io::Result<ExitCode> {
    let begun = Instant::now();
    let report = loop {
        let report = jobs::judge(work)?;
        if report.jobs_lost == 0 || begun.elapsed() >= wait {
            break report;
        }
        std::thread::sleep(Duration::from_millis(100));
    };
    writeln!(io::stdout(), "{}", serde_json::to_string(&report)?)?;
    Ok(if report.is_clean() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
