//! The real programs that `cargo xtask test` provides. A missing one fails the test.

use std::path::PathBuf;

/// Returns the path of the xi editor core.
#[track_caller]
pub(crate) fn xi_core() -> String {
    text(from("TIELINE_XI_CORE", ""))
}

/// Returns the command line of the MCP project's "everything" server on stdio.
#[track_caller]
pub(crate) fn server_everything() -> [String; 3] {
    let script = "node_modules/@modelcontextprotocol/server-everything/dist/index.js";
    ["node".into(), text(from("TIELINE_NODE_FIXTURES", script)), "stdio".into()]
}

/// Returns the directory of the MCP project's TypeScript SDK as CommonJS modules.
#[track_caller]
pub(crate) fn mcp_sdk() -> PathBuf {
    from("TIELINE_NODE_FIXTURES", "node_modules/@modelcontextprotocol/sdk/dist/cjs/types.js")
        .parent()
        .expect("a directory")
        .to_owned()
}

/// Returns the client of the second version of that SDK as a CommonJS module.
#[track_caller]
pub(crate) fn mcp_client() -> PathBuf {
    from("TIELINE_NODE_FIXTURES", "node_modules/@modelcontextprotocol/client/dist/index.cjs")
}

/// Returns the command line of an agent on the ACP project's TypeScript SDK.
#[track_caller]
pub(crate) fn acp_agent() -> [String; 2] {
    ["node".into(), text(from("TIELINE_NODE_FIXTURES", "acp-agent.mjs"))]
}

/// Returns the command line of a client on that SDK, without its arguments: the URL and the token.
#[track_caller]
pub(crate) fn acp_client() -> [String; 2] {
    ["node".into(), text(from("TIELINE_NODE_FIXTURES", "acp-client.mjs"))]
}

/// Returns the path of a client on the ACP project's crate for remote agents, whose arguments are those of
/// [`acp_client`].
#[track_caller]
pub(crate) fn acp_crate_client() -> String {
    text(from("TIELINE_ACP_CLIENT", ""))
}

/// Returns the path of the Claude CLI for this platform.
#[track_caller]
pub(crate) fn claude() -> String {
    let wrapper =
        from("TIELINE_NODE_FIXTURES", "node_modules/@anthropic-ai/claude-code/package.json");
    let packages = wrapper.ancestors().nth(2).expect("it has two");
    let packages = std::fs::read_dir(packages).expect("a folder").flatten();
    let mut programs: Vec<_> = packages.map(|package| package.path().join("claude")).collect();
    programs.retain(|program| program.is_file());
    // If there are packages for glibc and musl, glibc's plain name sorts first.
    programs.sort();
    text(programs.into_iter().next().expect("a package for this platform"))
}

/// Returns the command line of a server with Content-Length framing.
#[track_caller]
pub(crate) fn content_length_server() -> [String; 2] {
    ["node".into(), text(from("TIELINE_NODE_FIXTURES", "content-length-server.js"))]
}

/// Returns the command line of the driver of a headless Chromium.
#[track_caller]
pub(crate) fn browser_driver() -> [String; 2] {
    ["node".into(), text(from("TIELINE_NODE_FIXTURES", "browser.js"))]
}

/// Returns the directory in which Node.js finds the reference implementation of Content-Length framing.
#[track_caller]
pub(crate) fn vscode_jsonrpc() -> PathBuf {
    let manifest = from("TIELINE_NODE_FIXTURES", "node_modules/vscode-jsonrpc/package.json");
    manifest.ancestors().nth(3).expect("it has three").to_owned()
}

/// Returns the directory of the WebSocket client for Node.js.
#[track_caller]
pub(crate) fn ws() -> String {
    let manifest = from("TIELINE_NODE_FIXTURES", "node_modules/ws/package.json");
    text(manifest.parent().expect("a directory").to_owned())
}

#[track_caller]
fn from(variable: &str, below: &str) -> PathBuf {
    let remedy = "get it with `cargo xtask test --install`, and run tests by `cargo xtask test`";
    let Some(value) = std::env::var_os(variable) else {
        panic!("{variable} is not set; {remedy}");
    };
    let path = if below.is_empty() { value.into() } else { PathBuf::from(value).join(below) };
    assert!(path.is_file(), "{}, from {variable}, does not exist; {remedy}", path.display());
    path
}

fn text(path: PathBuf) -> String {
    path.into_os_string().into_string().expect("a UTF-8 path")
}
