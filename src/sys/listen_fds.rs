//! Listening sockets that a parent passed on (systemd's protocol: `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`).

use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The first descriptor that may be passed: 0, 1 and 2 are the standard streams.
const FIRST: RawFd = 3;

/// More than any front door has; keeps a broken environment from making us walk the whole descriptor table.
const LISTEN_FDS_MAX: RawFd = 256;

/// Why the passed sockets cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum ListenFdsError {
    /// A variable does not say what it should.
    #[error("{name}={value:?} is not what a parent that passes sockets sets: {rule}")]
    Variable {
        /// The variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What it should be.
        rule: &'static str,
    },
    /// The variable counts a descriptor that is not open.
    #[error("LISTEN_FDS counts descriptor {fd}, which is not open; was it closed on exec?")]
    NotOpen {
        /// The descriptor.
        fd: RawFd,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// They were taken before.
    #[error("the passed sockets were already taken by this process")]
    Taken,
}

/// What the environment says, read apart from taking it so that it can be tested: names in order of descriptor.
fn names(
    pid: Option<&str>,
    count: Option<&str>,
    names: Option<&str>,
    own_pid: u32,
) -> Result<Vec<String>, ListenFdsError> {
    let (Some(pid), Some(count)) = (pid, count) else { return Ok(Vec::new()) };
    let Ok(pid) = pid.parse::<u32>() else {
        return Err(ListenFdsError::Variable { name: "LISTEN_PID", value: pid.to_owned(), rule: "a process id" });
    };
    if pid != own_pid {
        // Inherited by chance from a parent of ours: the descriptors were meant for that one.
        return Ok(Vec::new());
    }
    let bad_count =
        || ListenFdsError::Variable { name: "LISTEN_FDS", value: count.to_owned(), rule: "a number from 0 to 256" };
    let number = count.parse::<RawFd>().map_err(|_| bad_count())?;
    if !(0..=LISTEN_FDS_MAX).contains(&number) {
        return Err(bad_count());
    }
    let number = usize::try_from(number).map_err(|_| bad_count())?;
    let given: Vec<&str> =
        names.filter(|text| !text.is_empty()).map_or_else(Vec::new, |text| text.split(':').collect());
    if given.len() > number {
        return Err(ListenFdsError::Variable {
            name: "LISTEN_FDNAMES",
            value: names.unwrap_or_default().to_owned(),
            rule: "at most as many names as LISTEN_FDS counts",
        });
    }
    // systemd's own word for a socket without a name.
    Ok((0..number).map(|index| given.get(index).copied().unwrap_or("unknown").to_owned()).collect())
}

/// Takes the sockets that were passed to this process, with their names, and marks them close-on-exec. Empty when none
/// were passed to it. Works once: they are owned by the caller afterwards.
///
/// # Errors
/// When the environment is broken, a counted descriptor is not open, or they were taken before.
pub fn take() -> Result<Vec<(String, OwnedFd)>, ListenFdsError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let var = |name: &str| std::env::var(name).ok();
    let names = names(
        var("LISTEN_PID").as_deref(),
        var("LISTEN_FDS").as_deref(),
        var("LISTEN_FDNAMES").as_deref(),
        std::process::id(),
    )?;
    if names.is_empty() {
        return Ok(Vec::new());
    }
    if TAKEN.swap(true, Ordering::AcqRel) {
        return Err(ListenFdsError::Taken);
    }
    (FIRST..).zip(names).map(|(fd, name)| Ok((name, adopt(fd)?))).collect()
}

#[allow(unsafe_code, reason = "a descriptor named by the environment has no owner in this process yet")]
fn adopt(fd: RawFd) -> Result<OwnedFd, ListenFdsError> {
    // SAFETY: only asks for the flags; a descriptor that is not open is answered with EBADF and goes no further.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    rustix::io::fcntl_getfd(borrowed)
        .and_then(|flags| rustix::io::fcntl_setfd(borrowed, flags | rustix::io::FdFlags::CLOEXEC))
        .map_err(|error| ListenFdsError::NotOpen { fd, source: error.into() })?;
    // SAFETY: it is open, the parent passed it to this process by number, and `take` runs once: nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::names;

    #[test]
    fn only_the_process_that_is_named_takes_the_sockets() {
        for (pid, count, text, expected) in [
            (None, Some("1"), None, Some("")),
            (Some("7"), None, None, Some("")),
            (Some("8"), Some("1"), None, Some("")),
            (Some("7"), Some("1"), None, Some("unknown")),
            (Some("7"), Some("2"), Some("api:web"), Some("api web")),
            (Some("7"), Some("2"), Some("api"), Some("api unknown")),
            (Some("7"), Some("1"), Some("api:web"), None),
            (Some("7"), Some("257"), None, None),
            (Some("x"), Some("1"), None, None),
        ] {
            let found = names(pid, count, text, 7).ok().map(|names| names.join(" "));
            assert_eq!(found.as_deref(), expected, "{pid:?} {count:?} {text:?}");
        }
    }
}
