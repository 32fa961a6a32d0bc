//! `tollgate sql`: the script that the developer's own database needs.
//!
//! It knows the script's text and nothing of what is in it; it reads no settings, so it works before there are any.

use super::{Failure, print};
use crate::database::SCRIPT;

/// Print the SQL script for your own database: for the Supabase SQL editor, or psql
#[derive(Debug, clap::Args)]
#[command(after_help = "It may be run again at any time: your edited functions and your rows stay as they are.

Examples:
  tollgate sql | pbcopy                                     then paste it into the Supabase SQL editor, and run it
  tollgate sql | psql \"$DATABASE_URL\" -v ON_ERROR_STOP=1    or straight into the database")]
pub(super) struct Args {}

/// Prints the script.
pub(super) fn run() -> Result<(), Failure> {
    Ok(print::text(SCRIPT)?)
}
