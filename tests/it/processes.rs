//! Several processes on one Postgres: whatever one of them may do, all of them together may do no more.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::support::caller::{Answer, User, and, chat, chat_stream};
use crate::support::door::Door;
use crate::support::oracle::invoice;
use crate::support::reply::Talk;
use crate::support::settings::Settings;
use crate::support::sibling::Sibling;
use crate::support::tools::{Tool, installed};

const MINI: (u128, u128, u128) = (150_000, 75_000, 600_000);

/// A door on Postgres with other limits for everybody, and so many processes beside its own.
async fn several(toml: &str, beside: usize) -> (Door, Vec<Arc<Sibling>>) {
    let door = Door::open(Settings::new().on_postgres().with(toml)).await;
    let mut siblings = Vec::new();
    for _ in 0..beside {
        siblings.push(door.beside().await);
    }
    (door, siblings)
}

/// The same user, calling each process.
fn everywhere(user: &User, siblings: &[Arc<Sibling>]) -> Vec<User> {
    std::iter::once(user.clone())
        .chain(siblings.iter().map(|sibling| sibling.of(user)))
        .collect()
}

/// So many requests at once, to each of the callers in turn.
async fn at_once(callers: &[User], count: usize, body: impl Fn() -> Value) -> Vec<Answer> {
    let begin = |number: usize| {
        let (user, body) = (callers[number % callers.len()].clone(), body());
        tokio::spawn(async move { user.ask(body).await })
    };
    let asking: Vec<_> = (0..count).map(begin).collect();
    let mut answers = Vec::new();
    for one in asking {
        answers.push(one.await.unwrap());
    }
    answers
}

fn count(answers: &[Answer], status: u16) -> usize {
    answers
        .iter()
        .filter(|answer| answer.status == status)
        .count()
}

