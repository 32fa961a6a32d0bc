//! This machine's clock against the `Date` of answers from Supabase and the upstreams.
//!
//! A `Date` has whole seconds and an answer takes time, so a difference counts only if neither explains it.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::probe::{ProbeAnswer, ProbeRequest};
use super::{Check, Deployment, all_of};

/// The leeway that tokens are verified with: beyond it, fresh ones are refused.
const BAD_MS: i64 = 30_000;
/// Beyond it, it is time to look.
const ODD_MS: i64 = 5_000;

/// How long one of them may take, so that who is silent does not keep the others from being heard.
const PATIENCE: Duration = Duration::from_secs(4);

const FIX: &str = "set this machine's clock: sudo timedatectl set-ntp true (with chrony: sudo chronyc makestep); \
                   a container or a virtual machine takes its host's";

/// Somebody else's clock.
struct RemoteClock {
    who: String,
    /// How far it is ahead of ours, in milliseconds.
    ahead_ms: i64,
}

/// The clock's line. Supabase's word decides, as it signs the tokens; without it, the upstreams'.
pub(super) async fn check(deployment: Arc<Deployment>) -> Vec<Check> {
    let supabase = deployment.config.auth.supabase_url.as_ref().map(|url| {
        // A path that no cache answers: a cached answer would carry the Date of its making.
        ("Supabase".to_owned(), format!("{url}/auth/v1/health"))
    });
    let upstreams = deployment
        .config
        .upstreams
        .iter()
        .map(|it| (it.name.clone(), format!("{}/models", it.base_url)));
    let asked = supabase.into_iter().chain(upstreams).map(|(who, url)| {
        let deployment = deployment.clone();
        async move {
            let answer = timeout(PATIENCE, deployment.http.ask(ProbeRequest::get(url)))
                .await
                .ok()?
                .ok()?;
            Some(RemoteClock {
                who,
                ahead_ms: ahead(&answer)?,
            })
        }
    });
    let seen: Vec<RemoteClock> = all_of(asked.collect())
        .await
        .into_iter()
        .flatten()
        .collect();
    vec![judge(&seen)]
}

/// How far their clock is certainly ahead of ours (behind, if negative), in milliseconds.
fn ahead(answer: &ProbeAnswer) -> Option<i64> {
    let date = answer.date?.millis();
    let least = date.saturating_sub(answer.answered.millis());
    let most = date
        .saturating_add(999)
        .saturating_sub(answer.asked.millis());
    Some(if least > 0 { least } else { most.min(0) })
}

fn judge(seen: &[RemoteClock]) -> Check {
    let Some(judge) = seen.first() else {
        let fix = "see the other lines: nobody who could be asked answered with a Date";
        return Check::warn("clock", "could not be compared with anybody's", fix);
    };
    let told: Vec<String> = seen.iter().map(told).collect();
    let told = format!("this machine's clock {}", told.join(", "));
    let widest = seen
        .iter()
        .map(|seen| seen.ahead_ms.saturating_abs())
        .max()
        .unwrap_or(0);
    if judge.ahead_ms.saturating_abs() > BAD_MS {
        return Check::fail(
            "clock",
            format!("{told}: tokens are refused beyond 30 s"),
            FIX,
        );
    }
    if widest > ODD_MS {
        return Check::warn("clock", told, FIX);
    }
    Check::ok("clock", told)
}

fn told(seen: &RemoteClock) -> String {
    let seconds = seen
        .ahead_ms
        .saturating_abs()
        .saturating_add(999)
        .checked_div(1000)
        .unwrap_or(0);
    match seen.ahead_ms {
        0 => format!("agrees with {}", seen.who),
        1.. => format!("is {seconds} s behind {}", seen.who),
        _ => format!("is {seconds} s ahead of {}", seen.who),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use crate::clock::Timestamp;

    fn ahead_of(date: i64, asked: i64, answered: i64) -> i64 {
        let at = Timestamp::from_millis;
        let (date, asked, answered) = (Some(at(date)), at(asked), at(answered));
        let answer = ProbeAnswer {
            status: http::StatusCode::OK,
            body: serde_json::Value::Null,
            date,
            asked,
            answered,
        };
        ahead(&answer).unwrap()
    }

    #[test]
    fn only_what_the_wait_and_the_whole_second_do_not_explain_is_skew() {
        assert_eq!(ahead_of(10_000, 10_900, 10_950), 0);
        assert_eq!(ahead_of(10_000, 7_000, 14_000), 0);
        assert_eq!(ahead_of(60_000, 10_000, 10_500), 49_500);
        assert_eq!(ahead_of(10_000, 60_000, 60_500), -49_001);
    }

    #[test]
    fn supabase_decides_and_an_upstream_alone_only_warns() {
        let seen = |who: &str, ahead_ms| RemoteClock {
            who: who.to_owned(),
            ahead_ms,
        };
        let status = |seen: &[RemoteClock]| judge(seen).status;
        assert_eq!(
            status(&[seen("Supabase", 0), seen("openai", 0)]),
            Status::Ok
        );
        assert_eq!(status(&[seen("Supabase", 30_000)]), Status::Warn);
        assert_eq!(
            status(&[seen("Supabase", -30_001), seen("openai", 0)]),
            Status::Fail
        );
        assert_eq!(
            status(&[seen("Supabase", 0), seen("openai", 90_000)]),
            Status::Warn
        );
        assert_eq!(status(&[seen("openai", 90_000)]), Status::Fail);
        assert_eq!(status(&[]), Status::Warn);
        assert_eq!(
            judge(&[seen("Supabase", -90_001)]).detail,
            "this machine's clock is 91 s ahead of Supabase: tokens are refused beyond 30 s"
        );
    }
}
