//! `tollgate ledger export|import`: from SQLite to Postgres, or back.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::PathBuf;

use super::{Failure, print};
use crate::config::Config;
use crate::ledger::moving::Still;

/// Carry the ledger to another database, exactly, while nothing serves
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate ledger export > ledger.jsonl
  DATABASE_URL=postgres://… tollgate ledger import < ledger.jsonl

Both are done with every server stopped. An import goes into an empty ledger only, compares sums, and keeps nothing if
they differ.")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
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
}

/// Carries a ledger. Must be called where a thread may block.
pub(super) fn run(args: &Args, config: &Config) -> Result<(), Failure> {
    let still = Still::open(&config.store.url)?;
    let (verb, rows) = match &args.action {
        Action::Export { file } => {
            let out: Box<dyn Write> = match file {
                Some(path) => Box::new(File::create(path)?),
                None => Box::new(std::io::stdout().lock()),
            };
            let mut out = BufWriter::new(out);
            let rows = still.export(&mut out, progress("written"))?;
            out.flush()?;
            ("written", rows)
        }
        Action::Import { file } => {
            let text: Box<dyn BufRead> = match file {
                Some(path) => Box::new(BufReader::new(File::open(path)?)),
                None => Box::new(std::io::stdin().lock()),
            };
            ("read; the sums agree", still.import(text, progress("read"))?)
        }
    };
    print::error_line(&format!("{rows} rows {verb}"));
    Ok(())
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
