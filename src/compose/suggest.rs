//! `x-baton` as comments in a Compose file, for people to accept by taking the `#` away.

use std::collections::BTreeMap;

/// What is suggested for one file.
#[derive(Clone, Debug, Default)]
pub struct Suggestion {
    /// By service: lines of YAML under `x-baton`, without indentation.
    pub services: BTreeMap<String, Vec<String>>,
    /// The same for the top of the file.
    pub top: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotated {
    /// The file's new text.
    pub text: String,
    /// Services that got a block.
    pub written: Vec<String>,
    /// Services of the file that have an `x-baton` already, as comment or not.
    pub had: Vec<String>,
    /// Services that are written on one line: nothing can be put below them.
    pub inline: Vec<String>,
}

/// Puts the suggestions below the services that they are for. Every other line stays as it is, byte for byte; a file
/// that was annotated before stays whole.
pub fn annotate(text: &str, suggestion: &Suggestion) -> Annotated {
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    let mut annotated = Annotated::default();
    let mut blocks: Vec<(usize, String)> = Vec::new();
    let Some(begin) = lines.iter().position(|line| key_of(line) == Some((0, "services"))) else {
        return Annotated { text: text.to_owned(), ..annotated };
    };
    let end = (begin + 1..lines.len()).find(|at| indent(lines[*at]) == Some(0)).unwrap_or(lines.len());
    let level = (begin + 1..end).find_map(|at| indent(lines[at]));
    for at in begin + 1..end {
        let Some((depth, name)) = key_of(lines[at]).filter(|(depth, _)| Some(*depth) == level) else { continue };
        let Some(wanted) = suggestion.services.get(name) else { continue };
        let last = (at + 1..end).find(|next| indent(lines[*next]).is_some_and(|next| next <= depth)).unwrap_or(end);
        let body = &lines[at + 1..last];
        if body.iter().any(|line| is_ours(line)) || lines[at].contains("x-baton") {
            annotated.had.push(name.to_owned());
            continue;
        }
        let Some(inner) = body.iter().find_map(|line| indent(line)) else {
            annotated.inline.push(name.to_owned());
            continue;
        };
        // Above the empty lines and comments that belong to what comes next.
        let own = body.iter().rposition(|line| indent(line).is_some()).map_or(at + 1, |own| at + 2 + own);
        blocks.push((own, block(inner, wanted)));
        annotated.written.push(name.to_owned());
    }
    let at_top = lines.iter().any(|line| line.starts_with("x-baton") || line.starts_with("# x-baton"));
    if !suggestion.top.is_empty() && !at_top {
        blocks.push((begin, block(0, &suggestion.top)));
    }
    blocks.sort_by_key(|(at, _)| *at);
    let mut blocks = blocks.into_iter().peekable();
    for at in 0..=lines.len() {
        while let Some((_, block)) = blocks.next_if(|(before, _)| *before == at) {
            if !annotated.text.is_empty() && !annotated.text.ends_with('\n') {
                annotated.text.push('\n');
            }
            annotated.text.push_str(&block);
        }
        annotated.text.push_str(lines.get(at).unwrap_or(&""));
    }
    annotated
}

fn block(indent: usize, lines: &[String]) -> String {
    let space = " ".repeat(indent);
    let mut text = format!("{space}# x-baton:\n");
    for line in lines {
        text.push_str(&format!("{space}#   {line}\n"));
    }
    text
}

/// How far a line is indented; `None` for one that says nothing to YAML.
fn indent(line: &str) -> Option<usize> {
    let text = line.trim_start_matches(' ');
    let says = !text.trim().is_empty() && !text.starts_with('#');
    says.then(|| line.len() - text.len())
}

/// A plain or quoted key with nothing behind it but an anchor, a tag or a comment.
fn key_of(line: &str) -> Option<(usize, &str)> {
    let depth = indent(line)?;
    let (key, rest) = line.trim().split_once(':')?;
    let rest = rest.trim();
    let plain = rest.is_empty() || rest.starts_with(['#', '&', '!', '{']);
    plain.then(|| (depth, key.trim().trim_matches(['"', '\''])))
}

fn is_ours(line: &str) -> bool {
    line.trim_start_matches([' ', '#']).trim_start().starts_with("x-baton")
}

/// The variable that the images of a file are named with (`image: shop:${TAG:-1}`), where it is one for all that have
/// any.
pub fn version_variable(text: &str) -> Option<String> {
    let mut names: Vec<&str> = Vec::new();
    for line in text.lines().filter(|line| line.trim_start().starts_with("image:")) {
        let tag = line.rsplit(':').next().unwrap_or_default();
        let from = line.rfind('$').map(|at| &line[at + 1..]).unwrap_or_default().trim_start_matches('{');
        let name = from.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
        if !name.is_empty() && (tag.contains('$') || line.contains(":${") || line.contains(":$")) {
            names.push(name);
        }
    }
    let first = *names.first()?;
    names.iter().all(|name| *name == first).then(|| first.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# ours\nservices:\n  db:\n    image: pg:16\n    volumes:\n      - data:/data\n\n  # the \
                        front\n  api: # two\n    image: shop:${TAG:-1}\n\n  one: { image: x }\n  old:\n    image: \
                        shop:${TAG:-1}\n    x-baton: { role: worker }\nvolumes:\n  data: {}\n";

    fn suggestion() -> Suggestion {
        let lines = |text: &str| vec![text.to_owned()];
        let services = ["api", "db", "old", "one"].map(|name| (name.to_owned(), lines("role: api")));
        Suggestion { services: services.into(), top: lines("version: { variable: TAG }") }
    }

    #[test]
    fn a_block_comes_below_its_service_and_every_other_line_stays() {
        let annotated = annotate(FILE, &suggestion());
        assert_eq!(annotated.written, ["db", "api"]);
        assert_eq!((annotated.had, annotated.inline), (vec!["old".to_owned()], vec!["one".to_owned()]));
        let expected = FILE
            .replacen("services:\n", "# x-baton:\n#   version: { variable: TAG }\nservices:\n", 1)
            .replacen("      - data:/data\n", "      - data:/data\n    # x-baton:\n    #   role: api\n", 1)
            .replacen("image: shop:${TAG:-1}\n", "image: shop:${TAG:-1}\n    # x-baton:\n    #   role: api\n", 1);
        assert_eq!(annotated.text, expected);
        let again = annotate(&annotated.text, &suggestion());
        assert_eq!((again.text, again.written.is_empty()), (annotated.text, true), "twice is once");
    }

    #[test]
    fn a_file_without_services_or_a_last_line_end_is_no_trouble() {
        assert_eq!(annotate("name: x\n", &suggestion()).text, "name: x\n");
        let annotated = annotate("services:\n  api:\n    image: x", &suggestion());
        assert!(annotated.text.ends_with("    image: x\n    # x-baton:\n    #   role: api\n"), "{}", annotated.text);
    }

    #[test]
    fn one_variable_for_all_is_the_version() {
        assert_eq!(version_variable(FILE).as_deref(), Some("TAG"));
        assert_eq!(version_variable("image: a:$V\nimage: b:${V}\n").as_deref(), Some("V"));
        assert_eq!(version_variable("image: a:${V}\nimage: b:${W}\n"), None);
        assert_eq!(version_variable("image: a:1\n"), None);
    }
}
