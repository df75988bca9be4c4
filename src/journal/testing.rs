//! A toy record for this room's tests.

use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::{Entry, Head};
use crate::model::{Recordable, Timestamp};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "record")]
pub(super) enum Toy {
    Added {
        amount: u64,
        text: String,
    },
    Removed,
    Lossy {
        kept: u64,
        #[serde(skip)]
        lost: u64,
    },
    Seen {
        count: u64,
    },
}

impl Recordable for Toy {
    fn kind(&self) -> &'static str {
        match self {
            Toy::Added { .. } => "added",
            Toy::Removed => "removed",
            Toy::Lossy { .. } => "lossy",
            Toy::Seen { .. } => "seen",
        }
    }

    fn is_fact(&self) -> bool {
        !matches!(self, Toy::Seen { .. })
    }
}

pub(super) fn entry(sequence: u64, record: Toy) -> Entry<Toy> {
    let head = Head {
        sequence,
        at: Timestamp(sequence * 10),
        wall_ms: 1_700_000_000_000 + sequence,
        boot_id: "boot-1".to_owned(),
        boottime_ms: 5000 + sequence,
        roll: "0123456789ab".to_owned(),
        term: 3,
        actor: "operator".to_owned(),
    };
    Entry { head, record }
}

pub(super) fn entries(range: RangeInclusive<u64>) -> Vec<Entry<Toy>> {
    range.map(|number| entry(number, Toy::Added { amount: number, text: format!("text {number}") })).collect()
}
