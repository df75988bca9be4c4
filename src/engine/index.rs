//! The indexes of a roll, kept step by step: what waits for nothing else, and who has a place.
//!
//! All of them can be made anew from the steps ([`Roll::rebuild`]); a test compares the two after every record.

use std::sync::Arc;

use super::roll::{Phase, Roll};
use crate::model::{StepId, Timestamp};

impl Roll {
    /// From here on the step waits for nothing but permission.
    pub fn insert_ready(&mut self, id: StepId) {
        self.ready.insert(id);
        if !self.needs_place(id) {
            self.free.insert(id);
        }
    }

    /// It has begun, or will not.
    pub fn remove_ready(&mut self, id: StepId) {
        self.ready.remove(&id);
        self.free.remove(&id);
    }

    /// Whether the step is work of a slot that shares places and has none yet.
    pub fn needs_place(&self, id: StepId) -> bool {
        let node = self.graph.node(id);
        node.work && node.owners.iter().any(|owner| self.lacks_place(*owner))
    }

    /// Whether a slot shares places and has none.
    pub fn lacks_place(&self, slot: usize) -> bool {
        self.graph.lane_of[slot]
            .is_some_and(|lane| !self.placed[lane].contains(&slot) && !self.abandoned.contains(&slot))
    }

    /// Sorts a slot's ready steps anew, after its place has come or gone.
    fn sort_free(&mut self, slot: usize) {
        let graph = Arc::clone(&self.graph);
        for id in &graph.owned[slot] {
            if self.ready.contains(id) && !self.needs_place(*id) {
                self.free.insert(*id);
            } else {
                self.free.remove(id);
            }
        }
    }

    /// Those who wait for this step may go on.
    pub fn resolve(&mut self, at: Timestamp, id: StepId) {
        if self.state(id).resolved {
            return;
        }
        self.state_mut(id).resolved = true;
        self.remove_ready(id);
        self.left -= 1;
        let graph = Arc::clone(&self.graph);
        let node = graph.node(id);
        for dependent in &node.dependents {
            let state = self.state_mut(*dependent);
            state.unmet -= 1;
            if state.unmet == 0 && state.phase == Phase::Pending && !state.resolved {
                state.ready_since = at;
                self.insert_ready(*dependent);
            }
        }
        if node.work {
            for owner in &node.owners {
                self.work_left[*owner] -= 1;
                self.leave_place(*owner);
            }
        }
    }

    /// The owners of a work step that begins have a place from here on.
    pub fn take_places(&mut self, id: StepId) {
        let graph = Arc::clone(&self.graph);
        let node = graph.node(id);
        for owner in &node.owners {
            if let Some(lane) = graph.lane_of[*owner]
                && node.work
                && !self.abandoned.contains(owner)
            {
                self.placed[lane].insert(*owner);
                self.waiting[lane].remove(&(graph.turn_of[*owner], *owner));
                self.sort_free(*owner);
            }
        }
    }

    /// A slot keeps its place until its last work step is resolved, or until it is given up: a retry asks for it anew.
    fn leave_place(&mut self, slot: usize) {
        if let Some(lane) = self.graph.lane_of[slot]
            && (self.work_left[slot] == 0 || self.abandoned.contains(&slot))
        {
            self.placed[lane].remove(&slot);
            self.waiting[lane].remove(&(self.graph.turn_of[slot], slot));
        }
    }

    /// The roll goes on without these slots: what they have not begun will not be done, and nobody waits for it.
    pub fn give_up(&mut self, at: Timestamp, slots: &[usize]) {
        self.abandoned.extend(slots);
        let graph = Arc::clone(&self.graph);
        for slot in slots {
            for id in &graph.owned[*slot] {
                if !self.is_given_up(*id) {
                    continue;
                }
                let own = matches!(self.state(*id).phase, Phase::Begun { list: None, .. });
                if own {
                    self.delays.retain(|(_, delay)| delay != id);
                    self.state_mut(*id).phase = Phase::Pending;
                }
                if matches!(self.state(*id).phase, Phase::Pending | Phase::Failed { .. }) {
                    self.unacted.remove(id);
                    self.resolve(at, *id);
                }
            }
            self.leave_place(*slot);
            self.sort_free(*slot);
        }
    }

    /// Makes every index anew from the steps: after a retry or a settled failure, which may block again what was free.
    pub fn rebuild(&mut self, at: Timestamp) {
        let graph = Arc::clone(&self.graph);
        self.left = 0;
        self.done = 0;
        for id in graph.plan.steps.iter().map(|step| step.id) {
            let given_up = self.is_given_up(id);
            let state = self.state_mut(id);
            state.resolved = match state.phase {
                Phase::Done => true,
                Phase::Pending | Phase::Failed { .. } => given_up,
                _ => false,
            };
            let (done, resolved) = (state.phase == Phase::Done, state.resolved);
            self.done += u32::from(done);
            self.left += u32::from(!resolved);
        }
        self.work_left.fill(0);
        let was_ready = std::mem::take(&mut self.ready);
        for step in &graph.plan.steps {
            let unmet = step.after.iter().filter(|before| !self.state(**before).resolved).count() as u32;
            let state = self.state_mut(step.id);
            state.unmet = unmet;
            let resolved = state.resolved;
            if unmet == 0 && state.phase == Phase::Pending && !resolved {
                if !was_ready.contains(&step.id) {
                    state.ready_since = at;
                }
                self.ready.insert(step.id);
            }
            let node = graph.node(step.id);
            if node.work && !resolved {
                for owner in &node.owners {
                    self.work_left[*owner] += 1;
                }
            }
        }
        for (lane, at) in graph.lanes.iter().enumerate() {
            let placed = &self.placed[lane];
            self.waiting[lane] = at
                .order
                .iter()
                .filter(|slot| !placed.contains(slot))
                .map(|slot| (graph.turn_of[*slot], *slot))
                .collect();
        }
        for slot in 0..graph.slots.len() {
            self.leave_place(slot);
        }
        self.free = self.ready.iter().copied().filter(|id| !self.needs_place(*id)).collect();
    }
}
