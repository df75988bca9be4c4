//! Is the release there, and is it whole? And what does an env_file say?

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Component, Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::model::{Definition, Digest, Release, Role};

/// The largest env_file and checksum file that is read.
const TEXT_MAX: u64 = 16 << 20;
/// How much of a file is hashed at a time.
const CHUNK: usize = 128 << 10;

/// Why a release or env_file cannot be used; for people, free of secrets.
#[derive(Debug, thiserror::Error)]
pub(in crate::runtime) enum ReleaseError {
    #[error("release {0} does not exist on this host")]
    Absent(String),
    #[error("release {0} is not a folder")]
    NotAFolder(String),
    #[error("release {release}: {file}: {}", words(source))]
    Unreadable { release: String, file: String, source: io::Error },
    #[error("release {release}: {file} is named in {sums} and is missing")]
    Missing { release: String, sums: String, file: String },
    #[error("release {release}: {file} does not match its checksum")]
    Mismatch { release: String, file: String },
    #[error("release {release}: {sums} line {line} is not a checksum and a file inside the release")]
    Line { release: String, sums: String, line: usize },
    #[error("release {release}: {sums} names no file")]
    Empty { release: String, sums: String },
    #[error("env_file {file}: {}", words(source))]
    EnvFile { file: String, source: io::Error },
    #[error("env_file {file} line {line} is not NAME=value")]
    EnvLine { file: String, line: usize },
}

/// An error of the operating system as people say it: without its number.
pub(super) fn words(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => "does not exist".to_owned(),
        io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => {
            let text = error.to_string();
            text.split(" (os error").next().unwrap_or(&text).to_lowercase()
        }
    }
}

/// How thoroughly a release is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Depth {
    /// Every file of the checksum file is there.
    Present,
    /// Every file of the checksum file has the content that it should.
    Verified,
}

/// Looks at a release and says what stands for it: the digest of its checksum file, or of its path.
pub(super) fn check_release(release: &Release, depth: Depth) -> Result<Digest, ReleaseError> {
    let shown = || release.path.clone();
    let folder = Path::new(&release.path);
    match fs::metadata(folder) {
        Ok(about) if about.is_dir() => {}
        Ok(_) => return Err(ReleaseError::NotAFolder(shown())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(ReleaseError::Absent(shown())),
        Err(source) => return Err(ReleaseError::Unreadable { release: shown(), file: ".".to_owned(), source }),
    }
    let Some(sums) = &release.sha256_file else { return Ok(digest(release.path.as_bytes())) };
    let unreadable = |file: &str, source| ReleaseError::Unreadable { release: shown(), file: file.to_owned(), source };
    let text = read_bounded(&folder.join(sums)).map_err(|source| unreadable(sums, source))?;
    let listed = parse_sums(&text).map_err(|line| ReleaseError::Line { release: shown(), sums: sums.clone(), line })?;
    if listed.is_empty() {
        return Err(ReleaseError::Empty { release: shown(), sums: sums.clone() });
    }
    for (file, wanted) in &listed {
        let path = folder.join(file);
        let name = file.display().to_string();
        let missing = || ReleaseError::Missing { release: shown(), sums: sums.clone(), file: name.clone() };
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => missing(),
            _ => unreadable(&name, source),
        };
        match depth {
            Depth::Present => {
                fs::metadata(&path).map_err(failed)?;
            }
            Depth::Verified => {
                if hash_file(&path).map_err(failed)? != *wanted {
                    return Err(ReleaseError::Mismatch { release: shown(), file: name });
                }
            }
        }
    }
    Ok(digest(text.as_bytes()))
}

/// The lines of `sha256sum`'s output; the number of the first line that is not one. A path that leaves the release is
/// no line of a checksum file.
fn parse_sums(text: &str) -> Result<Vec<(PathBuf, String)>, usize> {
    let mut listed = Vec::new();
    for (at, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let parsed = || {
            // A leading backslash says that the name has escapes.
            let (line, escaped) = line.strip_prefix('\\').map_or((line, false), |rest| (rest, true));
            let (sum, rest) = line.split_at_checked(64)?;
            if !sum.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            let name = rest.strip_prefix("  ").or_else(|| rest.strip_prefix(" *"))?;
            let name = if escaped { unescape(name) } else { name.to_owned() };
            let path = PathBuf::from(name);
            let inside = path.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
            (inside && path.components().any(|part| matches!(part, Component::Normal(_))))
                .then(|| (path, sum.to_ascii_lowercase()))
        };
        listed.push(parsed().ok_or(at + 1)?);
    }
    Ok(listed)
}

fn unescape(name: &str) -> String {
    let mut plain = String::with_capacity(name.len());
    let mut letters = name.chars();
    while let Some(letter) = letters.next() {
        match (letter, letter == '\\') {
            (_, true) => match letters.next() {
                Some('n') => plain.push('\n'),
                Some('r') => plain.push('\r'),
                Some(other) => plain.push(other),
                None => plain.push('\\'),
            },
            (letter, false) => plain.push(letter),
        }
    }
    plain
}

fn hash_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    loop {
        let count = file.read(&mut buffer)?;
        if count == 0 {
            return Ok(hex(&hash.finalize()));
        }
        hash.update(&buffer[..count]);
    }
}

