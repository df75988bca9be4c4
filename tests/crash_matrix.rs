//! Every scenario killed at every point of its way, in virtual time: after and before each record, around each effect;
//! then by seeds, with commands delivered twice, words lost and late, looks that say nothing. The end must be the same,
//! and floor, order, grace and exclusivity must hold at every instant.
//!
//! `BATON_SIM_SEED=7` replays one seed and prints everything that happened in it.

#[path = "crash_matrix/mutants.rs"]
mod mutants;
#[path = "crash_matrix/scenarios.rs"]
mod scenarios;

use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};

use baton::journal::AppendFault;
use baton::model::ComponentName;
use baton::simulator::{Ground, Options, Place, Point, Rules, Run, Scenario, judge, lay};

/// Seeds of each scenario.
const SEEDS: u64 = 25;

/// A fleet at rest, the rules that it lives by, and the run in which nothing goes wrong.
struct Stand {
    ground: Ground,
    rules: Rules,
    calm: Run,
}

fn groups(groups: &[&[&str]]) -> Vec<Vec<ComponentName>> {
    groups.iter().map(|group| group.iter().map(|name| name.parse().unwrap()).collect()).collect()
}

fn stand(scenario: &Scenario, results: &[&str]) -> Stand {
    stand_under(scenario, results, &Options::default())
}

/// The points are those of a run under the same options: a kill must happen where its point says.
fn stand_under(scenario: &Scenario, results: &[&str], options: &Options) -> Stand {
    let ground = lay(scenario).unwrap_or_else(|error| panic!("{}: {error}", scenario.name));
    let mut rules = Rules::of(&ground.plan);
    if ["staged", "paused", "hooked"].contains(&scenario.name) {
        rules.stop = groups(&[&["executor", "scheduler"], &["worker"]]);
        rules.start = groups(&[&["worker"], &["scheduler", "executor"], &["api"]]);
    }
    let (calm, stuck) = ground.run(Options { points: true, ..options.clone() });
    if std::env::var_os("BATON_SIM_TRACE").is_some() {
        let traced = Options { trace: true, ..Options::default() };
        println!("{}", ground.run(traced).0.lines.join("\n"));
    }
    assert!(stuck.is_none(), "{}: {}", scenario.name, stuck.unwrap());
    let broken = judge(&calm, &rules);
    assert!(broken.is_empty(), "{}, when nothing goes wrong:\n{}", scenario.name, broken.join("\n"));
    assert_eq!(calm.end.results, results, "{}", scenario.name);
    Stand { ground, rules, calm }
}

impl Stand {
    /// What is wrong with a run, in words.
    fn wrong(&self, options: &Options) -> Vec<String> {
        self.tried(options).1
    }

    fn tried(&self, options: &Options) -> (Run, Vec<String>) {
        let (run, stuck) = self.ground.run(options.clone());
        let mut wrong = judge(&run, &self.rules);
        wrong.extend(stuck.map(|error| error.to_string()));
        if wrong.is_empty() && run.end != self.calm.end {
            wrong.push(format!("another end: {:?}\ninstead of   {:?}", run.end, self.calm.end));
        }
        (run, wrong)
    }

    /// Kills a node at each point of the calm run, one run for each.
    fn every_point(&self, options: &Options) {
        let begin = Instant::now();
        let name = self.ground.scenario.name;
        let mut faults = Vec::new();
        // A person in a hurry may thin them out; by default it is every one.
        let stride = std::env::var("BATON_SIM_STRIDE").map_or(1, |text| text.parse().expect("BATON_SIM_STRIDE"));
        let points: Vec<(usize, &Point)> =
            self.calm.points.iter().enumerate().filter(|(_, point)| !point.looks).step_by(stride).collect();
        for (number, point) in &points {
            let (run, mut wrong) = self.tried(&Options { crash: Some((*point).clone()), ..options.clone() });
            if run.kills != 1 {
                wrong.push(format!("killed {} times", run.kills));
            }
            if !wrong.is_empty() {
                faults.push(format!(
                    "point {number}, {point}:\n    {}",
                    wrong.iter().take(3).cloned().collect::<Vec<_>>().join("\n    ")
                ));
            }
        }
        let points = points.len();
        let is_append = |place: &Place| matches!(place, Place::Append { fault: AppendFault::After, .. });
        let appends = self.calm.points.iter().filter(|point| is_append(&point.place)).count();
        let looks = self.calm.points.iter().filter(|point| point.looks).count();
        tell(&format!(
            "{name}: {} facts in {appends} appends, {} effects ({looks} of {} points only look and are left to the seeds), {} \
             turns; {points} points, {points} runs in {:?}, {} wrong",
            self.calm.facts,
            self.calm.effects,
            self.calm.points.len(),
            self.calm.turns,
            begin.elapsed(),
            faults.len(),
        ));
        assert!(appends > 20 && points > appends / stride, "{name}: the matrix has lost its points");
        assert!(faults.is_empty(), "{} of {points}:\n{}", faults.len(), faults[..faults.len().min(8)].join("\n"));
    }

