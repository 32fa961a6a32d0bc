//! What the OpenAPI 3.1 documents of both listeners share: the shape of a refusal and the ways to sign in.
//!
//! A route is described where it is written (`#[utoipa::path]`), and it is served only if it is described: both come
//! from one list. The list is a macro, so that serving does not build the descriptions. They take two megabytes and are
//! built when somebody asks for them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value;
use utoipa::openapi::schema::ComponentsBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response,
    ResponseBuilder,
};
use utoipa::{IntoParams, IntoResponses, PartialSchema, ToSchema};

use crate::error::Code;
use crate::plan::Amount;

/// Puts handlers into a `Router`, each under the path and the methods of its `#[utoipa::path]`.
macro_rules! put_served {
    ($router:expr; $($($handler:path),+;)+) => {{
        let router = $router;
        $($(
            let (path, methods) = utoipa_axum::paste! {(
                utoipa_axum::routes!(@path [path()] of $handler),
                utoipa_axum::routes!(@path [methods()] of $handler),
            )};
            let router = methods.iter().fold(router, |router, method| {
                let filter = utoipa_axum::PathItemExt::to_method_filter(method);
                router.route($crate::openapi::served(&path), axum::routing::on(filter, $handler))
            });
        )+)+
        router
    }};
}

/// A path as the router has it: the name of a model may have slashes (`vendor/some-model`), encoded or not.
pub(crate) fn served(path: &str) -> &str {
    if path == "/v1/models/{id}" {
        "/v1/models/{*id}"
    } else {
        path
    }
}

/// Puts what the same handlers say of themselves into an `OpenApiRouter`; those between two semicolons share a path.
macro_rules! put_described {
    ($router:expr; $($($handler:path),+;)+) => {
        $router $(.routes(utoipa_axum::routes!($($handler),+)))+
    };
}

pub(crate) use {put_described, put_served};

/// The name of the scheme in which a token is sent.
pub(crate) const BEARER: &str = "bearer";

/// The refusals that any request may get before it reaches a route.
const BEFORE: [Code; 2] = [Code::InvalidRequest, Code::HeadersTooLarge];

/// A document without routes: its name, and who may call unless a route says otherwise.
pub(crate) fn empty(
    title: &str,
    description: &str,
    token: &str,
    more: Option<(&str, SecurityScheme)>,
) -> OpenApi {
    let info = InfoBuilder::new()
        .title(title)
        .description(Some(description))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(
            LicenseBuilder::new()
                .name("MIT")
                .identifier(Some("MIT"))
                .build(),
        ))
        .build();
    let bearer = HttpBuilder::new()
        .scheme(HttpAuthScheme::Bearer)
        .description(Some(token))
        .build();
    let mut components = ComponentsBuilder::new()
        .security_scheme(BEARER, SecurityScheme::Http(bearer))
        .schema("Error", Error::schema())
        .schema("ErrorObject", ErrorObject::schema())
        .schema("AnthropicError", AnthropicError::schema())
        .schema("AnthropicErrorObject", AnthropicErrorObject::schema())
        .schema("LimitExceeded", LimitExceeded::schema())
        .schema("Amount", Amount::schema());
    let any = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
    let mut security = vec![any(BEARER)];
    if let Some((name, scheme)) = more {
        components = components.security_scheme(name, scheme);
        security.push(any(name));
    }
    OpenApiBuilder::new()
        .info(info)
        .components(Some(components.build()))
        .security(Some(security))
        .build()
}

/// A document as it is served. What an answer's fields are is always there, if only as null, but where its schema says so.
pub(crate) fn written(document: &OpenApi) -> Bytes {
    let Ok(mut document) = serde_json::to_value(document) else {
        tracing::error!("the description of the routes cannot be written");
        return Bytes::new();
    };
    let own = ["ErrorObject", "AnthropicErrorObject", "MyUser"];
    let mut optional: Vec<String> = own.map(str::to_owned).to_vec();
    sent_schemas(document.get("paths").unwrap_or(&Value::Null), &mut optional);
    let schemas = document
        .pointer_mut("/components/schemas")
        .and_then(Value::as_object_mut);
    for (_, schema) in schemas
        .into_iter()
        .flatten()
        .filter(|(name, _)| !optional.contains(name))
    {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else {
            continue;
        };
        let names: Value = properties.keys().cloned().collect();
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("required".to_owned(), names);
        }
    }
    Bytes::from(document.to_string())
}

