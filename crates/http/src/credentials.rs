//! The credentials that a client adds to its requests, and the check that they are not sent in clear text.

use hyper::header::{self, HeaderValue};
use hyper::http::request::Builder;
use tieline_transport::{ErrorKind, Operation, TransportError};

use crate::address::WebAddress;
use crate::client::ClientConfig;

impl ClientConfig {
    /// Checks, before connecting, that the client may send its credentials to `address`.
    ///
    /// # Errors
    /// [`CleartextCredential`](ErrorKind::CleartextCredential): the token would be sent in clear text.
    pub(crate) fn may_go_to(&self, address: &WebAddress) -> Result<(), TransportError> {
        // Only the two ends can read the traffic.
        let is_private = address.is_secure || address.is_on_this_machine();
        match self.token.is_none() || self.send_token_without_tls || is_private {
            true => Ok(()),
            false => Err(TransportError::new(ErrorKind::CleartextCredential, Operation::Connect)),
        }
    }

    /// Adds the `Host`, `Authorization` and `Origin` headers to a request.
    ///
    /// # Errors
    /// It [may not be sent there](Self::may_go_to), or a value is not valid in a header.
    pub(crate) fn introduce(
        &self,
        mut request: Builder,
        address: &WebAddress,
    ) -> Result<Builder, TransportError> {
        self.may_go_to(address)?;
        request = request.header(header::HOST, address.host_header());
        if let Some(token) = &self.token {
            let value = HeaderValue::try_from(format!("Bearer {}", token.reveal()));
            let mut value = value.map_err(|_| unsendable("the token"))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        if let Some(origin) = &self.origin {
            let value = HeaderValue::try_from(origin).map_err(|_| unsendable("the origin"))?;
            request = request.header(header::ORIGIN, value);
        }
        Ok(request)
    }
}

pub(crate) fn unsendable(what: &str) -> TransportError {
    let problem = format!("{what} has characters that an HTTP request cannot contain");
    TransportError::new(ErrorKind::InvalidEndpoint { problem }, Operation::Configure)
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;
    use crate::token::Token;

    fn introduced(url: &str, config: &ClientConfig) -> Result<Builder, TransportError> {
        config.introduce(Request::get("/"), &WebAddress::of(&url.parse().unwrap()).unwrap())
    }

    #[test]
    fn token_is_not_sent_to_other_machines_without_tls() {
        let token = Token::new("a-token-to-be-kept-secret").unwrap();
        let config = ClientConfig { token: Some(token), ..ClientConfig::default() };
        let permissive = ClientConfig { send_token_without_tls: true, ..config.clone() };
        for (url, is_sent) in [
            ("ws://127.0.0.1:8080/ws", true),
            ("ws://127.8.7.6/ws", true),
            ("ws://localhost/ws", true),
            ("ws://LocalHost:1/ws", true),
            ("http://[::1]:8080", true),
            ("http://[::ffff:127.0.0.1]", true),
            ("ws-unix:/run/agent.sock", true),
            ("http-unix:/run/agent.sock", true),
            ("wss://example.org/ws", true),
            ("https://10.0.0.1", true),
            ("ws://example.org/ws", false),
            ("http://example.org", false),
            ("ws://10.0.0.1/ws", false),
            ("ws://0.0.0.0/ws", false),
            ("ws://[::]/ws", false),
            ("ws://[fe80::1]/ws", false),
            ("ws://128.0.0.1/ws", false),
            // Names that resemble loopback.
            ("ws://localhost.example.org/ws", false),
            ("ws://localhost./ws", false),
            ("ws://127.0.0.1.example.org/ws", false),
            ("ws://2130706433/ws", false),
            ("ws://127.1/ws", false),
        ] {
            let outcome = introduced(url, &config);
            match &outcome {
                Ok(request) => {
                    assert!(is_sent, "{url}");
                    assert!(request.headers_ref().unwrap().contains_key("authorization"), "{url}");
                }
                Err(error) => {
                    assert!(!is_sent, "{url}");
                    assert!(matches!(error.kind(), ErrorKind::CleartextCredential), "{error}");
                    assert!(!error.is_retryable() && error.hint().unwrap().contains("wss://"));
                }
            }
            assert!(introduced(url, &permissive).is_ok(), "{url}, explicitly allowed");
            // A client without a token can connect anywhere.
            assert!(introduced(url, &ClientConfig::default()).is_ok(), "{url}");
        }
    }
}
