#![allow(clippy::arithmetic_side_effects, reason = "small numbers, in tests")]

use proptest::prelude::*;

use super::table::SHIPPED;
use super::*;

fn shipped(name: &str) -> Price {
    PriceTable::shipped()
        .models
        .remove(name)
        .unwrap_or_else(|| panic!("{name} has no price"))
}

#[test]
fn dollars_are_read_exactly_or_refused() {
    assert_eq!(MicroUsd::parse("0.50"), Ok(MicroUsd(500_000)));
    assert_eq!(MicroUsd::parse("12"), Ok(MicroUsd(12_000_000)));
    assert_eq!(MicroUsd::parse("0.000001"), Ok(MicroUsd(1)));
    assert_eq!(
        MicroUsd::parse("1000000000"),
        Ok(MicroUsd(1_000_000_000_000_000))
    );
    assert_eq!(Rate::parse("0.15"), Ok(Rate(150_000)));
    let wrong = [
        "",
        ".",
        "1.",
        ".5",
        "-1",
        "+1",
        "1e3",
        "0.0000001",
        " 1",
        "1,5",
        "1_000",
        "NaN",
        "١",
        "1.2.3",
    ];
    for text in wrong
        .into_iter()
        .chain(["1000000000.000001", "99999999999999999999999"])
    {
        assert!(MicroUsd::parse(text).is_err(), "{text:?} was read");
        assert!(Rate::parse(text).is_err(), "{text:?} was read");
    }
}

#[test]
fn dollars_are_written_with_six_places() {
    assert_eq!(MicroUsd(123).to_string(), "0.000123");
    assert_eq!(MicroUsd(1_500_000).to_string(), "1.500000");
    assert_eq!(MicroUsd(-1).to_string(), "-0.000001");
    assert_eq!(MicroUsd(i64::MIN).to_string(), "-9223372036854.775808");
    assert_eq!(
        MicroUsd(i64::MAX).saturating_add(MicroUsd(1)),
        MicroUsd(i64::MAX)
    );
}

#[test]
fn well_known_prices_are_shipped() {
    // (model, input, cached input, output), micro-dollars a million tokens, as OpenAI publishes them.
    let known = [
        ("gpt-4o-mini", 150_000, 75_000, 600_000),
        ("gpt-4o", 2_500_000, 1_250_000, 10_000_000),
        ("gpt-4o-2024-05-13", 5_000_000, 5_000_000, 15_000_000),
        ("gpt-3.5-turbo", 500_000, 500_000, 1_500_000),
        ("gpt-4", 30_000_000, 30_000_000, 60_000_000),
        ("gpt-4-turbo", 10_000_000, 10_000_000, 30_000_000),
        ("gpt-4.1", 2_000_000, 500_000, 8_000_000),
        ("gpt-4.1-nano", 100_000, 25_000, 400_000),
        ("gpt-5", 1_250_000, 125_000, 10_000_000),
        ("gpt-5-mini", 250_000, 25_000, 2_000_000),
        ("gpt-5-nano", 50_000, 5_000, 400_000),
        ("gpt-5.4-mini", 750_000, 75_000, 4_500_000),
        ("gpt-5.6-luna", 200_000, 20_000, 1_200_000),
        ("gpt-6-luna", 100_000, 10_000, 500_000),
        ("gpt-6-sol", 2_000_000, 200_000, 10_000_000),
        ("gpt-6.1-terra", 1_000_000, 50_000, 5_000_000),
        ("o1", 15_000_000, 7_500_000, 60_000_000),
        ("o3", 2_000_000, 500_000, 8_000_000),
        ("o4-mini", 1_100_000, 275_000, 4_400_000),
    ];
    for (name, input, cached, output) in known {
        let price = shipped(name);
        let rates = price.rates;
        let got = (rates.input.0, rates.cached_input.0, rates.output.0);
        assert_eq!(got, (input, cached, output), "{name}");
    }
    let Rate(write) = shipped("gpt-6-luna").rates.cache_write;
    assert_eq!(write, 125_000);
}

