//! What happened, as told by the instances themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::lines::{Line, Lines};

/// One instance's life.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incarnation {
    /// `worker-2.7`.
    pub instance: String,
    /// `worker-2`.
    pub slot: String,
    /// `worker`.
    pub component: String,
    /// What it claims to be.
    pub version: String,
    /// When it came up, in milliseconds since the boot, as all times here.
    pub up: u64,
    /// When it was ready.
    pub ready: Option<u64>,
    /// When it began to drain: asked to, or asked to end.
    pub drain: Option<u64>,
    /// Jobs or requests in flight at that moment.
    pub in_flight: u64,
    /// When its last work had ended after that.
    pub idle: Option<u64>,
    /// When it ended by itself; `None`: it runs, or was killed.
    pub exit: Option<u64>,
}

impl Incarnation {
    /// When it stopped serving; `None`: it has not.
    fn served_until(&self) -> Option<u64> {
        self.drain.or(self.exit)
    }
}

/// The lives of all instances, in the order in which they came up.
#[derive(Debug, Default)]
pub struct Story {
    /// The lives.
    pub lives: Vec<Incarnation>,
    /// The latest moment that anybody wrote down.
    pub end: u64,
}

impl Story {
    /// Reads the lives from the events.
    pub fn read(events: &Lines) -> Self {
        let mut story = Self::default();
        for line in &events.lines {
            story.end = story.end.max(line.at);
            if line.what == "up" {
                story.lives.extend(begin(line));
                continue;
            }
            // The latest life of that name: a restarted instance keeps its name.
            let name = line.get("instance");
            let Some(life) = story.lives.iter_mut().rev().find(|life| life.instance == name) else { continue };
            match line.what.as_str() {
                "ready" => life.ready = Some(line.at),
                "drain" | "term" if life.drain.is_none() => {
                    life.drain = Some(line.at);
                    life.in_flight = line.number("inflight");
                }
                "resume" => {
                    life.drain = None;
                    life.idle = None;
                }
                "idle" => life.idle = life.idle.or(Some(line.at)),
                "exit" => life.exit = Some(line.at),
                _ => {}
            }
        }
        story
    }

    /// The slots in the order in which their instances of `version` ended at or after `from`.
    pub fn stop_order(&self, version: &str, from: u64) -> Vec<String> {
        let mut ended: Vec<(u64, &str)> = self
            .lives
            .iter()
            .filter(|life| life.version == version)
            .filter_map(|life| Some((life.exit.filter(|exit| *exit >= from)?, life.slot.as_str())))
            .collect();
        ended.sort();
        ended.into_iter().map(|(_, slot)| slot.to_owned()).collect()
    }

    /// The least number of instances of a component that were ready and not draining at the same time, between `from`
    /// and `to`.
    pub fn floor(&self, component: &str, from: u64, to: u64) -> usize {
        let lives: Vec<&Incarnation> = self.lives.iter().filter(|life| life.component == component).collect();
        let serving_at = |moment: u64| {
            lives
                .iter()
                .filter(|life| life.ready.is_some_and(|ready| ready <= moment))
                .filter(|life| life.served_until().is_none_or(|until| until > moment))
                .count()
        };
        // The number changes only where somebody begins or ends.
        let moments = lives.iter().filter_map(|life| life.served_until()).filter(|at| (from..=to).contains(at));
        moments.chain([from, to]).map(serving_at).min().unwrap_or(0)
    }

    /// Instances of a component that ran at the same time.
    pub fn overlap(&self, component: &str) -> Option<(String, String)> {
        let lives: Vec<&Incarnation> = self.lives.iter().filter(|life| life.component == component).collect();
        for (index, first) in lives.iter().enumerate() {
            for second in &lives[index + 1..] {
                // A life without an end that was followed by another of the same name was killed before that one began.
                let restarted = first.exit.is_none() && first.instance == second.instance;
                if !restarted && first.exit.is_none_or(|exit| exit > second.up) {
                    return Some((first.instance.clone(), second.instance.clone()));
                }
            }
        }
        None
    }

    /// The first instance of `late` that began to drain before all of `early` had ended, where both are lives of
    /// `version` that drained at or after `from`. An instance of `early` that never wrote its end has not ended.
    pub fn too_early(&self, version: &str, early: &[&str], late: &str, from: u64) -> Option<String> {
        let of = |components: &[&str]| -> Vec<&Incarnation> {
            let mut lives: Vec<&Incarnation> = self
                .lives
                .iter()
                .filter(|life| life.version == version && components.contains(&life.component.as_str()))
                .filter(|life| life.exit.is_none_or(|exit| exit >= from))
                .collect();
            lives.sort_by_key(|life| life.drain);
            lives
        };
        let before = of(early).iter().map(|life| life.exit.unwrap_or(u64::MAX)).max().unwrap_or(0);
        let hasty = of(&[late]).into_iter().find(|life| life.drain.is_some_and(|drain| drain < before))?;
        Some(hasty.instance.clone())
    }

    /// The version of each slot whose instance is ready and has not ended; two versions where two are.
    pub fn versions(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for life in self.lives.iter().filter(|life| life.ready.is_some() && life.exit.is_none()) {
            versions.entry(life.slot.clone()).or_default().insert(life.version.clone());
        }
        versions
    }

