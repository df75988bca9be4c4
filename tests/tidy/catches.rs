//! The checker itself: what it has to catch, and what it must let pass.

use super::source::{lex, mark_tests};
use super::*;

/// The findings for a file with this content and a module doc.
fn said(file: &str, text: &str) -> Vec<String> {
    let text = format!("//! Doc.\n{text}\n");
    let findings = check(&Source { file, text: &text, is_test: false });
    findings.into_iter().map(|finding| format!("{}: {}", finding.line - 1, finding.what)).collect()
}

fn assert_caught(file: &str, text: &str, what: &str) {
    let said = said(file, text);
    assert!(said.iter().any(|finding| finding.contains(what)), "{file}: {text}\nwas not caught: {said:?}");
}

fn assert_clean(file: &str, text: &str) {
    assert_eq!(said(file, text), [""; 0], "{file}: {text}");
}

#[test]
fn forbidden_imports_are_caught_however_they_are_written() {
    let cases = [
        ("src/model/ids.rs", "use crate::engine::Record;", "model may not import engine"),
        ("src/engine/mod.rs", "use crate::{model::Plan, worker};", "engine may not import worker"),
        (
            "src/engine/mod.rs",
            "use crate::{\n    model::{self, Plan},\n    link::{self, Event},\n};",
            "may not import link",
        ),
        ("src/engine/mod.rs", "fn f() { crate::journal::open() }", "engine may not import journal"),
        ("src/engine/mod.rs", "use super::planner::Ask;", "engine may not import planner"),
        ("src/engine/view.rs", "use super::super::planner::Ask;", "engine may not import planner"),
        ("src/engine/view.rs", "mod a { use super::super::super::planner::Ask; }", "engine may not import planner"),
        ("src/engine/mod.rs", "use super::*;", "crate::* is no room"),
        ("src/engine/mod.rs", "use crate::tools::x;", "crate::tools is no room"),
        ("src/engine/mod.rs", "pub use crate :: cli :: run;", "engine may not import cli"),
        ("src/engine/mod.rs", "type A = Vec<crate::sys::clock::SystemClock>;", "engine may not import sys"),
        ("src/engine/mod.rs", "macro_rules! m { () => { $crate::driver::x() } }", "engine may not import driver"),
        ("src/driver/mod.rs", "use crate::sys::clock;", "driver may not import sys"),
        ("src/agent/mod.rs", "use crate::coordinator::Core;", "agent may not import coordinator"),
        ("src/coordinator/mod.rs", "use crate::agent::Shell;", "coordinator may not import agent"),
        ("src/coordinator/mod.rs", "use crate::cli::words;", "coordinator may not import cli"),
        ("src/engine/mod.rs", "use crate::proto::agent;", "engine may not import proto"),
        ("src/journal/mod.rs", "use crate::proto::agent;", "journal may not import proto"),
        ("src/gateway/proxy.rs", "use crate::proto::gateway;", "may import proto from src/gateway/control only"),
        ("src/simulator/mod.rs", "use crate::runtime::process::Keeper;", "may import runtime::fake only"),
        ("src/simulator/mod.rs", "use crate::runtime::{fake::Fake, Hint};", "may import runtime::fake only"),
        ("src/pantry/mod.rs", "", "the room pantry is not in the table"),
        ("src/pantry.rs", "", "the room pantry is not in the table"),
    ];
    for (file, text, what) in cases {
        assert_caught(file, text, what);
    }
}

#[test]
fn what_is_allowed_is_not_caught() {
    let cases = [
        ("src/engine/view.rs", "use super::Record;\nuse crate::model::Plan;\nuse crate::engine::Event;"),
        ("src/engine/mod.rs", "mod a { use super::Record; fn f() { super::g() } }"),
        (
            "src/engine/mod.rs",
            "// use crate::cli;\n/* crate::cli /* nested */ crate::cli */\n/// [`crate::cli::x`]\nfn f() {}",
        ),
        ("src/engine/mod.rs", "fn f() -> &'static str { \"crate::cli::x \\\" crate::cli\" }"),
        ("src/engine/mod.rs", "fn f() -> &'static str { r#\"\" crate::cli\"# }"),
        ("src/engine/mod.rs", "#[cfg(test)]\nmod tests { use crate::planner::x; use std::fs; }\nfn f() {}"),
        ("src/engine/mod.rs", "#[cfg(test)]\n#[path = \"x\"]\npub(crate) mod world;\nfn f() {}"),
        ("src/engine/mod.rs", "#[cfg(all(test, unix))]\nuse crate::planner;\nfn f() {}"),
        ("src/engine/mod.rs", "use crate::cause::chain;"),
        ("src/gateway/control.rs", "use crate::proto::gateway;"),
        ("src/simulator/mod.rs", "use crate::runtime::fake::{self, Fake};"),
        ("src/journal/mod.rs", "use std::fs; use std::time::Instant; use crate::sys::files;"),
        ("src/main.rs", "fn main() { baton::cli::main() }"),
    ];
    for (file, text) in cases {
        assert_clean(file, text);
    }
}

#[test]
fn test_code_ends_where_its_item_ends() {
    let after = "use crate::cli::x;";
    for before in [
        "#[cfg(test)] mod tests { fn f() {} }",
        "#[cfg(test)] mod tests;",
        "#[cfg(test)] use a::{b, c};",
        "#[test] fn f(a: [u8; 2]) -> u8 { 1 }",
        "#[cfg(test)] const A: [u8; 2] = [1, 2];",
        "#[cfg(not(test))] fn f() {}",
        "#[cfg_attr(test, derive(Debug))] struct A;",
        "fn f() -> char { '{' }",
        "fn f<'a>(a: &'a str) -> char { '\\'' }",
        "const A: &str = \"{\"; const B: &[u8] = br##\"\"#{\"##;",
    ] {
        assert_caught("src/engine/mod.rs", &format!("{before}\n{after}"), "2: engine may not import cli");
    }
}

