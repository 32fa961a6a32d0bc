//! The command line: one file a command, thin over the functions that the server uses.
//!
//! It knows how commands are written and how they end: 0, 1 (it failed, with what to do next) or 2 (wrong use).

mod admin_token;
mod backup;
mod check;
mod completions;
mod demo;
mod demo_client;
mod doctor;
mod health;
mod init;
mod ledger;
mod migrate;
mod models;
mod pause;
pub mod print;
mod prompts;
mod prune;
mod purchases;
mod serve;
mod sql;
mod table;
mod token;
mod top;
mod upstream;
mod usage;
mod user;
mod webhook;

use std::fmt;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use listenfd::ListenFd;

use crate::clock::Clock;
use crate::config::{Config, ConfigErrors, Sources, StoreUrl};
use crate::ledger::read::report::By;
use table::Look;

/// The LLM proxy between a mobile app and OpenAI: Supabase sign-in, plans, hard spending limits.
#[derive(Debug, Parser)]
#[command(name = "tollgate", version, arg_required_else_help = true, after_help = EXAMPLES)]
pub struct Cli {
    /// The file of settings, which must exist, or a folder with tollgate.toml and .env. Default: `TOLLGATE_CONFIG`, or else
    /// the working directory
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  tollgate demo                          look around: nothing to install, nothing to set
  tollgate init                          write a first tollgate.toml and .env
  tollgate serve                         serve, with what tollgate.toml, .env and the environment say
  tollgate check                         what the settings mean, or all that is wrong with them
  tollgate doctor                        try every part for real; what to type where one fails
  tollgate token --user 7c0e8f52-…       a token to try the API with
  tollgate user show 7c0e8f52-…          one user's plan, limits and usage
  tollgate usage --by user               who spends most
  tollgate upstream add gemini           write a provider into tollgate.toml
  tollgate models                        what apps may ask for, what answers, what it costs
  tollgate top                           what goes on now
  tollgate prompts                       the prompts that live on the server
  tollgate purchases                     what users bought in a store
  tollgate admin-token create laptop     a token for the operator's API
  tollgate sql | psql \"$DATABASE_URL\"     put the Supabase script into your own database
  tollgate health                        is the server on this machine ready?

Settings come from tollgate.toml, .env and the environment; every one of them stands in tollgate.example.toml.
Exit codes: 0, 1 (it failed; the last line says what to do), 2 (wrong use).";

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    Init(init::InitArgs),
    Serve(serve::ServeArgs),
    Check(check::CheckArgs),
    Doctor(doctor::DoctorArgs),
    Token(token::TokenArgs),
    User(user::UserArgs),
    Usage(usage::UsageArgs),
    Models(models::ModelsArgs),
    Prompts(prompts::PromptsArgs),
    Purchases(purchases::PurchasesArgs),
    Webhook(webhook::WebhookArgs),
    Top(top::TopArgs),
    Upstream(upstream::UpstreamArgs),
    Pause(pause::PauseArgs),
    Resume(pause::ResumeArgs),
    Sql(sql::SqlArgs),
    Health(health::HealthArgs),
    Migrate(migrate::MigrateArgs),
    Ledger(ledger::LedgerArgs),
    Prune(prune::PruneArgs),
    AdminToken(admin_token::AdminTokenArgs),
    Completions(completions::CompletionsArgs),
}

/// Why a command failed, and what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommandError {
    /// What went wrong.
    pub problem: String,
    /// What to do about it.
    pub next: String,
}

impl CommandError {
    /// From its two sentences.
    pub fn new(problem: impl Into<String>, next: impl Into<String>) -> Self {
        Self {
            problem: problem.into(),
            next: next.into(),
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "error: {}\nnext: {}", self.problem, self.next)
    }
}

impl std::error::Error for CommandError {}