    /// A picture of the relay between two moments: one row for each slot, one column for each step of time.
    ///
    /// `=` old at work, `~` old draining, `.` nobody, `-` new starting, `#` new at work, `%` both at work.
    pub fn picture(&self, old: &str, from: u64, to: u64, columns: u64) -> Vec<String> {
        let slots: BTreeSet<&str> = self.lives.iter().map(|life| life.slot.as_str()).collect();
        let step = (to.saturating_sub(from) / columns).max(1);
        let row = |slot: &str| -> String {
            (0..columns)
                .map(|column| {
                    let moment = from + column * step;
                    let here = self
                        .lives
                        .iter()
                        .filter(|life| life.slot == slot && life.up <= moment)
                        .filter(|life| life.exit.is_none_or(|exit| exit > moment));
                    let (mut was, mut is) = (None, None);
                    for life in here {
                        let place = if life.version == old { &mut was } else { &mut is };
                        *place = Some(match life {
                            life if life.drain.is_some_and(|drain| drain <= moment) => '~',
                            life if life.ready.is_some_and(|ready| ready <= moment) => '=',
                            _ => '-',
                        });
                    }
                    match (was, is) {
                        (Some('='), Some('=')) => '%',
                        (Some(old), None | Some('-')) => old,
                        (None | Some(_), Some('=')) => '#',
                        (None | Some(_), Some(new)) => new,
                        (None, None) => '.',
                    }
                })
                .collect()
        };
        slots.iter().map(|slot| format!("{slot:12} {}", row(slot))).collect()
    }
}

fn begin(line: &Line) -> Option<Incarnation> {
    let instance = line.get("instance").to_owned();
    let (slot, _) = instance.rsplit_once('.')?;
    let (component, _) = slot.rsplit_once('-')?;
    Some(Incarnation {
        slot: slot.to_owned(),
        component: component.to_owned(),
        version: line.get("version").to_owned(),
        up: line.at,
        ready: None,
        drain: None,
        in_flight: 0,
        idle: None,
        exit: None,
        instance,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn story(text: &str) -> Story {
        let events = Lines::parse(text);
        assert_eq!(events.damaged, 0);
        Story::read(&events)
    }

    const ROLL: &str = "\
up instance=scheduler-1.1 version=v1 pid=1 at=0
up instance=worker-1.1 version=v1 pid=2 at=0
up instance=api-1.1 version=v1 pid=3 at=0
ready instance=scheduler-1.1 version=v1 at=10
ready instance=worker-1.1 version=v1 at=10
ready instance=api-1.1 version=v1 at=10
term instance=scheduler-1.1 version=v1 inflight=0 at=100
exit instance=scheduler-1.1 version=v1 code=0 at=110
drain instance=worker-1.1 version=v1 inflight=3 at=120
idle instance=worker-1.1 version=v1 at=180
term instance=worker-1.1 version=v1 inflight=0 at=190
exit instance=worker-1.1 version=v1 code=0 at=200
up instance=worker-1.2 version=v2 pid=4 at=210
ready instance=worker-1.2 version=v2 at=220
up instance=scheduler-1.2 version=v2 pid=5 at=230
ready instance=scheduler-1.2 version=v2 at=240
up instance=api-1.2 version=v2 pid=6 at=250
ready instance=api-1.2 version=v2 at=260
term instance=api-1.1 version=v1 inflight=1 at=270
exit instance=api-1.1 version=v1 code=0 at=280
";

    #[test]
    fn the_stop_order_is_the_order_of_the_ends() {
        assert_eq!(story(ROLL).stop_order("v1", 50), ["scheduler-1", "worker-1", "api-1"]);
        assert_eq!(story(ROLL).stop_order("v1", 250), ["api-1"]);
        assert_eq!(story(ROLL).stop_order("v2", 0), [""; 0]);
    }

    #[test]
    fn a_drain_begins_with_the_first_request_for_it_and_ends_with_the_last_work() {
        let story = story(ROLL);
        let worker = story.lives.iter().find(|life| life.instance == "worker-1.1").unwrap();
        assert_eq!((worker.drain, worker.in_flight, worker.idle, worker.exit), (Some(120), 3, Some(180), Some(200)));
    }

    #[test]
    fn the_floor_counts_ready_instances_that_do_not_drain() {
        assert_eq!(story(ROLL).floor("api", 50, 300), 1);
        assert_eq!(story(ROLL).floor("worker", 50, 300), 0);
        let gap = ROLL.replace(
            "term instance=api-1.1 version=v1 inflight=1 at=270",
            "term instance=api-1.1 version=v1 inflight=1 at=255",
        );
        assert_eq!(story(&gap).floor("api", 50, 300), 0, "the old one left before the new one was ready");
    }

    #[test]
    fn two_at_once_are_seen() {
        assert_eq!(story(ROLL).overlap("scheduler"), None);
        let (first, second) = story(ROLL).overlap("api").unwrap();
        assert_eq!((first.as_str(), second.as_str()), ("api-1.1", "api-1.2"));
        let killed = ROLL.replace("exit instance=scheduler-1.1 version=v1 code=0 at=110\n", "");
        assert!(story(&killed).overlap("scheduler").is_some(), "an end that nobody wrote is not taken for one");
    }

    #[test]
    fn a_worker_that_drains_before_the_scheduler_has_ended_is_seen() {
        assert_eq!(story(ROLL).too_early("v1", &["executor", "scheduler"], "worker", 50), None);
        let hasty = ROLL.replace("inflight=3 at=120", "inflight=3 at=105");
        assert_eq!(
            story(&hasty).too_early("v1", &["executor", "scheduler"], "worker", 50).as_deref(),
            Some("worker-1.1")
        );
    }

    #[test]
    fn the_picture_shows_who_had_the_baton() {
        assert_eq!(
            story(ROLL).picture("v1", 0, 300, 15),
            ["api-1        -============%#", "scheduler-1  -====~......###", "worker-1     -=====~~~~.####"]
        );
    }
}
