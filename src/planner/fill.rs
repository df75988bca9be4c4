//! `{version}`: where it comes from, and filling it in.

use super::{Ask, History, PlanError};
use crate::model::{Call, Definition, DrainBegin, Manifest, Probe, Secret};

/// Which version a plan goes to: `--to`, else that of the last roll that succeeded.
///
/// # Errors
/// [`PlanError::Usage`] when neither is known and a component of the manifest uses `{version}`.
pub fn resolve_version(ask: &Ask, manifest: Option<&Manifest>, history: &History) -> Result<Option<String>, PlanError> {
    let asked = match ask {
        Ask::Up { to, .. } => to.clone(),
        _ => None,
    };
    let version = asked.or_else(|| history.version.clone());
    if version.is_none()
        && matches!(ask, Ask::Up { .. })
        && let Some(component) = manifest.and_then(|m| m.components.values().find(|c| c.versioned))
    {
        return Err(PlanError::Usage(format!(
            "component {} uses {{version}} and no roll has succeeded yet that could tell it; say which with --to \
             VERSION",
            component.component
        )));
    }
    Ok(version)
}

/// A definition with `{version}` filled in wherever it stands. `{{` and `}}` are braces and stay as they are, for the
/// agent's own filling; so do all other placeholders. Without a version the definition is unchanged.
pub fn fill_version(definition: &Definition, version: Option<&str>) -> Definition {
    let mut filled = definition.clone();
    let Some(version) = version else { return filled };
    let fill = |text: &mut String| *text = fill_text(text, version);
    let fill_secret = |secret: &mut Secret| *secret = Secret::new(fill_text(secret.expose(), version));
    filled.image.iter_mut().for_each(fill);
    if let Some(release) = &mut filled.release {
        fill(&mut release.path);
        release.sha256_file.iter_mut().for_each(fill);
    }
    filled.command.iter_mut().for_each(fill_secret);
    filled.env.values_mut().for_each(fill_secret);
    filled.env_file.iter_mut().for_each(fill);
    filled.cwd.iter_mut().for_each(fill);
    match &mut filled.ready.probe {
        Some(Probe::Http(text) | Probe::Tcp(text)) => fill(text),
        Some(Probe::Exec(argv)) => argv.iter_mut().for_each(fill),
        Some(Probe::Notify | Probe::Health) | None => {}
    }
    match &mut filled.drain.begin {
        Some(DrainBegin::Http(url)) => fill(url),
        Some(DrainBegin::Exec(argv)) => argv.iter_mut().for_each(fill),
        Some(DrainBegin::Signal(_)) | None => {}
    }
    match &mut filled.drain.undo {
        Some(Call::Http(url)) => fill(url),
        Some(Call::Exec(argv)) => argv.iter_mut().for_each(fill),
        None => {}
    }
    if let Some(inflight) = &mut filled.drain.inflight {
        fill(&mut inflight.http);
    }
    filled
}

fn fill_text(text: &str, version: &str) -> String {
    const PLACEHOLDER: &str = "{version}";
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['{', '}']) {
        filled.push_str(&rest[..at]);
        rest = &rest[at..];
        let taken = if rest.starts_with("{{") || rest.starts_with("}}") {
            filled.push_str(&rest[..2]);
            2
        } else if rest.starts_with(PLACEHOLDER) {
            filled.push_str(version);
            PLACEHOLDER.len()
        } else {
            filled.push_str(&rest[..1]);
            1
        };
        rest = &rest[taken..];
    }
    filled.push_str(rest);
    filled
}
