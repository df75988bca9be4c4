//! One row of the table: what is typed, the exit code, the message on file, and what must not have changed.

use std::path::{Path, PathBuf};

use super::snapshot::Snapshot;
use super::support::fleet::{Fleet, Said};

/// What a row may leave behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// Not one byte.
    Nothing,
    /// That a coordinator was started inside the verb, and obeyed: records of terms, and nothing else.
    Terms,
}

/// One row.
pub struct Row<'a> {
    fleet: &'a Fleet,
    name: &'a str,
    leaves: Leaves,
    /// Further texts that differ from run to run, and what stands for them on file.
    stands_for: Vec<(String, String)>,
    /// The state directory, which is compared.
    state: PathBuf,
}

impl<'a> Row<'a> {
    /// A row with its name, which is the name of its golden file too.
    pub fn new(fleet: &'a Fleet, name: &'a str, leaves: Leaves) -> Self {
        Self { fleet, name, leaves, stands_for: vec![], state: fleet.stage.path("state") }
    }

    /// `text` differs from run to run: `name` stands for it on file.
    pub fn stands_for(mut self, text: impl ToString, name: &str) -> Self {
        self.stands_for.push((text.to_string(), name.to_owned()));
        self
    }

    /// Runs the verb: its exit code, its words, and everything else as it was.
    pub fn refused(&self, args: &[&str], code: i32) -> Said {
        let before = Snapshot::of(self.fleet, &self.state, self.leaves);
        let said = self.said(args, code);
        let after = Snapshot::of(self.fleet, &self.state, self.leaves);
        before.assert_same(&after, &format!("{}: baton {args:?}\n{}", self.name, said.all()));
        said
    }

    /// Runs the verb: its exit code and its words.
    pub fn said(&self, args: &[&str], code: i32) -> Said {
        let said = self.fleet.baton(args);
        self.judge(args, &said, code);
        said
    }

    /// Runs a verb that tells what it does: its exit code, what it says of rolls, and what it says went wrong.
    pub fn last(&self, args: &[&str], code: i32) -> Said {
        let mut said = self.fleet.baton(args);
        said.out = said.out.lines().filter(|line| line.starts_with("roll ")).map(|line| format!("{line}\n")).collect();
        self.judge(args, &said, code);
        said
    }

    /// Compares what a verb said with the file.
    pub fn judge(&self, args: &[&str], said: &Said, code: i32) {
        assert_eq!(said.code, code, "{}: baton {args:?}: {}", self.name, said.all());
        let mut text = format!("$ baton {}\nexit code {}\n", args.join(" "), said.code);
        for (stream, lines) in [("stdout", &said.out), ("stderr", &said.err)] {
            if !lines.is_empty() {
                text.push_str(&format!("--- {stream}\n{lines}"));
            }
        }
        self.against(&text);
    }

    /// Compares any text with the file, once what differs from run to run has been replaced.
    pub fn against(&self, text: &str) {
        let is = self.normal(text);
        let path = golden(self.name);
        if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
            std::fs::write(&path, is).unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
            return;
        }
        let was = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(was, is, "{} differs; UPDATE_GOLDEN=1 blesses", path.display());
    }

    /// Every file ends with a line.
    fn normal(&self, text: &str) -> String {
        let text = format!("{}\n", text.trim_end());
        let mut text = text.replace(&self.fleet.stage.dir().display().to_string(), "DIR");
        for (found, name) in &self.stands_for {
            text = text.replace(found, name);
        }
        let host = host();
        text = whole_words(&text, &host, "HOST");
        let text = numbers_after(&text, "process ", "PID");
        let words: Vec<String> = text.split(' ').map(times).collect();
        steps_done(&words.join(" "))
    }
}

/// Where a row's words are kept.
pub fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/wrong_input/{name}.txt"))
}

/// The id of an agent embedded here: the host's name, as the program makes an id of it.
pub fn host() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    name.chars().map(plain).take(63).collect::<String>().trim_start_matches(['-', '_']).to_owned()
}

/// Replaces a word that stands alone.
fn whole_words(text: &str, word: &str, name: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find(word) {
        let (before, after) = (&rest[..at], &rest[at + word.len()..]);
        let part = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        let inside = before.ends_with(part) || after.starts_with(part);
        out.push_str(before);
        out.push_str(if inside { word } else { name });
        rest = after;
    }
    out + rest
}

/// Replaces every number right after `mark`.
fn numbers_after(text: &str, mark: &str, name: &str) -> String {
    let mut parts = text.split(mark);
    let mut out = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_digit());
        out.push_str(mark);
        out.push_str(if rest.len() < part.len() { name } else { "" });
        out.push_str(rest);
    }
    out
}

/// A word that is a time with a fraction, as only measured ones are: `1.3s`.
fn times(word: &str) -> String {
    let Some(at) = word.find('s').filter(|at| *at > 0) else { return word.to_owned() };
    let (number, rest) = word.split_at(at);
    let measured = number.contains('.') && number.chars().all(|c| c.is_ascii_digit() || c == '.');
    if measured { format!("T{rest}") } else { word.to_owned() }
}

/// `3 of 7 steps`: how far a roll is at that moment differs.
fn steps_done(text: &str) -> String {
    let mut out: Vec<String> = vec![];
    let words: Vec<&str> = text.split(' ').collect();
    for (at, word) in words.iter().enumerate() {
        let number = word.trim_start_matches('(').chars().all(|c| c.is_ascii_digit());
        let before = words.get(at + 1) == Some(&"of") && words.get(at + 3).is_some_and(|next| next.starts_with("step"));
        out.push(if number && before {
            word.replace(|c: char| c.is_ascii_digit(), "") + "N"
        } else {
            (*word).to_owned()
        });
    }
    out.join(" ")
}
