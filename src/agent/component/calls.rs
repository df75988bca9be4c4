//! The calls that begin a drain and give it back: each is made once, however often it is asked for.

use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// No new work.
    Drain,
    /// Work again.
    Undrain,
}

/// What came of a call; `None`: it is under way.
type Outcome = watch::Receiver<Option<Result<(), String>>>;

/// The last call.
#[derive(Default)]
pub(super) struct Calls {
    last: Mutex<Option<(Way, Outcome)>>,
}

impl Calls {
    /// Whether a drain was begun and not given back.
    pub(super) fn is_draining(&self) -> bool {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        matches!(&*last, Some((Way::Drain, outcome)) if matches!(*outcome.borrow(), Some(Ok(()))))
    }

    /// Makes a call, unless the same one is under way (it is joined) or was done last (it is so). One of the other way
    /// that is under way comes first. A call that has begun goes on when who asked for it goes away.
    pub(super) async fn make<F>(&self, way: Way, call: impl FnOnce() -> F) -> Result<(), String>
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        let mut outcome = loop {
            let other = {
                let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
                match &*last {
                    Some((was, outcome)) if *was == way && !matches!(*outcome.borrow(), Some(Err(_))) => {
                        break outcome.clone();
                    }
                    Some((was, outcome)) if *was != way && outcome.borrow().is_none() => outcome.clone(),
                    _ => {
                        let (told, outcome) = watch::channel(None);
                        *last = Some((way, outcome.clone()));
                        let call = call();
                        tokio::spawn(async move { told.send(Some(call.await)) });
                        break outcome;
                    }
                }
            };
            ended(other).await?;
        };
        let result = outcome.wait_for(Option::is_some).await.map_err(|_| CUT.to_owned())?;
        result.clone().unwrap_or(Ok(()))
    }
}

/// A call whose task was dropped: only when this process ends.
const CUT: &str = "the component agent is ending";

async fn ended(mut outcome: Outcome) -> Result<(), String> {
    // However it ended: what is asked for comes now.
    outcome.wait_for(Option::is_some).await.map(|_| ()).map_err(|_| CUT.to_owned())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_second_drain_joins_the_first_and_one_that_was_done_is_not_made_again() {
        let (calls, made, go) = (Arc::new(Calls::default()), Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let ask = |way: Way, result: Result<(), String>| {
            let (calls, made, go) = (calls.clone(), made.clone(), go.clone());
            tokio::spawn(async move {
                let call = || async move {
                    made.fetch_add(1, Ordering::SeqCst);
                    go.notified().await;
                    result
                };
                calls.make(way, call).await
            })
        };
        let (one, two) = (ask(Way::Drain, Ok(())), ask(Way::Drain, Ok(())));
        while made.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // Whoever asked goes away: the call goes on.
        one.abort();
        assert!(!calls.is_draining());
        go.notify_one();
        assert_eq!(two.await.unwrap(), Ok(()));
        assert_eq!(ask(Way::Drain, Err("again".to_owned())).await.unwrap(), Ok(()));
        assert_eq!(made.load(Ordering::SeqCst), 1);
        assert!(calls.is_draining());
        // The other way is another call, and after it the first one again.
        go.notify_one();
        assert_eq!(ask(Way::Undrain, Ok(())).await.unwrap(), Ok(()));
        assert!(!calls.is_draining());
        go.notify_one();
        assert_eq!(ask(Way::Drain, Err("503".to_owned())).await.unwrap(), Err("503".to_owned()));
        assert_eq!(made.load(Ordering::SeqCst), 3);
        // One that failed is made again.
        go.notify_one();
        assert_eq!(ask(Way::Drain, Ok(())).await.unwrap(), Ok(()));
        assert_eq!(made.load(Ordering::SeqCst), 4);
    }
}
