//! A witness beside the journal that remembers its last record.
//!
//! SQLite takes the first frame of its write-ahead log that does not fit its checksum for the end of the log, as it
//! must after a power loss. So a log that was damaged, cut or removed while nobody ran reads as a shorter journal that
//! is sound in itself. The witness is written after each sync, without a sync of its own: it can lag behind the
//! journal, never run ahead of it, and a journal that ends before its witness has lost records that were acted upon.
//!
//! It names the file that it belongs to by device, inode and time of birth, so that it says nothing about a copy: an
//! older copy of a state directory is a sound journal, and that it is old is for the agents to say.

use std::fs::{File, Metadata, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use sha2::{Digest as _, Sha256};

use super::codec::{Hash, hex, unhex};

/// The witness's fixed length: it is overwritten in place, so it needs no space once it is there.
const LENGTH: usize = 256;

/// What a witness says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Witness {
    pub(super) sequence: u64,
    pub(super) hash: Hash,
}

/// Where the witness of a journal lies.
pub(super) fn path_of(journal: &Path) -> PathBuf {
    let mut name = journal.as_os_str().to_owned();
    name.push("-tail");
    PathBuf::from(name)
}

/// What the witness says about this very file; `None` when there is none or it belongs to another file.
pub(super) fn read(journal: &Path) -> Option<Witness> {
    let text = std::fs::read_to_string(path_of(journal)).ok()?;
    let (signed, checksum) = text.trim_end().rsplit_once(' ')?;
    let [magic, identity, sequence, hash] = signed.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let sound = magic == "tail" && checksum == checksum_of(signed);
    let ours = std::fs::metadata(journal).is_ok_and(|metadata| identity == identity_of(&metadata));
    (sound && ours).then_some(())?;
    Some(Witness { sequence: sequence.parse().ok()?, hash: unhex(hash)? })
}

fn checksum_of(text: &str) -> String {
    hex(&Sha256::digest(text.as_bytes())[..4])
}

fn identity_of(metadata: &Metadata) -> String {
    let born = metadata.created().ok().and_then(|born| born.duration_since(UNIX_EPOCH).ok()).unwrap_or_default();
    format!("{}/{}/{}", metadata.dev(), metadata.ino(), born.as_nanos())
}

/// Writes the witness. It is a help, not a promise: what cannot be written is left out, and then less is noticed.
#[derive(Debug)]
pub(super) struct TailWriter {
    file: Option<File>,
    identity: String,
}

impl TailWriter {
    pub(super) fn open(journal: &Path) -> std::io::Result<Self> {
        let identity = identity_of(&std::fs::metadata(journal)?);
        let path = path_of(journal);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        if let Err(error) = &file {
            tracing::warn!(path = %path.display(), %error, "cannot keep the journal's witness");
        }
        Ok(Self { file: file.ok(), identity })
    }

    pub(super) fn write(&mut self, sequence: u64, hash: &Hash) {
        let signed = format!("tail {} {sequence} {}", self.identity, hex(hash));
        let mut text = format!("{signed} {}", checksum_of(&signed)).into_bytes();
        text.resize(LENGTH - 1, b' ');
        text.push(b'\n');
        if let Some(file) = &self.file
            && let Err(error) = file.write_all_at(&text, 0)
        {
            tracing::warn!(%error, "cannot keep the journal's witness");
            self.file = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_speaks_of_its_own_file_only() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal.db");
        std::fs::write(&journal, b"").unwrap();
        assert_eq!(read(&journal), None);
        let mut writer = TailWriter::open(&journal).unwrap();
        writer.write(u64::MAX, &[7; 32]);
        writer.write(3, &[8; 32]);
        assert_eq!(read(&journal), Some(Witness { sequence: 3, hash: [8; 32] }));
        assert_eq!(std::fs::metadata(path_of(&journal)).unwrap().len(), LENGTH as u64);

        let copy = folder.path().join("copy.db");
        std::fs::copy(&journal, &copy).unwrap();
        std::fs::copy(path_of(&journal), path_of(&copy)).unwrap();
        assert_eq!(read(&copy), None);
    }

    #[test]
    fn a_broken_witness_says_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal.db");
        std::fs::write(&journal, b"").unwrap();
        TailWriter::open(&journal).unwrap().write(3, &[8; 32]);
        let sound = std::fs::read(path_of(&journal)).unwrap();
        for place in 0..sound.iter().rposition(|byte| *byte != b' ' && *byte != b'\n').unwrap() {
            let mut broken = sound.clone();
            broken[place] ^= 1;
            std::fs::write(path_of(&journal), broken).unwrap();
            assert_eq!(read(&journal), None, "byte {place}");
        }
    }
}
