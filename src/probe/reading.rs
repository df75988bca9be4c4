//! Reading how much work an instance has in flight.

use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use super::{NoAnswer, Silence, http};

/// The largest answer that is read, in bytes: a list of jobs may be long, a stream without end is a mistake.
pub const MAX_READING_BYTES: usize = 1 << 20;

/// Why the work in flight is not known.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nobody answered, or the URL cannot be asked.
    #[error("{0}")]
    Unanswered(String),
    /// Another status than 2xx; redirects are not followed.
    #[error("HTTP {0}")]
    Status(u16),
    /// The answer is too long.
    #[error("the answer is longer than {MAX_READING_BYTES} bytes")]
    TooLong,
    /// The connection ended in the middle of the answer.
    #[error("the answer was cut")]
    Cut(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The answer is no JSON.
    #[error("the answer is not JSON")]
    NotJson(#[source] serde_json::Error),
    /// The pointer leads to nothing.
    #[error("the answer has nothing at {0:?}")]
    Nothing(String),
    /// The pointer leads to something that cannot be counted.
    #[error("{found} at {pointer:?} is neither a whole number from 0 nor a list")]
    NotACount {
        /// The pointer.
        pointer: String,
        /// What is there: its kind, never its value.
        found: &'static str,
    },
}

impl From<Silence> for ProbeError {
    fn from(silence: Silence) -> Self {
        ProbeError::Unanswered(silence.to_string())
    }
}

/// GETs JSON and reads the count at a JSON pointer (RFC 6901; empty: the whole answer): a number, or the length of a
/// list.
///
/// # Errors
/// When there is no answer within `timeout`, when it is not 2xx, too long or not JSON, or when there is no count at the
/// pointer. An error never means zero.
pub async fn read_inflight(url: &str, pointer: &str, timeout: Duration) -> Result<u64, ProbeError> {
    let asked = http::exchange("GET", url, |response| async move {
        if !response.status().is_success() {
            return Err(ProbeError::Status(response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), MAX_READING_BYTES).collect().await;
        body.map(http_body_util::Collected::to_bytes).map_err(|error| match error.downcast_ref::<LengthLimitError>() {
            Some(_) => ProbeError::TooLong,
            None => ProbeError::Cut(error),
        })
    });
    let body = match tokio::time::timeout(timeout, asked).await {
        Ok(body) => body?,
        Err(_) => return Err(ProbeError::Unanswered(NoAnswer(timeout).to_string())),
    };
    count(&serde_json::from_slice(&body).map_err(ProbeError::NotJson)?, pointer)
}

fn count(answer: &Value, pointer: &str) -> Result<u64, ProbeError> {
    let found = answer.pointer(pointer).ok_or_else(|| ProbeError::Nothing(pointer.to_owned()))?;
    let kind = match found {
        Value::Array(items) => return Ok(items.len() as u64),
        Value::Number(number) => match number.as_u64().or_else(|| whole(number.as_f64()?)) {
            Some(number) => return Ok(number),
            None => "a number",
        },
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::String(_) => "a text",
        Value::Object(_) => "an object",
    };
    Err(ProbeError::NotACount { pointer: pointer.to_owned(), found: kind })
}

/// `3.0`, as some languages write every number.
fn whole(number: f64) -> Option<u64> {
    let counted = number >= 0.0 && number.fract() == 0.0 && number < 9_007_199_254_740_992.0;
    counted.then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_count_is_a_whole_number_or_the_length_of_a_list() {
        let answer = json!({
            "inflight": 3, "float": 2.0, "half": 2.5, "minus": -1, "jobs": [{}, {}], "text": "3", "none": null,
            "a/b": { "~": [1, 7] }, "yes": true, "map": {},
        });
        for (pointer, expected) in [("/inflight", 3), ("/float", 2), ("/jobs", 2), ("/a~1b/~0", 2), ("/a~1b/~0/1", 7)] {
            assert_eq!(count(&answer, pointer).ok(), Some(expected), "{pointer}");
        }
        for pointer in ["/half", "/minus", "/text", "/none", "/yes", "/map", ""] {
            assert!(matches!(count(&answer, pointer), Err(ProbeError::NotACount { .. })), "{pointer}");
        }
        for pointer in ["/other", "/jobs/2", "inflight"] {
            assert!(matches!(count(&answer, pointer), Err(ProbeError::Nothing(_))), "{pointer}");
        }
        assert_eq!(count(&json!(5), "").ok(), Some(5));
    }
}
