//! `tollgate init`, as a new operator types it: what it writes must pass `tollgate check`, for every provider.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// An empty folder of its own, that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tollgate-init-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

/// Runs the program in a folder, with a key for every provider in the environment and nothing else.
fn run(folder: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.args(args).current_dir(folder).env_clear();
    for provider in [
        "OPENAI",
        "AZURE_OPENAI",
        "ANTHROPIC",
        "GEMINI",
        "MISTRAL",
        "GROQ",
        "XAI",
        "DEEPSEEK",
        "OPENROUTER",
        "TOGETHER",
    ] {
        command.env(format!("{provider}_API_KEY"), "sk-of-the-test");
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn done(output: &Output) -> String {
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(output.status.success(), "{said}");
    said
}

fn mode(file: &Path) -> u32 {
    file.metadata().unwrap().permissions().mode() & 0o777
}

#[test]
fn what_init_writes_for_each_provider_passes_check() {
    // With a model of one's own where nobody can know which there are.
    let providers: [(&str, &[&str]); 12] = [
        ("openai", &[]),
        ("gemini", &[]),
        ("mistral", &[]),
        ("groq", &[]),
        ("xai", &[]),
        ("deepseek", &[]),
        ("openrouter", &["--model", "some/model"]),
        ("together", &["--model", "some/model"]),
        ("ollama", &["--model", "llama3.2"]),
        ("vllm", &["--model", "my-model"]),
        ("llamacpp", &["--model", "my-model"]),
        ("lmstudio", &["--model", "my \"odd\" model"]),
    ];
    for (provider, more) in providers {
        let folder = Folder::new();
        let folder = folder.0.as_path();
        let first = [
            "init",
            "--yes",
            "--supabase-url",
            "https://abc.supabase.co",
            "--provider",
            provider,
            "--plan",
            "free=0.50",
            "--plan",
            "pro=10",
        ];
        let said = done(&run(folder, &[&first, more].concat()));
        assert!(said.contains("Next: tollgate check"), "{provider}: {said}");
        assert!(!said.contains("No Supabase project"), "{provider}: {said}");
        let (file, env) = (folder.join("tollgate.toml"), folder.join(".env"));
        assert_eq!((mode(&file), mode(&env)), (0o644, 0o600));
        assert!(!std::fs::read_to_string(&file).unwrap().contains("sk-"));
        let means = done(&run(folder, &["check"]));
        for word in ["free", "pro", "fast"] {
            assert!(means.contains(word), "{provider}: {means}");
        }
    }
}

#[test]
fn init_writes_nothing_over_and_says_what_is_missing() {
    let folder = Folder::new();
    let folder = folder.0.as_path();
    let refused = |args: &[&str], words: &str| {
        let output = run(folder, args);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains(words), "{args:?}: {said}");
        assert_eq!(std::fs::read_dir(folder).unwrap().count(), 0, "{args:?}");
    };
    refused(&["init"], "there is no terminal to ask on");
    refused(&["init", "--yes", "--provider", "nobody"], "no preset");
    refused(&["init", "--yes", "--provider", "ollama"], "--model");
    refused(&["init", "--yes", "--plan", "free"], "free=0.50");
    refused(&["init", "--yes", "--plan", "free=1,5"], "free=0.50");
    refused(&["init", "--yes", "--store", "mysql://x"], "sqlite");

    std::fs::write(folder.join(".env"), "PORT=1234\n").unwrap();
    let said = done(&run(
        folder,
        &["init", "--yes", "--store", "postgres://u:p@h/d"],
    ));
    assert!(said.contains("stays as it is"), "{said}");
    assert!(said.contains("DATABASE_URL='postgres://u:p@h/d'"), "{said}");
    assert!(said.contains("set SUPABASE_URL in "), "{said}");
    assert!(said.contains("No Supabase project yet?"), "{said}");
    assert_eq!(
        std::fs::read_to_string(folder.join(".env")).unwrap(),
        "PORT=1234\n"
    );
    let before = std::fs::read_to_string(folder.join("tollgate.toml")).unwrap();
    assert!(!before.contains("u:p@h"), "{before}");
    let again = run(folder, &["init", "--yes"]);
    assert_eq!(again.status.code(), Some(1));
    let after = std::fs::read_to_string(folder.join("tollgate.toml")).unwrap();
    assert_eq!(before, after);
}

/// The request that init prints fits what it wrote; docs/commands.md, which is run, types it as it stands.
#[test]
fn the_first_request_that_init_prints_is_one_of_its_provider() {
    for (provider, path) in [("openai", "api/chat"), ("anthropic", "v1/messages")] {
        let folder = Folder::new();
        let folder = folder.0.as_path();
        let said = done(&run(folder, &["init", "--yes", "--provider", provider]));
        let (told, curl) = said.split_once("\n  curl ").unwrap();
        assert!(
            told.contains("\n  TOKEN=$(tollgate token --user "),
            "{told}"
        );
        assert!(
            curl.starts_with(&format!("localhost:8080/{path} ")),
            "{curl}"
        );
        let body = curl.rsplit('\'').nth(1).unwrap();
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
