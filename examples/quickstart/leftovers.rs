//! Finds the processes that belong to one folder, and ends them.
//!
//! A fleet outlives the commands that started it: keepers and instances are nobody's children. They are known by the
//! folder that was made for them alone: it stands in their arguments or is their working folder. Nothing else is
//! touched.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// A process that belongs to the folder.
pub struct Found {
    /// Its id.
    pub pid: u32,
    /// Its arguments, for people.
    pub command: String,
    // Opened before the arguments were read, so that it cannot stand for a later process with the same id.
    handle: OwnedFd,
}

impl Found {
    /// Sends a signal; a process that has gone is well.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        match pidfd_send_signal(&self.handle, signal) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// The processes of this folder, this process left out.
pub fn processes_of(folder: &Path) -> io::Result<Vec<Found>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        if pid == std::process::id() {
            continue;
        }
        let Some(id) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { continue };
        // It may have gone since it was listed.
        let Ok(handle) = pidfd_open(id, PidfdFlags::empty()) else { continue };
        let process = Path::new("/proc").join(&name);
        let arguments = std::fs::read(process.join("cmdline")).unwrap_or_default();
        let inside = std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        if inside || arguments.split(|byte| *byte == 0).any(|argument| names(argument, folder)) {
            let command = String::from_utf8_lossy(&arguments).replace('\0', " ");
            found.push(Found { pid, command: command.trim_end().to_owned(), handle });
        }
    }
    Ok(found)
}

/// Whether an argument names the folder or something in it, perhaps after `unix:` or `--flag=`.
fn names(argument: &[u8], folder: &Path) -> bool {
    let argument = String::from_utf8_lossy(argument);
    let folder = folder.to_string_lossy();
    argument.match_indices(&*folder).any(|(at, _)| {
        let after = argument.as_bytes().get(at + folder.len()).copied();
        after.is_none_or(|byte| matches!(byte, b'/' | b'"' | b'\'' | b',' | b':' | b' '))
    })
}

/// Ends every process of the folder: asks first, then kills, again and again until nobody is left, because a keeper may
/// have started another instance in between. Returns what was found at first.
pub fn end_all(folder: &Path, patience: Duration) -> io::Result<Vec<String>> {
    let first = processes_of(folder)?;
    let described = first.iter().map(|process| format!("{} {}", process.pid, process.command)).collect();
    for process in &first {
        process.signal(Signal::TERM)?;
    }
    drop(first);
    let begun = Instant::now();
    loop {
        let left = processes_of(folder)?;
        if left.is_empty() {
            return Ok(described);
        }
        if begun.elapsed() > patience + Duration::from_secs(10) {
            let who: Vec<String> = left.iter().map(|process| format!("{} {}", process.pid, process.command)).collect();
            return Err(io::Error::new(io::ErrorKind::TimedOut, format!("still there: {}", who.join("; "))));
        }
        if begun.elapsed() > patience {
            for process in &left {
                process.signal(Signal::KILL)?;
            }
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
