//! The floor: how many must keep serving, counted from what is known and fresh.
//!
//! Whoever is unknown, unreachable or not ready does not count as serving; whoever is *known* not to serve costs
//! nothing
//! when taken down, so a sick old version never blocks its own repair. Between the two lies what may serve though
//! nobody
//! can say: it is not counted, and taking it down needs a floor that holds without it.

use std::collections::{BTreeMap, BTreeSet};

use super::known::{Known, Reach};
use super::roll::{Phase, Roll};
use crate::model::{
    Admission, ComponentName, Health, InstanceId, InstanceObservation, InstanceState, SlotName, Step, StepId, StepKind,
    Timestamp,
};

/// Whether `lost` may go when `remaining`, known to serve, stay. Losing nobody is always allowed.
pub fn floor_allows(remaining: u32, lost: u32, min_available: u32) -> bool {
    lost == 0 || remaining >= min_available
}

/// A floor that a step would break.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    pub component: ComponentName,
    pub serving: u32,
    pub min_available: u32,
}

/// The floors of one roll at one instant, with what this instant's new lists take away.
pub(super) struct Budget<'a> {
    roll: &'a Roll,
    known: &'a Known,
    term_began: Timestamp,
    /// Instances that lists of this instant take down.
    taken: BTreeSet<InstanceId>,
    /// By component: counted slots that serve. Filled when first asked for.
    serving: BTreeMap<ComponentName, BTreeSet<SlotName>>,
}

impl<'a> Budget<'a> {
    pub fn new(roll: &'a Roll, known: &'a Known, term_began: Timestamp) -> Self {
        Self { roll, known, term_began, taken: BTreeSet::new(), serving: BTreeMap::new() }
    }

    /// Takes what `step` takes down out of the floors of its components.
    ///
    /// # Errors
    /// The floor that this would break; then nothing has changed.
    pub fn take(&mut self, step: &Step) -> Result<(), Broken> {
        let down: BTreeSet<InstanceId> = self.roll.released_by(step).cloned().collect();
        if down.is_empty() {
            return Ok(());
        }
        let components: BTreeSet<&ComponentName> = down.iter().map(|id| &id.slot.component).collect();
        let mut losses: Vec<(ComponentName, BTreeSet<SlotName>)> = Vec::new();
        for component in components {
            let Some(limits) = self.roll.graph.plan.limits.get(component) else { continue };
            if limits.min_available == 0 {
                continue;
            }
            self.fill(component);
            let serving = &self.serving[component];
            let mut without = self.taken.clone();
            without.extend(down.iter().cloned());
            let lost: BTreeSet<SlotName> = down
                .iter()
                .map(|id| &id.slot)
                .filter(|slot| slot.component == *component && limits.counted.contains(slot))
                .filter(|slot| serving.contains(*slot) || down.iter().any(|id| id.slot == **slot && self.may_serve(id)))
                .filter(|slot| !self.serves(slot, &without, Some(step)))
                .cloned()
                .collect();
            let remaining = serving.iter().filter(|slot| !lost.contains(slot)).count();
            if !floor_allows(remaining as u32, lost.len() as u32, limits.min_available) {
                return Err(Broken {
                    component: component.clone(),
                    serving: serving.len() as u32,
                    min_available: limits.min_available,
                });
            }
            losses.push((component.clone(), lost));
        }
        for (component, lost) in losses {
            if let Some(serving) = self.serving.get_mut(&component) {
                serving.retain(|slot| !lost.contains(slot));
            }
        }
        self.taken.extend(down);
        Ok(())
    }

    fn fill(&mut self, component: &ComponentName) {
        if self.serving.contains_key(component) {
            return;
        }
        let counted = self.roll.graph.plan.limits.get(component).map(|limits| limits.counted.as_slice());
        let serving =
            counted.unwrap_or_default().iter().filter(|slot| self.serves(slot, &self.taken, None)).cloned().collect();
        self.serving.insert(component.clone(), serving);
    }

    /// Whether any instance of the slot serves. `by`: a step whose own admissions and precondition count.
    fn serves(&self, slot: &SlotName, without: &BTreeSet<InstanceId>, by: Option<&Step>) -> bool {
        let graph = &self.roll.graph;
        let Some(agent) = graph.agent_of.get(slot) else { return false };
        if self.known.reach(agent, self.term_began) != Reach::Good {
            return false;
        }
        let admits = |id: &InstanceId| match by.map(|step| &step.kind) {
            Some(StepKind::Switch { admit, .. }) => admit.contains(id),
            _ => false,
        };
        // The agent checks a `while_ready` in the same critical section as the effect, so that instance will be ready.
        if let Some(other) = by.and_then(|step| step.while_ready.as_ref())
            && other.slot == *slot
            && !without.contains(other)
            && (admits(other) || self.in_tables(other))
        {
            return true;
        }
        self.known.slot(graph, slot).is_some_and(|known| {
            known.instances.iter().any(|one| {
                one.state == InstanceState::Running
                    && self.is_healthy(one)
                    && !without.contains(&one.id)
                    && !self.roll.is_down(self.known, &one.id)
                    && (admits(&one.id) || (one.admission == Admission::Admitting && self.in_tables(&one.id)))
            })
        })
    }

