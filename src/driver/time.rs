//! Journal time: goes on over restarts and reboots, and never runs backwards.

use std::time::Duration;

use crate::journal::{Head, JournalClock};
use crate::model::Timestamp;

/// The most that is believed to have passed over a reboot, where only the wall clock can tell: a clock that was set
/// wrong by years must not end every deadline, and a host that was off for longer has nothing left in flight.
const REBOOT_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// A point of journal time and the `CLOCK_BOOTTIME` that it was at.
#[derive(Clone, Copy, Debug)]
pub(super) struct JournalTime {
    at: Timestamp,
    boottime_ms: u64,
}

impl JournalTime {
    /// Goes on from the last record: in the same boot by the boottime passed since, after a reboot by the wall time
    /// passed, at least nothing and at most a day. A journal without a record begins at zero.
    pub(super) fn after(last: Option<&Head>, clock: &dyn JournalClock) -> Self {
        let boottime_ms = clock.boottime_ms();
        let at = last.map_or(Timestamp::ZERO, |last| {
            last.at
                + if last.boot_id == clock.boot_id() {
                    Duration::from_millis(boottime_ms.saturating_sub(last.boottime_ms))
                } else {
                    Duration::from_millis(clock.wall_ms().saturating_sub(last.wall_ms)).min(REBOOT_MAX)
                }
        });
        Self { at, boottime_ms }
    }

    /// Journal time when `CLOCK_BOOTTIME` reads `boottime_ms`.
    pub(super) fn at(&self, boottime_ms: u64) -> Timestamp {
        self.at + Duration::from_millis(boottime_ms.saturating_sub(self.boottime_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::ManualClock;

    const HOUR: Duration = Duration::from_secs(60 * 60);
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);

    fn last(at: u64, clock: &ManualClock) -> Head {
        Head {
            sequence: 1,
            at: Timestamp(at),
            wall_ms: clock.wall_ms(),
            boot_id: clock.boot_id(),
            boottime_ms: clock.boottime_ms(),
            roll: String::new(),
            term: 1,
            actor: String::new(),
        }
    }

    #[test]
    fn time_begins_at_zero_and_follows_boottime_whatever_the_wall_says() {
        let clock = ManualClock::new(7_000, 1_000_000);
        let time = JournalTime::after(None, &clock);
        assert_eq!(time.at(clock.boottime_ms()), Timestamp(0));
        clock.advance(Duration::from_millis(1500));
        clock.set_wall_ms(0);
        assert_eq!(time.at(clock.boottime_ms()), Timestamp(1500));
    }

    #[test]
    fn a_restart_in_the_same_boot_adds_the_boottime_passed() {
        let clock = ManualClock::new(7_000, 1_000_000);
        let record = last(500, &clock);
        clock.advance(3 * DAY);
        clock.set_wall_ms(0);
        let time = JournalTime::after(Some(&record), &clock);
        assert_eq!(time.at(clock.boottime_ms()), Timestamp(500) + 3 * DAY);
    }

    #[test]
    fn a_reboot_adds_the_wall_time_passed_between_nothing_and_a_day() {
        for (down, expected) in [(HOUR, HOUR), (DAY, DAY), (DAY + HOUR, DAY), (400 * DAY, DAY)] {
            let clock = ManualClock::new(7_000_000, 1_000_000);
            let record = last(500, &clock);
            clock.reboot(down);
            clock.advance(Duration::from_secs(30));
            let time = JournalTime::after(Some(&record), &clock);
            let since = (down + Duration::from_secs(30)).min(expected + Duration::from_secs(30)).min(DAY);
            assert_eq!(time.at(clock.boottime_ms()), Timestamp(500) + since, "{down:?}");
            clock.advance(HOUR);
            assert_eq!(time.at(clock.boottime_ms()), Timestamp(500) + since + HOUR, "{down:?}");
        }
        let clock = ManualClock::new(7_000_000, 1_000_000);
        let record = last(500, &clock);
        clock.reboot(HOUR);
        clock.set_wall_ms(0);
        assert_eq!(
            JournalTime::after(Some(&record), &clock).at(clock.boottime_ms()),
            Timestamp(500),
            "the wall ran backwards"
        );
    }

    #[test]
    fn a_boottime_that_went_back_within_a_boot_stands_still() {
        let clock = ManualClock::new(7_000, 1_000_000);
        let mut record = last(500, &clock);
        record.boottime_ms = 9_000;
        assert_eq!(JournalTime::after(Some(&record), &clock).at(clock.boottime_ms()), Timestamp(500));
    }
}
