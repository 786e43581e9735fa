//! `/mcp`: the Model Context Protocol over HTTP, with a program for each session.
//!
//! ```text
//!   POST, GET, DELETE ─▶ McpRoute ─▶ Live, one for each session ─▶ RouteLine ⇄ EventChannel ─▶ LineAcceptor
//!                                    a state under a lock                                       │
//!                                                                             the gateway's Server ─▶ program
//! ```

mod live;
mod modern;
mod snippet;

use std::sync::Arc;

use tieline_http::{
    EventChannel, Responding, Route, RouteHandler, RouteRequest, RouteResponse, Token,
};
use tieline_mcp::{
    Answer, Ending, Era, Head, LAST_EVENT_ID, METHOD, ModernHead, NAME, PARAM, PROTOCOL_VERSION,
    Posted, Refusal, SESSION_ID, Session, SessionLimits,
};
use tieline_proto::FramingKind;
use tieline_proto::json::Limits;
use tieline_proto::jsonrpc::Dialect;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::live::{Attached, Live, Unposted};
use self::modern::Programs;
pub(crate) use self::snippet::snippet;
use crate::routes::{BACKLOG, Refusals, Refused, RouteOptions, RouteSite, Table};

/// The path of the route.
const MCP_PATH: &str = "/mcp";

/// Returns the dialect of the clients at `/mcp`. It is the program's dialect if that is MCP, and MCP if
/// the program has no known dialect and its messages are lines. Returns `None` if the program does not
/// speak MCP.
pub(crate) fn dialect(of_program: Option<Dialect>, framing: FramingKind) -> Option<Dialect> {
    match of_program {
        None => (framing == FramingKind::Lines).then_some(Dialect::MCP),
        known => known.filter(|it| [Dialect::MCP, Dialect::MCP_2025_03_26].contains(it)),
    }
}

/// Creates the route of a web server.
pub(crate) fn site(options: RouteOptions) -> RouteSite<EventChannel> {
    let (lines, arrivals) = mpsc::channel(BACKLOG);
    let (sessions, programs, clock) = (Arc::<Sessions>::default(), Arc::default(), Instant::now());
    let refusals = Refusals::of("MCP");
    let handler =
        McpRoute { sessions: sessions.clone(), programs, lines, options, clock, refusals };
    let route = Route {
        path: MCP_PATH,
        methods: &["GET", "POST", "DELETE"],
        headers: &[
            "content-type",
            LAST_EVENT_ID,
            SESSION_ID,
            PROTOCOL_VERSION,
            METHOD,
            NAME,
            PARAM,
        ],
        exposes: &[SESSION_ID],
        handler: Arc::new(handler),
    };
    let make_room = Arc::new(move || {
        let is_ended = sessions.make_room();
        if is_ended {
            tracing::info!(
                "an MCP session ended: it was idle, and another client needed its place"
            );
        }
        is_ended
    });
    RouteSite { route, arrivals, make_room }
}

/// The sessions by their ids.
type Sessions = Table<Live>;

struct McpRoute {
    sessions: Arc<Sessions>,
    programs: Arc<Programs>,
    lines: mpsc::Sender<EventChannel>,
    options: RouteOptions,
    clock: Instant,
    refusals: Refusals,
}

impl RouteHandler for McpRoute {
    fn handle(&self, request: RouteRequest) -> Responding<'_> {
        Box::pin(async move {
            let mut request = request;
            let answered = match request.method() {
                "POST" => self.post(&mut request).await,
                "GET" => self.get(&request),
                _ => self.delete(&request),
            };
            answered.unwrap_or_else(|refused| self.refusals.response(&request, refused))
        })
    }
}

