//! Splits bytes into lines that stay where they were read, within bounded memory.
//!
//! The bytes are read into the buffer that a batch is then handed on in, so that nothing of a line is
//! copied but those few at a buffer's end that belong to the next batch.

use std::io::{self, ErrorKind, Read};
use std::ops::Range;

use waterwheel_pipeline::contract::batch::BATCH_BYTES_MAX;

/// As much is read at once: what a pipe holds. A buffer has room for it.
const READ_BYTES: usize = 64 << 10;

/// Longer lines are cut here, so that a file without line ends cannot fill the memory. What is left
/// is far over any `max_bytes` and becomes a dead letter.
pub(super) const LINE_BYTES_MAX: usize = 64 << 20;

/// What comes next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// A line, without its line feed: its place in the buffer.
    Line(Range<usize>),
    /// The buffer is full; [`Lines::take`] gives a new one.
    Full,
    /// No whole line is at hand, and more must be read for one.
    Wait,
    /// There are no more lines.
    End,
}

/// The lines of a reader; the last one needs no line feed.
pub(super) struct Lines<R> {
    input: R,
    /// What every buffer begins with.
    head: Box<[u8]>,
    /// The given lines, and behind them what was read and not yet given.
    buffer: Vec<u8>,
    /// What is not yet given begins here.
    start: usize,
    /// Not before `start`; no line feed lies between them.
    scanned: usize,
    buffer_bytes: usize,
    line_bytes_max: usize,
    /// A line was cut; its rest is passed over.
    cut: bool,
    /// The buffer could not hold a batch.
    was_full: bool,
    ended: bool,
}

impl<R: Read> Lines<R> {
    /// Every buffer begins with `head`.
    pub(super) fn new(input: R, head: &[u8]) -> Self {
        Self::with_sizes(input, head, BATCH_BYTES_MAX, LINE_BYTES_MAX)
    }

    fn with_sizes(input: R, head: &[u8], buffer_bytes: usize, line_bytes_max: usize) -> Self {
        let mut lines = Self {
            input,
            head: head.into(),
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            buffer_bytes,
            line_bytes_max,
            cut: false,
            was_full: true,
            ended: false,
        };
        lines.take();
        lines
    }

    /// The bytes of a line of this buffer.
    pub(super) fn bytes(&self, line: &Range<usize>) -> &[u8] {
        self.buffer.get(line.clone()).unwrap_or_default()
    }

    /// The buffer with all lines that were given since it was begun. What was read and not given goes
    /// into the next, which is as large as this one turned out to be: so that little is left over.
    pub(super) fn take(&mut self) -> Vec<u8> {
        let likely = match std::mem::take(&mut self.was_full) {
            true => self.buffer_bytes,
            false => (self.start + self.start / 16).max(READ_BYTES).min(self.buffer_bytes),
        };
        let rest = &self.buffer[self.start..];
        let mut next = Vec::with_capacity(self.head.len() + rest.len().max(likely));
        next.extend_from_slice(&self.head);
        next.extend_from_slice(rest);
        let mut given = std::mem::replace(&mut self.buffer, next);
        given.truncate(self.start);
        self.scanned = self.scanned - self.start + self.head.len();
        self.start = self.head.len();
        given
    }

    /// How much of the buffer was given.
    pub(super) fn given_bytes(&self) -> usize {
        self.start - self.head.len()
    }

