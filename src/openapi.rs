//! What the routes of both listeners are, in OpenAPI 3.1: collected from the routers themselves.
//!
//! A route is described where it is written (`#[utoipa::path]`), and is served only if it is described: both are made from
//! one list. The list is a macro, so that serving does not describe: the descriptions take two megabytes, and are made when
//! somebody asks for them. Here is what they share: the shape of a refusal, the ways to sign in, and the shapes of a chat
//! that pass through.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde_json::Value;
use utoipa::openapi::schema::ComponentsBuilder;
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{
    ContentBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, Ref, RefOr, Response, ResponseBuilder,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use crate::account::Amount;
use crate::error::Code;

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
    if path == "/v1/models/{id}" { "/v1/models/{*id}" } else { path }
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

/// What may be refused before a route is reached, whoever calls.
const BEFORE: [Code; 2] = [Code::InvalidRequest, Code::HeadersTooLarge];

/// A document without routes: its name, and who may call unless a route says otherwise.
pub(crate) fn empty(title: &str, description: &str, token: &str, more: Option<(&str, SecurityScheme)>) -> OpenApi {
    let info = InfoBuilder::new()
        .title(title)
        .description(Some(description))
        .version(env!("CARGO_PKG_VERSION"))
        .license(Some(LicenseBuilder::new().name("MIT").identifier(Some("MIT")).build()))
        .build();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(token)).build();
    let mut components = ComponentsBuilder::new()
        .security_scheme(BEARER, SecurityScheme::Http(bearer))
        .schema("Error", Error::schema())
        .schema("ErrorObject", ErrorObject::schema())
        .schema("LimitExceeded", LimitExceeded::schema())
        .schema("Amount", Amount::schema());
    let any = |name: &str| SecurityRequirement::new(name, Vec::<String>::new());
    let mut security = vec![any(BEARER)];
    if let Some((name, scheme)) = more {
        components = components.security_scheme(name, scheme);
        security.push(any(name));
    }
    OpenApiBuilder::new().info(info).components(Some(components.build())).security(Some(security)).build()
}

/// A document as it is served. What an answer's fields are is always there, if only as null.
pub(crate) fn written(document: &OpenApi) -> Bytes {
    let Ok(mut document) = serde_json::to_value(document) else {
        tracing::error!("the description of the routes cannot be written");
        return Bytes::new();
    };
    let mut optional = vec!["ErrorObject".to_owned()];
    sent_schemas(document.get("paths").unwrap_or(&Value::Null), &mut optional);
    let schemas = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut);
    for (_, schema) in schemas.into_iter().flatten().filter(|(name, _)| !optional.contains(name)) {
        let Some(properties) = schema.get("properties").and_then(Value::as_object) else { continue };
        let names: Value = properties.keys().cloned().collect();
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("required".to_owned(), names);
        }
    }
    Bytes::from(document.to_string())
}

/// The names of the schemas that callers send.
fn sent_schemas(part: &Value, names: &mut Vec<String>) {
    let Some(members) = part.as_object() else { return };
    for (name, member) in members {
        if name != "requestBody" {
            sent_schemas(member, names);
            continue;
        }
        let contents = member.get("content").and_then(Value::as_object).into_iter().flat_map(|it| it.values());
        let references = contents.filter_map(|content| content.pointer("/schema/$ref")?.as_str());
        names.extend(references.filter_map(|reference| reference.rsplit('/').next()).map(str::to_owned));
    }
}

/// What a group of routes may refuse with, by status.
pub(crate) fn refusals(codes: &[Code]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, BTreeSet<&str>> = BTreeMap::new();
    for code in codes.iter().chain(&BEFORE) {
        by_status.entry(code.status()).or_default().insert(code.as_str());
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
    ResponseBuilder::new().description(description).content("application/json", content).build()
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

const USER: [Code; 10] = [
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

/// The refusals of a chat: nearly all there are, and the upstream's own about the request.
pub(crate) struct ChatRefusals;

impl IntoResponses for ChatRefusals {
    fn responses() -> BTreeMap<String, RefOr<Response>> {
        let elsewhere = [Code::NotFound, Code::MethodNotAllowed, Code::InsufficientScope, Code::CrossOrigin];
        let codes: Vec<Code> = Code::ALL.iter().filter(|code| !elsewhere.contains(code)).copied().collect();
        let mut all = refusals(&codes);
        for status in ["404", "422"] {
            all.insert(
                status.to_owned(),
                refusal("The upstream's own answer about this request, with its code").into(),
            );
        }
        all
    }
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
}

/// A limit, and what was asked of it.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `Refusal::body` writes")]
struct LimitExceeded {
    per: String,
    unit: String,
    limit: Amount,
    used: Amount,
    held: Amount,
    requested: Amount,
    resets_at: Option<String>,
}

/// A chat request, as OpenAI takes it. Fields that cost money or keep state elsewhere are refused by name.
#[derive(ToSchema)]
#[schema(example = json!({"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Hello!"}]}))]
#[allow(dead_code, reason = "it says what `Order::parse` takes")]
pub(crate) struct ChatRequest {
    /// One of the plan's models; without it, the first of them.
    model: Option<String>,
    /// The conversation so far, as OpenAI takes it.
    #[schema(min_items = 1)]
    messages: Vec<ChatMessage>,
    /// Answer event by event.
    stream: Option<bool>,
    /// `{"include_usage": true}` asks for a last event that tells what was used.
    stream_options: Option<Value>,
    /// The most that may be generated; lowered to the plan's.
    #[schema(minimum = 1)]
    max_completion_tokens: Option<u32>,
    /// The same by its older name.
    #[schema(minimum = 1)]
    max_tokens: Option<u32>,
    /// How many answers, within the plan's `max_choices`.
    #[schema(minimum = 1, maximum = 128)]
    n: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    stop: Option<Value>,
    presence_penalty: Option<f64>,
    frequency_penalty: Option<f64>,
    logit_bias: Option<Value>,
    logprobs: Option<bool>,
    top_logprobs: Option<u32>,
    seed: Option<i64>,
    response_format: Option<Value>,
    /// Tools of the type `function`.
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    reasoning_effort: Option<String>,
    verbosity: Option<String>,
}

/// An event of a stream, as an `EventSource` gives it out (WHATWG HTML §9.2).
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what is streamed")]
pub(crate) struct Event {
    /// A JSON object; at the end of a chat `[DONE]`.
    data: String,
}

/// A message. `content` is text, or a list of parts.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `Order::parse` takes")]
struct ChatMessage {
    #[schema(example = "user")]
    role: String,
    content: Option<Value>,
}

/// The upstream's completion, as it came.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[allow(dead_code, reason = "the upstream's bytes pass as they come")]
pub(crate) struct ChatCompletion(Value);
