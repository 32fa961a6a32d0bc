//! `[attest]`: how devices prove what they are.

use super::issuers::keys_url;
use super::webhooks::roots;
use crate::config::findings::{Invalid, Problem};
use crate::config::reader::Section;
use crate::config::tree::{Node, Value};
use crate::config::values::choice;
use crate::x509::TrustedRoot;

/// Where Google publishes the keys of Firebase App Check. (The same for every project.)
const FIREBASE_KEYS: &str = "https://firebaseappcheck.googleapis.com/v1/jwks";

/// What follows from an attested device, or from another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttestMode {
    /// Nothing, and nobody looks.
    Off,
    /// It is counted.
    Audit,
    /// It is counted, and callers on one have the plan that theirs names as `attested`.
    Raise,
    /// The same, and others are refused.
    Require,
}

/// `[attest]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// What follows.
    pub mode: AttestMode,
    /// Firebase App Check, if it counts.
    pub app_check: Option<AppCheck>,
    /// App Attest, if it counts.
    pub app_attest: Option<AppAttest>,
}

/// Whose keys of App Attest count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppAttest {
    /// The team's id: ten letters and digits.
    pub team_id: String,
    /// The apps.
    pub bundle_ids: Vec<String>,
    /// Keys and apps in development count, and those of `TestFlight`.
    pub development: bool,
    /// Roots beside Apple's.
    pub roots: Vec<TrustedRoot>,
}

impl Attest {
    /// Callers on an attested device have another plan.
    #[must_use]
    pub const fn raises(&self) -> bool {
        matches!(self.mode, AttestMode::Raise | AttestMode::Require)
    }
}

/// Whose tokens of Firebase App Check count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppCheck {
    /// The project's number, which is not its id.
    pub project_number: String,
    /// The apps: `1:1234567890:ios:0a1b2c3d4e5f67890`.
    pub app_ids: Vec<String>,
    /// Where the keys are.
    pub jwks_url: String,
}

/// Reads the section.
pub(super) fn attest(section: &Section<'_>) -> Result<Attest, Invalid> {
    let mode = section.parsed("mode", "off", |text| {
        choice(
            text,
            &[
                ("off", AttestMode::Off),
                ("audit", AttestMode::Audit),
                ("raise", AttestMode::Raise),
                ("require", AttestMode::Require),
            ],
        )
    });
    let (app_check, app_attest) = (app_check(section), app_attest(section));
    section.finish();
    let (mode, app_check, app_attest) = (mode?, app_check?, app_attest?);
    if mode != AttestMode::Off && app_check.is_none() && app_attest.is_none() {
        let fix =
            "set firebase_project_number and firebase_app_ids, or app_attest; or mode = \"off\"";
        let problem = Problem::new(
            "asks for devices, and there is no way for one to prove anything",
            fix,
        );
        return Err(section.wrong("mode", problem));
    }
    Ok(Attest {
        mode,
        app_check,
        app_attest,
    })
}

fn app_attest(section: &Section<'_>) -> Result<Option<AppAttest>, Invalid> {
    if section.get("app_attest").is_none() {
        return Ok(None);
    }
    let table = section.section("app_attest")?;
    let team_id = table.parsed("team_id", "ABCDE12345", |text| {
        let is_id = text.len() == 10 && text.bytes().all(|it| it.is_ascii_alphanumeric());
        let fix = "copy the Team ID from developer.apple.com, Membership: ten letters and digits";
        is_id
            .then(|| text.to_owned())
            .ok_or_else(|| Problem::new(format!("`{text}` is no team id"), fix))
    });
    let bundle_ids = table.texts("bundle_ids");
    let development = table.flag("development");
    let roots = table.maybe("root_ca_file", "test-root.pem", roots);
    table.finish();
    let bundle_ids = bundle_ids?;
    if bundle_ids.is_empty() || bundle_ids.iter().any(|id| id.trim().is_empty()) {
        let fix = "name the app: bundle_ids = [\"com.example.app\"]";
        return Err(table.wrong("bundle_ids", Problem::new("is empty or missing", fix)));
    }
    let (roots, development) = (roots?.unwrap_or_default(), development?);
    if development || !roots.is_empty() {
        let key = section.path_of("app_attest");
        section.findings.warn(format!(
            "{key} takes keys that no app from the App Store has: development = true and root_ca_file are for tests"
        ));
    }
    Ok(Some(AppAttest {
        team_id: team_id?,
        bundle_ids,
        development,
        roots,
    }))
}

fn app_check(section: &Section<'_>) -> Result<Option<AppCheck>, Invalid> {
    let number = project_number(section);
    let app_ids = section.texts("firebase_app_ids");
    let jwks_url = section.maybe("firebase_jwks_url", FIREBASE_KEYS, keys_url);
    let (number, app_ids, jwks_url) = (number?, app_ids?, jwks_url?);
    let Some(project_number) = number else {
        return Ok(None);
    };
    if app_ids.is_empty() || app_ids.iter().any(|id| id.trim().is_empty()) {
        let fix = "name your apps as Firebase does: firebase_app_ids = [\"1:1234567890:ios:0a1b2c3d4e5f67890\"]";
        return Err(section.wrong("firebase_app_ids", Problem::new("is empty or missing", fix)));
    }
    Ok(Some(AppCheck {
        project_number,
        app_ids,
        jwks_url: jwks_url.unwrap_or_else(|| FIREBASE_KEYS.to_owned()),
    }))
}

/// Digits, with quotes around them or without.
fn project_number(section: &Section<'_>) -> Result<Option<String>, Invalid> {
    const KEY: &str = "firebase_project_number";
    if let Some(Node { value, .. }) = section.get(KEY)
        && let Value::Integer(Some(number)) = value
        && *number > 0
    {
        return Ok(Some(number.to_string()));
    }
    section.maybe(KEY, "1234567890", |text| {
        let is_number = (1..=20).contains(&text.len()) && text.bytes().all(|it| it.is_ascii_digit());
        let fix = "copy the project number from Firebase (Project settings, General); the project id is another thing";
        is_number
            .then(|| text.to_owned())
            .ok_or_else(|| Problem::new("is not a project number", fix))
    })
}
