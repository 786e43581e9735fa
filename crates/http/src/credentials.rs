//! How a client introduces itself in each of its requests, and to whom it does not.

use hyper::header::{self, HeaderValue};
use hyper::http::request::Builder;
use tieline_transport::{ErrorKind, Operation, TransportError};

use crate::address::WebAddress;
use crate::client::ClientConfig;

impl ClientConfig {
    /// Whether the client may introduce itself there, found out before it connects.
    ///
    /// # Errors
    /// [`CleartextCredential`](ErrorKind::CleartextCredential): others could read the token on its way.
    pub(crate) fn may_go_to(&self, address: &WebAddress) -> Result<(), TransportError> {
        // Nobody but the two ends sees what goes there.
        let is_private = address.is_secure || address.is_on_this_machine();
        match self.token.is_none() || self.send_token_without_tls || is_private {
            true => Ok(()),
            false => Err(TransportError::new(ErrorKind::CleartextCredential, Operation::Connect)),
        }
    }

    /// Adds whom a request is for, what lets the client in, and of which origin it is.
    ///
    /// # Errors
    /// It [may not go there](Self::may_go_to), or something cannot stand in a header.
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
    let problem = format!("{what} cannot stand in a header");
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
    fn a_token_does_not_leave_the_machine_in_the_clear() {
        let token = Token::new("a-token-to-be-kept-secret").unwrap();
        let config = ClientConfig { token: Some(token), ..ClientConfig::default() };
        let careless = ClientConfig { send_token_without_tls: true, ..config.clone() };
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
            // Names, however they look.
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
            assert!(introduced(url, &careless).is_ok(), "{url}, by an ugly name");
            // Who has nothing to hide can go anywhere.
            assert!(introduced(url, &ClientConfig::default()).is_ok(), "{url}");
        }
    }
}
