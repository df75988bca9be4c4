//! Gateways of the fake: a table, targets that must answer before it is used, requests in flight on those released.

use std::collections::BTreeMap;

use super::acts::refused;
use super::knobs::{FakeAct, GatewayKnobs};
use super::log::Happening;
use super::world::FakeWorld;
use crate::model::{Admission, ComponentName, InstanceId, SlotName, TableTarget, Timestamp};
use crate::runtime::RuntimeError;

/// How far a switch is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GatewayReading {
    /// The table asked for last is in use.
    pub in_use: bool,
    /// Requests and upgraded connections in flight on targets that were released.
    pub inflight: u64,
    /// Upgraded connections that were closed at the end of a drain, since the last table was asked for.
    pub closed: u64,
    /// For people.
    pub text: String,
}

/// One component's targets at one gateway.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) in_use: Vec<TableTarget>,
    pub(super) pending: Option<Vec<TableTarget>>,
    /// Ends of requests on released targets.
    requests: BTreeMap<InstanceId, Vec<Timestamp>>,
    /// Upgraded connections on released targets.
    upgraded: BTreeMap<InstanceId, u64>,
    closed: u64,
}

impl Table {
    fn inflight(&self, now: Timestamp) -> u64 {
        let requests = self.requests.values().flatten().filter(|end| **end > now).count();
        u64::try_from(requests).unwrap_or(u64::MAX) + self.upgraded.values().sum::<u64>()
    }

    pub(super) fn next_end(&self, now: Timestamp) -> Option<Timestamp> {
        self.requests.values().flatten().copied().filter(|end| *end > now).min()
    }

    fn admits(targets: &[TableTarget], instance: &InstanceId) -> bool {
        targets.iter().any(|target| target.instance == *instance && target.admission == Admission::Admitting)
    }
}

impl FakeWorld {
    /// Sets what goes through the gateways.
    pub fn set_gateway(&mut self, knobs: GatewayKnobs) {
        self.gateway_knobs = knobs;
    }

    /// Asks a gateway for a table. It is in use once every admitting target answers; `close` ends upgraded connections
    /// on released targets. Again with the same table changes nothing else.
    ///
    /// # Errors
    /// When the gateway does not run, or as told by a fault.
    pub fn switch(
        &mut self,
        now: Timestamp,
        gateway: &SlotName,
        component: &ComponentName,
        targets: &[TableTarget],
        close: bool,
    ) -> Result<GatewayReading, RuntimeError> {
        self.settle(now);
        self.with_fault(now, gateway, FakeAct::Switch, |world| {
            if world.running(gateway).is_empty() {
                return Err(refused(format!("gateway {gateway} does not answer")));
            }
            let key = (gateway.clone(), component.clone());
            let table = world.tables.entry(key).or_default();
            if table.pending.as_deref().unwrap_or(&table.in_use) != targets {
                table.pending = Some(targets.to_vec());
                table.closed = 0;
            }
            if close {
                table.closed += table.upgraded.values().sum::<u64>();
                table.upgraded.clear();
            }
            world.settle_tables(now);
            Ok(world.gateway(now, gateway, component))
        })
    }

    /// How far a gateway is with the table asked for last.
    pub fn gateway(&mut self, now: Timestamp, gateway: &SlotName, component: &ComponentName) -> GatewayReading {
        self.settle(now);
        if self.running(gateway).is_empty() {
            return GatewayReading { text: format!("gateway {gateway} does not answer"), ..GatewayReading::default() };
        }
        let Some(table) = self.tables.get(&(gateway.clone(), component.clone())) else {
            return GatewayReading { text: "no table".to_owned(), ..GatewayReading::default() };
        };
        let inflight = table.inflight(now);
        let in_use = table.pending.is_none();
        let text = if in_use { format!("{inflight} in flight") } else { "waits for targets to answer".to_owned() };
        GatewayReading { in_use, inflight, closed: table.closed, text }
    }

    /// The table that a gateway uses.
    pub fn table(&self, gateway: &SlotName, component: &ComponentName) -> Vec<TableTarget> {
        self.tables.get(&(gateway.clone(), component.clone())).map(|table| table.in_use.clone()).unwrap_or_default()
    }

    /// Instances of a component that answer requests: running and ready, and admitted by every gateway that has a
    /// table for it.
    pub fn serving(&self, component: &ComponentName) -> Vec<InstanceId> {
        let tables: Vec<&Table> =
            self.tables.iter().filter(|((_, of), _)| of == component).map(|(_, table)| table).collect();
        let ready = self.slots.values().flat_map(|slot| slot.values()).filter(|instance| instance.is_ready());
        ready
            .map(|instance| instance.id.clone())
            .filter(|id| id.slot.component == *component)
            .filter(|id| tables.iter().all(|table| Table::admits(&table.in_use, id)))
            .collect()
    }

    /// Takes tables into use whose targets answer by now.
    pub(super) fn settle_tables(&mut self, at: Timestamp) {
        let waiting: Vec<_> =
            self.tables.iter().filter(|(_, table)| table.pending.is_some()).map(|(key, _)| key.clone()).collect();
        for (gateway, component) in waiting {
            if self.running(&gateway).is_empty() {
                continue;
            }
            let answers = |id: &InstanceId| self.instance(id).is_some_and(|instance| instance.is_ready());
            let Some(table) = self.tables.get(&(gateway.clone(), component.clone())) else { continue };
            let pending = table.pending.clone().unwrap_or_default();
            let fresh = |target: &&TableTarget| !Table::admits(&table.in_use, &target.instance);
            let admitting = pending.iter().filter(|target| target.admission == Admission::Admitting);
            if !admitting.filter(fresh).all(|target| answers(&target.instance)) {
                continue;
            }
            // Only one that runs can have anything in flight.
            let released: Vec<InstanceId> = table
                .in_use
                .iter()
                .filter(|target| target.admission == Admission::Admitting)
                .map(|target| target.instance.clone())
                .filter(|id| !Table::admits(&pending, id) && self.instance(id).is_some_and(|i| i.is_running()))
                .collect();
            let knobs = self.gateway_knobs.clone();
            let Some(table) = self.tables.get_mut(&(gateway.clone(), component.clone())) else { continue };
            for id in released {
                table.requests.insert(id.clone(), knobs.requests.iter().map(|left| at + *left).collect());
                if knobs.upgraded > 0 {
                    table.upgraded.insert(id, knobs.upgraded);
                }
            }
            table.in_use = pending.clone();
            table.pending = None;
            self.note(at, Happening::TableInUse { gateway, component, targets: pending });
        }
    }

    /// A target has ended: what was in flight on it is cut.
    pub(super) fn cut_requests(&mut self, at: Timestamp, instance: &InstanceId) {
        let mut count = 0;
        let knobs = &self.gateway_knobs;
        for table in self.tables.values_mut() {
            let requests = table.requests.remove(instance).unwrap_or_default();
            count += requests.iter().filter(|end| **end > at).count();
            table.upgraded.remove(instance);
            if Table::admits(&table.in_use, instance) {
                // It was never released: whatever it had is cut.
                count += knobs.requests.len();
            }
        }
        if count > 0 {
            let count = u64::try_from(count).unwrap_or(u64::MAX);
            self.note(at, Happening::RequestsCut { instance: instance.clone(), count });
        }
    }
}
