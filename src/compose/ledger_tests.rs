//! What the pretend engine remembers and answers.

use super::*;
use crate::compose::Recording;

fn ledger(stage: Stage) -> Ledger {
    Ledger::new("shop", stage, BTreeSet::from(["seed".to_owned()]))
}

fn body(service: &str, number: u32) -> Value {
    json!({
        "Image": "shop:1", "Env": ["TOKEN=hunter2"],
        "Labels": {
            "com.docker.compose.project": "shop", "com.docker.compose.service": service,
            "com.docker.compose.container-number": number.to_string(), "com.docker.compose.config-hash": "abc",
            "com.docker.compose.depends_on": "web:service_started:false,db:service_healthy:false",
        },
        "HostConfig": {
            "NetworkMode": "shop_default", "Binds": ["data:/data:rw", "/etc/x:/x:ro"],
            "Mounts": [
                { "Type": "volume", "Source": "more", "Target": "/more" }, { "Type": "volume", "Target": "/anon" },
            ],
        },
        "NetworkingConfig": { "EndpointsConfig": { "shop_default": { "Aliases": ["shop-api-1"] } } },
    })
}

fn create(ledger: &mut Ledger, name: &str, body: &Value) -> String {
    let reply = ledger.asked("POST", &format!("/v1.41/containers/create?name={name}"), body.to_string().as_bytes());
    let Reply::Here(201, answer) = reply else { panic!("{reply:?}") };
    text(&answer, "Id").to_owned()
}

#[test]
fn what_is_written_is_kept_and_only_told() {
    let mut ledger = ledger(Stage::AsItIs);
    let old = "a".repeat(64);
    let mut with_replace = body("api", 1);
    with_replace["Labels"]["com.docker.compose.replace"] = json!(old);
    let id = create(&mut ledger, "aaaaaaaaaaaa_shop-api-1", &with_replace);
    let connect = json!({ "Container": id, "EndpointConfig": { "Aliases": ["api"] } }).to_string();
    assert_eq!(
        ledger.asked("POST", "/v1.41/networks/shop_back/connect", connect.as_bytes()),
        Reply::Here(200, Value::Null)
    );
    ledger.asked("PUT", &format!("/v1.41/containers/{id}/archive?path=%2Frun%2Fa&x=1"), b"tar");
    ledger.asked("POST", &format!("/v1.41/containers/{old}/stop"), b"");
    ledger.asked("DELETE", &format!("/v1.41/containers/{old}?force=1"), b"");
    ledger.asked("DELETE", "/v1.41/containers/gone", b"");
    ledger.asked("POST", &format!("/v1.41/containers/{id}/rename?name=shop-api-1"), b"");
    let Reply::Here(200, inspected) = ledger.asked("GET", &format!("/v1.41/containers/{id}/json"), b"") else {
        panic!("it was asked of the real engine")
    };
    assert_eq!((text(&inspected, "Name"), text(&inspected["State"], "Status")), ("/shop-api-1", "created"));
    assert!(inspected["NetworkSettings"]["Networks"]["shop_back"].is_object(), "{inspected}");
    assert!(inspected["Config"].get("HostConfig").is_none());
    assert!(ledger.unknown.is_empty());

    let recording = Recording::of(ledger);
    let [created] = recording.created.as_slice() else { panic!("{recording:?}") };
    assert_eq!((created.service.as_str(), created.number, created.config_hash.as_str()), ("api", 1, "abc"));
    assert_eq!(created.replaces.as_ref(), Some(&old));
    assert_eq!(created.container.name, "shop-api-1");
    assert_eq!(created.on.iter().map(String::as_str).collect::<Vec<_>>(), ["shop_back", "shop_default"]);
    assert_eq!(created.mounts.iter().map(String::as_str).collect::<Vec<_>>(), ["data", "more"]);
    let expected = json!({ "EndpointConfig": { "Aliases": ["api"] } }).to_string();
    assert_eq!(created.container.networks, [("shop_back".to_owned(), expected)]);
    assert_eq!(
        (created.container.archives[0].path.as_str(), created.container.archives[0].tar.expose()),
        ("/run/a", "dGFy")
    );
    assert_eq!(recording.removed, BTreeSet::from(["gone".to_owned()]));
    // In order, whatever Compose threw.
    assert!(created.container.body.expose().contains("db:service_healthy:false,web:service_started:false"));
    assert!(!format!("{recording:?}").contains("hunter2"), "a value of the environment is shown");
}

