//! `tieline mcp`: lists and uses the tools, resources and prompts of an MCP server.

mod arguments;
mod server;
mod shown;

use bytes::Bytes;
use tieline_proto::jsonrpc::member;
use tokio::time::{Instant, sleep};

use self::arguments::Arguments;
use self::server::Server;
use crate::args::{Logging, Mcp, McpAction};
use crate::pretty::pretty;
use crate::report::Failure;
use crate::signals::Signals;
use crate::stdout::Printer;

pub(crate) async fn run(args: Mcp, logging: &Logging) -> Result<(), Failure> {
    check(&args)?;
    let signals = Signals::listen()?;
    args.reach.end_with_parent(&signals)?;
    let late = async {
        match args.timeout {
            Some(limit) => sleep(limit).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        done = use_server(&args, logging) => done,
        () = signals.first() => Err(Failure::other("stopped by a signal")),
        () = tieline_transport::stdout_closed() => {
            Err(Failure::other("stdout was closed before the output was complete"))
        }
        () = late => Err(Failure::other(format!(
            "{}: not finished within --timeout", args.endpoint.label()
        ))),
    }
}

/// Refuses names and arguments that the action does not have.
fn check(args: &Mcp) -> Result<(), Failure> {
    let problem = match (args.action, &args.name, args.arguments.is_empty()) {
        (McpAction::Call, None, _) => {
            "call needs the name of a tool; `tieline mcp tools ENDPOINT` lists them"
        }
        (McpAction::Tools, Some(_), _) => "tools takes only an ENDPOINT; to use a tool, write call",
        (McpAction::Resources, _, false) => "resources takes only an ENDPOINT and a URI",
        _ => return Ok(()),
    };
    Err(Failure::Usage(problem.to_owned()))
}

async fn use_server(args: &Mcp, logging: &Logging) -> Result<(), Failure> {
    args.reach.for_programs_at(&[&args.endpoint])?;
    args.web.check_for(&[&args.endpoint])?;
    let limit = args.reach.options(logging).channel.max_message;
    let arguments = Arguments::read(&args.arguments, limit).await?;
    let begun = Instant::now();
    let server = Server::open(args, logging).await?;
    tracing::debug!("connected and initialized within {:?}", begun.elapsed());
    let (printer, printed) = Printer::start()?;
    let done = act(args, &server, arguments, &printer).await;
    server.close().await;
    drop(printer);
    printed.all().await?;
    done
}

async fn act(
    args: &Mcp,
    server: &Server<'_>,
    arguments: Arguments,
    printer: &Printer,
) -> Result<(), Failure> {
    match (args.action, &args.name) {
        (McpAction::Tools, _) => {
            let tools = server.list("tools/list", "tools").await?;
            print_list(args, printer, &tools, shown::tool).await;
        }
        (McpAction::Resources, None) => {
            let mut all = server.list("resources/list", "resources").await?;
            // Servers without templates may not have the method.
            let templates = server.list("resources/templates/list", "resourceTemplates").await;
            all.extend(templates.unwrap_or_default());
            print_list(args, printer, &all, shown::resource).await;
        }
        (McpAction::Prompts, None) => {
            let prompts = server.list("prompts/list", "prompts").await?;
            print_list(args, printer, &prompts, shown::prompt).await;
        }
        (McpAction::Resources, Some(uri)) => {
            let params = serde_json::json!({ "uri": uri });
            let result = server.ask("resources/read", params).await?;
            print(args, printer, &result, shown::contents).await;
        }
        (McpAction::Prompts, Some(name)) => {
            let params = serde_json::json!({ "name": name, "arguments": arguments.strings() });
            let result = server.ask("prompts/get", params).await?;
            print(args, printer, &result, shown::messages).await;
        }
        (McpAction::Call, name) => {
            let name = name.as_deref().unwrap_or_default();
            let arguments = arguments.for_tool(server, name).await?;
            let params = serde_json::json!({ "name": name, "arguments": arguments });
            let result = server.ask("tools/call", params).await?;
            let has_failed = member(&result, "isError") == Some(b"true");
            if has_failed && !args.json {
                let text = shown::content(&result);
                let text = text.trim_end();
                return Err(Failure::other(format!(
                    "{}: the tool {name} has failed: {text}",
                    args.endpoint.label()
                )));
            }
            print(args, printer, &result, shown::content).await;
            if has_failed {
                let label = args.endpoint.label();
                return Err(Failure::other(format!("{label}: the tool {name} has failed")));
            }
        }
    }
    Ok(())
}

async fn print_list(args: &Mcp, printer: &Printer, all: &[Bytes], show: fn(&[u8]) -> String) {
    if args.json {
        let list = [b"[", &all.join(&b',')[..], b"]"].concat();
        return print_json(printer, &list).await;
    }
    let texts = all.iter().map(|it| show(it));
    printer.write(texts.collect::<String>().into_bytes()).await;
}

async fn print(args: &Mcp, printer: &Printer, result: &[u8], show: fn(&[u8]) -> String) {
    if args.json {
        return print_json(printer, result).await;
    }
    printer.write(show(result).into_bytes()).await;
}

async fn print_json(printer: &Printer, json: &[u8]) {
    let text = match printer.is_terminal {
        true => pretty(json).into_bytes(),
        false => json.to_vec(),
    };
    printer.print(text).await;
}
