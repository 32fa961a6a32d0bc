//! The binary: parses the command line, runs it, and tells how it ended.

use std::process::ExitCode;

use clap::Parser;
use tollgate::cli::{Cli, Failure, print, run};

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => return usage(&told),
    };
    // Files and folders that this process makes are its owner's alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    // Before there are threads: it takes the variables of its arrival out of the environment.
    let handed = listenfd::ListenFd::from_env();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Failure::new(format!("no threads: {error}"), "raise the limits of this process")),
    };
    let done = runtime.block_on(run(cli, handed));
    // What must end has ended. A name that a dead DNS server is still asked for would be waited for.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

/// Help and version go to stdout and are success; wrong use goes to stderr and is 2.
fn usage(told: &clap::Error) -> ExitCode {
    drop(told.print());
    ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2))
}

fn failed(failure: &Failure) -> ExitCode {
    print::error_line(&failure.to_string());
    ExitCode::FAILURE
}
