//! `{version}`, `{port}` and their kin: how a text of the manifest becomes the text that is used.
//!
//! A text is filled twice: `{version}` before planning ([`fill_some`], which leaves all else as written, escapes
//! included) and the rest on the agent ([`fill`], which leaves nothing). `{{` and `}}` are braces.

use std::collections::BTreeMap;

/// The placeholder that is filled before planning.
pub const VERSION: &str = "version";

/// The placeholders that an agent fills in. `port.NAME` stands for every name in `ports`.
pub const ON_THE_AGENT: [&str; 6] = ["release", "slot", "instance", "address", "port", "port.NAME"];

/// What is wrong with a text that holds placeholders.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceholderError {
    /// Nobody knows what it stands for.
    #[error("unknown placeholder {{{0}}}")]
    Unknown(String),
    /// A `{` that nothing ends.
    #[error("a {{ without its }} (write {{{{ for a brace)")]
    Unclosed,
    /// A `}` that nothing began.
    #[error("a }} without its {{ (write }}}} for a brace)")]
    Stray,
}

/// Whether something fills that name in: one of the known ones, or `port.` and any name.
pub fn is_known(name: &str) -> bool {
    name == VERSION
        || (name != "port.NAME" && ON_THE_AGENT.contains(&name))
        || name.strip_prefix("port.").is_some_and(|port| !port.is_empty())
}

/// Replaces every placeholder by its value and every doubled brace by one.
///
/// # Errors
/// When a placeholder is not among `values`, or a brace stands alone.
pub fn fill(template: &str, values: &BTreeMap<String, String>) -> Result<String, PlaceholderError> {
    let mut filled = String::with_capacity(template.len());
    for part in parts(template) {
        match part? {
            Part::Text(text) => filled.push_str(text),
            Part::Open => filled.push('{'),
            Part::Close => filled.push('}'),
            Part::Name(name) => {
                let value = values.get(name).ok_or_else(|| PlaceholderError::Unknown(name.to_owned()))?;
                filled.push_str(value);
            }
        }
    }
    Ok(filled)
}

/// Replaces the placeholders that are among `values` and leaves all else as written, so that the text can be filled
/// again: doubled braces stay doubled, and those of a value are doubled.
///
/// # Errors
/// When a brace stands alone.
pub fn fill_some(template: &str, values: &BTreeMap<String, String>) -> Result<String, PlaceholderError> {
    let mut filled = String::with_capacity(template.len());
    for part in parts(template) {
        match part? {
            Part::Text(text) => filled.push_str(text),
            Part::Open => filled.push_str("{{"),
            Part::Close => filled.push_str("}}"),
            Part::Name(name) => match values.get(name) {
                Some(value) => filled.push_str(&value.replace('{', "{{").replace('}', "}}")),
                None => {
                    filled.push('{');
                    filled.push_str(name);
                    filled.push('}');
                }
            },
        }
    }
    Ok(filled)
}

/// The names in a text, in order, with repetitions.
///
/// # Errors
/// When a brace stands alone. Never for an unknown name.
pub fn placeholders(template: &str) -> Result<Vec<String>, PlaceholderError> {
    let mut names = Vec::new();
    for part in parts(template) {
        if let Part::Name(name) = part? {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// A piece of a template.
enum Part<'a> {
    Text(&'a str),
    Open,
    Close,
    Name(&'a str),
}

/// Cuts a template into its pieces; after an error there are no more.
fn parts(template: &str) -> impl Iterator<Item = Result<Part<'_>, PlaceholderError>> {
    let mut rest = template;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (part, used) = next_part(rest);
        rest = if part.is_err() { "" } else { &rest[used..] };
        Some(part)
    })
}

/// The first piece of a text that is not empty, and its length in bytes.
fn next_part(rest: &str) -> (Result<Part<'_>, PlaceholderError>, usize) {
    if rest.starts_with("{{") {
        return (Ok(Part::Open), 2);
    }
    if rest.starts_with("}}") {
        return (Ok(Part::Close), 2);
    }
    if rest.starts_with('}') {
        return (Err(PlaceholderError::Stray), 1);
    }
    if let Some(inner) = rest.strip_prefix('{') {
        return match inner.find(['{', '}']) {
            Some(end) if inner[end..].starts_with('}') => (Ok(Part::Name(&inner[..end])), end + 2),
            _ => (Err(PlaceholderError::Unclosed), 1),
        };
    }
    let end = rest.find(['{', '}']).unwrap_or(rest.len());
    (Ok(Part::Text(&rest[..end])), end)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_placeholder_is_filled_and_doubled_braces_become_one() {
        let known = values(&[("port", "8080"), ("port.metrics", "9090"), ("address", "127.0.0.1")]);
        for (template, filled) in [
            ("", ""),
            ("plain", "plain"),
            ("http://{address}:{port}/health", "http://127.0.0.1:8080/health"),
            ("{port}{port.metrics}", "80809090"),
            ("${{HOME}}", "${HOME}"),
            ("{{{port}}}", "{8080}"),
            ("{{\"a\": {{}}}}", "{\"a\": {}}"),
            ("später {port}", "später 8080"),
        ] {
            assert_eq!(fill(template, &known).as_deref(), Ok(filled), "{template}");
        }
    }

    #[test]
    fn unknown_names_and_lone_braces_are_errors() {
        let known = values(&[("port", "8080")]);
        for (template, error) in [
            ("{prot}", PlaceholderError::Unknown("prot".to_owned())),
            ("{}", PlaceholderError::Unknown(String::new())),
            ("{port", PlaceholderError::Unclosed),
            ("{a{port}", PlaceholderError::Unclosed),
            ("x}", PlaceholderError::Stray),
            ("{port}}", PlaceholderError::Stray),
        ] {
            assert_eq!(fill(template, &known), Err(error), "{template}");
        }
    }

    #[test]
    fn filling_in_two_passes_gives_what_one_pass_gives() {
        let first = values(&[("version", "v{2}")]);
        let second = values(&[("port", "8080")]);
        let mut both = first.clone();
        both.extend(second.clone());
        for template in ["{version}", "{{version}}", "{{{version}}}", "{version}/{port}{{", "}}{port}"] {
            let half = fill_some(template, &first).unwrap();
            assert_eq!(fill(&half, &second), fill(template, &both), "{template} by way of {half}");
        }
    }

    #[test]
    fn known_names_are_the_documented_ones_and_every_named_port() {
        for name in ["version", "release", "slot", "instance", "address", "port", "port.http"] {
            assert!(is_known(name), "{name}");
        }
        for name in ["", "port.", "port.NAME.", "Version", "host"] {
            assert_eq!(is_known(name), name == "port.NAME.", "{name}");
        }
        assert_eq!(placeholders("{a}{{b}}{c}{a}"), Ok(vec!["a".to_owned(), "c".to_owned(), "a".to_owned()]));
    }
}