    /// Everything at once, by seed.
    fn by_seed(&self) {
        let begin = Instant::now();
        let name = self.ground.scenario.name;
        let only = std::env::var("BATON_SIM_SEED").ok().map(|seed| seed.parse().expect("BATON_SIM_SEED is a number"));
        let (mut faults, mut kills) = (Vec::new(), 0);
        let seeds: Vec<u64> = only.map_or_else(|| (1..=SEEDS).collect(), |seed| vec![seed]);
        for seed in &seeds {
            let options = storm(*seed);
            let (run, wrong) = self.tried(&options);
            kills += run.kills;
            if only.is_some() {
                println!("{}", self.ground.run(Options { trace: true, ..options }).0.lines.join("\n"));
            }
            if !wrong.is_empty() {
                faults.push(format!("BATON_SIM_SEED={seed}:\n    {}", wrong[..wrong.len().min(3)].join("\n    ")));
            }
        }
        let (count, took, wrong) = (seeds.len(), begin.elapsed(), faults.len());
        tell(&format!("{name}: {count} seeds with {kills} kills in {took:?}, {wrong} wrong"));
        assert!(only.is_some() || u64::from(kills) > SEEDS / 2, "{name}: chance killed nobody");
        assert!(
            faults.is_empty(),
            "{name}, {} of {}:\n{}",
            faults.len(),
            seeds.len(),
            faults[..faults.len().min(8)].join("\n")
        );
    }
}

/// Says it also where the test passes: how much was tried is part of the result.
fn tell(line: &str) {
    let _ = writeln!(std::io::stderr(), "{line}");
}

/// Commands twice, words lost and late, nodes killed, looks that say nothing.
fn storm(seed: u64) -> Options {
    Options {
        seed,
        twice: Some(Duration::from_secs(2)),
        lose: 60,
        delay: Duration::from_millis(40),
        kill: 120,
        kills: 3,
        unclear: 25,
        late: Some(Duration::from_secs(90)),
        ..Options::default()
    }
}

fn succeeded() -> [&'static str; 2] {
    ["succeeded", "succeeded"]
}

macro_rules! matrix {
    ($name:ident, $results:expr, $options:expr) => {
        mod $name {
            use super::*;

            #[test]
            fn comes_to_the_same_end_whatever_is_killed_where() {
                let options = $options;
                stand_under(&scenarios::$name(), &$results, &options).every_point(&options);
            }

            #[test]
            fn comes_to_the_same_end_by_seed() {
                stand(&scenarios::$name(), &$results).by_seed();
            }
        }
    };
}

fn twice() -> Options {
    Options { twice: Some(Duration::from_millis(300)), ..Options::default() }
}

matrix!(staged, succeeded(), twice());
matrix!(rolling, succeeded(), twice());
matrix!(failing, ["succeeded", "rolled back", "succeeded"], twice());
matrix!(paused, succeeded(), twice());
matrix!(draining, succeeded(), Options { away: Duration::from_secs(20), ..twice() });
matrix!(hooked, succeeded(), twice());

#[test]
fn the_same_seed_makes_the_same_run_and_another_one_another() {
    let stand = stand(&scenarios::failing(), &["succeeded", "rolled back", "succeeded"]);
    let traces: Vec<u64> =
        [3, 3, 4].iter().map(|seed| stand.ground.run(Options { trace: true, ..storm(*seed) }).0.trace).collect();
    assert_eq!(traces[0], traces[1]);
    assert_ne!(traces[0], traces[2]);
    let kinds: BTreeSet<&str> = stand.calm.points.iter().map(|point| point.what.as_str()).collect();
    assert!(kinds.len() > 30, "{kinds:?}");
}

/// For a person: `BATON_SIM_SCENARIO=staged BATON_SIM_POINT=17 cargo test --test crash_matrix replay -- --ignored
/// --nocapture` prints everything that happens in one run.
#[test]
#[ignore = "prints one run for a person"]
fn replay() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let wanted = std::env::var("BATON_SIM_SCENARIO").expect("BATON_SIM_SCENARIO names a scenario");
    let every = [
        scenarios::staged(),
        scenarios::rolling(),
        scenarios::failing(),
        scenarios::paused(),
        scenarios::draining(),
        scenarios::hooked(),
    ];
    let scenario = every.iter().find(|scenario| scenario.name == wanted).expect("a scenario");
    let ground = lay(scenario).unwrap();
    let (calm, _) = ground.run(Options { points: true, ..twice() });
    let crash = number("BATON_SIM_POINT").map(|point| calm.points[point as usize].clone());
    let seed = number("BATON_SIM_SEED").unwrap_or(0);
    let unclear = number("BATON_SIM_UNCLEAR").unwrap_or(0) as u32;
    let calm = if unclear == 0 && seed > 0 { storm(seed) } else { Options { seed, unclear, ..twice() } };
    let (run, stuck) = ground.run(Options { crash, trace: true, ..calm });
    println!("{}\n{:?}\n{}", run.lines.join("\n"), run.end, judge(&run, &Rules::of(&ground.plan)).join("\n"));
    println!("{:?}", stuck.map(|error| error.to_string()));
}
