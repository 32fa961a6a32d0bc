//! `tollgate sql`: prints the script for the developer's database.
//!
//! It does not read settings, so it works before there are any.

use super::{CommandError, print};
use crate::supabase::SCRIPT;

/// Print the SQL script for your database: for the Supabase SQL editor, or psql
#[derive(Debug, clap::Args)]
#[command(
    after_help = "It may be run again at any time: your edited functions and your rows stay as they are.

Examples:
  tollgate sql | pbcopy                                     then paste it into the Supabase SQL editor, and run it
  tollgate sql | psql \"$DATABASE_URL\" -v ON_ERROR_STOP=1    or straight into the database"
)]
pub(super) struct SqlArgs {}

/// Prints the script.
pub(super) fn run() -> Result<(), CommandError> {
    Ok(print::text(SCRIPT)?)
}
