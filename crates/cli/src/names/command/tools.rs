//! Programs that run other code: interpreters, package runners and wrappers.

/// The meaning of the first argument after the options, or of an option's value.
#[derive(Clone, Copy)]
pub(super) enum Argument {
    /// A file to run.
    Script,
    /// A package, with an optional scope and version.
    Package,
    /// A container image.
    Image,
    /// A name.
    Name,
    /// An argument that does not name the program, which is then named after the directory.
    Folder,
    /// Another command, after variables and this many other words.
    Command {
        /// The number of words.
        skip: usize,
    },
}

/// A program that runs other code. Short options are written with one dash and one letter.
pub(super) struct Tool {
    pub(super) programs: &'static [&'static str],
    /// The subcommands to which this row applies; empty if it applies to all arguments.
    subcommands: &'static [&'static str],
    pub(super) argument: Argument,
    /// Options that take the next word as their value.
    valued: Valued,
    /// Options whose value names the code to run.
    naming: &'static [(&'static str, Argument)],
    /// Options whose value is code.
    code: &'static [&'static str],
}

enum Valued {
    These(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}
use Valued::{AllBut, These};

impl Tool {
    const fn new(programs: &'static [&'static str], argument: Argument) -> Self {
        let valued = These(&[]);
        Self { programs, subcommands: &[], argument, valued, naming: &[], code: &[] }
    }
}

const COMMAND: Argument = Argument::Command { skip: 0 };

const UV: Valued = These(&[
    "-p",
    "--python",
    "--from",
    "--with",
    "--with-editable",
    "--with-requirements",
    "--index",
    "--index-url",
    "--extra-index-url",
    "--directory",
    "--project",
    "--env-file",
    "--extra",
    "--group",
    "--package",
    "--refresh-package",
]);

/// Known programs. If several rows match, the first one is used.
pub(super) const TOOLS: &[Tool] = &[
    Tool {
        valued: These(&["-X", "-W"]),
        naming: &[("-m", Argument::Name)],
        code: &["-c"],
        ..Tool::new(&["python", "pypy", "pythonw", "py"], Argument::Script)
    },
    Tool {
        valued: These(&[
            "-r",
            "--require",
            "--import",
            "--loader",
            "--experimental-loader",
            "-C",
            "--conditions",
        ]),
        code: &["-e", "--eval", "-p", "--print"],
        ..Tool::new(&["node", "nodejs", "tsx", "ts-node"], Argument::Script)
    },
    Tool { subcommands: &["run", "serve"], valued: DENO, ..Tool::new(&["deno"], Argument::Script) },
    Tool { subcommands: &["task"], valued: DENO, ..Tool::new(&["deno"], Argument::Folder) },
    Tool { valued: DENO, ..Tool::new(&["deno"], Argument::Script) },
    Tool { subcommands: &["x"], ..Tool::new(&["bun"], Argument::Package) },
    Tool { subcommands: &["run"], valued: BUN, ..Tool::new(&["bun"], Argument::Script) },
    Tool { valued: BUN, code: &["-e", "--eval"], ..Tool::new(&["bun"], Argument::Script) },
    Tool {
        valued: These(&["-I", "-r", "-C", "-E"]),
        code: &["-e"],
        ..Tool::new(&["ruby"], Argument::Script)
    },
    Tool {
        valued: These(&["-I", "-M", "-m"]),
        code: &["-e", "-E"],
        ..Tool::new(&["perl"], Argument::Script)
    },
    Tool {
        valued: These(&["-o", "-O", "--rcfile", "--init-file"]),
        code: &["-c"],
        ..Tool::new(&["sh", "bash", "dash", "zsh", "ksh"], Argument::Script)
    },
    Tool {
        valued: These(&["-p", "--package", "-w", "--workspace", "--registry", "--prefix"]),
        code: &["-c", "--call"],
        ..Tool::new(&["npx"], Argument::Package)
    },
    Tool {
        subcommands: &["exec", "x"],
        valued: NPM,
        code: &["-c", "--call"],
        ..Tool::new(&["npm"], Argument::Package)
    },
    Tool { subcommands: &["dlx"], valued: NPM, ..Tool::new(&["pnpm", "yarn"], Argument::Package) },
    Tool { subcommands: &["exec"], valued: NPM, ..Tool::new(&["pnpm", "yarn"], COMMAND) },
    Tool {
        subcommands: &["run", "run-script", "start"],
        valued: NPM,
        ..Tool::new(&["npm", "pnpm", "yarn"], Argument::Folder)
    },
    Tool { valued: NPM, ..Tool::new(&["bunx", "pnpx"], Argument::Package) },
    Tool { valued: UV, ..Tool::new(&["uvx"], Argument::Package) },
    Tool { subcommands: &["tool run"], valued: UV, ..Tool::new(&["uv"], Argument::Package) },
    Tool {
        subcommands: &["run"],
        valued: UV,
        naming: &[("-m", Argument::Name), ("--module", Argument::Name)],
        ..Tool::new(&["uv"], COMMAND)
    },
    Tool {
        subcommands: &["run"],
        valued: These(&["--spec", "--python", "--index-url"]),
        ..Tool::new(&["pipx"], Argument::Package)
    },
    Tool {
        subcommands: &["run"],
        valued: AllBut(&[
            "-i",
            "-t",
            "-d",
            "-P",
            "-q",
            "--rm",
            "--init",
            "--interactive",
            "--tty",
            "--detach",
            "--privileged",
            "--read-only",
            "--publish-all",
            "--quiet",
            "--no-healthcheck",
            "--oom-kill-disable",
            "--sig-proxy",
        ]),
        ..Tool::new(&["docker", "podman", "nerdctl"], Argument::Image)
    },
    Tool {
        subcommands: &["run", "r"],
        valued: These(&["-F", "--features", "--profile", "--target", "-j", "--jobs", "--config"]),
        naming: &[
            ("--bin", Argument::Name),
            ("--example", Argument::Name),
            ("-p", Argument::Name),
            ("--package", Argument::Name),
            ("--manifest-path", Argument::Script),
        ],
        ..Tool::new(&["cargo"], Argument::Folder)
    },
    Tool { subcommands: &["run"], ..Tool::new(&["go"], Argument::Script) },
    Tool {
        subcommands: &["run"],
        valued: These(&["-n", "--name", "-p", "--prefix", "-C", "--directory"]),
        ..Tool::new(&["poetry", "pipenv", "pdm", "rye", "hatch", "conda", "mamba"], COMMAND)
    },
    Tool {
        valued: These(&["-u", "--unset", "-C", "--chdir"]),
        code: &["-S", "--split-string"],
        ..Tool::new(&["env"], COMMAND)
    },
    Tool { valued: These(&["-n", "--adjustment"]), ..Tool::new(&["nice"], COMMAND) },
    Tool { valued: These(&["-i", "-o", "-e"]), ..Tool::new(&["stdbuf"], COMMAND) },
    Tool {
        valued: These(&["-u", "-g", "-h", "-p", "-C", "-D"]),
        ..Tool::new(&["sudo", "doas"], COMMAND)
    },
    Tool {
        valued: These(&["-s", "--signal", "-k", "--kill-after"]),
        ..Tool::new(&["timeout"], Argument::Command { skip: 1 })
    },
    Tool::new(&["nohup", "setsid", "time"], COMMAND),
    Tool::new(&["tieline"], Argument::Name),
];

