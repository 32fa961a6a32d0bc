//! The routes of the endpoints, and what of their requests and answers the description of the routes says.
//!
//! They are served by one function, `proxy::serve`; here stands only what differs for a reader of `/openapi.json`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::{App, RequestId};
use crate::endpoint;
use crate::openapi::{IdempotencyHeader, PaidRefusals, SseEvent};
use crate::proxy;

/// A chat completion, as OpenAI's API has it: whole, or event by event
#[utoipa::path(
    post,
    path = "/v1/chat/completions",
    tag = "openai",
    params(IdempotencyHeader),
    request_body = ChatRequest,
    responses(
        (status = 200, description = "With `stream`, events", content(
            (ChatCompletion = "application/json"),
            (SseEvent = "text/event-stream"),
        )),
        PaidRefusals
    )
)]
pub(crate) async fn chat(State(app): State<Arc<App>>, id: RequestId, request: Request) -> Response {
    proxy::serve(app, id, &endpoint::chat::SPEC, request).await
}

/// The same by a shorter path, for an app without OpenAI's client
#[utoipa::path(
    post,
    path = "/api/chat",
    tag = "account",
    params(IdempotencyHeader),
    request_body = ChatRequest,
    responses(
        (status = 200, description = "With `stream`, events", content(
            (ChatCompletion = "application/json"),
            (SseEvent = "text/event-stream"),
        )),
        PaidRefusals
    )
)]
pub(crate) async fn api_chat(app: State<Arc<App>>, id: RequestId, request: Request) -> Response {
    chat(app, id, request).await
}

/// A chat that begins with a prompt of the server's
///
/// The prompt's text, its model and its cap stay on the server. The answer is a chat completion, whole or event by event.
#[utoipa::path(
    post,
    path = "/api/prompts/{name}",
    tag = "account",
    params(("name" = String, Path, description = "The prompt's name", example = "summarize")),
    request_body = PromptRequest,
    responses(
        (status = 200, description = "With `stream`, events", content(
            (ChatCompletion = "application/json"),
            (SseEvent = "text/event-stream"),
        )),
        PaidRefusals
    )
)]
pub(crate) async fn prompt(
    State(app): State<Arc<App>>,
    id: RequestId,
    request: Request,
) -> Response {
    proxy::serve(app, id, &endpoint::chat::prompt::SPEC, request).await
}

/// A request for a prompt of the server's. Any other field is refused by name.
#[derive(ToSchema)]
#[schema(example = json!({"variables": {"kind": "e-mails"}, "messages": [{"role": "user", "content": "Hello!"}]}))]
#[allow(dead_code, reason = "it says what `endpoint::chat::prompt` takes")]
struct PromptRequest {
    /// A text for each variable of the prompt, and no other.
    variables: Option<BTreeMap<String, String>>,
    /// What is said after the prompt; no message is of the role `system` or `developer`.
    messages: Option<Vec<ChatMessage>>,
    /// Answer event by event.
    stream: Option<bool>,
}

/// Vectors of texts, as OpenAI's API has it
///
/// The answer passes as it came.
#[utoipa::path(
    post,
    path = "/v1/embeddings",
    tag = "openai",
    params(IdempotencyHeader),
    request_body = EmbeddingsRequest,
    responses((status = 200, body = Embeddings), PaidRefusals)
)]
pub(crate) async fn embeddings(
    State(app): State<Arc<App>>,
    id: RequestId,
    request: Request,
) -> Response {
    proxy::serve(app, id, &endpoint::embeddings::SPEC, request).await
}

/// A request for embeddings, as OpenAI takes it.
#[derive(ToSchema)]
#[schema(example = json!({"model": "text-embedding-3-small", "input": "Hello!"}))]
#[allow(dead_code, reason = "it says what `endpoint::embeddings` takes")]
struct EmbeddingsRequest {
    /// One of the plan's models that serve embeddings; without it, the first of them.
    model: Option<String>,
    /// A text, texts, the tokens of a text, or those of several.
    input: Value,
    /// `float` or `base64`.
    encoding_format: Option<String>,
    /// How many numbers a vector has, where the model can choose.
    #[schema(minimum = 1)]
    dimensions: Option<u32>,
}

