//! Which paths a source file names.

use std::collections::BTreeSet;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(String),
    /// `::`
    Step,
    Sign(char),
}

/// Every path of more than one part that a file names, absolute: `super`, `self` and braces are resolved. `module`: the
/// file's own.
pub(super) fn paths(module: &[String], source: &str) -> BTreeSet<Vec<String>> {
    let tokens = tokens(source);
    let mut found = BTreeSet::new();
    // Modules that are open here, with the brace that opened each.
    let mut module = module.to_vec();
    let mut opened: Vec<usize> = Vec::new();
    let (mut depth, mut at) = (0, 0);
    while at < tokens.len() {
        match &tokens[at] {
            Token::Sign('{') => depth += 1,
            Token::Sign('}') => {
                depth -= 1;
                if opened.last() == Some(&depth) {
                    opened.pop();
                    module.pop();
                }
            }
            Token::Word(word) if word == "mod" && tokens.get(at + 2) == Some(&Token::Sign('{')) => {
                if let Token::Word(name) = &tokens[at + 1] {
                    opened.push(depth);
                    module.push(name.clone());
                }
            }
            Token::Word(_) => {
                let mut written = Vec::new();
                at = tree(&tokens, at, &[], &mut written);
                found.extend(written.into_iter().filter(|path| path.len() > 1).map(|path| absolute(&module, path)));
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Reads one path, or the paths that its braces hold; answers with where it ends.
fn tree(tokens: &[Token], mut at: usize, before: &[String], written: &mut Vec<Vec<String>>) -> usize {
    let mut path = before.to_vec();
    while let Some(Token::Word(word)) = tokens.get(at) {
        path.push(word.clone());
        at += 1;
        if tokens.get(at) == Some(&Token::Word("as".to_owned())) {
            // The name it goes by here.
            at += 2;
        }
        if tokens.get(at) != Some(&Token::Step) {
            break;
        }
        at += 1;
        if tokens.get(at) == Some(&Token::Sign('{')) {
            at += 1;
            while at < tokens.len() && tokens[at] != Token::Sign('}') {
                at = match tokens[at] {
                    Token::Word(_) => tree(tokens, at, &path, written),
                    _ => at + 1,
                };
            }
            return at + 1;
        }
    }
    written.push(path);
    at
}

fn absolute(module: &[String], path: Vec<String>) -> Vec<String> {
    let ups = path.iter().take_while(|part| *part == "super" || *part == "self").count();
    if ups == 0 {
        return path;
    }
    let up = path[..ups].iter().filter(|part| *part == "super").count();
    let mut absolute = module[..module.len().saturating_sub(up)].to_vec();
    absolute.extend_from_slice(&path[ups..]);
    absolute
}

/// Words and signs, without comments and texts.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r\"")
            || rest.starts_with("r#")
            || rest.starts_with("br\"")
            || rest.starts_with("br#")
        {
            raw_text(rest)
        } else if next == '"' {
            text(rest)
        } else if next == '\'' {
            letter(rest)
        } else if word > 0 {
            tokens.push(Token::Word(rest[..word].to_owned()));
            word
        } else if rest.starts_with("::") {
            tokens.push(Token::Step);
            2
        } else {
            if !next.is_whitespace() {
                tokens.push(Token::Sign(next));
            }
            next.len_utf8()
        };
        rest = &rest[taken..];
    }
    tokens
}

fn text(rest: &str) -> usize {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    rest.len()
}

fn raw_text(rest: &str) -> usize {
    let start = rest.find('r').map_or(0, |at| at + 1);
    let hashes = rest[start..].find(|c| c != '#').unwrap_or(0);
    if !rest[start + hashes..].starts_with('"') {
        // A raw name: `r#type`.
        return start + hashes;
    }
    let end = format!("\"{}", "#".repeat(hashes));
    let body = start + hashes + 1;
    rest[body..].find(&end).map_or(rest.len(), |at| body + at + end.len())
}

/// A letter in quotes, or the quote of a lifetime.
fn letter(rest: &str) -> usize {
    let mut chars = rest.char_indices().skip(1);
    match (chars.next(), chars.next()) {
        (Some((_, '\\')), _) => rest[3..].find('\'').map_or(rest.len(), |at| at + 4),
        (_, Some((at, '\''))) => at + 1,
        _ => 1,
    }
}

#[test]
fn paths_are_read_through_braces_comments_and_texts() {
    let source = r##"
        // crate::no::one
        use crate::{a::{self, A}, b as c};
        fn f<'x>() { let text = "crate::no::two"; let c = '"'; super::g::<'x>(crate::d::D); r#"crate::no::three"# }
        mod tests { use super::*; mod deep { use super::super::h::H; } }
        impl self::k::K {}
    "##;
    let module = ["crate", "m", "n"].map(str::to_owned);
    let found: Vec<String> = paths(&module, source).into_iter().map(|path| path.join("::")).collect();
    assert_eq!(
        found,
        [
            "crate::a::A",
            "crate::a::self",
            "crate::b",
            "crate::d::D",
            "crate::m::g",
            "crate::m::n::h::H",
            "crate::m::n::k::K"
        ]
    );
}
