import { TollgateError, optional } from "./error.js";
import type { ErrorDetails } from "./error.js";
import { AnswerStream } from "./stream.js";
import type { Line, Ticket } from "./stream.js";
import type {
  Answer, CallOptions, ChatOptions, ChatUsage, ImageOptions, Me, Message, SpeechOptions, TranscriptionOptions, UsagePage,
} from "./types.js";

/** `current`: the token at hand, refreshed if it is old. `fresh`: a new one, since the server says that the last has expired. */
export type TokenWanted = "current" | "fresh";
export type TokenProvider = (wanted: TokenWanted) => string | Promise<string>;

/** As much of `fetch` as is used: the built-in one, or that of `expo/fetch`. */
export type Fetch = (url: string, init: RequestInit) => Promise<Response>;

export interface ClientOptions {
  /** `fetch` of `expo/fetch` in React Native, whose own has no streams. */
  fetch?: Fetch;
  /** How long a lost stream is asked for again before the loop throws, in milliseconds. 10 minutes; 0 gives up at once. */
  resumeFor?: number;
  /** A token that says that the device is genuine, for `X-Tollgate-Device`; null goes on without. */
  device?: () => string | null | Promise<string | null>;
}

/** A 503 that wants no more patience than this is waited for. */
const PATIENCE_SECONDS = 10;
/** So often is a request sent again whose head never came. */
const RETRIES = 2;
/** Between two tries for a lost stream, in milliseconds: doubled each time, up to the second. */
const PAUSE = [250, 5_000] as const;

type Send = { method: string; path: string; body?: BodyInit; json?: unknown; headers?: Record<string, string>; signal?: AbortSignal | undefined };

/** A client of one Tollgate server for one user. It has no state but its settings: make one wherever you need it. */
export class TollgateClient {
  readonly #server: string;
  readonly #token: TokenProvider;
  readonly #options: ClientOptions;
  #script: { pieces: string[]; error: TollgateError | null; me: Me | null } | null = null;

  /**
   * @param server its address, such as `https://api.example.com`
   * @param token gives the user's access token. With supabase-js:
   *   `async (wanted) => (await (wanted === "fresh" ? supabase.auth.refreshSession() : supabase.auth.getSession())).data.session?.access_token ?? ""`
   */
  constructor(server: string | URL, token: TokenProvider, options: ClientOptions = {}) {
    this.#server = String(server).replace(/\/+$/, "");
    this.#token = token;
    this.#options = options;
  }

  /** A client without a server, for previews and tests: every chat answers with these pieces, and then fails if there is an error. */
  static scripted(pieces: string[], more: { error?: ErrorDetails; me?: Me } = {}): TollgateClient {
    const client = new TollgateClient("https://scripted.invalid", () => "");
    client.#script = { pieces, error: more.error ? new TollgateError(more.error) : null, me: more.me ?? null };
    return client;
  }

