//! Which placeholders may stand where, and what is said about those that may not.

use super::error::nearest;
use crate::model::NamedPort;
use crate::model::placeholder::{self, PlaceholderError, VERSION};

/// What is known when a text is used, and so may stand in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Filled {
    /// Used before anything is placed: `{version}`.
    Version,
    /// Used once the release is found: `{version}` and `{release}`.
    Release,
    /// Used for one instance: all of them.
    All,
}

/// The texts of one component.
pub(crate) struct Texts {
    has_release: bool,
    ports: Vec<String>,
    versioned: bool,
}

impl Texts {
    /// For a component with these ports.
    pub(crate) fn new(has_release: bool, ports: &[NamedPort]) -> Self {
        Self { has_release, ports: ports.iter().map(|port| port.name.clone()).collect(), versioned: false }
    }

    /// Whether `{version}` stood in any text.
    pub(crate) fn versioned(&self) -> bool {
        self.versioned
    }

    /// Checks a text's placeholders.
    pub(crate) fn check(&mut self, text: &str, filled: Filled) -> Result<(), String> {
        for name in placeholder::placeholders(text).map_err(|error| error.to_string())? {
            self.name(&name, filled, true)?;
        }
        Ok(())
    }

    /// Checks a text that may be a secret: what is said shows nothing of it but well-known words.
    pub(crate) fn check_secret(&mut self, text: &str) -> Result<(), String> {
        for name in placeholder::placeholders(text).map_err(|error: PlaceholderError| error.to_string())? {
            self.name(&name, Filled::All, false)?;
        }
        Ok(())
    }

    fn name(&mut self, name: &str, filled: Filled, show: bool) -> Result<(), String> {
        if name == VERSION {
            self.versioned = true;
            return Ok(());
        }
        let known = self.known(filled);
        if known.iter().any(|known| known == name) {
            return Ok(());
        }
        let shown = if show { format!(" {{{name}}}") } else { String::new() };
        if placeholder::is_known(name) {
            return Err(self.not_here(name, filled, &shown));
        }
        let near = nearest(name, known.iter().map(String::as_str));
        let meant = near.map(|near| format!("; did you mean {{{near}}}?")).unwrap_or_default();
        let all: Vec<String> = known.iter().map(|name| format!("{{{name}}}")).collect();
        Err(format!("unknown placeholder{shown}{meant}; known here: {}; a brace is written {{{{", all.join(" ")))
    }

    /// A known placeholder that has no meaning for this text.
    fn not_here(&self, name: &str, filled: Filled, shown: &str) -> String {
        if filled != Filled::All && (name != "release" || filled == Filled::Version) {
            return format!("the placeholder{shown} is not known yet when this is used; {{version}} is");
        }
        match name {
            "release" => "{release} stands for nothing: the component has no `release`".to_owned(),
            "port" => "{port} stands for nothing: the component has no `ports`".to_owned(),
            _ if self.ports.is_empty() => format!("the placeholder{shown} stands for nothing: there are no `ports`"),
            _ => format!("the placeholder{shown} stands for no port; `ports` has {}", self.ports.join(", ")),
        }
    }

    fn known(&self, filled: Filled) -> Vec<String> {
        let mut known = vec![VERSION.to_owned()];
        if self.has_release && filled != Filled::Version {
            known.push("release".to_owned());
        }
        if filled == Filled::All {
            known.extend(["slot", "instance", "address"].map(str::to_owned));
            if !self.ports.is_empty() {
                known.push("port".to_owned());
            }
            known.extend(self.ports.iter().map(|port| format!("port.{port}")));
        }
        known
    }
}
