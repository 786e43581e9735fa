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

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

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
use tieline_transport::{MemoryBudget, Owner, WarnThrottle};
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::live::{Attached, Live, Unposted};
use self::modern::Programs;
pub(crate) use self::snippet::snippet;

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

/// The maximum number of new sessions that wait for the gateway.
const BACKLOG: usize = 64;

/// The options for the sessions of a server.
pub(crate) struct McpOptions {
    /// The maximum number of sessions.
    pub(crate) most: usize,
    /// How long a POST waits until the program reads.
    pub(crate) take_wait: Duration,
    pub(crate) memory: Option<MemoryBudget>,
    /// How long a program without requests is kept if its clients have no sessions.
    pub(crate) idle: Duration,
}

/// `/mcp` of one web server.
pub(crate) struct McpSite {
    pub(crate) route: Route,
    /// The lines of new sessions.
    pub(crate) arrivals: mpsc::Receiver<EventChannel>,
    pub(crate) sessions: Arc<Sessions>,
}

/// Creates the route of a web server.
pub(crate) fn site(options: McpOptions) -> McpSite {
    let (lines, arrivals) = mpsc::channel(BACKLOG);
    let (sessions, programs, clock) = (Arc::<Sessions>::default(), Arc::default(), Instant::now());
    let refusals = WarnThrottle::new(|count| {
        tracing::info!(count, "more MCP requests were refused");
    });
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
    McpSite { route, arrivals, sessions }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The sessions by their ids.
#[derive(Default)]
pub(crate) struct Sessions(Mutex<HashMap<String, Arc<Live>>>);

impl Sessions {
    fn table(&self) -> MutexGuard<'_, HashMap<String, Arc<Live>>> {
        lock(&self.0)
    }

    /// Returns the session with this id, if it belongs to `owner`.
    fn find(&self, id: &str, owner: Owner) -> Result<Arc<Live>, Refusal> {
        let live = self.table().get(id).filter(|live| live.owner == owner).cloned();
        live.ok_or_else(Refusal::unknown_session)
    }

    fn remove(&self, id: &str) {
        self.table().remove(id);
    }

    /// Returns whether [`make_room`](Self::make_room) has a session to end.
    fn has_abandoned(&self) -> bool {
        self.table().values().any(|live| live.abandoned_since().is_some())
    }

    /// Ends the session that has been abandoned the longest. Its client gets 404 and initializes a new one.
    /// Returns false if there is none.
    pub(crate) fn make_room(&self) -> bool {
        let table = self.table();
        let abandoned = table.values().filter_map(|live| Some((live.abandoned_since()?, live)));
        let oldest = abandoned.min_by_key(|(since, _)| *since);
        let is_ended = oldest.is_some_and(|(_, live)| live.evict());
        if is_ended {
            tracing::info!(
                "an MCP session ended: it was idle, and another client needed its place"
            );
        }
        is_ended
    }
}

struct McpRoute {
    sessions: Arc<Sessions>,
    programs: Arc<Programs>,
    lines: mpsc::Sender<EventChannel>,
    options: McpOptions,
    clock: Instant,
    refusals: WarnThrottle,
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
            answered.unwrap_or_else(|refused| match refused {
                Refused::Protocol(refusal) => {
                    let (status, text) = (refusal.status, &refusal.text);
                    match self.refusals.admit(std::time::Instant::now()) {
                        Some(unreported) => {
                            tracing::info!(status, unreported, "MCP request refused: {text}");
                        }
                        None => tracing::debug!(status, "MCP request refused: {text}"),
                    }
                    request.refused(status, refusal.body())
                }
                Refused::Http(response) => *response,
            })
        })
    }
}

/// A response other than a success.
enum Refused {
    Protocol(Refusal),
    Http(Box<RouteResponse>),
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Protocol(refusal)
    }
}

impl From<RouteResponse> for Refused {
    fn from(response: RouteResponse) -> Self {
        Self::Http(Box::new(response))
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
                let found = found.and_then(|id| self.sessions.find(id, request.owner()));
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
        let live = self.sessions.find(head.need_session()?, request.owner())?;
        Ok(stream(request, live.get(&head)?))
    }

    fn delete(&self, request: &RouteRequest) -> Result<RouteResponse, Refused> {
        let head = Head::of(request.headers())?;
        let live = self.sessions.find(head.need_session()?, request.owner())?;
        live.end(Ending::Deleted);
        Ok(request.empty(204))
    }

    /// Returns whether there is no place for another session or program. If a session can be ended for it, the
    /// gateway has that done when it needs the place.
    fn is_full(&self) -> bool {
        let (most, used) = (self.options.most, self.sessions.table().len() + self.programs.count());
        used >= most.saturating_add(BACKLOG) || used >= most && !self.sessions.has_abandoned()
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
        self.sessions.table().insert(live.id().to_owned(), live.clone());
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
