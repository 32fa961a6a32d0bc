//! `/v1/embeddings` of the demo's model: every text becomes the same small vector. A word counts as a token.

use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{error, json_response};

/// What every text becomes: of length one, as OpenAI's are.
const VECTOR: [f32; 4] = [0.5, -0.5, 0.5, -0.5];

/// The fields that are read; the others are ignored.
#[derive(Deserialize)]
struct EmbeddingsRequest {
    model: String,
    #[serde(default)]
    input: Value,
    encoding_format: Option<String>,
}

pub(super) async fn embeddings(body: Bytes) -> Response {
    let request: EmbeddingsRequest = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(reason) => {
            let message = format!("Not a request for embeddings: {reason}.");
            return error(StatusCode::BAD_REQUEST, &message, None);
        }
    };
    if !request.model.starts_with("text-embedding-") {
        let message = format!("The model `{}` does not exist.", request.model);
        return error(StatusCode::NOT_FOUND, &message, Some("model_not_found"));
    }
    let counts = counts(&request.input);
    let vector = if request.encoding_format.as_deref() == Some("base64") {
        json!(STANDARD.encode(VECTOR.map(f32::to_le_bytes).concat()))
    } else {
        json!(VECTOR)
    };
    let embedding =
        |index: usize| json!({"object": "embedding", "index": index, "embedding": vector});
    let tokens = counts.iter().copied().fold(0, usize::saturating_add);
    let answer = json!({
        "object": "list",
        "data": (0..counts.len()).map(embedding).collect::<Vec<_>>(),
        "model": request.model,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
    });
    json_response(StatusCode::OK, &answer)
}

/// The tokens of each input: a text, texts, the tokens of a text, or those of several.
fn counts(input: &Value) -> Vec<usize> {
    match input {
        Value::Array(tokens) if tokens.iter().all(Value::is_number) => vec![tokens.len()],
        Value::Array(inputs) => inputs.iter().map(tokens).collect(),
        input => vec![tokens(input)],
    }
}

fn tokens(input: &Value) -> usize {
    match input {
        Value::String(text) => text.split_whitespace().count(),
        Value::Array(tokens) => tokens.len(),
        _ => 0,
    }
}
