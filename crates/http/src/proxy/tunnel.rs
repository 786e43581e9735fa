//! Connects to a proxy, and requests a tunnel to a server.

use std::fmt;
use std::io;

use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{Request, StatusCode};
use tieline_transport::TransportError;
use tokio::net::TcpStream;

use super::{PROXY, Proxy};
use crate::stream::Stream;
use crate::switch::{Empty, switch};

impl Proxy {
    /// Returns the header with the user name and the password.
    pub(crate) fn credentials(&self) -> Option<(HeaderName, HeaderValue)> {
        Some((header::PROXY_AUTHORIZATION, self.credentials.clone()?))
    }

    /// Connects to the proxy.
    pub(crate) async fn connect(&self) -> Result<TcpStream, TransportError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        stream.map_err(|error| {
            let error = self.failed("cannot be reached").because(error).retryable(true);
            error.with_hint(format!("start or correct the proxy, {}", self.around()))
        })
    }

    /// Connects to `server`, which is `HOST:PORT`, through the proxy.
    pub(crate) async fn tunnel(&self, server: &str) -> Result<TcpStream, TransportError> {
        let mut request = Request::connect(server).header(header::HOST, server);
        if let Some((name, value)) = self.credentials() {
            request = request.header(name, value);
        }
        let request =
            request.body(Empty).map_err(|_| self.failed("cannot be asked for this host"))?;
        let stream = Stream::Tcp(self.connect().await?);
        let check = |status: StatusCode| match status.is_success() {
            true => Ok(()),
            false => Err(self.denied(status)),
        };
        let failed = |error: hyper::Error| match error.is_parse() {
            true => self.failed(format_args!("sent a response that is not HTTP ({error})")),
            false => {
                let error = io::Error::other(error);
                self.failed("closed the connection").because(error).retryable(true)
            }
        };
        let switched = switch(stream, request, |response| check(response.status()), failed).await?;
        match switched.stream {
            // The server does not speak first, so any data here comes from the proxy.
            Stream::Tcp(stream) if switched.read.is_empty() => Ok(stream),
            _ => Err(self.failed("sent data of its own after its response")),
        }
    }

    /// Creates the error for a request that the proxy refused.
    pub(crate) fn denied(&self, status: StatusCode) -> TransportError {
        let number = status.as_u16();
        let error = self.failed(format_args!("answered with status {number}"));
        let hint = match number {
            407 => format!(
                "write the user name and password into {}: http://USER:PASSWORD@HOST:PORT",
                self.variable.unwrap_or("the URL of the proxy")
            ),
            502..=504 => "the proxy cannot connect to the server: check host and port".to_owned(),
            _ => format!(
                "the proxy may not allow this host or port; allow it there, {}",
                self.around()
            ),
        };
        error.with_hint(hint).retryable(matches!(number, 408 | 429 | 502..=504))
    }

    fn failed(&self, problem: impl fmt::Display) -> TransportError {
        let error = TransportError::handshake(PROXY, format!("{self} {problem}"));
        error.with_hint(format!("check the proxy, {}", self.around()))
    }

    /// Returns the hint that says how to connect without the proxy.
    fn around(&self) -> &'static str {
        match self.variable {
            Some(_) => "or list the host in NO_PROXY to connect without it",
            None => "or add the host to the exceptions to connect without it",
        }
    }
}
