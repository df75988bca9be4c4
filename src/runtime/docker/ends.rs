//! What is known of a container's end before the engine has tidied up after it.
//!
//! A main process that ends is seen at once through a pidfd, and where somebody here has asked for that, with its
//! exit code (Linux 6.15). The engine tells of it (`die`) some 20 ms later, 100 where several end at once, and then,
//! while it takes the container's network and file system apart, answers no question about that container: 100 to
//! 300 ms on a busy host. Nobody has to wait for that, except who needs what is being taken apart.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bollard::models::{ContainerInspectResponse, ContainerState, ContainerStateStatusEnum};
use tokio::sync::Notify;

use super::host;
use crate::sys::pidfd_end::Ending;
use crate::sys::process::Identity;

/// For so long after the engine has told of an end, what was seen is believed without a question to it; it has tidied
/// up by then.
const HOLDS: Duration = Duration::from_secs(2);
/// The same while it has told nothing: its events may be lost, and then it has to be asked.
const HOLDS_UNTOLD: Duration = Duration::from_secs(30);
/// Between two looks whether the parent of a process, which is the engine's, has taken notice of its end: it does so
/// within a millisecond, unless the host is very busy.
const NOTICE: Duration = Duration::from_millis(1);
const NOTICES: u32 = 500;
/// So long an exit code that nobody asked for is kept.
const KEPT: Duration = Duration::from_secs(60);

/// Ends of containers, by id.
#[derive(Default)]
pub(super) struct Ends {
    known: Mutex<Known>,
    told: Notify,
}

/// A container whose end is waited for from before its beginning: once it has ended, the engine tells nothing for a
/// while.
#[derive(Clone)]
pub(super) struct Watched {
    pub(super) about: ContainerInspectResponse,
    process: Arc<Ending>,
}

impl Watched {
    /// Returns once its main process has ended.
    pub(super) async fn ended(&self) {
        drop(self.process.wait().await);
    }

    /// The exit code of a main process that has ended, as the engine will tell it. `None`: this kernel does not say, so
    /// the engine has to.
    pub(super) async fn code(&self) -> Option<i64> {
        for _ in 0..NOTICES {
            if let Some(status) = self.process.status().ok()? {
                let signalled = status.signal().map(|signal| 128 + signal);
                return status.code().or(signalled).map(i64::from);
            }
            tokio::time::sleep(NOTICE).await;
        }
        None
    }
}

#[derive(Default)]
struct Known {
    /// Exit codes, as the engine's events told them.
    codes: BTreeMap<String, (Instant, i64)>,
    /// Containers that were sent a signal, as they were then.
    watched: BTreeMap<String, Watched>,
    /// Containers whose main process was seen to be gone.
    gone: BTreeMap<String, Gone>,
}

struct Gone {
    seen: Instant,
    /// When the engine told of it.
    told: Option<Instant>,
    /// As the engine will tell of it when it is asked.
    about: ContainerInspectResponse,
}

impl Gone {
    fn holds(&self) -> bool {
        match self.told {
            Some(told) => told.elapsed() < HOLDS,
            None => self.seen.elapsed() < HOLDS_UNTOLD,
        }
    }
}

impl Ends {
    fn known(&self) -> std::sync::MutexGuard<'_, Known> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.codes.retain(|_, (at, _)| at.elapsed() < KEPT);
        known.gone.retain(|_, gone| gone.holds());
        known
    }

    /// The engine told of an end.
    pub(super) fn died(&self, container: &str, code: i64) {
        let mut known = self.known();
        known.codes.insert(container.to_owned(), (Instant::now(), code));
        if let Some(gone) = known.gone.get_mut(container) {
            gone.told.get_or_insert_with(Instant::now);
        }
        drop(known);
        self.told.notify_waiters();
    }

    /// It runs again, or is about to: what was known of its end is past.
    pub(super) fn forget(&self, container: &str) {
        let mut known = self.known();
        known.codes.remove(container);
        known.watched.remove(container);
        known.gone.remove(container);
    }

    /// Watches a container's main process, where that can be seen from here and is the end of all that runs in it.
    pub(super) fn watch(&self, container: &str, about: &ContainerInspectResponse) -> Option<Watched> {
        let mut known = self.known();
        if !known.watched.contains_key(container) {
            let process = Arc::new(handle(container, about)?);
            known.watched.insert(container.to_owned(), Watched { about: about.clone(), process });
        }
        known.watched.get(container).cloned()
    }

    /// The one that is watched already.
    pub(super) fn watched(&self, container: &str) -> Option<Watched> {
        self.known().watched.get(container).cloned()
    }

    pub(super) fn unwatch(&self, container: &str) {
        self.known().watched.remove(container);
    }

    /// Waits until the engine tells how it ended.
    pub(super) async fn code(&self, container: &str) -> i64 {
        loop {
            let mut told = std::pin::pin!(self.told.notified());
            // From here on nothing that is told is missed.
            told.as_mut().enable();
            if let Some((_, code)) = self.known().codes.get(container) {
                return *code;
            }
            told.await;
        }
    }

    /// Its main process is gone, and it will not be started again: so the engine will tell of it.
    pub(super) fn is_gone(&self, container: &str, mut about: ContainerInspectResponse, code: i64) {
        about.state = Some(ContainerState {
            status: Some(ContainerStateStatusEnum::EXITED),
            running: Some(false),
            pid: Some(0),
            exit_code: Some(code),
            ..about.state.unwrap_or_default()
        });
        let mut known = self.known();
        known.watched.remove(container);
        let told = known.codes.get(container).map(|(at, _)| *at);
        known.gone.insert(container.to_owned(), Gone { seen: Instant::now(), told, about });
    }

    /// What the engine will tell of a container that has just ended.
    pub(super) fn about(&self, container: &str) -> Option<ContainerInspectResponse> {
        self.known().gone.get(container).map(|gone| gone.about.clone())
    }

    /// Containers that the engine may still be taking apart.
    pub(super) fn fresh(&self) -> Vec<String> {
        self.known().gone.keys().cloned().collect()
    }
}

