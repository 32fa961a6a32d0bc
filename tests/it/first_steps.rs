//! The steps of `docs/supabase.md`, taken on an empty project: from its `.env` to a first request and its row.
//!
//! The commands are read from the document. What only a dashboard can do is done in its place: making keys, running the
//! script as the SQL editor does, signing a user in.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::caller::{Call, chat};
use crate::support::door::Door;
use crate::support::keys::Key;
use crate::support::postgrest::{Grants, Rest, script};
use crate::support::project::until;
use crate::support::settings::Settings;
use crate::support::tokens::{claims, now, sign, user_id};
use crate::support::tools::{Tool, installed};

const DOCUMENT: &str = include_str!("../../docs/supabase.md");
const REFERENCE: &str = include_str!("../../docs/commands.md");

/// What stands between two texts of the document.
fn between(from: &str, to: &str) -> &'static str {
    let (_, rest) = DOCUMENT
        .split_once(from)
        .unwrap_or_else(|| panic!("{from:?} is not in the document"));
    rest.split_once(to)
        .unwrap_or_else(|| panic!("{to:?} does not follow {from:?}"))
        .0
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ten_steps_of_the_document_lead_from_an_empty_project_to_a_first_request() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let steps = between("## Ten steps", "\n## ");
    let numbered = steps.lines().filter(|line| {
        line.split_once(". ")
            .is_some_and(|(n, _)| n.parse::<u8>().is_ok())
    });
    assert_eq!(numbered.count(), 10);
    let rest = Rest::start(Grants::New).await;
    let key = Key::es256("published");
    rest.publish_keys(vec![key.jwk()]);
    let unset = [
        "SUPABASE_URL",
        "SUPABASE_SERVICE_KEY",
        "OPENAI_API_KEY",
        "JWT_SECRET",
        "TOLLGATE_ADMIN_TOKEN",
    ];
    let settings = unset
        .into_iter()
        .fold(Settings::without_file(), Settings::unset);
    // Nobody waits fifteen seconds for the plan at the end.
    let settings = settings.env("TOLLGATE_DIRECTORY__PLAN_CACHE", "1s");
    let door = Door::prepare(settings).await;

    let written = between("   ```sh\n", "   ```\n");
    let env = written.replace("https://<ref>.supabase.co", rest.url());
    let env = env
        .replace("sb_secret_…", &rest.keys().secret)
        .replace("sk-…", door.operator_key());
    assert!(!env.contains('…') && !env.contains('<'), "{env}");
    let env: Vec<&str> = env.lines().map(str::trim).collect();
    door.write_file(".env", &env.join("\n"));
    assert!(steps.contains("`tollgate sql > tollgate.sql`"));
    rest.run_as_editor(&door.must(&["sql"])).await;
    assert!(steps.contains("`tollgate doctor --anon-key sb_publishable_…`"));
    let models = [
        "gpt-6-luna",
        "gpt-4o-mini",
        "gpt-4.1-mini",
        "gpt-5-mini",
        "gpt-5-nano",
        "gpt-6.1-terra",
    ];
    let models = models.map(|id| json!({"id": id}));
    door.upstream.next(move |_| list(&models));
    let doctor = door.tollgate(&["doctor", "--anon-key", &rest.keys().publishable]);
    assert!(
        doctor
            .stdout
            .contains("✓ supabase tollgate_check_user_limits"),
        "{doctor:?}"
    );
    assert!(doctor.stdout.contains("✓ supabase grants"), "{doctor:?}");
    door.must(&["check"]);
    door.start().await;

    let token = sign(
        &key,
        &claims("alice", &format!("{}/auth/v1", rest.url()), now()),
    );
    let curl = between("10. The first request:\n", "   ```\n\n");
    assert!(
        curl.contains("localhost:8080/api/chat") && curl.contains("Authorization: Bearer $TOKEN"),
        "{curl}"
    );
    let (_, body) = curl.rsplit_once("-d '").unwrap();
    let body: Value = serde_json::from_str(body.split_once('\'').unwrap().0).unwrap();
    door.send(Call::post("/api/chat", &body).bearer(&token))
        .await
        .expect(200);

    let owner = rest.postgres().connect_as("editor", "postgres").await;
    until(
        "the row of tollgate.usage",
        Duration::from_secs(10),
        async || {
            owner
                .query(
                    "select from tollgate.usage where user_id = $1",
                    &[&user_id("alice")],
                )
                .await
                .unwrap()
                .len()
                == 1
        },
    )
    .await;

    // "Give a user a plan", with a plan that there is.
    let give = between("```sql\n", "```")
        .replace("<user id>", &user_id("alice").to_string())
        .replace("'pro'", "'free'");
    owner.batch_execute(&give).await.unwrap();
    until("the plan", Duration::from_secs(20), async || {
        door.send(Call::get("/api/me").bearer(&token)).await.json()["plan"]["source"] == "database"
    })
    .await;
    door.close().await;
}

fn list(models: &[Value]) -> crate::support::reply::Reply {
    crate::support::reply::Reply::status(
        200,
        "application/json",
        json!({"data": models}).to_string(),
    )
}

#[test]
fn every_command_is_in_the_page_of_commands() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_tollgate"))
        .arg("--help")
        .output()
        .unwrap();
    let help = String::from_utf8(output.stdout).unwrap();
    let commands = help
        .split_once("Commands:\n")
        .expect("a list of commands")
        .1
        .split("\n\n")
        .next()
        .unwrap();
    let names: Vec<&str> = commands
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 8, "{help}");
    for name in names.iter().filter(|name| **name != "help") {
        let row = REFERENCE
            .lines()
            .any(|line| line.starts_with("| `") && line.contains(&format!("`{name}")));
        assert!(row, "`{name}` is not in the table of docs/commands.md");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_role_that_the_script_makes_for_tollgate_is_enough_to_serve_with() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let rest = Rest::with_script(Grants::New).await;
    let owner = rest.postgres().connect_as("editor", "postgres").await;
    let (_, example) = script().split_once("create role tollgate_app").unwrap();
    let example = format!(
        "create role tollgate_app{}",
        example.split_once("*/").unwrap().0
    );
    owner.batch_execute(&example).await.unwrap();
    let settings = Settings::new().env(
        "DATABASE_URL",
        &rest.postgres().url_as("tollgate_app", "postgres"),
    );
    let door = Door::open(settings).await;

    let answer = door
        .user("alice")
        .ask(chat("as tollgate_app"))
        .await
        .expect(200);

    until(
        "the row of tollgate.usage",
        Duration::from_secs(10),
        async || {
            let rows = owner
                .query("select id from tollgate.usage", &[])
                .await
                .unwrap();
            rows.len() == 1 && rows[0].get::<_, uuid::Uuid>(0) == answer.id().unwrap()
        },
    )
    .await;
    let doctor = door.tollgate(&["doctor"]);
    assert!(
        doctor.stdout.contains("✓ ledger") && doctor.stdout.contains("✓ database grants"),
        "{doctor:?}"
    );
    door.close().await;
}
