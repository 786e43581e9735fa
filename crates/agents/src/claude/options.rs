//! Start options of the program, and the command line that they produce.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tieline_transport::{ChannelConfig, Environment, Guardian, StopTimeouts};

use super::Callbacks;
use super::files::Files;

/// Start options of the program. By default, the program's own defaults apply; use
/// [`extra_args`](Self::extra_args) for options that are missing here.
#[derive(Clone, Debug)]
pub struct Options {
    /// The path of the program; [searched for](super::find) by default.
    pub program: Option<PathBuf>,
    /// The working directory, which is the project. By default, it is that of this process.
    pub cwd: Option<PathBuf>,
    /// The environment variables. By default, they are those of this process.
    pub env: Environment,
    /// The caller's name, passed in `CLAUDE_CODE_ENTRYPOINT`; `sdk-tieline` by default.
    pub entrypoint: String,
    /// `--system-prompt`: replaces the default prompt. A long prompt is passed in a file.
    pub system_prompt: Option<String>,
    /// `--append-system-prompt`: is appended to the default prompt. A long prompt is passed in a file.
    pub append_system_prompt: Option<String>,
    /// `--tools`: the built-in tools to offer; an empty list offers none.
    pub tools: Option<Vec<String>>,
    /// `--allowedTools`: tools that are used without asking.
    pub allowed_tools: Vec<String>,
    /// `--disallowedTools`: tools that are never used.
    pub disallowed_tools: Vec<String>,
    /// `--max-turns`.
    pub max_turns: Option<u32>,
    /// `--max-budget-usd`, in dollars.
    pub max_budget_usd: Option<f64>,
    /// `--model`.
    pub model: Option<String>,
    /// `--fallback-model`.
    pub fallback_model: Option<String>,
    /// `--betas`.
    pub betas: Vec<String>,
    /// `--agent`.
    pub agent: Option<String>,
    /// Additional agents by name, in the format of `initialize`.
    pub agents: Option<Value>,
    /// `--permission-mode`: `acceptEdits`, `plan`, …
    pub permission_mode: Option<String>,
    /// `--permission-prompt-tool`; `stdio` by default if [`Callbacks::can_use_tool`] is set.
    pub permission_prompt_tool: Option<String>,
    /// `--continue`: continues the last conversation in this directory.
    pub continue_conversation: bool,
    /// `--resume`: resumes the session with this id.
    pub resume: Option<String>,
    /// `--session-id`: a UUID for the new session.
    pub session_id: Option<String>,
    /// `--fork-session`: resumes under a new id.
    pub fork_session: bool,
    /// `--no-session-persistence`: keeps no part of the session on disk.
    pub no_session_persistence: bool,
    /// `--settings`: a file, or JSON, which is passed in a file.
    pub settings: Option<String>,
    /// `--setting-sources`: any of `user`, `project` and `local`; an empty list means none.
    pub setting_sources: Option<Vec<String>>,
    /// `--add-dir`, once for each directory.
    pub add_dirs: Vec<PathBuf>,
    /// `--mcp-config`, once for each configuration: a file, or JSON, which is passed in a file.
    pub mcp_configs: Vec<String>,
    /// `--strict-mcp-config`: uses no other MCP servers.
    pub strict_mcp_config: bool,
    /// `--plugin-dir`, once for each directory.
    pub plugin_dirs: Vec<PathBuf>,
    /// `--include-partial-messages`: also delivers
    /// [`Message::StreamEvent`](super::Message::StreamEvent)s.
    pub include_partial_messages: bool,
    /// `--include-hook-events`.
    pub include_hook_events: bool,
    /// `--max-thinking-tokens`.
    pub max_thinking_tokens: Option<u32>,
    /// `--effort`.
    pub effort: Option<String>,
    /// `--json-schema`: the schema of the result. The program accepts it only as an argument, which is
    /// limited to 128 KiB on Linux.
    pub json_schema: Option<Value>,
    /// `--debug-file`.
    pub debug_file: Option<PathBuf>,
    /// Further arguments, added at the end unchanged. Use `--flag=value` for untrusted values.
    pub extra_args: Vec<OsString>,
    /// Whether the program reports when a session becomes busy or idle.
    pub session_state_events: bool,
    /// Callbacks for requests from the program.
    pub callbacks: Callbacks,
    /// Options of the line. By default, a message is limited to 16 MiB, and the line ends if the program
    /// does not read for 60 s while there is something to write. The limit is that long because the
    /// program may be starting MCP servers.
    pub channel: ChannelConfig,
    /// The time for each stage of [`close`](super::Cli::close).
    pub stop: StopTimeouts,
    /// The guardian, which kills all descendants of the program, including commands that the program
    /// runs in other process groups. By default, there is no guardian, and only the program's own
    /// process group is killed.
    pub guardian: Option<Guardian>,
    /// How long to wait for the response to a control request; 60 s by default. The wait for
    /// `initialize` is at least 60 s.
    pub request_timeout: Duration,
}

