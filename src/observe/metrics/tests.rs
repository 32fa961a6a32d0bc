use super::*;
use crate::config::Sources;
use crate::plan::Amounts;
use crate::price::MicroUsd;
use crate::upstream::health::Failure;

fn config(plan: &str, model: &str) -> Config {
    let file = format!(
        "[plans.{plan}]\ndefault = true\nmodels = [\"{model}\"]\nlimits = []\n[auth]\njwt_secret = \
         \"f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa\"\n"
    );
    let dir = std::env::temp_dir().join(format!("tollgate-metrics-{}", uuid::Uuid::now_v7()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::write(dir.join("tollgate.toml"), file).unwrap();
    let env = [("OPENAI_API_KEY".to_owned(), "sk-x".to_owned())].into();
    let config = Config::load(&Sources {
        file: None,
        env,
        directory: dir.clone(),
    })
    .unwrap();
    std::fs::remove_dir_all(dir).unwrap();
    config
}

fn settled(cost: i64) -> Settlement {
    let usage = Usage {
        input_tokens: 10,
        cached_input_tokens: 4,
        output_tokens: 3,
        reasoning_tokens: 1,
        ..Usage::default()
    };
    let charge = Charge::Settled {
        usage,
        cost: MicroUsd(cost),
    };
    Settlement {
        charge,
        flags: vec![Flag::Overrun],
        ttft_ms: Some(30),
    }
}

const HOLD: crate::plan::Hold = Hold {
    output_cap: 9,
    quantities: crate::price::Quantities::NONE,
    amounts: Amounts {
        requests: 1,
        tokens: 100,
        cost: 900,
        images: 0,
        audio_seconds: 0,
        characters: 0,
    },
    paid_by: crate::plan::PaidBy::Plan,
};

/// Every cost of a model and plan that is not nothing.
fn costs(metrics: &Metrics) -> Vec<(String, String, u64)> {
    let named = metrics.named.load();
    let of = |(model, cells): (&String, &Arc<ModelCounters>)| {
        cells
            .cost
            .iter()
            .map(|(plan, cost)| (model.clone(), plan.clone(), cost.get()))
            .collect::<Vec<_>>()
    };
    named
        .models
        .iter()
        .flat_map(of)
        .filter(|(.., cost)| *cost > 0)
        .collect()
}

#[test]
fn names_that_a_reload_takes_away_keep_what_was_counted_and_strangers_are_other() {
    let metrics = Metrics::new(&config("free", "gpt-4o-mini"), Timestamp::from_secs(0));
    metrics.ended("gpt-4o-mini", "free", &HOLD, &settled(5));
    metrics.adopt(&config("pro", "gpt-4o"));
    metrics.ended("gpt-4o", "pro", &HOLD, &settled(7));
    metrics.ended("gpt-4o-mini", "free", &HOLD, &settled(11));
    metrics.ended("whatever", "free", &HOLD, &settled(13));
    metrics.ended("gpt-4o", "whoever", &HOLD, &settled(17));
    let row = |model: &str, plan: &str, cost| (model.to_owned(), plan.to_owned(), cost);
    assert_eq!(
        costs(&metrics),
        [
            row("gpt-4o", "pro", 7),
            row("gpt-4o-mini", "free", 16),
            row("other", "other", 30)
        ]
    );
}

#[test]
fn what_nobody_knows_is_counted_at_the_whole_hold() {
    let metrics = Metrics::new(&config("free", "gpt-4o-mini"), Timestamp::from_secs(0));
    metrics.ended("gpt-4o-mini", "free", &HOLD, &Settlement::lost());
    metrics.ended("gpt-4o-mini", "free", &HOLD, &Settlement::void());
    assert_eq!(costs(&metrics).first().map(|row| row.2), Some(900));
    assert_eq!(
        EndState::ENDED.map(|end| metrics.ended.get(&end)),
        [0, 1, 1]
    );
}

#[test]
fn a_time_falls_into_the_first_bucket_that_holds_it() {
    let times = Histogram::new(&[1_000, 5_000]);
    for micros in [0, 1_000, 1_001, 5_000, 5_001, u64::MAX] {
        times.observe(Duration::from_micros(micros));
    }
    let read = times.read();
    assert_eq!(
        read.counts
            .iter()
            .map(|(_, count)| *count)
            .collect::<Vec<_>>(),
        [2, 2, 2]
    );
    assert_eq!(read.count, 6);
}

#[test]
fn refusals_and_upstreams_are_told_as_sums() {
    let metrics = Metrics::new(&config("free", "gpt-4o-mini"), Timestamp::from_secs(0));
    for (path, told) in [
        ("/api/me", RequestOutcome::Refused(Code::MissingToken)),
        (
            "/an/unknown/path",
            RequestOutcome::Refused(Code::MissingToken),
        ),
        ("/v1/models/gpt-4o", RequestOutcome::Refused(Code::NotFound)),
        ("/", RequestOutcome::Ok),
        ("/api/chat", RequestOutcome::Cancelled),
    ] {
        metrics.request(path, told, Duration::ZERO);
    }
    assert_eq!(metrics.refusals(), [("missing_token", 2), ("not_found", 1)]);
    for outcome in [
        UpstreamOutcome::Ok,
        UpstreamOutcome::Cancelled,
        UpstreamOutcome::Failed(Failure::TimedOut),
    ] {
        metrics.upstream("openai", outcome);
    }
    let count = UpstreamCount {
        name: "openai".to_owned(),
        requests: 3,
        errors: 1,
    };
    assert_eq!(metrics.upstreams(), [count]);
}

/// So that a route or a failure that is added is not lost among the others.
#[test]
fn whatever_can_happen_has_a_label() {
    use Failure::{Broken, Budget, Busy, Connect, Error, TimedOut, Unauthorized};
    for failure in [Broken, Budget, Busy, Connect, Error, TimedOut, Unauthorized] {
        assert!(OUTCOMES.contains(&failure.as_str()), "{failure:?}");
    }
    for path in crate::endpoint::ALL.iter().flat_map(|spec| spec.paths) {
        assert!(path_index(path) < paths().count() - 1, "{path}");
    }
    let prompts = path_index("/api/prompts/{name}");
    assert_eq!(path_index("/api/prompts/summarize"), prompts);
    assert_eq!(path_index("/api/prompts/summarize/x"), path_index("/x"));
}
