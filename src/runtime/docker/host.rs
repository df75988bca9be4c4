//! What `/proc` of this host says of a container's processes, where it can be seen at all.

use std::fs;
use std::io;
use std::time::Duration;

use crate::sys::process::{self, Identity, ProcStat};

/// Clock ticks a second in `/proc/PID/stat`: the same on every Linux (USER_HZ).
const TICKS: u64 = 100;

/// What a main process does with a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Handling {
    /// It has a handler, waits for it, or the kernel's default acts.
    Handled,
    /// It is PID 1 of its namespace and has no handler: the kernel throws the signal away.
    Ignored,
    /// Out of sight.
    Unknown,
}

/// Whether a pid of this host is a process of that container. `false` also where nobody can say.
pub(super) fn belongs(pid: i32, container: &str) -> bool {
    container.len() >= 12
        && fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|text| text.contains(container))
}

/// What the main process of a container would do with a signal.
pub(super) fn handling(pid: i32, container: &str, signal: i32) -> Handling {
    if !belongs(pid, container) {
        return Handling::Unknown;
    }
    match fs::read_to_string(format!("/proc/{pid}/status")) {
        Ok(status) => judge(&status, signal),
        Err(_) => Handling::Unknown,
    }
}

fn judge(status: &str, signal: i32) -> Handling {
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
    let mask = |name: &str| field(name).and_then(|text| u64::from_str_radix(text, 16).ok());
    let inside = field("NSpid").and_then(|pids| pids.split_ascii_whitespace().next_back());
    // What is blocked is waited for (sigwait): so do tini and its kin.
    let (Some(inside), Some(caught), Some(blocked)) = (inside, mask("SigCgt"), mask("SigBlk")) else {
        return Handling::Unknown;
    };
    let forced = signal == libc::SIGKILL || signal == libc::SIGSTOP;
    let bit = u32::try_from(signal - 1).ok().and_then(|shift| 1_u64.checked_shl(shift)).unwrap_or(0);
    if inside != "1" || forced || (caught | blocked) & bit != 0 { Handling::Handled } else { Handling::Ignored }
}

/// For how long a process has run.
pub(super) fn age(pid: i32) -> Option<Duration> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    let begun = Duration::from_millis(ProcStat::read(pid).ok()?.start_time * 1000 / TICKS);
    Duration::try_from_secs_f64(uptime).ok()?.checked_sub(begun)
}

/// Kills a process of a container and all that it started, each by its identity and only while it is the container's.
///
/// # Errors
/// When it is not to be seen from here, or the kernel refuses.
pub(super) fn kill_tree(pid: i32, container: &str) -> io::Result<()> {
    // The identity first, the proof after it: a number that is used again in between has another start time.
    let root = Identity::of(pid)?;
    if !belongs(pid, container) {
        return Err(io::Error::new(io::ErrorKind::NotFound, "its processes are not to be seen from here"));
    }
    let mut tree = vec![root];
    let all = process::all()?;
    let mut next = 0;
    while let Some(parent) = tree.get(next).map(|identity| identity.pid) {
        next += 1;
        for child in all.iter().filter(|stat| stat.parent == parent && !stat.is_gone()) {
            if tree.iter().all(|known| known.pid != child.pid) && belongs(child.pid, container) {
                tree.push(Identity { pid: child.pid, start_time: child.start_time, ..tree[0].clone() });
            }
        }
    }
    for identity in tree {
        if let Some(pidfd) = identity.open()? {
            pidfd.signal(libc::SIGKILL)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(inside: &str, blocked: &str, caught: &str) -> String {
        format!("Name:\tx\nNSpid:\t4711\t{inside}\nSigBlk:\t{blocked}\nSigIgn:\t0000000000000000\nSigCgt:\t{caught}\n")
    }

    #[test]
    fn pid_1_without_a_handler_ignores_and_everybody_else_does_not() {
        let (none, term) = ("0000000000000000", "0000000000004000");
        assert_eq!(judge(&status("1", none, none), libc::SIGTERM), Handling::Ignored);
        assert_eq!(judge(&status("1", none, term), libc::SIGTERM), Handling::Handled);
        assert_eq!(judge(&status("1", none, term), libc::SIGUSR1), Handling::Ignored);
        // tini blocks its signals and waits for them.
        assert_eq!(judge(&status("1", term, none), libc::SIGTERM), Handling::Handled);
        assert_eq!(judge(&status("7", none, none), libc::SIGTERM), Handling::Handled);
        assert_eq!(judge(&status("1", none, none), libc::SIGKILL), Handling::Handled);
        assert_eq!(judge("Name:\tx\n", libc::SIGTERM), Handling::Unknown);
    }

    #[test]
    fn a_process_of_no_container_is_left_alone() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert_eq!(handling(me, "0123456789abcdef", libc::SIGTERM), Handling::Unknown);
        assert!(kill_tree(me, "0123456789abcdef").is_err());
        assert!(!belongs(me, ""));
        assert!(age(me).is_some_and(|age| age < Duration::from_secs(3_600)));
    }
}
