//! The routes of Anthropic's API, and what of their requests and answers the description of the routes says.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::Value;
use utoipa::ToSchema;

use super::endpoints::ChatMessage;
use crate::app::{App, RequestId};
use crate::endpoint;
use crate::openapi::{IdempotencyHeader, MessagesRefusals, SseEvent};
use crate::proxy;

/// A message of Anthropic's models, as its API has it: whole, or event by event
///
/// The answer passes as it came, with the names of its events.
#[utoipa::path(
    post,
    path = "/v1/messages",
    tag = "anthropic",
    params(IdempotencyHeader),
    request_body = MessagesRequest,
    responses(
        (status = 200, description = "With `stream`, events", content(
            (AnthropicMessage = "application/json"),
            (SseEvent = "text/event-stream"),
        )),
        MessagesRefusals
    )
)]
pub(crate) async fn messages(
    State(app): State<Arc<App>>,
    id: RequestId,
    request: Request,
) -> Response {
    proxy::serve(app, id, &endpoint::messages::SPEC, request).await
}

/// How many tokens a prompt has, as Anthropic counts them
///
/// Free. It counts as a request per minute and hour.
#[utoipa::path(
    post,
    path = "/v1/messages/count_tokens",
    tag = "anthropic",
    params(IdempotencyHeader),
    request_body = CountRequest,
    responses((status = 200, body = TokenCount), MessagesRefusals)
)]
pub(crate) async fn count_tokens(
    State(app): State<Arc<App>>,
    id: RequestId,
    request: Request,
) -> Response {
    proxy::serve(app, id, &endpoint::messages::count::SPEC, request).await
}

/// A request for a message, as Anthropic takes it. Fields that cost money or keep state elsewhere are refused by name.
#[derive(ToSchema)]
#[schema(example = json!({"model": "claude-haiku-4-5", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello!"}]}))]
#[allow(dead_code, reason = "it says what `endpoint::messages` takes")]
struct MessagesRequest {
    /// One of the plan's models that serve messages; without it, the first of them.
    model: Option<String>,
    /// The most that may be generated; lowered to the plan's.
    #[schema(minimum = 1)]
    max_tokens: u32,
    /// The conversation so far, as Anthropic takes it.
    #[schema(min_items = 1)]
    messages: Vec<ChatMessage>,
    /// A text, or blocks of text.
    system: Option<Value>,
    /// Answer event by event.
    stream: Option<bool>,
    #[schema(minimum = 0, maximum = 1)]
    temperature: Option<f64>,
    #[schema(minimum = 0, maximum = 1)]
    top_p: Option<f64>,
    top_k: Option<u32>,
    stop_sequences: Option<Vec<String>>,
    /// Tools that the app runs.
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    thinking: Option<Value>,
    output_config: Option<Value>,
    cache_control: Option<Value>,
    /// `user_id` is replaced by a hash of the user.
    metadata: Option<Value>,
    /// `auto` or `standard_only`; standard is what is asked for.
    service_tier: Option<String>,
}

/// A prompt to be counted, as Anthropic takes it.
#[derive(ToSchema)]
#[schema(example = json!({"model": "claude-haiku-4-5", "messages": [{"role": "user", "content": "Hello!"}]}))]
#[allow(dead_code, reason = "it says what `endpoint::messages::count` takes")]
struct CountRequest {
    /// One of the plan's models that serve messages; without it, the first of them.
    model: Option<String>,
    #[schema(min_items = 1)]
    messages: Vec<ChatMessage>,
    system: Option<Value>,
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    thinking: Option<Value>,
    output_config: Option<Value>,
    cache_control: Option<Value>,
}

/// The upstream's message, as it came.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[allow(dead_code, reason = "the upstream's bytes pass as they come")]
struct AnthropicMessage(Value);

/// The upstream's count, as it came: `{"input_tokens": 12}`.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[allow(dead_code, reason = "the upstream's bytes pass as they come")]
struct TokenCount(Value);
