//! TLS with rustls and ring, which needs only a C compiler to build.

use std::io;
use std::path::{Path, PathBuf};
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
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::dial_error::{failed, lost};
use crate::stream::Stream;
use crate::token::Fingerprint;

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

/// The TLS configuration of a server.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The certificate chain as PEM, the server's own certificate first.
    pub certificate: PathBuf,
    /// The certificate's private key, as PEM.
    pub key: PathBuf,
    /// Root certificates, as PEM. If set, clients must show a certificate that one of them issued.
    pub client_roots: Option<PathBuf>,
}

impl ServerTls {
    pub(crate) fn acceptor(&self) -> Result<TlsAcceptor, TransportError> {
        let builder =
            ServerConfig::builder_with_details(Arc::new(default_provider()), Arc::new(Clock))
                .with_safe_default_protocol_versions()
                .map_err(|error| unusable(&self.certificate, error))?;
        let builder = match &self.client_roots {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let roots = Arc::new(roots_in(path)?);
                let provider = Arc::new(default_provider());
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
                let verifier = verifier.build().map_err(|error| unusable(path, error))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let chain = certificates_in(&self.certificate)?;
        let key = key_in(&self.key)?;
        let mut config = builder
            .with_single_cert(chain, key)
            .map_err(|error| unusable(&self.certificate, error))?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(TlsAcceptor::from(Arc::new(config)))
    }
}

/// Returns the principal of the client's certificate, if one was required.
pub(crate) fn shown_by(connection: &rustls::ServerConnection) -> Option<Principal> {
    let shown = connection.peer_certificates()?.first()?;
    Some(Fingerprint::of(shown).principal())
}

/// The TLS configuration of a client. The files and the system's roots are read when the first connection
/// needs them.
#[derive(Clone, Debug, Default)]
pub struct ClientTls {
    /// Root certificates, as PEM, that are trusted in addition to the system's roots.
    pub extra_roots: Option<PathBuf>,
    /// The client certificate, for servers that request one.
    pub identity: Option<ClientIdentity>,
    /// Accepts every certificate, from any issuer and for any name: an attacker on the network path can
    /// pretend to be the server, and read and change everything. Each client that is created with this
    /// option logs a warning. It cannot be combined with [`extra_roots`](Self::extra_roots). False by
    /// default.
    pub accept_any_certificate: bool,
}

/// A client certificate and its key.
#[derive(Clone, Debug)]
pub struct ClientIdentity {
    /// The certificate chain as PEM, the client's own certificate first.
    pub certificate: PathBuf,
    /// The certificate's private key, as PEM.
    pub key: PathBuf,
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
    ) -> Result<Stream, TransportError> {
        let config = match self.made.get() {
            Some(made) => made.clone(),
            None => {
                let made = self.config()?;
                self.made.get_or_init(|| made).clone()
            }
        };
        let broken = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData => failed(ErrorKind::Tls).because(error),
            _ => lost(error),
        };
        let name = ServerName::try_from(host.to_owned()).map_err(|_| {
            broken(io::Error::new(
                io::ErrorKind::InvalidData,
                "the host is not a valid name for TLS",
            ))
        })?;
        let stream = TlsConnector::from(config).connect(name, stream).await.map_err(broken)?;
        Ok(Stream::Tls(Box::new(stream.into())))
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

/// Returns the system's root certificates, and those in the file `extra`.
fn roots(extra: Option<&Path>) -> Result<RootCertStore, TransportError> {
    let mut roots = extra.map_or_else(|| Ok(RootCertStore::empty()), roots_in)?;
    let system = rustls_native_certs::load_native_certs();
    for error in &system.errors {
        tracing::debug!("cannot read a root certificate of the system: {error}");
    }
    let (_added, _ignored) = roots.add_parsable_certificates(system.certs);
    Ok(roots)
}

/// Returns the number of the system's root certificates, and the errors of those that cannot be read.
pub fn system_roots() -> (usize, Vec<String>) {
    let system = rustls_native_certs::load_native_certs();
    let (added, _) = RootCertStore::empty().add_parsable_certificates(system.certs);
    (added, system.errors.iter().map(ToString::to_string).collect())
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
