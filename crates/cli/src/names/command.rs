//! Finds the name of the script, package or image that a command runs, from which the default name of a
//! server is made.

mod tools;

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path};

use tools::{Argument, Found, TOOLS};

/// File names that do not identify a program. The folder's name is used instead.
const GENERIC_FILES: &[&str] = &["index", "main", "__main__", "Cargo"];

/// Folder names that do not identify a program.
const GENERIC_FOLDERS: &[&str] = &["src", "dist", "build", "lib", "bin", "out"];

/// Returns the name of the script, package, image or program that `command` runs in `directory`. It may
/// contain any characters.
pub(super) fn subject(command: &[OsString], directory: &Path) -> String {
    let words: Vec<_> = command.iter().map(|word| word.to_string_lossy().into_owned()).collect();
    let mut words = &words[..];
    // Wrappers may be nested, as in `env A=1 uv run python agent.py`. Each round removes a word.
    loop {
        let Some((program, arguments)) = words.split_first() else { return String::new() };
        match run_by(program, arguments, directory) {
            Run::Command(rest) => words = rest,
            Run::Subject(name) => return name,
            Run::Unknown => return stem(Path::new(program)),
        }
    }
}

/// The code or command that a program runs.
enum Run<'a> {
    Subject(String),
    /// Another command.
    Command(&'a [String]),
    /// The program itself, or code without a name.
    Unknown,
}

fn run_by<'a>(program: &str, arguments: &'a [String], directory: &Path) -> Run<'a> {
    let program = tool_name(program);
    let mut tools = TOOLS.iter().filter(|tool| tool.programs.contains(&program.as_str()));
    let found = tools.find_map(|tool| Some((tool, tool.after_subcommand(arguments)?)));
    let Some((tool, arguments)) = found else { return Run::Unknown };
    let (argument, word, words) = match tool.find(arguments) {
        Found::Code => return Run::Unknown,
        Found::Value(argument, value) => (argument, value, &[][..]),
        Found::Words(words) => {
            (tool.argument, words.first().map(String::as_str).unwrap_or_default(), words)
        }
    };
    let name = match argument {
        Argument::Script => script(word, directory),
        Argument::Package => package(word),
        Argument::Image => image(word),
        Argument::Name => Some(word.to_owned()),
        Argument::Folder => directory.file_name().map(lossy),
        Argument::Command { skip } => {
            let variables = words.iter().take_while(|word| word.contains('=')).count();
            let rest = words.get(variables + skip..).filter(|rest| !rest.is_empty());
            return rest.map_or(Run::Unknown, Run::Command);
        }
    };
    name.filter(|name| !name.is_empty()).map_or(Run::Unknown, Run::Subject)
}

