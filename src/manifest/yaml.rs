//! YAML text to a tree in which every node knows where it stands.
//!
//! Built from parser events and not with a ready-made loader, because three things must be seen here: a key given
//! twice (a loader keeps one of them), how often an alias is expanded (a small file can stand for a giant one), and
//! the text of a number as it was written.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::error::Finding;

/// The largest manifest that is read, in bytes. Real ones have a few kilobytes.
pub(crate) const MAX_BYTES: usize = 1 << 20;
/// How deep mappings and lists may be nested; the schema needs eight levels.
pub(crate) const MAX_DEPTH: usize = 32;
/// How many nodes a manifest may have, those that aliases stand for included.
pub(crate) const MAX_NODES: usize = 100_000;

/// A place in the text: line and column from 1, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub line: usize,
    pub column: usize,
}

impl Place {
    /// The begin of the text.
    pub(crate) const START: Place = Place { line: 1, column: 1 };
}

impl From<&Marker> for Place {
    fn from(marker: &Marker) -> Self {
        Self { line: marker.line(), column: marker.col() + 1 }
    }
}

/// From where (inclusive) to where (exclusive) something stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub start: Place,
    pub end: Place,
}

impl From<Span> for Stretch {
    fn from(span: Span) -> Self {
        Self { start: (&span.start).into(), end: (&span.end).into() }
    }
}

/// What a plain scalar means in YAML's core schema.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar {
    Null,
    Bool(bool),
    Whole(i64),
    Float(f64),
    Text,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub stretch: Stretch,
    pub data: Data,
}

/// What a node holds.
#[derive(Clone, Debug)]
pub(crate) enum Data {
    /// A scalar as written, and what it means.
    Scalar(String, Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a mapping and its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub key_stretch: Stretch,
    pub value: Node,
}

/// A text as a tree.
pub(crate) struct Document {
    pub root: Node,
    /// Values that are not in the tree because their key is given twice.
    pub dropped: Vec<Stretch>,
}

/// Reads a text with one YAML document. Duplicate keys are findings and the first of them is kept; anything that is
/// not YAML, or beyond a limit, leaves no tree, and its finding shows no line: without a tree nobody knows what is
/// secret there.
pub(crate) fn read(text: &str, findings: &mut Vec<Finding>) -> Option<Document> {
    let mut reader = Reader {
        findings,
        anchors: BTreeMap::new(),
        stack: Vec::new(),
        root: None,
        dropped: Vec::new(),
        nodes: 0,
        documents: 0,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let stop = match event {
            Ok((event, span)) => reader.event(event, span.into()).err(),
            Err(error) => {
                let place = Place::from(error.marker());
                let what = format!("not YAML: {}{}", error.info(), quoting_hint(text, place));
                Some(Finding::at(place, "", what).boxed())
            }
        };
        if let Some(finding) = stop {
            reader.findings.push(finding.without_excerpt());
            return None;
        }
    }
    let Some(root) = reader.root else {
        reader.findings.push(Finding::at(Place::START, "", "empty: a manifest needs `fleet` and `components`"));
        return None;
    };
    Some(Document { root, dropped: reader.dropped })
}

/// What most often is behind an error on a line with a placeholder.
fn quoting_hint(text: &str, place: Place) -> &'static str {
    let near = text.lines().skip(place.line.saturating_sub(2)).take(2);
    let known = ["{version}", "{release}", "{slot}", "{instance}", "{address}", "{port}", "{port."];
    if near.into_iter().any(|line| known.iter().any(|name| line.contains(name))) {
        "; inside { } and [ ] a text with a placeholder needs quotes, as in \"/opt/{version}\""
    } else {
        ""
    }
}

/// A collection that is being read.
struct Open {
    node: Node,
    anchor: usize,
    /// The key whose value comes next, in a mapping.
    key: Option<(String, Stretch)>,
    /// Mappings given with `<<`, whose keys are added where the mapping has none of its own.
    merges: Vec<Entry>,
}

/// An error ends the reading. Boxed: it is large and rare.
type Step = Result<(), Box<Finding>>;

struct Reader<'f> {
    findings: &'f mut Vec<Finding>,
    /// Complete nodes that an alias may name, with their size in nodes.
    anchors: BTreeMap<usize, (Node, usize)>,
    stack: Vec<Open>,
    root: Option<Node>,
    dropped: Vec<Stretch>,
    nodes: usize,
    documents: usize,
}

