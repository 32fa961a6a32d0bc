//! Runs this program under callgrind and reads what it counted.

use std::fs;
use std::path::Path;
use std::process::Command;

/// Says to the program that it is the one to be measured.
pub(crate) const CHILD: &str = "--under-callgrind";

/// The function that is counted; see `main.rs`. (By its whole name: a pattern is not heeded by `--dump-after`.)
const COUNTED: &str = "micro::counted_by_callgrind";

/// The instructions of one run of a case.
pub(crate) struct Count {
    pub(crate) name: String,
    pub(crate) instructions: u64,
}

pub(crate) fn run() -> Vec<Count> {
    let directory =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("micro-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory for callgrind's files");
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--collect-atstart=no",
            "--error-exitcode=0",
        ])
        .arg(format!("--toggle-collect={COUNTED}"))
        .arg(format!("--dump-after={COUNTED}"))
        .arg(format!(
            "--callgrind-out-file={}",
            directory.join("out").display()
        ))
        .arg(std::env::current_exe().expect("this program's path"))
        .arg(CHILD)
        .output()
        .expect("valgrind cannot be started: apt-get install valgrind");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "under valgrind: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    let counts = told.lines().zip(1..).map(|(line, dump)| {
        let (name, times) = line.rsplit_once(' ').expect("a name and a number");
        let all = total(&directory.join(format!("out.{dump}")));
        assert!(all > 0, "callgrind counted nothing for {name}: was its function inlined, or its symbol stripped?");
        Count { name: name.to_owned(), instructions: all.div_ceil(times.parse().expect("a number")) }
    });
    let counts = counts.collect();
    fs::remove_dir_all(&directory).expect("callgrind's files can be removed");
    counts
}

/// The number on the line `totals: N` of one of callgrind's files.
fn total(dump: &Path) -> u64 {
    let text =
        fs::read_to_string(dump).unwrap_or_else(|error| panic!("{}: {error}", dump.display()));
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    total
        .and_then(|number| number.trim().parse().ok())
        .expect("callgrind writes its totals")
}

/// What the numbers depend on beside our own code.
pub(crate) fn made_by() -> String {
    let version = |program: &str| {
        let told = Command::new(program)
            .arg("--version")
            .output()
            .map(|output| output.stdout)
            .unwrap_or_default();
        String::from_utf8_lossy(&told).trim().to_owned()
    };
    let rustc = version("rustc");
    let rustc = rustc.split(" (").next().unwrap_or_default();
    format!(
        "{}, {rustc}, {}",
        std::env::consts::ARCH,
        version("valgrind")
    )
}