#[test]
fn a_made_up_id_never_leaves_the_rehearsal() {
    let mut ledger = ledger(Stage::Empty);
    let db = create(&mut ledger, "shop-db-1", &body("db", 1));
    let mut beside = body("side", 1);
    beside["HostConfig"]["NetworkMode"] = json!(format!("container:{db}"));
    create(&mut ledger, "shop-side-1", &beside);
    let recording = Recording::of(ledger);
    let side = recording.of_service("side").next().unwrap();
    assert!(!format!("{side:?}").contains(&db), "{side:?}");
    let side = side.container.body.expose().to_owned();
    assert!(side.contains("container:shop-db-1") && !side.contains(&db), "{side}");
}

#[test]
fn on_an_empty_stage_the_project_is_not_there_and_everything_else_is() {
    let ours = json!({ "Id": "1", "Names": ["/shop-api-1"], "Labels": body("api", 1)["Labels"], "State": "running" });
    let other = json!({ "Id": "2", "Names": ["/else"], "Labels": { "com.docker.compose.project": "else" } });
    let list = json!([ours, other]);
    let ids = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|entry| text(entry, "Id").to_owned()).collect()
    };
    let mut empty = ledger(Stage::Empty);
    assert_eq!(ids(&empty.seen("/v1.41/containers/json?all=1", 200, list.clone()).1), ["2"]);
    assert_eq!(empty.present["1"].config_hash, "abc", "what is there is known all the same");
    let labelled = json!({ "Name": "shop_default", "Labels": { "com.docker.compose.project": "shop" } });
    assert_eq!(empty.seen("/v1.41/networks/shop_default", 200, labelled.clone()).0, 404);
    assert_eq!(empty.seen("/v1.41/volumes/shop_data", 200, labelled.clone()).0, 404);
    assert_eq!(empty.seen("/v1.41/networks/else", 200, json!({ "Name": "else", "Labels": {} })).0, 200);
    assert_eq!(empty.seen("/v1.41/networks", 200, json!([labelled])).1, json!([]));
    let mut as_it_is = ledger(Stage::AsItIs);
    assert_eq!(ids(&as_it_is.seen("/v1.41/containers/json?all=1", 200, list).1).len(), 2);
    assert_eq!(as_it_is.seen("/v1.41/networks/shop_default", 200, labelled).0, 200);
}

