//! Life and death under a keeper.

use std::future::Future;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use baton::model::*;
use baton::runtime::Runtime;

use crate::house::*;
use crate::toys;

/// All of them.
pub fn all() -> Vec<(&'static str, fn())> {
    vec![
        ("an_exit_is_recorded_before_it_is_told_and_outlives_the_keeper", exits),
        ("a_crashed_instance_starts_again_with_back_off_until_it_is_held", back_off),
        ("a_job_is_not_started_again", jobs),
        ("kill_takes_everything_of_an_instance_and_no_bystander", kill_everything),
        ("a_signal_is_had_once_however_often_it_is_asked_for", one_signal),
        ("a_killed_keeper_is_followed_by_one_that_adopts_its_instances", adoption),
        ("an_agent_brings_a_killed_keeper_back_by_itself", revival),
        ("after_a_reboot_what_was_started_and_not_held_runs_again", reboot),
        ("only_an_instances_own_processes_say_that_it_is_ready", notify),
        ("secrets_are_in_the_definition_file_alone_and_not_in_shown_logs", secrets),
        ("a_program_starts_with_a_clean_mask_and_a_cleared_environment", clean_start),
        ("a_log_that_grows_is_rotated_and_read_over_its_files", rotation),
        ("a_command_beside_an_instance_has_its_environment_and_ends_in_time", commands),
        ("a_folder_deeper_than_a_socket_address_is_no_hindrance", deep_folder),
        ("a_number_stands_for_one_spec_and_a_removed_one_is_gone", identity),
        ("what_cannot_be_started_says_why_and_stays_created", cannot_start),
        ("a_keeper_leaves_when_nothing_is_left", idle),
        ("a_gateway_without_a_command_is_this_program", gateway),
        ("a_release_is_resolved_only_when_it_is_whole", resolve),
    ]
}

/// Runs a test on a house of its own and clears the house, whatever came of the test.
pub fn in_house<F: Future<Output = House>>(house: House, test: impl FnOnce(House) -> F) {
    let tokio = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let root = house.root().to_owned();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tokio.block_on(test(house))));
    match result {
        Ok(house) => tokio.block_on(house.clean_up()),
        Err(panic) => {
            end_everything_under(&root);
            std::panic::resume_unwind(panic);
        }
    }
}

/// After a failure: every process that carries this root in its environment or is a keeper of it.
fn end_everything_under(root: &Path) {
    for process in baton::sys::process::all().unwrap() {
        let command = std::fs::read(format!("/proc/{}/cmdline", process.pid)).unwrap_or_default();
        let slot = baton::sys::process::environment(process.pid, "BATON_SLOT_DIR").unwrap_or_default();
        let root = root.as_os_str().as_encoded_bytes();
        if [command, slot].iter().any(|text| text.windows(root.len()).any(|part| part == root)) {
            kill(process.pid);
        }
    }
}

fn exits() {
    in_house(House::new(&[]), async |house| {
        for (number, script, wanted) in [
            (1, "exit 7", ExitStatus::Code(7)),
            (2, "exit 0", ExitStatus::Code(0)),
            (3, "kill -9 $$", ExitStatus::Signal(9)),
        ] {
            let instance = id(&format!("worker-1.{number}"));
            house.run(&instance, &job(script)).await;
            assert_eq!(house.runtime.wait_exit(&instance).await.unwrap(), wanted);
            house.kill_keeper("worker-1");
            let seen = house.see(&instance).await;
            assert_eq!((seen.state, seen.exit), (InstanceState::Exited, Some(wanted)));
        }
        house
    });
}

