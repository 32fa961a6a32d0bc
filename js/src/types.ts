/** A part of a message: text, or a picture by its `data:` URL. */
export type ContentPart =
  | { type: "text"; text: string }
  | { type: "image_url"; image_url: { url: string; detail?: "auto" | "low" | "high" } };

/** A message of a conversation. More members may be given, as OpenAI's API has them (`tool_calls`, `tool_call_id`). */
export interface Message {
  role: "system" | "user" | "assistant" | "tool" | "developer";
  content: string | ContentPart[] | null;
  [member: string]: unknown;
}

/** What every call takes. */
export interface CallOptions {
  /** Ends the call. A call that the server has begun is still charged: use `AnswerStream.stop` to cut the model off. */
  signal?: AbortSignal;
  /** Names the request, so that it is charged once however often it is sent. Made up where it is left out. */
  idempotencyKey?: string;
  /** Which feature of the app this is, for the operator's usage by feature: `a-z`, `0-9`, `_`, `-`, at most 32. */
  feature?: string;
}

/** What a chat takes; other fields of OpenAI's API may be given too. */
export interface ChatOptions extends CallOptions {
  /** A name of the user's plan; the plan's first where it is left out. */
  model?: string;
  /** The longest answer, in tokens. The server lowers it to the plan's. */
  maxTokens?: number;
  temperature?: number;
  /** Other fields of the request's body, as the API spells them. */
  body?: Record<string, unknown>;
}

/** What a picture takes. */
export interface ImageOptions extends CallOptions {
  model?: string;
  size?: string;
  quality?: string;
}

/** What a transcription takes. */
export interface TranscriptionOptions extends CallOptions {
  model?: string;
  /** The language that is spoken, as ISO 639-1 has it. */
  language?: string;
}

/** What speech takes. */
export interface SpeechOptions extends CallOptions {
  model?: string;
  voice: string;
  format?: string;
}

/** What the model used, in tokens. */
export interface ChatUsage {
  prompt_tokens: number;
  completion_tokens: number;
  total_tokens: number;
  [member: string]: unknown;
}

/** A whole answer. */
export interface Answer {
  text: string;
  /** The id of the ledger's row: show it on your support screen. */
  requestId: string;
  /** Why it ended, in OpenAI's words: `stop`, `length`, `tool_calls`, … */
  finishReason: string | null;
  usage: ChatUsage | null;
  /** The server's object, as it came. */
  raw: Record<string, unknown>;
}

/** A limit. Money is a decimal string in US dollars, everything else a number. */
export interface Limit {
  per: "minute" | "hour" | "day" | "month" | "period" | "lifetime";
  unit: "requests" | "tokens" | "cost_usd" | "images" | "audio_seconds" | "characters";
  /** The name of the plan that it counts, null where it counts all. */
  model: string | null;
  limit: number | string;
  used: number | string;
  held: number | string;
  remaining: number | string;
  /** RFC 3339; null where it never resets. */
  resets_at: string | null;
}

export interface Plan {
  name: string;
  source: "database" | "claim" | "local" | "purchase" | "default";
  period_ends_at: string | null;
}

export interface Credits {
  remaining: string;
  held: string;
  next_expiry: string | null;
}

export interface GrantedPurchase {
  product: string;
  store: string;
  expires_at: string | null;
  will_renew: boolean | null;
}

/** The user, the plan and what is left of it: made for a paywall. */
export interface Me {
  user: { id: string; email: string | null; is_anonymous: boolean };
  plan: Plan;
  limits: Limit[];
  concurrent: { limit: number | null; open: number };
  models: string[];
  max_output_tokens: number;
  credits?: Credits | null;
  purchase?: GrantedPurchase | null;
  device?: { attested: boolean } | null;
}

/** A day's usage of one model. */
export interface UsageRow {
  day: string;
  model: string;
  requests: number;
  input_tokens: number;
  cached_input_tokens: number;
  output_tokens: number;
  cost_usd: string;
  [quantity: string]: unknown;
}

export interface UsagePage {
  from: string;
  to: string;
  rows: UsageRow[];
  next: string | null;
}
