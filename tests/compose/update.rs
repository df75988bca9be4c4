//! `deploy.update_config` and `deploy.rollback_config` on real containers: each field does what it says. What happened
//! when is what the engine tells of it. Every test fails when its field is ignored.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use crate::docker::{Site, is_here};
use crate::support::wait::wait_some;

/// Ends at once when it is asked to.
const QUICK: &str = "trap 'exit 0' TERM; while :; do /bin/busybox sleep 0.05; done";
/// Takes its time, so that what is asked to end together is seen to be.
const SLOW: &str = "trap '/bin/busybox sleep 5; exit 0' TERM; while :; do /bin/busybox sleep 0.05; done";
/// For the engine to tell what has happened.
const TOLD_WITHIN: Duration = Duration::from_secs(30);

/// A project with one service; nothing but its `deploy` differs from test to test.
struct Fleet {
    site: Site,
    service: &'static str,
    replicas: usize,
    began: Duration,
    listener: Child,
    told: Arc<Mutex<Vec<Event>>>,
}

/// What happened to a container, as the engine tells it: `kill` is a signal.
#[derive(Clone, Debug)]
struct Event {
    at: Duration,
    action: String,
    /// `1` or `2`: the tag of its image.
    tag: String,
    number: u32,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        let _ = self.listener.kill();
        let _ = self.listener.wait();
    }
}

impl Fleet {
    /// Runs at tag 1, made by Compose. `script` is the program; it finds a folder of the test at `/turn` if it names
    /// it.
    fn new(name: &str, service: &'static str, replicas: usize, deploy: &str, script: &str) -> Self {
        let site = Site::new(name);
        std::fs::create_dir(site.path("turn")).unwrap();
        let bound = if script.contains("/turn") { "    volumes: [\"./turn:/turn\"]\n" } else { "" };
        site.compose_file(&format!(
            "services:\n  {service}:\n    image: @:${{TAG:-1}}\n    command: [\"/bin/busybox\", \"sh\", \"-c\", \
             \"{script}\"]\n{bound}    deploy: {{ replicas: {replicas}, {deploy} }}\n    x-baton: {{ ready: {{ exec: \
             [\"/bin/busybox\", \"true\"], every: 50ms, timeout: 20s }}, min_available: 0 }}\n"
        ));
        site.compose_up("1");
        // Followed and not asked for afterwards: an engine remembers few events, and has others to serve.
        let label = format!("label=com.docker.compose.project={}", site.name);
        let format = "{{.TimeNano}} {{.Action}} {{.Actor.Attributes.image}} \
                      {{index .Actor.Attributes \"com.docker.compose.container-number\"}}";
        let mut listen = Command::new("docker");
        let since = now().as_secs().to_string();
        listen.args(["events", "--since", &since, "--filter", &label, "--format", format]);
        listen
            .args(["start", "die", "kill"].iter().flat_map(|event| ["--filter".to_owned(), format!("event={event}")]));
        let mut listener = listen.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let told: Arc<Mutex<Vec<Event>>> = Arc::default();
        let (lines, list) = (BufReader::new(listener.stdout.take().unwrap()).lines(), Arc::clone(&told));
        std::thread::spawn(move || {
            lines.map_while(Result::ok).for_each(|line| list.lock().unwrap().push(event(&line)));
        });
        Self { site, service, replicas, began: now(), listener, told }
    }

    /// A verb with what ends a roll as it must end.
    #[track_caller]
    fn baton(&mut self, args: &[&str], code: i32) -> String {
        loop {
            self.began = now();
            let output = Command::new(env!("CARGO_BIN_EXE_baton"))
                .args(["--state", self.site.path("state").to_str().unwrap()])
                .args(args)
                .arg("--yes")
                .current_dir(self.site.path(""))
                .env("TAG", "2")
                .env_remove("COMPOSE_FILE")
                .output()
                .unwrap();
            let text = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
            // A probe that a busy host answers late makes another plan; nothing was touched.
            if output.status.code() == Some(5) && text.contains("run the command again to see the new plan") {
                continue;
            }
            assert_eq!(output.status.code(), Some(code), "baton {args:?}: {text}");
            return text;
        }
    }

    /// What the engine has told of the last verb, in order of time.
    fn events(&self) -> Vec<Event> {
        let mut events: Vec<Event> = self.told.lock().unwrap().iter().filter(|e| e.at >= self.began).cloned().collect();
        events.sort_by_key(|event| event.at);
        events
    }