fn back_off() {
    in_house(House::new(&[]), async |house| {
        let starts = house.path("starts");
        let instance = id("worker-1.1");
        house.run(&instance, &shell(&format!("date +%s%N >> {}; exit 1", starts.display()))).await;
        let times = || -> Vec<u64> {
            let text = std::fs::read_to_string(&starts).unwrap_or_default();
            text.lines().map(|line| line.parse::<u64>().unwrap() / 1_000_000).collect()
        };
        wait_until("four starts", || times().len() >= 4);
        house.runtime.hold_restart(&instance).await.unwrap();
        let times = times();
        for (wait, pair) in [100, 200, 400].iter().zip(times.windows(2)) {
            let gap = pair[1] - pair[0];
            assert!(gap >= *wait && gap < wait + 2_000, "started again after {gap} ms, not {wait}: {times:?}");
        }
        let seen = house.see(&instance).await;
        assert_eq!((seen.state, seen.exit), (InstanceState::Exited, Some(ExitStatus::Code(1))));
        assert!(seen.restarts >= 3, "{seen:?}");
        // Longer than the next wait would have been: it stays ended.
        let count = std::fs::read_to_string(&starts).unwrap().lines().count();
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert_eq!(std::fs::read_to_string(&starts).unwrap().lines().count(), count);
        // Started by hand, the policy is back.
        house.runtime.start(&instance).await.unwrap();
        wait_until("two more starts", || std::fs::read_to_string(&starts).unwrap().lines().count() >= count + 2);
        house
    });
}

fn jobs() {
    in_house(House::new(&[]), async |house| {
        let instance = id("worker-1.1");
        house.run(&instance, &job("exit 3")).await;
        assert_eq!(house.runtime.wait_exit(&instance).await.unwrap(), ExitStatus::Code(3));
        tokio::time::sleep(Duration::from_millis(400)).await;
        let seen = house.see(&instance).await;
        assert_eq!((seen.state, seen.restarts), (InstanceState::Exited, 0));
        house
    });
}

fn kill_everything() {
    in_house(House::new(&[]), async |house| {
        let at = |name: &str| house.path(name).display().to_string();
        // One in another session, one of those without any name, one that ignores SIGTERM, and the same as a bystander.
        let orphan = |name: &str, prefix: &str| {
            format!("({prefix} setsid sh -c 'echo $$ > {}; exec sleep 300' </dev/null >/dev/null 2>&1 &)", at(name))
        };
        let script = format!(
            "{}; {}; sh -c 'trap \"\" TERM; echo $$ > {}; while :; do sleep 1; done' & trap '' TERM; while :; do sleep 1; done",
            orphan("marked", ""),
            orphan("nameless", "env -i PATH=$PATH"),
            at("deaf"),
        );
        let instance = id("worker-1.1");
        house.run(&instance, &shell(&script)).await;
        let mut bystander = std::process::Command::new("sleep").arg("300").spawn().unwrap();
        let other = id("worker-2.1");
        house.run(&other, &shell("exec sleep 300")).await;
        let pids: Vec<i32> = ["marked", "nameless", "deaf"].map(|name| number_in(&house.path(name))).into();
        let main = i32::try_from(house.see(&instance).await.pid.unwrap()).unwrap();

        // Beside it, a newer instance begins: orphans without a name still belong to the older one.
        let newer = id("worker-1.2");
        house.run(&newer, &shell("exec sleep 300")).await;
        house.runtime.hold_restart(&instance).await.unwrap();
        house.runtime.signal(&instance, "SIGTERM").await.unwrap();
        assert!(alive(main) && pids.iter().all(|&pid| alive(pid)), "SIGTERM is ignored");
        house.runtime.kill(&instance).await.unwrap();
        for pid in pids.iter().chain([&main]) {
            assert!(!alive(*pid), "process {pid} of {pids:?}, main {main}, outlived the kill");
        }
        let seen = house.see(&instance).await;
        assert_eq!((seen.state, seen.exit), (InstanceState::Exited, Some(ExitStatus::Signal(9))));
        assert!(bystander.try_wait().unwrap().is_none(), "a bystander was killed");
        assert_eq!(house.see(&newer).await.state, InstanceState::Running);
        assert_eq!(house.see(&other).await.state, InstanceState::Running);
        // Again is harmless.
        house.runtime.kill(&instance).await.unwrap();
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        house
    });
}

