//! TLS: its configuration, and the connections of a client and of a server.
//!
//! The configuration exists in every build. Without the feature `tls`, it is refused: `disabled` has the
//! same names as `enabled`, but none of its types can be created.

#[cfg(not(feature = "tls"))]
mod disabled;
#[cfg(feature = "tls")]
mod enabled;

use std::path::PathBuf;

#[cfg(not(feature = "tls"))]
use self::disabled as chosen;
#[cfg(feature = "tls")]
use self::enabled as chosen;

#[cfg(feature = "tls")]
pub use self::enabled::system_roots;
pub(crate) use chosen::{
    TlsAcceptor, TlsStream, Trust, check_supported, is_http2, is_tls_error, split, tcp_of,
};

/// The TLS configuration of a server. Needs the feature `tls`.
#[derive(Clone, Debug)]
pub struct ServerTls {
    /// The certificate chain as PEM, the server's own certificate first.
    pub certificate: PathBuf,
    /// The certificate's private key, as PEM.
    pub key: PathBuf,
    /// Root certificates, as PEM. If set, clients must show a certificate that one of them issued.
    pub client_roots: Option<PathBuf>,
}

/// The TLS configuration of a client. The files and the system's roots are read when the first connection
/// needs them. `wss:` and `https:` need the feature `tls`.
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