    /// When each number's containers had that action first, in order of time: as many as there are slots.
    fn all(&self, action: &str, tag: &str, count: usize) -> Vec<(Duration, u32)> {
        wait_some(&format!("{count} times {action} on {tag}"), TOLD_WITHIN, || {
            let mut first: BTreeMap<u32, Duration> = BTreeMap::new();
            for event in self.events().iter().filter(|event| event.action == action && event.tag == tag) {
                first.entry(event.number).or_insert(event.at);
            }
            let mut found: Vec<(Duration, u32)> = first.into_iter().map(|(number, at)| (at, number)).collect();
            found.sort_unstable();
            (found.len() >= count).then_some(found)
        })
    }

    /// The ends of the containers of one tag and the starts of those of the other, each in order of time.
    fn swapped(&self, from: &str, to: &str) -> (Vec<Duration>, Vec<Duration>) {
        let times =
            |action: &str, tag: &str| self.all(action, tag, self.replicas).into_iter().map(|(at, _)| at).collect();
        (times("die", from), times("start", to))
    }

    /// The tag that each number's container is on, and whether it runs.
    fn tags(&self) -> BTreeMap<u32, (String, bool)> {
        let label = format!("label=com.docker.compose.project={}", self.site.name);
        let format = "{{.Label \"com.docker.compose.container-number\"}} {{.Image}} {{.State}}";
        let told = self.site.docker(&["ps", "-a", "--filter", &label, "--format", format]);
        let line = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let tag = words[1].rsplit(':').next().unwrap_or_default().to_owned();
            (words[0].parse().unwrap(), (tag, words[2] == "running"))
        };
        told.lines().map(line).collect()
    }

    /// How many containers run on each tag.
    fn running(&self, tag: &str) -> usize {
        self.tags().values().filter(|about| **about == (tag.to_owned(), true)).count()
    }
}

fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

fn event(line: &str) -> Event {
    let words: Vec<&str> = line.split(' ').collect();
    Event {
        at: Duration::from_nanos(words[0].parse().unwrap()),
        action: words[1].to_owned(),
        tag: words[2].rsplit(':').next().unwrap_or_default().to_owned(),
        number: words[3].parse().unwrap(),
    }
}

/// The new container that is the `nth` to start on this tag ends with 3; all others run.
fn fails_once(tag: &str, nth: u32) -> String {
    let taken: Vec<String> = (1..nth).map(|turn| format!("/bin/busybox mkdir /turn/{turn} 2>/dev/null")).collect();
    let before = if taken.is_empty() { String::new() } else { format!("{} || ", taken.join(" || ")) };
    format!(
        "if [ $$V = {tag} ] && [ -e /turn/armed ]; then {before}{{ /bin/busybox mkdir /turn/{nth} 2>/dev/null && exit \
         3; }}; fi; {QUICK}"
    )
}

fn arm(fleet: &Fleet) {
    std::fs::write(fleet.site.path("turn/armed"), "").unwrap();
}

/// So many slots are asked to end before the first new one starts, and no more.
#[track_caller]
fn at_a_time(fleet: &Fleet, (from, to): (&str, &str), places: usize) {
    let (asked, starts) = (fleet.all("kill", from, fleet.replicas), fleet.all("start", to, fleet.replicas));
    let early = asked.iter().filter(|asked| **asked < starts[0]).count();
    assert_eq!(early, places, "asked to end {asked:?}, started {starts:?}");
}

// === update_config ===

#[test]
fn update_parallelism_is_how_many_slots_are_at_work_and_zero_is_all() {
    if !is_here("update_parallelism_is_how_many_slots_are_at_work_and_zero_is_all") {
        return;
    }
    for (parallelism, places) in [(2, 2), (0, 3)] {
        let deploy = format!("update_config: {{ parallelism: {parallelism}, monitor: 200ms }}");
        let mut fleet = Fleet::new("para", "w", 3, &deploy, SLOW);
        fleet.baton(&["up"], 0);
        at_a_time(&fleet, ("1", "2"), places);
    }
}

#[test]
fn update_delay_is_waited_before_the_next_slot() {
    if !is_here("update_delay_is_waited_before_the_next_slot") {
        return;
    }
    let mut fleet = Fleet::new("delay", "w", 2, "update_config: { delay: 2s, monitor: 2100ms }", QUICK);
    fleet.baton(&["up"], 0);
    let (ends, starts) = fleet.swapped("1", "2");
    let between = ends[1] - starts[0];
    assert!(between >= Duration::from_millis(4_100), "the second went {between:?} after the first had come");
}

