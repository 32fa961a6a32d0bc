//! `tollgate init`: writes the first `.env` and `tollgate.toml`.
//!
//! It asks for what no default can know, and writes nothing over. Secrets go to `.env`, which only its owner may read.

use std::fs::{OpenOptions, Permissions};
use std::io::{IsTerminal as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::{CommandError, print};
use crate::config::{PRESETS, Preset, Sources};
use crate::price::PriceTable;

/// Write a first tollgate.toml and .env: it asks what it must know, or takes it from the flags
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  tollgate init\n  tollgate init --yes --supabase-url https://abc.supabase.co --provider gemini\n  tollgate init --yes --provider ollama --model llama3.2 --plan free=0.50 --plan pro=10"
)]
pub(super) struct InitArgs {
    /// The address of your Supabase project
    #[arg(long, value_name = "URL")]
    supabase_url: Option<String>,
    /// Who answers: a provider or a local server, as in `tollgate upstream add`
    #[arg(long, value_name = "PRESET")]
    provider: Option<String>,
    /// The model that apps get, by the provider's name for it
    #[arg(long)]
    model: Option<String>,
    /// A plan, and what a user of it may spend a month, in US dollars. The first is the one of everybody
    #[arg(long = "plan", value_name = "NAME=DOLLARS")]
    plans: Vec<String>,
    /// Where the ledger is: `sqlite`, or postgres://…
    #[arg(long, value_name = "STORE")]
    store: Option<String>,
    /// Ask nothing: what is not said has its default
    #[arg(long)]
    yes: bool,
}

/// What the files are made of.
struct Setup {
    supabase_url: String,
    preset: &'static Preset,
    model: String,
    /// Its price is in the table.
    is_priced: bool,
    plans: Vec<(String, String)>,
    /// None for the file that is the default.
    postgres: Option<String>,
}

/// Writes both files, and says what comes next.
pub(super) fn run(args: &InitArgs, sources: &Sources) -> Result<(), CommandError> {
    let [file, env] = sources.files();
    if file.exists() {
        return Err(CommandError::new(
            format!("there is a {} already", file.display()),
            "change that file (tollgate.example.toml explains every setting), or move it away first",
        ));
    }
    let ask = Ask::new(args.yes)?;
    let setup = Setup::of(args, &ask)?;
    write(&file, &setup.toml(), 0o644)?;
    let mut told = vec![format!("Written: {}\n", file.display())];
    if env.exists() {
        told.push(format!(
            "{} is there already and stays as it is. It needs:\n\n{}\n",
            env.display(),
            setup.env()
        ));
    } else {
        write(&env, &setup.env(), 0o600)?;
        told.push(format!(
            "Written: {} (only you may read it)\n",
            env.display()
        ));
    }
    told.push(format!("\nNext: {}", setup.next(&env)));
    Ok(print::line(&told.concat())?)
}

impl Setup {
    fn of(args: &InitArgs, ask: &Ask) -> Result<Self, CommandError> {
        let supabase_url = ask.text(
            args.supabase_url.as_deref(),
            "The address of your Supabase project (Settings, Data API; Enter: later)",
            "",
        )?;
        let names: Vec<&str> = PRESETS.iter().map(|preset| preset.name).collect();
        let question = format!("Who answers ({})", names.join(", "));
        let provider = ask.text(args.provider.as_deref(), &question, "openai")?;
        let preset = Preset::named(&provider).ok_or_else(|| {
            let next = format!("name one of: {}", names.join(", "));
            CommandError::new(format!("there is no preset `{provider}`"), next)
        })?;
        let usual = first_model(preset.name).unwrap_or_default();
        let model = ask.text(args.model.as_deref(), "Its model that apps get", usual)?;
        if model.is_empty() {
            return Err(CommandError::new(
                format!("{provider} has no model that everybody has"),
                "name yours: tollgate init --model NAME",
            ));
        }
        let plans = if args.plans.is_empty() {
            let free = ask.text(
                None,
                "What may every user spend a month, in dollars",
                "0.50",
            )?;
            let paid = ask.text(
                None,
                "And who pays you, in dollars (Enter: no second plan)",
                "",
            )?;
            let pro = (!paid.is_empty()).then(|| format!("pro={paid}"));
            std::iter::once(format!("free={free}")).chain(pro).collect()
        } else {
            args.plans.clone()
        };
        let store = ask.text(
            args.store.as_deref(),
            "Where is the ledger (sqlite, or postgres://…)",
            "sqlite",
        )?;
        Ok(Self {
            supabase_url,
            preset,
            is_priced: PriceTable::shipped().resolve(&model).is_some(),
            model,
            plans: plans
                .iter()
                .map(|text| plan(text))
                .collect::<Result<_, _>>()?,
            postgres: postgres(&store)?,
        })
    }

