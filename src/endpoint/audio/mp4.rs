//! MP4 and `QuickTime`: the boxes of a file, down to the table of its samples. Pure.
//!
//! What phones record: AAC, and ALAC. Each box is visited once on each level. What the boxes of a track say is put together
//! in [`super::mp4_tracks`].

use super::bytes::{be, piece, piece_there, size};
use super::mp4_tracks::{Fragment, Track, Tracks};
use super::span::AudioSpan;

/// What the first box of a file may be.
pub(super) const BEGINNINGS: [&[u8]; 10] = [
    b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"styp", b"sidx", b"moof", b"uuid",
];
/// The most tracks in one file.
const TRACKS_MAX: usize = 64;

/// A box.
struct Mp4Box<'a> {
    kind: &'a [u8],
    content: &'a [u8],
}

/// The boxes in a piece of a file. Ends where what follows is no box.
struct Mp4Boxes<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Mp4Boxes<'a> {
    type Item = Mp4Box<'a>;

    fn next(&mut self) -> Option<Mp4Box<'a>> {
        let (length, kind) = (be(self.rest, 0, 4)?, piece(self.rest, 4, 4)?);
        let (head, length) = match length {
            0 => (8, self.rest.len()),
            1 => (16, size(be(self.rest, 8, 8)?)),
            length => (8, size(length)),
        };
        let content = length.checked_sub(head)?;
        let content = piece_there(self.rest, head, content);
        self.rest = self.rest.get(length..).unwrap_or_default();
        Some(Mp4Box { kind, content })
    }
}

fn boxes(content: &[u8]) -> Mp4Boxes<'_> {
    Mp4Boxes { rest: content }
}

/// How long it is: its longest track of sound.
pub(super) fn span(file: &[u8]) -> Option<AudioSpan> {
    let mut tracks = Tracks::default();
    for part in boxes(file) {
        match part.kind {
            b"moov" | b"hoov" => movie(&mut tracks, part.content)?,
            b"moof" => fragment(&mut tracks, part.content)?,
            _ => {}
        }
    }
    tracks.longest()
}

fn movie(tracks: &mut Tracks, content: &[u8]) -> Option<()> {
    for part in boxes(content) {
        match part.kind {
            // Compressed.
            b"cmov" => return None,
            b"mvhd" => tracks.scale = Some(timescale(part.content)?),
            b"trak" => {
                (tracks.all.len() < TRACKS_MAX).then_some(())?;
                let mut track = Track::default();
                track_box(&mut track, part.content)?;
                tracks.all.push(track);
            }
            b"mvex" => {
                for extends in boxes(part.content).filter(|part| part.kind == b"trex") {
                    let id = be(extends.content, 4, 4)?;
                    let default = be(extends.content, 12, 4)?;
                    (tracks.defaults.len() < TRACKS_MAX).then_some(())?;
                    tracks.defaults.push((id, default));
                }
            }
            _ => {}
        }
    }
    Some(())
}

/// The boxes of a track, on whichever level they stand.
fn track_box(track: &mut Track, content: &[u8]) -> Option<()> {
    for Mp4Box { kind, content } in boxes(content) {
        match kind {
            b"mdia" | b"minf" | b"stbl" | b"edts" => track_part(track, kind, content)?,
            b"tkhd" => track.id = Some(be(content, if is_long(content)? { 20 } else { 12 }, 4)?),
            _ => {}
        }
    }
    Some(())
}

/// The boxes within a part of a track. (Each part is within another one: no way leads back.)
fn track_part(track: &mut Track, part: &[u8], content: &[u8]) -> Option<()> {
    for Mp4Box { kind, content } in boxes(content) {
        match (part, kind) {
            (b"mdia", b"minf") | (b"minf", b"stbl") => track_part(track, kind, content)?,
            (_, b"mdhd") => track.scale = Some(timescale(content)?),
            (b"mdia", b"hdlr") => track.handler(piece(content, 8, 4)?),
            (_, b"stsd") => track.description(content),
            (_, b"stts") => track.times(content)?,
            (_, b"stsz" | b"stz2") => track.samples(be(content, 8, 4)?),
            (_, b"elst") => track.edits(content, is_long(content)?)?,
            _ => {}
        }
    }
    Some(())
}

/// The version of a box says that its times have eight bytes.
fn is_long(content: &[u8]) -> Option<bool> {
    Some(be(content, 0, 1)? == 1)
}

/// How many parts a second has.
fn timescale(content: &[u8]) -> Option<u64> {
    be(content, if is_long(content)? { 20 } else { 12 }, 4)
}

fn fragment(tracks: &mut Tracks, content: &[u8]) -> Option<()> {
    for part in boxes(content).filter(|part| part.kind == b"traf") {
        let mut fragment = Fragment::default();
        for Mp4Box { kind, content } in boxes(part.content) {
            match kind {
                b"tfhd" => fragment.header(content)?,
                b"trun" => {
                    let default = tracks.default_of(fragment.id);
                    fragment.run(content, default)?;
                }
                _ => {}
            }
        }
        tracks.add(&fragment)?;
    }
    Some(())
}