  /** A whole answer. */
  async chat(messages: Message[], options: ChatOptions = {}): Promise<Answer> {
    if (this.#script) return this.#scriptedAnswer();
    return this.#answer("/api/chat", chatBody(messages, options), options);
  }

  /**
   * An answer that fits a JSON Schema, parsed. Throws `TollgateError` with the code `not_json` where it was cut short.
   * @param schema an object schema with all members required and `additionalProperties: false`, as OpenAI's strict mode wants it
   */
  async object<T>(messages: Message[], schema: Record<string, unknown>, options: ChatOptions = {}): Promise<T> {
    const response_format = { type: "json_schema", json_schema: { name: "answer", strict: true, schema } };
    const answer = await this.chat(messages, { ...options, body: { ...options.body, response_format } });
    try {
      return JSON.parse(answer.text) as T;
    } catch {
      const message = `The answer is not whole JSON: it ended with ${answer.finishReason ?? "nothing"}.`;
      throw new TollgateError({ status: 200, code: "not_json", message, requestId: answer.requestId, partialText: answer.text });
    }
  }

  /** An answer piece by piece. Nothing is sent before the loop over it begins. */
  stream(messages: Message[], options: ChatOptions = {}): AnswerStream {
    return this.#stream("/api/chat", chatBody(messages, options), options);
  }

  /** Goes on with an answer, in this or another run of the app. */
  resume(ticket: Ticket, options: { signal?: AbortSignal } = {}): AnswerStream {
    return new AnswerStream(this.#line(), ticket, options.signal);
  }

  /** A prompt that lives on the server, with its variables. */
  async prompt(name: string, variables: Record<string, string> = {}, messages: Message[] = [], options: CallOptions = {}): Promise<Answer> {
    if (this.#script) return this.#scriptedAnswer();
    return this.#answer(promptPath(name), { variables, messages }, options);
  }

  /** The same piece by piece. */
  streamPrompt(name: string, variables: Record<string, string> = {}, messages: Message[] = [], options: CallOptions = {}): AnswerStream {
    return this.#stream(promptPath(name), { variables, messages }, options);
  }

  /** The user, the plan and what is left of it. */
  async me(): Promise<Me> {
    if (this.#script) {
      if (this.#script.me) return this.#script.me;
      throw new TollgateError({ status: 503, code: "store_unavailable", message: "The script has no `me`." });
    }
    return this.#json({ method: "GET", path: "/api/me" });
  }

  /** The user's own usage, newest day first, both days included (`2026-11-24`). More pages by `cursor`. */
  async usage(from: string, to: string, cursor?: string): Promise<UsagePage> {
    const query = new URLSearchParams({ from, to, ...optional("cursor", cursor) });
    return this.#json({ method: "GET", path: `/api/usage?${query}` });
  }

  /** A picture, as the bytes of its file. */
  async image(prompt: string, options: ImageOptions = {}): Promise<Uint8Array> {
    const { model, size, quality } = options;
    const json = { prompt, ...optional("model", model), ...optional("size", size), ...optional("quality", quality) };
    const { data } = await this.#json<{ data: { b64_json?: string }[] }>({ method: "POST", path: "/v1/images/generations", json, ...paid(options) });
    return Uint8Array.from(atob(data[0]?.b64_json ?? ""), (letter) => letter.charCodeAt(0));
  }

  /** What was said in a recording. In React Native, give `{ uri, name, type }` of a file. */
  async transcribe(file: Blob | { uri: string; name: string; type: string }, options: TranscriptionOptions = {}): Promise<string> {
    const form = new FormData();
    if (file instanceof Blob) form.append("file", file, file instanceof File ? file.name : "recording.m4a");
    else form.append("file", file as unknown as Blob);
    if (options.model) form.append("model", options.model);
    if (options.language) form.append("language", options.language);
    const send = { method: "POST", path: "/v1/audio/transcriptions", body: form, ...paid(options) };
    return (await this.#json<{ text: string }>(send)).text;
  }

  /** A text read aloud: the bytes of a sound file. */
  async speak(text: string, options: SpeechOptions): Promise<Uint8Array> {
    const { model, voice, format } = options;
    const json = { input: text, voice, ...optional("model", model), ...optional("response_format", format) };
    const send = { method: "POST", path: "/v1/audio/speech", json, ...paid(options) };
    return this.#send(send, async (response) => new Uint8Array(await response.arrayBuffer()));
  }

  /** A vector for each text. */
  async embed(texts: string[], options: CallOptions & { model?: string; dimensions?: number } = {}): Promise<number[][]> {
    const { model, dimensions } = options;
    const json = { input: texts, ...optional("model", model), ...optional("dimensions", dimensions) };
    const { data } = await this.#json<{ data: { index: number; embedding: number[] }[] }>({ method: "POST", path: "/v1/embeddings", json, ...paid(options) });
    return data.sort((a, b) => a.index - b.index).map((item) => item.embedding);
  }

  /** Tells the server of a StoreKit 2 transaction (its JWS); the plan that it gives is in what comes back. */
  async redeem(signedTransaction: string): Promise<Me> {
    return this.#json({ method: "POST", path: "/api/purchases", json: { transaction: signedTransaction } });
  }

  async #answer(path: string, body: Record<string, unknown>, options: CallOptions): Promise<Answer> {
    const send = { method: "POST", path, json: body, ...paid(options) };
    const [raw, requestId] = await this.#send(send, async (response): Promise<[Record<string, unknown>, string]> => [
      (await response.json()) as Record<string, unknown>, response.headers.get("x-request-id") ?? "",
    ]);
    type Choice = { message?: { content?: string | null }; finish_reason?: string | null };
    const choice = (raw["choices"] as Choice[] | undefined)?.[0];
    return {
      text: choice?.message?.content ?? "",
      requestId,
      finishReason: choice?.finish_reason ?? null,
      usage: (raw["usage"] as ChatUsage | undefined) ?? null,
      raw,
    };
  }

  #stream(path: string, body: Record<string, unknown>, options: CallOptions): AnswerStream {
    const key = options.idempotencyKey ?? newKey();
    const ticket = { key, path, body: { ...body, stream: true }, id: null, events: 0, text: "" };
    return new AnswerStream(this.#line(options.feature), ticket, options.signal);
  }

  #line(feature?: string): Line {
    if (this.#script) return this.#scriptedLine();
    return {
      open: (ticket, signal) => {
        if (ticket.id) {
          return this.#send({ method: "GET", path: `/api/answers/${ticket.id}?after=${ticket.events}`, signal }, head);
        }
        const { headers } = paid({ idempotencyKey: ticket.key, ...optional("feature", feature) });
        return this.#send({ method: "POST", path: ticket.path, json: ticket.body, headers, signal }, head);
      },
      pause: async (tries, since, signal) => {
        if (Date.now() - since >= (this.#options.resumeFor ?? 600_000)) return false;
        await sleep(Math.min(PAUSE[0] * 2 ** tries, PAUSE[1]), signal);
        return true;
      },
      stop: async (id) => {
        await this.#send({ method: "DELETE", path: `/api/answers/${id}` }, head);
      },
    };
  }

  async #json<T>(send: Send): Promise<T> {
    return this.#send(send, async (response) => (await response.json()) as T);
  }

  /** Sends until there is an answer and it is read: once more with a fresh token, and again where nothing is charged twice. */
  async #send<T>(send: Send, read: (response: Response) => Promise<T>): Promise<T> {
    let wanted: TokenWanted = "current";
    // Without a key, a second try might be charged again.
    let retries = send.method === "POST" && !send.headers?.["Idempotency-Key"] ? 0 : RETRIES;
    for (;;) {
      let refusal: TollgateError;
      const token = await this.#token(wanted);
      try {
        const response = await this.#try(send, token);
        if (!(response instanceof TollgateError)) return await read(response);
        refusal = response;
      } catch (error) {
        if (send.signal?.aborted) throw error;
        refusal = TollgateError.lost(error);
      }
      if (refusal.code === "token_expired" && wanted === "current") {
        wanted = "fresh";
        continue;
      }
      const isPatient = refusal.status === 503 && refusal.seconds !== null && refusal.seconds <= PATIENCE_SECONDS;
      if (retries === 0 || !(refusal.advice === "connection" || isPatient)) throw refusal;
      retries -= 1;
      await sleep(refusal.seconds === null ? PAUSE[0] : refusal.seconds * 1000, send.signal);
    }
  }

  async #try(send: Send, token: string): Promise<Response | TollgateError> {
    const device = await this.#options.device?.();
    const headers: Record<string, string> = { Authorization: `Bearer ${token}`, ...send.headers };
    if (send.json !== undefined) headers["Content-Type"] = "application/json";
    if (device) headers["X-Tollgate-Device"] = device;
    const body = send.json === undefined ? send.body : JSON.stringify(send.json);
    const call = this.#options.fetch ?? fetch;
    const init = { method: send.method, headers, ...optional("body", body), ...optional("signal", send.signal) };
    const response = await call(this.#server + send.path, init);
    return response.ok ? response : TollgateError.from(response);
  }

  #scriptedAnswer(): Answer {
    const { pieces, error } = this.#script ?? { pieces: [], error: null };
    if (error) throw error;
    return { text: pieces.join(""), requestId: "scripted", finishReason: "stop", usage: null, raw: {} };
  }

  #scriptedLine(): Line {
    const { pieces, error } = this.#script ?? { pieces: [], error: null };
    const event = (value: unknown) => `data: ${JSON.stringify(value)}\n\n`;
    return {
      open: async (ticket) => {
        const chunks = pieces.map((content) => event({ choices: [{ index: 0, delta: { content } }] }));
        if (error) chunks.push(event({ error: { code: error.code, message: error.message, limit: error.limit, plan: error.plan } }));
        else chunks.push(event({ choices: [{ index: 0, delta: {}, finish_reason: "stop" }] }), "data: [DONE]\n\n");
        return new Response(chunks.slice(ticket.events).join(""), { headers: { "x-request-id": "scripted" } });
      },
      pause: async () => false,
      stop: async () => undefined,
    };
  }
}

