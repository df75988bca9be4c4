//! Definitions for the tests of this room.

use std::collections::BTreeMap;

use crate::model::{ComponentName, Definition, Drain, RETAIN, Ready, RuntimeKind, Traffic, Update};

/// A process component with nothing but a name.
pub(crate) fn definition(component: &str) -> Definition {
    Definition {
        component: ComponentName::new(component).expect("a component name"),
        role: None,
        runtime: RuntimeKind::Process,
        image: None,
        compose: None,
        release: None,
        command: Vec::new(),
        env: BTreeMap::new(),
        env_file: None,
        cwd: None,
        ports: Vec::new(),
        fronts: BTreeMap::new(),
        on: Vec::new(),
        replicas: 1,
        singleton: false,
        depends_on: BTreeMap::new(),
        update: Update::default(),
        rollback: None,
        agent: None,
        retain: RETAIN,
        ready: Ready::default(),
        traffic: Traffic::None,
        min_available: None,
        drain: Drain::default(),
        versioned: false,
    }
}
