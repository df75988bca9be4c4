//! The version of a project whose images are named with a variable (`x-baton: version: { variable: TAG }`).
//!
//! Where the variable stands and what it is now, Compose knows: the project is resolved once more with a word in its
//! place that nobody would choose, and the images compared.

use std::collections::BTreeSet;

use super::{Compose, ComposeError, Project, Selection};

/// In the place of the version. Fits wherever a tag does.
const MARK: &str = "baton-marks-the-version";

/// What the variable is, and which services' images are named with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// Its value.
    pub value: String,
    /// Their names.
    pub services: BTreeSet<String>,
}

impl Version {
    /// Asks Compose. `None`: the project names no variable.
    ///
    /// # Errors
    /// With Compose's own words; or when no image is named with the variable.
    pub async fn read(
        compose: &Compose,
        selection: &Selection,
        project: &Project,
    ) -> Result<Option<Self>, ComposeError> {
        let Some(variable) = project.version_variable() else { return Ok(None) };
        let mut marked = selection.clone();
        marked.variables.insert(variable.to_owned(), MARK.to_owned());
        let marked = Project::read(compose, &marked).await?;
        Self::between(project, &marked).map(Some).map_err(|what| ComposeError::Project {
            why: vec![format!("x-baton.version.variable: {what}; write an image as `image: name:${{{variable}}}`")],
        })
    }

    fn between(project: &Project, marked: &Project) -> Result<Self, String> {
        let mut found: Option<Self> = None;
        for (name, service) in &project.services {
            let other = marked.services.get(name).and_then(|service| service.image.as_deref());
            let (Some(image), Some(other)) = (service.image.as_deref(), other) else { continue };
            let Some((before, after)) = other.split_once(MARK) else { continue };
            let value = image.strip_prefix(before).and_then(|rest| rest.strip_suffix(after));
            let Some(value) = value.filter(|value| !value.is_empty()) else {
                return Err(format!("the image of {name} has no version in the place of the variable"));
            };
            let version = found.get_or_insert_with(|| Self { value: value.to_owned(), services: BTreeSet::new() });
            if version.value != value {
                return Err(format!("{name} has version {value}, others have {}", version.value));
            }
            version.services.insert(name.clone());
        }
        found.ok_or_else(|| "no image is named with it".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn project(tag: &str, other: &str) -> Project {
        let text = format!(
            "name: p\nservices:\n  a: {{ image: \"r:5000/a:{tag}\" }}\n  b: {{ image: \"b:{other}-slim\" }}\n  c: {{ \
             image: \"c:1\" }}\n"
        );
        Project::parse(&text).unwrap()
    }

    #[test]
    fn the_version_is_what_stands_where_the_mark_does() {
        let version = Version::between(&project("v7", "v7"), &project(MARK, MARK)).unwrap();
        assert_eq!(version.value, "v7");
        assert_eq!(version.services, BTreeSet::from(["a".to_owned(), "b".to_owned()]));
        assert!(Version::between(&project("v7", "x"), &project("v7", "x")).unwrap_err().contains("no image"));
        assert!(Version::between(&project("v7", "v8"), &project(MARK, MARK)).unwrap_err().contains("v8"));
        assert!(Version::between(&project("", "v8"), &project(MARK, "v8")).unwrap_err().contains('a'));
    }
}