#[test]
fn every_shipped_entry_is_read() {
    let entries: BTreeMap<String, PriceEntry> = toml::from_str(SHIPPED).unwrap();
    assert!(entries.len() > 500, "{}", entries.len());
    for (name, entry) in &entries {
        assert_eq!(Price::try_from(entry.clone()).map(|_| ()), Ok(()), "{name}");
    }
    assert_eq!(PriceTable::shipped().models.len(), entries.len());
}

#[test]
fn hidden_reasoning_and_tokenizers_are_known() {
    use Tokenizer::{Cl100k, O200k, Unknown};
    for (name, tokenizer, reasons) in [
        ("gpt-3.5-turbo", Cl100k, false),
        ("gpt-4", Cl100k, false),
        ("gpt-4-turbo-preview", Cl100k, false),
        ("gpt-4o", O200k, false),
        ("gpt-4o-2024-05-13", O200k, false),
        ("gpt-4.1-mini", O200k, false),
        ("chatgpt-4o-latest", O200k, false),
        ("gpt-5", O200k, true),
        ("gpt-5-chat-latest", O200k, false),
        ("gpt-5.1-codex-mini", O200k, true),
        ("gpt-5.3-chat-latest", O200k, false),
        ("gpt-5.6-luna", O200k, true),
        ("gpt-6-luna", O200k, true),
        ("gpt-6.2-sol", O200k, true),
        ("o1", O200k, true),
        ("o4-mini", O200k, true),
        ("text-embedding-3-small", Cl100k, false),
        ("gemini-2.5-flash", Unknown, true),
        ("gemini-embedding-001", Unknown, false),
        ("claude-sonnet-5", Unknown, true),
        ("grok-4", Unknown, true),
        ("deepseek-chat", Unknown, false),
        ("llama-3.3-70b-versatile", Unknown, false),
        ("google/gemini-2.5-flash", Unknown, true),
    ] {
        let price = shipped(name);
        assert_eq!(
            (price.tokenizer, price.reasoning),
            (tokenizer, reasons),
            "{name}"
        );
    }
    // No model of OpenAI's is without its tokenizer, unless it does not take text alone.
    for (name, price) in PriceTable::shipped().models {
        let is_chat = name.starts_with("gpt-") && !name.contains("image") && !name.contains("oss");
        let has_tokens = price.rates.input.0 > 0;
        assert!(
            !is_chat || !has_tokens || price.tokenizer != Unknown,
            "{name}"
        );
    }
}

#[test]
fn only_the_rows_that_are_meant_are_read_with_their_dated_forms() {
    let names = ["gpt-4o", "gpt-6-luna-2026-10-01", "nobody"]
        .into_iter()
        .collect();
    let table = PriceTable::shipped_for(&names);
    let read: Vec<&str> = table.models.keys().map(String::as_str).collect();
    assert_eq!(read, ["gpt-4o", "gpt-4o-2024-05-13", "gpt-6-luna"]);
    let all = PriceTable::shipped();
    for (name, price) in &table.models {
        assert_eq!(all.models.get(name), Some(price));
    }
    assert!(PriceTable::written_on().is_some());
}

#[test]
fn a_name_resolves_exactly_or_by_its_date_and_by_nothing_else() {
    let table = PriceTable::shipped();
    let canonical = |name: &str| table.resolve(name).map(|(name, _)| name.to_owned());
    assert_eq!(canonical("gpt-4o").as_deref(), Some("gpt-4o"));
    assert_eq!(canonical("gpt-4o-2024-08-06").as_deref(), Some("gpt-4o"));
    assert_eq!(
        canonical("gpt-4o-2024-05-13").as_deref(),
        Some("gpt-4o-2024-05-13")
    );
    // Anthropic's dates have no dashes.
    for (dated, name) in [
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-opus-4-20250514", "claude-opus-4-20250514"),
    ] {
        assert_eq!(canonical(dated).as_deref(), Some(name));
    }
    let strangers = [
        "",
        "claude-sonnet-4-5-20251301",
        "claude-sonnet-4-5-2025092",
        "claude-sonnet-4-5-latest",
        "GPT-4o",
        "gpt-4O",
        "azure/gpt-4o",
        "gpt-4o ",
        "gpt-4o-latest",
        "gpt-4o-2024-13-01",
    ];
    let dates = [
        "gpt-4o-2024-02-30",
        "gpt-4o-20240806",
        "gpt-4o-2024-8-6",
        "-2024-08-06",
        "2024-08-06",
        "gpt-4o-٢٠٢٤-08-06",
    ];
    for name in strangers.into_iter().chain(dates) {
        assert_eq!(canonical(name), None, "{name:?}");
    }
    assert_eq!(canonical(&"gpt-4o".repeat(100)), None);
    let mut long = PriceTable::default();
    long.models.insert("m".repeat(129), Price::default());
    assert_eq!(long.resolve(&"m".repeat(129)), None);
}

