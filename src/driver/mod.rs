//! The loop that agent and coordinator share: decide, apply, append, sync, then effects.
//!
//! A [`Driver`] owns a machine and its journal. One [`Driver::step`] takes the events that wait, lets the machine
//! decide on each, applies what it decided, and appends every fact of the whole batch with *one* sync. Only then does
//! the caller get to know what changed: no effect, no acknowledgement, no answer and no view of a fact leaves before
//! the sync. When the sync fails, memory is ahead of the disk; the driver then answers with errors only, and the
//! process must end.

mod error;
mod time;

#[cfg(test)]
mod tests;

pub use error::DriverError;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::journal::{Entry, Head, Journal, JournalClock, JournalError};
use crate::model::{Machine, Recordable, Timestamp};
use time::JournalTime;

/// How often a machine may answer its tick with records within one step. A machine that always has more to say is a
/// fault of the code. The longest honest answer is one record for every slot that waits for the same instant: a
/// thousand slots, with a margin of ten.
pub const TICKS_MAX: usize = 10_000;

/// What a record's head says beside its place and time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tag {
    /// The roll that the record belongs to; empty for none.
    pub roll: String,
    /// The writer's term.
    pub term: u64,
    /// Who caused it.
    pub actor: String,
}

/// Knows what a record's head has to say.
///
/// Any `Fn(&M, &M::Record) -> Tag` is one. It is asked with the machine as it was *before* the record was applied.
pub trait Context<M: Machine>: Send {
    /// The tag of `record`.
    fn head(&self, machine: &M, record: &M::Record) -> Tag;
}

impl<M: Machine, F: Fn(&M, &M::Record) -> Tag + Send> Context<M> for F {
    fn head(&self, machine: &M, record: &M::Record) -> Tag {
        self(machine, record)
    }
}

/// What came of one step. Everything in it is synced: the caller may act upon it.
#[derive(Debug)]
pub struct Batch<M: Machine> {
    /// The keys of effects that appeared, changed or went, each once, in the order in which they first changed, with
    /// the effect as it is now; `None`: gone, which cancels nothing.
    pub changed: Vec<(M::Key, Option<M::Effect>)>,
    /// The facts, as they were appended.
    pub facts: Vec<Entry<M::Record>>,
    /// What was applied and not appended.
    pub notes: Vec<M::Record>,
}

impl<M: Machine> Batch<M> {
    /// Whether nothing was recorded and nothing changed.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.facts.is_empty() && self.notes.is_empty()
    }
}

/// A machine with its journal.
pub struct Driver<M: Machine> {
    machine: M,
    journal: Box<dyn Journal<M::Record>>,
    clock: Box<dyn JournalClock>,
    context: Box<dyn Context<M>>,
    time: JournalTime,
    /// The sequence of the last record.
    position: u64,
    rebooted: bool,
    /// Why memory may be ahead of the disk. Nothing is answered any more.
    poisoned: Option<String>,
}

impl<M: Machine> Driver<M> {
    /// Replays every fact of the journal into `machine`, which must be a new one, and carries journal time on.
    ///
    /// # Errors
    /// What [`Journal::replay`] returns; [`JournalError::Damaged`] names a record that the machine does not allow.
    pub fn recover(
        mut machine: M,
        journal: Box<dyn Journal<M::Record>>,
        clock: Box<dyn JournalClock>,
        context: Box<dyn Context<M>>,
    ) -> Result<Self, JournalError> {
        let mut last: Option<Head> = None;
        let name = journal.name();
        journal.replay(0, &mut |Entry { head, record }| {
            if let Err(illegal) = machine.apply(head.at, &record) {
                let (path, sequence, why) = (name.clone(), head.sequence, illegal.to_string());
                return Err(JournalError::Damaged { path, sequence, why });
            }
            last = Some(head);
            Ok(())
        })?;
        let time = JournalTime::after(last.as_ref(), clock.as_ref());
        let rebooted = last.as_ref().is_some_and(|last| last.boot_id != clock.boot_id());
        let position = last.map_or(0, |last| last.sequence);
        Ok(Self { machine, journal, clock, context, time, position, rebooted, poisoned: None })
    }

    /// Journal time. Never runs backwards.
    pub fn now(&self) -> Timestamp {
        self.time.at(self.clock.boottime_ms())
    }

    /// Whether the host was restarted since the last record that was there at the start.
    pub fn rebooted(&self) -> bool {
        self.rebooted
    }

    /// The sequence of the last record; 0: none.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// How often a sync was made since the start.
    pub fn syncs(&self) -> u64 {
        self.journal.syncs()
    }

