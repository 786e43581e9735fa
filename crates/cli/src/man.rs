//! Generates manual pages from the definition of the command line.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use clap::{Arg, Command};

use crate::report::Failure;

/// The section of the manual for user commands.
const SECTION: u8 = 1;

/// Writes the page of `command` and one for each of its subcommands into `directory`, and returns their names.
pub(crate) fn write(mut command: Command, directory: &Path) -> Result<Vec<String>, Failure> {
    command.build();
    let root = &command;
    let all: Vec<_> = std::iter::once((root, String::new()))
        .chain(subcommands(root).map(|it| (it, format!("-{}", it.get_name()))))
        .collect();
    let mut names = Vec::new();
    for (it, suffix) in &all {
        let name = format!("{}{suffix}", root.get_name());
        let others = all.iter().map(|(_, suffix)| format!("{}{suffix}", root.get_name()));
        let others: Vec<_> = others.filter(|other| *other != name).collect();
        let path = directory.join(format!("{name}.{SECTION}"));
        fs::write(&path, page(it, &name, &others))
            .map_err(|error| Failure::other(format!("cannot write {}: {error}", path.display())))?;
        names.push(format!("{name}.{SECTION}"));
    }
    Ok(names)
}

/// Returns the page of a command, in roff with the macros of `man`.
fn page(command: &Command, name: &str, others: &[String]) -> String {
    let mut page = String::new();
    let version = command.get_version().unwrap_or_default();
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let title = name.to_uppercase();
    let _ = writeln!(page, ".TH {title} {SECTION} \"\" \"tieline {version}\" \"tieline\"");
    let _ = writeln!(page, ".SH NAME\n{} \\- {}", escaped(name), escaped(&about));
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim().to_owned();
    let _ = writeln!(page, ".SH SYNOPSIS\n.nf\n{}\n.fi\n.SH DESCRIPTION", lines(&usage));
    let long = command.get_long_about().map_or(about, ToString::to_string);
    paragraphs(&mut page, &long, ".PP");
    if subcommands(command).next().is_some() {
        page.push_str(".SH COMMANDS\n");
    }
    for it in subcommands(command) {
        let about = it.get_about().map(ToString::to_string).unwrap_or_default();
        let _ = writeln!(page, ".TP\n\\fB{}\\fR\n{}", escaped(it.get_name()), escaped(&about));
    }
    options(&mut page, command);
    if let Some(after) = command.get_after_help() {
        after_options(&mut page, &after.to_string());
    }
    if !others.is_empty() {
        let others = others.iter().map(|it| format!("\\fB{}\\fR({SECTION})", escaped(it)));
        let others = others.collect::<Vec<_>>().join(",\n");
        let _ = writeln!(page, ".SH SEE ALSO\n{others}");
    }
    page
}

/// Returns the subcommands that have a page.
fn subcommands(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|it| it.get_name() != "help" && !it.is_hide_set())
}

/// Adds the arguments and options, below their headings, in the order of the help text.
fn options(page: &mut String, command: &Command) {
    let shown: Vec<_> = command.get_arguments().filter(|it| !it.is_hide_set()).collect();
    let heading_of = |it: &Arg| match (it.is_positional(), it.get_help_heading()) {
        (_, Some(heading)) => heading.to_owned(),
        (true, None) => "Arguments".to_owned(),
        (false, None) => "Options".to_owned(),
    };
    let mut headings: Vec<String> = Vec::new();
    for it in &shown {
        let heading = heading_of(it);
        if !headings.contains(&heading) {
            headings.push(heading);
        }
    }
    // Positional arguments come first in the help text.
    headings.sort_by_key(|heading| heading != "Arguments");
    for heading in headings {
        let _ = writeln!(page, ".SH {}", escaped(&heading.to_uppercase()));
        for it in shown.iter().filter(|it| heading_of(it) == heading) {
            let _ = writeln!(page, ".TP\n{}", form(it));
            let help = it.get_long_help().or(it.get_help()).map(ToString::to_string);
            let default = it.get_default_values();
            let default =
                default.iter().map(|it| it.to_string_lossy()).collect::<Vec<_>>().join(" ");
            let takes_value = it.get_action().takes_values();
            let mut help = help.unwrap_or_default();
            if takes_value && !default.is_empty() && !it.is_hide_default_value_set() {
                help += &format!("\n\nDefault: {default}");
            }
            paragraphs(page, &help, ".IP");
        }
    }
}

