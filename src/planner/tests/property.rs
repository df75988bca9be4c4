//! Over random small fleets: the check passes, the same input gives the same plan, a finished roll is a fixpoint, and
//! the floor is kept when the steps are done in order.

use proptest::prelude::*;
use proptest::strategy::Strategy;

use super::fleet::*;
use crate::model::*;
use crate::planner::{Ask, check, plan};

#[derive(Clone, Debug)]
struct Shape {
    replicas: u32,
    order: Option<Order>,
    parallelism: u32,
    monitor: u64,
    delay: u64,
    probe: bool,
    port: Port,
    passed: bool,
    begin: u8,
    depends: u8,
    present: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    (
        (0u32..4, prop::option::of(prop_oneof![Just(Order::StartFirst), Just(Order::StopFirst)]), 0u32..3),
        (0u64..2, 0u64..2, any::<bool>(), any::<bool>(), any::<bool>(), 0u8..3, any::<u8>(), prop::bool::weighted(0.8)),
    )
        .prop_map(
            |((replicas, order, parallelism), (monitor, delay, probe, fixed, passed, begin, depends, present))| Shape {
                replicas,
                order,
                parallelism,
                monitor,
                delay,
                probe,
                port: if fixed { Port::Number(80) } else { Port::Auto },
                passed,
                begin,
                depends,
                present,
            },
        )
}

const NAMES: [&str; 6] = ["api", "db", "executor", "migrate", "scheduler", "worker"];

fn build(shapes: &[Shape], strategy: Option<crate::model::Strategy>, api_at: ApiAt) -> Manifest {
    let mut components = Vec::new();
    for (index, (text, shape)) in NAMES.iter().zip(shapes).enumerate() {
        if !shape.present {
            continue;
        }
        let mut definition = component(text, if *text == "scheduler" { 1 } else { shape.replicas });
        if *text == "migrate" {
            definition.role = Some(Role::Job);
            definition.replicas = 1;
        }
        if *text == "api" {
            definition = with_traffic(definition);
        }
        definition.update.order = shape.order;
        definition.update.parallelism = shape.parallelism;
        definition.update.monitor = seconds(shape.monitor);
        definition.update.delay = seconds(shape.delay);
        if !shape.probe {
            definition.ready.probe = None;
        }
        // Three agents: a number fits as long as there are not more slots than that.
        definition.ports[0].port = shape.port;
        definition.ports[0].passed = shape.passed && shape.port != Port::Auto;
        definition.drain.begin = match shape.begin {
            0 => None,
            1 => Some(DrainBegin::Signal("SIGUSR1".to_owned())),
            _ => Some(DrainBegin::Http("http://{address}/drain".to_owned())),
        };
        for (bit, on) in NAMES.iter().take(index).enumerate() {
            if shape.depends >> bit & 1 == 1 && shapes[bit].present {
                definition.depends_on.insert(name(on), Condition::Ready);
            }
        }
        components.push(definition);
    }
    let mut manifest = manifest(components);
    manifest.strategy = strategy;
    manifest.api_at = api_at;
    manifest
}

fn manifests() -> impl Strategy<Value = Manifest> {
    use crate::model::Strategy::{Rolling, Staged};
    let strategy = prop_oneof![Just(None), Just(Some(Rolling)), Just(Some(Staged))];
    let api_at = prop_oneof![Just(ApiAt::Last), Just(ApiAt::First), Just(ApiAt::Quiet)];
    (prop::collection::vec(shape(), 6), strategy, api_at).prop_map(|(shapes, strategy, api_at)| {
        let strategy = if api_at == ApiAt::Quiet && strategy == Some(Rolling) { None } else { strategy };
        build(&shapes, strategy, api_at)
    })
}

