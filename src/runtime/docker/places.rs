//! Which container of a Compose project is which slot.
//!
//! Where the project is the fleet, a service's container number is the slot's index. Where each host has a project of
//! its own, Compose numbers the containers from 1 on every one of them: there a slot has a *place*, which is on record,
//! and whatever has no place is not the fleet's.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};

use bollard::query_parameters::ListContainersOptionsBuilder;
use serde::{Deserialize, Serialize};

use super::engine::ASK;
use super::look::{FLEET, NUMBER, ONE_OFF, PROJECT, SERVICE, SLOT};
use super::record::component_of;
use super::runtime::Inner;
use crate::model::{ComponentName, SlotName};
use crate::runtime::RuntimeError;

/// A container's place in a project of this host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Place {
    pub(super) project: String,
    pub(super) service: String,
    pub(super) number: u32,
}

/// A service of a project of this host, as Compose would have it.
#[derive(Clone, Debug)]
pub struct HostService {
    /// The component that it is.
    pub component: ComponentName,
    /// The project's name.
    pub project: String,
    /// The service's name.
    pub service: String,
    /// How many containers Compose would make of it, numbered from 1.
    pub replicas: u32,
}

/// The places of all slots.
pub(super) struct Places {
    fleet: String,
    /// Whether this host has a project of its own.
    of_host: bool,
    given: Mutex<BTreeMap<SlotName, Place>>,
}

impl Places {
    pub(super) fn new(fleet: String, of_host: bool, given: BTreeMap<SlotName, Place>) -> Places {
        Places { fleet, of_host, given: Mutex::new(given) }
    }

    fn given(&self) -> BTreeMap<SlotName, Place> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The projects whose containers may be the fleet's.
    pub(super) fn projects(&self) -> BTreeSet<String> {
        match self.of_host {
            true => self.given().into_values().map(|place| place.project).collect(),
            false => [self.fleet.clone()].into(),
        }
    }

    /// Whether this host has a project of its own.
    pub(super) fn are_given(&self) -> bool {
        self.of_host
    }

    /// The slot that a container with these labels belongs to, if it is one of the fleet's.
    pub(super) fn slot_of(&self, labels: &HashMap<String, String>) -> Option<SlotName> {
        let label = |name: &str| labels.get(name).map(String::as_str);
        if label(FLEET) == Some(&self.fleet) {
            return label(SLOT)?.parse().ok();
        }
        let place = place_of(labels)?;
        if self.of_host {
            let given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
            return given.iter().find(|(_, other)| **other == place).map(|(slot, _)| slot.clone());
        }
        (place.project == self.fleet).then(|| Some(SlotName::new(component_of(&place.service)?, place.number)))?
    }
}

/// `docker compose run` makes containers that belong to no place of a service.
fn place_of(labels: &HashMap<String, String>) -> Option<Place> {
    let label = |name: &str| labels.get(name).cloned();
    if label(ONE_OFF).is_some_and(|one_off| one_off.eq_ignore_ascii_case("true")) {
        return None;
    }
    let number = label(NUMBER)?.parse().ok().filter(|number| *number > 0)?;
    Some(Place { project: label(PROJECT)?, service: label(SERVICE)?, number })
}

/// Gives every slot a number, from 1 to `replicas`: the one that it has, where nothing speaks against it, else the
/// lowest that is free, in order of index.
fn numbers(had: &BTreeMap<u32, u32>, kept: &BTreeSet<u32>, wanted: &[u32], replicas: u32) -> BTreeMap<u32, u32> {
    let mut all: BTreeMap<u32, u32> = had
        .iter()
        .filter(|(index, number)| **number <= replicas && (wanted.contains(index) || kept.contains(index)))
        .map(|(index, number)| (*index, *number))
        .collect();
    let mut wanted = wanted.to_vec();
    wanted.sort_unstable();
    for index in wanted {
        if !all.contains_key(&index) {
            let free = (1..).find(|number| !all.values().any(|taken| taken == number)).unwrap_or(u32::MAX);
            all.insert(index, free);
        }
    }
    all
}

