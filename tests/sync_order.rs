//! What leaves a daemon, leaves after the sync of its record: seen by a tracer from outside.

mod support;

use std::collections::BTreeSet;

use support::daemons::{Daemons, insecure};
use support::trace::{self, Call, synced_before};

/// A program that makes no calls while it waits: the tracer follows whatever the agent starts.
const QUIET: &str = r#"#!/bin/sh
sleep 100000 & inner=$!
trap 'kill $inner; exit 0' TERM
wait
"#;

/// All places of `pattern` in `text`, and what follows each.
fn after<'a>(text: &'a str, pattern: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    text.match_indices(pattern).map(move |(at, _)| (at, &text[at + pattern.len()..]))
}

/// Up to the next quote, as strace escapes it.
fn word(text: &str) -> &str {
    text.split("\\\"").next().unwrap_or_default()
}

/// The number that the text begins with.
fn number(text: &str) -> &str {
    text.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default()
}

/// Ids of commands in frames of one call.
fn commands(call: &Call) -> Vec<String> {
    after(&call.text, r#"{\"command\":{\"command\":{\"id\":\""#).map(|(_, rest)| word(rest).to_owned()).collect()
}

/// Command and step of every outcome told in one call.
fn outcomes(call: &Call) -> Vec<(String, String)> {
    let told = after(&call.text, r#"{\"outcome\":{\"command\":\""#);
    told.filter_map(|(_, rest)| {
        // A frame that was cut in two must not be read on in the next one.
        let own = rest.split(r#"{\"outcome\""#).next()?;
        let (_, step) = own.split_once(r#"\"step\":"#)?;
        Some((word(rest).to_owned(), number(step).to_owned()))
    })
    .collect()
}

/// Command and step of everything acknowledged in one call.
fn acknowledged(call: &Call) -> Vec<(String, String)> {
    let Some((_, list)) = call.text.split_once(r#"{\"acknowledge\":["#) else { return vec![] };
    let list = list.split("]]").next().unwrap_or_default();
    after(list, r#"[\""#)
        .filter_map(|(_, rest)| {
            let id = word(rest);
            Some((id.to_owned(), number(rest[id.len()..].strip_prefix(r#"\","#)?).to_owned()))
        })
        .collect()
}

/// Whether the bytes hold the fact that this step of this command ended: it names roll and attempt by themselves.
fn holds_step_ended(text: &str, command: &str, step: &str) -> bool {
    let mut parts = command.split('/');
    let (roll, attempt) = (parts.next().unwrap_or_default(), parts.next_back().unwrap_or_default());
    let fact = format!(r#"\"record\":\"step-ended\",\"step\":{step},\"attempt\":{attempt},"#);
    after(text, &fact).any(|(at, _)| {
        // The row's head stands right in front of its payload.
        let head: String = text[..at].chars().rev().take(160).collect::<Vec<_>>().into_iter().rev().collect();
        head.contains(roll)
    })
}

fn check(what: &str, found: &BTreeSet<String>, least: usize, problems: &[String]) {
    assert!(problems.is_empty(), "{what}: {} of {}: {problems:#?}", problems.len(), found.len());
    assert!(found.len() >= least, "{what}: only {} were seen: {found:?}", found.len());
    println!("{what}: {} seen, each after the sync of its record", found.len());
}

/// Judges everything of one kind that left through a socket.
fn judge<T>(
    calls: &[Call],
    log: &str,
    parts: impl Fn(&Call) -> Vec<T>,
    name: impl Fn(&T) -> String,
    is_record: impl Fn(&str, &T) -> bool,
) -> (BTreeSet<String>, Vec<String>) {
    let (mut found, mut problems) = (BTreeSet::new(), vec![]);
    for call in calls.iter().filter(|call| call.is_to_socket()) {
        for part in parts(call) {
            // Sent again after a cut, it is on disk already: the first time counts.
            if !found.insert(name(&part)) {
                continue;
            }
            if let Err(why) = synced_before(calls, log, |text| is_record(text, &part), call.began) {
                problems.push(format!("{}: {why}", name(&part)));
            }
        }
    }
    (found, problems)
}

#[test]
fn nothing_leaves_before_the_sync_of_its_record() {
    if !trace::works() {
        assert!(std::env::var_os("BATON_TEST_NO_SKIP").is_none(), "strace is not here or may not trace");
        eprintln!("SKIPPED: strace is not here or may not trace");
        return;
    }
    let mut daemons = Daemons::new("syncs", insecure());
    daemons.fleet.release("v1", QUIET).release("v2", QUIET);
    let component = "{R}\n    ready: { exec: [\"true\"] }\n    update: { monitor: 300ms }";
    daemons
        .fleet
        .manifest("", &format!("  scheduler:\n    {component}\n  worker:\n    {component}\n    replicas: 3\n"));
    let dir = daemons.fleet.stage.dir().to_owned();
    daemons.tracer = Some(Box::new(move |name| trace::strace(&dir.join(format!("{name}.trace")))));
    daemons.coordinator("127.0.0.1:0", &insecure(), &[]);
    let to = daemons.address.clone();
    daemons.agent("a", &to, "127.0.0.1", &insecure(), &["scheduler", "worker"]);
    daemons.wait_agents(1);
    daemons.expect(&["up", "--to", "v1", "--yes"], 0);
    daemons.expect(&["up", "--to", "v2", "--yes"], 0);
    let calls = trace::read(&daemons.fleet.stage.path("coordinator.trace"));
    let log = "/journal.db-wal";
    let (found, problems) = judge(&calls, log, commands, String::clone, |text, id| {
        text.contains(r#"\"record\":\"list-began\""#) && text.contains(&format!(r#"\"command\":{{\"id\":\"{id}\""#))
    });
    check("commands", &found, 8, &problems);
    let name = |(command, step): &(String, String)| format!("{command} step {step}");
    let (found, problems) =
        judge(&calls, log, acknowledged, name, |text, (command, step)| holds_step_ended(text, command, step));
    check("acknowledgements", &found, 8, &problems);

    let calls = trace::read(&daemons.fleet.stage.path("agent-a.trace"));
    let log = "/ledger.db-wal";
    let (found, problems) = judge(&calls, log, outcomes, name, |text, (command, step)| {
        text.contains(&format!(r#"\"record\":\"ended\",\"command\":\"{command}\",\"step\":{step},"#))
    });
    check("outcomes", &found, 30, &problems);
}
