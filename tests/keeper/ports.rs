//! Ports: passed, chosen, taken.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use baton::model::*;
use baton::runtime::Runtime;

use crate::cases::in_house;
use crate::house::*;
use crate::toys;

/// All of them.
pub fn all() -> Vec<(&'static str, fn())> {
    vec![
        ("no_connection_is_refused_while_a_port_is_handed_over_and_its_keeper_killed", hand_over),
        ("a_socket_that_cannot_be_taken_back_is_told", not_given_back),
        ("a_taken_port_is_found_before_anything_is_made", taken),
        ("a_chosen_port_stays_its_own_over_restarts", chosen),
        ("a_port_of_an_ended_slot_is_let_go", let_go),
    ]
}

fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn hand_over() {
    in_house(House::new(&[]), async |house| {
        let port = free_port();
        let ready = Ready { probe: Some(Probe::Notify), ..Ready::default() };
        let version = |name: &str| Definition { ports: passed(port), ready: ready.clone(), ..toy(&["serve", name]) };
        let is_ready = async |instance: &InstanceId| {
            wait_for("it is ready", async || house.see(instance).await.health == Health::Ready).await;
        };
        let mut old = id("worker-1.1");
        house.run(&old, &version("v1")).await;
        is_ready(&old).await;

        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let (stop, answered) = (Arc::clone(&stop), Arc::clone(&answered));
                std::thread::spawn(move || {
                    let begun = Instant::now();
                    let mut count = 0;
                    let mut problems = Vec::new();
                    // Open loop, 250 connections a second each: from the intended time, whatever the answers take.
                    while !stop.load(Ordering::Relaxed) {
                        let due = begun + Duration::from_millis(4) * count;
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                        count += 1;
                        match ask(port) {
                            Ok(text) if text.starts_with('v') => {
                                answered.fetch_add(1, Ordering::Relaxed);
                            }
                            other => problems.push(format!("{other:?}")),
                        }
                    }
                    problems
                })
            })
            .collect();
        let more = |count: u64| {
            let wanted = answered.load(Ordering::Relaxed) + count;
            wait_until("more answers", || answered.load(Ordering::Relaxed) >= wanted);
        };
        more(500);
        for number in 2..=4 {
            // Every other hand-over, the keeper that bound the socket is gone, and the next one takes it back.
            if number % 2 == 0 {
                house.kill_keeper("worker-1");
                more(100);
                house.runtime.ensure_keeper(&old.slot).await.unwrap();
                assert!(house.see(&old).await.sockets_held, "the socket was not taken back");
            }
            let new = id(&format!("worker-1.{number}"));
            house.run(&new, &version(&format!("v{number}"))).await;
            is_ready(&new).await;
            more(100);
            house.runtime.hold_restart(&old).await.unwrap();
            house.runtime.signal(&old, "SIGTERM").await.unwrap();
            house.runtime.wait_exit(&old).await.unwrap();
            house.runtime.kill(&old).await.unwrap();
            house.runtime.remove(&old).await.unwrap();
            assert_eq!(ask(port).unwrap(), format!("v{number}"));
            old = new;
            more(100);
        }
        stop.store(true, Ordering::Relaxed);
        let problems: Vec<String> = clients.into_iter().flat_map(|client| client.join().unwrap()).collect();
        let total = answered.load(Ordering::Relaxed);
        assert!(problems.is_empty(), "{} of {total}: {:?}", problems.len(), &problems[..problems.len().min(5)]);
        house
    });
}

fn not_given_back() {
    in_house(House::new(&[]), async |house| {
        let port = free_port();
        let instance = id("worker-1.1");
        house.run(&instance, &Definition { ports: passed(port), ..toy(&["serve", "v1"]) }).await;
        let pid = i32::try_from(house.see(&instance).await.pid.unwrap()).unwrap();
        // Somebody whom the keeper may not look into has the socket, and the instance no more.
        let elsewhere = toys::borrow_socket(pid);
        let deaf = id("worker-1.2");
        house.run(&deaf, &Definition { ports: passed(port), ..toy(&["deafen"]) }).await;
        wait_for("it is deaf", async || house.runtime.logs(&deaf, 1).await.unwrap() == ["deaf"]).await;
        house.runtime.kill(&instance).await.unwrap();
        assert!(house.see(&deaf).await.sockets_held);
        house.kill_keeper("worker-1");
        house.runtime.ensure_keeper(&instance.slot).await.unwrap();
        let seen = house.see(&deaf).await;
        assert_eq!((seen.state, seen.sockets_held), (InstanceState::Running, false));
        let next = id("worker-1.3");
        let definition = Definition { ports: passed(port), ..toy(&["serve", "v3"]) };
        let error = house.runtime.prepare(&next, &blueprint(&definition)).await.unwrap_err();
        assert!(error.message.contains(&format!("port {port} is in use by process {}", std::process::id())), "{error}");
        drop(elsewhere);
        house.run(&next, &definition).await;
        assert!(house.see(&next).await.sockets_held);
        assert_eq!(ask(port).unwrap(), "v3");
        house
    });
}

