//! What is read of a request for moderation, and what is held for it.

use super::*;
use crate::clock::Timestamp;
use crate::config::{Config, Sources};
use crate::error::Code;

/// With plans of these models.
fn config(models: &str) -> Config {
    let toml = format!(
        "[plans.free]\ndefault = true\nmodels = {models}\nmax_input_tokens = 8\nlimits = [{{ per = \"day\", requests = 9 }}]\n\
         [prices.sorter]\ninput = \"1\"\noutput = \"0\"\nendpoints = [\"moderations\"]\n\
         [prices.guard]\nfree = true\nendpoints = [\"moderations\"]\n\
         [[upstreams]]\nname = \"openai\"\nmodels = [\"*\"]\n"
    );
    let folder = std::env::temp_dir().join(format!("tollgate-moderation-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&folder).unwrap();
    let file = folder.join("tollgate.toml");
    std::fs::write(&file, toml).unwrap();
    let env = [
        ("JWT_SECRET", "a-secret-of-the-tests-that-is-long-enough"),
        ("OPENAI_API_KEY", "sk-x"),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let config = Config::load(&Sources {
        file: Some(file),
        env: env.into(),
        directory: folder.clone(),
    });
    std::fs::remove_dir_all(&folder).unwrap();
    config.unwrap()
}

fn parse(models: &str, body: &str) -> Result<ModerationOrder, Refusal> {
    let config = config(models);
    let terms = Terms {
        plan: &config.plans.default,
        prices: &config.prices,
        models: &config.models,
        prompts: &config.prompts,
        now: Timestamp::EPOCH,
        candidate: None,
    };
    ModerationOrder::parse(body.as_bytes(), &terms)
}

#[test]
fn without_a_model_it_is_the_providers_default_if_the_plan_has_it() {
    let body = r#"{"input": "a"}"#;
    let model = |models: &str| parse(models, body).map(|order| order.model.name);
    assert_eq!(
        model(r#"["gpt-4o", "guard", "omni-moderation-latest"]"#).unwrap(),
        DEFAULT_MODEL
    );
    assert_eq!(model(r#"["gpt-4o", "guard"]"#).unwrap(), "guard");
    assert_eq!(
        model(r#"["gpt-4o"]"#).unwrap_err().code,
        Code::ModelNotAllowed
    );
}

#[test]
fn nothing_is_held_for_what_is_free_and_texts_for_what_is_not() {
    let long = format!(r#"{{"input": ["{}", "b"]}}"#, "a".repeat(1000));
    let free = parse(r#"["guard"]"#, &long).unwrap();
    assert_eq!(free.quote(0).base, Quantities::NONE);
    assert!(free.is_narrowed());
    let config = config(r#"["sorter"]"#);
    let plan = &config.plans.default;
    free.check_input(plan).unwrap();
    let mut priced = parse(r#"["sorter"]"#, &long).unwrap();
    let bound = priced.quote(0).base.input_tokens;
    assert!(bound >= 1001, "{bound}");
    priced.narrow(u64::MAX);
    assert!(priced.quote(0).base.input_tokens < bound);
    assert_eq!(
        priced.check_input(plan).unwrap_err().param.as_deref(),
        Some("input")
    );
}
