//! `tollgate prompts`: the prompts that live on the server, and one tried against its real provider.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value, json};
use tokio::time::Instant;
use uuid::Uuid;

use super::CommandError;
use super::print::{self, Lines};
use super::table::{Look, Table};
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::endpoint::chat::prompt::SPEC;
use crate::endpoint::{Endpoint, Incoming, Reader, Terms};
use crate::error::{Code, Refusal};
use crate::meter::whole::Whole;
use crate::operator::queries::prompts::PromptEntry;
use crate::plan::Plan;
use crate::price::Usage;
use crate::prompt::Prompt;
use crate::upstream::rejection::Rejection;
use crate::upstream::{self, Outgoing, Upstreams, answer};

/// The user whom the provider is told of.
const USER: &str = "tollgate-prompts-try";

/// The prompts that live on the server: what they are, and how one answers
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tollgate prompts                              every prompt, with its model, version and variables
  tollgate prompts --json | jq .system          with the texts
  tollgate prompts try summarize --var kind=e-mails --message \"Dear Bob, …\"")]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct PromptsArgs {
    /// One JSON object a line, with the text
    #[arg(long)]
    json: bool,
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    Try(TryArgs),
}

/// Send a prompt to its real provider; print the answer and its price
///
/// It is paid with the provider's key. No user's limit and no row of the ledger is touched.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  tollgate prompts try summarize --var kind=e-mails --message \"Dear Bob, …\"")]
struct TryArgs {
    /// The prompt
    name: String,
    /// The value of a variable; once for each
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = variable)]
    vars: Vec<(String, String)>,
    /// What the user says; several are several messages
    #[arg(long = "message", value_name = "TEXT")]
    messages: Vec<String>,
    /// The caps of this plan hold. Default: the first that may use the prompt, the default plan if it may
    #[arg(long)]
    plan: Option<String>,
    /// Print one JSON object: the provider's answer, the usage and the price
    #[arg(long)]
    json: bool,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("write NAME=VALUE, such as kind=e-mails")?;
    Ok((name.to_owned(), value.to_owned()))
}

/// Lists the prompts, or tries one.
pub(super) async fn run(args: PromptsArgs, sources: &Sources) -> Result<(), CommandError> {
    let config = Config::load(sources)?;
    match args.action {
        Some(Action::Try(args)) => attempt(&args, &config).await,
        None => list(&config, args.json, Look::of(sources)),
    }
}

fn list(config: &Config, json: bool, look: Look) -> Result<(), CommandError> {
    let entries = config
        .prompts
        .values()
        .map(|prompt| PromptEntry::from(&**prompt));
    if json {
        let mut lines = Lines::new();
        for entry in entries {
            lines.line(&serde_json::to_string(&entry).unwrap_or_default())?;
        }
        return Ok(lines.finish()?);
    }
    if config.prompts.is_empty() {
        let hint = "There are no prompts. Write one: prompts/summarize.toml with model = \"…\" and system = \"…\"";
        return Ok(print::line(hint)?);
    }
    let mut table = Table::new(vec!["prompt", "model", "version", "plans", "variables"]);
    for entry in entries {
        let plans = entry
            .plans
            .map_or_else(|| "all".to_owned(), |plans| plans.join(", "));
        let variables = entry.variables.join(", ");
        table.row(vec![
            entry.name,
            entry.model,
            entry.version,
            plans,
            variables,
        ]);
    }
    Ok(print::text(&table.text(look))?)
}

/// What came of a try.
struct Trial {
    body: Value,
    model: String,
    upstream: String,
    version: String,
    usage: Option<Usage>,
    cost_usd: Option<String>,
}

async fn attempt(args: &TryArgs, config: &Config) -> Result<(), CommandError> {
    let prompt = config
        .prompts
        .get(&args.name)
        .ok_or_else(|| unknown(&args.name, config))?;
    let plan = plan_of(prompt, args.plan.as_deref(), config)?;
    let order = order(args, plan, config)?;
    let trial = send(&*order, prompt, config).await?;
    if args.json {
        let all = json!({
            "prompt": args.name,
            "version": trial.version,
            "model": trial.model,
            "upstream": trial.upstream,
            "answer": trial.body,
            "input_tokens": trial.usage.map(|usage| usage.input_tokens),
            "output_tokens": trial.usage.map(|usage| usage.output_tokens),
            "cost_usd": trial.cost_usd,
        });
        return Ok(print::line(&all.to_string())?);
    }
    let said = trial.body.pointer("/choices/0/message/content");
    print::line(said.and_then(Value::as_str).unwrap_or_default())?;
    let price = match (trial.usage, trial.cost_usd) {
        (Some(usage), Some(cost)) => format!(
            "{} tokens in, {} out: ${cost}",
            usage.input_tokens, usage.output_tokens
        ),
        _ => "the provider did not report the usage".to_owned(),
    };
    print::error_line(&format!(
        "{} {} by {} at {}: {price}",
        args.name, trial.version, trial.model, trial.upstream
    ));
    Ok(())
}

