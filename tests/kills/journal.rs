//! The coordinator's journal, read from outside while it is being written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::lines::now_ms;
use baton::engine::Record;
use baton::model::{Recordable, SlotName, StepId};
use baton::node::CoordinatorRecord;
use rusqlite::{Connection, OpenFlags};

/// One record as this test sees it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Its kind, and for those about steps what the steps do: `step-ended drain`.
    pub label: String,
    /// When it was seen, in milliseconds since the boot.
    pub at: u64,
    /// Whom it is about.
    pub slot: Option<SlotName>,
}

/// The kind in a label.
pub fn kind_of(label: &str) -> &str {
    label.split(' ').next().unwrap_or(label)
}

/// The step kinds in a label.
pub fn steps_of(label: &str) -> impl Iterator<Item = &str> {
    label.split(' ').skip(1)
}

/// A reader that goes on where it was.
pub struct Reader {
    path: PathBuf,
    open: Option<Connection>,
    read_to: u64,
    steps: BTreeMap<StepId, (&'static str, Option<SlotName>)>,
}

impl Reader {
    /// Begins after what is there.
    pub fn new(path: &Path) -> Self {
        let mut reader = Self { path: path.to_owned(), open: None, read_to: 0, steps: BTreeMap::new() };
        while !reader.news().is_empty() {}
        reader
    }

    /// What was appended since the last look; nothing while the file cannot be read.
    pub fn news(&mut self) -> Vec<Seen> {
        match self.rows() {
            Ok(rows) => rows.into_iter().map(|(sequence, payload)| self.take(sequence, &payload)).collect(),
            // Between a kill and a start the write-ahead log may be nobody's: asked again with a new connection.
            Err(_) => {
                self.open = None;
                Vec::new()
            }
        }
    }

    fn rows(&mut self) -> rusqlite::Result<Vec<(u64, String)>> {
        if self.open.is_none() {
            let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
            self.open = Some(Connection::open_with_flags(&self.path, flags)?);
        }
        let connection = self.open.as_ref().expect("just opened");
        let mut rows =
            connection.prepare_cached("SELECT sequence, payload FROM records WHERE sequence > ?1 ORDER BY sequence")?;
        rows.query_map([i64::try_from(self.read_to).expect("a short journal")], |row| {
            Ok((row.get::<_, i64>(0)?.unsigned_abs(), row.get::<_, String>(1)?))
        })?
        .collect()
    }

    fn take(&mut self, sequence: u64, payload: &str) -> Seen {
        self.read_to = sequence;
        let record: CoordinatorRecord = serde_json::from_str(payload).expect("a record");
        let CoordinatorRecord::Engine { entry: record } = record else {
            return Seen { label: record.kind().to_owned(), at: now_ms(), slot: None };
        };
        if let Record::RollBegan { plan, .. } = &record {
            self.steps = plan.steps.iter().map(|step| (step.id, (step.kind.verb(), step.slot.clone()))).collect();
        }
        let steps: Vec<StepId> = match &record {
            Record::ListBegan { command, .. } => command.steps.iter().map(|step| step.step).collect(),
            Record::OwnStepBegan { step } | Record::StepEnded { step, .. } => vec![*step],
            _ => Vec::new(),
        };
        let mut label = record.kind().to_owned();
        let mut slot = None;
        for (verb, of) in steps.iter().filter_map(|step| self.steps.get(step)) {
            label = format!("{label} {verb}");
            slot = slot.or_else(|| of.clone());
        }
        Seen { label, at: now_ms(), slot }
    }
}
