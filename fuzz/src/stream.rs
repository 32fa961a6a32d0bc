//! A streamed answer: however it is cut into pieces, the same comes out; what comes out is whole events of what came in;
//! memory stays flat.

use bytes::BytesMut;
use tollgate::meter::sse::{EVENT_BYTES_MAX, NOISE_BYTES_MAX};
use tollgate::meter::{Fault, Measured, Meter, TEXT_BYTES_MAX, WHOLE_BYTES_MAX};
use tollgate::price::Usage;

use super::Dice;
use super::json::Json;

/// What a meter makes of a stream.
#[derive(Debug, PartialEq)]
struct Seen {
    read: Result<(), Fault>,
    out: Vec<u8>,
    measured: Measured,
}

/// Tries a stream.
///
/// # Panics
/// It breaks a promise.
pub fn check(data: &[u8]) {
    let mut dice = Dice::of(data);
    for wants_usage in [false, true] {
        let whole = metered([data], wants_usage);
        assert_eq!(
            metered(data.chunks(1), wants_usage),
            whole,
            "cut at every byte"
        );
        let mut parts = Vec::new();
        let mut rest = data;
        while !rest.is_empty() {
            let most = u64::try_from(rest.len()).expect("short").min(40);
            let (part, after) =
                rest.split_at(usize::try_from(dice.below(most) + 1).expect("short"));
            parts.push(part);
            rest = after;
        }
        assert_eq!(metered(parts, wants_usage), whole, "cut at random");
        if !is_one_piece(data) {
            whole_events(data, &whole, wants_usage);
            usage_as_said(data, &whole);
        }
        is_framed(&whole);
        sane(&whole.measured);
    }
    if dice.below(64) == 0 && !data.is_empty() {
        flood(data);
    }
}

fn metered<'a>(parts: impl IntoIterator<Item = &'a [u8]>, wants_usage: bool) -> Seen {
    let mut meter = Meter::chat(wants_usage);
    let mut out = BytesMut::new();
    let read = parts
        .into_iter()
        .try_for_each(|part| meter.push(part, &mut out));
    let read = read.and_then(|()| meter.finish(&mut out));
    assert!(read.is_err() || meter.is_done());
    Seen {
        read,
        out: out.to_vec(),
        measured: meter.into_measured(),
    }
}

/// The payloads of a stream (WHATWG HTML §9.2.6), read from the whole of it; the last may lack its empty line.
fn payloads(data: &[u8]) -> Vec<Vec<u8>> {
    let data = data.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(data);
    let mut lines = vec![Vec::new()];
    let mut bytes = data.iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\r' => {
                bytes.next_if_eq(&b'\n');
                lines.push(Vec::new());
            }
            b'\n' => lines.push(Vec::new()),
            _ => lines.last_mut().expect("a line").push(byte),
        }
    }
    lines.push(Vec::new());
    let mut events = Vec::new();
    let mut event: Option<Vec<u8>> = None;
    for line in lines {
        if line.is_empty() {
            events.extend(event.take().filter(|event| !event.is_empty()));
        } else if let Some(value) = line.strip_prefix(b"data:") {
            let value = value.strip_prefix(b" ").unwrap_or(value);
            match &mut event {
                None => event = Some(value.to_vec()),
                Some(event) => event.extend([b"\n", value].concat()),
            }
        }
    }
    events
}

/// It begins as JSON does: an answer in one piece, of which events are made.
fn is_one_piece(data: &[u8]) -> bool {
    let data = data
        .iter()
        .find(|byte| !b"\xEF\xBB\xBF \t\r\n".contains(byte));
    matches!(data, Some(b'{' | b'['))
}

/// What the caller gets are events, and the last one exactly where the stream was read to its end.
fn is_framed(seen: &Seen) {
    let ends = seen.out.ends_with(b"data: [DONE]\n\n");
    assert_eq!(
        ends,
        seen.read.is_ok(),
        "the end is told exactly once it came"
    );
    assert!(seen.out.is_empty() || seen.out.ends_with(b"\n\n"));
    assert!(
        seen.out
            .split(|byte| *byte == b'\n')
            .all(|line| line.is_empty() || line.starts_with(b"data: "))
    );
}

