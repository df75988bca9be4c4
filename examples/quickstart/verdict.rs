//! Whether every promise was kept, and the sums for people and for machines.

use serde::Serialize;

use super::jobs::JobReport;
use super::load::{LoadReport, PhaseReport};
use super::stage::{OFFICE_GRACE_S, WORKER_GRACE_S};
use super::story::{Incarnation, Story};

/// Everything that was measured.
pub struct Evidence {
    /// What clients saw.
    pub load: LoadReport,
    /// What became of the jobs.
    pub jobs: JobReport,
    /// What the instances wrote.
    pub story: Story,
    /// The versions that answered before the roll, joined by `+`.
    pub version_before: String,
    /// The same after it.
    pub version_after: String,
    /// When the roll began and ended, in milliseconds since the boot.
    pub roll_ms: (u64, u64),
    /// The version that was rolled away and the one that came.
    pub versions: (&'static str, &'static str),
}

/// The line of JSON that ends the quickstart.
#[derive(Debug, Serialize)]
pub struct Sums {
    /// Requests sent.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Before the roll.
    pub p99_ms_before: f64,
    /// During the roll.
    pub p99_ms_during: f64,
    /// Begun at least once.
    pub jobs_started: u64,
    /// Ended at least once.
    pub jobs_finished: u64,
    /// Never ended.
    pub jobs_lost: u64,
    /// Begun or ended more than once.
    pub jobs_run_twice: u64,
    /// As the API said.
    pub version_before: String,
    /// As the API said.
    pub version_after: String,
    /// From the call of `up` to its end.
    pub roll_seconds: f64,
    /// Slots in the order in which their old instances ended.
    pub stop_order: Vec<String>,
}

impl Evidence {
    /// The sums.
    pub fn sums(&self) -> Sums {
        let (from, to) = self.roll_ms;
        Sums {
            requests: self.load.requests,
            failed: self.load.failed,
            p99_ms_before: self.phase("before").p99_ms,
            p99_ms_during: self.phase("during").p99_ms,
            jobs_started: self.jobs.jobs_started,
            jobs_finished: self.jobs.jobs_finished,
            jobs_lost: self.jobs.jobs_lost,
            jobs_run_twice: self.jobs.jobs_run_twice,
            version_before: self.version_before.clone(),
            version_after: self.version_after.clone(),
            roll_seconds: seconds(to.saturating_sub(from)),
            stop_order: self.story.stop_order(self.versions.0, from),
        }
    }

    /// What p99 may be during the roll.
    pub fn p99_ms_allowed(&self) -> f64 {
        let before = self.phase("before").p99_ms;
        (2.0 * before).max(before + 5.0)
    }

    fn phase(&self, name: &str) -> PhaseReport {
        self.load.phase(name).cloned().unwrap_or_default()
    }

