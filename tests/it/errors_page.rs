//! The table of docs/errors.md has the codes of src/error.rs, with their status and what they mean, so that it cannot drift:
//! `TOLLGATE_WRITE_PAGES=1 cargo test --test it errors_page` writes it anew. What the operator and the app can do about a code is
//! written in the page by hand, and kept.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

/// The head of the table.
const HEAD: &str = "| code | status | what it means | what the operator can do | what the app does |\n|---|---|---|---|---|\n";
/// Stands in the page for what nobody has written yet.
const OPEN: &str = "WRITE THIS";

struct Code {
    name: String,
    status: String,
    meaning: String,
}

/// The codes of the source, each with the sentences above it.
fn codes(source: &str) -> Vec<Code> {
    let (_, list) = source.split_once("\ncodes! {\n").unwrap();
    let (mut meaning, mut codes) = (Vec::new(), Vec::new());
    for line in list.lines().map(str::trim).take_while(|line| *line != "}") {
        if let Some(sentence) = line.strip_prefix("/// ") {
            meaning.push(sentence);
            continue;
        }
        // `NotFound = "not_found", 404, "invalid_request_error";`
        let parts: Vec<&str> = line.split('"').collect();
        assert_eq!(parts.len(), 5, "{line}");
        codes.push(Code {
            name: parts[1].to_owned(),
            status: parts[2].trim_matches([',', ' ']).to_owned(),
            meaning: std::mem::take(&mut meaning).join(" "),
        });
    }
    codes
}

/// The page with its table made anew.
fn page(old: &str, codes: &[Code]) -> String {
    let (before, rest) = old.split_once(HEAD).expect("the page has the table");
    let (table, after) = rest.split_once("\n\n").unwrap();
    let by_hand: HashMap<&str, Vec<&str>> = table
        .lines()
        .map(|line| {
            let cells: Vec<&str> = line
                .trim_start_matches("| ")
                .trim_end_matches(" |")
                .split(" | ")
                .collect();
            assert_eq!(cells.len(), 5, "{line}");
            (cells[0].trim_matches('`'), cells[3..].to_vec())
        })
        .collect();
    let mut page = format!("{before}{HEAD}");
    for Code {
        name,
        status,
        meaning,
    } in codes
    {
        let advice = by_hand.get(name.as_str()).cloned().unwrap_or(vec![OPEN; 2]);
        writeln!(
            page,
            "| `{name}` | {status} | {meaning} | {} |",
            advice.join(" | ")
        )
        .unwrap();
    }
    page + "\n" + after
}

#[test]
fn the_page_of_errors_has_every_code_with_its_status_and_meaning() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = root.join("docs/errors.md");
    let old = fs::read_to_string(&place).unwrap();
    let codes = codes(&fs::read_to_string(root.join("src/error.rs")).unwrap());
    let served = tollgate::error::Code::ALL
        .iter()
        .map(|code| (code.as_str(), code.status().to_string()));
    assert!(
        served.eq(codes
            .iter()
            .map(|code| (code.name.as_str(), code.status.clone()))),
        "the codes were not read as the compiler reads them"
    );
    for code in &codes {
        assert!(
            code.meaning.ends_with('.'),
            "{} says what it means",
            code.name
        );
    }
    let made = page(&old, &codes);
    if env::var_os("TOLLGATE_WRITE_PAGES").is_some() {
        fs::write(&place, &made).unwrap();
    }
    assert!(!made.contains(OPEN), "say what to do about a new code");
    let kept = fs::read_to_string(&place).unwrap();
    assert!(
        kept == made,
        "docs/errors.md is out of date: TOLLGATE_WRITE_PAGES=1 cargo test --test it errors_page"
    );
}
