//! The routes by which stores and apps tell of purchases.
//!
//! A webhook's proof is checked before anything but its envelope is parsed. What is proven and says nothing new is 200, so that
//! no store sends it again.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use bytes::Bytes;
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use utoipa::openapi::RefOr;
use utoipa::{IntoResponses, ToSchema};

use crate::account::{Me, seen_by};
use crate::app::sender_address::address_of;
use crate::app::stranger_bodies::whole;
use crate::app::{App, Caller};
use crate::clock::Timestamp;
use crate::config::Config;
use crate::error::{Code, Refusal};
use crate::openapi::{USER, refusals};
use crate::proxy::check_media_type;
use crate::purchases::event::{Channel, PurchaseEvent};
use crate::purchases::stripe::StripeRules;
use crate::purchases::{appstore, revenuecat, signature, stripe, superwall};

/// The longest body of a webhook or a transaction.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// An event was taken.
#[derive(Serialize, ToSchema)]
#[schema(as = EventTaken)]
pub(super) struct EventAnswer {
    /// `applied`, `unchanged`, `repeated`; `no_user` where nobody knows whose it is, `no_product` where `[products]` does not have
    /// what was bought.
    outcome: &'static str,
}

/// Why a webhook is not taken.
enum WebhookFault {
    /// Its proof is wrong or missing.
    Unproven(&'static str),
    /// The store sent it, and it cannot be read.
    Unreadable(String),
}

type ReadEvent = Result<PurchaseEvent, WebhookFault>;

/// The refusals of a webhook.
struct WebhookRefusals;

impl IntoResponses for WebhookRefusals {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        refusals(&[
            Code::InvalidSignature,
            Code::BodyTooLarge,
            Code::UnsupportedMediaType,
            Code::StoreUnavailable,
            Code::Overloaded,
        ])
    }
}

/// The refusals of `/api/purchases`.
struct PurchaseRefusals;

impl IntoResponses for PurchaseRefusals {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        let more = [
            Code::PurchaseTaken,
            Code::BodyTooLarge,
            Code::UnsupportedMediaType,
        ];
        refusals(&[&USER[..], &more].concat())
    }
}

/// App Store Server Notifications V2
#[utoipa::path(
    post,
    path = "/webhooks/appstore",
    tag = "purchases",
    security(()),
    request_body(content = Object, description = "Apple's notification: `{\"signedPayload\": \"…\"}`"),
    responses((status = 200, body = EventAnswer), WebhookRefusals)
)]
pub(super) async fn from_appstore(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<EventAnswer>, Refusal> {
    receive(&app, Channel::AppStore, (headers, body), |said| {
        let trust = said.config.webhooks.appstore.as_ref();
        let trust = trust.ok_or(WebhookFault::Unproven("[webhooks] appstore is not set"))?;
        appstore::notification(said.body, trust).map_err(WebhookFault::Unproven)
    })
    .await
}

/// RevenueCat's webhook
#[utoipa::path(
    post,
    path = "/webhooks/revenuecat",
    tag = "purchases",
    security(()),
    request_body(content = Object, description = "RevenueCat's event: `{\"api_version\", \"event\"}`"),
    responses((status = 200, body = EventAnswer), WebhookRefusals)
)]
pub(super) async fn from_revenuecat(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<EventAnswer>, Refusal> {
    receive(&app, Channel::RevenueCat, (headers, body), |said| {
        let secrets = (
            said.config.webhooks.revenuecat_secret.as_ref(),
            said.config.webhooks.revenuecat_authorization.as_ref(),
        );
        signature::revenuecat(said.headers, said.body, secrets, said.now)
            .map_err(WebhookFault::Unproven)?;
        revenuecat::event(said.body).map_err(WebhookFault::Unreadable)
    })
    .await
}

/// Superwall's webhook
#[utoipa::path(
    post,
    path = "/webhooks/superwall",
    tag = "purchases",
    security(()),
    request_body(content = Object, description = "Superwall's event, signed by the rules of Standard Webhooks"),
    responses((status = 200, body = EventAnswer), WebhookRefusals)
)]
pub(super) async fn from_superwall(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<EventAnswer>, Refusal> {
    receive(&app, Channel::Superwall, (headers, body), |said| {
        let secret = said.config.webhooks.superwall_secret.as_ref();
        let secret = secret.ok_or(WebhookFault::Unproven("superwall_secret_env is not set"))?;
        let id = signature::standard_webhook(said.headers, said.body, secret, said.now)
            .map_err(WebhookFault::Unproven)?;
        superwall::event(&id, said.body).map_err(WebhookFault::Unreadable)
    })
    .await
}

/// Stripe's webhook
#[utoipa::path(
    post,
    path = "/webhooks/stripe",
    tag = "purchases",
    security(()),
    request_body(content = Object, description = "Stripe's event, with its object (a snapshot)"),
    responses((status = 200, body = EventAnswer), WebhookRefusals)
)]
pub(super) async fn from_stripe(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<EventAnswer>, Refusal> {
    receive(&app, Channel::Stripe, (headers, body), |said| {
        let secret = said.config.webhooks.stripe_secret.as_ref();
        let secret = secret.ok_or(WebhookFault::Unproven("stripe_secret_env is not set"))?;
        signature::stripe(said.headers, said.body, secret, said.now)
            .map_err(WebhookFault::Unproven)?;
        let rules = StripeRules {
            products: &said.config.products,
            grace: said.config.webhooks.stripe_grace,
        };
        stripe::event(said.body, rules).map_err(WebhookFault::Unreadable)
    })
    .await
}

/// What a webhook is read from.
struct Delivery<'a> {
    headers: &'a HeaderMap,
    body: &'a [u8],
    config: &'a Config,
    now: Timestamp,
}

