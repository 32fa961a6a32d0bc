//! The events of a chat completion: `[DONE]` ends them, and usage may follow it. Pure.

use bytes::{BufMut, BytesMut};

use super::event_reader::EventReader;
use super::mend::Syntax;
use super::sse::{Event, write_event};
use super::watch::Watch;
use super::{Fault, Measured, chunks};

impl EventReader for Watch {
    fn event(&mut self, event: &Event<'_>, out: &mut BytesMut) -> Result<bool, Fault> {
        Self::event(self, event, out)
    }

    /// Without `[DONE]` the body's end is the end of the stream if every choice is finished; then the `[DONE]` is added.
    fn finish(&mut self, last: Result<(), Fault>, out: &mut BytesMut) -> Result<(), Fault> {
        if last == Err(Fault::Upstream) && !self.measured.done {
            return last;
        }
        if !self.measured.done && !self.is_finished() {
            return Err(Fault::Cut);
        }
        Self::close(self, out);
        Ok(())
    }

    /// A completion, or events that are one a line and nothing else.
    fn whole(&mut self, body: &[u8], out: &mut BytesMut) -> Result<(), Fault> {
        let mut whole = Self::new(self.wants_usage);
        let syntax = whole.read_whole(body);
        if syntax == Syntax::NoObject && body.contains(&b'\n') {
            return self.lines(body, out);
        }
        let events =
            chunks::of_whole(body, self.wants_usage).filter(|_| whole.measured.is_completion);
        *self = whole;
        match events {
            Some(events) => {
                out.put_slice(&events);
                Self::close(self, out);
                Ok(())
            }
            None => Err(if self.measured.is_error {
                Fault::Upstream
            } else {
                Fault::Nonsense
            }),
        }
    }

    fn is_closed(&self) -> bool {
        Self::is_closed(self)
    }

    fn is_waiting(&self) -> bool {
        Self::is_waiting(self)
    }

    fn close(&mut self, out: &mut BytesMut) {
        Self::close(self, out);
    }

    /// One event with `error`, and no `[DONE]`.
    fn fail(&mut self, fault: Fault, out: &mut BytesMut) {
        let error = fault.refusal().body().to_string();
        write_event(error.as_bytes(), out);
    }

    fn bytes_held(&self) -> usize {
        self.measured.text.capacity()
    }

    fn measured(&self) -> Measured {
        self.clone().judged()
    }

    fn take_measured(&mut self) -> Measured {
        std::mem::take(self).judged()
    }
}