function chatBody(messages: Message[], options: ChatOptions): Record<string, unknown> {
  const { model, maxTokens, temperature, body } = options;
  return { messages, ...optional("model", model), ...optional("max_tokens", maxTokens), ...optional("temperature", temperature), ...body };
}

function promptPath(name: string): string {
  return `/api/prompts/${encodeURIComponent(name)}`;
}

/** The headers of a request that costs money. */
function paid(options: CallOptions): { headers: Record<string, string>; signal: AbortSignal | undefined } {
  const headers = { "Idempotency-Key": options.idempotencyKey ?? newKey(), ...optional("X-Tollgate-Feature", options.feature) };
  return { headers, signal: options.signal };
}

/** React Native may have no `crypto`: a name that only this user must not have used today needs no secret. */
function newKey(): string {
  if (globalThis.crypto?.randomUUID) return globalThis.crypto.randomUUID();
  const digits = () => Math.random().toString(36).slice(2).padEnd(12, "0");
  return `${Date.now().toString(36)}-${digits()}-${digits()}`;
}

/** For those who read the body themselves. */
async function head(response: Response): Promise<Response> {
  return response;
}

async function sleep(milliseconds: number, signal?: AbortSignal | undefined): Promise<void> {
  await new Promise<void>((resolve, reject) => {
    const timer = setTimeout(done, milliseconds);
    function done() {
      signal?.removeEventListener("abort", left);
      resolve();
    }
    function left() {
      clearTimeout(timer);
      reject(signal?.reason);
    }
    signal?.throwIfAborted?.();
    signal?.addEventListener("abort", left, { once: true });
  });
}
