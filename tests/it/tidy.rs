//! Rules of the source tree, checked on its text: which room may use which, no circle between files, one style of module
//! files, the length of files, and one meaning for each public type name.
//!
//! The table of rooms stands in ARCHITECTURE.md and is read from there. Code under `#[cfg(test)]` is free.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// What is built into the server: the library, and the crate that it reads HTTP with.
const FOLDERS: [&str; 2] = ["src", "http1/src"];
/// Where a file is split, or listed in [`LONG_FILES`] with the reason why it is not.
const LINES_MAX: usize = 400;
/// Of a hundred types, so many may share their name with another type.
const SHARED_NAMES_PERCENT_MAX: usize = 12;

/// Files that are longer than [`LINES_MAX`], without their tests.
const LONG_FILES: &[(&str, &str)] = &[
    (
        "account.rs",
        "three small endpoints and the shapes of limits that they share",
    ),
    (
        "endpoint/chat/check.rs",
        "one function for each field of the allow-list",
    ),
    ("ledger/mod.rs", "the interface of both stores"),
    (
        "ledger/postgres/lane.rs",
        "one pipeline from queue to answer",
    ),
    (
        "ledger/read/report.rs",
        "every read of the ledger that both stores have",
    ),
    ("ledger/sqlite/mod.rs", "the statements of one file"),
    (
        "ledger/sqlite/writer.rs",
        "one thread and its failure paths, to be read in one go",
    ),
    (
        "ledger/tools/export.rs",
        "export and import, line for line beside each other",
    ),
    ("operator/cli/user.rs", "six small commands"),
    (
        "operator/queries/users.rs",
        "what is read of a user and what is changed",
    ),
];

/// Files that use each other, directly or in a round, and why.
const CIRCLES: &[(&[&str], &str)] = &[
    (
        &["ledger/file.rs", "ledger/sqlite/mod.rs"],
        "opening a file reads its schema",
    ),
    (
        &[
            "ledger/postgres/mod.rs",
            "ledger/queue.rs",
            "ledger/read/report.rs",
        ],
        "the queue holds the jobs of both stores, and a job may be a read",
    ),
    (
        &[
            "meter/chat.rs",
            "meter/choices.rs",
            "meter/text.rs",
            "meter/usage/reports.rs",
            "meter/watch.rs",
        ],
        "the parser of an event writes into the state of the stream, so that nothing is copied",
    ),
];

/// Names that several public types have, and why.
const SHARED_NAMES: &[(&str, &str)] = &[
    ("End", "of a body, and of a request"),
    ("Progress", "of a stream, and of a request"),
    (
        "Failure",
        "a failure of the ledger and one of an upstream, each in its own room",
    ),
    ("Place", "of a file and of a row in it"),
    ("Problem", "of a setting, and of a data URL"),
    ("Reports", "of the ledger, and of usage"),
    ("Watch", "over a lease, and over a stream"),
];

/// A file of `src/`, without its tests and with comments and strings blanked out.
struct Source {
    /// The path below `src/`.
    path: String,
    /// `["proxy", "dispatch"]` for `proxy/dispatch.rs`.
    module: Vec<String>,
    code: String,
    lines: usize,
}