fn adoption() {
    in_house(House::new(&[]), async |mut house| {
        let (kept, ends, held) = (id("worker-1.1"), id("worker-1.2"), id("worker-1.3"));
        let orphan = house.path("orphan");
        let script = format!("(setsid sh -c 'echo $$ > {}; exec sleep 300' &) ; sleep 300", orphan.display());
        house.run(&kept, &shell(&script)).await;
        house.run(&ends, &shell("exec sleep 300")).await;
        house.run(&held, &shell("exec sleep 300")).await;
        house.runtime.hold_restart(&held).await.unwrap();
        let orphan = number_in(&orphan);
        let before = house.see(&kept).await;
        let pid_of = async |instance: &InstanceId| i32::try_from(house.see(instance).await.pid.unwrap()).unwrap();
        let (ends_pid, held_pid) = (pid_of(&ends).await, pid_of(&held).await);
        let first = house.keeper_pid("worker-1");

        // A plain look brings nothing up and still tells the truth.
        house.restart_agent(&[]);
        house.kill_keeper("worker-1");
        kill(ends_pid);
        wait_until("it has gone", || !alive(ends_pid));
        assert_eq!(house.see(&kept).await.state, InstanceState::Running);
        assert_eq!(house.see(&ends).await.state, InstanceState::Exited);
        assert_eq!(house.keeper_pid("worker-1"), first);

        house.runtime.adopt_running(std::slice::from_ref(&kept)).await.unwrap();
        wait_until("another keeper", || house.keeper_pid("worker-1") != first);
        let after = house.see(&kept).await;
        assert_eq!((after.state, after.pid, after.restarts), (InstanceState::Running, before.pid, 0));
        wait_for("it runs again", async || {
            let seen = house.see(&ends).await;
            seen.state == InstanceState::Running && seen.restarts == 1
        })
        .await;

        // The code of an adopted one's end is lost, and its end is not.
        let waiting = house.runtime.wait_exit(&held);
        kill(held_pid);
        assert_eq!(waiting.await.unwrap(), ExitStatus::Unknown);
        assert_eq!(house.see(&held).await.state, InstanceState::Exited);

        house.runtime.kill(&kept).await.unwrap();
        assert!(!alive(i32::try_from(before.pid.unwrap()).unwrap()));
        assert!(!alive(orphan), "what double-forked away under the first keeper outlived the kill by the second");
        house
    });
}

fn revival() {
    in_house(House::new(&[]), async |house| {
        let instance = id("worker-1.1");
        house.run(&instance, &shell("exec sleep 300")).await;
        let mut hints = house.runtime.hints();
        for _ in 0..3 {
            let first = house.keeper_pid("worker-1");
            kill(first);
            wait_until("another keeper", || house.keeper_pid("worker-1") != first);
        }
        let pid = house.see(&instance).await.pid;
        let first = house.keeper_pid("worker-1");
        house.runtime.replace_keeper(&instance.slot).await.unwrap();
        wait_until("another keeper", || house.keeper_pid("worker-1") != first);
        let seen = house.see(&instance).await;
        assert_eq!((seen.state, seen.pid, seen.restarts), (InstanceState::Running, pid, 0));
        assert_eq!(hints.recv().await.unwrap().slot, instance.slot);
        house
    });
}

