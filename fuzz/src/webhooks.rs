//! What comes to the webhooks. The first byte says how: `r`, headers (`name: value`, a line each, an empty line after them) and a
//! body as they stand; `s`, a body that is signed here by the secrets of RevenueCat, Superwall and Stripe, and then bent by one
//! byte. What was not signed proves nothing, to any channel; what was is read, or refused with a reason; nothing ends in a panic.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use tollgate::clock::Timestamp;
use tollgate::config::{AppStore, Config};
use tollgate::purchases::chain::Chain;
use tollgate::purchases::event::PurchaseEvent;
use tollgate::purchases::stripe::StripeRules;
use tollgate::purchases::{appstore, jws, revenuecat, signature, stripe, superwall};

const SECRET: &str = "Zq3vX8pL1wT6nB9kR4cJ";
const SUPERWALL: &str = "whsec_c3VwZXJ3YWxsLWZ1enpz";
/// The moment at which everything comes.
const NOW: i64 = 2_000_000_000;

static CONFIG: LazyLock<Config> = LazyLock::new(|| {
    super::settings(&[
        ("OPENAI_API_KEY", "sk-x"),
        ("JWT_SECRET", "kU7vX1pQ9zR4tW8yB3nM6cL2dF5gH0jS"),
        ("TOLLGATE_WEBHOOKS__REVENUECAT_SECRET_ENV", "FUZZ_SECRET"),
        (
            "TOLLGATE_WEBHOOKS__REVENUECAT_AUTHORIZATION_ENV",
            "FUZZ_SECRET",
        ),
        ("TOLLGATE_WEBHOOKS__SUPERWALL_SECRET_ENV", "FUZZ_SUPERWALL"),
        ("TOLLGATE_WEBHOOKS__STRIPE_SECRET_ENV", "FUZZ_SECRET"),
        ("FUZZ_SECRET", SECRET),
        ("FUZZ_SUPERWALL", SUPERWALL),
    ])
});

/// Tries an input.
///
/// # Panics
/// A promise is broken.
pub fn check(data: &[u8]) {
    match data.split_first() {
        Some((b'r', rest)) => stranger(rest),
        Some((b's', rest)) => signed(rest),
        _ => {}
    }
}

fn now() -> Timestamp {
    Timestamp::from_secs(NOW)
}

/// Of whoever has no secret.
fn stranger(data: &[u8]) {
    let end = data.windows(2).position(|pair| pair == b"\n\n");
    let (head, body) = end.map_or((data, &[][..]), |end| (&data[..end], &data[end + 2..]));
    let mut headers = HeaderMap::new();
    for line in head.split(|byte| *byte == b'\n').take(40) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            continue;
        };
        let name = HeaderName::from_bytes(&line[..colon]);
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    // An input that guesses the secret itself is no stranger's.
    if data
        .windows(SECRET.len())
        .any(|part| part == SECRET.as_bytes())
    {
        return;
    }
    assert_eq!(proofs(&headers, body), [false; 3], "{headers:?}");
    let trust = AppStore {
        bundle_ids: vec!["com.example.app".to_owned()],
        app_apple_id: Some(1),
        roots: Vec::new(),
    };
    assert!(appstore::notification(body, &trust).is_err());
    let text = String::from_utf8_lossy(body);
    assert!(appstore::transaction(&text, &trust).is_err());
    assert!(jws::verify::<serde_json::Value>(&text, &[]).is_err());
    read(body);
}

/// Whether RevenueCat's, Superwall's and Stripe's proof counts.
fn proofs(headers: &HeaderMap, body: &[u8]) -> [bool; 3] {
    let set = &CONFIG.webhooks;
    let both = (
        set.revenuecat_secret.as_ref(),
        set.revenuecat_authorization.as_ref(),
    );
    let superwall = set.superwall_secret.as_ref().unwrap();
    let stripe = set.stripe_secret.as_ref().unwrap();
    [
        signature::revenuecat(headers, body, both, now()).is_ok(),
        signature::standard_webhook(headers, body, superwall, now()).is_ok(),
        signature::stripe(headers, body, stripe, now()).is_ok(),
    ]
}

/// Of whoever has them.
fn signed(body: &[u8]) {
    let mut headers = HeaderMap::new();
    let mut set = |name: &'static str, value: String| {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_str(&value).unwrap(),
        );
    };
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET.as_bytes());
    let tag = hmac::sign(&key, &[format!("{NOW}.").as_bytes(), body].concat());
    let hex: String = tag
        .as_ref()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    set(
        "x-revenuecat-webhook-signature",
        format!("t={NOW},v1={hex}"),
    );
    set("stripe-signature", format!("t={NOW},v1={hex}"));
    let key = STANDARD
        .decode(SUPERWALL.strip_prefix("whsec_").unwrap())
        .unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
    let tag = hmac::sign(&key, &[format!("m1.{NOW}.").as_bytes(), body].concat());
    set("webhook-id", "m1".to_owned());
    set("webhook-timestamp", NOW.to_string());
    set("webhook-signature", format!("v1,{}", STANDARD.encode(tag)));
    assert_eq!(proofs(&headers, body), [true; 3]);
    if !body.is_empty() {
        let mut bent = body.to_vec();
        let place = usize::try_from(super::Dice::of(body).below(bent.len() as u64)).unwrap();
        bent[place] ^= 1;
        assert_eq!(proofs(&headers, &bent), [false; 3]);
    }
    read(body);
}

/// A store may send anything: it is read, or it is not.
fn read(body: &[u8]) {
    let rules = StripeRules {
        products: &CONFIG.products,
        grace: CONFIG.webhooks.stripe_grace,
    };
    let events = [
        revenuecat::event(body),
        superwall::event("m1", body),
        stripe::event(body, rules),
    ];
    for event in events {
        match event {
            Ok(event) => merge(&event),
            Err(why) => assert!(!why.is_empty()),
        }
    }
}

/// What is read can be merged, twice with the same result.
fn merge(event: &PurchaseEvent) {
    let Some(change) = &event.change else { return };
    let mut chain = Chain::default();
    chain.take(change, event.at);
    let once = chain.clone();
    chain.take(change, event.at);
    assert_eq!(once, chain);
    for row in chain.rows.values() {
        let _ = (chain.ends_at(row), chain.is_live(now()));
    }
    let _ = chain.user(|_| Vec::new());
}
