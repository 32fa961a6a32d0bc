//! `tollgate upstream add`: writes a provider's section into `tollgate.toml`.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;

use super::{CommandError, print};
use crate::config::{PRESETS, Preset, Sources};

/// Work on the upstreams in tollgate.toml
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tollgate upstream add gemini")]
pub(super) struct UpstreamArgs {
    #[command(subcommand)]
    command: UpstreamCommand,
}

#[derive(Debug, clap::Subcommand)]
enum UpstreamCommand {
    /// Add a provider to tollgate.toml, and say which variable wants its key
    Add(AddArgs),
}

#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  tollgate upstream add gemini")]
struct AddArgs {
    /// The provider: openai, azure, gemini, mistral, groq, xai, deepseek, openrouter, together, ollama, vllm, llamacpp or lmstudio
    #[arg(value_name = "PRESET")]
    preset: String,
}

/// Writes the section. The settings may be wrong meanwhile: a key may be missing until it is set.
pub(super) fn run(args: &UpstreamArgs, sources: &Sources) -> Result<(), CommandError> {
    let UpstreamCommand::Add(AddArgs { preset }) = &args.command;
    let preset = Preset::named(preset).ok_or_else(|| unknown(preset))?;
    let [file, _] = sources.files();
    let before = read(&file)?;
    let section = section(&before, preset)?;
    let is_whole = toml::from_str::<toml::Table>(&format!("{before}{section}")).is_ok();
    if !is_whole {
        let problem = format!(
            "{} would not be TOML any more with it (is `upstreams` written as a list?)",
            file.display()
        );
        return Err(CommandError::new(
            problem,
            format!("write it yourself:{section}"),
        ));
    }
    let failed = |error: std::io::Error| cannot(&file, "write", &error);
    let mut appended = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&file)
        .map_err(failed)?;
    appended.write_all(section.as_bytes()).map_err(failed)?;
    let told = format!(
        "{} has it now:\n{section}\n{}",
        file.display(),
        next(preset)
    );
    Ok(print::line(&told)?)
}

fn unknown(name: &str) -> CommandError {
    let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
    let next = format!("name one of: {}", names.join(", "));
    CommandError::new(format!("there is no preset `{name}`"), next)
}

fn cannot(file: &Path, what: &str, error: &std::io::Error) -> CommandError {
    CommandError::new(
        format!("cannot {what} {}: {error}", file.display()),
        "look at its permissions, or name another file with --config",
    )
}

fn read(file: &Path) -> Result<String, CommandError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(text),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(cannot(file, "read", &error)),
    }
}

/// What is appended. The first `[[upstreams]]` of a file takes the built-in one away, so OpenAI is repeated beside it.
fn section(before: &str, preset: &Preset) -> Result<String, CommandError> {
    let document: toml::Table = toml::from_str(before).map_err(|error| {
        let problem = format!("tollgate.toml is not TOML: {}", error.message());
        CommandError::new(problem, "correct it first: tollgate check says where")
    })?;
    let upstreams = document.get("upstreams").and_then(toml::Value::as_array);
    let is_there = |upstream: &toml::Value| {
        let said = upstream.get("name").or_else(|| upstream.get("preset"));
        said.and_then(toml::Value::as_str) == Some(preset.name)
    };
    if upstreams.is_some_and(|all| all.iter().any(is_there)) {
        let problem = format!("tollgate.toml has an upstream `{}` already", preset.name);
        return Err(CommandError::new(
            problem,
            "change that one, or give it another name",
        ));
    }
    let mut lines = Vec::new();
    if upstreams.is_none() && preset.name != "openai" {
        lines.push(
            "\n# The built-in upstream: take it out if you do not use OpenAI.\n[[upstreams]]"
                .to_owned(),
        );
        lines.push("preset = \"openai\"".to_owned());
    }
    lines.push(format!("\n[[upstreams]]\npreset = \"{}\"", preset.name));
    if preset.base_url.is_none() {
        lines.push("base_url = \"https://CHANGE-THIS.example/v1\"".to_owned());
    }
    if preset.models.is_empty() {
        lines.push("models = [\"CHANGE-THIS\"]".to_owned());
    }
    Ok(lines.join("\n") + "\n")
}

/// What is still to be done.
fn next(preset: &Preset) -> String {
    let mut steps = Vec::new();
    if preset.base_url.is_none() || preset.models.is_empty() {
        steps.push("replace CHANGE-THIS in it".to_owned());
    }
    if let Some(variable) = preset.api_key_env {
        steps.push(format!("set {variable} in .env to your key"));
    }
    steps.push("name its models in a plan, or under [models]".to_owned());
    steps.push("try it: tollgate check, then tollgate doctor".to_owned());
    format!("Next: {}.", steps.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_section_keeps_openai_where_it_was_built_in() {
        let gemini = Preset::named("gemini").unwrap();
        let first = section("[server]\nbind = \"127.0.0.1:1\"", gemini).unwrap();
        assert!(first.contains("preset = \"openai\""), "{first}");
        let text = format!("[server]\nbind = \"127.0.0.1:1\"{first}");
        let parsed: toml::Table = toml::from_str(&text).unwrap();
        assert_eq!(parsed["upstreams"].as_array().unwrap().len(), 2);
        assert!(
            section(&text, gemini)
                .unwrap_err()
                .problem
                .contains("already")
        );
        let groq = section(&text, Preset::named("groq").unwrap()).unwrap();
        assert_eq!(groq, "\n[[upstreams]]\npreset = \"groq\"\n");
        let local = section("", Preset::named("ollama").unwrap()).unwrap();
        assert!(local.ends_with("models = [\"CHANGE-THIS\"]\n"), "{local}");
        assert!(
            section("server = [", gemini)
                .unwrap_err()
                .next
                .contains("check")
        );
    }
}
