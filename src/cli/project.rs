//! What the operator wrote: `-f FILE`, else `baton.yaml` here, else a project as Compose finds its own.

use std::path::{Path, PathBuf};

use super::Exit;
use super::args::Global;
use super::commit::{self, Commit};
use super::exit::Problem;
use crate::compose::{self, Compose, ComposeError, Project, Rehearsal, Selection, Version};
use crate::model::{ComponentName, FleetName, Manifest};

/// A manifest, and the version that it is at where its file names one itself.
pub(super) struct Written {
    pub(super) manifest: Manifest,
    /// What `{version}` is, unless `--to` says it.
    pub(super) version: Option<String>,
    /// What `--to` leaves to be written where Compose reads the version.
    pub(super) commit: Option<Commit>,
}

/// What a manifest is read for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To show; nothing is touched.
    Look,
    /// For a verb that changes something.
    Act,
    /// Likewise; images that are not on this host are pulled.
    Pull,
}

/// Where it is written.
enum Source {
    Baton(PathBuf),
    Compose(Selection),
}

/// The manifest, where there is one, as far as its text says: enough for the fleet's name and for its components. Of a
/// Compose project no engine is asked.
pub(super) async fn manifest(global: &Global) -> Result<Option<Manifest>, Problem> {
    match source(global)? {
        None => Ok(None),
        Some(Source::Baton(path)) => baton(&path).map(Some),
        // It would only be asked for a name that is given.
        Some(Source::Compose(_)) if global.fleet.is_some() && global.file.is_empty() => Ok(None),
        Some(Source::Compose(selection)) => match Project::find(&selection).await {
            Ok((_, project)) => compose::manifest::manifest(&project, None, places(&selection)).map(Some).map_err(told),
            // Nobody asked for Compose: a file of its name is here, or in some folder above.
            Err(ComposeError::Missing | ComposeError::Old { .. }) if global.file.is_empty() => Ok(None),
            Err(error) => Err(told(error)),
        },
    }
}

/// The manifest, which this verb needs, judged without an engine.
pub(super) async fn needed_manifest(global: &Global) -> Result<Manifest, Problem> {
    if let Some(Source::Compose(selection)) = source(global)? {
        let (compose, project) = Project::find(&selection).await.map_err(told)?;
        warn(&project);
        let manifest = compose::manifest::manifest(&project, None, places(&selection)).map_err(told)?;
        Version::read(&compose, &selection, &project).await.map_err(told)?;
        return Ok(manifest);
    }
    manifest(global).await?.ok_or_else(nothing_here)
}

/// The Compose project here and its files, for a verb that is for Compose projects alone.
pub(super) async fn composed(global: &Global) -> Result<(Project, Vec<PathBuf>), Problem> {
    let Some(Source::Compose(selection)) = source(global)? else {
        let what = "there is no Compose project here; go to its folder, or name its files with -f FILE";
        return Err(Problem::new(Exit::Usage, what));
    };
    let (_, project) = Project::find(&selection).await.map_err(told)?;
    Ok((project, compose::project::files(&selection)))
}

/// What is written here, as far as it is known without an engine.
pub(super) enum Found {
    /// By `baton.yaml`: all of it.
    Whole(Manifest),
    /// By Compose's files: what Compose would make of them is still to be asked.
    Composed(Box<Composed>),
}

/// A Compose project as its files have it.
pub(super) struct Composed {
    compose: Compose,
    selection: Selection,
    project: Project,
    engine: PathBuf,
    owed: Option<Commit>,
}

/// What Compose would make of a project.
pub(super) struct Rehearsed {
    version: Option<Version>,
    rehearsal: Rehearsal,
}

