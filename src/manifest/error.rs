//! What is wrong with a manifest, said so that the next thing to do is clear.

use std::fmt;
use std::path::PathBuf;

use super::yaml::{MAX_BYTES, Place, Stretch};

/// How many findings are told at once. Beyond it a person reads no further and mends first.
pub const MAX_FINDINGS: usize = 20;

/// Why there is no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file could not be read.
    #[error("cannot read the manifest {path}; write one there, or name another with -f", path = path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// It is larger than any manifest needs to be.
    #[error("{name} is larger than {MAX_BYTES} bytes; a manifest has a few kilobytes: is this the right file?")]
    TooLarge {
        /// Which file.
        name: String,
    },
    /// It is not text.
    #[error("{name} is not UTF-8 text; is this the right file?")]
    NotText {
        /// Which file.
        name: String,
    },
    /// It was read, and this is wrong with it.
    #[error("{}", listed(findings, *left_out))]
    Wrong {
        /// In the order of the text, at most [`MAX_FINDINGS`].
        findings: Vec<Finding>,
        /// How many more there are.
        left_out: usize,
    },
}

impl ManifestError {
    /// Everything found wrong, in the order of the text; empty where the file could not be read at all.
    pub fn findings(&self) -> &[Finding] {
        match self {
            ManifestError::Wrong { findings, .. } => findings,
            _ => &[],
        }
    }
}

fn listed(findings: &[Finding], left_out: usize) -> String {
    let mut text: Vec<String> = findings.iter().map(Finding::to_string).collect();
    if left_out > 0 {
        text.push(format!("and {left_out} more"));
    }
    text.join("\n")
}

/// One thing that is wrong: where, what, and what to write instead. Never shows a value of `env` or `command`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The manifest's name, as given.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The key's path, as in `components.api.update`; empty for the whole.
    pub path: String,
    /// For people: lower-case, no trailing full stop.
    pub message: String,
    /// The line of the text, with a marker below; `None` where it could show a secret.
    pub excerpt: Option<String>,
    /// How many characters the marker covers.
    width: usize,
    may_show: bool,
}

impl Finding {
    /// A finding at a place.
    pub(crate) fn at(place: Place, path: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            file: String::new(),
            line: place.line,
            column: place.column,
            path: path.into(),
            message: message.into(),
            excerpt: None,
            width: 1,
            may_show: true,
        }
    }

    /// A finding that is marked from begin to end, as far as that is on one line.
    pub(crate) fn over(stretch: Stretch, path: impl Into<String>, message: impl Into<String>) -> Self {
        let mut finding = Self::at(stretch.start, path, message);
        if stretch.end.line == stretch.start.line && stretch.end.column > stretch.start.column {
            finding.width = stretch.end.column - stretch.start.column;
        }
        finding
    }

    /// For results, which should be small where nothing is wrong.
    pub(crate) fn boxed(self) -> Box<Self> {
        Box::new(self)
    }

    /// Shows no line of the text, whatever stands there.
    pub(crate) fn without_excerpt(mut self) -> Self {
        self.may_show = false;
        self
    }

    /// Adds the file's name and the line, cut where something secret begins.
    pub(crate) fn located(mut self, file: &str, text: &str, secrets: &[Stretch]) -> Self {
        self.file = file.to_owned();
        self.excerpt = self.excerpt_of(text, secrets);
        self
    }

    fn excerpt_of(&self, text: &str, secrets: &[Stretch]) -> Option<String> {
        /// Longer lines are cut: the marker has to stay on the screen.
        const WIDEST: usize = 160;
        let line = text.lines().nth(self.line - 1).filter(|_| self.may_show)?;
        let secret_from = secrets
            .iter()
            .filter(|secret| secret.start.line <= self.line && self.line <= secret.end.line)
            .map(|secret| if secret.start.line == self.line { secret.start.column } else { 1 })
            .min()
            .unwrap_or(usize::MAX);
        if secret_from <= self.column || line.trim().is_empty() || self.column > WIDEST {
            return None;
        }
        let length = line.chars().count();
        let shown_to = (secret_from - 1).min(WIDEST);
        let mut shown: String = line.chars().take(shown_to).collect();
        if shown_to < length {
            shown.push('…');
        }
        // Tabs would move the marker.
        let shown = shown.replace('\t', " ");
        let width = self.width.min((shown.chars().count() + 1).saturating_sub(self.column)).max(1);
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let indent = " ".repeat(self.column - 1);
        Some(format!("  {number} | {shown}\n  {margin} | {indent}{marker}", marker = "^".repeat(width)))
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)?;
        match &self.excerpt {
            Some(excerpt) => write!(f, "\n{excerpt}"),
            None => Ok(()),
        }
    }
}

/// The nearest of `known` to what was written, if it is near enough to be what was meant.
pub(crate) fn nearest<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let written = written.to_lowercase();
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&written, &name.to_lowercase()), name))
        // A third of the letters may be wrong: `updte` is update, `foo` is not `env`.
        .filter(|(distance, name)| *distance <= (name.chars().count().max(written.chars().count()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// `; did you mean "update"?`, or the known ones where none is near.
pub(crate) fn suggestion<'a>(written: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(written, known.iter().copied()) {
        Some(name) => format!("; did you mean {name:?}?"),
        None if known.is_empty() => String::new(),
        None => format!("; known: {}", known.join(", ")),
    }
}
