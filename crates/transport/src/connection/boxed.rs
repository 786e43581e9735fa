//! The object-safe version of a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io::delegate_io;
use super::{Connection, ReadEnd, WriteEnd};
use crate::control::Control;

/// A [`Connection`] over any transport.
pub struct BoxConnection {
    read: Box<dyn ReadEnd>,
    write: Box<dyn WriteEnd>,
    control: Control,
}

impl BoxConnection {
    /// Erases the type of `connection`.
    pub fn new(connection: impl Connection) -> Self {
        let control = connection.control().clone();
        let (read, write) = connection.into_split();
        Self { read: Box::new(read), write: Box::new(write), control }
    }
}

impl Connection for BoxConnection {
    type ReadHalf = Box<dyn ReadEnd>;
    type WriteHalf = Box<dyn WriteEnd>;

    fn control(&self) -> &Control {
        &self.control
    }

    fn into_split(self) -> (Self::ReadHalf, Self::WriteHalf) {
        (self.read, self.write)
    }
}

delegate_io!(BoxConnection, [], read, write);

impl ReadEnd for Box<dyn ReadEnd> {
    fn unread(&self) -> Option<u64> {
        (**self).unread()
    }
}

impl WriteEnd for Box<dyn WriteEnd> {
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_gone(cx)
    }

    fn unflushed(&self) -> usize {
        (**self).unflushed()
    }

    fn unsent(&self) -> Option<usize> {
        (**self).unsent()
    }
}