fn invoiced(door: &Door) -> i64 {
    door.upstream
        .log()
        .iter()
        .map(|served| invoice(served, MINI))
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn whichever_process_is_asked_a_limit_of_three_lets_three_through() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, siblings) =
        several(r#"plans.free.limits = [{ per = "day", requests = 3 }]"#, 2).await;
    for round in 0..20 {
        let processes = if round % 2 == 0 { 1 } else { 2 };
        let callers = everywhere(
            &door.user(&format!("stranger-{round}")),
            &siblings[..processes],
        );
        let before = door.upstream.count();
        let watch = Door::watch(&callers[1]);
        let answers = at_once(&callers, 50, || chat("one of fifty")).await;
        drop(watch);
        let served = door.upstream.count() - before;
        assert_eq!(
            (count(&answers, 200), count(&answers, 402), served),
            (3, 47, 3),
            "round {round}"
        );
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_what_is_left_to_many_users_at_once_each_gets_exactly_that() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    // No ceiling: the lock of its row would keep the processes apart where the users' locks must.
    let limit = "ceiling.cost_usd_per_day = \"none\"\n[plans.free]\nlimits = [{ per = \"day\", requests = 2 }]";
    let (door, siblings) = several(limit, 2).await;
    let users: Vec<User> = (0..8)
        .map(|number| door.user(&format!("user-{number}")))
        .collect();
    // Their windows are there, so that nobody waits for the making of one, and every process knows their plan.
    assert_eq!(
        count(
            &at_once(&users, users.len(), || chat("the first")).await,
            200
        ),
        users.len()
    );
    door.quiet_rows().await;
    let callers: Vec<User> = users
        .iter()
        .flat_map(|user| everywhere(user, &siblings))
        .collect();
    for caller in &callers {
        caller.me().await;
    }
    // All have looked at the windows before any of them may write its row.
    let foreign = door.database().connect().await;
    foreign
        .batch_execute("begin; lock table tollgate_ledger.requests in share mode")
        .await
        .unwrap();
    let asking = callers.clone();
    let asking =
        tokio::spawn(async move { at_once(&asking, asking.len(), || chat("the last")).await });
    sleep(Duration::from_millis(150)).await;
    foreign.batch_execute("rollback").await.unwrap();
    let answers = asking.await.unwrap();
    assert_eq!(
        (count(&answers, 200), count(&answers, 402)),
        (users.len(), callers.len() - users.len())
    );
    assert_eq!(door.upstream.count(), 2 * users.len());
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_processes_together_never_pass_a_limit_in_dollars() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, siblings) = several(
        r#"plans.free.limits = [{ per = "month", cost_usd = "0.002000" }]"#,
        2,
    )
    .await;
    door.upstream.always(|seen| Talk::to_the_cap().reply(seen));
    let callers = everywhere(&door.user("alice"), &siblings);
    let watch = Door::watch(&callers[2]);
    let answers = at_once(&callers, 50, || {
        and(chat("one of fifty"), &json!({"max_tokens": 400}))
    })
    .await;
    assert!(
        invoiced(&door) <= 2000,
        "{} micro-dollars were billed of 2000",
        invoiced(&door)
    );
    assert!(
        count(&answers, 200) >= 5,
        "five worst cases fit at once: {answers:?}"
    );
    assert_eq!(count(&answers, 200) + count(&answers, 402), 50);
    let mut refused = 0;
    for caller in callers.iter().cycle().take(30) {
        let answer = caller
            .ask(and(chat("the rest"), &json!({"max_tokens": 400})))
            .await;
        refused += usize::from(answer.status == 402);
    }
    drop(watch);
    assert!(
        (1900..=2000).contains(&invoiced(&door)),
        "{} micro-dollars were billed of 2000",
        invoiced(&door)
    );
    assert!(refused >= 3, "each process says so once it is used up");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_processes_together_never_pass_the_ceiling() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, siblings) = several("ceiling.cost_usd_per_day = \"0.005\"", 2).await;
    door.upstream.always(|seen| Talk::to_the_cap().reply(seen));
    // Different users: nothing but the ceiling is between them.
    let callers: Vec<User> = (0..20)
        .flat_map(|number| everywhere(&door.user(&format!("user-{number}")), &siblings))
        .collect();
    for _ in 0..2 {
        let answers = at_once(&callers, 60, || {
            and(chat("one of sixty"), &json!({"max_tokens": 400}))
        })
        .await;
        assert_eq!(count(&answers, 200) + count(&answers, 503), 60);
        answers
            .iter()
            .filter(|answer| answer.status == 503)
            .for_each(|answer| assert_eq!(answer.code(), "paused"));
        assert!(
            invoiced(&door) <= 5000,
            "{} micro-dollars were billed of 5000",
            invoiced(&door)
        );
    }
    assert!(
        invoiced(&door) >= 4500,
        "{} micro-dollars were billed of 5000",
        invoiced(&door)
    );
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_requests_are_counted_over_all_processes() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, siblings) = several("plans.free.concurrent_requests = 2", 2).await;
    door.upstream.always(|seen| {
        Talk::words(10)
            .every(Duration::from_millis(100))
            .reply(seen)
    });
    let callers = everywhere(&door.user("alice"), &siblings);
    let answers = at_once(&callers, 30, || chat_stream("one of thirty")).await;
    assert_eq!(
        (
            count(&answers, 200),
            count(&answers, 429),
            door.upstream.count()
        ),
        (2, 28, 2)
    );
    for caller in &callers {
        caller.ask(chat("again")).await.expect(200);
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_together_on_an_empty_database_all_come_up() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    for round in 0..5 {
        let door = Door::prepare(Settings::new().on_postgres()).await;
        let ((), one, other) = tokio::join!(door.start(), door.beside(), door.beside());
        let callers = everywhere(&door.user("alice"), &[one, other]);
        let answers = at_once(&callers, 6, || chat("a")).await;
        assert_eq!(count(&answers, 200), 6, "round {round}: {answers:?}");
        door.close().await;
    }
}

