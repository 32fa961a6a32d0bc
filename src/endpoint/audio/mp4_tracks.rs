//! What the boxes of a track say of its length. Pure.
//!
//! Two readings, of which the longer counts: the times of its samples, and as many samples as the tables name, each as long
//! as a frame of its codec is. So a table of times that is shorter than what there is to be decoded shortens nothing.

use super::bytes::{be, piece, piece_there, size};
use super::span::AudioSpan;

/// What AAC names its rates by.
const AAC_RATES: [u64; 13] = [
    96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8000,
    7350,
];
/// Samples of a frame of AAC, at its core's rate.
const AAC_FRAME: u64 = 1024;
/// The same of the later kinds of AAC (xHE-AAC), at most.
const LATE_AAC_FRAME: u64 = 4096;
/// Object types of AAC from here on are those kinds.
const LATE_AAC: u64 = 31;
/// The most configurations in one description, and descriptors within each other: files have one, and three.
const NESTED_MAX: usize = 8;
/// The most tracks' times that are added to in fragments.
const FRAGMENTED_MAX: usize = 64;

/// All tracks of a file.
#[derive(Default)]
pub(super) struct Tracks {
    /// Of the movie: what edits are told in.
    pub(super) scale: Option<u64>,
    pub(super) all: Vec<Track>,
    /// How long a sample of a track is in fragments, where those do not say.
    pub(super) defaults: Vec<(u64, u64)>,
    /// Of each track in fragments: samples, and their time.
    fragmented: Vec<(u64, u64, u64)>,
}

/// One track.
#[derive(Default)]
pub(super) struct Track {
    pub(super) id: Option<u64>,
    /// How many parts a second of it has.
    pub(super) scale: Option<u64>,
    is_no_sound: bool,
    /// How long a sample is at most, by its codec.
    frame: Option<AudioSpan>,
    /// In parts of a second.
    time: u64,
    samples: u64,
    /// Edits that play all or some of it, and the time of those that play nothing.
    plays: u64,
    pause: u64,
}

/// A part of a track in a fragment.
#[derive(Default)]
pub(super) struct Fragment {
    pub(super) id: u64,
    default: Option<u64>,
    samples: u64,
    time: u64,
}

impl Tracks {
    pub(super) fn default_of(&self, id: u64) -> u64 {
        let defaults = self.defaults.iter().filter(|(track, _)| *track == id);
        defaults.map(|(_, time)| *time).max().unwrap_or(0)
    }

    /// Adds a fragment to its track.
    pub(super) fn add(&mut self, fragment: &Fragment) -> Option<()> {
        let of_it = self
            .fragmented
            .iter_mut()
            .find(|(id, ..)| *id == fragment.id);
        if let Some((_, samples, time)) = of_it {
            *samples = samples.saturating_add(fragment.samples);
            *time = time.saturating_add(fragment.time);
        } else {
            (self.fragmented.len() < FRAGMENTED_MAX).then_some(())?;
            let one = (fragment.id, fragment.samples, fragment.time);
            self.fragmented.push(one);
        }
        Some(())
    }

    /// The longest track of sound; none where there is none, or one that is not understood.
    pub(super) fn longest(&self) -> Option<AudioSpan> {
        let sounds = self.all.iter().filter(|track| !track.is_no_sound);
        let mut longest = None;
        for track in sounds {
            let of_it = |(id, ..): &&(u64, u64, u64)| Some(*id) == track.id;
            let (_, samples, time) = self
                .fragmented
                .iter()
                .find(of_it)
                .copied()
                .unwrap_or_default();
            longest = longest.max(Some(track.span((samples, time), self.scale)?));
        }
        longest
    }
}

impl Track {
    /// What it is.
    pub(super) fn handler(&mut self, kind: &[u8]) {
        let known = [
            b"vide", b"text", b"sbtl", b"subt", b"clcp", b"tmcd", b"meta", b"hint", b"auxv",
        ];
        self.is_no_sound = known.iter().any(|known| *known == kind);
    }