impl McpRoute {
    async fn post(&self, request: &mut RouteRequest) -> Result<RouteResponse, Refused> {
        let modern_head = ModernHead::of(request.headers());
        let head = Head::of(request.headers());
        head.as_ref().map_or(Ok(()), Head::check_post)?;
        let posted = Posted::read(request.body().await?, Limits::default())?;
        let posted = match Era::of(modern_head, posted)? {
            Era::Legacy(posted) => posted,
            Era::Modern(posted) => return self.post_modern(request, posted).await,
            Era::Notification => return Ok(request.empty(202)),
        };
        let head = head?;
        let mut unopened = Unopened(None);
        let live = match posted.opening() {
            Some(opening) if head.session().is_none() => {
                let session = Session::new(self.clock.elapsed(), opening, SessionLimits::default());
                unopened.0.insert(self.open(request, session)?).clone()
            }
            _ => {
                let found = head.need_session();
                let found = found.and_then(|id| self.find(id, request));
                found.map_err(|refusal| posted.refused(refusal))?
            }
        };
        let taken = live.post(&head, &posted, self.options.take_wait).await;
        if taken.is_ok() {
            unopened.0 = None;
        }
        match taken {
            Err(Unposted::Refused(refusal)) => Err(refusal.into()),
            Err(Unposted::Full) => {
                let text = "the program did not take the messages in time; try again later";
                Err(request.busy(text).into())
            }
            Ok(None) => Ok(request.empty(202)),
            Ok(Some(attached)) => self.answer(request, &posted, attached).await,
        }
    }

    /// Waits for the response to a POST with requests, or until the response becomes an event stream.
    async fn answer(
        &self,
        request: &RouteRequest,
        posted: &Posted,
        mut attached: Attached,
    ) -> Result<RouteResponse, Refused> {
        let response = match attached.answer().await {
            Answer::Json(json) => request.json(200, json, || posted.refused(lost()).body()),
            Answer::Ended(why) => return Err(posted.refused(why.refusal()).into()),
            Answer::Events | Answer::Wait(_) => return Ok(stream(request, attached)),
        };
        let response = response.with_header(SESSION_ID, attached.session());
        attached.delivered();
        Ok(response)
    }

    fn get(&self, request: &RouteRequest) -> Result<RouteResponse, Refused> {
        let head = Head::of(request.headers())?;
        head.check_get()?;
        let live = self.find(head.need_session()?, request)?;
        Ok(stream(request, live.get(&head)?))
    }

    fn delete(&self, request: &RouteRequest) -> Result<RouteResponse, Refused> {
        let head = Head::of(request.headers())?;
        let live = self.find(head.need_session()?, request)?;
        live.end(Ending::Deleted);
        Ok(request.empty(204))
    }

    /// Returns whether there is no place for another session or program.
    fn is_full(&self) -> bool {
        self.sessions.is_full(self.options.most, self.programs.count())
    }

    /// Returns the session with this id, if it belongs to the client.
    fn find(&self, id: &str, request: &RouteRequest) -> Result<Arc<Live>, Refusal> {
        self.sessions.find(id, request.owner()).ok_or_else(Refusal::unknown_session)
    }

    /// Opens a session, and passes its line to the gateway.
    fn open(&self, request: &RouteRequest, session: Session) -> Result<Arc<Live>, Refused> {
        let busy = || request.busy("too many clients are connected or waiting; try again later");
        let place = self.lines.try_reserve().map_err(|_| busy())?;
        let failed = |_| request.busy("the system provides no random bytes; try again later");
        let id = Token::random().map_err(failed)?.reveal().to_owned();
        let (channel, line) = request.line();
        let memory = self.options.memory.as_ref();
        let live = Live::new(id, request.owner(), session, line, self.clock, memory);
        if self.is_full() {
            return Err(busy().into());
        }
        self.sessions.insert(live.id(), live.clone());
        place.send(channel);
        tokio::spawn(live.clone().run(self.sessions.clone()));
        Ok(live)
    }
}

/// Returns the refusal in place of a response for which there is no memory.
fn lost() -> Refusal {
    let text = "the program has responded, but the server has too little memory for the response, which is lost";
    Refusal::new(503, text)
}

/// A session whose first request was not accepted yet. Dropping this ends the session, because the
/// client will never know its id.
struct Unopened(Option<Arc<Live>>);

impl Drop for Unopened {
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(|live| live.end(Ending::Deleted));
    }
}

/// Starts the event stream of a connection.
fn stream(request: &RouteRequest, attached: Attached) -> RouteResponse {
    let (writer, response) = request.events();
    let response = response.with_header(SESSION_ID, attached.session());
    tokio::spawn(attached.deliver(writer));
    response
}
