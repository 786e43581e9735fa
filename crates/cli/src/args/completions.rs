//! The command line without its hidden options, which completion scripts would offer.

use clap::{ArgGroup, Command};

/// Returns a command for completion scripts, without hidden arguments and subcommands.
pub(crate) fn shown(command: &Command) -> Command {
    let arguments: Vec<_> =
        command.get_arguments().filter(|it| !it.is_hide_set()).cloned().collect();
    let groups = command.get_groups().map(|group| {
        let is_shown = |id: &&clap::Id| arguments.iter().any(|it| it.get_id() == *id);
        let members: Vec<_> = group.get_args().filter(is_shown).cloned().collect();
        ArgGroup::new(group.get_id().clone()).multiple(true).args(members)
    });
    let groups: Vec<_> = groups.collect();
    let subcommands = command.get_subcommands().filter(|it| !it.is_hide_set()).map(shown);
    Command::new(command.get_name().to_owned())
        .about(command.get_about().cloned().unwrap_or_default())
        .version(command.get_version().unwrap_or_default().to_owned())
        .visible_aliases(command.get_visible_aliases().map(ToOwned::to_owned))
        .subcommands(subcommands)
        .args(arguments)
        .groups(groups)
}
