//! How much of what was written to a TCP stream has not left this machine.

use tokio::net::TcpStream;

/// Returns how many written bytes the kernel still holds.
pub(crate) fn unsent(stream: &TcpStream) -> Option<usize> {
    #[cfg(unix)]
    return tieline_transport::unsent(stream);
    #[cfg(not(unix))]
    {
        let _ = stream;
        None
    }
}
