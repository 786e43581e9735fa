//! `tieline serve`: listens on endpoints and starts a program for each client, or one for several
//! clients.

use std::ffi::OsString;
use std::future::pending;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use tieline_gateway::{Bridge, ProcessModel, Server, ServerReport, Tap};
use tieline_http::ClientConfig;
use tieline_proto::FramingKind;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{
    DynAcceptor, DynConnector, Endpoint, ErrorKind, Options, ProcessCounts, Registry, redact,
    resolve,
};

use crate::acp;
use crate::args::{Logging, Serve};
use crate::children::{KILLED_TIMEOUT, StderrMode};
use crate::lookup;
use crate::mcp;
use crate::names::{self, Name};
use crate::report::{Failure, LogFormat, json_line};
use crate::sessions::{self, Served};
use crate::share::Background;
use crate::shell::{demo_call, quote};
use crate::signals::Signals;
use crate::status::{StatusServer, StatusSource};
use crate::web::{Protocols, Sites};

pub(crate) async fn run(
    args: Serve,
    logging: &Logging,
    background: Option<Background>,
) -> Result<(), Failure> {
    let signals = Signals::listen()?;
    args.line.end_with_parent(&signals)?;
    let mut registry = Registry::new();
    // Register these schemes, so that the error for `--listen ws://…` says what to write instead.
    tieline_http::register(&mut registry, ClientConfig::default());
    let program = Program::of(&args)?;
    if args.line.is_isolated() {
        try_isolation(&args, &program, logging).await?;
    }
    let account = args.line.account().clone();
    let (tap, tap_end) = Tap::open_if_any(args.line.tap.as_deref())?;
    let grace = args.line.grace();
    let overflow = args.slow_client;
    let (dialect, isolated) = (args.dialect, args.line.is_isolated());
    let memory = Some(args.line.memory());
    let bridge = Bridge { tap, dialect, grace, isolated, overflow, memory, ..Bridge::default() };
    let mut server = Server::new(args.max_connections, bridge);
    server.restart(args.restart);
    let processes = &args.processes;
    processes.check(args.anonymous())?;
    server.processes(processes.processes()).map_err(|error| processes.refused(error))?;
    server.account(account.clone());
    // In the other modes, the last lines are already on stderr or in the log.
    server.log_last_lines(args.line.stderr(logging) == StderrMode::Off);
    let name = || args.name.clone().unwrap_or_else(|| program.name.clone());
    let protocols = Protocols {
        mcp: mcp::dialect(dialect, args.framing).map(|dialect| (dialect, name())),
        acp: acp::dialect(dialect, args.framing),
    };
    let has_mcp = protocols.mcp.is_some() && args.listen.iter().any(Sites::is_one);
    if let Some(interval) = processes.probe(dialect, has_mcp)? {
        server.probe(interval);
    }
    let mut sites = Sites::of(program.name.clone(), protocols);
    let Listeners { acceptors, of_routes, endpoints } =
        listen_all(&args, &registry, &program, &mut sites, logging).await?;
    server.make_room(sites.make_room());
    if let Some(background) = &background {
        server.end_when_idle(background.idle_timeout());
    }
    let target = target(&args, &registry, &program, logging)?;
    for acceptor in acceptors {
        server.add(acceptor, target.clone());
    }
    for (acceptor, dialect) in of_routes {
        server.add_for_dialect(acceptor, target.clone(), dialect);
    }
    let endpoints: Vec<_> = endpoints.iter().map(Endpoint::absolute).collect();
    let watch = server.watch();
    let memory = args.line.memory();
    sites.export(&watch, &memory);
    let status = if args.no_status { None } else { status_server(&registry).await };
    let source = StatusSource::new(
        program.name.to_string(),
        &endpoints,
        watch.clone(),
        memory,
        sites.login_urls(),
    );
    let source = match &background {
        Some(background) => background.begin(source),
        None => {
            announce(&endpoints, &program, args.framing, &sites, status.is_some(), logging)?;
            source
        }
    };

    let answering = async {
        match status {
            Some(status) => status.run(source).await,
            None => pending().await,
        }
    };
    let stop = async {
        tokio::select! {
            () = signals.first() => {}
            () = stopped(background.as_ref()) => {}
        }
        sites.not_ready();
        let lines = watch.now().lines.len();
        if lines > 0 {
            tracing::info!(lines, "stopping; a second signal ends all lines at once");
        }
    };
    let served = tokio::select! {
        report = server.run(stop) => report,
        never = answering => match never {},
        () = signals.second() => {
            // Dropping the server has dropped all lines.
            log_programs(account.settled(KILLED_TIMEOUT).await);
            return Err(Failure::other("stopped at once by a second signal"));
        }
    };
    sites.close().await;
    let recorded = signals.written(tap_end).await;
    let ServerReport { served, refused, failed, lost, unread, restarted, programs, .. } = served;
    tracing::info!(served, refused, failed, lost, unread, restarted, "stopped");
    log_programs(programs);
    recorded
}

