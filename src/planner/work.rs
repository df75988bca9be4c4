//! What becomes of one slot: which instance comes or stays, which ones go.

use super::diff;
use super::gateway::is_gateway;
use super::hosts::named_on;
use super::scene::{Found, Pool, Scene, in_table};
use crate::model::{
    Admission, AgentId, Change, ChangeKind, Definition, Digest, Health, InstanceId, InstanceState, Order, Resolution,
    SlotInventory, SlotName,
};

/// The instance that a slot shall have, and what has to be done to it. An instance that simply stays has all flags off.
#[derive(Clone, Debug)]
pub(super) struct Coming {
    pub(super) id: InstanceId,
    /// Its definition, in the pool.
    pub(super) definition: Digest,
    pub(super) spec: Digest,
    pub(super) version: Option<String>,
    /// It has to be created.
    pub(super) prepare: bool,
    /// It is leaving in a way that cannot be given back (a signal): it ends first and is started again.
    pub(super) again: bool,
    pub(super) start: bool,
    /// Nobody knows that it is ready.
    pub(super) ready: bool,
    pub(super) undrain: bool,
    /// Requests must be sent to it.
    pub(super) admit: bool,
}

/// An instance that goes.
#[derive(Clone, Debug)]
pub(super) struct Going {
    pub(super) id: InstanceId,
    pub(super) agent: AgentId,
    /// It may be running, so it is drained and stopped.
    pub(super) runs: bool,
    /// How it is drained, in the pool; `None`: nobody knows, it can only be stopped.
    pub(super) definition: Option<Digest>,
    /// It is removed for good at the end.
    pub(super) retire: bool,
    /// Its listening sockets can be shared with another instance.
    pub(super) sockets_held: bool,
}

/// Everything about one slot in one plan.
#[derive(Clone, Debug)]
pub(super) struct Work {
    pub(super) slot: SlotName,
    pub(super) agent: AgentId,
    pub(super) kind: ChangeKind,
    pub(super) coming: Option<Coming>,
    /// An instance that stays though nothing is done for it.
    pub(super) stays: Option<InstanceId>,
    pub(super) going: Vec<Going>,
    /// Decided once the strategy is known.
    pub(super) order: Order,
    /// Drained by hand, and it stays so.
    pub(super) held: bool,
    /// What goes is broken: a rollback begins with it.
    pub(super) broken: bool,
    /// Its component is gone from the manifest: it goes last.
    pub(super) orphan: bool,
    /// The versions of what goes and what comes, for people.
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) why: String,
}

impl Work {
    /// A slot that stays as it is.
    pub(super) fn keep(scene: &Scene<'_>, slot: &SlotName, agent: &AgentId, why: &str) -> Self {
        let present = present(&scene.instances(slot));
        Self {
            slot: slot.clone(),
            agent: present.map_or(agent, |found| found.agent).clone(),
            kind: ChangeKind::Keep,
            coming: None,
            stays: present.map(|found| found.seen.id.clone()),
            going: Vec::new(),
            order: Order::StopFirst,
            held: scene.held(slot),
            broken: false,
            orphan: false,
            from: present.and_then(|found| found.seen.version.clone()),
            to: None,
            why: why.to_owned(),
        }
    }

    /// Whether anything is done.
    pub(super) fn changes(&self) -> bool {
        self.kind != ChangeKind::Keep
    }

    /// Whether something that may run leaves.
    pub(super) fn leaves(&self) -> bool {
        self.going.iter().any(|going| going.runs) || self.coming.as_ref().is_some_and(|coming| coming.again)
    }

    /// Whether something is started, awaited or given traffic.
    pub(super) fn enters(&self) -> bool {
        self.coming.as_ref().is_some_and(|c| c.start || c.ready || c.undrain || c.admit)
    }

    /// As the plan tells it.
    pub(super) fn change(&self) -> Change {
        let old = self.going.iter().rev().find(|going| going.runs).or(self.going.last()).map(|going| going.id.clone());
        let new = self.coming.as_ref().map(|coming| coming.id.clone()).or_else(|| self.stays.clone());
        let both = old.is_some() && new.is_some();
        Change {
            slot: self.slot.clone(),
            agent: self.agent.clone(),
            kind: self.kind,
            old,
            new,
            order: both.then_some(self.order),
            why: self.why.clone(),
        }
    }
}

