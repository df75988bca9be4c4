//! Where a seed strikes, and what all seeds together have covered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::journal::{Seen, kind_of, steps_of};
use crate::strike::{Strike, TARGETS, Target};

/// Kinds of record that a roll has only where somebody was killed or asked for something.
const TERM_BEGAN: &str = "term-began";
const ASKED: &str = "asked";

/// The strikes of a seed: two records of different labels, as they came in `calm`, a roll without a kill. Whoever goes
/// through the seeds strikes at every label in turn, and at each with another target the next time.
pub fn strikes(seed: u64, calm: &[Seen]) -> Vec<Strike> {
    let labels = labels(calm);
    let many = labels.len() as u64;
    let mut random = Random(seed);
    let mut wanted: Vec<(Option<usize>, Strike)> = Vec::new();
    for turn in [2 * seed, 2 * seed + 1] {
        let cycle = turn / many;
        let label = labels[as_index((turn + cycle) % many)].clone();
        let target = TARGETS[as_index((turn + cycle) % TARGETS.len() as u64)];
        let away = Duration::from_millis(random.below(300));
        let places: Vec<usize> = places(calm, &label).collect();
        let place = (!places.is_empty()).then(|| places[as_index(random.below(places.len() as u64))]);
        wanted.push((place, Strike { label, nth: 0, target, away, then_pause: false }));
    }
    // Those that the calm roll did not have follow from the other one.
    wanted.sort_by_key(|(place, _)| place.unwrap_or(usize::MAX));
    let mut from = 0;
    let mut strikes: Vec<Strike> = Vec::new();
    for (place, mut strike) in wanted {
        match (place, strikes.last_mut()) {
            (Some(place), _) => {
                strike.nth = places(calm, &strike.label).filter(|other| (from..place).contains(other)).count();
                from = place + 1;
            }
            (None, Some(first)) if strike.label == TERM_BEGAN => {
                first.target = Target::Coordinator;
                strike.target = if seed.is_multiple_of(2) { Target::Coordinator } else { Target::Both };
            }
            (None, Some(first)) => {
                // The end of a roll is too late to pause it.
                if from * 4 > calm.len() * 3 {
                    *first = Strike { label: calm[from / 2].label.clone(), nth: 0, ..first.clone() };
                }
                first.then_pause = true;
            }
            (None, None) => unreachable!("two labels of one kind in a row"),
        }
        strikes.push(strike);
    }
    strikes
}

/// Every label of the calm roll, in order of its first record, and the two that come only when something happens; these
/// apart from each other.
fn labels(calm: &[Seen]) -> Vec<String> {
    let mut labels: Vec<String> = Vec::new();
    for seen in calm {
        if !labels.contains(&seen.label) {
            labels.push(seen.label.clone());
        }
    }
    labels.insert(5, TERM_BEGAN.to_owned());
    labels.insert(12, ASKED.to_owned());
    labels
}

fn places(calm: &[Seen], label: &str) -> impl Iterator<Item = usize> {
    calm.iter().enumerate().filter(move |(_, seen)| seen.label == label).map(|(place, _)| place)
}

fn as_index(number: u64) -> usize {
    usize::try_from(number).expect("a small number")
}

/// SplitMix64.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// What was struck, by whom.
#[derive(Default)]
pub struct Coverage {
    hits: BTreeMap<String, BTreeMap<Target, u32>>,
    seen: BTreeSet<String>,
}

impl Coverage {
    /// The records of a calm roll: what there is to hit.
    pub fn expect(&mut self, calm: &[Seen]) {
        self.seen.extend(labels(calm));
    }

    /// A strike that happened.
    pub fn hit(&mut self, strike: &Strike) {
        *self.hits.entry(strike.label.clone()).or_default().entry(strike.target).or_default() += 1;
    }

    /// Kinds of record and of step that were seen and never hit.
    pub fn missed(&self) -> BTreeSet<String> {
        let parts = |label: &String| -> Vec<String> {
            let kind = format!("record {}", kind_of(label));
            steps_of(label).map(|step| format!("step {step}")).chain([kind]).collect()
        };
        let hit: BTreeSet<String> = self.hits.keys().flat_map(parts).collect();
        self.seen.iter().flat_map(parts).filter(|part| !hit.contains(part)).collect()
    }

    /// Targets that never were.
    pub fn spared(&self) -> Vec<Target> {
        TARGETS.into_iter().filter(|target| !self.hits.values().any(|by| by.contains_key(target))).collect()
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut table = String::from("kills by record and target:\n");
        for label in self.seen.iter().chain(self.hits.keys()).collect::<BTreeSet<_>>() {
            let by = self.hits.get(label);
            let words: Vec<String> =
                by.into_iter().flatten().map(|(target, times)| format!("{target:?} {times}")).collect();
            table.push_str(&format!("  {label:40} {}\n", words.join(", ")));
        }
        table
    }
}
