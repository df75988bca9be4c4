//! Another host: a second engine in a network namespace of its own, behind a link that a test may cut.
//!
//! Who sets it up (`.ci/run` says how) names its `DOCKER_HOST` in `BATON_SECOND_ENGINE`. The namespace and this end of
//! the link are both called `second-engine`; the containers there are reached over a route.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The namespace, and this end of the link to it.
const NAME: &str = "second-engine";
/// This end's address, which only those in the namespace dial.
const HERE: &str = "10.77.0.1";
/// The other end's.
const THERE: &str = "10.77.0.2";
/// Where its containers are if their network does not say, and where those of the tests are. An engine gives its
/// networks the former and looks only at its own: one of the first engine's may lie over it. No engine gives out the
/// latter by itself.
const CONTAINERS: [&str; 2] = ["172.28.0.0/14", "10.78.0.0/16"];

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
            let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
            assert!(route(), "the second engine's containers get no route");
            return Some(Self { engine, _turn: turn });
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

    /// A range of addresses for a network over there, which none has had in this process.
    pub fn subnet(&self) -> String {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = (std::process::id() + NEXT.fetch_add(1, Ordering::Relaxed)) % 256;
        format!("10.78.{number}.0/24")
    }

    /// Cuts the link.
    ///
    /// # Panics
    /// When it cannot be cut.
    pub fn cut(&self) -> Cut {
        let cut = Cut;
        assert!(quiet("ip", &["link", "set", NAME, "down"]), "the link to the second engine cannot be cut");
        cut
    }
}

impl Drop for Cut {
    fn drop(&mut self) {
        let up = quiet("ip", &["link", "set", NAME, "up"]);
        // They go with the link.
        let routed = route();
        if !up || !routed {
            eprintln!("the link {NAME} was not put back: up {up}, its routes {routed}");
        }
    }
}

fn into() -> String {
    format!("--net=/run/netns/{NAME}")
}

/// The ways to its containers.
fn route() -> bool {
    CONTAINERS.iter().all(|range| quiet("ip", &["route", "replace", range, "via", THERE]))
}

fn quiet(program: &str, args: &[&str]) -> bool {
    let status = Command::new(program).args(args).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}
