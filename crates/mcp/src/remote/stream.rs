//! Requests in flight, and the bodies of their responses.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tieline_proto::jsonrpc::{Id, answers_in_text};
use tieline_proto::sse::{self, Item, Parser};
use tieline_proto::{
    ExchangeFailure, ExchangeMethod, ExchangeRequest, ExchangeStep, Fault, printable,
};

use super::failure::{Failure, MAX_BODY, shown};
use super::outgoing::{Outgoing, Sort};
use super::{Remote, RemoteLimits};
use crate::{LAST_EVENT_ID, SESSION_ID};

/// How often a request that did not reach the server is sent again.
const MAX_SENDS: u32 = 5;
/// How often a stream is resumed without a new event.
const MAX_RESUMES: u32 = 8;
/// The longest wait between two attempts.
const MAX_WAIT: Duration = Duration::from_secs(30);
/// The longest wait that a server can ask for.
const MAX_RETRY: Duration = Duration::from_secs(600);

/// A request in flight, or one that is sent again later.
#[derive(Debug)]
pub(super) struct Stream {
    task: Task,
    state: State,
    /// The session that it belongs to.
    session: Option<String>,
    /// The id of the last event, from which to resume.
    last_event_id: String,
    /// How long to wait before resuming, as the server asks for it.
    retry: Option<Duration>,
    /// The attempts since the last success.
    attempts: u32,
    /// Whether a message was lost that may have been the response.
    has_lost: bool,
    pub(super) give_up_at: Option<Duration>,
}

/// What a request is for.
#[derive(Debug)]
pub(super) enum Task {
    Post(Outgoing),
    /// The rest of the stream of a POST.
    Resume,
    /// The stream for messages that belong to no request.
    General,
}

#[derive(Debug)]
enum State {
    /// It is sent at this time.
    Waiting(Duration),
    /// It is sent, and has no response.
    Asked,
    /// The body is JSON.
    Json(BytesMut),
    Events(Box<Parser>),
    /// The response has no message: its status, headers, and the beginning of the body.
    Problem(u16, Vec<(String, Bytes)>, BytesMut),
    /// The response has no message, as intended.
    Accepted,
}

impl Stream {
    pub(super) fn new(task: Task, session: Option<String>) -> Self {
        Self {
            task,
            state: State::Asked,
            session,
            last_event_id: String::new(),
            retry: None,
            attempts: 0,
            has_lost: false,
            give_up_at: None,
        }
    }

    pub(super) fn waiting(task: Task, session: Option<String>, at: Duration) -> Self {
        Self { state: State::Waiting(at), ..Self::new(task, session) }
    }

    pub(super) fn task(&self) -> &Task {
        &self.task
    }

    /// Returns whether it was sent and its response is not complete.
    pub(super) fn is_running(&self) -> bool {
        !matches!(self.state, State::Waiting(_))
    }

    /// Returns whether it sends a message that is not a request.
    pub(super) fn is_post(&self) -> bool {
        matches!(&self.task, Task::Post(outgoing) if outgoing.ids.is_empty())
    }

    /// Returns whether the server has not answered at all.
    pub(super) fn is_unanswered(&self) -> bool {
        matches!(self.state, State::Asked | State::Waiting(_))
    }

    pub(super) fn wake_at(&self) -> Option<Duration> {
        let due = match self.state {
            State::Waiting(at) => Some(at),
            _ => None,
        };
        due.into_iter().chain(self.give_up_at).min()
    }

    pub(super) fn held_bytes(&self) -> usize {
        let body = match &self.state {
            State::Json(body) | State::Problem(_, _, body) => body.len(),
            State::Events(parser) => parser.held_bytes(),
            _ => 0,
        };
        let message = match &self.task {
            Task::Post(outgoing) => outgoing.message.len(),
            _ => 0,
        };
        body + message + self.last_event_id.len()
    }

    fn parser(&self, limits: &RemoteLimits) -> State {
        let limits = sse::Limits { max_data: limits.max_message, ..Default::default() };
        State::Events(Box::new(Parser::new(limits).behind(self.last_event_id.clone())))
    }

    /// Returns how long to wait before the next attempt.
    fn wait(&mut self, first: Duration, random: f64) -> Duration {
        let grown = 2_u32.saturating_pow(self.attempts.min(10));
        self.attempts = self.attempts.saturating_add(1);
        // The server's own time is a minimum.
        let first = self.retry.unwrap_or(first);
        let wait = first.saturating_mul(grown).min(MAX_WAIT.max(first));
        wait + wait.mul_f64(0.2 * random.clamp(0.0, 1.0))
    }
}