    /// The next line. Without `may_read` only of what was read before.
    pub(super) fn step(&mut self, may_read: bool) -> io::Result<Step> {
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[self.scanned..]) {
                let line = self.start..self.scanned + at;
                self.start = line.end + 1;
                self.scanned = self.start;
                if std::mem::take(&mut self.cut) {
                    continue;
                }
                return Ok(Step::Line(self.limited(line)));
            }
            self.scanned = self.buffer.len();
            if self.cut {
                // What is passed over leaves no trace.
                self.buffer.truncate(self.start);
                self.scanned = self.start;
            } else if self.buffer.len() - self.start >= self.line_bytes_max {
                self.cut = true;
                return Ok(Step::Line(self.rest()));
            }
            if self.ended {
                let last = self.rest();
                return Ok(if last.is_empty() { Step::End } else { Step::Line(last) });
            }
            if !may_read {
                return Ok(Step::Wait);
            }
            if self.buffer.len() == self.buffer.capacity() {
                if self.given_bytes() > 0 {
                    self.was_full = true;
                    return Ok(Step::Full);
                }
                // A line that is longer than any before.
                self.buffer.reserve(self.buffer.len());
            }
            self.read()?;
        }
    }

    /// Everything that is left in the buffer, as one line.
    fn rest(&mut self) -> Range<usize> {
        let line = self.start..self.buffer.len();
        self.start = line.end;
        self.limited(line)
    }

    fn limited(&self, line: Range<usize>) -> Range<usize> {
        line.start..line.end.min(line.start + self.line_bytes_max)
    }

    /// Reads on, at most until the buffer is full: it must not move.
    fn read(&mut self) -> io::Result<()> {
        let begin = self.buffer.len();
        let room = (self.buffer.capacity() - begin).min(READ_BYTES);
        // What is cleared lies in the cache, and what is read into it stays there.
        self.buffer.resize(begin + room, 0);
        let read = loop {
            match self.input.read(&mut self.buffer[begin..]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read,
            }
        };
        self.buffer.truncate(begin + *read.as_ref().unwrap_or(&0));
        self.ended = read? == 0;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"name";

    fn each_with<const N: usize, const M: usize>(
        left: [usize; N],
        right: [usize; M],
    ) -> impl Iterator<Item = (usize, usize)> {
        left.into_iter().flat_map(move |left| right.into_iter().map(move |right| (left, right)))
    }

    /// Hands out a few bytes at a time, and an interruption now and then.
    struct Dribble<'t>(&'t [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
            self.1 += 1;
            if self.1.is_multiple_of(5) {
                return Err(ErrorKind::Interrupted.into());
            }
            let count = (self.1 % 3 + 1).min(out.len()).min(self.0.len());
            let (now, later) = self.0.split_at(count);
            out[..count].copy_from_slice(now);
            self.0 = later;
            Ok(count)
        }
    }

    /// All lines, of buffers that are handed on after so many.
    fn all(mut lines: Lines<impl Read>, at_once: usize) -> Vec<String> {
        let (mut out, mut places) = (Vec::new(), Vec::new());
        loop {
            let step = lines.step(true).unwrap();
            let is_end = step == Step::End;
            let is_full = step == Step::Full;
            if let Step::Line(line) = step {
                places.push(line);
            }
            if is_end || is_full || places.len() == at_once {
                let buffer = lines.take();
                assert!(buffer.starts_with(HEAD));
                let text = |place| String::from_utf8_lossy(&buffer[place]).into_owned();
                out.extend(places.drain(..).map(text));
            }
            if is_end {
                return out;
            }
        }
    }

    #[test]
    fn lines_do_not_depend_on_how_they_are_read() {
        for text in
            ["", "\n", "a", "a\n", "a\n\nbb\nccc", "long line of text\nx\nlonger still than that\n"]
        {
            let wanted: Vec<_> = text.lines().map(str::to_owned).collect();
            for (buffer_bytes, at_once) in each_with([1, 2, 3, 7, 64], [1, 2, 99]) {
                let lines = Lines::with_sizes(text.as_bytes(), HEAD, buffer_bytes, 99);
                assert_eq!(all(lines, at_once), wanted, "{text:?}");
                let dribble = Dribble(text.as_bytes(), 0);
                let lines = Lines::with_sizes(dribble, HEAD, buffer_bytes, 99);
                assert_eq!(all(lines, at_once), wanted, "{text:?}");
            }
        }
    }

    #[test]
    fn a_line_that_is_too_long_is_cut_and_its_rest_passed_over() {
        for text in ["12345678901234567890\nab\n", "12345678901234567890\nab"] {
            for (buffer_bytes, at_once) in each_with([1, 2, 4, 16, 64], [1, 99]) {
                let dribble = Dribble(text.as_bytes(), 0);
                let lines = Lines::with_sizes(dribble, HEAD, buffer_bytes, 6);
                assert_eq!(all(lines, at_once), ["123456", "ab"]);
                let lines = Lines::with_sizes(text.as_bytes(), HEAD, buffer_bytes, 6);
                assert_eq!(all(lines, at_once), ["123456", "ab"]);
            }
        }
        let lines = Lines::with_sizes("1234567890".as_bytes(), HEAD, 4, 6);
        assert_eq!(all(lines, 99), ["123456"]);
    }

    #[test]
    fn without_leave_to_read_it_waits() {
        let mut lines = Lines::with_sizes("a\nb".as_bytes(), HEAD, 64, 99);
        assert_eq!(lines.step(false).unwrap(), Step::Wait);
        assert!(matches!(lines.step(true).unwrap(), Step::Line(_)));
        assert_eq!(lines.step(false).unwrap(), Step::Wait);
        assert!(matches!(lines.step(true).unwrap(), Step::Line(_)));
        assert_eq!(lines.step(false).unwrap(), Step::End);
    }

    #[test]
    fn a_buffer_is_as_large_as_was_needed() {
        let long = vec![b'x'; 5 * BATCH_BYTES_MAX];
        let text = [&long[..], b"\nshort\n", &b"line\n".repeat(READ_BYTES)].concat();
        let mut lines = Lines::new(text.as_slice(), HEAD);
        let Step::Line(line) = lines.step(true).unwrap() else { panic!("a line") };
        assert_eq!(lines.bytes(&line), long);
        lines.take();
        // What was read behind the long line, at most.
        assert!(lines.buffer.capacity() <= 3 * BATCH_BYTES_MAX, "{}", lines.buffer.capacity());
        for _ in 0..20 {
            let lines_each = 2048;
            (0..lines_each).for_each(|_| assert!(matches!(lines.step(true), Ok(Step::Line(_)))));
            lines.take();
        }
        assert!(lines.buffer.capacity() < 2 * READ_BYTES, "{}", lines.buffer.capacity());
    }
}
