import { TollgateError } from "./error.js";
import { events } from "./events.js";

/** A piece of an answer: what is new, and the text so far. To show `text` is right after a resume, too. */
export interface Piece {
  delta: string;
  text: string;
}

/**
 * What is needed to go on with an answer later, also after the app was closed: JSON, to be stored with the message.
 * `path` and `body` send it again where its id never arrived.
 */
export interface Ticket {
  key: string;
  path: string;
  body: Record<string, unknown>;
  id: string | null;
  /** How many events there are of it. */
  events: number;
  text: string;
}

/** What a stream asks of its client. */
export interface Line {
  /** Sends the request, or asks for the rest of its answer, once the head is there. */
  open(ticket: Ticket, signal: AbortSignal | undefined): Promise<Response>;
  /** Waits before the next try; false once it has been tried for long enough. */
  pause(tries: number, since: number, signal: AbortSignal | undefined): Promise<boolean>;
  stop(id: string): Promise<void>;
}

/** An answer as it comes. A loop over it ends only where the answer is whole: whatever else happens throws. */
export class AnswerStream implements AsyncIterable<Piece> {
  readonly #line: Line;
  readonly #ticket: Ticket;
  readonly #signal: AbortSignal | undefined;
  #finishReason: string | null = null;

  constructor(line: Line, ticket: Ticket, signal?: AbortSignal) {
    this.#line = line;
    this.#ticket = { ...ticket };
    this.#signal = signal;
  }

  /** How far it has come. Store it whenever you like; `client.resume(ticket)` goes on from there. */
  get ticket(): Ticket {
    return { ...this.#ticket };
  }

  /** The id of the ledger's row, once the head has come. */
  get requestId(): string | null {
    return this.#ticket.id;
  }

  /** Why it ended, in OpenAI's words, once it has. */
  get finishReason(): string | null {
    return this.#finishReason;
  }

  /** Cuts the model off; what was delivered is charged. To leave the loop does not: the answer is kept for a resume. */
  async stop(): Promise<void> {
    if (this.#ticket.id) await this.#line.stop(this.#ticket.id);
  }

  /** Reads all of it. */
  async text(): Promise<string> {
    for await (const _ of this);
    return this.#ticket.text;
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Piece, void, undefined> {
    const ticket = this.#ticket;
    if (ticket.text) yield { delta: "", text: ticket.text };
    let since = Date.now();
    for (let tries = 0; ; tries += 1) {
      const before = ticket.events;
      let refusal: TollgateError;
      try {
        // What it throws is the server's word, or the caller's own: the token provider's, or the signal's.
        const response = await this.#line.open(ticket, this.#signal);
        ticket.id = response.headers.get("x-request-id") ?? ticket.id;
        for await (const data of this.#events(response)) {
          ticket.events += 1;
          if (data === "[DONE]") return;
          const delta = this.#delta(data);
          if (delta) {
            ticket.text += delta;
            yield { delta, text: ticket.text };
          }
        }
        refusal = TollgateError.lost(new Error("the stream has no end"));
      } catch (error) {
        if (!(error instanceof TollgateError)) throw error;
        refusal = error;
      }
      if (ticket.events > before) [tries, since] = [0, Date.now()];
      const mayGoOn = refusal.advice === "connection" || (refusal.code === "answer_gone" && refusal.seconds !== null);
      if (!mayGoOn || !(await this.#line.pause(tries, since, this.#signal))) throw refusal.with(ticket.text);
    }
  }

  async *#events(response: Response): AsyncGenerator<string> {
    try {
      yield* events(response);
    } catch (error) {
      throw this.#signal?.aborted ? error : TollgateError.lost(error);
    }
  }

  #delta(data: string): string {
    const event = JSON.parse(data) as {
      error?: unknown;
      choices?: { index?: number; delta?: { content?: string | null }; finish_reason?: string | null }[];
    };
    if (event.error) {
      throw TollgateError.parsed(data, {
        status: 200, code: "upstream_error", message: "The answer broke off.", ...(this.#ticket.id ? { requestId: this.#ticket.id } : {}),
      });
    }
    const choice = event.choices?.find((one) => (one.index ?? 0) === 0);
    if (choice?.finish_reason) this.#finishReason = choice.finish_reason;
    return choice?.delta?.content ?? "";
  }
}
