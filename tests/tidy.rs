//! Reads the sources and enforces the house rules: who may import whom, what the pure rooms may not know, and small
//! things that reviews should not have to look for.
//!
//! **Test code** is what stands under `#[cfg(test)]` or `#[test]`, and a file whose module is declared so. It may
//! import
//! any room and use any clock; the rules of form (width, length, `unsafe`, unfinished work) hold for it too.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

#[path = "tidy/catches.rs"]
mod catches;
#[path = "tidy/source.rs"]
mod source;

use source::{Named, Token, end_of_group, lex, mark_tests, paths};

const LINES_MAX: usize = 650;
const WIDTH_MAX: usize = 120;

/// Which rooms a room may import beside itself and [`FOR_ALL`]. The table of `src/lib.rs`, in code.
const IMPORTS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("sys", &[]),
    ("cause", &[]),
    ("planner", &["model"]),
    ("engine", &["model"]),
    ("worker", &["model"]),
    ("link", &["model"]),
    ("node", &["model", "engine", "worker", "link"]),
    ("driver", &["model", "journal"]),
    ("simulator", &["model", "planner", "engine", "worker", "link", "node", "driver", "journal", "runtime"]),
    ("journal", &["model", "sys"]),
    ("runtime", &["model", "sys"]),
    ("probe", &["model", "sys"]),
    ("gateway", &["model", "sys", "proto"]),
    ("compose", &["model", "manifest", "sys"]),
    ("manifest", &["model", "sys"]),
    ("transport", &["sys"]),
    ("proto", &["model"]),
    ("agent", COMPOSERS),
    ("coordinator", COMPOSERS),
    ("cli", EVERYTHING),
];

/// A helper without a meaning of its own.
const FOR_ALL: &str = "cause";

const COMPOSERS: &[&str] = &[
    "model",
    "planner",
    "engine",
    "worker",
    "link",
    "node",
    "driver",
    "simulator",
    "journal",
    "runtime",
    "probe",
    "gateway",
    "compose",
    "manifest",
    "proto",
    "sys",
    "transport",
];

const EVERYTHING: &[&str] = &[
    "model",
    "planner",
    "engine",
    "worker",
    "link",
    "node",
    "driver",
    "simulator",
    "journal",
    "runtime",
    "probe",
    "gateway",
    "compose",
    "manifest",
    "proto",
    "sys",
    "transport",
    "agent",
    "coordinator",
];

/// Where only a part of a room may be seen, or only a part may see it: (importer, imported, does it hold).
const NARROWED: &[(&str, &str, Narrowing)] = &[
    ("simulator", "runtime", Narrowing::OnlyItsPart("fake")),
    ("gateway", "proto", Narrowing::OnlyFrom("src/gateway/control")),
];

enum Narrowing {
    OnlyItsPart(&'static str),
    OnlyFrom(&'static str),
}

const PURE: &[&str] = &["model", "planner", "engine", "worker", "link", "node"];

/// What a pure room may not name, and what it does instead.
const IMPURE: &[(&str, &str)] = &[
    ("std::fs", "IO is an effect"),
    ("std::net", "IO is an effect"),
    ("std::os", "IO is an effect"),
    ("std::io", "IO is an effect"),
    ("std::process", "IO is an effect"),
    ("std::env", "configuration is an argument"),
    ("std::thread", "a machine is driven, it does not run"),
    ("std::sync::Mutex", "a machine has one owner"),
    ("std::sync::RwLock", "a machine has one owner"),
    ("std::sync::Condvar", "a machine has one owner"),
    ("std::sync::mpsc", "a machine has one owner"),
    ("std::sync::atomic", "a machine has one owner"),
    ("std::hash::DefaultHasher", "hash order is not the same twice"),
    ("std::hash::RandomState", "hash order is not the same twice"),
    ("std::collections::hash_map", "use BTreeMap: hash order is not the same twice"),
    ("std::collections::hash_set", "use BTreeSet: hash order is not the same twice"),
    ("tokio", "a machine is synchronous"),
    ("futures_util", "a machine is synchronous"),
    ("rustix", "IO is an effect"),
    ("rand", "randomness is an argument"),
    ("getrandom", "randomness is an argument"),
    ("tracing", "what happened is a record"),
];

/// Names that are banned however they are reached.
const IMPURE_NAMES: &[(&str, &str)] = &[
    ("Instant", "time is an argument: model::Timestamp"),
    ("SystemTime", "time is an argument: model::Timestamp"),
    ("HashMap", "use BTreeMap: hash order is not the same twice"),
    ("HashSet", "use BTreeSet: hash order is not the same twice"),
];

/// One broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    file: String,
    line: usize,
    what: String,
}

// === rules ===

/// A source file: its path from the top of the repository, its text, and whether all of it is test code.
struct Source<'a> {
    file: &'a str,
    text: &'a str,
    is_test: bool,
}

