//! A request that takes over its connection: the upgrade to a WebSocket, and a tunnel through a proxy.

use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response};
use tieline_transport::{ErrorKind, TransportError};

use crate::dial_error::{failed, lost};
use crate::stream::{Hyper, Stream};
use crate::tls::is_tls_error;

/// The maximum size of a response's headers.
pub(crate) const MAX_HEADERS: usize = 16 * 1024;

/// The connection after the response.
pub(crate) struct Switched<T> {
    pub(crate) stream: Stream,
    /// The bytes that were read after the response.
    pub(crate) read: BytesMut,
    /// The value that the check of the response returned.
    pub(crate) checked: T,
}

/// Sends `request` over `stream`, and returns the stream if `check` accepts the response. `failed`
/// converts an error of the HTTP connection.
pub(crate) async fn switch<T>(
    stream: Stream,
    request: Request<Empty>,
    check: impl FnOnce(&Response<Incoming>) -> Result<T, TransportError>,
    failed: impl Fn(hyper::Error) -> TransportError,
) -> Result<Switched<T>, TransportError> {
    let mut builder = http1::Builder::new();
    builder.max_header_size(MAX_HEADERS).max_buf_size(MAX_HEADERS);
    let (mut send, connection) = builder.handshake(Hyper::new(stream)).await.map_err(&failed)?;
    let mut connection = pin!(connection.with_upgrades());
    let mut answered = pin!(send.send_request(request));
    let response = tokio::select! {
        biased;
        response = &mut answered => response.map_err(&failed)?,
        // The connection has ended; the response may have been read already.
        ended = &mut connection => match ended {
            Ok(()) => answered.await.map_err(&failed)?,
            Err(error) => return Err(failed(error)),
        },
    };
    let checked = check(&response)?;
    let mut upgrade = pin!(hyper::upgrade::on(response));
    let upgraded = tokio::select! {
        biased;
        upgraded = &mut upgrade => upgraded,
        _ = &mut connection => upgrade.await,
    };
    let parts = upgraded.map_err(&failed)?.downcast::<Hyper>().map_err(|_| {
        lost(io::Error::other("the connection after the response has an unexpected type"))
    })?;
    Ok(Switched { stream: parts.io.stream, read: BytesMut::from(parts.read_buf), checked })
}

/// Returns a function that converts a failed handshake into an error. If the response is not HTTP,
/// `what` creates the error.
pub(crate) fn gone(what: fn(String) -> TransportError) -> impl Fn(hyper::Error) -> TransportError {
    move |error| {
        if error.is_parse() {
            return what(format!("the server's response is not HTTP ({error})"));
        }
        match is_tls_error(&error) {
            true => failed(ErrorKind::Tls).because(io::Error::other(error)),
            false => lost(io::Error::other(error)),
        }
    }
}

/// An empty body.
pub(crate) struct Empty;

impl Body for Empty {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        true
    }
}
