// Never run: that this compiles, and that what is marked does not, is the test of the types.

import { TollgateClient, TollgateError } from "../src/index.js";
import type { Advice, Answer, Me, Piece, Ticket } from "../src/index.js";

const client = new TollgateClient("https://api.example.com", async (wanted) => (wanted === "fresh" ? "new" : "old"), { resumeFor: 1000 });

export async function used(): Promise<void> {
  const answer: Answer = await client.chat([{ role: "user", content: "Hello" }], { model: "fast", maxTokens: 10, body: { top_p: 0.5 } });
  answer.text satisfies string;
  const stream = client.stream([{ role: "user", content: [{ type: "text", text: "What is this?" }] }]);
  for await (const piece of stream) piece satisfies Piece;
  const ticket: Ticket = JSON.parse(JSON.stringify(stream.ticket));
  client.resume(ticket).finishReason satisfies string | null;
  const { city } = await client.object<{ city: string }>([{ role: "user", content: "Where?" }], { type: "object" });
  city satisfies string;
  const me: Me = await client.me();
  me.limits[0]?.remaining satisfies number | string | undefined;
  try {
    await client.prompt("summarize", { kind: "e-mails" });
  } catch (error) {
    if (error instanceof TollgateError) said(error.advice);
  }
  // @ts-expect-error a role that there is not
  await client.chat([{ role: "robot", content: "Hello" }]);
  // @ts-expect-error a voice is needed
  await client.speak("Hello", {});
  // @ts-expect-error variables are text
  await client.prompt("summarize", { count: 3 });
}

/** A switch over every advice needs no default: the set is closed. */
export function said(advice: Advice): string {
  switch (advice) {
    case "paywall": return "Upgrade?";
    case "wait": return "One moment.";
    case "signIn": return "Please sign in.";
    case "signUp": return "Please sign up.";
    case "rephrase": return "Please ask for something else.";
    case "blocked": return "Please write to us.";
    case "connection": return "No network.";
    case "later": return "Please try later.";
    case "fault": return "Something went wrong.";
  }
}
