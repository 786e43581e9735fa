//! A server with sessions, and EventSources that connect and reconnect.

use tieline_http::{HttpServer, ServerConfig};
use tieline_link::{
    LineOptions, Session, SessionOptions, SessionReceiver, SessionSender, Sessions,
};
use tieline_transport::{Acceptor, Channel, DynAcceptor};

use super::events::Stream;
use super::{config, serve};

pub struct Served {
    pub web: HttpServer,
    pub sessions: Sessions,
    pub port: u16,
}

pub async fn sessions_with(config: ServerConfig) -> Served {
    let grace = config.limits.event_grace;
    let served = serve(config).await;
    let acceptor: Box<dyn DynAcceptor> = Box::new(served.resumable.unwrap());
    let options = SessionOptions { grace, ..SessionOptions::default() };
    let sessions = Sessions::new(acceptor, options, LineOptions::default());
    Served { web: served.web, sessions, port: served.port }
}

pub async fn sessions() -> Served {
    sessions_with(ServerConfig { hosts: vec!["127.0.0.1".into()], ..config() }).await
}

pub async fn pair(served: &mut Served) -> (Stream, SessionSender, SessionReceiver) {
    let opening = Stream::open(served.port, "");
    let (stream, session) = tokio::join!(opening, Acceptor::accept(&mut served.sessions));
    let (sender, receiver) = Session::split(session.unwrap());
    (stream.unwrap(), sender, receiver)
}

pub async fn again(port: u16, id: &str) -> Result<Stream, String> {
    Stream::open(port, &format!("Last-Event-ID: {id}\r\n")).await
}

pub fn name_of(stream: &Stream) -> &str {
    &stream.uri["/sse?session=".len()..]
}