/// Returns a program's file name without a version or Windows extension: `python` for `python3.12` and
/// `python.exe`.
fn tool_name(program: &str) -> String {
    let name = Path::new(program).file_name().map(lossy).unwrap_or_default().to_ascii_lowercase();
    let name =
        [".exe", ".cmd", ".bat"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(&name);
    name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.').to_owned()
}

/// Returns the name of a script's file. If that does not identify the script, returns the name of the
/// nearest folder that does.
fn script(path: &str, directory: &Path) -> Option<String> {
    if path.starts_with("npm:") || path.starts_with("jsr:") {
        return package(path);
    }
    if path.is_empty() || path == "-" {
        return None;
    }
    let path = directory.join(path);
    let folders = path.components().rev().filter_map(|component| match component {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let (file, folders) = (stem(&path), folders.skip(1).map(lossy));
    let is_generic = GENERIC_FILES.contains(&file.as_str());
    let mut folders = folders.filter(|name| !GENERIC_FOLDERS.contains(&name.as_str()));
    folders.next().filter(|_| is_generic).or(Some(file))
}

/// Returns a package's name without scope, version and extras: `pkg` for `@scope/pkg@1.2`.
fn package(text: &str) -> Option<String> {
    let name = text.rsplit(['/', ':']).next()?;
    let name = name.split(['@', '=', '<', '>', '~', '[', '#']).next()?;
    Some(name.strip_suffix(".git").unwrap_or(name).to_owned())
}

/// Returns an image's name without registry, tag and digest.
fn image(text: &str) -> Option<String> {
    text.rsplit('/').next()?.split(['@', ':']).next().map(str::to_owned)
}

/// Returns a path's last component without its extension.
fn stem(path: &Path) -> String {
    path.file_stem().map(lossy).unwrap_or_default()
}

fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn assert_names(cases: &[(&str, &str)]) {
        for (command, expected) in cases {
            let words: Vec<OsString> = command.split_whitespace().map(Into::into).collect();
            assert_eq!(subject(&words, Path::new("/srv/my-app")), *expected, "{command}");
        }
    }

    #[test]
    fn script_is_named_after_itself_not_its_interpreter() {
        assert_names(&[
            ("python3 agent.py", "agent"),
            ("python agent.py --port 1", "agent"),
            ("/usr/bin/python3.12 -u -X dev ./server/agent.py", "agent"),
            ("python -W ignore -Wonce -- agent.py", "agent"),
            ("python3 -m my_agent --verbose", "my_agent"),
            ("python3 -um my_agent", "my_agent"),
            ("python3 -mmy_agent.server", "my_agent.server"),
            ("python3 -c print(1)", "python3"),
            ("python3 -", "python3"),
            ("python3", "python3"),
            ("python3 -X", "python3"),
            ("node server.js", "server"),
            ("node --inspect -r dotenv/config --import=tsx ./agent.mjs", "agent"),
            ("node --max-old-space-size=100 agent.js", "agent"),
            ("node -e 1", "node"),
            ("node --print 1", "node"),
            ("deno run -A --config d.json agent.ts", "agent"),
            ("deno run npm:@scope/agent@1.2", "agent"),
            ("deno run https://example.org/agent.ts", "agent"),
            ("deno agent.ts", "agent"),
            ("bun agent.ts", "agent"),
            ("bun run agent.ts", "agent"),
            ("bun x @scope/agent", "agent"),
            ("ruby -W -I lib agent.rb", "agent"),
            ("ruby -Ilib agent.rb", "agent"),
            ("ruby -e 1", "ruby"),
            ("perl -w -MJSON agent.pl", "agent"),
            ("perl -E 1", "perl"),
            ("sh ./agent.sh", "agent"),
            ("bash -eu -o pipefail agent.sh x", "agent"),
            ("sh -c agent", "sh"),
            ("bash -lc agent", "bash"),
            ("sh", "sh"),
        ]);
    }

    #[test]
    fn file_with_a_general_name_is_named_after_its_folder() {
        assert_names(&[
            ("node agent/index.js", "agent"),
            ("node /srv/agent/dist/index.js", "agent"),
            ("python main.py", "my-app"),
            ("python ../agent/src/main.py", "agent"),
            ("python3 agent/__main__.py", "agent"),
            ("python /main.py", "main"),
            ("node .", "my-app"),
            ("python agent", "agent"),
        ]);
    }

    #[test]
    fn packages_and_images_are_named_without_scope_and_version() {
        assert_names(&[
            ("npx agent", "agent"),
            ("npx -y @modelcontextprotocol/server-everything stdio", "server-everything"),
            ("npx --yes @scope/agent@1.2.3", "agent"),
            ("npx -p @scope/tools agent-cli", "agent-cli"),
            ("npx --package=@scope/tools -- agent-cli", "agent-cli"),
            ("npx github:you/agent", "agent"),
            ("npx -c agent", "npx"),
            ("npm exec -- @scope/agent", "agent"),
            ("npm start", "my-app"),
            ("npm run serve", "my-app"),
            ("pnpm dlx @scope/agent@latest", "agent"),
            ("pnpm -C x dlx agent", "agent"),
            ("yarn dlx agent", "agent"),
            ("bunx --bun agent@1", "agent"),
            ("uvx agent", "agent"),
            ("uvx --from git+https://example.org/you/tools.git@v1 agent", "agent"),
            ("uvx --python 3.12 agent[extra]==1.0", "agent"),
            ("uv tool run agent@1.0", "agent"),
            ("uv run agent", "agent"),
            ("uv run agent.py", "agent"),
            ("uv --directory /srv/x run --with mcp python agent.py", "agent"),
            ("uv run -m agent", "agent"),
            ("uv run --with mcp mcp run server.py", "mcp"),
            ("pipx run --spec tools agent", "agent"),
            ("docker run -i --rm agent", "agent"),
            ("docker run -it -v /a:/b -e K=V --name x ghcr.io/you/agent:1.0 --verbose", "agent"),
            ("docker run --rm -eK=V --network=none localhost:5000/agent@sha256:00", "agent"),
            ("podman --log-level debug run -i -- agent", "agent"),
            ("docker exec x", "docker"),
            ("docker run", "docker"),
        ]);
    }

    #[test]
    fn wrapper_is_named_after_the_command_that_it_runs() {
        assert_names(&[
            ("env agent", "agent"),
            ("env A=1 B=2 python3 agent.py", "agent"),
            ("/usr/bin/env -i -u HOME A=1 npx -y @scope/agent", "agent"),
            ("env", "env"),
            ("env A=1", "env"),
            ("nice -n 5 agent", "agent"),
            ("timeout 5m agent", "agent"),
            ("timeout -s KILL 5m python3 agent.py", "agent"),
            ("stdbuf -oL agent", "agent"),
            ("sudo -u you A=1 agent", "agent"),
            ("nohup env nohup env node agent.js", "agent"),
            ("poetry run python agent.py", "agent"),
            ("conda run -n base agent", "agent"),
            ("cargo run", "my-app"),
            ("cargo +nightly run --release -- --bin x", "my-app"),
            ("cargo run -q --bin agent", "agent"),
            ("cargo run --package=agent", "agent"),
            ("cargo run --manifest-path ../agent/Cargo.toml", "agent"),
            ("cargo build", "cargo"),
            ("go run ./cmd/agent", "agent"),
            ("go run .", "my-app"),
            ("tieline demo-agent", "demo-agent"),
        ]);
    }

    #[test]
    fn other_programs_are_named_after_themselves() {
        assert_names(&[
            ("cat", "cat"),
            ("./target/debug/my-agent --verbose", "my-agent"),
            ("agent.sh", "agent"),
            ("./a/b.c.sh", "b.c"),
            ("..", ""),
            ("", ""),
        ]);
    }

    #[cfg(windows)]
    #[test]
    fn windows_programs_are_recognized_without_their_extension() {
        assert_names(&[
            (r"C:\Python\python.exe C:\srv\agent.py", "agent"),
            ("npx.cmd -y @scope/agent", "agent"),
            (r"C:\srv\agent.exe", "agent"),
        ]);
    }
}