/// How long the server may take to complete a response whose content is known, or is not needed.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the server may take to accept a notification. Later messages wait for it.
pub(super) const NOTIFICATION: Duration = Duration::from_secs(30);
/// The shortest wait before a stream is resumed, if the server does not say how long.
const RESUME: Duration = Duration::from_secs(1);
/// The shortest wait before a message is sent again that did not reach the server.
const RESEND: Duration = Duration::from_millis(100);

impl Remote {
    /// Sends requests whose time has come, and gives up others.
    pub(super) fn start_due(&mut self) {
        let now = self.now;
        let is_due =
            |it: &&u64| self.streams.get(*it).and_then(Stream::wake_at).is_some_and(|at| at <= now);
        for number in self.streams.keys().filter(is_due).copied().collect::<Vec<_>>() {
            let Some(stream) = self.streams.get_mut(&number) else { continue };
            if stream.give_up_at.is_some_and(|at| at <= now) {
                self.give_up(number);
                continue;
            }
            stream.state = State::Asked;
            let last = stream.last_event_id.clone();
            if let Task::Post(outgoing) = &stream.task {
                let outgoing = outgoing.clone();
                stream.session.clone_from(&self.session.id);
                self.post_again(number, &outgoing);
                continue;
            }
            let mut headers = vec![("accept".to_owned(), "text/event-stream".to_owned())];
            headers.extend(self.session.headers_in(stream.session.as_ref()));
            if !last.is_empty() {
                headers.push((LAST_EVENT_ID.to_owned(), last));
            }
            let request =
                ExchangeRequest { method: ExchangeMethod::Get, headers, body: Bytes::new() };
            self.steps.push_back(ExchangeStep::Start(number, request));
        }
    }

