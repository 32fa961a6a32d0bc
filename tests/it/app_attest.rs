//! App Attest from the door, with an authority and devices that are made here.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, date_time_ymd,
};
use serde_json::{Value, json};

use crate::support::caller::{Answer, Call, User};
use crate::support::door::Door;
use crate::support::settings::Settings;

const TEAM: &str = "ABCDE12345";
const BUNDLE: &str = "com.example.app";
const PRODUCTION: &[u8; 16] = b"appattest\0\0\0\0\0\0\0";
const DEVELOPMENT: &[u8; 16] = b"appattestdevelop";
const NONCE: &[u64] = &[1, 2, 840, 113_635, 100, 8, 2];
const CATEGORY: &str = "apple_validation_category_01";

fn sha256(bytes: &[u8]) -> Vec<u8> {
    digest(&SHA256, bytes).as_ref().to_vec()
}

/// CBOR, as far as devices write it.
fn head(major: u8, length: usize) -> Vec<u8> {
    match length {
        0..=23 => vec![major << 5 | length as u8],
        24..=255 => vec![major << 5 | 0x18, length as u8],
        _ => vec![major << 5 | 0x19, (length >> 8) as u8, length as u8],
    }
}

fn bytes(bytes: &[u8]) -> Vec<u8> {
    [head(2, bytes.len()), bytes.to_vec()].concat()
}

fn text(text: &str) -> Vec<u8> {
    [head(3, text.len()), text.as_bytes().to_vec()].concat()
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    [head(4, items.len()), items.concat()].concat()
}

fn map(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let members: Vec<Vec<u8>> = members
        .iter()
        .map(|(name, value)| [text(name), value.clone()].concat())
        .collect();
    [head(5, members.len()), members.concat()].concat()
}

/// What iOS 27 writes behind the authenticator data.
fn category(value: Vec<u8>) -> Vec<u8> {
    map(&[("apple_bundle_version_01", text("1")), (CATEGORY, value)])
}

/// Apple: a root and an intermediate.
struct Authority {
    root: Vec<u8>,
    intermediate: Vec<u8>,
    signer: Issuer<'static, KeyPair>,
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

impl Authority {
    fn new() -> Self {
        let [root_key, key] = [(); 2].map(|()| KeyPair::generate().unwrap());
        let (root_params, params) = (authority("Test Root"), authority("Test CA 1"));
        let root = root_params.self_signed(&root_key).unwrap();
        let by_root = Issuer::new(root_params, root_key);
        let intermediate = params.signed_by(&key, &by_root).unwrap();
        Self {
            root: root.der().to_vec(),
            intermediate: intermediate.der().to_vec(),
            signer: Issuer::new(params, key),
        }
    }

    fn root_pem(&self) -> String {
        let text = STANDARD.encode(&self.root);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }
}

/// How an attestation is made; right by default.
struct Form {
    app: String,
    counter: u32,
    environment: [u8; 16],
    credential: Option<Vec<u8>>,
    behind: Vec<u8>,
    format: &'static str,
    with_nonce: bool,
    ends: (i32, u8),
    certificates: usize,
}

impl Default for Form {
    fn default() -> Self {
        Self {
            app: format!("{TEAM}.{BUNDLE}"),
            counter: 0,
            environment: *PRODUCTION,
            credential: None,
            behind: Vec::new(),
            format: "apple-appattest",
            with_nonce: true,
            ends: (2039, 1),
            certificates: 2,
        }
    }
}

/// A key in a device.
struct Device {
    pair: KeyPair,
    id: Vec<u8>,
}

impl Device {
    fn new() -> Self {
        let pair = KeyPair::generate().unwrap();
        let id = sha256(pair.public_key_raw());
        Self { pair, id }
    }

    fn key_id(&self) -> String {
        STANDARD.encode(&self.id)
    }

    fn attestation(&self, by: &Authority, challenge: &str, form: &Form) -> String {
        let id = form.credential.as_ref().unwrap_or(&self.id);
        let point = self.pair.public_key_raw();
        let cose = [
            vec![0xa5, 1, 2, 3, 0x26, 0x20, 1, 0x21],
            bytes(&point[1..33]),
            vec![0x22],
            bytes(&point[33..]),
        ];
        let data = [
            sha256(form.app.as_bytes()),
            vec![0x40],
            form.counter.to_be_bytes().to_vec(),
            form.environment.to_vec(),
            (id.len() as u16).to_be_bytes().to_vec(),
            id.clone(),
            cose.concat(),
            form.behind.clone(),
        ]
        .concat();
        let nonce = sha256(&[data.clone(), sha256(challenge.as_bytes())].concat());
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        params.not_before = date_time_ymd(2020, 1, 1);
        params.not_after = date_time_ymd(form.ends.0, form.ends.1, 1);
        if form.with_nonce {
            let content = [vec![0x30, 0x24, 0xa1, 0x22, 0x04, 0x20], nonce].concat();
            let extension = CustomExtension::from_oid_content(NONCE, content);
            params.custom_extensions.push(extension);
        }
        let leaf = params.signed_by(&self.pair, &by.signer).unwrap();
        let chain = [bytes(leaf.der()), bytes(&by.intermediate)];
        let statement = map(&[
            ("x5c", list(&chain[..form.certificates])),
            ("receipt", bytes(b"receipt")),
        ]);
        STANDARD.encode(map(&[
            ("fmt", text(form.format)),
            ("attStmt", statement),
            ("authData", bytes(&data)),
        ]))
    }