fn reboot() {
    in_house(House::new(&[]), async |mut house| {
        let (running, held, once, created) = (id("worker-1.1"), id("worker-1.2"), id("worker-1.3"), id("worker-1.4"));
        let crashing = id("worker-2.1");
        house.run(&running, &shell("exec sleep 300")).await;
        house.run(&held, &shell("exec sleep 300")).await;
        house.runtime.hold_restart(&held).await.unwrap();
        house.run(&once, &job("exec sleep 300")).await;
        house.make(&created, &shell("exec sleep 300")).await;
        house.run(&crashing, &shell("exit 1")).await;
        wait_for("a crash", async || house.see(&crashing).await.state == InstanceState::Restarting).await;

        // Everything of the host ends at once.
        house.restart_agent(&[("BATON_TEST_BOOT_ID", "the-next-boot")]);
        let pids: Vec<u32> =
            house.runtime.inspect(&running.slot).await.unwrap().iter().filter_map(|seen| seen.pid).collect();
        assert_eq!(pids.len(), 3);
        house.kill_keeper("worker-1");
        house.kill_keeper("worker-2");
        pids.iter().for_each(|&pid| kill(i32::try_from(pid).unwrap()));

        house.runtime.adopt_running(&[running.clone(), crashing.clone()]).await.unwrap();
        wait_for("it runs again", async || house.see(&running).await.state == InstanceState::Running).await;
        let seen = house.see(&running).await;
        assert_eq!((seen.restarts, seen.exit), (1, None));
        for (instance, state) in
            [(&held, InstanceState::Exited), (&once, InstanceState::Exited), (&created, InstanceState::Created)]
        {
            assert_eq!(house.see(instance).await.state, state, "{instance}");
        }
        wait_for("it crashes again", async || house.see(&crashing).await.restarts >= 2).await;
        house
    });
}

fn notify() {
    in_house(House::new(&[]), async |house| {
        let ready = Ready { probe: Some(Probe::Notify), ..Ready::default() };
        let (own, child, silent) = (id("worker-1.1"), id("worker-1.2"), id("worker-1.3"));
        let this = this().display().to_string();
        house.run(&own, &Definition { ready: ready.clone(), ..toy(&["notify", "STATUS=up\nREADY=1"]) }).await;
        let script = format!("{this} toy notify READY=1 & wait");
        house.run(&child, &Definition { ready: ready.clone(), ..shell(&script) }).await;
        let address = house.path("address");
        let script = format!("echo $NOTIFY_SOCKET > {}; exec sleep 300", address.display());
        house.run(&silent, &Definition { ready, ..shell(&script) }).await;
        for instance in [&own, &child] {
            wait_for("it is ready", async || house.runtime.notified(instance).await == Some(true)).await;
            assert_eq!(house.see(instance).await.health, Health::Ready);
        }
        wait_until("an address", || std::fs::read_to_string(&address).is_ok_and(|text| text.ends_with('\n')));
        // This test is no process of the instance, whatever it says.
        toys::send(std::fs::read_to_string(&address).unwrap().trim(), "READY=1");
        let log = house.slot_folder("worker-1").join("keeper.log");
        wait_until("the keeper's disbelief", || std::fs::read_to_string(&log).unwrap().contains("not believed"));
        assert_eq!(house.runtime.notified(&silent).await, Some(false));
        assert_eq!(house.see(&silent).await.health, Health::Unready);

        // Another start has to be ready again.
        house.kill_keeper("worker-1");
        house.runtime.ensure_keeper(&own.slot).await.unwrap();
        assert_eq!(house.see(&own).await.health, Health::Ready);
        house.runtime.kill(&own).await.unwrap();
        assert_eq!(house.runtime.notified(&own).await, Some(false));
        house
    });
}

