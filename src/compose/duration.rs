//! Durations as Compose writes them: `1h0m0s`, `1.5s`, `250ms`.

use std::time::Duration;

/// Reads a duration of Go. `None`: it is none, or a negative one.
pub(super) fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        rest = &rest[end..];
        sum = sum.checked_add(Duration::try_from_secs_f64(number * unit).ok()?)?;
    }
    (!text.trim().is_empty()).then_some(sum)
}

/// As the manifest reads it: to the millisecond, and never zero where it was more.
pub(super) fn written(span: Duration) -> String {
    format!("{}ms", if span.is_zero() { 0 } else { span.as_millis().max(1) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_of_go_are_read_and_nothing_else() {
        for (text, millis) in [
            ("1h0m0s", 3_600_000),
            ("1.5s", 1500),
            ("1m30s", 90_000),
            ("250ms", 250),
            ("0", 0),
            ("0s", 0),
            ("2h", 7_200_000),
        ] {
            assert_eq!(parse(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", " ", "5", "-5s", "5d", "s", "1.2.3s", "1m30"] {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!(written(Duration::from_micros(3)), "1ms");
        assert_eq!(written(Duration::ZERO), "0ms");
    }
}
