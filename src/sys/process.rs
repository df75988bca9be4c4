//! Who a process is, and signals that reach nobody else.
//!
//! A pid alone is no identity: it is used again. Here a process is (boot id, pid, start time), and a signal goes
//! through a pidfd that was compared with that identity after it was opened.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, Signal};
use serde::{Deserialize, Serialize};

/// An environment variable that stands in for the kernel's boot id: a hook for tests of a reboot.
pub const TEST_BOOT_ID: &str = "BATON_TEST_BOOT_ID";

/// One process on one boot of this host.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Identity {
    /// The boot on which it ran; after a reboot every process is gone.
    pub boot_id: String,
    /// Its process id.
    pub pid: i32,
    /// When it was forked, in clock ticks since boot.
    pub start_time: u64,
}

impl Identity {
    /// The identity of a process that exists now (a zombie included).
    ///
    /// # Errors
    /// When there is no such process or `/proc` cannot be read.
    pub fn of(pid: i32) -> io::Result<Identity> {
        Ok(Identity { boot_id: boot_id()?, pid, start_time: ProcStat::read(pid)?.start_time })
    }

    /// Whether that very process still runs. A zombie is gone.
    ///
    /// # Errors
    /// When `/proc` cannot be read; "no such process" is an answer, not an error.
    pub fn is_alive(&self) -> io::Result<bool> {
        if boot_id()? != self.boot_id {
            return Ok(false);
        }
        match ProcStat::read(self.pid) {
            Ok(stat) => Ok(stat.start_time == self.start_time && !stat.is_gone()),
            Err(error) if is_no_process(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// A handle on that very process; `None` when it has gone.
    ///
    /// # Errors
    /// When the kernel refuses a pidfd or `/proc` cannot be read.
    pub fn open(&self) -> io::Result<Option<PidFd>> {
        if !self.is_alive()? {
            return Ok(None);
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(None) };
        let fd = match rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK) {
            Ok(fd) => fd,
            Err(rustix::io::Errno::SRCH) => return Ok(None),
            Err(errno) => return Err(errno.into()),
        };
        // The pid may have been used again between the look and the open; the handle cannot change hands any more.
        Ok(self.is_alive()?.then_some(PidFd { fd }))
    }
}

/// A handle on one process that can never come to mean another. Readable (poll) once the process has ended.
#[derive(Debug)]
pub struct PidFd {
    fd: OwnedFd,
}

impl PidFd {
    /// The descriptor, for poll.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// The descriptor, for good.
    pub fn into_fd(self) -> OwnedFd {
        self.fd
    }

    /// Sends a signal; to one that has gone: success.
    ///
    /// # Errors
    /// When the kernel refuses (not permitted).
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, format!("{signal} is no signal")))?;
        match rustix::process::pidfd_send_signal(&self.fd, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// A copy of one of its descriptors.
    ///
    /// # Errors
    /// When the kernel refuses (needs the right to trace it), or the descriptor is not open there.
    pub fn copy_fd(&self, number: i32) -> io::Result<OwnedFd> {
        Ok(rustix::process::pidfd_getfd(&self.fd, number, rustix::process::PidfdGetfdFlags::empty())?)
    }
}

/// What `/proc/PID/stat` says of a process, as far as it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcStat {
    /// Its pid.
    pub pid: i32,
    /// `R`, `S`, `Z`, ...
    pub state: u8,
    /// Its parent.
    pub parent: i32,
    /// Its session: the pid of the session's leader.
    pub session: i32,
    /// When it was forked, in clock ticks since boot.
    pub start_time: u64,
}

impl ProcStat {
    /// Reads it.
    ///
    /// # Errors
    /// When there is no such process, or the kernel's answer has another form.
    pub fn read(pid: i32) -> io::Result<ProcStat> {
        let text = fs::read(format!("/proc/{pid}/stat"))?;
        ProcStat::parse(pid, &text).ok_or_else(|| io::Error::other(format!("/proc/{pid}/stat has an unknown form")))
    }

