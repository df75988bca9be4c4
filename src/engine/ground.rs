//! What a roll that nobody carries on still counts on. Where it is gone, going on can only fail.

use std::collections::BTreeSet;

use super::roll::{Mode, Phase};
use super::state::Engine;
use crate::model::{InstanceId, StepKind};

impl Engine {
    /// Instances that must be there for the unfinished roll to go on: those that steps still to be done start, wait for
    /// or admit, without the ones that it has yet to make. Empty while somebody carries it on: whoever does meets what
    /// is missing as a failure of a step.
    pub fn counts_on(&self) -> BTreeSet<InstanceId> {
        let nobody = |mode: &Mode| self.asleep || matches!(mode, Mode::Paused { .. } | Mode::NeedsPerson { .. });
        let Some(roll) = self.unfinished().filter(|roll| nobody(&roll.mode)) else { return BTreeSet::new() };
        let open = |step: &&crate::model::Step| {
            let state = roll.state(step.id);
            !state.resolved && state.phase != Phase::Done && !roll.is_given_up(step.id)
        };
        let (mut needed, mut unmade) = (BTreeSet::new(), BTreeSet::new());
        for step in roll.graph.plan.steps.iter().filter(open) {
            match &step.kind {
                StepKind::Prepare { .. } => unmade.extend(step.instance.clone()),
                StepKind::Start { .. } | StepKind::Ready { .. } | StepKind::Soak { .. } | StepKind::Undrain { .. } => {
                    needed.extend(step.instance.clone());
                }
                StepKind::Switch { admit, .. } => needed.extend(admit.iter().cloned()),
                _ => {}
            }
        }
        needed.retain(|instance| !unmade.contains(instance));
        needed
    }
}
