//! docs/settings.md is made from tollgate.example.toml, which is the defaults and says what each key does:
//! `TOLLGATE_WRITE_PAGES=1 cargo test --test it settings_page` writes it anew. `limits_page.rs` adds how far numbers may be set.

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

const HEAD: &str = "# Every setting\n\nA test (`tests/it/settings_page.rs`) makes this page from \
    [tollgate.example.toml](../tollgate.example.toml): do not edit it by hand.\n\nWrite into `tollgate.toml` only what you \
    change. Each key is also a variable: `[server] bind` is `TOLLGATE_SERVER__BIND`, and `max_output_tokens` of the plan `free` is \
    `TOLLGATE_PLANS__FREE__MAX_OUTPUT_TOKENS`. Later sources override earlier ones: the defaults, `tollgate.toml`, `.env`, the \
    environment. Times are written as `\"500ms\"`, `\"10s\"`, `\"15m\"`, `\"1h\"`, `\"400d\"`; sizes as `\"512B\"`, `\"32KiB\"`, \
    `\"8MiB\"`; money as `\"0.50\"`, in quotes. \"–\" is no default. How far each number may be set is in \
    [limits.md](limits.md#what-you-can-set).\n\n`tollgate check` prints what your settings mean, or everything that is wrong with \
    them.\n";

/// A section, or a kind of section that the file only shows.
struct Section {
    name: String,
    about: String,
    settings: Vec<Setting>,
}

struct Setting {
    key: String,
    value: String,
    is_default: bool,
    about: String,
}

/// `key = value`, if the key is one.
fn assignment(line: &str) -> Option<(&str, &str)> {
    line.split_once(" = ").filter(|(key, _)| {
        key.chars()
            .all(|letter| letter == '_' || letter.is_ascii_lowercase() || letter.is_ascii_digit())
    })
}

/// `[server]`, `[[upstreams]]`.
fn heading(line: &str) -> Option<&str> {
    let line = line.trim_end();
    (line.starts_with('[') && line.ends_with(']') && !line.contains(" = ")).then_some(line)
}

/// The sections of the file. The lines above a key are about it and about those that follow without a line between.
fn sections(example: &str) -> Vec<Section> {
    let (mut sections, mut above, mut after_key) = (Vec::<Section>::new(), Vec::new(), false);
    let mut lines = example.lines();
    while let Some(line) = lines.next() {
        let comment = line.strip_prefix("# ");
        let bare = comment.unwrap_or(line);
        if let Some(name) = heading(bare) {
            let about = if after_key {
                String::new()
            } else {
                above.join(" ")
            };
            above.clear();
            after_key = false;
            sections.push(Section {
                name: name.to_owned(),
                about,
                settings: Vec::new(),
            });
        } else if let Some((key, value)) = assignment(bare) {
            after_key = true;
            let (value, beside) = value
                .split_once("  # ")
                .map_or((value, ""), |(value, beside)| (value, beside.trim()));
            let mut value = value.trim().to_owned();
            if value == "[" {
                let rest: Vec<&str> = lines
                    .by_ref()
                    .take_while(|line| *line != "]")
                    .map(str::trim)
                    .collect();
                value = format!("[{}]", rest.join(" ").trim_end_matches(','));
            }
            let about = format!("{} {beside}", above.join(" ")).trim().to_owned();
            sections
                .last_mut()
                .expect("keys stand in sections")
                .settings
                .push(Setting {
                    key: key.to_owned(),
                    value,
                    is_default: comment.is_none(),
                    about,
                });
        } else if let Some(comment) = comment {
            if std::mem::take(&mut after_key) {
                above.clear();
            }
            above.push(comment);
        } else {
            above.clear();
            after_key = false;
        }
    }
    sections
}

/// Text in a table: no bar that would end the cell, and nothing that would be a tag.
fn cell(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let plain = |(place, part): (usize, &str)| {
        let part = part.replace('|', "\\|");
        if place % 2 == 0 {
            part.replace('<', "&lt;").replace('*', "\\*")
        } else {
            part
        }
    };
    parts.map(plain).collect::<Vec<_>>().join("`")
}

fn page(example: &str) -> String {
    let mut page = HEAD.to_owned();
    for Section {
        name,
        about,
        settings,
    } in sections(example)
    {
        write!(page, "\n## `{name}`\n\n").unwrap();
        if !about.is_empty() {
            writeln!(page, "{}\n", cell(&about)).unwrap();
        }
        page += "| key | default | what it does |\n|---|---|---|\n";
        for Setting {
            key,
            value,
            is_default,
            about,
        } in settings
        {
            let value = value.replace('|', "\\|");
            let (default, such) = if is_default {
                (format!("`{value}`"), String::new())
            } else {
                ("–".to_owned(), format!(" Such as `{value}`"))
            };
            let is_open = !such.is_empty() && !about.is_empty() && !about.ends_with(['.', ':']);
            let about = cell(&about) + if is_open { "." } else { "" } + &such;
            writeln!(page, "| `{key}` | {default} | {} |", about.trim()).unwrap();
        }
    }
    page
}

#[test]
fn the_page_of_settings_is_what_the_example_file_says() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = fs::read_to_string(root.join("tollgate.example.toml")).unwrap();
    let (made, place) = (page(&example), root.join("docs/settings.md"));
    if env::var_os("TOLLGATE_WRITE_PAGES").is_some() {
        fs::write(&place, &made).unwrap();
    }
    // Every line that sets or shows something is there, whatever was made of it.
    let shown = example
        .lines()
        .filter_map(|line| assignment(line.strip_prefix("# ").unwrap_or(line)));
    for (key, _) in shown {
        assert!(
            made.contains(&format!("| `{key}` |")),
            "{key} is not in the page"
        );
    }
    for known in [
        "## `[[auth.issuers]]`\n\nOther issuers",
        "| `drain_timeout` | `\"60s\"` | How long draining",
        "| `via` | – | How Tollgate asks your own database",
        "{ per = \"minute\", requests = 10 }, { per = \"day\"",
        "| `cache_write_1h` | – | left out: twice input. Such as `\"0.30\"` |",
    ] {
        assert!(made.contains(known), "{known} is not in the page:\n{made}");
    }
    assert!(
        fs::read_to_string(&place).unwrap_or_default() == made,
        "docs/settings.md is out of date: TOLLGATE_WRITE_PAGES=1 cargo test --test it settings_page"
    );
}
