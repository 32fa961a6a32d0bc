//! A whole answer, and what is charged for it: never negative, never above the hold unless it is flagged, and exactly what
//! the answer says.

use std::sync::LazyLock;

use tollgate::ledger::{Charge, Flag, charge};
use tollgate::meter::measure_json;
use tollgate::model::Tokenizer;
use tollgate::plan::{Amounts, Hold, Quote};
use tollgate::price::{Price, PriceTable, Usage};

use super::Dice;
use super::json::Json;

static PRICES: LazyLock<PriceTable> = LazyLock::new(PriceTable::shipped);

/// Tries an answer.
///
/// # Panics
/// It breaks a promise.
pub fn check(body: &[u8]) {
    let measured = measure_json(body);
    if let (Some(said), Some(usage)) = (Json::read(body), measured.usage) {
        as_reported(&said, &usage);
    }
    let mut dice = Dice::of(body);
    for name in ["gpt-4o-mini", "gpt-5.4", "gpt-3.5-turbo"] {
        let Some((_, price)) = PRICES.resolve(name) else {
            continue;
        };
        let (input, output) = (
            dice.below(300_000),
            u32::try_from(dice.below(2000)).expect("small"),
        );
        let quote = Quote {
            price: price.clone(),
            base: Usage::of_input(input),
            output_cap: output,
            output_floor: 1,
            choices: 1,
        };
        let hold = quote.hold(output);
        let guess = Usage {
            input_tokens: dice.below(400_000),
            output_tokens: dice.below(4000),
            ..Usage::default()
        };
        for estimate in [None, Some(guess)] {
            charged(price, &hold, measured.usage, estimate);
        }
    }
}

/// By the plain names exactly as it says, and by none less.
fn as_reported(said: &Json, usage: &Usage) {
    let Some(said) = said.get("usage") else {
        return;
    };
    let count = |value: Option<&Json>| {
        value
            .and_then(Json::whole)
            .filter(|count| (0..=10_000_000).contains(count))
            .unwrap_or(0)
    };
    let prompt = count(said.get("prompt_tokens"));
    let completion = count(said.get("completion_tokens"));
    assert!(
        i128::from(usage.input_tokens) >= prompt && i128::from(usage.output_tokens) >= completion
    );
    assert!(usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens);
    assert!(usage.reasoning_tokens <= usage.output_tokens);
    let once = |json: &Json| {
        let names = json.members().iter().map(|(name, _)| name);
        names
            .clone()
            .collect::<std::collections::BTreeSet<_>>()
            .len()
            == names.count()
    };
    let details = said.get("prompt_tokens_details");
    let names = [
        "prompt_tokens",
        "completion_tokens",
        "prompt_tokens_details",
    ];
    let is_plain = said
        .members()
        .iter()
        .all(|(name, _)| names.contains(&name.as_str()))
        && once(said);
    let is_plain = is_plain
        && details.is_none_or(|details| {
            once(details)
                && details
                    .members()
                    .iter()
                    .all(|(name, _)| name == "cached_tokens")
        });
    if is_plain && prompt > 0 && completion > 0 {
        assert_eq!(
            (
                i128::from(usage.input_tokens),
                i128::from(usage.output_tokens)
            ),
            (prompt, completion)
        );
        let cached = count(details.and_then(|details| details.get("cached_tokens")));
        // One written as a text is one.
        let is_number = details
            .and_then(|details| details.get("cached_tokens"))
            .is_none_or(|cached| cached.number().is_some());
        let believed = if cached > prompt { 0 } else { cached };
        assert!(!is_number || i128::from(usage.cached_input_tokens) == believed || cached == 0);
    }
}

fn charged(price: &Price, hold: &Hold, reported: Option<Usage>, estimate: Option<Usage>) {
    assert!(
        price.tokenizer != Tokenizer::Unknown,
        "a shipped model has a tokenizer"
    );
    let settlement = charge(price, (hold, 1), reported, estimate);
    let Amounts {
        tokens, cost: held, ..
    } = hold.amounts;
    match settlement.charge {
        Charge::Settled { usage, cost } => {
            assert!(cost.0 >= 0);
            let used = i64::try_from(usage.input_tokens + usage.output_tokens).expect("few");
            let flagged = settlement.flags.contains(&Flag::Overrun);
            let above_cap = reported.is_some() && usage.output_tokens > u64::from(hold.output_cap);
            assert_eq!(
                flagged,
                cost.0 > held || used > tokens || above_cap,
                "above the hold or the cap means flagged"
            );
            assert!(
                !flagged || reported.is_some(),
                "an estimate is never above the hold"
            );
            assert_eq!(
                settlement.flags.contains(&Flag::Estimated),
                reported.is_none()
            );
        }
        Charge::WholeHold => assert!(reported.is_none() && estimate.is_none()),
        other => panic!("an answer ends as {other:?}"),
    }
}
