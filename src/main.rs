//! The binary: parses the command line, runs it, and tells how it ended.

use std::hint::black_box;
use std::process::ExitCode;

use clap::Parser;
use tollgate::cli::{Cli, Failure, print, run};

/// Half of what the allocator may keep of what was freed, for each of its arenas.
const KEPT_BYTES: usize = 1024 * 1024;

fn main() -> ExitCode {
    keep_freed_memory();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => return usage(&told),
    };
    // Before there are threads: it takes the variables of its arrival out of the environment.
    let handed = listenfd::ListenFd::from_env();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&Failure::new(format!("no threads: {error}"), "raise the limits of this process")),
    };
    match runtime.block_on(run(cli, handed)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

/// As it starts, glibc gives memory back to the kernel as soon as 128 KiB at the end of a heap are free, and with the next
/// request asks for the same pages again. A mapping that is freed teaches it to keep twice as much (mallopt(3),
/// `M_MMAP_THRESHOLD`). No page of this one is touched.
fn keep_freed_memory() {
    drop(black_box(Vec::<u8>::with_capacity(KEPT_BYTES)));
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
