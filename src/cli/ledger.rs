//! `tollgate ledger export|import`: from SQLite to Postgres, or back.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, IsTerminal, Write};
use std::path::{Path, PathBuf};

use super::{Failure, print};
use crate::config::Config;
use crate::ledger::moving::Still;

/// Carry the ledger to another database, exactly, while nothing serves
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate ledger export > ledger.jsonl
  DATABASE_URL=postgres://… tollgate ledger import < ledger.jsonl

Both are done with every server stopped. An import goes into an empty ledger only, compares sums and a
checksum, and keeps nothing if they differ, or if it is stopped half-way.")]
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
    let still = Still::open(&config.store.url).map_err(|failure| {
        Failure::new(
            failure.to_string(),
            "stop every server on this ledger (or see that [store] url is right), then try again",
        )
    })?;
    let (verb, rows) = match &args.action {
        Action::Export { file } => ("written", export(&still, file.as_deref())?),
        Action::Import { file } => ("read; the sums agree", import(still, file.as_deref())?),
    };
    print::error_line(&format!("{rows} rows {verb}"));
    Ok(())
}

fn export(still: &Still, file: Option<&Path>) -> Result<u64, Failure> {
    let cannot =
        |path: &Path, error| Failure::new(format!("{}: {error}", path.display()), "name a file that can be written");
    let out: Box<dyn Write> = match file {
        Some(path) => Box::new(File::create(path).map_err(|error| cannot(path, error))?),
        None => Box::new(std::io::stdout().lock()),
    };
    let mut out = BufWriter::new(out);
    let rows = still.export(&mut out, progress("written"))?;
    out.flush()?;
    Ok(rows)
}

fn import(still: Still, file: Option<&Path>) -> Result<u64, Failure> {
    let cannot =
        |path: &Path, error| Failure::new(format!("{}: {error}", path.display()), "name a file that can be read");
    let text: Box<dyn BufRead> = match file {
        Some(path) => Box::new(BufReader::new(File::open(path).map_err(|error| cannot(path, error))?)),
        None => Box::new(std::io::stdin().lock()),
    };
    still.import(text, progress("read")).map_err(|failure| {
        let next = "export again with every server stopped (tollgate ledger export), and import into an empty ledger";
        Failure::new(failure.to_string(), next)
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
