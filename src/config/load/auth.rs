//! `[auth]`.

use secrecy::{ExposeSecret, SecretString};

use super::issuers::{self, IssuerConfig, claim_path};
use crate::config::findings::{Invalid, Problem};
use crate::config::reader::Section;
use crate::config::source::RawSettings;
use crate::config::{secrets, urls};

/// `[auth]`
#[derive(Clone, Debug)]
pub struct Auth {
    /// The project's URL without a trailing slash: `https://<ref>.supabase.co`.
    pub supabase_url: Option<String>,
    /// The shared secret of HS256 tokens.
    pub jwt_secret: Option<SecretString>,
    /// The secret before it, whose tokens are still good while it is here.
    pub jwt_secret_previous: Option<SecretString>,
    /// What `iss` must be; empty accepts any. Default: `<supabase_url>/auth/v1`, or any without a URL.
    pub issuer: String,
    /// Where in the claims a plan is named: `["app_metadata", "plan"]`.
    pub plan_claim: Vec<String>,
    /// The plan of anonymous users; without one they are refused.
    pub anonymous_plan: Option<String>,
    /// A token is good only while the database knows its session, and its user is not banned. Needs a [`Via`].
    pub check_session: bool,
    /// Who else signs tokens.
    pub issuers: Vec<IssuerConfig>,
}

/// Reads the section.
pub(super) fn auth(section: &Section<'_>, raw: &RawSettings) -> Result<Auth, Invalid> {
    const PROJECT: &str = "https://<project>.supabase.co";
    let url = section.maybe("supabase_url", PROJECT, supabase_url);
    let jwt_secret = section.secret("jwt_secret");
    let previous = section.secret("jwt_secret_previous");
    let issuer = section.maybe("issuer", "https://<project>.supabase.co/auth/v1", |text| {
        Ok(text.to_owned())
    });
    let plan_claim = section.parsed("plan_claim", "app_metadata.plan", claim_path);
    let anonymous_plan = section.maybe("anonymous_plan", "free", |text| Ok(text.to_owned()));
    let check_session = section.flag("check_session");
    let issuers = section.elements("issuers");
    section.finish();
    let (url, jwt_secret, jwt_secret_previous) = (url?, jwt_secret?, previous?);
    let issuers = issuers?;
    let is_local = url.as_ref().is_some_and(urls::Address::is_loopback);
    if let Some(address) = url
        .as_ref()
        .filter(|address| !address.is_https && !urls::is_loopback(&address.host))
    {
        let key = section.path_of("supabase_url");
        let what = "whoever is on the network between can put keys of their own in place of those that verify tokens";
        section
            .findings
            .warn(format!("{key} is plain http to `{}`: {what}", address.host));
    }
    for (key, secret) in [
        ("jwt_secret", &jwt_secret),
        ("jwt_secret_previous", &jwt_secret_previous),
    ] {
        if let Some(secret) = secret {
            section.note(key, secrets::jwt_secret(secret.expose_secret(), is_local))?;
        }
    }
    if url.is_none() && jwt_secret.is_none() && issuers.is_empty() {
        let fix = format!(
            "set SUPABASE_URL ({PROJECT}), or JWT_SECRET for HS256 tokens, or both, or name another [[auth.issuers]]; to look around without: tollgate demo"
        );
        let what = Problem::new(
            "is missing, and so is auth.jwt_secret: nothing could verify a token",
            fix,
        );
        return Err(section
            .findings
            .error("auth.supabase_url", &raw.place, what));
    }
    let supabase_url = url.map(|address| address.text);
    let default_issuer = supabase_url.as_ref().map(|url| format!("{url}/auth/v1"));
    let issuer = issuer?.or(default_issuer).unwrap_or_default();
    Ok(Auth {
        issuers: issuers::issuers(section, &issuers, &issuer)?,
        supabase_url,
        jwt_secret,
        jwt_secret_previous,
        issuer,
        plan_claim: plan_claim?,
        anonymous_plan: anonymous_plan?,
        check_session: check_session?,
    })
}

fn supabase_url(text: &str) -> Result<urls::Address, Problem> {
    if is_placeholder(text) {
        let fix = "copy the project's own URL from the Supabase dashboard (Settings, Data API)";
        return Err(Problem::new("is still the placeholder of an example", fix));
    }
    let address = urls::address(text, "https://<project>.supabase.co")?;
    if !address.path.is_empty() {
        let fix = "leave the path out: https://<project>.supabase.co (/auth/v1 is added where it belongs)";
        return Err(Problem::new("has a path", fix));
    }
    if !address.is_https && !address.is_private() {
        let fix = "write https://; http:// is only for a Supabase on this machine or a private network (localhost, \
                   10.…, 192.168.…, a name without dots such as kong; from a container host.docker.internal)";
        return Err(Problem::new(
            "would fetch the keys that verify tokens over plain http",
            fix,
        ));
    }
    Ok(address)
}

/// Whether the URL is the placeholder of an example, such as `https://your-project.supabase.co`.
fn is_placeholder(url: &str) -> bool {
    const EXAMPLES: [&str; 8] = [
        "yourproject",
        "yourprojectref",
        "yourprojectid",
        "yourprojecturl",
        "yoursupabaseproject",
        "projectref",
        "projectid",
        "xyzcompany",
    ];
    let host = url
        .trim()
        .trim_start_matches("https://")
        .trim_start_matches("http://");
    let Some((project, _)) = host.split_once(".supabase.co") else {
        return false;
    };
    let in_brackets = project.contains(['<', '[', '{', '$']);
    let plain: String = project
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect::<String>()
        .to_ascii_lowercase();
    let crossed_out = plain.len() > 2 && plain.chars().all(|letter| letter == 'x');
    in_brackets || crossed_out || EXAMPLES.contains(&plain.as_str())
}
