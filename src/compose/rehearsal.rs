//! Letting Compose run where nothing happens.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::asked::{self, Asked};
use super::command::{ELSEWHERE, Environment};
use super::ledger::{Ledger, Stage};
use super::pretend::Pretend;
use super::tenant;
use super::{Compose, ComposeError, Project, Recording, Selection};
use crate::model::ComposeDigest;

/// For one run of Compose. It takes a fraction of a second; half a second more for each layer of `depends_on` in a
/// project with inline configs.
const REHEARSAL_MAX: Duration = Duration::from_secs(120);
/// For all images together, over whatever line there is.
const PULL_MAX: Duration = Duration::from_secs(60 * 60);
/// For the engine to say that it is there.
const GREET_MAX: Duration = Duration::from_secs(5);

/// What Compose would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rehearsal {
    /// To what there is: which containers it would create, replace or remove.
    pub now: Recording,
    /// From nothing: every container of the project, with its final name, and the numbers from 1.
    pub whole: Recording,
    /// What is digested of the services that live in another one's container, by their names.
    pub digests: BTreeMap<String, ComposeDigest>,
}

/// Services whose image is not on this host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// To be pulled.
    pub pulled: Vec<String>,
    /// To be built.
    pub built: Vec<String>,
}

impl Rehearsal {
    /// Whose image is not on this host. What is made of these is only known when it is there: whether it has a
    /// healthcheck, volumes, another stop signal.
    pub fn missing(&self, project: &Project) -> Missing {
        let mut missing = Missing::default();
        for (name, service) in &project.services {
            let image = self.whole.of_service(name).next().map(|created| &created.image);
            if image.is_some_and(|image| self.whole.missing_images.contains(image)) {
                let list = if service.is_built() { &mut missing.built } else { &mut missing.pulled };
                list.push(name.clone());
            }
        }
        missing
    }
}

/// Lets Compose pull the images of some services, which is no rehearsal: it does.
///
/// # Errors
/// With Compose's own words.
pub async fn pull(compose: &Compose, selection: &Selection, services: &[String]) -> Result<(), ComposeError> {
    let args: Vec<&str> = ["pull", "--quiet"].into_iter().chain(services.iter().map(String::as_str)).collect();
    compose.run(selection, &args, &Environment::default(), PULL_MAX).await.map(drop)
}

/// Lets Compose do `up` twice, at once: to what there is, and from nothing. Neither touches anything.
///
/// # Errors
/// With Compose's own words; or when the engine does not answer.
pub async fn rehearse(
    compose: &Compose,
    selection: &Selection,
    project: &Project,
    engine: &Path,
) -> Result<Rehearsal, ComposeError> {
    // Compose would wait much longer, and ask again.
    let greeted = match tokio::time::timeout(GREET_MAX, asked::greet(engine)).await {
        Ok(greeted) => greeted,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    };
    greeted.map_err(|source| {
        let asked = "asked for GET /_ping".to_owned();
        ComposeError::Engine { socket: engine.to_owned(), asked, source }
    })?;
    let written = async {
        match tenant::is_there(project) {
            true => compose.ask(selection, &["config", "--format", "json"]).await.map(|output| output.stdout),
            false => Ok(String::new()),
        }
    };
    let asked = Arc::new(Asked::of(engine));
    let (now, whole, written) = tokio::try_join!(
        run(compose, selection, project, (engine, &asked), Stage::AsItIs),
        run(compose, selection, project, (engine, &asked), Stage::Empty),
        written,
    )?;
    let digests = tenant::digests(project, &written, &whole);
    Ok(Rehearsal { now, whole, digests })
}

async fn run(
    compose: &Compose,
    selection: &Selection,
    project: &Project,
    (engine, asked): (&Path, &Arc<Asked>),
    stage: Stage,
) -> Result<Recording, ComposeError> {
    let ledger = Ledger::new(&project.name, stage, project.jobs());
    let pretend = Pretend::start(ledger, asked).map_err(|(place, source)| ComposeError::Stage { place, source })?;
    // Some versions put inline configs into a container when they start it. Starting waits for what is depended on,
    // half a second for each layer, so it is done only where there are any; and never to what there is, where it would
    // wait for real health.
    let how: &[&str] = match stage {
        Stage::Empty if project.has_content => &["up", "-d", "--no-build", "--quiet-pull"],
        _ => &["up", "--no-start", "--no-build", "--quiet-pull"],
    };
    let environment = Environment { set: vec![("DOCKER_HOST", pretend.address().into())], unset: ELSEWHERE.to_vec() };
    let ended = compose.run(selection, how, &environment, REHEARSAL_MAX).await;
    let ledger = pretend.stop().map_err(|(asked, source)| {
        let asked = format!("asked for {asked}");
        ComposeError::Engine { socket: engine.to_owned(), asked, source }
    })?;
    // What it did not know may be why Compose failed, so it is told first.
    if !ledger.unknown.is_empty() {
        return Err(ComposeError::Unknown { version: compose.version().await, asked: ledger.unknown });
    }
    ended?;
    Ok(Recording::of(ledger))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_engine_that_is_not_there_is_named_with_what_to_do() {
        let compose = Compose::find().await;
        let Ok(compose) = compose else { return }; // tests/compose.rs says what to install
        let nowhere = Path::new("/nonexistent/engine.sock");
        let error = rehearse(&compose, &Selection::default(), &Project::default(), nowhere).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("/nonexistent/engine.sock") && text.contains("systemctl start docker"), "{text}");
    }
    #[tokio::test]
    async fn an_engine_that_takes_connections_and_is_silent_is_told_within_seconds() {
        let Ok(compose) = Compose::find().await else { return }; // tests/compose.rs says what to install
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("engine.sock");
        let _silent = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let begun = std::time::Instant::now();
        let error = rehearse(&compose, &Selection::default(), &Project::default(), &socket).await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("GET /_ping") && text.contains("is silent"), "{text}");
        assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    }
}