    /// Decides on each event in turn, and after each asks with `tick` until nothing more comes; then appends all facts
    /// with one sync (none when there is no fact). No event at all is a step too: the one that a deadline asks for.
    ///
    /// It blocks for the time of the sync.
    ///
    /// # Errors
    /// Any error poisons the driver: every later call that could show what was not synced returns
    /// [`DriverError::Poisoned`], and the process must end.
    pub fn step(&mut self, events: Vec<M::Event>, tick: impl Fn() -> M::Event) -> Result<Batch<M>, DriverError> {
        self.check_sound()?;
        let stepped = self.decide_all(events, &tick).and_then(|pending| self.append(pending));
        if let Err(error) = &stepped {
            self.poisoned = Some(error.to_string());
        }
        stepped
    }

    fn decide_all(&mut self, events: Vec<M::Event>, tick: &impl Fn() -> M::Event) -> Result<Pending<M>, DriverError> {
        let mut pending = Pending::new(&self.time, self.clock.as_ref());
        if events.is_empty() {
            self.settle(tick, &mut pending)?;
        }
        for event in events {
            for record in self.machine.decide(pending.at, &event) {
                self.apply(record, &mut pending)?;
            }
            self.settle(tick, &mut pending)?;
        }
        Ok(pending)
    }

    /// Ticks until the machine has nothing more to say.
    fn settle(&mut self, tick: &impl Fn() -> M::Event, pending: &mut Pending<M>) -> Result<(), DriverError> {
        let mut kind = "";
        for _ in 0..TICKS_MAX {
            let records = self.machine.decide(pending.at, &tick());
            let Some(first) = records.first() else { return Ok(()) };
            kind = first.kind();
            for record in records {
                self.apply(record, pending)?;
            }
        }
        if self.machine.decide(pending.at, &tick()).is_empty() {
            return Ok(());
        }
        Err(DriverError::Restless { ticks: TICKS_MAX, kind })
    }

    fn apply(&mut self, record: M::Record, pending: &mut Pending<M>) -> Result<(), DriverError> {
        let tag = record.is_fact().then(|| self.context.head(&self.machine, &record));
        let keys = self.machine.apply(pending.at, &record)?;
        for key in keys {
            if pending.seen.insert(key.clone()) {
                pending.keys.push(key);
            }
        }
        match tag {
            None => pending.notes.push(record),
            Some(tag) => {
                let sequence = self.position.saturating_add(pending.facts.len() as u64).saturating_add(1);
                pending.facts.push(Entry { head: pending.head(sequence, tag), record });
            }
        }
        Ok(())
    }

    fn append(&mut self, pending: Pending<M>) -> Result<Batch<M>, DriverError> {
        let Pending { keys, facts, notes, .. } = pending;
        if let Some(last) = facts.last() {
            self.journal.append(self.position, &facts)?;
            self.position = last.head.sequence;
        }
        let effect = |key: M::Key| {
            let effect = self.machine.effect(&key);
            (key, effect)
        };
        Ok(Batch { changed: keys.into_iter().map(effect).collect(), facts, notes })
    }

    fn check_sound(&self) -> Result<(), DriverError> {
        match &self.poisoned {
            None => Ok(()),
            Some(why) => Err(DriverError::Poisoned { why: why.clone() }),
        }
    }

    /// The machine, to look at.
    ///
    /// # Errors
    /// [`DriverError::Poisoned`]: it may know what the disk does not.
    pub fn machine(&self) -> Result<&M, DriverError> {
        self.check_sound().map(|()| &self.machine)
    }

    /// Everything that should be in flight now.
    ///
    /// # Errors
    /// [`DriverError::Poisoned`].
    pub fn outstanding(&self) -> Result<BTreeMap<M::Key, M::Effect>, DriverError> {
        self.machine().map(M::outstanding)
    }

    /// How long from now until the machine wants a step without an event; zero when that has passed, `None` when it
    /// waits for events only.
    ///
    /// # Errors
    /// [`DriverError::Poisoned`].
    pub fn next_deadline(&self) -> Result<Option<Duration>, DriverError> {
        Ok(self.machine()?.next_deadline().map(|deadline| self.now().until(deadline)))
    }
}

/// What a step has applied so far and nobody may see yet.
struct Pending<M: Machine> {
    at: Timestamp,
    wall_ms: u64,
    boot_id: String,
    boottime_ms: u64,
    keys: Vec<M::Key>,
    seen: BTreeSet<M::Key>,
    facts: Vec<Entry<M::Record>>,
    notes: Vec<M::Record>,
}

impl<M: Machine> Pending<M> {
    /// One reading of the clock for journal time and boottime, so that time goes on exactly from here after a restart.
    fn new(time: &JournalTime, clock: &dyn JournalClock) -> Self {
        let boottime_ms = clock.boottime_ms();
        Self {
            at: time.at(boottime_ms),
            wall_ms: clock.wall_ms(),
            boot_id: clock.boot_id(),
            boottime_ms,
            keys: Vec::new(),
            seen: BTreeSet::new(),
            facts: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn head(&self, sequence: u64, Tag { roll, term, actor }: Tag) -> Head {
        let Self { at, wall_ms, boottime_ms, .. } = *self;
        Head { sequence, at, wall_ms, boot_id: self.boot_id.clone(), boottime_ms, roll, term, actor }
    }
}
