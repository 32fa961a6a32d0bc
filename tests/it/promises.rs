//! SECURITY.md names a test for each promise: each of them must be there, be run, and be a test.
//!
//! What stands in this program is looked up in its own list. The library's tests are another program, so those are looked up
//! in the sources, from `lib.rs` down: a file that no `mod` names is no part of it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The rows of the table: the promise, and the names of its tests.
fn rows(page: &str) -> Vec<(&str, Vec<&str>)> {
    let table = page
        .split("| Promise | Tests |\n|---|---|\n")
        .nth(1)
        .expect("the table of promises");
    let lines = table.lines().take_while(|line| line.starts_with('|'));
    lines
        .map(|line| {
            let (promise, tests) = line
                .trim_matches('|')
                .rsplit_once(" | ")
                .expect("two columns");
            (
                promise.trim(),
                tests.split('`').skip(1).step_by(2).collect(),
            )
        })
        .collect()
}

/// What this program would run, or what it would leave out.
fn own_tests(more: &[&str]) -> BTreeSet<String> {
    let own = std::env::current_exe().unwrap();
    let output = Command::new(own)
        .args(more)
        .args(["--list", "--format", "terse"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .filter_map(|line| line.strip_suffix(": test"))
        .map(str::to_owned)
        .collect()
}

/// The text of a module of the library, where each file on the way is named by the one above it.
fn module(path: &[&str]) -> Option<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut text = std::fs::read_to_string(root.join("lib.rs")).ok()?;
    let mut place = PathBuf::new();
    for name in path {
        let starts = |line: &str, end: char| {
            let line = line
                .trim_start_matches("pub(crate) ")
                .trim_start_matches("pub(super) ")
                .trim_start_matches("pub ");
            line.trim_end() == format!("mod {name}{end}")
        };
        place.push(name);
        if text.lines().any(|line| starts(line, ';')) {
            let files = [
                root.join(&place).with_extension("rs"),
                root.join(&place).join("mod.rs"),
            ];
            text = files
                .iter()
                .find_map(|file| std::fs::read_to_string(file).ok())?;
        } else {
            let at = text
                .lines()
                .position(|line| line.trim_start().starts_with(&format!("mod {name} {{")))?;
            text = text.lines().skip(at + 1).collect::<Vec<_>>().join("\n");
        }
    }
    Some(text)
}

/// What is wrong with a test of a text; `None` where it is one, and is run.
fn flaw(text: &str, test: &str) -> Option<&'static str> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let begins = |line: &&str| {
        line.trim_start_matches("async ")
            .starts_with(&format!("fn {test}("))
    };
    let Some(at) = lines.iter().position(begins) else {
        return Some("is not there");
    };
    let above = lines[..at]
        .iter()
        .rev()
        .take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    let attributes: Vec<&str> = above
        .copied()
        .filter(|line| line.starts_with("#["))
        .collect();
    if attributes
        .iter()
        .any(|line| line.starts_with("#[ignore") || line.starts_with("#[cfg"))
    {
        return Some("is left out when the tests are run");
    }
    let is_test = attributes
        .iter()
        .any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"));
    (!is_test).then_some("is no test")
}

/// Checks in other languages: a function of a script that `.ci/run` runs.
fn flaw_of_script(script: &str, function: &str) -> Option<&'static str> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap_or_default();
    let text = read(script);
    // `scripts/dashboard.sh` runs `scripts/dashboard_check.py`.
    let runner = script.replace("_check.py", ".sh");
    let is_run = read(".ci/run").contains(&runner)
        && read(&runner).contains(script.rsplit('/').next().unwrap());
    let is_called = text.matches(&format!("{function}(")).count() > 1;
    match (
        text.contains(&format!("\ndef {function}(")),
        is_run && is_called,
    ) {
        (false, _) => Some("is not there"),
        (true, false) => Some("is left out when the checks are run"),
        (true, true) => None,
    }
}

fn flaw_of(name: &str, own: &BTreeSet<String>, ignored: &BTreeSet<String>) -> Option<&'static str> {
    let (path, test) = name.rsplit_once("::")?;
    if Path::new(path).extension().is_some_and(|end| end == "py") {
        return flaw_of_script(path, test);
    }
    if ignored.contains(name) {
        return Some("is left out when the tests are run");
    }
    if own.contains(name) {
        return None;
    }
    match module(&path.split("::").collect::<Vec<_>>()) {
        Some(text) => flaw(&text, test),
        None => Some("is in no module of the library, and not among the tests at the door"),
    }
}

#[test]
fn each_promise_of_the_security_page_has_tests_and_each_is_run() {
    let rows = rows(include_str!("../../SECURITY.md"));
    assert!(rows.len() > 50, "the table is read: {}", rows.len());
    let (own, ignored) = (own_tests(&[]), own_tests(&["--ignored"]));
    assert!(
        own.len() > 250,
        "the list of this program is read: {}",
        own.len()
    );
    let mut wrong = Vec::new();
    for (promise, tests) in &rows {
        if !tests.iter().any(|name| name.contains("::")) {
            wrong.push(format!("no test is named for: {promise}"));
        }
        for name in tests {
            wrong.extend(flaw_of(name, &own, &ignored).map(|flaw| format!("{name} {flaw}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn each_test_that_the_page_of_cases_names_is_there_and_is_run() {
    let page = include_str!("../../docs/field.md");
    let names = page
        .lines()
        .filter(|line| line.starts_with('|'))
        .flat_map(|line| line.split('`').skip(1).step_by(2));
    let names: BTreeSet<&str> = names
        .filter(|name| name.contains("::") && !name.contains(' '))
        .collect();
    assert!(names.len() > 50, "the page is read: {}", names.len());
    let (own, ignored) = (own_tests(&[]), own_tests(&["--ignored"]));
    let wrong: Vec<String> = names
        .into_iter()
        .filter_map(|name| flaw_of(name, &own, &ignored).map(|flaw| format!("{name} {flaw}")))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_test_that_is_gone_or_left_out_would_be_missed() {
    let (own, ignored) = (
        own_tests(&[]),
        BTreeSet::from(["limits::left_out".to_owned()]),
    );
    let flaw_of = |name: &str| flaw_of(name, &own, &ignored).unwrap_or("none");
    assert!(flaw_of("limits::nobody_wrote_this").contains("in no module"));
    assert!(flaw_of("limits::left_out").contains("left out"));
    assert!(flaw_of("auth::tests::nobody_wrote_this").contains("not there"));
    assert!(flaw_of("auth::no_such_file::a_key").contains("in no module"));
    assert_eq!(
        flaw_of("auth::tests::forged::a_key_verifies_its_own_algorithm_only"),
        "none"
    );
    assert!(flaw_of("scripts/dashboard_check.py::nobody").contains("not there"));
    let text = "#[test]\n#[ignore]\nfn a() {}\n#[test]\n/// b\nfn b() {}\nfn c() {}\n#[cfg(any())]\n#[test]\nfn d() {}";
    assert_eq!(
        ["a", "b", "c", "d"].map(|test| flaw(text, test).unwrap_or("none")),
        [
            "is left out when the tests are run",
            "none",
            "is no test",
            "is left out when the tests are run"
        ]
    );
    assert_eq!(
        rows("| Promise | Tests |\n|---|---|\n| it holds | nobody tries |\n\n"),
        [("it holds", vec![])]
    );
}
