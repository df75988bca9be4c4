//! Benchmarks: Baton beside its peer and its limit, in the same run. Each prints a small table; `docs/benchmarks.md` has
//! the figures.
//!
//! ```text
//! cargo run --release --example bench -- noop       # no-op rolls over gRPC against bare round trips and syncs
//! cargo run --release --example bench -- relay      # six processes, two at a time, against bare spawn and kill
//! cargo run --release --example bench -- gateway    # direct, through the gateway, through HAProxy
//! cargo run --release --example bench -- idle       # memory of idle sessions and keepers, answer time of status
//! cargo run --release --example bench -- docker     # a stack in containers: Compose, Swarm, Baton, and by hand
//! ```
//!
//! As in the quickstart, any verb of Baton works here too: what a benchmark starts is this program again.

mod docker;
mod docker_growth;
mod docker_jobs;
mod docker_limit;
mod docker_load;
mod docker_peers;
mod docker_site;
mod docker_toy;
mod gateway;
mod idle;
mod noop;
mod relay;
mod rig;
mod roll;
mod trips;

use std::ffi::OsString;
use std::process::ExitCode;

use rig::Outcome;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    // In a container it is Baton where it is called so.
    if arguments.first().is_some_and(|name| name.to_string_lossy().ends_with("/baton")) {
        return baton::cli::run(arguments);
    }
    let verb = arguments.get(1).and_then(|verb| verb.to_str()).unwrap_or_default().to_owned();
    let rest: Vec<String> =
        arguments.iter().skip(2).filter_map(|argument| argument.to_str().map(str::to_owned)).collect();
    let outcome: Outcome<()> = match verb.as_str() {
        "noop" => noop::run(&rest),
        "relay" => relay::run(),
        "toy" => relay::toy(),
        // `gateway` with arguments is the verb of Baton that the benchmark starts.
        "gateway" if rest.is_empty() => gateway::run(),
        "backend" => gateway::backend(rest.first().map_or("", String::as_str)),
        "idle" => idle::run(),
        "docker" => docker::run(&rest, true),
        "docker-stack" => docker::run(&rest, false),
        "docker-jobs" => docker::jobs(),
        "docker-growth" => docker::growth(&rest),
        "box" => docker_toy::run(&rest),
        "box-health" => docker_toy::health(),
        _ => return baton::cli::run(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench {verb}: {error}");
            ExitCode::FAILURE
        }
    }
}
