// What can be tried without a server.

import assert from "node:assert/strict";
import { test } from "node:test";

import { TollgateClient, TollgateError } from "../dist/index.js";
import { ask } from "./world.mjs";

const TEXT = "Ünïcödé 🦀 and\nmore";
const event = (value) => `data: ${JSON.stringify(value)}\n\n`;
const STREAM = [": keep-alive\n\n", ...[...TEXT].map((content) => event({ choices: [{ index: 0, delta: { content } }] })), "data: [DONE]\n\n"].join("");

function client(fetch, options = {}) {
  return new TollgateClient("https://one.example/", () => "token", { fetch, resumeFor: 0, ...options });
}

function body(bytes, size) {
  return new ReadableStream({
    start(controller) {
      for (let at = 0; at < bytes.length; at += size) controller.enqueue(bytes.slice(at, at + size));
      controller.close();
    },
  });
}

test("a stream that arrives in pieces of any size says the same", async () => {
  const bytes = new TextEncoder().encode(STREAM);
  for (let size = 1; size <= 80; size += 1) {
    const stream = client(async () => new Response(body(bytes, size))).stream(ask("Hello"));
    assert.equal(await stream.text(), TEXT, `pieces of ${size}`);
    assert.equal(stream.ticket.events, [...TEXT].length + 1);
  }
});

test("a fetch without streams gives everything at the end", async () => {
  const fetch = async () => ({ ok: true, body: null, headers: new Headers(), text: async () => STREAM });
  assert.equal(await client(fetch).stream(ask("Hello")).text(), TEXT);
});

test("a stream without its end throws, with what had come", async () => {
  const cut = STREAM.slice(0, STREAM.indexOf("data: [DONE]"));
  const stream = client(async () => new Response(cut)).stream(ask("Hello"));
  await assert.rejects(stream.text(), (error) => {
    assert.ok(error instanceof TollgateError);
    assert.equal(error.advice, "connection");
    assert.equal(error.partialText, TEXT);
    return true;
  });
});

test("every code has its advice, and an unknown one too", () => {
  const advice = (code, seconds) => new TollgateError({ code, message: "", ...(seconds ? { seconds } : {}) }).advice;
  assert.equal(advice("quota_exceeded"), "paywall");
  assert.equal(advice("rate_limited"), "wait");
  assert.equal(advice("anonymous_not_allowed"), "signUp");
  assert.equal(advice("answer_gone", 3), "wait");
  assert.equal(advice("answer_gone"), "later");
  assert.equal(advice("made_up_tomorrow"), "later");
});

test("an error page of a proxy is an error with its status", async () => {
  const page = new Response("<h1>Bad gateway</h1>", { status: 502 });
  await assert.rejects(client(async () => page).chat(ask("Hello")), { name: "TollgateError", status: 502, code: "http_502" });
});

test("what the token provider throws arrives as it is, and nothing is sent", async () => {
  let sent = 0;
  const fetch = async () => {
    sent += 1;
    return new Response("{}");
  };
  const out = new TollgateClient("https://one.example", () => Promise.reject(new Error("signed out")), { fetch });
  await assert.rejects(out.chat(ask("Hello")), /signed out/);
  await assert.rejects(out.stream(ask("Hello")).text(), /signed out/);
  assert.equal(sent, 0);
});

test("each paid call has a key of its own, and keeps it when it is sent again", async () => {
  const keys = [];
  const fetch = async (_, { headers }) => {
    keys.push(headers["Idempotency-Key"]);
    if (keys.length % 2) throw new TypeError("network");
    return Response.json({ choices: [{ message: { content: "Hi" } }] });
  };
  const one = client(fetch);
  await one.chat(ask("Hello"));
  await one.chat(ask("Hello"));
  assert.equal(keys[0], keys[1]);
  assert.equal(keys[2], keys[3]);
  assert.notEqual(keys[0], keys[2]);
});

test("a scripted client answers, fails and shows a plan without a server", async () => {
  const me = { plan: { name: "free" } };
  const preview = TollgateClient.scripted(["Hel", "lo"], { me });
  assert.equal((await preview.chat(ask("Hi"))).text, "Hello");
  const seen = [];
  for await (const piece of preview.stream(ask("Hi"))) seen.push(piece.text);
  assert.deepEqual(seen, ["Hel", "Hello"]);
  assert.equal((await preview.me()).plan.name, "free");
  const paywall = TollgateClient.scripted(["Hel"], { error: { code: "quota_exceeded", message: "Used up." } });
  await assert.rejects(paywall.stream(ask("Hi")).text(), (error) => error.advice === "paywall" && error.partialText === "Hel");
});
