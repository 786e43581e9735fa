//! The credentials that a client adds to its requests, and the check that they are not sent in clear text.

use hyper::header::{self, HeaderValue};
use hyper::http::request::Builder;
use tieline_transport::{ConfigError, ErrorKind, Operation, TransportError};

use crate::address::WebAddress;
use crate::client_config::ClientConfig;
use crate::request_header::RequestHeader;

/// The maximum number of headers that a user adds.
const MAX_HEADERS: usize = 32;

impl ClientConfig {
    /// Checks that there are not too many headers, and that `Authorization` and `Origin` are each set at
    /// most once.
    ///
    /// # Errors
    /// One of these headers is set twice, or there are more than 32 headers.
    pub(crate) fn check_headers(&self) -> Result<(), TransportError> {
        let given = |name| self.headers.iter().filter(|header| *header.name() == name).count();
        let (token, basic) = (usize::from(self.token.is_some()), usize::from(self.basic.is_some()));
        let origin = usize::from(self.origin.is_some());
        let must = if token + basic + given(header::AUTHORIZATION) > 1 {
            "set Authorization once: as a token, as a password, or as a header"
        } else if origin + given(header::ORIGIN) > 1 {
            "set Origin once"
        } else if self.headers.len() > MAX_HEADERS {
            "be at most 32"
        } else {
            return Ok(());
        };
        Err(ConfigError { field: "headers", must }.into())
    }

    /// Checks, before connecting, that the client may send its credentials to `address`.
    ///
    /// # Errors
    /// [`CleartextCredential`](ErrorKind::CleartextCredential): a credential would be sent in clear text.
    pub(crate) fn may_go_to(&self, address: &WebAddress) -> Result<(), TransportError> {
        // On such a connection, only the two ends can read the traffic.
        let is_private = address.is_secure || address.is_on_this_machine();
        let has_credentials = self.token.is_some()
            || self.basic.is_some()
            || self.headers.iter().any(RequestHeader::is_credential);
        match !has_credentials || self.send_token_without_tls || is_private {
            true => Ok(()),
            false => Err(TransportError::new(ErrorKind::CleartextCredential, Operation::Connect)),
        }
    }

    /// Adds the `Host`, `Authorization` and `Origin` headers and the user's own headers to a request.
    ///
    /// # Errors
    /// The credentials [may not be sent to this address](Self::may_go_to), or a value is not valid in a
    /// header.
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
        if let Some(basic) = &self.basic {
            request = request.header(header::AUTHORIZATION, basic.value());
        }
        if let Some(origin) = &self.origin {
            let value = HeaderValue::try_from(origin).map_err(|_| unsendable("the origin"))?;
            request = request.header(header::ORIGIN, value);
        }
        for header in &self.headers {
            request = request.header(header.name(), header.value());
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
    use crate::request_header::BasicAuth;
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

    #[test]
    fn passwords_and_secret_headers_are_credentials_too() {
        let basic = Some(BasicAuth::new("me", "secret").unwrap());
        let headers = |text: &str| vec![text.parse::<RequestHeader>().unwrap()];
        let marked = vec![RequestHeader::new("X-Trace", "1").unwrap().credential()];
        for (config, is_secret) in [
            (ClientConfig { basic, ..ClientConfig::default() }, true),
            (ClientConfig { headers: headers("Cookie: a"), ..ClientConfig::default() }, true),
            (ClientConfig { headers: headers("X-Trace: 1"), ..ClientConfig::default() }, false),
            (ClientConfig { headers: marked, ..ClientConfig::default() }, true),
        ] {
            let far = introduced("ws://example.org/ws", &config);
            assert_eq!(far.is_err(), is_secret, "{config:?}");
            for url in ["wss://example.org/ws", "ws://127.0.0.1/ws"] {
                assert!(introduced(url, &config).is_ok(), "{url}: {config:?}");
            }
            assert!(!format!("{config:?}").contains("secret"), "{config:?}");
        }
    }

    #[test]
    fn headers_that_contradict_each_other_are_refused() {
        let token = Some(Token::new("a-token-to-be-kept-secret").unwrap());
        let basic = Some(BasicAuth::new("me", "secret").unwrap());
        let headers = |text: &str| text.lines().map(|line| line.parse().unwrap()).collect();
        let base = ClientConfig::default;
        let many = vec!["X: 1"; MAX_HEADERS].join("\n");
        for (config, says) in [
            (ClientConfig { token: token.clone(), basic, ..base() }, "Authorization once"),
            (
                ClientConfig { token, headers: headers("authorization: x"), ..base() },
                "Authorization once",
            ),
            (
                ClientConfig { headers: headers("Authorization: x\nauthorization: y"), ..base() },
                "once",
            ),
            (
                ClientConfig { origin: Some("x".into()), headers: headers("Origin: x"), ..base() },
                "Origin once",
            ),
            (ClientConfig { headers: headers(&format!("{many}\nX: 1")), ..base() }, "at most 32"),
        ] {
            let error = config.check_headers().unwrap_err();
            assert!(error.to_string().contains(says), "{error}");
        }
        let config = ClientConfig { headers: headers(&many), ..base() };
        assert!(config.check_headers().is_ok());
    }
}
