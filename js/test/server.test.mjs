// Against a running server; started by scripts/js-check.sh.

import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { TollgateClient } from "../dist/index.js";
import { SERVER, ask, dice, newUser, relay, rows, silence, token, words } from "./world.mjs";

const options = { skip: SERVER ? false : "NOT CHECKED: there is no server (scripts/js-check.sh starts one)" };
const LIVES = 60;

/** That one request was charged, and only one; its row. */
async function chargedOnce(user) {
  const charged = (await rows(user)).filter((row) => row.state !== "voided");
  assert.equal(charged.length, 1, JSON.stringify(charged));
  return charged[0];
}

test("a whole answer, with its usage and its row", options, async () => {
  const { user, client } = newUser();
  const answer = await client.chat(ask("Hello"), { maxTokens: 5, feature: "coach" });
  assert.equal(answer.text, words(5));
  assert.equal(answer.finishReason, "length");
  assert.equal(answer.usage.completion_tokens, 5);
  const row = await chargedOnce(user);
  assert.equal(row.id, answer.requestId);
  assert.equal(row.feature, "coach");
});

test("a stream, piece by piece", options, async () => {
  const { client } = newUser();
  const stream = client.stream(ask("Hello"));
  const seen = [];
  for await (const piece of stream) seen.push(piece);
  assert.equal(seen.length, 8);
  assert.equal(seen.map((piece) => piece.delta).join(""), words(8));
  assert.equal(seen.at(-1).text, words(8));
  assert.equal(stream.finishReason, "stop");
  assert.match(stream.requestId, /^[0-9a-f-]{36}$/);
});

test("an answer that fits a schema is parsed, and one that is cut short is an error", options, async () => {
  const { client } = newUser();
  const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
  assert.deepEqual(await client.object(ask("Where?"), schema), { city: "Paris" });
  const { client: scripted } = { client: TollgateClient.scripted(['{"city": "Pa']) };
  await assert.rejects(scripted.object(ask("Where?"), schema), { code: "not_json", partialText: '{"city": "Pa' });
});

test("a token that has expired is refreshed once, for an answer and for a stream", options, async () => {
  for (const run of [(client) => client.chat(ask("Hello")), (client) => client.stream(ask("Hello")).text()]) {
    const wanted = [];
    const client = new TollgateClient(SERVER, (which) => {
      wanted.push(which);
      return token({ expires: which === "fresh" ? 600 : -600 });
    });
    await run(client);
    assert.deepEqual(wanted, ["current", "fresh"]);
    const stale = new TollgateClient(SERVER, () => token({ expires: -600 }));
    await assert.rejects(run(stale), (error) => error.code === "token_expired" && error.advice === "signIn");
  }
});

test("a limit arrives as a paywall, and a rate as a wait", options, async () => {
  const once = newUser({ plan: "once" }).client;
  await once.chat(ask("Hello"));
  for (const run of [once.chat(ask("Hello")), once.stream(ask("Hello")).text()]) {
    await assert.rejects(run, (error) => {
      assert.equal(error.advice, "paywall");
      assert.deepEqual([error.limit.per, error.limit.unit, error.limit.used], ["lifetime", "requests", 1]);
      assert.equal(error.plan, "once");
      assert.match(error.requestId, /^[0-9a-f-]{36}$/);
      return true;
    });
  }
  const { limits } = await once.me();
  assert.deepEqual(limits.map((limit) => [limit.used, limit.remaining, limit.resets_at]), [[1, 0, null]]);
  const narrow = newUser({ plan: "narrow" }).client;
  const long = narrow.stream(ask("[[pace=100]]"))[Symbol.asyncIterator]();
  await long.next();
  await assert.rejects(narrow.chat(ask("Hello")), (error) => error.code === "too_many_concurrent" && error.advice === "wait" && error.seconds > 0);
  await long.return();
});

test("an answer whose connection is lost is asked for again, and paid once", options, async () => {
  for (const cuts of [[0], [40], [650], [0, 40]]) {
    const way = await relay(cuts);
    const { user, client } = newUser({ server: way.url });
    assert.equal((await client.chat(ask("Hello"))).text, words(8), `cut after ${cuts}`);
    await chargedOnce(user);
    way.close();
  }
});

test("a stream that is lost again and again is had whole, and paid once", options, async () => {
  const way = await relay([0, 300, 900, 2500, 700]);
  const { user, client } = newUser({ server: way.url });
  let last = "";
  for await (const { delta, text } of client.stream(ask("[[words=40]] [[pace=5]]"))) {
    assert.equal(text, last + delta);
    last = text;
  }
  assert.equal(last, words(40));
  const row = await chargedOnce(user);
  assert.equal(row.output_tokens, 40);
  way.close();
});

