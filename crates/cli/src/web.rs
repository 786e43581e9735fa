//! `tieline serve` on the web: its listeners, the access token and the start-up text.

use std::time::Duration;

use tieline_gateway::ServerWatch;
use tieline_http::{Access, HttpServer, LineAcceptor, PublicUrl, Token};
use tieline_link::{LineOptions, SessionOptions, Sessions};
use tieline_proto::FramingKind;
use tieline_proto::jsonrpc::Dialect;
use tieline_transport::{Address, DynAcceptor, Endpoint, MemoryBudget, Options};

use crate::acp;
use crate::args::WebServer;
use crate::children::TOKEN;
use crate::mcp;
use crate::memory::prometheus;
use crate::names::Name;
use crate::report::Failure;
use crate::routes::{MakeRoom, RouteOptions, RouteSite};
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
    /// Whether clients can get access tokens from an OAuth issuer.
    has_issuer: bool,
    /// The program's name, for the page.
    program_name: Name,
    protocols: Protocols,
    make_room: Vec<MakeRoom>,
}

/// The protocols with a route of their own that the program may speak.
pub(crate) struct Protocols {
    /// The dialect of MCP clients, and their name for the server.
    pub(crate) mcp: Option<(Dialect, Name)>,
    /// The dialect of ACP clients.
    pub(crate) acp: Option<Dialect>,
}

/// The acceptors of a web server.
pub(crate) struct SiteAcceptors {
    pub(crate) plain: Box<dyn DynAcceptor>,
    pub(crate) sessions: Box<dyn DynAcceptor>,
    /// The acceptors of clients of a route, and their dialects.
    pub(crate) routes: Vec<(Box<dyn DynAcceptor>, Dialect)>,
}

/// How long to wait for clients to disconnect when closing.
const GOODBYE: Duration = Duration::from_secs(2);

impl Sites {
    /// Creates a set without listeners for this program.
    pub(crate) fn of(program_name: Name, protocols: Protocols) -> Self {
        let (sites, make_room) = (Vec::new(), Vec::new());
        let (access, public_url, has_issuer) = (None, None, false);
        Self { sites, access, public_url, has_issuer, program_name, protocols, make_room }
    }

    /// Returns whether `endpoint` is a web endpoint.
    pub(crate) fn is_one(endpoint: &Endpoint) -> bool {
        matches!(endpoint.scheme(), "http" | "https") || is_local(endpoint.scheme())
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
        config.pipe_security.clone_from(&options.pipe_security);
        config.memory.clone_from(&options.memory);
        self.public_url.clone_from(&args.public_url);
        self.has_issuer = args.has_issuer();
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
        let options_of_routes =
            RouteOptions { most, take_wait, memory: options.memory.clone(), idle };
        let mcp = self.protocols.mcp.as_ref().map(|(dialect, _)| {
            let RouteSite { route, arrivals, make_room } = mcp::site(options_of_routes.clone());
            config.routes.push(route);
            self.make_room.push(make_room);
            (arrivals, *dialect)
        });
        let acp = self.protocols.acp.map(|dialect| {
            let RouteSite { route, arrivals, make_room } = acp::site(options_of_routes);
            config.routes.push(route);
            self.make_room.push(make_room);
            (arrivals, dialect)
        });
        let (site, plain, resumable) = HttpServer::listen(config).await?;
        let endpoint = site.endpoint().clone();
        let session = SessionOptions { grace, max_sessions: served.most, ..usual };
        let sessions = Sessions::new(Box::new(resumable), session, LineOptions::of(options));
        let failures = sessions.failures();
        site.set_failures(move |session, owner| failures.get(session, owner));
        self.sites.push(site);
        let mut routes: Vec<(Box<dyn DynAcceptor>, Dialect)> = Vec::new();
        if let Some((arrivals, dialect)) = mcp {
            routes.push((Box::new(LineAcceptor::new(arrivals, endpoint.clone())), dialect));
        }
        if let Some((arrivals, dialect)) = acp {
            routes.push((Box::new(LineAcceptor::new(arrivals, endpoint)), dialect));
        }
        Ok(SiteAcceptors { plain: Box::new(plain), sessions: Box::new(sessions), routes })
    }

    /// Returns a function that ends an abandoned client of a route, so that another client gets its place. The
    /// function returns false if there is none.
    pub(crate) fn make_room(&self) -> impl Fn() -> bool + Send + Sync + 'static {
        let make_room = self.make_room.clone();
        move || make_room.iter().any(|it| it())
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
            let call = match (&self.public_url, site.endpoint().address()) {
                (None, Address::Other { scheme, rest }) if scheme == "http-unix" => {
                    let socket = format!("--unix-socket {} ", quote(rest));
                    curl(&socket, "http://localhost/rpc", token, call)
                }
                // curl cannot use a named pipe.
                (None, Address::Other { scheme, .. }) if is_local(scheme) => String::new(),
                _ => {
                    curl("", &quote(&format!("{}rpc", events.trim_end_matches("sse"))), token, call)
                }
            };
            if !call.is_empty() {
                text.push_str(&format!("  {call}\n"));
            }
            text.push_str(&format!("  or with server-sent events: {events}\n"));
            let token = match &self.access {
                Some((Access::Token(token), true)) => Some(Token::reveal(token)),
                _ => needs_token.then_some("TOKEN"),
            };
            let url = |route| self.route_url(site.endpoint(), route);
            if let (Some((_, name)), Some(url)) = (&self.protocols.mcp, url("mcp")) {
                // With an issuer, MCP clients get an access token by themselves.
                let token = token.filter(|_| !self.has_issuer);
                text.push_str(&mcp::snippet(name, &url, token));
            }
            // A program that may speak either is more often an MCP server, and the text is long.
            let is_acp = self.protocols.mcp.is_none() && self.protocols.acp.is_some();
            if let (true, Some(url)) = (is_acp, url("acp")) {
                text.push_str(&acp::snippet(&url, token));
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

    /// Returns the URL of a route, or `None` for a Unix socket without a public URL.
    fn route_url(&self, listener: &Endpoint, route: &str) -> Option<String> {
        match (&self.public_url, listener.scheme()) {
            (Some(public), _) => Some(format!("{public}{route}")),
            (None, scheme) if is_local(scheme) => None,
            (None, _) => Some(format!("{listener}/{route}")),
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

/// Returns whether web clients of an endpoint with this scheme connect to a Unix socket or a named pipe.
pub(crate) fn is_local(scheme: &str) -> bool {
    matches!(scheme, "http-unix" | "http-pipe")
}

/// Returns the WebSocket URL of a listener.
fn web_socket(listener: &Endpoint) -> String {
    match listener.address() {
        Address::Other { scheme, rest } if is_local(scheme) => {
            format!("{}:{rest}", scheme.replace("http-", "ws-"))
        }
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
        Address::Other { scheme, .. } if is_local(scheme) => listener.exact().to_string(),
        _ => format!("{listener}/sse"),
    }
}
