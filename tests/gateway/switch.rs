//! Tables under load: swapped, taken back, refused, waited for.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use baton::gateway::control::{self, ControlError};
use baton::model::Admission;

use crate::backend::Backend;
use crate::client::{Client, get};
use crate::support::{Gateway, admitting, draining, eventually, free_port, target};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_request_fails_in_a_hundred_swaps_and_none_reaches_a_target_after_zero_was_reported() {
    let gateway = Gateway::start().await;
    let mut old = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&old)]).await;

    let done = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicU64::new(0));
    let clients: Vec<_> = (0..8)
        .map(|number| {
            let (done, answered, address) = (Arc::clone(&done), Arc::clone(&answered), gateway.address);
            tokio::spawn(async move {
                let mut kept = Client::connect(address).await;
                while !done.load(Ordering::SeqCst) {
                    let answer = match number % 4 {
                        0 => kept.get("/").await,
                        1 => kept.post("/", "a body").await,
                        2 => get(address, "/").await,
                        _ => Client::connect(address).await.post("/", "a body").await,
                    };
                    assert_eq!(answer.status, 200, "client {number}: {answer:?}");
                    answered.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();

    for swap in 0..100 {
        let new = Backend::start(&format!("api-1.{}", swap + 2)).await;
        gateway.serve(&[draining(&old), admitting(&new)]).await;
        gateway.until("the old one to be empty", |state| state.draining_inflight == 0).await;
        let after_zero = old.requests();
        let before = answered.load(Ordering::SeqCst);
        eventually("more traffic", async || (answered.load(Ordering::SeqCst) > before + 40).then_some(())).await;
        assert_eq!(old.requests(), after_zero, "swap {swap}: a request came after zero was reported");
        let connections = old.seen.connections.load(Ordering::SeqCst);
        assert!(connections > 0, "swap {swap}: it was in use");
        // Nothing may need it any more.
        old.kill().await;
        gateway.serve(&[admitting(&new)]).await;
        old = new;
    }
    done.store(true, Ordering::SeqCst);
    for client in clients {
        client.await.expect("no request failed");
    }
}

#[tokio::test]
async fn a_long_request_finishes_on_the_old_target_while_new_ones_go_to_the_new() {
    let gateway = Gateway::start().await;
    let (old, new) = (Backend::start("api-1.1").await, Backend::start("api-1.2").await);
    gateway.serve(&[admitting(&old)]).await;
    let mut long = Client::connect(gateway.address).await;
    long.send("GET /gated HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    eventually("the request to arrive", async || (old.requests() == 1).then_some(())).await;

    let state = gateway.serve(&[draining(&old), admitting(&new)]).await;
    assert_eq!((state.draining_inflight, state.text.as_str()), (1, "in use"));
    assert_eq!(get(gateway.address, "/").await.text(), "api-1.2");
    // Out of the table altogether, it still counts.
    assert_eq!(gateway.serve(&[admitting(&new)]).await.draining_inflight, 1);

    old.open_gate();
    assert_eq!(long.answer(true).await.text(), "api-1.1");
    gateway.until("the old one to be empty", |state| state.draining_inflight == 0).await;
    assert_eq!(long.get("/").await.text(), "api-1.2", "the kept connection goes on with the new target");
}

#[tokio::test]
async fn idle_connections_to_a_target_are_kept_while_it_admits_and_closed_when_it_drains() {
    let gateway = Gateway::start().await;
    let (old, new) = (Backend::start("api-1.1").await, Backend::start("api-1.2").await);
    gateway.serve(&[admitting(&old)]).await;
    let mut long = Client::connect(gateway.address).await;
    long.send("GET /gated HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    eventually("the request to arrive", async || (old.requests() == 1).then_some(())).await;
    assert_eq!(get(gateway.address, "/").await.text(), "api-1.1");
    let open = |count| (old.seen.open.load(Ordering::SeqCst) == count).then_some(());
    eventually("one in use and one idle", async || open(2)).await;

    gateway.serve(&[draining(&old), admitting(&new)]).await;
    eventually("only the one in use", async || open(1)).await;
    old.open_gate();
    assert_eq!(long.answer(true).await.text(), "api-1.1");
    eventually("none: it is not kept when its request has ended", async || open(0)).await;
}

#[tokio::test]
async fn a_draining_target_is_taken_back_with_what_it_has_in_flight() {
    let gateway = Gateway::start().await;
    let (old, new) = (Backend::start("api-1.1").await, Backend::start("api-1.2").await);
    gateway.serve(&[admitting(&old)]).await;
    let mut long = Client::connect(gateway.address).await;
    long.send("GET /gated HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    eventually("the request to arrive", async || (old.requests() == 1).then_some(())).await;
    gateway.serve(&[draining(&old), admitting(&new)]).await;

    assert_eq!(gateway.serve(&[admitting(&old), draining(&new)]).await.draining_inflight, 0);
    assert_eq!(get(gateway.address, "/").await.text(), "api-1.1");
    assert_eq!(gateway.serve(&[draining(&old), admitting(&new)]).await.draining_inflight, 1, "the count was kept");
    old.open_gate();
    assert_eq!(long.answer(true).await.text(), "api-1.1");
    gateway.until("the old one to be empty", |state| state.draining_inflight == 0).await;
}

#[tokio::test]
async fn the_old_table_stays_in_use_until_every_new_target_answers() {
    let gateway = Gateway::start().await;
    let (old, other) = (Backend::start("api-1.1").await, Backend::start("api-2.2").await);
    gateway.serve(&[admitting(&old)]).await;
    let port = free_port();
    let asked = [draining(&old), target("api-1.2", port, Admission::Admitting), admitting(&other)];
    gateway.ask(&asked, Duration::ZERO, false).await.expect("taken");
    let waiting = gateway.until("the reason", |state| state.text.contains("refused")).await;
    assert_eq!((waiting.in_use, waiting.text.as_str()), (false, "waiting for api-1.2: connection refused"));
    assert_eq!(waiting.targets, [admitting(&old)]);
    for _ in 0..10 {
        assert_eq!(get(gateway.address, "/").await.text(), "api-1.1");
    }
    let new = Backend::start_on("api-1.2", port).await;
    let state = gateway.until("the table in use", |state| state.in_use).await;
    assert_eq!(state.targets, asked);
    for _ in 0..10 {
        assert_ne!(get(gateway.address, "/").await.text(), "api-1.1");
    }
    assert!(new.requests() > 0 && other.requests() > 0, "both share the load");
}

#[tokio::test]
async fn a_later_table_replaces_the_one_that_waits() {
    let gateway = Gateway::start().await;
    let old = Backend::start("api-1.1").await;
    gateway.serve(&[admitting(&old)]).await;
    let port = free_port();
    let asked = [draining(&old), target("api-1.2", port, Admission::Admitting)];
    gateway.ask(&asked, Duration::ZERO, false).await.expect("taken");
    assert!(!gateway.state().await.in_use);
    assert_eq!(gateway.serve(&[admitting(&old)]).await.targets, [admitting(&old)]);
    // Were it still waited for, it would come into use now.
    let late = Backend::start_on("api-1.2", port).await;
    for _ in 0..50 {
        assert_eq!(get(gateway.address, "/").await.text(), "api-1.1");
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
    assert_eq!((late.seen.connections.load(Ordering::SeqCst), gateway.state().await.in_use), (0, true));
}

#[tokio::test]
async fn a_table_that_cannot_be_kept_is_an_error_and_changes_nothing() {
    let gateway = Gateway::start().await;
    let (old, new) = (Backend::start("api-1.1").await, Backend::start("api-1.2").await);
    gateway.serve(&[admitting(&old)]).await;
    std::fs::create_dir(gateway.dir.path().join("table.json.new")).expect("in the way");
    for targets in [vec![draining(&old)], vec![draining(&old), admitting(&new)]] {
        let error = gateway.ask(&targets, Duration::ZERO, false).await.expect_err("not kept");
        assert!(matches!(error, ControlError::Failed { .. }) && error.retryable(), "{error}");
        assert!(error.to_string().contains("table.json"), "{error}");
    }
    let state = gateway.state().await;
    assert_eq!((state.in_use, state.targets), (true, vec![admitting(&old)]));
    assert_eq!(get(gateway.address, "/").await.text(), "api-1.1");
    std::fs::remove_dir(gateway.dir.path().join("table.json.new")).expect("out of the way");
    gateway.serve(&[draining(&old), admitting(&new)]).await;
    assert_eq!(get(gateway.address, "/").await.text(), "api-1.2");
}

#[tokio::test]
async fn control_refuses_what_makes_no_sense_and_names_it() {
    let gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    let error = control::table(&gateway.control(), "web").await.expect_err("no such listener");
    assert!(
        matches!(&error, ControlError::Refused { text, .. } if text.contains("\"web\"") && text.contains("\"api\""))
    );
    let error = gateway.ask(&[admitting(&backend), draining(&backend)], Duration::ZERO, false).await;
    assert!(matches!(&error, Err(ControlError::Refused { text, .. }) if text.contains("api-1.1")), "{error:?}");
    let nowhere = gateway.dir.path().join("nobody.sock");
    let error = control::table(&nowhere, "api").await.expect_err("nobody there");
    assert!(matches!(error, ControlError::Unreachable { .. }) && error.retryable());
}
