//! `tollgate token`: prints a token for development.

use std::time::Duration;

use uuid::Uuid;

use super::{CommandError, print};
use crate::auth::{MintClaims, mint};
use crate::clock::{Clock, Timestamp};
use crate::config::{Config, units};

/// The longest life of a development token.
const EXPIRES_MAX: Duration = Duration::from_hours(24 * 400);

/// Make a user's access token for development, signed with `JWT_SECRET`
///
/// The token is all that is printed, so that it can be used in place: -H "Authorization: Bearer $(tollgate token …)"
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  curl http://127.0.0.1:8080/api/me -H \"Authorization: Bearer $(tollgate token --user 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11)\"")]
pub(super) struct TokenArgs {
    /// The user's id
    #[arg(long, value_name = "UUID")]
    user: Uuid,
    /// The plan in the token; without it, the user's plan comes from elsewhere
    #[arg(long)]
    plan: Option<String>,
    /// How long it is valid: 90s, 15m, 1h, 30d
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = expires)]
    expires: Duration,
    /// An anonymous user's token
    #[arg(long)]
    anonymous: bool,
}

fn expires(text: &str) -> Result<Duration, String> {
    let length = units::parse_duration(text)?;
    let valid = length >= Duration::from_secs(1) && length <= EXPIRES_MAX;
    valid
        .then_some(length)
        .ok_or_else(|| "choose from 1s to 400d".to_owned())
}

/// Prints a token.
pub(super) fn run(args: &TokenArgs, config: &Config) -> Result<(), CommandError> {
    Ok(print::line(&token(args, config, Clock::system().now())?)?)
}

fn token(args: &TokenArgs, config: &Config, now: Timestamp) -> Result<String, CommandError> {
    let Some(secret) = &config.auth.jwt_secret else {
        let next = "set JWT_SECRET (the project's, or for a server of your own: openssl rand -base64 48), or sign in with Supabase";
        return Err(CommandError::new("there is no secret to sign with", next));
    };
    if let Some(plan) = &args.plan {
        plan_can_be_named(plan, config)?;
    }
    let claims = MintClaims {
        user_id: args.user,
        plan: args.plan.clone(),
        email: None,
        is_anonymous: args.anonymous,
        expires_in: args.expires,
        issuer: &config.auth.issuer,
    };
    mint(secret, claims, now).map_err(|problem| CommandError::new(problem, "set JWT_SECRET"))
}

/// The server ignores a plan that does not exist, or that is not at the configured claim.
fn plan_can_be_named(plan: &str, config: &Config) -> Result<(), CommandError> {
    if !config.plans.by_name.contains_key(plan) {
        let names: Vec<&str> = config.plans.by_name.keys().map(String::as_str).collect();
        return Err(CommandError::new(
            format!("there is no plan `{plan}`"),
            format!("choose one of: {}", names.join(", ")),
        ));
    }
    if config.auth.plan_claim != ["app_metadata", "plan"] {
        let problem = format!(
            "plans are looked for in {}, and this writes app_metadata.plan",
            config.auth.plan_claim.join(".")
        );
        return Err(CommandError::new(
            problem,
            "leave --plan out, and give the user a plan with: tollgate user plan",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use serde_json::Value;

    use super::*;
    use crate::config::Sources;

    const USER: &str = "7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11";

    fn config(more: &[(&str, &str)]) -> Config {
        let quick = [
            ("OPENAI_API_KEY", "sk-1"),
            ("SUPABASE_URL", "https://x.supabase.co"),
        ];
        let env = quick
            .iter()
            .chain(more)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Config::load(&Sources {
            file: None,
            env,
            directory: "/nowhere-at-all".into(),
        })
        .unwrap()
    }

    fn args(plan: Option<&str>, anonymous: bool) -> TokenArgs {
        let plan = plan.map(str::to_owned);
        TokenArgs {
            user: USER.parse().unwrap(),
            plan,
            expires: Duration::from_mins(1),
            anonymous,
        }
    }

    #[test]
    fn a_token_names_its_user_plan_and_issuer() {
        let config = config(&[("JWT_SECRET", "f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa")]);
        let token = token(
            &args(Some("free"), true),
            &config,
            Timestamp::from_secs(1000),
        )
        .unwrap();
        let payload = URL_SAFE_NO_PAD
            .decode(token.split('.').nth(1).unwrap())
            .unwrap();
        let claims: Value = serde_json::from_slice(&payload).unwrap();
        assert_eq!(claims["sub"], USER);
        assert_eq!(claims["app_metadata"]["plan"], "free");
        assert_eq!(claims["is_anonymous"], true);
        assert_eq!(claims["iss"], "https://x.supabase.co/auth/v1");
        assert_eq!(claims["exp"], 1060);
    }

    #[test]
    fn a_token_that_could_not_work_is_not_made() {
        let now = Timestamp::from_secs(1000);
        let told = token(&args(None, false), &config(&[]), now)
            .unwrap_err()
            .to_string();
        assert!(told.contains("set JWT_SECRET"), "{told}");
        let secret = ("JWT_SECRET", "f3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa");
        let told = token(&args(Some("gold"), false), &config(&[secret]), now)
            .unwrap_err()
            .to_string();
        assert!(told.contains("`gold`") && told.contains("free"), "{told}");
        let moved = config(&[secret, ("TOLLGATE_AUTH__PLAN_CLAIM", "tier")]);
        assert!(token(&args(Some("free"), false), &moved, now).is_err());
        assert!(token(&args(None, false), &moved, now).is_ok());
    }
}