    fn assertion(&self, challenge: &str, counter: u32, behind: &[u8]) -> String {
        let app = sha256(format!("{TEAM}.{BUNDLE}").as_bytes());
        let data = [&app[..], &[0x40], &counter.to_be_bytes(), behind].concat();
        let nonce = sha256(&[data.clone(), sha256(challenge.as_bytes())].concat());
        let key =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &self.pair.serialize_der())
                .unwrap();
        let signature = key.sign(&SystemRandom::new(), &nonce).unwrap();
        STANDARD.encode(map(&[
            ("signature", bytes(signature.as_ref())),
            ("authenticatorData", bytes(&data)),
        ]))
    }
}

async fn open(by: &Authority, more: &str) -> Door {
    let door = Door::prepare(Settings::new().with(&format!(
        "[attest]
         mode = \"raise\"
         app_attest = {{ team_id = {TEAM:?}, bundle_ids = [\"com.example.other\", {BUNDLE:?}], root_ca_file = \"root.pem\"{more} }}
         [plans.free]
         attested = \"free_plus\"
         [plans.free_plus]
         models = [\"gpt-4o-mini\"]
         limits = [{{ per = \"day\", requests = 5000 }}]"
    )))
    .await;
    door.write_file("root.pem", &by.root_pem());
    door.start().await;
    door
}

async fn challenge(user: &User) -> String {
    let answer = user
        .post("/api/device/challenge", &json!({}))
        .await
        .expect(200)
        .json();
    assert_eq!(answer["expires_in"], 300);
    let challenge = answer["challenge"].as_str().unwrap().to_owned();
    assert_eq!(challenge.len(), 43, "32 bytes in base64url");
    challenge
}

async fn register(user: &User, key_id: &str, attestation: &str) -> Answer {
    let body = json!({"key_id": key_id, "attestation": attestation});
    user.post("/api/device/register", &body).await
}

async fn assert_key(user: &User, key_id: &str, assertion: &str) -> Answer {
    let body = json!({"key_id": key_id, "assertion": assertion});
    user.post("/api/device/token", &body).await
}

/// What `/api/me` says with this token of a device.
async fn device(door: &Door, user: &User, token: &str) -> (Value, Value) {
    let call = Call::get("/api/me")
        .bearer(&user.token)
        .header("X-Tollgate-Device", token);
    let me = door.send(call).await.expect(200).json();
    (me["plan"]["name"].clone(), me["device"].clone())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_device_that_is_attested_gets_a_token_for_its_user_and_for_nobody_else() {
    let by = Authority::new();
    let door = open(&by, "").await;
    let (alice, bob, phone) = (door.user("alice"), door.user("bob"), Device::new());
    let attestation = phone.attestation(&by, &challenge(&alice).await, &Form::default());
    let answer = register(&alice, &phone.key_id(), &attestation)
        .await
        .expect(200)
        .json();
    assert_eq!(answer["expires_in"], 3600);
    let token = answer["device_token"].as_str().unwrap();
    let raised = (json!("free_plus"), json!({"attested": true}));
    let plain = (json!("free"), Value::Null);
    assert_eq!(device(&door, &alice, token).await, raised);
    assert_eq!(
        device(&door, &bob, token).await,
        plain,
        "a token of another user"
    );
    let mut forged = token.to_owned();
    forged.replace_range(..1, if token.starts_with('A') { "B" } else { "A" });
    for wrong in [
        &forged,
        &token[..token.len() - 1],
        "x",
        &"x".repeat(5000),
        &alice.token,
    ] {
        assert_eq!(device(&door, &alice, wrong).await, plain, "{wrong:.40}");
    }
    // It is no user's token, and outlives a restart.
    door.send(Call::get("/api/me").bearer(token))
        .await
        .refused(401, "invalid_token");
    door.restart().await;
    assert_eq!(device(&door, &alice, token).await, raised);
    door.close().await;
}

/// Attestations that are wrong in one thing each.
fn wrong_forms() -> Vec<(&'static str, Form)> {
    let but = |change: fn(&mut Form)| {
        let mut form = Form::default();
        change(&mut form);
        form
    };
    vec![
        (
            "another team",
            but(|it| it.app = format!("XXXXX12345.{BUNDLE}")),
        ),
        (
            "another app",
            but(|it| it.app = format!("{TEAM}.com.example.evil")),
        ),
        ("a key that has signed", but(|it| it.counter = 1)),
        (
            "a key in development",
            but(|it| it.environment = *DEVELOPMENT),
        ),
        (
            "another credential",
            but(|it| it.credential = Some(vec![7; 32])),
        ),
        ("another format", but(|it| it.format = "packed")),
        ("no nonce", but(|it| it.with_nonce = false)),
        ("a leaf that has ended", but(|it| it.ends = (2021, 1))),
        ("one certificate", but(|it| it.certificates = 1)),
        (
            "from TestFlight",
            but(|it| it.behind = category(bytes(&[2, 0, 0, 0]))),
        ),
        ("in development", but(|it| it.behind = category(vec![3]))),
        (
            "of an enterprise",
            but(|it| it.behind = category(bytes(&[5, 0, 0, 0]))),
        ),
        (
            "a category as text",
            but(|it| it.behind = category(text("4"))),
        ),
        ("something behind it", but(|it| it.behind = vec![0])),
        ("a map that is cut", but(|it| it.behind = vec![0xa1])),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn every_part_of_an_attestation_is_checked() {
    let by = Authority::new();
    let door = open(&by, "").await;
    let alice = door.user("alice");
    for (what, form) in wrong_forms() {
        let phone = Device::new();
        let attestation = phone.attestation(&by, &challenge(&alice).await, &form);
        let refused = register(&alice, &phone.key_id(), &attestation).await;
        assert_eq!(
            refused.refusal(),
            (400, "invalid_request".to_owned()),
            "{what}"
        );
        assert_eq!(refused.json()["error"]["param"], "attestation", "{what}");
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attestation_answers_a_challenge_of_its_user_once() {
    let (by, stranger) = (Authority::new(), Authority::new());
    let door = open(&by, "").await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    let phone = Device::new();
    let right = |challenge: &str| phone.attestation(&by, challenge, &Form::default());
    let refused = async |what: &str, key_id: &str, attestation: &str| {
        let refused = register(&alice, key_id, attestation).await;
        assert_eq!(
            refused.refusal(),
            (400, "invalid_request".to_owned()),
            "{what}"
        );
    };
    refused("a challenge of its own", &phone.key_id(), &right("mine")).await;
    refused(
        "another user's challenge",
        &phone.key_id(),
        &right(&challenge(&bob).await),
    )
    .await;
    let fresh = challenge(&alice).await;
    let by_stranger = phone.attestation(&stranger, &fresh, &Form::default());
    refused("another authority", &phone.key_id(), &by_stranger).await;
    refused("another key's id", &Device::new().key_id(), &right(&fresh)).await;
    refused("no id", "", &right(&fresh)).await;
    refused("no base64", "?", &right(&fresh)).await;
    for nonsense in [
        "",
        "AAAA",
        "gYGBgYGBgYGBgYGBgYGBgYGBgYGB",
        &STANDARD.encode([0xbf; 999]),
    ] {
        refused("nonsense", &phone.key_id(), nonsense).await;
    }
    let other = alice
        .post("/api/device/register", &json!({"key_id": 7}))
        .await;
    other.refused(400, "invalid_request");
    // After all this the challenge is still open, and taken once.
    register(&alice, &phone.key_id(), &right(&fresh))
        .await
        .expect(200);
    refused("the same again", &phone.key_id(), &right(&fresh)).await;
    refused(
        "a key that is known",
        &phone.key_id(),
        &right(&challenge(&alice).await),
    )
    .await;
    for (what, behind) in [
        ("an app from the store", category(bytes(&[4, 0, 0, 0]))),
        ("as a number", category(vec![4])),
        ("a map without a category", map(&[("other", vec![1])])),
    ] {
        let phone = Device::new();
        let form = Form {
            behind,
            ..Form::default()
        };
        let attestation = phone.attestation(&by, &challenge(&alice).await, &form);
        let answer = register(&alice, &phone.key_id(), &attestation).await;
        assert_eq!(answer.status, 200, "{what}: {}", answer.text());
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_known_signs_again_and_its_counter_only_rises() {
    let by = Authority::new();
    let door = open(&by, "").await;
    let (alice, bob, phone) = (door.user("alice"), door.user("bob"), Device::new());
    let attestation = phone.attestation(&by, &challenge(&alice).await, &Form::default());
    let answer = register(&alice, &phone.key_id(), &attestation)
        .await
        .expect(200)
        .json();
    let next = answer["next_challenge"].as_str().unwrap();
    let first = phone.assertion(next, 1, &[]);
    let answer = assert_key(&alice, &phone.key_id(), &first)
        .await
        .expect(200)
        .json();
    let token = answer["device_token"].as_str().unwrap();
    assert_eq!(device(&door, &alice, token).await.0, "free_plus");
    let refused = async |what: &str, user: &User, key_id: &str, assertion: &str| {
        let refused = assert_key(user, key_id, assertion).await;
        assert_eq!(
            refused.refusal(),
            (400, "invalid_request".to_owned()),
            "{what}"
        );
    };
    refused("the same again", &alice, &phone.key_id(), &first).await;
    let again = phone.assertion(&challenge(&alice).await, 1, &[]);
    refused(
        "a counter that stands still",
        &alice,
        &phone.key_id(),
        &again,
    )
    .await;
    let of_alice = challenge(&alice).await;
    let others = phone.assertion(&challenge(&bob).await, 9, &[]);
    refused("another user's challenge", &alice, &phone.key_id(), &others).await;
    refused("another user's key", &bob, &phone.key_id(), &others).await;
    let strange = Device::new();
    refused(
        "an unknown key",
        &alice,
        &strange.key_id(),
        &strange.assertion(&of_alice, 9, &[]),
    )
    .await;
    refused(
        "another key's word",
        &alice,
        &phone.key_id(),
        &strange.assertion(&of_alice, 9, &[]),
    )
    .await;
    let of_test = phone.assertion(&of_alice, 9, &category(vec![2]));
    refused("of TestFlight", &alice, &phone.key_id(), &of_test).await;
    let right = phone.assertion(&of_alice, 7, &category(bytes(&[4, 0, 0, 0])));
    assert_key(&alice, &phone.key_id(), &right)
        .await
        .expect(200);
    // Two at once with one counter: one of them is a copy.
    let (one, other) = (challenge(&alice).await, challenge(&alice).await);
    let words = [
        phone.assertion(&one, 8, &[]),
        phone.assertion(&other, 8, &[]),
    ];
    let key_id = phone.key_id();
    let both = tokio::join!(
        assert_key(&alice, &key_id, &words[0]),
        assert_key(&alice, &key_id, &words[1])
    );
    let mut statuses = [both.0.status, both.1.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 400]);
    // It is in the ledger, and goes with its user.
    door.restart().await;
    let late = phone.assertion(&challenge(&alice).await, 8, &[]);
    refused("a counter from before the restart", &alice, &key_id, &late).await;
    door.must(&["user", "forget", &alice.id.to_string()]);
    let gone = phone.assertion(&challenge(&alice).await, 99, &[]);
    refused("a key that was forgotten", &alice, &key_id, &gone).await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_challenges_and_keys_is_bounded() {
    let by = Authority::new();
    let door = open(&by, "").await;
    let alice = door.user("alice");
    let first = challenge(&alice).await;
    for _ in 0..1000 {
        challenge(&alice).await;
    }
    let phone = Device::new();
    let attestation = phone.attestation(&by, &first, &Form::default());
    register(&alice, &phone.key_id(), &attestation)
        .await
        .refused(400, "invalid_request");
    // Of many keys the last eight are kept.
    let mut phones = Vec::new();
    for _ in 0..10 {
        let phone = Device::new();
        let attestation = phone.attestation(&by, &challenge(&alice).await, &Form::default());
        register(&alice, &phone.key_id(), &attestation)
            .await
            .expect(200);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        phones.push(phone);
    }
    let mut kept = Vec::new();
    for phone in &phones {
        let word = phone.assertion(&challenge(&alice).await, 1, &[]);
        kept.push(assert_key(&alice, &phone.key_id(), &word).await.status == 200);
    }
    assert_eq!(kept, [[false; 2].as_slice(), &[true; 8]].concat());
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_development_test_builds_count_and_without_settings_there_is_nothing() {
    let by = Authority::new();
    let door = open(&by, ", development = true").await;
    let alice = door.user("alice");
    for (environment, behind) in [
        (DEVELOPMENT, category(bytes(&[3, 0, 0, 0]))),
        (PRODUCTION, category(vec![2])),
        (DEVELOPMENT, Vec::new()),
        (PRODUCTION, Vec::new()),
    ] {
        let phone = Device::new();
        let form = Form {
            environment: *environment,
            behind,
            ..Form::default()
        };
        let attestation = phone.attestation(&by, &challenge(&alice).await, &form);
        register(&alice, &phone.key_id(), &attestation)
            .await
            .expect(200);
    }
    door.close().await;
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    alice
        .post("/api/device/challenge", &json!({}))
        .await
        .refused(404, "not_found");
    door.close().await;
}
