//! What only the agent can fill in: `{release} {slot} {instance} {address} {port} {port.NAME}`.

use std::collections::BTreeMap;

use crate::model::{Definition, InstanceId};

/// Why a text cannot be filled in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FillError {
    /// There is no value of that name.
    #[error("unknown placeholder {{{name}}}; known here: {known}")]
    Unknown {
        /// As written.
        name: String,
        /// What there is, for people.
        known: String,
    },
    /// A brace opens and never closes.
    #[error("a brace opens and is not closed; write {{{{ for a brace")]
    Open,
}

/// Fills the placeholders of a text. `{{` and `}}` are braces.
///
/// # Errors
/// When a placeholder has no value, or a brace is left open. The text itself is in no error: it may be a secret.
pub fn fill(text: &str, values: &BTreeMap<String, String>) -> Result<String, FillError> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        filled.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            filled.push_str(brace);
            rest = after;
        } else if brace == "}" {
            filled.push('}');
        } else {
            let end = rest.find('}').ok_or(FillError::Open)?;
            let name = &rest[..end];
            let value = values.get(name).ok_or_else(|| FillError::Unknown {
                name: name.to_owned(),
                known: values.keys().cloned().collect::<Vec<_>>().join(", "),
            })?;
            filled.push_str(value);
            rest = &rest[end + 1..];
        }
    }
    filled.push_str(rest);
    Ok(filled)
}

/// Writes a text so that [`fill`] gives it back as it is.
pub fn escape(text: &str) -> String {
    text.replace('{', "{{").replace('}', "}}")
}

/// The values of one instance. `ports`: numbers by name, as its keeper chose them.
pub fn values(
    definition: &Definition,
    instance: &InstanceId,
    address: &str,
    ports: &BTreeMap<String, u16>,
) -> BTreeMap<String, String> {
    let mut values = BTreeMap::from([
        ("slot".to_owned(), instance.slot.to_string()),
        ("instance".to_owned(), instance.to_string()),
        ("address".to_owned(), address.to_owned()),
    ]);
    if let Some(release) = &definition.release {
        values.insert("release".to_owned(), release.path.clone());
    }
    for (at, named) in definition.ports.iter().enumerate() {
        let Some(port) = ports.get(&named.name) else { continue };
        values.insert(format!("port.{}", named.name), port.to_string());
        if at == 0 {
            values.insert("port".to_owned(), port.to_string());
        }
    }
    values
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_filled_and_doubled_braces_are_braces() {
        let values = BTreeMap::from([("port".to_owned(), "80".to_owned()), ("port.admin".to_owned(), "81".to_owned())]);
        for (text, wanted) in [
            ("", ""),
            ("plain", "plain"),
            (":{port}/{port.admin}", ":80/81"),
            (r#"{{"a": {port}}}"#, r#"{"a": 80}"#),
            ("a } b", "a } b"),
            ("{{port}}", "{port}"),
        ] {
            // A brace that closes a placeholder is taken first; what follows it stands for itself.
            assert_eq!(fill(text, &values).unwrap(), wanted, "{text}");
        }
        assert!(matches!(fill("{nothing}", &values), Err(FillError::Unknown { name, .. }) if name == "nothing"));
        assert_eq!(fill("{port", &values), Err(FillError::Open));
        assert_eq!(fill(&escape("/a{b}c}}"), &values).unwrap(), "/a{b}c}}");
    }
}
