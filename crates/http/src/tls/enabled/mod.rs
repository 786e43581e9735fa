//! TLS with rustls and ring, which needs only a C compiler to build.

mod stream;

use std::error::Error;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use tieline_transport::{
    ConfigError, ErrorKind, Operation, Principal, TransportError, open_secret,
};
use tokio::net::TcpStream;

use super::{ClientIdentity, ClientTls, ServerTls};
use crate::dial_error::{failed, lost};
use crate::token::Fingerprint;

pub(crate) use self::stream::{TlsStream, split, tcp_of};

/// Succeeds: this build has TLS.
pub(crate) fn check_supported(_: Operation) -> Result<(), TransportError> {
    Ok(())
}

/// Returns whether the cause is a TLS error. A server that requires a client certificate refuses the
/// connection only after the TLS handshake.
pub(crate) fn is_tls_error(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source()).any(|error| {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.is_some_and(|inner| inner.is::<rustls::Error>())
    })
}

/// The wall clock. If it is set to a time before 1970, handshakes fail; with the clock of rustls, they
/// would panic.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.ok().map(UnixTime::since_unix_epoch)
    }
}

/// Performs the TLS handshakes of a server.
#[derive(Clone)]
pub(crate) struct TlsAcceptor(tokio_rustls::TlsAcceptor);

impl TlsAcceptor {
    pub(crate) fn new(tls: &ServerTls) -> Result<Self, TransportError> {
        let builder =
            ServerConfig::builder_with_details(Arc::new(default_provider()), Arc::new(Clock))
                .with_safe_default_protocol_versions()
                .map_err(|error| unusable(&tls.certificate, error))?;
        let builder = match &tls.client_roots {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(roots_in(path)?);
                let provider = Arc::new(default_provider());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = verifier.build().map_err(|error| unusable(path, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates_in(&tls.certificate)?;
        let key = key_in(&tls.key)?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&tls.certificate, error))?;
        config.alpn_protocols = vec![HTTP2.to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config).into()))
    }

    /// Performs the handshake. Returns the stream, and the principal of the client's certificate if one was
    /// required.
    ///
    /// # Errors
    /// The handshake failed, and the client was sent an alert with the reason.
    pub(crate) async fn accept(
        &self,
        stream: TcpStream,
    ) -> Result<(TlsStream, Option<Principal>), TcpStream> {
        match self.0.accept(stream).into_fallible().await {
            Ok(stream) => {
                let shown = principal_of(stream.get_ref().1);
                Ok((Box::new(stream.into()), shown))
            }
            Err((_, stream)) => Err(stream),
        }
    }
}

/// The name of HTTP/2 in ALPN.
const HTTP2: &[u8] = b"h2";

/// Returns whether the client and the server have agreed on HTTP/2.
pub(crate) fn is_http2(stream: &TlsStream) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(HTTP2)
}

fn principal_of(connection: &rustls::ServerConnection) -> Option<Principal> {
    let shown = connection.peer_certificates()?.first()?;
    Some(Fingerprint::of(shown).principal())
}

/// A client's TLS configuration, which is loaded once.
pub(crate) struct Trust {
    made: OnceLock<Arc<ClientConfig>>,
    tls: ClientTls,
}

impl Trust {
    pub(crate) fn of(tls: ClientTls) -> Self {
        if tls.accept_any_certificate {
            tracing::warn!(
                "TLS certificates are not checked: anyone on the network path can pretend to be the server, \
                 and read and change everything, credentials included"
            );
        }
        Self { made: OnceLock::new(), tls }
    }

