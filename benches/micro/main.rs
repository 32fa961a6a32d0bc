//! What the hot pure parts cost, in instructions.
//!
//!     cargo bench --bench micro              run all, compare with the table, fail on a rise of more than 10 %
//!     cargo bench --bench micro -- --renew   run all and write the table anew
//!
//! The program runs itself under valgrind's callgrind, which counts instructions and nothing else, so the numbers do
//! not depend on how busy or how fast a machine is: two runs differ by about 1 %. Valgrind also shows a program
//! the same few extensions on every x86-64 processor with AVX2 (no AVX-512, no SHA-NI), so libraries that choose their
//! code at run time choose the same. What moves the numbers is the compiler, the dependencies, the C library's
//! allocator and our own code. On other architectures nothing is compared.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::arithmetic_side_effects,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::disallowed_methods,
    missing_docs,
    reason = "a measurement that stumbles should stop loudly"
)]

mod auth;
mod callgrind;
mod cases;
mod table;

use std::hint::black_box;
use std::process::ExitCode;

/// One thing that is measured.
struct Case {
    name: &'static str,
    /// How often it is run; the table has the instructions of one.
    times: u64,
    run: Box<dyn FnMut()>,
}

impl Case {
    fn new<T>(name: &'static str, times: u64, mut run: impl FnMut() -> T + 'static) -> Self {
        let run = move || {
            black_box(run());
        };
        Self {
            name,
            times,
            run: Box::new(run),
        }
    }
}

fn main() -> ExitCode {
    // `cargo bench` adds `--bench`.
    let asked: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench")
        .collect();
    match asked
        .iter()
        .map(String::as_str)
        .collect::<Vec<_>>()
        .as_slice()
    {
        [callgrind::CHILD] => measure(),
        [] => return table::compare(&callgrind::run()),
        ["--renew"] => table::renew(&callgrind::run()),
        other => {
            eprintln!("micro: unknown: {other:?}; there is only --renew");
            return ExitCode::from(2);
        }
    }
    ExitCode::SUCCESS
}

/// Runs every case, and tells callgrind's parent which, in order.
fn measure() {
    for mut case in cases::all() {
        // Fills caches, loads vocabularies and binds symbols, none of which is to be counted.
        (case.run)();
        counted_by_callgrind(case.times, &mut case.run);
        println!("{} {}", case.name, case.times);
    }
}

/// Callgrind counts what happens inside this function, and writes down the count when it returns.
#[inline(never)]
fn counted_by_callgrind(times: u64, run: &mut dyn FnMut()) {
    for _ in 0..black_box(times) {
        run();
    }
}
