//! Tells which kind of Supabase key a text is. Pure; nothing is verified, because only Supabase can do that.
//!
//! Supabase has two generations of keys: `sb_publishable_…` and `sb_secret_…`, which are opaque, and the legacy anon
//! and service-role keys, which are JWTs with a `role` and, on the platform, the project's `ref`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::clock::Timestamp;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// `sb_secret_…`: for servers.
    Secret,
    /// `sb_publishable_…`: for apps.
    Publishable,
    /// The legacy JWT for servers.
    LegacyService,
    /// The legacy JWT for apps.
    LegacyAnon,
    /// A JWT of another role: a user's token, most likely.
    OtherJwt,
    /// None of these.
    Unknown,
}

impl Kind {
    /// In words.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Secret => "a secret key (sb_secret_…)",
            Self::Publishable => "a publishable key (sb_publishable_…)",
            Self::LegacyService => "a legacy service-role key",
            Self::LegacyAnon => "a legacy anon key",
            Self::OtherJwt => "a JWT that is no key of a project",
            Self::Unknown => "nothing that looks like a Supabase key",
        }
    }

    /// Whether it is made for apps, where everybody can read it.
    pub(super) const fn is_public(self) -> bool {
        matches!(self, Self::Publishable | Self::LegacyAnon)
    }

    /// Whether it goes into `Authorization` too: legacy keys are JWTs and the role comes from there; the new ones must not.
    pub(super) const fn is_jwt(self) -> bool {
        matches!(
            self,
            Self::LegacyService | Self::LegacyAnon | Self::OtherJwt
        )
    }
}

/// What a key says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ApiKey {
    pub(super) kind: Kind,
    /// When a legacy key runs out.
    pub(super) expires: Option<Timestamp>,
    /// The project of a legacy key.
    pub(super) project: Option<String>,
}

impl ApiKey {
    /// Reads a key. Any text is one, of some kind.
    pub(super) fn read(text: &str) -> Self {
        if text.starts_with("sb_secret_") {
            return Self::of(Kind::Secret);
        }
        if text.starts_with("sb_publishable_") {
            return Self::of(Kind::Publishable);
        }
        let Some(claims) = claims(text) else {
            return Self::of(Kind::Unknown);
        };
        let kind = match claims.get("role").and_then(Value::as_str) {
            Some("service_role") => Kind::LegacyService,
            Some("anon") => Kind::LegacyAnon,
            _ => Kind::OtherJwt,
        };
        Self {
            kind,
            expires: claims
                .get("exp")
                .and_then(Value::as_i64)
                .map(Timestamp::from_secs),
            project: claims.get("ref").and_then(Value::as_str).map(str::to_owned),
        }
    }

    const fn of(kind: Kind) -> Self {
        Self {
            kind,
            expires: None,
            project: None,
        }
    }

    /// The project it belongs to, where that is another than the one at `url` (`https://<ref>.supabase.co`).
    pub(super) fn other_project(&self, url: &str) -> Option<&str> {
        let host = url.split_once("://").map_or(url, |(_, host)| host);
        let project = host
            .split_once(".supabase.co")
            .map(|(project, _)| project)?;
        self.project.as_deref().filter(|own| *own != project)
    }
}

/// The claims of a JWT, unverified.
fn claims(text: &str) -> Option<Value> {
    let mut parts = text.split('.');
    let (_, payload, _) = (parts.next()?, parts.next()?, parts.next()?);
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()?;
    claims.is_object().then_some(claims)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jwt(claims: &str) -> String {
        format!(
            "{}.{}.sig",
            URL_SAFE_NO_PAD.encode("{}"),
            URL_SAFE_NO_PAD.encode(claims)
        )
    }

    #[test]
    fn every_kind_of_key_is_told_from_the_others() {
        let kind = |text: &str| ApiKey::read(text).kind;
        assert_eq!(
            kind("sb_secret_abcdefghijklmnopqrstuv_12345678"),
            Kind::Secret
        );
        assert_eq!(
            kind("sb_publishable_abcdefghijklmnopqrstuv_12345678"),
            Kind::Publishable
        );
        assert_eq!(
            kind(&jwt(r#"{"role":"service_role"}"#)),
            Kind::LegacyService
        );
        assert_eq!(kind(&jwt(r#"{"role":"anon"}"#)), Kind::LegacyAnon);
        assert_eq!(kind(&jwt(r#"{"role":"authenticated"}"#)), Kind::OtherJwt);
        for other in ["", "x", "a.b.c", "..", &jwt("[]"), "service_role"] {
            assert_eq!(kind(other), Kind::Unknown, "{other}");
        }
    }

    #[test]
    fn a_legacy_key_tells_its_project_and_its_end() {
        let key = ApiKey::read(&jwt(r#"{"role":"anon","ref":"abc","exp":1000}"#));
        assert_eq!(key.expires, Some(Timestamp::from_secs(1000)));
        assert_eq!(key.other_project("https://abc.supabase.co"), None);
        assert_eq!(key.other_project("https://def.supabase.co"), Some("abc"));
        assert_eq!(key.other_project("http://127.0.0.1:54321"), None);
        assert_eq!(
            ApiKey::read("sb_secret_x").other_project("https://def.supabase.co"),
            None
        );
    }
}
