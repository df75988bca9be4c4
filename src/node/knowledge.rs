//! What a coordinator's engine knows of the past: the pure half of a plan's history.

use std::collections::BTreeMap;

use crate::engine::{Engine, RollResult};
use crate::model::{AgentId, ComponentName, Digest, FleetName, Inventory, RollId, SlotName};

/// What the engine knows, before the spec store adds the definitions themselves.
#[derive(Clone, Debug, Default)]
pub struct Knowledge {
    /// Whose.
    pub fleet: Option<FleetName>,
    /// Of the last roll that succeeded.
    pub version: Option<String>,
    /// Of each component when it last succeeded.
    pub versions: BTreeMap<ComponentName, String>,
    /// Each component's definition when it last succeeded.
    pub succeeded: BTreeMap<ComponentName, Digest>,
    /// The highest instance number, by slot.
    pub highest: BTreeMap<SlotName, u64>,
    /// Jobs that ended with 0, with the spec that they ran with.
    pub completed_jobs: BTreeMap<SlotName, Digest>,
    /// What each agent reported last.
    pub inventories: BTreeMap<AgentId, Inventory>,
    /// Each roll that succeeded, oldest first: its id, version and definitions. A rollback needs what was so *before*
    /// the roll that it takes back.
    rolls: Vec<(RollId, Option<String>, BTreeMap<ComponentName, Digest>)>,
}

impl Knowledge {
    /// What was known when that roll began: what its rollback goes back to.
    pub fn before(mut self, roll: &RollId) -> Self {
        self.version = None;
        self.versions.clear();
        self.succeeded.clear();
        for (earlier, version, definitions) in &self.rolls.clone() {
            if earlier == roll {
                break;
            }
            self.learn(version.as_ref(), definitions);
        }
        self
    }

    fn learn(&mut self, version: Option<&String>, definitions: &BTreeMap<ComponentName, Digest>) {
        if let Some(version) = version {
            self.version = Some(version.clone());
            self.versions.extend(definitions.keys().map(|component| (component.clone(), version.clone())));
        }
        self.succeeded.extend(definitions.clone());
    }

    /// What is known now.
    pub fn of(engine: &Engine) -> Self {
        let mut known = Self {
            fleet: Some(engine.fleet().clone()),
            highest: engine.highest_instances(),
            completed_jobs: engine.completed_jobs(),
            inventories: engine.inventories().clone(),
            ..Self::default()
        };
        let mut rolls: Vec<&RollId> = engine.known_rolls().collect();
        rolls.sort_by_key(|roll| engine.summary_of(roll).map(|summary| summary.number));
        for roll in rolls {
            let Some(plan) = engine.plan_of(roll) else { continue };
            let result = engine.summary_of(roll).and_then(|summary| summary.result.as_ref());
            let definitions = match result {
                Some(RollResult::Succeeded) => plan.definitions.clone(),
                _ => BTreeMap::new(),
            };
            known.rolls.push((roll.clone(), plan.version.clone().filter(|_| !definitions.is_empty()), definitions));
        }
        for (_, version, definitions) in known.rolls.clone() {
            known.learn(version.as_ref(), &definitions);
        }
        known.version = engine.last_version();
        known.succeeded = engine.succeeded();
        known
    }
}