/// A row of the table of rooms.
struct Room {
    paths: Vec<String>,
    may_touch: BTreeSet<String>,
    may_touch_all: bool,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The end of the comment, string or character that begins at `at`, if one does.
fn literal_end(text: &[u8], at: usize) -> Option<usize> {
    let rest = &text[at..];
    let find = |needle: &[u8], from: usize| {
        rest[from..]
            .windows(needle.len())
            .position(|window| window == needle)
            .map_or(text.len(), |found| at + from + found + needle.len())
    };
    if rest.starts_with(b"//") {
        return Some(
            rest.iter()
                .position(|byte| *byte == b'\n')
                .map_or(text.len(), |end| at + end),
        );
    }
    if rest.starts_with(b"/*") {
        return Some(find(b"*/", 2));
    }
    let is_word = at > 0 && (text[at - 1].is_ascii_alphanumeric() || text[at - 1] == b'_');
    if rest.starts_with(b"r") && !(is_word && text[at - 1] != b'b') {
        let hashes = rest[1..].iter().take_while(|byte| **byte == b'#').count();
        if rest.get(1 + hashes) == Some(&b'"') {
            let end = format!("\"{}", "#".repeat(hashes));
            return Some(find(end.as_bytes(), 2 + hashes));
        }
    }
    if rest[0] == b'"' {
        let mut end = 1;
        while end < rest.len() && rest[end] != b'"' {
            end += if rest[end] == b'\\' { 2 } else { 1 };
        }
        return Some((at + end + 1).min(text.len()));
    }
    if rest[0] == b'\'' {
        // A character, unless it is a lifetime.
        let end = if rest.get(1) == Some(&b'\\') {
            3 + rest[3..].iter().position(|byte| *byte == b'\'')?
        } else {
            let letter = std::str::from_utf8(&rest[1..rest.len().min(5)])
                .map_or_else(|error| error.valid_up_to(), str::len);
            let letter = std::str::from_utf8(&rest[1..=letter])
                .ok()?
                .chars()
                .next()?;
            1 + letter.len_utf8()
        };
        return (rest.get(end) == Some(&b'\'')).then_some(at + end + 1);
    }
    None
}

/// The code with comments, strings and characters turned into spaces; lines stay where they are.
fn blanked(text: &str) -> String {
    let mut bytes = text.as_bytes().to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = literal_end(text.as_bytes(), at).unwrap_or(at);
        for byte in &mut bytes[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(bytes).unwrap()
}

/// Where the item ends that begins at `from`: with its block, or its semicolon.
fn item_end(code: &str, from: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(from) {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b')' | b']' | b'}' => depth -= 1,
            b';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    code.len()
}

/// Takes out the items under `#[cfg(test)]`; gives the names of the modules that are declared there.
fn cut_tests(code: &mut String) -> Vec<String> {
    let mut modules = Vec::new();
    while let Some(start) = code
        .find("#[cfg(test)]")
        .or_else(|| code.find("#[cfg(all(test"))
    {
        let end = item_end(code, start + code[start..].find(']').unwrap() + 1);
        let item = code[start..end].to_owned();
        if let Some(name) = item
            .strip_suffix(';')
            .and_then(|item| item.rsplit_once("mod "))
        {
            modules.push(name.1.trim().to_owned());
        }
        code.replace_range(start..end, "");
    }
    modules
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Every file of the library that is no test.
fn sources() -> Vec<Source> {
    sources_in("src")
}

fn sources_in(folder: &str) -> Vec<Source> {
    let src = root().join(folder);
    let mut files = Vec::new();
    rust_files(&src, &mut files);
    files.sort();
    let (mut all, mut tests) = (Vec::new(), BTreeSet::new());
    for file in files {
        let mut code = blanked(&fs::read_to_string(&file).unwrap());
        let path = file
            .strip_prefix(&src)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        let mut module: Vec<String> = path
            .trim_end_matches(".rs")
            .split('/')
            .map(str::to_owned)
            .collect();
        if ["mod", "lib", "main"].contains(&module.last().unwrap().as_str()) {
            module.pop();
        }
        for name in cut_tests(&mut code) {
            tests.insert([module.clone(), vec![name]].concat());
        }
        let lines = code.lines().count();
        all.push(Source {
            path,
            module,
            code,
            lines,
        });
    }
    all.retain(|source| {
        source.path != "main.rs" && !tests.iter().any(|test| source.module.starts_with(test))
    });
    all
}

/// The paths of a `use` tree: `a::{b, c::d}` is `a::b` and `a::c::d`.
fn expand(tree: &str, before: &[String], paths: &mut Vec<Vec<String>>) {
    let tree = tree.trim();
    let (head, group) = match tree.split_once('{') {
        Some((head, group)) => (head, Some(group.trim_end().strip_suffix('}').unwrap())),
        None => (tree.split(" as ").next().unwrap(), None),
    };
    let names = head
        .split("::")
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty());
    let path: Vec<String> = before.iter().cloned().chain(names).collect();
    let Some(group) = group else {
        paths.push(path);
        return;
    };
    let (mut depth, mut start) = (0, 0);
    for (at, byte) in group.bytes().chain([b',']).enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                if !group[start..at].trim().is_empty() {
                    expand(&group[start..at], &path, paths);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Every path with `::` in it that the code names, in `use` items and elsewhere.
fn paths(code: &str) -> Vec<Vec<String>> {
    let (mut paths, mut rest) = (Vec::new(), String::new());
    let mut at = 0;
    while let Some(found) = code[at..].find("use ") {
        let start = at + found;
        rest.push_str(&code[at..start]);
        let is_item =
            !code[..start].ends_with(|letter: char| letter.is_alphanumeric() || letter == '_');
        at = if is_item {
            item_end_of_use(code, start)
        } else {
            start + 4
        };
        if is_item {
            expand(code[start + 4..at].trim_end_matches(';'), &[], &mut paths);
        }
    }
    rest.push_str(&code[at..]);
    let is_of_path = |letter: char| letter.is_alphanumeric() || letter == '_' || letter == ':';
    for word in rest
        .split(|letter| !is_of_path(letter))
        .filter(|word| word.contains("::"))
    {
        paths.push(word.split("::").map(str::to_owned).collect());
    }
    paths
}

fn item_end_of_use(code: &str, start: usize) -> usize {
    code[start..]
        .find(';')
        .map_or(code.len(), |end| start + end + 1)
}

/// The files that each file uses, by their places in `sources`.
fn edges(sources: &[Source]) -> Vec<BTreeSet<usize>> {
    let modules: BTreeMap<&[String], usize> = sources
        .iter()
        .enumerate()
        .map(|(place, source)| (source.module.as_slice(), place))
        .collect();
    let resolve = |from: &Source, path: &[String]| -> Option<usize> {
        let (mut module, mut path) = match path.first()?.as_str() {
            "crate" => (Vec::new(), &path[1..]),
            "self" => (from.module.clone(), &path[1..]),
            "super" => (from.module.clone(), path),
            child => {
                let child = [from.module.clone(), vec![child.to_owned()]].concat();
                modules.get(child.as_slice())?;
                (from.module.clone(), path)
            }
        };
        while path.first().is_some_and(|name| name == "super") {
            module.pop();
            path = &path[1..];
        }
        for name in path {
            let deeper = [module.clone(), vec![name.clone()]].concat();
            if !modules.contains_key(deeper.as_slice()) {
                break;
            }
            module = deeper;
        }
        modules.get(module.as_slice()).copied()
    };
    sources
        .iter()
        .enumerate()
        .map(|(place, source)| {
            paths(&source.code)
                .iter()
                .filter_map(|path| resolve(source, path))
                .filter(|used| *used != place)
                .collect()
        })
        .collect()
}

/// The table of rooms in ARCHITECTURE.md. A room is what the first cell names that is there below `src/`.
fn rooms() -> Vec<Room> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, section) = text
        .split_once("## The rooms")
        .expect("a section about the rooms");
    let section = section.split("\n## ").next().unwrap();
    let quoted = |cell: &str| -> Vec<String> {
        let names = cell.split('`').skip(1).step_by(2);
        let names = names.map(|name| name.trim_start_matches("src/").to_owned());
        names
            .filter(|name| root().join("src").join(name).exists())
            .collect()
    };
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split(" | ").collect();
        let [room, _, may_touch] = cells[..] else {
            panic!("a row of three cells: {row}");
        };
        Room {
            paths: quoted(room),
            may_touch: quoted(may_touch).into_iter().collect(),
            may_touch_all: may_touch.contains("everything"),
        }
    })
    .collect()
}

/// The room of a file: the one with the longest path that holds it.
fn room_of<'a>(rooms: &'a [Room], path: &str) -> Option<&'a Room> {
    let length = |room: &&Room| {
        let holds = |of_room: &&String| {
            path == of_room.as_str()
                || (of_room.ends_with('/') && path.starts_with(of_room.as_str()))
        };
        room.paths.iter().filter(holds).map(String::len).max()
    };
    rooms
        .iter()
        .filter(|room| length(room).is_some())
        .max_by_key(length)
}

