//! Signatures over a webhook's body by a secret that the store and we have: RevenueCat's, Stripe's, and Standard Webhooks
//! (Superwall's).
//!
//! While a secret is replaced, both count: the store may still sign with the one before. The time in a header may be off by
//! [`TOLERANCE_SECS`], so a request that somebody kept is worth nothing later.

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, header};

use crate::clock::Timestamp;
use crate::config::{RotatingSecret, webhook_key};

/// How far the time in a header may be from ours.
pub const TOLERANCE_SECS: i64 = 300;
/// More signatures in a header are not looked at.
const SIGNATURES_MAX: usize = 8;

const STRIPE: HeaderName = HeaderName::from_static("stripe-signature");
const REVENUECAT: [HeaderName; 2] = [
    HeaderName::from_static("x-revenuecat-webhook-signature"),
    HeaderName::from_static("x-revenuecat-signature"),
];
/// Id, time and signature, by Svix's names and by those of the standard.
const STANDARD_HEADERS: [[HeaderName; 3]; 2] = [
    [
        HeaderName::from_static("webhook-id"),
        HeaderName::from_static("webhook-timestamp"),
        HeaderName::from_static("webhook-signature"),
    ],
    [
        HeaderName::from_static("svix-id"),
        HeaderName::from_static("svix-timestamp"),
        HeaderName::from_static("svix-signature"),
    ],
];

/// Why a webhook is not taken: for the log.
pub type Unproven = &'static str;

/// Stripe's.
///
/// # Errors
/// It is not there, or wrong.
pub fn stripe(
    headers: &HeaderMap,
    body: &[u8],
    secret: &RotatingSecret,
    now: Timestamp,
) -> Result<(), Unproven> {
    let value = only(headers, &STRIPE)?.ok_or("there is no Stripe-Signature")?;
    timed(value, body, secret, now)
}

/// RevenueCat's signature; where there is none, the value of `Authorization` that was agreed.
///
/// # Errors
/// Neither is there, or what is there is wrong.
pub fn revenuecat(
    headers: &HeaderMap,
    body: &[u8],
    (secret, authorization): (Option<&RotatingSecret>, Option<&RotatingSecret>),
    now: Timestamp,
) -> Result<(), Unproven> {
    let signed = [
        only(headers, &REVENUECAT[0])?,
        only(headers, &REVENUECAT[1])?,
    ];
    if signed.iter().any(Option::is_some) {
        let secret = secret.ok_or("it is signed, and revenuecat_secret_env is not set")?;
        let mut values = signed.into_iter().flatten();
        return values.try_for_each(|value| timed(value, body, secret, now));
    }
    let agreed = authorization.ok_or("there is no X-RevenueCat-Webhook-Signature")?;
    let value = only(headers, &header::AUTHORIZATION)?.ok_or("there is no Authorization")?;
    let is_right = |one: &str| equal(one.as_bytes(), value.as_bytes());
    if agreed.all().any(is_right) {
        Ok(())
    } else {
        Err("its Authorization is another than the one agreed")
    }
}

/// A Standard Webhooks signature.
///
/// # Errors
/// It is not there, or wrong.
pub fn standard_webhook(
    headers: &HeaderMap,
    body: &[u8],
    secret: &RotatingSecret,
    now: Timestamp,
) -> Result<String, Unproven> {
    let mut found = None;
    for [id, time, signature] in &STANDARD_HEADERS {
        if headers.contains_key(signature) {
            found = only(headers, id)?
                .zip(only(headers, time)?)
                .zip(only(headers, signature)?);
            break;
        }
    }
    let ((id, time), signatures) = found.ok_or("there is no webhook-signature")?;
    is_now(time, now)?;
    let text = [id.as_bytes(), b".", time.as_bytes(), b".", body].concat();
    let is_right = |key: &[u8]| {
        let given = signatures
            .split(' ')
            .filter_map(|one| one.strip_prefix("v1,"));
        let mut given = given
            .take(SIGNATURES_MAX)
            .filter_map(|one| STANDARD.decode(one).ok());
        given.any(|given| verifies(key, &text, &given))
    };
    let keys = secret.all().filter_map(webhook_key);
    if keys.into_iter().any(|key| is_right(&key)) {
        Ok(id.to_owned())
    } else {
        Err("no signature in webhook-signature is right")
    }
}

