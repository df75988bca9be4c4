//! Who may speak to whom, on real daemons over TCP.

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use support::certs::{Authority, Files};
use support::daemons::{Daemons, insecure};
use support::fleet::{BOUND, GOOD};
use support::wait::wait_for;

const HOST: &str = "127.0.0.1";

/// A coordinator with certificates, and the files of everybody who is what they say.
struct Scene {
    daemons: Daemons,
    authority: Authority,
}

impl Scene {
    fn new(name: &str) -> Self {
        let mut daemons = Daemons::new(name, vec![]);
        let authority = Authority::new(daemons.fleet.stage.path("certs"));
        daemons.operator = authority.issue("operator", &[&format!("spiffe://{name}/operator/me")], &[]).args();
        let mut scene = Self { daemons, authority };
        scene.daemons.fleet.release("v1", GOOD).release("v2", GOOD);
        let worker = "  worker:\n    {R}\n    replicas: 2\n    on: [a, b]\n    ready: { exec: [\"true\"] }\n    update: { \
                      monitor: 300ms }\n";
        scene.daemons.fleet.manifest("", worker);
        let own = scene.authority.issue("coordinator", &[&format!("spiffe://{name}/coordinator/one")], &[HOST]);
        scene.daemons.coordinator(&format!("{HOST}:0"), &own.args(), &["--heartbeat", "1s"]);
        scene
    }

    fn of_agent(&self, id: &str) -> Files {
        let uri = format!("spiffe://{}/agent/{id}", self.daemons.fleet.name);
        self.authority.issue(&format!("agent-{id}"), &[&uri], &[])
    }

    fn agent(&mut self, id: &str, files: &Files) -> usize {
        let to = self.daemons.address.clone();
        self.daemons.agent(id, &to, HOST, &files.args(), &["worker"])
    }

    fn coordinator_said(&self, text: &str) {
        wait_for(&format!("{text:?} from the coordinator"), BOUND, || {
            self.daemons.fleet.stage.log("coordinator").contains(text)
        });
    }

    fn agents(&self) -> Vec<String> {
        let view = self.daemons.view();
        let agents = view["agents"].as_array().expect("agents").iter();
        agents.filter_map(|agent| agent["agent"].as_str().map(str::to_owned)).collect()
    }
}

#[test]
fn a_roll_over_mutual_tls() {
    let mut scene = Scene::new("roll");
    for id in ["a", "b"] {
        let files = scene.of_agent(id);
        scene.agent(id, &files);
    }
    scene.daemons.wait_agents(2);
    for version in ["v1", "v2"] {
        scene.daemons.expect(&["up", "--to", version, "--yes"], 0);
    }
    scene.daemons.expect(&["rollback", "--yes"], 0);
    let lives = scene.daemons.fleet.lives();
    for line in ["worker-1.1 term v=v1", "worker-2.2 term v=v2", "worker-1.3 up v=v1", "worker-2.3 up v=v1"] {
        assert!(lives.iter().any(|found| found == line), "{line}: {lives:?}");
    }
    // The journal names who asked by certificate, whatever they say of themselves.
    scene.daemons.expect(&["history"], 0);
}

#[test]
fn an_operator_without_the_right_certificate_is_refused() {
    let scene = Scene::new("operators");
    let other = Authority::new(scene.daemons.fleet.stage.path("other"));
    let own_ca = scene.authority.issue("mine", &["spiffe://operators/operator/me"], &[]).ca;
    let mut forged = other.issue("forged", &["spiffe://operators/operator/me"], &[]);
    forged.ca.clone_from(&own_ca);
    let stranger = other.issue("stranger", &["spiffe://operators/operator/me"], &[]);
    let agent = scene.of_agent("a");
    let nobody = scene.authority.issue("nobody", &[], &["127.0.0.9"]);
    let two = scene.authority.issue("two", &["spiffe://operators/operator/me", "spiffe://operators/agent/a"], &[]);
    let elsewhere = scene.authority.issue("elsewhere", &["spiffe://orders/operator/me"], &[]);
    let posing = scene.authority.issue("posing", &["spiffe://operators/coordinator/one"], &[HOST]);
    let role = "it takes a certificate named spiffe://operators/operator/NAME";
    let refused = "refused a connection";
    for (what, security, said, logged) in [
        ("no TLS at all", insecure(), "", refused),
        ("a certificate of another authority", forged.args(), "", refused),
        ("another authority on both counts", stranger.args(), "certificate", refused),
        ("a certificate without a name", nobody.args(), "", "has no name of the form"),
        ("a certificate with two names", two.args(), "", "has no name of the form"),
        ("an agent as operator", agent.args(), role, "refused a call"),
        ("an operator of another fleet", elsewhere.args(), role, "refused a call"),
        ("a coordinator as operator", posing.args(), role, "refused a call"),
    ] {
        let before = scene.daemons.fleet.stage.log("coordinator").matches(logged).count();
        for verb in [&["status"][..], &["up", "--to", "v1", "--yes"], &["pause"]] {
            let said_by_verb = scene.daemons.as_somebody(verb, &security);
            println!("{what}: {verb:?}: {} {}", said_by_verb.code, said_by_verb.err.trim());
            assert_eq!(said_by_verb.code, 5, "{what}: {verb:?}: {}", said_by_verb.all());
            assert!(said_by_verb.err.contains(said), "{what}: {verb:?}: {}", said_by_verb.all());
            assert!(!said_by_verb.err.contains("panicked"), "{what}: {}", said_by_verb.all());
        }
        wait_for(&format!("{what} in the coordinator's log"), BOUND, || {
            scene.daemons.fleet.stage.log("coordinator").matches(logged).count() >= before + 3
        });
    }
    // Nothing was begun, and whoever may, still may.
    let history = scene.daemons.expect(&["history"], 0);
    assert!(!history.out.contains("roll 1"), "{}", history.all());
    assert!(scene.daemons.fleet.lives().is_empty());
}

