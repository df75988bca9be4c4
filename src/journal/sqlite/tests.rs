//! Damage, full disks, other writers, older and newer files.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};

use rusqlite::Connection;

use super::super::codec::next_hash;
use super::super::testing::{Toy, entries, entry};
use super::*;

type Toys = SqliteJournal<Toy>;

fn fleet() -> FleetName {
    FleetName::new("orders").unwrap()
}

fn open(path: &Path) -> Result<Toys, JournalError> {
    Toys::open(path, &fleet(), JournalKind::Coordinator)
}

fn open_and_read(path: &Path) -> Result<Vec<Entry<Toy>>, JournalError> {
    open(path)?.read(0)
}

/// A closed journal with `count` records, each appended by itself.
fn filled(folder: &Path, count: u64) -> PathBuf {
    let path = folder.join("journal.db");
    let mut journal = open(&path).unwrap();
    for entry in entries(1..=count) {
        journal.append(journal.last(), &[entry]).unwrap();
    }
    path
}

fn log(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-wal", path.display()))
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn tamper(path: &Path, sql: &str) {
    Connection::open(path).unwrap().execute_batch(sql).unwrap();
}

/// The message with its causes.
fn text(error: &JournalError) -> String {
    with_causes(error)
}

// === sound ===

#[test]
fn what_is_appended_is_there_after_reopening_with_one_sync_for_each_batch() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let mut journal = open(&path).unwrap();
    assert_eq!(journal.read(0).unwrap(), []);
    journal.append(0, &entries(1..=3)).unwrap();
    journal.append(3, &[]).unwrap();
    journal.append(3, &entries(4..=4)).unwrap();
    assert_eq!((journal.syncs(), journal.last()), (2, 4));
    assert_eq!(journal.read(0).unwrap(), entries(1..=4));
    for file in [path.clone(), log(&path), tail::path_of(&path)] {
        assert_eq!(mode(&file), 0o600, "{}", file.display());
    }
    drop(journal);
    let journal = open(&path).unwrap();
    assert_eq!((journal.last(), journal.fleet()), (4, "orders"));
    assert_eq!(journal.read(0).unwrap(), entries(1..=4));
    assert_eq!(journal.read(2).unwrap(), entries(3..=4));
    assert_eq!(journal.read(4).unwrap(), []);
    let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("partial")), "{left:?}");
}

#[test]
fn every_append_is_synced_and_nothing_is_mapped_into_memory() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path(), 1);
    for _ in 0..2 {
        let journal = open(&path).unwrap();
        let says = |pragma: &str| -> String {
            let asked = format!("SELECT CAST({pragma} AS TEXT) FROM pragma_{pragma}");
            journal.store.connection.query_row(&asked, [], |row| row.get(0)).unwrap()
        };
        // 2 is FULL. A number of no bytes is no map at all.
        assert_eq!((says("synchronous").as_str(), says("journal_mode").as_str()), ("2", "wal"));
        let mapped: i64 = journal.store.connection.query_row("PRAGMA mmap_size", [], |row| row.get(0)).unwrap();
        assert_eq!(mapped, 0);
    }
}

#[test]
fn every_number_and_text_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let mut odd = entry(1, Toy::Added { amount: u64::MAX, text: "\0 'quote' \u{1f680}".to_owned() });
    odd.head.at = Timestamp(u64::MAX);
    odd.head.wall_ms = u64::MAX - 1;
    odd.head.term = 1 << 63;
    odd.head.roll = String::new();
    odd.head.actor = "ünï\n".to_owned();
    let path = folder.path().join("journal.db");
    open(&path).unwrap().append(0, std::slice::from_ref(&odd)).unwrap();
    assert_eq!(open_and_read(&path).unwrap(), [odd]);
}

#[test]
fn a_long_journal_is_read_record_by_record() {
    const COUNT: u64 = 20_000;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let mut journal = open(&path).unwrap();
    for start in (0..COUNT).step_by(1000) {
        journal.append(start, &entries(start + 1..=start + 1000)).unwrap();
    }
    let mut seen = 0;
    journal
        .replay(0, &mut |entry| {
            seen += 1;
            assert_eq!(entry.head.sequence, seen);
            Ok(())
        })
        .unwrap();
    assert_eq!(seen, COUNT);
    let mut given = 0;
    let stopped = journal.replay(0, &mut |entry| {
        given += 1;
        Err(journal.damaged(entry.head.sequence, "enough"))
    });
    assert!(matches!(stopped, Err(JournalError::Damaged { sequence: 1, .. })));
    assert_eq!(given, 1, "records were given after an error");
}