async fn receive(
    app: &Arc<App>,
    channel: Channel,
    (headers, body): (HeaderMap, Body),
    read: impl FnOnce(&Delivery<'_>) -> ReadEvent,
) -> Result<Json<EventAnswer>, Refusal> {
    check_media_type(&headers)?;
    let server = &app.config().server;
    let address = address_of(&headers, server);
    let bounds = (BODY_BYTES_MAX, server.body_timeout);
    let body = app.stranger_bodies.read(body, address, bounds).await?;
    // Only now: settings that came meanwhile count for the event, whose body may have taken seconds.
    let config = app.config();
    let _place = app.intake.place()?;
    let now = app.clock.now();
    let delivery = Delivery {
        headers: &headers,
        body: &body,
        config: &config,
        now,
    };
    let event = read(&delivery).map_err(|fault| refuse(app, channel, fault, now))?;
    let taken = app.intake.take(event, config, now).await?;
    for user in &taken.users {
        app.directory.refresh(*user);
    }
    let outcome = taken.outcome.as_str();
    Ok(Json(EventAnswer { outcome }))
}

/// What is wrong with a proof is for the log alone.
fn refuse(app: &App, channel: Channel, fault: WebhookFault, now: Timestamp) -> Refusal {
    match fault {
        WebhookFault::Unproven(why) => {
            app.intake.refused(channel, why, false, now);
            Refusal::new(
                Code::InvalidSignature,
                "This is not proven to come from the store.",
            )
        }
        WebhookFault::Unreadable(why) => {
            app.intake.refused(channel, &why, true, now);
            Refusal::new(Code::InvalidRequest, why)
        }
    }
}

/// The body of somebody who has shown a token.
pub(super) async fn users_body(app: &App, body: Body) -> Result<Bytes, Refusal> {
    whole(body, BODY_BYTES_MAX, app.config().server.body_timeout).await
}

/// A transaction of `StoreKit` 2.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Transaction)]
pub(super) struct SignedTransaction {
    /// The JWS of the transaction (`VerificationResult.jwsRepresentation`).
    transaction: String,
}

/// Bind a purchase in the App Store to the caller
///
/// For purchases that nothing else ties to the user: restored ones, offer codes. It counts at once.
///
/// # Errors
/// It is no transaction of this app, or somebody else's.
#[utoipa::path(
    post,
    path = "/api/purchases",
    tag = "purchases",
    request_body = SignedTransaction,
    responses((status = 200, body = Me), PurchaseRefusals)
)]
pub(super) async fn bind(
    State(app): State<Arc<App>>,
    Caller { who, place: _place }: Caller,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Me>, Refusal> {
    check_media_type(&headers)?;
    let body = users_body(&app, body).await?;
    let wrong = |message: &str| Refusal::invalid("transaction", message);
    let sent: SignedTransaction = serde_json::from_slice(&body).map_err(|_| {
        wrong("Send {\"transaction\": \"…\"} with the jwsRepresentation of a StoreKit transaction.")
    })?;
    let (config, now) = (app.config(), app.clock.now());
    let read = match &config.webhooks.appstore {
        Some(trust) => appstore::transaction(&sent.transaction, trust),
        None => Err("[webhooks] appstore is not set"),
    };
    let (event, token) = read.map_err(|why| {
        app.intake.refused(Channel::App, why, false, now);
        wrong("This is no transaction of this app that Apple signed.")
    })?;
    let user = who.user_id();
    let refusal = || {
        let message = "This purchase belongs to another account.";
        Refusal::new(Code::PurchaseTaken, message)
    };
    if token.is_some_and(|token| token != user) {
        return Err(refusal());
    }
    let bound = app.intake.bind(event, user, (config, now)).await?;
    let bound = bound.map_err(|_| refusal())?;
    for user in bound.users.iter().chain([&user]) {
        app.directory.refresh(*user);
    }
    seen_by(&app, &who).await
}
