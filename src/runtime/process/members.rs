//! Which processes belong to an instance: its session, its descendants, and what double-forked away from it.
//!
//! Wrongly left out, a process outlives its grace; wrongly taken in, a stranger is killed. So each rule below is one
//! that a stranger cannot meet by chance, a number used again included.

use std::collections::BTreeMap;
use std::io;

use crate::sys::process::{self, Identity, ProcStat};

/// The environment variable that names the instance: `worker-2.7`.
pub(super) const INSTANCE: &str = "BATON_INSTANCE";
/// The environment variable that names the slot's folder: fleets on one host may have slots of the same name.
pub(super) const SLOT_FOLDER: &str = "BATON_SLOT_DIR";

/// More generations than any real tree has; a bound for walks while `/proc` changes under them.
const GENERATIONS_MAX: usize = 4096;

/// Whose processes are looked for.
#[derive(Clone, Debug)]
pub(super) struct Family<'a> {
    /// The instance's name.
    pub(super) instance: &'a str,
    /// The slot's folder, as processes carry it.
    pub(super) slot_folder: &'a str,
    /// Its main process: the present one, or the last.
    pub(super) main: Option<&'a Identity>,
    /// Processes that were seen to be its own; their descendants are too.
    pub(super) known: &'a [Identity],
    /// The keeper's own pid.
    pub(super) keeper: i32,
    /// No other instance of the slot may have processes: then every nameless orphan under the keeper is this one's.
    pub(super) alone: bool,
}

impl Family<'_> {
    /// Whether a process belongs to the instance.
    pub(super) fn has(&self, process: &ProcStat, look: &dyn Fn(i32) -> Option<ProcStat>) -> bool {
        if process.pid == self.keeper {
            return false;
        }
        // The recorded main process under its number, a zombie included: what follows may trust the number then.
        let main = self.main.filter(|main| look(main.pid).is_some_and(|stat| stat.start_time == main.start_time));
        let mut under_keeper = false;
        let mut at = *process;
        for _ in 0..GENERATIONS_MAX {
            let known = self.known.iter().any(|known| known.pid == at.pid && known.start_time == at.start_time);
            if known || main.is_some_and(|main| main.pid == at.pid) {
                return true;
            }
            if at.parent == self.keeper {
                under_keeper = true;
                break;
            }
            // A parent that is younger than its child is another process under a number used again.
            match look(at.parent) {
                Some(parent) if at.parent > 0 && parent.start_time <= at.start_time => at = parent,
                _ => break,
            }
        }
        if main.is_some_and(|main| main.pid == process.session) {
            return true;
        }
        match self.marked(process.pid) {
            Some(marked) => marked,
            // Without a mark, only what the kernel gave to this keeper can be ours. A session's number is not used
            // again while the session has a member, so among the keeper's own it still means the last main process.
            None => under_keeper && (self.main.is_some_and(|main| main.pid == process.session) || self.alone),
        }
    }

    /// What the environment says; `None` when it says nothing.
    fn marked(&self, pid: i32) -> Option<bool> {
        let instance = process::environment(pid, INSTANCE)?;
        let folder = process::environment(pid, SLOT_FOLDER)?;
        Some(instance == self.instance.as_bytes() && folder == self.slot_folder.as_bytes())
    }

    /// All processes of the instance that run. Zombies are gone.
    ///
    /// # Errors
    /// When `/proc` cannot be read: nothing is known then, least of all that nothing is left.
    pub(super) fn living(&self) -> io::Result<Vec<Identity>> {
        let boot_id = process::boot_id()?;
        let all: BTreeMap<i32, ProcStat> = process::all()?.into_iter().map(|stat| (stat.pid, stat)).collect();
        let look = |pid: i32| all.get(&pid).copied();
        Ok(all
            .values()
            .filter(|stat| !stat.is_gone() && self.has(stat, &look))
            .map(|stat| Identity { boot_id: boot_id.clone(), pid: stat.pid, start_time: stat.start_time })
            .collect())
    }

    /// Whether a pid, which may be a zombie by now, belongs to the instance.
    pub(super) fn has_pid(&self, pid: i32) -> bool {
        let look = |pid: i32| ProcStat::read(pid).ok();
        look(pid).is_some_and(|stat| self.has(&stat, &look))
    }
}

/// Kills each of them, whoever carries its number by now left alone. Those that refuse are told.
pub(super) fn kill_all(living: &[Identity]) -> Vec<(i32, io::Error)> {
    let mut refused = Vec::new();
    for identity in living {
        let sent = identity.open().and_then(|pidfd| pidfd.map_or(Ok(()), |pidfd| pidfd.signal(libc::SIGKILL)));
        if let Err(error) = sent {
            refused.push((identity.pid, error));
        }
    }
    refused
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stat(pid: i32, parent: i32, session: i32, start_time: u64) -> ProcStat {
        ProcStat { pid, state: b'S', parent, session, start_time }
    }

    #[test]
    fn children_orphans_and_the_session_belong_and_strangers_do_not() {
        // Numbers above any pid_max, so that no real environment is read.
        const BASE: i32 = 2_000_000_000;
        let [keeper, main, child, orphan, other, stranger] = [0, 1, 2, 3, 4, 5].map(|n| BASE + n);
        let processes = [
            stat(keeper, 1, keeper, 10),
            stat(main, keeper, main, 20),
            stat(child, main, child, 21),
            stat(orphan, keeper, orphan, 22),
            stat(other, 1, other, 30),
            stat(stranger, other, other, 31),
        ];
        let identity = Identity { boot_id: String::new(), pid: main, start_time: 20 };
        let members = |alone: bool, start_time: u64, processes: &[ProcStat]| -> Vec<i32> {
            let main = Identity { start_time, ..identity.clone() };
            let family =
                Family { instance: "worker-1.1", slot_folder: "/none", main: Some(&main), known: &[], keeper, alone };
            let look = |pid: i32| processes.iter().find(|stat| stat.pid == pid).copied();
            processes.iter().filter(|stat| family.has(stat, &look)).map(|stat| stat.pid).collect()
        };
        assert_eq!(members(true, 20, &processes), [main, child, orphan]);
        assert_eq!(members(false, 20, &processes), [main, child]);

        // The main process has gone and its number belongs to a stranger, with a session of its own.
        let reused = [stat(keeper, 1, keeper, 10), stat(main, 1, main, 90), stat(child, main, main, 91)];
        assert_eq!(members(true, 20, &reused), [0; 0]);

        // The main process has gone; its session lives on under the keeper.
        let left = [stat(keeper, 1, keeper, 10), stat(child, keeper, main, 21)];
        assert_eq!(members(false, 20, &left), [child]);
    }
}
