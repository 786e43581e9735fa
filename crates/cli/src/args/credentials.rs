//! Options for the headers and credentials of outgoing web lines. Values can come from a file or the
//! environment, because the process list shows the command line.

use std::path::PathBuf;

use clap::Args as Group;
use tieline_http::{BasicAuth, ClientConfig, RequestHeader};
use tieline_transport::ConfigError;

use super::secrets::{Tokens, read, variable};
use crate::children::{HEADERS, PASSWORD};
use crate::report::Failure;

/// The maximum size of a file with headers.
const LONGEST_HEADERS: u64 = 64 * 1024;
/// The maximum size of a file with a password.
const LONGEST_PASSWORD: u64 = 8 * 1024;

/// The credentials and headers that a client sends to a web server.
#[derive(Group)]
pub(super) struct Credentials {
    #[command(flatten)]
    tokens: Tokens,
    /// Authenticate with a user name and the password from --password-file or TIELINE_PASSWORD
    ///
    /// They are sent as `Authorization: Basic`, instead of the token in TIELINE_TOKEN.
    #[arg(long, value_name = "USER", value_parser = user)]
    #[arg(conflicts_with_all = ["token", "token_file"])]
    basic: Option<String>,
    /// Read the password of --basic from FILE, which contains nothing else
    #[arg(long, value_name = "FILE", requires = "basic")]
    #[arg(hide_short_help = true)]
    password_file: Option<PathBuf>,
    /// Add a header to each request, for example 'X-Trace: 1'; may be repeated
    ///
    /// Other users of this machine can see the value in the process list: for a secret, prefer --header-file,
    /// or the environment variable TIELINE_HEADERS, with one header on each line.
    #[arg(long, value_name = "NAME: VALUE", value_parser = header)]
    header: Vec<RequestHeader>,
    /// Add the headers in FILE, one `NAME: VALUE` on each line, to each request
    #[arg(long, value_name = "FILE")]
    #[arg(hide_short_help = true)]
    header_file: Option<PathBuf>,
    /// Send credentials to other machines without TLS, where anyone on the network path can read them
    #[arg(long)]
    #[arg(hide_short_help = true)]
    send_token_without_tls: bool,
}

impl Credentials {
    /// Returns these options by name, and whether each is on the command line.
    pub(super) fn given(&self) -> impl Iterator<Item = (&'static str, bool)> {
        // Destructure all fields, so that a forgotten option is an unused variable.
        let Self { tokens, basic, password_file, header, header_file, send_token_without_tls } =
            self;
        tokens.given().into_iter().chain([
            ("--basic", basic.is_some()),
            ("--password-file", password_file.is_some()),
            ("--header", !header.is_empty()),
            ("--header-file", header_file.is_some()),
            ("--send-token-without-tls", *send_token_without_tls),
        ])
    }

    /// Returns a client with these credentials.
    pub(super) fn client(&self) -> Result<ClientConfig, Failure> {
        let mut headers = self.header.clone();
        if let Some(file) = &self.header_file {
            let named = format!("--header-file {}", file.display());
            headers.extend(secret_headers(&named, &read("--header-file", file, LONGEST_HEADERS)?)?);
        }
        let is_authorization = RequestHeader::is_authorization;
        let replaces_token = self.basic.is_some() || headers.iter().any(is_authorization);
        if let Some(text) = variable(HEADERS)? {
            headers.extend(secret_headers(HEADERS, &text)?);
        }
        let token = match replaces_token {
            true => self.tokens.on_command_line()?,
            false => self.tokens.find()?,
        };
        let basic = self.basic.as_deref().map(|user| self.password(user)).transpose()?;
        let authorizations = headers.iter().filter(|header| is_authorization(header)).count();
        if authorizations + usize::from(basic.is_some()) + usize::from(token.is_some()) > 1 {
            let why = "the header Authorization can be set only once, by one of --token, --token-file, --basic, \
                       --header, --header-file, TIELINE_TOKEN and TIELINE_HEADERS";
            return Err(Failure::Usage(why.into()));
        }
        let send_token_without_tls = self.send_token_without_tls;
        Ok(ClientConfig {
            token,
            basic,
            headers,
            send_token_without_tls,
            ..ClientConfig::default()
        })
    }

    fn password(&self, user: &str) -> Result<BasicAuth, Failure> {
        let password = match &self.password_file {
            Some(file) => Some(read("--password-file", file, LONGEST_PASSWORD)?),
            // An empty password is valid, too.
            None => variable(PASSWORD)?,
        };
        let Some(password) = password else {
            let why = format!("--basic needs a password: pass --password-file, or set {PASSWORD}");
            return Err(Failure::Usage(why));
        };
        BasicAuth::new(user, &password)
            .map_err(|error| Failure::Usage(format!("the password of --basic must {}", error.must)))
    }
}

/// Parses headers, one on each line, and marks them as credentials: a header that is not secret could
/// have been passed on the command line.
fn secret_headers(place: &str, text: &str) -> Result<Vec<RequestHeader>, Failure> {
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    let parsed = lines.map(|(at, line)| {
        let header = line.parse::<RequestHeader>().map_err(|error: ConfigError| {
            Failure::Usage(format!("{place}, line {}: a header must {}", at + 1, error.must))
        });
        header.map(RequestHeader::credential)
    });
    parsed.collect()
}

fn header(text: &str) -> Result<RequestHeader, String> {
    text.parse().map_err(|error: ConfigError| format!("a header must {}", error.must))
}

/// Checks a user name. The error does not quote the text, because it may contain a password.
fn user(text: &str) -> Result<String, String> {
    match text.contains(':') {
        true => {
            Err("a user name must not contain a colon; pass the password with --password-file"
                .into())
        }
        false if BasicAuth::new(text, "").is_err() => {
            Err("a user name must not be empty or contain control characters".into())
        }
        false => Ok(text.to_owned()),
    }
}
