// The checks of OpenAI's Node SDK; started by sdk_check.py, which prints what is said here and compares the records with
// the ledger. Prints one object a line: {"check", "error"} or {"record"}. Fails no check by exit code: the lines tell.

import assert from "node:assert/strict";
import fs from "node:fs";
import OpenAI, { toFile } from "openai";

const MODEL = "gpt-4o-mini";
const EMBEDDER = "text-embedding-3-small";
const PAINTER = "gpt-image-2";
const THINKER = "gpt-6-luna";
const tokens = JSON.parse(process.env.TOKENS);
const picture = Buffer.from(process.env.PICTURE, "base64");
const ask = (content = "Say something.") => [{ role: "user", content }];
const say = (value) => console.log(JSON.stringify(value));

let sent = 0;
function client(token, more = {}) {
  const counted = (...request) => {
    sent += 1;
    return fetch(...request);
  };
  return new OpenAI({ baseURL: process.env.BASE_URL, apiKey: token, fetch: counted, timeout: 30_000, ...more });
}

async function check(name, run) {
  try {
    await run();
    say({ check: name, error: null });
  } catch (error) {
    say({ check: name, error: String(error.stack ?? error) });
  }
}

function record(what, requestId, id, usage) {
  say({ record: { what: `node ${what}`, request_id: requestId, id, usage: usage ?? null } });
}

/** That a call is refused with the SDK's class, our status and code, after so many requests; the error. */
async function refused(kind, status, code, call, sends = 1) {
  const before = sent;
  const error = await call().then(() => null, (e) => e);
  assert.ok(error, `not refused, wanted ${code}`);
  assert.equal(error.constructor.name, kind.name);
  assert.equal(error.status, status);
  assert.equal(error.code, code);
  assert.equal(error.headers.get("x-tollgate-error"), code);
  assert.equal(sent - before, sends, "requests sent");
  return error;
}

/** Reads a stream; its chunks. */
async function readAll(what, openai, body) {
  const { data, request_id: requestId } = await openai.chat.completions
    .create({ model: MODEL, stream: true, ...body })
    .withResponse();
  const chunks = [];
  for await (const chunk of data) chunks.push(chunk);
  record(what, requestId, chunks[0].id, chunks.find((c) => c.usage)?.usage);
  return chunks;
}

const free = client(tokens.free);
const studio = client(tokens.studio);

await check("when not streamed the answer and its usage arrive", async () => {
  const answer = await free.chat.completions.create({ model: MODEL, messages: ask() });
  assert.match(answer.choices[0].message.content, /^word1 .* word8$/);
  record("not streamed", answer._request_id, answer.id, answer.usage);
});

await check("when texts are embedded the vectors arrive", async () => {
  const answer = await free.embeddings.create({ model: EMBEDDER, input: ["one two", "three"], dimensions: 2 });
  assert.deepEqual(answer.data.map((item) => item.embedding), [[1, 0.5], [1, 0.5]]);
  assert.equal(answer.usage.prompt_tokens, 3);
  await refused(OpenAI.PermissionDeniedError, 403, "model_not_allowed", () =>
    free.embeddings.create({ model: MODEL, input: "one" }));
});

await check("when a voice memo is sent its transcript arrives", async () => {
  for (const name of ["memo.m4a", "memo.mp3", "memo.webm"]) {
    const file = fs.createReadStream(`${process.env.MEMOS}/${name}`);
    const answer = await free.audio.transcriptions.create({ model: "whisper-1", file });
    assert.equal(answer.text, "word1 word2", name);
  }
  const file = fs.createReadStream(`${process.env.MEMOS}/memo.m4a`);
  let heard = "";
  for await (const event of await studio.audio.transcriptions.create({ model: "gpt-transcribe", file, stream: true }))
    if (event.type === "transcript.text.delta") heard += event.delta;
  assert.equal(heard, "word1 word2");
});

await check("when a picture is made or edited it arrives, whole and streamed", async () => {
  const image = async () => toFile(picture, "a.png", { type: "image/png" });
  const ask = { model: PAINTER, prompt: "an otter" };
  for (const answer of [await studio.images.generate(ask), await studio.images.edit({ ...ask, image: await image() })])
    assert.deepEqual(Buffer.from(answer.data[0].b64_json, "base64"), picture);
  const more = { ...ask, stream: true, partial_images: 1 };
  const streams = {
    image_generation: await studio.images.generate(more),
    image_edit: await studio.images.edit({ ...more, image: [await image(), await image()] }),
  };
  for (const [kind, stream] of Object.entries(streams)) {
    const kinds = [];
    for await (const event of stream) kinds.push(event.type);
    assert.deepEqual(kinds, [`${kind}.partial_image`, `${kind}.completed`]);
  }
});