#[test]
fn impure_things_are_caught_in_pure_rooms() {
    for room in PURE {
        for text in [
            "use std::time::Instant;",
            "use std::time::{Duration, SystemTime};",
            "use std::{fmt, time::{self, Instant as Now}};",
            "fn f() { let t = std::time::Instant::now(); }",
            "use std::time; fn f() { time::Instant::now(); }",
            "use std::time::*;",
            "use std::*;",
            "use std::collections::HashMap;",
            "use std::collections::{BTreeMap, HashSet};",
            "use std::collections::*;",
            "type A = std::collections::hash_map::Entry<'static, u8, u8>;",
            "use std::fs;",
            "use std::{fs::File, fmt};",
            "use ::std::net::TcpStream;",
            "fn f() { std::process::exit(1) }",
            "fn f() { std::env::var(\"X\"); }",
            "fn f() { std::thread::sleep(d) }",
            "use std::sync::{Arc, Mutex};",
            "use std::sync::*;",
            "use tokio::sync::mpsc;",
            "fn f() { tokio::spawn(async {}); }",
            "#[tokio::main] async fn f() {}",
            "use rustix;",
            "use rand::Rng;",
            "fn f() { getrandom::fill(&mut x); }",
        ] {
            assert_caught(&format!("src/{room}/x.rs"), text, "in a pure room");
        }
        for text in [
            "use std::collections::{BTreeMap, BTreeSet};\nuse std::time::Duration;\nuse std::fmt;",
            "use std::sync::Arc;",
            "fn f(fs: u8, net: u8) -> u8 { fs + net }",
            "fn f() { self.process.env.thread() }",
            "// tokio and HashMap\nfn f() -> &'static str { \"HashMap\" }",
        ] {
            assert_clean(&format!("src/{room}/x.rs"), text);
        }
    }
}

#[test]
fn rules_of_form_are_caught_in_test_code_too() {
    let inside_tests = |text: &str| format!("#[cfg(test)] mod tests {{ {text} }}");
    for (text, what) in [
        ("fn f() { unsafe { g() } }", "unsafe stands in src/sys only"),
        ("unsafe impl Send for A {}", "unsafe stands in src/sys only"),
        ("fn f() { dbg!(1); }", "dbg! is for the workbench"),
        ("fn f() { todo!() }", "todo! is for the workbench"),
        ("fn f() { unimplemented!(\"later\") }", "unimplemented! is for the workbench"),
        ("#[allow(dead_code)] fn f() {}", "without a reason"),
        ("#[expect(dead_code)] fn f() {}", "without a reason"),
        ("#[cfg_attr(unix, allow(dead_code))] fn f() {}", "without a reason"),
        ("fn f() {} // FIX\u{4d}E later", "unfinished"),
        (&format!("// {}", "x".repeat(WIDTH_MAX)), "123 characters wide"),
    ] {
        assert_caught("src/cli/x.rs", text, what);
        assert_caught("src/cli/x.rs", &inside_tests(&format!("{text}\n")), &what.replace("123 ", ""));
    }
    assert_caught("src/cli/x.rs", "#![allow(dead_code)]", "without a reason");
    assert_clean("src/cli/x.rs", "#[allow(dead_code, reason = \"told by the system\")] fn f() {}");
    assert_clean("src/cli/x.rs", &format!("// {}", "ü".repeat(WIDTH_MAX - 3)));
    assert_clean("src/cli/x.rs", "#![deny(unsafe_code)]\nfn f(todo: bool, dbg: bool) -> bool { todo != dbg }");
    assert_clean("src/sys/x.rs", "fn f() { unsafe { g() } }");
}

#[test]
fn messages_files_and_docs_are_checked() {
    assert_caught("src/cli/x.rs", "fn f() { e\n.to_string()\n.contains(\"busy\"); }", "matches on the text");
    assert_clean("src/cli/x.rs", "#[test] fn f() { assert!(e.to_string().contains(\"busy\")); }");
    let check = |text: &str| check(&Source { file: "src/cli/x.rs", text, is_test: false });
    assert_eq!(check("use std::fmt;\n")[0].what, "no module doc at the top");
    assert_eq!(check("\n// Not a doc.\n//! Doc.\n")[0].what, "no module doc at the top");
    assert_eq!(check("\n//! Doc.\n"), []);
    let long = |lines: usize| format!("//! Doc.\n{}", "\n".repeat(lines - 1));
    assert_eq!(check(&long(LINES_MAX)), []);
    assert_eq!(check(&long(LINES_MAX + 1))[0].what, "651 lines, at most 650: split it");
}

#[test]
fn files_of_test_modules_are_found_from_their_declaration() {
    assert_eq!(folder_of_children("src/journal/mod.rs"), "src/journal");
    assert_eq!(folder_of_children("src/journal/sqlite.rs"), "src/journal/sqlite");
    assert_eq!(folder_of_children("src/lib.rs"), "src");
    let declared = mark_tests(&mut lex("#[cfg(test)]\nmod testing;\n#[cfg(test)] mod tests { mod a; }\nmod real;"));
    assert_eq!(declared, ["testing".to_owned()].into());
}
