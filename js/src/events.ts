const NEWLINE = 10;

/** The `data:` of each event of a body, as they come. Throws what the body throws; ends where it ends. */
export async function* events(response: Response): AsyncGenerator<string> {
  const decoder = new TextDecoder();
  if (!response.body) {
    // React Native's own fetch has no streams: everything comes at the end. `expo/fetch` has them.
    yield* dataOf(await response.text());
    return;
  }
  const reader = response.body.getReader();
  let rest = new Uint8Array(0);
  try {
    for (let part; !(part = await reader.read()).done; ) {
      const bytes = join(rest, part.value);
      // Whole events are decoded, so that no character is cut in two. What was looked at before is not looked at again.
      const end = lastBlankLine(bytes, Math.max(0, rest.length - 1));
      rest = bytes.slice(end);
      yield* dataOf(decoder.decode(bytes.subarray(0, end)));
    }
  } finally {
    // Whoever leaves the loop closes the connection.
    reader.cancel().catch(() => undefined);
  }
}

function* dataOf(text: string): Generator<string> {
  for (const block of text.split("\n\n")) {
    const lines = block.split("\n").filter((line) => line.startsWith("data:"));
    if (lines.length > 0) yield lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
  }
}

function join(first: Uint8Array, second: Uint8Array): Uint8Array<ArrayBuffer> {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

/** Where the last event that ends at or after `from` ends; 0 where none does. */
function lastBlankLine(bytes: Uint8Array, from: number): number {
  for (let end = bytes.length - 1; end > from; end -= 1) {
    if (bytes[end] === NEWLINE && bytes[end - 1] === NEWLINE) return end + 1;
  }
  return 0;
}
