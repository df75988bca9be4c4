//! What can be known of a definition on this host before an instance is made from it.

use std::collections::BTreeMap;

use super::files::{self, SlotFolder};
use super::keeper_sockets::port_error;
use super::ports;
use super::record::{Place, Run, State};
use super::release::{self, Depth};
use crate::model::{Definition, Port, Resolution};

/// Everything that can be known before an instance is made.
pub(super) fn resolve(definition: &Definition, depth: Depth) -> Resolution {
    let mut resolution = Resolution::default();
    let mut problems = Vec::new();
    if !release::names_a_program(definition) {
        problems.push("command names no program".to_owned());
    }
    match definition.release.as_ref().map(|release| release::check_release(release, depth)) {
        Some(Ok(digest)) => resolution.release = Some(digest),
        Some(Err(error)) => problems.push(error.to_string()),
        None => {}
    }
    match definition.env_file.as_deref().map(release::read_env_file) {
        Some(Ok((_, digest))) => resolution.env_file = Some(digest),
        Some(Err(error)) => problems.push(error.to_string()),
        None => {}
    }
    if !problems.is_empty() {
        resolution.problem = Some(problems.join("; "));
    }
    resolution
}

/// What must still be so when an instance is made; gives the content of its env_file.
pub(super) fn check(definition: &Definition) -> Result<BTreeMap<String, String>, String> {
    if let Some(problem) = resolve(definition, Depth::Present).problem {
        return Err(problem);
    }
    let Some(file) = &definition.env_file else { return Ok(BTreeMap::new()) };
    release::read_env_file(file).map(|(values, _)| values).map_err(|error| error.to_string())
}

/// What stands in the way of a fixed port, unless a slot of this fleet has it: what becomes of that one is for the plan
/// and for the keepers to say. Proved in the way in which a keeper will need it.
pub(super) fn port_in_use(definition: &Definition, slots: &[SlotFolder]) -> Option<String> {
    let fixed = definition.ports.iter().filter_map(|named| match named.port {
        Port::Number(port) => Some((named, port)),
        Port::Auto => None,
    });
    fixed.filter(|(_, port)| !slots.iter().any(|slot| has_port(slot, *port))).find_map(|(named, port)| {
        if named.passed {
            let host = named.host.clone().unwrap_or_else(|| ports::ANY_HOST.to_owned());
            let at = Place { host, port };
            return ports::bind(&at).err().map(|error| port_error(&at, &error).message);
        }
        let listeners = ports::listeners(port);
        listeners.any.then(|| ports::end_it(port, &listeners))
    })
}

/// Whether an instance of the slot has the port, or its keeper has it for one.
fn has_port(slot: &SlotFolder, port: u16) -> bool {
    slot.numbers().unwrap_or_default().into_iter().any(|number| {
        let state = files::read_json::<State>(&slot.state(number)).ok().flatten();
        state.is_some_and(|state| state.run != Run::Exited && state.ports.values().any(|one| *one == port))
    })
}
