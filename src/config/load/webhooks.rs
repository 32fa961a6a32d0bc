//! `[webhooks]`: how each store proves that it is the one who tells.

use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use secrecy::{ExposeSecret, SecretString};

use crate::config::findings::{Invalid, Problem};
use crate::config::reader::{Section, secret};
use crate::config::source::RawSettings;
use crate::config::upstream_keys::PREVIOUS;
use crate::config::values::millis_to;
use crate::plan::Plans;
use crate::x509::TrustedRoot;

/// The longest time that Stripe may be waited for.
const GRACE_MAX: Duration = Duration::from_hours(24 * 60);

/// `[webhooks]`
#[derive(Clone, Debug, Default)]
pub struct Webhooks {
    /// The App Store, if it may tell anything.
    pub appstore: Option<AppStore>,
    /// RevenueCat's signature.
    pub revenuecat_secret: Option<RotatingSecret>,
    /// What RevenueCat sends as `Authorization`.
    pub revenuecat_authorization: Option<RotatingSecret>,
    /// Superwall's signature.
    pub superwall_secret: Option<RotatingSecret>,
    /// Stripe's signature.
    pub stripe_secret: Option<RotatingSecret>,
    /// How long a subscription counts whose renewal could not be paid.
    pub stripe_grace: Duration,
}

impl Webhooks {
    /// The settings have what a channel proves itself by.
    #[must_use]
    pub fn has(&self, channel: &str) -> bool {
        match channel {
            "appstore" | "app" => self.appstore.is_some(),
            "revenuecat" => {
                self.revenuecat_secret.is_some() || self.revenuecat_authorization.is_some()
            }
            "superwall" => self.superwall_secret.is_some(),
            "stripe" => self.stripe_secret.is_some(),
            _ => false,
        }
    }

    /// Its secrets, which must be blacked out wherever they are repeated.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretString> {
        let all = [
            &self.revenuecat_secret,
            &self.revenuecat_authorization,
            &self.superwall_secret,
            &self.stripe_secret,
        ];
        let all = all.into_iter().flatten();
        all.flat_map(|it| {
            [Some(&it.current), it.previous.as_ref()]
                .into_iter()
                .flatten()
        })
    }
}

/// A secret, and the one before it while that is replaced.
#[derive(Clone, Debug)]
pub struct RotatingSecret {
    /// The one in force.
    pub current: SecretString,
    /// The one before.
    pub previous: Option<SecretString>,
}

impl RotatingSecret {
    /// Each of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = &str> {
        let both = [Some(&self.current), self.previous.as_ref()];
        both.into_iter().flatten().map(ExposeSecret::expose_secret)
    }
}

/// The key of a Standard Webhooks secret: base64 behind `whsec_`.
pub(crate) fn webhook_key(secret: &str) -> Option<Vec<u8>> {
    STANDARD.decode(secret.strip_prefix("whsec_")?).ok()
}

/// Whose notifications and transactions count.
#[derive(Clone, Debug)]
pub struct AppStore {
    /// The app, and others of the same product.
    pub bundle_ids: Vec<String>,
    /// Its number in the App Store; checked in production.
    pub app_apple_id: Option<i64>,
    /// Roots beside Apple's.
    pub roots: Vec<TrustedRoot>,
}

/// Reads the section.
pub(in crate::config) fn webhooks(
    section: &Section<'_>,
    raw: &RawSettings,
) -> Result<Webhooks, Invalid> {
    let secret = |key| rotating(section, key, raw);
    let revenuecat_secret = secret("revenuecat_secret_env");
    let revenuecat_authorization = secret("revenuecat_authorization_env");
    let superwall_secret = secret("superwall_secret_env");
    let stripe_secret = secret("stripe_secret_env");
    let stripe_grace = section.duration("stripe_grace", millis_to(0, GRACE_MAX));
    let appstore = appstore(section);
    section.get("sandbox_plan");
    section.finish();
    let superwall_secret = superwall_secret?;
    if let Some(secret) = &superwall_secret
        && secret.all().any(|one| webhook_key(one).is_none())
    {
        let fix = "copy the signing secret of the endpoint, with its whsec_";
        let problem = Problem::new("names a secret that is no whsec_ and base64", fix);
        return Err(section.wrong("superwall_secret_env", problem));
    }
    Ok(Webhooks {
        appstore: appstore?,
        revenuecat_secret: revenuecat_secret?,
        revenuecat_authorization: revenuecat_authorization?,
        superwall_secret,
        stripe_secret: stripe_secret?,
        stripe_grace: stripe_grace?,
    })
}