await check("when a text is spoken the sound arrives", async () => {
  const answer = await studio.audio.speech.create({ model: "tts-1", voice: "alloy", input: "Good morning!" });
  assert.equal(answer.headers.get("content-type"), "audio/mpeg");
  assert.deepEqual(Buffer.from(await answer.arrayBuffer()), Buffer.alloc(4096, 0xfb));
});

await check("when texts are moderated the findings arrive", async () => {
  const answer = await free.moderations.create({ input: ["a kind word", "flag:violence"] });
  assert.deepEqual(answer.results.map((finding) => finding.flagged), [false, true]);
  assert.equal(answer.results[1].categories.violence, true);
});

await check("when a response is asked for it arrives whole, streamed and parsed", async () => {
  const whole = await free.responses.create({ model: MODEL, input: "Say something." });
  assert.match(whole.output_text, /^word1 .* word8$/);
  const { input_tokens: input, output_tokens: output, input_tokens_details: details } = whole.usage;
  const usage = { prompt_tokens: input, completion_tokens: output, prompt_tokens_details: details };
  record("response", whole._request_id, whole.id, usage);
  const stream = free.responses.stream({ model: MODEL, input: "Say something." });
  const kinds = [];
  for await (const event of stream) kinds.push(event.type);
  assert.deepEqual([kinds[0], kinds.at(-1)], ["response.created", "response.completed"]);
  assert.match((await stream.finalResponse()).output_text, /^word1 .* word8$/);
  const schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
  const format = { type: "json_schema", name: "place", schema };
  const parsed = await free.responses.parse({ model: MODEL, input: "Where?", text: { format } });
  assert.deepEqual(JSON.parse(parsed.output_text), { city: "Paris" });
  await refused(OpenAI.BadRequestError, 400, "unsupported_field", () =>
    free.responses.create({ model: MODEL, input: "x", previous_response_id: "resp_1" }));
});

await check("when a response sees a picture, calls a tool or thinks, its items go back as they came", async () => {
  const url = `data:image/png;base64,${process.env.PICTURE}`;
  const content = [{ type: "input_text", text: "[[seen=1]]" }, { type: "input_image", image_url: url, detail: "low" }];
  const seen = await free.responses.create({ model: MODEL, input: [{ role: "user", content }] });
  assert.equal(seen.output_text, "I saw 1 pictures and 0 thoughts");
  const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false };
  const tools = [{ type: "function", name: "weather", description: "The weather in a city.", parameters, strict: true }];
  const thinker = client(tokens.thinker).responses;
  const ways = { create: (body) => thinker.create(body), stream: (body) => thinker.stream(body).finalResponse() };
  for (const [name, ask] of Object.entries(ways)) {
    const input = [{ role: "user", content: "[[seen=1]]" }];
    let answer;
    for (let round = 0; round < 2; round += 1) {
      const more = { reasoning: { effort: "low" }, include: ["reasoning.encrypted_content"], store: false };
      answer = await ask({ model: THINKER, input, tools, ...more });
      input.push(...answer.output);
      for (const item of answer.output.filter(({ type }) => type === "function_call"))
        input.push({ type: "function_call_output", call_id: item.call_id, output: "sunny" });
    }
    assert.equal(answer.output_text, "I saw 0 pictures and 1 thoughts", name);
  }
});

await check("when usage is asked for a stream ends with it", async () => {
  const chunks = await readAll("with usage", free, { messages: ask(), stream_options: { include_usage: true } });
  assert.deepEqual(chunks.at(-1).choices, []);
  assert.equal(chunks.at(-1).usage.completion_tokens, 8);
});

await check("when usage is not asked for a stream never shows it", async () => {
  const chunks = await readAll("without usage", free, { messages: ask() });
  assert.ok(chunks.every((c) => c.choices.length === 1 && !c.usage));
  assert.match(chunks.map((c) => c.choices[0].delta.content ?? "").join(""), /^word1 .* word8$/);
});

await check("when tools are run by the SDK the round trip ends in the answer", async () => {
  for (const stream of [false, true]) {
    const weather = {
      name: "weather",
      description: "The weather in a city.",
      parameters: { type: "object", properties: { city: { type: "string" } } },
      parse: JSON.parse,
      function: ({ city }) => `sunny in ${city}`,
    };
    const tools = [{ type: "function", function: weather }];
    const runner = free.chat.completions.runTools({ model: MODEL, messages: ask("The weather?"), tools, stream });
    assert.equal(await runner.finalContent(), "The tool said sunny in Paris");
  }
});

