//! The routes by which a device proves itself with App Attest.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::HeaderMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::{IntoResponses, ToSchema};

use super::purchases::users_body;
use crate::app::{App, Caller};
use crate::attest::challenges::CHALLENGE_TIMEOUT;
use crate::attest::device_token::DEVICE_TOKEN_TIMEOUT;
use crate::attest::registry::{NotProven, ProvenDevice};
use crate::config::{AppAttest, AttestMode};
use crate::error::{Code, Refusal};
use crate::openapi::{USER, refusals};
use crate::proxy::check_media_type;

/// A challenge for a device.
#[derive(Serialize, ToSchema)]
pub(super) struct DeviceChallenge {
    /// The SHA-256 of this text is what App Attest calls the hash of the client's data.
    challenge: String,
    /// Seconds.
    expires_in: u64,
}

/// What a device has proven.
#[derive(Serialize, ToSchema)]
pub(super) struct DeviceProof {
    /// For the header `X-Tollgate-Device`.
    device_token: String,
    /// Seconds.
    expires_in: u64,
    /// For the next assertion, within five minutes.
    next_challenge: String,
}

/// A new key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceAttestation {
    /// As `DCAppAttestService.generateKey` gives it.
    key_id: String,
    /// As `attestKey` gives it, in base64.
    attestation: String,
}

/// A key that is known.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceAssertion {
    /// As `DCAppAttestService.generateKey` gave it.
    key_id: String,
    /// As `generateAssertion` gives it, in base64.
    assertion: String,
}

struct DeviceRefusals;

impl IntoResponses for DeviceRefusals {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let more = [
            Code::InvalidRequest,
            Code::NotFound,
            Code::BodyTooLarge,
            Code::UnsupportedMediaType,
        ];
        refusals(&[&USER[..], &more].concat())
    }
}

/// A challenge for this user's device
#[utoipa::path(
    post,
    path = "/api/device/challenge",
    tag = "devices",
    responses((status = 200, body = DeviceChallenge), DeviceRefusals)
)]
pub(super) async fn challenge(
    State(app): State<Arc<App>>,
    Caller { who, place: _place }: Caller,
) -> Result<Json<DeviceChallenge>, Refusal> {
    rules(&app)?;
    let issued = app.devices.challenge(who.user_id());
    Ok(Json(DeviceChallenge {
        challenge: issued.map_err(|why| refuse(why, "challenge"))?,
        expires_in: CHALLENGE_TIMEOUT.as_secs(),
    }))
}

/// Register a key of this user's device
///
/// # Errors
/// The attestation is not for an open challenge of this user, or not of this app on a real device.
#[utoipa::path(
    post,
    path = "/api/device/register",
    tag = "devices",
    request_body = DeviceAttestation,
    responses((status = 200, body = DeviceProof), DeviceRefusals)
)]
pub(super) async fn register(
    State(app): State<Arc<App>>,
    Caller { who, place: _place }: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DeviceProof>, Refusal> {
    let rules = rules(&app)?;
    let sent: DeviceAttestation = read(&app, &headers, body).await?;
    let key_id = decode("key_id", &sent.key_id)?;
    let attestation = decode("attestation", &sent.attestation)?;
    let at = (&rules, app.clock.now());
    let proven = app
        .devices
        .register(who.user_id(), (&key_id, &attestation), at);
    answer(proven.await, "attestation")
}

/// A new token for a device whose key is registered
///
/// # Errors
/// The assertion is not of that key, not for an open challenge of this user, or a copy.
#[utoipa::path(
    post,
    path = "/api/device/token",
    tag = "devices",
    request_body = DeviceAssertion,
    responses((status = 200, body = DeviceProof), DeviceRefusals)
)]
pub(super) async fn token(
    State(app): State<Arc<App>>,
    Caller { who, place: _place }: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<DeviceProof>, Refusal> {
    let rules = rules(&app)?;
    let sent: DeviceAssertion = read(&app, &headers, body).await?;
    let key_id = decode("key_id", &sent.key_id)?;
    let assertion = decode("assertion", &sent.assertion)?;
    let at = (&rules, app.clock.now());
    let proven = app.devices.assert(who.user_id(), (&key_id, &assertion), at);
    answer(proven.await, "assertion")
}

/// Whose keys count; without any, there is nothing here.
fn rules(app: &App) -> Result<AppAttest, Refusal> {
    let attest = &app.config().attest;
    let rules = attest.app_attest.clone();
    rules
        .filter(|_| attest.mode != AttestMode::Off)
        .ok_or_else(|| Refusal::new(Code::NotFound, "App Attest is not set up here."))
}

async fn read<T: DeserializeOwned>(
    app: &App,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Refusal> {
    check_media_type(headers)?;
    let body = users_body(app, body).await?;
    serde_json::from_slice(&body).map_err(|_| {
        let message =
            "Send {\"key_id\": \"…\"} with \"attestation\" or \"assertion\", each in base64.";
        Refusal::new(Code::InvalidRequest, message)
    })
}

/// Base64 as Swift writes it, or base64url, with padding or without.
fn decode(field: &'static str, text: &str) -> Result<Vec<u8>, Refusal> {
    const ANY: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let read = [alphabet::STANDARD, alphabet::URL_SAFE]
        .iter()
        .find_map(|letters| GeneralPurpose::new(letters, ANY).decode(text).ok());
    read.ok_or_else(|| Refusal::invalid(field, format!("{field} is not base64.")))
}

fn answer(
    proven: Result<ProvenDevice, NotProven>,
    field: &'static str,
) -> Result<Json<DeviceProof>, Refusal> {
    let proven = proven.map_err(|why| refuse(why, field))?;
    Ok(Json(DeviceProof {
        device_token: proven.token,
        expires_in: DEVICE_TOKEN_TIMEOUT.as_secs(),
        next_challenge: proven.next_challenge,
    }))
}

/// What is wrong with a proof is for the log alone.
fn refuse(why: NotProven, field: &'static str) -> Refusal {
    match why {
        NotProven::Wrong(why) => {
            tracing::info!(why, field, "a device proves nothing");
            Refusal::invalid(
                field,
                format!("This {field} proves nothing: ask for a new challenge, and try again."),
            )
        }
        NotProven::Store => Refusal::new(
            Code::StoreUnavailable,
            "The ledger cannot be asked right now: try again.",
        ),
        NotProven::Random => Refusal::new(Code::Overloaded, "Try again in a moment."),
    }
}
