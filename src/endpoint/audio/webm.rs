//! `WebM` and Matroska: blocks in clusters. Every block counts as long as its packets say; where the times of the blocks say
//! more, they count. Pure.
//!
//! Opus and Vorbis, which is what browsers record. The tree is walked flat: what holds other elements is stepped into, and
//! whatever else is stepped over, so a length that was not known when it was written does not matter.

use memchr::memmem;

use super::bytes::{be, piece, piece_there};
use super::ebml::{self, Element};
use super::packets::Codec;
use super::span::AudioSpan;
use super::vorbis::VorbisModes;

const SEGMENT: u64 = 0x1853_8067;
const INFO: u64 = 0x1549_A966;
const TIMESTAMP_SCALE: u64 = 0x002A_D7B1;
const TRACKS: u64 = 0x1654_AE6B;
const TRACK_ENTRY: u64 = 0xAE;
const TRACK_NUMBER: u64 = 0xD7;
const CODEC_ID: u64 = 0x86;
const CODEC_PRIVATE: u64 = 0x63A2;
const CONTENT_ENCODINGS: u64 = 0x6D80;
const CLUSTER: u64 = 0x1F43_B675;
const TIMESTAMP: u64 = 0xE7;
const BLOCK_GROUP: u64 = 0xA0;
const BLOCK: u64 = 0xA1;
const SIMPLE_BLOCK: u64 = 0xA3;
const ENCRYPTED_BLOCK: u64 = 0xAF;

/// How a cluster begins.
const CLUSTER_BYTES: &[u8] = &[0x1F, 0x43, 0xB6, 0x75];
/// The most tracks.
const TRACKS_MAX: usize = 64;
/// Nanoseconds of a tick of the clock, where the file does not say.
const SCALE: u64 = 1_000_000;
const NANOS: u64 = 1_000_000_000;

#[derive(Default)]
struct WebmTrack {
    number: u64,
    codec_id: Vec<u8>,
    private: Vec<u8>,
    /// Once the first block came.
    codec: Option<Codec>,
    counted: AudioSpan,
    /// The first and the last time of a block, in ticks.
    times: Option<(u64, u64)>,
}

/// What was read so far.
struct WebmReader {
    scale: u64,
    tracks: Vec<WebmTrack>,
    cluster: u64,
}

/// How long it is: its longest track.
pub(super) fn span(file: &[u8]) -> Option<AudioSpan> {
    let mut reader = WebmReader {
        scale: SCALE,
        tracks: Vec::new(),
        cluster: 0,
    };
    let mut at = 0;
    while at < file.len() {
        let Some(element) = ebml::element(file, at) else {
            // Damaged: decoders go on with the next cluster.
            let rest = file.get(at.saturating_add(1)..)?;
            match memmem::find(rest, CLUSTER_BYTES) {
                Some(skipped) => at = at.saturating_add(1).saturating_add(skipped),
                None => break,
            }
            continue;
        };
        at = reader.element(file, element)?;
    }
    let scale = reader.scale;
    let audible = reader.tracks.iter();
    audible.map(|track| track.span(scale)).max()
}

impl WebmReader {
    /// Reads an element, and says where the next one begins.
    fn element(&mut self, file: &[u8], element: Element) -> Option<usize> {
        let Element {
            name,
            start,
            length,
        } = element;
        if matches!(
            name,
            SEGMENT | INFO | TRACKS | TRACK_ENTRY | CLUSTER | BLOCK_GROUP
        ) {
            if name == TRACK_ENTRY {
                (self.tracks.len() < TRACKS_MAX).then_some(())?;
                self.tracks.push(WebmTrack::default());
            }
            return Some(start);
        }
        let length = length?;
        let content = piece_there(file, start, length);
        let number = || be(content, 0, content.len().min(8));
        match name {
            TIMESTAMP_SCALE => self.scale = number()?,
            TRACK_NUMBER => self.tracks.last_mut()?.number = number()?,
            CODEC_ID => content.clone_into(&mut self.tracks.last_mut()?.codec_id),
            CODEC_PRIVATE => content.clone_into(&mut self.tracks.last_mut()?.private),
            // What stands in the blocks is not what it seems.
            CONTENT_ENCODINGS | ENCRYPTED_BLOCK => return None,
            TIMESTAMP => self.cluster = number()?,
            // The end of a file that was cut: no decoder has this one.
            BLOCK | SIMPLE_BLOCK if content.len() < length => {}
            BLOCK | SIMPLE_BLOCK => self.block(content)?,
            _ => {}
        }
        start.checked_add(length)
    }

    fn block(&mut self, block: &[u8]) -> Option<()> {
        let (number, at) = ebml::number(block, 0)?;
        let number = number?;
        let time = u16::try_from(be(block, at, 2)?).ok()?.cast_signed();
        let time = self.cluster.saturating_add_signed(i64::from(time));
        let flags = be(block, at.checked_add(2)?, 1)?;
        let packet = block.get(at.checked_add(3)?..)?;
        let track = self.tracks.iter_mut().find(|track| track.number == number);
        let Some(track) = track else {
            return Some(());
        };
        let codec = match track.codec.take() {
            Some(codec) => codec,
            None => codec(&track.codec_id, &track.private)?,
        };
        let lacing = flags & 0x06;
        let span = if lacing == 0 {
            codec.span(packet)
        } else {
            let packets = be(packet, 0, 1)?.saturating_add(1);
            codec.longest()?.times(packets)
        };
        track.counted = track.counted.plus(span);
        if codec != Codec::Silent {
            let (first, last) = track.times.unwrap_or((time, time));
            track.times = Some((first.min(time), last.max(time)));
        }
        track.codec = Some(codec);
        Some(())
    }
}

impl WebmTrack {
    fn span(&self, scale: u64) -> AudioSpan {
        let (first, last) = self.times.unwrap_or_default();
        let nanos = last.saturating_sub(first).saturating_mul(scale);
        self.counted.max(AudioSpan::of(nanos, NANOS))
    }
}

/// The codec of a track; `None` where it is one of sound that is not read here.
fn codec(id: &[u8], private: &[u8]) -> Option<Codec> {
    match id {
        b"A_OPUS" => Some(Codec::Opus),
        b"A_VORBIS" => {
            let (first, third) = vorbis_headers(private)?;
            Some(Codec::Vorbis(VorbisModes::read(first, third)?))
        }
        [b'A', ..] | [] => None,
        _ => Some(Codec::Silent),
    }
}

/// The first and the third of three headers, with the lengths of the first two before them, each a chain of bytes that ends
/// with one below 255.
fn vorbis_headers(private: &[u8]) -> Option<(&[u8], &[u8])> {
    let [2, rest @ ..] = private else {
        return None;
    };
    let mut at = 0;
    let mut lengths = [0_usize; 2];
    for length in &mut lengths {
        loop {
            let part = usize::from(*rest.get(at)?);
            at = at.checked_add(1)?;
            *length = length.checked_add(part)?;
            if part < 255 {
                break;
            }
        }
    }
    let [first, second] = lengths;
    let third = at.checked_add(first)?.checked_add(second)?;
    Some((piece(rest, at, first)?, rest.get(third..)?))
}