    /// Ends a request that has taken too long.
    fn give_up(&mut self, number: u64) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let was_running = stream.is_running();
        let state = std::mem::replace(&mut stream.state, State::Asked);
        if was_running {
            self.steps.push_back(ExchangeStep::Stop(number));
        }
        match (state, &stream.task) {
            (State::Problem(status, headers, body), _) => {
                self.refused(number, status, &headers, &body);
            }
            (State::Asked | State::Waiting(_), Task::Post(outgoing)) if outgoing.ids.is_empty() => {
                let is_initialized = outgoing.sort == Sort::Initialized;
                self.streams.remove(&number);
                self.warn("the server did not accept a message in time, which may be lost");
                if is_initialized {
                    self.open_general();
                }
            }
            // What was cancelled needs no error.
            _ => self.lose(number, "the server did not end the response in time"),
        }
    }

    /// Takes the head of a response.
    pub(super) fn head(&mut self, number: u64, status: u16, headers: &[(String, Bytes)]) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let header = |name: &str| headers.iter().find(|(it, _)| it == name).map(|(_, value)| value);
        let kind = header("content-type").map(|kind| &kind[..]).unwrap_or_default();
        let kind = kind.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let is_post = matches!(stream.task, Task::Post(_));
        stream.state = if !(200..300).contains(&status) {
            State::Problem(status, headers.to_vec(), BytesMut::new())
        } else if kind.eq_ignore_ascii_case(b"text/event-stream") {
            stream.parser(&self.limits)
        } else if is_post && kind.eq_ignore_ascii_case(b"application/json") {
            State::Json(BytesMut::new())
        } else {
            match &stream.task {
                Task::Post(outgoing) if !outgoing.ids.is_empty() => {
                    State::Problem(status, headers.to_vec(), BytesMut::new())
                }
                Task::Post(_) => State::Accepted,
                _ => State::Problem(status, headers.to_vec(), BytesMut::new()),
            }
        };
        let has_opened = matches!(stream.state, State::Json(_) | State::Events(_));
        let is_problem = matches!(stream.state, State::Problem(..));
        if is_problem {
            stream.give_up_at = Some(self.now + PATIENCE);
        } else if stream.is_post() {
            stream.give_up_at = None;
        }
        match &stream.task {
            Task::Post(Outgoing { sort: Sort::Initialized, .. }) if !is_problem => {
                self.open_general();
            }
            Task::Post(outgoing)
                if has_opened && matches!(outgoing.sort, Sort::Initialize | Sort::Reopen) =>
            {
                let id = header(SESSION_ID).cloned();
                stream.session = id.as_ref().map(|id| String::from_utf8_lossy(id).into_owned());
                self.identified(id.as_ref());
            }
            Task::General if has_opened => self.session.had_general = true,
            _ => {}
        }
    }

    /// Takes a part of the body of a response.
    pub(super) fn body(&mut self, number: u64, bytes: &Bytes) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        match &mut stream.state {
            State::Json(body) => {
                body.extend_from_slice(bytes);
                if body.len() > self.limits.max_message.bytes() {
                    let head = std::mem::take(body);
                    let limit = self.limits.max_message;
                    let text = format!(
                        "the response was discarded: it is larger than --max-message ({limit})"
                    );
                    self.steps.push_back(ExchangeStep::Fault(Fault::oversize(limit, &head)));
                    self.stop(number);
                    self.fail_all(number, &Failure::new(-31001, text));
                }
            }
            State::Problem(_, _, body) => {
                let room = MAX_BODY.saturating_sub(body.len());
                body.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
                if body.len() == MAX_BODY {
                    self.give_up(number);
                }
            }
            State::Events(_) => self.events(number, bytes.clone()),
            State::Waiting(_) | State::Asked | State::Accepted => {}
        }
    }

    fn events(&mut self, number: u64, mut bytes: Bytes) {
        loop {
            // The stream may have been stopped by the message before.
            let Some(stream) = self.streams.get_mut(&number) else { return };
            let State::Events(parser) = &mut stream.state else { return };
            let Some(item) = parser.parse(&mut bytes) else { return };
            if parser.last_event_id() != stream.last_event_id {
                parser.last_event_id().clone_into(&mut stream.last_event_id);
                stream.attempts = 0;
            }
            match item {
                Item::Event(event) => {
                    stream.attempts = 0;
                    let is_message = matches!(event.event.as_str(), "" | "message");
                    if is_message && !event.data.trim_ascii().is_empty() {
                        self.take(number, event.data);
                    }
                }
                Item::Retry(time) => stream.retry = Some(time.min(MAX_RETRY)),
                Item::Lost(_) => {
                    let head = parser.take_lost_head();
                    stream.has_lost = true;
                    let limit = self.limits.max_message;
                    self.steps.push_back(ExchangeStep::Fault(Fault::oversize(limit, &head)));
                    let text = format!(
                        "the response was discarded: it is larger than --max-message ({limit})"
                    );
                    self.fail_answered(number, &head, &Failure::new(-31001, text));
                }
                _ => {}
            }
        }
    }

    /// Answers the requests that a discarded message answered, of which only the beginning is known.
    fn fail_answered(&mut self, number: u64, head: &[u8], failure: &Failure) {
        for answers in answers_in_text(head, true) {
            if let Some(id) = self.answered_on(number, answers) {
                self.fail_one(&id, failure);
            }
        }
        self.stop_if_done(number);
    }

    /// Limits the time of a stream that has answered everything.
    pub(super) fn stop_if_done(&mut self, number: u64) {
        let is_waiting = self.owed.values().any(|owed| owed.stream == number);
        let Some(stream) = self.streams.get(&number).filter(|_| !is_waiting) else { return };
        let is_done = match &stream.task {
            Task::Post(outgoing) => {
                !outgoing.ids.is_empty() && matches!(stream.state, State::Events(_))
            }
            Task::Resume => true,
            Task::General => false,
        };
        // The server should end it now, after which the connection can be used again.
        if let (Some(stream), true) = (self.streams.get_mut(&number), is_done) {
            stream.give_up_at = Some(self.now + PATIENCE);
        }
    }

    /// Takes the end of a response.
    pub(super) fn ended(&mut self, number: u64) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        match std::mem::replace(&mut stream.state, State::Asked) {
            State::Json(body) => {
                let body = body.freeze();
                let start = printable(shown(&body).as_bytes()).into_owned();
                if !body.trim_ascii().is_empty() {
                    self.take(number, body);
                }
                let text = format!("the server's response does not answer the request: {start}");
                self.streams.remove(&number);
                self.fail_all(number, &Failure::new(-31001, text));
            }
            State::Problem(status, headers, body) => self.refused(number, status, &headers, &body),
            State::Accepted => self.stop_silently(number),
            State::Events(_) => self.cut(number, "the server ended the stream"),
            State::Asked | State::Waiting(_) => self.lose(number, "the server did not answer"),
        }
    }

    /// Takes the loss of a connection.
    pub(super) fn failed(&mut self, number: u64, failure: &ExchangeFailure) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let is_post = matches!(stream.task, Task::Post(_));
        match std::mem::replace(&mut stream.state, State::Asked) {
            // This is enough to know.
            State::Problem(status, headers, body) => {
                self.refused(number, status, &headers, &body);
            }
            State::Accepted => self.stop_silently(number),
            State::Asked if is_post && !failure.is_sent => {
                if failure.is_temporary && stream.attempts < MAX_SENDS {
                    let wait = stream.wait(RESEND, self.random);
                    stream.state = State::Waiting(self.now + wait);
                    return;
                }
                self.streams.remove(&number);
                self.fail_all(number, &Failure::lost(failure.text.clone()));
            }
            State::Asked if is_post => self.lose(number, &failure.text),
            State::Json(_) => self.lose(number, &failure.text),
            _ => self.cut(number, &failure.text),
        }
    }

    /// Takes the end of an event stream, which is resumed if something is missing.
    fn cut(&mut self, number: u64, why: &str) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let is_waiting = self.owed.values().any(|owed| owed.stream == number);
        let wait = stream.wait(RESUME, self.random);
        match &stream.task {
            Task::General => stream.state = State::Waiting(self.now + wait),
            _ if !is_waiting => self.stop_silently(number),
            Task::Post(Outgoing { is_modern: true, .. }) => self.lose(number, why),
            _ if stream.last_event_id.is_empty() => self.lose(number, why),
            _ if stream.attempts > MAX_RESUMES => {
                let text = format!("{why}, and resuming it failed {MAX_RESUMES} times");
                self.lose(number, &text);
            }
            _ => {
                stream.task = Task::Resume;
                stream.state = State::Waiting(self.now + wait);
            }
        }
    }

    fn stop_silently(&mut self, number: u64) {
        self.streams.remove(&number);
    }

    /// Answers the requests of a stream that cannot be resumed.
    fn lose(&mut self, number: u64, why: &str) {
        let is_lost = self.streams.remove(&number).is_some_and(|stream| stream.has_lost);
        let text = match is_lost {
            true => format!("{why}; a message above --max-message was discarded before"),
            false => format!("{why} before the response; the server may have handled the request"),
        };
        self.fail_all(number, &Failure::lost(text));
    }

    /// Takes a response that has no message.
    fn refused(&mut self, number: u64, status: u16, headers: &[(String, Bytes)], body: &[u8]) {
        let Some(mut stream) = self.streams.remove(&number) else { return };
        stream.give_up_at = None;
        let is_success = (200..300).contains(&status);
        let mut failure = Failure::refused(status, headers, body);
        let is_temporary = status == 429 || (500..600).contains(&status);
        match stream.task {
            Task::Post(outgoing) if status == 404 && stream.session.is_some() => {
                if outgoing.is_repeated || outgoing.is_modern {
                    return self.fail_all(number, &failure);
                }
                self.repeat(outgoing, stream.session.as_ref());
            }
            Task::Post(outgoing) if is_success => {
                let kind = headers.iter().find(|(name, _)| name == "content-type");
                let kind = kind.map(|(_, kind)| shown(kind));
                let text = match kind {
                    Some(kind) => format!(
                        "the server answered with content of the type {kind:?}, which is not MCP. Check the \
                         path of the URL"
                    ),
                    None => {
                        format!("the server answered with status {status} and without a message")
                    }
                };
                drop(outgoing);
                self.fail_all(number, &Failure::new(-31001, text));
            }
            Task::Post(outgoing) => {
                if outgoing.ids.is_empty() {
                    self.warn(format!("a message was not accepted: {}", failure.text));
                }
                self.fail_all(number, &failure);
            }
            Task::Resume if is_temporary && stream.attempts <= MAX_RESUMES => {
                let wait = stream.wait(RESUME, self.random);
                stream.state = State::Waiting(self.now + wait);
                stream.task = Task::Resume;
                self.streams.insert(number, stream);
            }
            Task::Resume => {
                failure.raw = None;
                failure.text = format!(
                    "the stream was cut before the response and cannot be resumed; the server may have handled \
                     the request: {}",
                    failure.text
                );
                self.fail_all(number, &failure);
            }
            Task::General if is_temporary => {
                let wait = stream.wait(RESUME, self.random);
                stream.state = State::Waiting(self.now + wait);
                stream.task = Task::General;
                self.streams.insert(number, stream);
            }
            Task::General if status == 404 && self.session.had_general => self.reopen(),
            Task::General if matches!(status, 404 | 405) || is_success => {}
            Task::General => {
                self.warn(format!(
                    "no messages of the server outside of responses: {}",
                    failure.text
                ));
            }
        }
    }

    /// Answers all requests of a stream with an error.
    pub(super) fn fail_all(&mut self, number: u64, failure: &Failure) {
        let owed = self.owed.iter().filter(|(_, owed)| owed.stream == number);
        for id in owed.map(|(id, _)| id.clone()).collect::<Vec<_>>() {
            self.fail_one(&id, failure);
        }
    }

    /// Answers a request with an error.
    pub(super) fn fail_one(&mut self, id: &Id, failure: &Failure) {
        let Some(owed) = self.owed.remove(id) else { return };
        match owed.sort {
            Sort::Reopen => return self.not_reopened(failure),
            Sort::Restore => return self.warn(format!("not restored: {}", failure.text)),
            Sort::Initialize => self.not_opened(),
            _ => {}
        }
        if !owed.is_cancelled {
            self.fail(id, failure);
        }
    }
}
