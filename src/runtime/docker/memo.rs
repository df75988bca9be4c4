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

use bollard::models::ContainerInspectResponse;

/// For so long an answer is given again. No look and the act after it are closer than what this adds on a busy host.
const HOLDS: Duration = Duration::from_millis(100);
/// The same while events are listened to: they come within milliseconds of what they tell, and one that got lost costs
/// no more than this.
const HOLDS_TOLD: Duration = Duration::from_secs(1);

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

    fn holds(&self) -> Duration {
        if self.is_listening() { HOLDS_TOLD } else { HOLDS }
    }

    pub(super) fn said(&self, container: &str) -> Option<ContainerInspectResponse> {
        let known = self.known();
        let (at, about) = known.said.get(container)?;
        (at.elapsed() < self.holds()).then(|| about.clone())
    }

    /// The engine's answer, which may be as old as its question.
    pub(super) fn keep(&self, container: &str, asked: Instant, about: &ContainerInspectResponse) {
        let (mut known, holds) = (self.known(), self.holds());
        known.said.retain(|_, (at, _)| at.elapsed() < holds);
        // No answer is older than that and still of use.
        known.changed.retain(|_, at| at.elapsed() < HOLDS_TOLD);
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

/// What was found of things that the slots of a service share, by name: fifty containers are made from one image and on
/// one network within a second. Whoever makes a container proves afterwards what it was made from.
pub(super) struct Lately<T>(Mutex<BTreeMap<String, (Instant, T)>>);

impl<T> Default for Lately<T> {
    fn default() -> Self {
        Lately(Mutex::default())
    }
}

impl<T: Clone> Lately<T> {
    pub(super) fn found(&self, name: &str) -> Option<T> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(name).filter(|(at, _)| at.elapsed() < HOLDS_TOLD).map(|(_, found)| found.clone())
    }

    pub(super) fn keep(&self, name: &str, found: T) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, (at, _)| at.elapsed() < HOLDS_TOLD);
        known.insert(name.to_owned(), (Instant::now(), found));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn it_holds_longer_while_events_are_listened_to() {
        let (memo, about) = (Memo::default(), ContainerInspectResponse::default());
        memo.listen(true);
        memo.keep("a", Instant::now().checked_sub(HOLDS).unwrap(), &about);
        memo.keep("b", Instant::now().checked_sub(HOLDS_TOLD).unwrap(), &about);
        assert!(memo.said("a").is_some() && memo.said("b").is_none());
        memo.listen(false);
        assert!(memo.said("a").is_none(), "nobody would be told of its end");
    }

    #[test]
    fn what_was_found_lately_is_found_by_its_name() {
        let lately = Lately::default();
        assert_eq!(lately.found("shop:2"), None);
        lately.keep("shop:2", 7);
        assert_eq!((lately.found("shop:2"), lately.found("shop:1")), (Some(7), None));
    }
}