/// The digest of some bytes.
pub(super) fn digest(bytes: &[u8]) -> Digest {
    Digest(hex(&Sha256::digest(bytes)))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let count = File::open(path)?.take(TEXT_MAX + 1).read_to_string(&mut text)?;
    if count as u64 > TEXT_MAX {
        return Err(io::Error::other(format!("larger than {} MiB", TEXT_MAX >> 20)));
    }
    Ok(text)
}

/// Reads an env_file: `NAME=value` lines, empty ones and those that begin with `#` left out. A value is taken as it
/// stands to the end of its line; a pair of quotes around the whole of it is taken off.
pub(in crate::runtime) fn read_env_file(file: &str) -> Result<(BTreeMap<String, String>, Digest), ReleaseError> {
    let text =
        read_bounded(Path::new(file)).map_err(|source| ReleaseError::EnvFile { file: file.to_owned(), source })?;
    let mut values = BTreeMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim_end_matches('\r');
        let start = line.trim_start();
        if start.is_empty() || start.starts_with('#') {
            continue;
        }
        let wrong = || ReleaseError::EnvLine { file: file.to_owned(), line: at + 1 };
        let (name, value) = start.split_once('=').ok_or_else(wrong)?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) || value.contains('\0') {
            return Err(wrong());
        }
        let value =
            ['"', '\''].into_iter().find_map(|quote| value.strip_prefix(quote)?.strip_suffix(quote)).unwrap_or(value);
        values.insert(name.to_owned(), value.to_owned());
    }
    Ok((values, digest(text.as_bytes())))
}

/// Whether a definition says what to run. A gateway is this program itself.
pub(super) fn names_a_program(definition: &Definition) -> bool {
    definition.role == Some(Role::Gateway) || definition.command.first().is_some_and(|first| !first.expose().is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(folder: &Path) -> Release {
        Release { path: folder.display().to_string(), sha256_file: Some("SHA256SUMS".to_owned()) }
    }

    #[test]
    fn a_release_is_whole_only_when_every_listed_file_has_its_checksum() {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path();
        fs::create_dir(folder.join("bin")).unwrap();
        fs::write(folder.join("bin/worker"), "one").unwrap();
        fs::write(folder.join("extra"), "not listed").unwrap();
        let sum = digest(b"one").0;
        let sums = |text: &str| fs::write(folder.join("SHA256SUMS"), text).unwrap();
        let problem = |depth| check_release(&release(folder), depth).unwrap_err().to_string();

        assert!(problem(Depth::Verified).ends_with("SHA256SUMS: does not exist"));
        sums("\n");
        assert!(problem(Depth::Verified).ends_with("SHA256SUMS names no file"));
        for line in ["hello", &format!("{sum}  ../outside"), &format!("{sum}  /etc/passwd"), &format!("{sum} x")] {
            sums(&format!("{sum}  bin/worker\n{line}\n"));
            assert!(problem(Depth::Verified).contains("SHA256SUMS line 2"), "{line}");
        }
        sums(&format!("{sum}  bin/worker\n{sum} *./bin/other\n"));
        assert!(problem(Depth::Present).ends_with("./bin/other is named in SHA256SUMS and is missing"));

        sums(&format!("{sum}  bin/worker\n"));
        let whole = check_release(&release(folder), Depth::Verified).unwrap();
        assert_eq!(whole, digest(format!("{sum}  bin/worker\n").as_bytes()));
        fs::write(folder.join("bin/worker"), "two").unwrap();
        assert!(problem(Depth::Verified).ends_with("bin/worker does not match its checksum"));
        assert_eq!(check_release(&release(folder), Depth::Present).unwrap(), whole);

        let absent = Release { path: folder.join("v9").display().to_string(), sha256_file: None };
        let text = check_release(&absent, Depth::Verified).unwrap_err().to_string();
        assert!(text.ends_with("v9 does not exist on this host"), "{text}");
        let unproven = Release { sha256_file: None, ..release(folder) };
        let digest_of_path = digest(unproven.path.as_bytes());
        assert_eq!(check_release(&unproven, Depth::Verified).unwrap(), digest_of_path);
    }

    #[test]
    fn an_env_file_is_name_value_lines_and_its_errors_show_no_value() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("worker.env");
        let file = path.display().to_string();
        fs::write(&path, "# note\n\nA=1\r\nB = two words \nC=\"quoted # x\"\nD=a=b\nE=\n").unwrap();
        let (values, _) = read_env_file(&file).unwrap();
        let wanted = [("A", "1"), ("B", " two words "), ("C", "quoted # x"), ("D", "a=b"), ("E", "")];
        assert_eq!(values, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())).into());
        fs::write(&path, "A=1\nsecret-without-name\n").unwrap();
        let text = read_env_file(&file).unwrap_err().to_string();
        assert!(text.ends_with("line 2 is not NAME=value") && !text.contains("secret-without"), "{text}");
        let text = read_env_file("/nowhere/x.env").unwrap_err().to_string();
        assert_eq!(text, "env_file /nowhere/x.env: does not exist");
    }
}