/// The instance that stands for a slot: the newest that may run, else the newest.
pub(super) fn present<'a>(instances: &[Found<'a>]) -> Option<Found<'a>> {
    instances.iter().rev().find(|found| found.seen.may_run()).or(instances.last()).copied()
}

/// What a slot shall run.
pub(super) struct Want<'a> {
    pub(super) definition: &'a Definition,
    pub(super) digest: Digest,
    pub(super) agent: AgentId,
    pub(super) spec: Digest,
    pub(super) version: Option<String>,
}

/// How a slot is looked at.
pub(super) struct View<'a> {
    /// Gateways that run and stay.
    pub(super) gateways: &'a [&'a SlotInventory],
    /// Instances that go leave as their own definition says (else as the wanted one says).
    pub(super) own_drain: bool,
    /// What a person drained by hand is given back.
    pub(super) ignore_held: bool,
}

/// The instance with the wanted spec that a slot keeps: one that may run (the newest ready one, else the newest), else
/// the newest that can be started again.
pub(super) fn current<'a>(instances: &[Found<'a>], want: &Want<'_>) -> Option<Found<'a>> {
    let matching: Vec<&Found<'a>> =
        instances.iter().filter(|found| *found.agent == want.agent && found.seen.is_made_of(&want.spec)).collect();
    let running = || matching.iter().rev().filter(|found| found.seen.may_run());
    running().find(|found| found.is_ready()).or(running().next()).or(matching.last()).map(|found| **found)
}

/// What becomes of a slot that shall run `want`, given the instance that it keeps (`None`: a new one is made).
pub(super) fn work_for(
    scene: &Scene<'_>,
    pool: &mut Pool,
    slot: &SlotName,
    want: &Want<'_>,
    kept: Option<Found<'_>>,
    view: &View<'_>,
) -> Work {
    let instances = scene.instances(slot);
    let digest = pool.add(want.definition);
    let is_kept =
        |found: &Found<'_>| kept.is_some_and(|kept| kept.seen.id == found.seen.id && kept.agent == found.agent);
    let going: Vec<Going> = instances
        .iter()
        .filter(|found| !is_kept(found))
        .map(|found| {
            let own = scene.made_with(found.seen).filter(|_| view.own_drain);
            leaving(found, Some(own.map_or_else(|| digest.clone(), |own| pool.add(own))), true)
        })
        .collect();
    let held = kept.is_some_and(|kept| kept.seen.may_run()) && scene.held(slot) && !view.ignore_held;
    let coming = match kept {
        Some(kept) => keeping(&kept, want, digest, held, !going.is_empty(), view),
        None => fresh(InstanceId::new(slot.clone(), scene.next_number(slot)), want, digest),
    };
    let kind = match (&coming, kept) {
        (Coming { start: true, .. }, None) if !going.is_empty() => ChangeKind::Replace,
        (Coming { start: true, .. }, Some(_)) if going.iter().any(|going| going.runs) => ChangeKind::Replace,
        (Coming { again: true, .. }, _) => ChangeKind::Touch,
        (Coming { start: true, .. }, _) => ChangeKind::Add,
        (Coming { ready: false, undrain: false, admit: false, .. }, _) if going.is_empty() => ChangeKind::Keep,
        _ => ChangeKind::Touch,
    };
    let old = present(&instances.iter().filter(|found| !is_kept(found)).copied().collect::<Vec<_>>());
    let why = why(scene, want, kept.as_ref(), old.as_ref(), &coming, held);
    Work {
        slot: slot.clone(),
        agent: want.agent.clone(),
        kind,
        stays: Some(coming.id.clone()),
        coming: (kind != ChangeKind::Keep).then_some(coming),
        going,
        order: Order::StopFirst,
        held,
        broken: instances.iter().any(|found| !is_kept(found) && found.seen.may_run() && !found.is_ready()),
        orphan: false,
        from: old.or(kept).and_then(|old| old.seen.version.clone()),
        to: want.version.clone(),
        why,
    }
}

