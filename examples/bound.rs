//! What Tollgate holds for a prompt: reads bodies of chat requests, one a line, and prints for each the bound by bytes and
//! the counted one, in tokens, or why the body is refused. `scripts/bound-check.sh` compares them with what real templates
//! and tokenizers make of the same bodies.

use std::error::Error;
use std::io::{BufRead, Write};
use std::path::PathBuf;

use tollgate::clock::Timestamp;
use tollgate::config::{Config, Sources};
use tollgate::endpoint::chat::Order;
use tollgate::endpoint::{Endpoint, Terms};

fn main() -> Result<(), Box<dyn Error>> {
    let settings = [
        ("JWT_SECRET", "kU7vX1pQ9zR4tW8yB3nM6cL2dF5gH0jS"),
        ("OPENAI_API_KEY", "sk-x"),
        ("TOLLGATE_UPSTREAMS__0__MODELS", r#"["*"]"#),
        (
            "TOLLGATE_PRICES",
            r#"{ local = { input = "1", output = "1" } }"#,
        ),
        (
            "TOLLGATE_PLANS",
            r#"{ free = { default = true, models = ["gpt-6-luna", "gpt-4o-mini", "local"], limits = [{ per = "day", requests = 9 }] } }"#,
        ),
    ];
    let env = settings
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into_iter()
        .collect();
    let config = Config::load(&Sources {
        file: None,
        env,
        directory: PathBuf::from("/nonexistent"),
    })?;
    let terms = Terms {
        plan: &config.plans.default,
        prices: &config.prices,
        models: &config.models,
        prompts: &config.prompts,
        now: Timestamp::EPOCH,
        candidate: None,
    };
    let mut out = std::io::stdout().lock();
    for line in std::io::stdin().lock().lines() {
        match Order::parse(line?.as_bytes(), &terms) {
            Ok(mut order) => {
                let by_bytes = order.quote(1).base.input_tokens;
                order.narrow(u64::MAX);
                writeln!(out, "{by_bytes} {}", order.quote(1).base.input_tokens)?;
            }
            Err(refusal) => writeln!(out, "refused: {}", refusal.message)?,
        }
        out.flush()?;
    }
    Ok(())
}
