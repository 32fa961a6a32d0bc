//! `[[auth.issuers]]`: who signs tokens beside the project.

use std::collections::BTreeSet;

use crate::config::findings::{Invalid, Problem};
use crate::config::plans;
use crate::config::reader::Section;
use crate::config::tree::{Node, Value};
use crate::config::urls;
use crate::config::values::choice;

/// The most issuers.
const ISSUERS_MAX: usize = 16;
/// Where Google publishes the keys of Firebase Auth. (The same for every project.)
const FIREBASE_KEYS: &str =
    "https://www.googleapis.com/service_accounts/v1/jwk/securetoken@system.gserviceaccount.com";
/// The issuer of a Firebase project's tokens, up to its id.
const FIREBASE_ISSUER: &str = "https://securetoken.google.com/";

/// A provider whose addresses are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IssuerPreset {
    /// Firebase Auth: the audience is the project, and names the issuer too.
    Firebase,
    /// Clerk: session tokens have no audience unless a template gives them one.
    Clerk,
    /// Auth0: the audience is the API.
    Auth0,
    /// Amazon Cognito: access tokens name their app client in `client_id`, ID tokens in `aud`.
    Cognito,
}

/// `[[auth.issuers]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerConfig {
    /// Its name in logs and readiness.
    pub name: String,
    /// Whose rules hold, where they are known.
    pub preset: Option<IssuerPreset>,
    /// What `iss` is, letter for letter.
    pub issuer: String,
    /// Where its keys are.
    pub jwks_url: String,
    /// One of these must be in `aud`; empty takes any.
    pub audiences: Vec<String>,
    /// The claim that tells its users apart.
    pub user_claim: Vec<String>,
    /// Where a token names a plan, if anywhere.
    pub plan_claim: Option<Vec<String>>,
    /// Where a token has the user's e-mail address.
    pub email_claim: Vec<String>,
}

/// Reads the list that is in a section. `project` is the issuer of the Supabase project.
pub(super) fn issuers(
    section: &Section<'_>,
    elements: &[(String, Node)],
    project: &str,
) -> Result<Vec<IssuerConfig>, Invalid> {
    if elements.len() > ISSUERS_MAX {
        let problem = Problem::new(
            format!("has {} issuers", elements.len()),
            format!("name at most {ISSUERS_MAX}"),
        );
        return Err(section.wrong("issuers", problem));
    }
    let mut issuers = Vec::new();
    let mut complete = true;
    for (path, node) in elements {
        match Section::of(path.clone(), node, section.findings).and_then(|it| issuer(&it)) {
            Ok(read) => issuers.push(read),
            Err(Invalid) => complete = false,
        }
    }
    let (mut names, mut addresses) = (BTreeSet::new(), BTreeSet::new());
    for one in &issuers {
        let is_projects = urls::is_same_on_this_machine(&one.issuer, project);
        if !names.insert(&one.name) || !addresses.insert(&one.issuer) || is_projects {
            let problem = Problem::new(
                format!("name `{}` ({}) twice", one.name, one.issuer),
                "give each issuer a name and an address of its own; the Supabase project needs no entry here",
            );
            return Err(section.wrong("issuers", problem));
        }
    }
    complete.then_some(issuers).ok_or(Invalid)
}

