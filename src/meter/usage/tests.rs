use proptest::prelude::*;
use serde_json::{Value, json};

use super::Place::{AtTheEnd, OfAll, Running};
use super::*;

fn raw(json: &str) -> Box<RawValue> {
    RawValue::from_string(json.to_owned()).unwrap()
}

fn judged(told: &[(Place, u64)]) -> (Option<u64>, bool) {
    let mut reports = Reports::default();
    for (place, tokens) in told {
        reports.note(
            &raw(&format!(
                "{{\"prompt_tokens\":3,\"completion_tokens\":{tokens}}}"
            )),
            *place,
        );
    }
    let judged = reports.judged(false, true);
    (
        judged.usage.map(|usage| usage.output_tokens),
        judged.nonsense,
    )
}

#[test]
fn reports_that_grow_are_right_and_one_that_shrinks_is_not() {
    let cases: [(&[(Place, u64)], _); 9] = [
        (&[], (None, false)),
        (&[(Running, 1), (Running, 2)], (None, false)),
        (
            &[(Running, 1), (Running, 2), (AtTheEnd, 3), (OfAll, 3)],
            (Some(3), false),
        ),
        (&[(OfAll, 4), (OfAll, 40)], (Some(40), false)),
        (&[(OfAll, 40), (OfAll, 4)], (Some(40), true)),
        (&[(OfAll, 40), (OfAll, 4), (OfAll, 40)], (Some(40), true)),
        (&[(Running, 40), (OfAll, 4)], (Some(40), true)),
        (&[(Running, 40), (AtTheEnd, 4)], (Some(40), true)),
        // Of two choices, each with what was used for itself, and at last for both.
        (
            &[
                (Running, 1),
                (Running, 5),
                (Running, 2),
                (AtTheEnd, 3),
                (OfAll, 8),
            ],
            (Some(8), false),
        ),
    ];
    for (told, wanted) in cases {
        assert_eq!(judged(told), wanted, "{told:?}");
    }
}

