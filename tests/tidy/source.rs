//! As much of Rust's grammar as the rules need: words, which of them are test code, and paths.

use std::collections::BTreeSet;

#[derive(Clone, Debug)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
    pub(super) is_test: bool,
}

impl Token {
    fn is_ident(&self) -> bool {
        self.text.starts_with(|first: char| first.is_alphabetic() || first == '_')
    }
}

/// Words, `::` and single characters. No comments, no content of strings and characters.
pub(super) fn lex(source: &str) -> Vec<Token> {
    let chars: Vec<char> = source.chars().collect();
    let at = |place: usize| chars.get(place).copied().unwrap_or('\0');
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let (mut tokens, mut place, mut line) = (Vec::new(), 0, 1);
    while place < chars.len() {
        let start = place;
        let begun = line;
        let mut text = None;
        match at(place) {
            '/' if at(place + 1) == '/' => {
                while place < chars.len() && at(place) != '\n' {
                    place += 1;
                }
            }
            '/' if at(place + 1) == '*' => {
                let mut depth = 0;
                loop {
                    match (at(place), at(place + 1)) {
                        ('/', '*') => (depth, place) = (depth + 1, place + 2),
                        ('*', '/') => (depth, place) = (depth - 1, place + 2),
                        _ => place += 1,
                    }
                    if depth == 0 || place >= chars.len() {
                        break;
                    }
                }
            }
            '"' => place = end_of_string(&chars, place),
            '\'' if at(place + 1) == '\\' => {
                place += 3;
                while place < chars.len() && at(place) != '\'' {
                    place += 1;
                }
                place += 1;
            }
            '\'' if at(place + 2) == '\'' => place += 3,
            c if is_word(c) => {
                while is_word(at(place)) {
                    place += 1;
                }
                let word: String = chars[start..place].iter().collect();
                let is_prefix = matches!(word.as_str(), "r" | "b" | "br" | "c" | "cr");
                let hashes = (place..).take_while(|&place| at(place) == '#').count();
                if is_prefix && word.contains('r') && at(place + hashes) == '"' {
                    place = end_of_raw_string(&chars, place + hashes, hashes);
                } else if is_prefix && at(place) == '"' {
                    place = end_of_string(&chars, place);
                } else if word == "r" && hashes == 1 {
                    // A raw identifier: the word follows.
                    place += 1;
                } else {
                    text = Some(word);
                }
            }
            ':' if at(place + 1) == ':' => {
                place += 2;
                text = Some("::".to_owned());
            }
            c => {
                place += 1;
                text = (!c.is_whitespace()).then(|| c.to_string());
            }
        }
        line += chars[start..place.min(chars.len())].iter().filter(|&&c| c == '\n').count();
        tokens.extend(text.map(|text| Token { text, line: begun, is_test: false }));
    }
    tokens
}

fn end_of_string(chars: &[char], open: usize) -> usize {
    let mut place = open + 1;
    while place < chars.len() && chars[place] != '"' {
        place += if chars[place] == '\\' { 2 } else { 1 };
    }
    place + 1
}

fn end_of_raw_string(chars: &[char], open: usize, hashes: usize) -> usize {
    let closes = |place: usize| {
        chars[place] == '"' && chars[place + 1..].iter().take_while(|&&c| c == '#').take(hashes).count() == hashes
    };
    (open + 1..chars.len()).find(|&place| closes(place)).map_or(chars.len(), |place| place + 1 + hashes)
}

/// Where the bracket that opens at `open` closes.
pub(super) fn end_of_group(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0;
    for (place, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return place;
        }
    }
    tokens.len()
}

