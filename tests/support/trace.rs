//! What `strace -f -y` wrote: which system call began and ended when, on which file, with which bytes.

use std::path::Path;

/// The calls that put bytes somewhere or make them last.
pub const CALLS: &str = "trace=fsync,fdatasync,write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg,sendmmsg,openat";

/// A tracer's command line: its trace goes to `into`.
pub fn strace(into: &Path) -> Vec<String> {
    let into = into.display().to_string();
    ["strace", "-f", "-y", "-qq", "-s", "300000", "-e", CALLS, "-e", "signal=none", "-o", &into]
        .map(String::from)
        .into()
}

/// Whether this machine has it and lets it trace.
pub fn works() -> bool {
    let output = std::process::Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    output.is_ok_and(|output| output.status.success())
}

/// One call. `began` and `ended` are places in the order of all that was seen.
#[derive(Debug)]
pub struct Call {
    pub name: String,
    /// What the first argument's descriptor is open on: a path, or `socket:[...]`.
    pub file: String,
    /// As written by strace, with its escapes.
    pub text: String,
    pub began: usize,
    /// `None`: it had not returned when the trace ended.
    pub ended: Option<usize>,
}

impl Call {
    /// Whether it is a sync that has returned.
    pub fn is_sync(&self) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync") && self.ended.is_some() && self.text.ends_with(" = 0")
    }

    /// Whether its bytes go to a peer.
    pub fn is_to_socket(&self) -> bool {
        self.file.starts_with("socket:") || self.file.starts_with("TCP") || self.file.starts_with("UNIX")
    }
}

/// Reads a trace. A line that is not understood is left out; the test proves that it found what it looks for.
pub fn read(path: &Path) -> Vec<Call> {
    let bytes = std::fs::read(path).expect("a trace");
    let text = String::from_utf8_lossy(&bytes);
    let mut calls: Vec<Call> = vec![];
    // By process: the place of the call that has not returned.
    let mut open = std::collections::BTreeMap::<&str, usize>::new();
    for (place, line) in text.lines().enumerate() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            if let Some(call) = open.remove(pid).map(|at| &mut calls[at]) {
                call.ended = Some(place);
                call.text.push_str(resumed.split_once("resumed>").map_or("", |(_, end)| end));
            }
            continue;
        }
        let Some((name, arguments)) = rest.split_once('(') else { continue };
        let file = arguments.split_once('<').and_then(|(_, file)| file.split_once('>')).map_or("", |(file, _)| file);
        let unfinished = arguments.ends_with("<unfinished ...>");
        if unfinished {
            open.insert(pid, calls.len());
        }
        calls.push(Call {
            name: name.to_owned(),
            file: file.to_owned(),
            text: arguments.to_owned(),
            began: place,
            ended: (!unfinished).then_some(place),
        });
    }
    calls
}

/// Whether something that was written to `log` with one of `records` was synced before the place `left`.
///
/// # Errors
/// For people: what is missing.
pub fn synced_before(calls: &[Call], log: &str, is_record: impl Fn(&str) -> bool, left: usize) -> Result<(), String> {
    let written = calls
        .iter()
        .find(|call| call.file.ends_with(log) && !call.is_sync() && is_record(&call.text))
        .ok_or_else(|| format!("its record was never written to {log}"))?;
    let begun = written.ended.ok_or("the write of its record never returned")?;
    if begun > left {
        return Err(format!("its record was written at {begun}, after it had left at {left}"));
    }
    let synced = calls
        .iter()
        .find(|call| call.file.ends_with(log) && call.is_sync() && call.began > begun)
        .and_then(|call| call.ended)
        .ok_or_else(|| format!("its record was written to {log} at {begun} and never synced"))?;
    if synced > left {
        return Err(format!("its record was synced at {synced}, after it had left at {left}"));
    }
    Ok(())
}