impl Source<'_> {
    fn room(&self) -> &str {
        let inside = self.file.strip_prefix("src/").unwrap_or(self.file);
        inside.split('/').next().unwrap_or(inside).trim_end_matches(".rs")
    }

    /// How many modules the file lies below the top: `src/engine/mod.rs` 1, `src/engine/view.rs` 2.
    fn depth(&self) -> usize {
        let parts = self.file.trim_end_matches(".rs").trim_end_matches("/mod").split('/').count();
        parts.saturating_sub(1)
    }
}

fn check(source: &Source<'_>) -> Vec<Finding> {
    let mut tokens = lex(source.text);
    mark_tests(&mut tokens);
    if source.is_test {
        tokens.iter_mut().for_each(|token| token.is_test = true);
    }
    let mut findings = Vec::new();
    let mut find = |line: usize, what: String| findings.push(Finding { file: source.file.to_owned(), line, what });
    check_form(source, &tokens, &mut find);
    let named = paths(&tokens);
    check_imports(source, &named, &mut find);
    if PURE.contains(&source.room()) {
        check_purity(&named, &mut find);
    }
    findings.sort();
    findings.dedup();
    findings
}

fn check_form(source: &Source<'_>, tokens: &[Token], find: &mut impl FnMut(usize, String)) {
    let lines: Vec<&str> = source.text.lines().collect();
    if !lines.iter().find(|line| !line.trim().is_empty()).is_some_and(|line| line.starts_with("//!")) {
        find(1, "no module doc at the top".to_owned());
    }
    if lines.len() > LINES_MAX {
        find(lines.len(), format!("{} lines, at most {LINES_MAX}: split it", lines.len()));
    }
    for (number, line) in (1..).zip(&lines) {
        let width = line.chars().count();
        if width > WIDTH_MAX {
            find(number, format!("{width} characters wide, at most {WIDTH_MAX}"));
        }
        // In two parts, so that this file could be checked too.
        if ["FIX\u{4d}E", "XX\u{58}:"].iter().any(|word| line.contains(word)) {
            find(number, "unfinished: write an honest error, or do it".to_owned());
        }
    }
    for (place, token) in tokens.iter().enumerate() {
        let follow = |words: &[&str]| {
            words.iter().enumerate().all(|(next, word)| tokens.get(place + next).is_some_and(|t| t.text == *word))
        };
        let macros = ["dbg", "todo", "unimplemented"];
        let is_called = ["(", "[", "{"].iter().any(|open| follow(&[&token.text, "!", open]));
        if is_called && macros.contains(&token.text.as_str()) {
            find(token.line, format!("{}! is for the workbench", token.text));
        }
        if token.text == "unsafe" && source.room() != "sys" {
            find(token.line, "unsafe stands in src/sys only".to_owned());
        }
        if !token.is_test && follow(&[".", "to_string", "(", ")", ".", "contains", "("]) {
            find(token.line, "matches on the text of a message: match on the type".to_owned());
        }
        if follow(&["#", "["]) || follow(&["#", "!", "["]) {
            let open = if tokens[place + 1].text == "[" { place + 1 } else { place + 2 };
            let inside = &tokens[open..end_of_group(tokens, open).min(tokens.len())];
            let has = |word: &str| inside.iter().any(|token| token.text == word);
            if (has("allow") || has("expect")) && !has("reason") {
                find(token.line, "a lint is silenced without a reason".to_owned());
            }
        }
    }
}

fn check_imports(source: &Source<'_>, named: &[Named], find: &mut impl FnMut(usize, String)) {
    let room = source.room();
    if matches!(room, "lib" | "main") {
        return;
    }
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == room) else {
        find(1, format!("the room {room} is not in the table of imports"));
        return;
    };
    for Named { path, line, inside } in named {
        let supers = path.iter().take_while(|segment| *segment == "super").count();
        let from_top: &[String] = match path[0].as_str() {
            "crate" => &path[1..],
            "super" if supers >= source.depth() + inside => &path[supers..],
            _ => continue,
        };
        let Some(imported) = from_top.first().map(String::as_str) else { continue };
        let part = from_top.get(1).map(String::as_str);
        let narrowing = NARROWED.iter().find(|(from, to, _)| *from == room && *to == imported);
        if imported == room || imported == FOR_ALL {
        } else if imported == "*" || !IMPORTS.iter().any(|(name, _)| *name == imported) {
            find(*line, format!("crate::{imported} is no room"));
        } else if !allowed.contains(&imported) {
            find(*line, format!("{room} may not import {imported}"));
        } else if let Some((_, _, Narrowing::OnlyItsPart(only))) = narrowing
            && part != Some(only)
        {
            find(*line, format!("{room} may import {imported}::{only} only"));
        } else if let Some((_, _, Narrowing::OnlyFrom(only))) = narrowing
            && !source.file.starts_with(only)
        {
            find(*line, format!("{room} may import {imported} from {only} only"));
        }
    }
}

