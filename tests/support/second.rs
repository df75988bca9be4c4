//! Another host: a second engine in a network namespace of its own, behind a link that a test may cut.
//!
//! Who sets it up (`.ci/run` says how) names its `DOCKER_HOST` in `BATON_SECOND_ENGINE`. The namespace and this end of
//! the link are both called `second-engine`; the containers there are reached over a route.

use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The namespace, and this end of the link to it.
const NAME: &str = "second-engine";
/// This end's address, which only those in the namespace dial.
const HERE: &str = "10.77.0.1";
/// The other end's.
const THERE: &str = "10.77.0.2";
/// Where its containers are.
const CONTAINERS: &str = "172.28.0.0/14";

/// A route that leads nowhere.
const HOLD: [&str; 6] = ["route", "replace", "unreachable", CONTAINERS, "metric", "9999"];

/// The second engine. There is one, and its link is cut for all: one test at a time has it.
pub struct Second {
    /// Its `DOCKER_HOST`.
    pub engine: String,
    _turn: MutexGuard<'static, ()>,
}

/// A link that is cut until this value goes.
pub struct Cut;

impl Second {
    /// `None`: there is none here, which is said loudly, and is a failure with `BATON_TEST_NO_SKIP=1`.
    ///
    /// # Panics
    /// When a skip is a failure.
    pub fn find(test: &str) -> Option<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let engine = std::env::var("BATON_SECOND_ENGINE").unwrap_or_default();
        let missing = if engine.is_empty() {
            "a second engine, named in BATON_SECOND_ENGINE (see .ci/run)"
        } else if !quiet("docker", &["-H", &engine, "version"]) {
            "an engine that answers at BATON_SECOND_ENGINE"
        } else if !quiet("nsenter", &[&into(), "true"]) || !quiet("ip", &["link", "show", NAME]) {
            "root, and the second engine's namespace and link (both second-engine)"
        } else {
            // A test that failed has put the link back.
            return Some(Self { engine, _turn: TURN.lock().unwrap_or_else(PoisonError::into_inner) });
        };
        assert!(std::env::var("BATON_TEST_NO_SKIP").as_deref() != Ok("1"), "{test} needs {missing}");
        eprintln!("\n*** SKIPPED {test}: it needs {missing} ***\n");
        None
    }

    /// What runs a program over there.
    pub fn inside(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), into()]
    }

    /// This end's address.
    pub fn here(&self) -> &'static str {
        HERE
    }

    /// Cuts the link.
    ///
    /// # Panics
    /// When it cannot be cut.
    pub fn cut(&self) -> Cut {
        // The route goes with its link. Something has to hold its place, or the first engine gives these addresses to
        // a network of its own, and no container over there is reached as long as that one lives.
        assert!(quiet("ip", &HOLD), "the route to the second engine's containers cannot be held");
        let cut = Cut;
        assert!(quiet("ip", &["link", "set", NAME, "down"]), "the link to the second engine cannot be cut");
        cut
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let up = quiet("ip", &["link", "set", NAME, "up"]);
        let routed = quiet("ip", &["route", "replace", CONTAINERS, "via", THERE]);
        quiet("ip", &["route", "del", "unreachable", CONTAINERS, "metric", "9999"]);
        if !up || !routed {
            eprintln!("the link {NAME} was not put back: up {up}, its route {routed}");
        }
    }
}

fn into() -> String {
    format!("--net=/run/netns/{NAME}")
}

fn quiet(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
