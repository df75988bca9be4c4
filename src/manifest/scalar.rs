//! The small types of a written manifest: each reads one kind of value and says in words what it expects.
//!
//! None of their errors repeats what stands in an argv or an environment.

use std::borrow::Cow;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Error;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::suggestion;
use crate::model::{ApiAt, Condition, FailureAction, Order, Placement, Port, PortRef, RuntimeKind, Strategy};

/// The longest duration that makes sense here. It also catches `5M`, which is five months.
const LONGEST: Duration = Duration::from_secs(31 * 24 * 60 * 60);

/// A duration in humantime: `5m`, `1m 30s`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span(pub Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::String(text) => span(&text).map(Span).map_err(D::Error::custom),
            Value::Number(number) => Err(D::Error::custom(unitless(&number.to_string()))),
            other => Err(D::Error::custom(format!("expected a duration like 30s or 5m, not {}", kind(&other)))),
        }
    }
}

fn unitless(text: &str) -> String {
    format!("the duration {text} has no unit; write 30s or 5m")
}

fn span(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    if !trimmed.is_empty() && trimmed.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(unitless(trimmed));
    }
    let span = humantime::parse_duration(trimmed)
        .map_err(|_| format!("{text:?} is not a duration; write 30s or 5m (units: ms, s, m, h, d)"))?;
    if span > LONGEST {
        return Err(format!("the duration {text:?} is longer than 31 days (m is minutes, M is months)"));
    }
    if span.subsec_nanos() % 1_000_000 != 0 {
        return Err(format!("the duration {text:?} is finer than a millisecond"));
    }
    Ok(span)
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A duration with its unit: 250ms, 30s, 5m, 1m 30s, 2h.",
            "pattern": "^\\s*[0-9]+(\\.[0-9]+)?\\s*[a-zA-Z]+(\\s*[0-9]+(\\.[0-9]+)?\\s*[a-zA-Z]+)*\\s*$",
        })
    }
}

/// A whole number from 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Count(pub u32);

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        let count = value.as_u64().and_then(|number| u32::try_from(number).ok());
        count.map(Count).ok_or_else(|| {
            let what = if value.is_number() { value.to_string() } else { kind(&value).to_owned() };
            D::Error::custom(format!("expected a whole number from 0, not {what}"))
        })
    }
}

impl JsonSchema for Count {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })
    }
}

/// A share from 0 to 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Share(pub f64);

impl<'de> Deserialize<'de> for Share {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        match value.as_f64() {
            Some(share) if (0.0..=1.0).contains(&share) => Ok(Share(share)),
            Some(share) => Err(D::Error::custom(format!("expected a share from 0 to 1, not {share}"))),
            None => Err(D::Error::custom(format!("expected a share from 0 to 1, not {}", kind(&value)))),
        }
    }
}

impl JsonSchema for Share {
    fn schema_name() -> Cow<'static, str> {
        "Share".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "number", "minimum": 0, "maximum": 1 })
    }
}

/// A text. Numbers and the like are refused, with the hint to quote them.
#[derive(Clone, Debug)]
pub(crate) struct Text(pub String);

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::String(text) => Ok(Text(text)),
            Value::Array(_) => Err(D::Error::custom("expected a text, not a list")),
            Value::Object(_) => Err(D::Error::custom("expected a text, not a mapping")),
            other => Err(D::Error::custom(format!("expected a text, not {}; put it in quotes", kind(&other)))),
        }
    }
}

impl JsonSchema for Text {
    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// The value of an environment variable; numbers and booleans have become the text that was written.
#[derive(Clone, Debug)]
pub(crate) struct EnvValue(pub String);

impl<'de> Deserialize<'de> for EnvValue {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::String(text) => Ok(EnvValue(text)),
            other => Err(D::Error::custom(format!("expected a text, number or boolean, not {}", kind(&other)))),
        }
    }
}

impl JsonSchema for EnvValue {
    fn schema_name() -> Cow<'static, str> {
        "EnvValue".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "number", "boolean"] })
    }
}

/// A program and its arguments; numbers and booleans have become the text that was written.
#[derive(Clone, Debug)]
pub(crate) struct Argv(pub Vec<String>);

impl<'de> Deserialize<'de> for Argv {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const HOW: &str = "write a list: [\"program\", \"--flag\", \"value\"]; for a shell, [\"sh\", \"-c\", \"...\"]";
        let Value::Array(items) = Value::deserialize(from)? else {
            return Err(D::Error::custom(format!("expected a program and its arguments; {HOW}")));
        };
        let words: Option<Vec<String>> = items
            .into_iter()
            .map(|item| match item {
                Value::String(word) => Some(word),
                _ => None,
            })
            .collect();
        match words {
            Some(words) if words.first().is_some_and(|program| !program.is_empty()) => Ok(Argv(words)),
            Some(_) => Err(D::Error::custom(format!("names no program; {HOW}"))),
            None => Err(D::Error::custom(format!("every argument is a text; {HOW}"))),
        }
    }
}

impl JsonSchema for Argv {
    fn schema_name() -> Cow<'static, str> {
        "Argv".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "array",
            "description": "A program and its arguments, one by one; no shell reads them.",
            "items": { "type": ["string", "number", "boolean"] },
            "minItems": 1,
        })
    }
}