#[test]
fn a_reader_reads_beside_the_writer_and_cannot_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    let missing = Toys::open_read_only(&path).unwrap_err();
    assert!(matches!(missing, JournalError::Missing { .. }), "{missing}");
    assert!(!path.exists(), "a reader made a journal");
    let mut writer = open(&path).unwrap();
    writer.append(0, &entries(1..=2)).unwrap();
    let mut reader = Toys::open_read_only(&path).unwrap();
    writer.append(2, &entries(3..=3)).unwrap();
    assert_eq!(reader.read(0).unwrap(), entries(1..=3));
    let refused = reader.append(3, &entries(4..=4)).unwrap_err();
    assert!(text(&refused).contains("read-only"), "{}", text(&refused));
    writer.append(3, &entries(4..=4)).unwrap();
}

#[test]
fn an_older_copy_is_a_sound_journal() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path(), 3);
    let copy = folder.path().join("copy");
    std::fs::create_dir(&copy).unwrap();
    for name in ["journal.db", "journal.db-tail"] {
        std::fs::copy(folder.path().join(name), copy.join(name)).unwrap();
    }
    open(&path).unwrap().append(3, &entries(4..=5)).unwrap();
    // Put back under the same name, as a restored backup is.
    std::fs::rename(copy.join("journal.db"), &path).unwrap();
    assert_eq!(open_and_read(&path).unwrap(), entries(1..=3));
}

// === killed ===

const CHILD: &str = "BATON_TEST_JOURNAL";
const CHILD_RECORDS: u64 = 24;

/// Writes until it is killed or told otherwise. Run as a test of its own process by the ones below.
#[test]
fn child_that_writes_and_is_killed() {
    let Some(path) = std::env::var_os(CHILD).map(PathBuf::from) else { return };
    let mut journal = open(&path).unwrap();
    let failed = (journal.last() + 1..=journal.last() + CHILD_RECORDS)
        .find_map(|number| journal.append(number - 1, &entries(number..=number)).err().map(|error| (number, error)));
    if let Some((number, error)) = failed {
        let after = journal.append(number - 1, &entries(number..=number)).unwrap_err();
        println!("failed at <{number}> with <{}>, then <{}>", text(&error), text(&after));
        return;
    }
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
}

fn child(path: &Path, shell_before: &str) -> String {
    let run = format!(
        "{shell_before} exec \"$0\" --exact journal::sqlite::tests::child_that_writes_and_is_killed --nocapture"
    );
    let output = Command::new("sh")
        .args(["-c", &run])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, path)
        .stderr(Stdio::null())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A journal whose writer was killed: its last records are in the log only.
fn killed(folder: &Path) -> PathBuf {
    let path = folder.join("journal.db");
    child(&path, "");
    assert!(std::fs::metadata(log(&path)).unwrap().len() > 0, "the child left no log");
    path
}

#[test]
fn a_killed_writer_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = killed(folder.path());
    assert_eq!(open_and_read(&path).unwrap(), entries(1..=CHILD_RECORDS));
    child(&path, "");
    assert_eq!(Toys::open_read_only(&path).unwrap().read(0).unwrap(), entries(1..=2 * CHILD_RECORDS));
}

// === damaged ===

/// Puts every variant in place of a file and asserts that the journal is refused or reads as it was written.
fn assert_refused_or_unchanged(
    path: &Path,
    file: &Path,
    variants: impl Fn(&[u8]) -> Vec<Vec<u8>>,
    expected: &[Entry<Toy>],
) -> (usize, usize) {
    let kept: Vec<(PathBuf, Vec<u8>)> = [path.to_owned(), log(path), tail::path_of(path)]
        .into_iter()
        .filter_map(|path| std::fs::read(&path).ok().map(|bytes| (path, bytes)))
        .collect();
    let sound = std::fs::read(file).unwrap();
    let (mut refused, mut unchanged) = (0, 0);
    for (number, variant) in variants(&sound).into_iter().enumerate() {
        for side in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(format!("{}{side}", path.display()));
        }
        // In place: the files stay the same files.
        for (path, bytes) in &kept {
            std::fs::write(path, if path == file { &variant } else { bytes }).unwrap();
        }
        match open_and_read(path) {
            Ok(read) => {
                assert_eq!(read, expected, "variant {number} of {} was believed", file.display());
                unchanged += 1;
            }
            Err(_) => refused += 1,
        }
    }
    (refused, unchanged)
}

fn flips(bytes: &[u8], step: usize) -> Vec<Vec<u8>> {
    (0..bytes.len())
        .step_by(step)
        .map(|place| {
            let mut flipped = bytes.to_vec();
            flipped[place] ^= 1 << (place % 8);
            flipped
        })
        .collect()
}

