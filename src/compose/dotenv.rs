//! An env file as Compose reads it: the value of one variable replaced, and nothing else.

use std::ops::Range;

/// Where the value that counts stands, and between which quotes.
struct Found {
    value: Range<usize>,
    quote: Option<u8>,
}

/// Whether the text gives the variable a value.
pub fn has(text: &str, name: &str) -> bool {
    find(text, name).is_some()
}

/// The text with another value for the variable: in the line that counts (of several the last), with its quotes and
/// what stands behind it; in a new last line where there is none.
///
/// # Errors
/// For people, when no line could say this value.
pub fn with(text: &str, name: &str, value: &str) -> Result<String, String> {
    if value.contains(['\'', '\n', '\r', '\0']) {
        return Err("an env file cannot hold a quote or the end of a line in a value".to_owned());
    }
    // What needs no quotes needs none between any either.
    let plain = value.chars().all(|c| c.is_ascii_alphanumeric() || "_./:@+-".contains(c)) && !value.is_empty();
    let quoted = format!("'{value}'");
    let written = if plain { value } else { &quoted };
    let Some(found) = find(text, name) else {
        let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
        let before = if text.is_empty() || text.ends_with('\n') { "" } else { end };
        return Ok(format!("{text}{before}{name}={written}{end}"));
    };
    let Range { start, end } = found.value;
    Ok(match found.quote {
        Some(_) if plain => format!("{}{value}{}", &text[..start], &text[end..]),
        Some(b'\'') => format!("{}{value}{}", &text[..start], &text[end..]),
        // Double quotes would give a dollar or a backslash another meaning.
        Some(_) => format!("{}{quoted}{}", &text[..start - 1], &text[end + 1..]),
        None => format!("{}{written}{}", &text[..start], &text[end..]),
    })
}

/// The last assignment of the variable.
fn find(text: &str, name: &str) -> Option<Found> {
    let bytes = text.as_bytes();
    let line_end = |from: usize| bytes[from..].iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |n| from + n);
    let (mut at, mut last) = (0, None);
    while at < bytes.len() {
        let end = line_end(at);
        let line = &text[at..end];
        let key = line.trim_start();
        let (key, sign) = match key.find(['=', ':']).filter(|_| !key.starts_with('#')) {
            Some(sign) => (key[..sign].trim(), at + (line.len() - key.len()) + sign),
            None => {
                at = end + 1;
                continue;
            }
        };
        let key = key.strip_prefix("export").filter(|rest| rest.starts_with([' ', '\t'])).map_or(key, str::trim_start);
        let blanks = bytes[sign + 1..end].iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
        let start = sign + 1 + blanks;
        let quote = bytes.get(start).copied().filter(|byte| matches!(byte, b'\'' | b'"'));
        // A quoted value may go on over several lines.
        let closed = quote.and_then(|quote| {
            let inside = start + 1;
            (inside..bytes.len()).find(|place| bytes[*place] == quote && bytes[place - 1] != b'\\')
        });
        let found = match (quote, closed) {
            (Some(quote), Some(closed)) => Found { value: start + 1..closed, quote: Some(quote) },
            _ => Found { value: start..start + bare(&text[start..end]), quote: None },
        };
        at = line_end(found.value.end) + 1;
        if key == name {
            last = Some(found);
        }
    }
    last
}

/// The length of a value without quotes: up to a comment, without the blanks around.
fn bare(rest: &str) -> usize {
    let comment = rest.match_indices('#').find(|(place, _)| rest[..*place].ends_with([' ', '\t'])).map(|(at, _)| at);
    rest[..comment.unwrap_or(rest.len())].trim_end().len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_value_changes() {
        for (before, after) in [
            ("TAG=1\n", "TAG=v2\n"),
            ("# TAG=0\nA=b\n\n  export TAG = 1  # why\nB='c'\n", "# TAG=0\nA=b\n\n  export TAG = v2  # why\nB='c'\n"),
            ("TAG=\"1\" # x\n", "TAG=\"v2\" # x\n"),
            ("TAG='1'", "TAG='v2'"),
            ("TAG: 1\n", "TAG: v2\n"),
            ("TAG=\nOTHER=1\n", "TAG=v2\nOTHER=1\n"),
            ("TAG=1#no-comment\n", "TAG=v2\n"),
            ("TAG=1\r\nB=2\r\n", "TAG=v2\r\nB=2\r\n"),
            // Of several the last counts.
            ("TAG=1\nTAG=2\n", "TAG=1\nTAG=v2\n"),
            // What looks like a line of ours inside of a value is none.
            ("X='\nTAG=5\n'\nTAG=7\n", "X='\nTAG=5\n'\nTAG=v2\n"),
            ("X=\"a\\\"\nTAG=5\n\"\nTAG=7\n", "X=\"a\\\"\nTAG=5\n\"\nTAG=v2\n"),
            ("MYTAG=1\nTAGS=2\n", "MYTAG=1\nTAGS=2\nTAG=v2\n"),
            ("A=1", "A=1\nTAG=v2\n"),
            ("A=1\r\n", "A=1\r\nTAG=v2\r\n"),
            ("TAG\n", "TAG\nTAG=v2\n"),
            ("", "TAG=v2\n"),
        ] {
            assert_eq!(with(before, "TAG", "v2").unwrap(), after, "{before:?}");
            assert!(has(&with(before, "TAG", "v2").unwrap(), "TAG"));
        }
    }

    #[test]
    fn a_value_that_needs_quotes_gets_them() {
        assert_eq!(with("TAG=1 # c\n", "TAG", "a b$c").unwrap(), "TAG='a b$c' # c\n");
        assert_eq!(with("TAG=\"1\"\n", "TAG", "a$c").unwrap(), "TAG='a$c'\n");
        assert_eq!(with("TAG='1'\n", "TAG", "a$c").unwrap(), "TAG='a$c'\n");
        assert!(with("TAG=1\n", "TAG", "it's").is_err() && with("", "TAG", "a\nB=c").is_err());
        assert!(!has("# TAG=1\nTAGS=1\nTAG\n", "TAG"));
    }
}
