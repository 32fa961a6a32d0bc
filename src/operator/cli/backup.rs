//! `tollgate ledger backup|restore`: copies a ledger that is a file, and puts a copy back.

use std::io::IsTerminal;
use std::path::Path;

use super::{CommandError, print};
use crate::config::{Config, StoreUrl};
use crate::ledger::tools::backup::{
    Contents, back_up, back_up_to_stream, restore, restore_from_stream,
};
use crate::price::MicroUsd;

/// Copies the ledger while it is served from.
pub(super) fn run_backup(to: Option<&Path>, config: &Config) -> Result<(), CommandError> {
    let ledger = file(config)?;
    let mut stdout = std::io::stdout();
    if to.is_none() && stdout.is_terminal() {
        return Err(CommandError::new(
            "a copy is not for a terminal",
            "name a file, or add: > tollgate.db",
        ));
    }
    let copied = to.map_or_else(
        || back_up_to_stream(ledger, &mut stdout),
        |to| back_up(ledger, to),
    );
    let contents = copied.map_err(|failure| {
        let next = "name a file that is not there yet, on a disk with room; the ledger itself was not touched";
        CommandError::new(failure.to_string(), next)
    })?;
    let name = to.map_or_else(|| "the copy".into(), Path::to_string_lossy);
    print::error_line(&format!("{name}: {}; checked", told(&contents)));
    Ok(())
}

/// Replaces the ledger by a copy. No server may be running.
pub(super) fn run_restore(
    copy: Option<&Path>,
    replace: bool,
    config: &Config,
) -> Result<(), CommandError> {
    let ledger = file(config)?;
    let restored = match copy {
        Some(copy) => restore(copy, ledger, replace),
        None => restore_from_stream(&mut std::io::stdin(), ledger, replace),
    };
    let restored = restored.map_err(|failure| {
        let next = "stop the server; name a file of `tollgate ledger backup`; over a ledger with rows, say --force (it is kept)";
        CommandError::new(failure.to_string(), next)
    })?;
    if let Some(kept) = restored.kept {
        print::error_line(&format!("the old ledger is kept as {}", kept.display()));
    }
    print::error_line(&format!(
        "{}: {}; restored",
        ledger.display(),
        told(&restored.contents)
    ));
    if restored.contents.open > 0 {
        print::error_line(
            "what was open then is lost at the next start, and charged what was held",
        );
    }
    Ok(())
}

fn file(config: &Config) -> Result<&Path, CommandError> {
    match &config.store.url {
        StoreUrl::Sqlite(path) => Ok(path),
        StoreUrl::Postgres(_) => Err(CommandError::new(
            "the ledger is in Postgres, and is no file",
            "back it up as Postgres is: pg_dump --schema=tollgate_ledger (docs/operating.md)",
        )),
    }
}

fn told(contents: &Contents) -> String {
    let Contents {
        requests,
        open,
        users,
        cost_micros,
        tokens,
        held_micros,
    } = contents;
    let (cost, held) = (MicroUsd(*cost_micros), MicroUsd(*held_micros));
    format!(
        "{requests} requests of {users} users, {tokens} tokens, ${cost} used; {open} open, ${held} held"
    )
}