fn handle(container: &str, about: &ContainerInspectResponse) -> Option<Ending> {
    // In a pid namespace of its own nothing outlives PID 1.
    let shared = about.host_config.as_ref().and_then(|host| host.pid_mode.as_deref()).unwrap_or_default();
    let pid = i32::try_from(about.state.as_ref()?.pid?).ok().filter(|pid| *pid > 0)?;
    if !shared.is_empty() {
        return None;
    }
    // The identity first, the proof after it: a number that is used again in between has another start time.
    let identity = Identity::of(pid).ok().filter(|_| host::belongs(pid, container))?;
    Ending::of(identity.open().ok()??).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_code_is_waited_for_and_past_once_it_runs_again() {
        let ends = Ends::default();
        let (code, ()) = tokio::join!(ends.code("a"), async { ends.died("a", 7) });
        assert_eq!(code, 7);
        ends.is_gone("a", ContainerInspectResponse::default(), 7);
        let state = ends.about("a").and_then(|about| about.state).expect("it is gone");
        assert_eq!((state.running, state.exit_code, state.pid), (Some(false), Some(7), Some(0)));
        assert_eq!(ends.fresh(), ["a"]);
        ends.forget("a");
        assert!(ends.about("a").is_none() && ends.fresh().is_empty());
        assert!(tokio::time::timeout(Duration::from_millis(5), ends.code("a")).await.is_err());
    }

    #[test]
    fn an_end_is_believed_until_the_engine_has_told_of_it_and_a_moment_longer() {
        let ago = |seconds| Instant::now().checked_sub(Duration::from_secs(seconds)).unwrap();
        let gone = |seen, told| Gone { seen, told, about: ContainerInspectResponse::default() };
        assert!(gone(ago(10), None).holds() && gone(ago(10), Some(ago(1))).holds());
        assert!(!gone(ago(10), Some(ago(3))).holds() && !gone(ago(40), None).holds());
        let ends = Ends::default();
        ends.is_gone("a", ContainerInspectResponse::default(), 0);
        assert!(ends.known().gone["a"].told.is_none());
        ends.died("a", 0);
        assert!(ends.known().gone["a"].told.is_some());
    }

    #[tokio::test]
    async fn the_kernel_tells_how_a_process_ended_as_the_engine_will() {
        let release = rustix::system::uname().release().to_string_lossy().into_owned();
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
        let speaks = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 15);
        for (script, code) in [("exit 7", 7), ("kill -9 $$", 137), ("exit 0", 0)] {
            let mut child =
                tokio::process::Command::new("sh").args(["-c", &format!("sleep 0.1; {script}")]).spawn().unwrap();
            let pid = i32::try_from(child.id().unwrap()).unwrap();
            let process = Ending::of(Identity::of(pid).unwrap().open().unwrap().unwrap()).unwrap();
            let watched = Watched { about: ContainerInspectResponse::default(), process: Arc::new(process) };
            let told = async {
                watched.ended().await;
                watched.code().await
            };
            let (told, _) = tokio::join!(told, child.wait());
            assert_eq!(told, speaks.then_some(code), "{script}");
        }
    }

    #[tokio::test]
    async fn what_is_no_process_of_a_container_is_never_seen_to_end() {
        let about = |mode: &str| ContainerInspectResponse {
            state: Some(ContainerState { pid: Some(i64::from(std::process::id())), ..ContainerState::default() }),
            host_config: Some(bollard::models::HostConfig {
                pid_mode: Some(mode.to_owned()),
                ..bollard::models::HostConfig::default()
            }),
            ..ContainerInspectResponse::default()
        };
        for mode in ["", "host"] {
            assert!(handle("0123456789abcdef", &about(mode)).is_none());
        }
    }
}