/// The payload without names that a server wrote twice.
fn bare(payload: &[u8]) -> &[u8] {
    let mut payload = payload;
    while let Some(rest) = payload.strip_prefix(b"data:") {
        payload = rest.strip_prefix(b" ").unwrap_or(rest);
    }
    payload
}

fn is_done(payload: &[u8]) -> bool {
    let said = payload.trim_ascii();
    let said = said
        .strip_prefix(b"\"")
        .and_then(|said| said.strip_suffix(b"\""))
        .unwrap_or(said);
    said.trim_ascii().eq_ignore_ascii_case(b"[DONE]")
}

fn once(json: &Json, name: &str) -> bool {
    json.members()
        .iter()
        .filter(|(member, _)| member == name)
        .count()
        <= 1
}

/// A chunk as a stream has them, without any member said twice that matters here.
fn is_chunk(json: &Json) -> bool {
    let choices = match json.get("choices") {
        None | Some(Json::Null) => &[],
        Some(Json::List(choices)) => choices.as_slice(),
        Some(_) => return false,
    };
    let is_choice =
        |choice: &Json| matches!(choice, Json::Object(_)) && choice.get("message").is_none();
    matches!(json, Json::Object(_))
        && once(json, "choices")
        && once(json, "usage")
        && choices.iter().all(is_choice)
}

/// What passed is, in order, every event up to the end or the fault, but those of usage alone that nobody asked for.
fn whole_events(data: &[u8], seen: &Seen, wants_usage: bool) {
    let mut wanted = Vec::new();
    for payload in payloads(data) {
        let payload = bare(&payload);
        if payload.trim_ascii().is_empty() || payload.trim_ascii().starts_with(b":") {
            continue;
        }
        if is_done(payload) {
            // The end is held back for usage that comes after it.
            if seen.read.is_ok() {
                let rest = seen
                    .out
                    .strip_prefix(wanted.as_slice())
                    .expect("all passes that came before the end");
                assert!(
                    wants_usage || rest == b"data: [DONE]\n\n",
                    "nothing else passes after it"
                );
            }
            return;
        }
        // What is nested too deep is left out.
        let brackets = payload
            .iter()
            .filter(|byte| matches!(byte, b'[' | b'{'))
            .count();
        let json = Json::read(payload).filter(|json| is_chunk(json) && brackets < 100);
        let Some(json) = json else {
            // It is left out, or mended, or read line by line: what came before is whole.
            assert!(
                seen.out.starts_with(&wanted) || wanted.starts_with(&seen.out),
                "nothing passes that did not come"
            );
            return;
        };
        let is_usage_only = json.get("usage").is_some_and(|usage| *usage != Json::Null)
            && json
                .get("choices")
                .is_none_or(|choices| choices.items().is_empty());
        if wants_usage || !is_usage_only {
            let lines: Vec<u8> = payload
                .split(|byte| *byte == b'\n')
                .flat_map(|line| [b"data: ", line, b"\n"].concat())
                .collect();
            wanted.extend([lines.as_slice(), b"\n"].concat());
        }
    }
    match seen.read {
        Ok(()) => {
            wanted.extend(b"data: [DONE]\n\n");
            assert_eq!(seen.out, wanted);
        }
        Err(_) => assert!(
            wanted.starts_with(&seen.out),
            "nothing passes that did not come"
        ),
    }
}