/// Words that stand for a value each.
pub(crate) trait Named: Copy + 'static {
    /// Every word and what it stands for. Of two words for the same, the first is the documented one.
    const WORDS: &'static [(&'static str, Self)];
    /// How many of them the schema shows; the rest is understood but not advertised.
    const SHOWN: usize = Self::WORDS.len();
}

/// One of a few words.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Choice<T>(pub T);

impl<'de, T: Named> Deserialize<'de> for Choice<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let known = || T::WORDS[..T::SHOWN].iter().map(|(word, _)| *word);
        let value = Value::deserialize(from)?;
        let Some(text) = value.as_str() else {
            let all: Vec<&str> = known().collect();
            return Err(D::Error::custom(format!("expected one of {}, not {}", all.join(", "), kind(&value))));
        };
        match T::WORDS.iter().find(|(word, _)| *word == text) {
            Some((_, meant)) => Ok(Choice(*meant)),
            None => Err(D::Error::custom(format!("{text:?} is not known here{}", suggestion(text, known())))),
        }
    }
}

impl<T: Named> JsonSchema for Choice<T> {
    fn schema_name() -> Cow<'static, str> {
        "Choice".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = T::WORDS[..T::SHOWN].iter().map(|(word, _)| *word).collect();
        json_schema!({ "type": "string", "enum": words })
    }
}

impl Named for Strategy {
    const WORDS: &'static [(&'static str, Self)] = &[("staged", Strategy::Staged), ("rolling", Strategy::Rolling)];
}

impl Named for ApiAt {
    const WORDS: &'static [(&'static str, Self)] =
        &[("last", ApiAt::Last), ("first", ApiAt::First), ("quiet", ApiAt::Quiet)];
}

impl Named for RuntimeKind {
    const WORDS: &'static [(&'static str, Self)] =
        &[("docker", RuntimeKind::Docker), ("process", RuntimeKind::Process)];
}

impl Named for Order {
    const WORDS: &'static [(&'static str, Self)] =
        &[("start-first", Order::StartFirst), ("stop-first", Order::StopFirst)];
}

impl Named for Placement {
    const WORDS: &'static [(&'static str, Self)] = &[("component", Placement::Component)];
}

impl Named for FailureAction {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("rollback", FailureAction::Rollback),
        ("pause", FailureAction::Pause),
        ("continue", FailureAction::Continue),
    ];
}

/// What a failure does to a rollback, which is never rolled back itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BackAction(pub FailureAction);

impl Named for BackAction {
    const WORDS: &'static [(&'static str, Self)] =
        &[("pause", BackAction(FailureAction::Pause)), ("continue", BackAction(FailureAction::Continue))];
}

impl Named for Condition {
    // Compose's words for the same, understood because they are what people have in their fingers.
    const WORDS: &'static [(&'static str, Self)] = &[
        ("started", Condition::Started),
        ("ready", Condition::Ready),
        ("completed", Condition::Completed),
        ("service_started", Condition::Started),
        ("service_healthy", Condition::Ready),
        ("service_completed_successfully", Condition::Completed),
    ];
    const SHOWN: usize = 3;
}

/// The short form of a port.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PortWord(pub Port);

impl<'de> Deserialize<'de> for PortWord {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(from)?;
        if value.as_str() == Some("auto") {
            return Ok(PortWord(Port::Auto));
        }
        let number = value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
        number.map(|number| PortWord(Port::Number(number))).ok_or_else(|| {
            let what = if value.is_number() || value.is_string() { value.to_string() } else { kind(&value).to_owned() };
            D::Error::custom(format!("expected auto, or a number from 1 to 65535, not {what}"))
        })
    }
}

impl JsonSchema for PortWord {
    fn schema_name() -> Cow<'static, str> {
        "Port".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string", "enum": ["auto"] },
            { "type": "integer", "minimum": 1, "maximum": 65535 },
        ] })
    }
}

/// A port named elsewhere in the manifest.
#[derive(Clone, Debug)]
pub(crate) struct PortName(pub PortRef);

impl<'de> Deserialize<'de> for PortName {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match Value::deserialize(from)? {
            Value::String(name) => Ok(PortName(PortRef::Name(name))),
            value => match value.as_u64().and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0) {
                Some(number) => Ok(PortName(PortRef::Number(number))),
                None => Err(D::Error::custom("expected a name from `ports`, or a number from 1 to 65535")),
            },
        }
    }
}

impl JsonSchema for PortName {
    fn schema_name() -> Cow<'static, str> {
        "PortName".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [
            { "type": "string" },
            { "type": "integer", "minimum": 1, "maximum": 65535 },
        ] })
    }
}

/// The one-word form of `traffic`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NoTraffic;

impl<'de> Deserialize<'de> for NoTraffic {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        const HOW: &str = "write `traffic: { gateway: { listen: \":8080\", port: http } }`, or none";
        match Value::deserialize(from)?.as_str() {
            Some("none") => Ok(NoTraffic),
            Some("haproxy") => Err(D::Error::custom(
                "haproxy needs to know more; write `traffic: { haproxy: { socket: /run/haproxy/admin.sock, port: http \
                 } }`",
            )),
            _ => Err(D::Error::custom(format!("not a kind of traffic; {HOW}"))),
        }
    }
}

impl JsonSchema for NoTraffic {
    fn schema_name() -> Cow<'static, str> {
        "NoTraffic".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": ["none"] })
    }
}

/// What a value is, without showing it.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a mapping",
    }
}
