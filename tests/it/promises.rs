//! SECURITY.md names a test for each promise: each of them must be there.

use std::path::{Path, PathBuf};

/// The names in a page: what stands in backticks and is a path of at least two parts.
fn named(page: &str) -> Vec<&str> {
    page.split('`').skip(1).step_by(2).filter(|name| name.contains("::")).collect()
}

/// Where a module of the tests or of the product is.
fn sources(module: &[&str]) -> [PathBuf; 2] {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    ["tests/it", "src"].map(|place| root.join(place).join(module.join("/")).with_extension("rs"))
}

fn is_there(name: &str) -> bool {
    let parts: Vec<&str> = name.split("::").collect();
    let (test, module) = parts.split_last().unwrap();
    let texts = sources(module).into_iter().filter_map(|path| std::fs::read_to_string(path).ok());
    // The attribute stands in the line before.
    texts.into_iter().any(|text| {
        let place = text.find(&format!("fn {test}("));
        place.is_some_and(|place| text[..place].trim_end_matches("async ").trim_end().ends_with(']'))
    })
}

#[test]
fn each_test_that_the_security_page_names_is_there() {
    let page = include_str!("../../SECURITY.md");
    let names = named(page);
    assert!(names.len() > 60, "the table is read: {}", names.len());
    let missing: Vec<&&str> = names.iter().filter(|name| !is_there(name)).collect();
    assert!(missing.is_empty(), "named in SECURITY.md, and nowhere a test: {missing:#?}");
    assert!(!is_there("limits::nobody_wrote_this"), "and one that is not there would be missed");
}
