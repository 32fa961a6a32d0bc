//! The binary: parses the command line, runs the command, and sets the exit code.

use std::process::ExitCode;

use clap::Parser;
use tollgate::operator::cli::{Cli, CommandError, print, run};

fn main() -> ExitCode {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    give_memory_back();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(told) => return usage(&told),
    };
    // Files and folders that this process makes are its owner's alone.
    rustix::process::umask(rustix::fs::Mode::RWXG | rustix::fs::Mode::RWXO);
    // Before there are threads: it takes the variables of its arrival out of the environment.
    let handed = listenfd::ListenFd::from_env();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            return failed(&CommandError::new(
                format!("no threads: {error}"),
                "raise the limits of this process",
            ));
        }
    };
    let done = runtime.block_on(run(cli, handed));
    // What must end has ended. A name that a dead DNS server is still asked for would be waited for.
    runtime.shutdown_background();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failed(&failure),
    }
}

/// glibc's allocator keeps what was freed. After the first long body it raises the size from which memory comes from the
/// kernel and goes back to it at once, up to 32 MiB, and a server stays at its peak for good: 28 bodies of 8 MiB left 130 MiB.
/// With a size that was set it stays there. It can be set before the start only, so the server starts itself once more, in the
/// same process. Whoever has set it already, or cannot start it, goes on as they are.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn give_memory_back() {
    use std::os::unix::process::CommandExt;
    const FROM: &str = "MALLOC_MMAP_THRESHOLD_";
    let mut words = std::env::args_os();
    let (Some(name), words) = (words.next(), words.collect::<Vec<_>>()) else {
        return;
    };
    let is_server = words.iter().any(|word| word == "serve" || word == "demo");
    if !is_server
        || std::env::var_os(FROM).is_some()
        || std::env::var_os("GLIBC_TUNABLES").is_some()
    {
        return;
    }
    let mut again = std::process::Command::new("/proc/self/exe");
    again
        .arg0(name)
        .args(words)
        .env(FROM, "262144")
        .env("MALLOC_TRIM_THRESHOLD_", "1048576");
    // It comes back only where it cannot: then memory stays, and nothing else is wrong.
    drop(again.exec());
}

/// Help and version go to stdout and are success; wrong use goes to stderr and is 2.
fn usage(told: &clap::Error) -> ExitCode {
    drop(told.print());
    ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(2))
}

fn failed(failure: &CommandError) -> ExitCode {
    print::error_line(&failure.to_string());
    ExitCode::FAILURE
}
