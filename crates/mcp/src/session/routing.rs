//! Routes messages of the program to streams.

use super::*;

/// The notifications that belong to the whole session, not to a request.
const OF_SESSION: [&str; 6] = [
    "notifications/tools/list_changed",
    "notifications/prompts/list_changed",
    "notifications/resources/list_changed",
    "notifications/resources/updated",
    "notifications/elicitation/complete",
    "notifications/tasks/status",
];

/// The dialect of messages from programs, which may omit the version and may send batches.
const LENIENT: Dialect = {
    let mut lenient = Dialect::MCP_2025_03_26;
    lenient.version = false;
    lenient
};

/// The code of the error for an invalid response of the program.
const INVALID_RESPONSE: i64 = -31001;

impl Session {
    /// Routes a message of the program. Returns the streams that it went to.
    ///
    /// Each message goes to one stream:
    /// - A response goes to the stream of its request.
    /// - Progress goes to the stream of the request with its token.
    /// - A notification that concerns the whole session goes to the general stream.
    /// - Any other message goes to the stream of the POST that has no response yet, if there is exactly
    ///   one. If there are several, it goes to the general stream if that has a connection, and
    ///   otherwise to the newest of these POSTs. If there is none, it goes to the general stream.
    pub fn from_program(&mut self, now: Duration, message: Bytes) -> Vec<u64> {
        let mut touched = Vec::with_capacity(1);
        match classify(message, &LENIENT, Limits::default()) {
            Message::Batch(messages) => {
                for message in messages {
                    self.route(now, &message, true, &mut touched);
                }
            }
            message => self.route(now, &message, false, &mut touched),
        }
        touched
    }

    fn route(
        &mut self,
        now: Duration,
        message: &Message,
        is_in_batch: bool,
        touched: &mut Vec<StreamNumber>,
    ) {
        let number = match message {
            Message::Response(response) => {
                let Some((id, call)) = self.requests.settle(response.answers()) else { return };
                self.learn(&id, response.outcome().ok());
                let is_same = !is_in_batch && *id == *response.id();
                let text = match is_same {
                    true => message.alone(&Dialect::MCP, false, Limits::default()),
                    false => write_response(&Dialect::MCP, &id, response.outcome()).into(),
                };
                self.answered(now, call.stream, text);
                touched.push(call.stream);
                return;
            }
            Message::Invalid(invalid) => {
                for answers in invalid.answers() {
                    let Some((id, call)) = self.requests.settle(answers) else { continue };
                    self.learn(&id, None);
                    let text = invalid.instead_of_response();
                    let error = write_error(&Dialect::MCP, &id, INVALID_RESPONSE, &text, None);
                    self.answered(now, call.stream, error.into());
                    touched.push(call.stream);
                }
                return;
            }
            Message::Request(request) => {
                let number = self.related();
                self.requests.ask(request.id(), number, &self.limits);
                number
            }
            Message::Notification(notification) => {
                let method = notification.method();
                let param = |name| member(notification.params()?, name);
                match &*method {
                    "notifications/progress" => param("progressToken")
                        .and_then(|token| self.requests.of_token(token))
                        .unwrap_or(GENERAL),
                    CANCELLED => {
                        let asked = param("requestId").and_then(|id| self.requests.answered(id));
                        asked.filter(|it| self.open.contains(it)).unwrap_or(GENERAL)
                    }
                    method if OF_SESSION.contains(&method) => GENERAL,
                    _ => self.related(),
                }
            }
            Message::Batch(_) => return,
        };
        self.push(number, message.alone(&Dialect::MCP, is_in_batch, Limits::default()));
        touched.push(number);
    }

    /// Returns the stream for a message that does not name its request.
    fn related(&self) -> StreamNumber {
        match (self.open.len(), self.open.last()) {
            (1, Some(only)) => *only,
            (2.., Some(newest)) if !self.has_general() => *newest,
            _ => GENERAL,
        }
    }

    fn has_general(&self) -> bool {
        self.streams.get(&GENERAL).is_some_and(|general| general.connection.is_some())
    }

    /// Stores the version in the response to `initialize`.
    fn learn(&mut self, id: &Id, result: Option<&[u8]>) {
        if self.initialize.as_ref() != Some(id) {
            return;
        }
        self.initialize = None;
        let version = result.and_then(|result| member(result, "protocolVersion"));
        let version = version.and_then(|it| std::str::from_utf8(it).ok());
        let version = version.and_then(|it| it.strip_prefix('"')?.strip_suffix('"'));
        match version.filter(|version| version.len() <= MAX_VERSION) {
            Some(version) => self.version = Some(version.into()),
            // A session requires a version.
            None => self.end(Ending::Program),
        }
    }

    /// Ends a request that the client has canceled. The request receives no response.
    pub(super) fn cancelled(&mut self, now: Duration, id: &[u8]) -> Option<StreamNumber> {
        let (_, call) = self.requests.settle(Answers::Call(id))?;
        self.close_one(now, call.stream);
        Some(call.stream)
    }

    fn answered(&mut self, now: Duration, number: StreamNumber, response: Bytes) {
        self.push(number, response);
        self.close_one(now, number);
    }

    /// Counts one request of a POST as settled.
    fn close_one(&mut self, now: Duration, number: StreamNumber) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        if stream.settle_one(now) {
            self.open.remove(&number);
            self.make_room();
        }
    }

    fn push(&mut self, number: StreamNumber, message: Bytes) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let before = stream.cost();
        stream.push(message);
        let added = stream.cost() - before;
        self.kept += added;
        if stream.connection.is_some() {
            self.waiting += added;
        }
        self.make_room_within(self.limits.kept_bytes);
    }

    /// Drops the oldest finished streams and the oldest messages until the rest is within the limits.
    pub(super) fn make_room(&mut self) {
        while self.idle_streams().count() > self.limits.finished {
            self.remove_oldest();
        }
        self.make_room_within(self.limits.kept_bytes);
    }

    pub(super) fn make_room_within(&mut self, limit: usize) {
        // Messages that wait for a connection have their own limit.
        while self.kept.saturating_sub(self.waiting) > limit {
            if !self.remove_oldest() && !self.evict_one() {
                break;
            }
        }
    }

    /// Removes the first finished stream without a connection. Returns whether there was one.
    fn remove_oldest(&mut self) -> bool {
        let Some((number, _)) = self.idle_streams().next() else { return false };
        self.remove(number);
        true
    }

    /// Drops one message of the largest stream from which a message may be dropped. Returns whether
    /// there was one.
    fn evict_one(&mut self) -> bool {
        let streams = self.streams.values_mut().filter(|stream| stream.can_evict());
        let Some(stream) = streams.max_by_key(|stream| stream.cost()) else { return false };
        let before = stream.cost();
        let Some(is_lost) = stream.evict() else { return false };
        self.kept -= before - stream.cost();
        self.lost += u64::from(is_lost);
        true
    }
}
