//! The issuer in the project's tokens against the issuer that the settings require.
//!
//! They differ behind a custom domain and on self-hosted projects, and then every user is refused.

use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;

use super::probe::ProbeRequest;
use super::{Check, Deployment};
use crate::config::urls::is_same_on_this_machine;

const NAME: &str = "issuer";

/// The issuer's line.
pub(super) async fn check(deployment: Arc<Deployment>) -> Vec<Check> {
    let auth = &deployment.config.auth;
    let Some(url) = &auth.supabase_url else {
        return vec![Check::skip(NAME, "no SUPABASE_URL: nobody tells who signs")];
    };
    let url = format!("{url}/auth/v1/.well-known/openid-configuration");
    let check = match deployment.http.ask(ProbeRequest::get(&url)).await {
        Err(trouble) => Check::skip(NAME, format!("{url}: {trouble}")),
        Ok(answer) => match answer.body.get("issuer").and_then(Value::as_str) {
            Some(issuer) if answer.status == StatusCode::OK => judge(issuer, &auth.issuer),
            _ => Check::skip(
                NAME,
                format!("the project does not tell it ({url}); older versions do not"),
            ),
        },
    };
    vec![check]
}

fn judge(signs_as: &str, wanted: &str) -> Check {
    if wanted.is_empty() {
        return Check::ok(
            NAME,
            format!("any issuer is taken; the project signs as {signs_as}"),
        );
    }
    if is_same_on_this_machine(signs_as, wanted) {
        return Check::ok(
            NAME,
            format!("the project signs as {signs_as}, and that is wanted of a token"),
        );
    }
    let detail = format!(
        "the project signs as {signs_as}, and tokens must be of {wanted}: every user would be refused"
    );
    let fix = format!(
        "set [auth] issuer = {signs_as:?} in tollgate.toml, or TOLLGATE_AUTH__ISSUER={signs_as}"
    );
    Check::fail(NAME, detail, fix)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;

    #[test]
    fn another_issuer_than_the_projects_is_a_failure_with_the_line_that_mends_it() {
        let wanted = "https://abc.supabase.co/auth/v1";
        let other = judge("https://auth.example.com/auth/v1", wanted);
        assert_eq!(other.status, Status::Fail);
        let fix = other.fix.unwrap();
        assert!(
            fix.contains("[auth] issuer = \"https://auth.example.com/auth/v1\""),
            "{fix}"
        );
        assert!(
            fix.contains("TOLLGATE_AUTH__ISSUER=https://auth.example.com/auth/v1"),
            "{fix}"
        );
        assert_eq!(judge(wanted, wanted).status, Status::Ok);
        assert_eq!(judge(wanted, "").status, Status::Ok);
        assert_eq!(
            judge(
                "http://127.0.0.1:54321/auth/v1",
                "http://localhost:54321/auth/v1"
            )
            .status,
            Status::Ok
        );
        assert_eq!(
            judge("https://abc.supabase.co/auth/v1/", wanted).status,
            Status::Fail
        );
    }
}