    /// Its codec; the slowest of several.
    pub(super) fn description(&mut self, content: &[u8]) {
        let mut at: usize = 8;
        let mut slowest = None;
        while let Some(length) = be(content, at, 4).filter(|length| *length >= 8) {
            let entry = piece_there(content, at, size(length));
            let Some(frame) = frame_of(entry) else {
                // One that is not understood is enough.
                slowest = None;
                break;
            };
            slowest = slowest.max(Some(frame));
            at = at.saturating_add(entry.len().max(8));
        }
        self.frame = slowest;
    }

    /// The table of times: so many samples of so many parts of a second each.
    pub(super) fn times(&mut self, content: &[u8]) -> Option<()> {
        let count = size(be(content, 4, 4)?);
        let rows = content.get(8..)?.chunks_exact(8).take(count);
        let (mut samples, mut time): (u64, u64) = (0, 0);
        for row in rows {
            let (many, long) = (be(row, 0, 4)?, be(row, 4, 4)?);
            samples = samples.saturating_add(many);
            time = time.saturating_add(many.saturating_mul(long));
        }
        self.samples(samples);
        self.time = self.time.max(time);
        Some(())
    }

    /// A table with so many samples.
    pub(super) fn samples(&mut self, samples: u64) {
        self.samples = self.samples.max(samples);
    }

    /// The table of edits.
    pub(super) fn edits(&mut self, content: &[u8], is_long: bool) -> Option<()> {
        let width: usize = if is_long { 8 } else { 4 };
        let count = size(be(content, 4, 4)?);
        let row_bytes = width.saturating_mul(2).saturating_add(4);
        for row in content.get(8..)?.chunks_exact(row_bytes).take(count) {
            let (time, from) = (be(row, 0, width)?, piece(row, width, width)?);
            if from.iter().all(|byte| *byte == 0xFF) {
                self.pause = self.pause.saturating_add(time);
            } else {
                self.plays = self.plays.saturating_add(1);
            }
        }
        Some(())
    }

    /// How long it is, with what is in fragments: samples, and their time.
    fn span(&self, (samples, time): (u64, u64), movie_scale: Option<u64>) -> Option<AudioSpan> {
        let by_time = AudioSpan::of(self.time.saturating_add(time), self.scale?);
        let by_frames = self.frame?.times(self.samples.saturating_add(samples));
        let pause = match self.pause {
            0 => AudioSpan::NONE,
            pause => AudioSpan::of(pause, movie_scale?),
        };
        let once = by_time.max(by_frames);
        Some(once.times(self.plays.max(1)).plus(pause))
    }
}

impl Fragment {
    /// The head: which track, and how long its samples are where nothing else says it.
    pub(super) fn header(&mut self, content: &[u8]) -> Option<()> {
        let flags = be(content, 1, 3)?;
        self.id = be(content, 4, 4)?;
        if flags & 8 == 0 {
            return Some(());
        }
        let mut at: usize = 8;
        for (flag, bytes) in [(1, 8), (2, 4)] {
            if flags & flag != 0 {
                at = at.saturating_add(bytes);
            }
        }
        self.default = Some(be(content, at, 4)?);
        Some(())
    }

    /// A run of samples.
    pub(super) fn run(&mut self, content: &[u8], of_track: u64) -> Option<()> {
        let flags = be(content, 1, 3)?;
        let count = be(content, 4, 4)?;
        let present = |flag: u64| usize::from(flags & flag != 0).saturating_mul(4);
        let start = present(1).saturating_add(present(4)).saturating_add(8);
        let row = [0x100, 0x200, 0x400, 0x800].into_iter().map(present).sum();
        self.samples = self.samples.saturating_add(count);
        let default = self.default.unwrap_or(of_track);
        if flags & 0x100 == 0 || row == 0 {
            self.time = self.time.saturating_add(count.saturating_mul(default));
            return Some(());
        }
        for row in content.get(start..)?.chunks_exact(row).take(size(count)) {
            self.time = self.time.saturating_add(be(row, 0, 4)?);
        }
        Some(())
    }
}

