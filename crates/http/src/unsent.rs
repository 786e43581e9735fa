//! Counts the bytes that were written to a TCP stream and have not left this machine.

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