fn secrets() {
    in_house(House::new(&[]), async |house| {
        let file = house.path("worker.env");
        std::fs::write(&file, "FROM_FILE=canary-in-file\nBOTH=canary-that-loses\n").unwrap();
        let script = "echo file=$FROM_FILE both=$BOTH arg=$1 token=$2 word; sleep 0.1; exit 1";
        let argv = ["/bin/sh", "-c", script, "sh", "canary-in-argv", "--token=canary-option"];
        let mut definition = definition(&argv);
        definition.env.insert("BOTH".to_owned(), Secret::new("canary-in-env"));
        definition.env_file = Some(file.display().to_string());
        let instance = id("worker-1.1");
        house.run(&instance, &definition).await;
        house.runtime.exec(&instance, &["true".to_owned()], PATIENCE).await.unwrap();
        wait_for("a restart", async || house.see(&instance).await.restarts > 0).await;
        let lines = house.runtime.logs(&instance, 1).await.unwrap();
        assert_eq!(lines, ["file=*** both=*** arg=*** token=--token=*** word"]);
        let mut looked = 0;
        let mut folders = vec![house.root().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                let about = std::fs::symlink_metadata(&path).unwrap();
                if about.is_dir() {
                    assert_eq!(about.permissions().mode() & 0o077, 0, "{} is open to others", path.display());
                    folders.push(path);
                } else if about.is_file() {
                    looked += 1;
                    assert_eq!(about.permissions().mode() & 0o077, 0, "{} is open to others", path.display());
                    let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).into_owned();
                    let allowed = path.ends_with("instances/1/definition.json") || path.ends_with("worker-1.1.log");
                    assert!(allowed || !text.contains("canary"), "a secret in {}: {text}", path.display());
                } else {
                    assert_eq!(about.permissions().mode() & 0o077, 0, "{} is open to others", path.display());
                }
            }
        }
        assert!(looked >= 4, "only {looked} files");
        house
    });
}

fn clean_start() {
    in_house(House::new(&[("CANARY_OF_THE_KEEPER", "1")]), async |house| {
        let instance = id("worker-2.3");
        let script = "grep -E 'SigBlk|SigIgn' /proc/self/status; env | sort; pwd; ls /proc/$$/fd | tr '\\n' ' '; echo; echo {port} {port.admin} {slot} {instance} {address} {{}}";
        let mut definition = shell(script);
        definition.role = Some(Role::Job);
        let auto = |name: &str| NamedPort { name: name.to_owned(), port: Port::Auto, host: None, passed: false };
        definition.ports = vec![auto("http"), auto("admin")];
        definition.env.insert("MINE".to_owned(), Secret::new("{instance}"));
        definition.cwd = Some(house.path("").display().to_string());
        let endpoint = house.run(&instance, &definition).await;
        house.runtime.wait_exit(&instance).await.unwrap();
        let lines = house.runtime.logs(&instance, 100).await.unwrap();
        for field in ["SigBlk", "SigIgn"] {
            let line = lines.iter().find(|line| line.starts_with(field)).unwrap();
            assert!(line.ends_with("\t0000000000000000"), "{line}");
        }
        let names: Vec<&str> = lines.iter().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        let known =
            ["BATON_INSTANCE", "BATON_SLOT_DIR", "HOME", "LANG", "MINE", "NOTIFY_SOCKET", "PATH", "PWD", "TZ", "USER"];
        let extra = ["SHLVL", "OLDPWD", "_"];
        assert!(names.iter().all(|name| known.contains(name) || extra.contains(name)), "{names:?}");
        assert!(lines.contains(&"MINE=worker-2.3".to_owned()), "{lines:?}");
        // The shell's own standard descriptors, and what `ls` of it sees while it is read.
        let fds = lines.iter().find(|line| line.starts_with("0 1 2")).unwrap();
        assert!(fds.split_whitespace().all(|fd| fd.parse::<u32>().unwrap() < 3 || fd == "10"), "{fds}");
        let ports = &endpoint.ports;
        let last = format!("{} {} worker-2 worker-2.3 127.0.0.1 {{}}", ports["http"], ports["admin"]);
        assert_eq!(lines.last(), Some(&last));
        assert_ne!(ports["http"], ports["admin"]);
        let placeholders = house.runtime.placeholders(&instance).await.unwrap();
        assert_eq!(placeholders["port.admin"], ports["admin"].to_string());
        house
    });
}