/// How long a sample of an entry of the descriptions is at most.
fn frame_of(entry: &[u8]) -> Option<AudioSpan> {
    match piece(entry, 4, 4)? {
        b"mp4a" => aac_frame(entry),
        b"alac" => alac_frame(entry),
        // Where the packets stand is not looked up: each may have 120 ms.
        b"Opus" => Some(AudioSpan::of(120, 1000)),
        _ => None,
    }
}

/// The slowest of all configurations in an entry.
fn aac_frame(entry: &[u8]) -> Option<AudioSpan> {
    let found = memchr::memmem::find_iter(entry, b"esds");
    let mut slowest = None;
    for (place, at) in found.enumerate() {
        (place < NESTED_MAX).then_some(())?;
        let config = configuration(entry.get(at.saturating_add(8)..)?)?;
        slowest = slowest.max(Some(aac_frame_of(config)?));
    }
    slowest
}

/// The configuration of a decoder, within the descriptors around it.
fn configuration(descriptors: &[u8]) -> Option<&[u8]> {
    let mut rest = descriptors;
    for _ in 0..NESTED_MAX {
        let (tag, content) = descriptor(rest)?;
        match tag {
            3 => {
                let flags = be(content, 2, 1)?;
                let mut skipped: usize = 3;
                if flags & 0x80 != 0 {
                    skipped = skipped.saturating_add(2);
                }
                if flags & 0x40 != 0 {
                    skipped = skipped
                        .saturating_add(1)
                        .saturating_add(size(be(content, skipped, 1)?));
                }
                if flags & 0x20 != 0 {
                    skipped = skipped.saturating_add(2);
                }
                rest = content.get(skipped..)?;
            }
            // AAC by MPEG-4 or MPEG-2, and nothing else.
            4 if matches!(be(content, 0, 1)?, 0x40 | 0x66..=0x68) => rest = content.get(13..)?,
            5 => return Some(content),
            _ => return None,
        }
    }
    None
}

/// A descriptor's tag and content. Its length has seven bits a byte.
fn descriptor(bytes: &[u8]) -> Option<(u8, &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let mut length: usize = 0;
    for (place, byte) in rest.iter().take(4).enumerate() {
        length = (length << 7) | usize::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            let start = place.checked_add(1)?;
            return Some((*tag, piece_there(rest, start, length)));
        }
    }
    None
}

/// ISO 14496-3, §1.6.2.1: the kind of AAC, and its rate.
fn aac_frame_of(config: &[u8]) -> Option<AudioSpan> {
    let bits = be(config, 0, config.len().min(8))?;
    let width = u32::try_from(config.len().min(8)).ok()?.checked_mul(8)?;
    let mut left = width;
    let mut next = |count: u32| -> Option<u64> {
        left = left.checked_sub(count)?;
        let mask = 1_u64.checked_shl(count)?.checked_sub(1)?;
        Some(bits.checked_shr(left)? & mask)
    };
    let kind = match next(5)? {
        31 => next(6)?.saturating_add(32),
        kind => kind,
    };
    let rate = match next(4)? {
        15 => next(24)?,
        index => *AAC_RATES.get(size(index))?,
    };
    let frame = if kind >= LATE_AAC {
        LATE_AAC_FRAME
    } else {
        AAC_FRAME
    };
    Some(AudioSpan::of(frame, rate))
}

/// Apple's lossless codec: the longest frame stands in its cookie, which has the entry's own name.
fn alac_frame(entry: &[u8]) -> Option<AudioSpan> {
    let at = memchr::memmem::rfind(entry, b"alac").filter(|at| *at > 4)?;
    let cookie = entry.get(at.saturating_add(8)..)?;
    let rate = be(cookie, 20, 4)?;
    (rate > 0).then(|| AudioSpan::of(be(cookie, 0, 4).unwrap_or(u64::MAX), rate))
}