/// Completes when a server in the background is told to stop.
async fn stopped(background: Option<&Background>) {
    match background {
        Some(background) => background.stopped().await,
        None => pending().await,
    }
}

/// Listens for `tieline status`. If that fails, the server runs without it.
async fn status_server(registry: &Registry) -> Option<StatusServer> {
    let listening = StatusServer::listen(registry).await;
    listening.map_err(|why| tracing::warn!("tieline status cannot ask this server: {why}")).ok()
}

/// Logs how many programs ended in each way, and whether their guardians or jobs have confirmed that no
/// process is left.
fn log_programs(programs: ProcessCounts) {
    let ProcessCounts { started, by_itself, asked, terminated, killed, others_killed, .. } =
        programs;
    let (under_way, unchecked) = (programs.under_way(), programs.unchecked);
    if programs.none_left() {
        let words = "programs: no processes left";
        tracing::info!(started, by_itself, asked, terminated, killed, others_killed, "{words}");
    } else {
        let words = "programs: some processes may be left";
        tracing::warn!(
            started,
            by_itself,
            asked,
            terminated,
            killed,
            others_killed,
            under_way,
            unchecked,
            "{words}"
        );
    }
}

/// Checks that this machine allows isolation, before the endpoints are announced.
async fn try_isolation(args: &Serve, program: &Program, logging: &Logging) -> Result<(), Failure> {
    let endpoint = Endpoint::exec("/proc/self/exe", ["--version"]);
    // The program of the check is not counted, because it is not served.
    let options = Options { account: None, ..args.line.options(logging) };
    match Registry::new().connect(&endpoint, &options).await {
        Ok(line) => drop(line),
        // The check started this program, but the error names the program to serve.
        Err(error) => match program.argv.split_first() {
            Some((command, arguments)) => {
                return Err(error.at(&Endpoint::exec(command, arguments)).into());
            }
            None => return Err(error.into()),
        },
    }
    Ok(())
}

/// The program that is started for each client.
struct Program {
    argv: Vec<OsString>,
    /// The default name of the server, which users see unless they choose another one.
    name: Name,
    is_demo: bool,
    model: ProcessModel,
}