await check("when the stream helper is used its final completion is whole", async () => {
  const stream = free.chat.completions.stream({ model: MODEL, messages: ask() });
  const answer = await stream.finalChatCompletion();
  assert.match(answer.choices[0].message.content, /^word1 .* word8$/);
  assert.equal(answer.choices[0].finish_reason, "stop");
});

await check("when models are listed they are the plan's", async () => {
  const names = [];
  for await (const model of free.models.list()) names.push(model.id);
  assert.deepEqual(names.sort(), ["gpt-4o", "gpt-4o-mini", "omni-moderation-latest", EMBEDDER, "whisper-1"]);
  assert.equal((await free.models.retrieve(MODEL)).id, MODEL);
});

await check("when a stream is aborted the ledger knows its full usage", async () => {
  const { data, request_id: requestId } = await free.chat.completions
    .create({ model: MODEL, stream: true, messages: ask("[[words=60]] [[pace=10]]") })
    .withResponse();
  let seen = 0;
  let id = null;
  for await (const chunk of data) {
    id = chunk.id;
    seen += 1;
    if (seen === 4) break;
  }
  record("aborted", requestId, id, null);
});

await check("when the token is bad it is an AuthenticationError", async () => {
  const call = (token) => () => client(token).chat.completions.create({ model: MODEL, messages: ask() });
  await refused(OpenAI.AuthenticationError, 401, "invalid_token", call("nonsense"));
  await refused(OpenAI.AuthenticationError, 401, "token_expired", call(tokens.expired));
});

await check("when the model is not in the plan it is a PermissionDeniedError", async () => {
  const call = () => free.chat.completions.create({ model: "gpt-5-mini", messages: ask() });
  await refused(OpenAI.PermissionDeniedError, 403, "model_not_allowed", call);
});

await check("when the quota is used up it is 402 and never retried", async () => {
  const once = client(tokens.once);
  const call = () => once.chat.completions.create({ model: MODEL, messages: ask() });
  await call();
  const error = await refused(OpenAI.APIError, 402, "quota_exceeded", call);
  assert.equal(error.error.limit.used, 1);
});

await check("when the rate is exceeded it is a RateLimitError with Retry-After", async () => {
  const now = new Date();
  const left = 3600 - (now.getUTCMinutes() * 60 + now.getUTCSeconds());
  // Both requests must fall in one hour.
  if (left < 10) await new Promise((resolve) => setTimeout(resolve, (left + 1) * 1000));
  const hourly = client(tokens.hourly, { maxRetries: 0 });
  const call = () => hourly.chat.completions.create({ model: MODEL, messages: ask() });
  await call();
  const error = await refused(OpenAI.RateLimitError, 429, "rate_limited", call);
  assert.ok(Number(error.headers.get("retry-after")) >= 1);
});

await check("when a field is wrong the BadRequestError names it", async () => {
  const call = () => free.chat.completions.create({ model: MODEL, messages: ask(), service_tier: "flex" });
  const error = await refused(OpenAI.BadRequestError, 400, "unsupported_field", call);
  assert.equal(error.param, "service_tier");
});

await check("when the upstream fails it is retried as the SDK does, and then an InternalServerError", async () => {
  const once = client(tokens.free, { maxRetries: 1 });
  const call = () => once.chat.completions.create({ model: MODEL, messages: ask("[[status=500]]") });
  await refused(OpenAI.InternalServerError, 502, "upstream_error", call, 2);
});

await check("when a stream breaks the SDK throws", async () => {
  for (const how of ["cut", "error"]) {
    let words = 0;
    await assert.rejects(async () => {
      const body = { model: MODEL, stream: true, messages: ask(`[[${how}=3]]`) };
      for await (const chunk of await free.chat.completions.create(body)) {
        words += chunk.choices[0].delta.content ? 1 : 0;
      }
    }, OpenAI.APIError);
    assert.equal(words, 3);
  }
});

await check("when the connection is lost the SDK's own retry with a key is paid once", async () => {
  const lost = client(tokens.free, { baseURL: process.env.LOST_URL });
  const { data: answer, response } = await lost.chat.completions
    .create({ model: MODEL, messages: ask() }, { headers: { "Idempotency-Key": "node-lost" } })
    .withResponse();
  assert.equal(response.headers.get("idempotent-replayed"), "true");
  assert.match(answer.choices[0].message.content, /^word1 .* word8$/);
  record("lost", answer._request_id, answer.id, answer.usage);
});
