//! docs/limits.md is made from the sources, so that it cannot drift: `TOLLGATE_WRITE_PAGES=1 cargo test --test it
//! limits_page` writes it anew.
//!
//! What can be set comes from tollgate.example.toml, which is the defaults; what cannot comes from the constants, each with
//! the sentence that stands above it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// Files whose numbers bound nothing that a caller or an operator meets.
const LEFT_OUT: [&str; 3] = ["src/cli", "src/standin.rs", "src/ledger/for_laws"];

/// A bound: what it is called, what it is, what it is for.
struct Bound {
    name: String,
    value: String,
    why: String,
}

/// A cell of a table: one line, and no bar that would end it.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// `"10s"`, `"8MiB"`, `4096`: a wait, a size or a number.
fn is_bound(value: &str) -> bool {
    let bare = value.trim_matches('"');
    let unit = bare.trim_start_matches(|letter: char| letter.is_ascii_digit());
    bare.len() > unit.len() && ["", "ms", "s", "m", "h", "d", "B", "KiB", "MiB"].contains(&unit)
}

fn settings(example: &str) -> Vec<Bound> {
    let (mut section, mut why, mut bounds) = (String::new(), Vec::new(), Vec::new());
    let mut after_key = false;
    for line in example.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            // A key without a default, such as `# url = "…"`.
            if comment
                .split_once(" = ")
                .is_some_and(|(key, _)| key.chars().all(|letter| letter == '_' || letter.is_ascii_lowercase()))
            {
                after_key = true;
                continue;
            }
            if std::mem::take(&mut after_key) {
                why.clear();
            }
            why.push(comment);
        } else if line.starts_with('[') {
            line.trim_matches(['[', ']']).clone_into(&mut section);
            why.clear();
        } else if let Some((key, value)) = line.split_once(" = ") {
            after_key = true;
            if is_bound(value) {
                let name = format!("[{section}] {key}");
                bounds.push(Bound { name, value: value.to_owned(), why: why.join(" ") });
            }
        } else {
            why.clear();
        }
    }
    bounds
}

fn constants(source: &str) -> Vec<Bound> {
    // What follows is for the tests of the file; a line that only names a file of tests stands among the first.
    let source = source.split("#[cfg(test)]\nmod tests {").next().unwrap();
    let (mut why, mut bounds) = (Vec::new(), Vec::new());
    let mut after_constant = false;
    for line in source.lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("/// ") {
            if std::mem::take(&mut after_constant) {
                why.clear();
            }
            why.push(comment);
        } else if let Some(bound) = constant(line, &why.join(" ")) {
            after_constant = true;
            bounds.push(bound);
        } else if !line.starts_with("///") {
            why.clear();
        }
    }
    bounds
}

/// `const NAME: usize = 8 * 1024;`, documented.
fn constant(line: &str, why: &str) -> Option<Bound> {
    let (_, rest) = line.split_once("const ")?;
    let (name, rest) = rest.split_once(": ")?;
    let (kind, value) = rest.strip_suffix(';')?.split_once(" = ")?;
    let is_number = ["Duration", "usize", "u8", "u32", "u64", "i64"].contains(&kind);
    let is_shouted = name.chars().all(|letter| letter.is_ascii_uppercase() || letter.is_ascii_digit() || letter == '_');
    let says = value.chars().any(|letter| letter.is_ascii_digit()) && !why.is_empty();
    let value = value.replace("Duration::from_", "").replace('(', " ").replace(')', "");
    let words = value.split_once(' ').filter(|(unit, _)| kind == "Duration" && !unit.starts_with(char::is_numeric));
    let value = words.map_or_else(
        || value.replace('_', ""),
        |(unit, amount)| {
            let unit = [("secs", "s"), ("millis", "ms"), ("micros", "µs"), ("mins", "min"), ("hours", "h")]
                .iter()
                .find(|(long, _)| *long == unit);
            format!("{amount} {}", unit.map_or("", |(_, short)| short))
        },
    );
    (is_number && is_shouted && says).then(|| Bound { name: name.to_owned(), value, why: why.to_owned() })
}

fn sources(place: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

fn page(root: &Path) -> String {
    let mut page = "# Every wait, size and bound\n\nMade from the sources by a test (`tests/it/limits_page.rs`): do not edit it by \
                    hand.\n\n## What you can set\n\nIn `tollgate.toml`, or as `TOLLGATE_SECTION__KEY`. Some stand for two \
                    keys at once: the sentence is the one of the example file.\n\n| key | default | what it bounds |\n|---|---|---|\n"
        .to_owned();
    let example = fs::read_to_string(root.join("tollgate.example.toml")).unwrap();
    let row = |page: &mut String, bound: &Bound| {
        let Bound { name, value, why } = bound;
        writeln!(page, "| `{}` | {} | {} |", cell(name), cell(value.trim_matches('"')), cell(why)).unwrap();
    };
    for bound in settings(&example) {
        row(&mut page, &bound);
    }
    page += "\n## What is fixed\n\nTo change one of these is to change the code, at the place that is named.\n";
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    for file in files {
        let name = file.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
        let bounds = constants(&fs::read_to_string(&file).unwrap());
        if bounds.is_empty() || LEFT_OUT.iter().any(|place| name.starts_with(place)) {
            continue;
        }
        write!(page, "\n`{name}`\n\n| name | value | what it bounds |\n|---|---|---|\n").unwrap();
        for bound in bounds {
            row(&mut page, &bound);
        }
    }
    page
}

#[test]
fn the_page_of_limits_is_what_the_sources_say() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (made, place) = (page(root), root.join("docs/limits.md"));
    if env::var_os("TOLLGATE_WRITE_PAGES").is_some() {
        fs::write(&place, &made).unwrap();
    }
    for known in [
        "[server] header_timeout` | 10s",
        "[proxy] drain_timeout` | 60s",
        "`BEARER_BYTES_MAX` | 8 * 1024",
        "`CACHE_KIB` |",
    ] {
        assert!(made.contains(known), "{known} is not in the page");
    }
    let kept = fs::read_to_string(&place).unwrap_or_default();
    assert!(kept == made, "docs/limits.md is out of date: TOLLGATE_WRITE_PAGES=1 cargo test --test it limits_page");
}