    /// `tollgate.toml`. Nothing secret is in it.
    fn toml(&self) -> String {
        let quoted = |text: &str| toml::Value::from(text).to_string();
        let mut text = vec![String::from(
            "# Made by `tollgate init`. What is not here has its default: tollgate.example.toml has every setting and says what it\n\
             # does. `tollgate check` prints what this means, or what is wrong with it. A change takes effect within seconds.\n\n",
        )];
        let preset = self.preset;
        text.push(format!("# Who answers. `tollgate upstream add NAME` adds another.\n[[upstreams]]\npreset = \"{}\"\n",
            preset.name));
        if preset.base_url.is_none() {
            text.push("base_url = \"https://CHANGE-THIS.example/v1\"\n".to_owned());
        }
        if preset.models.is_empty() {
            text.push(format!("models = [{}]\n", quoted(&self.model)));
        }
        text.push(format!("\n# What apps ask for. The app says \"fast\"; which model that is, is yours to change without a release. Several: the first\n\
             # that can answer.\n[models.fast]\nuse = [{}]\n",
            quoted(&self.model)));
        if !self.is_priced {
            let price = if preset.api_key_env.is_none() {
                "# A server of your own costs nothing a token; only requests are limited.\nfree = true"
            } else {
                "# CHANGE THIS: US dollars for a million tokens.\ninput = \"1\"\noutput = \"4\""
            };
            text.push(format!("\n[prices.{}]\n{price}\n", quoted(&self.model)));
        }
        for (place, (name, dollars)) in self.plans.iter().enumerate() {
            let about = if place == 0 {
                "# Everybody's plan. No user can spend more than this."
            } else {
                "# For those whom you give it: docs/plans-and-limits.md says how."
            };
            let default = if place == 0 { "default = true\n" } else { "" };
            let [minute, day] = if place == 0 { [10, 50] } else { [30, 500] };
            text.push(format!("\n{about}\n[plans.{}]\n{default}models = [\"fast\"]\n# Hidden reasoning is paid for like text, and makes answers slower: raise it for harder questions.\n\
                 reasoning_effort_max = \"none\"\nlimits = [\n    {{ per = \"minute\", requests = {minute} }},\n    \
                 {{ per = \"day\", requests = {day} }},\n    {{ per = \"month\", cost_usd = {} }},\n]\n",
                quoted(name),
                quoted(dollars)));
        }
        text.push("\n# All users together. What comes after it is refused until the next day.\n[ceiling]\ncost_usd_per_day = \"50\"\n".to_owned());
        text.concat()
    }

    /// `.env`, with what is still missing in comments.
    fn env(&self) -> String {
        let mut text = vec![String::from(
            "# Secrets, and where your services are. Nobody but you should read this file.\n\n",
        )];
        text.push(
            "# Your Supabase project: its public keys verify your users' tokens.\n".to_owned(),
        );
        if self.supabase_url.is_empty() {
            text.push("# SUPABASE_URL=https://<project>.supabase.co\n".to_owned());
        } else {
            text.push(format!("SUPABASE_URL={}\n", self.supabase_url));
        }
        text.push("# Only if the project still signs tokens with the shared secret (HS256): Settings, JWT keys. Or, to try things without a\n\
             # project, any 32 characters: `tollgate token` then makes tokens.\n# JWT_SECRET=\n".to_owned());
        if let Some(variable) = self.preset.api_key_env {
            text.push(format!(
                "# The key of {}. It stays on this server.\n# {variable}=\n",
                self.preset.name
            ));
        }
        if let Some(url) = &self.postgres {
            text.push(format!(
                "# The ledger, for several processes.\nDATABASE_URL='{url}'\n"
            ));
        }
        text.concat()
    }

    fn next(&self, env: &Path) -> String {
        let mut missing = Vec::new();
        if self.supabase_url.is_empty() {
            missing.push("SUPABASE_URL");
        }
        missing.extend(
            self.preset
                .api_key_env
                .filter(|name| std::env::var_os(name).is_none()),
        );
        let first = if missing.is_empty() {
            String::new()
        } else {
            format!("set {} in {}; then ", missing.join(" and "), env.display())
        };
        let trial = if self.supabase_url.is_empty() {
            "\nNo Supabase project yet? JWT_SECRET in its place, 32 characters or more (openssl rand -hex 32)."
        } else {
            ""
        };
        // Anthropic's models serve its own API only, which wants a cap.
        let (path, cap) = if self.preset.name == "anthropic" {
            ("v1/messages", "\"max_tokens\": 100, ")
        } else {
            ("api/chat", "")
        };
        format!(
            "{first}tollgate check, tollgate doctor (it tries everything for real), tollgate serve.{trial}\n\n\
             A first answer, while it serves. TOKEN is the access token of a user of your app; with JWT_SECRET this makes one:\n\n  \
             TOKEN=$(tollgate token --user 7c0e8f52-5d0e-4a4e-9d43-0f4f4d1c6b11)\n  \
             curl localhost:8080/{path} -H \"Authorization: Bearer $TOKEN\" \\\n    \
             -H 'Content-Type: application/json' -d '{{{cap}\"messages\": [{{\"role\": \"user\", \"content\": \"Hello\"}}]}}'"
        )
    }
}

