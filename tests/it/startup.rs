//! What is started with, and what is refused at start, with the key, the file and the fix.

use std::time::Duration;

use serde_json::json;

use crate::support::caller::{and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::reply::Talk;
use crate::support::settings::Settings;

/// It does not start, and says each of these words.
async fn is_refused(settings: Settings, words: &[&str]) {
    let shown = settings.text().unwrap_or_default();
    let printed = Door::refused_to_start(settings).await;
    assert!(
        matches!(printed.code, Some(1 | 2)),
        "{words:?}: {printed:?}"
    );
    for word in words {
        assert!(
            printed.stderr.to_lowercase().contains(&word.to_lowercase()),
            "no {word:?} in {}\n{shown}",
            printed.stderr
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_nobody_knows_or_of_the_wrong_type_is_refused_by_name() {
    for (toml, word) in [
        ("server.bidn = \"0.0.0.0:1\"", "bidn"),
        ("sevrer.bind = \"0.0.0.0:1\"", "sevrer"),
        ("plans.free.max_tokens = 7", "max_tokens"),
        (
            "plans.free.limits = [{ per = \"day\", request = 7 }]",
            "request",
        ),
        (
            "plans.free.limits = [{ per = \"fortnight\", requests = 7 }]",
            "fortnight",
        ),
        ("plans.free.limits = [{ per = \"day\" }]", "limits"),
        ("server.cors_origins = 7", "cors_origins"),
        ("server.body_bytes_max = \"8 potatoes\"", "body_bytes_max"),
        ("server.time_zone = \"Mars/Olympus\"", "time_zone"),
        ("proxy.idle_timeout = \"5 parsecs\"", "idle_timeout"),
        ("proxy.on_disconnect = \"shrug\"", "on_disconnect"),
        ("proxy.min_output_tokens = -1", "min_output_tokens"),
        ("ceiling.cost_usd_per_day = \"much\"", "cost_usd_per_day"),
        ("auth.anonymous_plan = \"nobody\"", "anonymous_plan"),
    ] {
        is_refused(Settings::new().with(toml), &[word, "tollgate.toml"]).await;
    }
    is_refused(Settings::new().env("TOLLGATE_SERVER__BIDN", "x"), &["BIDN"]).await;
    is_refused(
        Settings::new().env("TOLLGATE_PROXY__IDLE_TIMEOUT", "soon"),
        &["IDLE_TIMEOUT"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_empty_short_or_well_known_is_refused() {
    is_refused(Settings::new().env("JWT_SECRET", ""), &["JWT_SECRET"]).await;
    is_refused(
        Settings::new().env("JWT_SECRET", "only-31-bytes-of-a-secret-here!"),
        &["JWT_SECRET", "32"],
    )
    .await;
    is_refused(
        Settings::new().env("OPENAI_API_KEY", ""),
        &["OPENAI_API_KEY"],
    )
    .await;
    is_refused(Settings::new().unset("OPENAI_API_KEY"), &["OPENAI_API_KEY"]).await;
    let local = "super-secret-jwt-token-with-at-least-32-characters-long";
    let hosted = Settings::new()
        .env("JWT_SECRET", local)
        .env("SUPABASE_URL", "https://abcdefghijklmnopqrst.supabase.co");
    is_refused(hosted, &["JWT_SECRET"]).await;
    is_refused(
        Settings::new().unset("JWT_SECRET").unset("SUPABASE_URL"),
        &["SUPABASE_URL"],
    )
    .await;
    // Supabase's own local default is fine beside a local Supabase.
    let door = Door::open(Settings::new().env("JWT_SECRET", local)).await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_with_quotes_or_blanks_around_it_and_a_placeholder_are_refused() {
    let secret = "Zf3kP0s9ZQm1xT7vB2nR8cJ5wL4hD6gYa";
    for quoted in [
        format!("\"{secret}\""),
        format!("'{secret}'"),
        format!("{secret} "),
        format!("\t{secret}"),
    ] {
        is_refused(
            Settings::new().env("JWT_SECRET", &quoted),
            &["JWT_SECRET", "Fix"],
        )
        .await;
    }
    is_refused(
        Settings::new().env("OPENAI_API_KEY", "'sk-x'"),
        &["OPENAI_API_KEY", "quotes"],
    )
    .await;
    let in_file = Settings::new()
        .unset("TOLLGATE_ADMIN_TOKEN")
        .with("server.admin_token = \" 0123456789abcdef\"");
    is_refused(in_file, &["admin_token", "white space"]).await;
    is_refused(
        Settings::new().env("SUPABASE_URL", "https://your-project.supabase.co"),
        &["placeholder"],
    )
    .await;
    is_refused(
        Settings::new().env(
            "DATABASE_URL",
            "postgres://postgres:[YOUR-PASSWORD]@db.x.supabase.co:5432/postgres",
        ),
        &["DATABASE_URL", "[YOUR-PASSWORD]", "own password"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dot_env_shared_with_other_programs_is_read_as_it_stands() {
    let door = Door::prepare(Settings::new().unset("JWT_SECRET")).await;
    let secret = door.jwt_secret().to_owned() + "$mQp1R$Tw5${HOME}";
    let neighbours = "APP_NAME=My App\r\nif [ -n x ]; then\r\nMSG='tis\r\n";
    door.write_file(
        ".env",
        &format!("\u{FEFF}{neighbours}JWT_SECRET={secret}\r\n"),
    );
    door.start().await;
    let signed = |secret: &str| {
        let key = crate::support::keys::Key::hs256(secret.to_owned());
        crate::support::tokens::sign(&key, &door.claims("alice"))
    };
    let me = crate::support::caller::Call::get("/api/me");
    assert_eq!(
        door.send(me.clone().bearer(&signed(&secret))).await.status,
        200,
        "a $ is a $"
    );
    door.write_file(".env", &format!("JWT_SECRET='{}'\n", door.jwt_secret()));
    door.process.signal("HUP");
    let begun = std::time::Instant::now();
    while door
        .send(me.clone().bearer(&signed(door.jwt_secret())))
        .await
        .status
        != 200
    {
        assert!(begun.elapsed() < Duration::from_secs(5));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_without_a_price_or_an_upstream_is_refused() {
    is_refused(
        Settings::new().with("plans.free.models = [\"gpt-4o-mini\", \"gpt-99\"]"),
        &["gpt-99"],
    )
    .await;
    is_refused(Settings::new().with("plans.free.models = []"), &["models"]).await;
    let elsewhere = "[[upstreams]]\nname = \"a\"\nbase_url = \"{upstream}\"\napi_key_env = \"OPENAI_API_KEY\"\nmodels = [\"llama-*\"]\n";
    is_refused(Settings::new().with(elsewhere), &["gpt-4o"]).await;
    for price in [
        "\"-1\"",
        "\"free\"",
        "0.15",
        "\"1e300\"",
        "\"0.12345678901\"",
    ] {
        let toml = format!("[prices.\"gpt-4o\"]\ninput = {price}\noutput = \"1\"\n");
        is_refused(Settings::new().with(&toml), &["gpt-4o"]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_of_nothing_or_beyond_range_is_refused() {
    for limit in [
        "requests = 0",
        "requests = -5",
        "tokens = 0",
        "requests = 1.5",
        "requests = 9223372036854775807",
        "cost_usd = \"0\"",
        "cost_usd = \"-1\"",
        "cost_usd = \"0.0000001\"",
        "cost_usd = \"99999999999999999\"",
        "cost_usd = \"NaN\"",
    ] {
        let toml = format!("plans.free.limits = [{{ per = \"day\", {limit} }}]");
        is_refused(Settings::new().with(&toml), &["limits"]).await;
    }
    for (key, value) in [
        ("max_output_tokens", "0"),
        ("max_output_tokens", "-1"),
        ("max_choices", "0"),
        ("concurrent_requests", "0"),
        ("max_input_tokens", "99999999999999"),
    ] {
        is_refused(
            Settings::new().with(&format!("plans.free.{key} = {value}")),
            &[key],
        )
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn exactly_one_plan_is_the_default() {
    is_refused(
        Settings::new().with("plans.free.default = false"),
        &["default"],
    )
    .await;
    let second = "[plans.pro]\ndefault = true\nmodels = [\"gpt-4o\"]\nlimits = []\n";
    is_refused(Settings::new().with(second), &["default"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_be_written_is_refused() {
    is_refused(
        Settings::new().with("store.url = \"sqlite:/proc/no/tollgate.db\""),
        &["/proc/no", "store"],
    )
    .await;
    is_refused(
        Settings::new().with("store.url = \"sqlite:tollgate.toml\""),
        &["store"],
    )
    .await;
    is_refused(
        Settings::new().with("store.url = \"mysql://root@localhost/x\""),
        &["store"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_made_by_somebody_else_is_left_alone() {
    let door = Door::prepare(Settings::new().with("store.url = \"sqlite:other.db\"")).await;
    let path = door.directory().join("other.db");
    let other = rusqlite::Connection::open(&path).unwrap();
    other
        .execute_batch(
            "create table holiday_photos (name text); insert into holiday_photos values ('beach')",
        )
        .unwrap();
    drop(other);
    door.start().await;
    door.user("alice").ask(chat("a")).await.expect(200);
    let name: String = rusqlite::Connection::open(&path)
        .unwrap()
        .query_row("select name from holiday_photos", [], |row| row.get(0))
        .unwrap();
    assert_eq!(name, "beach");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_any_file_the_quick_starts_variables_suffice() {
    let door = Door::open(Settings::without_file().on_sqlite()).await;
    let alice = door.user("alice");
    let me = alice.me().await;
    assert_eq!(me["plan"]["name"], "free");
    assert_eq!(
        me["models"],
        json!([
            "gpt-6-luna",
            "gpt-4o-mini",
            "gpt-3.5-turbo",
            "gpt-4.1-mini",
            "gpt-4.1-nano",
            "gpt-5-mini",
            "gpt-5-nano"
        ])
    );
    for model in ["gpt-4o-mini", "gpt-3.5-turbo", "gpt-5-mini"] {
        let seed = json!({"model": model, "messages": [{"role": "user", "content": "Hello!"}], "temperature": 0.7, "max_tokens": 100});
        let answer = alice.post("/api/chat", &seed).await.expect(200);
        assert!(door.row(&answer).await.cost() > 0);
    }
    assert!(door.directory().join("data/tollgate.db").exists());
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_alone_says_where_it_listens() {
    let door = Door::open(Settings::new().unset("TOLLGATE_SERVER__BIND")).await;
    door.user("alice").ask(chat("a")).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_later_of_file_dotenv_and_environment_wins() {
    let long = || and(chat("a"), &json!({"stop": ["x".repeat(100_000)]}));
    let small = Settings::new().with("server.body_bytes_max = \"64KiB\"");
    let door = Door::open(small.clone()).await;
    door.user("alice")
        .ask(long())
        .await
        .refused(413, "body_too_large");
    door.close().await;

    let door = Door::prepare(small.clone()).await;
    door.write_file(
        ".env",
        "# a comment\nTOLLGATE_SERVER__BODY_BYTES_MAX=1MiB\n",
    );
    door.start().await;
    assert_ne!(door.user("alice").ask(long()).await.status, 413);
    door.close().await;

    let door = Door::prepare(small.env("TOLLGATE_SERVER__BODY_BYTES_MAX", "32KiB")).await;
    door.write_file(".env", "TOLLGATE_SERVER__BODY_BYTES_MAX=1MiB\n");
    door.start().await;
    door.user("alice")
        .ask(long())
        .await
        .refused(413, "body_too_large");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_local_server_without_a_key_and_without_a_price_is_served() {
    let settings = Settings::new()
        .with("[[upstreams]]\nname = \"local\"\nbase_url = \"{upstream}\"\napi_key_env = \"OPENAI_API_KEY\"\nmodels = [\"*\"]\ndialect = \"compatible\"\n")
        .with("[plans.free]\nmodels = [\"llama\"]\n[prices.llama]\nfree = true\n");
    let door = Door::open(settings).await;
    let answer = door
        .user("alice")
        .ask(and(chat("a"), &json!({"model": "llama"})))
        .await
        .expect(200);
    let row = door.row(&answer).await;
    assert_eq!(
        (row.cost(), row.state.as_str(), row.output_tokens),
        (0, "settled", Some(5)),
        "{row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_upstream_whose_pattern_fits_serves_a_model() {
    let settings = Settings::new().with(
        r#"
        [[upstreams]]
        name = "mini"
        base_url = "{upstream}"
        api_key_env = "OPENAI_API_KEY"
        models = ["gpt-4o-mini"]
        [[upstreams]]
        name = "rest"
        base_url = "{upstream}"
        api_key_env = "OPENAI_API_KEY"
        models = ["gpt-*"]
        "#,
    );
    let door = Door::open(settings).await;
    let alice = door.user("alice");
    for (model, upstream) in [("gpt-4o-mini", "mini"), ("gpt-4o", "rest")] {
        let answer = alice
            .ask(and(chat("a"), &json!({"model": model})))
            .await
            .expect(200);
        assert_eq!(door.row(&answer).await.upstream.as_deref(), Some(upstream));
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_price_of_ones_own_changes_nothing_else_about_a_model() {
    let door = Door::open(
        Settings::new().with("[prices.\"gpt-4o-mini\"]\ninput = \"0.30\"\noutput = \"1.20\"\n"),
    )
    .await;
    // Some 6,000 tokens in 30,000 bytes: it fits only where the model's own tokenizer counts it.
    let answer = door
        .user("alice")
        .ask(chat(&"information ".repeat(6000)))
        .await
        .expect(200);
    assert!(door.row(&answer).await.cost() > 0);
    door.close().await;

    let settings = Settings::new()
        .with(r#"proxy.on_disconnect = "abort""#)
        .with("plans.free.models = [\"gpt-5-mini\"]\n[prices.\"gpt-5-mini\"]\ninput = \"0.30\"\noutput = \"3.00\"\n");
    let door = Door::open(settings).await;
    door.upstream
        .always(|seen| Talk::words(20).every(Duration::from_millis(50)).reply(seen));
    let mut open = door
        .user("alice")
        .open(and(chat_stream("think"), &json!({"model": "gpt-5-mini"})))
        .await;
    open.take(3).await;
    open.hang_up();
    let row = door.quiet_rows().await.remove(0);
    assert_eq!(
        row.cost_micros, row.held_micros,
        "it still bills reasoning that nobody sees: {row:?}"
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_on_the_same_ledger_is_refused() {
    let door = Door::open(Settings::new().on_sqlite()).await;
    door.upstream
        .always(|seen| Talk::words(3).every(Duration::from_millis(300)).reply(seen));
    let mut open = door.user("alice").open(chat_stream("held meanwhile")).await;
    open.take(1).await;
    let printed = door.second_server();
    assert!(
        matches!(printed.code, Some(1 | 2)),
        "two processes would sweep each other's holds: {printed:?}"
    );
    let answer = open.rest().await;
    assert_eq!(door.row(&answer).await.state, "settled");
    door.close().await;
}
