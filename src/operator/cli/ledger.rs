//! `tollgate ledger export|import`: from SQLite to Postgres, or back. `tollgate ledger check`: checks the ledger's
//! laws. (`backup` and `restore` are in `backup`.)

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::{CommandError, backup, print};
use crate::clock::Clock;
use crate::config::Config;
use crate::ledger::file::private_file;
use crate::ledger::tools::check::{Broken, CheckReport, Snapshot};
use crate::ledger::tools::export::Still;

/// Check, back up, restore, export and import the ledger
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate ledger check
  tollgate ledger backup /var/backups/tollgate.db      while it serves; SQLite only
  tollgate ledger restore /var/backups/tollgate.db     while nothing serves
  docker compose exec -T tollgate tollgate ledger backup > tollgate.db
  tollgate ledger export > ledger.jsonl
  DATABASE_URL=postgres://… tollgate ledger import < ledger.jsonl

Export and import are done with every server stopped. An import goes into an empty ledger only, compares sums and a
checksum, and keeps nothing if they differ, or if it is stopped half-way.")]
pub(super) struct LedgerArgs {
    #[command(subcommand)]
    action: LedgerAction,
}

#[derive(Debug, clap::Subcommand)]
enum LedgerAction {
    /// Write the whole ledger as JSON lines
    Export {
        /// The file to write; without it, stdout
        file: Option<PathBuf>,
    },
    /// Read an export into an empty ledger
    Import {
        /// The file to read; without it, stdin
        file: Option<PathBuf>,
    },
    /// Check the ledger's laws on its data; servers may run meanwhile
    ///
    /// Each request ended once and was charged by the rules, what it used costs what it was charged at the rates that
    /// it names, what was held was enough, each window says what its requests add up to. Exits with 1 when anything is broken, and names it.
    Check {
        /// As one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Copy the SQLite ledger as it is now, while servers run, and check the copy
    Backup {
        /// The file to write, which must not be there yet; without it, stdout
        file: Option<PathBuf>,
    },
    /// Replace the ledger by such a copy; no server may be running
    Restore {
        /// The file that `backup` wrote; without it, stdin
        file: Option<PathBuf>,
        /// Also replace a ledger that has rows; it is kept under another name
        #[arg(long)]
        force: bool,
    },
}

/// Carries a ledger. Must be called where a thread may block.
pub(super) fn run(args: &LedgerArgs, config: &Config) -> Result<(), CommandError> {
    match &args.action {
        LedgerAction::Check { json } => return check(config, *json),
        LedgerAction::Backup { file } => return backup::run_backup(file.as_deref(), config),
        LedgerAction::Restore { file, force } => {
            return backup::run_restore(file.as_deref(), *force, config);
        }
        LedgerAction::Export { .. } | LedgerAction::Import { .. } => {}
    }
    let opened = match &args.action {
        LedgerAction::Import { .. } => Still::open_or_make(&config.store.url),
        _ => Still::open(&config.store.url),
    };
    let still = opened.map_err(|failure| {
        CommandError::new(
            failure.to_string(),
            "stop every server on this ledger (or see that [store] url is right), then try again",
        )
    })?;
    let (verb, rows) = match &args.action {
        LedgerAction::Export { file } => ("written", export(&still, file.as_deref())?),
        LedgerAction::Import { file } => ("read; the sums agree", import(still, file.as_deref())?),
        LedgerAction::Check { .. } | LedgerAction::Backup { .. } | LedgerAction::Restore { .. } => {
            return Ok(());
        }
    };
    print::error_line(&format!("{rows} rows {verb}"));
    Ok(())
}

fn check(config: &Config, json: bool) -> Result<(), CommandError> {
    let now = Clock::system().now();
    let watched = print::is_watched();
    let found =
        Snapshot::open(&config.store.url)?.check(config.store.keep_requests, now, |rows| {
            if watched {
                print::progress(&format!("{rows} rows checked"));
            }
        })?;
    if watched {
        print::progress("");
    }
    if json {
        print::line(&serde_json::to_string(&found).unwrap_or_default())?;
    } else {
        for Broken { law, what, why } in &found.named {
            print::line(&format!("law {law} is broken: {what}: {why}"))?;
        }
        print::line(&sums(&found))?;
    }
    if found.broken == 0 {
        return Ok(());
    }
    let next = "keep a copy (tollgate ledger export), and report it with the lines above";
    Err(CommandError::new(
        format!(
            "{} things in the ledger are not as its laws say",
            found.broken
        ),
        next,
    ))
}

fn sums(found: &CheckReport) -> String {
    let seen = format!(
        "{} requests and {} windows were looked at, {} requests priced again",
        found.requests, found.windows, found.priced_again
    );
    let part = match found.windows_in_part {
        0 => String::new(),
        part => format!("; {part} windows reach back to requests that are forgotten"),
    };
    let named = i64::try_from(found.named.len()).unwrap_or(i64::MAX);
    let verdict = match (found.broken, found.broken.saturating_sub(named)) {
        (0, _) => ": the laws hold".to_owned(),
        (_, 0) => String::new(),
        (_, more) => format!("; {more} more are broken"),
    };
    format!("{seen}{part}{verdict}")
}

fn export(still: &Still, file: Option<&Path>) -> Result<u64, CommandError> {
    let cannot = |path: &Path, error| {
        CommandError::new(
            format!("{}: {error}", path.display()),
            "name a file that can be written",
        )
    };
    let out: Box<dyn Write> = match file {
        Some(path) => Box::new(private_file(path).map_err(|error| cannot(path, error))?),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut out = BufWriter::new(out);
    let rows = still.export(&mut out, progress("written"))?;
    out.flush()?;
    Ok(rows)
}

fn import(still: Still, file: Option<&Path>) -> Result<u64, CommandError> {
    let cannot = |path: &Path, error| {
        CommandError::new(
            format!("{}: {error}", path.display()),
            "name a file that can be read",
        )
    };
    let text: Box<dyn BufRead> = match file {
        Some(path) => Box::new(BufReader::new(
            File::open(path).map_err(|error| cannot(path, error))?,
        )),
        None => Box::new(std::io::stdin().lock()),
    };
    still.import(text, progress("read")).map_err(|failure| {
        let next = "export again with every server stopped (tollgate ledger export), and import into an empty ledger";
        CommandError::new(failure.to_string(), next)
    })
}

/// Says on a terminal how far it is.
fn progress(verb: &'static str) -> impl FnMut(u64) {
    let shows = std::io::stderr().is_terminal();
    move |rows| {
        if shows {
            print::error_text(&format!("\r{rows} rows {verb} "));
        }
    }
}