#[test]
fn what_was_made_is_listed_where_it_is_asked_for_and_a_job_has_ended() {
    let mut ledger = ledger(Stage::Empty);
    let api = create(&mut ledger, "shop-api-1", &body("api", 1));
    let seed = create(&mut ledger, "shop-seed-1", &body("seed", 1));
    ledger.asked("POST", &format!("/v1.41/containers/{api}/start"), b"");
    ledger.asked("POST", &format!("/v1.41/containers/{seed}/start"), b"");
    let mut listed = |query: &str| {
        let (_, list) = ledger.seen(&format!("/v1.41/containers/json?{query}"), 200, json!([]));
        list.as_array().unwrap().iter().map(|entry| text(entry, "State").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(listed("all=1"), ["running", "exited"]);
    assert_eq!(listed(""), ["running"]);
    let asked = "%7B%22label%22%3A%7B%22com.docker.compose.project%3Dshop%22%3Atrue%7D%7D";
    assert_eq!(listed(&format!("all=1&filters={asked}")).len(), 2);
    let other = "%7B%22label%22%3A%5B%22com.docker.compose.project%3Delse%22%5D%7D";
    assert_eq!(listed(&format!("all=1&filters={other}")).len(), 0);
    let state = |id: &str| match ledger.read(&Target::of(&format!("/containers/{id}/json"))) {
        Reply::Here(200, inspected) => inspected["State"].clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(state(&api)["Health"]["Status"], "healthy");
    assert_eq!((&state(&seed)["Status"], &state(&seed)["ExitCode"]), (&json!("exited"), &json!(0)));
}

#[test]
fn a_missing_image_is_noted_and_an_image_that_is_there_tells_about_itself() {
    let mut ledger = ledger(Stage::AsItIs);
    let (status, body) = ledger.seen("/v1.41/images/registry.example/a:1/json", 404, json!({ "message": "none" }));
    assert_eq!((status, text(&body, "Id")), (200, NO_IMAGE));
    assert!(ledger.missing_images.contains("registry.example/a:1"));
    let config =
        json!({ "Healthcheck": { "Test": ["CMD", "true"] }, "Volumes": { "/data": {} }, "StopSignal": "SIGQUIT" });
    ledger.seen("/v1.41/images/b:1/json", 200, json!({ "Id": "sha256:1", "Config": config }));
    let known =
        ImageFacts { healthcheck: true, stop_signal: Some("SIGQUIT".to_owned()), volumes: vec!["/data".to_owned()] };
    assert_eq!(ledger.images["b:1"], known);
    let none = json!({ "Healthcheck": { "Test": ["NONE"] } });
    ledger.seen("/v1.41/images/c:1/json", 200, json!({ "Id": "sha256:1", "Config": none }));
    assert_eq!(ledger.images["c:1"], ImageFacts::default());
}

#[test]
fn nothing_that_is_not_known_is_said_to_have_been_done_and_nothing_hangs() {
    let mut ledger = ledger(Stage::AsItIs);
    assert!(matches!(ledger.asked("POST", "/v1.41/build?t=x", b"tar"), Reply::Here(501, _)));
    assert!(matches!(ledger.asked("POST", "/v1.41/containers/prune", b""), Reply::Here(501, _)));
    assert_eq!(ledger.unknown, ["POST /build", "POST /containers/prune"]);
    assert_eq!(ledger.asked("GET", "/v1.41/events?filters=x", b""), Reply::Here(200, Value::Null));
    assert_eq!(ledger.asked("HEAD", "/_ping", b""), Reply::Upstream);
    assert_eq!(ledger.asked("GET", "/v1.41/containers/real/json", b""), Reply::Upstream);
    for _ in 0..WRITES_MAX {
        ledger.asked("POST", "/v1.41/volumes/create", b"{\"Name\":\"x\"}");
    }
    assert!(matches!(ledger.asked("POST", "/v1.41/volumes/create", b"{}"), Reply::Here(507, _)));
    assert_eq!(ledger.volumes.len(), 1);
}

#[test]
fn what_is_made_at_once_is_recorded_in_order() {
    let mut ledger = ledger(Stage::Empty);
    for name in ["b", "a"] {
        let body = json!({ "Name": name }).to_string();
        ledger.asked("POST", "/v1.41/networks/create", body.as_bytes());
        ledger.asked("POST", "/v1.41/volumes/create", body.as_bytes());
    }
    let recording = Recording::of(ledger);
    assert_eq!(recording.networks.iter().map(|need| need.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(recording.volumes.iter().map(|need| need.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn a_body_is_the_same_in_whatever_order_compose_wrote_it() {
    let of = |env: [&str; 2], hosts: [&str; 2]| {
        let mut ledger = ledger(Stage::Empty);
        let body = json!({ "Image": "i", "Env": env, "HostConfig": { "ExtraHosts": hosts }, "Labels": {} });
        ledger.asked("POST", "/v1.41/containers/create?name=p-w-1", body.to_string().as_bytes());
        Recording::of(ledger).created.remove(0).container.body.expose().to_owned()
    };
    assert_eq!(of(["A=1", "B=2"], ["x:1", "y:2"]), of(["B=2", "A=1"], ["y:2", "x:1"]));
}