impl From<std::io::Error> for CommandError {
    /// Writing to stdout failed, which is where commands meet the world.
    fn from(error: std::io::Error) -> Self {
        Self::new(
            format!("the answer could not be written: {error}"),
            "check where stdout leads (a full disk?)",
        )
    }
}

impl From<crate::ledger::Failure> for CommandError {
    fn from(failure: crate::ledger::Failure) -> Self {
        let told = failure.to_string();
        // SQLite's words and Postgres's for tables that an older version did not make.
        let is_older =
            told.contains("no such table") || told.contains("relation \"tollgate_ledger.");
        let next = if is_older {
            "bring the ledger up to date: tollgate migrate".to_owned()
        } else {
            next_of_ledger(&told)
        };
        Self::new(told, next)
    }
}

/// What to look at where the ledger cannot be used.
fn next_of_ledger(told: &str) -> String {
    let said = |words: &[&str]| words.iter().any(|word| told.contains(word));
    if said(&["there is no ledger"]) {
        let fix = "run it where the server runs, with its settings; only `tollgate serve`, `migrate` and `admin-token create` make one";
        return fix.to_owned();
    }
    if said(&["Postgres", "postgres"]) {
        return "see whether Postgres runs and can be reached from here, and whether DATABASE_URL ([store] url) is right; in a \
                container localhost is the container itself"
            .to_owned();
    }
    if said(&[
        "Permission denied",
        "readonly",
        "Read-only",
        "unable to open",
    ]) {
        let (user, group) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        return format!(
            "let the user that Tollgate runs as write the folder of the ledger ([store] url); for a folder that is mounted into a \
             container, on its host: chown {user}:{group} FOLDER"
        );
    }
    "look at [store] url: the path, its permissions, and the space that is left".to_owned()
}

impl From<ConfigErrors> for CommandError {
    fn from(errors: ConfigErrors) -> Self {
        Self::new(
            errors.to_string(),
            "correct the settings, and try them with: tollgate check",
        )
    }
}

/// Does what the command line asks for. `handed` are the sockets that systemd handed over, for `serve`.
///
/// # Errors
/// The command failed; exit with 1.
pub async fn run(cli: Cli, handed: ListenFd) -> Result<(), CommandError> {
    let sources = Sources::from_process(cli.config);
    match cli.command {
        Command::Demo(args) => demo::run(&args, &sources).await,
        Command::Serve(_) => serve::run(Config::load(&sources)?, sources, handed).await,
        Command::Doctor(args) => doctor::run(args, &sources).await,
        Command::Sql(_) => sql::run(),
        Command::Init(args) => init::run(&args, &sources),
        Command::Upstream(args) => upstream::run(&args, &sources),
        Command::Health(args) => health::run(&args, &sources).await,
        Command::Completions(args) => completions::run(&args),
        Command::Prompts(args) => prompts::run(args, &sources).await,
        Command::Webhook(args) => webhook::run(&args, &sources).await,
        other => {
            let look = Look::of(&sources);
            let at_the_desk = move || match Config::load(&sources) {
                Ok(config) => at_the_desk(other, &config, look),
                Err(errors) => in_need(&other, sources.ledger().as_ref())
                    .unwrap_or_else(|| Err(CommandError::from(errors))),
            };
            let done = tokio::task::spawn_blocking(at_the_desk).await;
            done.map_err(|error| {
                CommandError::new(error.to_string(), "report it, with what you typed")
            })?
        }
    }
}

/// Who changes what is changed here, and when: now.
fn by() -> By<'static> {
    By {
        name: "command line",
        at: Clock::system().now(),
    }
}

/// What must not wait until the settings are right again: a server keeps its old ones, and may have to be stopped from spending.
/// Nothing where it is certain neither what the command may do nor where the ledger is.
fn in_need(command: &Command, ledger: Option<&StoreUrl>) -> Option<Result<(), CommandError>> {
    let ledger = ledger?;
    match command {
        Command::Pause(args) => Some(pause::pause(args, ledger)),
        Command::Resume(_) => Some(pause::resume(ledger)),
        Command::User(args) => user::in_need(args, ledger),
        _ => None,
    }
}

