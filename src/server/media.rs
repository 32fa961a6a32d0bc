//! The routes of the endpoints that draw, speak and listen, and what of their requests and answers the description of the routes says.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::Value;
use utoipa::ToSchema;

use crate::app::{App, RequestId};
use crate::endpoint;
use crate::openapi::{IdempotencyHeader, PaidRefusals, SseEvent};
use crate::proxy;

/// Images of a prompt, as OpenAI's API has it
///
/// With `stream`, partial images and each that is finished, as named events. The answer passes as it came.
#[utoipa::path(
    post,
    path = "/v1/images/generations",
    tag = "openai",
    params(IdempotencyHeader),
    request_body = ImageRequest,
    responses(
        (status = 200, description = "With `stream`, events", content(
            (Images = "application/json"),
            (SseEvent = "text/event-stream"),
        )),
        PaidRefusals
    )
)]
pub(crate) async fn images(
    State(app): State<Arc<App>>,
    id: RequestId,
    request: Request,
) -> Response {
    proxy::serve(app, id, &endpoint::image_generation::GENERATIONS, request).await
}

/// Images of other images, as OpenAI's API has it
///
/// A form with the files `image` (or `image[]`, up to 16) and `mask`, in any order; or JSON, with `images` and `mask` as
/// `{"image_url": …}`.
#[utoipa::path(
    post,
    path = "/v1/images/edits",
    tag = "openai",
    params(IdempotencyHeader),
    request_body(content(
        (ImageEditForm = "multipart/form-data"),
        (ImageRequest = "application/json"),
    )),
    responses(
        (status = 200, description = "With `stream`, events", content(
            (Images = "application/json"),
            (SseEvent = "text/event-stream"),
        )),
        PaidRefusals
    )
)]
pub(crate) async fn image_edits(
    State(app): State<Arc<App>>,
    id: RequestId,
    request: Request,
) -> Response {
    proxy::serve(app, id, &endpoint::image_generation::EDITS, request).await
}

/// A request for images, as OpenAI takes it.
#[derive(ToSchema)]
#[schema(example = json!({"model": "gpt-image-2", "prompt": "An otter with a hat"}))]
#[allow(dead_code, reason = "it says what `endpoint::image_generation` takes")]
struct ImageRequest {
    /// One of the plan's models that make images; without it, the first of them.
    model: Option<String>,
    #[schema(min_length = 1, max_length = 32000)]
    prompt: String,
    /// Only to `/v1/images/edits`: `{"image_url": …}` each, a `data:` URL or the `https:` URL of a public host.
    images: Option<Vec<Value>>,
    /// Only to `/v1/images/edits`: the same.
    mask: Option<Value>,
    /// How many, within the plan's `max_images`.
    #[schema(minimum = 1, maximum = 10)]
    n: Option<u32>,
    /// `auto`, or width and height, within the plan's `max_image_size`. `auto` becomes that.
    size: Option<String>,
    /// `auto`, `low`, `medium`, `high`, `xhigh`, `max`, `standard` or `hd`, within the plan's `max_image_quality`. `auto`
    /// becomes that.
    quality: Option<String>,
    background: Option<String>,
    moderation: Option<String>,
    style: Option<String>,
    response_format: Option<String>,
    output_format: Option<String>,
    #[schema(minimum = 0, maximum = 100)]
    output_compression: Option<u32>,
    input_fidelity: Option<String>,
    /// Answer event by event.
    stream: Option<bool>,
    #[schema(minimum = 0, maximum = 3)]
    partial_images: Option<u32>,
}

/// The same as a form.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `endpoint::image_generation` takes")]
struct ImageEditForm {
    /// PNG, JPEG or WebP; several as `image[]`.
    #[schema(value_type = String, format = Binary)]
    image: Vec<u8>,
    /// PNG.
    #[schema(value_type = Option<String>, format = Binary)]
    mask: Option<Vec<u8>>,
    /// And all other fields of the request in JSON, each as a text.
    prompt: String,
}

/// The upstream's images, as they came.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[allow(dead_code, reason = "the upstream's bytes pass as they come")]
struct Images(Value);