/// An instance that goes, found in an inventory.
pub(super) fn leaving(found: &Found<'_>, definition: Option<Digest>, retire: bool) -> Going {
    Going {
        id: found.seen.id.clone(),
        agent: found.agent.clone(),
        runs: found.seen.may_run(),
        definition,
        retire,
        sockets_held: found.seen.sockets_held,
    }
}

fn fresh(id: InstanceId, want: &Want<'_>, definition: Digest) -> Coming {
    Coming {
        id,
        definition,
        spec: want.spec.clone(),
        version: want.version.clone(),
        prepare: true,
        again: false,
        start: true,
        ready: true,
        undrain: false,
        admit: want.definition.has_traffic(),
    }
}

fn keeping(kept: &Found<'_>, want: &Want<'_>, definition: Digest, held: bool, others: bool, view: &View<'_>) -> Coming {
    let seen = kept.seen;
    let traffic = want.definition.has_traffic();
    let closed = seen.may_run() && seen.admission != Admission::Admitting && !held;
    let undoable = want.definition.drain.can_be_undone(traffic);
    let again = closed && !undoable;
    // One that crashes is as often seen running as not: what becomes of it must not depend on the moment. A gateway is
    // left to its keeper: a roll that failed with it would take back what has nothing to do with it.
    let start = !seen.may_run() || again || (seen.crashing && !is_gateway(want.definition));
    // Instances may go only for one that is known to be ready. One that is left alone is believed as long as its own
    // probe does not say otherwise: without a probe nobody ever says "ready".
    let doubtful = match seen.state {
        InstanceState::Running => seen.health == Health::Unready && want.definition.ready.probe.is_some(),
        _ => true,
    };
    let ready = start || doubtful || (others && !kept.is_ready());
    let missing = view.gateways.iter().any(|table| !in_table(table, &seen.id));
    Coming {
        id: seen.id.clone(),
        definition,
        spec: want.spec.clone(),
        version: seen.version.clone(),
        prepare: false,
        again,
        start,
        ready,
        undrain: closed && undoable,
        admit: traffic && !held && (start || closed || missing),
    }
}

fn why(
    scene: &Scene<'_>,
    want: &Want<'_>,
    kept: Option<&Found<'_>>,
    old: Option<&Found<'_>>,
    coming: &Coming,
    held: bool,
) -> String {
    if kept.is_none() {
        let Some(old) = old else { return "first instance".to_owned() };
        if *old.agent != want.agent {
            return format!("moves from agent {} to {}", old.agent, want.agent);
        }
        return match (scene.made_with(old.seen), &old.seen.spec) {
            (Some(before), _) => diff::explain(&named_on(before, &want.agent), &named_on(want.definition, &want.agent)),
            (None, Some(_)) => match scene.resolution(old.agent, &want.definition.component) {
                Some(Resolution { found: Some(found), .. }) => diff::explain_found(found, want.definition),
                _ => "spec changed (the definition of what runs is not in the spec store)".to_owned(),
            },
            (None, None) => "what runs was not made by Baton".to_owned(),
        };
    }
    let mut parts = Vec::new();
    if coming.again {
        parts.push("its drain cannot be given back, so it ends and is started again".to_owned());
    } else if coming.start && kept.is_some_and(|kept| kept.seen.crashing) {
        parts.push("it crashes and is started again and again: it has to get ready and stay so".to_owned());
    } else if coming.start {
        parts.push("it is there and does not run: it is started again".to_owned());
    } else if coming.ready {
        parts.push("it runs and is not known to be ready".to_owned());
    }
    if coming.undrain {
        parts.push("its drain is given back".to_owned());
    } else if coming.admit && !coming.start {
        parts.push("it gets its traffic".to_owned());
    }
    if let Some(old) = old {
        parts.push(format!("{} is left over and goes", old.seen.id));
    }
    if held {
        parts.push("drained by hand, stays so".to_owned());
    }
    if parts.is_empty() { "current".to_owned() } else { parts.join("; ") }
}