/// Asks as many others, through every process, while one user is locked. How long the slowest of them took.
async fn slowest_of_others(door: &Door, siblings: &[Arc<Sibling>], name: &str) -> Duration {
    let mut asking = Vec::new();
    for number in 0..40 {
        for caller in everywhere(&door.user(&format!("{name}-{number}")), siblings) {
            asking.push(tokio::spawn(async move {
                let begun = Instant::now();
                caller.ask(chat("not me")).await.expect(200);
                begun.elapsed()
            }));
        }
        sleep(Duration::from_millis(20)).await;
    }
    let mut slowest = Duration::ZERO;
    for one in asking {
        slowest = slowest.max(one.await.unwrap());
    }
    slowest
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_whom_somebody_has_locked_holds_up_nobody_else() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, siblings) = several("", 1).await;
    let alice = door.user("alice");
    alice.ask(chat("before")).await.expect(200);
    door.quiet_rows().await;
    let foreign = door.database().connect().await;
    let id = alice.id;
    for (name, lock) in [
        (
            "advisory",
            format!("select pg_advisory_xact_lock(hashtextextended('tollgate:{id}', 7))"),
        ),
        (
            "rows",
            format!("select 1 from tollgate_ledger.windows where user_id = '{id}' for update"),
        ),
    ] {
        foreign
            .batch_execute(&format!("begin; {lock}"))
            .await
            .unwrap();
        let waiting: Vec<_> = everywhere(&alice, &siblings)
            .into_iter()
            .map(|caller| tokio::spawn(async move { caller.ask(chat("locked")).await }))
            .collect();
        sleep(Duration::from_millis(200)).await;
        let slowest = slowest_of_others(&door, &siblings, name).await;
        assert!(
            slowest < Duration::from_millis(1500),
            "{name}: somebody else waited for {slowest:?}"
        );
        assert!(
            waiting.iter().all(|one| !one.is_finished()),
            "{name}: alice was not locked at all"
        );
        foreign.batch_execute("rollback").await.unwrap();
        for one in waiting {
            one.await.unwrap().expect(200);
        }
    }
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_process_held_is_lost_after_its_lease_while_the_others_go_on() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, siblings) = several("", 2).await;
    door.upstream.always(|seen| {
        Talk::words(100)
            .every(Duration::from_millis(100))
            .reply(seen)
    });
    let alice = door.user("alice");
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut open = siblings[0].of(&alice).open(chat_stream("dies")).await;
        open.take(2).await;
        held.push(open);
    }
    let mut living = siblings[1].of(&alice).open(chat_stream("lives")).await;
    living.take(2).await;
    siblings[0].process.kill9();
    let killed = Instant::now();
    door.upstream.always(|seen| Talk::words(3).reply(seen));
    let mut died = Vec::new();
    for open in held {
        died.push(open.rest().await.id().unwrap());
    }
    let mut others = 0;
    loop {
        door.user(&format!("bob-{others}"))
            .ask(chat("a"))
            .await
            .expect(200);
        siblings[1].of(&alice).ask(chat("a")).await.expect(200);
        others += 1;
        if door
            .ledger_rows()
            .iter()
            .filter(|row| row.state == "lost")
            .count()
            == 3
        {
            break;
        }
        assert!(
            killed.elapsed() < Duration::from_secs(9),
            "not lost nine seconds after the kill"
        );
    }
    // Its last sign of life was at most a third of a lease before.
    assert!(
        killed.elapsed() > Duration::from_secs(3),
        "lost before the lease was over: {:?}",
        killed.elapsed()
    );
    assert!(others > 5, "the others went on");
    let rows = door.ledger_rows();
    for id in died {
        let row = rows.iter().find(|row| row.id == id).unwrap();
        assert!(
            row.state == "lost" && row.cost_micros == row.held_micros && row.has("swept"),
            "{row:?}"
        );
    }
    let row = door.row(&living.rest().await).await;
    assert!(
        row.state == "settled" && row.output_tokens == Some(100),
        "{row:?}"
    );
    door.start_sibling(&siblings[0]).await;
    siblings[0].of(&alice).ask(chat("again")).await.expect(200);
    door.close().await;
}

