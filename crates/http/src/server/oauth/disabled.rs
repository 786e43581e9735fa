//! The counterpart of `enabled` in a build without OAuth. Its type cannot be created.

use std::convert::Infallible;

use hyper::Response;
use hyper::http::request::Parts;
use tieline_transport::{ErrorKind, MissingFeature, Operation, Principal, TransportError};

use super::OauthConfig;
use crate::server::Server;
use crate::server::access::Refused;
use crate::server::body::Body;

pub(in crate::server) struct ResourceServer(Infallible);

impl ResourceServer {
    pub(in crate::server) fn new(_: OauthConfig) -> Result<Self, TransportError> {
        let missing = MissingFeature { what: "OAuth", feature: "oauth" };
        Err(TransportError::new(ErrorKind::FeatureMissing(missing), Operation::Listen))
    }

    pub(in crate::server) fn fetch_keys(&self) {
        match self.0 {}
    }

    pub(in crate::server) async fn authenticate(
        &self,
        _: &Server,
        _: &Parts,
        _: Refused,
    ) -> Result<Option<Principal>, Refused> {
        match self.0 {}
    }

    pub(in crate::server) fn challenge(
        &self,
        _: &Server,
        _: &Parts,
        _: &Refused,
    ) -> Option<String> {
        match self.0 {}
    }

    pub(in crate::server) fn metadata(&self, _: &Server, _: &Parts) -> Response<Body> {
        match self.0 {}
    }
}

/// This test is run by `cargo test -p tieline-http --lib --no-default-features`.
#[cfg(test)]
mod tests {
    use super::*;
    use crate::{HttpServer, ServerConfig, Token};

    #[tokio::test]
    async fn server_with_an_issuer_names_the_missing_feature() {
        let endpoint = "http://127.0.0.1:0".parse().unwrap();
        let mut config = ServerConfig::at(&endpoint, Token::random().unwrap()).unwrap();
        config.oauth = Some(OauthConfig::new("https://example.org"));
        let error = HttpServer::listen(config).await.err().unwrap();
        assert_eq!(
            error.to_string(),
            "cannot listen on http://127.0.0.1:0: this build lacks OAuth; enable the feature \"oauth\" of \
             the crate tieline"
        );
    }
}