/// `lib.rs`, and a `mod.rs` that only gathers rooms.
fn only_declares_modules(source: &Source) -> bool {
    let mut lines = source.code.lines().map(str::trim);
    lines.all(|line| line.is_empty() || line.starts_with("mod ") || line.contains(" mod "))
}

fn none_of(what: &str, found: &BTreeSet<String>) {
    assert!(
        found.is_empty(),
        "{what}:\n  {}",
        found.iter().cloned().collect::<Vec<_>>().join("\n  ")
    );
}

#[test]
fn every_file_is_in_a_room_and_uses_only_what_the_table_allows() {
    let (sources, rooms) = (sources(), rooms());
    let edges = edges(&sources);
    let (mut homeless, mut wrong, mut seen) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (source, used) in sources
        .iter()
        .zip(&edges)
        .filter(|(source, _)| !only_declares_modules(source))
    {
        let Some(room) = room_of(&rooms, &source.path) else {
            homeless.insert(source.path.clone());
            continue;
        };
        for other in used.iter().map(|used| &sources[*used]) {
            let Some(to) = room_of(&rooms, &other.path).filter(|to| !std::ptr::eq(*to, room))
            else {
                continue;
            };
            match to.paths.iter().find(|path| room.may_touch.contains(*path)) {
                Some(path) => _ = seen.insert((room.paths[0].clone(), path.clone())),
                None if room.may_touch_all => {}
                None => _ = wrong.insert(format!("{} uses {}", source.path, other.path)),
            }
        }
    }
    none_of(
        "files that the table of rooms in ARCHITECTURE.md does not name",
        &homeless,
    );
    none_of(
        "uses that the table of rooms in ARCHITECTURE.md does not allow",
        &wrong,
    );
    let said = rooms.iter().flat_map(|room| {
        room.may_touch
            .iter()
            .map(|path| (room.paths[0].clone(), path.clone()))
    });
    let idle = said
        .filter(|pair| !seen.contains(pair))
        .map(|(room, path)| format!("{room} may touch {path}"));
    none_of("what the table allows and no file does", &idle.collect());
}