fn rotation() {
    in_house(House::new(&[("TEST_LOG_LIMIT", "20000")]), async |house| {
        let instance = id("worker-1.1");
        let script = "i=0; while [ $i -lt 4000 ]; do i=$((i+1)); echo line $i of many; [ $((i%100)) = 0 ] && sleep 0.05; done; exec sleep 300";
        house.run(&instance, &shell(script)).await;
        let log = |age: &str| house.slot_folder("worker-1").join(format!("logs/worker-1.1.log{age}"));
        wait_for("the last line", async || house.runtime.logs(&instance, 1).await.unwrap() == ["line 4000 of many"])
            .await;
        wait_until("the log is small", || std::fs::metadata(log("")).unwrap().len() <= 20_000);
        assert!(log(".1").exists(), "it was never rotated");
        assert!(!log(".4").exists(), "more than three are kept");
        house.runtime.kill(&instance).await.unwrap();
        let lines = house.runtime.logs(&instance, 10_000).await.unwrap();
        assert_eq!(lines.last().unwrap(), "line 4000 of many");
        let numbers: Vec<u32> = lines.iter().map(|line| line.split(' ').nth(1).unwrap().parse().unwrap()).collect();
        assert!(numbers.windows(2).all(|pair| pair[1] > pair[0]), "lines are doubled or out of order");
        // Between the copy and the cut lie microseconds: more than a few lines cannot be lost in them.
        let span = numbers.last().unwrap() - numbers[0] + 1;
        assert!(span - u32::try_from(numbers.len()).unwrap() < 20, "{} of {span} lines are left", numbers.len());
        house
    });
}

fn commands() {
    in_house(House::new(&[]), async |house| {
        let instance = id("worker-1.1");
        let mut definition = shell("exec sleep 300");
        definition.env.insert("MINE".to_owned(), Secret::new("value"));
        house.run(&instance, &definition).await;
        let run = async |script: &str, timeout: u64| {
            let argv = ["sh", "-c", script].map(str::to_owned);
            house.runtime.exec(&instance, &argv, Duration::from_millis(timeout)).await
        };
        let output = run("echo $MINE $BATON_INSTANCE; echo wrong >&2; exit 4", 5_000).await.unwrap();
        assert_eq!((output.code, output.tail.as_str()), (Some(4), "value worker-1.1\nwrong\n"));
        let pid = house.path("slow");
        let begun = std::time::Instant::now();
        let output = run(&format!("echo before; sleep 300 & echo $! > {}; wait", pid.display()), 300).await.unwrap();
        assert_eq!((output.code, output.tail.as_str()), (None, "before\n"));
        assert!(begun.elapsed() >= Duration::from_millis(300) && begun.elapsed() < Duration::from_secs(5));
        let pid = number_in(&pid);
        wait_until("its child is gone too", || !alive(pid));
        let output = run("head -c 100000 /dev/zero | tr '\\0' x; echo end", 5_000).await.unwrap();
        assert_eq!(output.tail.len(), 4096);
        assert!(output.tail.ends_with("xend\n"), "{:?}", output.code);
        let error = house.runtime.exec(&instance, &["no-such-program".to_owned()], PATIENCE).await.unwrap_err();
        assert!(error.message.contains("no-such-program is in no folder of PATH"), "{error}");
        assert_eq!(house.see(&instance).await.restarts, 0);
        house
    });
}

fn deep_folder() {
    let deep = ["a-folder-with-a-name-of-some-length"; 5].join("/");
    in_house(House::at(&deep, &[]), async |house| {
        assert!(house.slot_folder("worker-1").as_os_str().len() > 150);
        let instance = id("worker-1.1");
        let ready = Ready { probe: Some(Probe::Notify), ..Ready::default() };
        house.run(&instance, &Definition { ready, ..toy(&["notify", "READY=1"]) }).await;
        wait_for("it is ready", async || house.runtime.notified(&instance).await == Some(true)).await;
        house
    });
}

