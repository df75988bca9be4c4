//! News and summaries in words, for people and plain logs.

use std::time::Duration;

use crate::engine::{News, ResultWord, RollResult, RollSummary};
use crate::model::{DrainReport, SlotName};

fn span(span: Duration) -> String {
    let rounded = Duration::from_millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX) / 100 * 100);
    if rounded.is_zero() { "0s".to_owned() } else { humantime::format_duration(rounded).to_string() }
}

/// How a drain or stop went.
fn drained(report: &DrainReport) -> String {
    let mut parts = vec![format!("after {}", span(report.took))];
    if let Some(exit) = report.exited {
        parts.push(exit.to_string());
    }
    if let Some(left) = report.left.filter(|left| *left > 0) {
        parts.push(format!("{left} still in flight"));
    }
    if report.killed {
        let fix = "in a container its main process needs a handler for the stop signal, or the service `init: true`";
        parts.push(format!("killed at the end of its grace ({fix})"));
    }
    if report.closed > 0 {
        parts.push(format!("{} long connections closed", report.closed));
    }
    if report.cut > 0 {
        parts.push(format!("{} requests cut", report.cut));
    }
    parts.join(", ")
}

/// How a roll ended.
fn ending(result: &RollResult) -> String {
    match result {
        RollResult::Succeeded => "succeeded".to_owned(),
        RollResult::RolledBack { why, .. } => format!("failed and is taken back: {why}"),
        RollResult::Failed { why } => format!("failed: {why}"),
        RollResult::Aborted { actor } => format!("aborted by {actor}"),
        RollResult::Superseded { actor } => format!("superseded by {actor}"),
    }
}

/// Whom a roll that succeeded went on without: the reason of one that failed names them itself.
fn without(result: &RollResult, given_up: &[SlotName]) -> String {
    let names: Vec<String> = given_up.iter().map(SlotName::to_string).collect();
    match result {
        RollResult::Succeeded if !names.is_empty() => format!(" without {}", names.join(", ")),
        _ => String::new(),
    }
}

/// One line for a piece of news; `None`: not worth a line of a log.
pub(super) fn line(news: &News) -> Option<String> {
    Some(match news {
        News::RollBegan { number, kind, version, parent, steps, .. } => {
            let version = version.as_ref().map(|version| format!(" to {version}")).unwrap_or_default();
            let back = if parent.is_some() { ", taking the roll before it back" } else { "" };
            format!("roll {number}: {kind}{version}, {steps} steps{back}")
        }
        News::StepBegan { slot, steps, .. } => {
            let names: Vec<_> = steps
                .iter()
                .map(|step| match &step.instance {
                    Some(instance) => format!("{} {instance}", step.verb),
                    None => step.verb.clone(),
                })
                .collect();
            let whose = slot.as_ref().map(|slot| format!("{slot}: ")).unwrap_or_default();
            format!("  {whose}begins {}", names.join(", "))
        }
        News::StepEnded { step, slot, result, message, log, drain, .. } => {
            let whose = match (&step.instance, slot) {
                (Some(instance), _) => instance.to_string(),
                (None, Some(slot)) => slot.to_string(),
                (None, None) => String::new(),
            };
            let how = match result {
                ResultWord::Done => drain.as_ref().map(drained).unwrap_or_else(|| "done".to_owned()),
                ResultWord::AlreadySo => "already so".to_owned(),
                ResultWord::SettledDone => "settled as done".to_owned(),
                ResultWord::Failed => format!("FAILED: {}", message.clone().unwrap_or_default()),
                ResultWord::Unknown => format!("unknown: {}", message.clone().unwrap_or_default()),
                ResultWord::Skipped | ResultWord::Recalled => return None,
            };
            let mut text = format!("  {whose}: {} {how}", step.verb);
            for line in log {
                text.push_str("\n    | ");
                text.push_str(line);
            }
            text
        }
        News::Asked { request, actor, .. } => format!("  {actor} asks: {request:?}").to_lowercase(),
        News::FailureActed { why, .. } => format!("  {why}"),
        News::NoWayBack { why, .. } => format!("  no way back: {why}"),
        News::RollEnded { number, result, given_up, .. } => {
            format!("roll {number} {}{}", ending(result), without(result, given_up))
        }
        News::Hold { .. } | News::HoldEnded { .. } | News::Progress { .. } | News::TermBegan { .. } => return None,
        News::Agent { .. } => return None,
        // An open list: an older verb watching a newer coordinator says less, not wrong things.
        #[allow(unreachable_patterns, reason = "the list is open to other crates and closed to this one")]
        _ => return None,
    })
}

/// Whether a person who sees the bars wants the line beside them.
pub(super) fn is_milestone(news: &News) -> bool {
    match news {
        News::RollBegan { .. } | News::RollEnded { .. } | News::FailureActed { .. } | News::NoWayBack { .. } => true,
        News::StepEnded { result, drain, .. } => {
            matches!(result, ResultWord::Failed | ResultWord::Unknown)
                || drain.as_ref().is_some_and(|report| report.killed)
        }
        _ => false,
    }
}

/// A roll of the past.
pub(super) fn summary(roll: &RollSummary) -> Vec<String> {
    let version = roll.version.as_ref().map(|version| format!(" to {version}")).unwrap_or_default();
    let took = roll.ended.map(|ended| format!(", {}", span(ended.since(roll.began)))).unwrap_or_default();
    let how = roll.result.as_ref().map_or_else(
        || "unfinished".to_owned(),
        |result| format!("{}{}", ending(result), without(result, &roll.given_up)),
    );
    let mut lines = vec![format!(
        "roll {}: {}{version} by {}: {how} ({} of {} steps{took})",
        roll.number, roll.kind, roll.actor, roll.steps_done, roll.steps_total
    )];
    if !roll.reason.is_empty() {
        lines.push(format!("  because: {}", roll.reason));
    }
    for failure in &roll.failures {
        let whose = match (&failure.instance, &failure.slot) {
            (Some(instance), _) => instance.to_string(),
            (None, Some(slot)) => slot.to_string(),
            (None, None) => String::new(),
        };
        lines.push(format!("  {whose}: {} failed ({}): {}", failure.verb, failure.kind, failure.message));
        lines.extend(failure.log.iter().map(|line| format!("    | {line}")));
    }
    for drain in roll.drains.iter().filter(|drain| drain.report.killed || drain.report.cut > 0) {
        lines.push(format!("  {}: {} {}", drain.instance, drain.verb, drained(&drain.report)));
    }
    lines
}