test("an app that was closed goes on with the ticket that it had stored", options, async () => {
  const { user, client } = newUser();
  let stored;
  const stream = client.stream(ask("[[words=20]] [[pace=10]]"));
  for await (const piece of stream) {
    stored = JSON.stringify(stream.ticket);
    if (piece.text.endsWith("word7")) break;
  }
  const again = new TollgateClient(SERVER, () => token({ user }));
  const seen = [];
  for await (const piece of again.resume(JSON.parse(stored))) seen.push(piece.text);
  assert.ok(seen[0].endsWith("word7"), "first the text that was there");
  assert.equal(seen.at(-1), words(20));
  await chargedOnce(user);
});

test("stop cuts the model off", options, async () => {
  const { user, client } = newUser();
  const stream = client.stream(ask("[[words=500]] [[pace=20]]"));
  for await (const piece of stream) if (piece.text.endsWith("word3")) break;
  await stream.stop();
  const row = await chargedOnce(user);
  assert.ok(row.output_tokens < 100, JSON.stringify(row));
});

test("an error in the middle of a stream throws, with what had come", options, async () => {
  for (const how of ["error", "cut"]) {
    const { client } = newUser();
    await assert.rejects(client.stream(ask(`[[${how}=3]]`)).text(), (error) => {
      assert.equal(error.code, "upstream_error");
      assert.equal(error.partialText, words(3));
      assert.equal(error.advice, "later");
      return true;
    });
  }
});

test("a call that the app gives up throws its own AbortError", options, async () => {
  const { client } = newUser();
  for (const run of [
    (signal) => client.chat(ask("[[words=50]] [[pace=50]]"), { signal }),
    (signal) => client.stream(ask("[[words=50]] [[pace=50]]"), { signal }).text(),
  ]) {
    await assert.rejects(run(AbortSignal.timeout(200)), { name: "TimeoutError" });
  }
});

test("vectors come in the order of their texts; usage is told by day", options, async () => {
  const { user, client } = newUser();
  const vectors = await client.embed(["one", "two"], { dimensions: 2 });
  assert.deepEqual(vectors, [[1, 0.5], [1, 0.5]]);
  await chargedOnce(user);
  const today = new Date().toISOString().slice(0, 10);
  const { rows: days } = await client.usage(today, today);
  assert.equal(days[0].requests, 1);
});

test("a picture and a sound arrive as their bytes; a picture that is asked for again under its key is paid once", options, async () => {
  const { user, client } = newUser();
  const draw = () => client.image("An otter with a hat", { size: "1024x1024", quality: "low", idempotencyKey: "otter" });
  const picture = await draw();
  assert.deepEqual([...picture.slice(0, 4)], [0x89, 0x50, 0x4e, 0x47]);
  assert.deepEqual(await draw(), picture);
  await chargedOnce(user);
  const sound = await client.speak("Good morning!", { voice: "alloy" });
  assert.deepEqual(sound, new Uint8Array(4096).fill(0xfb));
  await assert.rejects(client.image("An otter", { size: "4096x4096" }), { advice: "fault", param: "size" });
});

test("a recording becomes text", options, async () => {
  const { client } = newUser();
  assert.equal(await client.transcribe(silence(2), { language: "en" }), "word1 word2");
  // A plan takes ten minutes, if it says nothing.
  await assert.rejects(client.transcribe(silence(601)), { advice: "fault", param: "file" });
});

test("a transaction that Apple did not sign is refused", options, async () => {
  await assert.rejects(newUser().client.redeem("not.a.transaction"), { status: 400, param: "transaction" });
});

test(`a phone of ${LIVES} lives has every answer whole, and pays once for each`, options, async () => {
  await Promise.all(Array.from({ length: LIVES }, async (_, seed) => {
    const roll = dice(seed + 1);
    const count = 1 + roll(30);
    const way = await relay(Array.from({ length: roll(5) }, () => roll(4000)));
    const { user, client } = newUser({ server: way.url });
    let stream = client.stream(ask(`[[words=${count}]] [[pace=${roll(6)}]]`));
    let text = "";
    for (let sleeps = roll(4); ; sleeps -= 1) {
      const leaves = sleeps > 0 ? 1 + roll(10) : Infinity;
      let pieces = 0;
      for await (const piece of stream) {
        text = piece.text;
        if ((pieces += 1) >= leaves) break;
      }
      if (pieces < leaves) break;
      await sleep(roll(30));
      stream = client.resume(JSON.parse(JSON.stringify(stream.ticket)));
    }
    assert.equal(text, words(count), `seed ${seed}`);
    assert.equal((await chargedOnce(user)).output_tokens, count, `seed ${seed}`);
    way.close();
  }));
});
