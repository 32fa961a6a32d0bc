//! The keys that verify tokens: whether they can be fetched, their kinds, and which of them cannot be used here.
//!
//! A JWKS says nothing about a key's age or about which key signs now, so the check does not either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;

use super::probe::ProbeRequest;
use super::{Check, Deployment};
use crate::auth::key::PublicKey;
use crate::config::IssuerConfig;

const NAME: &str = "jwks";

/// The keys' line.
pub(super) async fn check(deployment: Arc<Deployment>) -> Vec<Check> {
    let auth = &deployment.config.auth;
    let has_secret = auth.jwt_secret.is_some();
    let Some(url) = &auth.supabase_url else {
        let who = if has_secret {
            "only HS256 tokens are verified, by JWT_SECRET"
        } else {
            "only tokens of other issuers are verified"
        };
        return vec![Check::skip(NAME, format!("no SUPABASE_URL: {who}"))];
    };
    let url = format!("{url}/auth/v1/.well-known/jwks.json");
    let fix = format!(
        "check SUPABASE_URL (dashboard: Project Settings, Data API), and try: curl -sv {url}"
    );
    let check = match deployment.http.ask(ProbeRequest::get(&url)).await {
        Err(trouble) => Check::fail(NAME, format!("{url}: {trouble}"), fix),
        Ok(answer) if answer.status != StatusCode::OK => Check::fail(
            NAME,
            format!("{url} answered with status {}", answer.status.as_u16()),
            fix,
        ),
        Ok(answer) => match answer.body.get("keys").and_then(Value::as_array) {
            None => Check::fail(NAME, format!("{url} is no JSON Web Key Set"), fix),
            Some(keys) => judge(keys, has_secret),
        },
    };
    vec![check]
}

/// A line for each other issuer.
pub(super) async fn check_issuers(deployment: Arc<Deployment>) -> Vec<Check> {
    let issuers = deployment.config.auth.issuers.clone();
    let asked = issuers.into_iter().map(|issuer| {
        let deployment = deployment.clone();
        async move { check_issuer(&deployment, &issuer).await }
    });
    super::all_of(asked.collect()).await
}

async fn check_issuer(deployment: &Deployment, issuer: &IssuerConfig) -> Check {
    let (name, url) = (format!("issuer {}", issuer.name), &issuer.jwks_url);
    let fix =
        format!("check preset, issuer and jwks_url in [[auth.issuers]], and try: curl -sv {url}");
    let answer = match deployment.http.ask(ProbeRequest::get(url)).await {
        Err(trouble) => return Check::fail(name, format!("{url}: {trouble}"), fix),
        Ok(answer) => answer,
    };
    let keys = answer.body.get("keys").and_then(Value::as_array);
    let Some(keys) = keys.filter(|_| answer.status == StatusCode::OK) else {
        let status = answer.status.as_u16();
        return Check::fail(
            name,
            format!("{url} is no JSON Web Key Set (status {status})"),
            fix,
        );
    };
    let usable = keys.iter().filter_map(|key| PublicKey::from_jwk(key).ok());
    let kinds: BTreeSet<&str> = usable.map(|key| key.algorithm().as_str()).collect();
    if kinds.is_empty() {
        return Check::fail(name, format!("no key of {url} can be used"), fix);
    }
    let kinds: Vec<&str> = kinds.into_iter().collect();
    let audience = if issuer.audiences.is_empty() {
        "any audience".to_owned()
    } else {
        issuer.audiences.join(", ")
    };
    let detail = format!("{} for {audience}: {}", issuer.issuer, kinds.join(", "));
    Check::ok(name, detail)
}

fn judge(keys: &[Value], has_secret: bool) -> Check {
    let read: Vec<Result<PublicKey, &str>> = keys.iter().map(PublicKey::from_jwk).collect();
    let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
    for key in read.iter().flatten() {
        let count = kinds.entry(key.algorithm().as_str()).or_default();
        *count = count.saturating_add(1);
    }
    let unusable: Vec<&str> = read
        .iter()
        .filter_map(|key| key.as_ref().err().copied())
        .collect();
    if kinds.is_empty() {
        return without_keys(&unusable, has_secret);
    }
    let kinds: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    let also = if has_secret {
        ", and HS256 by JWT_SECRET"
    } else {
        ""
    };
    let several = if read.len() > 1 {
        "; several mean a standby key, or a rotation under way"
    } else {
        ""
    };
    let age = "a JWKS does not tell how old a key is (dashboard: JWT Keys)";
    let detail = format!("keys: {}{also}{several}; {age}", kinds.join(", "));
    if unusable.is_empty() {
        return Check::ok(NAME, detail);
    }
    let detail = format!("{detail}; left out: {}", unusable.join("; "));
    Check::warn(
        NAME,
        detail,
        "sign with ES256, RS256 or EdDSA (dashboard: JWT Keys); tokens of the others are refused",
    )
}

/// A project that signs with a shared secret publishes no keys.
fn without_keys(unusable: &[&str], has_secret: bool) -> Check {
    let rotate = "sign with ES256 instead: dashboard, Project Settings, JWT Keys, Migrate JWT secret, then Rotate keys";
    if !unusable.is_empty() {
        return Check::fail(
            NAME,
            format!("no key of the set can be used: {}", unusable.join("; ")),
            rotate,
        );
    }
    if has_secret {
        let detail =
            "the set is empty: the project signs with HS256 only, and JWT_SECRET verifies that";
        return Check::warn(NAME, detail, rotate);
    }
    let fix =
        format!("set JWT_SECRET in .env (dashboard: JWT Keys, Legacy JWT Secret); or {rotate}");
    Check::fail(
        NAME,
        "the set is empty: the project signs with HS256 only, and there is no JWT_SECRET",
        fix,
    )
}
