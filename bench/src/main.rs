//! `tollgate-bench`: what measures Tollgate. A fake upstream, a loader, and the tokens of many users.
//!
//! `bench/run.py` puts them together; see `bench/README.md`. Each command is one thread, so that it can be pinned.

mod http;
mod load;
mod stats;
mod tokens;
mod upstream;

use std::process::ExitCode;

use clap::Parser;

/// What measures Tollgate: a fake upstream, a loader, the tokens of many users
#[derive(Debug, Parser)]
enum Command {
    /// Serve as OpenAI and as Supabase's key set; prints its address
    Upstream(upstream::Args),
    /// Send requests and print as JSON how long they took
    Load(Box<load::Args>),
    /// Print an access token a line, for users 0, 1, 2 …
    Tokens(tokens::Args),
}

fn main() -> ExitCode {
    let command = Command::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let done = runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| {
            let local = tokio::task::LocalSet::new();
            match command {
                Command::Upstream(args) => local.block_on(&runtime, upstream::run(args)),
                Command::Load(args) => local.block_on(&runtime, load::run(*args)),
                Command::Tokens(args) => tokens::run(&args),
            }
        });
    if let Err(error) = done {
        eprintln!("tollgate-bench: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