fn one_signal() {
    in_house(House::new(&[]), async |house| {
        let instance = id("worker-1.1");
        let heard = house.path("heard");
        let script = format!("trap 'echo TERM >> {0}' TERM; : > {0}; while :; do sleep 0.05; done", heard.display());
        let count = || std::fs::read_to_string(&heard).unwrap_or_default().lines().count();
        house.run(&instance, &shell(&script)).await;
        wait_until("the trap is set", || heard.exists());
        for _ in 0..3 {
            house.runtime.signal(&instance, "SIGTERM").await.unwrap();
        }
        wait_until("it is heard", || count() == 1);
        // A keeper that follows a killed one knows what was sent.
        house.kill_keeper("worker-1");
        house.runtime.signal(&instance, "SIGTERM").await.unwrap();
        house.runtime.signal(&instance, "SIGUSR1").await.unwrap();
        wait_for("SIGUSR1 has ended it", || async { house.see(&instance).await.state != InstanceState::Running }).await;
        assert_eq!(count(), 1, "it had SIGTERM again");
        // A new run of it has had nothing.
        house.runtime.start(&instance).await.unwrap();
        wait_until("the trap is set anew", || count() == 0);
        house.runtime.signal(&instance, "SIGTERM").await.unwrap();
        wait_until("the new run hears it", || count() == 1);
        house.runtime.kill(&instance).await.unwrap();
        house
    });
}

fn identity() {
    in_house(House::new(&[]), async |house| {
        let instance = id("worker-1.7");
        let definition = shell("exec sleep 300");
        house.run(&instance, &definition).await;
        house.make(&instance, &definition).await;
        let pid = house.see(&instance).await.pid;
        house.runtime.start(&instance).await.unwrap();
        assert_eq!(house.see(&instance).await.pid, pid, "a second start is no start");
        let error = house.runtime.prepare(&instance, &blueprint(&shell("exec sleep 1"))).await.unwrap_err();
        assert!(error.message.contains("exists with another spec"), "{error}");
        let error = house.runtime.remove(&instance).await.unwrap_err();
        assert!(error.message.contains("still runs; stop it first"), "{error}");
        let error = house.runtime.signal(&instance, "SIGNOTHING").await.unwrap_err();
        assert!(error.message.contains("SIGNOTHING is not a signal"), "{error}");
        house.runtime.kill(&instance).await.unwrap();
        house.runtime.signal(&instance, "SIGTERM").await.unwrap();
        house.runtime.remove(&instance).await.unwrap();
        house.runtime.remove(&instance).await.unwrap();
        assert!(house.runtime.inspect(&instance.slot).await.unwrap().is_empty());
        assert!(house.runtime.slots().await.unwrap().is_empty());
        assert!(!house.slot_folder("worker-1").join("logs/worker-1.7.log").exists());
        let error = house.runtime.start(&instance).await.unwrap_err();
        assert!(error.message.contains("there is no instance 7 in this slot"), "{error}");
        house
    });
}

fn cannot_start() {
    in_house(House::new(&[]), async |house| {
        let plain = house.path("plain");
        std::fs::write(&plain, "").unwrap();
        let plain = plain.display().to_string();
        let mut nowhere = shell("true");
        nowhere.cwd = Some("/no/such/folder".to_owned());
        for (number, definition, words) in [
            (1, definition(&["/no/such/program"]), "cannot execute /no/such/program: does not exist".to_owned()),
            (2, definition(&[&plain]), format!("cannot execute {plain}: permission denied")),
            (3, definition(&["no-such-program"]), "program no-such-program is in no folder of PATH".to_owned()),
            (4, nowhere, "cannot enter the working folder /no/such/folder: does not exist".to_owned()),
        ] {
            let instance = id(&format!("worker-1.{number}"));
            house.make(&instance, &definition).await;
            let error = house.runtime.start(&instance).await.unwrap_err();
            assert!(error.message.contains(&words) && !error.unknown, "{error}");
            let seen = house.see(&instance).await;
            assert_eq!((seen.state, seen.restarts), (InstanceState::Created, 0));
        }
        for (definition, words) in [
            (definition(&[]), "command names no program"),
            (shell("{nothing}"), "unknown placeholder {nothing}"),
            (
                Definition { env_file: Some("/no/such.env".to_owned()), ..shell("true") },
                "env_file /no/such.env: does not exist",
            ),
        ] {
            let error = house.runtime.prepare(&id("worker-1.9"), &blueprint(&definition)).await.unwrap_err();
            assert!(error.message.contains(words), "{error}");
        }
        assert_eq!(house.runtime.inspect(&id("worker-1.1").slot).await.unwrap().len(), 4);
        house
    });
}