#[test]
fn a_flipped_bit_is_refused_or_harmless() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path(), 30);
    let (refused, unchanged) = assert_refused_or_unchanged(&path, &path, |bytes| flips(bytes, 17), &entries(1..=30));
    assert!(refused > 300 && unchanged > 0, "{refused} refused, {unchanged} unchanged");
}

#[test]
fn a_flipped_bit_in_the_log_of_a_killed_writer_loses_no_record_unseen() {
    let folder = tempfile::tempdir().unwrap();
    let path = killed(folder.path());
    let expected = entries(1..=CHILD_RECORDS);
    let (refused, _) = assert_refused_or_unchanged(&path, &log(&path), |bytes| flips(bytes, 97), &expected);
    assert!(refused > 300, "{refused} refused");
}

#[test]
fn a_journal_that_was_cut_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path(), 30);
    let cuts = |bytes: &[u8]| (0..bytes.len()).step_by(512).map(|length| bytes[..length].to_vec()).collect();
    let (refused, unchanged) = assert_refused_or_unchanged(&path, &path, cuts, &entries(1..=30));
    assert!(refused > 10 && unchanged == 0, "{refused} refused, {unchanged} unchanged");

    let folder = tempfile::tempdir().unwrap();
    let path = killed(folder.path());
    let (refused, unchanged) = assert_refused_or_unchanged(&path, &log(&path), cuts, &entries(1..=CHILD_RECORDS));
    assert!(refused > 10 && unchanged == 0, "{refused} refused, {unchanged} unchanged");
}

#[test]
fn a_log_that_was_removed_is_missed() {
    let folder = tempfile::tempdir().unwrap();
    let path = killed(folder.path());
    std::fs::remove_file(log(&path)).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, JournalError::Damaged { sequence: 1, .. }), "{error}");
    assert!(error.to_string().contains("went on to record 24"), "{error}");
    assert!(Toys::open_read_only(&path).is_err(), "a reader believed it");
}

#[test]
fn a_journal_that_was_removed_is_not_begun_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path(), 3);
    std::fs::remove_file(&path).unwrap();
    let error = open(&path).unwrap_err();
    assert!(matches!(error, JournalError::Damaged { sequence: 0, .. }), "{error}");
    assert!(error.to_string().contains("journal.db-tail shows that it was there"), "{error}");
    std::fs::remove_file(tail::path_of(&path)).unwrap();
    assert_eq!(open_and_read(&path).unwrap(), []);
}

#[test]
fn removed_and_changed_records_are_named() {
    let cases = [
        ("DELETE FROM records WHERE sequence = 5", 5, "it is missing, the next one is 6"),
        ("DELETE FROM records WHERE sequence = 1", 1, "it is missing, the next one is 2"),
        ("DELETE FROM records WHERE sequence >= 9", 9, "the journal ends before it"),
        ("DELETE FROM records", 1, "the journal ends before it"),
        ("UPDATE records SET payload = replace(payload, '4', '5') WHERE sequence = 4", 4, "does not match its hash"),
        ("UPDATE records SET actor = 'nobody' WHERE sequence = 7", 7, "does not match its hash"),
        ("UPDATE records SET term = -1 WHERE sequence = 7", 7, "does not match its hash"),
        ("UPDATE records SET hash = 'x' WHERE sequence = 3", 3, "it is no hash"),
        (
            "UPDATE records SET hash = (SELECT hash FROM records WHERE sequence = 2) WHERE sequence = 10",
            10,
            "not the record",
        ),
        ("UPDATE records SET sequence = 99 WHERE sequence = 10", 10, "not the record"),
        ("UPDATE records SET sequence = 0 WHERE sequence = 2", 0, ""),
        ("DROP TABLE records", 0, "no such table"),
        ("DELETE FROM meta WHERE key = 'format'", 0, ""),
        ("UPDATE meta SET value = 'x' WHERE key = 'format'", 0, "never was one"),
    ];
    for (sql, expected, why) in cases {
        let folder = tempfile::tempdir().unwrap();
        let path = filled(folder.path(), 10);
        tamper(&path, sql);
        match open_and_read(&path) {
            Err(JournalError::Damaged { sequence, why: said, .. }) if sql.contains("sequence = 0") => {
                assert_eq!(sequence, 2, "{sql}: {said}");
            }
            Err(JournalError::Damaged { sequence, why: said, .. }) => {
                assert_eq!(sequence, expected, "{sql}: {said}");
                assert!(said.contains(why), "{sql}: {said}");
            }
            other => panic!("{sql}: {other:?}"),
        }
    }
}

