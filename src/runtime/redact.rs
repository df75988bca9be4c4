//! What must not be shown of an instance's output, whatever runs it.

/// Values shorter than this are words that logs are full of.
const SECRET_MIN: usize = 6;
/// What stands in a secret's place.
const REDACTED: &str = "***";

/// Texts that are replaced wherever they stand.
pub(super) struct Redactor {
    secrets: Vec<String>,
}

impl Redactor {
    /// Hides these values, except those that everybody may know.
    pub(super) fn hiding<'a>(values: impl Iterator<Item = &'a str>, known: &[String]) -> Redactor {
        let mut secrets: Vec<String> = values
            .filter(|value| !known.iter().any(|known| known == value))
            // A value of several lines comes out line by line.
            .flat_map(|value| value.lines())
            .map(str::trim)
            .filter(|value| value.chars().count() >= SECRET_MIN)
            .map(str::to_owned)
            .collect();
        // The longest first: a secret that holds another one goes as a whole.
        secrets.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        secrets.dedup();
        Redactor { secrets }
    }

    /// The text without them.
    pub(super) fn redact(&self, mut text: String) -> String {
        for secret in &self.secrets {
            if text.contains(secret) {
                text = text.replace(secret, REDACTED);
            }
        }
        text
    }
}