#[test]
fn a_price_that_cannot_be_meant_is_refused_by_its_key() {
    let fault =
        |text: &str| Price::try_from(toml::from_str::<PriceEntry>(text).unwrap()).unwrap_err();
    assert!(fault("").starts_with("`input` is missing"));
    assert!(fault("input = \"1\"").starts_with("`output` is missing"));
    assert!(fault("input = \"-1\"\noutput = \"1\"").starts_with("`input` is not an amount"));
    assert!(fault("free = true\noutput = \"1\"").starts_with("`output` stands beside"));
    let long = "input = \"1\"\noutput = \"1\"\nlong = { above = 0, input = \"1\", output = \"1\" }";
    assert!(fault(long).starts_with("`long.above`"));
    assert!(toml::from_str::<PriceEntry>("inptu = \"1\"").is_err());
    let free: PriceEntry = toml::from_str("free = true\nreasoning = true").unwrap();
    assert_eq!(
        Price::try_from(free),
        Ok(Price {
            reasoning: true,
            ..Price::default()
        })
    );
}

#[test]
fn a_cost_is_rounded_up_once_on_the_total() {
    let price = of_text(1, 1);
    let usage = Usage {
        input_tokens: 1,
        output_tokens: 1,
        ..Usage::default()
    };
    assert_eq!(price.cost(&usage), MicroUsd(1));
    assert_eq!(price.cost(&Usage::default()), MicroUsd(0));
    let mini = Usage {
        input_tokens: 1_000,
        cached_input_tokens: 400,
        output_tokens: 500,
        ..Usage::default()
    };
    assert_eq!(shipped("gpt-4o-mini").cost(&mini), MicroUsd(90 + 30 + 300));
}

#[test]
fn cached_and_written_tokens_are_never_more_than_the_input() {
    let price = shipped("gpt-5.6");
    let lies = Usage {
        input_tokens: 10,
        cached_input_tokens: 1_000,
        cache_write_tokens: 1_000,
        ..Usage::default()
    };
    assert_eq!(price.cost(&lies), MicroUsd(4));
}

#[test]
fn a_long_prompt_makes_the_whole_request_long() {
    let price = shipped("gpt-5.4");
    let at = |input_tokens| {
        price.cost(&Usage {
            input_tokens,
            output_tokens: 1_000_000,
            ..Usage::default()
        })
    };
    assert_eq!(at(272_000), MicroUsd(680_000 + 15_000_000));
    assert_eq!(at(272_001), MicroUsd(1_360_005 + 22_500_000));
}

#[test]
fn a_bound_covers_a_prompt_that_turns_out_short_where_short_is_dearer() {
    let mut price = shipped("gpt-5.4");
    if let Some(long) = &mut price.long {
        long.rates = Rates::default();
    }
    let short = Usage {
        input_tokens: 272_000,
        output_tokens: 5,
        ..Usage::default()
    };
    let most = Usage {
        input_tokens: 300_000,
        output_tokens: 5,
        ..Usage::default()
    };
    assert_eq!(price.bound(&most), price.cost(&short));
}

#[test]
fn huge_numbers_saturate() {
    let price = of_text(u64::MAX, u64::MAX);
    let most = Quantities::from_values([u64::MAX; Quantities::COUNT]);
    assert_eq!(price.bound(&most), MicroUsd(i64::MAX));
    let usage = Usage {
        input_tokens: u64::MAX,
        output_tokens: u64::MAX,
        ..Usage::default()
    };
    assert_eq!(price.cost(&usage), MicroUsd(i64::MAX));
}

