//! Per component: what order its slots can take, what floor that can keep, and what each of its steps waits for and how
//! long.

use std::time::Duration;

use super::gateway::is_gateway;
use super::work::Work;
use crate::model::{ApiAt, Definition, DrainBegin, DrainStart, Order, Port, ReadyWait, Role, RuntimeKind, Strategy};

// Deadlines of steps that do little. A deadline counts from the step's begin on the agent, and starts on one host take
// turns there, so they have room for a busy host; one that is reached is a failure, never a long drain.

/// Creating an instance copies nothing large: images and releases are there since *resolve*.
pub(super) const PREPARE_DEADLINE: Duration = Duration::from_secs(60);
/// Starting a process takes milliseconds, a container about a second; eight at once on a busy engine ten times that.
pub(super) const START_DEADLINE: Duration = Duration::from_secs(60);
/// Removing an instance with its logs.
pub(super) const RETIRE_DEADLINE: Duration = Duration::from_secs(60);
/// One call to the instance, or none.
pub(super) const UNDRAIN_DEADLINE: Duration = Duration::from_secs(60);
/// Over `monitor`: the last probe may begin at its end and take its whole time-out.
pub(super) const SOAK_MARGIN: Duration = Duration::from_secs(30);
/// Over the grace: after SIGKILL the kernel still has to take everything apart.
pub(super) const STOP_MARGIN: Duration = Duration::from_secs(30);
/// Over the grace: before the drain can begin, the gateway waits until new targets answer it.
pub(super) const SWITCH_MARGIN: Duration = Duration::from_secs(60);
/// Over a pause, which the engine keeps itself and ends at its first look after it.
pub(super) const DELAY_MARGIN: Duration = Duration::from_secs(60);
/// Over a wait for weak readiness, where the ready deadline is shorter than that.
pub(super) const WEAK_MARGIN: Duration = Duration::from_secs(30);
/// Weak readiness says little; less than this says nothing.
pub(super) const WEAK_STEADY_MIN: Duration = Duration::from_secs(5);

/// How a component goes through a roll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// With its stages: all slots down at the quiet point.
    Stage,
    /// Slot by slot, within its parallelism.
    Lane,
    /// The API at the quiet point.
    Quiet,
    /// Runs to its end.
    Job,
}

/// How this component goes through a roll of that strategy.
pub(super) fn mode(definition: &Definition, strategy: Strategy, api_at: ApiAt) -> Mode {
    if definition.is_job() {
        Mode::Job
    } else if is_gateway(definition) || strategy == Strategy::Rolling {
        Mode::Lane
    } else if !is_api(definition) {
        Mode::Stage
    } else if api_at == ApiAt::Quiet {
        Mode::Quiet
    } else {
        Mode::Lane
    }
}

/// Whether it is kept up the whole time.
pub(super) fn is_api(definition: &Definition) -> bool {
    definition.role == Some(Role::Api)
}

/// Why the slots of a component cannot have two instances for a while, if they cannot.
pub(super) fn obstacle(definition: &Definition, mode: Mode, work: Option<&Work>) -> Option<String> {
    match mode {
        Mode::Stage => return Some("in a staged roll it is down at the quiet point".to_owned()),
        Mode::Quiet => return Some("`api_at: quiet` stops every old one first".to_owned()),
        Mode::Job => return Some("a job never runs twice at once".to_owned()),
        Mode::Lane => {}
    }
    if definition.singleton {
        return Some("it is a singleton".to_owned());
    }
    if let Some(why) = definition.compose.as_ref().and_then(|service| service.alone.as_ref()) {
        return Some(why.clone());
    }
    if definition.runtime == RuntimeKind::Process {
        let number = |passed: bool| {
            definition.ports.iter().find_map(|port| match port.port {
                Port::Number(number) if port.passed == passed => Some(number),
                _ => None,
            })
        };
        if let Some(number) = number(false) {
            return Some(format!("port {number} is not passed, and only one process can listen on it"));
        }
        let lost = work.and_then(|work| work.going.iter().find(|going| going.runs && !going.sockets_held));
        if let (Some(number), Some(going)) = (number(true), lost) {
            return Some(format!("the keeper of {} could not take the socket of port {number} back", going.id));
        }
    }
    None
}

/// The order of a slot, as things are.
pub(super) fn order(definition: &Definition, mode: Mode, work: Option<&Work>) -> Order {
    let asked = definition.update.order;
    let wished = asked.unwrap_or(if is_api(definition) { Order::StartFirst } else { Order::StopFirst });
    if wished == Order::StartFirst && obstacle(definition, mode, work).is_some() { Order::StopFirst } else { wished }
}

/// How many of `counted` slots a component can keep serving, and why not more.
pub(super) fn keepable(definition: &Definition, mode: Mode, counted: u32, works: &[&Work]) -> (u32, String) {
    let name = &definition.component;
    match mode {
        Mode::Stage => return (0, format!("in a staged roll every {name} is down at the quiet point")),
        Mode::Quiet => return (0, "`api_at: quiet` stops every old one before a new one starts".to_owned()),
        Mode::Job => return (0, "a job serves nobody".to_owned()),
        Mode::Lane => {}
    }
    let stop_first = order(definition, mode, None) == Order::StopFirst
        || works
            .iter()
            .any(|work| work.leaves() && work.enters() && order(definition, mode, Some(work)) == Order::StopFirst);
    if stop_first {
        (counted.saturating_sub(1), format!("of {counted} slots one is stopped before its new instance starts"))
    } else {
        (counted, format!("there are {counted} slots"))
    }
}

/// What begins the drain on the agent.
pub(super) fn drain_start(definition: &Definition) -> DrainStart {
    match &definition.drain.begin {
        Some(DrainBegin::Signal(signal)) => DrainStart::Signal(signal.clone()),
        Some(DrainBegin::Http(_) | DrainBegin::Exec(_)) => DrainStart::Call,
        // The switch before it has taken the traffic away: that was the begin.
        None if definition.has_traffic() => DrainStart::Nothing,
        None => DrainStart::Signal(definition.drain.stop_signal.clone()),
    }
}

/// What counts as ready, and how long that may take.
pub(super) fn ready_wait(definition: &Definition) -> (ReadyWait, Duration) {
    ready_wait_for(definition, definition.update.monitor)
}

/// The same where it is watched for `monitor`.
pub(super) fn ready_wait_for(definition: &Definition, monitor: Duration) -> (ReadyWait, Duration) {
    let ready = &definition.ready;
    if definition.is_job() {
        return (ReadyWait::Completed, ready.deadline);
    }
    match ready.probe {
        Some(_) => (ReadyWait::Probe { successes: ready.successes }, ready.deadline),
        None => {
            let steady = monitor.max(WEAK_STEADY_MIN);
            (ReadyWait::Weak { steady }, ready.deadline.max(steady + WEAK_MARGIN))
        }
    }
}
