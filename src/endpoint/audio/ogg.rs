//! Ogg: pages with packets of one or several streams. Every packet counts as long as it says itself; where the positions of
//! the pages say more, they count. Pure.

use memchr::memmem;

use super::bytes::{be, le, piece, piece_there, size};
use super::flac;
use super::packets::Codec;
use super::span::AudioSpan;
use super::vorbis::VorbisModes;

/// How every page begins.
const CAPTURE: &[u8] = b"OggS";
/// The head of a page, before the lengths of its pieces.
const HEAD_BYTES: usize = 27;
/// The most streams in one file.
const STREAMS_MAX: usize = 64;
/// The longest header of a stream.
const HEADER_BYTES_MAX: usize = 256 * 1024;
/// What is looked at of a packet.
const LOOK_BYTES: usize = 64;
/// A position of a page on which no packet ends.
const NO_POSITION: u64 = u64::MAX;

/// One stream.
#[derive(Default)]
struct Stream {
    serial: u64,
    codec: Option<Codec>,
    /// How many packets have ended.
    packets: u64,
    /// The first header, and the one that is being read.
    first: Vec<u8>,
    header: Vec<u8>,
    counted: AudioSpan,
    /// The first position, how much was counted until then, and the last position.
    positions: Option<(u64, AudioSpan, u64)>,
    /// The last packet goes on on the next page.
    goes_on: bool,
}

/// How long it is.
pub(super) fn span(file: &[u8]) -> Option<AudioSpan> {
    let mut streams: Vec<Stream> = Vec::new();
    let mut at = 0;
    while let Some(found) = memmem::find(file.get(at..)?, CAPTURE) {
        at = at.saturating_add(found);
        let Some(page) = OggPage::read(file, at) else {
            at = at.saturating_add(1);
            continue;
        };
        let stream = match streams.iter().position(|one| one.serial == page.serial) {
            Some(place) => streams.get_mut(place)?,
            None if streams.len() >= STREAMS_MAX => return None,
            None => {
                streams.push(Stream {
                    serial: page.serial,
                    ..Stream::default()
                });
                streams.last_mut()?
            }
        };
        if page.begins && stream.packets > 0 {
            // Another stream by the same number.
            return None;
        }
        stream.page(&page)?;
        at = page.end;
    }
    let mut spans = streams.iter().map(Stream::span);
    spans.try_fold(AudioSpan::NONE, |sum, span| Some(sum.plus(span?)))
}

/// One page.
struct OggPage<'a> {
    serial: u64,
    position: u64,
    /// It is the first of its stream.
    begins: bool,
    /// It begins in the middle of a packet.
    continues: bool,
    lengths: &'a [u8],
    body: &'a [u8],
    /// All of its body is there.
    is_whole: bool,
    end: usize,
}

impl<'a> OggPage<'a> {
    fn read(file: &'a [u8], at: usize) -> Option<Self> {
        let head = piece(file, at, HEAD_BYTES)?;
        let flags = be(head, 5, 1)?;
        let lengths = piece(file, at.checked_add(HEAD_BYTES)?, size(be(head, 26, 1)?))?;
        let start = at.checked_add(HEAD_BYTES)?.checked_add(lengths.len())?;
        let length = lengths.iter().map(|length| usize::from(*length)).sum();
        let body = piece_there(file, start, length);
        Some(Self {
            serial: le(head, 14, 4)?,
            position: le(head, 6, 8)?,
            begins: flags & 2 != 0,
            continues: flags & 1 != 0,
            lengths,
            body,
            is_whole: body.len() == length,
            end: start.checked_add(body.len())?,
        })
    }
}

impl Stream {
    /// Reads a page of it.
    fn page(&mut self, page: &OggPage<'_>) -> Option<()> {
        // Decoders differ in what they make of a packet that goes on and never began: it counts.
        let mut is_rest = page.continues && self.goes_on;
        let (mut start, mut at): (usize, usize) = (0, 0);
        for length in page.lengths {
            at = at.saturating_add(usize::from(*length));
            if *length == u8::MAX {
                continue;
            }
            self.piece(
                piece_there(page.body, start, at.saturating_sub(start)),
                is_rest,
            )?;
            self.packet_ends()?;
            is_rest = false;
            start = at;
        }
        self.goes_on = start < at;
        if self.goes_on {
            self.piece(
                piece_there(page.body, start, at.saturating_sub(start)),
                is_rest,
            )?;
        }
        let is_position =
            page.is_whole && page.position != NO_POSITION && self.counted > AudioSpan::NONE;
        if is_position {
            let (first, before, _) = self.positions.unwrap_or((page.position, self.counted, 0));
            self.positions = Some((first, before, page.position));
        }
        Some(())
    }

    /// The beginning of a packet, or the rest of one.
    fn piece(&mut self, bytes: &[u8], is_rest: bool) -> Option<()> {
        if let Some(codec) = &self.codec {
            if !is_rest {
                let looked = piece_there(bytes, 0, LOOK_BYTES);
                self.counted = self.counted.plus(codec.span(looked));
            }
            return Some(());
        }
        if !is_rest {
            self.header.clear();
        }
        let length = self.header.len().saturating_add(bytes.len());
        (length <= HEADER_BYTES_MAX).then_some(())?;
        self.header.extend_from_slice(bytes);
        Some(())
    }

    /// A packet was read to its end: its codec may be known now.
    fn packet_ends(&mut self) -> Option<()> {
        self.packets = self.packets.saturating_add(1);
        if self.codec.is_some() {
            return Some(());
        }
        let header = std::mem::take(&mut self.header);
        match (self.packets, header.as_slice()) {
            (1, [b'O', b'p', b'u', b's', b'H', ..]) => self.codec = Some(Codec::Opus),
            (1, [0x7F, b'F', b'L', b'A', b'C', ..]) => {
                self.codec = Some(Codec::Flac(flac::stream_rate(&header, 9)?));
            }
            // Where things are in the file.
            (1, [b'f', b'i', b's', b'h', b'e', b'a', b'd', ..]) => {
                self.codec = Some(Codec::Silent);
            }
            (1, [1, b'v', b'o', b'r', b'b', b'i', b's', ..]) => self.first = header,
            (2, _) => {}
            (3, _) => self.codec = Some(Codec::Vorbis(VorbisModes::read(&self.first, &header)?)),
            _ => return None,
        }
        Some(())
    }

    fn span(&self) -> Option<AudioSpan> {
        let codec = self.codec.as_ref()?;
        let Some((first, before, last)) = self.positions else {
            return Some(self.counted);
        };
        let between = codec.of_samples(last.saturating_sub(first));
        let by_position = between.map_or(AudioSpan::NONE, |between| between.plus(before));
        Some(self.counted.max(by_position))
    }
}
