//! What is copied into containers when they are made (inline configs, secrets of the environment). Compose's digest of
//! a service does not hold it, so a change of it changes no spec: here what containers have is compared with what they
//! would get.

use std::collections::{BTreeMap, BTreeSet};

use base64::Engine as _;
use bollard::query_parameters::DownloadFromContainerOptionsBuilder;
use futures_util::StreamExt;

use super::engine::ASK;
use super::runtime::Inner;
use crate::model::{ComposeArchive, Definition};

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
            let Some(seen) = self.look(&slot).await.ok().and_then(|mut seen| seen.pop()) else { continue };
            let Some(id) = seen.about.id.as_deref() else { continue };
            for (path, content) in wanted.archives.iter().flat_map(files_of) {
                if self.file_in(id, &path).await.is_some_and(|has| has != content) {
                    outdated.insert(path);
                }
            }
        }
        outdated
    }

    /// A file in a container; `None` where it cannot be read.
    async fn file_in(&self, container: &str, path: &str) -> Option<Vec<u8>> {
        let client = self.engine.client().await.ok()?;
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
        let tar = self.engine.bounded("reading a file of a container", ASK, read).await.ok()?;
        files(&tar).into_values().next()
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
