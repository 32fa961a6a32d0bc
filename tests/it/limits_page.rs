//! docs/limits.md is made from the sources, so that it cannot drift: `TOLLGATE_WRITE_PAGES=1 cargo test --test it
//! limits_page` writes it anew.
//!
//! What can be set comes from tollgate.example.toml, which is the defaults, and how far from the loader, which is asked with
//! a value that is too much. What cannot be set comes from the constants, each with the sentence that stands above it; one
//! that is called like a bound and has no such sentence fails the test.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use tollgate::config::{Config, Sources};

/// Files whose numbers bound nothing that a caller or an operator meets: the stand-in of the demo, and tests.
const LEFT_OUT: [&str; 3] = [
    "src/operator/demo_model/mod.rs",
    "src/ledger/laws.rs",
    "src/ledger/for_laws",
];
/// What constants are called that bound something, whatever their type.
const BOUNDS: [&str; 6] = ["MAX", "MIN", "TIMEOUT", "PATIENCE", "LEEWAY", "CAP"];
/// How many headers a request may have. hyper's own bound, which we keep: `smuggling` asks with as many, and one more.
pub(crate) const HEADERS_MAX: usize = 100;

/// A bound: what it is called, what it is, how far it may be set, what it is for.
struct Bound {
    name: String,
    value: String,
    range: String,
    why: String,
}

/// A cell of a table: one line, and no bar that would end it.
fn cell(text: &str) -> String {
    text.split_whitespace()
        .collect::<Vec<_>>()
        .join(" ")
        .replace('|', "\\|")
}

/// `"10s"`, `"8MiB"`, `4096`: a wait, a size or a number.
fn is_bound(value: &str) -> bool {
    let bare = value.trim_matches('"');
    let unit = bare.trim_start_matches(|letter: char| letter.is_ascii_digit());
    bare.len() > unit.len() && ["", "ms", "s", "m", "h", "d", "B", "KiB", "MiB"].contains(&unit)
}

/// `# key = …`: a key without a default.
fn without_default(comment: &str) -> Option<(&str, &str)> {
    let is_key = |key: &str| {
        key.chars()
            .all(|letter| letter == '_' || letter.is_ascii_lowercase())
    };
    comment.split_once(" = ").filter(|(key, _)| is_key(key))
}

/// Each line of the example file that sets a bound, with its section and what stands above it.
fn settings(example: &str) -> Vec<Bound> {
    let (mut section, mut why, mut bounds) = (String::new(), Vec::new(), Vec::new());
    let mut after_key = false;
    for line in example.lines() {
        let comment = line.strip_prefix("# ");
        let key = comment.map_or_else(|| line.split_once(" = "), without_default);
        if line.starts_with('[') {
            line.clone_into(&mut section);
            why.clear();
        } else if let Some((key, value)) = key {
            after_key = true;
            if is_bound(value) && !section.is_empty() {
                let name = format!("{section} {key}");
                let (value, range) = (value.to_owned(), range(example, &section, line, key));
                let value = if comment.is_some() {
                    "left out".to_owned()
                } else {
                    value
                };
                bounds.push(Bound {
                    name,
                    value,
                    range,
                    why: why.join(" "),
                });
            }
        } else if let Some(comment) = comment {
            if std::mem::take(&mut after_key) {
                why.clear();
            }
            why.push(comment);
        } else {
            why.clear();
        }
    }
    bounds
}

/// How far a key may be set, in the words of the loader to whom so much is too much.
fn range(example: &str, section: &str, line: &str, key: &str) -> String {
    for too_much in [
        "\"99999999d\"",
        "\"99999999GiB\"",
        "9223372036854775807",
        "\"9999999999\"",
    ] {
        let (before, after) = example.split_once(&format!("{section}\n")).unwrap();
        let after = after.replacen(&format!("{line}\n"), &format!("{key} = {too_much}\n"), 1);
        let said = loaded(&format!("{before}{section}\n{after}"));
        if let Some((_, range)) = said.split_once("choose a value from ") {
            let range: Vec<&str> = range.split_whitespace().take(3).collect();
            return range.join(" ").trim_end_matches(['.', ',', ';']).to_owned();
        }
        if said.contains("is not an amount of up to a billion dollars") {
            return "more than 0, to a billion; \"none\"".to_owned();
        }
    }
    panic!("the loader names no range for {section} {key}")
}

