//! Append-only files of `what key=value ...` lines, the only memory that the toys share.
//!
//! Each line is one `write` to a file opened with `O_APPEND`, so lines of several processes never mix, and what a
//! killed process had written stays written. Their order in the file is the order in which they happened.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;

/// The longest line that is written; a longer one would say that a toy is broken.
const LINE_BYTES_MAX: usize = 4096;

/// Milliseconds since the boot: the same clock in every process of the machine.
pub fn now_ms() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds * 1000 + nanoseconds / 1_000_000
}

/// A file that only grows.
pub struct Log {
    file: File,
}

impl Log {
    /// Opens the file for appending and makes it where it is missing.
    pub fn open(path: &Path) -> io::Result<Self> {
        OpenOptions::new().append(true).create(true).open(path).map(|file| Self { file })
    }

    /// Appends `what key=value ... at=NOW` in one write.
    pub fn append(&self, what: &str, fields: &[(&str, &dyn Display)]) -> io::Result<()> {
        let mut line = what.to_owned();
        for (key, value) in fields {
            line.push_str(&format!(" {key}={value}"));
        }
        line.push_str(&format!(" at={}\n", now_ms()));
        if line.len() > LINE_BYTES_MAX || line[..line.len() - 1].contains('\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("not one short line: {line:?}")));
        }
        let written = (&self.file).write(line.as_bytes())?;
        if written == line.len() {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::WriteZero, format!("only {written} of {} bytes fitted", line.len())))
        }
    }
}

/// One line as read back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The first word.
    pub what: String,
    /// When, in milliseconds since the boot.
    pub at: u64,
    fields: BTreeMap<String, String>,
}

impl Line {
    /// Reads `what key=value ... at=MS`; `None` when the line is torn or is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let what = words.next()?.to_owned();
        let mut fields = BTreeMap::new();
        for word in words {
            let (key, value) = word.split_once('=')?;
            fields.insert(key.to_owned(), value.to_owned());
        }
        let at = fields.get("at")?.parse().ok()?;
        Some(Self { what, at, fields })
    }

    /// A field, or an empty text.
    pub fn get(&self, key: &str) -> &str {
        self.fields.get(key).map_or("", String::as_str)
    }

    /// A field that is a number; 0 when it is absent.
    pub fn number(&self, key: &str) -> u64 {
        self.get(key).parse().unwrap_or(0)
    }
}

/// What a file of lines holds.
#[derive(Debug, Default)]
pub struct Lines {
    /// In the order of the file.
    pub lines: Vec<Line>,
    /// Lines that could not be read.
    pub damaged: u64,
}

impl Lines {
    /// Reads a whole file; a missing file is an empty one.
    pub fn read(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error),
        }
    }

    /// Reads the text of a file. A last line without its end is damaged: no writer here writes half a line.
    pub fn parse(text: &str) -> Self {
        let mut read = Self::default();
        for text in text.split_inclusive('\n') {
            match text.strip_suffix('\n').and_then(Line::parse) {
                Some(line) => read.lines.push(line),
                None => read.damaged += 1,
            }
        }
        read
    }
}