fn issuer(section: &Section<'_>) -> Result<IssuerConfig, Invalid> {
    let name = section.parsed("name", "firebase", plans::name);
    let preset = section.maybe("preset", "firebase", |text| {
        choice(
            text,
            &[
                ("firebase", IssuerPreset::Firebase),
                ("clerk", IssuerPreset::Clerk),
                ("auth0", IssuerPreset::Auth0),
                ("cognito", IssuerPreset::Cognito),
            ],
        )
    });
    let issuer = section.maybe("issuer", "https://auth.example.com/", issuer_text);
    let jwks_url = section.maybe("jwks_url", "https://auth.example.com/jwks.json", keys_url);
    let audiences = audiences(section);
    let user_claim = section.maybe("user_claim", "sub", claim_path);
    let plan_claim = section.maybe("plan_claim", "plan", claim_path);
    let email_claim = section.maybe("email_claim", "email", claim_path);
    section.finish();
    let (preset, mut audiences) = (preset?, audiences?);
    let issuer = match (issuer?, preset, audiences.as_deref()) {
        (Some(issuer), ..) => issuer,
        (None, Some(IssuerPreset::Firebase), Some([project])) => {
            format!("{FIREBASE_ISSUER}{project}")
        }
        (None, Some(IssuerPreset::Firebase), _) => {
            let fix = "write the project's id: audience = \"my-project\"";
            return Err(section.wrong("audience", Problem::new("is missing", fix)));
        }
        (None, ..) => {
            let fix =
                "write what `iss` is in its tokens, letter for letter: issuer = \"https://…\"";
            return Err(section.wrong("issuer", Problem::new("is missing", fix)));
        }
    };
    if preset == Some(IssuerPreset::Firebase) && audiences.is_none() {
        audiences = issuer
            .strip_prefix(FIREBASE_ISSUER)
            .map(|project| vec![project.to_owned()]);
    }
    // An issuer signs for many apps, and a token for another one is no key to this one.
    if audiences.is_none() && preset != Some(IssuerPreset::Clerk) {
        let fix = "write what `aud` is in tokens for this app; \"\" takes tokens for every app of this issuer";
        return Err(section.wrong("audience", Problem::new("is missing", fix)));
    }
    let jwks_url = match (jwks_url?, preset) {
        (Some(url), _) => url,
        (None, Some(IssuerPreset::Firebase)) => FIREBASE_KEYS.to_owned(),
        (None, Some(_)) => section.note("issuer", well_known(&issuer))?,
        (None, None) => {
            let fix = "write where its keys are: jwks_url = \"https://…\"";
            return Err(section.wrong("jwks_url", Problem::new("is missing", fix)));
        }
    };
    Ok(IssuerConfig {
        name: name?,
        preset,
        issuer,
        jwks_url,
        audiences: audiences.unwrap_or_default(),
        user_claim: user_claim?.unwrap_or_else(|| vec!["sub".to_owned()]),
        plan_claim: plan_claim?,
        email_claim: email_claim?.unwrap_or_else(|| vec!["email".to_owned()]),
    })
}

/// One text, or a list of them; `""` is any.
fn audiences(section: &Section<'_>) -> Result<Option<Vec<String>>, Invalid> {
    let Some(Node { value, .. }) = section.get("audience") else {
        return Ok(None);
    };
    let said = match value {
        Value::Text(one) => vec![one.clone()],
        _ => section.texts("audience")?,
    };
    Ok(Some(said.into_iter().filter(|it| !it.is_empty()).collect()))
}

fn issuer_text(text: &str) -> Result<String, Problem> {
    if (1..=512).contains(&text.len()) && text.trim() == text {
        return Ok(text.to_owned());
    }
    let fix = "write what `iss` is in its tokens, letter for letter, with or without the slash at its end";
    Err(Problem::new(
        "is empty, too long, or has white space around it",
        fix,
    ))
}

fn well_known(issuer: &str) -> Result<String, Problem> {
    keys_url(&format!(
        "{}/.well-known/jwks.json",
        issuer.trim_end_matches('/')
    ))
}

/// Reads an address of keys.
pub(super) fn keys_url(text: &str) -> Result<String, Problem> {
    // Google's has an `@` in its path, which is not the one before a host.
    let text = text.trim();
    let path = text
        .match_indices('/')
        .nth(2)
        .and_then(|(at, _)| text.split_at_checked(at));
    let checked = path.map_or_else(
        || text.to_owned(),
        |(host, path)| format!("{host}{}", path.replace('@', "%40")),
    );
    let address = urls::address(&checked, "https://auth.example.com/.well-known/jwks.json")?;
    if !address.is_https && !address.is_private() {
        let fix = "write https://; http:// is only for this machine or a private network";
        return Err(Problem::new(
            "would fetch the keys that verify tokens over plain http",
            fix,
        ));
    }
    Ok(text.to_owned())
}

/// Reads where a claim is: names with dots between them, or one name that is a URL (as Auth0 wants of an app's own claims).
pub(super) fn claim_path(text: &str) -> Result<Vec<String>, Problem> {
    let path: Vec<String> = if text.contains("://") {
        vec![text.to_owned()]
    } else {
        text.split('.').map(str::to_owned).collect()
    };
    if path.iter().any(String::is_empty) {
        return Err(Problem::new(
            format!("`{text}` is not a path of claims"),
            "write it like \"app_metadata.plan\"",
        ));
    }
    if let Some(first) = path.first().filter(|first| is_users_own(first)) {
        let fix = "use app_metadata, which only the server can write";
        return Err(Problem::new(
            format!("trusts {first}, which users write themselves"),
            fix,
        ));
    }
    Ok(path)
}

/// Claims that hold what users write: Supabase's and Auth0's, and Clerk's.
pub(crate) fn is_users_own(claim: &str) -> bool {
    matches!(claim, "user_metadata" | "unsafe_metadata")
}