    /// The promises that were broken; none when all is well.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = Vec::new();
        let mut promise = |kept: bool, otherwise: String| {
            if !kept {
                broken.push(otherwise);
            }
        };
        let (from, to) = self.roll_ms;
        let (old, new) = self.versions;
        for name in ["before", "during", "after"] {
            // Without requests there would be no failures either.
            promise(self.phase(name).requests > 0, format!("no request was sent {name} the roll"));
        }
        promise(self.load.failed == 0, format!("{} of {} requests failed", self.load.failed, self.load.requests));
        let (during, allowed) = (self.phase("during").p99_ms, self.p99_ms_allowed());
        promise(during <= allowed, format!("p99 during the roll was {during} ms; {allowed:.2} ms was allowed"));
        promise(self.jobs.jobs_finished > 0, "no job was run".to_owned());
        promise(self.jobs.jobs_lost == 0, format!("{} jobs were lost", self.jobs.jobs_lost));
        promise(self.jobs.jobs_run_twice == 0, format!("{} jobs ran twice", self.jobs.jobs_run_twice));
        promise(self.jobs.jobs_unasked == 0, format!("{} jobs ran that nobody submitted", self.jobs.jobs_unasked));
        promise(self.jobs.lines_damaged == 0, format!("{} lines of the job log are damaged", self.jobs.lines_damaged));
        let longest = self.jobs.longest_ms;
        promise(
            longest > OFFICE_GRACE_S * 1000,
            format!("the longest job took {longest} ms: too short to prove anything"),
        );
        promise(self.version_before == old, format!("before the roll {} answered, not {old}", self.version_before));
        promise(self.version_after == new, format!("after the roll {} answered, not {new}", self.version_after));
        for (slot, versions) in self.story.versions() {
            let all: Vec<String> = versions.into_iter().collect();
            promise(all == [new], format!("{slot} runs {} after the roll, not {new}", all.join(" and ")));
        }
        let slots = self.old_lives().len();
        let stopped = self.story.stop_order(old, from).len();
        promise(
            slots == 9 && stopped == slots,
            format!("{stopped} of {slots} old instances wrote their end; 9 should"),
        );
        let hasty = self.story.too_early(old, &["executor", "scheduler"], "worker", from);
        let hasty = hasty.unwrap_or_default();
        promise(hasty.is_empty(), format!("{hasty} began to drain before executors and scheduler had ended"));
        let floor = self.story.floor("api", from, to);
        promise(floor >= 1, "there was a moment without a ready API server".to_owned());
        let overlap = self.story.overlap("scheduler");
        promise(overlap.is_none(), format!("two schedulers ran at once: {overlap:?}"));
        let drained = self.drained_workers();
        promise(
            drained.iter().any(|life| life.in_flight > 0),
            "no worker had a job in flight when it was drained: the roll proved nothing about jobs".to_owned(),
        );
        for life in drained {
            let (begun, ended) = (life.drain.unwrap_or(0), life.exit.unwrap_or(u64::MAX));
            // A second is ample for a look at the count and a signal.
            let late = life.idle.is_some_and(|idle| ended.saturating_sub(idle) > 1000);
            promise(!late, format!("{} lived on after its last job had ended", life.instance));
            let within = ended.saturating_sub(begun) <= WORKER_GRACE_S * 1000;
            promise(within, format!("{} was not gone within its grace", life.instance));
        }
        broken
    }

    fn old_lives(&self) -> Vec<&Incarnation> {
        self.story.lives.iter().filter(|life| life.version == self.versions.0).collect()
    }

    fn drained_workers(&self) -> Vec<&Incarnation> {
        let (from, _) = self.roll_ms;
        let drained = |life: &&Incarnation| life.component == "worker" && life.drain.is_some_and(|at| at >= from);
        self.old_lives().into_iter().filter(drained).collect()
    }

    /// What happened, for people.
    pub fn told(&self) -> Vec<String> {
        let (from, to) = self.roll_ms;
        let sums = self.sums();
        let mut told = vec![format!(
            "The relay, {} s from left to right (= {} at work, ~ draining, . nobody, - starting, # {}, % both):",
            sums.roll_seconds, self.versions.0, self.versions.1
        )];
        told.extend(self.story.picture(self.versions.0, from, to, 80));
        told.push(String::new());
        told.push("Drains ended when the work ended, not when the grace did:".to_owned());
        for life in self.drained_workers() {
            let took = life.exit.unwrap_or(self.story.end).saturating_sub(life.drain.unwrap_or(0));
            told.push(format!(
                "  {:10} {} jobs in flight, gone after {:.1} s of {WORKER_GRACE_S} s",
                life.instance,
                life.in_flight,
                seconds(took)
            ));
        }
        told.push(String::new());
        told.push(format!("stopped   {}", sums.stop_order.join(", ")));
        told.push(format!("requests  {} sent, {} failed", sums.requests, sums.failed));
        let (before, during) = (self.phase("before"), self.phase("during"));
        told.push(format!(
            "latency   p99 {} ms before, {} ms during ({:.2} ms allowed); worst {} ms before, {} ms during",
            before.p99_ms,
            during.p99_ms,
            self.p99_ms_allowed(),
            before.max_ms,
            during.max_ms
        ));
        told.push(format!("          the load generator itself was at most {} ms late", self.load.sent_late_ms_max));
        told.push(format!(
            "jobs      {} submitted, {} started, {} finished, {} lost, {} run twice; the longest took {:.1} s",
            self.jobs.jobs_submitted,
            sums.jobs_started,
            sums.jobs_finished,
            sums.jobs_lost,
            sums.jobs_run_twice,
            seconds(self.jobs.longest_ms)
        ));
        told.push(format!("version   {} before, {} after", sums.version_before, sums.version_after));
        told.extend(self.load.first_failures.iter().take(10).map(|failure| {
            format!(
                "failed    {} ms after the begin ({}): {}: {}",
                failure.due_ms, failure.phase, failure.what, failure.why
            )
        }));
        told.extend(self.jobs.lost.iter().map(|job| format!("lost      {job}")));
        told.extend(self.jobs.twice.iter().map(|job| format!("twice     {job}")));
        told
    }
}

