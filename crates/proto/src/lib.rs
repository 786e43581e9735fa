//! Framing without I/O: how a byte stream is cut into messages
