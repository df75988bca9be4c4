//! Keepers and the processes that they keep, for real: this program runs itself as keeper and as the programs kept.

#[path = "keeper/cases.rs"]
mod cases;
#[path = "keeper/house.rs"]
mod house;
#[path = "keeper/ports.rs"]
mod ports;
#[path = "keeper/toys.rs"]
mod toys;

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use baton::runtime::process::{KeeperOptions, keeper_main};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["keeper", "--dir", folder] => return keeper_main(Path::new(folder), &options()).into(),
        ["gateway", "--dir", folder] => return cases::stand_in_for_a_gateway(folder).into(),
        ["toy", name, ..] => return toys::run(name, &args[2..]).into(),
        _ => {}
    }
    let tests: Vec<(&str, fn())> = cases::all().into_iter().chain(ports::all()).collect();
    if words.contains(&"--list") {
        tests.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&&str> = words.iter().filter(|word| !word.starts_with('-')).collect();
    let exact = words.contains(&"--exact");
    let chosen = |name: &str| {
        let fits = |filter: &&str| if exact { name == *filter } else { name.contains(*filter) };
        filters.is_empty() || filters.iter().any(|filter| fits(filter))
    };
    let mut failed = Vec::new();
    let mut run = 0;
    for (name, test) in tests.into_iter().filter(|(name, _)| chosen(name)) {
        run += 1;
        let begun = std::time::Instant::now();
        let ok = std::panic::catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {} ({} ms)", if ok { "ok" } else { "FAILED" }, begun.elapsed().as_millis());
        if !ok {
            failed.push(name);
        }
    }
    println!("\ntest result: {run} run, {} failed {failed:?}", failed.len());
    if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A keeper of these tests may be told to be quicker than a real one.
fn options() -> KeeperOptions {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let mut options = KeeperOptions { idle: Duration::from_millis(500), ..KeeperOptions::default() };
    options.log_limit = number("TEST_LOG_LIMIT").unwrap_or(options.log_limit);
    options
}