/// What the loader says of a file.
fn loaded(toml: &str) -> String {
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!(
        "limits-page-{}-{:?}",
        std::process::id(),
        std::thread::current().id()
    ));
    fs::create_dir_all(&directory).unwrap();
    fs::write(directory.join("tollgate.toml"), toml).unwrap();
    let secrets = [
        ("JWT_SECRET", "0123456789abcdef-0123456789abcdef"),
        ("OPENAI_API_KEY", "sk-none"),
    ];
    let env = secrets
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let told = Config::load(&Sources {
        file: None,
        env,
        directory: directory.clone(),
    });
    fs::remove_dir_all(directory).unwrap();
    told.map_or_else(|errors| errors.to_string(), |_| String::new())
}

/// The part of a file that is the product.
fn product(source: &str) -> &str {
    // What follows is for the tests of the file; a line that only names a file of tests stands among the first.
    source.split("#[cfg(test)]\nmod tests {").next().unwrap()
}

/// The constants of a file that bound something, and those that seem to and say nothing of it.
fn constants(source: &str) -> (Vec<Bound>, Vec<String>) {
    let (mut why, mut bounds, mut silent) = (Vec::new(), Vec::new(), Vec::new());
    // Two constants below one sentence, without a line between them, have it in common.
    let mut shared = false;
    for line in product(source).lines().map(str::trim) {
        if let Some(comment) = line.strip_prefix("/// ") {
            if std::mem::take(&mut shared) {
                why.clear();
            }
            why.push(comment);
        } else if let Some((name, kind, value)) = constant(line) {
            shared = true;
            if is_told(name, kind, value) {
                if why.is_empty() {
                    // A number that is not even called like a bound is none.
                    silent.extend(is_called_so(name).then(|| name.to_owned()));
                    continue;
                }
                let (name, value) = (name.to_owned(), shown(kind, value));
                bounds.push(Bound {
                    name,
                    value,
                    range: String::new(),
                    why: why.join(" "),
                });
            }
        } else if !line.starts_with("///") && !line.starts_with("#[") {
            why.clear();
        }
    }
    (bounds, silent)
}

/// Name, type and value of `const NAME: usize = 8 * 1024;`.
fn constant(line: &str) -> Option<(&str, &str, &str)> {
    let (before, rest) = line.split_once("const ")?;
    let is_visibility = before.is_empty()
        || before == "pub "
        || (before.starts_with("pub(") && before.ends_with(") "));
    let (name, rest) = rest.split_once(": ").filter(|_| is_visibility)?;
    let (kind, value) = rest.strip_suffix(';')?.split_once(" = ")?;
    Some((name, kind, value))
}

/// Whether it bounds something: by its name, whatever its type, or as a number that says what it is for.
fn is_told(name: &str, kind: &str, value: &str) -> bool {
    let is_number = ["Duration", "usize", "u8", "u32", "u64", "i32", "i64"].contains(&kind);
    is_called_so(name) || (is_number && value.chars().any(|letter| letter.is_ascii_digit()))
}

fn is_called_so(name: &str) -> bool {
    name.split('_').any(|word| BOUNDS.contains(&word))
}

/// `Duration::from_secs(10)` as `10 s`, `MicroUsd(1_000)` as `1000`.
fn shown(kind: &str, value: &str) -> String {
    let value = value
        .replace("Duration::from_", "")
        .replace('(', " ")
        .replace([')', '_'], "");
    let words = value
        .split_once(' ')
        .filter(|(unit, _)| !unit.starts_with(|letter: char| letter.is_ascii_digit()));
    let Some((unit, amount)) = words else {
        return value;
    };
    let units = [
        ("secs", "s"),
        ("millis", "ms"),
        ("micros", "µs"),
        ("mins", "min"),
        ("hours", "h"),
    ];
    match units.iter().find(|(long, _)| *long == unit) {
        Some((_, short)) => format!("{amount} {short}"),
        None if unit == kind => amount.to_owned(),
        None => value,
    }
}

fn sources(place: &Path, found: &mut Vec<PathBuf>) {
    let mut entries: Vec<PathBuf> = fs::read_dir(place)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|end| end == "rs") && !path.ends_with("tests.rs") {
            found.push(path);
        }
    }
}

/// The files of the product that may bound something, by their path.
fn files(root: &Path) -> Vec<(String, String)> {
    let mut files = Vec::new();
    sources(&root.join("src"), &mut files);
    sources(&root.join("http1/src"), &mut files);
    let named = files.into_iter().map(|file| {
        let name = file
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        (name, fs::read_to_string(&file).unwrap())
    });
    named
        .filter(|(name, _)| {
            !LEFT_OUT.iter().any(|place| name.starts_with(place)) && !name.contains("/tests/")
        })
        .collect()
}

