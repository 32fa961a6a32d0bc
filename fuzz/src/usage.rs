//! A whole answer, and what is charged for it: never negative, never above the hold unless it is flagged, and exactly what
//! the answer says.

use std::sync::LazyLock;

use tollgate::ledger::{Charge, charge};
use tollgate::meter::measure_json;
use tollgate::plan::{Amounts, Ask, Hold};
use tollgate::price::{Price, PriceTable, Tokenizer, Usage};

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
        let Some((_, price)) = PRICES.resolve(name) else { continue };
        let (input, output) = (dice.below(300_000), u32::try_from(dice.below(2000)).expect("small"));
        let ask = Ask { price: price.clone(), input_tokens: input, output_cap: output, output_floor: 1, choices: 1 };
        let hold = Hold { output_cap: output, amounts: ask.amounts(output) };
        let guess = Usage { input_tokens: dice.below(400_000), output_tokens: dice.below(4000), ..Usage::default() };
        for estimate in [None, Some(guess)] {
            charged(price, &hold, measured.usage, estimate);
        }
    }
}

fn as_reported(said: &Json, usage: &Usage) {
    let said = said.get("usage").expect("usage comes from somewhere");
    let count = |value: Option<&Json>| value.and_then(Json::whole).unwrap_or(0);
    assert_eq!(i128::from(usage.input_tokens), count(said.get("prompt_tokens")));
    assert_eq!(i128::from(usage.output_tokens), count(said.get("completion_tokens")));
    let cached = count(said.get("prompt_tokens_details").and_then(|details| details.get("cached_tokens")));
    let believed = if cached > i128::from(usage.input_tokens) { 0 } else { cached };
    assert_eq!(i128::from(usage.cached_input_tokens), believed);
    assert!(usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens);
}

fn charged(price: &Price, hold: &Hold, reported: Option<Usage>, estimate: Option<Usage>) {
    assert!(price.tokenizer != Tokenizer::Unknown, "a shipped model has a tokenizer");
    let settlement = charge(price, (hold, 1), reported, estimate);
    let Amounts { tokens, cost: held, .. } = hold.amounts;
    match settlement.charge {
        Charge::Settled { usage, cost } => {
            assert!(cost.0 >= 0);
            let used = i64::try_from(usage.input_tokens + usage.output_tokens).expect("few");
            let flagged = settlement.flags.contains(&"overrun");
            let above_cap = reported.is_some() && usage.output_tokens > u64::from(hold.output_cap);
            assert_eq!(flagged, cost.0 > held || used > tokens || above_cap, "above the hold or the cap means flagged");
            assert!(!flagged || reported.is_some(), "an estimate is never above the hold");
            assert_eq!(settlement.flags.contains(&"estimated"), reported.is_none());
        }
        Charge::WholeHold => assert!(reported.is_none() && estimate.is_none()),
        other => panic!("an answer ends as {other:?}"),
    }
}