/// Seconds with two places.
fn seconds(ms: u64) -> f64 {
    (ms as f64 / 10.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::super::lines::Lines;
    use super::*;

    /// Everybody's life in a roll that went well, from 1000 ms to 9000 ms.
    fn events() -> String {
        let mut text = String::new();
        let mut life = |slot: &str, number: u32, up: u64, drain: Option<(u64, u64, u64)>| {
            let who = format!("instance={slot}.{number} version=v{number}");
            text.push_str(&format!("up {who} pid=1 at={up}\nready {who} at={}\n", up + 300));
            if let Some((begun, in_flight, ended)) = drain {
                text.push_str(&format!("drain {who} inflight={in_flight} at={begun}\nidle {who} at={ended}\n"));
                text.push_str(&format!("term {who} inflight=0 at={ended}\nexit {who} code=0 at={ended}\n"));
            }
        };
        for (number, slot) in (0..).zip(["executor-1", "executor-2", "scheduler-1"]) {
            life(slot, 1, 0, Some((1100, 0, 1110 + number)));
            life(slot, 2, 7000, None);
        }
        for (number, slot) in (0..).zip(["worker-1", "worker-2", "worker-3", "worker-4"]) {
            life(slot, 1, 0, Some((1200, 2, 5000 + number)));
            life(slot, 2, 6000, None);
        }
        for (number, slot) in (0..).zip(["api-1", "api-2"]) {
            life(slot, 1, 0, Some((8000 + 500 * number, 1, 8100 + 500 * number)));
            life(slot, 2, 7400 + 500 * number, None);
        }
        text
    }

    fn kept() -> Evidence {
        let phase =
            |name: &str, p99_ms| PhaseReport { name: name.to_owned(), requests: 100, p99_ms, ..PhaseReport::default() };
        let phases = vec![phase("before", 2.0), phase("during", 7.0), phase("after", 2.0)];
        Evidence {
            load: LoadReport { requests: 300, phases, ..LoadReport::default() },
            jobs: JobReport {
                jobs_submitted: 9,
                jobs_started: 9,
                jobs_finished: 9,
                longest_ms: 5000,
                ..JobReport::default()
            },
            story: Story::read(&Lines::parse(&events())),
            version_before: "v1".to_owned(),
            version_after: "v2".to_owned(),
            roll_ms: (1000, 9000),
            versions: ("v1", "v2"),
        }
    }

    #[test]
    fn a_roll_that_went_well_breaks_no_promise_and_gives_its_sums() {
        assert_eq!(kept().broken(), [""; 0]);
        assert_eq!(
            serde_json::to_string(&kept().sums()).unwrap(),
            "{\"requests\":300,\"failed\":0,\"p99_ms_before\":2.0,\"p99_ms_during\":7.0,\"jobs_started\":9,\
             \"jobs_finished\":9,\"jobs_lost\":0,\"jobs_run_twice\":0,\"version_before\":\"v1\",\
             \"version_after\":\"v2\",\"roll_seconds\":8.0,\"stop_order\":[\"executor-1\",\"executor-2\",\"scheduler-1\",\"worker-1\",\
             \"worker-2\",\"worker-3\",\"worker-4\",\"api-1\",\"api-2\"]}"
        );
    }

    /// What is broken, and a part of what is said about it.
    type Break = (fn(&mut Evidence), &'static str);

    #[test]
    fn every_broken_promise_is_named() {
        let breaks: [Break; 15] = [
            (|all| all.load.failed = 1, "1 of 300 requests failed"),
            (|all| all.load.phases[1].p99_ms = 7.01, "p99 during the roll was 7.01 ms; 7.00 ms was allowed"),
            (|all| all.load.phases[1].requests = 0, "no request was sent during the roll"),
            (|all| all.load.phases.truncate(2), "no request was sent after the roll"),
            (|all| all.jobs.jobs_lost = 2, "2 jobs were lost"),
            (|all| all.jobs.jobs_run_twice = 1, "1 jobs ran twice"),
            (|all| all.jobs.jobs_unasked = 1, "1 jobs ran that nobody submitted"),
            (|all| all.jobs.lines_damaged = 1, "1 lines of the job log are damaged"),
            (|all| all.jobs.jobs_finished = 0, "no job was run"),
            (|all| all.jobs.longest_ms = 3000, "too short to prove anything"),
            (|all| all.version_before = "v2".to_owned(), "before the roll v2 answered"),
            (|all| all.version_after = "v1+v2".to_owned(), "after the roll v1+v2 answered"),
            (|all| all.roll_ms.0 = 1115, "6 of 9 old instances wrote their end"),
            (|all| all.story.lives.retain(|life| life.instance != "worker-4.1"), "8 of 8 old instances"),
            (|all| all.load.phases.clear(), "no request was sent before the roll"),
        ];
        for (break_it, said) in breaks {
            let mut evidence = kept();
            break_it(&mut evidence);
            let broken = evidence.broken();
            assert!(broken.iter().any(|promise| promise.contains(said)), "{said:?} is not among {broken:?}");
        }
    }

    #[test]
    fn what_the_instances_wrote_can_break_promises_too() {
        for (from, to, said) in [
            // A worker that begins before the last scheduler or executor has ended.
            (
                "drain instance=worker-2.1 version=v1 inflight=2 at=1200",
                "drain instance=worker-2.1 version=v1 inflight=2 at=1111",
                "worker-2.1 began to drain",
            ),
            // An old instance that lives on.
            ("exit instance=worker-1.1 version=v1 code=0 at=5000\n", "", "worker-1 runs v1 and v2"),
            // A worker that is kept for no reason, and one that overstays its grace.
            (
                "exit instance=worker-1.1 version=v1 code=0 at=5000",
                "exit instance=worker-1.1 version=v1 code=0 at=6001",
                "worker-1.1 lived on",
            ),
            (
                "exit instance=worker-1.1 version=v1 code=0 at=5000",
                "exit instance=worker-1.1 version=v1 code=0 at=21201",
                "not gone within its grace",
            ),
            // A second scheduler.
            (
                "up instance=scheduler-1.2 version=v2 pid=1 at=7000",
                "up instance=scheduler-1.2 version=v2 pid=1 at=1111",
                "two schedulers",
            ),
        ] {
            let text = events();
            assert!(text.contains(from), "{from}");
            let mut evidence = kept();
            evidence.story = Story::read(&Lines::parse(&text.replace(from, to)));
            let broken = evidence.broken();
            assert!(broken.iter().any(|promise| promise.contains(said)), "{said:?} is not among {broken:?}");
        }
        // Both old API servers gone before a new one is ready.
        let gone = events()
            .replace("ready instance=api-1.2 version=v2 at=7700", "ready instance=api-1.2 version=v2 at=8900")
            .replace("ready instance=api-2.2 version=v2 at=8200", "ready instance=api-2.2 version=v2 at=8900");
        let mut evidence = kept();
        evidence.story = Story::read(&Lines::parse(&gone));
        assert!(evidence.broken().iter().any(|promise| promise.contains("without a ready API server")));
    }
}
