//! The counterpart of `enabled` in a build without TLS. None of its types can be created.

use std::convert::Infallible;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tieline_transport::{
    ErrorKind, MissingFeature, Operation, Principal, ReadEnd, TransportError, WriteEnd,
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::{ClientTls, ServerTls};

/// Fails: this build lacks TLS.
pub(crate) fn check_supported(operation: Operation) -> Result<(), TransportError> {
    Err(missing(operation))
}

fn missing(operation: Operation) -> TransportError {
    TransportError::new(
        ErrorKind::FeatureMissing(MissingFeature { what: "TLS", feature: "tls" }),
        operation,
    )
}

/// Returns false, because this build has no TLS errors.
pub(crate) fn is_tls_error(_: &(dyn Error + 'static)) -> bool {
    false
}

pub(crate) struct Trust;

impl Trust {
    pub(crate) fn of(_: ClientTls) -> Self {
        Self
    }

    pub(crate) async fn connect(&self, _: &str, _: TcpStream) -> Result<TlsStream, TransportError> {
        Err(missing(Operation::Connect))
    }
}

#[derive(Clone)]
pub(crate) struct TlsAcceptor(Infallible);

impl TlsAcceptor {
    pub(crate) fn new(_: &ServerTls) -> Result<Self, TransportError> {
        Err(missing(Operation::Listen))
    }

    pub(crate) async fn accept(
        &self,
        _: TcpStream,
    ) -> Result<(TlsStream, Option<Principal>), TcpStream> {
        match self.0 {}
    }
}

pub(crate) struct TlsStream(Infallible);

pub(crate) fn split(stream: TlsStream) -> (TlsStream, TlsStream) {
    match stream.0 {}
}

pub(crate) fn tcp_of(stream: &TlsStream) -> &TcpStream {
    match stream.0 {}
}

pub(crate) fn is_http2(stream: &TlsStream) -> bool {
    match stream.0 {}
}

impl ReadEnd for TlsStream {}

impl WriteEnd for TlsStream {}

impl AsyncRead for TlsStream {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}

/// These tests are run by `cargo test -p tieline-http --lib --no-default-features`.
#[cfg(test)]
mod tests {
    use tieline_transport::{Endpoint, Options, Registry};

    use super::*;
    use crate::{ClientConfig, HttpServer, ServerConfig, Token};

    const MISSING: &str = "this build lacks TLS; enable the feature \"tls\" of the crate tieline";

    #[tokio::test]
    async fn connections_with_tls_name_the_missing_feature() {
        let mut registry = Registry::new();
        crate::register(&mut registry, ClientConfig::default());
        for endpoint in ["wss://127.0.0.1:1/ws", "https://127.0.0.1:1/sse"] {
            let endpoint: Endpoint = endpoint.parse().unwrap();
            let error = registry.connect(&endpoint, &Options::default()).await.err().unwrap();
            assert_eq!(error.to_string(), format!("cannot connect to {endpoint}: {MISSING}"));
            assert!(!error.is_retryable());
        }
    }

    #[tokio::test]
    async fn server_with_a_certificate_names_the_missing_feature() {
        let endpoint = "https://127.0.0.1:0".parse().unwrap();
        let mut config = ServerConfig::at(&endpoint, Token::random().unwrap()).unwrap();
        let (certificate, key) = ("server.pem".into(), "server.key.pem".into());
        config.tls = Some(ServerTls { certificate, key, client_roots: None });
        let error = HttpServer::listen(config).await.err().unwrap();
        assert_eq!(error.to_string(), format!("cannot listen on https://127.0.0.1:0: {MISSING}"));
    }
}