/// The names of the schemas that callers send.
fn sent_schemas(part: &Value, names: &mut Vec<String>) {
    let Some(members) = part.as_object() else {
        return;
    };
    for (name, member) in members {
        if name != "requestBody" {
            sent_schemas(member, names);
            continue;
        }
        let contents = member
            .get("content")
            .and_then(Value::as_object)
            .into_iter()
            .flat_map(|it| it.values());
        let references = contents.filter_map(|content| content.pointer("/schema/$ref")?.as_str());
        names.extend(
            references
                .filter_map(|reference| reference.rsplit('/').next())
                .map(str::to_owned),
        );
    }
}

/// What a group of routes may refuse with, by status.
pub(crate) fn refusals(codes: &[Code]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for code in codes.iter().chain(&BEFORE) {
        by_status
            .entry(code.status())
            .or_default()
            .insert(code.as_str());
    }
    let response = |(status, codes): (u16, BTreeSet<&str>)| {
        let words: Vec<String> = codes.iter().map(|code| format!("`{code}`")).collect();
        (status.to_string(), refusal(&words.join(", ")).into())
    };
    by_status.into_iter().map(response).collect()
}

fn refusal(description: &str) -> Response {
    let schema = Ref::from_schema_name("Error");
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new()
        .description(description)
        .content("application/json", content)
        .build()
}

/// The refusals of a route that asks for nothing.
pub(crate) struct OpenRefusals;

impl IntoResponses for OpenRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[])
    }
}

/// The refusals of a route that asks for a user's token.
pub(crate) struct UserRefusals;

impl IntoResponses for UserRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&USER)
    }
}

/// What a route that asks for a user's token may refuse with.
pub(crate) const USER: [Code; 10] = [
    Code::MissingToken,
    Code::InvalidToken,
    Code::TokenExpired,
    Code::AnonymousNotAllowed,
    Code::UserBlocked,
    Code::AuthUnavailable,
    Code::DirectoryUnavailable,
    Code::StoreUnavailable,
    Code::TooManyConcurrent,
    Code::Overloaded,
];

/// The refusals of `/v1/models/{id}`.
pub(crate) struct ModelRefusals;

impl IntoResponses for ModelRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        refusals(&[&USER[..], &[Code::ModelNotAllowed]].concat())
    }
}

/// The refusals of `/api/answers/{id}`, and whatever else the answer was.
pub(crate) struct KeptAnswerRefusals;

impl IntoResponses for KeptAnswerRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let gone = Code::AnswerGone;
        let mut all = refusals(&[&USER[..], &[Code::NotFound, gone]].concat());
        let here = format!(
            "`{gone}`: it was kept here, and is no longer",
            gone = gone.as_str()
        );
        all.insert("410".to_owned(), refusal(&here).into());
        all
    }
}

/// The refusals of an endpoint that is paid for: nearly all there are, and the upstream's own about the request.
pub(crate) struct PaidRefusals;

impl IntoResponses for PaidRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let elsewhere = [
            Code::NotFound,
            Code::MethodNotAllowed,
            Code::InsufficientScope,
            Code::CrossOrigin,
            Code::InvalidSignature,
            Code::PurchaseTaken,
        ];
        let codes: Vec<Code> = Code::ALL
            .iter()
            .filter(|code| !elsewhere.contains(code))
            .copied()
            .collect();
        let mut all = refusals(&codes);
        let theirs = "The upstream's own answer about this request, with its code";
        let reused = Code::IdempotencyKeyReused.as_str();
        all.insert("404".to_owned(), refusal(theirs).into());
        all.insert(
            "422".to_owned(),
            refusal(&format!("`{reused}`. {theirs}")).into(),
        );
        all
    }
}

