//! Who a user is: nonces, logins, tokens. Pure but for the random bytes that the caller passes in.
//!
//! Nothing about a login is stored: a nonce carries its time and a MAC, a token is a signed claim. Both keys are
//! derived from the one secret in the database, so a restart logs nobody out.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::Sha256;

use super::users::Users;
use crate::core::crypto::{VerifyError, signed};
use crate::core::model::Hotkey;

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Why a login is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum LoginRefusal {
    /// A field is absent.
    #[error("Missing {0}")]
    Missing(&'static str),
    /// The nonce is not ours or too old.
    #[error("Invalid nonce")]
    Nonce,
    /// The signature or the address cannot be read; the reference's words for it.
    #[error("Nonce expired or not found")]
    Unreadable,
    /// The signature does not match.
    #[error("Invalid signature")]
    Signature,
    /// The user is not on the list.
    #[error("Hotkey not allowed")]
    NotAllowed,
}

/// Why a token is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum TokenRefusal {
    /// There is none.
    #[error("Authentication credentials were not provided.")]
    Absent,
    /// The header has not two words.
    #[error("Invalid token header format.")]
    Format,
    /// The token is not ours.
    #[error("Token decode error.")]
    Decode,
    /// The token was ours for too long.
    #[error("Token expired.")]
    Expired,
    /// The user is not on the list any more.
    #[error("Unauthorized hotkey.")]
    NotAllowed,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    sub: Hotkey,
    #[serde(default)]
    iat: i64,
    exp: i64,
}

/// Makes and checks nonces and tokens.
pub(super) struct Gate {
    users: Users,
    nonce_key: [u8; 32],
    encoding: EncodingKey,
    decoding: DecodingKey,
    validation: Validation,
    nonce_seconds: i64,
    token_seconds: i64,
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gate")
            .field("users", &self.users)
            .finish_non_exhaustive()
    }
}

impl Gate {
    /// Makes a gate with keys derived from `secret`.
    pub(super) fn new(secret: &[u8; 32], users: Users, nonce: Duration, token: Duration) -> Self {
        let token_key = mac(secret, b"horde facilitator token");
        let mut validation = Validation::new(Algorithm::HS256);
        // The clock is ours: time is checked below.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims = HashSet::new();
        Self {
            users,
            nonce_key: mac(secret, b"horde facilitator nonce"),
            encoding: EncodingKey::from_secret(&token_key),
            decoding: DecodingKey::from_secret(&token_key),
            validation,
            nonce_seconds: i64::try_from(nonce.as_secs()).unwrap_or(i64::MAX),
            token_seconds: i64::try_from(token.as_secs()).unwrap_or(i64::MAX),
        }
    }

    /// Returns who is let in.
    pub(super) fn users(&self) -> &Users {
        &self.users
    }

    /// Makes a nonce; `now` is in unix seconds.
    pub(super) fn nonce(&self, now: i64, random: [u8; 16]) -> String {
        let claim = format!("{}:{}", hex::encode(random), base62(now.unsigned_abs()));
        let tag = URL_SAFE_NO_PAD.encode(mac(&self.nonce_key, claim.as_bytes()));
        format!("{claim}:{tag}")
    }

    fn is_good_nonce(&self, nonce: &str, now: i64) -> bool {
        let Some((claim, tag)) = nonce.rsplit_once(':') else {
            return false;
        };
        let Ok(tag) = URL_SAFE_NO_PAD.decode(tag) else {
            return false;
        };
        let made = claim.rsplit_once(':').and_then(|(_, time)| from_base62(time));
        let is_ours = hasher(&self.nonce_key, claim.as_bytes())
            .verify_slice(&tag)
            .is_ok();
        is_ours && made.is_some_and(|made| now.saturating_sub(made) <= self.nonce_seconds)
    }