fn page(root: &Path) -> String {
    let mut page = "# Every timeout, size and limit\n\nA test (`tests/it/limits_page.rs`) makes this page \
                    from the sources: do not edit it by hand.\n\n## What you can set\n\nIn `tollgate.toml`, \
                    or as `TOLLGATE_SECTION__KEY`. The last column is the comment of the example file. A \
                    value out of range is refused at the start.\n\n| key | default | range | what it limits \
                    |\n|---|---|---|---|\n"
        .to_owned();
    let example = fs::read_to_string(root.join("tollgate.example.toml")).unwrap();
    for Bound {
        name,
        value,
        range,
        why,
    } in settings(&example)
    {
        let value = value.trim_matches('"');
        writeln!(
            page,
            "| `{}` | {} | {} | {} |",
            cell(&name),
            cell(value),
            cell(&range),
            cell(&why)
        )
        .unwrap();
    }
    page += "\n## What is fixed\n\nTo change one of these, change the code in the file that is named.\n\n";
    page += "`hyper`, which parses HTTP\n\n| name | value | what it limits |\n|---|---|---|\n";
    writeln!(page, "| headers | {HEADERS_MAX} | How many headers a request may have; one with more is answered 431. |")
        .unwrap();
    for (name, text) in files(root) {
        let (bounds, _) = constants(&text);
        if bounds.is_empty() {
            continue;
        }
        write!(
            page,
            "\n`{name}`\n\n| name | value | what it limits |\n|---|---|---|\n"
        )
        .unwrap();
        for Bound {
            name, value, why, ..
        } in bounds
        {
            writeln!(
                page,
                "| `{}` | {} | {} |",
                cell(&name),
                cell(&value),
                cell(&why)
            )
            .unwrap();
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
        "[server] header_timeout` | 10s | 100ms to 1h |",
        "[proxy] drain_timeout` | 60s | 0s to 1h |",
        "[[upstreams]] keep_alive` | left out | 0s to 1h |",
        "[plans.free] max_choices` | 1 | 1 to 128 |",
        "| headers | 100 |",
        "`BEARER_BYTES_MAX` | 8 * 1024",
        "`CACHE_KIB_MIN` | 8000 |",
        "`COST_MAX` | 1000000000000000 |",
        "`TOP_LOGPROBS_MAX` | 20 |",
        "`NAME_BYTES_MAX` | 64 |",
    ] {
        assert!(made.contains(known), "{known} is not in the page:\n{made}");
    }
    let kept = fs::read_to_string(&place).unwrap_or_default();
    assert!(
        kept == made,
        "docs/limits.md is out of date: TOLLGATE_WRITE_PAGES=1 cargo test --test it limits_page"
    );
}

#[test]
fn whatever_is_called_like_a_bound_is_in_the_page_and_says_what_it_bounds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = page(root);
    let mut wrong = Vec::new();
    for (file, text) in files(root) {
        let section = page
            .split_once(&format!("\n`{file}`\n"))
            .map_or("", |(_, rest)| rest.split("\n`src/").next().unwrap());
        // Read more simply than the page is: by words, on however many lines, at whatever depth.
        let words: Vec<&str> = product(&text).split_whitespace().collect();
        let names = words
            .windows(2)
            .filter(|pair| pair[0] == "const")
            .map(|pair| pair[1].trim_end_matches(':'));
        for name in names.filter(|name| is_called_so(name)) {
            if !section.contains(&format!("`{name}`")) {
                wrong.push(format!("{name} of {file} is not in the page"));
            }
        }
        wrong.extend(
            constants(&text)
                .1
                .iter()
                .map(|name| format!("{name} of {file} has no sentence")),
        );
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_constant_has_its_own_sentence_or_that_of_its_pair_and_any_type() {
    let source = "/// One.\nconst ONE_MAX: MicroUsd = MicroUsd(1_000);\n/// Two.\npub(crate) const TWO: Duration = \
                  Duration::from_mins(2);\nconst TWO_TOO: i32 = 2;\n\nconst NO_WORDS_MAX: u8 = 3;\n";
    let (bounds, silent) = constants(source);
    let told: Vec<_> = bounds
        .iter()
        .map(|bound| {
            (
                bound.name.as_str(),
                bound.value.as_str(),
                bound.why.as_str(),
            )
        })
        .collect();
    assert_eq!(
        told,
        [
            ("ONE_MAX", "1000", "One."),
            ("TWO", "2 min", "Two."),
            ("TWO_TOO", "2", "Two.")
        ]
    );
    assert_eq!(silent, ["NO_WORDS_MAX"]);
}