fn taken() {
    in_house(House::new(&[]), async |house| {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let mut own = passed(port);
        own[0].passed = false;
        for (number, ports) in [(1, passed(port)), (2, own.clone())] {
            let instance = id(&format!("worker-1.{number}"));
            let definition = Definition { ports, ..shell("exec sleep 300") };
            let error = house.runtime.prepare(&instance, &blueprint(&definition)).await.unwrap_err();
            let wanted = format!("port {port} is in use by process {}", std::process::id());
            assert!(error.message.contains(&wanted), "{error}");
            assert_eq!((error.kind, error.unknown, error.retryable), (FailureKind::Refused, false, true));
        }
        assert!(house.runtime.inspect(&id("worker-1.1").slot).await.unwrap().is_empty());
        drop(taken);

        // A number that the program binds itself may be held by the instance that is to be replaced.
        let this = this().display().to_string();
        let script = format!("exec {this} toy bind {{port}}");
        house.run(&id("worker-1.3"), &Definition { ports: own.clone(), ..shell(&script) }).await;
        wait_until("it listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        house.make(&id("worker-1.4"), &Definition { ports: own.clone(), ..shell(&script) }).await;
        // And not by one of another slot.
        let other = blueprint(&Definition { ports: own, ..shell(&script) });
        let error = house.runtime.prepare(&id("worker-2.1"), &other).await.unwrap_err();
        assert!(error.message.contains(&format!("port {port} is in use")), "{error}");
        house
    });
}

fn chosen() {
    in_house(House::new(&[]), async |house| {
        let this = this().display().to_string();
        let auto = NamedPort { name: "http".to_owned(), port: Port::Auto, host: None, passed: false };
        let definition = Definition { ports: vec![auto], ..shell(&format!("exec {this} toy bind {{port}}")) };
        let mut ports = Vec::new();
        for text in ["worker-1.1", "worker-1.2", "worker-2.1"] {
            house.make(&id(text), &definition).await;
            let port = house.see(&id(text)).await.endpoint.unwrap().ports["http"];
            assert!(TcpListener::bind(("127.0.0.1", port)).is_err(), "the port is not kept for its instance");
            ports.push(port);
        }
        assert!(ports[0] != ports[1] && ports[0] != ports[2] && ports[1] != ports[2], "{ports:?}");
        let instance = id("worker-1.1");
        let endpoint = house.runtime.start(&instance).await.unwrap();
        assert_eq!(endpoint.ports["http"], ports[0]);
        for restarts in 1..=2 {
            wait_until("it listens", || TcpStream::connect(("127.0.0.1", ports[0])).is_ok());
            kill(i32::try_from(house.see(&instance).await.pid.unwrap()).unwrap());
            wait_for("it runs again", async || {
                let seen = house.see(&instance).await;
                seen.state == InstanceState::Running && seen.restarts == restarts
            })
            .await;
        }
        wait_until("it listens", || TcpStream::connect(("127.0.0.1", ports[0])).is_ok());
        assert_eq!(house.see(&instance).await.endpoint.unwrap().ports["http"], ports[0]);
        house
    });
}

fn let_go() {
    in_house(House::new(&[]), async |house| {
        let port = free_port();
        let instance = id("worker-1.1");
        house.run(&instance, &Definition { ports: passed(port), ..toy(&["serve", "v1"]) }).await;
        assert_eq!(ask(port).unwrap(), "v1");
        house.runtime.kill(&instance).await.unwrap();
        assert_eq!(TcpStream::connect(("127.0.0.1", port)).unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
        house.runtime.start(&instance).await.unwrap();
        assert_eq!(ask(port).unwrap(), "v1");
        house
    });
}
