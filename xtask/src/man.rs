//! `cargo xtask man`: creates the manual pages and completion scripts from the definition of the
//! program's command line.

use std::fs;
use std::path::PathBuf;

use crate::workspace::{Workspace, output};
use crate::{Failure, failed, usage, wants_help};

const HELP: &str = "\
Create the manual pages and completion scripts, for packages.

Usage: cargo xtask man

Builds the program and writes

  target/man          tieline.1, and a page for each command
  target/completions  tieline.bash, _tieline (zsh), tieline.fish

None of these files is committed, so that they always match the program. Users of an installed program
get the same files from `tieline man DIRECTORY` and `tieline completions SHELL`.";

/// The shells, with the file names that they require for completion scripts.
const SHELLS: [(&str, &str); 3] =
    [("bash", "tieline.bash"), ("zsh", "_tieline"), ("fish", "tieline.fish")];

pub(crate) fn run(args: &[String]) -> Result<(), Failure> {
    if wants_help(args) {
        println!("{HELP}");
        return Ok(());
    }
    if let Some(arg) = args.first() {
        return Err(usage(format!("unknown argument for man: {arg:?}")));
    }
    for file in make(&Workspace::here()?)? {
        println!("{}", file.display());
    }
    Ok(())
}

/// Creates all files in empty folders and returns their paths.
pub(crate) fn make(workspace: &Workspace) -> Result<Vec<PathBuf>, Failure> {
    let target = workspace.target()?;
    let (man, completions) = (target.join("man"), target.join("completions"));
    for folder in [&man, &completions] {
        // The folder may contain pages of commands that no longer exist.
        let _ = fs::remove_dir_all(folder);
        let created = fs::create_dir_all(folder);
        created.map_err(|error| failed(format!("{}: {error}", folder.display())))?;
    }
    let program = |args: &[&str]| {
        let mut run = workspace.cargo();
        run.args(["run", "--quiet", "--locked", "--package", "tieline-cli", "--"]).args(args);
        output(&mut run)
    };
    let folder = man.to_str().ok_or_else(|| failed("the target folder is not UTF-8"))?;
    let names = program(&["man", folder])?;
    let mut files: Vec<_> = names.lines().map(|name| man.join(name)).collect();
    for (shell, name) in SHELLS {
        let file = completions.join(name);
        let script = program(&["completions", shell])?;
        let written = fs::write(&file, script);
        written.map_err(|error| failed(format!("{}: {error}", file.display())))?;
        files.push(file);
    }
    Ok(files)
}
