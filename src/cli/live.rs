//! The live view: a line per slot for people, plain lines without a terminal, JSON for scripts.

use std::collections::BTreeMap;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::Exit;
use super::args::Global;
use super::{output, words};
use crate::engine::{FleetView, HoldReason, News, SlotView};
use crate::model::SlotName;
use crate::proto::v1::WatchEvent;

/// How a roll is shown.
pub(super) enum Live {
    /// Bars on a terminal.
    Bars(Box<Bars>),
    /// A line for each piece of news.
    Lines {
        /// Holds told, so that each is told once.
        told: Vec<HoldReason>,
    },
    /// One event a line.
    Json,
}

/// One bar for each slot, one line for what waits.
pub(super) struct Bars {
    all: MultiProgress,
    slots: BTreeMap<SlotName, ProgressBar>,
    footer: ProgressBar,
    colours: bool,
}

fn short(span: Duration) -> String {
    let seconds = span.as_secs();
    if seconds >= 60 {
        format!("{}m{:02}s", seconds / 60, seconds % 60)
    } else {
        format!("{}.{}s", seconds, span.subsec_millis() / 100)
    }
}

impl Live {
    pub(super) fn new(global: &Global) -> Self {
        if global.json {
            Live::Json
        } else if output::for_people(global) {
            let all = MultiProgress::with_draw_target(ProgressDrawTarget::stdout_with_hz(10));
            let footer = all.add(ProgressBar::new_spinner());
            footer.set_style(plain_style("{wide_msg}"));
            let colours = std::env::var_os("NO_COLOR").is_none();
            Live::Bars(Box::new(Bars { all, slots: BTreeMap::new(), footer, colours }))
        } else {
            Live::Lines { told: vec![] }
        }
    }

    /// A sentence of our own.
    pub(super) fn say(&mut self, text: &str) {
        match self {
            Live::Bars(bars) => {
                let _ = bars.all.println(text);
            }
            Live::Lines { .. } => output::line(text),
            Live::Json => output::line(&serde_json::json!({ "event": "message", "text": text }).to_string()),
        }
    }

    /// A piece of news.
    pub(super) fn news(&mut self, event: &WatchEvent) {
        match self {
            Live::Json => {
                let Ok(serde_json::Value::Object(mut news)) = serde_json::from_slice(&event.news_json) else { return };
                news.insert("sequence".into(), event.sequence.into());
                news.insert("wall_ms".into(), event.wall_ms.into());
                output::line(&serde_json::Value::Object(news).to_string());
            }
            Live::Lines { .. } => {
                if let Ok(news) = serde_json::from_slice::<News>(&event.news_json)
                    && let Some(text) = words::line(&news)
                {
                    output::line(&text);
                }
            }
            Live::Bars(bars) => {
                if let Ok(news) = serde_json::from_slice::<News>(&event.news_json)
                    && words::is_milestone(&news)
                    && let Some(text) = words::line(&news)
                {
                    let _ = bars.all.println(text);
                }
            }
        }
    }

    /// The state of everything.
    pub(super) fn view(&mut self, view: &FleetView) {
        match self {
            Live::Json => {}
            Live::Lines { told } => {
                for hold in &view.holds {
                    // Places and floors come and go all the time; they are for `status`.
                    let passing = matches!(hold.reason, HoldReason::Parallelism { .. } | HoldReason::Floor { .. });
                    if !passing && !told.contains(&hold.reason) {
                        told.push(hold.reason.clone());
                        output::line(&format!("waiting: {}; until {}", hold.text, hold.until));
                    }
                }
                told.retain(|reason| view.holds.iter().any(|hold| hold.reason == *reason));
            }
            Live::Bars(bars) => bars.view(view),
        }
    }

    /// The end.
    pub(super) fn end(&mut self, view: &FleetView, exit: Exit, text: &str) {
        let numbers = view.roll.as_ref().map_or_else(String::new, |roll| {
            format!("roll {}: {} of {} steps in {}: ", roll.number, roll.done.0, roll.done.1, short(roll.elapsed))
        });
        match self {
            Live::Json => {
                let line = serde_json::json!({
                    "event": "end",
                    "roll": view.roll.as_ref().map(|roll| roll.roll.to_string()),
                    "exit_code": exit.code(),
                    "text": text,
                });
                output::line(&line.to_string());
            }
            Live::Lines { .. } => {
                output::line(&format!("{numbers}{text}"));
                failures(view, &mut |line| output::line(line));
            }
            Live::Bars(bars) => {
                bars.view(view);
                for bar in bars.slots.values() {
                    bar.abandon();
                }
                bars.footer.finish_and_clear();
                output::line(&format!("{numbers}{text}"));
                failures(view, &mut |line| output::line(line));
            }
        }
    }
}

/// Why slots failed, with the instance's last log lines.
pub(super) fn failures(view: &FleetView, say: &mut dyn FnMut(&str)) {
    for slot in &view.slots {
        if let Some((why, log)) = &slot.failure {
            say(&format!("  {}: {why}", slot.slot));
            for line in log {
                say(&format!("    | {line}"));
            }
        }
    }
}

fn plain_style(template: &str) -> ProgressStyle {
    // A template is a constant of ours; the default is a good second best.
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

impl Bars {
    fn view(&mut self, view: &FleetView) {
        for slot in &view.slots {
            let bar = self.slots.entry(slot.slot.clone()).or_insert_with(|| {
                let bar = self.all.insert_before(&self.footer, ProgressBar::new(1_000));
                bar.set_prefix(format!("{:<14}", slot.slot.to_string()));
                bar
            });
            paint(bar, slot, self.colours);
        }
        let holds: Vec<_> = view
            .holds
            .iter()
            .filter(|hold| !matches!(hold.reason, HoldReason::Parallelism { .. }))
            .map(|hold| format!("waiting {}: {}", short(hold.age), hold.text))
            .collect();
        self.footer.set_message(holds.join("; "));
        self.footer.tick();
    }
}

fn paint(bar: &ProgressBar, slot: &SlotView, colours: bool) {
    let colour = match slot.phase.as_str() {
        "failed" => "red",
        "done" | "kept" => "green",
        "draining" | "stopping" => "yellow",
        _ => "cyan",
    };
    match &slot.at_work {
        Some(step) => {
            let left = step.left.unwrap_or_default();
            let whole = (step.elapsed + left).as_millis().max(1);
            let position = step.elapsed.as_millis() * 1_000 / whole;
            bar.set_position(u64::try_from(position).unwrap_or(1_000));
            let instance = step.instance.as_ref().map(ToString::to_string).unwrap_or_default();
            let remaining = step.left.map(|left| format!(" {} left", short(left))).unwrap_or_default();
            bar.set_message(format!("{} {instance}{remaining}  {}", step.verb, step.text));
            let shape = if colours {
                format!("{{prefix}} {{bar:20.{colour}}} {{wide_msg}}")
            } else {
                "{prefix} {bar:20} {wide_msg}".to_owned()
            };
            bar.set_style(plain_style(&shape).progress_chars("━╸─"));
        }
        None => {
            let shape = if colours { format!("{{prefix}} {{msg:.{colour}}}") } else { "{prefix} {msg}".to_owned() };
            bar.set_style(plain_style(&shape));
            let version = slot.instances.last().and_then(|instance| instance.version.clone()).unwrap_or_default();
            bar.set_message(format!("{:<20} {version}", slot.phase));
        }
    }
    bar.tick();
}
