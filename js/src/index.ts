export { TollgateClient } from "./client.js";
export type { ClientOptions, Fetch, TokenProvider, TokenWanted } from "./client.js";
export { TollgateError } from "./error.js";
export type { Advice, ErrorDetails } from "./error.js";
export { AnswerStream } from "./stream.js";
export type { Piece, Ticket } from "./stream.js";
export type {
  Answer, CallOptions, ChatOptions, ChatUsage, ContentPart, Credits, GrantedPurchase, ImageOptions, Limit, Me, Message, Plan, SpeechOptions,
  TranscriptionOptions, UsagePage, UsageRow,
} from "./types.js";