#[test]
fn of_what_came_from_the_cache_the_least_counts_once_it_shrinks() {
    let cached = |told: &[u64]| {
        let mut reports = Reports::default();
        for cached in told {
            let details = format!(r#""prompt_tokens_details":{{"cached_tokens":{cached}}}"#);
            reports.note(
                &raw(&format!(
                    r#"{{"prompt_tokens":9,"completion_tokens":1,{details}}}"#
                )),
                OfAll,
            );
        }
        let judged = reports.judged(false, true);
        (judged.usage.unwrap().cached_input_tokens, judged.nonsense)
    };
    for (told, wanted) in [
        (&[8][..], (8, false)),
        (&[0, 8], (8, false)),
        (&[8, 0], (0, true)),
        (&[8, 4, 6], (4, true)),
        (&[0, 8, 4], (0, true)),
        (&[10], (0, true)),
    ] {
        assert_eq!(cached(told), wanted, "{told:?}");
    }
}

/// Prompt, cached, written to the cache, output, reasoning; and whether it is flagged.
type Read = (u64, u64, u64, u64, u64, bool);

/// A report as the only one of an answer with text.
fn read(report: &str) -> UsageVerdict {
    let mut reports = Reports::default();
    reports.note(&raw(report), OfAll);
    reports.judged(true, true)
}

fn whole(report: &str) -> Option<Read> {
    let UsageVerdict {
        usage, nonsense, ..
    } = read(report);
    let usage = usage?;
    let Usage {
        input_tokens,
        cached_input_tokens,
        cache_write_tokens,
        output_tokens,
        reasoning_tokens,
        ..
    } = usage;
    Some((
        input_tokens,
        cached_input_tokens,
        cache_write_tokens,
        output_tokens,
        reasoning_tokens,
        nonsense,
    ))
}

#[test]
fn what_came_from_the_cache_is_cached_by_any_name_and_once() {
    let beside = [
        r#""prompt_tokens_details":{"cached_tokens":900}"#,
        r#""input_tokens_details":{"cached_tokens":900}"#,
        r#""prompt_tokens_details":{"cache_read_tokens":900}"#,
        r#""prompt_cache_hit_tokens":900,"prompt_cache_miss_tokens":100"#,
        r#""prompt_cache_hit_tokens":900"#,
        r#""cached_tokens":900"#,
        r#""cached_tokens":900.0,"prompt_tokens_details":null"#,
        r#""cache_read_input_tokens":900"#,
        r#""cached_content_token_count":900"#,
        r#""num_cached_tokens":900.0"#,
        r#""prompt_tokens_details":{"cached_tokens":900},"prompt_cache_hit_tokens":900,"cached_tokens":900"#,
        r#""prompt_tokens_details":{"cached_tokens":900},"cached_tokens":950"#,
        r#""cached_tokens":950,"prompt_cache_hit_tokens":900"#,
    ];
    for more in beside {
        for (prompt, completion) in [
            ("prompt_tokens", "completion_tokens"),
            ("prompt_token_count", "candidates_token_count"),
        ] {
            let report =
                format!(r#"{{"{prompt}":1000,{more},"{completion}":10,"total_tokens":1010}}"#);
            assert_eq!(
                whole(&report),
                Some((1000, 900, 0, 10, 0, false)),
                "{report}"
            );
        }
    }
    let nested_wins = r#"{"prompt_tokens":1000,"completion_tokens":10,"prompt_tokens_details":{"cached_tokens":0},"cached_tokens":900}"#;
    assert_eq!(whole(nested_wins), Some((1000, 0, 0, 10, 0, false)));
}

#[test]
fn anthropics_prompt_is_without_what_the_cache_did() {
    let cases: [(&str, Read); 7] = [
        (
            r#"{"input_tokens":100,"cache_read_input_tokens":900,"output_tokens":10}"#,
            (1000, 900, 0, 10, 0, false),
        ),
        (
            r#"{"input_tokens":100,"cache_read_input_tokens":600,"cache_creation_input_tokens":300,"output_tokens":10}"#,
            (1000, 600, 300, 10, 0, false),
        ),
        (
            r#"{"input_tokens":1000,"cache_read_input_tokens":900,"output_tokens":10,"total_tokens":1010}"#,
            (1000, 900, 0, 10, 0, false),
        ),
        (
            r#"{"prompt_tokens":100,"cache_read_input_tokens":50,"completion_tokens":10,"total_tokens":160}"#,
            (150, 50, 0, 10, 0, false),
        ),
        (
            r#"{"prompt_tokens":100,"cache_read_input_tokens":900,"completion_tokens":10}"#,
            (1000, 900, 0, 10, 0, false),
        ),
        (
            r#"{"prompt_tokens":1000,"input_tokens":100,"cache_read_input_tokens":900,"completion_tokens":10}"#,
            (1000, 900, 0, 10, 0, false),
        ),
        (
            r#"{"prompt_tokens":1000,"prompt_tokens_details":{"cached_tokens":900},"cache_read_input_tokens":900,
               "cache_creation_input_tokens":50,"completion_tokens":10}"#,
            (1000, 900, 50, 10, 0, false),
        ),
    ];
    for (report, wanted) in cases {
        assert_eq!(whole(report), Some(wanted), "{report}");
    }
}

#[test]
fn reasoning_beside_the_output_is_output_when_the_total_says_so() {
    let reasoning = r#""completion_tokens_details":{"reasoning_tokens":80}"#;
    let cases: [(String, Read); 10] = [
        // Within, as OpenAI counts.
        (format!(r#"{{"prompt_tokens":10,"completion_tokens":100,{reasoning}}}"#), (10, 0, 0, 100, 80, false)),
        (
            format!(r#"{{"prompt_tokens":10,"completion_tokens":100,"total_tokens":110,{reasoning}}}"#),
            (10, 0, 0, 100, 80, false),
        ),
        // Beside, as xAI does.
        (
            format!(r#"{{"prompt_tokens":10,"completion_tokens":100,"total_tokens":190,{reasoning}}}"#),
            (10, 0, 0, 180, 80, false),
        ),
        (
            format!(r#"{{"prompt_tokens":10,"completion_tokens":0,"total_tokens":90,{reasoning}}}"#),
            (10, 0, 0, 80, 80, false),
        ),
        // What the total has and nobody names, as of Gemini.
        (r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":95}"#.to_owned(), (10, 0, 0, 85, 80, false)),
        (
            r#"{"prompt_token_count":10,"candidates_token_count":5,"thoughts_token_count":80,"total_token_count":95}"#
                .to_owned(),
            (10, 0, 0, 85, 80, false),
        ),
        // More than the output cannot be within it.
        (format!(r#"{{"prompt_tokens":10,"completion_tokens":5,{reasoning}}}"#), (10, 0, 0, 85, 80, false)),
        (
            format!(r#"{{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15,{reasoning}}}"#),
            (10, 0, 0, 85, 80, true),
        ),
        (
            format!(r#"{{"prompt_tokens":10,"completion_tokens":5,"total_tokens":22,{reasoning}}}"#),
            (10, 0, 0, 85, 80, true),
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":100,"reasoning_tokens":80,"total_tokens":190}"#.to_owned(),
            (10, 0, 0, 180, 80, false),
        ),
    ];
    for (report, wanted) in cases {
        assert_eq!(whole(&report), Some(wanted), "{report}");
    }
}

#[test]
fn a_report_that_does_not_add_up_is_flagged_and_not_cheaper() {
    let cases: [(&str, Read); 9] = [
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":12}"#,
            (10, 0, 0, 5, 0, true),
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":-15}"#,
            (10, 0, 0, 5, 0, true),
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":0}"#,
            (10, 0, 0, 5, 0, true),
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"total_tokens":15.5}"#,
            (10, 0, 0, 5, 0, true),
        ),
        (
            r#"{"prompt_tokens":10,"prompt_tokens":12,"completion_tokens":5}"#,
            (12, 0, 0, 5, 0, true),
        ),
        (
            r#"{"prompt_tokens":10,"input_tokens":0,"completion_tokens":5,"output_tokens":0}"#,
            (10, 0, 0, 5, 0, false),
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":11}}"#,
            (10, 0, 0, 5, 0, true),
        ),
        (
            r#"{"prompt_tokens":10,"completion_tokens":5,"prompt_tokens_details":{"cached_tokens":-1}}"#,
            (10, 0, 0, 5, 0, true),
        ),
        (
            r#"{"prompt_tokens":10,"prompt_cache_hit_tokens":8,"prompt_cache_miss_tokens":8,"completion_tokens":5}"#,
            (16, 8, 0, 5, 0, true),
        ),
    ];
    for (report, wanted) in cases {
        assert_eq!(whole(report), Some(wanted), "{report}");
    }
    for (number, flagged) in [
        ("13", false),
        ("13.0", false),
        ("1.3e1", false),
        ("\"13\"", true),
        ("\"13.0\"", true),
    ] {
        let report = format!(
            r#"{{"prompt_tokens":{number},"completion_tokens":{number},"total_tokens":26}}"#
        );
        assert_eq!(whole(&report), Some((13, 0, 0, 13, 0, flagged)), "{report}");
    }
}

#[test]
#[allow(clippy::too_many_lines, reason = "one table of cases")]
fn a_part_that_cannot_be_right_is_estimated_alone() {
    let estimate = Usage {
        input_tokens: 40,
        output_tokens: 7,
        ..Usage::default()
    };
    // Prompt, cached and output, and whether the output was reported.
    let cases = [
        (
            r#"{"prompt_tokens":0,"completion_tokens":300}"#,
            (40, 0, 300, true),
        ),
        (
            r#"{"prompt_tokens":0,"completion_tokens":300,"total_tokens":300}"#,
            (40, 0, 300, true),
        ),
        (r#"{"completion_tokens":300}"#, (40, 0, 300, true)),
        (
            r#"{"prompt_tokens":null,"completion_tokens":300}"#,
            (40, 0, 300, true),
        ),
        (
            r#"{"prompt_tokens":-5,"completion_tokens":300}"#,
            (40, 0, 300, true),
        ),
        (
            r#"{"prompt_tokens":1.5,"completion_tokens":300}"#,
            (40, 0, 300, true),
        ),
        (
            r#"{"prompt_tokens":10000001,"completion_tokens":300}"#,
            (40, 0, 300, true),
        ),
        (
            r#"{"prompt_tokens":30,"completion_tokens":0}"#,
            (30, 0, 7, false),
        ),
        (
            r#"{"prompt_tokens":30,"prompt_tokens_details":{"cached_tokens":20}}"#,
            (30, 20, 7, false),
        ),
        (
            r#"{"prompt_tokens":30,"completion_tokens":1e300}"#,
            (30, 0, 7, false),
        ),
        (
            r#"{"prompt_tokens":30,"completion_tokens":18446744073709551616}"#,
            (30, 0, 7, false),
        ),
    ];
    for (report, wanted) in cases {
        let UsageVerdict {
            usage,
            partial,
            nonsense,
            ..
        } = read(report);
        assert_eq!((usage, nonsense), (None, true), "{report}");
        let partial = partial.expect(report);
        let Usage {
            input_tokens,
            cached_input_tokens,
            output_tokens,
            ..
        } = partial.completed_by(&estimate);
        assert_eq!(
            (
                input_tokens,
                cached_input_tokens,
                output_tokens,
                partial.knows_output()
            ),
            wanted,
            "{report}"
        );
    }
    // The total says what is missing.
    assert_eq!(
        whole(r#"{"completion_tokens":300,"total_tokens":1300}"#),
        Some((1000, 0, 0, 300, 0, true))
    );
    assert_eq!(
        whole(r#"{"prompt_tokens":1000,"total_tokens":1300}"#),
        Some((1000, 0, 0, 300, 0, true))
    );
    for nothing in [
        "{}",
        "[1,1]",
        "\"none\"",
        r#"{"prompt_tokens":0,"completion_tokens":0}"#,
        r#"{"total_tokens":7}"#,
    ] {
        let UsageVerdict {
            usage,
            partial,
            nonsense,
            ..
        } = read(nothing);
        assert_eq!((usage, partial, nonsense), (None, None, true), "{nothing}");
    }
    // Without any text an output of none is one.
    let mut reports = Reports::default();
    reports.note(
        &raw(r#"{"prompt_tokens":30,"completion_tokens":0,"total_tokens":30}"#),
        OfAll,
    );
    let UsageVerdict {
        usage, nonsense, ..
    } = reports.judged(true, false);
    assert_eq!((usage.unwrap().output_tokens, nonsense), (0, false));
}

#[test]
fn a_prompt_told_at_first_and_an_output_at_last_are_one_report() {
    let mut reports = Reports::default();
    reports.note(
        &raw(r#"{"prompt_tokens":30,"completion_tokens":0,"cached_tokens":20}"#),
        Running,
    );
    reports.note(&raw(r#"{"completion_tokens":9}"#), OfAll);
    let UsageVerdict {
        usage, nonsense, ..
    } = reports.judged(true, true);
    let usage = usage.unwrap();
    assert_eq!(
        (
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.output_tokens,
            nonsense
        ),
        (30, 20, 9, false)
    );
}

fn count() -> impl Strategy<Value = Value> {
    prop_oneof![
        6 => (0_u64..2000).prop_map(Value::from),
        1 => (0_u64..2000).prop_map(|count| json!(count.to_string())),
        1 => any::<f64>().prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => Just(Value::Null),
        1 => Just(json!([1])),
    ]
}

fn report() -> impl Strategy<Value = String> {
    let names = [
        "prompt_tokens",
        "completion_tokens",
        "total_tokens",
        "input_tokens",
        "output_tokens",
        "cached_tokens",
        "prompt_cache_hit_tokens",
        "prompt_cache_miss_tokens",
        "cache_read_input_tokens",
        "cache_creation_input_tokens",
        "reasoning_tokens",
        "x",
    ];
    let details = prop::collection::vec(
        (
            prop::sample::select(vec![
                "cached_tokens",
                "cache_write_tokens",
                "reasoning_tokens",
                "x",
            ]),
            count(),
        ),
        0..3,
    );
    let members = prop::collection::vec((prop::sample::select(names.to_vec()), count()), 0..7);
    (members, details).prop_map(|(members, details)| {
        let write = |members: Vec<(&str, Value)>| {
            let members: Vec<_> = members
                .into_iter()
                .map(|(name, value)| format!("\"{name}\":{value}"))
                .collect();
            format!("{{{}}}", members.join(","))
        };
        let rest = write(members);
        let comma = if rest == "{}" { "" } else { "," };
        format!(
            "{{\"prompt_tokens_details\":{}{comma}{}",
            write(details),
            rest.trim_start_matches('{')
        )
    })
}

proptest! {
    /// Whatever is reported: no part is more than its whole, and none is less than it was said to be.
    #[test]
    fn any_report_is_read_within_reason(report in report()) {
        let judged = read(&report);
        let said: Value = serde_json::from_str(&report).unwrap();
        let plain = |name: &str| said[name].as_u64().filter(|count| *count <= 10_000_000).unwrap_or(0);
        if let Some(usage) = judged.usage {
            prop_assert!(usage.input_tokens > 0 && usage.output_tokens > 0);
            prop_assert!(usage.cached_input_tokens.saturating_add(usage.cache_write_tokens) <= usage.input_tokens);
            prop_assert!(usage.reasoning_tokens <= usage.output_tokens);
            prop_assert!(usage.input_tokens >= plain("prompt_tokens").max(plain("input_tokens")));
            prop_assert!(usage.output_tokens >= plain("completion_tokens").max(plain("output_tokens")));
            let total = said["total_tokens"].as_u64().filter(|total| *total <= 20_000_000).unwrap_or(0);
            prop_assert!(usage.input_tokens.saturating_add(usage.output_tokens) >= total, "the total among it");
        }
        if let Some(partial) = judged.partial {
            prop_assert!(judged.nonsense && judged.usage.is_none());
            let estimate = Usage { input_tokens: 5, output_tokens: 5, ..Usage::default() };
            let usage = partial.completed_by(&estimate);
            prop_assert!(usage.input_tokens > 0 && usage.output_tokens > 0);
            prop_assert!(usage.cached_input_tokens.saturating_add(usage.cache_write_tokens) <= usage.input_tokens);
            prop_assert!(usage.output_tokens >= partial.reported().output_tokens);
        }
    }
}