/// `t=<seconds>,v1=<hex>[,v1=…]`: HMAC-SHA256 over the time, a dot and the body.
fn timed(
    value: &str,
    body: &[u8],
    secret: &RotatingSecret,
    now: Timestamp,
) -> Result<(), Unproven> {
    let parts = value.split(',').map(str::trim);
    let named = |name: &'static str| {
        let parts = parts.clone();
        parts.filter_map(move |part| part.strip_prefix(name)?.strip_prefix('='))
    };
    let mut times = named("t");
    let (Some(time), None) = (times.next(), times.next()) else {
        return Err("its signature has no time, or two");
    };
    is_now(time, now)?;
    let text = [time.as_bytes(), b".", body].concat();
    let is_right = |key: &str| {
        let mut given = named("v1").take(SIGNATURES_MAX).filter_map(bytes_of_hex);
        given.any(|given| verifies(key.as_bytes(), &text, &given))
    };
    if secret.all().any(is_right) {
        Ok(())
    } else {
        Err("no signature in its header is right")
    }
}

/// The header's value, if there is one; two could be read in two ways.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Unproven> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            let text = value.to_str().map_err(|_| "a header of it is not ASCII")?;
            Ok(Some(text))
        }
        (Some(_), Some(_)) => Err("a header of it is there twice"),
    }
}

fn is_now(seconds: &str, now: Timestamp) -> Result<(), Unproven> {
    let is_number = !seconds.is_empty() && seconds.bytes().all(|byte| byte.is_ascii_digit());
    let said: Option<i64> = seconds.parse().ok().filter(|_| is_number);
    let off = said.map(|said| now.secs().saturating_sub(said).saturating_abs());
    match off {
        Some(off) if off <= TOLERANCE_SECS => Ok(()),
        Some(_) => Err("the time of its signature is more than five minutes off"),
        None => Err("the time of its signature is none"),
    }
}

fn verifies(key: &[u8], text: &[u8], given: &[u8]) -> bool {
    hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, key), text, given).is_ok()
}

/// Without telling by its time how much is right.
fn equal(one: &[u8], other: &[u8]) -> bool {
    constant_time::verify_slices_are_equal(one, other).is_ok()
}

fn bytes_of_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> = text
        .chars()
        .map(|letter| letter.to_digit(16))
        .collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let byte = |[high, low]: &[u32; 2]| u8::try_from(high.wrapping_shl(4) | low).ok();
    pairs.iter().map(byte).collect()
}

/// A Standard Webhooks signature of a body that we send ourselves.
#[must_use]
pub fn sign_standard(
    (id, body): (&str, &[u8]),
    secret: &RotatingSecret,
    now: Timestamp,
) -> Vec<u8> {
    let time = now.secs().to_string();
    let text = [id.as_bytes(), b".", time.as_bytes(), b".", body].concat();
    let keys = secret.all().filter_map(webhook_key);
    let key = keys.take(1).flatten().collect::<Vec<u8>>();
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), &text)
        .as_ref()
        .to_vec()
}

