//! How a record is written, and the chain that shows when one was changed, removed or put elsewhere.

use sha2::{Digest as _, Sha256};

use super::{Entry, Head};
use crate::model::Recordable;

/// The version that records are written in. It grows when a record changes so that an older Baton would misread it;
/// every version up to this one is read.
pub const CODEC: u32 = 1;

/// The largest record, in bytes of JSON. A plan of a thousand slots is about 3 MiB; ten times that, and something is
/// wrong that should not be made durable.
pub(super) const PAYLOAD_MAX: usize = 32 * 1024 * 1024;

/// Why a record cannot be written or read.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    /// Written in a version that this Baton does not read.
    #[error("it is written in codec {found}, this Baton reads up to {CODEC}")]
    Version {
        /// In it.
        found: u32,
    },
    /// Its kind or its content is not known.
    #[error("a record of kind {kind:?} cannot be read here")]
    Unreadable {
        /// By the column.
        kind: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The column says something else than the record.
    #[error("it is filed as {column:?} and is {record:?}")]
    Misfiled {
        /// By the column.
        column: String,
        /// By the record.
        record: &'static str,
    },
    /// A note was to be appended: a fault of the code.
    #[error("{kind} is a note, and notes are never appended")]
    Note {
        /// Its kind.
        kind: &'static str,
    },
    /// Beyond the limit.
    #[error("a record of kind {kind} has {bytes} bytes, the limit is {PAYLOAD_MAX}")]
    TooLarge {
        /// Its kind.
        kind: &'static str,
        /// Its size.
        bytes: usize,
    },
    /// It cannot be expressed in JSON: a fault of the code.
    #[error("cannot encode a record of kind {kind}")]
    Unwritable {
        /// Its kind.
        kind: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

/// A fact as JSON text.
pub(super) fn encode<R: Recordable>(record: &R) -> Result<String, CodecError> {
    let kind = record.kind();
    if !record.is_fact() {
        return Err(CodecError::Note { kind });
    }
    let payload = serde_json::to_string(record).map_err(|source| CodecError::Unwritable { kind, source })?;
    if payload.len() > PAYLOAD_MAX {
        return Err(CodecError::TooLarge { kind, bytes: payload.len() });
    }
    Ok(payload)
}

/// A record from its JSON text, in whichever version it was written.
pub(super) fn decode<R: Recordable>(codec: u32, kind: &str, payload: &str) -> Result<R, CodecError> {
    match codec {
        CODEC => {
            let record: R = serde_json::from_str(payload)
                .map_err(|source| CodecError::Unreadable { kind: kind.to_owned(), source })?;
            if record.kind() == kind {
                Ok(record)
            } else {
                Err(CodecError::Misfiled { column: kind.to_owned(), record: record.kind() })
            }
        }
        found => Err(CodecError::Version { found }),
    }
}

/// A link of the chain.
pub(super) type Hash = [u8; 32];

/// What the first record is chained to: a journal's records do not fit into another one's.
pub(super) fn first_hash(fleet: &str, kind: &str) -> Hash {
    let mut sum = Sum(Sha256::new());
    sum.text("baton journal").text(fleet).text(kind);
    sum.end()
}

/// The hash of one record: over the hash of the record before, its head and its text.
pub(super) fn next_hash(before: &Hash, head: &Head, kind: &str, codec: u32, payload: &str) -> Hash {
    let Head { sequence, at, wall_ms, boot_id, boottime_ms, roll, term, actor } = head;
    let mut sum = Sum(Sha256::new());
    sum.bytes(before).number(*sequence).number(at.0).number(*wall_ms).text(boot_id).number(*boottime_ms);
    sum.text(roll).number(*term).text(actor).text(kind).number(u64::from(codec)).text(payload);
    sum.end()
}

/// A hash over fields: each with its length, so that nothing can move from one field to the next unseen.
struct Sum(Sha256);

impl Sum {
    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    fn number(&mut self, number: u64) -> &mut Self {
        self.0.update(number.to_le_bytes());
        self
    }

    fn end(self) -> Hash {
        self.0.finalize().into()
    }
}

/// A record as it lies in the journal.
pub(super) struct Row {
    pub(super) head: Head,
    pub(super) kind: String,
    pub(super) codec: u32,
    pub(super) payload: String,
    pub(super) hash: Hash,
}

impl Row {
    /// Encodes a fact and chains it to the one before.
    pub(super) fn new<R: Recordable>(before: &Hash, entry: &Entry<R>) -> Result<Row, CodecError> {
        let (head, kind, payload) = (entry.head.clone(), entry.record.kind().to_owned(), encode(&entry.record)?);
        let hash = next_hash(before, &head, &kind, CODEC, &payload);
        Ok(Row { head, kind, codec: CODEC, payload, hash })
    }

    /// Whether it is what was written after the record with the hash `before`.
    pub(super) fn follows(&self, before: &Hash) -> bool {
        next_hash(before, &self.head, &self.kind, self.codec, &self.payload) == self.hash
    }
}

/// Lower-case hex.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A hash from its lower-case hex.
pub(super) fn unhex(text: &str) -> Option<Hash> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let bytes: Option<Vec<u8>> = text
        .as_bytes()
        .chunks(2)
        .map(|pair| match pair {
            [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
            _ => None,
        })
        .collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::testing::{Toy, entry};
    use crate::model::Timestamp;

    #[test]
    fn what_is_written_reads_back_and_a_note_is_never_written() {
        let fact = Toy::Added { amount: 3, text: "ü\n\"".to_owned() };
        assert_eq!(decode::<Toy>(CODEC, fact.kind(), &encode(&fact).unwrap()).unwrap(), fact);
        assert!(matches!(encode(&Toy::Seen { count: 1 }), Err(CodecError::Note { kind: "seen" })));
    }

    #[test]
    fn unknown_versions_and_kinds_are_refused() {
        let text = encode(&Toy::Removed).unwrap();
        assert!(matches!(decode::<Toy>(CODEC + 1, "removed", &text), Err(CodecError::Version { found: 2 })));
        assert!(matches!(decode::<Toy>(0, "removed", &text), Err(CodecError::Version { found: 0 })));
        assert!(matches!(decode::<Toy>(CODEC, "added", &text), Err(CodecError::Misfiled { .. })));
        let unknown = decode::<Toy>(CODEC, "exploded", r#"{"exploded":{}}"#).unwrap_err();
        assert!(matches!(unknown, CodecError::Unreadable { ref kind, .. } if kind == "exploded"), "{unknown}");
    }

    #[test]
    fn a_record_at_the_limit_is_written_and_one_beyond_is_not() {
        let of_size = |bytes: usize| {
            let empty = encode(&Toy::Added { amount: 0, text: String::new() }).unwrap().len();
            encode(&Toy::Added { amount: 0, text: "x".repeat(bytes - empty) })
        };
        assert_eq!(of_size(PAYLOAD_MAX).unwrap().len(), PAYLOAD_MAX);
        assert!(matches!(of_size(PAYLOAD_MAX + 1), Err(CodecError::TooLarge { .. })));
    }

    #[test]
    fn every_field_of_a_record_is_in_its_hash() {
        let before = first_hash("orders", "coordinator");
        let row = Row::new(&before, &entry(1, Toy::Removed)).unwrap();
        assert!(row.follows(&before));
        assert!(!row.follows(&first_hash("orders", "ledger")));
        assert!(!row.follows(&first_hash("other", "coordinator")));
        let changes: [fn(&mut Row); 11] = [
            |row| row.head.sequence += 1,
            |row| row.head.at = Timestamp(row.head.at.0 + 1),
            |row| row.head.wall_ms += 1,
            |row| row.head.boot_id.push('x'),
            |row| row.head.boottime_ms += 1,
            |row| row.head.roll.push('x'),
            |row| row.head.term += 1,
            |row| row.head.actor.push('x'),
            |row| row.kind.push('x'),
            |row| row.codec += 1,
            |row| row.payload.push(' '),
        ];
        for (number, change) in changes.into_iter().enumerate() {
            let mut row = Row::new(&before, &entry(1, Toy::Removed)).unwrap();
            change(&mut row);
            assert!(!row.follows(&before), "change {number} was not seen");
        }
        // Nothing moves from one field to the next.
        let mut row = Row::new(&before, &entry(1, Toy::Removed)).unwrap();
        let first = row.head.actor.remove(0);
        row.head.roll.push(first);
        row.hash = next_hash(&before, &row.head, &row.kind, row.codec, &row.payload);
        assert_ne!(row.hash, Row::new(&before, &entry(1, Toy::Removed)).unwrap().hash);
    }

    #[test]
    fn hashes_read_back_from_hex() {
        let hash = first_hash("a", "b");
        assert_eq!(unhex(&hex(&hash)), Some(hash));
        for wrong in ["", "0", "zz", &hex(&hash)[1..], &hex(&hash).to_uppercase(), &format!("{}00", hex(&hash))] {
            assert_eq!(unhex(wrong), None, "{wrong}");
        }
    }
}