/// How long the program may take to start reading, and to answer.
const PATIENCE: Duration = Duration::from_secs(60);

impl Default for Options {
    fn default() -> Self {
        Self {
            program: None,
            cwd: None,
            env: Environment::default(),
            entrypoint: "sdk-tieline".to_owned(),
            system_prompt: None,
            append_system_prompt: None,
            tools: None,
            allowed_tools: Vec::new(),
            disallowed_tools: Vec::new(),
            max_turns: None,
            max_budget_usd: None,
            model: None,
            fallback_model: None,
            betas: Vec::new(),
            agent: None,
            agents: None,
            permission_mode: None,
            permission_prompt_tool: None,
            continue_conversation: false,
            resume: None,
            session_id: None,
            fork_session: false,
            no_session_persistence: false,
            settings: None,
            setting_sources: None,
            add_dirs: Vec::new(),
            mcp_configs: Vec::new(),
            strict_mcp_config: false,
            plugin_dirs: Vec::new(),
            include_partial_messages: false,
            include_hook_events: false,
            max_thinking_tokens: None,
            effort: None,
            json_schema: None,
            debug_file: None,
            extra_args: Vec::new(),
            session_state_events: false,
            callbacks: Callbacks::default(),
            channel: ChannelConfig { program_stall_timeout: PATIENCE, ..ChannelConfig::default() },
            stop: StopTimeouts::default(),
            guardian: None,
            request_timeout: PATIENCE,
        }
    }
}

impl Options {
    /// Returns the command line without the program, with all values inline. A value is always in the same
    /// argument as its flag, so that it cannot be mistaken for a flag.
    ///
    /// [`Cli::connect`](super::Cli::connect) passes large and private values in files instead.
    pub fn args(&self) -> Vec<OsString> {
        self.write(Args(Vec::new())).0
    }

    /// Returns the command line, and the files that it refers to.
    pub(super) fn args_and_files(&self) -> io::Result<(Vec<OsString>, Option<Files>)> {
        let is_long = |text: &Option<String>| text.as_ref().is_some_and(|it| it.len() > MAX_INLINE);
        let is_json = |text: &String| text.trim_start().starts_with('{');
        let needs_files = is_long(&self.system_prompt)
            || is_long(&self.append_system_prompt)
            || self.settings.iter().chain(&self.mcp_configs).any(is_json);
        if !needs_files {
            return Ok((self.args(), None));
        }
        let mut files = Files::new()?;
        let mut in_files = self.clone();
        let mut by_file = |text: &mut String| {
            let path = files.add(text)?.into_os_string().into_string();
            *text = path.map_err(|_| {
                io::Error::other("the path of the temporary directory is not UTF-8")
            })?;
            io::Result::Ok(())
        };
        in_files
            .settings
            .iter_mut()
            .chain(&mut in_files.mcp_configs)
            .filter(|it| is_json(it))
            .try_for_each(&mut by_file)?;
        let mut prompts = Vec::new();
        for (flag, prompt) in [
            ("--system-prompt-file", &mut in_files.system_prompt),
            ("--append-system-prompt-file", &mut in_files.append_system_prompt),
        ] {
            if !is_long(prompt) {
                continue;
            }
            if let Some(mut text) = prompt.take() {
                by_file(&mut text)?;
                prompts.push((flag, text));
            }
        }
        let mut args = Args(Vec::new());
        prompts.into_iter().for_each(|(flag, path)| args.value(flag, &Some(path)));
        let args = in_files.write(args).0;
        Ok((args, Some(files)))
    }

