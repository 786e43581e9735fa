//! Endpoints, connections and channels of messages
