//! Errors of many servers, and what is read in them.

use super::*;
use crate::upstream::health::Failure;

fn read(body: &str) -> ErrorBody {
    ErrorBody::parse(body.as_bytes(), false).unwrap_or_else(|| panic!("{body}"))
}

#[test]
fn an_error_is_read_in_every_shape() {
    for body in [
        r#"{"error":{"message":"Too long.","type":"t","code":"c","param":null}}"#,
        r#"[{"error":{"code":400,"message":"Too long.","status":"INVALID_ARGUMENT"}}]"#,
        r#"{"object":"error","message":"Too long.","type":"BadRequestError","param":null,"code":400}"#,
        r#"{"detail":"Too long."}"#,
        r#"{"detail":[{"loc":["body","messages"],"msg":"Too long.","type":"value_error","input":{"message":"x"}}]}"#,
        r#"{"message":{"detail":[{"msg":"Too long."}]}}"#,
        r#"{"detail":{"error":"Too long."}}"#,
        r#"{"error":"Too long."}"#,
        r#"{"code":"Client specified an invalid argument","error":"Too long."}"#,
        r#"{"error":"Too long.","error_type":"validation"}"#,
        r#"{"statusCode":400,"error":"Bad Request","message":"Too long."}"#,
        r#"{"type":"error","error":{"type":"invalid_request_error","message":"Too long."}}"#,
        r#"{"success":false,"errors":[{"code":7003,"message":"Too long."}]}"#,
        r#"{"__type":"ValidationException","Message":"Too long."}"#,
        r#"{"fault":{"faultstring":"Too long.","detail":{"errorcode":"x"}}}"#,
        r#"{"title":"Bad Request","status":400,"detail":"Too long."}"#,
        r#"{"error":{"message":"Provider returned error","metadata":{"raw":"{\"error\":{\"message\":\"Too long.\"}}"}}}"#,
        r#"{"error":{"message":"{\"error\":{\"message\":\"Too long.\"}}"}}"#,
        r#""Too long.""#,
        "data: {\"error\":{\"message\":\"Too long.\"}}\n\n",
        "event: error\ndata: {\"error\":{\"message\":\"Too long.\"}}\n\n",
    ] {
        assert_eq!(read(body).message, "Too long.", "{body}");
    }
    let deep = format!("{}1{}", "[".repeat(100), "]".repeat(100));
    for body in [
        "",
        "nothing",
        "<html>",
        "7",
        "null",
        "{}",
        "[]",
        r#"{"error":null}"#,
        &deep,
    ] {
        assert!(ErrorBody::parse(body.as_bytes(), false).is_none(), "{body}");
    }
    assert_eq!(
        ErrorBody::parse(b" missing field `x` ", true)
            .unwrap()
            .message,
        "missing field `x`"
    );
    assert!(ErrorBody::parse(b"<html>x", true).is_none());
    assert_eq!(
        read(r#"{"detail":[{"loc":["body","messages",0,"role"],"msg":"x"}]}"#)
            .param
            .unwrap(),
        "messages[0].role"
    );
}

#[test]
fn what_is_about_the_operators_account_is_known_by_its_words() {
    let google = |reason: &str| {
        format!(
            r#"{{"error":{{"code":400,"message":"Bad.","status":"INVALID_ARGUMENT","details":[{{"@type":"type.googleapis.com/google.rpc.ErrorInfo","reason":"{reason}","domain":"googleapis.com"}}]}}}}"#
        )
    };
    let unauthorized = [
        google("API_KEY_INVALID"),
        format!("[{}]", google("API_KEY_EXPIRED")),
        google("API_KEY_SERVICE_BLOCKED"),
        google("CONSUMER_SUSPENDED"),
        google("SERVICE_DISABLED"),
        r#"{"error":{"message":"x","status":"UNAUTHENTICATED"}}"#.to_owned(),
        r#"{"error":{"message":"User location is not supported for the API use.","status":"FAILED_PRECONDITION"}}"#
            .to_owned(),
        r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: xa***. "}"#
            .to_owned(),
        r#"{"error":{"message":"x","type":"invalid_authentication_error"}}"#.to_owned(),
        r#"{"error":{"message":"x","code":"organization_restricted"}}"#.to_owned(),
    ];
    for body in &unauthorized {
        assert_eq!(
            read(body).account_fault(false),
            Some(Failure::Unauthorized),
            "{body}"
        );
    }
    for body in [
        google("BILLING_DISABLED"),
        r#"{"error":{"message":"Your credit balance is too low to access the API.","type":"invalid_request_error"}}"#.to_owned(),
        r#"{"error":{"message":"x","type":"exceeded_current_quota_error"}}"#.to_owned(),
        r#"{"error":{"message":"Insufficient Balance","code":"invalid_request_error"}}"#.to_owned(),
    ] {
        assert_eq!(read(&body).account_fault(false), Some(Failure::Budget), "{body}");
    }
    // What a user wrote and the provider repeats is no word of its own.
    for body in [
        r#"{"error":{"message":"Invalid 'tools[0].function.name': 'incorrect api key'","type":"invalid_request_error","param":"api_key"}}"#,
        r#"{"detail":[{"loc":["body","x"],"msg":"no","type":"string_type","input":{"code":"invalid_api_key","reason":"API_KEY_INVALID"}}]}"#,
        r#"{"error":{"message":"Quota exceeded.","status":"RESOURCE_EXHAUSTED","details":[{"reason":"RATE_LIMIT_EXCEEDED"}]}}"#,
    ] {
        assert_eq!(read(body).account_fault(false), None, "{body}");
    }
    let no_permission = read(
        r#"{"error":{"message":"No permission for this model.","status":"PERMISSION_DENIED"}}"#,
    );
    assert_eq!(
        (
            no_permission.account_fault(true),
            no_permission.account_fault(false)
        ),
        (None, Some(Failure::Unauthorized))
    );
}

#[test]
fn a_filter_is_known_and_what_it_stopped() {
    for (body, stopped) in [
        (
            r#"{"error":{"message":"The response was filtered due to the prompt triggering Azure OpenAI's content management policy. Please modify your prompt and retry.","type":null,"param":"prompt","code":"content_filter","status":400,"innererror":{"code":"ResponsibleAIPolicyViolation","content_filter_result":{"hate":{"filtered":true,"severity":"high"}}}}}"#,
            FilterTarget::Prompt,
        ),
        (
            r#"{"error":{"message":"x","innererror":{"code":"ResponsibleAIPolicyViolation"}}}"#,
            FilterTarget::Prompt,
        ),
        (
            r#"{"error":{"message":"x","code":"content_filter","content_filters":[{"blocked":false,"source_type":"completion"},{"blocked":true,"source_type":"prompt"}]}}"#,
            FilterTarget::Prompt,
        ),
        (
            r#"{"error":{"message":"x","code":"content_filter","content_filters":[{"blocked":true,"source_type":"completion"}]}}"#,
            FilterTarget::Output,
        ),
        (
            r#"{"error":{"message":"Output data may contain inappropriate content.","code":"data_inspection_failed"}}"#,
            FilterTarget::Output,
        ),
        (
            r#"{"error":{"message":"Input data may contain inappropriate content.","code":"data_inspection_failed"}}"#,
            FilterTarget::Prompt,
        ),
        (
            r#"{"error":{"message":"The generated text was stopped.","code":"content_filter"}}"#,
            FilterTarget::Output,
        ),
        (
            r#"{"error":{"message":"The response was filtered.","code":"content_filter"}}"#,
            FilterTarget::Output,
        ),
        (
            r#"{"error":{"message":"Content Exists Risk","type":"invalid_request_error"}}"#,
            FilterTarget::Prompt,
        ),
        (
            r#"{"error":{"message":"The request was rejected because it was considered high risk","type":"content_filter"}}"#,
            FilterTarget::Prompt,
        ),
        (
            r#"{"code":"The caller does not have permission","error":"Content violates usage guidelines. Failed check: X"}"#,
            FilterTarget::Prompt,
        ),
        (
            r#"{"error":{"code":403,"message":"The model requires moderation and your input was flagged","metadata":{"reasons":["violence"]}}}"#,
            FilterTarget::Prompt,
        ),
    ] {
        assert_eq!(read(body).filtered(), Some(stopped), "{body}");
    }
    let about_the_request = r#"{"error":{"message":"This model's maximum context length is 8192 tokens.","type":"invalid_request_error","code":"context_length_exceeded"}}"#;
    assert_eq!(read(about_the_request).filtered(), None);
}

#[test]
fn what_comes_after_the_work_is_told_from_what_comes_before() {
    for body in [
        r#"{"error":{"message":"Could not finish the message because max_tokens or model output limit was reached. Please try again with higher max_tokens.","type":"invalid_request_error"}}"#,
        r#"{"error":{"message":"max_tokens of 20 was reached.","type":"x"}}"#,
        r#"{"error":{"message":"Failed to call a function.","type":"invalid_request_error","code":"tool_use_failed","failed_generation":"<f>"}}"#,
        r#"{"error":{"message":"x","code":"json_validate_failed"}}"#,
        r#"{"error":{"message":"x","failed_generation":""}}"#,
    ] {
        assert!(read(body).is_late(), "{body}");
    }
    for body in [
        r#"{"error":{"message":"max_tokens is too large: 999999. This model supports at most 16384 completion tokens.","code":"invalid_value"}}"#,
        r#"{"error":{"message":"This model's maximum context length is 8192 tokens. However, you requested 9000.","code":"context_length_exceeded"}}"#,
    ] {
        assert!(!read(body).is_late(), "{body}");
    }
}

#[test]
fn a_member_that_the_server_does_not_know_is_named() {
    for body in [
        r#"{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted","input":{}}]}"#,
        r#"{"message":{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"x"}]}}"#,
        r#"{"error":{"message":"Unrecognized request argument supplied: stream_options"}}"#,
        r#"{"error":{"message":"Unsupported parameter.","param":"stream_options.include_usage"}}"#,
        r#"{"error":{"message":"json: unknown field \"stream_options\""}}"#,
    ] {
        assert!(read(body).refuses("stream_options"), "{body}");
    }
    let instead = r#"{"error":{"message":"Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead.","param":"max_tokens"}}"#;
    assert!(read(instead).refuses("max_tokens"));
    let range = r#"{"error":{"message":"max_tokens is too large: 5000.","param":"max_tokens","code":"invalid_value"}}"#;
    assert!(!read(range).refuses("max_tokens"));
}

#[test]
fn a_wait_is_read_to_the_part_of_a_second() {
    let wait = |delay: &str| {
        read(&format!(
            r#"{{"error":{{"message":"x","details":[{{"retryDelay":{delay}}}]}}}}"#
        ))
        .retry_after
    };
    assert_eq!(wait("\"39.2s\""), Some(Duration::from_millis(39_200)));
    assert_eq!(
        wait(r#"{"seconds":3,"nanos":500000000}"#),
        Some(Duration::from_millis(3_500))
    );
    assert_eq!((wait("\"soon\""), wait("7")), (None, None));
    assert_eq!(seconds("1.9"), Some(Duration::from_millis(1_900)));
    assert_eq!(
        seconds("0.1234567891"),
        Some(Duration::from_nanos(123_456_789))
    );
    for odd in [
        "",
        ".",
        "1.",
        ".5",
        "-1",
        "1.9.3",
        "1e3",
        "99999999999999999999999",
    ] {
        assert_eq!(seconds(odd), None, "{odd}");
    }
}

#[test]
fn a_success_that_is_an_error_is_known() {
    for body in [
        r#"{"error":{"message":"x","code":429}}"#,
        r#"{"error":"x"}"#,
        r#"[{"error":{"message":"x"}}]"#,
        r#"{"object":"error","message":"x"}"#,
        r#"{"type":"error","error":{"type":"overloaded_error","message":"x"}}"#,
        r#"{"message":"x","code":"y"}"#,
        r#"{"choices":[],"error":{"message":"x"}}"#,
        r#"{"choices":null,"usage":null,"error":{"message":"x"}}"#,
    ] {
        assert!(ErrorBody::in_success(body.as_bytes()).is_some(), "{body}");
    }
    for body in [
        "{}",
        "[]",
        "x",
        r#"{"error":null}"#,
        r#"{"error":""}"#,
        r#"{"error":false}"#,
        r#"{"message":"x"}"#,
        r#"{"error":{"message":"x"},"choices":[{"index":0}]}"#,
        r#"{"error":{"message":"x"},"usage":{"prompt_tokens":1}}"#,
    ] {
        assert!(ErrorBody::in_success(body.as_bytes()).is_none(), "{body}");
    }
}