impl Reader<'_> {
    fn event(&mut self, event: Event<'_>, stretch: Stretch) -> Step {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    return Err(
                        Finding::at(stretch.start, "", "a second document: a manifest is one YAML document").boxed()
                    );
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let scalar = meaning(&text, style, tag.as_deref(), stretch)?;
                self.count(1, stretch)?;
                let node = Node { stretch, data: Data::Scalar(text.into_owned(), scalar) };
                self.complete(node, anchor)
            }
            Event::SequenceStart(anchor, _) => self.open(Data::List(Vec::new()), anchor, stretch),
            Event::MappingStart(anchor, _) => self.open(Data::Map(Vec::new()), anchor, stretch),
            Event::SequenceEnd | Event::MappingEnd => self.close(stretch),
            Event::Alias(anchor) => {
                let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
                    return Err(Finding::at(stretch.start, "", "an alias inside of what it names").boxed());
                };
                self.count(size, stretch)?;
                self.complete(node, 0)
            }
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn count(&mut self, more: usize, stretch: Stretch) -> Step {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes <= MAX_NODES {
            return Ok(());
        }
        Err(Finding::at(stretch.start, "", format!("more than {MAX_NODES} values, aliases expanded")).boxed())
    }

    fn open(&mut self, data: Data, anchor: usize, stretch: Stretch) -> Step {
        self.count(1, stretch)?;
        if self.stack.len() == MAX_DEPTH {
            return Err(Finding::at(stretch.start, "", format!("nested more than {MAX_DEPTH} levels deep")).boxed());
        }
        self.stack.push(Open { node: Node { stretch, data }, anchor, key: None, merges: Vec::new() });
        Ok(())
    }

    fn close(&mut self, stretch: Stretch) -> Step {
        let Some(mut open) = self.stack.pop() else { return Ok(()) };
        // A block collection's end event stands at the next token, maybe lines below; its last child is the end.
        let written_end = if stretch.end > stretch.start { stretch.end } else { open.node.stretch.start };
        let last = match &open.node.data {
            Data::List(items) => items.iter().map(|item| item.stretch.end).max(),
            Data::Map(entries) => entries.iter().map(|entry| entry.value.stretch.end.max(entry.key_stretch.end)).max(),
            Data::Scalar(..) => None,
        };
        open.node.stretch.end = last.unwrap_or(written_end).max(written_end);
        if let Data::Map(entries) = &mut open.node.data {
            for merged in open.merges {
                if entries.iter().all(|entry| entry.key != merged.key) {
                    entries.push(merged);
                }
            }
        }
        self.complete(open.node, open.anchor)
    }

    /// Puts a complete node where it belongs: as a key, as a value, in a list, or as the root.
    fn complete(&mut self, node: Node, anchor: usize) -> Step {
        if anchor > 0 {
            self.anchors.insert(anchor, (node.clone(), size(&node)));
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match &mut open.node.data {
            Data::List(items) => items.push(node),
            Data::Scalar(..) => {}
            Data::Map(entries) => match open.key.take() {
                None => match node.data {
                    Data::Scalar(key, _) => open.key = Some((key, node.stretch)),
                    _ => return Err(Finding::at(node.stretch.start, "", "a mapping or list cannot be a key").boxed()),
                },
                Some((key, key_stretch)) if key == "<<" => {
                    let merges = merged(node, key_stretch)?;
                    open.merges.extend(merges);
                }
                Some((key, key_stretch)) => match entries.iter().find(|entry| entry.key == key) {
                    Some(first) => {
                        let line = first.key_stretch.start.line;
                        let what = format!("the key {key:?} is given twice; the first is on line {line}");
                        self.findings.push(Finding::over(key_stretch, "", what));
                        self.dropped.push(node.stretch);
                    }
                    None => entries.push(Entry { key, key_stretch, value: node }),
                },
            },
        }
        Ok(())
    }
}

/// The entries that `<<: *name` or `<<: [*one, *two]` brings in; of two with the same key the first counts.
fn merged(node: Node, key: Stretch) -> Result<Vec<Entry>, Box<Finding>> {
    let wrong = || Finding::over(key, "", "`<<` takes a mapping, or a list of mappings").boxed();
    match node.data {
        Data::Map(entries) => Ok(entries),
        Data::List(items) => {
            let mut all: Vec<Entry> = Vec::new();
            for item in items {
                let Data::Map(entries) = item.data else { return Err(wrong()) };
                all.extend(entries);
            }
            Ok(all)
        }
        Data::Scalar(..) => Err(wrong()),
    }
}

fn size(node: &Node) -> usize {
    match &node.data {
        Data::Scalar(..) => 1,
        Data::List(items) => 1 + items.iter().map(size).sum::<usize>(),
        Data::Map(entries) => 1 + entries.iter().map(|entry| 1 + size(&entry.value)).sum::<usize>(),
    }
}

/// YAML 1.2's core schema: `yes` and `on` are texts, as `1.2.3` is.
fn meaning(text: &str, style: ScalarStyle, tag: Option<&Tag>, stretch: Stretch) -> Result<Scalar, Box<Finding>> {
    if let Some(tag) = tag {
        return if tag.is_yaml_core_schema() && tag.suffix == "str" {
            Ok(Scalar::Text)
        } else {
            Err(Finding::at(stretch.start, "", "tags are not understood here; leave out what begins with `!`").boxed())
        };
    }
    if style != ScalarStyle::Plain {
        return Ok(Scalar::Text);
    }
    Ok(match text {
        "" | "~" | "null" | "Null" | "NULL" => Scalar::Null,
        "true" | "True" | "TRUE" => Scalar::Bool(true),
        "false" | "False" | "FALSE" => Scalar::Bool(false),
        _ => number(text).unwrap_or(Scalar::Text),
    })
}

fn number(text: &str) -> Option<Scalar> {
    let whole = match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
        (Some(hex), _) => i64::from_str_radix(hex, 16).ok(),
        (_, Some(octal)) => i64::from_str_radix(octal, 8).ok(),
        _ => text.strip_prefix('+').unwrap_or(text).parse().ok(),
    };
    if let Some(whole) = whole {
        return Some(Scalar::Whole(whole));
    }
    // Rust reads `inf` and `nan` as numbers; YAML does not.
    let begins = text.bytes().next().is_some_and(|b| b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'+'));
    let float: f64 = if begins && text.bytes().any(|b| b.is_ascii_digit()) { text.parse().ok()? } else { return None };
    Some(Scalar::Float(float))
}
