//! Three faults made by hand, each from outside of the code that it breaks. The judges that let the real code pass must
//! catch every one of them, and what they catch must be the consequence, not the fault itself.

use std::time::Duration;

use baton::journal::AppendFault;
use baton::simulator::{Mutant, Node, Options, Place, Point};

use super::{Stand, scenarios, stand};

/// What is wrong with runs with and without the fault, killed at the points chosen.
fn compare(
    stand: &Stand,
    options: &Options,
    mutant: Mutant,
    mut chosen: impl FnMut(&Point) -> bool,
) -> (Vec<String>, Vec<String>) {
    let mut found = (Vec::new(), Vec::new());
    for point in stand.calm.points.iter().filter(|point| chosen(point)) {
        let sound = Options { crash: Some(point.clone()), ..options.clone() };
        found.0.extend(stand.wrong(&sound));
        found.1.extend(stand.wrong(&Options { mutant: Some(mutant), ..sound }));
    }
    found
}

fn tells(name: &str, (sound, mutant): &(Vec<String>, Vec<String>)) {
    assert!(sound.is_empty(), "{name}: the sound code is blamed:\n{}", sound.join("\n"));
    let first = mutant.first().map_or("never", |first| first);
    super::tell(&format!("mutant {name}: caught {} times, first as: {first}", mutant.len()));
}

#[test]
fn agents_that_obey_any_term_are_caught() {
    let stand = stand(&scenarios::failing(), &["succeeded", "rolled back", "succeeded"]);
    let options = Options { late: Some(Duration::from_secs(150)), ..Options::default() };
    let sent = |point: &Point| {
        point.node == Node::Coordinator
            && matches!(point.place, Place::Effect { after: true, .. })
            && point.what.contains("List(")
    };
    let found = compare(&stand, &options, Mutant::NoFencing, sent);
    tells("no fencing", &found);
    assert!(found.1.iter().any(|what| what.contains("made twice") || what.contains("another end")), "{:?}", found.1);
}

#[test]
fn a_record_after_its_effect_is_caught() {
    let stand = stand(&scenarios::hooked(), &["succeeded", "succeeded"]);
    // That the sound code survives a kill at each of these is the matrix; here they are the ones where an act follows.
    let telling = ["accepted", "drain-began"];
    let appended = |point: &&Point| {
        let before = matches!(point.place, Place::Append { fault: AppendFault::Before, .. });
        point.node != Node::Coordinator && before && telling.iter().any(|kind| point.what.contains(kind))
    };
    let mutant = Some(Mutant::RecordAfterEffect);
    let mut found = Vec::new();
    for point in stand.calm.points.iter().filter(appended) {
        found.extend(stand.wrong(&Options { crash: Some(point.clone()), mutant, ..Options::default() }));
    }
    // The simulator sees every act that has no record; what counts is what comes of it.
    found.retain(|what| !what.contains("is on disk"));
    tells("record after effect", &(vec![], found.clone()));
    // A signal is not among it: runtimes see to it that one run of a process has each signal once.
    assert!(found.iter().any(|what| what.contains("ran again")), "{found:?}");
}

#[test]
fn unknown_taken_for_stopped_is_caught() {
    let stand = stand(&scenarios::staged(), &["succeeded", "succeeded"]);
    let mut found = (Vec::new(), Vec::new());
    for seed in 1..=8 {
        let sound = Options { seed, unclear: 6, ..Options::default() };
        found.0.extend(stand.wrong(&sound));
        found.1.extend(stand.wrong(&Options { mutant: Some(Mutant::UnknownIsStopped), ..sound }));
    }
    tells("unknown taken for stopped", &found);
    assert!(found.1.iter().any(|what| what.contains("started beside") || what.contains("still ran")), "{:?}", found.1);
}