/// A price of text alone.
fn of_text(input: u64, output: u64) -> Price {
    let rates = Rates {
        input: Rate(input),
        output: Rate(output),
        ..Rates::default()
    };
    Price {
        rates,
        ..Price::default()
    }
}

#[test]
fn every_quantity_costs_what_its_own_rate_says_and_the_parts_of_a_whole_are_priced_once() {
    let rates = Rates::from_values(
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13].map(|rate| Rate(rate * 1_000_000)),
    );
    let price = Price {
        rates,
        ..Price::default()
    };
    let cost = |used: Quantities| price.cost(&used).0;
    let input = |part: fn(&mut Quantities) -> &mut u64| {
        let mut used = Quantities {
            input_tokens: 10,
            ..Quantities::NONE
        };
        *part(&mut used) = 4;
        cost(used)
    };
    assert_eq!(
        cost(Quantities {
            input_tokens: 10,
            ..Quantities::NONE
        }),
        10
    );
    assert_eq!(input(|used| &mut used.cached_input_tokens), 6 + 4 * 2);
    assert_eq!(input(|used| &mut used.cache_write_tokens), 6 + 4 * 3);
    assert_eq!(input(|used| &mut used.cache_write_1h_tokens), 6 + 4 * 4);
    assert_eq!(input(|used| &mut used.image_input_tokens), 6 + 4 * 6);
    assert_eq!(input(|used| &mut used.cached_image_input_tokens), 6 + 4 * 7);
    assert_eq!(input(|used| &mut used.audio_input_tokens), 6 + 4 * 9);
    let output = Quantities {
        output_tokens: 10,
        reasoning_tokens: 5,
        image_output_tokens: 2,
        audio_output_tokens: 3,
        ..Quantities::NONE
    };
    assert_eq!(cost(output), 5 * 5 + 2 * 8 + 3 * 10);
    let seconds = |audio_seconds| {
        cost(Quantities {
            audio_seconds,
            ..Quantities::NONE
        })
    };
    assert_eq!(
        (seconds(60), seconds(1)),
        (11_000_000, 183_334),
        "rounded up once"
    );
    assert_eq!(
        cost(Quantities {
            characters: 3,
            ..Quantities::NONE
        }),
        36
    );
    assert_eq!(
        cost(Quantities {
            images: 2,
            ..Quantities::NONE
        }),
        26_000_000
    );
}

#[test]
fn what_an_entry_does_not_say_costs_what_is_like_it() {
    let price = |text: &str| Price::try_from(toml::from_str::<PriceEntry>(text).unwrap()).unwrap();
    let rates = price("input = \"2\"\noutput = \"8\"\nimage_input = \"3\"").rates;
    assert_eq!(rates.cache_write_1h, Rate(4_000_000));
    assert_eq!(rates.cached_image_input, Rate(3_000_000));
    assert_eq!(
        (rates.audio_input, rates.audio_output),
        (Rate(2_000_000), Rate(8_000_000))
    );
    assert_eq!(
        (rates.minute, rates.characters, rates.image),
        Default::default()
    );
    let drawn = price("input = \"5\"\nimage_output = \"40\"").rates;
    assert_eq!(
        drawn.output,
        Rate(40_000_000),
        "text that was forgotten is not free"
    );
    let heard = price("minute = \"0.006\"");
    let minute = Quantities {
        audio_seconds: 60,
        input_tokens: 900,
        output_tokens: 90,
        ..Quantities::NONE
    };
    assert_eq!(heard.cost(&minute), MicroUsd(6_000));
    let read = price("characters = \"15\"");
    assert_eq!(
        read.cost(&Quantities {
            characters: 1_000,
            ..Quantities::NONE
        }),
        MicroUsd(15_000)
    );
}