#[test]
fn a_file_that_is_no_journal_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal.db");
    for content in ["", "hello", &"x".repeat(10_000)] {
        std::fs::write(&path, content).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let error = open(&path).unwrap_err();
        assert!(matches!(error, JournalError::Damaged { sequence: 0, .. }), "{content:.5}: {error}");
        assert!(matches!(Toys::open_read_only(&path), Err(JournalError::Damaged { .. })), "{content:.5}");
    }
    let error = open(folder.path()).unwrap_err();
    assert!(text(&error).ends_with("it is no plain file"), "{}", text(&error));
    let error = open(Path::new("/nonexistent/journal.db")).unwrap_err();
    assert!(matches!(error, JournalError::Open { .. }), "{error}");
}

// === newer, foreign, not private ===

/// Gives record `sequence`, the last one, another codec, kind or text, with a chain that is right.
fn forge(path: &Path, sequence: u64, kind: &str, codec: u32, payload: &str) {
    std::fs::remove_file(tail::path_of(path)).unwrap();
    let before = open(path).unwrap().hash_of(sequence - 1).unwrap().unwrap();
    let head = entry(sequence, Toy::Removed).head;
    let hash = hex(&next_hash(&before, &head, kind, codec, payload));
    std::fs::remove_file(tail::path_of(path)).unwrap();
    let connection = Connection::open(path).unwrap();
    let sql = "UPDATE records SET kind = ?2, codec = ?3, payload = ?4, hash = ?5 WHERE sequence = ?1";
    let changed = connection.execute(sql, (sequence.cast_signed(), kind, codec, payload, hash)).unwrap();
    assert_eq!(changed, 1);
}

#[test]
fn what_a_newer_baton_wrote_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path(), 2);
    forge(&path, 2, "removed", CODEC, r#"{"record":"removed"}"#);
    assert_eq!(open_and_read(&path).unwrap()[1].record, Toy::Removed);

    forge(&path, 2, "removed", CODEC + 1, r#"{"record":"removed"}"#);
    let error = open_and_read(&path).unwrap_err();
    assert!(matches!(error, JournalError::Newer { found: 2, known: 1, .. }), "{error}");

    forge(&path, 2, "exploded", CODEC, r#"{"record":"exploded"}"#);
    let error = open_and_read(&path).unwrap_err();
    assert!(matches!(&error, JournalError::Damaged { sequence: 2, why, .. } if why.contains("exploded")), "{error}");

    tamper(&path, "UPDATE meta SET value = '2' WHERE key = 'format'");
    let before = std::fs::read(&path).unwrap();
    for error in [open(&path).unwrap_err(), Toys::open_read_only(&path).unwrap_err()] {
        assert!(matches!(error, JournalError::Newer { found: 2, known: 1, .. }), "{error}");
        assert!(error.to_string().contains("run the newer Baton"), "{error}");
    }
    assert_eq!(std::fs::read(&path).unwrap(), before);
}

#[test]
fn another_fleets_journal_and_an_agents_ledger_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path(), 1);
    let error = Toys::open(&path, &FleetName::new("billing").unwrap(), JournalKind::Coordinator).unwrap_err();
    assert!(
        text(&error).contains("the coordinator of fleet orders, not the coordinator of fleet billing"),
        "{}",
        text(&error)
    );
    let error = Toys::open(&path, &fleet(), JournalKind::Ledger).unwrap_err();
    assert!(text(&error).contains("not the ledger of fleet orders"), "{}", text(&error));
    assert_eq!(open_and_read(&path).unwrap(), entries(1..=1));
}

#[test]
fn a_journal_that_others_can_read_is_refused_with_the_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path(), 1);
    for mode in [0o640, 0o604, 0o666] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let error = open(&path).unwrap_err();
        assert!(text(&error).contains(&format!("run `chmod 600 {}`", path.display())), "{}", text(&error));
    }
}

// === two writers, no space, read-only ===

#[test]
fn a_second_writer_is_found_out_and_neither_writes_over_the_other() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path(), 1);
    let mut first = open(&path).unwrap();
    let mut second = open(&path).unwrap();
    second.append(1, &entries(2..=3)).unwrap();
    let error = first.append(1, &entries(2..=2)).unwrap_err();
    assert!(matches!(error, JournalError::Moved { expected: 1, found: 3, .. }), "{error}");
    let error = first.append(3, &entries(4..=4)).unwrap_err();
    assert!(text(&error).contains("an earlier append failed"), "{}", text(&error));
    second.append(3, &entries(4..=4)).unwrap();
    assert_eq!(second.read(0).unwrap(), entries(1..=4));
    let error = open(&path).unwrap().append(2, &entries(3..=3)).unwrap_err();
    assert!(matches!(error, JournalError::Moved { expected: 2, found: 4, .. }), "{error}");
    let error = open(&path).unwrap().append(4, &entries(6..=6)).unwrap_err();
    assert!(text(&error).contains("record 6 was to be appended where record 5 belongs"), "{}", text(&error));
}