/// Formats an argument for a page, like `-v, --verbose` or `--listen ENDPOINT`.
fn form(argument: &Arg) -> String {
    let bold = |text: String| format!("\\fB{}\\fR", escaped(&text));
    let short = argument.get_short().map(|it| bold(format!("-{it}")));
    let long = argument.get_long().map(|it| bold(format!("--{it}")));
    let mut text = short.into_iter().chain(long).collect::<Vec<_>>().join(", ");
    if argument.get_action().takes_values() {
        let names = argument.get_value_names().unwrap_or_default();
        let values = names.iter().map(|it| format!("\\fI{}\\fR", escaped(it)));
        let values = values.collect::<Vec<_>>().join(" ");
        // An optional value is written after an equals sign.
        let is_optional = argument.get_num_args().is_some_and(|it| it.min_values() == 0);
        text += &match (argument.is_positional(), is_optional) {
            (true, _) => values,
            (false, true) => format!("[={values}]"),
            (false, false) => format!(" {values}"),
        };
    }
    text
}

/// Adds the examples and other sections. A line such as `Examples:` or `Exit status: 0 success` begins a
/// section.
fn after_options(page: &mut String, text: &str) {
    let mut is_open = false;
    for line in text.lines() {
        let heading = line.split_once(':').filter(|(it, _)| {
            it.starts_with(char::is_alphabetic) && it.split(' ').count() <= 2 && !it.contains('`')
        });
        if heading.is_some() || !is_open {
            let end = if is_open { ".fi\n" } else { "" };
            let title = heading.map_or("NOTES".to_owned(), |(it, _)| it.to_uppercase());
            let _ = writeln!(page, "{end}.SH {}\n.nf", escaped(&title));
            is_open = true;
        }
        let rest = heading.map_or(line, |(_, rest)| rest.trim_start());
        if heading.is_none() || !rest.is_empty() {
            let _ = writeln!(page, "{}", escaped(rest));
        }
    }
    if is_open {
        page.push_str(".fi\n");
    }
}

/// Adds paragraphs, which are separated by empty lines; `between` separates them in roff.
fn paragraphs(page: &mut String, text: &str, between: &str) {
    for (at, paragraph) in text.split("\n\n").enumerate() {
        if at > 0 {
            let _ = writeln!(page, "{between}");
        }
        let _ = writeln!(page, "{}", lines(paragraph.trim_end()));
    }
}

fn lines(text: &str) -> String {
    text.lines().map(escaped).collect::<Vec<_>>().join("\n")
}

/// Escapes a line: roff would change a hyphen to a dash, and take a dot at the start for a request.
fn escaped(line: &str) -> String {
    let text = line.replace('\\', "\\e").replace('-', "\\-");
    match text.starts_with(['.', '\'']) {
        true => format!("\\&{text}"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_for_roff() {
        for (line, roff) in [
            ("--listen", "\\-\\-listen"),
            (".TH x", "\\&.TH x"),
            ("'a' b", "\\&'a' b"),
            ("C:\\a", "C:\\ea"),
            ("a.b", "a.b"),
        ] {
            assert_eq!(escaped(line), roff);
        }
    }

    #[test]
    fn options_show_their_values() {
        for (argument, shown) in [
            (
                Arg::new("a").short('a').long("all").action(clap::ArgAction::SetTrue),
                "\\fB\\-a\\fR, \\fB\\-\\-all\\fR",
            ),
            (Arg::new("b").long("be").value_name("B"), "\\fB\\-\\-be\\fR \\fIB\\fR"),
            (
                Arg::new("c").long("c").value_name("C").num_args(0..=1),
                "\\fB\\-\\-c\\fR[=\\fIC\\fR]",
            ),
            (Arg::new("d").value_name("D"), "\\fID\\fR"),
        ] {
            let mut command = Command::new("x").arg(argument);
            command.build();
            assert_eq!(form(command.get_arguments().next().unwrap()), shown);
        }
    }
}