/// The plan of purchases in a store's sandbox; none for `"none"`.
pub(in crate::config) fn sandbox_plan(
    section: &Section<'_>,
    plans: Option<&Plans>,
) -> Result<Option<String>, Invalid> {
    section.parsed("sandbox_plan", "none", |name| match (name, plans) {
        ("none", _) => Ok(None),
        (name, Some(plans)) if !plans.by_name.contains_key(name) => {
            let fix = format!(
                "name one of: {}; or none",
                crate::config::plans::names(plans)
            );
            let problem = format!("names the plan `{name}`, which there is not");
            Err(Problem::new(problem, fix))
        }
        (name, _) => Ok(Some(name.to_owned())),
    })
}

/// The secret in a variable, and the one before it in `NAME_PREVIOUS`.
fn rotating(
    section: &Section<'_>,
    key: &str,
    raw: &RawSettings,
) -> Result<Option<RotatingSecret>, Invalid> {
    let Some(name) = section.maybe(key, "STORE_WEBHOOK_SECRET", |name| Ok(name.to_owned()))? else {
        return Ok(None);
    };
    let Some((text, origin)) = raw.variable(&name) else {
        let fix = format!("set {name} in the environment or in .env, or take this key out");
        let problem = Problem::new(format!("names {name}, which is not set"), fix);
        return Err(section.wrong(key, problem));
    };
    let path = format!("{} ({name})", section.path_of(key));
    let read = match raw.unreadable(&name) {
        Some(what) => Err(what),
        None => secret(text),
    };
    let current = read.map_err(|what| section.findings.error(path, origin, what))?;
    let before = format!("{name}{PREVIOUS}");
    let previous = match raw.variable(&before).filter(|(text, _)| !text.is_empty()) {
        None => None,
        Some((text, origin)) => {
            let read = secret(text).map_err(|what| section.findings.error(before, origin, what));
            Some(read?)
        }
    };
    Ok(Some(RotatingSecret { current, previous }))
}

fn appstore(section: &Section<'_>) -> Result<Option<AppStore>, Invalid> {
    if section.get("appstore").is_none() {
        return Ok(None);
    }
    let table = section.section("appstore")?;
    let bundle_ids = table.texts("bundle_ids");
    let app_apple_id = table.maybe_integer("app_apple_id", 1..=i64::MAX);
    let roots = table.maybe("root_ca_file", "StoreKitTestCertificate.cer", roots);
    table.finish();
    let bundle_ids = bundle_ids?;
    if bundle_ids.is_empty() || bundle_ids.iter().any(|id| id.trim().is_empty()) {
        let fix = "name the app: bundle_ids = [\"com.example.app\"]";
        let problem = Problem::new("is empty or missing", fix);
        return Err(table.wrong("bundle_ids", problem));
    }
    let app_apple_id = app_apple_id?;
    if app_apple_id.is_none() {
        section.findings.warn(format!(
            "{} has no app_apple_id: notifications of production are told apart by their bundle id alone",
            section.path_of("appstore")
        ));
    }
    Ok(Some(AppStore {
        bundle_ids,
        app_apple_id,
        roots: roots?.unwrap_or_default(),
    }))
}

/// Certificates in a file: PEM, or one in DER.
pub(super) fn roots(path: &str) -> Result<Vec<TrustedRoot>, Problem> {
    let fix =
        "give the path of a certificate in PEM or DER (Xcode: Editor, Save Public Certificate)";
    let cannot = |why: String| Problem::new(format!("`{path}` cannot be used: {why}"), fix);
    let bytes = std::fs::read(Path::new(path)).map_err(|error| cannot(error.to_string()))?;
    let is_pem = bytes.windows(11).any(|part| part == b"-----BEGIN ");
    let found: Vec<Vec<u8>> = if is_pem {
        CertificateDer::pem_slice_iter(&bytes)
            .map(|one| one.map(|one| one.to_vec()))
            .collect::<Result<_, _>>()
            .map_err(|error| cannot(error.to_string()))?
    } else {
        vec![bytes]
    };
    if found.is_empty() {
        return Err(cannot("it has no certificate".to_owned()));
    }
    let roots = found.iter().map(|der| TrustedRoot::from_der(der));
    roots
        .collect::<Result<_, _>>()
        .map_err(|why| cannot(why.to_owned()))
}