/// Asks every process until its answer is as wanted, for at most two seconds.
async fn soon_everywhere(callers: &[User], what: &str, wanted: impl Fn(&Answer) -> bool) {
    let begun = Instant::now();
    for caller in callers {
        loop {
            let answer = caller.ask(chat("is it so yet")).await;
            if wanted(&answer) {
                break;
            }
            assert!(
                begun.elapsed() < Duration::from_secs(2),
                "not {what} in two seconds: {}",
                answer.text()
            );
            sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_operator_says_on_the_command_line_is_live_in_every_process() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let plans = "[plans.guest]\nmodels = [\"gpt-4o-mini\"]\nlimits = [{ per = \"lifetime\", requests = 1 }]\n";
    let (door, siblings) = several(plans, 2).await;
    let (alice, mallory) = (door.user("alice"), door.user("mallory"));
    let (everyone, mallorys) = (
        everywhere(&alice, &siblings),
        everywhere(&mallory, &siblings),
    );
    soon_everywhere(&everyone, "served", |answer| answer.status == 200).await;
    soon_everywhere(&mallorys, "served", |answer| answer.status == 200).await;

    door.must(&["pause"]);
    soon_everywhere(&everyone, "paused", |answer| answer.code() == "paused").await;
    door.must(&["resume"]);
    soon_everywhere(&everyone, "resumed", |answer| answer.status == 200).await;

    door.must(&["user", "block", &mallory.id.to_string()]);
    soon_everywhere(&mallorys, "blocked", |answer| {
        answer.code() == "user_blocked"
    })
    .await;
    soon_everywhere(&everyone, "served", |answer| answer.status == 200).await;

    door.lowers_a_limit();
    door.must(&["user", "plan", &alice.id.to_string(), "guest"]);
    soon_everywhere(&everyone, "on the small plan", |answer| {
        answer.status == 402
    })
    .await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_what_all_need_refuses_at_once_and_is_over_when_it_is_gone() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, siblings) = several("", 1).await;
    let user = |number: usize| door.user(&format!("user-{number}"));
    user(0).ask(chat("before")).await.expect(200);
    door.quiet_rows().await;
    let foreign = door.database().connect().await;
    let lock = "begin; select 1 from tollgate_ledger.windows where user_id = 'app' for update";
    foreign.batch_execute(lock).await.unwrap();
    let begun = Instant::now();
    user(1)
        .ask(chat("the first"))
        .await
        .refused(503, "store_unavailable");
    let first = begun.elapsed();
    // Whoever comes later waits for no lock, or for one try: all together for less than if each waited as the first.
    let begun = Instant::now();
    for number in 2..22 {
        user(number)
            .ask(chat("later"))
            .await
            .refused(503, "store_unavailable");
    }
    assert!(
        begun.elapsed() < first * 15,
        "twenty took {:?}, the first {first:?}",
        begun.elapsed()
    );
    let served = door.upstream.log().len();
    assert_eq!(served, 1, "nothing is sent without a hold");
    foreign.batch_execute("rollback").await.unwrap();
    let callers = everywhere(&user(30), &siblings);
    soon_everywhere(&callers, "served", |answer| answer.status == 200).await;
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_the_row_of_one_request_leaves_holds_to_all_others() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, siblings) = several("", 1).await;
    door.upstream
        .always(|seen| Talk::words(5).every(Duration::from_millis(50)).reply(seen));
    let mut open = door.user("alice").open(chat_stream("locked")).await;
    open.take(2).await;
    let foreign = door.database().connect().await;
    foreign
        .batch_execute(
            "begin; select 1 from tollgate_ledger.requests where state = 'held' for update",
        )
        .await
        .unwrap();
    let answer = open.rest().await;
    sleep(Duration::from_millis(500)).await;
    let slowest = slowest_of_others(&door, &siblings, "row").await;
    assert!(
        slowest < Duration::from_secs(5),
        "somebody else waited for {slowest:?}"
    );
    foreign.batch_execute("rollback").await.unwrap();
    assert_eq!(door.row(&answer).await.state, "settled");
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_whose_clock_jumps_takes_nobody_for_dead() {
    if !installed(&[Tool::Postgres]) {
        return;
    }
    let (door, siblings) = several("", 2).await;
    door.upstream.always(|seen| {
        Talk::words(80)
            .every(Duration::from_millis(100))
            .reply(seen)
    });
    let alice = door.user("alice");
    let mut streams = Vec::new();
    for caller in everywhere(&alice, &siblings) {
        let mut open = caller.open(chat_stream("long")).await;
        open.take(1).await;
        streams.push(open);
    }
    // What a clock that jumped an hour ahead, or hosts that slept for one, would look like: no lease is good any more.
    let database = door.database().connect().await;
    for _ in 0..20 {
        database
            .batch_execute("update tollgate_ledger.owners set lease_until = 0")
            .await
            .unwrap();
        sleep(Duration::from_millis(200)).await;
    }
    for open in streams {
        let row = door.row(&open.rest().await).await;
        assert!(row.state == "settled" && !row.has("swept"), "{row:?}");
    }
    door.close().await;
}