/// Commands that work on the ledger, on a thread that may block.
fn at_the_desk(command: Command, config: &Config, look: Look) -> Result<(), CommandError> {
    match command {
        Command::Check(_) => check::run(config),
        Command::Token(args) => token::run(&args, config),
        Command::User(args) => user::run(args, config, look),
        Command::Usage(args) => usage::run(&args, config, look),
        Command::Models(args) => models::run(&args, config, look),
        Command::Purchases(args) => purchases::run(&args, config, look),
        Command::Top(args) => top::run(&args, config, look),
        Command::Pause(args) => pause::pause(&args, &config.store.url),
        Command::Resume(_) => pause::resume(&config.store.url),
        Command::Migrate(_) => migrate::run(config),
        Command::Ledger(args) => ledger::run(&args, config),
        Command::Prune(args) => prune::run(&args, config),
        Command::AdminToken(args) => admin_token::run(&args, config, look),
        Command::Demo(_)
        | Command::Init(_)
        | Command::Serve(_)
        | Command::Health(_)
        | Command::Doctor(_)
        | Command::Sql(_)
        | Command::Upstream(_)
        | Command::Prompts(_)
        | Command::Webhook(_)
        | Command::Completions(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;
    use clap::error::ErrorKind;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn wrong_use_ends_with_2_and_help_with_0() {
        let code = |args: &[&str]| {
            Cli::try_parse_from([&["tollgate"], args].concat()).map_err(|error| error.exit_code())
        };
        for wrong in [
            &["frobnicate"][..],
            &[],
            &["token"],
            &["token", "--user", "7"],
            &["check", "--no-such-flag"],
        ] {
            assert_eq!(code(wrong).unwrap_err(), 2, "{wrong:?}");
        }
        let user = "7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11";
        for expires in ["10", "0s", "1 fortnight", "401d"] {
            assert_eq!(
                code(&["token", "--user", user, "--expires", expires]).unwrap_err(),
                2,
                "{expires}"
            );
        }
        assert_eq!(code(&["--help"]).unwrap_err(), 0);
        assert!(code(&["check", "--config", "x.toml"]).is_ok());
        assert!(
            code(&[
                "--config",
                "x.toml",
                "token",
                "--user",
                user,
                "--plan",
                "pro",
                "--anonymous"
            ])
            .is_ok()
        );
    }

    #[test]
    fn every_command_explains_itself_with_an_example() {
        for command in Cli::command().get_subcommands() {
            let mut command = command.clone();
            let help = command.render_long_help().to_string();
            assert!(help.contains("Example"), "{help}");
        }
        let help = Cli::try_parse_from(["tollgate", "token", "--help"]).unwrap_err();
        assert_eq!(help.kind(), ErrorKind::DisplayHelp);
    }

    #[test]
    fn a_ledger_that_cannot_be_used_says_where_to_look() {
        let next =
            |told: &str| CommandError::from(crate::ledger::Failure::new(told.to_owned())).next;
        let mounted = next("cannot write data/tollgate.db.lock: Permission denied (os error 13)");
        assert!(
            mounted.contains("chown ") && mounted.contains("container"),
            "{mounted}"
        );
        assert!(
            next("cannot open the ledger data/tollgate.db: unable to open database file")
                .contains("chown ")
        );
        assert!(next("Postgres: connection refused").contains("DATABASE_URL"));
        assert!(next("SQLite: disk I/O error").contains("space"));
        assert!(next("SQLite: no such table: requests").contains("migrate"));
    }

    #[test]
    fn a_failure_says_what_to_do_next() {
        let told = CommandError::new("it broke", "mend it").to_string();
        assert_eq!(told, "error: it broke\nnext: mend it");
    }
}