fn check_purity(named: &[Named], find: &mut impl FnMut(usize, String)) {
    for Named { path, line, .. } in named {
        let text = path.join("::").replacen("core::", "std::", usize::from(path[0] == "core"));
        let is_glob = path.last().is_some_and(|last| last == "*");
        for (banned, instead) in IMPURE {
            let below = text == *banned || text.starts_with(&format!("{banned}::"));
            let above = is_glob && banned.starts_with(text.trim_end_matches('*'));
            if (below || above) && !(path.len() == 1 && banned.contains("::")) {
                find(*line, format!("{text} in a pure room: {instead}"));
            }
        }
        for (banned, instead) in IMPURE_NAMES {
            if path.iter().any(|segment| segment == banned) {
                find(*line, format!("{text} in a pure room: {instead}"));
            }
        }
        if is_glob && matches!(text.as_str(), "std::*" | "std::time::*" | "std::collections::*") {
            find(*line, format!("{text} in a pure room: name what is used"));
        }
    }
}

// === the house ===

fn sources_below(folder: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// The folder that the modules declared in a file lie in.
fn folder_of_children(file: &str) -> String {
    let stem = file.trim_end_matches(".rs");
    let is_top = stem.ends_with("/mod") || stem == "src/lib" || stem == "src/main";
    if is_top { stem.rsplit_once('/').unwrap().0.to_owned() } else { stem.to_owned() }
}

#[test]
fn the_house_is_tidy() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    sources_below(&top.join("src"), &mut files);
    let texts: BTreeMap<String, String> = files
        .iter()
        .map(|path| (path.strip_prefix(top).unwrap().display().to_string(), fs::read_to_string(path).unwrap()))
        .collect();
    assert!(texts.len() > 30, "only {} sources were found", texts.len());
    let mut test_places: Vec<String> = Vec::new();
    for (file, text) in &texts {
        let declared = mark_tests(&mut lex(text));
        test_places.extend(declared.iter().map(|name| format!("{}/{name}", folder_of_children(file))));
    }
    let is_test = |file: &str| {
        test_places.iter().any(|place| file == format!("{place}.rs") || file.starts_with(&format!("{place}/")))
    };
    let findings: Vec<String> = texts
        .iter()
        .flat_map(|(file, text)| check(&Source { file, text, is_test: is_test(file) }))
        .map(|Finding { file, line, what }| format!("{file}:{line}: {what}"))
        .collect();
    assert!(findings.is_empty(), "{} findings:\n{}", findings.len(), findings.join("\n"));
}

#[test]
fn every_room_of_the_map_has_a_rule() {
    let lib = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let rooms: Vec<&str> = lib.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(rooms.len() > 10);
    for room in rooms {
        let (_, allowed) = IMPORTS.iter().find(|(name, _)| *name == room).unwrap_or_else(|| panic!("{room}: no rule"));
        // What the table in the documentation grants by name is what is granted here.
        let rows = lib.lines().filter(|line| line.starts_with("//! |"));
        let row =
            rows.map(|row| row.split('|').collect::<Vec<_>>()).find(|row| row[1].contains(&format!("[`{room}`]")));
        let Some(row) = row else { continue };
        let granted: BTreeSet<&str> = row[3].split('`').skip(1).step_by(2).collect();
        for named in granted.iter().filter_map(|name| name.split("::").next()) {
            assert!(allowed.contains(&named), "{room}: src/lib.rs grants {named}, the table here does not");
        }
        let is_prose = row[3].contains("pure rooms") || row[3].contains("above") || row[3].contains("everything");
        for named in allowed.iter().filter(|_| !is_prose) {
            let is_noted = granted.contains(named) || (room, *named) == ("gateway", "proto");
            assert!(is_noted, "{room}: the table here grants {named}, src/lib.rs does not");
        }
    }
}