/// Reads what is written here; of a Compose project at the version that was asked for. What an earlier roll owes its
/// files is written before.
pub(super) async fn find(global: &Global, to: Option<&str>, why: Purpose) -> Result<Option<Found>, Problem> {
    let mut selection = match source(global)? {
        None => return Ok(None),
        Some(Source::Baton(path)) => return Ok(Some(Found::Whole(baton(&path)?))),
        Some(Source::Compose(selection)) => selection,
    };
    let engine = PathBuf::from(super::hands::socket(global)?);
    selection.engine = Some(engine.clone());
    let (compose, mut project) = Project::find(&selection).await.map_err(told)?;
    if let Ok(fleet) = FleetName::new(project.name.clone())
        && let Some((variable, value)) = commit::settle(global, &fleet, why != Purpose::Look).await?
    {
        // The project is at that version, whether its file could say so by now or not.
        if std::env::var_os(&variable).is_none() {
            selection.variables.insert(variable, value);
        }
        project = Project::read(&compose, &selection).await.map_err(told)?;
    }
    let mut owed = None;
    if let Some(to) = to {
        let Some(variable) = project.version_variable().map(str::to_owned) else {
            return Err(Problem::new(
                Exit::Usage,
                format!(
                    "project {} does not say what --to stands for; change the tag in the file, or name its images with \
                     a variable and write `x-baton: {{ version: {{ variable: TAG }} }}`",
                    project.name
                ),
            ));
        };
        owed = compose::project::env_file(&selection, &variable).map(|file| Commit {
            file,
            variable: variable.clone(),
            value: to.to_owned(),
        });
        selection.variables.insert(variable, to.to_owned());
        project = Project::read(&compose, &selection).await.map_err(told)?;
    }
    warn(&project);
    Ok(Some(Found::Composed(Box::new(Composed { compose, selection, project, engine, owed }))))
}

impl Composed {
    /// The project's name, which is the fleet's, where a fleet may have it.
    pub(super) fn fleet(&self) -> Option<FleetName> {
        FleetName::new(self.project.name.clone()).ok()
    }

    /// Asks Compose what it would make.
    pub(super) async fn rehearse(&self) -> Result<Rehearsed, Problem> {
        let (version, rehearsal) = tokio::try_join!(
            Version::read(&self.compose, &self.selection, &self.project),
            compose::rehearse(&self.compose, &self.selection, &self.project, &self.engine),
        )
        .map_err(told)?;
        Ok(Rehearsed { version, rehearsal })
    }

    /// Whether all images are on this host.
    pub(super) fn has_images(&self, rehearsed: &Rehearsed) -> bool {
        let missing = rehearsed.rehearsal.missing(&self.project);
        missing.built.is_empty() && missing.pulled.is_empty()
    }

    /// The manifest with all that a roll needs. Images that are not on this host are pulled first where that is asked
    /// for: only then it is known what they bring.
    pub(super) async fn written(self, rehearsed: Rehearsed, why: Purpose) -> Result<Written, Problem> {
        let Self { compose, selection, project, engine, owed } = self;
        let Rehearsed { version, mut rehearsal } = rehearsed;
        let missing = rehearsal.missing(&project);
        let pull = why == Purpose::Pull;
        if pull && !missing.built.is_empty() {
            let services = missing.built.join(" ");
            let what = format!(
                "the images of these services are not built: {services}; run `docker compose build {services}`"
            );
            return Err(Problem::new(Exit::Refused, what));
        }
        if pull && !missing.pulled.is_empty() {
            eprintln!("pulling the images of {}", missing.pulled.join(", "));
            let pulled = compose::pull(&compose, &selection, &missing.pulled).await;
            // Nothing was touched: what runs, runs.
            pulled.map_err(|error| {
                let image = |service: &String| {
                    let image = rehearsal.whole.of_service(service).next().map_or("", |made| made.image.as_str());
                    format!("{image} ({service})")
                };
                let images = missing.pulled.iter().map(image).collect::<Vec<_>>().join(", ");
                let why = crate::cause::chain(&error);
                Problem::new(
                    Exit::Refused,
                    format!(
                        "cannot pull {images}: {why}; nothing was touched. Check the tag, the registry and `docker \
                         login`, or bring the image here yourself (`docker compose pull`, `docker load`), then run \
                         this again"
                    ),
                )
            })?;
            rehearsal = compose::rehearse(&compose, &selection, &project, &engine).await.map_err(told)?;
        }
        let mut manifest = compose::manifest::manifest(&project, Some(&rehearsal), places(&selection)).map_err(told)?;
        for service in version.iter().flat_map(|version| &version.services) {
            let name = ComponentName::new(service.clone()).ok();
            if let Some(definition) = name.and_then(|name| manifest.components.get_mut(&name)) {
                definition.versioned = true;
            }
        }
        Ok(Written { manifest, version: version.map(|version| version.value), commit: owed })
    }
}

