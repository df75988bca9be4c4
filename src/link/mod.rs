//! Both ends of a session as pure machines: hello, terms, re-sending, acknowledging, liveness.
//!
//! A link carries; it does not decide what a command means. It knows nothing of sockets: dialling and sending are
//! effects that a shell carries out, and what came of it comes back as an event. A lost session says something about
//! the session only.
//!
//! Re-sending works by *epochs*: everything that must arrive is an outstanding effect whose key carries the session's
//! epoch. A new session, or the re-send interval, raises the epoch; every key changes, so every shell sends again.

mod agent_end;
mod coordinator_end;

pub use agent_end::{AgentEnd, AgentEndEvent, AgentEndRecord, Phase};
pub use coordinator_end::{CoordinatorEnd, CoordinatorEndEvent, CoordinatorEndRecord};

use std::time::Duration;

/// Missed heartbeats after which a session counts as lost.
pub const MISSED_HEARTBEATS: u32 = 3;

/// How long something may stay unacknowledged within a session before it is sent again. A stream loses nothing while
/// it lives, so this only covers an answer that died with the other end's process; it need not be fast.
pub const RESEND_EVERY: Duration = Duration::from_secs(15);

/// The first wait before dialling again; doubles up to [`BACKOFF_MAX`].
pub const BACKOFF_MIN: Duration = Duration::from_millis(100);

/// The longest wait before dialling again: a fleet that lost its coordinator finds it within seconds of its return,
/// and a thousand agents make at most some hundred attempts a second.
pub const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Wait before attempt `attempt` (from 0), with jitter from half of the step to the whole of it. The jitter comes from
/// `seed` (each agent has its own), so that it is the same in every replay and different for every agent.
pub fn backoff(attempt: u32, seed: u64) -> Duration {
    let step = BACKOFF_MIN.saturating_mul(1u32 << attempt.min(10)).min(BACKOFF_MAX);
    // splitmix64: enough to spread agents, and no source of randomness.
    let mut z = seed.wrapping_add(u64::from(attempt).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    let share = u32::try_from((z ^ (z >> 31)) % 512).unwrap_or(0);
    step / 2 + step / 2 * share / 512
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_before_dialling_grows_stays_bounded_and_differs_between_agents() {
        assert!(backoff(0, 1) >= BACKOFF_MIN / 2 && backoff(0, 1) <= BACKOFF_MIN);
        for attempt in 0..100 {
            let wait = backoff(attempt, 7);
            assert!(wait >= BACKOFF_MIN / 2 && wait <= BACKOFF_MAX);
        }
        let waits: std::collections::BTreeSet<_> = (0..100).map(|seed| backoff(10, seed)).collect();
        assert!(waits.len() > 80, "{} different waits of 100", waits.len());
    }
}
