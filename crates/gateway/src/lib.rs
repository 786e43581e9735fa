//! Pumps messages between lines: serve, connect, bridge