    /// Checks a login and returns its user.
    pub(super) fn login(&self, body: &Map<String, Value>, now: i64) -> Result<Hotkey, LoginRefusal> {
        let field = |name: &'static str| {
            body.get(name)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
                .ok_or(LoginRefusal::Missing(name))
        };
        let hotkey = Hotkey::new(field("hotkey")?);
        let signature = field("signature")?;
        let nonce = field("nonce")?;
        if !self.is_good_nonce(nonce, now) {
            return Err(LoginRefusal::Nonce);
        }
        signed::verify_login(&hotkey, nonce, signature).map_err(|error| match error {
            VerifyError::Mismatch => LoginRefusal::Signature,
            VerifyError::Format(_)
            | VerifyError::Signer(_)
            | VerifyError::NotAKey
            | VerifyError::HexMessage => LoginRefusal::Unreadable,
        })?;
        if self.users.admit(&hotkey) {
            Ok(hotkey)
        } else {
            Err(LoginRefusal::NotAllowed)
        }
    }

    /// Makes a token; `now` is in unix seconds.
    pub(super) fn token(&self, hotkey: &Hotkey, now: i64) -> Result<String, jsonwebtoken::errors::Error> {
        let claims = Claims {
            sub: hotkey.clone(),
            iat: now,
            exp: now.saturating_add(self.token_seconds),
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.encoding)
    }

    /// Reads an `Authorization` header and returns the user.
    pub(super) fn user(&self, authorization: Option<&str>, now: i64) -> Result<Hotkey, TokenRefusal> {
        let mut words = authorization.ok_or(TokenRefusal::Absent)?.split_whitespace();
        match words.next() {
            Some(scheme) if scheme.eq_ignore_ascii_case("bearer") => {}
            Some(_) | None => return Err(TokenRefusal::Absent),
        }
        let (Some(token), None) = (words.next(), words.next()) else {
            return Err(TokenRefusal::Format);
        };
        let claims = jsonwebtoken::decode::<Claims>(token, &self.decoding, &self.validation)
            .map_err(|_foreign| TokenRefusal::Decode)?
            .claims;
        if claims.exp <= now {
            return Err(TokenRefusal::Expired);
        }
        if self.users.admit(&claims.sub) {
            Ok(claims.sub)
        } else {
            Err(TokenRefusal::NotAllowed)
        }
    }
}

#[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
fn hasher(key: &[u8; 32], message: &[u8]) -> Hmac<Sha256> {
    let mut hasher = Hmac::<Sha256>::new_from_slice(key).expect("32 bytes are a key");
    hasher.update(message);
    hasher
}

fn mac(key: &[u8; 32], message: &[u8]) -> [u8; 32] {
    hasher(key, message).finalize().into_bytes().into()
}

fn base62(mut number: u64) -> String {
    let mut digits = Vec::new();
    loop {
        let digit = usize::try_from(number % 62).unwrap_or(0);
        digits.push(BASE62.get(digit).copied().map_or('0', char::from));
        number /= 62;
        if number == 0 {
            return digits.into_iter().rev().collect();
        }
    }
}

