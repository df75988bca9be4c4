//! One helper that prints an error with its causes. Errors keep the cause as their source and out of their own text.

/// The error and everything that caused it, outermost first: `cannot open journal x: disk I/O error`.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        // Some libraries repeat their cause in their own text.
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}
