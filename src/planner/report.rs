//! What a plan means, in words. Names of variables may be shown, never values: URLs without their queries, argvs by
//! their first word.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use humantime::format_duration;

use super::draft::Draft;
use super::moved::moved;
use super::policy::{Mode, START_DEADLINE, STOP_MARGIN, SWITCH_MARGIN, is_api, ready_wait};
use super::scene::Scene;
use super::work::Work;
use super::{Ask, ComponentReport, Report, StageReport};
use crate::model::{
    ChangeKind, ComponentName, Definition, DrainBegin, Order, Plan, PlanKind, Probe, ReadyWait, Step, StepKind,
    Strategy, Traffic,
};

pub(super) fn report(draft: &Draft, plan: &Plan, scene: &Scene<'_>) -> Report {
    let noop = plan.is_noop();
    let mut warnings = draft.warnings.clone();
    weak_readiness(draft, &mut warnings);
    past_the_gateway(draft, &mut warnings);
    warnings.extend(what_goes(draft, scene));
    left_beside(draft, &mut warnings);
    Report {
        headline: headline(draft, plan, scene),
        reasons: if noop { Vec::new() } else { draft.layout.reasons.clone() },
        stages: stages(draft, plan),
        components: draft.components.values().filter_map(|definition| component(draft, plan, definition)).collect(),
        outages: if noop { Vec::new() } else { outages(draft, plan, scene) },
        way_back: if noop { Vec::new() } else { draft.way_back.clone() },
        warnings,
        changes: changes(draft),
    }
}

fn time(span: Duration) -> String {
    format_duration(span).to_string()
}

fn headline(draft: &Draft, plan: &Plan, scene: &Scene<'_>) -> String {
    let all = draft.works.len();
    let changed = draft.works.iter().filter(|work| work.changes()).count();
    let fleet = &draft.fleet;
    let slots = if all == 1 { "slot" } else { "slots" };
    if plan.is_noop() {
        let version = draft.version.as_ref().map_or(String::new(), |version| format!(" at {version}"));
        return format!("{fleet}: nothing to do, {all} {slots} as wanted{version}");
    }
    let strategy = if draft.layout.strategy == Strategy::Staged { "staged" } else { "rolling" };
    let what = match (&draft.kind, &scene.input.ask) {
        (PlanKind::Up, _) => versions(draft),
        (_, Ask::Rollback { number, .. }) => format!("rollback of roll {number}, {}", versions(draft)),
        (kind, _) => kind.to_string(),
    };
    match draft.kind {
        PlanKind::Drain | PlanKind::Undrain | PlanKind::Down => {
            format!("{fleet}: {what}, {changed} of {all} {slots} change")
        }
        _ => format!("{fleet}: {what}, {strategy}, {changed} of {all} {slots} change"),
    }
}

/// `v1 -> v2`, as the slots that change tell.
fn versions(draft: &Draft) -> String {
    let changing = || draft.works.iter().filter(|work| work.changes());
    let names = |versions: BTreeSet<&String>| versions.into_iter().cloned().collect::<Vec<_>>().join(" and ");
    let from = names(changing().filter_map(|work| work.from.as_ref()).collect());
    let to = names(changing().filter_map(|work| work.to.as_ref()).collect());
    match (from.is_empty(), to.is_empty()) {
        (true, true) => "changes".to_owned(),
        (true, false) => format!("to {to}"),
        (false, true) => from,
        (false, false) if from == to => format!("at {to}"),
        (false, false) => format!("{from} -> {to}"),
    }
}

