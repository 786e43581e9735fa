//! `tieline serve` on the web: its listeners, the access token and the start-up text.

use std::sync::Arc;
use std::time::Duration;

use tieline_gateway::ServerWatch;
use tieline_http::{Access, HttpServer, LineAcceptor, PublicUrl, Token};
use tieline_link::{LineOptions, SessionOptions, Sessions};
use tieline_proto::FramingKind;
use tieline_transport::{Address, DynAcceptor, Endpoint, MemoryBudget, Options};

use crate::args::WebServer;
use crate::children::TOKEN;
use crate::mcp::{self, McpOptions, McpSite};
use crate::memory::prometheus;
use crate::names::Name;
use crate::report::Failure;
use crate::sessions::Served;
use crate::shell::{curl, quote, set_variable};
use crate::status::LoginUrls;

/// How much longer than the program's stall timeout a POST waits, so that it can report the stall.
const TAKE_WAIT: Duration = Duration::from_secs(15);

/// The end of the request in the example for curl: in general, and for the demo agent.
const CALL: &str = r#""method":"METHOD""#;
const DEMO_CALL: &str = r#""method":"add","params":[2,3]"#;

/// The web servers of one `tieline serve`.
pub(crate) struct Sites {
    sites: Vec<HttpServer>,
    access: Option<(Access, bool)>,
    public_url: Option<PublicUrl>,
    /// The program's name, for the page.
    program_name: Name,
    /// The name that MCP clients give the server, if there is `/mcp`.
    mcp_name: Option<Name>,
    mcp_sessions: Vec<Arc<mcp::Sessions>>,
}

/// The acceptors of a web server.
pub(crate) struct SiteAcceptors {
    pub(crate) plain: Box<dyn DynAcceptor>,
    pub(crate) sessions: Box<dyn DynAcceptor>,
    /// The acceptor of MCP clients' sessions.
    pub(crate) mcp: Option<Box<dyn DynAcceptor>>,
}

/// How long to wait for clients to disconnect when closing.
const GOODBYE: Duration = Duration::from_secs(2);

impl Sites {
    /// Creates a set without listeners for this program. If MCP clients are accepted, `mcp_name` is
    /// their name for the server.
    pub(crate) fn of(program_name: Name, mcp_name: Option<Name>) -> Self {
        let (sites, mcp_sessions) = (Vec::new(), Vec::new());
        Self { sites, access: None, public_url: None, program_name, mcp_name, mcp_sessions }
    }

    /// Returns whether `endpoint` is a web endpoint.
    pub(crate) fn is_one(endpoint: &Endpoint) -> bool {
        matches!(endpoint.scheme(), "http" | "https" | "http-unix")
    }

    /// Listens on `endpoint`.
    pub(crate) async fn listen(
        &mut self,
        args: &WebServer,
        endpoint: &Endpoint,
        options: &Options,
        served: Served,
    ) -> Result<SiteAcceptors, Failure> {
        let access = match &self.access {
            Some((access, _)) => access.clone(),
            None => self.access.insert(args.access()?).0.clone(),
        };
        let mut config = args.config(endpoint, access)?;
        config.web_socket.channel = options.channel;
        config.allow_uids.clone_from(&options.allow_uids);
        (config.socket_mode, config.socket_group) = (options.socket_mode, options.socket_group);
        config.memory.clone_from(&options.memory);
        self.public_url.clone_from(&args.public_url);
        config.program_name = Some(self.program_name.to_string());
        // A program that accepts any bytes receives each message unchanged.
        config.web_socket.verbatim = served.framing == FramingKind::LengthPrefix;
        // Permit as many connections as lines, and some more for pages and health checks.
        let most = served.most.saturating_add(64);
        let limits = &mut config.limits;
        // A POST waits as long as the program may be busy.
        limits.take_wait = options.channel.program_stall_timeout.saturating_add(TAKE_WAIT);
        limits.connections = limits.connections.max(most);
        limits.connections_per_peer = limits.connections_per_peer.max(most);
        limits.event_streams = limits.event_streams.max(served.most);
        let usual = SessionOptions::default();
        let grace = args.session_grace.or(served.resume).unwrap_or(usual.grace);
        limits.event_grace = grace;
        let (most, take_wait, idle) = (served.most, limits.take_wait, served.idle);
        let mcp = self.mcp_name.as_ref().map(|_| {
            let memory = options.memory.clone();
            mcp::site(McpOptions { most, take_wait, memory, idle })
        });
        let arrivals = mcp.map(|McpSite { route, arrivals, sessions }| {
            config.routes.push(route);
            self.mcp_sessions.push(sessions);
            arrivals
        });
        let (site, plain, resumable) = HttpServer::listen(config).await?;
        let endpoint = site.endpoint().clone();
        let session = SessionOptions { grace, max_sessions: served.most, ..usual };
        let sessions = Sessions::new(Box::new(resumable), session, LineOptions::of(options));
        let failures = sessions.failures();
        site.set_failures(move |session, owner| failures.get(session, owner));
        self.sites.push(site);
        let mcp = arrivals.map(|arrivals| -> Box<dyn DynAcceptor> {
            Box::new(LineAcceptor::new(arrivals, endpoint))
        });
        Ok(SiteAcceptors { plain: Box::new(plain), sessions: Box::new(sessions), mcp })
    }