fn idle() {
    in_house(House::new(&[]), async |house| {
        let instance = id("worker-1.1");
        house.make(&instance, &shell("true")).await;
        let pid = house.keeper_pid("worker-1");
        house.runtime.remove(&instance).await.unwrap();
        wait_until("the keeper has gone", || !alive(pid));
        assert!(!house.slot_folder("worker-1").join("keeper.sock").exists());
        // The slot can be used again.
        house.make(&id("worker-1.2"), &shell("true")).await;
        house
    });
}

/// What runs as `gateway --dir FOLDER` here: says so and stays.
pub fn stand_in_for_a_gateway(folder: &str) -> u8 {
    println!("gateway in {folder}");
    loop {
        std::thread::park();
    }
}

fn gateway() {
    in_house(House::new(&[]), async |house| {
        let instance = id("gateway-1.1");
        house.run(&instance, &Definition { role: Some(Role::Gateway), ..definition(&[]) }).await;
        let folder = house.slot_folder("gateway-1").join("gateway");
        let line = format!("gateway in {}", folder.display());
        wait_for("its word", async || house.runtime.logs(&instance, 9).await.unwrap() == [line.clone()]).await;
        assert_eq!(house.runtime.gateway_socket(&instance.slot), Some(folder.join("control.sock")));
        house.make(&id("worker-1.1"), &shell("true")).await;
        assert_eq!(house.runtime.gateway_socket(&id("worker-1.1").slot), None);
        house
    });
}

fn resolve() {
    in_house(House::new(&[]), async |house| {
        use sha2::Digest as _;
        let release = house.path("v1");
        std::fs::create_dir_all(release.join("bin")).unwrap();
        std::fs::write(release.join("bin/worker"), "#!/bin/sh\necho {release}; exec sleep 300\n").unwrap();
        std::fs::set_permissions(release.join("bin/worker"), std::fs::Permissions::from_mode(0o755)).unwrap();
        let content = std::fs::read(release.join("bin/worker")).unwrap();
        let sum: String = sha2::Sha256::digest(&content).iter().map(|byte| format!("{byte:02x}")).collect();
        std::fs::write(release.join("SHA256SUMS"), format!("{sum}  bin/worker\n")).unwrap();
        let path = release.display().to_string();
        let mut definition = definition(&["{release}/bin/worker"]);
        definition.release = Some(Release { path: path.clone(), sha256_file: Some("SHA256SUMS".to_owned()) });
        let whole = house.runtime.resolve(&definition, false).await;
        assert!(whole.problem.is_none() && whole.release.is_some(), "{whole:?}");
        let instance = id("worker-1.1");
        house.run(&instance, &definition).await;
        assert_eq!(house.runtime.placeholders(&instance).await.unwrap()["release"], path);

        std::fs::write(release.join("bin/worker"), "changed").unwrap();
        let problem = house.runtime.resolve(&definition, false).await.problem.unwrap();
        assert_eq!(problem, format!("release {path}: bin/worker does not match its checksum"));
        std::fs::remove_file(release.join("bin/worker")).unwrap();
        let error = house.runtime.prepare(&id("worker-1.2"), &blueprint(&definition)).await.unwrap_err();
        assert_eq!(error.kind, FailureKind::Missing);
        definition.release = Some(Release { path: "/no/such/v2".to_owned(), sha256_file: None });
        let problem = house.runtime.resolve(&definition, false).await.problem.unwrap();
        assert_eq!(problem, "release /no/such/v2 does not exist on this host");
        house
    });
}