/// Usage is what one event says of it, and nothing where none does. (Of several, and of those that contradict themselves, the
/// product judges by rule; that is for its own tests.)
fn usage_as_said(data: &[u8], seen: &Seen) {
    if seen.read.is_err() {
        return;
    }
    let payloads = payloads(data);
    let events = payloads
        .iter()
        .map(|payload| bare(payload))
        .filter(|payload| !is_done(payload));
    let Some(events) = events
        .map(|payload| Json::read(payload).filter(is_chunk))
        .collect::<Option<Vec<Json>>>()
    else {
        return;
    };
    if !events.iter().any(mentions_usage) {
        assert_eq!(
            (seen.measured.usage, seen.measured.partial_usage),
            (None, None),
            "nothing was said of usage"
        );
    }
    let said: Vec<&Json> = events
        .iter()
        .filter_map(|event| event.get("usage"))
        .filter(|usage| **usage != Json::Null)
        .collect();
    let [one] = said.as_slice() else { return };
    let names = ["prompt_tokens", "completion_tokens", "total_tokens"];
    let is_plain = one
        .members()
        .iter()
        .all(|(name, _)| names.contains(&name.as_str()) && once(one, name));
    let [prompt, completion, total] = names.map(|name| one.get(name).and_then(Json::whole));
    let (Some(prompt), Some(completion)) = (prompt, completion) else {
        return;
    };
    let in_range = (1..=10_000_000).contains(&prompt) && (1..=10_000_000).contains(&completion);
    let adds_up = one.get("total_tokens").is_none() || total == Some(prompt + completion);
    if is_plain && in_range && adds_up {
        // In mid-answer it is the least that was used.
        let partial = seen
            .measured
            .partial_usage
            .map(|partial| *partial.reported());
        let usage = seen
            .measured
            .usage
            .or(partial)
            .expect("what one event says plainly is believed");
        assert_eq!(
            (
                i128::from(usage.input_tokens),
                i128::from(usage.output_tokens)
            ),
            (prompt, completion)
        );
        let parts = [
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.reasoning_tokens,
        ];
        assert_eq!(parts, [0; 3], "of parts nothing was said");
    }
}

/// Some member anywhere is called so.
fn mentions_usage(json: &Json) -> bool {
    let here = json
        .members()
        .iter()
        .any(|(name, value)| name == "usage" || mentions_usage(value));
    here || json.items().iter().any(mentions_usage)
}

fn sane(measured: &Measured) {
    if let Some(usage) = measured.usage {
        assert!(
            usage.input_tokens > 0
                && usage.input_tokens <= 10_000_000
                && usage.output_tokens <= 10_000_000
        );
        assert!(usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens);
        assert!(usage.reasoning_tokens <= usage.output_tokens);
        assert!(
            usage.output_tokens > 0 || measured.text.is_empty(),
            "text is never free"
        );
    }
    if let Some(partial) = measured.partial_usage {
        assert!(measured.usage.is_none(), "either the whole or a part");
        let estimate = Usage {
            input_tokens: 1,
            output_tokens: 1,
            ..Usage::default()
        };
        let usage = partial.completed_by(&estimate);
        assert!(usage.input_tokens > 0 && (usage.output_tokens > 0 || partial.knows_output()));
        assert!(usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens);
    }
    assert!(measured.text.len() <= TEXT_BYTES_MAX);
    assert!(measured.model.as_ref().is_none_or(|name| name.len() <= 512));
}

/// The longest way to write one byte of an event is a line of its own that is empty: `data: `, CR and LF.
const WRITTEN_FOR_ONE_BYTE: usize = 8;

/// The input again and again, for longer than an event of the greatest size can be written.
fn flood(data: &[u8]) {
    let piece = data.repeat((16 * 1024 / data.len()).max(1));
    let mut meter = Meter::chat(true);
    let (mut fed, mut passed) = (0, 0);
    while fed < EVENT_BYTES_MAX * WRITTEN_FOR_ONE_BYTE + 1024 * 1024 {
        let mut out = BytesMut::new();
        let outcome = meter.push(&piece, &mut out);
        fed += piece.len();
        passed += out.len();
        let bound =
            (EVENT_BYTES_MAX * 4 + NOISE_BYTES_MAX + TEXT_BYTES_MAX * 2).max(WHOLE_BYTES_MAX * 2);
        assert!(
            meter.bytes_held() <= bound,
            "{} bytes held",
            meter.bytes_held()
        );
        // For what comes after the end somebody waits only a moment.
        if outcome.is_err() || meter.is_done() || meter.is_waiting() {
            return;
        }
    }
    assert!(
        passed > 0,
        "more than an event can be, no event, and no end to it"
    );
}