/// After a roll was taken back: the Compose file was not, and whoever types `docker compose up -d` next should know.
pub(super) async fn tell_what_is_still_asked(global: &Global) {
    let still = async {
        let Ok(Some(Source::Compose(mut selection))) = source(global) else { return None };
        let engine = PathBuf::from(super::hands::socket(global).ok()?);
        selection.engine = Some(engine.clone());
        let (compose, project) = Project::find(&selection).await.ok()?;
        let rehearsal = compose::rehearse(&compose, &selection, &project, &engine).await.ok()?;
        let touched: Vec<String> = rehearsal.now.touched().into_iter().map(str::to_owned).collect();
        (!touched.is_empty()).then(|| touched.join(", "))
    };
    if !global.json
        && let Some(services) = still.await
    {
        super::output::line(&format!(
            "the Compose file was not changed and still asks for what was taken back: `docker compose up -d` would \
             make {services} anew; put the former tag back first"
        ));
    }
}

/// What the version is to Compose by itself. `None`: nothing that could be asked says so.
pub(super) async fn version_now(global: &Global) -> Option<String> {
    let Ok(Some(Source::Compose(selection))) = source(global) else { return None };
    let (compose, project) = Project::find(&selection).await.ok()?;
    Some(Version::read(&compose, &selection, &project).await.ok()??.value)
}

pub(super) fn nothing_here() -> Problem {
    Problem::new(
        Exit::Usage,
        "there is no baton.yaml and no Compose project here; write one (see docs/manifest.md) or name it with -f FILE",
    )
}

fn source(global: &Global) -> Result<Option<Source>, Problem> {
    let selection = || Selection {
        folder: PathBuf::new(),
        files: global.file.clone(),
        project_name: global.project_name.clone(),
        profiles: global.profile.clone(),
        env_files: global.env_file.clone(),
        engine: None,
        variables: Default::default(),
    };
    if let [first, rest @ ..] = global.file.as_slice() {
        return match (is_compose(first), rest) {
            (false, []) => Ok(Some(Source::Baton(first.clone()))),
            (true, _) => Ok(Some(Source::Compose(selection()))),
            (false, _) => Err(Problem::new(
                Exit::Usage,
                format!("{} is not a Compose file; a baton.yaml is named alone", first.display()),
            )),
        };
    }
    if let Some(found) = ["baton.yaml", "baton.yml"].into_iter().map(PathBuf::from).find(|path| path.exists()) {
        return Ok(Some(Source::Baton(found)));
    }
    let here = std::env::current_dir().map_err(|error| Problem::of(Exit::Usage, &error))?;
    Ok(compose::project::is_here(&here).then(|| Source::Compose(selection())))
}

/// Whether a file is Compose's: by its keys, and where it has none of either kind by its name.
fn is_compose(path: &Path) -> bool {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let has = |key: &str| {
        text.lines().any(|line| line.trim_start_matches(['"', '{', ' ']).starts_with(key) && !line.starts_with("  "))
    };
    if has("components") {
        return false;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    has("services") || has("include") || name.contains("compose")
}

fn baton(path: &Path) -> Result<Manifest, Problem> {
    crate::manifest::load(path).map_err(|error| Problem::new(Exit::Usage, error.to_string()))
}

fn places(selection: &Selection) -> Option<(String, String)> {
    compose::project::file_with_ours(selection).map(|(path, text)| (path.display().to_string(), text))
}

fn warn(project: &Project) {
    if !project.warnings.is_empty() {
        eprintln!("{}", project.warnings);
    }
}

fn told(error: ComposeError) -> Problem {
    let exit = match &error {
        ComposeError::Engine { .. }
        | ComposeError::TimedOut { .. }
        | ComposeError::Stage { .. }
        | ComposeError::Unknown { .. } => Exit::Refused,
        _ => Exit::Usage,
    };
    Problem::of(exit, &error)
}