    /// Performs the TLS handshake over `stream`. The server's certificate must be valid for `host`.
    pub(crate) async fn connect(
        &self,
        host: &str,
        stream: TcpStream,
    ) -> Result<TlsStream, TransportError> {
        let config = match self.made.get() {
            Some(made) => made.clone(),
            None => {
                let made = self.config()?;
                self.made.get_or_init(|| made).clone()
            }
        };
        let broken = |error: io::Error| {
            match error.kind() {
            io::ErrorKind::InvalidData if is_other_protocol(&error) => {
                failed(ErrorKind::Tls).because(error).with_hint(
                    "the server does not use TLS there: write ws:// or http://, or use another port",
                )
            }
            io::ErrorKind::InvalidData => failed(ErrorKind::Tls).because(error),
            _ => lost(error),
        }
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            broken(io::Error::new(
                io::ErrorKind::InvalidData,
                "the host is not a valid name for TLS",
            ))
        })?;
        let connector = tokio_rustls::TlsConnector::from(config);
        let stream = connector.connect(name, stream).await.map_err(broken)?;
        Ok(Box::new(stream.into()))
    }

    fn config(&self) -> Result<Arc<ClientConfig>, TransportError> {
        let provider = Arc::new(default_provider());
        let builder = ClientConfig::builder_with_details(provider.clone(), Arc::new(Clock))
            .with_safe_default_protocol_versions()
            .map_err(|error| unusable(Path::new("TLS"), error))?;
        let config = match (self.tls.accept_any_certificate, &self.tls.extra_roots) {
            (true, None) => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider))),
            (true, Some(_)) => {
                let must = "be absent if any certificate is accepted";
                return Err(ConfigError { field: "extra_roots", must }.into());
            }
            (false, extra) => builder.with_root_certificates(roots(extra.as_deref())?),
        };
        let mut config = match &self.tls.identity {
            None => config.with_no_client_auth(),
            Some(ClientIdentity { certificate, key }) => config
                .with_client_auth_cert(certificates_in(certificate)?, key_in(key)?)
                .map_err(|error| unusable(certificate, error))?,
        };
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

/// Returns whether the server's response is not a TLS record.
fn is_other_protocol(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref());
    matches!(error, Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)))
}

/// Returns the system's root certificates, and those in the file `extra`.
fn roots(extra: Option<&Path>) -> Result<RootCertStore, TransportError> {
    let mut roots = extra.map_or_else(|| Ok(RootCertStore::empty()), roots_in)?;
    for error in add_system_roots(&mut roots).1 {
        tracing::debug!("cannot read a root certificate of the system: {error}");
    }
    Ok(roots)
}

/// Returns the number of the system's root certificates, and the errors of those that cannot be read. Needs the
/// feature `tls`.
pub fn system_roots() -> (usize, Vec<String>) {
    let (added, errors) = add_system_roots(&mut RootCertStore::empty());
    (added, errors.iter().map(ToString::to_string).collect())
}

/// Adds the system's root certificates. Returns how many were added, and why others cannot be read.
fn add_system_roots(roots: &mut RootCertStore) -> (usize, Vec<rustls_native_certs::Error>) {
    let system = rustls_native_certs::load_native_certs();
    let (added, _unusable) = roots.add_parsable_certificates(system.certs);
    (added, system.errors)
}

/// A verifier that accepts every certificate. The server must still have the certificate's key.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn roots_in(path: &Path) -> Result<RootCertStore, TransportError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates_in(path)? {
        roots.add(certificate).map_err(|error| unusable(path, error))?;
    }
    Ok(roots)
}

fn certificates_in(path: &Path) -> Result<Vec<CertificateDer<'static>>, TransportError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let certificates = read.map_err(|error| unreadable(path, error))?;
    match certificates.is_empty() {
        true => Err(unreadable(path, pem::Error::NoItemsFound)),
        false => Ok(certificates),
    }
}

fn key_in(path: &Path) -> Result<PrivateKeyDer<'static>, TransportError> {
    let file = open_secret(path).map_err(|error| unreadable(path, pem::Error::Io(error)))?;
    PrivateKeyDer::from_pem_reader(io::BufReader::new(file))
        .map_err(|error| unreadable(path, error))
}

fn unreadable(path: &Path, error: pem::Error) -> TransportError {
    let error = match error {
        pem::Error::Io(error) => error,
        other => io::Error::new(io::ErrorKind::InvalidData, other.to_string()),
    };
    configuring(path, error)
}

fn unusable(path: &Path, error: impl std::error::Error) -> TransportError {
    configuring(path, io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}

fn configuring(path: &Path, error: io::Error) -> TransportError {
    let hint = format!("{}: {error}", path.display());
    TransportError::new(ErrorKind::Tls, Operation::Configure).because(error).with_hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_handshake_reports_its_cause_and_whether_it_was_tls() {
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let cause = io::Error::new(io::ErrorKind::InvalidData, alert);
        let outer = failed(ErrorKind::Io).because(cause);
        assert!(is_tls_error(&outer) && !is_tls_error(&io::Error::other("cut")));
        // The message already shows the outer error; the source is the inner one.
        let error = lost(io::Error::other(outer));
        assert!(error.source().unwrap().to_string().contains("CertificateRequired"), "{error:?}");
        assert!(error.is_retryable() && lost(io::Error::other("cut")).source().is_none());
    }
}