#[test]
fn an_image_has_the_price_of_its_size_and_quality_and_of_no_other() {
    let text = "image = { \"1024x1024-high\" = \"0.167\", \"1024x1024-low\" = \"0.011\" }";
    let price = Price::try_from(toml::from_str::<PriceEntry>(text).unwrap()).unwrap();
    let two = Quantities {
        images: 2,
        ..Quantities::NONE
    };
    assert_eq!(
        price.for_image("1024x1024-high").unwrap().cost(&two),
        MicroUsd(334_000)
    );
    assert_eq!(
        price.for_image("1024x1024-high").unwrap().bound(&two),
        MicroUsd(334_000)
    );
    // Tokens that have no price do not make the images free.
    let reported = Quantities {
        output_tokens: 500,
        image_output_tokens: 500,
        ..two
    };
    assert_eq!(
        price.for_image("1024x1024-high").unwrap().cost(&reported),
        MicroUsd(334_000)
    );
    assert_eq!(price.for_image("512x512-high"), None);
    let odd: PriceEntry = toml::from_str("image = { \"Big One\" = \"1\" }").unwrap();
    assert!(Price::try_from(odd).unwrap_err().starts_with("`image` has"));
    let free: PriceEntry = toml::from_str("free = true\nimage = { \"a\" = \"1\" }").unwrap();
    assert!(
        Price::try_from(free)
            .unwrap_err()
            .starts_with("`image` stands beside")
    );
}

#[test]
fn a_stored_price_is_the_same_price_and_one_of_a_newer_version_is_none() {
    for (name, price) in PriceTable::shipped().models {
        let stored = Price::from_stored(&price.stored()).unwrap();
        assert_eq!(
            (stored.rates, stored.long),
            (price.rates, price.long),
            "{name}"
        );
    }
    assert_eq!(
        of_text(150_000, 600_000).stored(),
        r#"{"input":150000,"output":600000}"#
    );
    assert_eq!(Price::default().stored(), "{}");
    assert_eq!(Price::from_stored(r#"{"input":1,"smell":2}"#), None);
    assert_eq!(Price::from_stored("[]"), None);
}

/// What is within other quantities: no whole is more, and no part that may be dearer.
fn within(most: &Quantities, parts: [u64; Quantities::COUNT]) -> Quantities {
    let least = |(place, part): (usize, u64)| part.min(most.values()[place]);
    let mut values = [0; Quantities::COUNT];
    for (place, part) in parts.into_iter().enumerate() {
        values[place] = least((place, part));
    }
    let reported = Quantities::from_values(parts);
    Quantities {
        // Of these a provider may report what it likes.
        cached_input_tokens: reported.cached_input_tokens,
        cache_write_tokens: reported.cache_write_tokens,
        ..Quantities::from_values(values)
    }
}

fn any_rates() -> impl Strategy<Value = Rates> {
    proptest::array::uniform13(0u64..60_000_000)
        .prop_map(|rates| Rates::from_values(rates.map(Rate)))
}

fn any_price() -> impl Strategy<Value = Price> {
    (
        any_rates(),
        proptest::option::of((1u64..2_000, any_rates())),
    )
        .prop_map(|(rates, long)| Price {
            rates,
            long: long.map(|(above, rates)| LongPrice { above, rates }),
            ..Price::default()
        })
}

fn any_quantities() -> impl Strategy<Value = Quantities> {
    proptest::array::uniform14(0u64..4_000).prop_map(Quantities::from_values)
}

proptest! {
    #[test]
    fn no_usage_within_a_bound_costs_more(
        price in any_price(),
        most in any_quantities(),
        parts in proptest::array::uniform14(0u64..4_000),
    ) {
        prop_assert!(price.cost(&within(&most, parts)) <= price.bound(&most));
    }

    #[test]
    fn a_bound_grows_with_every_quantity(price in any_price(), most in any_quantities(), place in 0..Quantities::COUNT) {
        let mut more = most.values();
        more[place] += 1;
        prop_assert!(price.bound(&most) <= price.bound(&Quantities::from_values(more)));
    }

    #[test]
    fn a_stored_price_costs_the_same(price in any_price(), used in any_quantities()) {
        let stored = Price::from_stored(&price.stored()).unwrap();
        prop_assert_eq!(stored.cost(&used), price.cost(&used));
    }

    #[test]
    fn what_is_written_is_read_back(micros in 0i64..1_000_000_000_000_000) {
        prop_assert_eq!(MicroUsd::parse(&MicroUsd(micros).to_string()), Ok(MicroUsd(micros)));
    }
}
