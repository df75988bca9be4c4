//! A journal that cannot be used: nothing is begun, and it is left as it is for whoever repairs it.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::Command;

use super::row::{Leaves, Row};
use super::support::fleet::{Fleet, GOOD};

const WORKER: &str = "  worker:\n    {R}\n    ready: { exec: [\"true\"] }\n    update: { monitor: 300ms }\n";

fn running(name: &str) -> Fleet {
    let fleet = Fleet::new(name);
    fleet.release("v1", GOOD).release("v2", GOOD);
    fleet.manifest("", WORKER);
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    fleet
}

fn journal(fleet: &Fleet) -> PathBuf {
    fleet.stage.path(format!("state/{}/journal.db", fleet.name))
}

#[test]
fn a_corrupt_journal_is_refused_by_every_verb_and_names_the_way_back() {
    let fleet = running("corrupt");
    let file = std::fs::OpenOptions::new().write(true).open(journal(&fleet)).unwrap();
    let length = file.metadata().unwrap().len();
    file.write_all_at(&vec![0xa5; usize::try_from(length).unwrap() - 4096], 4096).unwrap();
    drop(file);
    Row::new(&fleet, "journal-corrupt", Leaves::Nothing).refused(&["up", "--to", "v2", "--yes"], 5);
    Row::new(&fleet, "journal-corrupt-status", Leaves::Nothing).refused(&["status"], 5);
}

#[test]
fn a_journal_with_a_changed_record_is_refused() {
    let fleet = running("changed");
    let connection = rusqlite::Connection::open(journal(&fleet)).unwrap();
    connection.execute("UPDATE records SET actor = 'nobody' WHERE sequence = 2", []).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    Row::new(&fleet, "journal-with-a-changed-record", Leaves::Nothing).refused(&["up", "--to", "v2", "--yes"], 5);
}

#[test]
fn what_is_no_journal_at_all_is_refused() {
    let fleet = running("garbage");
    std::fs::write(journal(&fleet), "this is no database, whatever its name says\n".repeat(200)).unwrap();
    Row::new(&fleet, "journal-that-is-none", Leaves::Nothing).refused(&["up", "--to", "v2", "--yes"], 5);
}

#[test]
fn a_journal_of_a_newer_baton_is_refused() {
    let fleet = running("newer");
    let connection = rusqlite::Connection::open(journal(&fleet)).unwrap();
    connection.execute("UPDATE meta SET value = '2' WHERE key = 'format'", []).unwrap();
    connection.execute_batch("PRAGMA wal_checkpoint(TRUNCATE)").unwrap();
    drop(connection);
    Row::new(&fleet, "journal-of-a-newer-baton", Leaves::Nothing).refused(&["up", "--to", "v2", "--yes"], 5);
    Row::new(&fleet, "journal-of-a-newer-baton-status", Leaves::Nothing).refused(&["status"], 5);
}

/// A mount that is gone when the test is over.
struct Mount(PathBuf);

impl Mount {
    /// `None`, said aloud, where mounting is not allowed.
    fn new(at: PathBuf, args: &[&str]) -> Option<Self> {
        let done = Command::new("mount").args(args).arg(&at).output();
        if done.as_ref().is_ok_and(|output| output.status.success()) {
            return Some(Self(at));
        }
        eprintln!("SKIPPED: mount {args:?} {} is not possible here: {done:?}", at.display());
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

#[test]
fn a_read_only_journal_is_refused_and_status_still_reads_it() {
    let fleet = running("readonly");
    let state = fleet.stage.path("state").join(&fleet.name);
    let shown = state.display().to_string();
    let Some(mount) = Mount::new(state.clone(), &["--bind", &shown]) else { return };
    let remounted = Command::new("mount").args(["-o", "remount,bind,ro"]).arg(&state).status();
    if !remounted.is_ok_and(|status| status.success()) {
        eprintln!("SKIPPED: a bind mount cannot be made read-only here");
        return;
    }
    Row::new(&fleet, "journal-read-only", Leaves::Nothing).refused(&["up", "--to", "v2", "--yes"], 5);
    fleet.expect(&["status"], 0);
    drop(mount);
}

#[test]
fn a_journal_on_a_full_disk_is_refused() {
    let fleet = Fleet::new("full");
    fleet.release("v1", GOOD).release("v2", GOOD);
    fleet.manifest("", WORKER);
    let state = fleet.stage.path("state");
    std::fs::create_dir(&state).unwrap();
    let Some(mount) = Mount::new(state.clone(), &["-t", "tmpfs", "-o", "size=2m,mode=0700", "tmpfs"]) else { return };
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    // Whatever is left is taken, to the last block.
    let block = vec![0u8; 4096];
    let mut filler = std::fs::File::create(state.join("filler")).unwrap();
    while std::io::Write::write_all(&mut filler, &block).is_ok() {}
    Row::new(&fleet, "journal-on-a-full-disk", Leaves::Nothing).refused(&["up", "--to", "v2", "--yes"], 5);
    fleet.expect(&["status"], 0);
    // With space again it goes on as if nothing had been.
    filler.set_len(0).unwrap();
    fleet.expect(&["up", "--to", "v1", "--yes"], 0);
    drop(filler);
    drop(fleet);
    drop(mount);
}
