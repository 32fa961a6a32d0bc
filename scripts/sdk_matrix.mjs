// JavaScript's SDKs in the matrix of sdk_matrix.py, which starts this and says what a step is. Prints one object a line:
// {"sdk", "manner", "step", "error"}.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { HumanMessage } from "@langchain/core/messages";
import { tool as langChainTool } from "@langchain/core/tools";
import { concat } from "@langchain/core/utils/stream";
import { ChatOpenAI } from "@langchain/openai";
import { defaultSettingsMiddleware, generateText, Output, stepCountIs, streamText, tool, wrapLanguageModel } from "ai";
import { z } from "zod";

const asked = JSON.parse(process.env.ASKED);
const SAID = "word1 word2 word3 word4 word5 word6 word7 word8";
const ASKED = "Say something.";
const WEATHER = "What is the weather in Paris?";
const WANTED = { tools: "The tool said sunny", streamed_tools: "The tool said sunny", structured: "Paris" };
const place = z.object({ city: z.string() });
const weather = async ({ city }) => (city === "Paris" ? "sunny" : "unknown");
const versionOf = (name) => JSON.parse(readFileSync(new URL(`node_modules/${name}/package.json`, import.meta.url))).version;

/** Vercel's `ai`, over one of its providers. */
function vercel(provider) {
  return (model) => ({
    whole: async () => (await generateText({ model: provider(model), prompt: ASKED, maxRetries: 0 })).text,
    stream: async () => {
      const pieces = [];
      for await (const piece of streamText({ model: provider(model), prompt: ASKED, maxRetries: 0 }).textStream) pieces.push(piece);
      return pieces;
    },
    tools: async () => {
      const offered = { weather: tool({ description: "The weather in a city.", inputSchema: place, execute: weather }) };
      const more = { stopWhen: stepCountIs(3), maxRetries: 0 };
      return (await generateText({ model: provider(model), prompt: WEATHER, tools: offered, ...more })).text;
    },
    streamed_tools: async () => {
      const offered = { weather: tool({ description: "The weather in a city.", inputSchema: place, execute: weather }) };
      const more = { stopWhen: stepCountIs(3), maxRetries: 0 };
      return await streamText({ model: provider(model), prompt: WEATHER, tools: offered, ...more }).text;
    },
    structured: async () => {
      const more = { output: Output.object({ schema: place }), maxRetries: 0 };
      return (await generateText({ model: provider(model), prompt: ASKED, ...more })).output.city;
    },
  });
}

function langChain(model) {
  const client = () =>
    new ChatOpenAI({ model, apiKey: asked.token, maxRetries: 0, configuration: { baseURL: asked.url } });
  const langChainTools = async (ask) => {
    const about = { name: "weather", description: "The weather in a city.", schema: place };
    const offered = langChainTool(weather, about);
    const bound = client().bindTools([offered]);
    const messages = [new HumanMessage(WEATHER)];
    const answer = await ask(bound, messages);
    messages.push(answer);
    for (const call of answer.tool_calls) messages.push(await offered.invoke(call));
    return (await ask(bound, messages)).content;
  };
  return {
    whole: async () => (await client().invoke(ASKED)).content,
    stream: async () => {
      const pieces = [];
      for await (const chunk of await client().stream(ASKED)) pieces.push(chunk.content);
      return pieces;
    },
    tools: () => langChainTools((bound, messages) => bound.invoke(messages)),
    streamed_tools: () =>
      langChainTools(async (bound, messages) => {
        let whole = null;
        for await (const chunk of await bound.stream(messages)) whole = whole ? concat(whole, chunk) : chunk;
        return whole;
      }),
    structured: async () => (await client().withStructuredOutput(place).invoke(ASKED)).city,
  };
}

const compatible = createOpenAICompatible({
  name: "tollgate",
  baseURL: asked.url,
  apiKey: asked.token,
  supportsStructuredOutputs: true,
  includeUsage: true,
});
const openai = createOpenAI({ baseURL: asked.url, apiKey: asked.token });
// Unless it is told that nothing is stored, it names what the model said by ids that nobody knows.
const storeless = defaultSettingsMiddleware({ settings: { providerOptions: { openai: { store: false } } } });
const sdks = {
  "ai + @ai-sdk/openai-compatible": ["@ai-sdk/openai-compatible", vercel((model) => compatible(model))],
  "ai + @ai-sdk/openai, store: false": ["@ai-sdk/openai", vercel((model) => wrapLanguageModel({ model: openai(model), middleware: storeless }))],
  "ai + @ai-sdk/openai, .chat()": ["@ai-sdk/openai", vercel((model) => openai.chat(model))],
  "@langchain/openai": ["@langchain/openai", langChain],
};

for (const [name, [packageName, make]] of Object.entries(sdks)) {
  const label = name.startsWith("ai") ? `${name} ${versionOf("ai")}, ${versionOf(packageName)}` : `${name} ${versionOf(packageName)}`;
  for (const [manner, model] of Object.entries(asked.models)) {
    const sdk = make(model);
    for (const step of ["whole", "stream", "tools", "streamed_tools", "structured"]) {
      const wanted = WANTED[step] ?? SAID;
      let error = null;
      try {
        let got = await sdk[step]();
        if (step === "stream") {
          assert.ok(got.filter(Boolean).length > 2, "it came in pieces");
          got = got.join("");
        }
        assert.equal(got, wanted);
      } catch (problem) {
        error = String(problem.stack ?? problem).slice(0, 600);
      }
      console.log(JSON.stringify({ sdk: label, manner, step, error }));
    }
  }
}