/// Speech of a text, as OpenAI's API has it
///
/// The sound passes as it comes, in the media type that the upstream says.
#[utoipa::path(
    post,
    path = "/v1/audio/speech",
    tag = "openai",
    params(IdempotencyHeader),
    request_body = SpeechRequest,
    responses((status = 200, body = Sound, content_type = "audio/mpeg"), PaidRefusals)
)]
pub(crate) async fn speech(
    State(app): State<Arc<App>>,
    id: RequestId,
    request: Request,
) -> Response {
    proxy::serve(app, id, &endpoint::speech::SPEC, request).await
}

/// A request for speech, as OpenAI takes it.
#[derive(ToSchema)]
#[schema(example = json!({"model": "tts-1", "input": "Hello!", "voice": "alloy"}))]
#[allow(dead_code, reason = "it says what `endpoint::speech` takes")]
struct SpeechRequest {
    /// One of the plan's models that serve speech; without it, the first of them.
    model: Option<String>,
    /// What is to be said, in at most 4096 characters.
    #[schema(min_length = 1, max_length = 4096)]
    input: String,
    /// The name of a voice, or `{"id": …}`.
    voice: Value,
    /// How it is to be said.
    #[schema(max_length = 4096)]
    instructions: Option<String>,
    /// `mp3`, `opus`, `aac`, `flac`, `wav` or `pcm`.
    response_format: Option<String>,
    #[schema(minimum = 0.25, maximum = 4.0)]
    speed: Option<f64>,
}

/// The upstream's sound, as it came.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "the upstream's bytes pass as they come")]
struct Sound(Vec<u8>);

/// What is said in a file of audio, as OpenAI's API has it
///
/// The answer has the form of `response_format`, and passes as it came: JSON, text or subtitles. With `stream`, events.
#[utoipa::path(
    post,
    path = "/v1/audio/transcriptions",
    tag = "openai",
    params(IdempotencyHeader),
    request_body(content = TranscriptionRequest, content_type = "multipart/form-data"),
    responses(
        (status = 200, description = "In the form of `response_format`; with `stream`, events", content(
            (Transcription = "application/json"),
            (String = "text/plain"),
            (String = "text/vtt"),
            (SseEvent = "text/event-stream"),
        )),
        PaidRefusals
    )
)]
pub(crate) async fn transcriptions(
    State(app): State<Arc<App>>,
    id: RequestId,
    request: Request,
) -> Response {
    proxy::serve(app, id, &endpoint::transcriptions::SPEC, request).await
}

/// A request for a transcript, as OpenAI takes it.
#[derive(ToSchema)]
#[allow(dead_code, reason = "it says what `endpoint::transcriptions` takes")]
struct TranscriptionRequest {
    /// The audio: m4a, mp4, mp3, wav, flac, ogg or webm, no longer than the plan's `max_audio_seconds`.
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
    /// One of the plan's models that serve transcriptions; without it, the first of them.
    model: Option<String>,
    /// The language of the audio, such as `en`.
    language: Option<String>,
    /// Languages that it may be in.
    languages: Option<Vec<String>>,
    /// Words that are likely to be said.
    keywords: Option<Vec<String>>,
    /// What was said before, or how the transcript is to be written.
    prompt: Option<String>,
    /// `json`, `verbose_json`, `diarized_json`, `text`, `srt` or `vtt`.
    response_format: Option<String>,
    #[schema(minimum = 0, maximum = 1)]
    temperature: Option<f64>,
    /// `logprobs`.
    include: Option<Vec<String>>,
    /// `word` and `segment`, with `verbose_json`.
    timestamp_granularities: Option<Vec<String>>,
    /// Answer event by event, where the model can.
    stream: Option<bool>,
    /// `auto`, or an object of the type `server_vad`.
    chunking_strategy: Option<String>,
}

/// The upstream's transcript, as it came.
#[derive(ToSchema)]
#[schema(value_type = Object)]
#[allow(dead_code, reason = "the upstream's bytes pass as they come")]
struct Transcription(Value);