    /// Returns a function that ends an abandoned MCP session, so that another client gets its place. The function
    /// returns false if there is no such session.
    pub(crate) fn make_room(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let sessions = self.mcp_sessions.clone();
        move || sessions.iter().any(|it| it.make_room())
    }

    /// Exports the server's counters and memory use at `/metrics`.
    pub(crate) fn export(&self, watch: &ServerWatch, memory: &MemoryBudget) {
        for site in &self.sites {
            let (watch, memory) = (watch.clone(), memory.clone());
            site.set_metrics(move || watch.prometheus() + &prometheus(&memory));
        }
    }

    /// Returns the start-up text for web clients. It includes the token if that is a new random one.
    pub(crate) fn invitation(
        &self,
        tieline: &str,
        is_demo: bool,
        has_status: bool,
    ) -> Result<String, Failure> {
        let needs_token = matches!(&self.access, Some((Access::Token(_), _)));
        let mut text = String::new();
        let prefix = match &self.access {
            Some((Access::Token(token), true)) => {
                let command = set_variable(TOKEN, Token::reveal(token));
                text.push_str(&format!("  {command}\n"));
                ""
            }
            Some((Access::Token(_), false)) => "TIELINE_TOKEN=… ",
            _ => "",
        };
        for site in &self.sites {
            let (web_socket, events) = match &self.public_url {
                Some(public) => (public.web_socket(), public.events()),
                None => (web_socket(&site.local_endpoint()), events(&site.local_endpoint())),
            };
            let web_socket = quote(&web_socket);
            text.push_str(&format!("  {prefix}{tieline} connect {web_socket}\n"));
            let token = needs_token.then_some(TOKEN);
            let call = if is_demo { DEMO_CALL } else { CALL };
            let (more, rpc) = match (&self.public_url, site.endpoint().address()) {
                (None, Address::Other { scheme, rest }) if scheme == "http-unix" => {
                    (format!("--unix-socket {} ", quote(rest)), "http://localhost/rpc".into())
                }
                _ => (String::new(), quote(&format!("{}rpc", events.trim_end_matches("sse")))),
            };
            text.push_str(&format!("  {}\n", curl(&more, &rpc, token, call)));
            text.push_str(&format!("  or with server-sent events: {events}\n"));
            if let (Some(name), Some(url)) = (&self.mcp_name, self.mcp_url(site.endpoint())) {
                let token = match &self.access {
                    Some((Access::Token(token), true)) => Some(Token::reveal(token)),
                    _ => needs_token.then_some("TOKEN"),
                };
                text.push_str(&mcp::snippet(name, &url, token));
            }
            if let Some(url) = site.one_time_url()? {
                let once = match (needs_token, has_status) {
                    (false, _) => String::new(),
                    (true, false) => " (the link works once)".into(),
                    (true, true) => {
                        format!(" (the link works once; {tieline} status --url prints another)")
                    }
                };
                text.push_str(&format!("  or in a browser{once}: {url}\n"));
            }
            if self.public_url.is_none() && site.endpoint() != &site.local_endpoint() {
                text.push_str(
                    "  clients on other machines need a name of this machine, allowed with --allow-host NAME\n",
                );
            }
        }
        Ok(text)
    }

    /// Returns a function that creates new one-time URLs for all sites.
    pub(crate) fn login_urls(&self) -> LoginUrls {
        let sites: Vec<_> = self.sites.iter().map(HttpServer::login_urls).collect();
        Box::new(move || {
            let urls = sites.iter().filter_map(|site| match site.create() {
                Ok(url) => url,
                Err(error) => {
                    tracing::warn!("cannot create a one-time URL: {error}");
                    None
                }
            });
            urls.collect()
        })
    }

    /// Returns the URL for MCP clients, or `None` for a Unix socket without a public URL.
    fn mcp_url(&self, listener: &Endpoint) -> Option<String> {
        match (&self.public_url, listener.scheme()) {
            (Some(public), _) => Some(format!("{public}mcp")),
            (None, "http-unix") => None,
            (None, _) => Some(format!("{listener}/mcp")),
        }
    }

    /// Returns whether the token is new and must be printed even with `--quiet`.
    pub(crate) fn has_secret_to_tell(&self) -> bool {
        matches!(&self.access, Some((Access::Token(_), true)))
    }

    /// Makes `/health/ready` report that the server is about to stop.
    pub(crate) fn not_ready(&self) {
        self.sites.iter().for_each(|site| site.set_ready(false));
    }

    /// Closes all remaining connections and stops.
    pub(crate) async fn close(self) {
        let mut closing = tokio::task::JoinSet::new();
        for site in self.sites {
            closing.spawn(site.close(GOODBYE));
        }
        closing.join_all().await;
    }
}

/// Returns the WebSocket URL of a listener.
fn web_socket(listener: &Endpoint) -> String {
    match listener.address() {
        Address::Other { scheme, rest } if scheme == "http-unix" => format!("ws-unix:{rest}"),
        Address::Other { scheme, rest } => {
            let scheme = if scheme == "https" { "wss" } else { "ws" };
            format!("{scheme}:{rest}/ws")
        }
        _ => listener.exact().to_string(),
    }
}

/// Returns the event-stream URL of a listener.
fn events(listener: &Endpoint) -> String {
    match listener.address() {
        Address::Other { scheme, .. } if scheme == "http-unix" => listener.exact().to_string(),
        _ => format!("{listener}/sse"),
    }
}