const DENO: Valued = These(&["-c", "--config", "--import-map", "--lock"]);
const BUN: Valued = These(&["-r", "--preload", "-c", "--config", "--cwd"]);
const NPM: Valued = These(&[
    "-p",
    "--package",
    "-w",
    "--workspace",
    "-C",
    "--dir",
    "--prefix",
    "--filter",
    "--registry",
]);

/// The part of a tool's arguments that names the program to run.
pub(super) enum Found<'a> {
    /// The value of an option.
    Value(Argument, &'a str),
    /// The arguments from the first one that is not an option.
    Words(&'a [String]),
    /// The tool runs code that is given as an argument.
    Code,
}

enum Kind {
    Flag,
    Valued,
    Naming(Argument),
    Code,
}

impl Tool {
    /// Returns the arguments after the subcommand, or `None` if this row does not apply to the
    /// subcommand.
    pub(super) fn after_subcommand<'a>(&self, arguments: &'a [String]) -> Option<&'a [String]> {
        if self.subcommands.is_empty() {
            return Some(arguments);
        }
        let Found::Words(words) = self.find(arguments) else { return None };
        self.subcommands.iter().find_map(|subcommand| {
            subcommand.split(' ').try_fold(words, |rest, word| match rest.split_first() {
                Some((first, rest)) if first == word => Some(rest),
                _ => None,
            })
        })
    }

    /// Skips options up to the first word that names the code to run.
    pub(super) fn find<'a>(&self, arguments: &'a [String]) -> Found<'a> {
        let mut rest = arguments;
        while let Some((word, after)) = rest.split_first() {
            if word == "--" {
                return Found::Words(after);
            }
            // `+nightly` selects a toolchain, and `+e` is an option of shells.
            if word == "-" || !word.starts_with(['-', '+']) {
                return Found::Words(rest);
            }
            rest = after;
            let (kind, value) = self.option(word);
            match kind {
                Kind::Flag => {}
                Kind::Code => return Found::Code,
                Kind::Valued if value.is_some() => {}
                Kind::Valued => rest = rest.get(1..).unwrap_or_default(),
                Kind::Naming(argument) => {
                    let value = value.or_else(|| rest.first().map(String::as_str));
                    return Found::Value(argument, value.unwrap_or_default());
                }
            }
        }
        Found::Words(&[])
    }

    /// Returns the kind of an option, and its value if that is in the same word. In a cluster of short
    /// options, this is the first one that is not a flag.
    fn option<'a>(&self, word: &'a str) -> (Kind, Option<&'a str>) {
        if word.starts_with("--") {
            return match word.split_once('=') {
                Some((name, value)) => (self.kind(name), Some(value)),
                None => (self.kind(word), None),
            };
        }
        let letters = word.get(1..).unwrap_or_default();
        for (at, letter) in letters.char_indices() {
            let kind = self.kind(&format!("-{letter}"));
            if !matches!(kind, Kind::Flag) {
                let value = letters.get(at + letter.len_utf8()..);
                return (kind, value.filter(|value| !value.is_empty()));
            }
        }
        (Kind::Flag, None)
    }

    fn kind(&self, option: &str) -> Kind {
        if self.code.contains(&option) {
            return Kind::Code;
        }
        if let Some((_, argument)) = self.naming.iter().find(|(name, _)| *name == option) {
            return Kind::Naming(*argument);
        }
        let takes_value = match self.valued {
            These(options) => options.contains(&option),
            AllBut(flags) => !flags.contains(&option),
        };
        if takes_value { Kind::Valued } else { Kind::Flag }
    }
}
