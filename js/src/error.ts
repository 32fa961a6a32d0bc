import type { Limit } from "./types.js";

/**
 * What an app can do about an error. This set is closed: a code that a newer server sends is mapped to one of these.
 *
 * - `paywall`: show what `limit` says and offer another plan
 * - `wait`: send the same again after `seconds`
 * - `signIn`, `signUp`: the token is no good even after a refresh; the user has no account yet
 * - `rephrase`: the user should ask for something shorter or else
 * - `blocked`: the user or the device is locked out; say whom to write to
 * - `connection`: the network is gone; the same ticket or key goes on later
 * - `later`: nothing that the app can do now
 * - `fault`: a bug of the app; log `message` and `param`
 */
export type Advice = "paywall" | "wait" | "signIn" | "signUp" | "rephrase" | "blocked" | "connection" | "later" | "fault";

const ADVICE: Record<string, Advice> = {
  token_expired: "signIn",
  missing_token: "signIn",
  invalid_token: "signIn",
  anonymous_not_allowed: "signUp",
  quota_exceeded: "paywall",
  model_not_allowed: "paywall",
  user_blocked: "blocked",
  attestation_required: "blocked",
  purchase_taken: "blocked",
  rate_limited: "wait",
  too_many_concurrent: "wait",
  upstream_unavailable: "wait",
  store_unavailable: "wait",
  auth_unavailable: "wait",
  directory_unavailable: "wait",
  overloaded: "wait",
  content_flagged: "rephrase",
  body_too_large: "rephrase",
  context_length_exceeded: "rephrase",
  connection_lost: "connection",
  invalid_request: "fault",
  unsupported_field: "fault",
  not_found: "fault",
  method_not_allowed: "fault",
  unsupported_media_type: "fault",
  headers_too_large: "fault",
  idempotency_key_reused: "fault",
};

/** What an error is made of. */
export interface ErrorDetails {
  status?: number;
  code: string;
  message: string;
  param?: string | null;
  limit?: Omit<Limit, "remaining"> & { requested?: number | string };
  plan?: string;
  requestId?: string;
  seconds?: number;
  partialText?: string;
}

/** Everything that a call of this package throws, except an `AbortError` of the caller's own signal. */
export class TollgateError extends Error {
  override readonly name = "TollgateError";
  /** The HTTP status; 0 where there was no answer, 200 for an error in the middle of a stream. */
  readonly status: number;
  /** The server's code: an open set. `connection_lost` where the network failed. */
  readonly code: string;
  /** The field of the request that is wrong. */
  readonly param: string | null;
  /** Which limit is reached, and when it resets. */
  readonly limit: ErrorDetails["limit"] | null;
  /** The user's plan, with a limit. */
  readonly plan: string | null;
  /** The id of the ledger's row: show it on your support screen. */
  readonly requestId: string | null;
  /** How long to wait before the same is sent again. */
  readonly seconds: number | null;
  /** What had come of a stream. */
  readonly partialText: string;

  constructor(details: ErrorDetails) {
    super(details.message);
    this.status = details.status ?? 0;
    this.code = details.code;
    this.param = details.param ?? null;
    this.limit = details.limit ?? null;
    this.plan = details.plan ?? null;
    this.requestId = details.requestId ?? null;
    this.seconds = details.seconds ?? null;
    this.partialText = details.partialText ?? "";
  }

  /** What the app can do about it. */
  get advice(): Advice {
    if (this.code === "answer_gone") return this.seconds === null ? "later" : "wait";
    return ADVICE[this.code] ?? "later";
  }

  /** The same error with what had come of a stream. */
  with(partialText: string): TollgateError {
    return new TollgateError({ ...details(this), partialText });
  }

  /** The error that an answer of the server says. */
  static async from(response: Response): Promise<TollgateError> {
    const text = await response.text().catch(() => "");
    const seconds = Number(response.headers.get("retry-after") ?? Number.NaN);
    return TollgateError.parsed(text, {
      status: response.status,
      code: response.headers.get("x-tollgate-error") ?? `http_${response.status}`,
      message: `The server answered ${response.status}.`,
      ...optional("requestId", response.headers.get("x-request-id")),
      ...(Number.isFinite(seconds) ? { seconds } : {}),
    });
  }

  /** The error in a body or in an event; `otherwise` where there is none in it. */
  static parsed(text: string, otherwise: ErrorDetails): TollgateError {
    let error: Record<string, unknown> = {};
    try {
      error = (JSON.parse(text) as { error?: Record<string, unknown> }).error ?? {};
    } catch {
      // A proxy in between may answer in HTML.
    }
    const said: ErrorDetails = { ...otherwise };
    if (typeof error["code"] === "string") said.code = error["code"];
    if (typeof error["message"] === "string") said.message = error["message"];
    if (typeof error["param"] === "string") said.param = error["param"];
    if (typeof error["plan"] === "string") said.plan = error["plan"];
    if (typeof error["limit"] === "object" && error["limit"]) said.limit = error["limit"] as NonNullable<ErrorDetails["limit"]>;
    return new TollgateError(said);
  }

  /** The network failed. */
  static lost(cause: unknown): TollgateError {
    const error = new TollgateError({ code: "connection_lost", message: "The connection was lost." });
    (error as { cause?: unknown }).cause = cause;
    return error;
  }
}

function details(error: TollgateError): ErrorDetails {
  return {
    status: error.status, code: error.code, message: error.message, param: error.param,
    ...optional("limit", error.limit), ...optional("plan", error.plan), ...optional("requestId", error.requestId),
    ...optional("seconds", error.seconds),
  };
}

/** A member, where it has a value. */
export function optional<Name extends string, Value>(name: Name, value: Value | null | undefined): { [K in Name]?: Value } {
  return (value === null || value === undefined ? {} : { [name]: value }) as { [K in Name]?: Value };
}