    fn write(&self, mut args: Args) -> Args {
        for always in ["--output-format=stream-json", "--verbose", "--input-format=stream-json"] {
            args.0.push(always.into());
        }
        args.value("--system-prompt", &self.system_prompt);
        args.value("--append-system-prompt", &self.append_system_prompt);
        args.value("--tools", &self.tools.as_ref().map(|tools| tools.join(",")));
        args.list("--allowedTools", &self.allowed_tools);
        args.list("--disallowedTools", &self.disallowed_tools);
        args.value("--max-turns", &self.max_turns.map(|n| n.to_string()));
        args.value("--max-budget-usd", &self.max_budget_usd.map(|dollars| dollars.to_string()));
        args.value("--model", &self.model);
        args.value("--fallback-model", &self.fallback_model);
        args.list("--betas", &self.betas);
        args.value("--agent", &self.agent);
        args.value("--permission-mode", &self.permission_mode);
        let asks_us = self.callbacks.answers_permissions().then(|| "stdio".to_owned());
        args.value("--permission-prompt-tool", &self.permission_prompt_tool.clone().or(asks_us));
        args.flag("--continue", self.continue_conversation);
        args.value("--resume", &self.resume);
        args.value("--session-id", &self.session_id);
        args.flag("--fork-session", self.fork_session);
        args.flag("--no-session-persistence", self.no_session_persistence);
        args.value("--settings", &self.settings);
        let sources = self.setting_sources.as_ref().map(|sources| sources.join(","));
        args.value("--setting-sources", &sources);
        args.each("--add-dir", &self.add_dirs);
        args.each("--mcp-config", &self.mcp_configs);
        args.flag("--strict-mcp-config", self.strict_mcp_config);
        args.each("--plugin-dir", &self.plugin_dirs);
        args.flag("--include-partial-messages", self.include_partial_messages);
        args.flag("--include-hook-events", self.include_hook_events);
        args.value("--max-thinking-tokens", &self.max_thinking_tokens.map(|n| n.to_string()));
        args.value("--effort", &self.effort);
        args.value("--json-schema", &self.json_schema.as_ref().map(Value::to_string));
        args.value("--debug-file", &self.debug_file);
        args.0.extend(self.extra_args.iter().cloned());
        args
    }

    /// Returns the program's environment: the variables of `env` on top of our own defaults.
    /// `CLAUDECODE`, which marks a program started by Claude itself, is removed. `TRACEPARENT` is
    /// inherited like all others.
    pub fn environment(&self) -> Environment {
        let ours = Environment::default()
            .with("CLAUDE_CODE_ENTRYPOINT", &self.entrypoint)
            .without("CLAUDECODE");
        let ours = match self.session_state_events {
            true => ours.with("CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS", "1"),
            false => ours,
        };
        self.env.clone().with_defaults(ours)
    }
}

/// Prompts up to this length are passed as arguments, which older versions support as well.
const MAX_INLINE: usize = 16 << 10;

struct Args(Vec<OsString>);

impl Args {
    fn value<V: Clone + Into<OsString>>(&mut self, flag: &str, value: &Option<V>) {
        if let Some(value) = value {
            let mut arg = OsString::from(flag);
            arg.push("=");
            arg.push(value.clone().into());
            self.0.push(arg);
        }
    }

    fn list(&mut self, flag: &str, values: &[String]) {
        self.value(flag, &(!values.is_empty()).then(|| values.join(",")));
    }

    fn each<V: Clone + Into<OsString>>(&mut self, flag: &str, values: &[V]) {
        for value in values {
            self.value(flag, &Some(value.clone()));
        }
    }

