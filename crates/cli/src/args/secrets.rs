//! The token, and how secrets are read from files and the environment.

use std::env::VarError;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args as Group;
use tieline_http::Token;

use crate::children::TOKEN;
use crate::report::Failure;

/// The token from the command line, a file or the environment.
#[derive(Group)]
pub(super) struct Tokens {
    /// Authenticate with TOKEN
    ///
    /// Other users of this machine can see the token in the process list: prefer --token-file, or the
    /// environment variable TIELINE_TOKEN.
    #[arg(long, value_name = "TOKEN", value_parser = token, conflicts_with = "token_file")]
    token: Option<Token>,
    /// Read the token from FILE, which contains nothing else
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

impl Tokens {
    pub(super) fn find(&self) -> Result<Option<Token>, Failure> {
        if let Some(token) = self.on_command_line()? {
            return Ok(Some(token));
        }
        let text = variable(TOKEN)?.filter(|text| !text.is_empty());
        let token = text.map(|text| token(&text)).transpose();
        token.map_err(|why| Failure::Usage(format!("{TOKEN}: {why}")))
    }

    /// Returns the token from an option, not from the environment.
    pub(super) fn on_command_line(&self) -> Result<Option<Token>, Failure> {
        match (&self.token, &self.token_file) {
            (Some(token), _) => Ok(Some(token.clone())),
            (None, Some(file)) => {
                let text = read("--token-file", file, LONGEST_FILE)?;
                let failed =
                    |why| Failure::other(format!("--token-file {}: {why}", file.display()));
                token(&text).map(Some).map_err(failed)
            }
            (None, None) => Ok(None),
        }
    }

    /// Returns the options by name, and whether each is on the command line.
    pub(super) fn given(&self) -> [(&'static str, bool); 2] {
        let Self { token, token_file } = self;
        [("--token", token.is_some()), ("--token-file", token_file.is_some())]
    }
}

/// Returns the value of an environment variable.
pub(super) fn variable(name: &str) -> Result<Option<String>, Failure> {
    match std::env::var(name) {
        Ok(text) => Ok(Some(text)),
        Err(VarError::NotPresent) => Ok(None),
        // The standard error would quote the value.
        Err(VarError::NotUnicode(_)) => Err(Failure::Usage(format!("{name} is not UTF-8"))),
    }
}

/// The maximum size of a token file. The longest token and a line ending fit.
const LONGEST_FILE: u64 = 1024;

/// Parses a token. The error does not quote the text, because it may be a mistyped secret.
fn token(text: &str) -> Result<Token, String> {
    Token::new(text).map_err(|error| format!("a token must {}", error.must))
}

/// Reads a file with a secret, without the line break at its end.
pub(super) fn read(option: &str, file: &Path, longest: u64) -> Result<String, Failure> {
    let failed = |why: String| Failure::other(format!("{option} {}: {why}", file.display()));
    let mut text = String::new();
    let opened = tieline_transport::open_secret(file).map_err(|error| failed(error.to_string()))?;
    let length = opened.take(longest + 1).read_to_string(&mut text);
    let length = length.map_err(|error| failed(error.to_string()))?;
    if length as u64 > longest {
        return Err(failed(format!("the file has more than {longest} bytes")));
    }
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}
