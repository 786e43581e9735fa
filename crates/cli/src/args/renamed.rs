//! Old names of options. A renamed option keeps its old name as a hidden alias for one release
//! (`#[arg(alias = "old-name")]`), and each use of the old name logs a warning.

use std::ffi::OsString;

use clap::Command;

/// Returns a warning for each old name in `typed`, which begins with the name of this program.
pub(super) fn warnings(command: &Command, typed: &[OsString]) -> Vec<String> {
    let words: Vec<_> = typed.iter().skip(1).map(|word| word.to_string_lossy()).collect();
    // The words after `--` belong to another program.
    let words = words.split(|word| word == "--").next().unwrap_or_default();
    let subcommand = words.iter().find_map(|word| command.find_subcommand(&**word));
    let arguments =
        [Some(command), subcommand].into_iter().flatten().flat_map(Command::get_arguments);
    let renamed = arguments.flat_map(|argument| {
        let shown = argument.get_visible_aliases().unwrap_or_default();
        let all = argument.get_all_aliases().unwrap_or_default();
        let old = all.into_iter().filter(move |alias| !shown.contains(alias));
        old.filter_map(|old| Some((old.to_owned(), argument.get_long()?.to_owned())))
    });
    let is_typed = |old: &str| {
        let names = words.iter().filter_map(|word| word.strip_prefix("--"));
        names.map(|name| name.split('=').next().unwrap_or_default()).any(|name| name == old)
    };
    renamed
        .filter(|(old, _)| is_typed(old))
        .map(|(old, new)| {
            format!("--{old} is now called --{new}; the next release will not know the old name")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Arg;

    #[test]
    fn old_names_still_work_and_cause_a_warning() {
        let option = |new: &'static str| Arg::new(new).long(new).value_name("X");
        let serve = Command::new("serve")
            .arg(option("listen").alias("endpoint"))
            .arg(option("name").visible_alias("label"))
            .arg(Arg::new("command").last(true).num_args(0..));
        let command = Command::new("tieline").arg(option("format").alias("form")).subcommand(serve);
        for (typed, expected) in [
            ("serve --listen a --name b", ""),
            ("serve --label a", ""),
            ("serve --endpoint a", "--endpoint is now called --listen"),
            ("serve --endpoint=a --name b", "--endpoint is now called --listen"),
            ("--form a serve", "--form is now called --format"),
            ("serve -- cat --endpoint a", ""),
        ] {
            let typed: Vec<OsString> =
                format!("tieline {typed}").split(' ').map(OsString::from).collect();
            assert!(command.clone().try_get_matches_from(&typed).is_ok(), "{typed:?}");
            let warnings = warnings(&command, &typed).join("\n");
            assert_eq!(warnings.is_empty(), expected.is_empty(), "{typed:?}: {warnings}");
            assert!(warnings.starts_with(expected), "{typed:?}: {warnings}");
        }
    }
}