impl Program {
    /// Resolves the program, so that a missing one is reported before the endpoints are announced.
    fn of(args: &Serve) -> Result<Self, Failure> {
        let model = args.processes.model();
        let Some(program) = args.command.first() else {
            if args.framing != FramingKind::Lines {
                let why = "--framing is the framing of the program, and the built-in agent uses lines. For \
                           clients with another framing, use --listen content-length+unix:PATH";
                return Err(Failure::Usage(why.into()));
            }
            let argv = vec![std::env::current_exe()?.into(), "demo-agent".into()];
            let name = Name::of_command(&["demo-agent".into()], Path::new(""));
            return Ok(Self { argv, name, is_demo: true, model });
        };
        let endpoint = Endpoint::exec(program, args.command.get(1..).unwrap_or_default());
        if let Err(error) = resolve(program, args.cwd.as_deref()) {
            let words = redact(&program.to_string_lossy());
            if matches!(error.kind(), ErrorKind::CommandNotFound { .. }) && words.contains(' ') {
                return Err(Failure::Usage(format!(
                    "there is no program called {}; if these are a program and its arguments, write them \
                     without quotes around them: -- {words}",
                    quote(&words)
                )));
            }
            return Err(error.at(&endpoint).into());
        }
        // If the directory is unknown, programs that would be named after it are named after themselves.
        let directory = std::env::current_dir().unwrap_or_default();
        let directory = directory.join(args.cwd.as_deref().unwrap_or(Path::new("")));
        let name = Name::of_command(&args.command, &directory);
        Ok(Self { argv: args.command.clone(), name, is_demo: false, model })
    }
}

struct Listeners {
    acceptors: Vec<Box<dyn DynAcceptor>>,
    /// The acceptors of clients of a route, and their dialects.
    of_routes: Vec<(Box<dyn DynAcceptor>, Dialect)>,
    /// The endpoints that clients use, with their framing.
    endpoints: Vec<Endpoint>,
}

async fn listen_all(
    args: &Serve,
    registry: &Registry,
    program: &Program,
    sites: &mut Sites,
    logging: &Logging,
) -> Result<Listeners, Failure> {
    let (resume, most) = (args.resume, args.max_connections);
    let idle = args.processes.processes().idle_timeout;
    let served = Served { resume, most, framing: args.framing, idle };
    let (mut acceptors, mut of_routes, mut endpoints) = (Vec::new(), Vec::new(), Vec::new());
    if let Some(option) = args.web.first_given().filter(|_| !args.listen.iter().any(Sites::is_one))
    {
        return Err(Failure::Usage(format!(
            "{option} has no effect: it needs an http: or https: endpoint to listen on. Add one, for \
             example --listen http://127.0.0.1:8080"
        )));
    }
    if served.resume.is_some() {
        // Check this before any listener is opened.
        args.listen.iter().cloned().try_for_each(|it| sessions::resumable(it).map(drop))?;
    }
    let options = client_options(args, logging)?;
    if let Some(name) = &args.name {
        let acceptor = lookup::listen(registry, name.endpoint(), &options, served).await?;
        endpoints.push(acceptor.endpoint().clone());
        acceptors.push(acceptor);
    }
    for endpoint in &args.listen {
        if Sites::is_one(endpoint) {
            let site = sites.listen(&args.web, endpoint, &options, served).await?;
            endpoints.push(site.plain.endpoint().clone());
            acceptors.extend([site.plain, site.sessions]);
            of_routes.extend(site.routes);
            continue;
        }
        let allow_unauthenticated_tcp = args.allow_unauthenticated_tcp;
        let options = Options { allow_unauthenticated_tcp, ..options.clone() };
        let acceptor = lookup::listen(registry, endpoint.clone(), &options, served).await?;
        let listening = acceptor.endpoint().clone();
        endpoints.push(match endpoint.framing() {
            Some(framing) if !listening.is_resumable() => listening.with_framing(framing),
            _ => listening,
        });
        acceptors.push(acceptor);
    }
    if acceptors.is_empty() {
        let acceptor = names::listen_numbered(registry, &program.name, &options, served).await?;
        endpoints.push(acceptor.endpoint().clone());
        acceptors.push(acceptor);
    }
    Ok(Listeners { acceptors, of_routes, endpoints })
}

/// Returns the options for clients' lines.
fn client_options(args: &Serve, logging: &Logging) -> Result<Options, Failure> {
    let mut options = args.listen_options(logging)?;
    options.channel.stall_timeout = args.slow_client.stall_timeout(options.channel.stall_timeout);
    // Without a framing prefix, a client may use the program's framing or lines.
    options.detect_content_length = args.framing == FramingKind::ContentLength;
    Ok(options)
}

