//! Readiness and work in flight: one probe or one reading at a time.
//!
//! Each function asks once, within its own time-out, and says what came of it. Nothing here loops, remembers or
//! decides:
//! how often to ask and what to make of the answers is the worker's. Programs (`exec`) and `notify` go through the
//! runtime, which knows the instance.
//!
//! Every probe opens a connection of its own. One that is kept would stay with the process that accepted it, and tell
//! nothing about the one that came after.

mod http;
mod reading;
mod target;
#[cfg(test)]
mod tests;

use std::fmt;
use std::time::Duration;

pub use reading::{MAX_READING_BYTES, ProbeError, read_inflight};

use target::{Target, connect};

/// What one probe or call came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Whether it was a good one.
    pub ready: bool,
    /// For people: `HTTP 503`, `connection refused`, `no answer within 2s`. Free of secrets.
    pub text: String,
}

/// A GET; 2xx is ready. Redirects are not followed, only plain http is spoken.
pub async fn http_ready(url: &str, timeout: Duration) -> Answer {
    answer(timeout, http::status("GET", url)).await
}

/// A POST without a body, as drain and undrain call it; 2xx is good. Redirects are not followed.
pub async fn http_post(url: &str, timeout: Duration) -> Answer {
    answer(timeout, http::status("POST", url)).await
}

/// A connection to `host:port`; that it is accepted is ready.
pub async fn tcp_ready(address: &str, timeout: Duration) -> Answer {
    let asked = async {
        connect(&Target::of_address(address)?).await?;
        Ok(Said { ready: true, text: "connected".to_owned() })
    };
    answer(timeout, asked).await
}

/// What was said before the time was up.
struct Said {
    ready: bool,
    text: String,
}

/// Why nothing was said.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("{0}")]
    Target(#[from] target::TargetError),
    #[error("{0}")]
    Connect(#[from] target::ConnectError),
    #[error("{0}")]
    Exchange(#[from] http::ExchangeError),
}

async fn answer(timeout: Duration, asked: impl Future<Output = Result<Said, Silence>>) -> Answer {
    match tokio::time::timeout(timeout, asked).await {
        Ok(Ok(said)) => Answer { ready: said.ready, text: said.text },
        Ok(Err(silence)) => Answer { ready: false, text: silence.to_string() },
        Err(_) => Answer { ready: false, text: NoAnswer(timeout).to_string() },
    }
}

/// The time was up.
struct NoAnswer(Duration);

impl fmt::Display for NoAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no answer within {}", humantime::format_duration(self.0))
    }
}
