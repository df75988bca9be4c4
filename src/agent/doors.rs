//! Connections to gateways' control sockets, kept between two switches.
//!
//! A gateway in a container is reached by a relay that the engine starts in there, which takes it 50 to 70 ms. The
//! slots of a component are switched one after the other, and the last switch of a roll is what everybody waits for.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::gateway::control::Control;
use crate::model::SlotName;

/// Nobody has switched for so long: the next one opens a connection of its own.
const KEPT: Duration = Duration::from_secs(60);

/// By the gateway's slot, and when each was last of use.
type Open = BTreeMap<SlotName, (Instant, Arc<Control>)>;

/// Those that are open.
#[derive(Clone, Default)]
pub(super) struct Doors(Arc<Mutex<Open>>);

impl Doors {
    fn open(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The one that is open.
    pub(super) fn to(&self, gateway: &SlotName) -> Option<Arc<Control>> {
        self.open().get(gateway).map(|(_, control)| Arc::clone(control))
    }

    /// It was of use just now.
    pub(super) fn keep(&self, gateway: &SlotName, control: &Arc<Control>) {
        self.open().insert(gateway.clone(), (Instant::now(), Arc::clone(control)));
    }

    /// It did not answer, or whoever is behind it comes or goes.
    pub(super) fn forget(&self, gateway: &SlotName) {
        self.open().remove(gateway);
    }

    /// Closes those of no use any more.
    pub(super) fn tidy(&self) {
        self.open().retain(|_, (at, _)| at.elapsed() < KEPT);
    }
}