    /// The name (field 2) may hold blanks and parentheses, so fields are counted from the last `)`.
    fn parse(pid: i32, text: &[u8]) -> Option<ProcStat> {
        let end = text.iter().rposition(|&b| b == b')')?;
        let rest = std::str::from_utf8(text.get(end + 1..)?).ok()?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Field 3 (state) is fields[0]; see proc_pid_stat(5).
        Some(ProcStat {
            pid,
            state: *fields.first()?.as_bytes().first()?,
            parent: fields.get(1)?.parse().ok()?,
            session: fields.get(3)?.parse().ok()?,
            start_time: fields.get(19)?.parse().ok()?,
        })
    }

    /// A zombie or a dead process: it runs nothing any more.
    pub fn is_gone(&self) -> bool {
        matches!(self.state, b'Z' | b'X' | b'x')
    }
}

/// Every process that `/proc` shows. Those that end meanwhile are left out.
///
/// # Errors
/// When `/proc` cannot be listed.
pub fn all() -> io::Result<Vec<ProcStat>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(entry) = entry else { continue };
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Ok(stat) = ProcStat::read(pid) {
            found.push(stat);
        }
    }
    Ok(found)
}

/// Kills a command and the members of its session, while the command itself has not been reaped. One that has gone
/// meanwhile is as good.
pub fn kill_session(main: &Identity) {
    let member = |stat: &ProcStat| stat.session == main.pid || stat.pid == main.pid;
    let members = match all() {
        Ok(all) => all
            .iter()
            .filter(|stat| member(stat))
            .map(|stat| Identity { boot_id: main.boot_id.clone(), pid: stat.pid, start_time: stat.start_time })
            .collect(),
        Err(_) => vec![main.clone()],
    };
    for identity in members {
        let _ = identity.open().map(|pidfd| pidfd.map(|pidfd| pidfd.signal(libc::SIGKILL)));
    }
}

/// The value of a variable in the environment that a process was started with; `None` when it has none or may not be
/// read. A program can overwrite it, so its absence proves nothing.
pub fn environment(pid: i32, name: &str) -> Option<Vec<u8>> {
    let text = fs::read(format!("/proc/{pid}/environ")).ok()?;
    text.split(|&b| b == 0).find_map(|pair| {
        let rest = pair.strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=").map(<[u8]>::to_vec)
    })
}

/// Descriptors of a process that are the socket with this inode.
pub fn descriptors_of_socket(pid: i32, inode: u64) -> Vec<i32> {
    let wanted = format!("socket:[{inode}]");
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str().as_bytes() == OsStr::new(&wanted).as_bytes())
        })
        .filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok()))
        .collect()
}

/// This boot's id, or what [`TEST_BOOT_ID`] says instead.
///
/// # Errors
/// When the kernel's boot id cannot be read.
pub fn boot_id() -> io::Result<String> {
    if let Ok(text) = std::env::var(TEST_BOOT_ID)
        && !text.is_empty()
    {
        return Ok(text);
    }
    Ok(fs::read_to_string(Path::new("/proc/sys/kernel/random/boot_id"))?.trim().to_owned())
}

/// Whether an error of a look into `/proc` means "no such process".
fn is_no_process(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = b"7 (a) b (c)) S 3 7 5 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 1 1";
        let stat = ProcStat::parse(7, line).unwrap();
        assert_eq!(stat, ProcStat { pid: 7, state: b'S', parent: 3, session: 5, start_time: 12345 });
    }

    #[test]
    fn a_process_of_another_start_time_or_boot_is_gone() {
        let me = Identity::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert!(me.is_alive().unwrap());
        assert!(me.open().unwrap().is_some());
        let reused = Identity { start_time: me.start_time + 1, ..me.clone() };
        assert!(!reused.is_alive().unwrap());
        assert!(reused.open().unwrap().is_none());
        let rebooted = Identity { boot_id: "another".to_owned(), ..me };
        assert!(rebooted.open().unwrap().is_none());
    }

    #[test]
    fn a_zombie_is_gone() {
        let mut child = std::process::Command::new("/bin/true").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let identity = Identity::of(pid).unwrap();
        let begun = std::time::Instant::now();
        while identity.is_alive().unwrap() {
            assert!(begun.elapsed().as_secs() < 10, "it never ended");
            std::thread::yield_now();
        }
        assert!(ProcStat::read(pid).unwrap().is_gone());
        child.wait().unwrap();
    }
}