/// The model that a newcomer gets; none for servers whose models nobody knows.
fn first_model(preset: &str) -> Option<&'static str> {
    Some(match preset {
        "openai" => "gpt-6-luna",
        "anthropic" => "claude-haiku-4-5",
        "gemini" => "gemini-3.8-flash",
        "mistral" => "mistral-small-latest",
        "groq" => "llama-3.3-70b-versatile",
        "xai" => "grok-4-fast",
        "deepseek" => "deepseek-v4-flash",
        _ => return None,
    })
}

/// `pro=10`, checked.
fn plan(text: &str) -> Result<(String, String), CommandError> {
    let wrong = || {
        CommandError::new(
            format!("`{text}` is not a plan and its dollars a month"),
            "write it as free=0.50: a name of a-z, 0-9, - and _, and an amount",
        )
    };
    let (name, dollars) = text.split_once('=').ok_or_else(wrong)?;
    let is_name = |letter: char| {
        letter.is_ascii_lowercase() || letter.is_ascii_digit() || "-_".contains(letter)
    };
    let is_amount = |part: &str| part.chars().all(|letter| letter.is_ascii_digit());
    let (whole, cents) = dollars.split_once('.').unwrap_or((dollars, "0"));
    if name.is_empty() || !name.chars().all(is_name) || whole.is_empty() || cents.is_empty() {
        return Err(wrong());
    }
    if !is_amount(whole) || !is_amount(cents) || cents.len() > 6 {
        return Err(wrong());
    }
    Ok((name.to_owned(), dollars.to_owned()))
}

fn postgres(store: &str) -> Result<Option<String>, CommandError> {
    match store {
        "" | "sqlite" => Ok(None),
        url if url.starts_with("postgres://") || url.starts_with("postgresql://") => {
            Ok(Some(url.to_owned()))
        }
        other => Err(CommandError::new(
            format!("`{other}` is no store"),
            "say sqlite, or postgres://user:password@host:5432/database",
        )),
    }
}

fn write(file: &Path, text: &str, mode: u32) -> Result<(), CommandError> {
    let failed = |error: std::io::Error| {
        CommandError::new(
            format!("cannot write {}: {error}", file.display()),
            "go to a folder that you may write, or name one with --config",
        )
    };
    // Written by nobody else in between: `create_new` fails if it is there.
    let mut created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(file)
        .map_err(failed)?;
    created.write_all(text.as_bytes()).map_err(failed)?;
    // Whatever the umask is: nothing secret is in the settings, and the server may be another user.
    created
        .set_permissions(Permissions::from_mode(mode))
        .map_err(failed)
}

/// Asks on the terminal, or takes defaults.
struct Ask {
    yes: bool,
}

impl Ask {
    fn new(yes: bool) -> Result<Self, CommandError> {
        if yes || std::io::stdin().is_terminal() {
            return Ok(Self { yes });
        }
        Err(CommandError::new(
            "there is no terminal to ask on",
            "say --yes, with flags for what is not the default: tollgate init --help",
        ))
    }

    /// What a flag said, or what is answered, or the default.
    fn text(
        &self,
        said: Option<&str>,
        question: &str,
        default: &str,
    ) -> Result<String, CommandError> {
        if let Some(said) = said {
            return Ok(said.trim().to_owned());
        }
        if self.yes {
            return Ok(default.to_owned());
        }
        let hint = if default.is_empty() {
            String::new()
        } else {
            format!(" [{default}]")
        };
        let mut err = std::io::stderr();
        write!(err, "{question}{hint}: ")?;
        err.flush()?;
        let mut line = String::new();
        if std::io::stdin().read_line(&mut line)? == 0 {
            return Err(CommandError::new(
                "the questions were not answered",
                "begin again: nothing was written",
            ));
        }
        let line = line.trim();
        Ok(if line.is_empty() { default } else { line }.to_owned())
    }
}