#[test]
fn update_monitor_is_how_long_a_new_one_is_watched() {
    if !is_here("update_monitor_is_how_long_a_new_one_is_watched") {
        return;
    }
    // Much longer than the five seconds that are taken where nobody says anything.
    let mut fleet = Fleet::new("monitor", "w", 1, "update_config: { monitor: 12s }", QUICK);
    fleet.baton(&["up"], 0);
    let watched = now() - fleet.swapped("1", "2").1[0];
    assert!(watched >= Duration::from_secs(12), "{watched:?}");
}

#[test]
fn update_order_is_who_comes_first() {
    if !is_here("update_order_is_who_comes_first") {
        return;
    }
    // Each is the other way round where nobody says anything.
    for (service, order) in [("w", "start-first"), ("api", "stop-first")] {
        let deploy = format!("update_config: {{ order: {order}, monitor: 200ms }}");
        let mut fleet = Fleet::new("order", service, 2, &deploy, QUICK);
        fleet.baton(&["up"], 0);
        first_comes(&fleet, ("1", "2"), order);
    }
}

#[track_caller]
fn first_comes(fleet: &Fleet, (from, to): (&str, &str), order: &str) {
    let (ends, starts) = (fleet.all("die", from, 2), fleet.all("start", to, 2));
    for number in [1, 2] {
        let at = |list: &[(Duration, u32)]| list.iter().find(|(_, of)| *of == number).unwrap().0;
        let start_first = at(&starts) < at(&ends);
        assert_eq!(start_first, order == "start-first", "{} {number}: {ends:?}, {starts:?}", fleet.service);
    }
}

#[test]
fn update_failure_action_is_what_a_failure_does() {
    if !is_here("update_failure_action_is_what_a_failure_does") {
        return;
    }
    for (action, code, (on_1, on_2)) in [("pause", 1, (1, 0)), ("continue", 1, (0, 1)), ("rollback", 3, (2, 0))] {
        let deploy = format!("update_config: {{ failure_action: {action}, monitor: 300ms }}");
        let mut fleet = Fleet::new("action", "w", 2, &deploy, &fails_once("2", 1));
        arm(&fleet);
        fleet.baton(&["up"], code);
        assert_eq!((fleet.running("1"), fleet.running("2")), (on_1, on_2), "{action}: {:?}", fleet.tags());
    }
}

#[test]
fn update_max_failure_ratio_is_how_many_may_fail() {
    if !is_here("update_max_failure_ratio_is_how_many_may_fail") {
        return;
    }
    // One of three: not more than 0.34, and more than 0.33.
    for (ratio, code, (on_1, on_2)) in [("0.34", 0, (0, 2)), ("0.33", 3, (3, 0))] {
        let deploy = format!("update_config: {{ max_failure_ratio: {ratio}, monitor: 300ms }}");
        let mut fleet = Fleet::new("ratio", "w", 3, &deploy, &fails_once("2", 1));
        arm(&fleet);
        fleet.baton(&["up"], code);
        assert_eq!((fleet.running("1"), fleet.running("2")), (on_1, on_2), "{ratio}: {:?}", fleet.tags());
    }
}

// === rollback_config ===

/// One at a time and quickly, so that nothing of it is taken for the way back's.
const FORTH: &str = "update_config: { parallelism: 1, monitor: 200ms, order: stop-first }";

#[test]
fn rollback_parallelism_is_how_many_slots_go_back_at_a_time() {
    if !is_here("rollback_parallelism_is_how_many_slots_go_back_at_a_time") {
        return;
    }
    for (parallelism, places) in [(2, 2), (0, 3)] {
        let deploy = format!("{FORTH}, rollback_config: {{ parallelism: {parallelism}, monitor: 200ms }}");
        let mut fleet = Fleet::new("bpara", "w", 3, &deploy, &format!("if [ $$V = 2 ]; then {SLOW}; fi; {QUICK}"));
        fleet.baton(&["up"], 0);
        fleet.baton(&["rollback"], 0);
        at_a_time(&fleet, ("2", "1"), places);
    }
}

