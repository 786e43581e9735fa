//! Verifies an access token (RFC 9068).

use std::borrow::Cow;
use std::time::SystemTime;

use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{AlgorithmFamily, Header, Validation, decode, decode_header};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::key_set::{KeySet, NoKey};

/// How far the clocks of the issuer and of this machine may differ, in seconds.
const LEEWAY: u64 = 60;

/// The types of JWTs that may be access tokens. Many issuers do not use the type of RFC 9068. Other types,
/// such as `logout+jwt`, have the same signature but another purpose.
const TYPES: [&str; 3] = ["at+jwt", "application/at+jwt", "jwt"];

/// The reason why an access token is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Invalid {
    /// The token is not a JWT, so it may be another kind of token.
    NotAJwt,
    NoKey(NoKey),
    Audience,
    Because(Cow<'static, str>),
}

/// The claims of a verified token that matter here.
#[derive(Debug, Deserialize)]
pub(super) struct Claims {
    iss: String,
    pub(super) sub: String,
    /// The scopes, separated by spaces.
    scope: Option<String>,
    /// The scopes, as some issuers write them.
    scp: Option<Words>,
    /// The key that the client must prove to have.
    cnf: Option<IgnoredAny>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Words {
    One(String),
    Several(Vec<String>),
}

impl Claims {
    /// Returns whether the token has a scope.
    pub(super) fn has(&self, scope: &str) -> bool {
        let of = |text: &String| text.split(' ').any(|it| it == scope);
        self.scope.as_ref().is_some_and(of)
            || match &self.scp {
                None => false,
                Some(Words::One(text)) => of(text),
                Some(Words::Several(scopes)) => scopes.iter().any(|it| it == scope),
            }
    }
}

/// Parses a token's header, and checks what does not need a key.
pub(super) fn header_of(token: &str) -> Result<Header, Invalid> {
    if token.split('.').count() != 3 {
        return Err(Invalid::NotAJwt);
    }
    // The parser knows no algorithm `none`.
    let header = decode_header(token).map_err(|_| because(MALFORMED))?;
    let is_type = |typ: &String| TYPES.iter().any(|it| it.eq_ignore_ascii_case(typ));
    if !header.typ.as_ref().is_none_or(is_type) {
        return Err(because("the JWT is not an access token"));
    }
    if header.crit.is_some() {
        return Err(because("the access token needs an extension that is not supported"));
    }
    if AlgorithmFamily::Hmac.algorithms().contains(&header.alg) {
        return Err(because("the access token is signed with a shared secret"));
    }
    Ok(header)
}

/// Verifies the signature of a token with this header, and then its claims.
pub(super) fn verify(
    token: &str,
    header: &Header,
    keys: &KeySet,
    issuer: &str,
    audiences: &[String],
) -> Result<Claims, Invalid> {
    if SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |it| it.as_secs())
        < LEEWAY
    {
        // The library requires a later time.
        return Err(because("the time of this machine is not set"));
    }
    let key = keys.find(header).map_err(Invalid::NoKey)?;
    let mut validation = Validation::new(header.alg);
    validation.leeway = LEEWAY;
    validation.validate_nbf = true;
    validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
    validation.set_issuer(&[issuer]);
    validation.set_audience(audiences);
    let decoded = decode::<Claims>(token, key, &validation);
    let claims = decoded.map_err(|error| match error.kind() {
        ErrorKind::InvalidAudience => Invalid::Audience,
        ErrorKind::MissingRequiredClaim(claim) => {
            Invalid::Because(format!("the access token lacks the claim {claim}").into())
        }
        ErrorKind::ExpiredSignature => because("the access token has expired"),
        ErrorKind::ImmatureSignature => because("the access token is not valid yet"),
        ErrorKind::InvalidIssuer => because(OTHER_ISSUER),
        ErrorKind::InvalidSignature => because("the signature of the access token is wrong"),
        _ => because(MALFORMED),
    })?;
    let claims = claims.claims;
    // The library also accepts a list of issuers.
    if claims.iss != issuer {
        return Err(because(OTHER_ISSUER));
    }
    if claims.cnf.is_some() {
        return Err(because("the access token is bound to a key, which is not supported"));
    }
    Ok(claims)
}

const MALFORMED: &str = "the access token is malformed";
const OTHER_ISSUER: &str = "the access token has another issuer";

fn because(text: &'static str) -> Invalid {
    Invalid::Because(text.into())
}
