//! Values that no log, error, journal or metric may show.

use std::fmt;

use serde::{Deserialize, Deserializer, Serializer};

/// A text that is shown as `***` everywhere and has no `Serialize` of its own: a record that held one would not
/// compile.
///
/// The spec store and the session to an agent need the value; they say so with `#[serde(with = "secret::exposed")]` on
/// a [`super::Definition`], which is never part of a record.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Secret(String);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself. Whoever calls this answers for where it goes.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Serde for maps of secrets, values included. For the spec store and the session only.
pub mod exposed_map {
    use std::collections::BTreeMap;

    use super::{Deserialize, Deserializer, Secret, Serializer};

    /// Writes the values.
    pub fn serialize<S: Serializer>(map: &BTreeMap<String, Secret>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_map(map.iter().map(|(name, value)| (name, value.expose())))
    }

    /// Reads the values.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Secret>, D::Error> {
        let plain = BTreeMap::<String, String>::deserialize(from)?;
        Ok(plain.into_iter().map(|(name, value)| (name, Secret::new(value))).collect())
    }
}

/// Serde for lists of secrets (an argv), values included. For the spec store and the session only.
pub mod exposed_list {
    use super::{Deserialize, Deserializer, Secret, Serializer};

    /// Writes the values.
    pub fn serialize<S: Serializer>(list: &[Secret], to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(Secret::expose))
    }

    /// Reads the values.
    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<Secret>, D::Error> {
        Ok(Vec::<String>::deserialize(from)?.into_iter().map(Secret::new).collect())
    }
}
