//! The host's clocks and the identity of its boot.

use std::io;

use rustix::time::{ClockId, clock_gettime};

/// The environment variable that takes the place of the host's boot id: a test's way to reboot a host.
pub const TEST_BOOT_ID: &str = "BATON_TEST_BOOT_ID";

const KERNEL_BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// `CLOCK_BOOTTIME` in milliseconds: advances through suspends, begins again with a boot, knows no wall-clock jumps.
pub fn boottime_ms() -> u64 {
    milliseconds(ClockId::Boottime)
}

/// Wall time in milliseconds since 1970. For people, and to bridge a reboot; it may jump.
pub fn wall_ms() -> u64 {
    milliseconds(ClockId::Realtime)
}

/// A wall clock before 1970 reads as 1970.
fn milliseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let milliseconds = u64::try_from(time.tv_nsec / 1_000_000).unwrap_or(0);
    seconds.saturating_mul(1000).saturating_add(milliseconds)
}

/// The host's boot id: another one means that the host was restarted and every pid is stale.
///
/// `BATON_TEST_BOOT_ID` takes its place where set and not empty.
///
/// # Errors
/// When `/proc` cannot be read.
pub fn boot_id() -> io::Result<String> {
    match std::env::var(TEST_BOOT_ID) {
        Ok(given) if !given.is_empty() => Ok(given),
        _ => std::fs::read_to_string(KERNEL_BOOT_ID).map(|text| text.trim().to_owned()),
    }
}

/// The clocks of this host, with the boot id read once.
#[derive(Clone, Debug)]
pub struct SystemClock {
    boot_id: String,
}

impl SystemClock {
    /// Reads the boot id.
    ///
    /// # Errors
    /// When `/proc` cannot be read.
    pub fn new() -> io::Result<Self> {
        Ok(Self { boot_id: boot_id()? })
    }

    /// The boot id as it was read.
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn boottime_advances_and_the_boot_id_stays() {
        let before = boottime_ms();
        assert!(before > 0);
        assert!(wall_ms() > 1_600_000_000_000, "wall time is not in milliseconds since 1970");
        assert!(boottime_ms() >= before);
        assert_eq!(boot_id().unwrap(), boot_id().unwrap());
        assert_eq!(SystemClock::new().unwrap().boot_id(), boot_id().unwrap());
    }

    #[test]
    fn a_test_may_name_the_boot() {
        // A process of its own: the environment of this one is shared by all tests.
        const CHILD: &str = "BATON_TEST_PRINT_BOOT_ID";
        if std::env::var_os(CHILD).is_some() {
            println!("boot id <{}>", boot_id().unwrap());
            return;
        }
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sys::clock::tests::a_test_may_name_the_boot", "--nocapture"])
            .env(CHILD, "1")
            .env(TEST_BOOT_ID, "second-boot")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("boot id <second-boot>"), "{text}");
    }
}
