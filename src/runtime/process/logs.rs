//! Log files: rotated under the hands of their writers, read without secrets.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::files::{LOGS_KEPT, SlotFolder};
use super::record::Private;
use crate::model::InstanceId;
use crate::runtime::redact::Redactor;

/// How much of one log file is read for its last lines.
const TAIL_MAX: u64 = 4 << 20;
/// A longer argument is no sub-command.
const WORD_MAX: usize = 12;

/// Opens an instance's log for its program: every write goes to the end, wherever that is by then.
pub(super) fn open(folder: &SlotFolder, instance: &InstanceId) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(folder.log(instance))
}

/// Rotates a log that is larger than `limit`. The writers keep their descriptors, so the file is copied and then
/// emptied under them: what is written between the last copy and that instant (microseconds) is lost, nothing else.
///
/// # Errors
/// When a file cannot be copied (a full disk): the log goes on growing, nothing is lost.
pub(super) fn rotate(folder: &SlotFolder, instance: &InstanceId, limit: u64) -> io::Result<bool> {
    let path = folder.log(instance);
    if fs::metadata(&path).map_or(0, |about| about.len()) <= limit {
        return Ok(false);
    }
    let fresh = folder.logs().join(format!("{instance}.log.new"));
    let mut from = File::open(&path)?;
    let mut to = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    for age in (1..LOGS_KEPT).rev() {
        ignore_absent(fs::rename(folder.old_log(instance, age), folder.old_log(instance, age + 1)))?;
    }
    let copied = (|| {
        // Again and again until nothing came meanwhile; bounded, or a fast writer could keep it here for ever.
        for _ in 0..8 {
            if io::copy(&mut from, &mut to)? == 0 {
                break;
            }
        }
        Ok(())
    })();
    if let Err(error) = copied {
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    fs::rename(&fresh, folder.old_log(instance, 1))?;
    OpenOptions::new().write(true).open(&path)?.set_len(0)?;
    Ok(true)
}

/// Removes all logs of an instance.
pub(super) fn remove(folder: &SlotFolder, instance: &InstanceId) -> io::Result<()> {
    ignore_absent(fs::remove_file(folder.log(instance)))?;
    for age in 1..=LOGS_KEPT {
        ignore_absent(fs::remove_file(folder.old_log(instance, age)))?;
    }
    Ok(())
}

fn ignore_absent(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The last lines over all files of a log, oldest first.
///
/// # Errors
/// When a file is there and cannot be read.
pub(super) fn last_lines(folder: &SlotFolder, instance: &InstanceId, lines: usize) -> io::Result<Vec<String>> {
    let mut found: Vec<String> = Vec::new();
    let mut files = vec![folder.log(instance)];
    files.extend((1..=LOGS_KEPT).map(|age| folder.old_log(instance, age)));
    for path in files {
        if found.len() >= lines {
            break;
        }
        let mut older = tail(&path, lines - found.len())?;
        older.append(&mut found);
        found = older;
    }
    Ok(found)
}

fn tail(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let length = file.metadata()?.len();
    let skipped = length.saturating_sub(TAIL_MAX);
    file.seek(SeekFrom::Start(skipped))?;
    let mut bytes = Vec::new();
    file.take(TAIL_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    // Where reading began in the middle, the first line is half a line.
    let whole: Vec<&str> = text.lines().skip(usize::from(skipped > 0)).collect();
    Ok(whole[whole.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect())
}

/// Hides the values of its environment and of its argv, except what Baton itself filled in or everybody may know: the
/// program's path, names of options, sub-commands (`worker`), and placeholders that stand alone.
pub(super) fn redactor(private: &Private, known: &[String]) -> Redactor {
    let argv = private.argv.windows(2).filter_map(|pair| {
        let [before, argument] = pair else { return None };
        if argument.starts_with('-') {
            return argument.split_once('=').map(|(_, value)| value);
        }
        let plain_word = argument.len() <= WORD_MAX && argument.bytes().all(|byte| byte.is_ascii_lowercase());
        (!plain_word || before.starts_with('-')).then_some(argument.as_str())
    });
    Redactor::hiding(private.env.values().map(String::as_str).chain(argv), known)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_log_is_rotated_under_its_writer_and_read_over_all_its_files() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = SlotFolder::new(temporary.path());
        folder.create().unwrap();
        let instance: InstanceId = "worker-1.3".parse().unwrap();
        let mut writer = open(&folder, &instance).unwrap();
        for round in 0..6 {
            for line in 0..10 {
                writeln!(writer, "round {round} line {line}").unwrap();
            }
            assert!(rotate(&folder, &instance, 50).unwrap());
        }
        writeln!(writer, "last").unwrap();
        assert!(!rotate(&folder, &instance, 50).unwrap());
        assert!(!folder.old_log(&instance, LOGS_KEPT + 1).exists());
        let lines = last_lines(&folder, &instance, 12).unwrap();
        assert_eq!(lines.len(), 12);
        assert_eq!((lines[0].as_str(), lines[11].as_str()), ("round 4 line 9", "last"));
        let all = last_lines(&folder, &instance, 1000).unwrap();
        assert_eq!((all.len(), all[0].as_str()), (31, "round 3 line 0"));
        remove(&folder, &instance).unwrap();
        assert!(last_lines(&folder, &instance, 5).unwrap().is_empty());
    }

    #[test]
    fn values_of_environment_and_argv_are_not_shown() {
        let definition: crate::model::Definition = super::super::testing::definition("worker");
        let private = Private {
            definition,
            argv: "/opt/v1/bin/worker worker --token=hunter22 --verbose-mode --key sesame /opt/release-1 pa55phrase"
                .split(' ')
                .map(str::to_owned)
                .collect(),
            env: [("KEY", "topsecret"), ("LONG", "topsecret-more"), ("SHORT", "on"), ("PEM", "-begin-\nline-two")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
            cwd: "/".to_owned(),
        };
        let redactor = redactor(&private, &["/opt/release-1".to_owned()]);
        let line =
            "on /opt/v1/bin/worker hunter22 topsecret-more topsecret pa55phrase line-two /opt/release-1 --verbose-mode";
        let wanted = "on /opt/v1/bin/worker *** *** *** *** *** /opt/release-1 --verbose-mode";
        assert_eq!(redactor.redact(line.to_owned()), wanted);
    }
}