    /// Ready, as its probe says; without a probe in the plan running is all that can be said.
    fn is_healthy(&self, one: &InstanceObservation) -> bool {
        match one.health {
            Health::Ready => true,
            Health::Unready => false,
            Health::Unknown => self.roll.graph.weak.contains(&one.id.slot.component),
        }
    }

    /// Whether an instance is not known to be out of service.
    fn may_serve(&self, id: &InstanceId) -> bool {
        let graph = &self.roll.graph;
        if self.taken.contains(id) || self.roll.is_down(self.known, id) {
            return false;
        }
        let fresh =
            graph.agent_of.get(&id.slot).is_some_and(|agent| self.known.reach(agent, self.term_began) == Reach::Good);
        if !fresh {
            return true;
        }
        let Some(one) = self.known.instance(graph, id) else { return false };
        one.may_run()
            && one.state != InstanceState::Restarting
            && one.health != Health::Unready
            && one.admission == Admission::Admitting
            && !self.is_out_of_tables(id)
    }

    /// Whether a gateway of its component is known not to send it requests.
    fn is_out_of_tables(&self, id: &InstanceId) -> bool {
        let Some(gateways) = self.roll.graph.gateways.get(&id.slot.component) else { return false };
        gateways.values().all(|agent| self.known.has_reported(agent)) && !self.in_tables(id)
    }

    /// Whether every gateway of its component that has a table for it sends it requests. A gateway that has no table
    /// for the component says nothing; one that has not reported may hold anything.
    fn in_tables(&self, id: &InstanceId) -> bool {
        let Some(gateways) = self.roll.graph.gateways.get(&id.slot.component) else { return true };
        gateways.iter().all(|(slot, agent)| {
            self.known.has_reported(agent)
                && self
                    .known
                    .inventories
                    .get(agent)
                    .and_then(|inventory| inventory.slots.get(slot)?.table.get(&id.slot.component))
                    .is_none_or(|table| {
                        table.iter().any(|one| one.instance == *id && one.admission == Admission::Admitting)
                    })
        })
    }
}

impl Roll {
    /// Instances that a step takes down, without those of slots that were given up: they stay as they are.
    pub fn released_by<'a>(&'a self, step: &'a Step) -> impl Iterator<Item = &'a InstanceId> {
        let of_switch = matches!(step.kind, StepKind::Switch { .. });
        super::graph::takes_down(step).iter().filter(move |id| !of_switch || !self.is_of_given_up(id))
    }

    /// Whether an instance belongs to a slot that was given up.
    pub fn is_of_given_up(&self, id: &InstanceId) -> bool {
        self.graph.slot_index(&id.slot).is_some_and(|slot| self.abandoned.contains(&slot))
    }

    /// Whether this roll has taken an instance out of service, or is about to. Facts, so that a report from before
    /// an outcome cannot bring it back.
    pub fn is_down(&self, known: &Known, id: &InstanceId) -> bool {
        let done = |step: &&StepId| self.state(**step).phase == Phase::Done;
        let last_up = self.graph.up_by.get(id).and_then(|steps| steps.iter().rfind(done));
        let Some(down_by) = self.graph.down_by.get(id) else { return false };
        let of_given_up = self.is_of_given_up(id);
        let counts = |step: &&StepId| {
            // A switch leaves alone what belongs to a slot given up before it; the table says whether it did.
            let switch = matches!(self.graph.step(**step).kind, StepKind::Switch { .. });
            last_up.is_none_or(|up| *step > up) && !(switch && of_given_up)
        };
        down_by.iter().filter(counts).any(|step| match &self.state(*step).phase {
            Phase::Pending => false,
            Phase::Begun { .. } | Phase::Done | Phase::Unknown { .. } => true,
            // It failed, and its agent has reported since: the report says how things are.
            Phase::Failed { .. } => {
                let note = self.graph.step(*step).agent.as_ref().and_then(|agent| known.agents.get(agent));
                !note.is_some_and(|note| note.fresh && !note.wants_look)
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_counts_what_is_already_down() {
        for (remaining, lost, min, allowed) in [
            (2, 1, 2, true),
            (1, 1, 2, false), // one of three is sick: no healthy one may go
            (1, 0, 2, true),  // below the floor already: what does not serve may still be replaced
            (0, 1, 0, true),
            (0, 1, 1, false),
            (2, 3, 2, true),
        ] {
            assert_eq!(floor_allows(remaining, lost, min), allowed, "{remaining} remain of {lost} more, floor {min}");
        }
    }
}
