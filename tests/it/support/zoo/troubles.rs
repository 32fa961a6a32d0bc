//! What goes wrong at a provider: in the words of its family, and billed by when it went wrong.

use serde_json::{Value, json};

use super::{Account, Family, Shape, Waits};
use crate::support::reply::{Bill, Books, Reply, Step};
use crate::support::upstream::Seen;

/// What is said to a caller about his own request; the product may pass it on.
pub(crate) const SAID: &str = "The 3rd message is too long by 7.";

/// What went wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    // Before any work: free.
    /// About the request.
    Invalid,
    BadKey,
    Busy,
    /// 529.
    Overloaded,
    /// 413 with `rate_limit_exceeded`.
    TooLarge,
    Failure,
    /// 200, and the body is an error.
    ErrorIn200,
    /// 200, and the first event of the stream is an error.
    ErrorFirst,
    // After the prompt was read.
    FilteredPrompt,
    // After the work.
    FilteredOutput,
    ToolUseFailed,
    CapReached,
    TimedOut(u16),
}

impl Trouble {
    /// All of them.
    pub(crate) const ALL: &[Self] = &[
        Self::Invalid,
        Self::BadKey,
        Self::Busy,
        Self::Overloaded,
        Self::TooLarge,
        Self::Failure,
        Self::ErrorIn200,
        Self::ErrorFirst,
        Self::FilteredPrompt,
        Self::FilteredOutput,
        Self::ToolUseFailed,
        Self::CapReached,
        Self::TimedOut(408),
        Self::TimedOut(504),
        Self::TimedOut(524),
    ];

    /// Whether a family can say it: a bare message has no word for what happened.
    pub(crate) fn is_of(self, family: &Family) -> bool {
        let needs_a_word = matches!(
            self,
            Self::ToolUseFailed | Self::FilteredPrompt | Self::FilteredOutput
        );
        !needs_a_word || family.shape != Shape::Text
    }

    /// What is billed, of what the whole answer would have come to.
    fn books(self, account: &Account) -> Books {
        let whole = match self {
            Self::FilteredPrompt => Bill {
                prompt: account.prompt,
                ..Bill::default()
            },
            Self::FilteredOutput | Self::ToolUseFailed | Self::CapReached | Self::TimedOut(_) => {
                account.bill()
            }
            _ => Bill::default(),
        };
        Books {
            whole,
            hidden: whole.completion,
            works_on: true,
        }
    }

    /// How a family says it.
    pub(super) fn reply(self, family: &Family, account: &Account, seen: &Seen) -> Reply {
        let invalid = if family.shape == Shape::Mistral {
            422
        } else {
            400
        };
        let say = |status: u16, code: &str, message: &str| refusal(family, status, code, message);
        let reply = match self {
            Self::Invalid => say(invalid, "string_above_max_length", SAID),
            Self::BadKey if family.shape == Shape::Google => {
                say(400, "API_KEY_INVALID", "API key not valid.")
            }
            Self::BadKey => say(401, "invalid_api_key", "Incorrect API key provided."),
            Self::Busy => busy(family),
            Self::Overloaded => {
                say(529, "overloaded_error", "Overloaded").header("Retry-After", "11")
            }
            Self::TooLarge => say(413, "rate_limit_exceeded", SAID),
            Self::Failure => say(500, "server_error", "Something went wrong."),
            Self::ErrorFirst if seen.is_stream() => {
                let error = shaped(family, 502, "server_error", "Provider returned error");
                Reply::events(vec![Step::Body(format!("data: {error}\n\n").into_bytes())])
            }
            Self::ErrorIn200 | Self::ErrorFirst => {
                say(200, "server_error", "Provider returned error")
            }
            Self::FilteredPrompt => say(
                400,
                "content_filter",
                "The prompt was filtered by the content policy.",
            ),
            Self::FilteredOutput => say(
                400,
                "content_filter",
                "The output was filtered by the content policy.",
            ),
            Self::ToolUseFailed => say(400, "tool_use_failed", "Failed to call a function."),
            Self::CapReached => say(
                400,
                "invalid_value",
                "Could not finish: max_tokens or model output limit was reached.",
            ),
            Self::TimedOut(status) => say(status, "timeout", "It took too long."),
        };
        reply.booked(self.books(account))
    }
}

fn busy(family: &Family) -> Reply {
    let mut error = shaped(family, 429, "rate_limit_exceeded", "Too many requests");
    match family.waits {
        Waits::Header(value, _) => {
            Reply::status(429, "application/json", error.to_string()).header("Retry-After", value)
        }
        Waits::Body(delay, _) => {
            let info =
                json!({"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay});
            error[0]["error"]["details"] = json!([info]);
            error[0]["error"]["status"] = json!("RESOURCE_EXHAUSTED");
            Reply::status(429, "application/json", error.to_string())
        }
    }
}

/// An answer that is an error in the shape of the family.
pub(super) fn refusal(family: &Family, status: u16, code: &str, message: &str) -> Reply {
    Reply::status(
        status,
        "application/json",
        shaped(family, status, code, message).to_string(),
    )
}

fn shaped(family: &Family, status: u16, code: &str, message: &str) -> Value {
    match family.shape {
        Shape::OpenAi => {
            json!({"error": {"message": message, "type": "invalid_request_error", "param": null, "code": code}})
        }
        Shape::Azure if code != "content_filter" => {
            json!({"error": {"message": message, "type": null, "param": null, "code": code}})
        }
        Shape::Azure => {
            json!({"error": {"message": message, "type": null, "param": "prompt", "code": code, "status": status,
            "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {}}}})
        }
        Shape::Google => {
            let details =
                json!([{"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": code}]);
            json!([{"error": {"code": status, "message": message, "status": "INVALID_ARGUMENT", "details": details}}])
        }
        Shape::Xai => json!({"code": code, "error": message}),
        Shape::Mistral => {
            let detail =
                json!([{"type": code, "loc": ["body", "messages"], "msg": message, "input": "x"}]);
            json!({"object": "error", "message": {"detail": detail}, "type": "invalid_request_error", "param": null,
                   "code": null})
        }
        Shape::Vllm => {
            json!({"object": "error", "message": message, "type": code, "param": null, "code": status})
        }
        Shape::Numbered => json!({"error": {"code": status, "message": message, "type": code}}),
        Shape::Anthropic => {
            json!({"type": "error", "error": {"type": code, "message": message}, "request_id": "req_1"})
        }
        Shape::Text => json!({"error": message}),
    }
}