fn changes(draft: &Draft) -> Vec<String> {
    let width = draft.works.iter().map(|work| work.slot.to_string().len()).max().unwrap_or(0);
    draft
        .works
        .iter()
        .map(|work| {
            let kind = match work.kind {
                ChangeKind::Add => "add",
                ChangeKind::Replace => "replace",
                ChangeKind::Remove => "remove",
                ChangeKind::Keep => "keep",
                ChangeKind::Touch => "touch",
            };
            let version = match (&work.from, &work.to) {
                (Some(from), Some(to)) if from != to => format!("{from} -> {to} "),
                (_, Some(to)) => format!("{to} "),
                (Some(from), None) => format!("{from} "),
                (None, None) => String::new(),
            };
            let slot = work.slot.to_string();
            format!("{slot:width$}  {kind:7}  {version}{}({})", over_there(draft, work), work.why)
        })
        .collect()
}

/// Where a slot is, and what it is called there: each host has a project of its own.
fn over_there(draft: &Draft, work: &Work) -> String {
    let compose = draft.definition(&work.slot.component).and_then(|definition| definition.compose.as_ref());
    let name = compose.and_then(|compose| compose.on(&work.agent)?.names.get(&work.slot.index));
    name.map_or_else(String::new, |name| format!("on {} as {name} ", work.agent))
}

/// By label, in order; one line for what is done to one slot in one go.
fn stages(draft: &Draft, plan: &Plan) -> Vec<StageReport> {
    let mut order: Vec<&str> = Vec::new();
    let mut lines: BTreeMap<&str, Vec<(String, Vec<String>)>> = BTreeMap::new();
    let verbs_of = |step: &Step| verbs(step, plan);
    for step in &plan.steps {
        if !order.contains(&step.stage.as_str()) {
            order.push(&step.stage);
        }
        let Some((subject, verb)) = subject(step).map(|subject| (subject, verbs_of(step))) else { continue };
        let stage = lines.entry(&step.stage).or_default();
        match stage.iter_mut().find(|(known, _)| *known == subject) {
            Some((_, verbs)) if verbs.last() != Some(&verb) => verbs.push(verb),
            Some(_) => {}
            None => stage.push((subject, vec![verb])),
        }
    }
    let one = |(subject, verbs): (String, Vec<String>)| format!("{subject}: {}", verbs.join(", "));
    let places = |label: &str| parallel_note(draft, label);
    order
        .into_iter()
        .map(|label| StageReport {
            label: format!("{label}{}", places(label)),
            lines: lines.remove(label).unwrap_or_default().into_iter().map(one).collect(),
        })
        .collect()
}

/// What people need to know to read the stage.
fn parallel_note(draft: &Draft, label: &str) -> String {
    if label.starts_with("stop ") || label.starts_with("start ") {
        return " (all at the same time)".to_owned();
    }
    let lanes: Vec<&Definition> = match label {
        "api" if draft.kind != PlanKind::Down => draft.components.values().filter(|d| is_api(d)).collect(),
        _ => Vec::new(),
    };
    match lanes.as_slice() {
        [one] if draft.mode(one) == Mode::Lane => format!(" ({})", at_a_time(one.update.parallelism)),
        _ => String::new(),
    }
}

fn at_a_time(parallelism: u32) -> String {
    match parallelism {
        0 => "all at the same time".to_owned(),
        places => format!("{places} at a time"),
    }
}

/// Whose line a step belongs to: the slot that it is about (for a switch, the instances', not the gateway's).
fn subject(step: &Step) -> Option<String> {
    match &step.kind {
        StepKind::Switch { admit, release, .. } => {
            let slots: BTreeSet<String> = admit.iter().chain(release).map(|id| id.slot.to_string()).collect();
            Some(slots.into_iter().collect::<Vec<_>>().join(", "))
        }
        _ => step.slot.as_ref().map(ToString::to_string),
    }
}

