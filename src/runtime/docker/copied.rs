//! What is copied into containers when they are made (inline configs, secrets of the environment). Compose's digest of
//! a service does not hold it, so a change of it changes no spec: here what containers have is compared with what they
//! would get.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use base64::Engine as _;
use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use futures_util::StreamExt;

use super::engine::{ASK, Trouble};
use super::look::Seen;
use super::runtime::Inner;
use crate::model::{ComposeArchive, ComposeContainer, Definition, Secret};

const BLOCK: usize = 512;
/// Of one file: configs and secrets are small, and engines take no larger ones.
const FILE_MAX: usize = 8 << 20;

impl Inner {
    /// The files whose content in a container of the service is not what it would get today. What cannot be looked at
    /// is not told of: the inventory tells that.
    pub(super) async fn outdated(&self, definition: &Definition) -> BTreeSet<String> {
        let mut outdated = BTreeSet::new();
        let Some(service) = definition.compose.as_ref() else { return outdated };
        if service.containers.values().all(|container| container.archives.is_empty()) {
            return outdated;
        }
        let slots = self.slots().await.unwrap_or_default();
        for slot in slots.into_iter().filter(|slot| slot.component == definition.component) {
            let Some(wanted) = service.containers.get(&slot.index) else { continue };
            let Ok(all) = self.look(&slot).await else { continue };
            let Some(seen) = all.last() else { continue };
            let Some(id) = seen.about.id.as_deref() else { continue };
            for (path, content) in wanted.archives.iter().flat_map(files_of) {
                let has = self.archive_of(id, &path).await.ok().and_then(|tar| files(&tar).into_values().next());
                if has.is_some_and(|has| has != content) {
                    outdated.insert(path);
                }
            }
        }
        outdated
    }

    /// The files that a container has where another one gets files after it is made: what would make it again is made
    /// without them. Nothing tells which ones it was given, so what only the former file of Compose had put there is
    /// not known. `None` where they cannot be read.
    pub(super) async fn copied(&self, seen: &Seen, wanted: &ComposeContainer) -> Option<Vec<ComposeArchive>> {
        let mut archives = Vec::new();
        for (path, _) in wanted.archives.iter().flat_map(files_of) {
            match self.archive_of(seen.about.id.as_deref()?, &path).await {
                Ok(tar) => archives.push(ComposeArchive {
                    path: Path::new(&path).parent()?.to_str()?.to_owned(),
                    tar: Secret::new(base64::engine::general_purpose::STANDARD.encode(tar)),
                }),
                Err(trouble) if trouble.is_absent() => {}
                Err(_) => return None,
            }
        }
        Some(archives)
    }

    /// One file of a container, as an archive. What is longer than any file that is copied is cut off.
    async fn archive_of(&self, container: &str, path: &str) -> Result<Vec<u8>, Trouble> {
        let client = self.engine.client().await?;
        let options = DownloadFromContainerOptionsBuilder::new().path(path).build();
        let read = async {
            let mut stream = client.download_from_container(container, Some(options));
            let mut tar = Vec::new();
            while let Some(part) = stream.next().await {
                tar.extend_from_slice(&part?);
                if tar.len() > FILE_MAX {
                    break;
                }
            }
            Ok(tar)
        };
        self.engine.bounded(&format!("reading {path} of a container"), ASK, read).await
    }
}

/// The files of an archive, by their paths in the container.
fn files_of(archive: &ComposeArchive) -> Vec<(String, Vec<u8>)> {
    let tar = base64::engine::general_purpose::STANDARD.decode(archive.tar.expose()).unwrap_or_default();
    let folder = archive.path.trim_end_matches('/');
    let place = |name: String| format!("{folder}/{}", name.trim_start_matches('/'));
    files(&tar).into_iter().map(|(name, content)| (place(name), content)).collect()
}

/// The plain files of a tar archive.
fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut at = 0;
    while let Some(header) = tar.get(at..at + BLOCK).filter(|header| header.iter().any(|byte| *byte != 0)) {
        let text = |from: usize, to: usize| {
            let field = &header[from..to];
            let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
            String::from_utf8_lossy(&field[..end]).into_owned()
        };
        let size = text(124, 136);
        let Ok(size) = usize::from_str_radix(size.trim(), 8) else { break };
        let Some(content) = tar.get(at + BLOCK..at + BLOCK + size) else { break };
        if matches!(header[156], b'0' | 0) {
            let (name, prefix) = (text(0, 100), text(345, 500));
            let in_prefix = header[257..262] == *b"ustar" && !prefix.is_empty();
            found.insert(if in_prefix { format!("{prefix}/{name}") } else { name }, content.to_vec());
        }
        at += BLOCK + size.div_ceil(BLOCK) * BLOCK;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_in_an_archive_are_named_and_its_folders_are_not() {
        let mut tar = Vec::new();
        for (name, kind, size) in [("run/", b'5', 0), ("run/secrets/key", b'0', 700), ("etc/app.conf", 0, 0)] {
            let mut header = vec![0; BLOCK];
            header[..name.len()].copy_from_slice(name.as_bytes());
            header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
            header[156] = kind;
            tar.extend(header);
            tar.resize(tar.len() + usize::div_ceil(size, BLOCK) * BLOCK, 7);
        }
        tar.resize(tar.len() + 2 * BLOCK, 0);
        let found = files(&tar);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["etc/app.conf", "run/secrets/key"]);
        assert_eq!(found["run/secrets/key"], [7; 700]);
        assert!(files(b"no archive").is_empty());
    }
}
