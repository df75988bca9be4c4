//! Names and numbers. Each is its own type, so that a slot cannot be taken for an instance.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Why a text is not an id of the kind asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {kind}: {rule}")]
pub struct IdError {
    /// What was given.
    pub text: String,
    /// What it was meant to be.
    pub kind: &'static str,
    /// The rule that it breaks.
    pub rule: &'static str,
}

const NAME_RULE: &str = "lower-case letters, digits, '-' and '_', at most 63, beginning with a letter or digit";

/// Exact characters, no path separators, no dots: a name is used in file names and must not be able to leave a folder.
fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    text.len() <= 63
        && bytes.next().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_')
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $kind:literal) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// Checks the text and makes the name.
            ///
            /// # Errors
            /// When the text is empty, longer than 63 bytes, or has a character that a name may not have.
            pub fn new(text: impl Into<String>) -> Result<Self, IdError> {
                let text = text.into();
                if is_name(&text) { Ok(Self(text)) } else { Err(IdError { text, kind: $kind, rule: NAME_RULE }) }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                Self::new(text)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                Self::new(String::deserialize(from)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

name_type!(
    /// Everything that one manifest describes; on Compose, the project.
    FleetName,
    "fleet name"
);
name_type!(
    /// A group of like slots: `worker`, `api`.
    ComponentName,
    "component name"
);
name_type!(
    /// An agent: the sidecar that runs beside components and acts on their instances.
    AgentId,
    "agent id"
);
name_type!(
    /// The identity of a coordinator and its journal. An agent obeys one.
    CoordinatorId,
    "coordinator id"
);
name_type!(
    /// The random id of a roll: command ids carry it, so that a restored journal cannot reuse one by chance.
    RollId,
    "roll id"
);

/// A hash in lower-case hex (SHA-256).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digest(pub String);

impl Digest {
    /// The first twelve characters, for people.
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

macro_rules! number_type {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number_type!(
    /// A coordinator's incarnation number: grows at every start, fences every older one.
    Term,
    u64
);
number_type!(
    /// The number of a roll, for people.
    RollNumber,
    u64
);
number_type!(
    /// A step's place in its plan, from 0.
    StepId,
    u32
);
number_type!(
    /// Which try of a step this is, from 1.
    Attempt,
    u32
);

/// A place in a component: `worker-2`. Keeps its name and its agent across rolls. Indexes begin at 1.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SlotName {
    /// The component.
    pub component: ComponentName,
    /// The place, from 1.
    pub index: u32,
}

impl SlotName {
    /// The slot `component-index`.
    pub fn new(component: ComponentName, index: u32) -> Self {
        Self { component, index }
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}-{}", self.component, self.index))
    }
}

impl FromStr for SlotName {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError { text: text.to_owned(), kind: "slot", rule: "a component, '-', and a number from 1" };
        let (component, index) = text.rsplit_once('-').ok_or_else(wrong)?;
        let plain = !index.is_empty() && index.bytes().all(|b| b.is_ascii_digit()) && !index.starts_with('0');
        let index = if plain { index.parse().map_err(|_| wrong())? } else { return Err(wrong()) };
        Ok(Self { component: ComponentName::new(component)?, index })
    }
}

/// One incarnation in a slot: `worker-2.7`. The number grows and is never used again.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId {
    /// The slot.
    pub slot: SlotName,
    /// The incarnation, from 1.
    pub number: u64,
}

impl InstanceId {
    /// The instance `slot.number`.
    pub fn new(slot: SlotName, number: u64) -> Self {
        Self { slot, number }
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}.{}", self.slot, self.number))
    }
}

impl FromStr for InstanceId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError { text: text.to_owned(), kind: "instance", rule: "a slot, '.', and a number from 1" };
        let (slot, number) = text.rsplit_once('.').ok_or_else(wrong)?;
        let plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number = if plain { number.parse().map_err(|_| wrong())? } else { return Err(wrong()) };
        Ok(Self { slot: slot.parse()?, number })
    }
}

/// The identity of a command, which survives retries of its delivery: (roll, first step, attempt).
///
/// The same id always carries the same body; an agent refuses the same id with another one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommandId {
    /// The roll's random id.
    pub roll: RollId,
    /// The first step of the list.
    pub step: StepId,
    /// Which try of that step.
    pub attempt: Attempt,
}

impl fmt::Display for CommandId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&format!("{}/{}/{}", self.roll, self.step, self.attempt))
    }
}

impl FromStr for CommandId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let wrong = || IdError { text: text.to_owned(), kind: "command id", rule: "ROLL/STEP/ATTEMPT" };
        let mut parts = text.split('/');
        let (Some(roll), Some(step), Some(attempt), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(wrong());
        };
        Ok(Self {
            roll: RollId::new(roll)?,
            step: StepId(step.parse().map_err(|_| wrong())?),
            attempt: Attempt(attempt.parse().map_err(|_| wrong())?),
        })
    }
}

/// Written as text, so that they can be keys of a JSON object.
macro_rules! text_serde {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
                to.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
                String::deserialize(from)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

text_serde!(SlotName);
text_serde!(InstanceId);
text_serde!(CommandId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_read_back_what_they_print_and_refuse_the_rest() {
        for text in ["worker-2", "my-worker-12"] {
            assert_eq!(text.parse::<SlotName>().unwrap().to_string(), text);
        }
        assert_eq!("worker-2.7".parse::<InstanceId>().unwrap().to_string(), "worker-2.7");
        assert_eq!("r1/4/2".parse::<CommandId>().unwrap().to_string(), "r1/4/2");
        for text in ["worker", "worker-", "worker-0", "worker-02", "-1", "Worker-1", "../x-1", "worker-+1"] {
            assert!(text.parse::<SlotName>().is_err(), "{text} was taken for a slot");
        }
        for text in ["worker-2", "worker-2.", "worker-2.x", "worker-2.+1"] {
            assert!(text.parse::<InstanceId>().is_err(), "{text} was taken for an instance");
        }
        assert!(FleetName::new("a".repeat(63)).is_ok());
        assert!(FleetName::new("a".repeat(64)).is_err());
        assert!(FleetName::new("a/b").is_err());
    }
}