/// The same in the shape that Anthropic's clients decode.
pub(crate) struct MessagesRefusals;

impl IntoResponses for MessagesRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let mut all = PaidRefusals::responses();
        let schema = || Ref::from_schema_name("AnthropicError");
        for response in all.values_mut() {
            if let RefOr::T(response) = response {
                let content = ContentBuilder::new().schema(Some(schema())).build();
                response
                    .content
                    .insert("application/json".to_owned(), content.into());
            }
        }
        all
    }
}

/// A refusal, in the shape that Anthropic's clients decode. The header `X-Tollgate-Error` has our code.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `error::anthropic_shape` writes")]
pub(crate) struct AnthropicError {
    /// `error`
    r#type: String,
    error: AnthropicErrorObject,
    /// As `X-Request-Id`.
    request_id: String,
}

/// Why, in words.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `error::anthropic_shape` writes")]
struct AnthropicErrorObject {
    /// The kind of the refusal, in Anthropic's words.
    #[schema(example = "invalid_request_error")]
    r#type: String,
    /// For people. It names the field at fault.
    message: String,
    /// With 402 and 429: the limit that was met.
    limit: Option<LimitExceeded>,
    /// With 402 and 429: the caller's plan.
    plan: Option<String>,
    /// With 409: the request that was sent before.
    request: Option<EarlierRequest>,
}

/// A refusal, in the shape that OpenAI's clients decode. The header `X-Tollgate-Error` repeats the code.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `Refusal::body` writes")]
pub(crate) struct Error {
    error: ErrorObject,
}

/// Why, in words and in a code.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `Refusal::body` writes")]
struct ErrorObject {
    /// For people.
    message: String,
    /// The kind of the refusal, in OpenAI's words.
    #[schema(example = "invalid_request_error")]
    r#type: String,
    /// The reason, for programs.
    #[schema(example = "invalid_request")]
    code: String,
    /// The field at fault.
    #[schema(required)]
    param: Option<String>,
    /// With `quota_exceeded` and `rate_limited`: the limit that was met.
    limit: Option<LimitExceeded>,
    /// With `quota_exceeded` and `rate_limited`: the caller's plan.
    plan: Option<String>,
    /// With `answer_gone`: the request that was sent before.
    request: Option<EarlierRequest>,
}

/// A request that was sent before with the same `Idempotency-Key`.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `proxy::idempotency` writes")]
struct EarlierRequest {
    /// Its `X-Request-Id`.
    id: String,
    /// `settled` or `lost`; null while it is open.
    #[schema(required)]
    state: Option<String>,
    /// What it was charged; null while it is open.
    #[schema(required)]
    cost_usd: Option<String>,
}

/// The key by which a request may be sent again.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "it says what `proxy::idempotency` reads")]
pub(crate) struct IdempotencyHeader {
    /// A name for this request, of 1 to 255 visible ASCII characters: within 24 hours, no request with the same name is
    /// charged a second time.
    #[param(
        rename = "Idempotency-Key",
        min_length = 1,
        max_length = 255,
        pattern = "^[!-~]+$"
    )]
    idempotency_key: Option<String>,
}

/// A limit, and what was asked of it.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `Refusal::body` writes")]
struct LimitExceeded {
    per: String,
    unit: String,
    /// The only model whose requests count, by its name in the plan; null where all count.
    model: Option<String>,
    limit: Amount,
    used: Amount,
    held: Amount,
    requested: Amount,
    resets_at: Option<String>,
}

/// An event of a stream, as an `EventSource` gives it out (WHATWG HTML §9.2).
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what is streamed")]
#[schema(as = Event)]
pub(crate) struct SseEvent {
    /// A JSON object; at the end of a chat `[DONE]`.
    data: String,
}
