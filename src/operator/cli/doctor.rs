//! `tollgate doctor`: tries every part for real, and prints one line for each with a fix where it fails.

use secrecy::SecretString;

use super::{CommandError, print};
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::operator::doctor::{Check, Deployment, Report, Status, examine};

/// Try every part for real: ledger, clock, keys, database, upstreams
///
/// One line for each part: ✓ works, ! works but needs attention, ✗ does not work, - not tried. Below each ✗ is what
/// to type. Nothing is changed, no tokens are bought and no secret is printed. Exits with 1 when anything fails.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate doctor
  tollgate doctor --anon-key sb_publishable_…   also try what the app's users can do with it
  tollgate doctor --json | jq '.checks[] | select(.status == \"fail\")'")]
pub(super) struct DoctorArgs {
    /// The project's publishable or anon key (the one in the app). Default: `SUPABASE_ANON_KEY`
    #[arg(long, value_name = "KEY")]
    anon_key: Option<SecretString>,
    /// Print one JSON object: {"ok", "checks": [{"name", "status": "ok|warn|fail|skip", "detail", "fix"}]}
    #[arg(long)]
    json: bool,
}

/// Prints what was found.
pub(super) async fn run(args: DoctorArgs, sources: &Sources) -> Result<(), CommandError> {
    let report = report(args.anon_key, sources).await;
    let has_shell = std::path::Path::new("/bin/sh").exists();
    print::text(&if args.json {
        json(&report)?
    } else {
        format!("{}{}", lines(&report), elsewhere(&report, has_shell))
    })?;
    if report.ok {
        return Ok(());
    }
    let failed = report
        .checks
        .iter()
        .filter(|check| check.status == Status::Fail)
        .count();
    let problem = if failed == 1 {
        "one check failed".to_owned()
    } else {
        format!("{failed} checks failed")
    };
    Err(CommandError::new(
        problem,
        "do what stands behind `fix:`, then try again: tollgate doctor",
    ))
}

async fn report(anon_key: Option<SecretString>, sources: &Sources) -> Report {
    let config = match Config::load(sources) {
        Ok(config) => config,
        Err(errors) => return Report::of_errors(&errors),
    };
    let anon_key = anon_key.or_else(|| sources.supabase_anon_key());
    let watched = print::is_watched();
    let deployment = Deployment::new(config, anon_key, Clock::system());
    let progress = |ended: usize, all: usize| {
        if watched {
            print::progress(&format!("examining: {ended} of {all} done"));
        }
    };
    let report = examine(&deployment, progress).await;
    if watched {
        print::progress("");
    }
    report
}

fn json(report: &Report) -> Result<String, CommandError> {
    let text = serde_json::to_string_pretty(report).map_err(|error| {
        CommandError::new(
            format!("the report cannot be written: {error}"),
            "leave --json out, and report this fault",
        )
    })?;
    Ok(format!("{text}\n"))
}

/// A line a check, the fix below it.
fn lines(report: &Report) -> String {
    let width = report
        .checks
        .iter()
        .map(|check| check.name.chars().count())
        .max()
        .unwrap_or(0);
    report
        .checks
        .iter()
        .map(|check| lines_of(check, width))
        .collect()
}

/// The image has no shell and no curl, which some fixes want.
fn elsewhere(report: &Report, has_shell: bool) -> &'static str {
    let wants_curl = report.checks.iter().any(|check| {
        check
            .fix
            .as_deref()
            .is_some_and(|fix| fix.contains("curl "))
    });
    if has_shell || !wants_curl {
        return "";
    }
    "There is no curl in this container: type it on the machine that it runs on. (What is host.docker.internal in here is
localhost there.)\n"
}

fn lines_of(check: &Check, width: usize) -> String {
    let mark = match check.status {
        Status::Ok => '✓',
        Status::Warn => '!',
        Status::Fail => '✗',
        Status::Skip => '-',
    };
    let line = format!("{mark} {:width$}  {}\n", check.name, check.detail);
    match &check.fix {
        Some(fix) => format!("{line}    fix: {fix}\n"),
        None => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(env: &[(&str, &str)]) -> Sources {
        let env = env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Sources {
            file: None,
            env,
            directory: "/nowhere-at-all".into(),
        }
    }

    #[tokio::test]
    async fn settings_that_are_wrong_are_a_cross_each_with_the_fix() {
        let report = report(None, &sources(&[("JWT_SECRET", "short"), ("PORT", "http")])).await;
        assert!(!report.ok);
        let told = lines(&report);
        assert!(
            told.contains("✗ config  auth.jwt_secret (the variable JWT_SECRET)"),
            "{told}"
        );
        assert!(
            told.contains("✗ config  server.bind (the variable PORT)"),
            "{told}"
        );
        assert!(
            told.contains("    fix: ") && told.contains("openssl rand -base64 48"),
            "{told}"
        );
        assert!(!told.contains("short,"), "{told}");
        let failure = run(
            DoctorArgs {
                anon_key: None,
                json: true,
            },
            &sources(&[("PORT", "http")]),
        )
        .await
        .unwrap_err();
        assert!(failure.problem.contains("checks failed"), "{failure}");
    }

    #[test]
    fn the_json_has_the_fields_that_scripts_read() {
        let check = |status, fix: Option<&str>| Check {
            name: "jwks".to_owned(),
            status,
            detail: "what".to_owned(),
            fix: fix.map(str::to_owned),
        };
        let checks = vec![
            check(Status::Ok, None),
            check(Status::Fail, Some("mend it")),
            check(Status::Skip, None),
        ];
        let told: serde_json::Value =
            serde_json::from_str(&json(&Report { ok: false, checks }).unwrap()).unwrap();
        assert_eq!(told["ok"], false);
        assert_eq!(
            told["checks"][0],
            serde_json::json!({"name": "jwks", "status": "ok", "detail": "what", "fix": null})
        );
        assert_eq!(told["checks"][1]["status"], "fail");
        assert_eq!(told["checks"][1]["fix"], "mend it");
        assert_eq!(told["checks"][2]["status"], "skip");
        let curl = Report {
            ok: false,
            checks: vec![check(Status::Fail, Some("try: curl -sv http://x"))],
        };
        assert!(
            elsewhere(&curl, false).contains("host.docker.internal")
                && elsewhere(&curl, true).is_empty()
        );
        assert!(
            elsewhere(
                &Report {
                    ok: true,
                    checks: vec![check(Status::Fail, Some("mend it"))]
                },
                false
            )
            .is_empty()
        );
    }
}
