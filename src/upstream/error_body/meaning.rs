//! What an error of an upstream means: who is at fault, and whether work had been done. Pure.
//!
//! Invariant: the words that decide it come from codes, types, statuses and reasons, which no user writes; of a message only
//! its beginning or a phrase of the provider's is believed.

use super::ErrorBody;
use crate::upstream::health::Failure;

/// Words that say that the operator's budget is used up.
const BUDGET: [&str; 9] = [
    "insufficient_quota",
    "insufficient_balance",
    "insufficient_credit",
    "credit_balance",
    "spend_limit",
    "usage_limit_exceeded",
    "billing",
    "current_quota",
    "payment_required",
];
/// Words that say that the operator's key or account is refused.
const ACCOUNT: [&str; 18] = [
    "api_key",
    "apikey",
    "authentication",
    "unauthenticated",
    "unauthorized",
    "access_token",
    "access_terminated",
    "credential",
    "deactivated",
    "suspended",
    "invalid_organization",
    "mismatched_",
    "unsupported_country",
    "consumer_",
    "service_disabled",
    "account_state",
    "location_policy",
    "user_project_denied",
];
/// The same, where the status does not say that permission is missing: then it may be for one model only.
const PERMISSION: [&str; 3] = [
    "permission_error",
    "permission_denied",
    "failed_precondition",
];
/// How messages begin that say so without a word of the account.
const ACCOUNT_MESSAGES: [&str; 9] = [
    "incorrect api key",
    "invalid api key",
    "api key not valid",
    "api key not found",
    "api key expired",
    "no api key",
    "missing api key",
    "please pass a valid api key",
    "user location is not supported",
];
const BUDGET_MESSAGES: [&str; 2] = ["your credit balance", "insufficient balance"];

/// Words that say that a filter stopped the content.
const FILTER: [&str; 13] = [
    "content_filter",
    "contentfilter",
    "content_policy",
    "contentpolicy",
    "responsibleai",
    "moderation",
    "data_inspection",
    "datainspection",
    "prohibited_content",
    "content_blocked",
    "guardrail",
    "invalid_prompt",
    "safety",
];
const FILTER_MESSAGES: [&str; 8] = [
    "content exists risk",
    "content violates usage guidelines",
    "content management policy",
    "input was flagged",
    "prompt was flagged",
    "output was flagged",
    "inappropriate content",
    "considered high risk",
];

/// Words of an error that comes when the answer was generated already.
const LATE: [&str; 7] = [
    "tool_use_failed",
    "json_validate_failed",
    "output_parse_failed",
    "max_tokens_reached",
    "max_output_tokens_reached",
    "output_limit_reached",
    "invalid_model_output",
];

/// Words that say that the server has no such model, or not for this key.
const MODEL: [&str; 8] = [
    "model_not_found",
    "model_not_exist",
    "model_not_available",
    "model_not_supported",
    "model_decommissioned",
    "invalid_model",
    "unknown_model",
    "unsupported_model",
];
/// How messages begin that say so.
const MODEL_MESSAGES: [&str; 4] = [
    "model not exist",
    "model not found",
    "invalid model",
    "unknown model",
];

/// What a filter stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::upstream) enum FilterTarget {
    /// The request: nothing was generated.
    Prompt,
    /// What was generated.
    Output,
}

impl ErrorBody {
    /// The operator's account is at fault: its budget, or its key. `is_permission`: the status says that permission is
    /// missing, which may be for this one model or content.
    pub(in crate::upstream) fn account_fault(&self, is_permission: bool) -> Option<Failure> {
        let message = self.message.to_lowercase();
        let begins = |starts: &[&str]| starts.iter().any(|start| message.starts_with(start));
        if self.says(&BUDGET) || begins(&BUDGET_MESSAGES) {
            return Some(Failure::Budget);
        }
        let of_account =
            |word: &String| word.starts_with("organization_") || word.starts_with("project_");
        let is_refused = self.says(&ACCOUNT)
            || self.words.iter().any(of_account)
            || begins(&ACCOUNT_MESSAGES)
            || (!is_permission && self.says(&PERMISSION));
        is_refused.then_some(Failure::Unauthorized)
    }

    /// A filter stopped the request, or what it generated. Where that is not said it was the request.
    pub(in crate::upstream) fn filtered(&self) -> Option<FilterTarget> {
        let message = self.message.to_lowercase();
        if !self.says(&FILTER)
            && !FILTER_MESSAGES
                .iter()
                .any(|phrase| message.contains(phrase))
        {
            return None;
        }
        let is_of_output = |text: &str| {
            ["output", "completion", "generated"]
                .iter()
                .any(|word| text.contains(word))
        };
        // Azure says of a prompt that "the response was filtered due to the prompt".
        let of_prompt = ["prompt", "input"]
            .iter()
            .any(|word| message.contains(word));
        let of_response = !of_prompt && message.contains("response");
        let says_output = self.words.iter().any(|word| is_of_output(word))
            || is_of_output(&message)
            || of_response;
        Some(if says_output {
            FilterTarget::Output
        } else {
            FilterTarget::Prompt
        })
    }

    /// It comes after the work: the answer reached its cap, or could not be used.
    pub(in crate::upstream) fn is_late(&self) -> bool {
        let message = self.message.to_lowercase();
        let reached = message.contains("output limit was reached")
            || (message.contains("tokens") && message.contains("was reached"))
            || message.starts_with("could not finish the message");
        self.has_generation || self.says(&LATE) || reached
    }

    /// The operator's base URL is at fault: the server knows no such path.
    pub(in crate::upstream) fn is_about_the_path(&self) -> bool {
        let message = self.message.to_lowercase();
        let begins = [
            "invalid url",
            "404",
            "cannot post",
            "no route",
            "unexpected endpoint",
            "unknown request url",
        ];
        let plain = message.trim_end_matches(['.', '!']);
        let whole = [
            "not found",
            "resource not found",
            "file not found",
            "page not found",
            "path not found",
        ];
        begins.iter().any(|start| message.starts_with(start)) || whole.contains(&plain)
    }

    /// The server has no such model, or not for this key.
    pub(in crate::upstream) fn is_about_the_model(&self) -> bool {
        let message = self.message.to_lowercase();
        let begins = |starts: &[&str]| starts.iter().any(|start| message.starts_with(start));
        let is_missing = begins(&["the model ", "model "])
            && ["does not exist", "not found", "decommissioned", "no access"]
                .iter()
                .any(|phrase| message.contains(phrase));
        let is_out = |word: &String| word == "invalid_model_output";
        let says = self.says(&MODEL) && !self.words.iter().any(is_out);
        says || is_missing
            || begins(&MODEL_MESSAGES)
            || message.ends_with("is not a valid model id")
    }

    /// It refuses a member of the request by name, as one that it does not know.
    pub(in crate::upstream) fn refuses(&self, member: &str) -> bool {
        let message = self.message.to_lowercase();
        let names = |text: &str| {
            let is_of_name = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
            text.split(|letter| !is_of_name(letter))
                .any(|word| word == member)
        };
        let unknown = [
            "not support",
            "unsupported",
            "unrecognized",
            "unknown",
            "unexpected",
            "permitted",
            "forbidden",
        ];
        let is_unknown = |text: &str| unknown.iter().any(|word| text.contains(word));
        let is_named = names(&message) || self.param.as_deref().is_some_and(names);
        is_named && (is_unknown(&message) || self.words.iter().any(|word| is_unknown(word)))
    }

    fn says(&self, known: &[&str]) -> bool {
        self.words
            .iter()
            .any(|word| known.iter().any(|part| word.contains(part)))
    }
}
