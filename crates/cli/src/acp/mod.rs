//! `/acp`: the remote transport of the Agent Client Protocol, with a program for each connection.
//!
//! ```text
//!   POST, GET, DELETE ─▶ AcpRoute ─▶ Live, one for each connection ─▶ RouteLine ⇄ EventChannel ─▶ LineAcceptor
//!                            │       a state under a lock                                        ▲    │
//!                            └── upgrade ─▶ WebSocket ───────────────────────────────────────────┘    ▼
//!                                                                          the gateway's Server ─▶ program
//! ```

mod live;

use std::sync::Arc;

use tieline_http::{Responding, Route, RouteHandler, RouteRequest, RouteResponse, Token, WebLine};
use tieline_mcp::{
    ACP_CONNECTION_ID, ACP_SESSION_ID, AcpConnection, AcpHead, AcpLimits, AcpPosted, Ending,
    Initialized, LAST_EVENT_ID, Refusal,
};
use tieline_proto::FramingKind;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::Dialect;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::live::{Live, Unposted};
use crate::routes::{BACKLOG, Refusals, Refused, RouteOptions, RouteSite, Table};

/// The path of the route.
const ACP_PATH: &str = "/acp";

/// Returns the dialect of the clients at `/acp`: ACP if the program speaks it, or if the program has no known
/// dialect and its messages are lines. Returns `None` if the program does not speak ACP.
pub(crate) fn dialect(of_program: Option<Dialect>, framing: FramingKind) -> Option<Dialect> {
    match of_program {
        None => (framing == FramingKind::Lines).then_some(Dialect::ACP),
        known => known.filter(|it| *it == Dialect::ACP),
    }
}

/// Returns the start-up text for ACP clients of the server at `url`, who have to send this token, if any.
pub(crate) fn snippet(url: &str, token: Option<&str>) -> String {
    let header =
        token.map_or_else(String::new, |it| format!(", header Authorization: Bearer {it}"));
    format!("  ACP clients: {url} (HTTP or WebSocket{header})\n")
}

/// The connections by their ids.
type Connections = Table<Live>;

/// Creates the route of a web server.
pub(crate) fn site(options: RouteOptions) -> RouteSite<WebLine> {
    let (lines, arrivals) = mpsc::channel(BACKLOG);
    let connections = Arc::<Connections>::default();
    let (clock, refusals) = (Instant::now(), Refusals::of("ACP"));
    let handler = AcpRoute { connections: connections.clone(), lines, options, clock, refusals };
    let route = Route {
        path: ACP_PATH,
        methods: &["GET", "POST", "DELETE"],
        headers: &["content-type", LAST_EVENT_ID, ACP_CONNECTION_ID, ACP_SESSION_ID],
        exposes: &[ACP_CONNECTION_ID, ACP_SESSION_ID],
        handler: Arc::new(handler),
    };
    let make_room = Arc::new(move || {
        let is_ended = connections.make_room();
        if is_ended {
            tracing::info!(
                "an ACP connection ended: it was idle, and another client needed its place"
            );
        }
        is_ended
    });
    RouteSite { route, arrivals, make_room }
}

struct AcpRoute {
    connections: Arc<Connections>,
    lines: mpsc::Sender<WebLine>,
    options: RouteOptions,
    clock: Instant,
    refusals: Refusals,
}

impl RouteHandler for AcpRoute {
    fn handle(&self, request: RouteRequest) -> Responding<'_> {
        Box::pin(async move {
            let mut request = request;
            let answered = match request.method() {
                "POST" => self.post(&mut request).await,
                "GET" if request.is_upgrade() => return self.web_socket(request),
                "GET" => self.get(&request),
                _ => self.delete(&request),
            };
            answered.unwrap_or_else(|refused| self.refusals.response(&request, refused))
        })
    }
}

impl AcpRoute {
    async fn post(&self, request: &mut RouteRequest) -> Result<RouteResponse, Refused> {
        let head = AcpHead::of(request.headers())?;
        head.check_post()?;
        let posted = AcpPosted::read(request.body().await?, Limits::default())?;
        match (posted.opening(), head.connection()) {
            (Some(opening), None) => {
                let acp = AcpConnection::new(self.clock.elapsed(), opening, AcpLimits::default());
                return self.initialize(request, &posted, acp).await;
            }
            (Some(_), Some(_)) => {
                let text = "an initialize request begins a new connection, and must not have the header \
                            Acp-Connection-Id";
                return Err(posted.refused(Refusal::new(400, text)).into());
            }
            (None, _) => {}
        }
        let found = self.find(&head, request).map_err(|refusal| posted.refused(refusal))?;
        let taken = found.post(&head, &posted, self.options.take_wait).await;
        taken.map(|()| request.empty(202)).map_err(|why| unposted(request, why))
    }

