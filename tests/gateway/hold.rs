//! Requests that wait while there is nobody to take them, and targets that do not answer.

use std::time::{Duration, Instant};

use baton::model::Admission;

use crate::backend::Backend;
use crate::client::{Client, get};
use crate::support::{Gateway, admitting, draining, free_port, target};

#[tokio::test]
async fn requests_are_held_while_no_target_admits_and_go_to_the_next_that_does() {
    let gateway = Gateway::start().await;
    let (old, new) = (Backend::start("api-1.1").await, Backend::start("api-1.2").await);
    let hold = Duration::from_secs(60);
    gateway.ask(&[admitting(&old)], hold, false).await.expect("taken");
    gateway.until("the table in use", |state| state.in_use).await;
    let mut kept = Client::connect(gateway.address).await;
    assert_eq!(kept.get("/").await.text(), "api-1.1");

    gateway.ask(&[draining(&old)], hold, false).await.expect("taken");
    kept.send("POST / HTTP/1.1\r\nhost: shop\r\ncontent-length: 1\r\n\r\nx").await;
    let fresh: Vec<_> = (0..20).map(|_| tokio::spawn(get(gateway.address, "/"))).collect();
    let state = gateway.until("all to be held", |state| state.held == 21).await;
    assert_eq!(state.draining_inflight, 0, "what is held is in flight nowhere");

    gateway.ask(&[draining(&old), admitting(&new)], hold, false).await.expect("taken");
    assert_eq!(kept.answer(true).await.text(), "api-1.2");
    for answer in fresh {
        assert_eq!(answer.await.expect("answered").text(), "api-1.2");
    }
    assert_eq!((gateway.state().await.held, old.requests()), (0, 1));
}

#[tokio::test]
async fn past_the_limit_a_held_request_is_told_to_come_again() {
    let gateway = Gateway::start().await;
    let begin = Instant::now();
    let answer = get(gateway.address, "/").await;
    assert_eq!(
        (answer.status, answer.field("retry-after").as_deref()),
        (503, Some("1")),
        "an empty table holds nothing"
    );

    let old = Backend::start("api-1.1").await;
    gateway.ask(&[draining(&old)], Duration::from_millis(300), false).await.expect("taken");
    let held = Instant::now();
    let mut kept = Client::connect(gateway.address).await;
    let answer = kept.get("/").await;
    assert_eq!((answer.status, answer.field("retry-after").as_deref()), (503, Some("1")));
    assert!(held.elapsed() >= Duration::from_millis(300) && begin.elapsed() < Duration::from_secs(10));
    gateway.serve(&[admitting(&old)]).await;
    assert_eq!(kept.get("/").await.text(), "api-1.1", "the connection is as good as before");
}

#[tokio::test]
async fn a_client_that_leaves_is_held_no_longer() {
    let gateway = Gateway::start().await;
    gateway.ask(&[], Duration::from_secs(60), false).await.expect("taken");
    let mut client = Client::connect(gateway.address).await;
    client.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await;
    gateway.until("it to be held", |state| state.held == 1).await;
    drop(client);
    gateway.until("it to be forgotten", |state| state.held == 0).await;
}

#[tokio::test]
async fn a_failed_connect_tries_another_target_and_comes_back_when_it_answers() {
    let gateway = Gateway::start().await;
    let (first, second) = (Backend::start("api-1.1").await, Backend::start("api-2.1").await);
    let port = first.port();
    gateway.serve(&[admitting(&first), admitting(&second)]).await;
    first.kill().await;
    for _ in 0..30 {
        let mut client = Client::connect(gateway.address).await;
        assert_eq!(client.get("/").await.text(), "api-2.1");
        assert_eq!(client.post("/", "a body").await.text(), "api-2.1", "nothing was sent, so it may go elsewhere");
    }
    let first = Backend::start_on("api-1.1", port).await;
    crate::support::eventually("requests on the first again", async || {
        let answer = get(gateway.address, "/").await;
        assert_eq!(answer.status, 200);
        (first.requests() > 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn requests_are_held_while_the_only_target_does_not_answer() {
    let gateway = Gateway::start().await;
    let first = Backend::start("api-1.1").await;
    let port = first.port();
    gateway.ask(&[admitting(&first)], Duration::from_secs(60), false).await.expect("taken");
    gateway.until("the table in use", |state| state.in_use).await;
    first.kill().await;
    let waiting: Vec<_> = (0..20).map(|_| tokio::spawn(get(gateway.address, "/"))).collect();
    gateway.until("all to be held", |state| state.held == 20).await;
    let _again = Backend::start_on("api-1.1", port).await;
    for answer in waiting {
        assert_eq!(answer.await.expect("answered").text(), "api-1.1");
    }
}

#[tokio::test]
async fn a_name_is_looked_up_again_for_each_connection() {
    let gateway = Gateway::start().await;
    let backend = Backend::start("api-1.1").await;
    let mut by_name = target("api-1.1", backend.port(), Admission::Admitting);
    by_name.host = "localhost".to_owned();
    gateway.serve(&[by_name]).await;
    assert_eq!(get(gateway.address, "/").await.text(), "api-1.1");
    let mut nowhere = target("api-1.2", free_port(), Admission::Admitting);
    nowhere.host = "nobody.invalid".to_owned();
    gateway.ask(&[nowhere], Duration::ZERO, false).await.expect("taken");
    gateway
        .until("a reason", |state| !state.in_use && state.text.contains("api-1.2: ") && !state.text.ends_with("yet"))
        .await;
    assert_eq!(get(gateway.address, "/").await.text(), "api-1.1");
}
