//! What the agent reports of a slot: the runtime's word merged with the ledger's.

use std::collections::BTreeSet;

use super::state::Worker;
use crate::model::{Health, InstanceId, InstanceObservation, InstanceState, RollId, SlotInventory};

impl Worker {
    /// The runtime's observations, with what only the worker knows: admission, what the probe said last, the hand
    /// drain, a gateway's table, and the highest number that must not be used again.
    pub fn inventory(&self, seen: &[InstanceObservation]) -> SlotInventory {
        let mut instances: Vec<_> =
            seen.iter().filter(|seen| seen.id.slot == self.slot).map(|seen| self.merged(seen)).collect();
        instances.sort_by_key(|seen| seen.id.number);
        let highest = instances.iter().map(|seen| seen.id.number).max().unwrap_or(0).max(self.facts.highest);
        let looked = self.notes.seen.keys().map(|id| id.number).max().unwrap_or(0);
        SlotInventory {
            highest: highest.max(looked),
            instances,
            held_drained: self.facts.held,
            table: if self.has_table(seen) { self.facts.table.clone() } else { Default::default() },
        }
    }

    /// Whether what the ledger has of a gateway's tables is still so: not when somebody has put another instance in the
    /// place of the one that was told.
    fn has_table(&self, seen: &[InstanceObservation]) -> bool {
        let Some(of) = &self.facts.table_of else { return true };
        let mut running = seen.iter().filter(|seen| seen.may_run());
        !running.any(|seen| seen.id.slot == of.slot && seen.id.number > of.number)
    }

    /// The instance with the highest number of those that run, as far as was seen.
    pub(super) fn newest_that_runs(&self) -> Option<InstanceId> {
        let running = self.notes.seen.values().filter(|seen| seen.may_run());
        running.map(|seen| &seen.id).max_by_key(|id| id.number).cloned()
    }

    fn merged(&self, seen: &InstanceObservation) -> InstanceObservation {
        let mut merged = seen.clone();
        let known = self.facts.known(&seen.id);
        if let Some(admission) = known.and_then(|known| known.admission) {
            merged.admission = admission;
        }
        let running = seen.state == InstanceState::Running;
        merged.health = match self.notes.probes.get(&seen.id) {
            // Only what runs can be ready, whatever its probe said before it ended.
            _ if !running => Health::Unready,
            Some(note) if note.lost => Health::Unknown,
            Some(note) if note.ready => Health::Ready,
            Some(_) => Health::Unready,
            None if known.is_some_and(|known| known.weak) => Health::Ready,
            None => seen.health,
        };
        if seen.state == InstanceState::Unknown {
            merged.health = Health::Unknown;
        }
        merged
    }

    /// Every instance that should be running: started by a step and neither drained nor stopped nor retired since. An
    /// agent that starts brings up their keepers first.
    pub fn should_run(&self) -> Vec<InstanceId> {
        let known = self.facts.known.iter();
        known.filter(|(_, known)| known.started && known.drain.is_none()).map(|(id, _)| id.clone()).collect()
    }

    /// The rolls whose commands the ledger holds.
    pub fn rolls(&self) -> BTreeSet<RollId> {
        self.facts.commands.keys().map(|id| id.roll.clone()).collect()
    }
}
