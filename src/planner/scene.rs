//! What was found: the inventories by slot, and everything that is known about the definitions behind them.

use std::collections::{BTreeMap, BTreeSet};

use super::digest::definition_digest;
use super::gateway::is_gateway;
use super::{History, PlanError, PlanningInput};
use crate::model::{
    Admission, AgentId, ComponentName, Definition, Digest, FleetName, Health, InstanceId, InstanceObservation,
    InstanceState, PortRef, Resolution, SlotInventory, SlotName,
};

/// One instance, where it was found.
#[derive(Clone, Copy)]
pub(super) struct Found<'a> {
    pub(super) agent: &'a AgentId,
    pub(super) seen: &'a InstanceObservation,
}

impl Found<'_> {
    /// Running and ready, as far as anybody knows.
    pub(super) fn is_ready(&self) -> bool {
        self.seen.state == InstanceState::Running && self.seen.health == Health::Ready
    }
}

/// The input, indexed.
pub(super) struct Scene<'a> {
    pub(super) input: &'a PlanningInput,
    pub(super) history: &'a History,
    slots: BTreeMap<SlotName, Vec<(&'a AgentId, &'a SlotInventory)>>,
}

impl<'a> Scene<'a> {
    pub(super) fn new(input: &'a PlanningInput) -> Self {
        let mut slots: BTreeMap<SlotName, Vec<(&AgentId, &SlotInventory)>> = BTreeMap::new();
        for (agent, report) in &input.inventory {
            for (slot, found) in &report.slots {
                slots.entry(slot.clone()).or_default().push((agent, found));
            }
        }
        Self { input, history: &input.history, slots }
    }

    /// The fleet's name.
    pub(super) fn fleet(&self) -> Result<FleetName, PlanError> {
        let known = self.input.manifest.as_ref().map(|manifest| &manifest.fleet).or(self.history.fleet.as_ref());
        known.cloned().ok_or_else(|| {
            PlanError::Usage("the fleet's name is not known: no manifest was given and the journal has none".to_owned())
        })
    }

    /// Every slot that has an instance anywhere.
    pub(super) fn slots(&self) -> impl Iterator<Item = &SlotName> {
        self.slots.iter().filter(|(_, found)| found.iter().any(|(_, s)| !s.instances.is_empty())).map(|(slot, _)| slot)
    }

    /// The slots of a component that have an instance anywhere.
    pub(super) fn slots_of(&self, component: &ComponentName) -> Vec<SlotName> {
        let there = |found: &[(&AgentId, &SlotInventory)]| found.iter().any(|(_, s)| !s.instances.is_empty());
        self.reported(component).filter(|(_, found)| there(found)).map(|(slot, _)| slot.clone()).collect()
    }

    /// What was reported of a component's slots, without a look at all others.
    fn reported(
        &self,
        component: &ComponentName,
    ) -> impl Iterator<Item = (&SlotName, &Vec<(&'a AgentId, &'a SlotInventory)>)> {
        let at = |index| SlotName::new(component.clone(), index);
        self.slots.range(at(0)..=at(u32::MAX))
    }

    /// Every component that has an instance anywhere.
    pub(super) fn components(&self) -> BTreeSet<ComponentName> {
        self.slots().map(|slot| slot.component.clone()).collect()
    }