    /// Begins a connection, and waits for the response of the program.
    async fn initialize(
        &self,
        request: &RouteRequest,
        posted: &AcpPosted,
        acp: AcpConnection,
    ) -> Result<RouteResponse, Refused> {
        let live = self.open(request, acp)?;
        let mut unopened = Unopened(Some(live.clone()));
        live.begin(posted, self.options.take_wait).await.map_err(|why| unposted(request, why))?;
        let lost = || {
            let text = "the agent has responded, but the server has too little memory for the response, which is \
                        lost";
            posted.refused(Refusal::new(503, text)).body()
        };
        match live.initialized().await {
            Initialized::Accepted(response) => {
                unopened.0 = None;
                let response = request.json(200, response, lost);
                Ok(response.with_header(ACP_CONNECTION_ID, live.id()))
            }
            Initialized::Rejected(response) => Ok(request.json(200, response, lost)),
            Initialized::Ended(refusal) => Err(posted.refused(refusal).into()),
            // `initialized` has waited.
            Initialized::Wait(_) => Err(posted.refused(Refusal::unknown_connection()).into()),
        }
    }

    fn get(&self, request: &RouteRequest) -> Result<RouteResponse, Refused> {
        let head = AcpHead::of(request.headers())?;
        head.check_get()?;
        let live = self.find(&head, request)?;
        let attached = live.get(&head)?;
        let (writer, response) = request.events();
        let mut response = response.with_header(ACP_CONNECTION_ID, live.id());
        if let Some(session) = head.session() {
            response = response.with_header(ACP_SESSION_ID, session);
        }
        tokio::spawn(attached.deliver(writer));
        Ok(response)
    }

    fn delete(&self, request: &RouteRequest) -> Result<RouteResponse, Refused> {
        let head = AcpHead::of(request.headers())?;
        self.find(&head, request)?.end(Ending::Deleted);
        Ok(request.empty(202))
    }

    /// Accepts a WebSocket, which is a line like any other. Its id only identifies it.
    fn web_socket(&self, request: RouteRequest) -> RouteResponse {
        let Ok(id) = Token::random() else { return no_random_bytes(&request) };
        request.web_socket(&self.lines).with_header(ACP_CONNECTION_ID, id.reveal())
    }

    /// Returns the connection that a request names, if it belongs to the client.
    fn find(&self, head: &AcpHead, request: &RouteRequest) -> Result<Arc<Live>, Refusal> {
        let found = self.connections.find(head.need_connection()?, request.owner());
        found.ok_or_else(Refusal::unknown_connection)
    }

    /// Opens a connection, and passes its line to the gateway.
    fn open(&self, request: &RouteRequest, acp: AcpConnection) -> Result<Arc<Live>, Refused> {
        let busy = || request.busy("too many clients are connected or waiting; try again later");
        let place = self.lines.try_reserve().map_err(|_| busy())?;
        let id = Token::random().map_err(|_| no_random_bytes(request))?;
        let (channel, line) = request.line();
        let memory = self.options.memory.as_ref();
        let id = id.reveal().to_owned();
        let live = Live::new(id, request.owner(), acp, line, self.clock, memory);
        if self.connections.is_full(self.options.most, 0) {
            return Err(busy().into());
        }
        self.connections.insert(live.id(), live.clone());
        place.send(WebLine::Events(channel));
        tokio::spawn(live.clone().run(self.connections.clone()));
        Ok(live)
    }
}

fn no_random_bytes(request: &RouteRequest) -> RouteResponse {
    request.busy("the system provides no random bytes; try again later")
}

/// Returns the response to a POST that was not accepted.
fn unposted(request: &RouteRequest, why: Unposted) -> Refused {
    match why {
        Unposted::Refused(refusal) => refusal.into(),
        Unposted::Full => {
            request.busy("the agent did not take the message in time; try again later").into()
        }
    }
}

/// A connection whose client does not know its id yet. Dropping this ends the connection.
struct Unopened(Option<Arc<Live>>);

impl Drop for Unopened {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|live| live.end(Ending::Deleted));
    }
}