fn verbs(step: &Step, plan: &Plan) -> String {
    let id = step.instance.as_ref().map_or(String::new(), ToString::to_string);
    let list = |ids: &[crate::model::InstanceId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    match &step.kind {
        StepKind::Prepare { .. } => format!("create {id}"),
        StepKind::Switch { admit, release, .. } => match (admit.is_empty(), release.is_empty()) {
            (false, false) => format!("traffic from {} to {}", list(release), list(admit)),
            (true, false) => format!("traffic away from {}", list(release)),
            _ => format!("traffic to {}", list(admit)),
        },
        StepKind::Drain { grace, .. } => format!("drain {id} (grace {})", time(*grace)),
        StepKind::Undrain { .. } => format!("undrain {id}"),
        StepKind::Stop { timeout, .. } => {
            let drained = plan
                .steps
                .iter()
                .any(|other| other.instance == step.instance && matches!(other.kind, StepKind::Drain { .. }));
            if drained { format!("stop {id}") } else { format!("stop {id} (grace {})", time(*timeout)) }
        }
        StepKind::Start { .. } => format!("start {id}"),
        StepKind::Ready { wait, .. } => match wait {
            ReadyWait::Probe { .. } => "ready".to_owned(),
            ReadyWait::Weak { steady } => format!("steady for {}", time(*steady)),
            ReadyWait::Completed => "ends with 0".to_owned(),
        },
        StepKind::Soak { monitor, .. } => format!("stays ready {}", time(*monitor)),
        StepKind::Delay { pause } => format!("pause {}", time(*pause)),
        StepKind::Retire => format!("remove {id}"),
        StepKind::Run { hook } => format!("run hook {hook}"),
        StepKind::Gate { name } => format!("wait for `baton approve` of {name}"),
    }
}

fn component(draft: &Draft, plan: &Plan, definition: &Definition) -> Option<ComponentReport> {
    let name = &definition.component;
    let works: Vec<&Work> = draft.works_of(name).collect();
    if works.is_empty() {
        return None;
    }
    let agents: BTreeSet<&str> = works.iter().map(|work| work.agent.as_str()).collect();
    let role = definition.role.as_ref().map_or("no role".to_owned(), |role| format!("role {role}"));
    let slots = if works.len() == 1 { "1 slot".to_owned() } else { format!("{} slots", works.len()) };
    Some(ComponentReport {
        component: name.to_string(),
        line: format!("{role}, {slots} on {}", agents.into_iter().collect::<Vec<_>>().join(", ")),
        grace: grace(definition),
        roll: roll(draft, plan, definition, &works),
        ready: ready(definition),
    })
}

fn grace(definition: &Definition) -> String {
    let drain = &definition.drain;
    let kept = drain.stop_timeout();
    let wait = drain.grace.saturating_sub(kept);
    let call = |what: &str| format!("called ({what})");
    let begin = match &drain.begin {
        None if definition.has_traffic() => "taken out of traffic".to_owned(),
        None => drain.stop_signal.clone(),
        Some(DrainBegin::Signal(signal)) => signal.clone(),
        Some(DrainBegin::Http(url)) => call(&format!("POST {}", shown(url))),
        Some(DrainBegin::Exec(argv)) => call(&format!("exec {}", argv.first().map_or("", String::as_str))),
    };
    let begin = match (&drain.begin, definition.has_traffic()) {
        (Some(_), true) => format!("taken out of traffic, {begin}"),
        _ => begin,
    };
    let signalled = match &drain.begin {
        None => !definition.has_traffic(),
        Some(DrainBegin::Signal(signal)) => *signal == drain.stop_signal,
        Some(_) => false,
    };
    let until = match &drain.inflight {
        Some(inflight) => format!("until GET {} says zero or it ends", shown(&inflight.http)),
        None if definition.has_traffic() => "until nothing is in flight".to_owned(),
        None => "until it ends".to_owned(),
    };
    if signalled && wait.is_zero() && drain.inflight.is_none() {
        return format!("grace {}: {begin}, SIGKILL {} after that", time(drain.grace), time(kept));
    }
    // The stop signal is never sent twice: where it began the drain, only time is left.
    let end = match signalled {
        true => format!("SIGKILL {} after that", time(kept)),
        false => format!("then {}, SIGKILL {} later", drain.stop_signal, time(kept)),
    };
    format!("grace {}: {begin}, {until}, at most {}; {end}", time(drain.grace), time(wait))
}

fn roll(draft: &Draft, plan: &Plan, definition: &Definition, works: &[&Work]) -> String {
    let orders: BTreeSet<&str> = works
        .iter()
        .filter(|work| work.changes() && work.leaves() && work.enters())
        .map(|work| if work.order == Order::StartFirst { "start-first" } else { "stop-first" })
        .collect();
    let mut parts = Vec::new();
    if !works.iter().any(|work| work.changes()) {
        parts.push("does not change".to_owned());
    } else if draft.kind == PlanKind::Down {
        parts.push("stops".to_owned());
    } else {
        parts.extend(orders.into_iter().map(str::to_owned));
        match draft.mode(definition) {
            Mode::Lane => parts.push(at_a_time(definition.update.parallelism)),
            Mode::Stage | Mode::Quiet => parts.push("all at the same time".to_owned()),
            Mode::Job => parts.push("runs once, to its end".to_owned()),
        }
        if !definition.update.delay.is_zero() && draft.mode(definition) == Mode::Lane {
            parts.push(format!("{} between slots", time(definition.update.delay)));
        }
    }
    let floor = plan.limits.get(&definition.component).map_or(0, |limits| limits.min_available);
    if floor > 0 {
        let by_default = if definition.min_available.is_none() { " (default)" } else { "" };
        parts.push(format!("at least {floor} serving{by_default}"));
    }
    parts.join(", ")
}

fn ready(definition: &Definition) -> String {
    let (wait, deadline) = ready_wait(definition);
    let what = match (&wait, &definition.ready.probe) {
        (ReadyWait::Completed, _) => return format!("done when it ends with 0, within {}", time(deadline)),
        (ReadyWait::Weak { steady }, _) => {
            return format!("weak readiness: running for {} without an end or a restart", time(*steady));
        }
        (_, Some(Probe::Http(url))) => format!("GET {} answers 2xx", shown(url)),
        (_, Some(Probe::Tcp(address))) => format!("{} accepts a connection", shown(address)),
        (_, Some(Probe::Exec(argv))) => format!("exec {} exits 0", argv.first().map_or("", String::as_str)),
        (_, Some(Probe::Health)) => "its own healthcheck says healthy".to_owned(),
        (_, _) => "it says READY=1 itself".to_owned(),
    };
    let times = match definition.ready.successes {
        0 | 1 => String::new(),
        2 => " twice".to_owned(),
        n => format!(" {n} times"),
    };
    format!("ready when {what}{times}, within {}", time(deadline))
}

/// A URL without what might be a secret: user and password, query and fragment.
fn shown(url: &str) -> String {
    let plain = url.split(['?', '#']).next().unwrap_or("");
    match plain.split_once("://") {
        Some((scheme, rest)) => {
            let (authority, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
            let host = authority.rsplit('@').next().unwrap_or(authority);
            format!("{scheme}://{host}{}", path.map_or(String::new(), |path| format!("/{path}")))
        }
        None => plain.to_owned(),
    }
}

/// Docker's names lead to every container of a service from its start on, ready or not, and past any gateway.
fn past_the_gateway(draft: &Draft, warnings: &mut Vec<String>) {
    for (name, definition) in &draft.components {
        let clients = definition.compose.as_ref().map(|service| &service.clients).filter(|clients| !clients.is_empty());
        let both = draft.works_of(name).any(|work| work.changes() && work.enters() && work.order == Order::StartFirst);
        let Some(clients) = clients.filter(|_| both) else { continue };
        let clients = clients.iter().map(String::as_str).collect::<Vec<_>>().join(", ");
        let instead = match definition.has_traffic() {
            true => "let them ask the gateway by its name, or set `update: { order: stop-first }`",
            false => "`update: { order: stop-first }` keeps the new one out until the old one has gone",
        };
        warnings.push(format!(
            "{name}: inside the project's networks its name leads to old and new from the start of the new one on, \
             ready or not; so ask {clients}: {instead}"
        ));
    }
}

fn weak_readiness(draft: &Draft, warnings: &mut Vec<String>) {
    let changing: BTreeSet<&ComponentName> = draft
        .works
        .iter()
        .filter(|work| work.coming.as_ref().is_some_and(|coming| coming.ready))
        .map(|work| &work.slot.component)
        .collect();
    for definition in changing.into_iter().filter_map(|name| draft.definition(name)) {
        if let (ReadyWait::Weak { steady }, _) = ready_wait(definition) {
            let check = if definition.compose.is_some() { "healthcheck" } else { "`ready` check" };
            warnings.push(format!(
                "{}: weak readiness: it has no {check}, so running for {} counts as ready",
                definition.component,
                time(steady)
            ));
        }
    }
}

/// What agents said of instances that are to be stopped.
fn what_goes(draft: &Draft, scene: &Scene<'_>) -> Vec<String> {
    let mut notes = Vec::new();
    for going in draft.works.iter().flat_map(|work| &work.going).filter(|going| going.runs) {
        let told = scene.resolution(&going.agent, &going.id.slot.component).into_iter().flat_map(|told| &told.notes);
        notes.extend(told.filter(|(instance, _)| *instance == going.id).map(|(id, note)| format!("{id}: {note}")));
    }
    notes
}

/// Compose makes everything anew that depends on what it makes anew; here it is left as it is. A proxy that keeps the
/// addresses it found at its start would go on asking the former ones.
fn left_beside(draft: &Draft, warnings: &mut Vec<String>) {
    if matches!(draft.kind, PlanKind::Down | PlanKind::Drain | PlanKind::Undrain) {
        return;
    }
    let changes = |name: &ComponentName| draft.works_of(name).any(Work::changes);
    for (name, definition) in draft.components.iter().filter(|(_, definition)| definition.compose.is_some()) {
        let moved = |on: &ComponentName| {
            draft.definition(on).is_some_and(|on| !on.is_job())
                && draft.works_of(on).any(|work| work.changes() && work.enters())
        };
        let on: Vec<&str> = definition.depends_on.keys().filter(|on| moved(on)).map(ComponentName::as_str).collect();
        if definition.is_job() || on.is_empty() || changes(name) {
            continue;
        }
        let (on, it) = (on.join(", "), if on.len() == 1 { "its address" } else { "their addresses" });
        warnings.push(format!(
            "{name} depends on {on} and is left as it is: if it looks {it} up only when it starts, as nginx does, run \
             `baton restart {name}` after this"
        ));
    }
}

// === outages ===

/// The longest that one slot takes from the begin of its drain to its end.
fn longest_stop(definition: &Definition) -> Duration {
    let switch = if definition.has_traffic() { SWITCH_MARGIN } else { Duration::ZERO };
    definition.drain.grace + STOP_MARGIN + switch
}

/// The longest that one slot takes from its start to ready.
fn longest_start(definition: &Definition) -> Duration {
    START_DEADLINE + ready_wait(definition).1
}

fn outages(draft: &Draft, plan: &Plan, scene: &Scene<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let serving = |name: &ComponentName| {
        let slots = scene.slots_of(name);
        slots.iter().any(|slot| scene.instances(slot).iter().any(|found| found.seen.may_run()))
    };
    for (name, definition) in &draft.components {
        let works: Vec<&Work> = draft.works_of(name).filter(|work| work.changes()).collect();
        let leaving: Vec<&&Work> =
            works.iter().filter(|work| work.leaves() && work.order != Order::StartFirst).collect();
        if leaving.is_empty() || definition.is_job() || !serving(name) {
            continue;
        }
        if matches!(draft.kind, PlanKind::Down | PlanKind::Drain | PlanKind::Undrain) {
            let until = if draft.kind == PlanKind::Down { "up" } else { "undrain" };
            lines.push(format!("{name}: {} out until the next `baton {until}`", slot_list(&works)));
            continue;
        }
        let coming = leaving.iter().filter(|work| work.enters()).count();
        let gone = leaving.len() - coming;
        if gone > 0 {
            let of: Vec<&Work> = leaving.iter().filter(|work| !work.enters()).map(|work| **work).collect();
            lines.push(format!("{name}: {} for good", slot_list(&of)));
        }
        if coming == 0 {
            continue;
        }
        let one = longest_stop(definition) + longest_start(definition);
        let total = draft.works_of(name).filter(|work| !work.held).count();
        let line = match draft.mode(definition) {
            Mode::Stage => {
                format!("{name}: all of it from its stop to its start, at most {}", time(staged(draft, name)))
            }
            Mode::Quiet => format!(
                "{name}: nobody serves at the quiet point, at most {}; requests are {}",
                time(longest_stop(definition) + jobs(draft) + longest_start(definition)),
                match &definition.traffic {
                    Traffic::Proxy { .. } => "refused meanwhile",
                    _ => "held, and beyond hold_max refused",
                }
            ),
            _ if total > 1 => {
                let floor = plan.limits.get(name).map_or(0, |limits| limits.min_available) as usize;
                let places = match definition.update.parallelism {
                    0 => coming,
                    places => coming.min(places as usize),
                };
                let places = places.min(total.saturating_sub(floor).max(1));
                format!("{name}: {places} of {total} slots at a time (stop-first), at most {} each", time(one))
            }
            _ => format!("{name}: nobody while its only slot is replaced stop-first, at most {}", time(one)),
        };
        lines.push(line);
    }
    for moved in moved(draft, scene) {
        let from: Vec<&str> = moved.from.iter().map(ComponentName::as_str).collect();
        let ports: Vec<String> = moved.ports.iter().map(u16::to_string).collect();
        let Some(gateway) = draft.definition(&moved.work.slot.component) else { continue };
        let stops = moved.from.iter().filter_map(|name| draft.definition(name)).map(longest_stop).max();
        lines.push(format!(
            "port {} of the host goes from {} to {}, this once: nobody answers there from the stop of the old until {} \
             has started, at most {}",
            ports.join(", "),
            from.join(", "),
            gateway.component,
            moved.work.slot,
            time(stops.unwrap_or_default() + longest_start(gateway))
        ));
    }
    lines
}

fn slot_list(works: &[&Work]) -> String {
    works.iter().map(|work| work.slot.to_string()).collect::<Vec<_>>().join(", ")
}

fn jobs(draft: &Draft) -> Duration {
    draft
        .components
        .values()
        .filter(|definition| definition.is_job())
        .filter(|definition| draft.works_of(&definition.component).any(Work::enters))
        .map(longest_start)
        .sum()
}

/// From the begin of a component's stop stage to the end of its start stage.
fn staged(draft: &Draft, name: &ComponentName) -> Duration {
    let longest = |stage: &Vec<ComponentName>, of: fn(&Definition) -> Duration, fits: fn(&Work) -> bool| {
        stage
            .iter()
            .filter(|name| draft.works_of(name).any(|work| work.changes() && fits(work)))
            .filter_map(|name| draft.definition(name).map(of))
            .max()
            .unwrap_or_default()
    };
    let from = draft.layout.stop.iter().position(|stage| stage.contains(name)).unwrap_or(0);
    let to = draft.layout.start.iter().position(|stage| stage.contains(name)).unwrap_or(0);
    let stops: Duration =
        draft.layout.stop.iter().skip(from).map(|stage| longest(stage, longest_stop, Work::leaves)).sum();
    let starts: Duration =
        draft.layout.start.iter().take(to + 1).map(|stage| longest(stage, longest_start, Work::enters)).sum();
    let quiet: Duration = draft
        .components
        .values()
        .filter(|definition| draft.mode(definition) == Mode::Quiet)
        .filter(|definition| draft.works_of(&definition.component).any(Work::changes))
        .map(|definition| longest_stop(definition) + longest_start(definition))
        .sum();
    stops + jobs(draft) + quiet + starts
}
