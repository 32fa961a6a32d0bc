//! Tokens that a published key has signed and that name no user: what Firebase App Check gives to an app.
//!
//! Invariant: [`SignedClaims`] exist only where the signature was verified, by a key whose algorithm is its own.

use super::LEEWAY;
use super::bearer::BEARER_BYTES_MAX;
use super::claims::{self, Claims};
use super::keys::{self, Jwks};
use super::token::{Parts, Scheme};
use crate::clock::Timestamp;

/// Verified claims. Who reads them asks for the rest: by whom, for whom, until when.
pub(crate) struct SignedClaims(Claims);

/// Why there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignatureFault {
    /// The token is none, or nobody of this set signed it.
    Wrong,
    /// The keys cannot be had.
    Unavailable,
}

impl SignedClaims {
    /// The claims of a token that one of these keys has signed.
    ///
    /// # Errors
    /// It has not, or nobody can say.
    pub(crate) async fn of(
        jwks: &Jwks,
        token: &str,
        now: Timestamp,
    ) -> Result<Self, SignatureFault> {
        if token.len() > BEARER_BYTES_MAX {
            return Err(SignatureFault::Wrong);
        }
        let parts = Parts::split(token).map_err(|_| SignatureFault::Wrong)?;
        let Scheme::Key(algorithm) = parts.scheme else {
            return Err(SignatureFault::Wrong);
        };
        let kid = parts.kid.as_deref();
        let set = jwks.set_for(kid, algorithm, now).await;
        let set = set.map_err(|keys::Unavailable| SignatureFault::Unavailable)?;
        if !set.verifies(kid, algorithm, (parts.message, &parts.signature)) {
            return Err(SignatureFault::Wrong);
        }
        parts.claims().map(Self).ok_or(SignatureFault::Wrong)
    }

    /// A claim that is text.
    pub(crate) fn text(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_str()
    }

    /// `aud` names this audience.
    pub(crate) fn is_for(&self, audience: &str) -> bool {
        claims::names(self.0.get("aud"), |one| one == audience)
    }

    /// It has an end, which is ahead, and a beginning that is not.
    pub(crate) fn holds_at(&self, now: Timestamp) -> bool {
        let times = (claims::not_before(&self.0), claims::expires_at(&self.0));
        let (Ok(from), Ok(until)) = times else {
            return false;
        };
        from <= now.plus(LEEWAY) && now < until.plus(LEEWAY)
    }
}
