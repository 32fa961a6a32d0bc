// What an app has around the TypeScript blocks of the documentation, so that each can be type-checked by itself.

import type { SupabaseClient } from "@supabase/supabase-js";
import type { Limit, Ticket, TollgateClient } from "@tollgate/client";

declare global {
  const supabase: SupabaseClient;
  const tollgate: TollgateClient;
  const accessToken: string;
  const ticket: Ticket;
  const TollgateError: typeof import("@tollgate/client").TollgateError;
  function show(text: string): void;
  function showPaywall(limit: Omit<Limit, "remaining"> | null | undefined, plan: string | null): void;
  function showProblem(message: string, requestId: string | null): void;
  function showSignIn(): void;
  function retryIn(seconds: number): void;
}