#[test]
fn a_roll_that_fails_goes_back_as_rollback_config_says() {
    if !is_here("a_roll_that_fails_goes_back_as_rollback_config_says") {
        return;
    }
    let deploy = format!("{FORTH}, rollback_config: {{ parallelism: 0, monitor: 200ms }}");
    let script = fails_once("2", 3).replace(QUICK, &format!("if [ $$V = 2 ]; then {SLOW}; fi; {QUICK}"));
    let mut fleet = Fleet::new("bauto", "w", 3, &deploy, &script);
    arm(&fleet);
    fleet.baton(&["up"], 3);
    assert_eq!(fleet.running("1"), 3, "{:?}", fleet.tags());
    // The two that had come are asked to end before the first of them is there again; the third never came.
    let asked = fleet.all("kill", "2", 2);
    let starts = fleet.all("start", "1", 3);
    let again: Vec<Duration> =
        starts.iter().filter(|(_, n)| asked.iter().any(|(_, m)| m == n)).map(|(at, _)| *at).collect();
    assert!(asked.iter().all(|(at, _)| *at < again[0]), "asked to end {asked:?}, started {starts:?}");
}

#[test]
fn rollback_delay_is_waited_before_the_next_slot() {
    if !is_here("rollback_delay_is_waited_before_the_next_slot") {
        return;
    }
    let deploy = format!("{FORTH}, rollback_config: {{ delay: 2s, monitor: 2100ms }}");
    let mut fleet = Fleet::new("bdelay", "w", 2, &deploy, QUICK);
    fleet.baton(&["up"], 0);
    fleet.baton(&["rollback"], 0);
    let (ends, starts) = fleet.swapped("2", "1");
    let between = ends[1] - starts[0];
    assert!(between >= Duration::from_millis(4_100), "the second went {between:?} after the first had come");
}

#[test]
fn rollback_monitor_is_how_long_one_that_came_back_is_watched() {
    if !is_here("rollback_monitor_is_how_long_one_that_came_back_is_watched") {
        return;
    }
    let mut fleet = Fleet::new("bmonitor", "w", 1, &format!("{FORTH}, rollback_config: {{ monitor: 12s }}"), QUICK);
    fleet.baton(&["up"], 0);
    fleet.baton(&["rollback"], 0);
    let watched = now() - fleet.swapped("2", "1").1[0];
    assert!(watched >= Duration::from_secs(12), "{watched:?}");
}

#[test]
fn rollback_order_is_who_comes_first_on_the_way_back() {
    if !is_here("rollback_order_is_who_comes_first_on_the_way_back") {
        return;
    }
    let deploy = format!("{FORTH}, rollback_config: {{ order: start-first, monitor: 200ms }}");
    let mut fleet = Fleet::new("border", "w", 2, &deploy, QUICK);
    fleet.baton(&["up"], 0);
    first_comes(&fleet, ("1", "2"), "stop-first");
    fleet.baton(&["rollback"], 0);
    first_comes(&fleet, ("2", "1"), "start-first");
}

#[test]
fn rollback_failure_action_is_what_a_failure_on_the_way_back_does() {
    if !is_here("rollback_failure_action_is_what_a_failure_on_the_way_back_does") {
        return;
    }
    for (action, (on_1, on_2)) in [("pause", (0, 1)), ("continue", (1, 0))] {
        let deploy = format!("{FORTH}, rollback_config: {{ failure_action: {action}, monitor: 300ms }}");
        let mut fleet = Fleet::new("baction", "w", 2, &deploy, &fails_once("1", 1));
        fleet.baton(&["up"], 0);
        arm(&fleet);
        fleet.baton(&["rollback"], 1);
        assert_eq!((fleet.running("1"), fleet.running("2")), (on_1, on_2), "{action}: {:?}", fleet.tags());
    }
}

#[test]
fn rollback_max_failure_ratio_is_how_many_may_fail_on_the_way_back() {
    if !is_here("rollback_max_failure_ratio_is_how_many_may_fail_on_the_way_back") {
        return;
    }
    for (ratio, code, (on_1, on_2)) in [("0.34", 0, (2, 0)), ("0.33", 1, (0, 2))] {
        let deploy = format!("{FORTH}, rollback_config: {{ max_failure_ratio: {ratio}, monitor: 300ms }}");
        let mut fleet = Fleet::new("bratio", "w", 3, &deploy, &fails_once("1", 1));
        fleet.baton(&["up"], 0);
        arm(&fleet);
        fleet.baton(&["rollback"], code);
        assert_eq!((fleet.running("1"), fleet.running("2")), (on_1, on_2), "{ratio}: {:?}", fleet.tags());
    }
}
