//! `tollgate admin-token`: tokens for the operator's API.

use secrecy::ExposeSecret;

use super::migrate::whereabouts;
use super::table::{Look, Table};
use super::{CommandError, by, print};
use crate::config::Config;
use crate::ledger::read::report::{Desk, Reports};
use crate::operator::queries::tokens::{self, NAME_BYTES_MAX, Scope};

/// Make and revoke tokens for the operator's API
///
/// A token is shown once, when it is made; the ledger stores only its hash. What is done with it is in the audit log
/// under its name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate admin-token create grafana                  may look
  tollgate admin-token create billing --scope write    may look and change
  tollgate admin-token list
  tollgate admin-token revoke billing

  curl http://127.0.0.1:9090/admin/overview -H \"Authorization: Bearer $(cat token)\"")]
pub(super) struct AdminTokenArgs {
    #[command(subcommand)]
    action: AdminTokenAction,
}

#[derive(Debug, clap::Subcommand)]
enum AdminTokenAction {
    /// Make a token and print nothing else to stdout
    Create {
        /// A name for it, which no earlier token had
        #[arg(value_parser = name)]
        name: String,
        /// What it may do
        #[arg(long, value_enum, default_value = "read")]
        scope: Scope,
    },
    /// List all tokens, also those that were revoked
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Revoke a token at once
    Revoke {
        /// The token's name
        name: String,
    },
}

fn name(text: &str) -> Result<String, String> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    // The audit log uses this name for the token in the variable.
    let is_taken = text.eq_ignore_ascii_case("TOLLGATE_ADMIN_TOKEN");
    let is_good =
        !text.is_empty() && !is_taken && text.len() <= NAME_BYTES_MAX && text.chars().all(plain);
    let rule = || format!("a name has at most {NAME_BYTES_MAX} letters, digits, `-`, `_` and `.`");
    is_good.then(|| text.to_owned()).ok_or_else(rule)
}

/// Makes, lists or revokes.
pub(super) fn run(args: &AdminTokenArgs, config: &Config, look: Look) -> Result<(), CommandError> {
    match &args.action {
        AdminTokenAction::Create { name, scope } => create(config, name, *scope),
        AdminTokenAction::List { json } => list(config, *json, look),
        AdminTokenAction::Revoke { name } => revoke(config, name),
    }
}

fn create(config: &Config, name: &str, scope: Scope) -> Result<(), CommandError> {
    let (desk, is_new) = Desk::open_or_make(&config.store.url)?;
    if is_new {
        print::error_line(&format!(
            "A new ledger is made: {}",
            whereabouts(&config.store.url)
        ));
    }
    let made = tokens::create(&desk, name, scope, by())?;
    let token = made.ok_or_else(|| {
        let next =
            "take another name: names are never used twice, so that the audit log says who it was";
        CommandError::new(format!("there is, or was, a token named `{name}`"), next)
    })?;
    print::line(token.expose_secret())?;
    print::error_line("Keep it now: it cannot be shown again.");
    Ok(())
}

fn list(config: &Config, json: bool, look: Look) -> Result<(), CommandError> {
    let rows = tokens::list(&Reports::open(&config.store.url)?)?;
    if json {
        for row in &rows {
            print::line(&serde_json::to_string(row).unwrap_or_default())?;
        }
        return Ok(());
    }
    if rows.is_empty() {
        print::error_line("There are none. To make one: tollgate admin-token create NAME");
        return Ok(());
    }
    let mut table = Table::new(vec!["name", "scope", "created", "last used", "revoked"]);
    for row in rows {
        let or_never = |time: Option<String>| time.unwrap_or_else(|| "-".to_owned());
        table.row(vec![
            row.name,
            row.scope,
            row.created_at,
            or_never(row.last_used_at),
            or_never(row.revoked_at),
        ]);
    }
    Ok(print::text(&table.text(look))?)
}

fn revoke(config: &Config, name: &str) -> Result<(), CommandError> {
    if tokens::revoke(&Desk::open(&config.store.url)?, name, by())? {
        return Ok(print::line(&format!(
            "{name} is good for nothing any more"
        ))?);
    }
    Err(CommandError::new(
        format!("no token named `{name}` is good"),
        "see their names with: tollgate admin-token list",
    ))
}
