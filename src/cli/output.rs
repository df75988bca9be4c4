//! What goes to stdout and stderr.

use std::io::{IsTerminal, Write};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use super::args::{Global, Verb};
use super::exit::Problem;

/// Logs go to stderr. Daemons tell what they do; verbs are quiet unless asked (`BATON_LOG=info`), but for what a person
/// has to know though it fails nothing (target `baton::tell`).
pub(super) fn init_logging(verb: &Verb) {
    let daemon = matches!(verb, Verb::Coordinator(_) | Verb::Agent(_) | Verb::Gateway(_));
    log_from(if daemon { "baton=info" } else { "off,baton::tell=warn" });
}

/// The same for an agent inside a component's container, whose output is the program's.
pub(super) fn init_component_logging() {
    log_from("baton=warn");
}

fn log_from(default: &str) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("BATON_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default));
    // Below a warning the engine's client tells every body that it sends and gets, environments included: never,
    // whatever the variable says.
    let quiet = tracing_subscriber::filter::filter_fn(|about| {
        !about.target().starts_with("bollard") || *about.level() <= tracing::Level::WARN
    });
    let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    // A second call (the quickstart's own verbs in one process) keeps the first one.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours).with_target(false);
    let _ = tracing_subscriber::registry().with(filter).with(quiet).with(lines).try_init();
}

/// Tells what went wrong.
pub(super) fn problem(global: &Global, problem: &Problem) {
    if global.json {
        let line = serde_json::json!({ "event": "error", "message": problem.text, "exit_code": problem.exit.code() });
        println!("{line}");
    }
    eprintln!("error: {}", problem.text);
}

/// Prints a line; a reader that has gone away is no failure of ours.
pub(super) fn line(text: &str) {
    let mut out = std::io::stdout().lock();
    if writeln!(out, "{text}").is_err() {
        std::process::exit(0);
    }
}

/// Whether people are looking.
pub(super) fn for_people(global: &Global) -> bool {
    !global.json && std::io::stdout().is_terminal()
}
