//! The headers that may carry a user's token: `Authorization`, `X-Tollgate-Token`, and `x-api-key` where Anthropic's
//! SDKs ask.

use crate::support::caller::{Call, chat};
use crate::support::door::Door;
use crate::support::settings::Settings;

const TOKEN: &str = "X-Tollgate-Token";

#[tokio::test(flavor = "multi_thread")]
async fn a_token_in_its_own_header_is_as_good_as_in_authorization() {
    let door = Door::open(Settings::new()).await;
    let alice = door.user("alice");
    let bearer = format!("Bearer {}", alice.token);
    let call =
        || Call::post("/v1/chat/completions", &chat("let me in")).header(TOKEN, &alice.token);
    door.send(call()).await.expect(200);
    for beside in [&bearer, "", "Basic YWxpY2U6c2VjcmV0", "Bearer ", "Digest"] {
        let both = call().header("authorization", beside);
        door.send(both).await.expect(200);
    }
    let empty = Call::get("/api/me")
        .header(TOKEN, "")
        .header("authorization", &bearer);
    door.send(empty).await.expect(200);
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_carry_different_tokens_are_turned_away() {
    let door = Door::open(Settings::new()).await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    let ask = |first: &str, second: &str| {
        Call::post("/v1/chat/completions", &chat("let me in"))
            .bearer(first)
            .header(TOKEN, second)
    };
    for (first, second) in [
        (alice.token.as_str(), bob.token.as_str()),
        (&bob.token, &alice.token),
        (&alice.token, "nonsense"),
        ("nonsense", &alice.token),
    ] {
        door.send(ask(first, second))
            .await
            .refused(401, "invalid_token");
    }
    let twice = Call::get("/api/me")
        .header(TOKEN, &alice.token)
        .header(TOKEN, &alice.token);
    door.send(twice).await.refused(401, "invalid_token");
    let long = Call::get("/api/me").header(TOKEN, &"a".repeat(9000));
    door.send(long).await.refused(401, "invalid_token");
    let none = Call::get("/api/me").header(TOKEN, "");
    let none = door.send(none).await.refused(401, "missing_token");
    assert_eq!(
        none.header("www-authenticate"),
        r#"Bearer realm="tollgate""#
    );
    assert!(door.ledger_rows().is_empty());
    door.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropics_header_is_a_token_on_the_paths_of_its_sdks_and_nothing_elsewhere() {
    let door = Door::open(Settings::new()).await;
    let (alice, bob) = (door.user("alice"), door.user("bob"));
    let get = |path: &str, key: &str| Call::get(path).header("x-api-key", key);
    for path in ["/v1/models", "/v1/models/gpt-4o-mini"] {
        door.send(get(path, &alice.token)).await.expect(200);
        let other = get(path, &alice.token).bearer(&bob.token);
        door.send(other).await.refused(401, "invalid_token");
    }
    for path in ["/api/me", "/api/usage", "/v1/modelsx"] {
        let other = get(path, &alice.token).bearer(&bob.token);
        let answer = door.send(other).await;
        assert_ne!(answer.status, 401, "{path}: it is not looked at");
    }
    door.send(get("/api/me", &alice.token))
        .await
        .refused(401, "missing_token");
    door.close().await;
}
