//! `baton init`: what Baton would take for a Compose project that runs, as `x-baton` comments in its files.

use std::collections::BTreeMap;
use std::time::Duration;

use super::args::{Global, InitArgs};
use super::connect::{host_id, state_root};
use super::exit::Problem;
use super::project::composed;
use super::{Exit, hands, output};
use crate::compose::Project;
use crate::compose::project::Service;
use crate::compose::suggest::{Suggestion, annotate, version_variable};
use crate::model::{ComponentName, Endpoint, FleetName, Role};
use crate::probe;
use crate::runtime::Runtime;
use crate::sys;

/// Where people put what a probe may ask, the most telling first.
const PATHS: [&str; 5] = ["/health", "/healthz", "/ready", "/ping", "/"];
/// For one answer: what runs on this host and is well answers in milliseconds.
const ANSWER: Duration = Duration::from_secs(1);
/// Of a file that is not there yet: never used, for only files that are there are written.
const MODE: u32 = 0o644;

pub(super) async fn run(global: &Global, args: InitArgs) -> Result<Exit, Problem> {
    let (project, files) = composed(global).await?;
    let running = running(global, &project).await?;
    if running.is_empty() {
        return Err(Problem::new(
            Exit::Refused,
            format!(
                "project {} does not run: start it (`docker compose up -d`), so that it can be looked at",
                project.name
            ),
        ));
    }
    let jobs = project.jobs();
    let mut suggestion = Suggestion::default();
    let mut plain = Vec::new();
    for (name, service) in project.services.iter().filter(|(name, _)| !jobs.contains(*name)) {
        if service.baton.is_some() || service.runs_baton() {
            continue;
        }
        let lines = suggest(name, service, running.get(name)).await;
        if lines.is_empty() {
            plain.push(name.as_str());
        } else {
            suggestion.services.insert(name.clone(), lines);
        }
    }
    for (number, file) in files.iter().enumerate() {
        let unusable = |error: &dyn std::fmt::Display, verb: &str| {
            Problem::new(Exit::Refused, format!("cannot {verb} {}: {error}", file.display()))
        };
        let text = std::fs::read_to_string(file).map_err(|error| unusable(&error, "read"))?;
        let variable = version_variable(&text).filter(|_| number == 0 && project.baton.is_none());
        suggestion.top = variable.map(|name| format!("version: {{ variable: {name} }}")).into_iter().collect();
        let annotated = annotate(&text, &suggestion);
        if args.stdout {
            print!("{}", annotated.text);
            continue;
        }
        let shown = file.display();
        if annotated.text == text {
            output::line(&format!("{shown}: nothing to add"));
        } else {
            sys::files::rewrite(file, annotated.text.as_bytes(), MODE).map_err(|error| unusable(&error, "write"))?;
            let services = match annotated.written.as_slice() {
                [] => "the whole".to_owned(),
                written => written.join(", "),
            };
            output::line(&format!("{shown}: x-baton for {services}, as comments: take the # away to accept"));
        }
        if !annotated.inline.is_empty() {
            let inline = annotated.inline.join(", ");
            output::line(&format!("{shown}: nothing fits below a service on one line: {inline}"));
        }
    }
    if !plain.is_empty() && !args.stdout {
        output::line(&format!("nothing to say of {}: what the Compose file says is enough", plain.join(", ")));
    }
    Ok(Exit::Done)
}

/// The project's services that run, with where one of each is reached.
async fn running(global: &Global, project: &Project) -> Result<BTreeMap<String, Endpoint>, Problem> {
    let fleet = FleetName::new(project.name.clone()).map_err(|error| Problem::of(Exit::Usage, &error))?;
    let folder = state_root(global)?.join(fleet.as_str()).join("agents").join(host_id().as_str());
    let runtime = hands::containers(global, &fleet, &folder, true)?;
    let failed = |error: crate::runtime::RuntimeError| Problem::new(Exit::Refused, error.message);
    let mut running = BTreeMap::new();
    for slot in runtime.slots().await.map_err(failed)? {
        let named = |name: &&String| ComponentName::new((*name).clone()).is_ok_and(|name| name == slot.component);
        let Some(service) = project.services.keys().find(named) else { continue };
        for seen in runtime.inspect(&slot).await.map_err(failed)? {
            if let Some(endpoint) = seen.endpoint {
                running.entry(service.clone()).or_insert(endpoint);
            }
        }
    }
    Ok(running)
}

/// The lines for one service. Those that begin with `#` stay comments when they are accepted: they need a decision.
async fn suggest(name: &str, service: &Service, endpoint: Option<&Endpoint>) -> Vec<String> {
    let mut lines = Vec::new();
    let role = Role::known(name).filter(|role| !matches!(role, Role::Job | Role::Gateway));
    if let Some(role) = &role {
        lines.push(format!("role: {role}"));
    }
    let asked = match endpoint {
        Some(endpoint) if !service.has_healthcheck() => answering(endpoint).await,
        _ => None,
    };
    match &asked {
        Some(Answering::Http(port, path)) => {
            lines.push(format!("ready: {{ http: \"http://{{address}}:{port}{path}\" }}"));
        }
        Some(Answering::Tcp(port)) => lines.push(format!("ready: {{ tcp: \"{{address}}:{port}\" }}")),
        None => {}
    }
    let published = service.host_ports();
    if let (Some(host), Some(Answering::Http(port, _))) = (published.first(), &asked) {
        lines
            .push("# no request is lost behind Baton's gateway: take the service's `ports` away, and write".to_owned());
        lines.push(format!("# traffic: {{ gateway: {{ listen: \":{host}\", port: {port} }} }}"));
    }
    if !lines.is_empty() && service.stop_grace_period.is_none() {
        lines.push("# its grace is Compose's 10s: where work takes longer, say so with stop_grace_period".to_owned());
    }
    // Remarks alone would be an empty mapping.
    if lines.iter().all(|line| line.starts_with('#')) { Vec::new() } else { lines }
}

enum Answering {
    Http(u16, &'static str),
    Tcp(u16),
}

/// The first of its ports that answers now, and how.
async fn answering(endpoint: &Endpoint) -> Option<Answering> {
    let mut ports: Vec<u16> = endpoint.ports.values().copied().collect();
    ports.sort_unstable();
    ports.dedup();
    let address = &endpoint.address;
    for port in &ports {
        for path in PATHS {
            if probe::http_ready(&format!("http://{address}:{port}{path}"), ANSWER).await.ready {
                return Some(Answering::Http(*port, path));
            }
        }
    }
    for port in ports {
        if probe::tcp_ready(&format!("{address}:{port}"), ANSWER).await.ready {
            return Some(Answering::Tcp(port));
        }
    }
    None
}