fn target(
    args: &Serve,
    registry: &Registry,
    program: &Program,
    logging: &Logging,
) -> Result<Arc<dyn DynConnector>, Failure> {
    let (command, arguments) =
        program.argv.split_first().ok_or_else(|| Failure::other("there is no command"))?;
    let endpoint = Endpoint::exec(command, arguments).with_framing(args.framing);
    let env = args.environment();
    let options = Options { cwd: args.cwd.clone(), env, ..args.line.options(logging) };
    Ok(Arc::from(registry.connector(&endpoint, &options)?))
}

/// Prints the endpoints on stdout for programs, and commands to paste on stderr for people.
fn announce(
    endpoints: &[Endpoint],
    program: &Program,
    framing: FramingKind,
    sites: &Sites,
    has_status: bool,
    logging: &Logging,
) -> Result<(), Failure> {
    // Errors are ignored, because the server also runs if its output is not read.
    let mut stdout = std::io::stdout();
    for endpoint in endpoints {
        let _ = writeln!(stdout, "{}", endpoint.exact());
    }
    let tieline = std::env::args().next().unwrap_or_else(|| "tieline".into());
    let web = sites.invitation(&quote(&tieline), program.is_demo, has_status)?;
    if !logging.is_quiet() {
        let invitation = invitation(&tieline, endpoints, program, framing) + &web;
        crate::stderr::say(invitation.as_bytes());
    } else if sites.has_secret_to_tell() {
        let told = match logging.log_format {
            LogFormat::Text => web,
            LogFormat::Json => {
                let message = "created a token for clients";
                json_line("INFO", [("message", message.into()), ("invitation", web.into())])
            }
        };
        crate::stderr::say(told.as_bytes());
    }
    Ok(())
}

fn invitation(
    tieline: &str,
    endpoints: &[Endpoint],
    program: &Program,
    framing: FramingKind,
) -> String {
    let built_in = if program.is_demo { " (built in)" } else { "" };
    let processes = match program.model {
        ProcessModel::Shared => "one process for all clients".into(),
        ProcessModel::PerUser => "one process per user".into(),
        ProcessModel::Pool(warm) => format!("one process per client, {warm} started ahead"),
        _ => "one process per client".to_owned(),
    };
    let name = endpoints.iter().find_map(Name::at).filter(|name| *name != program.name);
    let as_name = name.map_or_else(String::new, |name| format!(" as {name}"));
    let mut text = format!(
        "tieline: serving {}{built_in}{as_name}, {processes}; press Ctrl-C to stop\n\
         try it in another terminal:\n",
        program.name
    );
    for endpoint in endpoints.iter().filter(|it| !Sites::is_one(it)) {
        let (tieline, endpoint) = (quote(tieline), quote(&names::shortened(endpoint)));
        text.push_str(&match program.is_demo {
            true => format!("  {}\n", demo_call(&tieline, &endpoint)),
            false => format!("  {tieline} connect {endpoint}\n"),
        });
    }
    for endpoint in endpoints.iter().filter(|it| !Sites::is_one(it) && !it.is_resumable()) {
        text.push_str(&framings(endpoint, framing));
    }
    text
}

/// Returns a line that says which framings clients of `endpoint` may use, if these are not only that of
/// the program.
fn framings(endpoint: &Endpoint, program: FramingKind) -> String {
    let same = endpoint.clone().with_framing(program);
    match endpoint.framing() {
        None if program == FramingKind::ContentLength => format!(
            "clients may use lines, or {program} as the program does; to accept only {program}, listen on {same}\n"
        ),
        framing if framing.unwrap_or_default() == program => String::new(),
        framing => format!(
            "clients of {endpoint} use {}, and the program {program}; for clients that use {program}, listen on \
             {same}\n",
            framing.unwrap_or_default()
        ),
    }
}
