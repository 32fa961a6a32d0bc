//! What `tollgate demo` shows an app's developer: the code of both packages, for the server that runs.
//!
//! The two files beside this one are compiled by the checks of the packages, so they are whole programs.

const SWIFT: &str = include_str!("demo_client.swift");
const TYPESCRIPT: &str = include_str!("demo_client.ts");

/// The lines for a server on this port of this machine, with a user's token.
pub(super) fn lines(port: u16, token: &str) -> String {
    format!(
        "From an app, in Swift (docs/first-answer.md):\n\n{}\nand in TypeScript (js/README.md):\n\n{}",
        filled(SWIFT, port, token),
        filled(TYPESCRIPT, port, token)
    )
}

/// Indented, with the address and the token of this run in place of those in the file.
fn filled(code: &str, port: u16, token: &str) -> String {
    let here = code
        .replace("localhost:8080", &format!("localhost:{port}"))
        .replace("TOKEN", token);
    here.lines().fold(String::new(), |mut text, line| {
        if !line.is_empty() {
            text.extend(["  ", line]);
        }
        text + "\n"
    })
}
