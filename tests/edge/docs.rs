//! The documents speak of what exists: files that are linked, and tests that are named.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README.md and everything under docs/, with its text.
fn pages() -> Vec<(PathBuf, String)> {
    let mut pages = vec![root().join("README.md")];
    let mut directories = vec![root().join("docs")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("readable") {
            let path = entry.expect("readable").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                pages.push(path);
            }
        }
    }
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("readable");
        (path, text)
    };
    pages.into_iter().map(read).collect()
}

/// What stands in `](…)`, without web addresses and places on the same page.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let files = targets.map(|target| target.split('#').next().unwrap_or_default());
    files.filter(|file| !file.is_empty() && !file.contains("://"))
}

/// `FILE::NAME` between backticks: lower case, with slashes in the file alone.
fn named_tests(text: &str) -> impl Iterator<Item = (&str, &str)> {
    let spans = text.split('`').skip(1).step_by(2);
    let pairs = spans.filter_map(|span| span.split_once("::"));
    let name = |text: &str, more: char| {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == more;
        !text.is_empty() && text.chars().all(fits)
    };
    pairs.filter(move |(file, test)| file.contains('/') && name(file, '/') && name(test, '_'))
}

/// Where a test named so should be.
fn source_of(file: &str) -> PathBuf {
    let below = if file.starts_with("src/") { root().to_owned() } else { root().join("tests") };
    below.join(file).with_extension("rs")
}

fn holds(text: &str, test: &str) -> bool {
    text.contains(&format!("fn {test}(")) || text.contains(&format!("fn {test}<"))
}

#[test]
fn every_link_resolves() {
    let mut checked = 0;
    for (page, text) in pages() {
        let directory = page.parent().expect("a file has one");
        for link in links(&text) {
            let target = directory.join(link);
            let there = target.exists();
            assert!(there, "{} links {link}", page.display());
            checked += 1;
        }
    }
    assert!(checked > 20, "only {checked} links were found");
}

#[test]
fn every_page_is_linked() {
    let pages = pages();
    let linked: Vec<PathBuf> = pages
        .iter()
        .flat_map(|(page, text)| {
            let directory = page.parent().expect("a file has one");
            links(text).map(|link| directory.join(link)).collect::<Vec<_>>()
        })
        .filter_map(|target| target.canonicalize().ok())
        .collect();
    for (page, _) in &pages {
        let name = page.canonicalize().expect("it exists");
        let first = page.ends_with("README.md");
        assert!(first || linked.contains(&name), "nothing links {}", page.display());
    }
}

#[test]
fn every_named_test_exists() {
    let mut checked = 0;
    for (page, text) in pages() {
        for (file, test) in named_tests(&text) {
            let source = source_of(file);
            let text = fs::read_to_string(&source).unwrap_or_else(|error| {
                panic!("{}: {file}::{test}: {}: {error}", page.display(), source.display())
            });
            assert!(holds(&text, test), "{}: {file} has no test {test}", page.display());
            checked += 1;
        }
    }
    assert!(checked > 40, "only {checked} tests were named");
}

#[test]
fn what_is_looked_for_is_found() {
    let text = "see [a](b.md#c), [d](https://e.f), [g](#h) and [i](../j.rs)";
    assert_eq!(links(text).collect::<Vec<_>>(), ["b.md", "../j.rs"]);
    let text = "`db/pair::it_holds`, `Log::open`, `keys::lsn`, db/a::b, `src/log/writer::one_2`";
    let found: Vec<_> = named_tests(text).collect();
    assert_eq!(found, [("db/pair", "it_holds"), ("src/log/writer", "one_2")]);
    assert!(holds("fn rows<S: Subject>() {", "rows") && !holds("fn rows_come() {", "rows"));
}