/// Marks what stands under `#[cfg(test)]` or `#[test]`, and returns the names of modules declared so without a body.
pub(super) fn mark_tests(tokens: &mut [Token]) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    let mut place = 0;
    while place + 1 < tokens.len() {
        if tokens[place].text != "#" || tokens[place + 1].text != "[" {
            place += 1;
            continue;
        }
        let end = end_of_group(tokens, place + 1).min(tokens.len() - 1);
        let words: Vec<&str> = tokens[place + 2..end].iter().map(|token| token.text.as_str()).collect();
        let is_test = matches!(words.as_slice(), ["test"] | ["cfg", "(", "test", ")"] | ["tokio", "::", "test", ..])
            || words.starts_with(&["cfg", "(", "all", "(", "test"]);
        if !is_test {
            place = end + 1;
            continue;
        }
        // To the end of the item: its block, or its semicolon. Brackets in between are skipped whole.
        let mut last = end + 1;
        while last < tokens.len() && tokens[last].text != ";" {
            match tokens[last].text.as_str() {
                "{" => {
                    last = end_of_group(tokens, last);
                    break;
                }
                "(" | "[" => last = end_of_group(tokens, last) + 1,
                "mod" if tokens.get(last + 2).is_some_and(|token| token.text == ";") => {
                    modules.insert(tokens[last + 1].text.clone());
                    last += 2;
                }
                _ => last += 1,
            }
        }
        let last = last.min(tokens.len() - 1);
        tokens[place..=last].iter_mut().for_each(|token| token.is_test = true);
        place = last + 1;
    }
    modules
}

// === paths ===

/// A path as it is written, with the modules around it within the file.
pub(super) struct Named {
    pub(super) path: Vec<String>,
    pub(super) line: usize,
    pub(super) inside: usize,
}

/// Every path outside test code, groups taken apart: `use a::{b, c::d}` is `a::b` and `a::c::d`.
pub(super) fn paths(tokens: &[Token]) -> Vec<Named> {
    let mut found = Vec::new();
    let (mut depth, mut modules): (usize, Vec<usize>) = (0, Vec::new());
    for (place, token) in tokens.iter().enumerate() {
        match token.text.as_str() {
            "{" => {
                depth += 1;
                if place >= 2 && tokens[place - 2].text == "mod" {
                    modules.push(depth);
                }
            }
            "}" => {
                modules.retain(|&module| module != depth);
                depth = depth.saturating_sub(1);
            }
            _ => {}
        }
        let before = |back: usize| place.checked_sub(back).map_or("", |place| tokens[place].text.as_str());
        let goes_on = before(1) == "." && before(2) != "."
            || before(1) == "::" && tokens.get(place.wrapping_sub(2)).is_some_and(ends_a_segment)
            || before(1) == "'";
        let in_group = matches!(before(1), "{" | ",") && is_in_path_group(tokens, place);
        if !token.is_test && token.is_ident() && !goes_on && !in_group {
            let mut whole = Vec::new();
            tree(tokens, place, Vec::new(), &mut whole);
            found.extend(whole.into_iter().map(|(path, line)| Named { path, line, inside: modules.len() }));
        }
    }
    found
}

fn ends_a_segment(token: &Token) -> bool {
    token.is_ident() && !matches!(token.text.as_str(), "use" | "in" | "as" | "return") || token.text == ">"
}

/// Whether the braces around `place` follow a `::`, as those of a `use` do.
fn is_in_path_group(tokens: &[Token], place: usize) -> bool {
    let mut depth = 0;
    for open in (0..place).rev() {
        match tokens[open].text.as_str() {
            "}" => depth += 1,
            "{" if depth > 0 => depth -= 1,
            "{" => return open > 0 && tokens[open - 1].text == "::",
            ";" => return false,
            _ => {}
        }
    }
    false
}

/// Reads the path that begins at `place`; returns where it ends.
fn tree(tokens: &[Token], mut place: usize, mut prefix: Vec<String>, found: &mut Vec<(Vec<String>, usize)>) -> usize {
    let line = tokens[place].line;
    while let Some(token) = tokens.get(place) {
        match token.text.as_str() {
            "{" => {
                let end = end_of_group(tokens, place);
                place += 1;
                while place < end {
                    place = match tokens[place].text.as_str() {
                        "," | "::" => place + 1,
                        _ => tree(tokens, place, prefix.clone(), found).max(place + 1),
                    };
                }
                return end + 1;
            }
            "self" if !prefix.is_empty() => place += 1,
            _ if token.is_ident() || token.text == "*" => {
                prefix.push(token.text.clone());
                place += 1;
            }
            _ => break,
        }
        match tokens.get(place).map(|token| token.text.as_str()) {
            Some("::") => place += 1,
            Some("as") => {
                place += 2;
                break;
            }
            _ => break,
        }
    }
    found.push((prefix, line));
    place
}