#[test]
fn a_client_that_shows_no_certificate_is_refused_before_it_is_heard() {
    let scene = Scene::new("nameless");
    let mut roots = rustls::RootCertStore::empty();
    let ca = scene.authority.issue("unused", &[], &[]).ca;
    roots.add(CertificateDer::from_pem_file(ca).expect("the authority's certificate")).expect("a root");
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = HOST.try_into().expect("a name");
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).expect("a session");
    let mut tcp = TcpStream::connect(&scene.daemons.address).expect("a connection");
    tcp.set_read_timeout(Some(BOUND)).expect("a bound");
    let mut stream = rustls::Stream::new(&mut session, &mut tcp);
    // Its first words of HTTP/2 go out with the handshake; nothing comes back but the alert.
    let spoken = stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").and_then(|()| stream.flush());
    let mut answer = vec![];
    let heard = stream.read_to_end(&mut answer);
    let error = spoken.and(heard.map(|_| ())).expect_err("the coordinator let it speak");
    assert!(answer.is_empty(), "{answer:?}");
    assert!(error.to_string().contains("CertificateRequired"), "{error}");
    scene.coordinator_said("peer sent no certificates");
}

#[test]
fn an_agent_without_its_own_certificate_is_refused() {
    let mut scene = Scene::new("agents");
    let other = Authority::new(scene.daemons.fleet.stage.path("other"));
    let (own, stolen) = (scene.of_agent("a"), scene.of_agent("a"));
    let mut forged = other.issue("forged", &["spiffe://agents/agent/c"], &[]);
    forged.ca.clone_from(&own.ca);
    let operator = scene.authority.issue("operator-c", &["spiffe://agents/operator/c"], &[]);
    scene.agent("b", &stolen);
    wait_for("the refusal of a's certificate for b", BOUND, || {
        scene.daemons.fleet.stage.log("agent-b").contains("the certificate of agent a is not good for agent b")
    });
    scene.agent("c", &forged);
    scene.coordinator_said("refused a connection");
    scene.agent("d", &operator);
    scene.coordinator_said("refused a call");
    wait_for("the refusal of an operator as agent", BOUND, || {
        scene.daemons.fleet.stage.log("agent-d").contains("it takes a certificate named spiffe://agents/agent/NAME")
    });
    scene.agent("a", &own);
    scene.daemons.wait_agents(1);
    assert_eq!(scene.agents(), ["a"], "somebody was let in");
}

#[test]
fn an_agent_obeys_nobody_who_poses_as_its_coordinator() {
    for (name, uri, expected) in [
        ("posing", "spiffe://posing/agent/b", "is that of agent b, not of a coordinator"),
        ("foreign", "spiffe://orders/coordinator/one", "is that of a coordinator of fleet orders, not foreign"),
    ] {
        let mut daemons = Daemons::new(name, vec![]);
        let authority = Authority::new(daemons.fleet.stage.path("certs"));
        let server = authority.issue("server", &[uri], &[HOST]);
        daemons.coordinator(&format!("{HOST}:0"), &server.args(), &[]);
        let agent = authority.issue("a", &[&format!("spiffe://{name}/agent/a")], &[]);
        let to = daemons.address.clone();
        daemons.agent("a", &to, HOST, &agent.args(), &["worker"]);
        wait_for(expected, BOUND, || daemons.fleet.stage.log("agent-a").contains(expected));
        let operator = authority.issue("operator", &[&format!("spiffe://{name}/operator/me")], &[]);
        let said = daemons.as_somebody(&["status", "--fleet", name], &operator.args());
        assert_eq!(said.code, 5, "{}", said.all());
        assert!(said.err.contains(expected), "{}", said.all());
    }
}

#[test]
fn tcp_without_certificates_or_with_exposed_ones_is_bad_usage() {
    let fleet = support::fleet::Fleet::new("usage");
    let authority = Authority::new(fleet.stage.path("certs"));
    let open = authority.issue("open", &["spiffe://usage/coordinator/one"], &[HOST]);
    std::fs::set_permissions(&open.key, std::fs::Permissions::from_mode(0o644)).expect("a mode");
    let good = authority.issue("good", &["spiffe://usage/operator/me"], &[]);
    let absent = Files { key: fleet.stage.path("certs/absent.key"), ..good.clone() };
    let address = "127.0.0.1:1";
    let verbs: [&[&str]; 3] = [
        &["coordinator", "--fleet", "usage", "--listen", "127.0.0.1:0"],
        &["agent", "--fleet", "usage", "--id", "a", "--coordinator", address],
        &["status", "--fleet", "usage", "--coordinator", address],
    ];
    let half = good.args()[..2].to_vec();
    let mut both = good.args();
    both.extend(insecure());
    for verb in verbs {
        for (security, said) in [
            (vec![], "--insecure"),
            (half.clone(), "name all of --tls-ca, --tls-cert and --tls-key"),
            (both.clone(), "or --insecure alone"),
            (open.args(), "can be read by others; run `chmod 600"),
            (absent.args(), "absent.key"),
        ] {
            let mut words = verb.to_vec();
            words.extend(security.iter().map(String::as_str));
            let answer = fleet.expect(&words, 2);
            assert!(answer.err.contains(said), "{words:?}: {}", answer.all());
        }
    }
    // Nothing was left behind by any of them but an empty state folder.
    assert!(!fleet.stage.path("state/usage/agents").exists());
}