fn from_base62(text: &str) -> Option<i64> {
    if text.is_empty() {
        return None;
    }
    text.bytes().try_fold(0_i64, |number, digit| {
        let value = BASE62.iter().position(|known| *known == digit)?;
        number.checked_mul(62)?.checked_add(i64::try_from(value).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::core::crypto::Keypair;

    const NOW: i64 = 1_795_338_799;

    fn gate(users: Users) -> Gate {
        Gate::new(
            &[7; 32],
            users,
            Duration::from_secs(300),
            Duration::from_secs(3600),
        )
    }

    fn body(value: Value) -> Map<String, Value> {
        let Value::Object(fields) = value else {
            unreachable!()
        };
        fields
    }

    #[test]
    fn the_time_of_a_nonce_is_written_in_base_62() {
        // From a nonce of the reference.
        assert_eq!(base62(1_795_338_799), "1xV3dP");
        assert_eq!(from_base62("1xV3dP"), Some(1_795_338_799));
        assert_eq!(from_base62("zzzzzzzzzzzzzzzz"), None);
        assert_eq!(from_base62("-"), None);
    }

    #[test]
    fn a_nonce_lasts_for_its_time_and_no_byte_of_it_may_change() {
        let gate = gate(Users::new(true, []));
        let nonce = gate.nonce(NOW, [1; 16]);
        assert!(gate.is_good_nonce(&nonce, NOW + 300));
        assert!(!gate.is_good_nonce(&nonce, NOW + 301));
        for index in 0..nonce.len() {
            let mut bytes = nonce.clone().into_bytes();
            bytes[index] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert!(!gate.is_good_nonce(&changed, NOW), "{changed}");
        }
        for odd in ["", ":", "::", "a:b:c", "ż"] {
            assert!(!gate.is_good_nonce(odd, NOW));
        }
    }

    #[test]
    fn a_login_is_refused_with_the_words_of_the_reference() {
        let alice = Keypair::from_uri("//Alice").unwrap();
        let bob = Keypair::from_uri("//Bob").unwrap();
        let gate = gate(Users::new(false, [alice.hotkey().clone()]));
        let nonce = gate.nonce(NOW, [1; 16]);
        let good = alice.sign(nonce.as_bytes()).to_hex();
        let cases = [
            (json!({}), "Missing hotkey"),
            (json!({"hotkey": "x"}), "Missing signature"),
            (json!({"hotkey": "x", "signature": "y"}), "Missing nonce"),
            (
                json!({"hotkey": alice.hotkey(), "signature": good, "nonce": "x"}),
                "Invalid nonce",
            ),
            (
                json!({"hotkey": alice.hotkey(), "signature": format!("0x{good}"), "nonce": nonce}),
                "Nonce expired or not found",
            ),
            (
                json!({"hotkey": "5x", "signature": good, "nonce": nonce}),
                "Nonce expired or not found",
            ),
            (
                json!({"hotkey": bob.hotkey(), "signature": good, "nonce": nonce}),
                "Invalid signature",
            ),
            (
                json!({"hotkey": bob.hotkey(), "signature": bob.sign(nonce.as_bytes()).to_hex(), "nonce": nonce}),
                "Hotkey not allowed",
            ),
        ];
        for (login, words) in cases {
            assert_eq!(gate.login(&body(login), NOW).unwrap_err().to_string(), words);
        }
        let login = body(json!({"hotkey": alice.hotkey(), "signature": good, "nonce": nonce}));
        assert_eq!(gate.login(&login, NOW).as_ref(), Ok(alice.hotkey()));
    }

    #[test]
    fn a_token_is_refused_with_the_words_of_the_reference() {
        let hotkey = Hotkey::new("5x");
        let open = gate(Users::new(true, []));
        let token = open.token(&hotkey, NOW).unwrap();
        let user = |header: Option<&str>, now| open.user(header, now);
        assert_eq!(user(Some(&format!("bearer {token}")), NOW), Ok(hotkey));
        assert_eq!(user(None, NOW), Err(TokenRefusal::Absent));
        assert_eq!(user(Some(""), NOW), Err(TokenRefusal::Absent));
        assert_eq!(user(Some("Token xyz"), NOW), Err(TokenRefusal::Absent));
        assert_eq!(user(Some("Bearer"), NOW), Err(TokenRefusal::Format));
        assert_eq!(user(Some("Bearer a b"), NOW), Err(TokenRefusal::Format));
        assert_eq!(user(Some("Bearer xyz"), NOW), Err(TokenRefusal::Decode));
        let header = format!("Bearer {token}");
        assert_eq!(user(Some(&header), NOW + 3600), Err(TokenRefusal::Expired));
        let closed = gate(Users::default());
        assert_eq!(closed.user(Some(&header), NOW), Err(TokenRefusal::NotAllowed));
    }
}