    fn flag(&mut self, flag: &str, is_set: bool) {
        self.0.extend(is_set.then(|| flag.into()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claude::Permission;
    use serde_json::json;

    const ALWAYS: usize = 3;

    #[test]
    fn each_option_is_one_argument() {
        type Set = fn(&mut Options);
        let table: &[(Set, &[&str])] = &[
            (|_| (), &[]),
            (|o| o.system_prompt = Some("be\nbrief".into()), &["--system-prompt=be\nbrief"]),
            (|o| o.append_system_prompt = Some("-x".into()), &["--append-system-prompt=-x"]),
            (|o| o.tools = Some(vec![]), &["--tools="]),
            (|o| o.tools = Some(vec!["Read".into(), "Edit".into()]), &["--tools=Read,Edit"]),
            (
                |o| o.allowed_tools = vec!["Bash(git *)".into(), "Read".into()],
                &["--allowedTools=Bash(git *),Read"],
            ),
            (|o| o.disallowed_tools = vec!["Write".into()], &["--disallowedTools=Write"]),
            (|o| o.max_turns = Some(3), &["--max-turns=3"]),
            (|o| o.max_budget_usd = Some(0.5), &["--max-budget-usd=0.5"]),
            (|o| o.model = Some("--evil".into()), &["--model=--evil"]),
            (|o| o.fallback_model = Some("sonnet".into()), &["--fallback-model=sonnet"]),
            (|o| o.betas = vec!["a".into(), "b".into()], &["--betas=a,b"]),
            (|o| o.agent = Some("a".into()), &["--agent=a"]),
            (|o| o.agents = Some(json!({})), &[]),
            (|o| o.permission_mode = Some("plan".into()), &["--permission-mode=plan"]),
            (
                |o| o.permission_prompt_tool = Some("mcp__x".into()),
                &["--permission-prompt-tool=mcp__x"],
            ),
            (
                |o| {
                    o.callbacks = Callbacks::new().can_use_tool(|_| async { Permission::allow() });
                },
                &["--permission-prompt-tool=stdio"],
            ),
            (|o| o.continue_conversation = true, &["--continue"]),
            (|o| o.resume = Some("id; rm".into()), &["--resume=id; rm"]),
            (|o| o.session_id = Some("u".into()), &["--session-id=u"]),
            (|o| o.fork_session = true, &["--fork-session"]),
            (|o| o.no_session_persistence = true, &["--no-session-persistence"]),
            (|o| o.settings = Some("{}".into()), &["--settings={}"]),
            (|o| o.setting_sources = Some(vec![]), &["--setting-sources="]),
            (
                |o| o.setting_sources = Some(vec!["user".into(), "local".into()]),
                &["--setting-sources=user,local"],
            ),
            (|o| o.add_dirs = vec!["/a b".into(), "c".into()], &["--add-dir=/a b", "--add-dir=c"]),
            (|o| o.mcp_configs = vec!["{}".into()], &["--mcp-config={}"]),
            (|o| o.strict_mcp_config = true, &["--strict-mcp-config"]),
            (|o| o.plugin_dirs = vec!["p".into()], &["--plugin-dir=p"]),
            (|o| o.include_partial_messages = true, &["--include-partial-messages"]),
            (|o| o.include_hook_events = true, &["--include-hook-events"]),
            (|o| o.max_thinking_tokens = Some(9), &["--max-thinking-tokens=9"]),
            (|o| o.effort = Some("low".into()), &["--effort=low"]),
            (|o| o.json_schema = Some(json!({"a": 1})), &[r#"--json-schema={"a":1}"#]),
            (|o| o.debug_file = Some("d.log".into()), &["--debug-file=d.log"]),
            (|o| o.extra_args = vec!["--x".into(), "y".into()], &["--x", "y"]),
        ];
        for (set, expected) in table {
            let mut options = Options::default();
            set(&mut options);
            let args = options.args();
            assert_eq!(
                args[..ALWAYS],
                ["--output-format=stream-json", "--verbose", "--input-format=stream-json"]
            );
            assert_eq!(args[ALWAYS..], **expected);
        }
    }

    #[test]
    fn large_and_private_values_are_passed_in_files() {
        let long = |letter: &str| letter.repeat(MAX_INLINE + 1);
        let options = Options {
            system_prompt: Some(long("a")),
            append_system_prompt: Some(long("b")),
            settings: Some("{\"env\":{}}".into()),
            mcp_configs: vec!["a/file.json".into(), " {\"mcpServers\":{}}".into()],
            ..Options::default()
        };
        let (args, files) = options.args_and_files().unwrap();
        let value = |flag: &str| {
            let value = |arg: &OsString| arg.to_str()?.strip_prefix(flag).map(str::to_owned);
            args.iter().filter_map(value).collect::<Vec<_>>()
        };
        let content = |path: &str| std::fs::read_to_string(path).unwrap();
        assert_eq!(content(&value("--system-prompt-file=")[0]), long("a"));
        assert_eq!(content(&value("--append-system-prompt-file=")[0]), long("b"));
        assert_eq!(content(&value("--settings=")[0]), "{\"env\":{}}");
        let configs = value("--mcp-config=");
        assert_eq!(configs[0], "a/file.json");
        assert_eq!(content(&configs[1]), " {\"mcpServers\":{}}");
        assert!(args.iter().all(|arg| arg.len() < 4096));
        drop(files);
        assert!(!std::path::Path::new(&configs[1]).exists());

        let short = Options { system_prompt: Some("be brief".into()), ..Options::default() };
        let (args, files) = short.args_and_files().unwrap();
        assert!(files.is_none());
        assert_eq!(args, short.args());
    }

    #[test]
    fn program_may_start_slowly() {
        // The program may take as long to read a request as to answer it.
        let options = Options::default();
        assert!(options.channel.program_stall_timeout >= options.request_timeout);
    }

    #[test]
    fn environment_sets_the_entrypoint_and_removes_claudecode() {
        let named = |options: &Options, wanted: &str| {
            let around_us = ("CLAUDECODE".into(), "1".into());
            let environment = options.environment().resolve([around_us]);
            environment.into_iter().find(|(name, _)| name == wanted).map(|(_, value)| value)
        };
        let plain = Options::default();
        assert_eq!(named(&plain, "CLAUDE_CODE_ENTRYPOINT").unwrap(), "sdk-tieline");
        assert_eq!(named(&plain, "CLAUDECODE"), None);
        assert_eq!(named(&plain, "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS"), None);
        let mine = Options {
            env: [("CLAUDE_CODE_ENTRYPOINT", "mine")].into_iter().collect(),
            session_state_events: true,
            ..Options::default()
        };
        assert_eq!(named(&mine, "CLAUDE_CODE_ENTRYPOINT").unwrap(), "mine");
        assert_eq!(named(&mine, "CLAUDE_CODE_EMIT_SESSION_STATE_EVENTS").unwrap(), "1");
        // Values are often secrets.
        assert!(!format!("{mine:?}").contains("\"mine\""), "{mine:?}");
    }
}