/// A module and those below it may use each other: `mod.rs` gathers what its files say, and they share its types.
#[test]
fn no_circle_of_files_uses_each_other() {
    let sources = sources();
    let mut edges = edges(&sources);
    for (place, used) in edges.iter_mut().enumerate() {
        let module = &sources[place].module;
        used.retain(|other| {
            let other = &sources[*other].module;
            !other.starts_with(module) && !module.starts_with(other)
        });
    }
    // What reaches what, over any number of files.
    let mut reach = edges.clone();
    for middle in 0..sources.len() {
        let further = reach[middle].clone();
        for used in reach.iter_mut().filter(|used| used.contains(&middle)) {
            used.extend(&further);
        }
    }
    let (mut found, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for (place, used) in edges.iter().enumerate() {
        for other in used.iter().filter(|other| reach[**other].contains(&place)) {
            let (one, two) = (sources[place].path.as_str(), sources[*other].path.as_str());
            let is_listed = |files: &[&str]| files.contains(&one) && files.contains(&two);
            if CIRCLES.iter().any(|(files, _)| is_listed(files)) {
                seen.extend([one, two]);
            } else {
                found.insert(format!("{one} uses {two}"));
            }
        }
    }
    let listed = CIRCLES.iter().flat_map(|(files, _)| *files);
    let stale = listed.filter(|file| !seen.contains(*file));
    none_of("files in a circle", &found);
    none_of(
        "files in the list that are in no circle: take them out",
        &stale.map(|file| (*file).to_owned()).collect(),
    );
}

#[test]
fn a_module_with_children_is_a_mod_rs() {
    for folder in FOLDERS {
        let sources = sources_in(folder);
        let beside = sources.iter().filter(|source| {
            root()
                .join(folder)
                .join(source.path.trim_end_matches(".rs"))
                .is_dir()
        });
        none_of(
            "files beside a folder of their name: make them mod.rs",
            &beside.map(|source| source.path.clone()).collect(),
        );
    }
}

#[test]
fn files_are_short_or_say_why_not() {
    let sources: Vec<Source> = FOLDERS.into_iter().flat_map(sources_in).collect();
    let is_listed = |path: &str| LONG_FILES.iter().any(|(listed, _)| *listed == path);
    let long = sources
        .iter()
        .filter(|source| source.lines > LINES_MAX && !is_listed(&source.path));
    none_of(
        "files over 400 lines without tests",
        &long
            .map(|source| format!("{} ({})", source.path, source.lines))
            .collect(),
    );
    let is_long = |path: &str| {
        sources
            .iter()
            .any(|source| source.path == path && source.lines > LINES_MAX)
    };
    let stale = LONG_FILES.iter().filter(|(listed, _)| !is_long(listed));
    none_of(
        "files in the list that are short now: take them out",
        &stale.map(|(listed, _)| (*listed).to_owned()).collect(),
    );
}

#[test]
fn a_type_name_means_one_thing() {
    let (mut all, mut public) = (
        BTreeMap::<String, usize>::new(),
        BTreeMap::<String, BTreeSet<String>>::new(),
    );
    let sources = sources();
    for (source, line) in sources
        .iter()
        .flat_map(|source| source.code.lines().map(move |line| (source, line)))
    {
        let is_public = line.starts_with("pub");
        let line = line.trim_start();
        let line = line
            .strip_prefix("pub ")
            .or_else(|| {
                line.strip_prefix("pub(")
                    .and_then(|line| Some(line.split_once(") ")?.1))
            })
            .unwrap_or(line);
        let Some(name) = ["struct ", "enum ", "trait ", "union "]
            .iter()
            .find_map(|word| line.strip_prefix(word))
        else {
            continue;
        };
        let name: String = name
            .chars()
            .take_while(|letter| letter.is_alphanumeric())
            .collect();
        *all.entry(name.clone()).or_default() += 1;
        if is_public {
            public.entry(name).or_default().insert(source.path.clone());
        }
    }
    let shared = public.iter().filter(|(name, paths)| {
        paths.len() > 1 && !SHARED_NAMES.iter().any(|(listed, _)| listed == name)
    });
    none_of(
        "names of several public types",
        &shared
            .map(|(name, paths)| format!("{name}: {paths:?}"))
            .collect(),
    );
    let stale = SHARED_NAMES
        .iter()
        .filter(|(listed, _)| public.get(*listed).is_none_or(|paths| paths.len() < 2));
    none_of(
        "names in the list that are no longer shared: take them out",
        &stale.map(|(listed, _)| (*listed).to_owned()).collect(),
    );
    let (types, sharing) = (
        all.values().sum::<usize>(),
        all.values().filter(|count| **count > 1).sum::<usize>(),
    );
    assert!(
        sharing * 100 <= types * SHARED_NAMES_PERCENT_MAX,
        "{sharing} of {types} types share their name with another"
    );
}

#[test]
fn comments_strings_and_tests_are_no_code() {
    let text = "use a::{b, c::{d as e, f}}; // crate::x\nlet c = '\"'; let s: &'a str = \"crate::y\\\"\"; r#\"crate::z\"#;\n#[cfg(test)]\nmod tests { use crate::w; }\n";
    let mut code = blanked(text);
    assert_eq!(code.len(), text.len());
    assert_eq!(cut_tests(&mut code), Vec::<String>::new());
    let found: Vec<String> = paths(&code).iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["a::b", "a::c::d", "a::c::f"]);
    let mut code = "#[cfg(test)]\nmod tests;\nfn f() {}\n".to_owned();
    assert_eq!(cut_tests(&mut code), ["tests"]);
    assert_eq!(code.trim(), "fn f() {}");
}