#[test]
fn a_batch_with_a_note_in_it_is_refused_whole() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path(), 1);
    let mut journal = open(&path).unwrap();
    assert!(journal.append(1, &[entry(2, Toy::Removed), entry(3, Toy::Seen { count: 1 })]).is_err());
    assert_eq!(journal.read(0).unwrap(), entries(1..=1));
}

#[test]
fn a_write_that_the_system_refuses_halts_the_journal_and_loses_nothing_written_before() {
    let folder = tempfile::tempdir().unwrap();
    let path = filled(folder.path(), 2);
    // Files of at most 36 KiB (72 blocks of 512 bytes; POSIX says so, and a shell that counts in KiB only doubles it):
    // SQLite's shared memory fits, and the log of some appends, but not of all.
    let said = child(&path, "trap '' XFSZ; ulimit -f 72;");
    let failed: u64 = said.split(['<', '>']).nth(1).unwrap_or_else(|| panic!("{said}")).parse().unwrap();
    assert!((3..3 + CHILD_RECORDS).contains(&failed), "{said}");
    assert!(said.contains("cannot write journal") && said.contains("an earlier append failed"), "{said}");
    assert_eq!(open_and_read(&path).unwrap(), entries(1..=failed - 1));
    open(&path).unwrap().append(failed - 1, &entries(failed..=failed)).unwrap();
}

/// A small file system of its own, where this user may make one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "baton-test"])
            .arg(folder.path())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success());
        if !mounted {
            eprintln!("not tested: this user cannot mount a tmpfs");
        }
        mounted.then_some(Self(folder))
    }

    fn make_read_only(&self) {
        let status = Command::new("mount").args(["-o", "remount,ro"]).arg(self.0.path()).status().unwrap();
        assert!(status.success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_named_and_loses_nothing_written_before() {
    let Some(disk) = SmallDisk::mount("128k") else { return };
    let path = disk.0.path().join("journal.db");
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![0; 32 * 1024]).unwrap();
    let mut journal = open(&path).unwrap();
    let error = (1..=1000).find_map(|number| journal.append(number - 1, &entries(number..=number)).err()).unwrap();
    let said = text(&error);
    assert!(matches!(error, JournalError::Append { .. }), "{said}");
    assert!(said.contains(&format!("no space is left in {}", disk.0.path().display())), "{said}");
    let last = journal.last();
    drop(journal);
    std::fs::remove_file(ballast).unwrap();
    let mut journal = open(&path).unwrap();
    assert_eq!(journal.read(0).unwrap(), entries(1..=last));
    journal.append(last, &entries(last + 1..=last + 1)).unwrap();

    let full = disk.0.path().join("another.db");
    let _ = std::fs::write(disk.0.path().join("ballast"), vec![0; 128 * 1024]);
    let error = open(&full).unwrap_err();
    assert!(text(&error).contains("no space is left"), "{}", text(&error));
    assert!(!full.exists());
}

#[test]
fn a_read_only_folder_is_named_to_writers_and_read_by_readers() {
    let Some(disk) = SmallDisk::mount("1m") else { return };
    // Once with everything in the file, once with the last records in the log of a killed writer.
    for was_killed in [false, true] {
        let folder = disk.0.path().join(if was_killed { "killed" } else { "closed" });
        std::fs::create_dir(&folder).unwrap();
        if was_killed {
            killed(&folder);
            let _ = std::fs::remove_file(folder.join("journal.db-shm"));
        } else {
            filled(&folder, CHILD_RECORDS);
        }
    }
    disk.make_read_only();
    for name in ["closed", "killed"] {
        let path = disk.0.path().join(name).join("journal.db");
        let reader = Toys::open_read_only(&path).unwrap_or_else(|error| panic!("{name}: {}", text(&error)));
        assert_eq!(reader.read(0).unwrap(), entries(1..=CHILD_RECORDS), "{name}");
        let error = open(&path).and_then(|mut journal| journal.append(journal.last(), &entries(25..=25))).unwrap_err();
        assert!(text(&error).contains("read-only"), "{name}: {}", text(&error));
    }
    let error = open(&disk.0.path().join("new.db")).unwrap_err();
    assert!(text(&error).contains("read-only"), "{}", text(&error));
}