/// The upstream's embeddings, as they came.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[allow(dead_code, reason = "the upstream's bytes pass as they come")]
struct Embeddings(Value);

/// What is wrong with texts and pictures, as OpenAI's API has it
///
/// It costs nothing, and counts as a request. The answer passes as it came.
#[utoipa::path(
    post,
    path = "/v1/moderations",
    tag = "openai",
    params(IdempotencyHeader),
    request_body = ModerationRequest,
    responses((status = 200, body = Moderation), PaidRefusals)
)]
pub(crate) async fn moderations(
    State(app): State<Arc<App>>,
    id: RequestId,
    request: Request,
) -> Response {
    proxy::serve(app, id, &endpoint::moderations::SPEC, request).await
}

/// A request for moderation, as OpenAI takes it.
#[derive(ToSchema)]
#[schema(example = json!({"model": "omni-moderation-latest", "input": "Hello!"}))]
#[allow(dead_code, reason = "it says what `endpoint::moderations` takes")]
struct ModerationRequest {
    /// One of the plan's models that serve moderations; without it `omni-moderation-latest`, if the plan has it, else the
    /// first of them.
    model: Option<String>,
    /// A text, texts, or parts: `{"type": "text", "text": …}` and `{"type": "image_url", "image_url": {"url": …}}`.
    input: Value,
}

/// The upstream's findings, as they came.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[allow(dead_code, reason = "the upstream's bytes pass as they come")]
struct Moderation(Value);

/// A response, as OpenAI's Responses API has it: whole, or event by event
///
/// Without state: nothing is stored, so each request carries all that it is about. Events keep their names and numbers.
#[utoipa::path(
    post,
    path = "/v1/responses",
    tag = "openai",
    params(IdempotencyHeader),
    request_body = ResponsesRequest,
    responses(
        (status = 200, description = "With `stream`, events", content(
            (ResponseObject = "application/json"),
            (SseEvent = "text/event-stream"),
        )),
        PaidRefusals
    )
)]
pub(crate) async fn responses(
    State(app): State<Arc<App>>,
    id: RequestId,
    request: Request,
) -> Response {
    proxy::serve(app, id, &endpoint::responses::SPEC, request).await
}

/// A request for a response, as OpenAI takes it. Fields that cost money or keep state are refused by name.
#[derive(ToSchema)]
#[schema(example = json!({"model": "gpt-6-luna", "input": "Hello!"}))]
#[allow(dead_code, reason = "it says what `endpoint::responses` takes")]
struct ResponsesRequest {
    /// One of the plan's models; without it, the first that serves responses.
    model: Option<String>,
    /// A text, or the items of the conversation so far.
    input: Value,
    /// What the model is to do.
    instructions: Option<String>,
    /// Answer event by event.
    stream: Option<bool>,
    stream_options: Option<Value>,
    /// The most that may be generated, reasoning included; lowered to the plan's.
    #[schema(minimum = 16)]
    max_output_tokens: Option<u32>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_logprobs: Option<u32>,
    /// `reasoning.encrypted_content` or `message.output_text.logprobs`.
    include: Option<Vec<String>>,
    reasoning: Option<Value>,
    text: Option<Value>,
    /// Tools of the types `function` and `custom`.
    tools: Option<Vec<Value>>,
    tool_choice: Option<Value>,
    parallel_tool_calls: Option<bool>,
    truncation: Option<String>,
    prompt_cache_key: Option<String>,
}

/// The upstream's response, as it came.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[allow(dead_code, reason = "the upstream's bytes pass as they come")]
struct ResponseObject(Value);

/// A chat request, as OpenAI takes it. Fields that cost money or keep state elsewhere are refused by name.
#[derive(ToSchema)]
#[schema(example = json!({"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Hello!"}]}))]
#[allow(dead_code, reason = "it says what `endpoint::chat` takes")]
pub(super) struct ChatRequest {
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

/// A message. `content` is text, or a list of parts.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `endpoint::chat` takes")]
pub(super) struct ChatMessage {
    #[schema(example = "user")]
    role: String,
    content: Option<Value>,
}

/// The upstream's completion, as it came.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[allow(dead_code, reason = "the upstream's bytes pass as they come")]
pub(super) struct ChatCompletion(Value);