/// Carries the plan out one step after the other and watches the floor.
fn carry_out_watching(fleet: &mut Fleet, planned: &crate::planner::Planned) {
    let floor = planned.plan.limits.get(&name("api")).map_or(0, |limits| limits.min_available) as usize;
    let serving = |fleet: &Fleet| {
        let all = fleet.inventory.values().flat_map(|report| report.slots.values()).flat_map(|slot| &slot.instances);
        let tables: Vec<&TableTarget> = fleet
            .inventory
            .values()
            .flat_map(|report| report.slots.values())
            .flat_map(|slot| slot.table.get(&name("api")).into_iter().flatten())
            .collect();
        let mine = all.filter(|i| i.id.slot.component == name("api") && i.state == InstanceState::Running);
        mine.filter(|i| tables.iter().any(|target| target.instance == i.id)).count()
    };
    let mut reached = serving(fleet) >= floor;
    for count in 0..planned.plan.steps.len() {
        let one = crate::planner::Planned {
            plan: Plan { steps: vec![planned.plan.steps[count].clone()], ..planned.plan.clone() },
            ..planned.clone()
        };
        fleet.carry_out_until(&one, 1);
        let now = serving(fleet) >= floor;
        assert!(now || !reached, "the floor of {floor} is broken by step {count}: {:#?}", lines(&planned.plan));
        reached |= now;
    }
    fleet.carry_out(&crate::planner::Planned {
        plan: Plan { steps: vec![], ..planned.plan.clone() },
        ..planned.clone()
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn plans_are_sound_repeatable_and_end_in_a_fixpoint(
        first in manifests(), second in manifests(), cut in any::<prop::sample::Index>()
    ) {
        let mut fleet = Fleet::new(first, &["a", "b", "c"]);
        let planned = fleet.roll(Fleet::up("v1"));
        prop_assert!(planned.plan.changes.iter().all(|change| change.kind == ChangeKind::Add));
        assert_planning_makes_no_changes(&fleet, Fleet::up("v1"));

        // Another manifest, to another version, with everything that is gone removed.
        let old = fleet.clone();
        fleet.manifest = second;
        let ask = || Ask::Up { to: Some("v2".to_owned()), only: vec![], remove_orphans: true };
        let input = fleet.input(ask());
        let planned = plan(&input).unwrap();
        prop_assert_eq!(check(&planned.plan, &input), Ok(()));
        let bytes = |value: &crate::planner::Planned| serde_json::to_vec(value).unwrap();
        prop_assert_eq!(bytes(&planned), bytes(&plan(&input).unwrap()));

        // From somewhere in the middle: back, or on.
        let at = cut.index(planned.plan.steps.len() + 1);
        let mut middle = fleet.clone();
        middle.carry_out_until(&planned, at);
        let mut forward = middle.clone();
        forward.roll(ask());
        assert_planning_makes_no_changes(&forward, ask());
        let of = RollId::new("r").unwrap();
        let rollback = middle.roll(Ask::Rollback { of, number: RollNumber(2), plan: Box::new(planned.plan.clone()) });
        let is_job = |step: &Step| step.slot.as_ref().is_some_and(|slot| slot.component == name("migrate"));
        let job_runs = rollback.plan.steps.iter().any(|step| step.kind.verb() == "start" && is_job(step));
        prop_assert!(!job_runs, "a rollback runs a job");
        let shown = |fleet: &Fleet| {
            fleet
                .inventory
                .values()
                .flat_map(|report| report.slots.values())
                .flat_map(|slot| &slot.instances)
                .filter(|i| i.may_run() && i.id.slot.component != name("gateway"))
                .map(|i| (i.id.slot.clone(), i.version.clone()))
                .collect::<std::collections::BTreeSet<_>>()
        };
        prop_assert_eq!(shown(&middle), shown(&old));

        carry_out_watching(&mut fleet, &planned);
        assert_planning_makes_no_changes(&fleet, ask());
        let down = fleet.roll(Ask::Down);
        prop_assert!(fleet.running().is_empty(), "{:#?}", lines(&down.plan));
        fleet.roll(ask());
        assert_planning_makes_no_changes(&fleet, ask());
    }
}
