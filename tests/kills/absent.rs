//! The gateway while everybody else is gone, and a gateway that was killed itself.

use crate::load::{Load, LoadOptions};
use crate::site::{BOUND, Site, ask};
use crate::support::wait::{wait_for, wait_some};

/// Slots under keepers: those that are rolled and the gateway's.
pub const KEPT: [&str; 7] = ["api-1", "api-2", "executor-1", "gateway-1", "scheduler-1", "worker-1", "worker-2"];

fn answers(site: &Site, many: usize) -> usize {
    (0..many).filter(|_| ask(site.gateway(), "GET", "/") == Some(200)).count()
}

fn kill_crew(site: &mut Site) {
    site.kill_coordinator();
    site.kill_agent("front");
    site.kill_agent("back");
}

/// Kills keepers, agents and coordinator under load, and later the gateway.
pub fn run(site: &mut Site, runtime: &tokio::runtime::Runtime) {
    let lives_before = site.story().lives;
    let gateway = site.gateways();
    assert_eq!(gateway.len(), 1, "one gateway");
    let options = LoadOptions { to: site.gateway(), requests_per_second: 100, seed: 3, one_job_in: 0, one_slow_in: 50 };
    let load = {
        let _inside = runtime.enter();
        Load::start(options, "absent").expect("a load")
    };
    assert_eq!(answers(site, 20), 20);
    let keepers: Vec<u32> = KEPT.iter().flat_map(|slot| site.keepers(slot)).collect();
    assert_eq!(keepers.len(), KEPT.len(), "one keeper for each slot");
    kill_crew(site);
    site.kill_all(&keepers);
    wait_for("no keeper is left", BOUND, || site.pids("keeper", "").is_empty());
    assert_eq!(answers(site, 400), 400, "with the gateway alone");
    assert_eq!(site.gateways(), gateway, "it is the same one");

    // Back: each slot gets a keeper again, which adopts what runs and takes the gateway's socket back.
    site.bring_back();
    site.wait_agents();
    wait_for("every slot has a keeper again", BOUND, || KEPT.iter().all(|slot| site.keepers(slot).len() == 1));
    assert_eq!(answers(site, 20), 20);
    let report = runtime.block_on(load.stop());
    assert!(report.requests > 0 && report.failed == 0, "{report:?}");

    // The gateway itself, while agents and coordinator are away: its keeper alone brings it back, and its file tells it
    // where to send. Its socket is the keeper's, so nobody is refused for good in between.
    kill_crew(site);
    site.kill_all(&gateway);
    let next = wait_some("another gateway", BOUND, || site.gateways().into_iter().find(|pid| !gateway.contains(pid)));
    wait_for("it answers", BOUND, || ask(site.gateway(), "GET", "/") == Some(200));
    assert_eq!(answers(site, 50), 50);
    assert_eq!(site.gateways(), [next]);
    site.bring_back();
    site.wait_agents();
    assert_eq!(site.story().lives, lives_before, "nobody was started, stopped or drained by any of this");
    assert_eq!(site.run("again", &["up", "--to", "v0", "--yes"]), 0, "{}", site.stage.log("again"));
    assert_eq!(site.story().lives, lives_before, "and nothing is to be done");
}
