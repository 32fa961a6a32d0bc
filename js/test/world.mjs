// What the tests need around them: tokens of new users, a network that breaks off, and the ledger's rows.

import { execFileSync } from "node:child_process";
import { createHmac, randomUUID } from "node:crypto";
import { once } from "node:events";
import net from "node:net";

import { TollgateClient } from "../dist/index.js";

/** The running server; null where there is none, and only what needs none is tested. */
export const SERVER = process.env.SERVER ?? null;

/** A token of a user, signed as Supabase's older projects do. */
export function token({ user = randomUUID(), plan, expires = 600 } = {}) {
  const now = Math.floor(Date.now() / 1000);
  const claims = { sub: user, aud: "authenticated", role: "authenticated", iat: now - 900, exp: now + expires };
  const part = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");
  const signed = `${part({ alg: "HS256", typ: "JWT" })}.${part({ ...claims, app_metadata: { plan } })}`;
  return `${signed}.${createHmac("sha256", process.env.SECRET).update(signed).digest("base64url")}`;
}

/** A client of a new user, with its id. */
export function newUser({ plan, server = SERVER, ...options } = {}) {
  const user = randomUUID();
  const client = new TollgateClient(server, () => token({ user, plan }), options);
  return { user, client };
}

/** The rows of a user, once none of them is open. */
export async function rows(user) {
  for (let tries = 0; tries < 100; tries += 1) {
    const out = execFileSync(process.env.BINARY, ["usage", "--requests", "--json", "--user", user], { cwd: process.env.FOLDER, encoding: "utf8" });
    const found = out.split("\n").filter(Boolean).map((line) => JSON.parse(line));
    if (found.length > 0 && found.every((row) => row.state !== "held")) return found;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  throw new Error("a request never ended");
}

/**
 * A way to the server that breaks each connection off after so many bytes of the answers, by the list `cuts`; those after
 * it are whole. What was sent before the break has arrived.
 */
export async function relay(cuts) {
  const left = [...cuts];
  const { hostname, port } = new URL(SERVER);
  const open = new Set();
  const listener = net.createServer((phone) => {
    let cut = left.shift() ?? Infinity;
    const server = net.connect(Number(port), hostname);
    const end = () => [phone, server].forEach((side) => side.destroy());
    for (const side of [phone, server]) {
      open.add(side);
      side.on("error", end).on("close", end);
    }
    phone.pipe(server);
    server.on("data", (data) => {
      phone.write(data.subarray(0, cut), () => cut <= 0 && end());
      cut -= data.length;
    });
  });
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  return {
    url: `http://127.0.0.1:${listener.address().port}`,
    close: () => {
      listener.close();
      for (const side of open) side.destroy();
    },
  };
}

/** A generator of numbers below a bound that a seed decides (xorshift32). */
export function dice(seed) {
  let state = (Math.imul(seed, 0x9e3779b9) | 1) >>> 0;
  return (bound) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    state >>>= 0;
    return state % bound;
  };
}

export const ask = (content) => [{ role: "user", content }];
export const words = (count) => Array.from({ length: count }, (_, n) => `word${n + 1}`).join(" ");

/** A WAV file with nothing to hear: 8,000 samples a second of one byte. */
export function silence(seconds) {
  const size = 8000 * seconds;
  const file = Buffer.alloc(44 + size, 128);
  for (const [at, word] of [[0, "RIFF"], [8, "WAVEfmt "], [36, "data"]]) file.write(word, at, "latin1");
  const numbers = [[4, 36 + size, 4], [16, 16, 4], [20, 1, 2], [22, 1, 2], [24, 8000, 4], [28, 8000, 4], [32, 1, 2], [34, 8, 2], [40, size, 4]];
  for (const [at, value, length] of numbers) file.writeUIntLE(value, at, length);
  return new Blob([file], { type: "audio/wav" });
}