/// A header as RevenueCat and Stripe make it, for a body that we send ourselves.
#[must_use]
pub fn sign_timed(body: &[u8], secret: &str, now: Timestamp) -> String {
    let text = [now.secs().to_string().as_bytes(), b".", body].concat();
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    let signed = hmac::sign(&key, &text);
    let digits = signed.as_ref().iter().map(|byte| format!("{byte:02x}"));
    let hex = digits.collect::<Vec<_>>().concat();
    format!("t={},v1={hex}", now.secs())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use secrecy::SecretString;

    use super::*;

    const NOW: Timestamp = Timestamp::from_secs(1_790_000_000);

    fn secret(current: &str, previous: Option<&str>) -> RotatingSecret {
        RotatingSecret {
            current: SecretString::from(current),
            previous: previous.map(SecretString::from),
        }
    }

    fn with(pairs: &[(&HeaderName, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn a_timed_signature_is_over_these_bytes_by_one_of_two_secrets_and_not_old() {
        let body = b"{\"a\": 1}";
        let both = secret("new", Some("old"));
        let check =
            |value: &str, body: &[u8]| stripe(&with(&[(&STRIPE, value)]), body, &both, NOW).is_ok();
        let right = sign_timed(body, "new", NOW);
        assert!(check(&right, body));
        assert!(check(&sign_timed(body, "old", NOW), body));
        assert!(!check(&sign_timed(body, "other", NOW), body));
        assert!(!check(&right, b"{\"a\":1}"), "other bytes of the same JSON");
        let at = |off: i64| Timestamp::from_secs(NOW.secs() + off);
        for (off, is_right) in [(300, true), (-300, true), (301, false), (-301, false)] {
            assert_eq!(check(&sign_timed(body, "new", at(off)), body), is_right);
        }
        let signature = right.split_once(",v1=").unwrap().1;
        let t = NOW.secs();
        assert!(check(
            &format!("t={t},v0=00,v1=zz,v1=00,v1={signature}"),
            body
        ));
        for wrong in [
            String::new(),
            format!("v1={signature}"),
            format!("t={t}"),
            format!("t={t},t={t},v1={signature}"),
            format!("t={t}.0,v1={signature}"),
            format!("t=+{t},v1={signature}"),
            format!("t={t},v1={}", signature.get(1..).unwrap()),
            format!("t={t},v0={signature}"),
        ] {
            assert!(!check(&wrong, body), "{wrong}");
        }
        let twice = with(&[(&STRIPE, &right), (&STRIPE, &right)]);
        assert!(stripe(&twice, body, &both, NOW).is_err());
        assert!(stripe(&HeaderMap::new(), body, &both, NOW).is_err());
    }

    #[test]
    fn an_authorization_counts_only_where_nothing_is_signed() {
        let body = b"x";
        let key = secret("key", None);
        let agreed = secret("Bearer agreed", Some("Bearer before"));
        let check = |pairs: &[(&HeaderName, &str)], key: Option<&RotatingSecret>| {
            revenuecat(&with(pairs), body, (key, Some(&agreed)), NOW).is_ok()
        };
        let signed = sign_timed(body, "key", NOW);
        let wrong = sign_timed(body, "no", NOW);
        let auth = &header::AUTHORIZATION;
        let [new, old] = &REVENUECAT;
        assert!(check(&[(auth, "Bearer agreed")], Some(&key)));
        assert!(check(&[(auth, "Bearer before")], None));
        assert!(!check(&[(auth, "Bearer agree")], None));
        assert!(!check(&[], Some(&key)));
        assert!(check(&[(new, &signed)], Some(&key)));
        assert!(check(&[(old, &signed)], Some(&key)));
        assert!(!check(&[(new, &signed), (old, &wrong)], Some(&key)));
        assert!(!check(
            &[(new, &wrong), (auth, "Bearer agreed")],
            Some(&key)
        ));
        assert!(!check(&[(new, &signed), (auth, "Bearer agreed")], None));
        assert!(revenuecat(&with(&[(auth, "")]), body, (None, None), NOW).is_err());
    }

    #[test]
    fn a_standard_webhook_is_signed_with_its_id_and_time() {
        let body = b"{}";
        let key = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        // The example of the specification.
        let text = b"msg_p5jXN8AQM9LWM0D4loKWxJek.1614265330.{\"test\": 2432232314}";
        let given = STANDARD
            .decode("g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
            .unwrap();
        assert!(verifies(&webhook_key(key).unwrap(), text, &given));

        let sign = |id: &str, key: &str| {
            let text = format!("{id}.{}.{{}}", NOW.secs());
            let key = hmac::Key::new(hmac::HMAC_SHA256, &webhook_key(key).unwrap());
            format!("v1,{}", STANDARD.encode(hmac::sign(&key, text.as_bytes())))
        };
        let time = NOW.secs().to_string();
        let both = secret("whsec_bmV3", Some(key));
        let check = |[id, at, signature]: &[HeaderName; 3], values: [&str; 3]| {
            let headers = with(&[(id, values[0]), (at, values[1]), (signature, values[2])]);
            standard_webhook(&headers, body, &both, NOW).ok()
        };
        for names in &STANDARD_HEADERS {
            let several = format!("v1a,xx v1,AAAA {}", sign("m", key));
            assert_eq!(check(names, ["m", &time, &several]).as_deref(), Some("m"));
            assert!(check(names, ["m", &time, &sign("m", "whsec_bmV3")]).is_some());
            assert!(check(names, ["n", &time, &several]).is_none());
            assert!(check(names, ["m", "1", &several]).is_none());
            assert!(check(names, ["m", &time, "v1,"]).is_none());
        }
    }
}
