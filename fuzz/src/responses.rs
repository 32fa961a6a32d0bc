//! A streamed response: however it is cut into pieces, the same comes out; what comes out is events of what came in, each with
//! its name; memory stays flat, and whatever was shown is counted.

use bytes::BytesMut;
use tollgate::meter::responses::{self, EVENT_BYTES_MAX};
use tollgate::meter::sse::NOISE_BYTES_MAX;
use tollgate::meter::{Fault, Measured, Meter, TEXT_BYTES_MAX};

use super::Dice;
use super::json::Json;

/// What a meter makes of a stream.
#[derive(Debug, PartialEq)]
struct Seen {
    read: Result<(), Fault>,
    out: Vec<u8>,
    measured: Measured,
}

/// Tries a stream, and the same bytes as a whole answer.
///
/// # Panics
/// It breaks a promise.
pub fn check(data: &[u8]) {
    let mut dice = Dice::of(data);
    let whole = metered([data]);
    assert_eq!(metered(data.chunks(1)), whole, "cut at every byte");
    let mut parts = Vec::new();
    let mut rest = data;
    while !rest.is_empty() {
        let most = u64::try_from(rest.len()).expect("short").min(40);
        let (part, after) = rest.split_at(usize::try_from(dice.below(most) + 1).expect("short"));
        parts.push(part);
        rest = after;
    }
    assert_eq!(metered(parts), whole, "cut at random");
    is_framed(&whole, data);
    sane(&whole.measured);
    let read = responses::whole::read(data.to_vec().into());
    sane(&read.measured);
    if let Ok(body) = read.body {
        assert!(Json::read(&body).is_some(), "what is delivered is JSON");
    }
}

fn metered<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Seen {
    let mut meter = Meter::responses();
    let mut out = BytesMut::new();
    let read = parts
        .into_iter()
        .try_for_each(|part| meter.push(part, &mut out));
    let read = read.and_then(|()| meter.finish(&mut out));
    assert!(read.is_err() || meter.is_done());
    let bound = EVENT_BYTES_MAX * 4 + NOISE_BYTES_MAX + TEXT_BYTES_MAX * 2;
    assert!(meter.bytes_held() <= bound, "{} bytes", meter.bytes_held());
    if let Err(fault) = read {
        meter.fail(fault, &mut out);
    }
    Seen {
        read,
        out: out.to_vec(),
        measured: meter.into_measured(),
    }
}

/// Events with a name, whose payload came in unless it is an error or the answer came in one piece.
fn is_framed(seen: &Seen, data: &[u8]) {
    assert!(seen.out.is_empty() || seen.out.ends_with(b"\n\n"));
    let is_one_piece = data
        .iter()
        .find(|byte| !b"\xEF\xBB\xBF \t\r\n".contains(byte))
        .is_some_and(|byte| matches!(byte, b'{' | b'['));
    let mut shown = 0;
    for event in split(&seen.out) {
        let (name, payload) = event;
        assert!(!name.is_empty(), "an event without a name");
        let json = Json::read(&payload);
        // What fails is told in our words, by the type of the payload: its event may have another name.
        let ours = [&b"error"[..], b"response.failed"];
        let kind = json.as_ref().and_then(|json| json.get("type"));
        let is_failure = matches!(kind, Some(Json::Text(kind)) if ours.contains(&kind.as_bytes()));
        let is_ours = ours.contains(&&name[..]) || is_failure || is_one_piece;
        if !is_ours {
            let lines: Vec<&[u8]> = payload.split(|byte| *byte == b'\n').collect();
            let came = |line: &&[u8]| {
                line.is_empty() || data.windows(line.len()).any(|part| part == *line)
            };
            assert!(lines.iter().all(came), "nothing passes that did not come");
        }
        let delta = json.as_ref().and_then(|json| json.get("delta"));
        if let Some(Json::Text(text)) = delta {
            shown += text.len();
        }
    }
    assert!(
        seen.measured.text.len() >= shown.min(TEXT_BYTES_MAX),
        "{} bytes were shown, {} counted",
        shown,
        seen.measured.text.len()
    );
    if seen.read.is_err() {
        assert!(!seen.out.is_empty(), "a failure is told");
    }
}

/// The names and payloads of events.
fn split(out: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut events = Vec::new();
    let (mut name, mut lines) = (Vec::new(), Vec::new());
    for line in out.split(|byte| *byte == b'\n') {
        if let Some(said) = line.strip_prefix(b"event: ") {
            name = said.to_vec();
        } else if let Some(data) = line.strip_prefix(b"data: ") {
            lines.push(data.to_vec());
        } else {
            assert!(line.is_empty(), "a line of another field");
            if !lines.is_empty() {
                events.push((
                    std::mem::take(&mut name),
                    std::mem::take(&mut lines).join(&b'\n'),
                ));
            }
        }
    }
    events
}

fn sane(measured: &Measured) {
    if let Some(usage) = measured.usage {
        assert!(usage.input_tokens > 0 && usage.input_tokens <= 10_000_000);
        assert!(usage.cached_input_tokens + usage.cache_write_tokens <= usage.input_tokens);
        assert!(usage.reasoning_tokens <= usage.output_tokens);
        assert!(
            usage.output_tokens > 0 || measured.text.is_empty(),
            "text is never free"
        );
    }
    assert!(measured.usage.is_none() || measured.partial_usage.is_none());
    assert!(measured.text.len() <= TEXT_BYTES_MAX);
    assert!(measured.model.as_ref().is_none_or(|name| name.len() <= 512));
}
