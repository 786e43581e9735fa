//! Distinguishes Rust code from comments, literals and tests. Not a parser: it only has to be right for
//! files that compile and are formatted by rustfmt.

use std::fs;
use std::path::{Path, PathBuf};

use crate::workspace::Workspace;
use crate::{Failure, failed};

/// Returns the Rust files in a folder and below, with their text. Both paths are relative to the root.
pub(super) fn sources(
    workspace: &Workspace,
    folder: &Path,
) -> Result<Vec<(PathBuf, String)>, Failure> {
    let is_rust = |file: &PathBuf| file.extension().is_some_and(|extension| extension == "rs");
    (workspace.files()?.into_iter())
        .filter(|file| file.starts_with(folder) && is_rust(file))
        .map(|file| match fs::read_to_string(workspace.root().join(&file)) {
            Ok(text) => Ok((file, text)),
            Err(error) => Err(failed(format!("{}: {error}", file.display()))),
        })
        .collect()
}

/// Returns the code of a crate that goes into the product, without comments, literals and tests. Line
/// numbers are preserved.
pub(super) fn product(sources: &[(PathBuf, String)]) -> Vec<(PathBuf, String)> {
    let mut product = Vec::new();
    let mut test_modules = Vec::new();
    for (file, text) in sources {
        let code = without_text(text);
        let (code, modules) = without_tests(&code);
        let folder = module_folder(file);
        test_modules.extend(modules.iter().map(|module| folder.join(module)));
        product.push((file.clone(), code));
    }
    product.retain(|(file, _)| {
        let module = file.with_extension("");
        !test_modules.iter().any(|tests| module.starts_with(tests))
    });
    product
}

/// Whether the text contains the identifier as a whole word.
pub(super) fn names(text: &str, identifier: &str) -> bool {
    places(text, identifier).next().is_some()
}

/// Returns the line number and the rest of the text after each occurrence as whole words: `std::fs` is
/// not in `std::fsync`.
pub(super) fn places<'a>(text: &'a str, words: &'a str) -> impl Iterator<Item = (usize, &'a str)> {
    text.match_indices(words).filter_map(move |(at, _)| {
        let (before, from) = text.split_at_checked(at)?;
        let after = from.strip_prefix(words)?;
        let is_whole = !before.ends_with(is_identifier) && !after.starts_with(is_identifier);
        is_whole.then_some((before.matches('\n').count() + 1, after))
    })
}

fn is_identifier(character: char) -> bool {
    character.is_alphanumeric() || character == '_'
}

/// Returns the folder of a module's submodules: next to `lib.rs`, or `framing/` for `framing.rs`.
fn module_folder(file: &Path) -> PathBuf {
    match file.file_stem().and_then(|stem| stem.to_str()) {
        Some("lib" | "main" | "mod") => file.parent().unwrap_or(file).to_owned(),
        _ => file.with_extension(""),
    }
}

/// Removes comments and the contents of literals; lines are preserved.
fn without_text(source: &str) -> String {
    let mut code = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(next) = rest.chars().next() {
        let in_word = code.ends_with(is_identifier);
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if next == '"' {
            quoted(rest, '"')
        } else if next == '\'' && is_character(rest) {
            quoted(rest, '\'')
        } else if !in_word && let Some(length) = raw_string(rest) {
            length
        } else {
            code.push(next);
            rest = rest.get(next.len_utf8()..).unwrap_or_default();
            continue;
        };
        let (text, behind) = rest.split_at_checked(skipped).unwrap_or((rest, ""));
        code.push(' ');
        code.extend(text.chars().filter(|character| *character == '\n'));
        rest = behind;
    }
    code
}

