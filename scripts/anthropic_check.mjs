// The checks of Anthropic's TypeScript SDK; started by anthropic_check.py, which prints what is said here. One object a line:
// {"check", "error"}.

import assert from "node:assert/strict";
import Anthropic from "@anthropic-ai/sdk";

const model = "claude-test";
const messages = [{ role: "user", content: "Say something." }];
const client = new Anthropic({ baseURL: process.env.BASE_URL, apiKey: process.env.TOKEN, maxRetries: 0 });
const tool = {
  name: "weather",
  description: "The weather in a city.",
  input_schema: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
};

async function check(name, run) {
  try {
    await run();
    console.log(JSON.stringify({ check: name, error: null }));
  } catch (error) {
    console.log(JSON.stringify({ check: name, error: String(error.stack ?? error) }));
  }
}

/** The same, whole and streamed. */
async function both(body) {
  const asked = { model, max_tokens: 300, messages, ...body };
  const whole = await client.messages.create(asked);
  const streamed = await client.messages.stream(asked).finalMessage();
  assert.deepEqual(streamed.content, whole.content);
  assert.equal(streamed.usage.output_tokens, whole.usage.output_tokens);
  return whole;
}

await check("whole and streamed the text arrives", async () => {
  const answer = await both({ system: "Be brief." });
  assert.equal(answer.content[0].text, "one two three");
});

await check("a tool is called and its result goes back", async () => {
  const answer = await both({ tools: [tool], thinking: { type: "enabled", budget_tokens: 1024 }, max_tokens: 2000 });
  const call = answer.content.at(-1);
  assert.deepEqual(call.input, { city: "Paris" });
  const result = { type: "tool_result", tool_use_id: call.id, content: [{ type: "text", text: "Sunny." }] };
  const turn = [...messages, { role: "assistant", content: answer.content }, { role: "user", content: [result] }];
  const last = await client.messages.create({ model, max_tokens: 2000, messages: turn, tools: [tool] });
  assert.equal(last.content[0].text, "one two three");
});

await check("a prompt is cached for an hour", async () => {
  const answer = await both({ cache_control: { type: "ephemeral", ttl: "1h" } });
  assert.ok(answer.usage.cache_creation.ephemeral_1h_input_tokens > 0);
});

await check("tokens are counted", async () => {
  assert.ok((await client.messages.countTokens({ model, messages })).input_tokens > 0);
});

await check("a refusal is the SDK's own error", async () => {
  const once = new Anthropic({ baseURL: process.env.BASE_URL, authToken: process.env.ONCE, apiKey: null, maxRetries: 0 });
  const asked = { model, max_tokens: 30, messages };
  await once.messages.create(asked);
  const error = await once.messages.create(asked).then(() => null, (told) => told);
  assert.equal(error.status, 402);
  assert.equal(error.error.error.type, "billing_error");
  assert.equal(error.headers.get("x-tollgate-error"), "quota_exceeded");
});
