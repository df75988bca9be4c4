//! What the engine said of a container a moment ago.
//!
//! A step looks at its slot before and after it acts, the act itself looks once more, and a report looks again: between
//! two acts they all ask the same question. An engine that starts and stops containers is busy enough with that.
//!
//! An answer holds until somebody here acts on that container or the engine tells an event of it, and not long: events
//! may be late, and what the engine says is the truth.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};

/// For so long an answer is given again. No look and the act after it are closer than what this adds on a busy host.
const HOLDS: Duration = Duration::from_millis(100);
/// The same while events are listened to: they come within milliseconds of what they tell.
const HOLDS_TOLD: Duration = Duration::from_millis(300);
/// The same of a container that has never run: by itself it becomes nothing else.
const HOLDS_UNSTARTED: Duration = Duration::from_secs(1);

/// Answers, by the container's id.
#[derive(Default)]
pub(super) struct Memo {
    known: Mutex<Known>,
    listening: AtomicBool,
}

#[derive(Default)]
struct Known {
    said: BTreeMap<String, (Instant, ContainerInspectResponse)>,
    /// When something last happened: an answer to a question from before that may be from before it, too.
    changed: BTreeMap<String, Instant>,
}

fn holds(about: &ContainerInspectResponse, listening: bool) -> Duration {
    match about.state.as_ref().and_then(|state| state.status) {
        _ if !listening => HOLDS,
        Some(ContainerStateStatusEnum::CREATED) => HOLDS_UNSTARTED,
        _ => HOLDS_TOLD,
    }
}

impl Memo {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the engine's events are listened to: without them answers hold for a shorter time.
    pub(super) fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    pub(super) fn listen(&self, listening: bool) {
        self.listening.store(listening, Ordering::Relaxed);
    }

    pub(super) fn said(&self, container: &str) -> Option<ContainerInspectResponse> {
        let known = self.known();
        let (at, about) = known.said.get(container)?;
        (at.elapsed() < holds(about, self.is_listening())).then(|| about.clone())
    }

    /// The engine's answer, which may be as old as its question.
    pub(super) fn keep(&self, container: &str, asked: Instant, about: &ContainerInspectResponse) {
        let (mut known, listening) = (self.known(), self.is_listening());
        known.said.retain(|_, (at, about)| at.elapsed() < holds(about, listening));
        // No answer is older than that and still of use.
        known.changed.retain(|_, at| at.elapsed() < HOLDS_UNSTARTED);
        if known.changed.get(container).is_none_or(|changed| *changed < asked) {
            known.said.insert(container.to_owned(), (asked, about.clone()));
        }
    }

    /// Something happens or has happened to it.
    pub(super) fn forget(&self, container: &str) {
        let mut known = self.known();
        known.said.remove(container);
        known.changed.insert(container.to_owned(), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ContainerState;

    #[test]
    fn an_answer_holds_until_something_happens_and_not_long() {
        let (memo, about) = (Memo::default(), ContainerInspectResponse::default());
        let asked = Instant::now();
        memo.keep("a", asked, &about);
        memo.keep("b", asked, &about);
        assert!(memo.said("a").is_some() && memo.said("b").is_some() && memo.said("c").is_none());
        memo.forget("a");
        assert!(memo.said("a").is_none() && memo.said("b").is_some());
        memo.keep("a", asked, &about);
        assert!(memo.said("a").is_none(), "an answer to a question from before a change");
        memo.keep("a", Instant::now(), &about);
        assert!(memo.said("a").is_some());
        memo.keep("b", asked.checked_sub(HOLDS).unwrap(), &about);
        assert!(memo.said("b").is_none(), "an answer is as old as its question");
    }

    #[test]
    fn one_that_has_never_run_holds_longer_while_events_are_listened_to() {
        let status = |status| ContainerInspectResponse {
            state: Some(ContainerState { status: Some(status), ..ContainerState::default() }),
            ..ContainerInspectResponse::default()
        };
        let (memo, asked) = (Memo::default(), Instant::now().checked_sub(HOLDS_TOLD).unwrap());
        memo.listen(true);
        memo.keep("new", asked, &status(ContainerStateStatusEnum::CREATED));
        memo.keep("old", asked, &status(ContainerStateStatusEnum::RUNNING));
        assert!(memo.said("new").is_some() && memo.said("old").is_none());
        memo.listen(false);
        assert!(memo.said("new").is_none(), "nobody would be told of its start");
    }
}