/// The length of a block comment, including nested ones.
fn block_comment(source: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(rest) = source.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest.starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// The length of a literal with escapes, including both quotes.
fn quoted(source: &str, quote: char) -> usize {
    let mut is_escaped = false;
    for (at, character) in source.char_indices().skip(1) {
        match character {
            _ if is_escaped => is_escaped = false,
            '\\' => is_escaped = true,
            _ if character == quote => return at + 1,
            _ => {}
        }
    }
    source.len()
}

/// Whether this is a character such as `'a'` or `'\n'`, and not a lifetime such as `'a`.
fn is_character(source: &str) -> bool {
    let mut characters = source.chars().skip(1);
    matches!((characters.next(), characters.next()), (Some('\\'), _) | (_, Some('\'')))
}

/// The length of a raw string such as `r"…"` or `br#"…"#`, if one starts here.
fn raw_string(source: &str) -> Option<usize> {
    let behind_r = source.strip_prefix(['b', 'c']).unwrap_or(source).strip_prefix('r')?;
    let hashes = behind_r.chars().take_while(|character| *character == '#').count();
    let inside = behind_r.get(hashes..)?.strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let opening = source.len() - inside.len();
    Some(inside.find(&end).map_or(source.len(), |at| opening + at + end.len()))
}

/// Blanks items that only exist in test builds. Also returns the names of test modules in other files.
fn without_tests(code: &str) -> (String, Vec<&str>) {
    let mut product = String::with_capacity(code.len());
    let mut modules = Vec::new();
    let mut rest = code;
    while let Some(at) = TEST_ATTRIBUTES.iter().filter_map(|it| rest.find(it)).min() {
        let (before, item) = rest.split_at_checked(at).unwrap_or((rest, ""));
        let (item, behind) = item.split_at_checked(item_length(item)).unwrap_or((item, ""));
        product.push_str(before);
        product.extend(item.chars().filter(|character| *character == '\n'));
        modules.extend(module_elsewhere(item));
        rest = behind;
    }
    product.push_str(rest);
    (product, modules)
}

const TEST_ATTRIBUTES: &[&str] = &["#[cfg(test)]", "#[cfg(all(test,", "#![cfg(test)]"];

/// The length up to the end of the block or statement that follows the attributes.
fn item_length(item: &str) -> usize {
    if item.starts_with("#!") {
        return item.len(); // the file itself
    }
    let mut depth = 0_usize;
    for (at, character) in item.char_indices() {
        match character {
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 && matches!(character, '}' | ';' | ',') {
            return at + 1;
        }
    }
    item.len()
}

/// Matches `mod tests;` with any attributes and visibility.
fn module_elsewhere(item: &str) -> Option<&str> {
    let declaration = item.strip_suffix(';')?;
    let (before, name) = declaration.trim_end().rsplit_once(' ')?;
    before.ends_with("mod").then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_and_literals_are_removed() {
        for (source, code) in [
            ("a // b\nc", "a  \nc"),
            ("a /* b /* c */ d\n */ e", "a  \n e"),
            (r#"f("std::fs \" // \n") + 1"#, "f( ) + 1"),
            ("f(r#\"a \" b\"#, br\"\\\", 'x')", "f( ,  ,  )"),
            (
                "fn f<'a>(c: &'a str) { c == '\\'' || c == '\"' }",
                "fn f<'a>(c: &'a str) { c ==   || c ==   }",
            ),
            ("let r#fn = for_r\"x\";", "let r#fn = for_r ;"),
            ("//! docs\n/// more\nfn f() {}", " \n \nfn f() {}"),
            ("\"never closed", " "),
            ("/* never closed", " "),
        ] {
            assert_eq!(without_text(source), code, "{source}");
        }
    }

    #[test]
    fn tests_are_removed() {
        for (code, product, modules) in [
            ("a\n#[cfg(test)]\nmod tests {\n { b }\n}\nc", "a\n\n\n\n\nc", &[][..]),
            ("#[cfg(test)]\nmod tests;\na", "\n\na", &["tests"]),
            (
                "#[cfg(test)]\n#[rustfmt::skip]\npub(crate) mod virtual_time;a",
                "\n\na",
                &["virtual_time"],
            ),
            ("#[cfg(test)]\nfn f() -> [u8; 3] { a; b }\nc", "\n\nc", &[]),
            (
                "struct A {\n#[cfg(test)]\nseen: Vec<(u8, u8)>,\nb: u8 }",
                "struct A {\n\n\nb: u8 }",
                &[],
            ),
            ("#[cfg(all(test, unix))]\nmod tests { a }\nb", "\n\nb", &[]),
            ("#[cfg(not(test))]\nfn f() {}", "#[cfg(not(test))]\nfn f() {}", &[]),
            ("#![cfg(test)]\nuse a;", "\n", &[]),
        ] {
            assert_eq!(without_tests(code), (product.to_owned(), modules.to_vec()), "{code}");
        }
    }

    #[test]
    fn test_modules_in_separate_files_are_removed() {
        let sources = [
            ("p/src/lib.rs", "mod a;\n#[cfg(test)]\nmod sim;"),
            ("p/src/a.rs", "#[cfg(test)]\nmod tests;\nfn similar() {}"),
            ("p/src/a/tests.rs", "fn only_in_tests() {}"),
            ("p/src/sim/mod.rs", "fn only_in_tests() {}"),
            ("p/src/similar.rs", "fn f() {}"),
        ];
        let sources = sources.map(|(file, text)| (PathBuf::from(file), text.to_owned()));
        let files: Vec<_> = product(&sources).into_iter().map(|(file, _)| file).collect();
        assert_eq!(files, ["p/src/lib.rs", "p/src/a.rs", "p/src/similar.rs"].map(PathBuf::from));
    }

    #[test]
    fn only_whole_words_are_found() {
        assert!(names("use bytes::Buf;", "bytes"));
        assert!(!names("kilobytes my_bytes bytes_left", "bytes"));
        let lines: Vec<_> =
            places("std::fs\nstd::fsync\n(std::fs)", "std::fs").map(|it| it.0).collect();
        assert_eq!(lines, [1, 3]);
    }
}