    /// All instances of a slot, by number.
    pub(super) fn instances(&self, slot: &SlotName) -> Vec<Found<'a>> {
        let mut all: Vec<Found<'a>> = self
            .slots
            .get(slot)
            .into_iter()
            .flatten()
            .flat_map(|(agent, found)| found.instances.iter().map(move |seen| Found { agent, seen }))
            .collect();
        all.sort_by_key(|found| (found.seen.id.number, found.agent));
        all
    }

    /// Whether a person has drained the slot.
    pub(super) fn held(&self, slot: &SlotName) -> bool {
        self.slots.get(slot).into_iter().flatten().any(|(_, found)| found.held_drained)
    }

    /// The next instance number: above everything that anybody knows.
    pub(super) fn next_number(&self, slot: &SlotName) -> u64 {
        let ledgers = self.slots.get(slot).into_iter().flatten().map(|(_, found)| found.highest).max();
        let instances = self.instances(slot).iter().map(|found| found.seen.id.number).max();
        let journal = self.history.highest.get(slot).copied();
        ledgers.max(instances).max(journal).unwrap_or(0) + 1
    }

    /// What an agent answered for a component.
    pub(super) fn resolution(&self, agent: &AgentId, component: &ComponentName) -> Option<&'a Resolution> {
        self.input.inventory.get(agent).and_then(|report| report.resolutions.get(component))
    }

    /// Whether containers of a component are there that Baton did not make.
    pub(super) fn has_found(&self, component: &ComponentName) -> bool {
        self.input.inventory.keys().any(|agent| self.resolution(agent, component).is_some_and(|it| it.found.is_some()))
    }

    /// The definition with that digest, if the spec store has it.
    pub(super) fn definition(&self, digest: &Digest) -> Option<&'a Definition> {
        let history = self.history;
        history
            .definitions
            .get(digest)
            .or_else(|| history.succeeded.values().find(|(known, _)| known == digest).map(|(_, definition)| definition))
    }

    /// The definition that an instance was made with, if it is known.
    pub(super) fn made_with(&self, seen: &InstanceObservation) -> Option<&'a Definition> {
        seen.definition.as_ref().and_then(|digest| self.definition(digest))
    }

    /// The last definition of a component that is not in the manifest: that of its newest instance, else the one that
    /// succeeded last.
    pub(super) fn last_definition(&self, component: &ComponentName) -> Option<&'a Definition> {
        let newest = self
            .reported(component)
            .flat_map(|(slot, _)| self.instances(slot))
            .filter_map(|found| self.made_with(found.seen).map(|definition| (found.seen.id.number, definition)))
            .max_by_key(|(number, _)| *number);
        newest
            .map(|(_, definition)| definition)
            .or_else(|| self.history.succeeded.get(component).map(|(_, definition)| definition))
    }

    /// Whether it was reported where that port of an instance is reached.
    pub(super) fn is_reached(&self, instance: &InstanceId, port: &PortRef) -> bool {
        let found = self.instances(&instance.slot).into_iter().find(|found| found.seen.id == *instance);
        found.and_then(|found| found.seen.endpoint.as_ref()).is_some_and(|endpoint| match port {
            PortRef::Name(name) => endpoint.ports.contains_key(name),
            PortRef::Number(_) => true,
        })
    }

    /// Gateways that run: slot, agent, instance and table.
    pub(super) fn running_gateways(
        &self,
        known: &BTreeMap<ComponentName, Definition>,
    ) -> Vec<(SlotName, AgentId, InstanceId, &'a SlotInventory)> {
        let mut running = Vec::new();
        // Once for each component: its last definition is found by looking at all its instances.
        let mut gateways: BTreeMap<&ComponentName, bool> = BTreeMap::new();
        for (slot, found) in &self.slots {
            let of_gateway = *gateways.entry(&slot.component).or_insert_with_key(|name| {
                let definition = known.get(*name).or_else(|| self.last_definition(name));
                // The gateway that Baton adds is known by its name, even when its definition is lost.
                definition.map_or(name.as_str() == super::gateway::GATEWAY, is_gateway)
            });
            if !of_gateway {
                continue;
            }
            for (agent, inventory) in found {
                if let Some(seen) = inventory.instances.iter().rev().find(|seen| seen.may_run()) {
                    running.push((slot.clone(), (*agent).clone(), seen.id.clone(), *inventory));
                }
            }
        }
        running
    }
}

/// Whether a gateway's table in use sends requests to the instance.
pub(super) fn in_table(table: &SlotInventory, instance: &InstanceId) -> bool {
    table
        .table
        .get(&instance.slot.component)
        .into_iter()
        .flatten()
        .any(|target| target.instance == *instance && target.admission == Admission::Admitting)
}

/// Definitions that the plan names, by digest.
#[derive(Default)]
pub(super) struct Pool {
    by_digest: BTreeMap<Digest, Definition>,
}

impl Pool {
    pub(super) fn add(&mut self, definition: &Definition) -> Digest {
        let digest = definition_digest(definition);
        self.by_digest.entry(digest.clone()).or_insert_with(|| definition.clone());
        digest
    }

    pub(super) fn get(&self, digest: &Digest) -> Option<&Definition> {
        self.by_digest.get(digest)
    }
}
