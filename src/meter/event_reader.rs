//! What an API's events are read by. Pure.

use std::fmt;

use bytes::BytesMut;

use super::sse::{EVENT_BYTES_MAX, Event};
use super::{Fault, Measured};

/// Reads the events of one answer, one after the other: notes what was generated and used, and writes what the caller gets.
///
/// A trait object and not a type parameter: [`super::Meter`] asks it four short questions for each piece of a stream, and
/// reading one event takes hundreds of times what such a call takes.
pub(super) trait EventReader: fmt::Debug + Send {
    /// The longest event.
    fn event_bytes_max(&self) -> usize {
        EVENT_BYTES_MAX
    }

    /// Reads an event, and writes to `out` what the caller gets of it. False: it said nothing, and counts as a comment.
    ///
    /// # Errors
    /// The stream is not to be read on. What was written before is still the caller's.
    fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<bool, Fault>;

    /// The body has ended in good order, and its last bytes were read, with this result: whether that is the end of the
    /// answer.
    ///
    /// # Errors
    /// [`Fault::Cut`] where it is not, or what the last bytes say.
    fn finish(&mut self, last: Result<(), Fault>, out: &mut BytesMut) -> Result<(), Fault>;

    /// Reads an answer that came in one piece although a stream was asked for, and writes the events that say the same.
    ///
    /// # Errors
    /// It is no answer of this API, or says that it failed.
    fn whole(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Fault>;

    /// The caller has all that it gets.
    fn is_closed(&self) -> bool;

    /// The end has come, and is held back for what may follow it.
    fn is_waiting(&self) -> bool {
        false
    }

    /// Nothing more is waited for.
    fn close(&mut self, out: &mut BytesMut);

    /// Tells the caller that its answer ends here, in the form that the API's clients know.
    fn fail(&mut self, fault: Fault, out: &mut BytesMut);

    /// How many bytes it holds.
    fn bytes_held(&self) -> usize;

    /// What is known so far.
    fn measured(&self) -> Measured;

    /// What is known at the end. Nothing is known any more after it.
    fn take_measured(&mut self) -> Measured;
}