fn unknown(name: &str, config: &Config) -> CommandError {
    let names: Vec<&str> = config.prompts.keys().map(String::as_str).collect();
    let next = if names.is_empty() {
        "write it: prompts/NAME.toml with model = \"…\" and system = \"…\"".to_owned()
    } else {
        format!("name one of: {}", names.join(", "))
    };
    CommandError::new(format!("there is no prompt `{name}`"), next)
}

/// The plan whose caps hold.
fn plan_of<'a>(
    prompt: &Prompt,
    named: Option<&str>,
    config: &'a Config,
) -> Result<&'a Arc<Plan>, CommandError> {
    let plans = &config.plans;
    if let Some(name) = named {
        let next = format!(
            "name one of: {}",
            plans.by_name.keys().cloned().collect::<Vec<_>>().join(", ")
        );
        return plans
            .by_name
            .get(name)
            .ok_or_else(|| CommandError::new(format!("there is no plan `{name}`"), next));
    }
    let mut all = std::iter::once(&plans.default).chain(plans.by_name.values());
    let found = all.find(|plan| prompt.is_for(&plan.name));
    Ok(found.unwrap_or(&plans.default))
}

/// The request as an app would send it.
fn order(args: &TryArgs, plan: &Plan, config: &Config) -> Result<Box<dyn Endpoint>, CommandError> {
    let refused = |refusal: Refusal| {
        let next = match refusal.code {
            Code::ModelNotAllowed => "say --plan with a plan that may use it",
            _ => "say each variable with --var NAME=VALUE; tollgate prompts lists them",
        };
        CommandError::new(refusal.message, next)
    };
    let mut variables = serde_json::Map::new();
    for (name, value) in &args.vars {
        if variables.insert(name.clone(), json!(value)).is_some() {
            let problem = format!("--var {name}=… is given twice");
            return Err(CommandError::new(problem, "keep one of the two"));
        }
    }
    let said = args.messages.iter();
    let messages: Vec<Value> = said
        .map(|text| json!({"role": "user", "content": text}))
        .collect();
    let body = json!({"variables": variables, "messages": messages}).to_string();
    let path = format!("/api/prompts/{}", args.name);
    let spec = &SPEC;
    let route = spec.route(&path);
    let incoming = Incoming {
        route: route.ok_or_else(|| unknown(&args.name, config))?,
        content_type: None,
        body: Bytes::from(body),
    };
    let terms = Terms {
        plan,
        prices: &config.prices,
        models: &config.models,
        prompts: &config.prompts,
        now: Clock::system().now(),
        candidate: None,
    };
    let order = (SPEC.parse)(&incoming, &terms).map_err(refused)?;
    order.check_least_input(plan).map_err(refused)?;
    Ok(order)
}

async fn send(
    order: &dyn Endpoint,
    prompt: &Prompt,
    config: &Config,
) -> Result<Trial, CommandError> {
    let failed = |refusal: Refusal| {
        CommandError::new(refusal.message, "see what is wrong there: tollgate doctor")
    };
    let upstream = upstream::routes(&config.upstreams, order.model())
        .next()
        .ok_or_else(|| {
            CommandError::new(
                "no upstream serves the model",
                "try the settings: tollgate check",
            )
        })?;
    let outgoing = Outgoing {
        path: SPEC.upstream_path,
        body: order.body(order.output_cap(), upstream.manner, USER),
        content_type: order.content_type(),
        stream: false,
        anthropic_beta: None,
    };
    let now = Instant::now();
    let deadline = now.checked_add(config.proxy.total_timeout).unwrap_or(now);
    let answer = Upstreams::new(&config.proxy)
        .send(upstream, outgoing, Uuid::now_v7())
        .await
        .map_err(|error| failed(error.refusal()))?;
    if answer.status != StatusCode::OK {
        let rejection = Rejection::read(answer, upstream, Clock::system().now()).await;
        return Err(failed(rejection.refusal));
    }
    let idle = config.proxy.idle_timeout;
    let body = answer::read(answer.body, SPEC.answer_bytes_max, idle, deadline)
        .await
        .map_err(|error| failed(error.refusal()))?;
    if let Some(rejection) = Rejection::in_success(&body, upstream) {
        return Err(failed(rejection.refusal));
    }
    let Whole { measured, body } = match order.reader(uuid::Uuid::nil()) {
        Reader::Whole(read) => read(body),
        Reader::Stream(_) | Reader::Bytes(_) => return Err(no_answer()),
    };
    let body = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok());
    let cost = measured.usage.map(|usage| order.price().cost(&usage));
    Ok(Trial {
        body: body.ok_or_else(no_answer)?,
        model: order.model().to_owned(),
        upstream: upstream.name.clone(),
        version: prompt.version.clone(),
        usage: measured.usage,
        cost_usd: cost.map(|cost| cost.to_string()),
    })
}

fn no_answer() -> CommandError {
    CommandError::new(
        "the provider answered something that is no chat completion",
        "see what is wrong there: tollgate doctor",
    )
}
