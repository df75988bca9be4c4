//! What a roll must have kept, as the instances themselves wrote it down.

use crate::story::{Incarnation, Story};

/// Every slot of the fleet that is rolled.
pub const SLOTS: [&str; 6] = ["api-1", "api-2", "executor-1", "scheduler-1", "worker-1", "worker-2"];
/// What a worker may take from the begin of its drain, with a second for a look and a signal.
pub const WORKER_MS_MAX: u64 = 21_000;

/// One roll.
pub struct Roll<'a> {
    pub old: &'a str,
    pub new: &'a str,
    /// When it was asked for and when it was over, in milliseconds since the boot.
    pub from: u64,
    pub to: u64,
}

/// What was broken; nothing when all is well.
pub fn broken(story: &Story, roll: &Roll<'_>) -> Vec<String> {
    let mut broken = Vec::new();
    let mut must = |kept: bool, otherwise: String| {
        if !kept {
            broken.push(otherwise);
        }
    };
    let of =
        |version: &str| -> Vec<&Incarnation> { story.lives.iter().filter(|life| life.version == version).collect() };
    let (old, new) = (of(roll.old), of(roll.new));
    // The end state: one instance of each slot, of the new version, at work; and each was started once only.
    for slot in SLOTS {
        let lives: Vec<_> = new.iter().filter(|life| life.slot == slot).collect();
        must(lives.len() == 1, format!("{slot} was started {} times on {}", lives.len(), roll.new));
        for life in lives {
            let at_work = life.ready.is_some() && life.drain.is_none() && life.exit.is_none();
            must(at_work, format!("{} is not at work: {life:?}", life.instance));
        }
        for life in old.iter().filter(|life| life.slot == slot) {
            must(life.exit.is_some(), format!("{} did not end by itself: {life:?}", life.instance));
        }
    }
    // The floor.
    must(story.floor("api", roll.from, roll.to) >= 1, "there was a moment without a ready API server".to_owned());
    must(story.overlap("scheduler").is_none(), format!("two schedulers: {:?}", story.overlap("scheduler")));
    // The order: scheduler and executor end, workers drain; workers come, scheduler and executor, the API last.
    let hasty = story.too_early(roll.old, &["executor", "scheduler"], "worker", roll.from);
    must(hasty.is_none(), format!("{hasty:?} began to drain before executor and scheduler had ended"));
    let is = |life: &Incarnation, kinds: &[&str]| kinds.contains(&life.component.as_str());
    let ready = |kinds: &[&str]| {
        new.iter().filter(|life| is(life, kinds)).map(|life| life.ready.unwrap_or(u64::MAX)).max().unwrap_or(u64::MAX)
    };
    let office = ["executor", "scheduler"];
    for life in new.iter().filter(|life| is(life, &office)) {
        must(life.up >= ready(&["worker"]), format!("{} came up before the workers were ready", life.instance));
    }
    for life in new.iter().filter(|life| is(life, &["api"])) {
        must(life.up >= ready(&office), format!("{} came up before what it serves was ready", life.instance));
    }
    for worker in old.iter().filter(|life| is(life, &["worker"])) {
        let next = new.iter().find(|life| life.slot == worker.slot);
        // One that never ended was told above.
        let Some(ended) = worker.exit else { continue };
        must(next.is_none_or(|next| next.up >= ended), format!("{} ran beside its successor", worker.instance));
        let took = ended.saturating_sub(worker.drain.unwrap_or(ended));
        must(took <= WORKER_MS_MAX, format!("{} took {took} ms to drain", worker.instance));
    }
    for api in old.iter().filter(|life| is(life, &["api"])) {
        let next = new.iter().find(|life| life.slot == api.slot).and_then(|life| life.ready);
        let late = next.is_some_and(|ready| api.drain.is_some_and(|drain| drain >= ready));
        must(late, format!("{} left before its successor was ready", api.instance));
    }
    broken
}