impl Inner {
    /// Gives the slots of a component their places, and keeps that. Those that have none any more and nothing either
    /// lose it. Returns the numbers by index, and the names of containers of the service that no slot has.
    pub(super) async fn place(
        &self,
        of: &HostService,
        wanted: &[u32],
    ) -> Result<(BTreeMap<u32, u32>, Vec<String>), RuntimeError> {
        let _turn = self.placing.lock().await;
        let mut had = BTreeMap::new();
        let mut kept = BTreeSet::new();
        let mut known = BTreeSet::new();
        for slot in self.records.slots()?.into_iter().filter(|slot| slot.component == of.component) {
            let record = self.records.read(&slot)?;
            known.extend(record.instances.values().filter_map(|entry| entry.container.clone()));
            if let Some(place) = record.place.filter(|place| place.project == of.project && place.service == of.service)
            {
                had.insert(slot.index, place.number);
                if !record.instances.is_empty() {
                    kept.insert(slot.index);
                }
            }
        }
        // The places of slots that were given one and have no instance yet count as long as a container is there.
        let there = self.of_service(of).await?;
        let occupied: BTreeSet<u32> = there.iter().map(|(place, ..)| place.number).collect();
        kept.extend(had.iter().filter(|(_, number)| occupied.contains(number)).map(|(index, _)| *index));
        let all = numbers(&had, &kept, wanted, of.replicas);
        for index in had.keys().chain(all.keys()).copied().collect::<BTreeSet<u32>>() {
            let slot = SlotName::new(of.component.clone(), index);
            let place = all.get(&index).map(|number| Place {
                project: of.project.clone(),
                service: of.service.clone(),
                number: *number,
            });
            self.records.update(&slot, |record| record.place.clone_from(&place)).await?;
            let mut given = self.places.given.lock().unwrap_or_else(PoisonError::into_inner);
            match place {
                Some(place) => given.insert(slot, place),
                None => given.remove(&slot),
            };
        }
        // What the list before knew was of other places.
        *self.listed.lock().await = None;
        let strangers = there
            .into_iter()
            .filter(|(place, id, _)| !known.contains(id) && !all.values().any(|number| *number == place.number))
            .map(|(_, _, name)| name)
            .collect();
        Ok((all, strangers))
    }

    /// Every container of a service: place, id and name.
    async fn of_service(&self, of: &HostService) -> Result<Vec<(Place, String, String)>, RuntimeError> {
        let client = self.engine.client().await?;
        let labels = vec![format!("{PROJECT}={}", of.project), format!("{SERVICE}={}", of.service)];
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let list = client.list_containers(Some(options));
        let listed = self.engine.bounded("listing containers", ASK, list).await?;
        let mut found: Vec<(Place, String, String)> = listed
            .into_iter()
            .filter_map(|found| {
                let name = found.names?.first()?.trim_start_matches('/').to_owned();
                Some((place_of(&found.labels?)?, found.id?, name))
            })
            .collect();
        found.sort_by(|a, b| (a.0.number, &a.2).cmp(&(b.0.number, &b.2)));
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_slot_is_a_services_container_number_and_a_one_off_is_none() {
        let places = Places::new("shop".to_owned(), false, BTreeMap::new());
        let of = |pairs: &[(&str, &str)]| places.slot_of(&labels(pairs)).map(|slot| slot.to_string());
        let good = [(PROJECT, "shop"), (SERVICE, "worker"), (NUMBER, "2"), (ONE_OFF, "False")];
        assert_eq!(of(&good).as_deref(), Some("worker-2"));
        assert_eq!(of(&[(PROJECT, "shop"), (SERVICE, "worker"), (NUMBER, "2"), (ONE_OFF, "True")]), None);
        assert_eq!(of(&[(PROJECT, "other"), (SERVICE, "worker"), (NUMBER, "2")]), None);
        assert_eq!(of(&[(PROJECT, "shop"), (SERVICE, "worker"), (NUMBER, "0")]), None);
        assert_eq!(of(&[(FLEET, "shop"), (SLOT, "api-1")]).as_deref(), Some("api-1"));
    }

    #[test]
    fn on_a_host_with_its_own_project_only_places_count_whatever_the_project_is_called() {
        let place = Place { project: "shop".to_owned(), service: "web".to_owned(), number: 1 };
        let slot: SlotName = "api-2".parse().unwrap();
        let places = Places::new("shop".to_owned(), true, [(slot, place)].into());
        let of = |service: &str, number: &str| {
            let pairs = [(PROJECT, "shop"), (SERVICE, service), (NUMBER, number)];
            places.slot_of(&labels(&pairs)).map(|slot| slot.to_string())
        };
        assert_eq!(of("web", "1").as_deref(), Some("api-2"));
        assert_eq!((of("web", "2"), of("db", "1")), (None, None));
    }

    #[test]
    fn a_slot_keeps_its_number_and_a_new_one_takes_the_lowest_that_is_free() {
        let map = |pairs: &[(u32, u32)]| pairs.iter().copied().collect::<BTreeMap<u32, u32>>();
        let set = |indexes: &[u32]| indexes.iter().copied().collect::<BTreeSet<u32>>();
        for (had, kept, wanted, replicas, expected) in [
            // Slots 2 and 4 of the fleet are this host's first two.
            (map(&[]), set(&[]), vec![4, 2], 2, map(&[(2, 1), (4, 2)])),
            // One moves in between: it comes last.
            (map(&[(1, 1), (3, 2)]), set(&[1, 3]), vec![1, 2, 3], 3, map(&[(1, 1), (2, 3), (3, 2)])),
            // One goes and is still there; one that never came loses its number.
            (map(&[(2, 1), (4, 2)]), set(&[4]), vec![2], 2, map(&[(2, 1), (4, 2)])),
            (map(&[(2, 1), (4, 2)]), set(&[]), vec![2], 1, map(&[(2, 1)])),
            // Compose would number them to 2, so nobody keeps 3.
            (map(&[(1, 1), (2, 3)]), set(&[1, 2]), vec![1, 2], 2, map(&[(1, 1), (2, 2)])),
        ] {
            assert_eq!(numbers(&had, &kept, &wanted, replicas), expected, "{had:?} {wanted:?}");
        }
    }
}
