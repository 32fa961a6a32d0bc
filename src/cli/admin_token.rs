//! `tollgate admin-token`: tokens for the operator's API.

use secrecy::ExposeSecret;

use super::migrate::whereabouts;
use super::table::{Look, Table};
use super::{Failure, by, print};
use crate::config::Config;
use crate::ledger::report::{Desk, Reports};
use crate::operator::tokens::{self, NAME_BYTES_MAX, Scope};

/// Make and revoke tokens for the operator's API
///
/// A token is shown once, when it is made; the ledger keeps its hash only. What is done with it stands in the audit log
/// under its name.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate admin-token create grafana                  may look
  tollgate admin-token create billing --scope write    may look and change
  tollgate admin-token list
  tollgate admin-token revoke billing

  curl http://127.0.0.1:9090/admin/overview -H \"Authorization: Bearer $(cat token)\"")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token; it is all that stands on stdout
    Create {
        /// Who will use it: a name that was never used before
        #[arg(value_parser = name)]
        name: String,
        /// What it is good for
        #[arg(long, value_enum, default_value = "read")]
        scope: Good,
    },
    /// All tokens, those too that were revoked
    List {
        /// One JSON object a line
        #[arg(long)]
        json: bool,
    },
    /// Make a token good for nothing, at once
    Revoke {
        /// The token's name
        name: String,
    },
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Good {
    /// To look
    Read,
    /// To look and to change
    Write,
}

fn name(text: &str) -> Result<String, String> {
    let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
    // That is how the audit log calls whoever has the variable's token.
    let is_taken = text.eq_ignore_ascii_case("TOLLGATE_ADMIN_TOKEN");
    let is_good = !text.is_empty() && !is_taken && text.len() <= NAME_BYTES_MAX && text.chars().all(plain);
    let rule = || format!("a name has at most {NAME_BYTES_MAX} letters, digits, `-`, `_` and `.`");
    is_good.then(|| text.to_owned()).ok_or_else(rule)
}

/// Makes, lists or revokes.
pub(super) fn run(args: &Args, config: &Config, look: Look) -> Result<(), Failure> {
    match &args.action {
        Action::Create { name, scope } => create(config, name, *scope),
        Action::List { json } => list(config, *json, look),
        Action::Revoke { name } => revoke(config, name),
    }
}

fn create(config: &Config, name: &str, scope: Good) -> Result<(), Failure> {
    let scope = match scope {
        Good::Read => Scope::Read,
        Good::Write => Scope::Write,
    };
    let (desk, is_new) = Desk::open_or_make(&config.store.url)?;
    if is_new {
        print::error_line(&format!("A new ledger is made: {}", whereabouts(&config.store.url)));
    }
    let made = tokens::create(&desk, name, scope, by())?;
    let token = made.ok_or_else(|| {
        let next = "take another name: names are never used twice, so that the audit log says who it was";
        Failure::new(format!("there is, or was, a token named `{name}`"), next)
    })?;
    print::line(token.expose_secret())?;
    print::error_line("Keep it now: it cannot be shown again.");
    Ok(())
}

fn list(config: &Config, json: bool, look: Look) -> Result<(), Failure> {
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
        table.row(vec![row.name, row.scope, row.created_at, or_never(row.last_used_at), or_never(row.revoked_at)]);
    }
    Ok(print::text(&table.text(look))?)
}

fn revoke(config: &Config, name: &str) -> Result<(), Failure> {
    if tokens::revoke(&Desk::open(&config.store.url)?, name, by())? {
        return Ok(print::line(&format!("{name} is good for nothing any more"))?);
    }
    Err(Failure::new(format!("no token named `{name}` is good"), "see their names with: tollgate admin-token list"))
}
