//! Fixtures and the conformance suite for tests
